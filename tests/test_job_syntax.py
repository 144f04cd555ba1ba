"""A cell that somebody broke costs nothing: every door to a run refuses it before the cells above it are executed."""

import json
import subprocess
from pathlib import Path

import pytest

from mlops_nb import job as jobs
from mlops_nb.core import ledger, warm
from mlops_nb.core.errors import BadInput, Finding
from mlops_nb.job.notebook import notebook_ast
from mlops_nb.job.notebook import cell_syntax
from mlops_nb.job.schedules import daemon, schedule_definition
from mlops_nb.job.schedules.facts import Schedule
from mlops_nb.job.schedules.schedule_store import Store
from helpers.clock import Clock, H
from helpers.job_runs import SAME, made, nb

CORPUS = Path(__file__).parent / "corpus"
COUNTS = "with open('ran.txt', 'a') as f: f.write(f'{n}')"
GOOD = ["n = 1", *[f"n += 1\n{COUNTS}"] * 6]


def broken(*sources, name="count"):
    "A job whose notebook was edited after it was made"
    made(name, f"%%mlops params\n{GOOD[0]}", *GOOD[1:])
    Path(f"jobs/{name}/{name}.ipynb").write_text(json.dumps(nb(*GOOD, *sources)), encoding="utf-8")


def untouched(project):
    return (
        not Path("ran.txt").exists()
        and not list((project.state / "runs").glob("*"))
        and not list(ledger.of(project).events(["job.started"]))
    )


@pytest.mark.parametrize(
    "words",
    [["run", "count"], ["run", "count", "--isolated"], ["run", "count", "--dry-run"], ["run", "count", "--on", "ray"]]
    + [
        ["run", "count", "--on", "k8s", "--dry-run"],
        ["backfill", "count", "--over", "n=1..3"],
        ["ship", "count", "--to", "docker", "--out", "b"],
    ],
)
def test_nothing_is_executed(project, cli, monkeypatch, words):
    broken("print(n)\nx = (1,")
    monkeypatch.setattr(subprocess, "Popen", None)
    a = cli("job", *words)
    assert a.exit == 2 and len(a.err.strip().split("\n")) == 1, a
    assert (
        "cell 7 of jobs/count/count.ipynb is no valid Python: '(' was never closed (line 2: `x = (1,`); nothing was run"
        in a.err
    )
    assert untouched(project)


def test_steps_side_by_side_are_refused_too(project, cli):
    cells = ["n = 1", f"%%mlops step a\na = n\n{COUNTS}", f"%%mlops step b\nb = n\n{COUNTS}"]
    made("count", *cells)
    at = Path("jobs/count/count.ipynb")
    at.write_text(at.read_text(encoding="utf-8").replace("b = n", "b = = n"), encoding="utf-8")
    a = cli("job", "run", "count", "--parallel", "2")
    assert a.exit == 2 and "`b = = n`" in a.err and untouched(project), a


def test_what_is_meant_to_fail_or_is_no_python_runs(project):
    broken("def f(:", "%%bash\nif true; then echo yes; fi", "%time n\nlen?", "!echo $((1+1)", "raise ValueError(1)")
    at = Path("jobs/count/count.ipynb")
    raw = json.loads(at.read_text(encoding="utf-8"))
    raw["cells"][7]["metadata"]["tags"] = raw["cells"][11]["metadata"]["tags"] = ["raises-exception"]
    at.write_text(json.dumps(raw), encoding="utf-8")
    assert jobs.run("count").ok and Path("ran.txt").read_text(encoding="utf-8") == "234567"


@pytest.mark.skipif(not warm.supported(), reason="no fork server on this system")
def test_a_mended_run_that_was_broken_elsewhere_can_still_be_resumed(project, cli):
    broken("1/0", "print(n)")
    with pytest.raises(Finding) as e:
        jobs.run("count")
    run, at = e.value.result.run, Path("jobs/count/count.ipynb")
    at.write_text(at.read_text(encoding="utf-8").replace("1/0", "1/1").replace("print(n)", "print(n"), encoding="utf-8")
    a = cli("job", "run", "count", "--resume", run)
    assert a.exit == 2 and "cell 8 of" in a.err and Path("ran.txt").read_text(encoding="utf-8") == "234567", a
    at.write_text(at.read_text(encoding="utf-8").replace("print(n", "print(n)"), encoding="utf-8")
    r = jobs.run("count", resume=run)
    assert r.ok and Path("ran.txt").read_text(encoding="utf-8") == "234567" and sum(c.cached for c in r.cells) == 7


def test_the_scheduler_says_it_once_and_does_not_try_again(project):
    broken("x = = 1")
    clock = Clock()
    schedule_definition.write(project, Schedule(job="count", cron="0 * * * *", retries=3))
    store = Store(project, clock=clock)
    d = daemon.Daemon(project, store)
    d.tick()
    clock.t += H
    d.loop(once=True)
    (f,) = store.fires()
    store.close()
    assert (
        (f.status, f.attempt) == ("failed", 1)
        and "cell 7 of jobs/count/count.ipynb" in f.message
        and untouched(project)
    )


def test_no_honest_cell_is_refused():
    cell_syntax.check(nb(*SAME))
    for f in sorted(CORPUS.glob("*.ipynb")):
        cell_syntax.check(notebook_ast.load(f), f.name)


def test_another_python_or_profile_decides_for_itself(project, home):
    broken("x = = 1")
    at = Path("jobs/count/job.toml")
    job = at.read_text(encoding="utf-8")
    at.write_text(job.replace('kernel = "python3"', 'kernel = "sage"'), encoding="utf-8")
    jobs.run("count", dry_run=True)
    at.write_text(job, encoding="utf-8")
    with pytest.raises(BadInput):
        jobs.run("count", dry_run=True)
    startup = home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("", encoding="utf-8")
    jobs.run("count", dry_run=True)
