"""The workflows are valid, ask for little, pin what they use, and a linter finds nothing in them. No network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TOOLS = Path(sys.executable).parent


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(w) for w in words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_the_linter_finds_nothing(home):
    done = run(TOOLS / "zizmor", "--offline", "--no-progress", "--persona=regular", *FLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_holds(home):
    done = run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *FLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("flow", FLOWS, ids=lambda p: p.name)
def test_pinned_and_least(flow):
    text = flow.read_text(encoding="utf-8")
    doc = yaml.safe_load(text)
    assert doc["permissions"] == {}, "a workflow grants nothing; its jobs ask one by one"
    for name, job in doc["jobs"].items():
        assert job.get("permissions"), f"{name}: say what it may do"
        assert job.get("timeout-minutes"), f"{name}: an endless job costs money"
    used = re.findall(r"uses: (\S+)(.*)", text)
    loose = [u for u, note in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u) or not re.match(r" # v\d", note)]
    assert loose == []


def test_every_workflow_is_there():
    assert {f.stem for f in FLOWS} == {"test", "docs", "release", "prove"}
    prove = yaml.safe_load((ROOT / ".github/workflows/prove.yml").read_text(encoding="utf-8"))
    assert "schedule" in prove[True]  # YAML 1.1 reads `on` as true


def test_hooks_and_quarto_are_readable():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {h["id"] for r in hooks["repos"] for h in r["hooks"]} >= {"nbdev-clean", "nbdev-export", "ruff"}
    assert (ROOT / "nbs" / "_quarto.yml").resolve() == ROOT / "_quarto.yml"
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert site["project"]["output-dir"] == "_docs"
