"""What ships is what imports: modules of one's own and theirs, parts of namespaces, engines of readers, extras; or it is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.job_runs import nb

from mlops_nb import job as jobs
from mlops_nb.core.errors import BadInput
from mlops_nb.job import definition
from mlops_nb.job.conversion import requirements
from mlops_nb.job.findings import faults


def converted(project, *sources, folder="notebooks", name="score"):
    place = project.root / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.ipynb").write_text(json.dumps(nb(*sources)), encoding="utf-8")
    return jobs.convert(place / f"{name}.ipynb")


def write(place: Path, **files):
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / f"{name}.py").write_text(text, encoding="utf-8")


HELPERS = {
    "beside": ("import shapes", lambda root: write(root / "notebooks", shapes="import msgspec\nSIDE = 4\n")),
    "package": (
        "from shapes.flat import SIDE\nimport shapes",
        lambda root: (
            write(
                root / "notebooks/shapes",
                __init__="from .flat import SIDE\n",
                flat="from shapes import deep\nSIDE = deep.SIDE\n",
            ),
            write(root / "notebooks/shapes", deep="import msgspec\nSIDE = 4\n"),
        ),
    ),
    "namespace package": (
        "import shapes.flat as shapes",
        lambda root: write(root / "notebooks/shapes", flat="import msgspec\nSIDE = 4\n"),
    ),
    "parent on sys.path": (
        "import sys\nsys.path.insert(0, '..')\nimport shapes",
        lambda root: write(root, shapes="import msgspec\nSIDE = 4\n"),
    ),
    "folder on sys.path": (
        "import os, sys\nsys.path.append(os.path.join('..', 'lib'))\nimport shapes",
        lambda root: write(root / "lib", shapes="import msgspec\nfrom side import SIDE\n", side="SIDE = 4\n"),
    ),
    "parent by pathlib": (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path.cwd().parent))\nimport shapes",
        lambda root: write(root, shapes="import msgspec\nSIDE = 4\n"),
    ),
}


@pytest.mark.parametrize("how", HELPERS)
def test_modules_of_ones_own_are_shipped_with_what_they_import(project, how):
    lines, make = HELPERS[how]
    make(project.root)
    job = converted(project, lines, "print('area', shapes.SIDE ** 2)")
    assert job.missing == [] and [pin for pin in job.requirements if pin.startswith("msgspec==")], job
    assert job.local and definition.read(project, "score").local == job.local
    fact = jobs.ship("score", to=["docker"], out=project.root / "build")
    assert fact.ok
    image = project.root / "build/docker/project"
    moved = project.root.parent / "elsewhere"
    image.rename(moved)
    env = {name: value for name, value in os.environ.items() if name != "MLOPS_PROJECT"} | {
        "MLOPS_JOB_FORK_SERVER": "false"
    }
    done = subprocess.run(
        [sys.executable, "-m", "mlops_nb", "job", "run", "score", "--json"],
        cwd=moved,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "area 16" in (moved / json.loads(done.stdout)["output"]).read_text(encoding="utf-8")


def test_what_cannot_be_taken_along_is_refused(project, tmp_path):
    outside = tmp_path / "outside"
    write(outside, far="X = 1\n")
    job = converted(project, f"import sys\nsys.path.insert(0, {str(outside)!r})\nimport far", "print(far.X)")
    assert job.local and job.missing == []
    with pytest.raises(BadInput, match="outside the project"):
        jobs.ship("score", to=["docker"], out=project.root / "build")
    write(project.root / "notebooks", near="X = 1\n")
    converted(project, "import near", "print(near.X)", name="other")
    (project.root / "notebooks/near.py").unlink()
    with pytest.raises(BadInput, match="not there any more"):
        jobs.ship("other", to=["docker"], out=project.root / "build")
    assert not (project.root / "build").exists(), "nothing is written where something is refused"


@pytest.mark.parametrize(
    "source, missing",
    [
        ("import no_such_module", ["no_such_module"]),
        ("from no_such_module.deep import x", ["no_such_module"]),
        ("import helper", ["no_such_module"]),
        ("import pandas as pd\ndf = pd.read_hdf('x.h5')\ndf.to_csv('y.csv')", ["tables"]),
    ],
)
def test_what_is_missing_is_said_and_not_shipped(project, source, missing):
    write(project.root / "notebooks", helper="import no_such_module\n")
    job = converted(project, source, "print(1)")
    assert job.missing == missing
    assert any("no version to lock" in remark.message for remark in job.remarks)
    with pytest.raises(BadInput, match=f"imports {missing[0]}.*not installed"):
        jobs.ship("score", to=["docker", "k8s"], out=project.root / "build")
    assert not (project.root / "build").exists()


@pytest.mark.parametrize(
    "source, pinned",
    [
        ("import pandas as pd\nx = pd.read_parquet('x.parquet')\nx.to_csv('y')", "pyarrow=="),
        ("import pandas as pd\npd.DataFrame({'a': [1]}).to_feather('y.feather')", "pyarrow=="),
        ("import pandas as pd\nx = pd.DataFrame({'a': [1]})\nx.plot().get_figure().savefig('a.png')", "matplotlib=="),
    ],
)
def test_engines_of_readers_are_locked(project, source, pinned):
    job = converted(project, source)
    assert [pin for pin in job.requirements if pin.startswith(pinned)], job.requirements


def test_nothing_is_needed_of_an_engine_without_a_library_of_frames(project):
    job = converted(project, "class Shelf:\n    def read_hdf(self): return 1\nx = Shelf().read_hdf()\nprint(x)")
    assert job.missing == [] and job.requirements == []


def distribution(site: Path, name: str, files: list[str], requires=()) -> None:
    "An installed distribution: its files, and what it says of itself"
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    extra = "Provides-Extra: standard\n" if any("extra" in need for need in requires) else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{extra}{needs}")
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("X = 1\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path, monkeypatch):
    "Packages of this test's own, installed in front of the others"
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    caches = (requirements._installed, requirements._files, requirements.distribution)
    for cache in caches:
        cache.cache_clear()
    yield place
    for cache in caches:
        cache.cache_clear()


def test_a_part_of_a_namespace_is_its_own_package(project, site):
    distribution(site, "planets-auth", ["planets/auth/__init__.py"])
    distribution(site, "planets-cloud-query", ["planets/cloud/query/__init__.py"])
    distribution(site, "planets-rings", ["planets/rings.py"])
    job = converted(project, "from planets.cloud import query", "print(query.X)")
    assert job.requirements == ["planets-cloud-query==1.0"] and job.missing == []
    job = converted(
        project, "import planets.rings", "from planets.auth import X", "print(X, planets.rings.X)", name="two"
    )
    assert job.requirements == ["planets-auth==1.0", "planets-rings==1.0"]
    job = converted(project, "from planets.cloud import storage", "print(storage)", name="none")
    assert job.missing == ["planets.cloud"], "a namespace that is there is no package that is there"


def test_extras_that_a_package_asks_for_are_locked(site):
    distribution(site, "server", ["server.py"], ["parser ; extra == 'standard'", "always"])
    distribution(site, "app", ["app.py"], ["server[standard]"])
    for name in ("parser", "always"):
        distribution(site, name, [f"{name}.py"])
    assert requirements.closure(["server==1.0"]) == ["always==1.0", "server==1.0"]
    assert requirements.closure(["app==1.0"]) == ["always==1.0", "app==1.0", "parser==1.0", "server==1.0"]


@pytest.mark.parametrize(
    "module, said",
    [
        ("cv2", "pip install opencv-python"),
        ("fitz", "pip install PyMuPDF"),
        ("polarsx", ""),
        ("utils", ""),
        ("src", ""),
    ],
)
def test_a_hint_names_a_package_only_where_it_is_known(module, said, monkeypatch):
    monkeypatch.setattr(requirements, "kind_of", lambda *a, **k: "missing")
    (found,) = [finding for finding in faults.find(nb(f"import {module}"))[0] if finding.kind == "missing_package"]
    assert (said in found.fix) if said else ("pip install" not in found.fix and f"{module}.py" in found.fix)


@pytest.mark.parametrize(
    "source, why",
    [
        ("name = input('who? ')\nprint(name)", "input() in cell 0 waits for a person"),
        ("from getpass import getpass\nkey = getpass()\nprint(len(key))", "getpass() in cell 0 waits"),
        ("import ipywidgets as w\nw.interact(print, x=3)", "w.interact() in cell 0 waits"),
        ("import no_such_module\nprint(no_such_module)", "no_such_module not installed here"),
    ],
)
def test_ready_never_stands_over_what_is_not(project, source, why):
    job = converted(project, source, "open('x.txt', 'w').write('x')")
    for said in (str(job), str(jobs.show("score"))):
        assert f"NOT READY: {why}" in said and ": READY" not in said
    assert "READY" in str(converted(project, "x = 1", "print(x)", name="fine")).splitlines()[0]
