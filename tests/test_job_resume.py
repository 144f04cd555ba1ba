"""What a run left behind: finished cells are not run again, dependants of an edit are, and the result is that of a cold run."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers.counts import count

from mlops_nb import job as jobs
from mlops_nb.core import warm
from mlops_nb.core.errors import BadInput, Finding, NotFound
from helpers.job_runs import edit, failed_run, job, made, nb, ran, texts, told
from helpers.places import ROOT

fcntl = pytest.importorskip("fcntl")
pytestmark = pytest.mark.skipif(not warm.supported(), reason="needs fork and sockets that say who calls")


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


def test_a_cell_whose_file_a_cell_above_wrote_anew_runs_again(project):
    "Its names are the same, and its file is there: but what it added to the file is not"
    cells = [
        "def add(x):\n    with open('out', 'a') as f: f.write(x)",
        "open('out', 'w').write('a')",
        "add('b')",
        "add('c')",
        "print(open('out').read())",
    ]
    job("anew", *cells)
    r = jobs.run("anew")
    cells[1] = "open('out', 'w').write('A')"
    edit("anew", *cells)
    again = jobs.run("anew", resume=r.run)
    assert Path("out").read_text(encoding="utf-8") == "Abc"
    assert [c.cached for c in again.cells] == [True, False, False, False, False]
    edit("anew", *cells[:3], "add('C')", cells[4])
    Path("out").write_text("Ab", encoding="utf-8")
    assert [c.cached for c in jobs.run("anew", resume=again.run).cells] == [True, True, True, False, False]
    assert Path("out").read_text(encoding="utf-8") == "AbC", "who only adds does not undo another's adding"


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
    assert "[0, 1, 2, 10, 99]" in Path(a.json["output"]).read_text(encoding="utf-8"), (
        "b is still a after being restored"
    )


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


def test_what_cannot_be_saved_is_said_and_made_again(project):
    cells = [
        marked(0, "import sqlite3\nbase = 10"),
        marked(1, "db = sqlite3.connect(':memory:')\ndb.execute('create table t (x)')\nsize = 3"),
        marked(2, "db.execute('insert into t values (?)', [base])\nrows = 1"),
        marked(3, "g = (i*i for i in range(size))"),
        marked(4, "costly = sum(range(base))"),
        marked(5, "late = 1/zero"),
        marked(6, "print(db.execute('select x from t').fetchall(), costly)"),
    ]
    job("lost", *cells)
    with pytest.raises(Finding) as e:
        jobs.run("lost")
    said = e.value.result.remarks
    assert any("`db` of cell 1" in x and "sqlite3.Connection" in x for x in said), said
    assert any("`g` of cell 3" in x and "generator" in x for x in said), said
    ran()
    edit("lost", *cells[:5], marked(5, "late = 1"), cells[6])
    r = jobs.run("lost", resume=e.value.result.run)
    assert ran() == "1 2 5 6 ", "the connection and what was put into it are made again; nobody needs the generator"
    assert "[(10,)] 45" in Path(r.output).read_text(encoding="utf-8")
    assert r.digest == jobs.run("lost").digest


def test_state_outside_the_names_comes_back(project):
    cells = [
        marked(0, "import os, random, sys\nimport numpy as np\nimport pandas as pd"),
        marked(1, "os.environ['STAGE'] = 'night'\nos.makedirs('sub', exist_ok=True)\nsys.path.append('/nowhere')"),
        marked(2, "x = np.random.rand(3)\ny = random.random()"),
        marked(3, "pd.set_option('display.max_rows', 7)\nview = np.arange(100_000.)\nhalf = view[:50_000]"),
        marked(4, "bad = 1/zero"),
        marked(
            5,
            "half[0] = 5\nprint(view[0], os.environ['STAGE'], sys.path[-1], pd.get_option('display.max_rows'), half.base is not None)",
        ),
        marked(6, "z = [float(v) for v in np.random.rand(2)], random.random()\nw = float(x.sum())+y\nz, w"),
    ]
    job("state", "import random, numpy\nrandom.seed(3); numpy.random.seed(4)", *cells)
    with pytest.raises(Finding) as e:
        jobs.run("state")
    ran()
    cells[4] = marked(4, "bad = 1")
    edit("state", "import random, numpy\nrandom.seed(3); numpy.random.seed(4)", *cells)
    r = jobs.run("state", resume=e.value.result.run)
    assert ran() == "4 5 6 "
    assert "5.0 night /nowhere 7 True" in Path(r.output).read_text(encoding="utf-8"), (
        "a view is a view of the restored array"
    )
    assert r.digest == jobs.run("state").digest, "random numbers go on where they were"


def test_unseeded_random_numbers_are_those_of_the_run(project):
    cells = ["import random\nx = random.random()", "y = 1/zero", "print(x, random.random())"]
    job("dice", *cells)
    run = failed_run("dice")
    edit("dice", cells[0], "y = 1", cells[2])
    a, b = jobs.run("dice", resume=run), jobs.run("dice", resume=run)
    assert a.digest == b.digest and [c.cached for c in a.cells] == [True, False, False]


def test_an_input_that_changed_is_read_again(project):
    Path("in.csv").write_text("a\n1\n", encoding="utf-8")
    Path("helper.py").write_text("def f(x): return x+1\n", encoding="utf-8")
    cells = [
        marked(0, "import helper"),
        marked(1, "text = open('in.csv').read()"),
        marked(2, "n = helper.f(1)"),
        marked(3, "open('out.txt', 'w').write(text)"),
        marked(4, "print(text, n)"),
    ]
    job("files", *cells)
    run = jobs.run("files").run
    ran()
    jobs.run("files", resume=run)
    assert ran() == ""
    Path("in.csv").write_text("a\n2\n", encoding="utf-8")
    jobs.run("files", resume=run)
    assert ran() == "1 3 4 "
    Path("in.csv").write_text("a\n1\n", encoding="utf-8")
    Path("out.txt").unlink()
    jobs.run("files", resume=run)
    assert ran() == "3 ", "an output that is gone is written again"
    Path("helper.py").write_text(
        "def f(x): return x+2 # of another size: Python knows modules by it and by the second\n", encoding="utf-8"
    )
    r = jobs.run("files", resume=run)
    assert ran() == "0 2 4 " and texts(r.output) == "a\n1\n 3\n"


def test_an_input_that_somebody_changed_after_it_was_read_is_read_again(project):
    "The digest of what is there now says nothing about what was read"
    job(
        "late",
        "import os",
        "try: text = open('late.txt').read()\nexcept FileNotFoundError: text = 'none'\nos.system('echo new > late.txt') and None",
        "assert text!='none'",
    )
    run = failed_run("late")
    assert "new" in Path("late.txt").read_text(encoding="utf-8")
    assert jobs.run("late", resume=run).ok


def test_parameters_are_inputs(project):
    made("par", "a = 1\nb = 2", marked(1, "x = a*10"), marked(2, "y = b*10"), marked(3, "print(x, y)"))
    first = jobs.run("par", params={"b": 3})
    ran()
    again = jobs.run("par", resume=first.run)
    assert ran() == "" and again.parameters == {"b": 3}, "the parameters of the run count where none are given"
    changed = jobs.run("par", params={"b": 4}, resume=first.run)
    assert ran() == "2 3 " and "10 40" in Path(changed.output).read_text(encoding="utf-8")


def test_a_module_that_was_configured_is_configured_again(project):
    Path("settings_of_mine.py").write_text(
        "level = 0\ndef set_level(x):\n    global level\n    level = x\n", encoding="utf-8"
    )
    cells = [
        marked(0, "import settings_of_mine as s"),
        marked(1, "s.set_level(3)"),
        marked(2, "big = 7"),
        marked(3, "bad = 1/zero"),
        marked(4, "print(s.level, big)"),
    ]
    job("conf", *cells)
    with pytest.raises(Finding) as e:
        jobs.run("conf")
    assert any("set_level" in x and "resume runs this cell again" in x for x in e.value.result.remarks)
    ran()
    cells[3] = marked(3, "bad = 1")
    edit("conf", *cells)
    r = jobs.run("conf", resume=e.value.result.run)
    assert ran() == "1 3 4 " and "3 7" in Path(r.output).read_text(encoding="utf-8")


def test_big_memory_is_kept_once_and_refusals_are_one_line(project, cli):
    job(
        "big",
        "import numpy as np\nx = np.arange(200_000)",
        "y = x*2",
        "s = int(y.sum())",
        "t = s/zero",
        "print(x[-1], y.sum(), t)",
    )
    run = failed_run("big")
    blocks = [p for p in (project.state / "blocks").rglob("*") if p.is_file()]
    assert sorted(p.stat().st_size for p in blocks) == [1_600_000, 1_600_000]
    edit(
        "big",
        "import numpy as np\nx = np.arange(200_000)",
        "y = x*2",
        "s = int(y.sum())",
        "t = s",
        "print(x[-1], y.sum(), t)",
    )
    r = jobs.run("big", resume=run)
    assert [c.cached for c in r.cells] == [True] * 3 + [False] * 2
    blocks[0].write_bytes(blocks[0].read_bytes()[:-1])
    made_again = jobs.run("big", resume=run)
    assert made_again.digest == r.digest, "a damaged block is not used"
    with pytest.raises(NotFound, match="the newest are: big-"):
        jobs.run("big", resume="big-20200101T000000-000000")
    job("other", "x = 1")
    with pytest.raises(BadInput, match="is of job `big`"):
        jobs.run("other", resume=run)
    assert cli("job", "run", "big", "--resume", "../../x").exit == 2


SLOW = """import os, threading
with open('ran', 'a') as _f: _f.write('S ')
with open(fifo, 'w') as f: f.write(str(os.getpid()))
threading.Event().wait()"""


def started(name: str, *words: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "job", "run", name, *words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_a_terminated_run_is_saved_and_goes_on(project):
    fifo = project.root / "fifo"
    os.mkfifo(fifo)
    cells = [
        f"fifo = {str(fifo)!r}",
        marked(1, "x = list(range(5))"),
        marked(2, "y = sum(x)"),
        SLOW,
        marked(4, "print(x, y)"),
    ]
    job("spot", *cells)
    p = started("spot")
    with open(fifo, encoding="ascii") as f:
        assert f.read()
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=90)
    assert p.returncode == 130 and b"interrupted" in err
    (row,) = jobs.history("spot").runs
    assert row.status == "aborted"
    assert ran() == "1 2 S "
    cells[3] = "late = 1"
    edit("spot", *cells)
    r = jobs.run("spot", resume=row.run)
    assert ran() == "4 " and "[0, 1, 2, 3, 4] 10" in Path(r.output).read_text(encoding="utf-8")


STOPPED_EARLY = """
import os, signal
from mlops_nb import job
from mlops_nb.job.runs import supervision
start = supervision.Watch.start
def stopped(*args):
    done = start(*args)
    os.kill(os.getpid(), signal.SIGTERM)
    return done
