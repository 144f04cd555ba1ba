"""Short modules, short cells, comments that reach their readers, and nothing in them that belongs to one machine."""

import ast
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import textwrap
import tokenize
import types
from pathlib import Path
from typing import NamedTuple

import mlflow  # noqa: F401 - MLflow and papermill load plug-ins of ours, which cannot be imported before their tools
import papermill  # noqa: F401
import pytest
from fastcore.docments import docments
from helpers.notebooks import cells, files

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    p
    for p in (ROOT / "mlops_nb").rglob("*.py")
    if not {"tutorials", "templates"} & set(p.parts) and p.name != "_modidx.py"
)
MODULE_STATEMENTS, CELL_STATEMENTS, CONDITIONS = 400, 60, 3
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


def weight(expression: ast.expr) -> int:
    "Conditions and loops in one expression: each `and`, `or`, conditional, `for` and `if` of a comprehension"
    count = 0
    for node in ast.walk(expression):
        if isinstance(node, ast.IfExp):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def expressions(statement: ast.stmt) -> list[ast.expr]:
    "The expressions that a statement holds itself, not those of the statements inside it"
    fields = [value for _, value in ast.iter_fields(statement)]
    parts = [part for value in fields for part in (value if isinstance(value, list) else [value])]
    parts = [part.context_expr if isinstance(part, ast.withitem) else part for part in parts]
    return [part for part in parts if isinstance(part, ast.expr)]


def dense(source: str) -> list[str]:
    "Expressions with more than three conditions or loops"
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return [
        f"line {part.lineno}: {weight(part)} in {ast.unparse(part)[:80]}"
        for statement in statements
        for part in expressions(statement)
        if weight(part) > CONDITIONS
    ]


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def nested_loops(source: str) -> list[str]:
    "Comprehensions with more than one `for`"
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, COMPREHENSIONS)]
    return [f"line {node.lineno}: {ast.unparse(node)[:80]}" for node in found if len(node.generators) > 1]


def shape(node: ast.expr) -> str:
    return re.sub(r"ctx=\w+\(\)", "", ast.dump(node))


def alike(targets: list[ast.expr], values: list[ast.expr]) -> bool:
    "Are these values one thing? A swap, constants of one type, calls of one function, parts of one object"
    if {shape(t) for t in targets} & {shape(v) for v in values}:
        return True
    if all(isinstance(v, ast.Constant) for v in values):
        return len({type(v.value) for v in values}) == 1
    if all(isinstance(v, ast.Call) for v in values):
        return len({shape(v.func) for v in values}) == 1
    parts = (ast.Attribute, ast.Subscript)
    return all(isinstance(v, parts) for v in values) and len({shape(v.value) for v in values}) == 1


def unlike(source: str) -> list[str]:
    "Assignments of several things that have nothing to do with each other"
    return [
        f"line {node.lineno}: {ast.unparse(node)[:80]}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        for target in node.targets
        if isinstance(target, ast.Tuple) and not alike(target.elts, node.value.elts)
    ]


@pytest.mark.parametrize("look", [dense, nested_loops, unlike])
def test_expressions_are_plain(look):
    found = {str(m.relative_to(ROOT)): look(m.read_text(encoding="utf-8")) for m in MODULES}
    assert {m: lines for m, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "look, source, count",
    [
        (dense, "x = a and b and c and d and e", 1),
        (dense, "x = a and b and c and d", 0),
        (dense, "x = [i if i else 0 for i in y if i and z]", 1),
        (dense, "if a:\n    x = b if c else d\n", 0),
        (nested_loops, "x = [a for b in c for a in b]", 1),
        (unlike, "a, b = [], 0", 1),
        (unlike, "a, b = b, a", 0),
        (unlike, "low, high = 0, 1", 0),
        (unlike, "low, high = bounds", 0),
        (unlike, "a, b = read(x), read(y)", 0),
        (unlike, "a, b = x.low, x.high", 0),
        (unlike, "a, b = x.low, y.high", 1),
    ],
)
def test_what_is_plain(look, source, count):
    assert len(look(source)) == count


def test_directives_come_first():
    "A formatter or fixer that writes above `#| export` makes the cell leave its module in silence"
    wrong = []
    for notebook in files():
        for cell in cells(notebook):
            lines = "".join(cell["source"]).split("\n")
            at = [n for n, line in enumerate(lines) if line.startswith("#|")] if cell["cell_type"] == "code" else []
            wrong += [f"{notebook.relative_to(ROOT)}#{cell['id']}"] if at != list(range(len(at))) else []
    assert wrong == []


