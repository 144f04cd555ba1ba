"""Every notebook of nbs/ runs from top to bottom as nbdev runs it, each in a process of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.fresh_process import run_code

ROOT = Path(__file__).resolve().parents[1]
RUN = "import sys; from nbdev.test import test_nb; sys.exit(not test_nb(sys.argv[1], basepath=sys.argv[2], cell_timeout=300)[0])"


def notebooks() -> list[str]:
    "Notebooks that teach: in a checkout those of git and new ones; tutorials run in folders of their own, below and in `make demo`"
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "nbs/*.ipynb"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    found = (
        listed.stdout.split("\n")
        if listed.returncode == 0 and listed.stdout
        else [str(p.relative_to(ROOT)) for p in (ROOT / "nbs").rglob("*.ipynb")]
    )
    return sorted(
        p for p in set(found) if p and "/tutorials/" not in p and ".ipynb_checkpoints/" not in p and (ROOT / p).exists()
    )


def said(notebook: str | Path, here: Path, tmp_path: Path, **more: str) -> str:
    "What a notebook that failed, run from top to bottom in a folder, says; empty when it did not fail"
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), **more}
    declares = Path(notebook).stem == "events"  # a process knows each type of event once
    done = run_code(RUN, str(notebook), str(here), cwd=here, env=env, timeout=550, anew=declares)
    return f"{notebook}\n{done.stderr[-4000:]}" if done.returncode else ""


@pytest.mark.parametrize("notebook", notebooks())
def test_lesson(notebook, model_cache, tmp_path):
    assert said(notebook, ROOT, tmp_path) == ""


@pytest.mark.parametrize(
    "name, left",
    [
        ("streams", ".mlops/streams.db"),
        ("features", "train.parquet"),
        ("models", "card.md"),
        ("jobs", "stepwise-*/stepwise.ipynb"),
    ],
)
def test_tutorial(name, left, home, tmp_path):
    """In a folder of its own, where the reader's project would be, or in one that it makes; it leaves there what it says

    The kernels of JupyterLab know where their notebook lies, and so does this one."""
    here = tmp_path / name
    here.mkdir()
    shutil.copy(ROOT / "nbs/tutorials" / f"{name}.ipynb", here)
    assert said(here / f"{name}.ipynb", here, tmp_path, JPY_SESSION_NAME=str(here / f"{name}.ipynb")) == ""
    assert list(tmp_path.rglob(left))
