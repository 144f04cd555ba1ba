"""Notebook jobs: our engine against plain papermill on the same notebook, in the same round.

Wall time and processor time of the whole process tree, medians of a few interleaved rounds."""

import json
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import at_home, race, row, shell, spent, versions


def notebook(cells: int) -> dict:
    "A notebook of small cells with one parameter"
    code = ["n = 1000", *[f"x{k} = sum(range(n+{k}))\nprint(x{k})" for k in range(cells - 1)]]
    made = [
        {
            "cell_type": "code",
            "id": f"c{k}",
            "metadata": {"tags": ["parameters"]} if not k else {},
            "source": s,
            "outputs": [],
            "execution_count": None,
        }
        for k, s in enumerate(code)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": spec}, "cells": made}


def conversion(cells: int) -> float:
    "Processor seconds to check and convert a notebook"
    from mlops_nb.job import conversion as engine
    from mlops_nb.job import faults, notebook_ast

    nb = notebook_ast.check_format(notebook(cells))
    began = time.process_time()
    faults.find(nb)
    engine.convert(nb)
    return time.process_time() - began


def main(rounds: int = 3) -> list[dict]:
    "Rows for bench/RESULTS.md"
    rows = []
    with tempfile.TemporaryDirectory() as d:
        env = at_home(d)
        spent(shell("init", "."), d, env)
        for cells in (1, 50):
            Path(d, f"n{cells}.ipynb").write_text(json.dumps(notebook(cells)), encoding="utf-8")
            spent(shell("job", "convert", f"n{cells}.ipynb"), d, env)
            ours = shell("job", "run", f"n{cells}", "-p", "n=2000")
            peer = [sys.executable, "-m", "papermill", "--no-progress-bar", f"n{cells}.ipynb", "out.ipynb", "-p", "n", "2000"]
            got = race({k: lambda c=c: spent(c, d, env) for k, c in (("ours", ours), ("peer", peer))}, rounds)
            note = f"mlops job run (typed, metered, in the ledger) against {versions('papermill')}'s command line; median of {rounds}"
            for what, at in (("wall", 0), ("CPU", 1)):
                rows.append(
                    row(f"job of {cells} cell{'s' if cells > 1 else ''}, {what}", got["ours"][at], got["peer"][at], "s", note)
                )
    for cells in (50, 500):
        rows.append(row(f"check and convert {cells} cells, CPU", conversion(cells), None, "s", "no peer does this"))
    return rows
