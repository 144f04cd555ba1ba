"""Steps side by side: the result is that of the notebook run from top to bottom, whatever the steps do behind their names."""

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
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb import job as jobs
from mlops_nb.core import warm
from mlops_nb.core.draw import LIMIT
from mlops_nb.core.errors import BadInput, Finding
from mlops_nb.job import definition, step_views
from mlops_nb.job.conversion import step_graph
from mlops_nb.job.facts import Step, StepRun
from helpers.job_runs import failed_run, nb, ran

pytestmark = pytest.mark.skipif(not warm.supported(), reason="needs fork and sockets that say who calls")
MARK = "import os\ndef mark(k): fd = os.open('ran', os.O_WRONLY|os.O_CREAT|os.O_APPEND); os.write(fd, f'{k} '.encode()); os.close(fd)"


def job(name: str, *sources: str, **kw):
    "A job whose steps are these cells: `NAME OPTIONS: code`; a cell without a name defines"
    made = [
        s if s.startswith(("import", "def", "%%", "class")) else "%%mlops step {}\n{}".format(*s.split(": ", 1))
        for s in sources
    ]
    Path(f"{name}.ipynb").write_text(json.dumps(nb(*made)), encoding="utf-8")
    return jobs.convert(Path(f"{name}.ipynb"), **kw)


def same(name: str, **kw):
    "Run it in order and side by side; the runs"
    a = jobs.run(name, parallel=1, **kw)
    for p in ("out.txt", "parts/out.txt"):
        Path(p).unlink(missing_ok=True)
    b = jobs.run(name, parallel=3, **kw)
    assert a.digest == b.digest and [c.index for c in a.cells] == [c.index for c in b.cells]
    x, y = (json.loads(Path(r.output).read_text(encoding="utf-8"))["cells"] for r in (a, b))
    assert [c.get("execution_count") for c in x] == [c.get("execution_count") for c in y]
    return a, b


def steps(r) -> dict[str, StepRun]:
    return {s.name: s for s in r.steps}


def test_steps_that_do_not_need_each_other_run_at_the_same_time(project):
    "Each of the two waits for the other: one after the other they would wait until the limit"
    os.mkfifo("there")
    os.mkfifo("back")
    job(
        "meet",
        "%%mlops params\nfactor = 2",
        "import os",
        "class Row:\n    def __init__(self, x): self.x = x",
        (
            "def meet(mine, theirs, first):\n"
            "    for place, way in ((mine, os.O_WRONLY), (theirs, os.O_RDONLY))[::1 if first else -1]: "
            "os.close(os.open(place, way))"
        ),
        "load: rows = [Row(x) for x in range(5)]",
        "left: meet('there', 'back', True)\na = [r.x*factor for r in rows]\nprint('left', a)",
        "right: meet('back', 'there', False)\nb = sum(r.x for r in rows)\nb",
        "end: print(a, b, isinstance(rows[0], Row))",
    )
    r = jobs.run("meet", params={"factor": "3"}, parallel=2, limit={"wall_s": 60})
    assert "[0, 3, 6, 9, 12] 10 True" in Path(r.output).read_text(encoding="utf-8")
    got = steps(r)
    assert {n: (s.status, s.needs, s.tries) for n, s in got.items()} == {
        "load": ("completed", [], 1),
        "left": ("completed", ["load"], 1),
        "right": ("completed", ["load"], 1),
        "end": ("completed", ["left", "load", "right"], 1),
    }
    assert len(r.cells) == 9 and all(c.status == "completed" and not c.cached for c in r.cells)
    again = jobs.run("meet", params={"factor": "3"}, resume=r.run)
    assert again.digest == r.digest and {s.status for s in again.steps} == {"cached"}, "nothing waits: nothing ran"


