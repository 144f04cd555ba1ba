"""Point-in-time joins: ours against a bare DuckDB ASOF join and against Feast's default store, on the same Parquet files.

Each side runs in a process of its own; imports and registration are not counted, reading is."""

import statistics
import tempfile
from pathlib import Path

from bench.harness import at_home, measured, row, versions

DAYS, TTL_DAYS, FEATURES = 90, 30, 4
START = """
import json, sys, time, warnings
warnings.simplefilter('ignore')
entities, view, folder, ttl = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
"""
END = """
print(json.dumps([spent, wall, rows, filled]))
"""
OURS = (
    START
    + """
import duckdb, numpy, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
from mlops_nb.feature import asof
def join():
    asked, v = pq.read_table(entities), pq.read_table(view)
    found = asof.match(*asof.question(asked, v, ['k'], 't', 't'), ttl_s=ttl*86400)
    places = pa.array(found.rows, mask=found.rows<0)
    for c in v.column_names[2:]: asked = asked.append_column(c, v[c].take(places))
    return asked
began, used = time.perf_counter(), time.process_time()
done = join()
spent, wall = time.process_time()-used, time.perf_counter()-began
rows, filled = done.num_rows, done.num_rows-done['f0'].null_count
"""
    + END
)
DUCKDB = (
    START
    + """
import duckdb
sql = f'''SELECT e.k, e.t, {', '.join(f"CASE WHEN e.t-v.t <= INTERVAL {ttl} DAY THEN v.f{n} END AS f{n}" for n in range(4))}
    FROM read_parquet('{entities}') e ASOF LEFT JOIN read_parquet('{view}') v ON e.k=v.k AND e.t>=v.t'''
con = duckdb.connect()
con.execute("SET threads=2")
began, used = time.perf_counter(), time.process_time()
done = con.sql(sql).to_arrow_table()
spent, wall = time.process_time()-used, time.perf_counter()-began
rows, filled = done.num_rows, done.num_rows-done['f0'].null_count
"""
    + END
)
FEAST = (
    START
    + """
import datetime as dt, pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType
store = FeatureStore(config=RepoConfig(
    project='bench', provider='local', registry=f'{folder}/registry.db', entity_key_serialization_version=3,
    online_store={'type': 'sqlite', 'path': f'{folder}/online.db'}, offline_store={'type': 'file'}))
k = Entity(name='k', join_keys=['k'], value_type=ValueType.INT64)
source = FileSource(path=view, timestamp_field='t')
schema = [Field(name=f'f{n}', dtype=Float64) for n in range(4)]
fv = FeatureView(name='v', entities=[k], ttl=dt.timedelta(days=ttl), schema=schema, source=source, online=False)
store.apply([k, fv])
began, used = time.perf_counter(), time.process_time()
asked = pd.read_parquet(entities).rename(columns={'t': 'event_timestamp'})
done = store.get_historical_features(entity_df=asked, features=[f'v:f{n}' for n in range(4)]).to_df()
spent, wall = time.process_time()-used, time.perf_counter()-began
rows, filled = len(done), int(done['f0'].notna().sum())
"""
    + END
)


def files(folder: str, size: int) -> tuple[str, str]:
    "Entities and view, `size` rows each, over a tenth as many keys; two Parquet files"
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    r = np.random.default_rng(0)

    def frame(**more):
        t = np.datetime64("2013-01-01", "us") + r.integers(0, DAYS * 86_400_000_000, size).astype("timedelta64[us]")
        return pa.table(
            {"k": r.integers(0, max(1, size // 10), size), "t": pa.array(t, pa.timestamp("us", "UTC")), **more}
        )

    paths = f"{folder}/entities.parquet", f"{folder}/view.parquet"
    pq.write_table(frame(), paths[0])
    pq.write_table(frame(**{f"f{n}": r.normal(size=size) for n in range(FEATURES)}), paths[1])
    return paths


def main(rounds: int = 3, size: int = 100_000) -> list[dict]:
    "Rows for bench/RESULTS.md"
    sides: dict[str, list] = {"ours": [], "duckdb": [], "feast": []}
    with tempfile.TemporaryDirectory() as d:
        env, paths = at_home(d), files(d, size)
        for n in range(rounds):
            for name, code in (("ours", OURS), ("duckdb", DUCKDB), ("feast", FEAST)):
                Path(d, f"{name}{n}").mkdir()
                sides[name].append(measured(code, *paths, f"{d}/{name}{n}", str(TTL_DAYS), cwd=d, env=env))
    got = {k: [statistics.median(x) for x in zip(*v, strict=True)] for k, v in sides.items()}
    if got["ours"][2:] != got["duckdb"][2:] or got["ours"][2] != size:
        raise RuntimeError(f"the joins do not agree: {got}")
    lost = size - got["feast"][2]
    what = (
        f"{size:,} questions, {size:,} rows of {FEATURES} features, {size // 10:,} keys, time to live {TTL_DAYS} days"
    )
    return [
        row(
            "join against bare DuckDB ASOF, CPU",
            got["ours"][0],
            got["duckdb"][0],
            "s",
            f"{what}; {versions('duckdb')}; ours counts future values, ties and ages on the result",
        ),
        row(
            "join against Feast's default store, CPU",
            got["ours"][0],
            got["feast"][0],
            "s",
            f"{versions('feast')}, which returned {got['feast'][2]:,.0f} of {size:,} rows ({lost:,.0f} lost)",
        ),
        row("join against Feast's default store, wall", got["ours"][1], got["feast"][1], "s", "the same"),
    ]
