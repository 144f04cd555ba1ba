"""What a progress line leaves in a saved notebook: its last line after long work, nothing after quick work."""

import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

LONG = "from mlops_nb.core import progress as p\np._DELAY_S = {delay}\n"
WORK = "print('before')\nwith p.progress('joining', total=3) as tick:\n    for i in range(3): tick(1, f'row {i}')\nprint('after')"
FAILS = "try:\n    with p.progress('joining', total=3) as tick: tick(1, 'row 0'); 1/0\nexcept ZeroDivisionError: print('failed')"
UNTOLD = "with p.progress('registering m@1', total=7): pass"


def notebook(*cells: str) -> nbformat.NotebookNode:
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nb


def shown(nb) -> list[list[str]]:
    "For every cell what it shows, in order, without the seconds"
    texts = {"stream": lambda o: "".join(o["text"]), "display_data": lambda o: "".join(o["data"]["text/plain"])}
    return [[re.sub(r" \(\d+ s\)$", "", texts[o["output_type"]](o).strip()) for o in c["outputs"]] for c in nb["cells"]]


@pytest.mark.parametrize("delay, left", [(0, "joining 3/3"), (3600, "")])
def test_nbclient_and_papermill_save_a_useful_line_or_none(tmp_path, delay, left):
    nb = notebook(LONG.format(delay=delay), WORK, FAILS, UNTOLD)
    path, out = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    nbformat.write(nb, path)
    NotebookClient(nb, timeout=120).execute()
    subprocess.run(
        [sys.executable, "-m", "papermill", str(path), str(out), "--no-progress-bar"], check=True, capture_output=True
    )
    for saved in (nb, json.loads(out.read_text(encoding="utf-8"))):
        assert shown(saved)[1] == ["before", left, "after"] if left else ["before\nafter"]
        assert shown(saved)[2:] == [["joining 1/3", "failed"], ["registering m@1"]] if left else [["failed"], []]


def test_long_work_that_tells_nothing_is_shown_by_the_clock(monkeypatch):
    "The line comes although the work does not call; nothing comes after the end"
    import threading

    from mlops_nb.core import progress

    said, there = [], threading.Event()

    class Handle:
        def update(self, bundle, raw):
            said.append(bundle["text/plain"])

    def display(bundle, raw, display_id):
        said.append(bundle["text/plain"])
        there.set()
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "_DELAY_S", 0.01)
    bar = progress._Notebook("registering", None)
    assert there.wait(60)
    bar.close()
    bar(1)
    assert [s.split(" (")[0] for s in said] == ["registering", "registering"]
