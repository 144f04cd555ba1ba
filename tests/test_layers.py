"""Who may import whom, as data. A wrong arrow fails here, not in a review."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from mlops_nb.core import verb_index

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlops_nb"

STREET = "core guard cost data feature model serve monitor job comply app".split()  # each may use the faces to its left
SURFACES = {"__init__", "__main__", "cli", "magics", "lab"}
GROUND = {"events", "settings", "facts"}  # what every other room of a pillar may import
CONTRIBUTED = {
    "health",
    "status",
    "pages",
    "collectors",
    "services",
    "subjects",
}  # rooms that a face declares: they may import what verbs may
ABOVE = GROUND | {"engine", "adapter", "views", "panel", "metrics", "verbs", "contributed"}
ROOMS = {  # room -> rooms of its own pillar that it may import
    "events": set(),
    "settings": set(),
    "facts": {"events"},
    "engine": GROUND | {"engine"},
    "adapter": GROUND | {"engine"},
    "plugin": GROUND | {"engine", "adapter"},
    "views": GROUND,
    "metrics": GROUND | {"views"},
    "panel": GROUND | {"views"},
    "verbs": ABOVE,
    "contributed": ABOVE,
    "face": ABOVE,
}
TOOLS = {  # prefix of a room -> the packages that it alone may call
    "feast": {"feast"},
    "mlflow": {"mlflow"},
    "dvc": {"dvc", "dvc_data", "dvc_objects"},
    "evidently": {"evidently"},
    "papermill": {"papermill"},
    "nbconvert": {"nbconvert"},
    "kubernetes": {"kubernetes"},
    "ray": {"ray"},
    "spark": {"pyspark"},
}
MATERIALS = set(
    (
        "numpy pandas pyarrow duckdb scipy sklearn onnx onnxruntime skl2onnx skops nbformat nbclient "
        "jupyter_client IPython ipywidgets jinja2"
    ).split()
) | {"cryptography", "psutil", "matplotlib", "sqlalchemy", "xgboost", "lightgbm", "torch", "polars", "pynvml"}
HEAVY = MATERIALS | set().union(*TOOLS.values())
EXCEPTIONS = {  # (importing module, imported module) -> why this arrow may stand
    ("mlops_nb.cost.views", "mlops_nb.cost.spending"): "the rows of a view come from a fold that keeps its place",
    ("mlops_nb.data.reading", "mlops_nb.data.dvc_versions"): "NAME@v is resolved by the pointer that DVC keeps",
    ("mlops_nb.data.reading", "mlops_nb.data.dvc_bytes"): "its bytes are read where DVC keeps them",
    (
        "mlops_nb.feature.online_reader",
        "mlops_nb.feature.feast_online",
    ): "one setting picks the store: ours, or Feast's behind it",
    (
        "mlops_nb.job.runs.cell_runner",
        "mlops_nb.job.runs.shell_plugin",
    ): "the fork of the warm server makes the shell, where nothing else does",
    ("mlops_nb.job.runs.fork_server", "mlops_nb.cli"): "a fork carries out the shell command that it was handed",
    (
        "mlops_nb.job.runs.papermill_runner",
        "mlops_nb.job.runs.papermill_plugin",
    ): "registers the engine where no entry point is installed",
    ("mlops_nb.job.papermill_plugin", "mlops_nb.job.runs.papermill_plugin"): "the place of version 0.1",
    ("mlops_nb.job.nbconvert_plugin", "mlops_nb.job.conversion.nbconvert_plugin"): "the place of version 0.1",
}


GROUND_OF_SUB_ROOMS = GROUND | {"definition"}  # what a sub-room may import of the rooms beside it
MOST_ARROWS = {"job": 60}  # pillar -> imports from one sub-room into another; there must be fewer


@functools.cache
def modules() -> tuple[str, ...]:
    "Dotted names below mlops_nb"
    found = [
        p.relative_to(ROOT).with_suffix("").parts
        for p in PACKAGE.rglob("*.py")
        if "tutorials" not in p.parts and "templates" not in p.parts
    ]
    return tuple(sorted(".".join(x[:-1] if x[-1] == "__init__" else x) for x in found))


def where(name: str) -> tuple[str, str]:
    "(pillar, room) of a module; a surface has the pillar ''"
    parts = name.split(".")[1:]
    if not parts or parts[0] in SURFACES:
        return "", parts[0] if parts else "__init__"
    return parts[0], parts[-1] if len(parts) > 1 else "__init__"


def kind(room: str) -> str:
    "Kind of a room by its name"
    if room == "__init__":
        return "face"
    if room.endswith("_plugin"):
        return "plugin"
    if room in ROOMS:
        return room
    if room in CONTRIBUTED:
        return "contributed"
    for word in ("verbs", "facts", "views", "panel"):
        if room.endswith(f"_{word}"):
            return word
    return "adapter" if room.split("_")[0] in TOOLS and "_" in room else "engine"


@functools.cache
def path_of(name: str) -> Path:
    p = ROOT.joinpath(*name.split("."))
    return p / "__init__.py" if p.is_dir() else p.with_suffix(".py")


@functools.cache
def nodes(name: str) -> tuple[ast.AST, ...]:
    "All that a module is made of"
    return tuple(ast.walk(ast.parse(path_of(name).read_text(encoding="utf-8"))))


@functools.cache
def imports(name: str) -> tuple[tuple[str, int, bool], ...]:
    "(imported module, line, at module level?); relative ones resolved, `from package import room` named by the room"
    package = name if path_of(name).name == "__init__.py" else name.rpartition(".")[0]
    top = {id(n) for n in nodes(name) if getattr(n, "col_offset", 1) == 0}
    found = []
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found += [(a.name, node.lineno, id(node) in top) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for a in node.names:
                deeper = f"{source}.{a.name}"
                found.append(
                    (
                        deeper if source.startswith("mlops_nb") and path_of(deeper).exists() else source,
                        node.lineno,
                        id(node) in top,
                    )
                )
    return tuple(found)


def wrong_outside(room: str, package: str) -> str:
    "Why a room may not import a package of somebody else"
    tool = next((t for t, packages in TOOLS.items() if package in packages), "")
    fits = kind(room) in ("adapter", "plugin") and room.split("_")[0] == tool
    return f"only a room {tool}_<role> may call {tool}" if tool and not fits else ""


def wrong_inside(pillar: str, room: str, into: str) -> str:
    "Why a room may not import another one of its pillar"
    if pillar == "core" or into == "__init__":
        return ""
    if kind(room) == kind(into) == "adapter" and room.split("_")[0] == into.split("_")[0]:
        return ""  # two rooms of one tool
    return "" if kind(into) in ROOMS[kind(room)] else f"{kind(room)} may not import {kind(into)}"


def wrong_across(pillar: str, room: str, to: str, into: str) -> str:
    "Why a room may not import one of another pillar"
    if STREET.index(to) > STREET.index(pillar):
        return f"{to} stands to the right of {pillar}: fold its events, or core.verbs.call"
    if to == "core" or into == "facts":
        return ""
    if kind(room) in ("facts", "views", "metrics", "panel"):
        return f"{kind(room)} imports core and facts"
    return "" if into == "__init__" else f"use the public face of {to}, not its room {into}"


def wrong(name: str, other: str) -> str:
    "Why `name` may not import `other`; empty when it may"
    pillar, room = where(name)
    if not other.startswith("mlops_nb"):
        return wrong_outside(room, other.split(".")[0])
    to, into = where(other)
    if not to:
        return "" if into == "__init__" or pillar == "" else "a surface is imported by nothing"
    if not pillar:
        return "" if to == "core" else "a surface imports core and nothing else"
    if to not in STREET:
        return f"no pillar {to}"
    if kind(room) in ("events", "settings"):
        return "" if to == "core" else f"{kind(room)} imports core alone"
    if into == "events":
        return ""  # what happened may be read from left and right
    return wrong_inside(pillar, room, into) if to == pillar else wrong_across(pillar, room, to, into)


def test_arrows():
    found = [
        f"{path_of(n).relative_to(ROOT)}:{line}: {n} -> {other}: {why}"
        for n in modules()
        for other, line, _ in imports(n)
        if (why := wrong(n, other)) and (n, other) not in EXCEPTIONS
    ]
    assert found == []


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    "Groups of modules that import each other, directly or by way of others (Tarjan)"
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return sorted(found)


def test_no_circles_between_modules():
    "At module level there is none at all; a face is no module that holds anything, so what goes through it is not counted"
    known = set(modules())
    faces = {n for n in known if kind(where(n)[1]) == "face"}
    top = {n: {other for other, _, at_top in imports(n) if at_top and other in known - faces} for n in known - faces}
    assert circles(top) == []


def test_no_circles_between_modules_of_a_pillar():
    "Also not by imports inside functions, but for what the ground offers at any time"
    known = set(modules())
    for pillar in [p for p in STREET if p != "core"]:
        own = {n for n in known if where(n)[0] == pillar and kind(where(n)[1]) != "face"}
        arrows = {n: {other for other, _, _ in imports(n) if other in own} for n in own}
        assert circles(arrows) == [], pillar


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def sub_room(name: str) -> str:
    "`runs` of `mlops_nb.job.runs.execution`; empty for a module that stands in its pillar itself"
    return ".".join(name.split(".")[2:-1])


def across_sub_rooms(pillar: str) -> set[tuple[str, str]]:
    "Imports of a sub-room's module by a module of another sub-room"
    inside = [n for n in modules() if where(n)[0] == pillar and sub_room(n)]
    found = {(n, other) for n in inside for other, _, _ in imports(n) if other in inside}
    return {(n, other) for n, other in found if sub_room(n) != sub_room(other)}


def test_sub_rooms_know_little_of_each_other():
    divided = {where(n)[0] for n in modules() if sub_room(n)}
    assert divided == set(MOST_ARROWS)
    for pillar in divided:
        found = across_sub_rooms(pillar)
        assert len(found) < MOST_ARROWS[pillar], sorted(found)
        arrows: dict[str, set[str]] = {}
        for n, other in found:
            arrows.setdefault(sub_room(n), set()).add(sub_room(other))
        assert circles(arrows) == []


def test_sub_rooms_stand_on_the_ground_of_their_pillar():
    "What stands in the pillar itself and is no ground of it may use the sub-rooms, and they do not use it"
    found = [
        (n, other)
        for n in modules()
        for other, _, _ in imports(n)
        if sub_room(n)
        and where(other)[0] == where(n)[0]
        and not sub_room(other)
        and path_of(other).name != "__init__.py"
        and where(other)[1] not in GROUND_OF_SUB_ROOMS
    ]
    assert found == []


def test_sub_rooms_are_named_by_nouns():
    "Not like a verb, and no module like its sub-room; what such a folder says of itself is a lesson and nothing else"
    verbs = {(path.split(".")[0], word) for path in verb_index.load() for word in path.split(".")[1:]}
    for n in modules():
        if folder := sub_room(n):
            assert (where(n)[0], folder) not in verbs and n.split(".")[-1] != folder, n
            package = ast.parse(path_of(n).with_name("__init__.py").read_text(encoding="utf-8"))
            assert all(isinstance(node, ast.Expr | ast.Assign) for node in package.body), n


def test_a_room_in_a_sub_room_is_looked_at():
    "A room is what its own name says, in whatever folder it stands"
    assert where("mlops_nb.job.schedules.facts") == ("job", "facts")
    assert kind(where("mlops_nb.job.runs.papermill_plugin")[1]) == "plugin"
    assert wrong("mlops_nb.job.schedules.panel", "mlops_nb.job.schedules.daemon") == "panel may not import engine"
    assert wrong("mlops_nb.job.runs.execution", "mlops_nb.job.schedules.verbs") == "engine may not import verbs"
    assert "public face" in wrong("mlops_nb.app.verbs", "mlops_nb.job.runs.execution")
    assert "only a room" in wrong("mlops_nb.job.runs.execution", "papermill.execute")


def test_exceptions_are_needed():
    used = {(n, other) for n in modules() for other, _, _ in imports(n) if wrong(n, other)}
    assert {arrow for arrow in EXCEPTIONS if arrow[0] in modules()} - used == set()


def test_nothing_heavy_at_module_level():
    found = [
        f"{path_of(n).relative_to(ROOT)}:{line}: {other}"
        for n in modules()
        if kind(where(n)[1]) != "plugin"
        for other, line, top in imports(n)
        if top and other.split(".")[0] in HEAVY
    ]
    assert found == []


def test_no_module_is_named_like_a_verb():
    index = verb_index.load()
    words = {(path.split(".")[0], path.split(".")[-1]) for path in index}
    here = {(e["where"].split(".")[1], path.split(".")[-1]) for path, e in index.items()}
    assert [n for n in modules() if (where(n)[0], where(n)[1]) in words | here] == []


def test_every_pillar_stands_on_the_street():
    pillars = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert pillars - {*STREET, "lab", "tutorials", "templates"} == set()


def private_names(parts: Iterable[ast.AST]) -> list[str]:
    "Private names of other modules of ours that a module reaches into"
    ours = [
        node
        for node in parts
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("mlops_nb"))
    ]
    imported = [alias for node in ours for alias in node.names]
    modules_here = {alias.asname or alias.name for alias in imported}
    found = [alias.name for alias in imported if alias.name.startswith("_") and not alias.name.startswith("__")]
    for node in parts:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules_here:
            if node.attr.startswith("_") and not node.attr.startswith(("__", "_make")):  # `_make` is a NamedTuple's
                found.append(f"{node.value.id}.{node.attr}")
    return found


def test_private_names_stay_in_their_room():
    "What a neighbour needs is public; an old place holds what checkpoints name by it"
    found = {n: private_names(nodes(n)) for n in modules()}
    assert {n: names for n, names in found.items() if names} == {"mlops_nb.job.namespace": ["_shut", "_view"]}
    example = ast.parse("from mlops_nb.a import b, _c\nimport os\nb._d(os._exit)\nb.__doc__")
    assert private_names(list(ast.walk(example))) == ["_c", "b._d"]


def test_calls_by_path_name_a_verb():
    "`call('job.run', ...)` reaches to the right; the verb must be there"
    index, found = verb_index.load(), []
    for n in modules():
        for node in nodes(n):
            callee = getattr(node, "func", None)
            is_call = callee is not None and (getattr(callee, "id", "") or getattr(callee, "attr", "")) == "call"
            if is_call and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                path = node.args[0].value
                if path not in index and (PACKAGE / path.split(".")[0] / "verbs.py").exists():
                    found.append(f"{n}:{node.lineno}: {path}")
    assert found == []


LOAD = """
import importlib, sys
for name in sys.argv[2:]:
    if name.rpartition('.')[2]!='__main__': importlib.import_module(name)
print(' '.join(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv[1].split(',')))))
"""


def loaded(names: list[str]) -> list[str]:
    "Tools and heavy materials in a fresh process after importing `names`"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, ",".join(HEAVY), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{names}: {done.stderr[-2000:]}"
    return done.stdout.split()


def test_imports_load_no_tool():
    names = [n for n in modules() if kind(where(n)[1]) != "plugin"]
    guilty = {n: found for n in names if (found := loaded([n]))} if loaded(names) else {}
    assert guilty == {}
