"""Runs: refused before a kernel starts, metered cell by cell, failed, stopped, killed, repeated;
papermill and nbconvert from their own command lines."""

import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlops_nb import job as jobs
from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput, Finding, NotFound
from helpers.job_runs import made, nb, texts, told

ROOT = Path(__file__).resolve().parents[1]


def test_wrong_parameters_never_start_a_kernel(project, cli, monkeypatch):
    made("count", "upto = 10", "print(sum(range(upto)))")
    started = []
    real = subprocess.Popen

    class Counted(real):
        def __init__(self, *args, **kwargs):
            started.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    for bad, words in (
        (["-p", "upto=ten"], "`upto`: 'ten' is no int"),
        (["-p", "up_to=3"], "did you mean `upto`?"),
        (["-p", "upto"], "is no name=value"),
    ):
        a = cli("job", "run", "count", *bad)
        assert a.exit == 2 and words in a.err and len(a.err.strip().split("\n")) == 1, a
    a = cli("job", "run", "coutn")
    assert a.exit == 2 and "did you mean `count`?" in a.err
    with pytest.raises(BadInput):
        jobs.run("count", params={"upto": 1.5})
    with pytest.raises(NotFound):
        jobs.history("no_such_job")
    assert cli("job", "run", "count", "-p", "upto=3", "--dry-run").exit == 0
    assert not started and {p.pid for p in psutil.Process().children(recursive=True)} == before
    assert not (project.state / "runs").exists() and not told(project, "job.started")


@pytest.mark.parametrize("isolated", [False, True])
def test_a_parameter_is_never_code(project, cli, isolated):
    made("inject", "name = 'a'\nn = 1\nitems = [1]\nsince = '2026-01-01'", "print(name, n, items, since)")
    attack = "__import__('os').system('touch owned')"
    form = ["--isolated"] if isolated else []
    for given in (f"n={attack}", f"items={attack}", f"since={attack}", f"{attack}=1"):
        a = cli("job", "run", "inject", "-p", given, *form)
        assert a.exit == 2 and len(a.err.strip().split("\n")) == 1, a
    a = cli("job", "run", "inject", "-p", f"name={attack}", *form, "--json")
    assert a.exit == 0 and attack in texts(a.json["output"])
    a = cli("job", "run", "inject", "-p", "name='; open('owned', 'w').close(); '\n#", *form, "--json")
    assert a.exit == 0 and not list(project.root.rglob("owned"))


SPEAKS = """import os
from mlops_nb.core import ledger, project
from mlops_nb.data.events import DatasetAdded
p = project.current()
ledger.record(p, DatasetAdded(run=os.environ['MLOPS_PARENT_RUN']), subject='inside@1')
x = sum(i*i for i in range(300_000))
print(p.root.name, os.getcwd().rsplit('/', 1)[-1], os.environ['MLFLOW_DISABLE_TELEMETRY'], {'b', 'a', 'c'})"""


