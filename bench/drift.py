"""Drift of the real flights, winter against summer: our comparison against Evidently's drift preset, in one run.

Each side runs in a process of its own on the same two Parquet files; imports and reading are not counted. Processor time is
the median of a few interleaved rounds; bytes are what the notebook would store."""

import statistics
import tempfile

from bench.harness import measured, row, versions

OURS = """
import json, sys, time
import pyarrow.parquet as pq, numpy, scipy.stats, scipy.special
from mlops_nb import data, monitor
ref, cur = (pq.read_table(p) for p in sys.argv[1:3])
monitor.compare(ref.slice(0, 100), cur.slice(0, 100))
began = time.process_time()
d = monitor.compare(ref, cur)
spent = time.process_time() - began
stored = data.profile_of(ref)
began = time.process_time()
monitor.compare_profiles(stored, data.profile_of(cur))
sketched = time.process_time() - began
print(json.dumps([spent, len(d.panel().html().encode()), sketched]))
"""
PEER = """
import json, sys, time, warnings
warnings.simplefilter('ignore')
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
ref, cur = (pd.read_parquet(p) for p in sys.argv[1:3])
text = [c for c in ref if ref[c].dtype == object]
numeric = [c for c in ref if c not in text]
def run(r, c):
    schema = DataDefinition(numerical_columns=numeric, categorical_columns=text)
    return Report([DataDriftPreset()]).run(*(Dataset.from_pandas(f, data_definition=schema) for f in (c, r)))
run(ref.head(200), cur.head(200))
began = time.process_time()
shot = run(ref, cur)
shot.dict()
spent = time.process_time() - began
print(json.dumps([spent, len(shot._repr_html_().encode())]))
"""


def windows(folder: str) -> tuple[str, str, int, int]:
    "January and February, June and July: two Parquet files, rows and columns"
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlops_nb.app import flights
    from mlops_nb.core.frames import to_arrow

    table = to_arrow(flights.load()[0]).drop_columns(["planned", "arrived", "year"])
    month, paths, rows = np.asarray(table["month"]), [], 0
    for name, which in (("winter", (1, 2)), ("summer", (6, 7))):
        part = table.filter(pa.array(np.isin(month, which)))
        paths.append(f"{folder}/{name}.parquet")
        pq.write_table(part, paths[-1])
        rows += part.num_rows
    return *paths, rows, table.num_columns


def main(rounds: int = 3) -> list[dict]:
    "Rows for bench/RESULTS.md"
    with tempfile.TemporaryDirectory() as d:
        *paths, rows, columns = windows(d)
        seen = [(measured(OURS, *paths), measured(PEER, *paths)) for _ in range(rounds)]
    ours, peer = ([statistics.median(v) for v in zip(*side)] for side in zip(*seen))
    what = f"{rows:,} flights, {columns} columns; {versions('evidently')}"
    return [
        row(
            "drift, CPU",
            ours[0],
            peer[0],
            "s",
            f"{what}: exact tests with p values against the drift preset; median of {rounds}",
        ),
        row(
            "drift from a stored profile, CPU",
            ours[2],
            peer[0],
            "s",
            "sketch of the current window, tests against the stored profile",
        ),
        row(
            "drift, bytes in the notebook",
            ours[1],
            peer[1],
            "bytes",
            "panel against Evidently's inline report",
            digits=0,
        ),
    ]
