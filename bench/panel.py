"""Bytes that a drift panel leaves in the notebook: ours against Evidently's inline report, by the number of columns."""

import tempfile

from bench.harness import measured, row, versions

OURS = """
import json, sys
import pyarrow.parquet as pq
from mlops_nb import monitor
d = monitor.compare(*(pq.read_table(p) for p in sys.argv[1:3]))
html = d.panel().html()
print(json.dumps([len(html.encode()), html.count('<script')]))
"""
PEER = """
import json, sys, warnings
warnings.simplefilter('ignore')
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
ref, cur = (pd.read_parquet(p) for p in sys.argv[1:3])
html = Report([DataDriftPreset()]).run(cur, ref)._repr_html_()
print(json.dumps([len(html.encode()), html.count('<script')]))
"""


def main() -> list[dict]:
    "Rows for bench/RESULTS.md; bytes do not vary, so one round is enough"
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, r = [], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as d:
        for columns in (5, 40):
            paths = [f"{d}/{name}{columns}.parquet" for name in ("reference", "current")]
            for shift, path in enumerate(paths):
                pq.write_table(
                    pa.table({f"column_{n}": r.normal(shift * (n % 2) / 2, 1, 2000) for n in range(columns)}), path
                )
            (ours, own_scripts), (peer, scripts) = measured(OURS, *paths), measured(PEER, *paths)
            note = f"scripts needed: {own_scripts} against {scripts}; {versions('evidently')}"
            rows.append(row(f"drift panel of {columns} columns", ours, peer, "bytes", note, digits=0))
    return rows