def test_a_run_is_metered_priced_recorded_and_repeatable(project, cli):
    Path("notebooks").mkdir()
    Path("notebooks/speak.ipynb").write_text(
        json.dumps(nb("md:# Speak", "times = 2  # how often\nname = 'a'", SPEAKS, "print(name*times, times)")),
        encoding="utf-8",
    )
    jobs.convert(Path("notebooks/speak.ipynb"))
    a = cli("job", "run", "speak", "-p", "times=3", "-p", "name=a=b", "--json")
    assert a.exit == 0, a
    r = a.json
    assert r["status"] == "completed" and r["ok"] and Path(r["output"]).is_relative_to(project.root / ".mlops/runs")
    assert {"run", "status", "cells", "cost_usd", "output"} <= set(r)
    assert all({"index", "seconds", "cost_usd", "cached"} <= set(c) for c in r["cells"])
    assert [c["index"] for c in r["cells"]] == [1, -1, 2, 3], (
        "cells are numbered as in the job's notebook; -1 is the injected cell"
    )
    assert r["cost_usd"] > sum(c["cost_usd"] for c in r["cells"]) > 0, "the kernel's start is paid too"
    assert (
        max(r["cells"], key=lambda c: c["cpu_s"])["index"] == 2
        and r["peak_mb"] >= max(c["peak_mb"] for c in r["cells"]) > 10
    )
    said = texts(r["output"])
    assert "a=ba=ba=b 3" in said and "work notebooks true" in said and "over TCP" not in said
    inside = [e for e in ledger.of(project).events(["dataset.added"])]
    assert [e.payload.run for e in inside] == [r["run"]], "what happens in the kernel reaches the same ledger"
    started, ended = told(project, "job.started", "job.completed")
    assert started.payload.bracket == ended.payload.bracket and ended.payload.run == r["run"]
    assert ended.payload.usd == r["cost_usd"] and len(ended.payload.cells) == 4 and ended.payload.idle_s > 0
    in_cells = sum(cell.usd for cell in ended.payload.cells)
    assert ended.payload.idle_usd == max(0.0, ended.payload.usd - in_cells), "what was paid while no cell ran"
    assert json.loads((Path(r["output"]).parent / "run.json").read_text(encoding="utf-8"))["digest"] == r["digest"]
    executed = json.loads(Path(r["output"]).read_text(encoding="utf-8"))
    assert executed["metadata"]["papermill"]["parameters"] == {"times": 3, "name": "a=b"}
    again = jobs.run("speak", params={"times": 3, "name": "a=b"})
    assert again.digest == r["digest"] and again.run != r["run"], "the same job with the same parameters does the same"
    assert [x.status for x in jobs.history("speak").runs] == ["completed"] * 2
    assert jobs.list().jobs[0].runs == 2 and "COMPLETED" in str(again)
    from mlops_nb.core.draw import LIMIT

    assert len(again.panel().html().encode()) < LIMIT


def test_a_failing_cell_is_one_line_and_the_notebook_is_kept(project, cli):
    made("div", "by = 0", "x = int('1')", "print('before'); x/by", "print('never')")
    a = cli("job", "run", "div", "--json")
    assert a.exit == 1 and a.json["error"]["kind"] == "finding" and a.json["status"] == "failed"
    assert "cell 2 failed: ZeroDivisionError: division by zero" in a.json["error"]["message"]
    assert [c["status"] for c in a.json["cells"]] == ["completed", "completed", "failed"]
    said = texts(a.json["output"])
    assert "before" in said and "never" not in said
    (failed,) = told(project, "job.failed")
    assert failed.payload.cell == 2 and failed.payload.run == a.json["run"] and not told(project, "job.completed")
    with pytest.raises(Finding) as e:
        jobs.run("div")
    assert "\n" not in str(e.value) and e.value.result.failed_cell == 2
    assert cli("job", "run", "div", "-p", "by=2").exit == 0


WAITS = """import os, threading
with open(pipe, 'w') as f: f.write(str(os.getpid()))
threading.Event().wait()"""


def begun(project, name):
    "A run in a process of its own whose kernel waits: `(process, kernel)`"
    pipe = project.root / f"{name}.fifo"
    os.mkfifo(pipe)
    made(name, f"pipe = {str(pipe)!r}", WAITS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLOPS_JOB_FORK_SERVER": "false"}  # the fork has tests of its own
    process = subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "job", "run", name],
        cwd=project.root,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert select.select([fd], [], [], 120)[0], (
        process.stderr.read() if process.poll() is not None else "the kernel did not start"
    )
    kernel = psutil.Process(int(os.read(fd, 20)))
    os.close(fd)
    return process, kernel


@pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes of POSIX")
def test_a_stopped_run_is_aborted_and_leaves_nothing_behind(project):
    process, kernel = begun(project, "wait")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; run wait-" in err and " is saved" in err
    psutil.wait_procs([kernel], timeout=30)
    assert not kernel.is_running()
    (aborted,) = told(project, "job.aborted")
    assert aborted.payload.usd > 0 and not told(project, "job.completed", "job.failed")
    (row,) = jobs.history("wait").runs
    assert row.status == "aborted"
    record = json.loads((project.state / "runs" / row.run / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "aborted" and Path(record["output"]).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes of POSIX")
def test_a_killed_run_leaves_an_open_bracket_and_no_kernel(project):
    process, kernel = begun(project, "wait")
    process.kill()
    process.wait(30)
    process.stderr.close()
    gone, alive = psutil.wait_procs([kernel], timeout=60)
    assert gone and not alive, "a kernel whose run is gone ends itself"
    assert [r.status for r in jobs.history("wait").runs] == ["running"], "an open bracket: a finding of doctor"
    assert not told(project, "job.completed", "job.failed", "job.aborted")


def test_a_dead_kernel_is_one_line(project, cli):
    made("dies", "x = 1", "import os\nos._exit(3)")
    a = cli("job", "run", "dies", "--json")
    assert a.exit == 1 and "cell 1 failed: the kernel died" in a.json["error"]["message"], a


@pytest.fixture
def installed(tmp_path):
    "An environment in which the package's entry points are found, also where it is not installed"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not any(e.name == "mlops" for e in importlib.metadata.entry_points(group="papermill.engine")):
        info = tmp_path / "site/mlops_nb-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlops-nb\nVersion: 0\n", encoding="utf-8")
        points = (
            "[papermill.engine]\nmlops = mlops_nb.job.runs.papermill_plugin:MlopsEngine\n[nbconvert.exporters]\n"
            "mlops-job = mlops_nb.job.conversion.nbconvert_plugin:MlopsJobExporter\n"
        )
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        env["PYTHONPATH"] += os.pathsep + str(info.parent)
    return env


def test_nbconvert_makes_a_job_that_papermill_runs_with_our_engine(project, installed):
    Path("plain.ipynb").write_text(
        json.dumps(nb("%matplotlib inline\nk = 2", "k", "print('k is', k)")), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "mlops-job", "plain.ipynb"],
        env=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made_ = json.loads(Path("plain.job.ipynb").read_text(encoding="utf-8"))
    assert made_["metadata"]["mlops"]["job"]["parameters"] == [{"name": "k", "type": "int", "default": 2, "cell": 0}]
    assert json.loads(Path("plain.ipynb").read_text(encoding="utf-8"))["cells"][0]["source"].startswith(
        "%matplotlib"
    ), "the notebook stays as it is"
    Path("broken.ipynb").write_text(json.dumps(nb("open('ran', 'w').close()", "x = (1,")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "mlops-job", "broken.ipynb"],
        env=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and not Path("ran").exists(), done.stderr
    assert "nbconvert --to mlops-job: cell 1 is no valid Python: '(' was never closed (line 1)" in done.stderr
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--engine",
        "mlops",
        "--no-progress-bar",
        "plain.job.ipynb",
        "out.ipynb",
        "-p",
        "k",
        "5",
    ]
    done = subprocess.run(command, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = [c for c in json.loads(Path("out.ipynb").read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert texts("out.ipynb") == "k is 5\n" and all(c["metadata"]["mlops"]["seconds"] > 0 for c in cells)


def test_history_names_what_it_cannot_read(project):
    log = ledger.of(project)
    log.append("job.started", "score", {"run": "score-1", "bracket": "a"})
    log.append("job.completed", "score", {"run": "score-1", "bracket": "a", "seconds": "many"})
    log.append("job.completed", "other", {"run": ["other-1"]})
    with pytest.raises(NotFound):
        jobs.history("score")
    (project.root / "jobs/score").mkdir(parents=True)
    (project.root / "jobs/score/job.toml").write_text('[job]\nname = "score"\n', encoding="utf-8")
    found = jobs.history("score")
    assert [(run.run, run.status) for run in found.runs] == [("score-1", "running")]
    assert [(entry.seq, entry.type) for entry in found.unread] == [(1, "job.completed")]
    assert "seconds" in str(found.panel()) and len(jobs.history().unread) == 2
