"""Run many verbs of the shell form in one process: words for every verb of the index, and what came back.

As a script: reads a JSON list of word lists on stdin, runs them in the working directory, writes a JSON list of [exit, stdout, stderr]."""

import contextlib
import io
import json
import sys
from pathlib import Path

from mlops_nb.core import grammar

FOREGROUND = {"site.serve", "serve.run", "job.scheduler"}  # these run until they are stopped
LONG = {"demo"}  # minutes of work even where nothing is wrong
FILL = {
    "path": "missing.parquet",
    "data": "missing.parquet",
    "object": "missing.joblib",
    "name": "nothing",
    "ref": "nothing@1",
    "refs": "nothing:x",
    "variables": "x",
    "str": "nothing",
    "int": "999999",
    "float": "0.5",
    "bool": "true",
    "date": "2013-07-01",
    "datetime": "2013-07-01T00:00:00Z",
    "interval": "1d",
    "list": "nothing",
    "dict": "a=1",
}


def is_foreground(path: str, entry: dict) -> bool:
    return path in FOREGROUND or "foreground" in (entry["summary"] + entry["doc"]).lower()


def words_for(verb: str, entry: dict, /, **given: str) -> list[str]:
    "The verb with its required parameters filled, and those that are `given`"
    words = verb.split(".")
    for q in entry["params"]:
        name, flag = q["name"], grammar.option_of(q["name"])
        if name not in given and (not q["required"] or name == "body"):
            continue
        value = given.get(name) or (str(q["choices"][0]) if q["kind"] == "choice" else FILL[q["kind"]])
        words += [value] if q["word"] else [f"{flag}={value}"]
    return words


def run(words: list[str]) -> tuple[int, str, str]:
    "Exit code, stdout and stderr"
    from mlops_nb import cli
    from mlops_nb.core import progress

    out, err, progress._quiet = io.StringIO(), io.StringIO(), True
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(w) for w in words])
    return code, out.getvalue(), err.getvalue()


NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "cells": [
        {
            "cell_type": "code",
            "id": "a",
            "metadata": {},
            "source": "n = 3\nprint(n)",
            "outputs": [],
            "execution_count": None,
        }
    ],
}
ADD = ["feature", "add", "size", "--entity", "k", "--time", "t", "--source", "d", "--sql", "SELECT k, t, x FROM source"]


def prepared(root: Path):
    "A small project with a dataset, a feature view and a job"
    (root / "d.csv").write_text("k,t,x\n" + "\n".join(f"{n % 5},2013-01-{n % 28 + 1:02},{n}" for n in range(60)) + "\n")
    (root / "n.ipynb").write_text(json.dumps(NOTEBOOK))
    for words in (["init", "."], ["data", "add", "d.csv", "d"], ADD, ["job", "convert", "n.ipynb", "score"]):
        code, _, err = run(words)
        assert code == 0, err


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    done = []
    for words in wanted:
        done.append(run(words))
    json.dump(done, sys.stdout)
