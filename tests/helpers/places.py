"""Where the tree is, and homes in which nothing of the caller's is found."""

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
    return {k: str(v) for k, v in where.items()}
