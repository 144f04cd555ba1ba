"""Backfills: ranges of every type, what is done is skipped, failures are told in one table, nothing outlives its parent."""

import datetime as dt
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb import job as jobs
from mlops_nb.core import ledger
from mlops_nb.core.draw import LIMIT
from mlops_nb.core.errors import BadInput, Finding
from mlops_nb.job.notebook import parameter_ranges
from mlops_nb.job.schedules.backfill_facts import Backfilled, BackfillRow
from mlops_nb.job.facts import Parameter
from helpers.job_runs import made

ROOT = Path(__file__).resolve().parents[1]
ADDS = """with open('ran.txt', 'a') as f: f.write(f'{month} {part}\\n')
if month==3: raise ValueError('no March')"""


def parameter(type, **kw):
    return Parameter(name="p", type=type, default=None, **kw)


@pytest.mark.parametrize(
    "type, text, want",
    [
        ("int", "2..5", [2, 3, 4, 5]),
        ("int", "-2..2/2", [-2, 0, 2]),
        ("int", "1,1..2,9", [1, 2, 9]),
        ("float", "0.1..0.5/0.2", [0.1, 0.3, 0.5]),
        ("float", "1e-3,.5", [0.001, 0.5]),
        ("date", "2012-02-27..2012-03-01", ["2012-02-27", "2012-02-28", "2012-02-29", "2012-03-01"]),
        ("date", "2013-01-01..2013-01-20/1w", ["2013-01-01", "2013-01-08", "2013-01-15"]),
        ("date", "2013-12..2014-01,2014-06-05", ["2014-06-05", "2013-12-01", "2014-01-01"]),
        ("datetime", "2013-01-01T00:00..2013-01-01T12:00/6h", [f"2013-01-01T{h}:00:00" for h in ("00", "06", "12")]),
        ("str", "AA, a..b", ["AA", "a..b"]),
        ("str", '["a,b","c"]', ["a,b", "c"]),
        ("bool", "*", [False, True]),
        ("list", '[["a"],["b","c"]]', [["a"], ["b", "c"]]),
    ],
)
def test_ranges(type, text, want):
    assert sorted(map(json.dumps, parameter_ranges.values(parameter(type), text))) == sorted(map(json.dumps, want))


@pytest.mark.parametrize(
    "type, text",
    [
        ("int", "5..2"),
        ("int", "1..x"),
        ("int", "1..nan"),
        ("int", "1..2/0"),
        ("int", "1..2/-1"),
        ("int", "1..100000000"),
        ("int", ""),
        ("float", "0..1"),
        ("float", "0..inf/1"),
        ("date", "2013-01-01..2013-13-01"),
        ("date", "2013-01-01..2013-02-01/0d"),
        ("date", "2013-01-01..2013-02-01/6h"),
        ("datetime", "2013-01-01T00:00Z..2013-01-02T00:00"),
        ("bool", "false..true"),
        ("list", "[1"),
    ],
)
def test_ranges_that_mean_nothing(type, text):
    with pytest.raises(BadInput) as e:
        parameter_ranges.values(parameter(type), text)
    assert "\n" not in str(e.value)


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(1, 7))
def test_whole_numbers_are_python_ranges(a, n, step):
    assert parameter_ranges.values(parameter("int"), f"{a}..{a + n}/{step}") == list(range(a, a + n + 1, step))


@given(st.dates(dt.date(1999, 1, 1), dt.date(2030, 1, 1)), st.integers(0, 90))
def test_days_leave_none_out(first, n):
    got = parameter_ranges.values(parameter("date"), f"{first}..{first + dt.timedelta(days=n)}")
    assert got == [(first + dt.timedelta(days=k)).isoformat() for k in range(n + 1)]


def test_failures_are_told_and_what_is_done_is_skipped(project, cli):
    made("score", "%%mlops params\nmonth = 1\npart = 'a'", ADDS)
    ran = project.root / "ran.txt"
    a = cli("job", "backfill", "score", "--over", "month=2..4", "--over", "part=a,b", "--parallel", "2", "--json")
    assert a.exit == 1 and a.json["error"]["kind"] == "finding", a
    assert a.json["counts"] == {"completed": 4, "skipped": 0, "failed": 2, "not_run": 0}
    assert "2 of 6 runs failed" in a.json["error"]["message"] and "no March" in a.json["error"]["message"]
    assert sorted(ran.read_text().split("\n")) == ["", "2 a", "2 b", "3 a", "3 b", "4 a", "4 b"]
    for r in a.json["rows"]:
        assert (r["status"] == "completed") == (r["parameters"]["month"] != 3) and r["run"].startswith("score-")
    ran.unlink()
    with pytest.raises(Finding) as e:
        jobs.backfill("score", over={"month": "2..5"}, params={"part": "a"}, on_failure="stop")
    b = e.value.result
    assert [r.status for r in b.rows] == ["skipped", "failed", "skipped", "not_run"] and ran.read_text() == "3 a\n"
    assert "1 FAILED" in str(b) and len(b.panel().html().encode()) < LIMIT
    (again, _) = [x.payload for x in ledger.of(project).events(["job.backfilled"], newest=True)]
    assert again.counts == {"completed": 0, "skipped": 2, "failed": 1, "not_run": 1}
    runs = [x.payload for x in ledger.of(project).events(["job.completed"])]
    assert len(runs) == 4 and all(x.backfill for x in runs)
    jobs.run("score", params={"month": "7", "part": "b"})
    plan = jobs.backfill("score", over={"month": "7"}, params={"part": "b"}, dry_run=True)
    assert plan.steps[0].startswith("skip, done by score-"), "what was run by hand is done, too"
    nb = project.root / "jobs/score/score.ipynb"
    nb.write_text(nb.read_text(encoding="utf-8").replace("no March", "no march"), encoding="utf-8")
    plan = jobs.backfill("score", over={"month": "2"}, params={"part": "a"}, dry_run=True)
    assert plan.steps == ["run month=2"], "an edited cell makes everything undone"


