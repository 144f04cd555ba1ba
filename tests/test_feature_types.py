"""Every type of value and of key, at the edges of windows: history is the rules is what is answered online."""

import datetime as dt
import math
import random
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from helpers.counts import count

from mlops_nb import data, feature
from mlops_nb.core.errors import MlopsError
from mlops_nb.feature import definition, windows

START = dt.datetime(2026, 3, 28, 23, 0, tzinfo=dt.UTC)  # an hour before a night in Berlin that loses one
MINUTE = dt.timedelta(minutes=1)
NS = 1_774_000_000_123_456_789

COLUMNS = {
    "i64": (pa.int64(), [2**63 - 1, -(2**63), 2**62, -1, 0, 7]),
    "u64": (pa.uint64(), [2**64 - 1, 2**63, 2**63 - 1, 0, 7]),
    "i8": (pa.int8(), [127, -128, 0, 3]),
    "flag": (pa.bool_(), [True, False]),
    "f32": (pa.float32(), [0.1, -0.0, 3e38, math.nan, math.inf, -math.inf]),
    "f64": (pa.float64(), [0.1, 0.2, 0.0, -0.0, 1e308, -1e308, 5e-324, math.nan, math.inf]),
    "dec": (pa.decimal128(20, 3), [Decimal("0.100"), Decimal("-7.125"), Decimal("12345678901234567.891")]),
    "day": (pa.date32(), [dt.date(1900, 1, 1), dt.date(2026, 3, 29), dt.date(9999, 12, 31)]),
    "naive": (pa.timestamp("us"), [dt.datetime(2026, 3, 29, 2, 30), dt.datetime(1960, 1, 1, 0, 0, 0, 1)]),
    "zoned": (pa.timestamp("us", "Europe/Berlin"), [START + 2 * MINUTE, START + 120 * MINUTE]),
    "ns": (pa.timestamp("ns", "UTC"), [NS, NS + 1, NS + 1000]),
    "clock": (pa.time64("us"), [dt.time(0), dt.time(23, 59, 59, 999_999)]),
    "long": (pa.duration("us"), [dt.timedelta(days=-1), dt.timedelta(microseconds=1)]),
    "text": (pa.string(), ["a", "a\0b", "", "ü\N{GRINNING FACE}", "1", "NaN", 'x"y']),
    "bytes": (pa.binary(), [b"", b"\0\xff", b"a"]),
    "list": (pa.list_(pa.float64()), [[], [1.5, None], [0.0]]),
}
KEYS = {
    "int": (pa.int64(), [1, -1, 0, 2**63 - 1, -(2**63)]),
    "uint": (pa.uint64(), [1, 2**64 - 1, 2**63]),
    "text": (pa.string(), ["1", "01", "a\0b", "ü", "", " ", "null", "O'Hare"]),
    "flag": (pa.bool_(), [True, False]),
    "float": (pa.float64(), [1.5, -2.0, 0.1]),
    "time": (pa.timestamp("us", "UTC"), [START, START + MINUTE]),
    "zoned": (pa.timestamp("us", "America/New_York"), [START, START + 60 * MINUTE]),
    "day": (pa.date32(), [dt.date(2026, 3, 29), dt.date(1969, 12, 31)]),
    "dec": (pa.decimal128(9, 2), [Decimal("1.10"), Decimal("2.00"), Decimal("-0.25")]),
}
ORDERED = ("min", "max", "first", "last")


def allowed(aggregate: str, t: pa.DataType) -> bool:
    if aggregate in ("count", "distinct"):
        return True
    if aggregate in ORDERED:
        return not pa.types.is_nested(t)
    return pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t) or pa.types.is_boolean(t)


def same(a, b) -> bool:
    "Equal values of equal types; NaN is no value"
    a, b = (None if v is None or v != v else v for v in (a, b))
    return a == b and (
        isinstance(a, bool) == isinstance(b, bool) and isinstance(a, (int, float)) == isinstance(b, (int, float))
    )


def drawn(rng: random.Random, rows: int) -> tuple[pa.Table, list[str], list[str]]:
    "Events with keys of random types, at whole minutes, so that window bounds are hit"
    kinds = rng.sample(sorted(KEYS), rng.choice([1, 1, 2]))
    names = rng.sample(sorted(COLUMNS), 4)
    keys = {
        f"key {n}": pa.array(
            [rng.choice(KEYS[k][1] + ([None] if rng.random() < 0.1 else [])) for _ in range(rows)], KEYS[k][0]
        )
        for n, k in enumerate(kinds)
    }
    at = {"t": pa.array([START + rng.randrange(0, 300) * MINUTE for _ in range(rows)], pa.timestamp("us", "UTC"))}
    values = {c: pa.array([rng.choice([*COLUMNS[c][1], None]) for _ in range(rows)], COLUMNS[c][0]) for c in names}
    return pa.table({**keys, **at, **values}), list(keys), names


def spoken(table: pa.Table, name: str) -> list:
    "Values as history has them"
    c = table[name]
    return c.cast(pa.int64()).to_pylist() if pa.types.is_duration(c.type) else c.to_pylist()


