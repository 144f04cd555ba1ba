"""The slow part of `model log` happens in a process of its own: it outlives the kernel, says its state, and fails cleanly."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from helpers.fresh_process import run_code

from mlops_nb import model
from mlops_nb.core import ledger

pytestmark = pytest.mark.skipif(os.name != "posix", reason="registrations run in the foreground on Windows")

TRAIN = """
import numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
from mlops_nb import model
X = pd.DataFrame({"temp": np.arange(60.0)})
clf = LogisticRegression().fit(X, X.temp > 30)
"""


def run(code: str, **env) -> str:
    done = run_code(TRAIN + code, env={**os.environ, **env}, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_outlives_the_kernel(project, model_cache, cli):
    said = json.loads(
        run("""
import json
v = model.log(clf, "delay", example=X, wait=False)
print(json.dumps({"state": v.state, "text": str(v)}))
""")
    )
    assert said["state"] == "registering"
    assert "REGISTERING" in said["text"]
    v = model.resolve("delay@1")  # waits for the process that the ended one left behind
    assert (v.version, v.state, v.onnx["rows"]) == (1, "registered", 60)
    assert [e.type for e in ledger.of(project).events("model.*")] == ["model.logging_started", "model.registered"]
    assert cli("model", "show", "delay@1", "--json").json["state"] == "registered"


def test_a_failure_is_visible(project, model_cache, cli):
    run('model.log(clf, "delay", example=X, tolerance=0, wait=False)')
    answer = cli("model", "promote", "delay@1", "--to", "champion")
    assert answer.exit == 2
    assert "ONNX differs" in answer.err
    assert cli("model", "show", "delay@1", "--json").json["state"] == "failed"
    (row,) = cli("model", "list", "--json").json["models"]
    assert (row["state"], row["versions"]) == ("failed", 0)
    assert [a["subject"] for a in cli("status", "--json").json["alerts"]] == ["delay@1"]
    checks = {c["name"]: c["ok"] for c in cli("doctor", "--json").json["checks"]}
    assert checks["brackets"] and checks["models"], "what has ended in a failure is nothing to fix"
    run('model.log(clf, "delay", example=X, wait=True)')
    assert cli("status", "--json").json["alerts"] == [], "it was registered since"


def test_what_a_dead_process_left_is_found_and_mended(project, model_cache, cli):
    run("""
import os, signal
from mlops_nb.model import mlflow_background
mlflow_background.leave = lambda *args: os._exit(0)
model.log(clf, "delay", example=X, wait=False)
""")
    assert cli("model", "show", "delay@1", "--json").json["message"] == "its process has ended: mlops model mend"
    checks = {c["name"]: c for c in cli("doctor", "--json").json["checks"]}
    assert (checks["models"]["ok"], checks["models"]["fix"]) == (False, "mlops model mend")
    assert cli("model", "mend", "--json").json["done"][0]["state"] == "failed"
    checks = {c["name"]: c for c in cli("doctor", "--json").json["checks"]}
    assert checks["models"]["ok"] is True


HANGS = """
import threading
from skl2onnx import update_registered_converter
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
class Hanging(LogisticRegression):
    "Its conversion never ends; it brings its converter along to another process"
    def __setstate__(self, state):
        super().__setstate__(state)
        teach()
def convert(scope, operator, container):
    try: threading.Event().wait()
    except Exception: threading.Event().wait()
def teach():
    shapes = calculate_linear_classifier_output_shapes
    options = {"zipmap": [False, True], "nocl": [False, True]}
    update_registered_converter(Hanging, "Hanging", shapes, convert, overwrite=True, options=options)
teach()
clf = Hanging().fit(X, X.temp > 30)
"""


@pytest.mark.parametrize("native", [False, True], ids=["", "native"])
@pytest.mark.parametrize("wait", [False, True], ids=["background", "wait"])
def test_a_converter_that_hangs_is_ended(wait, native, project, model_cache, cli):
    "An event that nobody sets; refused in one line, or registered without ONNX where that was said"
    with (project.root / "mlops.toml").open("a") as f:
        f.write("\n[model]\nconvert_s = 0.5\n")
    code = f"""
from mlops_nb.core.errors import MlopsError
try: print(model.log(clf, "delay", example=X, wait={wait}, native={native}, pickle={native}).state)
except MlopsError as e: print(e)
"""
    said = run(HANGS + code).splitlines()
    answer = cli("model", "promote", "delay@1", "--to", "champion")
    assert not list((project.state / "registering").iterdir())
    checks = {c["name"]: c for c in cli("doctor", "--json").json["checks"]}
    assert checks["models"]["ok"] is True, "nothing is left half-registered"
    why = "the conversion to ONNX was ended after 0.5 s (convert_s under [model] in mlops.toml)"
    if native:
        v = model.resolve("delay@1")
        assert (answer.exit, v.onnx, v.message) == (0, None, why)
    else:
        assert (answer.exit, answer.err.count("\n"), why in answer.err) == (2, 1, True)
        assert model.list().models[0]["state"] == "failed"
        assert len(said) == 1 and (
            said[0].startswith(why) and "--native" in said[0] if wait else said == ["registering"]
        )


@pytest.mark.parametrize("begun", [b"", b"c", b"cd"], ids=["before", "in", "after"])
def test_a_worker_that_is_killed_is_noticed_at_once(begun):
    "Before, in and after the conversion; its limit would be a day"
    from mlops_nb.model import conversion_limit

    heard, told = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(told, begun)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(told)
    assert "signal 9" in conversion_limit.watched(pid, heard, 86_400)
    os.close(heard)


FULL_DISK = """
import os, json
from mlops_nb.core import ledger, project
from mlops_nb.model import mlflow_background, mlflow_registration, mlflow_registry
p = project.current()
model.log(clf, "delay", example=X, wait=True)
real = mlflow_background.leave
def fill(*args):
    real(*args)
    try:
        with open("ballast", "wb", buffering=0) as f:
            while True: f.write(b"x" * 512)
    except OSError: pass
mlflow_background.leave = fill
v = model.log(clf, "delay", example=X, wait=False)
ended = mlflow_registration.wait(p, next(iter(e for e in ledger.of(p).events("model.logging_started", newest=True))).payload.bracket)
os.unlink("ballast")
model.mend()
print(json.dumps({"versions": [m["version"] for m in model.list().models],
    "mlflow": len(mlflow_registry.versions(p, "delay")), "left": os.listdir(".mlops/registering"),
    "intact": ledger.of(p).verify().ok, "last": [e.type for e in ledger.of(p).events("model.*")][-1]}))
"""


def test_a_full_disk_in_the_background_leaves_the_old_state(project, model_cache):
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(project.root)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace of its own needs Linux and root")
    (project.root.parent / "code.py").write_text(TRAIN + FULL_DISK)
    line = (
        f"mount -t tmpfs -o size=4m tmpfs {project.root} && cd {project.root} && printf '[project]\\n' > "
        f"mlops.toml && exec {sys.executable} ../code.py"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", line], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {
        "versions": [1],
        "mlflow": 1,
        "left": [],
        "intact": True,
        "last": "model.failed",
    }
