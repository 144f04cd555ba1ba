"""What pillars contribute: the indexes equal the faces, every verb stands at the Python door, and a stranger's package adds its own."""

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import msgspec
import pytest

import mlops_nb
from mlops_nb.core import lazy, ledger, payloads, pillars, third_party, verb_index, verbs
from mlops_nb.core.events import why_skipped

ROOT = Path(__file__).resolve().parents[1]


# Indexes and faces


def test_the_index_of_pillars_is_fresh():
    kept = json.loads(Path(pillars.FILE).read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(pillars.build())), "run: make export"


def places(value) -> list[str]:
    "Every `module:attribute` below a value of the index"
    if isinstance(value, str):
        return [value] if ":" in value else []
    if isinstance(value, dict):
        return [place for key, inner in value.items() if key != "says" for place in places(inner)]
    return [place for inner in value for place in places(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", sorted(pillars.ours()))
def test_what_a_face_declares_is_there(name):
    found = places(pillars.ours()[name])
    assert found and all(pillars.at(place) is not None for place in found)


def test_only_what_is_collected_can_be_contributed():
    with pytest.raises(TypeError, match="nobody collects pagse"):
        lazy.contributes(pagse="pages:pages")


@pytest.mark.parametrize("path", sorted(verb_index.ours()))
def test_every_verb_stands_at_the_python_door(path):
    found = mlops_nb
    for word in path.split("."):
        found = getattr(found, word)
    expected = verbs.resolve(path)
    assert found is expected or (isinstance(found, verbs.Area) and found._path == path)


@pytest.mark.parametrize("name", sorted(pillars.ours()))
def test_every_name_of_a_face_is_there(name):
    face = importlib.import_module(f"mlops_nb.{name}")
    assert [public for public in face.__all__ if getattr(face, public, None) is None] == []


def test_every_event_has_a_struct_that_reads_an_empty_payload_or_says_why():
    for name in pillars.events():
        struct = payloads.struct_of(name)
        assert payloads.type_of(struct) == name and pillars.events()[name]["says"]
        if name != "segment.sealed":
            assert isinstance(payloads.decoded(name, b"{}"), struct), f"{name}: a field has no default"


def numbers(struct, seen=()) -> list[str]:
    "Fields of a struct, and of those inside it, that are a float and cannot be null"
    found = []
    for field in msgspec.inspect.type_info(struct).fields:
        kinds = [field.type, getattr(field.type, "item_type", None), getattr(field.type, "value_type", None)]
        if any(isinstance(kind, msgspec.inspect.FloatType) for kind in kinds):
            found.append(f"{struct.__name__}.{field.name}")
        for kind in kinds:
            if isinstance(kind, msgspec.inspect.StructType) and kind.cls not in seen:
                found += numbers(kind.cls, (*seen, struct))
    return found


def test_a_number_of_an_event_may_be_nan():
    "JSON has no NaN: null comes back, and a field that refuses it makes the entry unreadable"
    bare = {name: numbers(payloads.struct_of(name)) for name in pillars.events()}
    allowed = {"SkewChecked", "FeatureSkewChecked.mismatches"}
    assert {n: [f for f in fields if f not in allowed] for n, fields in bare.items() if set(fields) - allowed} == {}


# A stranger's package

FACE = """
    "Trees, planted and counted"
    from mlops_nb.core.lazy import contributes, face

    __getattr__, __dir__, __all__ = face(__name__, {"plant": "verbs:plant", "kind.add": "kind_verbs:add"})
    CONTRIBUTES = contributes(
        settings={"forest": "settings:ForestSettings"},
        events="events:TYPES",
        health="health:checks",
        status="status:PART",
        pages="pages:pages",
        subjects="subjects:STORES",
    )
"""
ROOMS = {
    "settings": """
        from mlops_nb.core.settings import Section

        class ForestSettings(Section):
            "`[forest]`"
            trees: int = 3  # At least so many
    """,
    "events": """
        from mlops_nb.core.payloads import Payload, declare

        class TreePlanted(Payload):
            "A tree was planted"
            height_m: float | None = None

        TYPES = declare({"forest.planted": TreePlanted})
    """,
    "verbs": """
        from mlops_nb.core import ledger, project as projects
        from mlops_nb.core.fact import Fact, Plan
        from mlops_nb.core.verbs import verb
        from forest_mlops.events import TreePlanted

        class Planted(Fact):
            "A tree"
            kind: str

        @verb("forest.plant", changes=True, example="mlops forest plant oak")
        def plant(
            kind: str,  # Of tree
            *,
            height: float = 1.0,  # Metres
            dry_run: bool = False,  # Say what would be done and change nothing
        ) -> Planted | Plan:
            "Plant a tree"
            if dry_run:
                return Plan(steps=[f"plant {kind}"])
            ledger.record(projects.current(), TreePlanted(height_m=height), subject=kind)
            return Planted(kind=kind)
    """,
    "kind_verbs": """
        from mlops_nb.core.verbs import verb

        @verb("forest.kind.add")
        def add(
            name: str,  # Of the kind
        ) -> str:
            "Add a kind of tree"
            return f"kind {name}"
    """,
    "health": """
        from mlops_nb.core import ledger
        from mlops_nb.core.contributions import Check

        def checks(project):
            planted = len(list(ledger.of(project).events("forest.planted")))
            wanted = project.settings.forest.trees
            return [Check("forest", planted >= wanted, f"{planted} of {wanted} trees", "mlops forest plant oak")]
    """,
    "status": """
        from mlops_nb.core.contributions import Line, StatusPart
        from mlops_nb.core.folds import names_fold

        def line(project, state):
            return Line(counts={"kinds of trees": len(state.names.get("trees", ()))})

        PART = StatusPart(names_fold("forest.names", {"forest.planted": "trees"}), line)
    """,
    "subjects": """
        from mlops_nb.core.subjects import Hit, Store

        class Gardeners(Store):
            name = "gardeners"

            def export(self, project, person):
                for row in [{"gardener": "ann@x.org"}, {"gardener": "bob@x.org"}]:
                    if how := person.how(row):
                        yield Hit("the shed", how, row)

        STORES = [Gardeners()]
    """,
    "pages": """
        from mlops_nb.core.contributions import Page, Pages, Tile

        def pages(project):
            page = Page("forest.html", "Forest", body="<p>Trees of this project.</p>", nav="Forest")
            return Pages([page], [Tile("1", "forest", "forest.html")])
    """,
}


def package(
    folder: Path, face: str = FACE, rooms: dict[str, str] = ROOMS, point: str = "forest = forest_mlops"
) -> Path:
    "A folder for sys.path with an installed package of somebody else"
    where = folder / "forest_mlops"
    where.mkdir(parents=True)
    (where / "__init__.py").write_text(textwrap.dedent(face).lstrip())
    for name, text in rooms.items():
        (where / f"{name}.py").write_text(textwrap.dedent(text).lstrip())
    info = folder / "forest_mlops-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: forest-mlops\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{third_party.GROUP}]\n{point}\n")
    return folder


@pytest.fixture
def forest(tmp_path, project, monkeypatch):
    "A project beside which that package is installed, in this process and its children"
    folder = package(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    third_party.forget()
    yield project
    third_party.forget()
    for name in [n for n in sys.modules if n.partition(".")[0] == "forest_mlops"]:
        del sys.modules[name]
    for table in (payloads._structs, payloads._decoders):
        table.pop("forest.planted", None)


def shell(*words, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mlops_nb", *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_strangers_verb_at_the_shell(forest):
    done = shell("forest", "plant", "oak", "--height", "2", "--json", cwd=forest.root)
    assert done.returncode == 0 and json.loads(done.stdout)["kind"] == "oak", done.stderr
    assert "Plant a tree." in shell("forest", "plant", "--help", cwd=forest.root).stdout
    assert "forest kind add" in shell("forest", "--help", cwd=forest.root).stdout
    assert "did you mean `plant`?" in shell("forest", "plnt", cwd=forest.root).stderr
    assert shell("forest", "kind", "add", "elm", cwd=forest.root).stdout.strip() == "kind elm"
    (event,) = ledger.of(forest).events("forest.planted")
    assert event.payload.height_m == 2.0 and not why_skipped(event)


def test_a_strangers_verb_in_python_and_the_notebook(forest):
    from IPython.core.interactiveshell import InteractiveShell

    assert mlops_nb.forest.plant("oak").kind == "oak" and mlops_nb.forest.kind.add("elm") == "kind elm"
    live = InteractiveShell.instance()
    try:
        live.run_line_magic("load_ext", "mlops_nb")
        live.run_cell("r = %mlops forest plant ash --height 3").raise_error()
        assert live.user_ns["r"].kind == "ash"
        live.run_line_magic("unload_ext", "mlops_nb")
    finally:
        live.reset()
        InteractiveShell.clear_instance()
    assert [e.subject for e in ledger.of(forest).events("forest.planted")] == ["oak", "ash"]


def test_a_strangers_store_is_asked_about_a_person(forest, cli):
    found = {s["store"]: s for s in cli("comply", "find", "ann@x.org", "--key", "gardener", "--json").json["stores"]}
    assert (found["gardeners"]["pillar"], found["gardeners"]["found"], found["gardeners"]["complete"]) == (
        "forest",
        1,
        True,
    )
    assert found["gardeners"]["places"] == [{"place": "the shed", "count": 1, "unit": "row", "how": "key", "about": ""}]


def test_a_strangers_line_health_and_page(forest, cli):
    mlops_nb.forest.plant("oak")
    assert cli("status", "--json").json["counts"]["kinds of trees"] == 1
    checks = {c["name"]: c for c in cli("doctor", "--json").json["checks"]}
    assert not checks["forest"]["ok"] and checks["forest"]["detail"] == "1 of 3 trees"
    (forest.root / "mlops.toml").write_text('[project]\nname = "wood"\n\n[forest]\ntrees = 1\n')
    assert {c["name"]: c["ok"] for c in cli("doctor", "--json").json["checks"]}["forest"]
    out = forest.root / "out"
    assert cli("site", "build", "--out", str(out)).exit == 0
    assert "<p>Trees of this project.</p>" in (out / "forest.html").read_text()
    assert 'href="forest.html"' in (out / "index.html").read_text()


def test_a_missing_package_warns_in_one_line_and_hides_nothing(project, cli):
    log = ledger.of(project)
    with pytest.raises(mlops_nb.MlopsError, match="no event type 'forest.planted'"):
        log.append("forest.planted", "oak", {})
    (project.root / "mlops.toml").write_text('[project]\nname = "wood"\n\n[forest]\ntrees = 1\n')
    said = cli("status")
    (line,) = said.err.splitlines()
    assert said.exit == 0 and re.fullmatch(r"mlops: warning: .*no installed package reads \[forest\]", line)


FOREIGN = {
    "events": ROOMS["events"].replace("forest.planted", "job.planted"),
    "settings": ROOMS["settings"],
    "verbs": ROOMS["verbs"].replace('"forest.plant"', '"job.plant"'),
}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"events": FOREIGN["events"]}, "job.planted is not in its own name"),
        ({"verbs": FOREIGN["verbs"]}, "job.plant is not in its own name"),
        ({"settings": "import nothing_like_this"}, "nothing_like_this"),
    ],
)
def test_a_package_that_breaks_the_rules_is_left_out(tmp_path, project, monkeypatch, change, said):
    rooms = {**ROOMS, **change}
    face = FACE.replace('events="events:TYPES"', 'events="events:TYPES", brackets="settings:ForestSettings"')
    folder = package(tmp_path / "site", FACE if "settings" not in change else face, rooms)
    monkeypatch.syspath_prepend(folder)
    third_party.forget()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert third_party.installed() == {} and "forest.plant" not in verb_index.load()
        assert any(said in str(w.message) for w in told), [str(w.message) for w in told]
        assert "data.add" in verb_index.load()
    finally:
        third_party.forget()
        for name in [n for n in sys.modules if n.partition(".")[0] == "forest_mlops"]:
            del sys.modules[name]
        for table in (payloads._structs, payloads._decoders):
            for name in ("forest.planted", "job.planted"):
                table.pop(name, None)