@pytest.mark.parametrize("where", ["sqlite", "redis"])
@pytest.mark.parametrize("seed", range(count(6, 150)))
def test_history_is_the_rules_is_online(project, request, seed, where):
    if where == "redis":
        if seed % 3:
            return
        project.pin("stores", "online", request.getfixturevalue("redis_server").url)
    rng = random.Random(seed)
    table, keys, names = drawn(rng, rng.choice([1, 2, 40, 90]))
    overs = [rng.choice([1, 7, 60, 200]) for _ in range(3)]
    ws = [
        windows.Window(name=f"{c}_{a}_{over}", aggregate=a, column=c, over=f"{over}m")
        for c in names
        for a in ("count", "sum", "mean", "min", "max", "std", "first", "last", "distinct")
        if allowed(a, windows_type(c))
        for over in (rng.choice(overs),)
    ]
    data.add(table, "e")
    how = dict(entity=keys, time="t", created="none", source="e", sql="SELECT * FROM source")
    feature.add("plain", **how)
    feature.add("w", window=[windows.line_of(w) for w in ws] + ["count(*) over 60m as n"], **how)
    feature.materialize("plain")
    feature.push("w", table) if seed % 2 and not any(table[k].null_count for k in keys) else feature.stream(
        "w", from_=table, once=True, lateness="30d"
    )
    d = definition.find(project, "w")
    times = table["t"].to_pylist()
    moments = {
        rng.choice(times) + s * dt.timedelta(microseconds=1) + m * MINUTE for m in (0, *overs) for s in (-1, 0, 1)
    }
    who = list(dict.fromkeys(zip(*(table[k].to_pylist() for k in keys))))
    who = rng.sample(who, min(len(who), 4))
    asked = [(*k, t) for t in sorted(moments) for k in who]
    frame = pa.table(
        {k: pa.array([a[n] for a in asked], table.schema.field(k).type) for n, k in enumerate(keys)}
        | {"t": pa.array([a[-1] for a in asked], pa.timestamp("us", "UTC"))}
    )
    truth = feature.join("w", entities=frame, time="t").table
    rows = list(zip(*(table[k].to_pylist() for k in keys), times))
    values = {c: spoken(table, c) for c in names}
    reader = feature.Reader(project, "w")
    for n, a in enumerate(asked):
        us = (a[-1] - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        (online,), _ = reader.read([dict(zip(keys, a))], us)
        mine = sorted(
            ((r[-1], k) for k, r in enumerate(rows) if r[:-1] == a[:-1] and None not in a), key=lambda x: x[0]
        )
        for w in ws:
            known = [windows.Row(_us(t), values[w.column][k]) for t, k in mine]
            rule = None if None in a else windows.reference(w.aggregate, int(w.over[:-1]) * 60_000_000, known, us)
            said = truth[w.name][n].as_py()
            assert same(rule, said) and same(said, online[w.name]), (w.name, a, rule, said, online[w.name])
    reader.close()
    now = max(times) + MINUTE
    last = pa.table(
        {k: frame[k].slice(0, len(who)) for k in keys} | {"t": pa.array([now] * len(who), pa.timestamp("us", "UTC"))}
    )
    truth, reader = feature.join("plain", entities=last, time="t").table, feature.Reader(project, "plain")
    got, _ = reader.read([dict(zip(keys, k)) for k in who], _us(now))
    reader.close()
    for c in names:
        for n in range(len(who)):
            assert same(truth[c][n].as_py(), got[n][c]), (c, who[n], truth[c][n], got[n][c])
    assert d.windows


def windows_type(c: str) -> pa.DataType:
    t = COLUMNS[c][0]
    return pa.int64() if pa.types.is_duration(t) else t


def _us(t: dt.datetime) -> int:
    return (t - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_a_sum_beyond_64_bits_is_null_everywhere_and_says_why(project, cli, kind):
    most = 2**63 - 1 if kind == "int64" else 2**64 - 1
    at = [START + n * MINUTE for n in range(4)]
    frame = pa.table({"k": [1, 1, 1, 2], "t": at, "x": pa.array([most, most, most, 5], kind)})
    data.add(frame, "e")
    feature.add(
        "w",
        entity=["k"],
        time="t",
        source="e",
        sql="SELECT * FROM source",
        window=["sum(x) over 1h as s", "mean(x) over 1h as m"],
    )
    feature.materialize("w")
    now = START + 10 * MINUTE
    truth = feature.join("w", entities=pa.table({"k": [1, 2], "t": [now, now]}), time="t").table
    assert truth["s"].to_pylist() == [None, 5] and truth["m"].to_pylist() == [float(most), 5.0]
    said = cli("feature", "online", "w", "--entity", "k=1", "--at", now.isoformat(), "--json").json
    assert said["values"] == {"s": None, "m": float(most)} and "beyond 64 bits" in said["why"]["s"]


@pytest.mark.parametrize("key", ["\udcff", "\ud800"])
def test_a_text_that_no_file_can_hold_is_nobody(project, key):
    data.add(pd.DataFrame({"k": ["a"], "t": [START], "x": [1]}), "e")
    feature.add("v", entity=["k"], time="t", source="e", sql="SELECT * FROM source")
    feature.materialize("v")
    reader = feature.Reader(project, "v")
    try:
        assert reader.read([{"k": key}])[0] == [{"x": None}]
    except MlopsError as e:
        assert "\n" not in str(e)
    reader.close()
