"""What it costs to be there: import, help, status and `%load_ext`, against `import IPython`."""

import statistics
import sys
import tempfile

from bench.harness import at_home, measured, race, row, shell, spent, versions

LOAD_EXT = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
began, used = time.perf_counter(), time.process_time()
shell.run_line_magic('load_ext', 'mlops_nb')
print(json.dumps([(time.process_time() - used) * 1000, (time.perf_counter() - began) * 1000, len(set(sys.modules) - before)]))
"""
AUTORELOAD = LOAD_EXT.replace("mlops_nb", "autoreload")


def main(rounds: int = 9) -> list[dict]:
    "Rows for bench/RESULTS.md"
    with tempfile.TemporaryDirectory() as d:
        env = at_home(d)
        spent(shell("init", "."), d, env)
        python = [sys.executable, "-c"]
        commands = {
            "bare": [*python, "pass"],
            "IPython": [*python, "import IPython"],
            "import mlops_nb": [*python, "import mlops_nb"],
            "mlops --help": shell("--help"),
            "mlops status": shell("status"),
        }
        got = race({k: lambda c=c: spent(c, d, env) for k, c in commands.items()}, rounds)
        loads = [[measured(code, cwd=d, env=env) for code in (LOAD_EXT, AUTORELOAD)] for _ in range(rounds)]
    bare, ipython = got["bare"].cpu, got["IPython"].cpu
    rows = []
    for name, goal in (("import mlops_nb", 0.3), ("mlops --help", 1), ("mlops status", 2)):
        ours, peer = got[name].cpu - bare, ipython - bare
        note = (
            f"net of bare Python ({bare * 1000:.0f} ms), against import IPython; ours is {ours / peer:.2f} "
            f"times that, goal at most {goal}; {versions('ipython')}"
        )
        rows.append(row(f"{name}, CPU", ours * 1000, peer * 1000, "ms", note, digits=1))
    ours, peer = (statistics.median(x[n][0] for x in loads) for n in (0, 1))
    wall = statistics.median(x[0][1] for x in loads)
    note = f"{loads[0][0][2]} new modules, {wall:.1f} ms of wall time; against IPython's autoreload; goal at most 5"
    rows.append(row("%load_ext mlops_nb, CPU", ours, peer, "ms", note, digits=2))
    return rows