supervision.Watch.start = stopped
try: job.run('early')
except KeyboardInterrupt as e: print(e)
"""


def test_a_stop_before_anybody_listens_is_recorded(project):
    "SIGTERM when the fork has begun and its run does not follow it yet"
    job("early", "import threading", "threading.Event().wait()")
    done = subprocess.run([sys.executable, "-c", STOPPED_EARLY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "is saved" in done.stdout, done
    assert [r.status for r in jobs.history("early").runs] == ["aborted"]


def test_killed_anywhere_no_run_is_lost_and_none_succeeds_twice(project, tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("run")
    place.chmod(0o700)
    monkeypatch.setenv("MLOPS_RUNTIME_DIR", str(place))
    fifo = project.root / "fifo"
    os.mkfifo(fifo)
    rng = random.Random(7)
    for n in range(count(3, 20)):
        at = rng.randrange(1, 9)
        cells = [marked(k, f"v{k} = {k}") for k in range(10)]
        name = f"k{n}"
        job(name, *cells)
        Path("ran").write_text("", encoding="utf-8")
        edit(
            name,
            f"fifo = {str(fifo)!r}",
            *cells[:at],
            SLOW,
            *cells[at:],
            "print(" + "+".join(f"v{k}" for k in range(10)) + ")",
        )
        if n % 2:
            warm.start((), warm.settled(os.environ))
        p = started(name)
        with open(fifo, encoding="ascii") as f:
            fork = psutil.Process(int(f.read()))
        kernel_of_the_run, client = [fork, *fork.parents()[:1]], psutil.Process(p.pid)
        victims = {0: [*kernel_of_the_run, client], 1: [client, *kernel_of_the_run], 2: [client]}[n % 3]
        if n % 3 != 2:
            victims += [q for q in kernel_of_the_run[1].children(recursive=True) if q not in victims]
        for v in victims:
            try:
                v.kill()
            except psutil.NoSuchProcess:
                continue
        p.communicate(timeout=60)
        psutil.wait_procs([fork], timeout=60)
        (lock,) = (project.state / "runs").glob(f"{name}-*/lock")
        with open(lock, encoding="ascii") as f:
            fcntl.flock(f, fcntl.LOCK_EX)  # whoever still records the end of the run holds it
        (row,) = jobs.history(name).runs
        assert row.status in ("running", "aborted", "failed"), "never a success"
        if row.status == "running":
            from mlops_nb.core import brackets

            assert any(e.subject == name for e in brackets.open_brackets(project)), "doctor finds it"
        before = ran()
        edit(
            name,
            f"fifo = {str(fifo)!r}",
            *cells[:at],
            "late = 0",
            *cells[at:],
            "print(" + "+".join(f"v{k}" for k in range(10)) + ")",
        )
        r = jobs.run(name, resume=row.run)
        assert before == "".join(f"{k} " for k in range(at)) + "S " and ran() == "".join(f"{k} " for k in range(at, 10))
        assert "45" in Path(r.output).read_text(encoding="utf-8")
        ended = [e for e in told(project, "job.completed", "job.failed", "job.aborted") if e.subject == name]
        assert sorted(e.type for e in ended) == sorted({"job.completed", *(e.type for e in ended)}) and len(ended) == 2
        assert [e.payload.run for e in ended if e.type == "job.completed"] == [r.run]
        assert [x.status for x in jobs.history(name).runs].count("running") == 0, (
            "the open bracket of the dead run was closed"
        )
    warm.stop()


def test_a_step_is_tried_again_by_itself(project):
    from mlops_nb.job import definition
    from mlops_nb.job.facts import Step

    cells = [
        marked(0, "x = 4"),
        marked(
            1,
            (
                "import os\nn = os.path.getsize('tries') if os.path.exists('tries') else 0\n"
                "open('tries', 'a').write('1')\nassert n>=2, 'not yet'"
            ),
        ),
        marked(2, "print(x, n)"),
    ]
    job("flaky", *cells)
    j = definition.read(project, "flaky")
    j.steps = [Step(name="prepare", cells=[0]), Step(name="flaky", cells=[1], retries=3), Step(name="end", cells=[2])]
    definition.write(project, j, nb(*cells), [])
    r = jobs.run("flaky", parallel=1)
    assert ran() == "0 1 1 1 2 " and sum("is tried again" in x for x in r.remarks) == 2
    assert "4 2" in Path(r.output).read_text(encoding="utf-8")
    Path("tries").unlink()
    j.steps[1].retries = 1
    definition.write(project, j, nb(*cells), [])
    with pytest.raises(Finding, match="not yet"):
        jobs.run("flaky", parallel=1)


def test_old_runs_are_forgotten(project):
    job("keeps", "import numpy as np\nx = np.arange(20_000)", "print(x[-1])")
    runs = [jobs.run("keeps").run for _ in range(6)]
    assert [(project.state / "runs" / r / "cells.log").exists() for r in runs] == [False] + [True] * 5
    blocks = [p for p in (project.state / "blocks").rglob("*") if p.is_file()]
    assert len(blocks) == 1, "one block of memory, kept once for all runs"
    again = jobs.run("keeps", resume=runs[-1])
    assert all(c.cached for c in again.cells)
    assert not any(c.cached for c in jobs.run("keeps", resume=runs[0]).cells), "nothing is left to take over: it runs"


def test_a_closed_file_comes_back_closed_and_an_open_one_is_named(project):
    files = "with open('in.csv', encoding='latin-1') as f: text = f.read()\nwith open('in.csv', 'rb') as g: g.read()"
    Path("in.csv").write_text("a,b\n", encoding="utf-8")
    shown = "print(f.closed, f.name, f.mode, f.encoding, type(f).__name__, g.closed, g.name, type(g).__name__)"
    job("files", "n = 1", marked(1, files), "late = 1/0", shown, "still = open('out.txt', 'a')", "print(n)")
    first = failed_run("files")
    edit("files", "n = 1", marked(1, files), "late = 1", shown, "still = open('out.txt', 'a')", "print(n)")
    r = jobs.run("files", resume=first)
    assert ran() == "1 " and "True in.csv r latin-1 TextIOWrapper True in.csv BufferedReader" in Path(
        r.output
    ).read_text("utf-8")
    assert len(r.remarks) == 1 and "`still` of cell 4" in r.remarks[0], r.remarks


def test_a_failure_says_how_to_go_on_and_every_value_comes_back(project, cli):
    "JSON has no infinity: it is written as text and read by its type"
    head = "%%mlops params\nwidest = 1.5\nsince = '2026-01-31'\nkinds = ['a', 'b']\nmost = None  # type: int | None"
    Path("gap.ipynb").write_text(json.dumps(nb(head, "x = 1/0", "print(widest, since, kinds, most)")), encoding="utf-8")
    jobs.convert(Path("gap.ipynb"))
    given = ("widest=-inf", "since=2026-02-28", "kinds=b,c", "most=none")
    a = cli("job", "run", "gap", *(w for g in given for w in ("-p", g)))
    run, at = next((project.state / "runs").glob("gap-*")).name, Path("jobs/gap/gap.ipynb")
    assert a.exit == 1 and f"mend it and go on with: mlops job run gap --resume {run}" in a.err, a
    at.write_text(at.read_text(encoding="utf-8").replace("1/0", "1"), encoding="utf-8")
    r = jobs.run("gap", resume=run)
    assert "-inf 2026-02-28 ['b', 'c'] None" in Path(r.output).read_text(encoding="utf-8")
    assert r.parameters["widest"] == "-inf" and jobs.history("gap").runs[0].parameters["widest"] == "-inf"


def test_a_checkpoint_of_version_0_1_still_loads(monkeypatch):
    "Its pickles name two functions where they stood then"
    import numpy as np

    from mlops_nb.job import namespace
    from mlops_nb.job.runs import pickles

    rows = np.arange(6)
    with open(os.devnull, encoding="utf-8") as file:
        ns = {"rows": rows, "half": rows[:3], "file": file}
    with monkeypatch.context() as then:
        for function in (pickles._view, pickles._shut):
            then.setattr(function, "__module__", namespace.__name__)
        dumped = pickles.dump(ns, list(ns))
    assert b"mlops_nb.job.namespace" in dumped.blob and b"mlops_nb.job.runs.pickles" not in dumped.blob
    assert b"_view" in dumped.blob and b"_shut" in dumped.blob and not dumped.lost
    back = pickles.load(dumped.blob, dumped.buffers, {})
    back["rows"][0] = 9
    assert list(back["half"]) == [9, 1, 2] and back["file"].closed and back["file"].name == os.devnull