def test_no_more_at_one_time_than_was_said(project, cli):
    names = "abcdef"
    job("many", MARK, *(f"{n}: mark('+')\nfor _ in range(20000): pass\nmark('-')" for n in names), "end: print('end')")
    jobs.run("many", parallel=2)
    going = [0]
    for sign in ran().split():
        going.append(going[-1] + (1 if sign == "+" else -1))
    assert max(going) <= 2 and len(going) == 13
    toml = Path("jobs/many/job.toml")
    toml.write_text(toml.read_text(encoding="utf-8").replace("[job]\n", "[job]\nparallel = 1\n", 1), encoding="utf-8")
    assert definition.read(project, "many").parallel == 1
    jobs.run("many")
    assert ran() == "+ - " * 6, "in order"
    bad = cli("job", "run", "many", "--parallel", "999")
    assert bad.exit == 2 and "expected 1 to 256" in bad.err


BEHIND = {  # what a step may do that its names do not show -> what the run says of it
    "alias": (
        ["load: rows = [1]\nalso = rows", "a: also.append(2)", "b: n = len(rows)", "end: print(also, n, rows)"],
        "under another name",
    ),
    "random": (
        [
            "import random\nrandom.seed(1)",
            "load: k = 1",
            "a: x = random.random()",
            "b: y = random.random()",
            "end: print(x, y, random.random())",
        ],
        "both draw from the generator of `random`",
    ),
    "environment": (
        [
            "import os",
            "def choose(): os.environ['MODE'] = 'x'",
            "a: choose()",
            "b: mode = os.environ.get('MODE')",
            "end: print(mode)",
        ],
        "sets an option",
    ),
    "file": (
        [
            "import os",
            "def place(): return 'out'+'.txt'\ndef read(p):\n    try: return open(p).read()\n    except FileNotFoundError: return 'none'",
            "a: open(place(), 'w').write('new')",
            "b: text = read(place())",
            "end: print(text)",
        ],
        "which that step writes",
    ),
    "folder": (
        [
            "import os\nos.makedirs('parts', exist_ok=True)",
            (
                "def part(n): return f'parts/{n}'\ndef put(n):\n"
                "    with open(part(n), 'w') as f: f.write('x')\ndef listed(): return os.listdir('parts')"
            ),
            "a: put('out.txt')",
            "b: names = listed()",
            "end: print(names)",
        ],
        "which that step adds to",
    ),
    "print options": (
        [
            "import numpy as np",
            "def short(): np.set_printoptions(precision=2)",
            "a: short()",
            "b: text = str(np.array([1/3]))",
            "end: print(text)",
        ],
        "sets an option",
    ),
    "warnings": (
        [
            "import warnings",
            "def quiet(): warnings.simplefilter('ignore')",
            "a: quiet()",
            "b: warnings.warn('loud')",
            "end: print('end')",
        ],
        "sets an option",
    ),
    "option set back": (
        [
            "import os",
            "def choose(): os.environ['MODE'] = 'x'",
            "def back(): del os.environ['MODE']",
            "first: choose()",
            "a: back()",
            "b: mode = os.environ.get('MODE')",
            "end: print(mode)",
        ],
        "sets an option",
    ),
}


@pytest.mark.parametrize("how", BEHIND)
def test_what_steps_do_behind_their_names_is_seen_and_put_in_order(project, how):
    cells, words = BEHIND[how]
    j = job("behind", *cells)
    by = {s.name: s for s in j.steps}
    assert step_graph.is_wide(j.steps) and "a" not in by["b"].needs, "nothing in the code says that b needs a"
    _, b = same("behind")
    said = [x for x in b.remarks if x.startswith("step `b` comes after step `a`")]
    assert said and words in said[0] and "a" in steps(b)["b"].needs


