"""Notebook jobs: our engine against papermill's command line on the same notebook, in the same round.

Processor time is that of everything: the client, the fork that carries the command out, the fork that runs the cells,
the ledger, and the server itself. What the warm server costs once, and holds, has rows of its own."""

import json
import os
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

from bench.harness import ROOT, Spent, at_home, race, row, versions
from bench.harness import spent as spent_by_children

SCRIPT = "import sys\nfrom {0} import {1}\nsys.exit({1}())\n"  # what pip writes for a console script
ML = [
    "import pandas as pd, numpy as np",
    "from sklearn.ensemble import GradientBoostingClassifier",
    "import mlflow",
    "d = pd.DataFrame(np.ones((10, 3)))\nd.describe()",
]


def notebook(cells: int, extra: list[str] | None = None) -> dict:
    "A notebook of small cells with one parameter"
    code = ["n = 1000", *(extra or [f"x{k} = sum(range(n+{k}))\nprint(x{k})" for k in range(cells - 1)])]
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


def installed(folder: Path, tree: Path = ROOT) -> tuple[list[str], list[str]]:
    """Both command lines in an environment as users have it: packages as files, no hooks of a developer's checkout

    An editable install runs its finder whenever Python starts, which doubles what the smallest command costs."""
    venv.create(folder, symlinks=True, with_pip=False)
    python, (site,) = folder / "bin" / "python", folder.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n{tree}\n", encoding="utf-8")
    commands = []
    for name, where, what in (("mlops", "mlops_nb.cli", "main"), ("papermill", "papermill.__main__", "papermill")):
        (script := folder / "bin" / name).write_text(SCRIPT.format(where, what), encoding="utf-8")
        commands.append([str(python), str(script)])
    return commands[0], commands[1]


def spent(command: list[str], cwd: str, env: dict, times: int = 1) -> Spent:
    "Wall and processor seconds of a command and everything that it starts, warm servers and their forks included"
    served = servers(env)[0]
    got = [spent_by_children(command, cwd, env) for _ in range(times)]
    cpu = sum(g.cpu for g in got) + servers(env)[0] - served
    return Spent(sum(g.wall for g in got) / times, cpu / times)


def processes(env: dict) -> list[str]:
    "Ids of the warm servers of this benchmark"
    found = []
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = p.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(w.startswith(b"mlops_nb.") and w.endswith(b"fork_server") for w in words) and any(
            w.startswith(env["MLOPS_RUNTIME_DIR"].encode()) for w in words
        ):
            found.append(p.parent.name)
    return found


def servers(env: dict) -> tuple[float, float]:
    "Processor seconds of the warm servers and of the forks that they have waited for; MB that they hold"
    cpu = mb = 0.0
    for pid in processes(env):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        except OSError:
            continue
        cpu += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        mb += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return cpu, mb


def together(commands: list[list[str]], workers: int, cwd: str, env: dict) -> float:
    "Wall seconds of many commands, so many at a time"
    from concurrent.futures import ThreadPoolExecutor

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda c: spent(c, cwd, env), commands):
            pass
    return time.perf_counter() - began


def conversion(cells: int) -> float:
    "Processor seconds to check and convert a notebook"
    from mlops_nb.job.conversion import job_notebook as engine
    from mlops_nb.job.findings import faults
    from mlops_nb.job.notebook import notebook_ast

    nb = notebook_ast.check_format(notebook(cells))
    began = time.process_time()
    faults.find(nb)
    engine.convert(nb)
    return time.process_time() - began


NOTE = "mlops job run (typed, metered, saved cell by cell, in the ledger), in steady state, against"


def one(
    title: str, name: str, made: dict, sides: tuple[list[str], list[str]], d: str, *, env: dict, rounds: int
) -> list[dict]:
    "Rows of one notebook: a run in steady state on both sides, and what the warm servers cost once and hold"
    (ours, peer), note = sides, f"{NOTE} the command line of {versions('papermill')}; median of {rounds}"
    Path(d, f"{name}.ipynb").write_text(json.dumps(made), encoding="utf-8")
    spent([*ours, "job", "convert", f"{name}.ipynb"], d, env)
    run, theirs = [*ours, "job", "run", name, "-p", "n=2000"], [*peer, f"{name}.ipynb", "out.ipynb", "-p", "n", "2000"]
    first = spent(run, d, env)
    for _ in range(2):
        spent(run, d, env)
    # the system counts a server's forks in hundredths of a second: five runs are one measurement
    got = race({"ours": lambda: spent(run, d, env, 5), "peer": lambda: spent(theirs, d, env)}, rounds, warm=False)
    rows = [
        row(f"job of {title}, {what}", got["ours"][at], got["peer"][at], "s", note)
        for what, at in (("CPU", 1), ("wall", 0))
    ]
    rows.append(
        row(
            f"job of {title}, first run, CPU",
            first.cpu,
            None,
            "s",
            "with the start of the warm server, where one is lacking",
        )
    )
    held = "all warm servers of this user, shared pages counted in each; they end when idle"
    return [
        *rows,
        row(f"warm servers after it ({len(processes(env))}), resident", servers(env)[1], None, "MB", held, digits=1),
    ]


def main(rounds: int = 3, runs: int = 20) -> list[dict]:
    "Rows for bench/RESULTS.md, in about five minutes: nine runs of the peer, then twenty two at a time"
    rows = []
    with tempfile.TemporaryDirectory() as d:
        env = {**at_home(d), "MLOPS_RUNTIME_DIR": f"{d}/run"}
        env.pop("PYTHONPATH")
        ours, peer = installed(Path(d, "env"))
        peer.append("--no-progress-bar")
        spent([*ours, "init", "."], d, env)
        try:
            for title, name, made in (
                ("1 cell", "n1", notebook(1)),
                ("50 cells", "n50", notebook(50)),
                ("pandas, scikit-learn, MLflow", "ml", notebook(0, ML)),
            ):
                rows += one(title, name, made, (ours, peer), d, env=env, rounds=rounds)
            mine = [[*ours, "job", "run", "n50", "-p", f"n={k}"] for k in range(runs)]
            theirs = [[*peer, "n50.ipynb", f"o{k}.ipynb", "-p", "n", str(k)] for k in range(runs)]
            took = together(mine, 2, d, env), together(theirs, 2, d, env)
            rows.append(row(f"{runs} runs of 50 cells, wall", *took, "s", "two at a time, both"))
        finally:
            for pid in processes(env):
                os.kill(int(pid), 15)
    for cells in (50, 500):
        rows.append(row(f"check and convert {cells} cells, CPU", conversion(cells), None, "s", "no peer does this"))
    return rows


if __name__ == "__main__":
    for line in main():
        print(line)
