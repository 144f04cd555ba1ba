"""Checking and converting notebooks by size, against nbconvert's conversion of the same notebook to a script.

nbconvert only renders what our check and conversion understand, so it is the floor of what handling a notebook costs, not a rival.
Processor time, medians of interleaved rounds in one process; memory is the peak of a process of its own."""

import json
import tempfile
from pathlib import Path

from bench.harness import measured, race, row, timed, versions

SIZES = (10, 100, 1_000, 10_000)
STYLE = [
    "import math\nrate{n} = {n}.5  # of the step\nx{n} = [rate{n}*k for k in range(5)]",
    "def area{n}(r):\n    if r < 0: raise ValueError(r)\n    return math.pi*r**2",
    "%time total{n} = sum(x{n})\ntotal{n}",
    "rows{n} = [area{n}(v) for v in x{n}]\nprint(f'{{sum(rows{n}):.2f}}', len(x{n}))",
    "with open(f'out/{n}.txt', 'w') as f:\n    f.write(str(rows{n}))",
]  # five cells as people write them: a definition, a function, a magic, a loop, a file


def notebook(cells: int) -> dict:
    "A notebook of that many code cells"
    sources = [STYLE[n % 5].format(n=n // 5) for n in range(cells)]
    code = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "source": s, "outputs": [], "execution_count": n + 1}
        for n, s in enumerate(sources)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": spec}, "cells": code}


PEAK = """
import json, re, sys
from mlops_nb.job.conversion import job_notebook
from mlops_nb.job.findings import faults
from mlops_nb.job.notebook import notebook_ast
nb = notebook_ast.load(sys.argv[1], lazy=True)
faults.find(nb)
job_notebook.convert(nb)
status = open('/proc/self/status', encoding='utf-8').read()
print(json.dumps([int(re.search(r'VmHWM:\\s+(\\d+)', status)[1])/1024]))
"""


def main(rounds: int = 3) -> list[dict]:
    "Rows for bench/RESULTS.md"
    import nbformat
    from nbconvert.exporters import PythonExporter

    from mlops_nb.job.conversion import job_notebook
    from mlops_nb.job.findings import faults
    from mlops_nb.job.notebook import notebook_ast

    exporter, rows = PythonExporter(), []
    for size in SIZES:
        nb = notebook_ast.check_format(notebook(size))
        node = nbformat.from_dict(notebook(size))
        sides = {
            "check": lambda nb=nb: timed(lambda: faults.find(nb)),
            "convert": lambda nb=nb: timed(lambda: job_notebook.convert(nb)),
            "peer": lambda node=node: timed(lambda: exporter.from_notebook_node(node)),
        }
        got = race(sides, 1 if size == 10_000 else rounds, warm=size < 10_000)
        note = f"against {versions('nbconvert')} rendering it as a script"
        for what in ("check", "convert"):
            rows.append(row(f"{what} {size:,} cells, CPU", got[what].cpu, got["peer"].cpu, "s", note))
    with tempfile.TemporaryDirectory() as d:
        big = notebook(10)
        text = "x" * 20_000_000
        for c in big["cells"]:
            c["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
        for name, nb in (("10 cells", notebook(10)), ("10 cells with 200 MB of outputs", big)):
            path = Path(d, "n.ipynb")
            path.write_text(json.dumps(nb), encoding="utf-8")
            rows.append(
                row(
                    f"check and convert {name}, peak memory",
                    measured(PEAK, str(path))[0],
                    None,
                    "MB",
                    "of the process on Linux, pages of the mapped file included",
                    digits=0,
                )
            )
    return rows