def test_a_file_that_another_step_wrote_after_it_was_looked_for_is_read_again(project):
    "Step b looks for the file, then a writes it, then b ends: what b saved is not what it would read now"
    os.mkfifo("looked")
    os.mkfifo("written")
    job(
        "late",
        "import os\ndef side(): return os.path.exists('side')\ndef meet(place, way): os.close(os.open(place, way))",
        "def place(): return 'out'+'.txt'\ndef read(p):\n    try: return open(p).read()\n    except FileNotFoundError: return 'none'",
        (
            "a: both = side()\nif both: meet('looked', os.O_RDONLY)\n"
            "with open(place(), 'w') as f: f.write('new')\nif both: meet('written', os.O_WRONLY)"
        ),
        (
            "b: text, again = read(place()), side()\nif again: meet('looked', os.O_WRONLY)\n"
            "if again: meet('written', os.O_RDONLY)\nif again: os.unlink('side')"
        ),
        "end: print(text)",
    )
    a = jobs.run("late", parallel=1)
    Path("out.txt").unlink()
    Path("side").touch()
    b = jobs.run("late", parallel=2, limit={"wall_s": 60})
    assert a.digest == b.digest and [r for r in b.remarks if "which that step writes; run again: b" in r], b.remarks


MEET = """import os
def tell(place):
    if os.path.exists(place): os.close(os.open(place, os.O_WRONLY))
def hear(place):
    if os.path.exists(place):
        with open(place) as f: f.read()
        os.unlink(place)
def path(n): return f'f{n}'
def write(n, x):
    with open(path(n), 'w') as f: f.write(x)
def read(n):
    try:
        with open(path(n)) as f: return f.read()
    except FileNotFoundError: return 'none'
def mark(k):
    fd = os.open('ran', os.O_WRONLY|os.O_CREAT|os.O_APPEND)
    os.write(fd, f'{k} '.encode())
    os.close(fd)"""


def crossed(name: str, *cells: str, times: int = 1):
    "Run in order, then `times` side by side, where steps that `tell` and `hear` of a fifo wait for each other"
    job(name, MEET, *cells, "end: print([read(n) for n in range(3)])")
    clean()
    a, files = jobs.run(name, parallel=1), left()
    for k in range(times):
        clean()
        for f in ("one", "two") if not k else ():
            os.mkfifo(f)
        b = jobs.run(name, parallel=3, limit={"wall_s": 60})
        for f in ("one", "two"):
            Path(f).unlink(missing_ok=True)
        if k + 1 < times:
            assert gone(b), "what cannot be put right is said"
    assert (a.digest, files) == (b.digest, left()) and not gone(b), b.remarks
    return b


def test_of_two_steps_that_write_a_file_the_later_one_has_the_last_word(project):
    b = crossed("last", "a: hear('one')\nwrite(1, 'a')", "b: write(1, 'b')\ntell('one')")
    assert any("both write" in x and "run again: b" in x for x in b.remarks)


def test_what_a_step_changed_in_place_too_early_is_changed_again(project):
    late = "fd = os.open('one', os.O_WRONLY) if os.path.exists('one') else 0"  # Heard when the process has ended
    crossed("early", "a: hear('one')\nwrite(1, 'a')", f"b: write(1, read(1)+'b')\n{late}")
    crossed(
        "half",
        "a: hear('one')\nwrite(1, 'a')\ntell('two')",
        "b: text = read(1)\ntell('one')\nhear('two')",
        "%%mlops step b\nwrite(1, text+'b')",
        times=2,
    )


def test_what_a_later_step_overwrote_too_early_is_said_and_does_not_happen_again(project):
    b = crossed("over", "a: hear('one')\nx = read(0)", "b: write(0, 'b')\ntell('one')", "end2: print(x)", times=2)
    assert "a" in steps(b)["b"].needs


@pytest.mark.parametrize("save", ["ends first", "ends last"])
def test_what_a_later_step_wrote_before_an_earlier_one_ran_again_is_said(project, save):
    "b runs again because of the name that a changes; by then the first round's last step had overwritten what it reads"
    again = (
        "fd = os.open('two', os.O_WRONLY) if n[0]>1 and os.path.exists('two') else 0"
        if save == "ends last"
        else "fd = 0"
    )
    cells = [
        "load: rows = [1]\nalso = rows",
        "a: hear('one')\nalso.append(2)",
        f"b: n = [len(rows), read(0)]\n{again}",
        f"save: write(0, str(n))\ntell('one')\n{'hear' if save == 'ends last' else 'len'}('two')",
    ]
    crossed("round", *cells, times=2)


