"""Where the tree is, and homes in which nothing of the caller's is found."""

import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
XDG = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "XDG_RUNTIME_DIR": ".run",
}


def at_home(home: Path) -> dict[str, str]:
    "Environment variables that put a user's folders below `home`; the folders are made"
    where = {"HOME": home, "USERPROFILE": home, **{k: home / v for k, v in XDG.items()}}
    where |= {
        "JUPYTER_CONFIG_DIR": home / ".jupyter",
        "JUPYTER_DATA_DIR": home / ".jupyter/data",
        "IPYTHONDIR": home / ".ipython",
    }
    for d in where.values():
        d.mkdir(parents=True, exist_ok=True, mode=0o700)
    lend_store(where["XDG_CACHE_HOME"])
    return {k: str(v) for k, v in where.items()}


SHARED = "TESTS_SHARED"  # Environment variable: a folder of this run, for what all its processes may have made once
STORES = "mlops_nb/mlflow-*.db"  # MLflow's empty store, in a user's cache; it is only ever copied


def lend_store(cache: Path) -> None:
    "MLflow's empty store, if a test of this run has made it already: that costs seconds"
    if SHARED not in os.environ:
        return
    for store in Path(os.environ[SHARED]).glob(STORES):
        here = cache / "mlops_nb" / store.name
        here.parent.mkdir(parents=True, exist_ok=True)
        if not here.exists():
            here.symlink_to(store)


def keep_store(cache: Path) -> None:
    "What `lend_store` lends from now on, if it is here and new"
    if SHARED not in os.environ:
        return
    for store in cache.glob(STORES):
        to = Path(os.environ[SHARED]) / "mlops_nb" / store.name
        if not to.exists():
            to.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=to.parent) as folder:
                os.replace(shutil.copyfile(store, Path(folder, "store")), to)
