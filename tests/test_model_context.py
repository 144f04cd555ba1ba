"""Plain MLflow code inside a project is tagged; promotion policy of mlops.toml; aliases moved behind our back are found."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.fresh_process import run_code
from sklearn.linear_model import LogisticRegression

from mlops_nb import job as jobs
from mlops_nb import model
from mlops_nb.core import ledger
from mlops_nb.feature.events import FeatureJoined
from mlops_nb.job.events import JobStarted
from mlops_nb.monitor.events import DriftChecked
from helpers.job_runs import nb

X = pd.DataFrame({"temp": np.arange(60.0)})
PLAIN = """
import json, mlflow
mlflow.set_tracking_uri("sqlite:///.mlops/mlflow.db")
with mlflow.start_run() as run: mlflow.log_metric("auc", .7)
print(json.dumps(mlflow.get_run(run.info.run_id).data.tags))
"""


@pytest.fixture
def delay(project, model_cache):
    "Two versions; the first is champion"
    for c in (1.0, 0.1):
        model.log(LogisticRegression(C=c).fit(X, X.temp > 30), "delay", example=X, wait=True)
    return project


def git(*words):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


@pytest.mark.skipif(
    not [e for e in metadata.entry_points(group="mlflow.run_context_provider") if e.name == "mlops"],
    reason="the package is not installed",
)
def test_plain_mlflow_code_is_tagged_also_in_a_job(project, model_cache):
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    (project.root / "mlops.toml").write_text('[project]\nname = "changed"\n')
    joined = FeatureJoined(definitions={"weather@1": "ab"})
    ledger.record(project, joined, subject="weather@1", digest="cd" * 32)
    ledger.record(project, JobStarted(run="score-1"), subject="score")
    model.log(LogisticRegression().fit(X, X.temp > 30), "delay", example=X, wait=True)  # makes the store
    env = {**os.environ, "MLOPS_PARENT_RUN": "score-1"}
    done = run_code(PLAIN, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    tags = json.loads(done.stdout.splitlines()[-1])
    assert tags["mlflow.source.name"] == "jobs/score/score.ipynb"
    assert tags["mlops.job_run"] == "score-1"
    assert (tags["mlops.training_set"], tags["mlops.views"]) == ("cd" * 32, "weather@1")
    assert (len(tags["mlflow.source.git.commit"]), tags["mlops.git.dirty"], len(tags["mlops.git.diff"])) == (
        40,
        "true",
        64,
    )
    assert len(tags["mlops.environment"]) == 32
    assert float(tags["mlops.usd_per_h"]) > 0


TRACKED = """import json, mlflow
mlflow.set_tracking_uri("sqlite:///.mlops/mlflow.db")
with mlflow.start_run() as run: mlflow.log_metric("auc", .7)
print("TAGS" + json.dumps(mlflow.get_run(run.info.run_id).data.tags))"""


def noted(project) -> list[str]:
    "A notebook of the project, committed, whose second cell is plain MLflow code; returns the commit"
    from mlops_nb.model import mlflow_registry

    mlflow_registry.client(project)  # makes the store
    Path("train.ipynb").write_text(json.dumps(nb("depth = 3", TRACKED)), encoding="utf-8")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def tags_in(executed) -> dict:
    "What MLflow was told, as the executed notebook printed it"
    cells = json.loads(Path(executed).read_text(encoding="utf-8"))["cells"]
    said = "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    return json.loads(next(x for x in said.splitlines() if x.startswith("TAGS"))[4:])


def test_papermill_with_our_engine_tags_notebook_cell_and_commit(project, model_cache):
    commit = noted(project)
    words = [sys.executable, "-m", "papermill", "--engine", "mlops", "--no-progress-bar", "train.ipynb", "out.ipynb"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    tags = tags_in("out.ipynb")
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("train.ipynb", "NOTEBOOK")
    assert (tags["mlops.notebook"], tags["mlops.cell"], tags["mlflow.source.git.commit"]) == (
        "train.ipynb",
        "2",
        commit,
    )


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=pytest.mark.prove)])
def test_a_job_tags_notebook_cell_commit_and_its_run(isolated, project, model_cache):
    commit = noted(project)
    jobs.convert(Path("train.ipynb"))
    done = jobs.run("train", isolated=isolated)
    tags = tags_in(done.output)
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("jobs/train/train.ipynb", "JOB")
    assert (tags["mlops.job_run"], tags["mlops.cell"], tags["mlflow.source.git.commit"]) == (done.run, "2", commit)


def test_runs_differ_by_code_data_environment_parameters_and_metrics(project, model_cache, cli):
    "Each section holds what was changed between two runs, and nothing else"
    import mlflow

    import mlops_nb
    from mlops_nb import data

    def run(depth):
        with mlops_nb.run("delay", param={"depth": depth}) as fact:
            mlflow.log_metric("test.auc", depth / 10)
        return fact.run

    def differing(a, b):
        d = cli("run", "diff", a, b, "--json").json
        return {
            k: {x["name"]: (x["a"], x["b"]) for x in d[k]} for k in ("code", "data", "environment", "params", "metrics")
        }

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    data.add(X, "weather")
    one, same = run(3), run(3)
    assert differing(one, same) == {"code": {}, "data": {}, "environment": {}, "params": {}, "metrics": {}}
    data.add(X + 1, "weather")
    Path("features.py").write_text("window = 7\n", encoding="utf-8")
    git("add", "-A")
    git("commit", "-qm", "second")
    two = run(5)
    from mlflow import MlflowClient

    MlflowClient(project.mlflow_uri).set_tag(two, "mlops.python", "3.99")
    found = differing(one, two)
    assert set(found["code"]) == {"mlflow.source.git.commit"}
    assert found["data"] == {"mlops.datasets": ("weather@1", "weather@2")}
    assert found["environment"]["mlops.python"][1] == "3.99"
    assert (found["params"], found["metrics"]) == ({"depth": ("3", "5")}, {"test.auc": (0.3, 0.5)})
    Path("features.py").write_text("window = 14\n", encoding="utf-8")
    changed = differing(two, run(5))["code"]
    assert changed["mlops.git.dirty"] == ("false", "true") and len(changed["mlops.git.diff"][1]) == 64
    text = cli("run", "diff", one, two).out
    assert all(word in text for word in ("code", "data", "environment", "parameter", "metric", "cost"))


def test_the_policy_asks_for_approvals_of_guarded_aliases_only(delay, cli, monkeypatch):
    with (delay.root / "mlops.toml").open("a") as f:
        f.write("\n[model]\napprovals = 2\n")
    assert cli("model", "promote", "delay@1", "--to", "challenger").exit == 0
    assert cli("model", "promote", "delay@1", "--to", "champion").exit == 3
    for who in ("ann", "ann", "bob"):
        assert cli("model", "promote", "delay@1", "--to", "champion").exit == 3
        monkeypatch.setenv("MLOPS_ACTOR", who)
        assert cli("model", "approve", "delay@1").exit == 0
    assert cli("model", "promote", "delay@1", "--to", "champion").exit == 0


def test_gates_ask_what_other_pillars_recorded(delay, cli):
    ledger.record(delay, DriftChecked(alarm=True, drifted=["temp"], columns=2), subject="summer")
    cli(
        "model",
        "gate",
        "delay",
        "--add",
        "drift.share < 20%",
        "--add",
        "parity.max_abs < 0.001",
        "--add",
        "latency.p95_us < 1s",
    )
    answer = cli("model", "promote", "delay@2", "--to", "champion", "--json")
    assert answer.exit == 1
    assert [(g["ok"], g["value"] is None) for g in answer.json["gates"]] == [
        (False, False),
        (True, False),
        (True, False),
    ]
    assert answer.json["gates"][0]["value"] == 0.5


def test_reconcile_finds_what_was_done_in_mlflow_alone(delay, cli):
    from mlflow import MlflowClient

    cli("model", "promote", "delay@1", "--to", "champion")
    assert cli("audit", "reconcile").exit == 0
    c = MlflowClient(delay.mlflow_uri, delay.mlflow_uri)
    c.set_registered_model_alias("delay", "champion", "2")
    c.create_registered_model("other")
    c.create_model_version("other", "file:nowhere")
    c.delete_model_version("delay", "1")
    answer = cli("audit", "reconcile", "--json")
    assert answer.exit == 1
    assert sorted((d["kind"], d["subject"]) for d in answer.json["differences"]) == [
        ("alias", "delay"),
        ("missing", "delay@1"),
        ("unrecorded", "other@1"),
    ]
    assert [e.type for e in ledger.of(delay).events("audit.*")] == ["audit.reconciled"] * 2
    (fix,) = [d["fix"] for d in answer.json["differences"] if d["kind"] == "alias"]
    assert cli(*fix.split()[1:]).exit == 0
    assert "alias" not in [d["kind"] for d in cli("audit", "reconcile", "--json").json["differences"]]


def test_a_model_gets_the_metrics_of_the_run_that_made_it_and_of_no_other(project, model_cache, tmp_path):
    "Made in the cell, in a function, taken from a search, wrapped; made afterwards it gets none, unless its run is named"
    cells = [
        "%load_ext mlops_nb",
        "import numpy as np, pandas as pd, mlflow, mlops_nb\nfrom sklearn.linear_model import LogisticRegression\n"
        "from sklearn.model_selection import GridSearchCV\nfrom sklearn.pipeline import make_pipeline",
        "X = pd.DataFrame({'temp': np.arange(60.0)}); y = X.temp > 30",
        "%%mlops run delay\nsearch = GridSearchCV(LogisticRegression(), {'C': [1]}, cv=2).fit(X, y)\nmlflow.log_metric('test.acc', 0.9)",
        "best = search.best_estimator_\nv = %mlops model log best delay --example X --dry-run",
        "from mlops_nb.core import project\nfrom mlops_nb.model.mlflow_tracking import trained_outside\np = project.current()",
        "other = LogisticRegression().fit(X, y)\nfound = [trained_outside(p, m) for m in (search, best, make_pipeline(best), other)]",
        (
            "def train():\n    with mlops_nb.run('delay'):\n        m = LogisticRegression().fit(X, y)\n"
            "        mlflow.log_metric('test.acc', 0.8)\n    return m"
        ),
        "late = train()\nfound += [trained_outside(p, m) for m in (late, LogisticRegression())]",
        "v = %mlops model log late delay --example X --wait\nagain = LogisticRegression().fit(X, y)",
        "w = %mlops model log again delay --example X --wait",
    ]
    code = f"""
from IPython.core.interactiveshell import InteractiveShell
import json
shell = InteractiveShell.instance()
for cell in {cells!r}: shell.run_cell(cell).raise_error()
n = shell.user_ns
print("FOUND " + json.dumps([n["found"], n["v"].metrics, n["w"].metrics, n["w"].said]))
"""
    done = run_code(code, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    found, mine, none, said = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("FOUND "))[6:])
    assert found == [False, False, False, True, False, True]
    assert (mine, none) == ({"test.acc": 0.8}, {})
    assert "--run" in said[0] and len(said) == 1