def test_a_step_that_failed_for_want_of_a_file_runs_again_when_it_is_there(project):
    "The first step writes after the process of the later one has ended: only then can it read to the end of the pipe"
    cells = [
        "a: hear('one')\nwrite(1, 'a')",
        "b: fd = os.open('one', os.O_WRONLY) if os.path.exists('one') else 0\nwith open(path(1)) as f: text = f.read()",
        "after: print(text)",
    ]
    b = crossed("want", *cells)
    assert [s.status for s in b.steps] == ["completed"] * 4 and steps(b)["b"].tries == 2


def test_steps_that_read_the_history_of_cells_run_in_order(project):
    job("history", "a: 6*7", "b: print(_)")
    _, b = same("history")
    assert "42" in Path(b.output).read_text(encoding="utf-8") and any("reads the history" in x for x in b.remarks)


def test_a_torn_record_does_not_hide_those_behind_it(project):
    "The first try dies while it writes its record"
    torn = (
        "import glob, signal\nif not os.path.exists('died'):\n    open('died', 'w').close()\n"
        "    log = glob.glob('.mlops/runs/*/steps/b/cells.log')[0]\n"
        "    open(log, 'ab').write((99).to_bytes(8, 'big')*2+b'torn')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    job(
        "torn",
        MEET,
        "a: mark('a')",
        "b --retries 1: mark('b')\nb = [len(path(1))]",
        "%%mlops step b\n" + torn,
        "end: print(b)",
    )
    r = jobs.run("torn", parallel=2)
    assert sorted(ran().split()) == ["a", "b"] and not any("ran once more" in x for x in r.remarks), r.remarks


def test_a_run_that_was_killed_while_steps_had_crossed_goes_on_rightly(project):
    "The later step has written, the first has not yet, when the run dies: what that one saved is not used"
    for f in ("one", "two", "gate"):
        os.mkfifo(f)
    here = "if os.path.exists('two'):\n    with open('two', 'w') as f: f.write(str(os.getpid()))\n"
    cells = [
        here + "hear('one')\nwrite(1, 'a')",
        "write(1, 'b')\nb = [len(path(1))]",
        "print(b)\ntell('gate')",
        "print(read(1))",
    ]
    job("killed", MEET, *(f"{n}: {c}" for n, c in zip(("a", "b", "seen", "end"), cells, strict=True)))
    child = subprocess.Popen([sys.executable, "-c", "from mlops_nb import job; job.run('killed', parallel=2)"])
    with open("two", encoding="ascii") as f:
        first = psutil.Process(int(f.read()))
    os.close(os.open("gate", os.O_RDONLY))
    child.kill()
    child.wait()
    psutil.wait_procs([first], timeout=60)
    for f in ("one", "two", "gate"):
        Path(f).unlink()
    r = jobs.run("killed", resume=newest_folder("killed"), parallel=1, limit={"wall_s": 60})
    assert Path("f1").read_text(encoding="utf-8") == "b" and r.digest == jobs.run("killed", parallel=1).digest


def newest_folder(name: str) -> str:
    return max(Path(".mlops/runs").glob(f"{name}-*/plan.json"), key=lambda p: p.stat().st_mtime_ns).parent.name


def test_names_end_as_they_would_from_top_to_bottom(project):
    job(
        "names",
        "%%mlops params\nn = 1",
        "load: xs = [n]",
        "peek: early = list(xs)",
        "%%mlops step grow\nxs.append(2)",
        "grown: late = list(xs)",
        "def late_definition(x): return [x, n]",
        "rebind: xs = 'other'",
        "end: print(early, late, xs, late_definition(0))\ndel early",
        "after: print('early' in globals())",
    )
    _, b = same("names", params={"n": "7"})
    text = Path(b.output).read_text(encoding="utf-8")
    assert "[7] [7, 2] other [0, 7]" in text and "False" in text


