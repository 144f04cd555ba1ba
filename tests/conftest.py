"""What every test stands on: an empty home, a project of its own, and no way to phone home."""

import contextlib
import gc
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.counts import FULL
from helpers.places import SHARED, at_home, keep_store
from helpers.redis_server import RedisServer
from hypothesis import HealthCheck, settings

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MPLBACKEND": "agg",
    "TZ": "UTC",
    "COLUMNS": "120",
}

# Workers share processors: threads that wait for each other would wait for their turn. Read when OpenMP is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

settings.register_profile(
    "mlops",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.load_profile("mlops")


def is_worker(config) -> bool:
    "Is this one of several processes that share the tests?"
    return hasattr(config, "workerinput")


def pytest_configure(config):
    "Before any module of ours is imported: nothing of the caller's shell leaks into a test"
    for name in [
        n
        for n in os.environ
        if n.startswith(("MLOPS_", "MLFLOW_", "DVC_", "FEAST_")) and n not in ("MLOPS_PROVE", "MLOPS_CI")
    ]:
        del os.environ[name]
    os.environ.update(QUIET)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&`; those whom tests interrupt would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["MLOPS_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="mlops-")
    if not is_worker(config):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="mlops-shared-")


def pytest_unconfigure(config):
    "The warm servers of these tests end with them"
    from mlops_nb.core import warm

    if warm.supported():
        warm.stop()
    shutil.rmtree(os.environ["MLOPS_RUNTIME_DIR"], ignore_errors=True)
    if not is_worker(config):
        shutil.rmtree(os.environ[SHARED], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    "What is marked `prove` belongs to `make prove`"
    if not FULL:
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("prove")])
        items[:] = [i for i in items if not i.get_closest_marker("prove")]


def pytest_collection_finish():
    "What is imported and collected stays: nobody looks for garbage in it, neither here nor in the forks that tests make"
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def few_files():
    "Ledgers of tests that have ended let their files go: `select` knows no file descriptor above 1023"
    yield
    reading = sys.modules.get("mlops_nb.core.ledger_reading")
    held = [log for log in list(reading.every) if log.db is not None] if reading else []
    for log in held if len(held) > 20 else ():
        log.close()


@pytest.fixture
def home(tmp_path_factory, monkeypatch):
    "An empty home: configuration, keys and caches of the user who runs the tests stay out of reach"
    home = tmp_path_factory.mktemp("home")
    for name, value in at_home(home).items():
        monkeypatch.setenv(name, value)
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    yield home
    keep_store(home / ".cache")


@pytest.fixture
def model_cache(home) -> Path:
    "The cache of a test that registers models"
    return home / ".cache"


@pytest.fixture
def project(home, tmp_path, monkeypatch):
    "A fresh project in tmp_path, which is the working directory too"
    from mlops_nb.core import project as projects

    made = projects.create(tmp_path / "work")
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory) -> Path:
    "The folder of a shop that is made once per process and only read: registering a model is what costs"
    from helpers import shop

    return shop.opened(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def shop(home, shop_template, tmp_path, monkeypatch):
    """A project with the dataset `sales@1`, the feature view `spending@1`, the model `loyal@1` and the job `report`

    It is the working directory, and this test's own."""
    from helpers.shop import copied

    made = copied(shop_template, tmp_path / "work")
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def redis_server(tmp_path_factory):
    "A redis-server of this test's own"
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    pytest.importorskip("redis")
    server = RedisServer(tmp_path_factory.mktemp("r"))
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.fixture
def feast_times():
    "Feast's own calls, whatever another test of this process told SQLite about times"
    from mlops_nb.feature import feast_online

    with feast_online._own_times():
        yield


class Answer(NamedTuple):
    "What the shell form gave back"

    exit: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        "The one document on stdout"
        return json.loads(self.out)


@pytest.fixture
def cli(home, tmp_path, monkeypatch):
    "`cli('data', 'list', '--json')` -> (exit, stdout, stderr) of the shell form, run in this process"
    from mlops_nb import cli as shell
    from mlops_nb.core import progress

    if not any((d / "mlops.toml").exists() for d in (Path.cwd(), *Path.cwd().parents)):
        monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLOPS_PROJECT", raising=False)
    monkeypatch.setattr(progress, "_quiet", True)

    def run(*args) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = shell.main([str(a) for a in args])
        return Answer(code, out.getvalue(), err.getvalue())

    yield run
    os.environ.pop("MLOPS_PROJECT", None)
