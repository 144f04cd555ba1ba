"""Notebooks kept as text: jupytext's scripts and Markdown convert, run and are checked like the notebook that they are."""

import sys
from pathlib import Path

import pytest

from mlops_nb import job as jobs
from mlops_nb.core.errors import BadInput, MissingTool
from mlops_nb.job import definition
from mlops_nb.job.notebook import notebook_ast, text_notebooks

PERCENT = """# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Twice

# %% tags=["parameters"]
n = 3  # How often

# %%
# %matplotlib inline
import math

# %%
print("twice", 2 * n, math.pi > 3)
"""
LIGHT = "n = 3\n\nimport math\n\nprint('twice', 2 * n, math.pi > 3)\n"
MARKDOWN = """# Twice

```python tags=["parameters"]
n = 3
```

Words between.

```python
import math

print("twice", 2 * n, math.pi > 3)
```
"""
TEXTS = {
    "percent.py": PERCENT,
    "light.py": LIGHT,
    "words.md": MARKDOWN,
    "words.Rmd": MARKDOWN.replace('python tags=["parameters"]', '{python tags=c("parameters")}').replace(
        "```python", "```{python}"
    ),
}


@pytest.fixture(autouse=True)
def jupytext():
    return pytest.importorskip("jupytext")


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_becomes_a_job_that_runs(project, name):
    file = project.root / name
    file.write_text(TEXTS[name], encoding="utf-8")
    job = jobs.convert(file)
    assert [(parameter.name, parameter.default) for parameter in job.parameters] == [("n", 3)]
    assert job.source == name and file.read_text(encoding="utf-8") == TEXTS[name], "the text stays as it is"
    record = jobs.run(job.name, params={"n": "5"})
    assert record.ok and "twice 10 True" in (project.root / record.output).read_text(encoding="utf-8")
    assert definition.read(project, job.name).notebook.endswith(".ipynb")


def test_a_text_is_the_same_notebook_each_time(project):
    file = project.root / "percent.py"
    file.write_text(PERCENT, encoding="utf-8")
    first, second = (notebook_ast.load(file) for _ in range(2))
    assert first == second and [cell["cell_type"] for cell in first["cells"]] == ["markdown", "code", "code", "code"]
    assert first["cells"][2]["source"].startswith("%matplotlib inline"), "magics are magics again"


def test_a_text_is_checked_by_its_cells(project):
    file = project.root / "bad.py"
    file.write_text("# %%\nx = 1\n# %%\nprint(gone)\n", encoding="utf-8")
    fact = jobs.check(file)
    assert [(finding.cell, finding.kind) for finding in fact.findings] == [(1, "undefined")] and fact.cells == 2


@pytest.mark.parametrize(
    "raw, words", [(b"x = '\xff'\n", "no text in UTF-8"), (b"", "no code"), (b"# Words\n", "no code")]
)
def test_a_text_that_is_no_notebook_is_one_line(project, raw, words):
    file = project.root / "odd.md"
    file.write_bytes(raw)
    with pytest.raises(BadInput, match=words):
        jobs.convert(file)
    assert not (project.root / "jobs" / "odd").exists()


def test_without_jupytext_it_says_how_to_get_it(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    file = project.root / "light.py"
    file.write_text(LIGHT, encoding="utf-8")
    with pytest.raises(MissingTool, match=r"jupytext.*mlops-nb\[jupytext\]"):
        jobs.convert(file)
    assert set(text_notebooks.SUFFIXES) == {".py", ".md", ".markdown", ".Rmd"} and Path(file).exists()
