"""`model log` and `model promote`, killed with SIGKILL between any two of their statements: the old state or the new one."""

import json
import os

import pytest
from helpers.counts import FULL, count
from helpers.fresh_process import run_code

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")

DRIVER = r"""
import contextlib, importlib, json, os, signal, sys, threading
import numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
import mlflow.sklearn, skl2onnx, onnxruntime, pyarrow.parquet
import mlops_nb
from mlops_nb import model
from mlops_nb.core import ledger, project
from mlops_nb.model import health, mlflow_registration, mlflow_registry, views

act, trials = sys.argv[1], int(sys.argv[2])
WATCHED = ("mlops_nb/model/mlflow_registration.py", "mlops_nb/model/mlflow_registry.py",
    "mlops_nb/model/conversion_limit.py",
    "mlops_nb/model/mlflow_aliases.py", "mlops_nb/model/mlflow_packaging.py", "mlops_nb/model/manifest.py",
    "mlops_nb/core/ledger.py")
X = pd.DataFrame({"temp": np.arange(60.0)})
clf = LogisticRegression().fit(X, X.temp > 30)

def do():
    if act == "log": model.log(clf, "delay", example=X, wait=True)
    else:
        now = mlflow_registry.aliases(project.current(), "delay").get("champion")
        model.promote(f"delay@{2 if now == 1 else 1}", to="champion", reason="turn")

def killed_at(point):
    "Count the lines of our modules; at `point`, die"
    seen = 0
    def line(frame, event, arg):
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == point: os.kill(os.getpid(), signal.SIGKILL)
        return line
    traced = lambda frame, event, arg: line if frame.f_code.co_filename.endswith(WATCHED) else None
    threading.settrace(traced)  # ONNX is made in a thread
    sys.settrace(traced)
    try: do()
    finally: sys.settrace(None); threading.settrace(None)
    return seen

def apart(f, *args):
    "Run in a forked child; (how it ended, what it returned)"
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try: os.write(w, json.dumps(f(*args)).encode()); os._exit(0)
        except BaseException as e: os.write(2, repr(e).encode()); os._exit(1)
    os.close(w)
    with os.fdopen(r) as f: said = f.read()
    return os.waitpid(pid, 0)[1], json.loads(said) if said else None

def state():
    p = project.current()
    have = [v.version for v in views.versions(ledger.of(p).events(views.TYPES), "delay")]
    history = model.history("delay").serving if have else {}
    staging, first = mlflow_registration.staging(p), health.checks(p)[0]
    return {"versions": have, "mlflow": [int(v.version) for v in mlflow_registry.versions(p, "delay")],
        "aliases": mlflow_registry.aliases(p, "delay"), "serving": history,
        "open": len(views.pending(ledger.of(p).events(views.TYPES))) + len(views.promoting(ledger.of(p).events(views.OPENS))),
        "staging": [x.name for x in staging.iterdir()] if staging.is_dir() else [],
        "healthy": first.ok, "said": first.detail}

def mended(): return {"done": model.mend().done, **state()}

def prepare():
    if act == "promote":
        for _ in range(2): model.log(clf, "delay", example=X, wait=True)
        model.promote("delay@1", to="champion")
    return 0

def rehearse():
    lines = killed_at(-1)
    mended()
    return lines, sorted(sys.modules)

assert apart(prepare)[0] == 0
lines, names = apart(rehearse)[1]
for name in names:  # once here instead of in every child
    with contextlib.suppress(Exception): importlib.import_module(name)
out = []
for i in range(trials):
    before = apart(state)[1]
    ended, _ = apart(killed_at, max(1, int((i + .5) / trials * lines)))
    after = apart(state)[1]
    out.append({"killed": os.WIFSIGNALED(ended), "before": before, "after": after, "mended": apart(mended)[1]})
print(json.dumps({"lines": lines, "trials": out}))
"""


@pytest.mark.parametrize("act", ["log", "promote"])
def test_a_kill_leaves_the_old_state_or_the_new_one(act, project, model_cache):
    n = count(4, 20)
    done = run_code(DRIVER, act, str(n), timeout=1800 if FULL else 550)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert sum(t["killed"] for t in said["trials"]) >= n - 1, "a trial whose process was not killed shows nothing"
    for t in said["trials"]:
        before, after, mended = t["before"], t["after"], t["mended"]
        assert before and after and mended, done.stderr[-2000:]
        new = [*before["versions"], max([0, *before["mlflow"], *before["versions"]]) + 1]
        if act == "log":
            assert after["versions"] in (before["versions"], new), "readers see the old versions or the new one"
            assert mended["versions"] in (before["versions"], new)
            assert mended["mlflow"] == mended["versions"], "MLflow and the ledger hold the same versions"
        else:
            assert after["aliases"]["champion"] in (1, 2)
            assert mended["aliases"] == mended["serving"], "MLflow and the ledger agree where the alias is"
        assert after["healthy"] == (after["open"] == 0 and after["staging"] == []), "doctor sees exactly what is left"
        if not after["healthy"]:
            would = f" would be {mended['done'][0]['state']}: "
            assert would in after["said"], "doctor says which of the two states it will be, and mend makes it so"
        assert (mended["open"], mended["staging"], mended["healthy"]) == (0, [], True)
