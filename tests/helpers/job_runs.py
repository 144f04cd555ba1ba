"""Notebooks that become jobs, and what their runs left behind."""

import json
from pathlib import Path

import pytest
from mlops_nb import job as jobs
from mlops_nb.core import ledger
from mlops_nb.core.errors import Finding


def nb(*sources, counts=None, tags=None, **meta):
    "A notebook of code cells; a source that begins with `md:` is Markdown"
    cells = []
    for n, s in enumerate(sources):
        kind = "markdown" if s.startswith("md:") else "code"
        cell = {
            "cell_type": kind,
            "id": f"c{n}",
            "metadata": {"tags": (tags or {}).get(n, [])},
            "source": s.removeprefix("md:"),
        }
        if kind == "code":
            cell |= {"outputs": [], "execution_count": counts[n] if counts else None}
        cells.append(cell)
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {**spec, **meta}, "cells": cells}


def made(name, *sources, **kw):
    "A notebook of the project, converted"
    Path(f"{name}.ipynb").write_text(json.dumps(nb(*sources, **kw)), encoding="utf-8")
    return jobs.convert(Path(f"{name}.ipynb"))


def job(name: str, *sources: str) -> None:
    "A job whose notebook is exactly these cells"
    Path(f"{name}.ipynb").write_text(json.dumps(nb(*sources)), encoding="utf-8")
    jobs.convert(Path(f"{name}.ipynb"))
    edit(name, *sources)


def edit(name: str, *sources: str) -> None:
    "The job's notebook holds these cells from now on"
    Path(f"jobs/{name}/{name}.ipynb").write_text(json.dumps(nb(*sources)), encoding="utf-8")


def failed_run(name: str, **kw) -> str:
    "The run of a job that must fail"
    with pytest.raises(Finding) as e:
        jobs.run(name, **kw)
    return e.value.result.run


def ran(file: str = "ran") -> str:
    "Which cells ran since the last look"
    p = Path(file)
    said = p.read_text(encoding="utf-8") if p.exists() else ""
    p.write_text("", encoding="utf-8")
    return said


def told(project, *types):
    "The events of the project's jobs, those of these types where any are named"
    return [e for e in ledger.of(project).events(["job.*"]) if e.type in types or not types]


def texts(output):
    "What an executed notebook printed"
    cells = json.loads(Path(output).read_text(encoding="utf-8"))["cells"]
    return "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))


# Cells that must do the same in a fork of the warm server and in a kernel
SAME = [
    "n = 3\nimport sys, os",
    "print('out'); print('err', file=sys.stderr)\nfor i in range(n): print(i)",
    "n*2",
    "type(get_ipython()).__name__",
    "import pandas as pd\npd.DataFrame([range(100, 160)])",
    "from IPython.display import display, HTML, clear_output\ndisplay(HTML('<b>x</b>'))\nh = display('one', display_id='d'); None",
    "h.update('two')",
    "print('gone'); clear_output(); print('stays')",
    "y = 5\n%precision 3",
    "!echo from the shell",
    "out = !echo captured\nout",
    "%%bash\necho bash $((1+1))",
    "import asyncio\nawait asyncio.sleep(0)\nasync def f(): return 7\nawait f()",
    "t = asyncio.get_running_loop().create_task(f()) if asyncio.get_event_loop().is_running() else None\nawait t",
    "_ + 1",
    "Out[3], _oh[3], len(In) > 3",
    "class Shown:\n    def _repr_html_(self): return '<i>shown</i>'\nShown()",
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 1)); ax.plot([1, 2]); plt.show()",
    "import pandas as pd\npd.DataFrame({'a': [1, 2]})",
    "{'b', 'a', 'c'}, __name__, sys.path[0]",
    "%matplotlib inline\n%env DEMO=1\nos.environ['DEMO']",
    (
        "import multiprocessing as mp\nctx = mp.get_context('fork')\n"
        "q = ctx.SimpleQueue(); p = ctx.Process(target=q.put, args=(5,)); p.start(); p.join(); q.get()"
    ),
    (
        "import random, numpy as np\n"
        "random.seed(1); np.random.seed(1); random.random(), float(np.random.rand()), float((np.ones((300, "
        "300)) @ np.ones((300, 300))).sum())"
    ),
    "get_ipython().run_line_magic('who_ls', 'int') and None",
    "try: input('?')\nexcept Exception as e: print(type(e).__name__)",
]
