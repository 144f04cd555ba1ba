"""Windows over random histories equal the rules, written as a loop."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from helpers.counts import count
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import BadInput
from mlops_nb.feature import sliding, windows

KINDS = ["count", "sum", "mean", "min", "max", "std", "first", "last", "distinct", "approx_distinct"]
WHOLE = st.one_of(st.none(), st.integers(-5, 5))
FLOAT = st.one_of(
    st.none(), st.just(math.nan), st.floats(-1e6, 1e6), st.floats(allow_nan=False), st.sampled_from([0.1, 1e16, -1e16])
)
TEXT = st.one_of(st.none(), st.sampled_from(["a", "b", "it's", 'q"', "zz"]))
KEY = st.tuples(st.sampled_from(["u", "v", None]), st.integers(1, 2))


@st.composite
def histories(draw):
    "Rows and questions of a few entities, with ties, late rows, corrections and holes"
    row = st.tuples(KEY, st.integers(0, 40), st.integers(-3, 25), WHOLE, FLOAT, TEXT, st.integers(0, 2), st.booleans())
    rows = draw(st.lists(row, max_size=25))
    asks = draw(st.lists(st.tuples(KEY, st.one_of(st.none(), st.integers(-2, 90))), max_size=15))
    return rows, asks, draw(st.booleans()), draw(st.booleans()), draw(st.integers(1, 40))


def tables(rows, asks, created, ids):
    "As the engine takes them: sorted by key, time, created and the rest"
    named = [
        {
            "k0": k[0],
            "k1": k[1],
            "t": t,
            "c": t + late,
            "n": n,
            "x": x,
            "s": s,
            "id": None if i == 0 else f"e{i}",
            "keep": keep,
        }
        for k, t, late, n, x, s, i, keep in rows
    ]
    named.sort(key=lambda r: (str(r["k0"]), r["k1"], r["t"], r["c"] if created else 0))
    types = {"k0": pa.string(), "k1": pa.int64(), "t": pa.int64(), "c": pa.int64()}
    rest = {"n": pa.int64(), "x": pa.float64(), "s": pa.string(), "id": pa.string(), "keep": pa.bool_()}
    view = pa.table({c: pa.array([r[c] for r in named], t) for c, t in types.items() if c != "c" or created})
    data = pa.table({c: pa.array([r[c] for r in named], t) for c, t in rest.items()})
    asked = pa.table(
        {
            "k0": pa.array([k[0] for k, _ in asks], pa.string()),
            "k1": pa.array([k[1] for k, _ in asks], pa.int64()),
            "t": pa.array([t for _, t in asks], pa.int64()),
        }
    )
    return named, asked, view, data


def expected(named, k, t, w, over, *, created, ids):
    if k[0] is None or t is None:
        return None
    mine = [r for r in named if (r["k0"], r["k1"]) == k]
    rows = [
        windows.Row(
            r["t"],
            r[w.column] if w.column else None,
            r["c"] if created else None,
            r["id"] if ids else None,
            r["keep"] if w.filter else True,
        )
        for r in mine
    ]
    return windows.reference(w.aggregate, over, rows, t, events=not w.column)


def same(a, b) -> bool:
    "To the last bit"
    return a == b and isinstance(a, bool) == isinstance(b, bool)


@settings(max_examples=count(40, 600))
@given(histories())
def test_equal_to_the_rules(drawn):
    rows, asks, created, ids, over = drawn
    named, asked, view, data = tables(rows, asks, created, ids)
    ws = [windows.parse(f"count(*) over {over / 1e6:.6f}s as events")]
    for column in "nxs":
        for kind in KINDS if column != "s" else [k for k in KINDS if k not in ("sum", "mean", "std")]:
            ws += [
                windows.parse(f"{kind}({column}) over {over / 1e6:.6f}s as {kind}_{column}_{f}{f and ' where keep'}")
                for f in ("", "f")
            ]
    got = sliding.evaluate(asked, view, data, ws, ids="id" if ids else "")
    for w in ws:
        values = got[w.name].to_pylist()
        want = [expected(named, k, t, w, over, created=created, ids=ids) for k, t in asks]
        assert all(same(a, b) for a, b in zip(values, want, strict=True)), (w, values, want)
        assert got[w.name].type == windows.type_of(w, data.schema)


def test_sums_keep_their_digits():
    "A spread far from zero, and a whole sum beyond 2**53: what running sums of floats would lose"
    asked = pa.table({"k0": [1], "t": [10]})
    view = pa.table({"k0": [1, 1, 1], "t": [1, 2, 3]})
    data = pa.table({"x": [1e9, 1e9 + 1, 1e9 + 2], "n": [2**60, 1, -(2**60) + 1]})
    got = sliding.evaluate(
        asked, view, data, [windows.parse(f"{a} over 1s as v{i}") for i, a in enumerate(("std(x)", "sum(n)"))]
    )
    assert got["v0"].to_pylist() == [1.0]
    assert got["v1"].to_pylist() == [2]


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_sides(rows):
    view = pa.table({"k0": pa.array([1] * rows, pa.int64()), "t": pa.array([1] * rows, pa.int64())})
    data = pa.table({"x": pa.array([2.0] * rows, pa.float64())})
    ws = [windows.parse(f"{k}(x) over 1d as {k}") for k in KINDS]
    none = sliding.evaluate(view.slice(0, 0), view, data, ws)
    assert {k: len(v) for k, v in none.items()} == dict.fromkeys(KINDS, 0)
    asked = pa.table({"k0": [1, 2], "t": [5, 5]})
    got = sliding.evaluate(asked, view, data, ws)
    assert got["sum"].to_pylist() == [2.0 if rows else None, None]
    assert got["count"].to_pylist() == [rows, 0]


def test_what_cannot_be_added_is_said():
    data = pa.table({"x": ["a"], "when": pa.array([0], pa.timestamp("us"))})
    view = pa.table({"k0": [1], "t": [1]})
    with pytest.raises(BadInput, match="mean of column `x`, which is string"):
        sliding.evaluate(view, view, data, [windows.parse("mean(x) over 1d")])
    with pytest.raises(BadInput, match="gives no column `y`"):
        sliding.evaluate(view, view, data, [windows.parse("max(y) over 1d")])
    huge, total = pa.table({"x": np.array([2**62, 2**62, 2**62])}), windows.parse("sum(x) over 1d as total")
    three = pa.table({"k0": [1, 1, 1], "t": [1, 1, 1]})
    assert sliding.evaluate(view, three, huge, [total])["total"].to_pylist() == [None], "does not fit into 64 bits"
    others = pa.table({"k0": [1, 2, 2], "t": [1, 1, 1]})
    assert sliding.evaluate(view, others, huge, [total])["total"].to_pylist() == [2**62], (
        "those that were not asked for"
    )


def test_decimals_enter_as_the_nearest_float():
    "History gives what the events of a stream give"
    x = [Decimal("9007199254740993.01"), Decimal("-0.10"), Decimal("1234567890123456.78")]
    view = pa.table({"k0": [1, 1, 1], "t": [1, 2, 3]})
    data = pa.table({"x": pa.array(x, pa.decimal128(20, 2))})
    asked = pa.table({"k0": [1, 1, 1], "t": [1, 2, 3]})
    for kind in ("sum", "mean", "std"):
        got = sliding.evaluate(asked, view, data, [windows.parse(f"{kind}(x) over 1d as v")])["v"].to_pylist()
        rows = [windows.Row(n + 1, v) for n, v in enumerate(x)]
        assert got == [windows.reference(kind, 10**9, rows[:n], n) for n in (1, 2, 3)]
