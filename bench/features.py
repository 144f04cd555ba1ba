"""Point-in-time joins: ours against bare DuckDB, Feast's default local store and its DuckDB store.

Three views of N rows with four features each, 100,000 keys, 90 days, a time to live of 30 days; an entity frame of N rows.
Every case is a fresh process; imports are excluded; Parquet in, Arrow or pandas frame out.
The peak is that of the process, which may take 60 % of the machine's memory."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEYS, DAYS, TTL_DAYS, VIEWS = 100_000, 90, 30, ("a", "b", "c")
PIT = "mlops_nb.feature.feast_plugin.PitOfflineStore"
TIME = "event_timestamp"


def make(root: Path, n: int):
    "The entity frame and the views as Parquet"
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(n)

    def times():
        us = 1_700_000_000_000_000 + rng.integers(0, DAYS * 86_400_000_000, n)
        return pa.array(us).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))

    for v in VIEWS:
        features = {
            f"{v}{i}": pa.array(rng.integers(0, 1000, n)) if i == 0 else pa.array(rng.normal(size=n)) for i in range(4)
        }
        pq.write_table(pa.table({"key": rng.integers(0, KEYS, n), TIME: times(), **features}), root / f"{v}.parquet")
    pq.write_table(pa.table({"key": rng.integers(0, KEYS, n), TIME: times()}), root / "asked.parquet")


def bare(root: Path):
    "One hand-written query"
    import duckdb

    con = duckdb.connect()
    ttl = f"INTERVAL {TTL_DAYS} DAYS"
    columns = ", ".join(
        f"CASE WHEN {v}.{TIME} >= e.{TIME} - {ttl} THEN {v}{i} END AS {v}{i}" for v in VIEWS for i in range(4)
    )
    joins = " ".join(
        f"ASOF LEFT JOIN '{root}/{v}.parquet' {v} ON e.key = {v}.key AND e.{TIME} >= {v}.{TIME}" for v in VIEWS
    )
    return lambda: con.execute(f"SELECT e.*, {columns} FROM '{root}/asked.parquet' e {joins}").to_arrow_table().num_rows


def verb(root: Path):
    "mlops feature join, with its proof, digest and ledger entry"
    from mlops_nb import data, feature
    from mlops_nb.core import project
    from mlops_nb.feature import compute, definition

    p = project.create(root / "project")
    os.chdir(p.root)
    for v in VIEWS:
        if not (p.root / "features" / f"{v}.toml").exists():
            body = f"SELECT key, {TIME}, {v}0, {v}1, {v}2, {v}3 FROM source"
            source = os.path.relpath(root / f"{v}.parquet", p.root)
            feature.add(v, entity=["key"], time=TIME, ttl=f"{TTL_DAYS}d", source=source, sql=body)
    feature.join("a,b,c", entities=data.read(str(root / "asked.parquet")).slice(0, 10))  # imports
    assert all(compute.cached(p, definition.find(p, v)).exists() for v in VIEWS)
    return lambda: feature.join("a,b,c", entities=str(root / "asked.parquet")).rows_out


def streamed(root: Path):
    "mlops feature join --out: a frame larger than memory, a million rows at a time"
    join = verb(root)
    from mlops_nb import feature

    return lambda: (
        join and feature.join("a,b,c", entities=str(root / "asked.parquet"), out=root / "out.parquet").rows_out
    )


def through_feast(root: Path, store: str):
    "Feast's own API over one of its offline stores, or ours"
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    online = {"type": "sqlite", "path": str(root / "online.db")}
    registry = str(root / f"{store[-4:]}.db")
    config = RepoConfig(
        project="p", provider="local", registry=registry, online_store=online, offline_store={"type": store}
    )
    config.repo_path = root
    fs = FeatureStore(config=config)
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=v,
            entities=[key],
            ttl=timedelta(days=TTL_DAYS),
            schema=[Field(name=f"{v}{i}", dtype=Float64 if i else Int64) for i in range(4)],
            source=FileSource(name=f"{v}_source", path=str(root / f"{v}.parquet"), timestamp_field=TIME),
        )
        for v in VIEWS
    ]
    fs.apply([key, *views])
    refs = [f"{v}:{v}{i}" for v in VIEWS for i in range(4)]
    return lambda: (
        fs.get_historical_features(entity_df=pd.read_parquet(root / "asked.parquet"), features=refs).to_arrow().num_rows
    )


CASES = {
    "bare DuckDB": bare,
    "mlops feature join": verb,
    "mlops feature join --out": streamed,
    "Feast, our store": lambda root: through_feast(root, PIT),
    "Feast, its DuckDB store": lambda root: through_feast(root, "duckdb"),
    "Feast, its default store": lambda root: through_feast(root, "dask"),
}


def _step_back():
    "A case that takes more than its share ends, and not the neighbours"
    share = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.6)
    resource.setrlimit(resource.RLIMIT_DATA, (share, share))
    if os.access("/proc/self/oom_score_adj", os.W_OK):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def measured(case: str, root: Path) -> dict:
    "Wall and processor seconds, peak MB and rows of one case in this process"
    _step_back()
    join = CASES[case](root)
    began, cpu = time.perf_counter(), time.process_time()
    rows = join()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "rows": rows}


def fresh(case: str, root: Path) -> dict | None:
    "One case in a process of its own; None when what it needs is not installed"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, __file__, "case", case, str(root)],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        cwd=root,
    )
    if done.returncode:
        print(
            f"{case}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}",
            file=sys.stderr,
        )
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def race(n: int, cases: list[str], rounds: int) -> dict[str, dict]:
    "Medians of interleaved rounds"
    seen: dict[str, list[dict]] = {c: [] for c in cases}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, n)
        for _ in range(rounds):
            for c in cases:
                got = fresh(c, root)
                if got is not None:
                    seen[c].append(got)
    return {c: {k: statistics.median(x[k] for x in v) for k in v[0]} for c, v in seen.items() if v}


OURS = ("mlops feature join", "mlops feature join --out", "Feast, our store")
PEERS = ("bare DuckDB", "Feast, its DuckDB store", "Feast, its default store")
NOT_AT_10M = "Feast, its default store"  # grows to ten times the 3 GB that it takes at 1M, for half an hour


def _figures(got: dict, n: int) -> str:
    return f"{got['cpu']:.2f} s CPU, {got['wall']:.2f} s, {got['mb']:,.0f} MB, {got['rows']:,.0f} of {n:,} rows"


def _against(n: int, got: dict) -> list[dict]:
    "Each of ours against each peer at one size"
    pairs = [(a, b) for a in OURS for b in PEERS if a in got and b in got]
    return [
        {
            "name": f"{a} against {b}, {n:,} x 3 views, CPU",
            "ours": round(got[a]["cpu"], 3),
            "peer": round(got[b]["cpu"], 3),
            "ratio": round(got[b]["cpu"] / got[a]["cpu"], 2),
            "unit": "s",
            "note": f"wall {got[a]['wall']:.2f} / {got[b]['wall']:.2f} s; peak {got[a]['mb']:,.0f} / {got[b]['mb']:,.0f} MB; "
            f"rows {got[a]['rows']:,.0f} / {got[b]['rows']:,.0f} of {n:,}",
        }
        for a, b in pairs
    ]


def _growth(measured_at: dict[int, dict]) -> list[dict]:
    "Each case over all sizes; the figure is that of the largest"
    rows = []
    for case in CASES:
        at = {n: got[case] for n, got in measured_at.items() if case in got}
        if at:
            last = round(at[max(at)]["cpu"], 3)
            rows.append(
                {
                    "name": f"growth of {case}, CPU at {max(at):,}",
                    "ours": last if case in OURS else None,
                    "peer": None if case in OURS else last,
                    "ratio": None,
                    "unit": "s",
                    "note": "; ".join(f"{n:,}: {_figures(got, n)}" for n, got in at.items()),
                }
            )
    return rows


def main(sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000), rounds: int = 3) -> list[dict]:
    "Rows for bench/RESULTS.md"
    measured_at = {}
    for n in sizes:
        cases = [c for c in CASES if n <= 1_000_000 or c != NOT_AT_10M]
        measured_at[n] = race(n, cases, rounds if n <= 100_000 else 2 if n <= 1_000_000 else 1)
        print(n, json.dumps(measured_at[n]), file=sys.stderr, flush=True)
    return [*_growth(measured_at), *(r for n, got in measured_at.items() for r in _against(n, got))]


if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        print(json.dumps(measured(sys.argv[2], Path(sys.argv[3]))))
    else:
        for row in main(tuple(int(x) for x in sys.argv[1:]) or (10_000, 100_000, 1_000_000, 10_000_000)):
            print(row)
