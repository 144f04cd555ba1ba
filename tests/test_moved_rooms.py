"""Places of modules that something stored, or something that still runs, knows from the release before.

Each stays for one release, imports the new place and nothing else, and does as a module what it did."""

import importlib
import importlib.metadata
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import mlflow  # noqa: F401 - these load plug-ins of ours, which cannot be imported before their tools
import papermill  # noqa: F401
import pytest

from mlops_nb.core import secret_refs, warm

ROOT = Path(__file__).resolve().parents[1]
MOVED = {  # place of version 0.1 -> where it is now, a name in it, and who knows it
    "mlops_nb.job.secret_refs": ("mlops_nb.core.secret_refs", "value", "executed notebooks"),
    "mlops_nb.job.namespace": ("mlops_nb.job.runs.pickles", "_view", "checkpoints"),
    "mlops_nb.job.unattended": ("mlops_nb.job.schedules.unattended", "main", "schedulers that run"),
    "mlops_nb.job.papermill_runner": ("mlops_nb.job.runs.papermill_runner", "main", "runs that begin"),
    "mlops_nb.job.fork_server": ("mlops_nb.job.runs.fork_server", "main", "commands that begin"),
    "mlops_nb.job.papermill_plugin": ("mlops_nb.job.runs.papermill_plugin", "MlopsEngine", "entry points"),
    "mlops_nb.job.nbconvert_plugin": ("mlops_nb.job.conversion.nbconvert_plugin", "MlopsJobExporter", "entry points"),
    "mlops_nb.monitor.profile_sketch": ("mlops_nb.data.profile_sketch", "profile_of", "executed notebooks"),
}
PICKLED = {  # class of version 0.1, as a checkpoint or a cell's cache names it -> where it is now
    "mlops_nb.monitor.facts:Profile": "mlops_nb.data.facts:Profile",
    "mlops_nb.monitor.facts:ColumnProfile": "mlops_nb.data.facts:ColumnProfile",
}
STAY = {  # places that are stored and have not moved
    "mlops_nb.feature.feast_plugin": ("PitOfflineStore", "feature_store.yaml"),
    "mlops_nb.model.mlflow_plugin": ("MlopsRunContext", "entry points"),
}


@pytest.mark.parametrize("place", MOVED)
def test_an_old_place_leads_to_the_new_one(place):
    now, name, _ = MOVED[place]
    assert getattr(importlib.import_module(place), name) is getattr(importlib.import_module(now), name)


@pytest.mark.parametrize("place", MOVED)
def test_an_old_place_defines_nothing(place):
    path = ROOT.joinpath(*place.split(".")).with_suffix(".py")
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("def ", "class "))]
    assert kept == []


@pytest.mark.parametrize("place", PICKLED)
def test_a_class_is_found_where_a_pickle_of_the_version_before_looks(place):
    module, _, name = place.partition(":")
    assert pickle.loads(f"c{module}\n{name}\n.".encode()) is pkgutil.resolve_name(PICKLED[place])


def test_names_of_the_version_before_stay_on_the_face():
    from mlops_nb import data, monitor

    assert (monitor.profile_of, monitor.merge) == (data.profile_of, data.merge_profiles)
    assert (monitor.Profile, monitor.ColumnProfile) == (data.Profile, data.ColumnProfile)


@pytest.mark.parametrize("place", STAY)
def test_what_is_stored_elsewhere_has_not_moved(place):
    assert getattr(importlib.import_module(place), STAY[place][0])


def started(place: str, *words: str, **more) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", place, *words], env=env, **more)


def test_a_scheduler_of_the_version_before_gets_its_worker(project):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with started("mlops_nb.job.unattended", cwd=project.root, **pipes) as child:
        print(json.dumps({"job": "missing", "params": {}, "cause": {"fire": "x"}}), file=child.stdin, flush=True)
        answer = json.loads(child.stdout.readline())
        child.stdin.close()
    assert answer["status"] == "failed" and "no job `missing`" in answer["message"]


def test_an_executed_notebook_of_the_version_before_runs_in_a_kernel_that_it_starts(project, tmp_path, monkeypatch):
    "The child of `job run --isolated` as version 0.1 starts it, on a notebook in which version 0.1 put a secret"
    monkeypatch.setenv("TEAM_TOKEN", "correct horse")
    asks = secret_refs.as_code("secret:env:TEAM_TOKEN").replace("mlops_nb.core.", "mlops_nb.job.")
    assert asks.startswith('__import__("mlops_nb.job.secret_refs", fromlist=["value"]).value(')
    source = f"token = {asks}\nprint(len(token))"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    plan = {"input": "in.ipynb", "output": "out.ipynb", "cwd": str(tmp_path), "kernel": "python3"}
    plan |= {"parameters": {}, "timeout_s": 0}
    (tmp_path / "in.ipynb").write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": spec, "cells": [cell]}), encoding="utf-8"
    )
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with started("mlops_nb.job.papermill_runner", str(tmp_path), cwd=tmp_path, **pipes) as child:
        told = [json.loads(line) for line in child.stdout]
    assert told[-1] == {"done": "completed"}, told
    assert '"13\\n"' in (tmp_path / "out.ipynb").read_text(encoding="utf-8")


@pytest.mark.skipif(not warm.supported(), reason="needs fork and sockets that say who calls")
def test_a_command_of_the_version_before_gets_its_warm_server(tmp_path):
    ready, theirs = os.pipe()
    with open(tmp_path / "lock", "wb") as lock:
        fds = (theirs, lock.fileno())
        with started("mlops_nb.job.fork_server", str(tmp_path / "s"), *map(str, fds), pass_fds=fds) as child:
            os.close(theirs)
            assert os.read(ready, 1) == b"+"
            os.close(ready)
            connection = warm.connect(str(tmp_path / "s"))
            assert connection is not None
            connection.close()
            child.terminate()


@pytest.mark.parametrize(
    "group, point",
    [
        ("papermill.engine", "mlops = mlops_nb.job.papermill_plugin:MlopsEngine"),
        ("nbconvert.exporters", "mlops-job = mlops_nb.job.nbconvert_plugin:MlopsJobExporter"),
    ],
)
def test_entry_points_of_the_version_before(group, point):
    name, _, value = point.partition(" = ")
    assert importlib.metadata.EntryPoint(name, value, group).load().__name__ == value.partition(":")[2]
