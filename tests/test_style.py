"""Short modules, short cells, comments that reach their readers, and nothing in them that belongs to one machine."""

import ast
import importlib
import inspect
import io
import json
import re
import subprocess
import textwrap
import tokenize
import types
from pathlib import Path

import mlflow  # noqa: F401 - MLflow and papermill load plug-ins of ours, which cannot be imported before their tools
import papermill  # noqa: F401
import pytest
from fastcore.docments import docments
from notebooks import cells, files

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    p
    for p in (ROOT / "mlops_nb").rglob("*.py")
    if not {"tutorials", "templates"} & set(p.parts) and p.name != "_modidx.py"
)
MODULE_STATEMENTS, CELL_STATEMENTS = 400, 60
LINE = 300  # this is where nobody can read on
LONG_CELLS = ROOT / "tests" / "long_cells.json"
EXPORTED = re.compile(r"^#\|\s*exports?i?\b", re.M)
BELONGS_TO_A_MACHINE = re.compile(r"/(?:root|work|Users)/|C:\\\\Users|127\.0\.0\.1:\d{5}.*token")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2705\u274c\u2728\u26a0]")


def texts() -> list[Path]:
    "Text files of the repository: those of git where it is a checkout"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    kept = (".py", ".ipynb", ".md", ".qmd", ".toml", ".ini", ".yml", ".json", ".csv", ".html", ".css", ".j2")
    return [
        ROOT / f
        for f in listed.stdout.split("\n")
        if f.endswith(kept)
        and (ROOT / f).is_file()
        and f != "tests/test_style.py"
        and not f.startswith("tests/corpus/")
    ]


def statements(source: str) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(source)))


def test_modules_are_short():
    counted = {str(m.relative_to(ROOT)): statements(m.read_text(encoding="utf-8")) for m in MODULES}
    assert {m: n for m, n in counted.items() if n > MODULE_STATEMENTS} == {}


def exported() -> dict[str, str]:
    "Exported cells of all notebooks: `feature/verbs#1a2b3c4d` -> source"
    found = {}
    for notebook in files():
        for cell in cells(notebook):
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and EXPORTED.search(source):
                found[f"{notebook.relative_to(ROOT / 'nbs').with_suffix('')}#{cell['id']}"] = source
    return found


def test_cells_are_short():
    "A cell holds one idea; the cells that still hold more are listed, and the list only shrinks"
    known = json.loads(LONG_CELLS.read_text(encoding="utf-8"))
    long = {name: n for name, source in exported().items() if (n := statements(source)) > CELL_STATEMENTS}
    assert {name: n for name, n in long.items() if n > known.get(name, 0)} == {}, "cut these cells"
    assert sorted(set(known) - set(long)) == [], f"these are short now: strike them from {LONG_CELLS.name}"


def functions_of(module: types.ModuleType) -> list[types.FunctionType]:
    "Functions and methods that a module defines"
    own = [o for o in vars(module).values() if getattr(o, "__module__", None) == module.__name__]
    inside = [member for o in own if inspect.isclass(o) for member in vars(o).values()]
    members = [getattr(m, "fget", None) or getattr(m, "__func__", None) or m for m in inside]
    unwrapped = [inspect.unwrap(f) for f in [*own, *members] if callable(f) and not inspect.isclass(f)]
    return [
        f
        for f in unwrapped
        if inspect.isfunction(f) and f.__module__ == module.__name__ and "<" not in f.__code__.co_filename
    ]


def signature_comments(source: str) -> list[str]:
    "The comments inside the signature of a function"
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    body = ast.parse(source).body[0].body[0].lineno
    comments = [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT and t.start[0] < body]
    return [c for c in comments if not c.startswith(("noqa", "type:"))]


def lost_comments(module: types.ModuleType) -> list[str]:
    "Comments of signatures that neither `--help` nor the documentation sees"
    lost = []
    for function in functions_of(module):
        source = textwrap.dedent(inspect.getsource(function))
        if not source.startswith(("def", "async", "@")):
            continue  # a lambda
        try:
            known = docments(function, full=False, args_kwargs=True)
        except ValueError:  # an inherited docstring that no parser reads
            known = {}
        told = " ".join(" ".join(text.split()) for text in known.values() if text)
        comments = signature_comments(source)
        if "return" not in function.__annotations__:
            comments = [c for c in comments if f"): # {c}" not in source and f"):  # {c}" not in source]
        lost += [f"{function.__qualname__}: {c}" for c in comments if c not in told]
    return lost


def imported(module: Path) -> types.ModuleType:
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return importlib.import_module(name)


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.name != "__main__.py"], ids=lambda m: str(m.relative_to(ROOT))
)
def test_every_comment_of_a_signature_is_a_docment(module):
    "A formatter that breaks a long line carries its comment to where nobody reads it"
    assert lost_comments(imported(module)) == []


def test_a_lost_comment_is_found(tmp_path, monkeypatch):
    text = "def f(\n    names: list[\n        str\n    ] = [],  # Which ones\n) -> int:  # How many\n    return 0\n"
    (tmp_path / "broken_by_format.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert lost_comments(importlib.import_module("broken_by_format")) == ["f: Which ones"]


def test_lines_end():
    long = [
        f"{m.relative_to(ROOT)}:{n}: {len(line)}"
        for m in MODULES
        for n, line in enumerate(m.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LINE and not line.startswith(("# %%", "__all__")) and "<svg" not in line and "<path" not in line
    ]
    assert long == []


def test_nothing_of_one_machine():
    found = []
    for f in texts():
        for n, line in enumerate(f.read_text(encoding="utf-8").splitlines(), 1):
            if m := BELONGS_TO_A_MACHINE.search(line):
                found.append(f"{f.relative_to(ROOT)}:{n}: {m[0]}")
    assert found == []


def test_plain_words():
    assert [str(f.relative_to(ROOT)) for f in texts() if EMOJI.search(f.read_text(encoding="utf-8"))] == []


def teaching() -> list[Path]:
    return [f for f in files() if "tutorials" not in f.parts]


@pytest.mark.parametrize("notebook", teaching(), ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_a_notebook_introduces_itself(notebook):
    first = "".join(cells(notebook)[0]["source"])
    assert re.match(r"# \S", first), "the first cell is `# Title`"
    assert re.search(r"^> \S", first, re.M), "and `> one line`, which becomes the module's docstring"
    assert notebook.stat().st_size < 100_000, "saved outputs are small"
    assert len(cells(notebook)) <= 80


def test_tutorials_are_readable():
    assert {f.name: f.stat().st_size for f in files() if "tutorials" in f.parts and f.stat().st_size > 500_000} == {}
