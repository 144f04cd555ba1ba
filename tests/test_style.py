"""Short modules, short functions, and nothing in them that belongs to one machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from notebooks import cells, files

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    p for p in (ROOT / "mlops_nb").rglob("*.py") if not {"tutorials", "templates"} & set(p.parts) and p.name != "_modidx.py"
)
MODULE_LINES, FUNCTION_LINES, LINE = 400, 40, 300  # the habit is 130; this is where nobody can read on
BELONGS_TO_A_MACHINE = re.compile(r"/(?:root|work|Users)/|C:\\\\Users|127\.0\.0\.1:\d{5}.*token")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2705\u274c\u2728\u26a0]")


def texts() -> list[Path]:
    "Text files of the repository: those of git where it is a checkout"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    kept = (".py", ".ipynb", ".md", ".qmd", ".toml", ".ini", ".yml", ".json", ".csv", ".html", ".css", ".j2")
    return [
        ROOT / f
        for f in listed.stdout.split("\n")
        if f.endswith(kept) and (ROOT / f).is_file() and f != "tests/test_style.py" and not f.startswith("tests/corpus/")
    ]


def test_modules_are_short():
    long = {
        str(m.relative_to(ROOT)): n for m in MODULES if (n := len(m.read_text(encoding="utf-8").splitlines())) >= MODULE_LINES
    }
    assert long == {}


def test_functions_are_short():
    long = []
    for m in MODULES:
        for node in ast.walk(ast.parse(m.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.body[0].lineno + 1  # the signature's documented parameters do not count
                long += [f"{m.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}"] if lines > FUNCTION_LINES else []
    assert long == []


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