def test_bad_words_start_nothing(project, cli, monkeypatch):
    made("score", "%%mlops params\nmonth = 1\npart = 'a'", "print(month, part)")
    monkeypatch.setattr(subprocess, "Popen", None)
    for words, said in {
        ("--over", "mont=1"): "did you mean `month`?",
        ("--over", "month=a..b"): "both ends must be numbers",
        ("--over", "month"): "is no name=value",
        ("--over", "month=1..2", "-p", "month=3"): "stands under -p and under --over",
        ("--over", "month=1..200", "--over", "part=" + ",".join(map(str, range(99)))): "19,800 runs, more than 10,000",
        ("--over", "month=1..2", "--parallel", "0"): "expected 1 to 256",
        (): "needs --over",
    }.items():
        a = cli("job", "backfill", "score", *words)
        assert a.exit == 2 and said in a.err and len(a.err.strip().split("\n")) == 1, (words, a)
    assert cli("job", "backfill", "score", "--over", "month=1..3", "--dry-run").exit == 0
    assert not list(ledger.of(project).events(["job.started"]))


WAITS = """import os, threading
with open(pipe, 'w') as f: f.write(f'{os.getpid()}\\n')
round = n
threading.Event().wait()"""


def words_of(p: psutil.Process) -> list[str]:
    "The command line of a process that may be ending"
    try:
        return p.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes of POSIX")
def test_nothing_outlives_a_killed_backfill(project):
    pipe = project.root / "pipe"
    os.mkfifo(pipe)
    made("waits", f"%%mlops params\npipe = {str(pipe)!r}\nn = 1", WAITS)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlops_nb", "job", "backfill", "waits", "--over", "n=1..4", "--parallel", "2"]
    x = subprocess.Popen(command, cwd=project.root, env=env, stderr=subprocess.PIPE, text=True)
    fd = os.open(pipe, os.O_RDWR)
    said = ""
    while len(said.split()) < 2:
        assert select.select([fd], [], [], 120)[0], x.stderr.read() if x.poll() is not None else "no kernel began"
        said += os.read(fd, 100).decode()
    started = psutil.Process(x.pid).children(recursive=True)
    servers = {
        c.pid for c in started if "mlops_nb.job.runs.fork_server" in words_of(c)
    }  # warm for the next run, by design
    family = [*(c for c in started if c.pid not in servers), *(psutil.Process(int(k)) for k in said.split())]
    x.send_signal(signal.SIGKILL)
    x.wait(30)
    x.stderr.close()
    os.close(fd)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert not list(ledger.of(project).events(["job.completed"]))


def test_a_large_panel_stays_small_and_escaped():
    rows = [BackfillRow(parameters={"<i>": "<script>" * 9}, status="failed", message="</td><b>") for _ in range(500)]
    html = Backfilled(job="score", id="x", rows=rows, parallel=1, definition="").panel().html()
    assert len(html.encode()) < LIMIT and "<script>" not in html and "<i>" not in html


@pytest.mark.parametrize(
    "line, said",
    [
        ("open('out.csv', 'w').write(str(month))", ["out.csv"]),
        ("open(f'out_{month}.csv', 'w').write('x')", []),
        ("open(f'out_{rate}.csv', 'w').write(str(month))", ["out_{rate}.csv"]),
    ],
)
def test_runs_that_write_the_same_file_are_said(project, line, said):
    made("same", "%%mlops params\nmonth = 1\nrate = 0.5", line)
    plan = jobs.backfill("same", over={"month": "1..3"}, dry_run=True)
    notes = [step for step in plan.steps if step.startswith("note: ")]
    assert [f"`{name}`" in note and "`month`" in note for name, note in zip(said, notes, strict=True)] == [True] * len(
        said
    )
    one = jobs.backfill("same", over={"month": "1"}, dry_run=True)
    assert not any(step.startswith("note: ") for step in one.steps), "one run overwrites nothing"
