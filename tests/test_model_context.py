"""Plain MLflow code inside a project is tagged; promotion policy of mlops.toml; aliases moved behind our back are found."""

import json
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_nb import model
from mlops_nb.core import ledger

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
    ledger.record(project, "feature.joined", "weather@1", {"definitions": {"weather@1": "ab"}}, digest="cd" * 32)
    ledger.record(project, "job.started", "score", {"run": "score-1"})
    model.log(LogisticRegression().fit(X, X.temp > 30), "delay", example=X, wait=True)  # makes the store
    env = {**os.environ, "MLOPS_PARENT_RUN": "score-1"}
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=False, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    tags = json.loads(done.stdout.splitlines()[-1])
    assert tags["mlflow.source.name"] == "jobs/score/score.ipynb"
    assert tags["mlops.job_run"] == "score-1"
    assert (tags["mlops.training_set"], tags["mlops.views"]) == ("cd" * 32, "weather@1")
    assert (len(tags["mlflow.source.git.commit"]), tags["mlops.git.dirty"], len(tags["mlops.git.diff"])) == (40, "true", 64)
    assert len(tags["mlops.environment"]) == 32
    assert float(tags["mlops.usd_per_h"]) > 0


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
    ledger.record(delay, "monitor.drift_checked", "summer", {"alarm": True, "drifted": ["temp"], "columns": 2})
    cli("model", "gate", "delay", "--add", "drift.share < 20%", "--add", "parity.max_abs < 0.001", "--add", "latency.p95_us < 1s")
    answer = cli("model", "promote", "delay@2", "--to", "champion", "--json")
    assert answer.exit == 1
    assert [(g["ok"], g["value"] is None) for g in answer.json["gates"]] == [(False, False), (True, False), (True, False)]
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
