"""The golden path in a network namespace with nothing but loopback: nothing needs more, and nothing tries.

Every Python process of the path, kernels and background children included, tells of each address that it wants to reach."""

import json
import os
import sys

import pytest
from helpers.namespaces import alone, may_unshare, watched
from helpers.places import ROOT
from helpers.verb_runs import ADD, NOTEBOOK


def test_the_namespace_is_closed(tmp_path):
    "What the next test stands on: nothing gets out, and a try is told"
    if why := may_unshare():
        pytest.skip(why)
    env = watched(dict(os.environ), tmp_path / "watch")
    code = (
        "import socket, subprocess, sys; subprocess.run([sys.executable, '-c', \"import socket; "
        "socket.create_connection(('192.0.2.1', 80), 3)\"])"
    )
    alone([sys.executable, "-c", code], tmp_path, env)
    assert "192.0.2.1" in (tmp_path / "watch" / "seen").read_text()
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 3); print('in')"
    assert alone([sys.executable, "-c", code], tmp_path, env).stdout == "in\n"


TRAIN = """
import joblib, pandas as pd
from sklearn.linear_model import LogisticRegression
d = pd.read_csv('d.csv')
d.assign(late=d.x % 2)[['x', 'late']].to_parquet('rows.parquet')
joblib.dump(LogisticRegression().fit(d[['x']].astype(float), d.x % 2), 'clf.joblib')
d[['x']].astype(float).to_parquet('example.parquet')
d.assign(t=pd.to_datetime(d.t, utc=True) + pd.Timedelta('1h'))[['k', 't']].to_parquet('asks.parquet')
"""
PATH = [
    ["data", "add", "d.csv", "d"],
    ADD,
    ["feature", "join", "size", "--entities", "asks.parquet", "--time", "t", "--out", "train.parquet"],
    ["feature", "materialize", "size"],
    ["model", "log", "clf.joblib", "delay", "--example", "example.parquet", "--pickle"],
    ["model", "promote", "delay@1", "--to", "champion"],
    ["job", "convert", "n.ipynb", "score"],
    ["job", "run", "score"],
    ["monitor", "drift", "d.csv", "d.csv"],
    ["cost", "show"],
    ["comply", "status"],
    ["audit", "checkpoint"],
    ["audit", "verify"],
    ["site", "build"],
    ["data", "push"],
]


def allowed(words: list[str]) -> set[int]:
    "Exit codes; the doctor may find something"
    return {0, 1} if words == ["doctor"] else {0}


def test_the_golden_path_needs_no_network(home, tmp_path):
    if why := may_unshare():
        pytest.skip(why)
    work, watch = tmp_path / "work", tmp_path / "watch"
    work.mkdir()
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS", "CI")
    }
    env = watched(env, watch)
    (work / "d.csv").write_text(
        "k,t,x\n" + "\n".join(f"{n % 5},2013-01-{n % 28 + 1:02} 00:00:00,{n}" for n in range(60)) + "\n"
    )
    (work / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    assert alone([sys.executable, "-c", TRAIN], work, env).returncode == 0

    def each_alone(*commands: list[str]) -> None:
        for words in commands:
            done = alone([sys.executable, "-m", "mlops_nb", *words], work, env)
            assert done.returncode in allowed(words), (words, done.stdout[-800:], done.stderr[-800:])

    each_alone(["init", "."])
    done = alone([sys.executable, str(ROOT / "tests/helpers/verb_runs.py")], work, env, told=json.dumps(PATH))
    assert done.returncode == 0, done.stderr[-800:]
    for words, (code, out, err) in zip(PATH, json.loads(done.stdout), strict=True):
        assert code in allowed(words), (words, out[-800:], err[-800:])
    each_alone(["job", "run", "score"], ["status"], ["doctor"])
    assert not (watch / "seen").exists(), (watch / "seen").read_text()
    processes = (watch / "seen.processes").read_text()
    assert "fork_server.py" in processes and " forked " in processes, (
        "the server of runs and its children were watched too"
    )