def test_what_cannot_be_handed_over_is_made_again_and_said(project):
    job(
        "lost",
        MARK,
        "import threading",
        "load: mark('load')\nlock = threading.Lock()\nrows = [1, 2]",
        "a: mark('a')\na = rows+[0]",
        "b: mark('b')\nwith lock: b = len(rows)",
        "end: print(a, b)",
    )
    r = jobs.run("lost", parallel=2)
    did = ran().split()
    assert did.count("a") == did.count("b") == 1 and did.count("load") > 1, "a and b once each; the lock was made again"
    assert any("`lock`" in x for x in r.remarks) and any("ran once more for step `b`" in x for x in r.remarks)
    assert "[1, 2, 0] 2" in Path(r.output).read_text(encoding="utf-8")


def test_a_failure_takes_along_what_needs_it_and_nothing_else(project, cli):
    cells = [
        MARK,
        "load: mark('load')\nrows = [3]",
        "bad: mark('bad')\nx = rows[0]/zero",
        "good: mark('good')\ny = rows[0]*2",
        "worse: mark('worse')\nz = x+1",
        "fine: mark('fine')\nprint(y)",
    ]
    job("tree", *cells)
    a = cli("job", "run", "tree", "--parallel", "2", "--json")
    assert a.exit == 1 and a.json["error"]["kind"] == "finding"
    (at,) = next(s["cells"] for s in a.json["steps"] if s["name"] == "bad")
    assert f"cell {at} failed: NameError" in a.json["message"] and "[step `bad`; not run: `worse`]" in a.json["message"]
    assert {s["name"]: s["status"] for s in a.json["steps"]} == {
        "load": "completed",
        "bad": "failed",
        "good": "completed",
        "worse": "not_run",
        "fine": "completed",
    }
    assert sorted(ran().split()) == ["bad", "fine", "good", "load"] and a.json["failed_cell"] == at
    cells[2] = "bad: mark('bad')\nx = rows[0]/1"
    job("tree", *cells)
    r = jobs.run("tree", resume=a.json["run"], parallel=2)
    assert sorted(ran().split()) == ["bad", "worse"], "what was done is taken over"
    assert {n: s.status for n, s in steps(r).items()}["good"] == "cached"
    assert r.digest == jobs.run("tree", parallel=1).digest


def test_steps_are_tried_again_by_themselves_each_time_later(project, monkeypatch):
    flaky = "mark('{0}')\nn_{0} = open('ran').read().count('{0}')\nassert n_{0}>{1}, 'not yet'"
    job(
        "flaky",
        MARK,
        "once: mark('once')",
        "a --retries 2 --backoff 0.01: " + flaky.format("a", 2),
        "b --retries 1: " + flaky.format("b", 1),
    )
    j = definition.read(project, "flaky")
    assert [(s.retries, s.backoff_s) for s in j.steps] == [(0, 0.0), (2, 0.01), (1, 0.0)]
    r = jobs.run("flaky", parallel=3)
    assert sorted(ran().split()) == ["a", "a", "a", "b", "b", "once"] and [s.tries for s in r.steps] == [1, 3, 2]
    assert sorted(x.split(":")[0] for x in r.remarks) == [
        "step `a` is tried again in 0.01 s",
        "step `a` is tried again in 0.02 s",
        "step `b` is tried again",
    ]
    with pytest.raises(Finding, match=r"not yet \[step `b`, tried 2 times; also failed"):
        Path("ran").unlink()
        job("flaky", MARK, "b --retries 1: " + flaky.format("b", 9), "c: assert False, 'no'")
        jobs.run("flaky", parallel=2)
    assert [s["status"] for s in json.loads(newest("flaky").read_text(encoding="utf-8"))["steps"]] == [
        "failed",
        "failed",
    ]
    with pytest.raises(BadInput, match="is no option of a step"):
        job("flaky", "a --backoff soon: x = 1")


def newest(name: str) -> Path:
    return max(Path(".mlops/runs").glob(f"{name}-*/run.json"), key=lambda p: p.stat().st_mtime_ns)


