"""Python code in a process of its own, without the seconds that its imports cost.

On Linux, where workers share the tests, it is forked from a server that has imported what is slow; otherwise it is started anew.
Either way the code finds what a new `python -c` would: its environment, its working directory, an empty `__main__`."""

import atexit
import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

# Slow to import, and used by much of what is tested. MLflow comes with its plug-ins, and so with what they need of ours.
SLOW = """
IPython alembic cryptography.hazmat.primitives.serialization duckdb fastapi feast jinja2 matplotlib.pyplot
matplotlib_inline.backend_inline mlflow.onnx mlflow.pyfunc mlflow.sklearn mlflow.store.model_registry.sqlalchemy_store
mlflow.store.tracking.sqlalchemy_store mpl_toolkits.mplot3d msgspec nbclient nbconvert nbdev.test nbformat numpy onnx
onnxruntime opentelemetry.sdk.trace pandas psutil pyarrow.parquet requests scipy.stats skl2onnx sklearn.ensemble
sklearn.linear_model sklearn.pipeline skops.io sqlalchemy.orm sqlparse yaml
""".split()
INHERITED = frozenset(os.environ)
# On macOS libraries that have been imported do not survive a fork; and for a few processes the server is not worth its start.
FORKS = sys.platform == "linux" and "PYTEST_XDIST_WORKER" in os.environ


def server() -> "multiprocessing.context.ForkServerContext":
    "The context whose processes are forks of the server; it begins with the first of them and ends with this process"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *SLOW])
    return context


@contextlib.contextmanager
def plain_main() -> Iterator[None]:
    "An empty `__main__`: multiprocessing looks for one like it, and IPython in a test may have left another kind"
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def become(cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    "What a new process gets from who starts it"
    gc.freeze()  # nobody looks for garbage in what the server has imported
    set_by_imports = {name: value for name, value in os.environ.items() if name not in INHERITED}
    os.environ.clear()
    os.environ.update(set_by_imports | env)
    time.tzset()
    tempfile.tempdir = None  # found anew from the environment
    os.chdir(cwd)
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    for file, number in ((stdout, 1), (stderr, 2)):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)


def carry_out(code: str, words: list[str], where: tuple) -> None:
    "The body of a fork: as `python -c code words` would run"
    become(*where)
    sys.argv = ["-c", *words]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # waits for the threads that a process waits for
    atexit._run_exitfuncs()  # multiprocessing would leave them out
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_code(
    code: str,
    *words: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 300,
    anew: bool = False,  # Not forked: nothing of this package may have been imported
) -> subprocess.CompletedProcess:
    "As `subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True)`"
    env, cwd = dict(os.environ) if env is None else env, str(cwd or Path.cwd())
    command = [sys.executable, "-c", code, *words]
    if anew or not FORKS:
        return subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=timeout, encoding="utf-8"
        )
    with tempfile.TemporaryDirectory(prefix="mlops-code-") as folder:
        files = [str(Path(folder, name)) for name in ("out", "err")]
        process = server().Process(target=carry_out, args=(code, list(words), (cwd, env, *files)))
        with plain_main():
            process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        out, err = [Path(file).read_text(encoding="utf-8") if Path(file).exists() else "" for file in files]
        return subprocess.CompletedProcess(command, process.exitcode, out, err)