def test_the_answer_is_kept_until_a_folder_changes(forest, monkeypatch):
    assert "forest" in third_party.installed()
    third_party.forget()
    asked = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **k: asked.append(k) or [])
    assert "forest" in third_party.installed() and asked == [], "the kept answer holds"
    third_party.forget()
    Path(sys.path[0], "new.dist-info").mkdir()
    assert third_party.installed() == {} and len(asked) == 1, "a package was installed: look again"


def test_a_kernel_and_the_shell_do_not_take_each_others_answer_away(forest, monkeypatch, tmp_path):
    asked = []
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **k: asked.append(k) or real(**k))

    def ask(folder):
        folder.mkdir(exist_ok=True)
        third_party.forget()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            assert "forest" in third_party.installed()

    for _ in range(2):
        for name in ("kernel", "shell", "script"):
            ask(tmp_path / name)
    assert len(asked) == 3, "one look for each set of folders"
    for n in range(third_party.KEPT):
        ask(tmp_path / f"other{n}")
    kept = json.loads(third_party._cache().read_text(encoding="utf-8"))
    assert len(kept) == third_party.KEPT, "the oldest answers go"
    third_party._cache().write_text('[{"key": 3}, 4]', encoding="utf-8")
    ask(tmp_path / "kernel")
    assert len(asked) == 3 + third_party.KEPT + 1, "what cannot be read is asked for again"