def test_limits_hold_for_all_steps_together(project):
    job("wait", "import threading", "a: threading.Event().wait()", "b: threading.Event().wait()", "c: print(1)")
    with pytest.raises(Finding, match="wall_s"):
        jobs.run("wait", parallel=3, limit={"wall_s": 0.5, "grace_s": 0.2})
    job(
        "eat", "import threading", *(f"{n}: block_{n} = bytearray(60_000_000)\nthreading.Event().wait()" for n in "abc")
    )
    with pytest.raises(Finding, match="more than its limit of 220 MB"):
        jobs.run("eat", parallel=3, limit={"memory_mb": 220, "grace_s": 0.2, "wall_s": 60})


def test_a_dead_fork_is_a_failed_step_and_a_definition_that_fails_is_none(project):
    job("dies", "import os, signal", "a: os.kill(os.getpid(), signal.SIGKILL)", "b: print('b')")
    run = failed_run("dies", parallel=2)
    assert (
        "the kernel died (SIGKILL)"
        in json.loads(Path(f".mlops/runs/{run}/run.json").read_text(encoding="utf-8"))["message"]
    )
    job("first", "import no_module_of_this_name", "a: x = 1", "b: y = 1")
    with pytest.raises(Finding, match=r"cell 0 failed: ModuleNotFoundError.*\[not run: `a`, `b`\]"):
        jobs.run("first", parallel=2)


def test_a_terminated_run_goes_on_with_what_is_left(project):
    os.mkfifo("gate")
    job(
        "long",
        MARK,
        "import threading",
        "a: mark('a')\nx = 1",
        "b: mark('b')\ny = 2\nos.close(os.open('gate', os.O_WRONLY))\nos.path.exists('go') or threading.Event().wait()",
        "end: print(x, y)",
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "job", "run", "long", "--parallel", "2"], stderr=subprocess.PIPE, text=True
    )
    os.close(os.open("gate", os.O_RDONLY))
    child.send_signal(signal.SIGTERM)
    child.communicate()
    record = json.loads(newest("long").read_text(encoding="utf-8"))
    assert child.returncode != 0 and record["status"] == "aborted"
    first = ran()
    Path("go").touch()
    reader = subprocess.Popen(["cat", "gate"])
    r = jobs.run("long", resume=record["run"], parallel=2)
    reader.wait()
    assert sorted((first + ran()).split()).count("b") == 2 and r.ok, "b was not finished, so it ran again"
    assert "1 2" in Path(r.output).read_text(encoding="utf-8")


def random_job(seed: int) -> list[str]:
    "Steps that read, bind, grow, share and draw at random; 93 and 97 change what another step keeps under a second name"
    rng, names, cells = (
        random.Random(seed),
        ["base"],
        ["import random as rnd\nrnd.seed(3)", "def total(xs): return sum(xs)", "load: base = [1]"],
    )
    for k in range(rng.randint(3, 7)):
        a, b = rng.choice(names), rng.choice(names)
        code = rng.choice(
            [
                "v{k} = {a}",
                "v{k} = [total({a}), len({b})]",
                "v{k} = {a}+{b}",
                "v{k} = list({a})\n{b}.append({k})",
                "v{k} = [rnd.randint(0, 99)]",
                "{a}.append({k})\nv{k} = {b}",
            ]
        )
        cells.append(f"s{k}: {code.format(k=k, a=a, b=b)}\nprint(v{k})")
        names.append(f"v{k}")
    return [*cells, f"end: print({', '.join(names)})"]


@pytest.mark.parametrize("seed", [*range(count(4, 100)), *(() if count(0, 1) else (93, 97))])
def test_random_graphs_give_what_the_notebook_gives(project, seed):
    j = job("chance", *random_job(seed))
    a, b = jobs.run("chance", parallel=1), jobs.run("chance", parallel=4)
    assert a.digest == b.digest, [(s.name, s.needs) for s in j.steps]


