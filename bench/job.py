"""Notebook jobs: our engine against plain papermill on the same notebook, in the same round.

Wall time and processor time of the whole process tree, medians of a few interleaved rounds."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = "from mlops_nb.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


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


def spent(command: list[str], cwd: str, env: dict) -> tuple[float, float]:
    "Wall and processor seconds of a command and everything that it starts"
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return wall, (after.children_user + after.children_system) - (before.children_user + before.children_system)


def race(commands: dict[str, list[str]], rounds: int, cwd: str, env: dict) -> dict[str, tuple[float, float]]:
    "Median wall and processor seconds of each command, run in turn"
    seen: dict[str, list[tuple[float, float]]] = {k: [] for k in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seen[name].append(spent(command, cwd, env))
    return {k: (statistics.median(w for w, _ in v), statistics.median(c for _, c in v)) for k, v in seen.items()}


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
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    rows = []
    with tempfile.TemporaryDirectory() as d:
        env["HOME"] = d
        for cells in (1, 50):
            Path(d, f"n{cells}.ipynb").write_text(json.dumps(notebook(cells)), encoding="utf-8")
        spent([sys.executable, "-c", OURS, "init", "."], d, env)
        for cells in (1, 50):
            spent([sys.executable, "-c", OURS, "job", "convert", f"n{cells}.ipynb"], d, env)
            commands = {
                "ours": [sys.executable, "-c", OURS, "job", "run", f"n{cells}", "-p", "n=2000"],
                "peer": [
                    sys.executable,
                    "-m",
                    "papermill",
                    "--no-progress-bar",
                    f"n{cells}.ipynb",
                    "out.ipynb",
                    "-p",
                    "n",
                    "2000",
                ],
            }
            got = race(commands, rounds, d, env)
            for what, at in (("wall", 0), ("CPU", 1)):
                ours, peer = got["ours"][at], got["peer"][at]
                rows.append(
                    {
                        "name": f"job of {cells} cell{'s' if cells > 1 else ''}, {what}",
                        "ours": round(ours, 3),
                        "peer": round(peer, 3),
                        "ratio": round(peer / ours, 2),
                        "unit": "s",
                        "note": "mlops job run (typed, metered, in the ledger) against papermill's command line; median",
                    }
                )
    for cells in (50, 500):
        rows.append(
            {
                "name": f"check and convert {cells} cells, CPU",
                "ours": round(conversion(cells), 3),
                "peer": None,
                "ratio": None,
                "unit": "s",
                "note": "no peer does this",
            }
        )
    return rows


if __name__ == "__main__":
    for row in main():
        print(row)
