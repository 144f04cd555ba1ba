"""Sums, means and standard deviations over wild floats are rounded once: == to math.fsum and statistics.stdev."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from helpers.counts import count
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops_nb import data, feature
from mlops_nb.feature import exact_sums, windows

EDGES = [
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    2.0**-1022,
    1e-300,
    0.1,
    1.0,
    2.0**-53,
    -(2.0**-54),
    2.0**53,
    1e16,
    -1e300,
    1.7e308,
]
KINDS = [
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(EDGES),
    st.integers(0, 10).map(lambda n: float(1_700_000_000_000_000 + n)),  # epoch microseconds
    st.floats(0, 1e-3).map(lambda x: 1e9 + x),
    st.integers(-500, 500).map(lambda n: n / 10),
    st.integers(-5, 5).map(lambda n: n * 5e-324),
    st.tuples(st.integers(-3, 3), st.integers(-70, 70)).map(lambda p: math.ldexp(*p)),
]


@st.composite
def seen(draw):
    "Values, and the run of questions that sees each"
    kind = st.one_of(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique_by=id)))
    n = draw(st.integers(1, 6))
    runs = st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted)
    return n, draw(st.lists(st.tuples(kind, runs), max_size=12))


def nearest(x: Fraction) -> float:
    "Of an exact value"
    try:
        return x.numerator / x.denominator
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def stdev(values) -> float:
    try:
        return statistics.stdev(values)
    except OverflowError:
        return math.inf


def asked(n, events):
    "(sums, deviations, values) of each question"
    x = np.array([v for v, _ in events], "float64")
    lo, hi = (np.array([r[k] for _, r in events], "int64") for k in (0, 1))
    c = exact_sums.steps(lo, hi, n)
    got = exact_sums.sums(lo, hi, n, x, c).tolist(), exact_sums.deviations(lo, hi, n, x, c).tolist()
    return *got, [[v for v, (a, b) in events if a <= q < b] for q in range(n)]


@settings(max_examples=count(300, 5000))
@given(seen())
@example((1, [(1.0, [0, 1]), (2.0**53, [0, 1]), (5e-324, [0, 1])]))  # half of the last place, and the smallest float
@example((1, [(1.0, [0, 1]), (2.0**53, [0, 1]), (-5e-324, [0, 1])]))
@example((2, [(1e20, [0, 1]), (3e20, [0, 1]), (1e-20, [1, 2]), (3e-20, [1, 2])]))  # a large neighbour
def test_rounded_once(drawn):
    n, events = drawn
    for s, d, values in zip(*asked(n, events), strict=True):
        rows = [windows.Row(1, v) for v in values]
        said = {k: windows.reference(k, 10, rows, 5) for k in ("sum", "mean", "std")}
        if values:
            true = nearest(sum(map(Fraction, values)))
            assert s == said["sum"] == exact_sums.total(values) == true
            assert said["mean"] == true / len(values)
            if math.isfinite(true) and max(map(abs, values)) < 1e300:
                assert s == math.fsum(values)
        if len(values) > 1:
            assert d == said["std"] == exact_sums.deviation(values) == stdev(values)


def test_a_large_value_of_another_entity_takes_no_digit():
    s, d, values = asked(3, [(v * 10.0**e, [q, q + 1]) for q, e in enumerate((20, -20, -300)) for v in (1, 3, 3.7)])
    assert s == [math.fsum(v) for v in values] and d == [statistics.stdev(v) for v in values]


@pytest.mark.parametrize("kind", ["decimals", "microseconds", "constant", "pairs", "wide"])
def test_many_questions(kind):
    "Several blocks of questions, and windows of many events"
    rng, m = np.random.default_rng(7), 40_000
    x = {
        "decimals": rng.normal(0, 1e3, m).round(2),
        "microseconds": 1.7e15 + rng.integers(0, 10**12, m),
        "constant": np.full(m, 12.34),
        "pairs": rng.normal(0, 1e3, m).round(2),
        "wide": np.ldexp(rng.random(m), rng.integers(-900, 900, m).astype("int32")),
    }[kind]
    lo = np.arange(m)
    hi = np.minimum(lo + (2 if kind == "pairs" else rng.integers(1, 60, m)), m)
    c = exact_sums.steps(lo, hi, m)
    s, d = exact_sums.sums(lo, hi, m, x, c), exact_sums.deviations(lo, hi, m, x, c)
    for q in rng.integers(60, m, 200).tolist():
        v = [float(x[k]) for k in range(q - 60, q + 1) if lo[k] <= q < hi[k]]
        assert s[q] == math.fsum(v) and c[q] == len(v)
        assert len(v) < 2 or d[q] == statistics.stdev(v)
    if kind == "constant":
        assert not d.any()


def test_one_window_of_many_events():
    "Half a million values of one question"
    x = np.random.default_rng(8).normal(1e6, 1, 500_000)
    lo, hi = np.zeros(len(x), "int64"), np.ones(len(x), "int64")
    c = exact_sums.steps(lo, hi, 1)
    assert exact_sums.sums(lo, hi, 1, x, c)[0] == math.fsum(x.tolist())
    assert exact_sums.deviations(lo, hi, 1, x, c)[0] == exact_sums.deviation(x.tolist())


def test_few_deviations_need_whole_numbers(monkeypatch):
    "Constant windows, pairs and near-equal values are rounded by floats; only what is in doubt is not"
    calls = []
    plain = exact_sums._root
    monkeypatch.setattr(exact_sums, "_root", lambda n, d: calls.append(1) or plain(n, d))
    rng, n = np.random.default_rng(9), 20_000
    lo = np.repeat(np.arange(n), 2)
    for x in (
        np.full(2 * n, 0.1),
        rng.normal(0, 1, 2 * n),
        1.7e15 + rng.integers(0, 9, 2 * n),
        rng.integers(0, 9, 2 * n) / 10,
    ):
        c = exact_sums.steps(lo, lo + 1, n)
        exact_sums.deviations(lo, lo + 1, n, x, c)
    assert calls == []


@pytest.mark.parametrize(
    "values", [[math.inf, 1.0], [math.inf, -math.inf, 1.0], [-math.inf, -math.inf], [1.7e308, 1.7e308, -math.inf]]
)
def test_infinities(values):
    with np.errstate(invalid="ignore"):
        s, d, _ = asked(1, [(v, [0, 1]) for v in values])
    total = exact_sums.total(values)
    assert (math.isnan(s[0]) and total is None) or s[0] == total
    assert math.isnan(d[0]) and exact_sums.deviation(values) is None


def test_history_and_the_online_store_say_the_same_of_wild_values(project):
    "And the reason why a deviation is missing"
    at = pd.Timestamp("2024-01-01", tz="UTC")
    values = {
        "big": [1.7e308, 1.7e308],
        "both": [math.inf, -math.inf],
        "one": [5e-324],
        "tenths": [0.1, 0.2, 0.3],
        "mixed": [1e20, 1e-20, -1e20],
    }
    frame = pd.DataFrame(
        [(k, at + pd.Timedelta(seconds=n), x) for k, v in values.items() for n, x in enumerate(v)],
        columns=["k", "t", "x"],
    )
    data.add(frame, "wild")
    asked_for = [f"{a}(x) over 1h as {a}" for a in ("sum", "mean", "std")]
    feature.add("w", entity="k", time="t", created="none", source="wild", sql="SELECT * FROM source", window=asked_for)
    feature.materialize("w")
    then = at + pd.Timedelta(seconds=9)
    history = feature.join("w:*", entities=pd.DataFrame({"k": list(values), "t": then}), time="t").frame
    for n, k in enumerate(values):
        said = feature.online("w", entity={"k": k}, at=then.isoformat())
        for a in ("sum", "mean", "std"):
            assert said.values[a] == history[a][n] or (said.values[a] is None and np.isnan(history[a][n]))
        assert ("fewer than two values" in said.why.get("std", "")) == (k in ("both", "one"))
    assert history["sum"].tolist()[3:] == [0.6, 1e-20] and history["sum"][0] == math.inf
