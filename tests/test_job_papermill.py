"""papermill's own test notebooks do the same with papermill's engine, with ours behind papermill's interface, and in a fork."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
from helpers.counts import FULL

from mlops_nb import job as jobs
from mlops_nb.core import warm
from mlops_nb.core.errors import BadInput, Finding
from mlops_nb.job import definition
from mlops_nb.job.notebook import notebook_ast
from mlops_nb.job.notebook import cell_syntax
from mlops_nb.job.runs import injection
from mlops_nb.job.facts import Job

CORPUS = Path(__file__).parent / "corpus_papermill"
SOME = {"sysexit0", "line_magic_error", "complex_parameters", "simple_execute", "broken1"}
NOTEBOOKS = sorted(p.stem for p in CORPUS.glob("*.ipynb") if FULL or p.stem in SOME)


def outcomes(path: Path) -> list[dict]:
    "What the code cells did, without papermill's marks of an error"
    cells = notebook_ast.load(path)["cells"]
    plain = re.sub(
        r"\((<ipython-input-\S+>|\d+\.py), line", "(cell, line", json.dumps(cells)
    )  # the file of a cell has another name
    return [
        injection.outcome(c)
        for c in json.loads(plain)
        if c["cell_type"] == "code" and not {"papermill-error-cell-tag"} & set(c["metadata"].get("tags") or [])
    ]


def by_papermill(source: Path, engine: str | None) -> tuple[list[dict], bool]:
    import papermill
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError

    from mlops_nb.job.runs.papermill_plugin import MlopsEngine

    papermill_engines.register("mlops", MlopsEngine)
    out = source.with_suffix(f".{engine}.ipynb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            papermill.execute_notebook(source, out, engine_name=engine, kernel_name="python3", progress_bar=False)
        except PapermillExecutionError:
            return outcomes(out), False
    return outcomes(out), True


def in_a_fork(project, source: Path) -> tuple[list[dict], bool]:
    name = "pm-" + source.stem.replace("_", "-")
    definition.write(project, Job(name=name, notebook=f"{name}.ipynb"), notebook_ast.load(source), [])
    try:
        r, ok = jobs.run(name), True
    except Finding as e:
        r, ok = e.result, False
    assert r.form == "fork"
    return outcomes(Path(r.output)), ok


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_same_outputs(project, name):
    source = project.root / f"{name}.ipynb"
    shutil.copyfile(CORPUS / f"{name}.ipynb", source)
    theirs, ok = by_papermill(source, None)
    assert by_papermill(source, "mlops") == (theirs, ok)
    if not warm.supported():
        return
    try:
        cell_syntax.check(notebook_ast.load(source))
    except BadInput:  # papermill runs the cells above; a job refuses the whole
        with pytest.raises(BadInput, match="is no valid Python"):
            in_a_fork(project, source)
        assert not list((project.state / "runs").glob("*"))
    else:
        assert in_a_fork(project, source) == (theirs, ok)


def test_every_notebook_says_where_it_comes_from():
    origin = (CORPUS / "ORIGIN.md").read_text(encoding="utf-8")
    assert "nteract/papermill" in origin and "BSD 3-Clause" in (CORPUS / "LICENSE").read_text(encoding="utf-8")
    assert (
        all(json.loads(p.read_text(encoding="utf-8"))["nbformat"] == 4 for p in CORPUS.glob("*.ipynb"))
        and len(NOTEBOOKS) >= 5
    )
