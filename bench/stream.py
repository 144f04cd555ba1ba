"""Windows from a stream: events a second and core, bytes an entity, answers a second; ours against Feast's push and against pandas.

Both sides read the same JSON lines, 10,000 events of one transaction or push, in turn and each in a process of its own; imports and
registration are not counted. Feast's push keeps the newest row of an entity and no window; pandas recomputes the windows of one entity
from a sorted frame in memory, so that it stands for the least that an answer costs when nothing is kept ready."""

import json
import sys
import statistics
import tempfile
from pathlib import Path

from bench.harness import at_home, measured, row, versions

MINUTES = 24 * 60
START = """
import json, os, sys, time, warnings
from pathlib import Path
warnings.simplefilter('ignore')
folder, path, asked = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
os.chdir(folder)
"""
OURS = (
    START
    + """
import duckdb, numpy, pyarrow as pa, pyarrow.compute, resource
from datetime import datetime, UTC
from mlops_nb import data, feature
from mlops_nb.core import project
from mlops_nb.feature import definition, stream_store
from mlops_nb.feature.online_store import packed_key
p = project.create(folder/'p')
os.chdir(p.root)
one = {'card': 'c', 'at': datetime(2013, 1, 1, tzinfo=UTC), 'amount': 1.0, 'shop': 's', 'id': 'x'}
data.add(pa.Table.from_pylist([one]), 'payments')
for name in ('warm', 'card'):
    feature.add(name, entity=['card'], time='at', source='payments', id='id', created='none', sql='SELECT * FROM source',
        window=[
            'count(*) over 1h as n', 'sum(amount) over 1d as total', 'mean(amount) over 1d as mean',
            'max(amount) over 1d as top', 'distinct(shop) over 1d as shops'])
few = folder/'few.jsonl'
few.write_text(json.dumps({**one, 'at': '2013-01-01T00:00:00Z'})+'\\n'+json.dumps({**one, 'id': 'y', 'at': '2013-01-01T00:00:00Z'})+'\\n')
feature.stream('warm', from_=few, once=True, lateness='1h')
began, used = time.perf_counter(), time.process_time()
said = feature.stream('card', from_=path, once=True, lateness='1h')
spent, wall = time.process_time()-used, time.perf_counter()-began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
store, d = stream_store.of(p), definition.find(p, 'card')
store.db.execute('PRAGMA wal_checkpoint(TRUNCATE)'); store.db.execute('VACUUM')
kept = store.path.stat().st_size
used = time.process_time()
got = [store.answer(d, packed_key([c]), int(t*1e6))[0] for c, t in asked]
ask = time.process_time()-used
answers = [[g['n'], round(g['total'] or 0, 6), g['shops']] for g in got]
per_entity, per_event = kept/said.entities, kept/said.events
print(json.dumps([spent, wall, said.used, per_entity, per_event, said.events/said.entities, ask, peak, answers]))
"""
)
FEAST = (
    START
    + """
import datetime as dt, pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig
from feast.types import Float64, String
from feast.data_source import PushMode
from feast.value_type import ValueType
pd.DataFrame({'card': ['c'], 'at': [pd.Timestamp('2013-01-01', tz='UTC')], 'amount': [1.0], 'shop': ['s']}).to_parquet(folder/'h.parquet')
store = FeatureStore(config=RepoConfig(
    project='bench', provider='local', registry=f'{folder}/registry.db', entity_key_serialization_version=3,
    online_store={'type': 'sqlite', 'path': f'{folder}/online.db'}, offline_store={'type': 'file'}))
k = Entity(name='card', join_keys=['card'], value_type=ValueType.STRING)
push = PushSource(name='push', batch_source=FileSource(path=f'{folder}/h.parquet', timestamp_field='at'))
schema = [Field(name='amount', dtype=Float64), Field(name='shop', dtype=String)]
store.apply([k, push, FeatureView(name='v', entities=[k], ttl=dt.timedelta(days=1), schema=schema, source=push)])
def ingest(lines):
    rows = pd.DataFrame(json.loads(x) for x in lines)
    rows['at'] = pd.to_datetime(rows['at'], utc=True)
    store.push('push', rows, to=PushMode.ONLINE)
    return len(rows)
with open(path) as f: lines = f.readlines()
ingest(lines[:10])
began, used = time.perf_counter(), time.process_time()
n = sum(ingest(lines[k:k+10_000]) for k in range(0, len(lines), 10_000))
print(json.dumps([time.process_time()-used, time.perf_counter()-began, n]))
"""
)
PANDAS = (
    START
    + """
import pandas as pd
rows = pd.read_json(path, lines=True, dtype={'card': str, 'id': str})
rows['at'] = pd.to_datetime(rows['at'], utc=True)
rows = rows.drop_duplicates('id').sort_values('at', ignore_index=True)
by = dict(list(rows.groupby('card')))
hour, day = pd.Timedelta('1h'), pd.Timedelta('1d')
def answer(card, t):
    t = pd.Timestamp(t, unit='s', tz='UTC')
    e = by[card]
    at = e['at']
    d = e[(at>t-day) & (at<=t)]
    return int(((at>t-hour) & (at<=t)).sum()), d.amount.sum(), d.amount.mean(), d.amount.max(), d.shop.nunique()
used = time.process_time()
got = [answer(c, t) for c, t in asked]
print(json.dumps([time.process_time()-used, [[g[0], round(float(g[1]), 6), g[4]] for g in got]]))
"""
)


