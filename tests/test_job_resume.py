"""What a run left behind: finished cells are not run again, dependants of an edit are, and the result is that of a cold run."""

import json
from pathlib import Path

import pytest

from mlops_nb import job as jobs
from mlops_nb.core import warm
from mlops_nb.core.errors import Finding
from test_job_convert import nb

pytestmark = pytest.mark.skipif(not warm.supported(), reason="needs fork and sockets that say who calls")


def job(name: str, *sources: str) -> None:
    "A job whose notebook is exactly these cells"
    Path(f"{name}.ipynb").write_text(json.dumps(nb(*sources)), encoding="utf-8")
    jobs.convert(Path(f"{name}.ipynb"))
    edit(name, *sources)


def edit(name: str, *sources: str) -> None:
    Path(f"jobs/{name}/{name}.ipynb").write_text(json.dumps(nb(*sources)), encoding="utf-8")


def failed_run(name: str, **kw) -> str:
    with pytest.raises(Finding) as e:
        jobs.run(name, **kw)
    return e.value.result.run


def ran(file: str = "ran") -> str:
    "Which cells ran since the last look"
    p = Path(file)
    said = p.read_text(encoding="utf-8") if p.exists() else ""
    p.write_text("", encoding="utf-8")
    return said


def marked(k: int, code: str) -> str:
    return f"with open('ran', 'a') as _f: _f.write('{k} ')\n{code}"


TEN = [
    "import collections\nstart = 3",
    marked(1, "a = list(range(start))"),
    marked(2, "def scale(x): return x*factor"),
    marked(3, "factor = 2"),
    marked(4, "b = a\nb.append(10)\nprint('b', b)"),
    marked(5, "c = [scale(x) for x in a]\nc"),
    marked(6, "d = collections.Counter(a)"),
    marked(7, "import random\nrandom.seed(1)\ne = random.random()"),
    marked(8, "f = sum(c)/zero"),
    marked(9, "a.append(99)\nprint(f, b, d, random.random())"),
]


def test_a_mended_run_goes_on_where_it_failed(project, cli):
    job("ten", *TEN)
    run = failed_run("ten")
    assert ran() == "1 2 3 4 5 6 7 8 "
    mended = [*TEN[:8], TEN[8].replace("/zero", "/2"), TEN[9]]
    edit("ten", *mended)
    a = cli("job", "run", "ten", "--resume", run, "--json")
    assert a.exit == 0, a
    assert ran() == "8 9 ", "cells 0 to 7 were not executed"
    assert [c["cached"] for c in a.json["cells"]] == [True] * 8 + [False] * 2
    assert a.json["resumed"] == run and a.json["run"] != run
    cold = jobs.run("ten")
    assert ran() == "1 2 3 4 5 6 7 8 9 "
    assert cold.digest == a.json["digest"], "the same sources, outputs and errors as a run from the beginning"
    assert "[0, 1, 2, 10, 99]" in Path(a.json["output"]).read_text(encoding="utf-8"), "b is still a after being restored"


def test_an_edit_reruns_what_depends_on_it(project):
    job("ten", *[c.replace("/zero", "/2") for c in TEN])
    first = jobs.run("ten")
    ran()
    cells = [c.replace("/zero", "/2") for c in TEN]
    again = jobs.run("ten", resume=first.run)
    assert ran() == "" and all(c.cached for c in again.cells) and again.digest == first.digest
    edit("ten", *cells[:3], marked(3, "factor = 5"), *cells[4:])
    changed = jobs.run("ten", resume=first.run)
    assert ran() == "3 5 8 9 ", "factor, and through scale() what is computed with it"
    assert changed.digest == jobs.run("ten").digest
    ran()
    edit("ten", *cells[:3], marked(3, "factor = 1+1"), *cells[4:])
    same = jobs.run("ten", resume=first.run)
    assert ran() == "3 ", "an edit that yields the same changes nothing below"
    assert [c.cached for c in same.cells].count(False) == 1
