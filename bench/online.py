"""Online features: materialize and read, ours against Feast with its SQLite store, on the same Parquet files.

Both in one process each side, in turn; imports and registration are not counted. 3 views of 4 features."""

import os
import statistics
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.harness import at_home, measured, row, versions

VIEWS, FEATURES = 3, 4
CODE = """
import datetime as dt, json, random, sys, time, warnings
warnings.simplefilter('ignore')
side, folder, files, n = sys.argv[1], sys.argv[2], sys.argv[3].split(','), int(sys.argv[4])
now = dt.datetime(2026, 4, 1, tzinfo=dt.timezone.utc)
def clock(call, times):
    call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times): call()
    return [(time.process_time()-cpu)/times, (time.perf_counter()-wall)/times]
if side=='ours':
    from mlops_nb import feature
    from mlops_nb.core import project
    p = project.create(folder)
    with project.use(p):
        for i,f in enumerate(files):
            sql = f'SELECT k, t, f0 AS a{i}, f1 AS b{i}, f2 AS c{i}, f3 AS d{i} FROM source'
            feature.add(f'v{i}', entity=['k'], time='t', ttl='30d', source=f, sql=sql)
        wall, cpu = time.perf_counter(), time.process_time()
        written = feature.materialize().written
        spent = [time.process_time()-cpu, time.perf_counter()-wall]
        reader = feature.Reader(p, 'v0,v1,v2')
        us = int(now.timestamp()*1e6)
        def read(keys): return reader.columnar([{'k':k} for k in keys], us)[0]
        def plain(keys): d = read(keys); return [[d[f'{c}{i}'][n] for i in range(3) for c in 'abcd'] for n in range(len(keys))]
else:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64
    from feast.value_type import ValueType
    s = FeatureStore(config=RepoConfig(
        project='bench', provider='local', registry=f'{folder}/registry.db', entity_key_serialization_version=3,
        online_store={'type':'sqlite', 'path':f'{folder}/online.db'}, offline_store={'type':'file'}))
    k = Entity(name='k', join_keys=['k'], value_type=ValueType.INT64)
    schema = [Field(name=f'f{n}', dtype=Float64) for n in range(4)]
    vs = []
    for i,f in enumerate(files):
        source = FileSource(path=f, timestamp_field='t')
        ttl = dt.timedelta(days=30)
        vs.append(FeatureView(name=f'v{i}', entities=[k], ttl=ttl, schema=schema, source=source, online=True))
    s.apply([k, *vs])
    wall, cpu = time.perf_counter(), time.process_time()
    s.materialize(dt.datetime(2025, 12, 1, tzinfo=dt.timezone.utc), now)
    spent, written = [time.process_time()-cpu, time.perf_counter()-wall], 0
    names = [f'v{i}:f{n}' for i in range(3) for n in range(4)]
    def read(keys): return s.get_online_features(features=names, entity_rows=[{'k':k} for k in keys], full_feature_names=True).to_dict()
    def plain(keys): d = read(keys); return [[d[x.replace(':', '__')][i] for x in names] for i in range(len(keys))]
rng = random.Random(0)
order = rng.sample(range(n), n)
some, rest = order[:100], order[100:] # every entity of `rest` is asked for once: nothing of it was read by this process before
first = time.perf_counter(), time.process_time()
read(order[-1:])
first = [time.process_time()-first[1], time.perf_counter()-first[0]]
times = (2000, 200) if side=='ours' else (100, 10)
again = [clock(lambda: read(some[:1]), times[0]), clock(lambda: read(some), times[1])]
ones, hundreds = iter(rest[:times[0]+1]), iter([rest[i:i+100] for i in range(3000, n-200, 100)])
fresh = [clock(lambda: read([next(ones)]), times[0]), clock(lambda: read(next(hundreds)), min(times[1], len(rest)//100-40))]
print(json.dumps([spent, *again, *fresh, first, plain(some)]))
"""


def files(folder: str, keys: int) -> list[str]:
    "One Parquet file a view: two rows a key, the newer one within the time to live"
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, end = [], datetime(2026, 4, 1, tzinfo=UTC)
    for v in range(VIEWS):
        rng = np.random.default_rng(v)
        t = [end - timedelta(days=20)] * keys + [end - timedelta(days=1)] * keys
        k = np.r_[np.arange(keys), np.arange(keys)]
        columns = {f"f{n}": rng.normal(size=2 * keys) for n in range(FEATURES)}
        out.append(f"{folder}/v{v}.parquet")
        pq.write_table(pa.table({"k": k, "t": pa.array(t, pa.timestamp("us", "UTC")), **columns}), out[-1])
    return out


def main(rounds: int = 3, keys: int = 20_000) -> list[dict]:
    "Rows for bench/RESULTS.md"
    seen: dict[str, list] = {"ours": [], "feast": []}
    with tempfile.TemporaryDirectory() as d:
        paths = ",".join(files(d, keys))
        for n in range(rounds):
            for side in seen:
                Path(d, f"{side}{n}").mkdir()
                seen[side].append(measured(CODE, side, f"{d}/{side}{n}", paths, str(keys), cwd=d, env=at_home(d)))
    if seen["ours"][0][-1] != seen["feast"][0][-1]:
        raise RuntimeError("the values do not agree")
    got = {k: [[statistics.median(r[i][j] for r in v) for j in (0, 1)] for i in range(6)] for k, v in seen.items()}
    what = f"{VIEWS} views of {FEATURES} features, {keys:,} keys, values compared; {versions('feast')}, SQLite; {os.cpu_count()} processors"
    ours, feast, us = got["ours"], got["feast"], 1e6
    known = "12 features with age, time to live checked; "
    cold = known + "entities that the process has not read before"
    warm = (
        known + "the same entities again, which Feast reads again and ours remembers while SQLite's data_version stays"
    )
    return [
        row("materialize, CPU", ours[0][0], feast[0][0], "s", what),
        row("materialize, wall", ours[0][1], feast[0][1], "s", f"{VIEWS * keys / ours[0][0]:,.0f} rows a CPU second"),
        row("cold online read of 1 entity, CPU", ours[3][0] * us, feast[3][0] * us, "us", cold, digits=1),
        row("cold online read of 1 entity, wall", ours[3][1] * us, feast[3][1] * us, "us", "the same", digits=1),
        row("cold online read of 100 entities, CPU", ours[4][0] * us, feast[4][0] * us, "us", cold, digits=1),
        row("cold online read of 100 entities, wall", ours[4][1] * us, feast[4][1] * us, "us", "the same", digits=1),
        row("warm online read of 1 entity, CPU", ours[1][0] * us, feast[1][0] * us, "us", warm, digits=1),
        row("warm online read of 1 entity, wall", ours[1][1] * us, feast[1][1] * us, "us", "the same", digits=1),
        row("warm online read of 100 entities, CPU", ours[2][0] * us, feast[2][0] * us, "us", warm, digits=1),
        row("warm online read of 100 entities, wall", ours[2][1] * us, feast[2][1] * us, "us", "the same", digits=1),
        row(
            "first online read of a process, wall",
            ours[5][1] * us,
            feast[5][1] * us,
            "us",
            "1 entity; imports done, reader made, nothing read yet",
            digits=1,
        ),
    ]


if __name__ == "__main__":
    for r in main():
        print(r)