def files(folder: str, events: int, cards: int) -> tuple[str, str]:
    "A day of payments as JSON lines, up to a minute out of order, one in a hundred sent twice; and 2,000 questions"
    import numpy as np

    r = np.random.default_rng(0)
    t = np.sort(r.integers(0, MINUTES * 60_000, events)) / 1000
    order = np.argsort(t + r.uniform(0, 60, events))
    again = np.sort(np.r_[order, r.choice(events, events // 100, replace=False)]) if events >= 100 else order
    card, amount, shop = r.integers(0, cards, events), r.normal(50, 20, events).round(2), r.integers(0, 40, events)
    base = np.datetime64("2013-01-01T00:00:00.000")
    with open(f"{folder}/events.jsonl", "w", encoding="utf-8") as f:
        for k in again:
            at = str(base + np.timedelta64(int(t[k] * 1000), "ms"))
            one = {
                "card": f"c{card[k]}",
                "at": f"{at}Z",
                "amount": float(amount[k]),
                "shop": f"s{shop[k]}",
                "id": f"e{k}",
            }
            f.write(json.dumps(one) + "\n")
    start = float(base.astype("datetime64[s]").astype(int))
    asked = [
        [f"c{card[k]}", start + float(x)]
        for k, x in zip(r.integers(0, events, 2000), r.uniform(0, MINUTES * 60, 2000), strict=True)
    ]
    Path(folder, "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    return f"{folder}/events.jsonl", f"{folder}/asked.json"


def main(
    rounds: int = 3, events: int = 100_000, cards: int = 2_000, sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
) -> list[dict]:
    "Rows for bench/RESULTS.md"
    sides: dict[str, list] = {"ours": [], "feast": [], "pandas": []}
    with tempfile.TemporaryDirectory() as d:
        env, paths = {**at_home(d), "DO_NOT_TRACK": "true"}, files(d, events, cards)
        for n in range(rounds):
            for name, code in (("ours", OURS), ("feast", FEAST), ("pandas", PANDAS)):
                at = Path(d, f"{name}{n}")
                at.mkdir()
                sides[name].append(measured(code, str(at), *paths, cwd=d, env=env))
    if any(o[8] != p[1] for o, p in zip(sides["ours"], sides["pandas"], strict=True)):
        raise RuntimeError("the stream and pandas do not agree")
    ours, feast = (
        [statistics.median(x) for x in zip(*(v[:8] for v in sides[k]), strict=True)] for k in ("ours", "feast")
    )
    naive = statistics.median(p[0] for p in sides["pandas"])
    what = f"{events:,} payments of {cards:,} cards in a day, a minute out of order, 1 % sent twice; five windows of 1h and 1d"
    sent = events + events // 100
    return [
        row(
            "events into windows, a second and core",
            sent / ours[0],
            feast[2] / feast[0],
            "1/s",
            f"{what}; {versions('feast')} pushes the same rows to its SQLite store and keeps the newest of each card, no window",
            digits=0,
            ratio=feast[0] / feast[2] / (ours[0] / sent),
        ),
        row(
            "the same, wall",
            sent / ours[1],
            feast[2] / feast[1],
            "1/s",
            "the same",
            digits=0,
            ratio=feast[1] / feast[2] / (ours[1] / sent),
        ),
        row(
            "kept on disk for an entity",
            ours[3] / 1024,
            None,
            "KiB",
            (
                f"{ours[5]:.0f} events of its longest window and the lateness, {ours[4]:.0f} bytes each with "
                "three indexes, after VACUUM; in memory only the batch"
            ),
        ),
        row(
            "an answer of five windows, CPU",
            ours[6] / 2000 * 1e3,
            naive / 2000 * 1e3,
            "ms",
            f"2,000 questions, equal to {versions('pandas')} over a frame in memory that is grouped and sorted already",
        ),
        growth(sizes, cards),
    ]


def growth(sizes: tuple[int, ...], cards: int) -> dict:
    "The row with seconds and peak memory of a reading at each size; ours alone"
    said, last = [], 0.0
    for events in sizes:
        with tempfile.TemporaryDirectory() as d:
            paths = files(d, events, cards)
            Path(d, "ours").mkdir()
            got = measured(OURS, f"{d}/ours", *paths, cwd=d, env=at_home(d))
        last = (events + events // 100) / got[0]
        said.append(
            f"{events:,} events: {got[0]:.2f} s CPU, {got[1]:.2f} s, peak {got[7]:,.0f} MB, {got[3] / 1024:.1f} KiB an entity"
        )
    return row(
        f"growth of the stream, events a second and core at {sizes[-1]:,}",
        last,
        None,
        "1/s",
        f"{cards:,} cards; " + "; ".join(said),
        digits=0,
    )


if __name__ == "__main__":
    for line in main(*(int(x) for x in sys.argv[1:])):
        print(line)
