"""Thirty notebooks of other people: each converts, each job compiles, those with data give the same results."""

import ast
import hashlib
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from helpers.counts import count

from mlops_nb import job as jobs
from mlops_nb.job.conversion import job_notebook, requirements
from mlops_nb.job.findings import faults, fresh_kernel
from mlops_nb.job.notebook import notebook_ast, notebook_diff
from mlops_nb.job.notebook.cell_source import take_apart

HERE = Path(__file__).parent / "corpus"
NOTEBOOKS = tomllib.loads((HERE / "corpus.toml").read_text(encoding="utf-8"))["notebook"]
FILES = [n["file"] for n in NOTEBOOKS]
PERMISSIVE = {"MIT", "BSD-3-Clause", "Apache-2.0", "CC0-1.0", "CC-BY-4.0"}
RUNS = [  # their data is bundled, made or needless, and they say the same in every run; the quickest first
    "jupytext-python_notebook_sample.ipynb",
    "jupytext-jupyter.ipynb",
    "statsmodels-gls.ipynb",
    "nbsphinx-hidden-cells.ipynb",
    "jupytext-nteract_with_parameter.ipynb",
    "jupytext-plotly_graphs.ipynb",
    "voila-query-strings.ipynb",
    "statsmodels-stats_poisson.ipynb",
    "statsmodels-tsa_dates.ipynb",
    "statsmodels-quasibinomial.ipynb",
    "statsmodels-ols.ipynb",
    "statsmodels-metaanalysis1.ipynb",
    "statsmodels-glm_formula.ipynb",
]


def test_the_corpus_is_what_it_says():
    assert len(NOTEBOOKS) == 30 and sorted(FILES) == sorted(p.name for p in HERE.glob("*.ipynb"))
    assert len({n["repository"] for n in NOTEBOOKS}) >= 9, "different people, different styles"
    for n in NOTEBOOKS:
        raw = (HERE / n["file"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == n["sha256"], f"{n['file']} was modified"
        git = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        assert git == n["blob"] and re.fullmatch("[0-9a-f]{40}", n["commit"]), (
            f"{n['file']}: `git rev-parse COMMIT:PATH` must say {git}"
        )
        assert (
            n["licence"] in PERMISSIVE
            and len(n["sdist_sha256"]) == 64
            and n["version"]
            and n["path"]
            and len(raw) < 300_000
        )
        assert (HERE / "LICENSES" / f"{n['file'].split('-')[0]}.txt").stat().st_size > 500
    assert set(RUNS) <= set(FILES)


def syntax(cell: notebook_ast.Cell) -> dict:
    "Everything that is known of a cell, its syntax tree as text"
    known = {name: getattr(cell, name) for name in cell.__struct_fields__}
    return known | {"tree": cell.tree and ast.dump(cell.tree), "statements": [names for _, names in cell.statements]}


def test_a_notebook_is_understood_once(monkeypatch):
    "What steps are planned from is what the conversion understood, not the job read again"
    planned, understood = [], []
    plan, understand = job_notebook.steps.plan, notebook_ast.understand
    monkeypatch.setattr(job_notebook.steps, "plan", lambda cells, given: planned.append(cells) or plan(cells, given))
    monkeypatch.setattr(notebook_ast, "understand", lambda *a, **k: understood.append(a) or understand(*a, **k))
    for file in FILES:
        notebook = notebook_ast.load(HERE / file)
        understood.clear()
        made = job_notebook.convert(notebook)
        assert len(understood) == sum(cell["cell_type"] == "code" for cell in notebook["cells"]), file
        assert [*map(syntax, planned[-1])] == [*map(syntax, notebook_ast.cells_of(made.notebook))], file


@pytest.mark.parametrize("file", FILES)
def test_each_converts_and_compiles(file):
    nb = notebook_ast.load(HERE / file, lazy=True)
    found, cells = faults.find(nb, HERE)
    made = job_notebook.convert(nb, "job", HERE)
    code = [c for c in made.notebook["cells"] if c["cell_type"] == "code"]
    assert code and cells == sum(c["cell_type"] == "code" for c in nb["cells"])
    for c in code:
        source = take_apart(c["source"])
        compile(source.python, file, "exec", 0x2000)  # top-level await is allowed in a notebook
        assert not [m for m in source.magics if m.kind in ("install", "help")]
    kept = {notebook_diff.origin(c) for c in code} - {None}
    dropped = {d.cell for d in made.job.dropped_cells}
    assert not kept & dropped
    again = job_notebook.convert(nb, "job", HERE)
    assert again.notebook == made.notebook and again.job == made.job, "the same notebook gives the same job"
    assert all(f.message and f.fix for f in found)


def missing(nb) -> list[str]:
    modules = {m for c in notebook_ast.cells_of(nb) for m in c.imports}
    return sorted(m for m in modules if requirements.kind_of(m) == "missing")


@pytest.mark.parametrize("file", RUNS[: count(3, len(RUNS))])
def test_a_job_gives_what_its_notebook_gave(project, file):
    nb = notebook_ast.load(HERE / file)
    if without := missing(nb):
        pytest.skip(f"needs {', '.join(without)}")
    shutil.copy(HERE / file, file)
    plain = fresh_kernel.run_afresh(nb, project.root)
    name = jobs.convert(Path(file), "same").name
    record = jobs.run(name)
    ran, made = (
        notebook_ast.load(record.output)["cells"],
        notebook_ast.load(project.root / f"jobs/{name}/{name}.ipynb")["cells"],
    )
    assert [c["source"] for c in ran] == [c["source"] for c in made], "without parameters nothing is injected"
    origins = [(notebook_diff.origin(c), n) for n, c in enumerate(made) if c["cell_type"] == "code"]
    for at, n in [(at, n) for at, n in origins if at is not None]:
        assert fresh_kernel.said(ran[n]) == fresh_kernel.said(plain["cells"][at]), f"cell {at}"
    assert len(origins) > 1 and record.status == "completed"
