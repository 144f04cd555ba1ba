"""A parameter is honoured or refused: nothing that a run is given gets lost without a word."""

import json
from pathlib import Path

import pytest
from helpers.job_runs import nb, texts

from mlops_nb import job as jobs
from mlops_nb.job.conversion import job_notebook
from mlops_nb.job.findings import faults
from mlops_nb.job.notebook import notebook_ast


def made(*sources, **kw):
    return job_notebook.convert(notebook_ast.check_format(nb(*sources, **kw))).job


TAGGED = {0: ["parameters"]}
LOST = [
    (["lr = 0.1", "lr = 0.5", "print(lr)"], "cell 1 overwrites it"),
    (["lr = 0.1", "print(lr)", "lr = 0.5"], "cell 2 overwrites it"),
    (["lr = 0.1", "for lr in (1, 2): print(lr)"], "cell 1 overwrites it"),
    (["lr = 0.1", "def lr(): pass", "lr()"], "cell 1 overwrites it"),
    (["lr = 0.1", "print(1)"], "nothing that the job keeps reads it"),
    (["lr = 0.1\nlr = 0.2", "print(lr)"], "it is bound 2 times among the parameters"),
    (["lr = 0.1", "import numpy as lr", "lr.e"], "cell 1 overwrites it"),
]


@pytest.mark.parametrize("sources, why", LOST)
def test_a_value_that_would_be_lost_is_refused(project, cli, sources, why):
    Path("n.ipynb").write_text(json.dumps(nb(*sources, tags=TAGGED)), encoding="utf-8")
    checked = cli("job", "check", "n.ipynb", "--json")
    assert [f["kind"] for f in checked.json["findings"]] == ["parameter"] and why in checked.json["findings"][0][
        "message"
    ]
    said = cli("job", "convert", "n.ipynb", "--json").json
    assert any(why in r["message"] and "refused" in r["message"] for r in said["remarks"])
    a = cli("job", "run", "n", "-p", "lr=0.9")
    assert a.exit == 2 and f"`lr` of job `n` would not count: {why}" in a.err and "\n" not in a.err.strip()
    assert not list((project.state / "runs").glob("n-*"))


COUNTS = [
    ["lr = 0.1", "lr = lr * 2", "print(lr)"],
    ["lr = 0.1", "lr += 0", "print(lr)"],
    ["lr = 0.1", "if lr is None: lr = 3", "print(lr)"],
    ["lr = 0.1", "def show(lr=5): return lr", "print(lr, [lr for lr in 'a'])"],
    ["lr = 0.1", "print(globals()['lr'])"],
    ["lr = 0.1", "def show(): print(lr)\nshow()"],
    ["lr = 0.1", "!echo {lr}"],
    ["lr = None", "%env RATE=$lr\nprint(lr)"],
]


@pytest.mark.parametrize("sources", COUNTS)
def test_a_value_that_counts_is_taken(sources):
    assert [p.refused for p in made(*sources, tags=TAGGED).parameters] == [""]
    assert not [f for f in faults.find(nb(*sources, tags=TAGGED))[0] if f.kind == "parameter"]


def test_a_parameter_that_is_overwritten_on_a_condition_is_said_and_taken(project, cli):
    Path("n.ipynb").write_text(
        json.dumps(nb("n = 5\ntest = False", "if test: n = 1", "print('n', n)", tags=TAGGED)), encoding="utf-8"
    )
    job = cli("job", "convert", "n.ipynb", "--json").json
    assert [r["message"] for r in job["remarks"]] == ["parameter `n`: cell 1 may overwrite it"]
    assert "n 7\n" in texts(jobs.run("n", params={"n": "7"}).output)


def test_the_output_of_a_run_keeps_what_was_given(project, cli):
    executed = nb("lr = 0.1  # rate\na, b = 1, 2", "# Parameters\nlr = 0.9\nb = 5\n", "print(lr, a, b)", tags=TAGGED)
    executed["cells"][1]["metadata"]["tags"] = ["injected-parameters"]
    Path("n.ipynb").write_text(json.dumps(executed), encoding="utf-8")
    job = cli("job", "convert", "n.ipynb", "--json").json
    assert {p["name"]: p["default"] for p in job["parameters"]} == {"lr": 0.9, "a": 1, "b": 5}
    assert job["parameters"][0]["help"] == "rate"
    assert any("lr = 0.9, b = 5" in r["message"] for r in job["remarks"])
    assert "0.9 1 5\n" in texts(jobs.run("n").output) and "0.3 1 5\n" in texts(
        jobs.run("n", params={"lr": "0.3"}).output
    )


def test_given_values_without_a_cell_of_parameters_are_the_parameters():
    executed = nb("# Parameters\nlr = 0.9\n", "print(lr)", tags={0: ["injected-parameters"]})
    job = job_notebook.convert(notebook_ast.check_format(executed)).job
    assert [(p.name, p.default) for p in job.parameters] == [("lr", 0.9)]


@pytest.mark.parametrize(
    "sources, word",
    [
        (["x = 1", "lr = 0.1", "if x: lr = 0.5", "print(lr, x)"], "`lr` depends on a condition"),
        (["class CFG:\n    lr = .1", "print(CFG.lr)"], "`CFG.lr`"),
        (["import dataclasses\n@dataclasses.dataclass\nclass Run:\n    lr: float = .1", "print(Run().lr)"], "`Run.lr`"),
        (["from types import SimpleNamespace\nc = SimpleNamespace(lr=.1)", "print(c.lr)"], "`lr`"),
        (["import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', default=.1)\nprint(p)"], "`--lr`"),
        (["import os\nplace = os.environ.get('STORE', 'out')", "print(place)"], "`STORE`"),
    ],
)
def test_what_is_expected_and_no_parameter_is_said(sources, word):
    assert [n.message for n in made(*sources).remarks if word in n.message]


@pytest.mark.parametrize(
    "line",
    [
        "versions = {'numpy': '1.26.4', 'pandas': '>=2.0'}",
        "legend_title = 'Miles per gallon'",
        "weights = 'https://example.org/model.h5'",
        "PAD_ID = 0",
        "eos_token_id = 50256",
        "xlabel = 'Year'",
    ],
)
def test_what_nobody_would_give_is_not_proposed(line):
    name = line.partition(" ")[0]
    assert made(line, "rate = 2", f"print({name}, rate)").parameters[0].name == "rate"
    assert [p.name for p in made(line, f"print({name})", tags=TAGGED).parameters] == [name], "who says so is obeyed"
