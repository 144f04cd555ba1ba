"""A project that is moved, copied or cloned: its data, runs and models are there, or one line says what is missing"""

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from mlops_nb import data
from mlops_nb.core import ledger
from mlops_nb.core import project as projects
from mlops_nb.core.errors import MlopsError, NotFound
from mlops_nb.data import dvc_bytes
from mlops_nb.model import mlflow_registry

ROWS = pd.DataFrame({"x": [1.0, 2.0]})


def git(*words: object) -> None:
    subprocess.run(["git", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def committed(project, cli, monkeypatch):
    "A project with data, in git"
    assert cli("init", ".").exit == 0
    data.add(ROWS, "flights")
    git("add", ".")
    git("commit", "-qm", "data")
    ledger.of(project).close()
    return project


def at(root: Path) -> projects.Project:
    return projects.find(root)


def is_there(root: Path) -> bool:
    return data.read("flights", at(root))["x"].to_pylist() == [1.0, 2.0]


def test_nothing_in_git_names_the_folder(committed):
    listed = subprocess.run(["git", "grep", "-l", str(committed.root)], capture_output=True, text=True, check=False)
    assert listed.stdout == ""


def test_a_moved_project_pushes_into_itself(committed, tmp_path, monkeypatch):
    config = committed.root / ".dvc" / "config"  # as version 0.1 wrote it
    config.write_text(
        config.read_text(encoding="utf-8").replace("../.mlops", f"{committed.root}/.mlops"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    os.rename(committed.root, tmp_path / "moved")
    with projects.use(at(tmp_path / "moved")):
        shutil.rmtree("moved/.mlops/dvc-remote")
        assert data.push().done[0]["state"] == "pushed" and data.pull().done[0]["state"] == "there"
        assert data.add(ROWS.assign(x=0.0), "flights").version == 2
        ledger.of(projects.current()).close()
    assert list(Path("moved/.mlops/dvc-remote").rglob("*")) and not committed.root.exists()
    assert str(committed.root) not in Path("moved/.dvc/config").read_text(encoding="utf-8")


def test_a_copy_a_clone_and_a_work_tree_have_the_data(committed, tmp_path):
    shutil.copytree(committed.root, tmp_path / "copy")
    git("clone", "-q", committed.root, tmp_path / "clone")
    git("-C", committed.root, "worktree", "add", "-q", tmp_path / "tree")
    assert all(is_there(tmp_path / name) for name in ("copy", "clone", "tree"))
    shutil.rmtree(committed.root / "data")
    assert is_there(tmp_path / "copy") and is_there(tmp_path / "clone")


def test_a_clone_elsewhere_is_told_how_to_share(committed, tmp_path, cli, monkeypatch):
    git("clone", "-q", f"file://{committed.root}", tmp_path / "clone")
    git("-C", tmp_path / "clone", "remote", "set-url", "origin", "https://example.org/flights.git")
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(NotFound, match="share them from there with: mlops data share URL"):
        data.read("flights")
    said = cli("data", "pull")
    assert said.exit == 4 and "mlops data share URL" in said.err
    monkeypatch.chdir(committed.root)
    assert "only on this machine" in cli("data", "show", "flights").out
    assert any("only on this machine" in note for note in cli("status", "--json").json["remarks"])
    assert "only on this machine" in cli("doctor").out
    assert cli("data", "share", tmp_path / "shared").exit == 0
    git("add", ".")
    git("commit", "-qm", "share")
    assert "only on this machine" not in cli("status").out + cli("doctor").out
    ledger.of(committed).close()
    git("-C", tmp_path / "clone", "pull", "-q", committed.root)
    monkeypatch.chdir(tmp_path / "clone")
    assert cli("data", "pull").exit == 0 and is_there(tmp_path / "clone")
    assert cli("data", "share", "inside").exit == 2


def test_a_remote_that_is_gone_is_not_made(committed, tmp_path, cli):
    data.share(str(tmp_path))
    config = committed.root / ".dvc" / "config"
    gone = tmp_path / "mount" / "store"
    config.write_text(
        config.read_text(encoding="utf-8").replace(f"url = {tmp_path}", f"url = {gone}"), encoding="utf-8"
    )
    said = cli("data", "push")
    assert said.exit == 4 and "is not there" in said.err and not gone.parent.exists()


def test_an_adopted_mlflow_moves_along(home, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "old"
    root.mkdir()
    shutil.copyfile(mlflow_registry._template(), root / "mlflow.db")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db", f"sqlite:///{root}/mlflow.db")
    run = client.create_run(client.create_experiment("e", artifact_location=f"{root}/mlruns/1")).info.run_id
    (root / "note.txt").write_text("kept", encoding="utf-8")
    client.log_artifact(run, str(root / "note.txt"))
    client.create_registered_model("clf")
    client.create_model_version("clf", f"{root}/mlruns/1/{run}/artifacts", run)
    assert cli("init", root).exit == 0
    assert 'mlflow = "sqlite:///mlflow.db"' in (root / "mlops.toml").read_text(encoding="utf-8")
    ledger.of(at(root)).close()
    os.rename(root, tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert [r["run"] for r in cli("run", "list", "--json").json["runs"]] == [run]
    (model,) = cli("model", "list", "--json").json["models"]
    assert (model["name"], model["version"], model["state"]) == ("clf", 1, "in MLflow")
    with sqlite3.connect("mlflow.db") as db:
        assert str(root) not in str(db.execute("SELECT artifact_uri FROM runs").fetchall())
    db.close()
    found = mlflow_registry.fetch_uri(projects.current(), f"runs:/{run}/note.txt")
    assert found.read_text(encoding="utf-8") == "kept" and not root.exists()
    ledger.of(projects.current()).close()
    Path("mlflow.db").unlink()
    said = cli("run", "list")
    assert said.exit == 4 and "is not here" in said.err and not Path("mlflow.db").exists()


def test_a_setting_of_before_the_move_is_followed(home, tmp_path):
    (tmp_path / "b").mkdir()
    project = projects.create(tmp_path / "b")
    (project.root / "mlflow.db").write_bytes(b"")
    project.pin("stores", "mlflow", f"sqlite:///{tmp_path}/a/mlflow.db")
    assert project.mlflow_uri == f"sqlite:///{project.root}/mlflow.db"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mlflow.db").write_bytes(b"")
    assert project.mlflow_uri == f"sqlite:///{tmp_path}/a/mlflow.db", "somebody else's store, which is there"
    projects.create(tmp_path / "a")
    assert project.mlflow_uri == f"sqlite:///{project.root}/mlflow.db", "this project is a copy of that one"


def test_what_is_quiet_is_quiet_everywhere(project, cli, monkeypatch):
    "`status`, `doctor` and the site agree about alarms and refusals"
    monkeypatch.setattr("mlops_nb.core.contributions.checks", lambda project: [])  # of this machine and its git
    from mlops_nb.model.events import GateFailed, GateValue, ModelPromoted
    from mlops_nb.monitor.events import DriftChecked

    def said() -> tuple[list[str], bool]:
        status = cli("status", "--json").json
        told = {c["name"] for c in cli("doctor", "--json").json["checks"]}
        cli("site", "build", "--out", "site")
        page = (project.root / "site" / "index.html").read_text(encoding="utf-8")
        quiet = "ALL QUIET" in cli("status").out
        assert quiet == ("status" not in told) == ("needs attention" not in page)
        return [alert["kind"] for alert in status["alerts"]], quiet

    assert said() == ([], True)
    ledger.record(project, DriftChecked(reference="winter", alarm=True, drifted=["delay"]), subject="summer")
    gates = [GateValue("test.roc_auc >= 0.7", 0.5, False)]
    ledger.record(project, GateFailed(alias="champion", gates=gates), subject="clf@2")
    assert said() == (["refused", "drift"], False)
    ledger.record(project, DriftChecked(reference="winter", alarm=False), subject="summer")
    ledger.record(project, ModelPromoted(alias="champion"), subject="clf@3")
    assert said() == ([], True)


def test_damaged_settings_of_dvc_take_nothing_down(project, cli):
    data.add(ROWS, "flights")
    (project.root / ".dvc" / "config").write_text("[core\n", encoding="utf-8")
    assert cli("status").exit == 0 and cli("doctor").exit == 1
    with pytest.raises(MlopsError, match="cannot be read"):
        dvc_bytes.remote_of(project)