DICT_READS = re.compile(r"payload or \{\}|payload\.get\(|payload\[")


def test_no_payload_is_read_as_a_dict():
    "Writers and readers share the structs of the rooms `events`"
    found = [
        f"{m.relative_to(ROOT)}:{number}: {line.strip()}"
        for m in MODULES
        for number, line in enumerate(m.read_text(encoding="utf-8").splitlines(), 1)
        if DICT_READS.search(line)
    ]
    assert found == []


def imports(source: str) -> list[str]:
    "The modules that a file imports, wherever in it"
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module or ''}.{alias.name}" for alias in node.names]
    return found


def imported_tests(source: str) -> list[str]:
    "What a file imports from files of tests, or from conftest"
    return [name for name in imports(source) if re.match(r"(tests\.)?(test_\w+|conftest)(\.|$)", name)]


def test_no_test_imports_another():
    "What several tests use is in tests/helpers or is a fixture of conftest: a test file can be read and moved alone"
    found = {
        str(f.relative_to(ROOT)): names
        for f in sorted((ROOT / "tests").rglob("*.py"))
        if (names := imported_tests(f.read_text(encoding="utf-8")))
    }
    assert found == {}, "move it to tests/helpers"
    assert imported_tests("def f():\n    from tests.test_job_run import made\n") == ["tests.test_job_run.made"]
    assert imported_tests("import test_job_run\nfrom nbdev.test import test_nb\nfrom helpers.jobs import nb\n") == [
        "test_job_run"
    ]


@pytest.mark.parametrize(
    "words",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "--no-incremental"]],
    ids=["ruff", "format", "mypy"],
)
def test_tools_find_nothing(words, tmp_path):
    "What `make check` runs"
    tool = Path(sys.executable).with_name(words[0])
    if not tool.exists() or not (ROOT / "pyproject.toml").exists():
        pytest.skip(f"{words[0]} is not installed here")
    done = subprocess.run([tool, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


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


ASSERTS = re.compile(r"\bassert\b|\btest_(eq|fail|close|ne|is|warns|stdout)\(")
IMPORTS = (ast.Import, ast.ImportFrom)


def only_imports(source: str) -> bool:
    "A cell that imports and shows nothing; an `if TYPE_CHECKING:` may stand in it"
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic
        return False
    return all(isinstance(n, IMPORTS) or (isinstance(n, ast.If) and only_imports(ast.unparse(n.body))) for n in body)


class Taught(NamedTuple):
    "What the code cells of a room are"

    exported: int
    lessons: list[str]  # Cells that are not exported and do more than import


def taught_by(sources: list[str]) -> Taught:
    "Count the code cells of a notebook; `default_exp` counts for neither"
    exported = [source for source in sources if EXPORTED.search(source)]
    rest = [source for source in sources if not EXPORTED.search(source) and "#| default_exp" not in source]
    return Taught(len(exported), [source for source in rest if source.strip() and not only_imports(source)])


def rooms() -> dict[str, Taught]:
    "Rooms that export something: `feature/verbs` -> what its cells are"
    found = {}
    for notebook in teaching():
        sources = ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"]
        if any("#| default_exp" in source for source in sources):
            found[notebook.relative_to(ROOT / "nbs").with_suffix("").as_posix()] = taught_by(sources)
    return found


def test_a_third_of_the_cells_are_lessons():
    "Show the problem, then the definition, then its use"
    counted = rooms().values()
    lessons = sum(len(room.lessons) for room in counted)
    cells_of_code = lessons + sum(room.exported for room in counted)
    assert lessons >= cells_of_code / 3, f"{lessons} lessons among {cells_of_code} cells of code"


def test_every_room_has_a_lesson_that_asserts():
    silent = [name for name, room in rooms().items() if not any(map(ASSERTS.search, room.lessons))]
    assert silent == []


def test_what_a_lesson_is():
    sources = [
        "#| default_exp a",
        "#| export\nimport os",
        "#| exporti\nx = 1",
        "import os\nfrom a import b",
        "f(1)",
        "",
    ]
    assert taught_by(sources) == Taught(2, ["f(1)"])
    assert only_imports("import a\nif TYPE_CHECKING:\n    import b") and not only_imports("%mlops --help")
    assert ASSERTS.search("test_eq(1, 1)") and not ASSERTS.search("Status(tests=[])")


def test_tutorials_are_readable():
    assert {f.name: f.stat().st_size for f in files() if "tutorials" in f.parts and f.stat().st_size > 500_000} == {}
