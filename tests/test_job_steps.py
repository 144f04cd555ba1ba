"""`%%mlops step` cells: the graph, its closure of definitions, what review sees, what is refused."""

import json
from pathlib import Path

import pytest
from helpers.job_runs import nb

from mlops_nb.core.errors import BadInput
from mlops_nb.job import definition
from mlops_nb.job.conversion import job_notebook
from mlops_nb.job.notebook import notebook_ast

PIPELINE = [
    "md:# Delays",
    "import math\nimport statistics as st\nimport matplotlib.pyplot as plt",
    "scale = 2.0  # of the score\nLIMIT = 10",
    "def score(x): return scale*helper(x)\ndef helper(x): return math.sqrt(x)",
    "def unused(x): return x",
    "%%mlops step load --retries 2\nrows = [x for x in range(20)]\nrows[:3]",
    "plt.plot(rows)",
    "%%mlops step clean\nrows.append(LIMIT)",
    "%%mlops step fit\nmodel = [score(r) for r in rows]",
    "%%mlops step save\nwith open('model.txt', 'w') as f: f.write(str(model))",
    "%%mlops step report --after clean\nprint(st.mean(map(float, open('model.txt').read().strip('[]').split(','))))",
]


def converted(*sources, **kw):
    return job_notebook.convert(notebook_ast.check_format(nb(*sources, **kw)))


def sources(made, cells):
    return "\n".join(made.notebook["cells"][n]["source"] for n in cells)


def test_steps_know_what_they_need_take_and_give():
    made = converted(*PIPELINE)
    steps = {s.name: s for s in made.job.steps}
    assert list(steps) == ["load", "clean", "fit", "save", "report"]
    assert {n: s.needs for n, s in steps.items()} == {
        "load": [],
        "clean": ["load"],
        "fit": ["clean"],
        "save": ["fit"],
        "report": ["clean", "save"],
    }
    assert steps["load"].gives == ["rows"] and steps["fit"].uses == ["rows"] and steps["fit"].gives == ["model"]
    assert steps["load"].retries == 2 and steps["fit"].retries == 0
    closure = sources(made, steps["fit"].definitions)
    assert "def score" in closure and "import math" in closure and "scale = 2.0" in closure, (
        "definitions of definitions too"
    )
    assert "unused" not in closure and "LIMIT" not in sources(made, steps["load"].cells + steps["load"].definitions)
    assert "%%" not in sources(made, range(len(made.notebook["cells"])))
    tags = [
        c["metadata"].get("tags") for c in made.notebook["cells"] if "step:load" in (c["metadata"].get("tags") or [])
    ]
    assert tags == [["step:load", "retries:2"]]


def test_each_step_runs_alone_from_its_closure_and_what_it_takes():
    "What job.toml says is enough to run a step in a process that ran nothing else"
    made, kept, alone = converted(*PIPELINE), {}, {}
    for s in made.job.steps:
        space = {n: kept[n] for n in s.uses}
        exec(sources(made, s.definitions), space)
        space |= {n: kept[n] for n in s.uses}
        if s.name in ("save", "report"):
            space["open"] = fake_open(alone)
        exec(sources(made, s.cells), space)
        kept |= {n: space[n] for n in s.gives}
    assert len(kept["model"]) == 21 and alone["model.txt"].startswith("[0.0, 2.0")


def fake_open(files):
    import io

    class Kept(io.StringIO):
        def close(self):
            files["model.txt"] = self.getvalue() or files.get("model.txt", "")

    return lambda name, mode="r": Kept(files.get(name, "") if mode == "r" else "")


def test_unmarked_work_is_a_step_of_its_own():
    made = converted("import math", "df = math.sqrt(4)", "df = df+1", "%%mlops step fit\ny = df*2", "print(y)")
    assert [(s.name, s.cells, s.needs) for s in made.job.steps] == [
        ("cell_1", [1, 2], []),
        ("fit", [3], ["cell_1"]),
        ("cell_4", [4], ["fit"]),
    ]


def test_a_notebook_without_marks_has_no_steps():
    assert converted("x = 1", "print(x)").job.steps == []


def test_steps_survive_job_toml_and_a_second_conversion(project, cli):
    Path("p.ipynb").write_text(json.dumps(nb(*PIPELINE)), encoding="utf-8")
    a = cli("job", "convert", "p.ipynb", "--json")
    assert a.exit == 0 and [s["name"] for s in a.json["steps"]] == ["load", "clean", "fit", "save", "report"]
    job = definition.read(project, "p")
    assert json.loads(json.dumps([s["name"] for s in cli("job", "show", "p", "--json").json["steps"]])) == [
        s.name for s in job.steps
    ]
    text = (project.root / "jobs/p/job.toml").read_text(encoding="utf-8")
    assert '[[steps]]\nname = "fit"\ncells = [' in text and 'needs = ["clean"]' in text
    again = job_notebook.convert(notebook_ast.load(project.root / "jobs/p/p.ipynb")).job.steps
    assert again == job.steps, "the tags in the job's notebook say the same"


@pytest.mark.parametrize(
    "cells,words",
    [
        (["%%mlops step ../x\nx = 1"], "'../x' is no name of a step"),
        (["%%mlops step\nx = 1"], "is no name of a step"),
        (["%%mlops step a --retries many\nx = 1"], "is no option of a step"),
        (["%%mlops step a --after b\nx = 1"], "comes after `b`"),
        (["%%mlops step a\nx = 1", "%%mlops step b\ny = x", "%%mlops step a\nz = y"], "need each other"),
    ],
)
def test_wrong_marks_are_one_line(cells, words):
    with pytest.raises(BadInput) as e:
        converted(*cells)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_a_step_cell_runs_in_the_notebook_too(project):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_line_magic("load_ext", "mlops_nb")
        done = shell.run_cell("%%mlops step fit --retries 1\nx = 6*7")
        assert done.success and shell.user_ns["x"] == 42
    finally:
        InteractiveShell.clear_instance()


def test_a_seed_binds_nothing_and_comes_along():
    made = converted(
        "import numpy as np",
        "np.random.seed(0)",
        "%%mlops step draw\nx = np.random.rand(3)",
        "%%mlops step show\nprint(x)",
    )
    assert [s.definitions for s in made.job.steps] == [[0, 1], [0, 1]]