FILES = """import os
def write(n, x):
    with open(f'f{n}', 'w') as f: f.write(str(x))
def read(n):
    try:
        with open(f'f{n}') as f: return ''.join(sorted(f.read()))
    except FileNotFoundError: return 'none'
def add(n, x):
    with open(f'f{n}', 'a') as f: f.write(str(x))
def bump(n, x): write(n, read(n)+str(x))
def move(n, m):
    if read(n)!='none': os.replace(f'f{n}', f'f{m}')
def choose(x): os.environ['CHOSEN'] = str(x)
def unset(): os.environ.pop('CHOSEN', None)
def chosen(): return os.environ.get('CHOSEN', 'unset')"""


def random_effects(seed: int) -> list[str]:
    "Steps that read, write, add to, change and rename files that no code names, and set the environment"
    rng, names, cells = random.Random(seed), ["base"], ["import random as rnd\nrnd.seed(3)", FILES, "load: base = [1]"]
    codes = [
        "write({n}, {k})\nv{k} = {k}",
        "v{k} = read({n})",
        "add({n}, {k})\nv{k} = 0",
        "bump({n}, {k})\nv{k} = read({n})",
        "move({n}, {m})\nv{k} = {a}",
        "write({n}, {a})\nv{k} = read({m})",
        "v{k} = [{a}, {b}, read({n})]",
        "choose({k})\nv{k} = 0",
        "unset()\nv{k} = {a}",
        "v{k} = chosen()",
        "v{k} = rnd.randint(0, 9)",
    ]
    for k in range(rng.randint(3, 7)):
        a, b = rng.choice(names), rng.choice(names)
        code = rng.choice(codes).format(k=k, a=a, b=b, n=rng.randrange(3), m=rng.randrange(3))
        cells.append(f"s{k}: {code}\nprint(v{k})")
        names.append(f"v{k}")
    return [*cells, f"end: print({', '.join(names)}, [read(n) for n in range(3)], chosen())"]


def clean():
    "Files as they are before every run: one is there, two are not"
    for p in Path().glob("f[0-9]"):
        p.unlink()
    Path("f0").write_text("old", encoding="utf-8")


def left() -> dict[str, str]:
    return {p.name: "".join(sorted(p.read_text(encoding="utf-8"))) for p in Path().glob("f[0-9]")}


def gone(r) -> list[str]:
    return [x for x in r.remarks if "held then is gone" in x or "ran more than once" in x]


@pytest.mark.parametrize("seed", range(count(4, 100)))
def test_random_effects_on_files_and_environment_are_those_of_the_notebook(project, seed):
    "What cannot be put right is said, and does not happen again"
    job("effects", *random_effects(seed))
    clean()
    a, files = jobs.run("effects", parallel=1), left()
    for _ in range(30):
        clean()
        b = jobs.run("effects", parallel=4)
        if not gone(b):
            break
    assert (a.digest, files) == (b.digest, left()) and not gone(b), b.remarks


@given(st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=12))
def test_the_picture_keeps_the_order_and_says_all(above):
    made = [Step(name=f"s{n}", cells=[n], needs=[f"s{m}" for m in ms if m < n]) for n, ms in enumerate(above)]
    cols = step_views.columns(made)
    depth = {n: d for d, ns in enumerate(cols) for n in ns}
    assert sorted(depth) == sorted(s.name for s in made) and all(
        depth[m] < depth[s.name] for s in made for m in s.needs
    )
    picture = step_views.picture(made)
    assert all(f">{s.name}</text>" in picture.markup and s.name in picture.words for s in made)


def test_panels_are_small_and_escaped(project):
    many = [
        StepRun(name=f"s{n}" * 10, status="failed", message="<script>", needs=[f"s{n - 1}" * 10] if n else [])
        for n in range(40)
    ]
    from mlops_nb.core.draw import Panel

    html = Panel("x", *step_views.ran(many)).html()
    assert len(html.encode()) < LIMIT and "<script>" not in html and "<svg" in html
    j = job("drawn", "load: x = 1", "a: print(x)", "b: print(x)")
    assert "load -> [a | b]" in str(j) and "<svg" in j.panel().html()
