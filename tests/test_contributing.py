"""A newcomer does what CONTRIBUTING says, word for word, in a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.places import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Your first verb\n")[2].partition("\n## ")[0]
NEEDED = [
    "mlops_nb",
    "nbs",
    "tests",
    "templates",
    "Makefile",
    "pyproject.toml",
    "settings.ini",
    "setup.py",
    "README.md",
]


class Block(NamedTuple):
    "A block of code, and the files that the text before it names"

    kind: str  # diff, python, sh
    code: str
    files: list[str]


def blocks(section: str) -> list[Block]:
    "The blocks of code of a section, in order"
    found = []
    pieces = re.split(r"```(\w+)\n(.*?)```\n", section, flags=re.DOTALL)
    for prose, kind, code in zip(pieces[::3], pieces[1::3], pieces[2::3]):
        found.append(Block(kind, code, re.findall(r"`((?:nbs|tests)/\S+\.(?:ipynb|py))`", prose)))
    return found


def notebook(percent: str) -> dict:
    "The notebook of a text in which each `# %%` begins a cell"
    cells = []
    for number, part in enumerate(re.split(r"^# %%", percent, flags=re.MULTILINE)[1:]):
        mark, _, source = part.partition("\n")
        cell = {"id": f"new{number}", "metadata": {}, "source": source.strip("\n")}
        if mark.strip() == "[markdown]":
            text = re.sub(r"^# ?", "", cell["source"], flags=re.MULTILINE)
            cells.append({**cell, "cell_type": "markdown", "source": text})
        else:
            cells.append({**cell, "cell_type": "code", "outputs": [], "execution_count": None})
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def add_lines(file: Path, hunk: list[str]) -> None:
    "The lines behind a `+` go into the one cell of a notebook that has the line beside them"
    doc = json.loads(file.read_text(encoding="utf-8"))
    before = "\n".join(line[1:] for line in hunk if not line.startswith("+"))
    after = "\n".join(line[1:] for line in hunk)
    holding = [cell for cell in doc["cells"] if before in "".join(cell["source"])]
    assert len(holding) == 1, f"{file.name}: {before!r} is in {len(holding)} cells"
    text = "".join(holding[0]["source"])
    assert text.count(before) == 1
    holding[0]["source"] = text.replace(before, after)
    file.write_text(json.dumps(doc), encoding="utf-8")


def apply_diff(tree: Path, code: str) -> None:
    "Each part begins with `# notebook`"
    for part in re.split(r"^# ", code, flags=re.MULTILINE)[1:]:
        name, *hunk = part.rstrip("\n").split("\n")
        add_lines(tree / name, hunk)


@pytest.fixture
def tree(tmp_path) -> Path:
    "A copy of what a newcomer works with; its environment is that of this process"
    tools = Path(sys.executable).parent
    if not shutil.which("make") or not (tools / "ruff").exists():
        pytest.skip("make and the tools of contributors are needed")
    to = tmp_path / "mlops_nb"
    to.mkdir()
    leave = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".mlops", "tutorials", "corpus*", "old")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=leave)
        else:
            shutil.copy2(ROOT / name, to / name)
    (to / ".venv").symlink_to(tools.parent)
    return to


def shell(tree: Path, line: str) -> str:
    "What a line of the shell prints; it must succeed"
    line = line.replace("make ", "make -o .venv/.ready ", 1)  # nothing is installed here
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHONPATH"))}
    env["PYTEST_DEBUG_TEMPROOT"] = str(tree.parent)
    done = subprocess.run(
        ["sh", "-c", line], cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_the_first_verb(tree, home):
    said = {}
    for block in blocks(SECTION):
        if block.kind == "diff":
            apply_diff(tree, block.code)
        elif block.kind == "python":
            text = json.dumps(notebook(block.code)) if block.files[-1].endswith(".ipynb") else block.code
            (tree / block.files[-1]).write_text(text, encoding="utf-8")
        else:
            said |= {line: shell(tree, line) for line in block.code.splitlines()}
    exported, tried, tested, helped = said.values()
    assert "1 passed" in tested and "2 passed" in tried, "the lesson and the test; the test alone"
    assert "What to remember" in helped and "mlops data note flights strike" in helped
    assert '"data.note"' in (tree / "mlops_nb/_verbs.json").read_text(encoding="utf-8")
    assert '"dataset.noted"' in (tree / "mlops_nb/_pillars.json").read_text(encoding="utf-8")


def typed(block: Block) -> list[str]:
    "The lines of code that a reader of a block types"
    if block.kind == "diff":
        return [line[1:] for line in block.code.splitlines() if line.startswith("+")]
    if block.kind == "python" and block.files[-1].endswith(".ipynb"):
        code = [cell["source"] for cell in notebook(block.code)["cells"] if cell["cell_type"] == "code"]
        return "\n".join(code).splitlines()
    return block.code.splitlines() if block.kind == "python" else []


def test_it_is_some_forty_lines_of_code():
    lines = [line for block in blocks(SECTION) for line in typed(block) if line.strip()]
    assert 36 <= len(lines) <= 44, len(lines)
