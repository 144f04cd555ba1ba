"""The modules are what the notebooks export, and the index is what the verbs say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_nb.core import fact_index, verb_index

ROOT = Path(__file__).resolve().parents[1]
EXPORT = "from nbdev.export import nb_export; import sys; [nb_export(n, lib_path='mlops_nb') for n in sys.argv[1:]]"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "A copy of the source in which every notebook was exported afresh"
    to = tmp_path_factory.mktemp("copy")
    (to / "mlops_nb").mkdir()
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copyfile(ROOT / name, to / name)
    shutil.copytree(
        ROOT / "nbs",
        to / "nbs",
        ignore=shutil.ignore_patterns(".ipynb_checkpoints", "tutorials", ".mlops", "_quarto.yml", "*.tmp"),
    )
    exporting = sorted(
        str(p.relative_to(to))
        for p in (to / "nbs").rglob("*.ipynb")
        if "#| default_exp" in p.read_text(encoding="utf-8")
    )
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, *exporting], cwd=to, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return to / "mlops_nb"


def modules(package: Path) -> dict[str, str]:
    skip = {"tutorials", "templates", "_data", "lab"}
    found = [
        p for p in package.rglob("*.py") if not skip & set(p.relative_to(package).parts) and p.name != "_modidx.py"
    ]
    return {str(p.relative_to(package)): p.read_text(encoding="utf-8") for p in found}


def test_modules_equal_a_fresh_export(copy):
    fresh, kept = modules(copy), modules(ROOT / "mlops_nb")
    assert sorted(set(kept) - set(fresh)) == [], "no notebook exports these"
    assert sorted(set(fresh) - set(kept)) == [], "run: make export"
    assert sorted(n for n in fresh if fresh[n] != kept[n]) == [], "run: make export"


def test_the_index_of_verbs_is_fresh():
    kept = json.loads(Path(verb_index.FILE).read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(verb_index.build()))
    assert sorted(set(kept) ^ set(fresh)) == [], "run: make export"
    assert [p for p in kept if kept[p] != fresh[p]] == [], "run: make export"


def test_the_index_of_facts_is_fresh():
    kept = json.loads(Path(fact_index.FILE).read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(fact_index.build()))
    assert sorted(set(kept["facts"]) ^ set(fresh["facts"])) == [], "run: make export"
    assert kept == fresh, "run: make export"


def test_every_fact_has_a_type_of_typescript():
    index = fact_index.load()
    text = fact_index.typescript(index)
    for name in index["$defs"]:
        assert f"export interface {name.replace('.', '_')} {{" in text
    assert set(index["facts"]) == set(fact_index.facts()) and '"model.Promotion": Promotion;' in text
    assert "undefined" not in text and text.count("{") == text.count("}")
