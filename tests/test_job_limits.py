"""Limits hold against code that does not listen, in both forms; a run that reaches one says which."""

import json
import os
import select
import sys
from pathlib import Path

import psutil
import pytest

from mlops_nb import job as jobs
from mlops_nb.core import warm
from mlops_nb.core.errors import BadInput, Finding
from helpers.job_runs import made, told

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are read from /proc")
STUBBORN = (
    "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
)
FORMS = [False, True] if warm.supported() else [True]


def ended(pid: int) -> bool:
    "Has a process ended, also where nobody has asked for its exit yet?"
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 30)[0])
    finally:
        os.close(fd)


def refused(name, isolated=False, **limit):
    with pytest.raises(Finding) as e:
        jobs.run(name, isolated=isolated, limit={"grace_s": 1, **limit})
    return e.value.result


@pytest.mark.parametrize("isolated", FORMS)
@pytest.mark.parametrize(
    "limit, code, words",
    [
        (
            {"memory_mb": 400},
            "x = bytearray(900_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\nwhile True: pass",
            "memory_mb",
        ),
        ({"cpu_s": 2.5}, "while True: pass", "cpu_s"),
        ({"wall_s": 4}, "import threading\nthreading.Event().wait()", "wall_s"),
        ({"usd": 1e-7}, "while True: pass", "usd"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_limit_ends_a_run(project, limit, code, words, isolated):
    made("greedy", "start = 1", code, "print('never')")
    r = refused("greedy", isolated, **limit)
    assert words in r.message and r.status == "failed" and not any("never" in str(c) for c in r.cells)
    assert (Path(r.output).exists() or isolated) and told(project, "job.failed")[0].payload.run == r.run
    left = [p for p in psutil.process_iter(["cmdline"]) if r.run in " ".join(p.info["cmdline"] or [])]
    assert not psutil.wait_procs(left, timeout=30)[1], "what was killed needs a moment to be gone"


def test_code_that_does_not_listen_is_ended(project):
    pipe = project.root / "pid"
    made(
        "deaf",
        f"pid = {str(pipe)!r}",
        "import os\nopen(pid, 'w').write(str(os.getpid()))",
        STUBBORN + "sum(range(10**13))",
    )
    r = refused("deaf", cpu_s=1.5)
    assert "cpu_s" in r.message or "kernel died" in r.message
    assert ended(int(pipe.read_text(encoding="utf-8")))


def test_a_cell_has_its_time_and_children_end_too(project):
    pids = project.root / "pids"
    made(
        "slow",
        f"pids = {str(pids)!r}",
        (
            "import subprocess, sys\n"
            "p = subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'])\n"
            "open(pids, 'w').write(str(p.pid))"
        ),
        "import threading\nthreading.Event().wait()",
    )
    r = refused("slow", cell_s=3)
    assert r.failed_cell == 2 and "cell_s" in r.message
    assert ended(int(pids.read_text(encoding="utf-8")))


@pytest.mark.skipif(not warm.supported(), reason="needs a fork server")
def test_a_file_that_would_be_too_big_is_refused(project):
    made("fills", "size = 3_000_000", "open('big', 'wb').write(b'x'*size)")
    r = refused("fills", disk_mb=1)
    assert ("File too large" in r.message or "disk_mb" in r.message) and Path("big").stat().st_size <= 1_000_000


def test_limits_are_read_from_the_nearest_place(project, cli):
    from mlops_nb.core import project as projects
    from mlops_nb.job import definition
    from mlops_nb.job.runs import execution

    made("plain", "x = 1")
    projects.current().pin("job", "wall_s", 50)
    projects.current().pin("job", "memory_mb", 900)
    toml = Path("jobs/plain/job.toml")
    toml.write_text(
        toml.read_text(encoding="utf-8").replace("[job]\n", "[job]\nlimits = {wall_s = 40, cpu_s = 30}\n"),
        encoding="utf-8",
    )
    job = definition.read(project, "plain")
    got = execution.limits_of(projects.current(), job, {"cpu_s": 20})
    assert (got.memory_mb, got.wall_s, got.cpu_s) == (900, 40, 20)
    for bad, words in (("walls=3", "walls"), ("wall_s=-1", "negative")):
        a = cli("job", "run", "plain", "--limit", bad)
        assert a.exit == 2 and words in a.err, a
    with pytest.raises(BadInput):
        execution.limits_of(project, job, {"moon": 1})


def test_the_end_is_told_to_a_command_and_outputs_are_kept(project):
    from mlops_nb.core import project as projects

    code = "import sys, pathlib; pathlib.Path('told').write_text(sys.argv[1]+' '+sys.stdin.read())"
    Path("hook.py").write_text(code, encoding="utf-8")
    projects.current().pin("job", "on_end", f"{sys.executable} hook.py {{status}}")
    made(
        "writes",
        "month = 3",
        "with open(f'out-{month}.csv', 'w') as f: f.write('a,b')",
        "import pandas as pd\npd.DataFrame({'a': [1]}).to_csv(f'table-{month}.csv')",
    )
    r = jobs.run("writes", params={"month": 4})
    status, _, record = Path("told").read_text(encoding="utf-8").partition(" ")
    assert status == "completed" and json.loads(record)["run"] == r.run
    kept = {a.name: a for a in r.artefacts}
    assert "table-4.csv" in kept and Path(kept["table-4.csv"].path).read_bytes() == Path("table-4.csv").read_bytes()
    (done,) = told(project, "job.completed")
    assert done.payload.artefacts["table-4.csv"] == kept["table-4.csv"].digest


@pytest.mark.skipif(not warm.supported(), reason="only a fork saves what cells leave behind")
def test_saving_is_not_the_time_of_a_cell(project):
    "What a cell left takes longer to save than the cell may run"
    slow = "import threading\nclass Slow:\n    def __reduce__(self): threading.Event().wait(2.5); return int, (7,)\nx = Slow()"
    made("saves", "n = 1", slow, "print(n)")
    assert jobs.run("saves", limit={"cell_s": 2}).ok


def test_a_limit_that_does_not_exist_is_one_line(project, cli):
    made("score", "n = 1", "print(n)")
    for word, said in (
        ("memory=3", "--limit: there is no limit `memory`; did you mean `memory_mb`?"),
        ("wall_s=abc", "--limit wall_s: 'abc' is no float"),
        ("wall_s=-1", "limit wall_s=-1.0 is negative"),
    ):
        a = cli("job", "run", "score", "--limit", word)
        assert a.exit == 2 and said in a.err and len(a.err.strip().split("\n")) == 1, a
