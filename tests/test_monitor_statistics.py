"""The statistics of a drift check equal SciPy's, and their promise about false alarms holds on real data."""

import math

import numpy as np
import pyarrow as pa
import pytest
from helpers.counts import count
from scipy import stats

from mlops_nb.app import flights
from mlops_nb.core.frames import to_arrow
from mlops_nb.data import counted
from mlops_nb.monitor import compare, two_sample


def numbers(rng, n):
    "Numbers of one random shape: smooth, rounded, counts, heavy tails, with infinities"
    shape = rng.integers(5)
    x = [
        rng.normal(size=n),
        rng.normal(size=n).round(1),
        rng.poisson(3, n) * 1.0,
        rng.standard_cauchy(n),
        rng.normal(size=n),
    ][shape]
    if shape == 4:
        x[rng.random(n) < 0.05] = rng.choice([np.inf, -np.inf])
    return x


@pytest.mark.parametrize("seed", range(count(40, 400)))
def test_ks_equals_scipy(seed):
    rng = np.random.default_rng(seed)
    n, m = (int(k) for k in rng.integers(1, 400 if seed % 4 else 6000, 2))
    x, y = numbers(rng, n), numbers(rng, m) + rng.choice([0, 0.1, 1])
    statistic, p = two_sample.ks(counted(x), counted(y))
    method = "exact" if n * m <= 4_000_000 else "asymp"
    peer = stats.ks_2samp(x, y, method=method)
    assert statistic == pytest.approx(peer.statistic, rel=1e-12)
    if method == "exact" or p > 1e-12:
        assert p == pytest.approx(peer.pvalue, rel=1e-9, abs=1e-5 if p > 0.9999 else 1e-300)
    else:
        assert peer.pvalue <= p <= 1e-12, "far out a bound stands in: never too small"


@pytest.mark.parametrize("seed", range(count(40, 400)))
def test_levels_equal_scipy(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 40))
    share = rng.dirichlet(np.full(k, rng.choice([0.2, 1, 5])))
    table = np.stack([rng.multinomial(int(n), share) for n in rng.integers(20, 5000, 2)])
    found = two_sample.homogeneity(table)
    if found is None:
        assert (table.sum(0) > 0).sum() < 2
        return
    t = two_sample.pooled(table) if (table.sum(0) > 0).sum() > 2 else table[:, table.sum(0) > 0]
    assert t.sum() == table.sum() and (t.sum(1) == table.sum(1)).all()
    if found[0] == "chi2":
        peer = stats.chi2_contingency(t, correction=False)
        assert t.shape[1] == 2 or peer.expected_freq.min() >= two_sample.EXPECTED
    else:
        peer = stats.fisher_exact(t)
    assert found[1] == pytest.approx(peer.statistic, rel=1e-9)
    assert found[2] == pytest.approx(peer.pvalue, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("seed", range(count(20, 200)))
def test_effect_is_a_share_and_forgets_the_number_of_rows(seed):
    rng = np.random.default_rng(seed)
    shift = rng.uniform(0.2, 2)
    for n in (500, 20_000):
        a, b = counted(rng.normal(size=n)), counted(rng.normal(shift, 1, n))
        truth = 2 * stats.norm.cdf(shift / 2) - 1
        assert two_sample.effect(a, b) == pytest.approx(truth, abs=2.5 / math.sqrt(n) + 0.01)
    assert two_sample.effect(a, a) == 0


def test_holm_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(count(50, 500)):
        p = rng.random(int(rng.integers(1, 12))) ** 3
        adjusted = two_sample.holm(list(p))
        s = np.sort(p)
        definition = [max(min(1.0, (len(p) - j) * s[j]) for j in range(int(np.searchsorted(s, v)) + 1)) for v in p]
        assert adjusted == pytest.approx(definition)
    assert two_sample.holm([]) == []


@pytest.fixture(scope="module")
def months():
    "The real flights, by month"
    table = to_arrow(flights.load()[0])
    month = np.asarray(table["month"])
    return lambda *which: table.filter(pa.array(np.isin(month, which)))


def at_most(rate: float, trials: int) -> int:
    "So many alarms or fewer, except once in ten million suites, if each comes with `rate`"
    return int(stats.binom.isf(1e-7, trials, rate))


def test_the_alarm_keeps_its_promise_on_random_splits_of_a_month(months):
    "Halves, and a small window against a large one: both at the stated rate, and at a rate where many alarms are due"
    month, rng, trials = months(1), np.random.default_rng(2013), count(40, 200)
    alarms = {0.05: 0, 0.5: 0}
    for trial in range(trials):
        order = pa.array(rng.permutation(month.num_rows))
        cut = month.num_rows // (2 if trial % 2 else 10)
        a, b = month.take(order[:cut]), month.take(order[cut:])
        d = compare(a, b)
        smallest = min(c.p_adjusted for c in d.columns)
        assert d.false_alarm_rate == 0.05 and d.alarm == (smallest <= 0.05)
        for rate in alarms:
            alarms[rate] += smallest <= rate
    for rate, seen in alarms.items():
        assert seen <= at_most(rate, trials), f"{seen} alarms in {trials} splits at a rate of {rate}"


def test_winter_against_summer_is_drift(months):
    d = compare(months(1, 2), months(6, 7))
    assert d.alarm and not d.ok
    by_name = {c.name: c for c in d.columns}
    assert by_name["dep_delay"].drifted and by_name["tailnum"].drifted and by_name["month"].effect > 0.99
    assert by_name["year"].test == "none" and by_name["planned"].test == "none"
    assert by_name["carrier"].effect < 0.05 < by_name["dep_delay"].effect, "significant and large are told apart"
    assert not compare(months(1, 2), months(6, 7), columns=["carrier"], min_effect=0.05).alarm


@pytest.mark.parametrize("sizes", [(200, 200), (5000, 60), (3000, 3000)])
def test_sparse_levels_do_not_cry_wolf(sizes):
    "Exchangeable windows with many rare levels: small p values are as rare as they say, far into the tail"
    rng, trials = np.random.default_rng(sum(sizes)), count(400, 4000)
    share = rng.dirichlet(np.full(200, 0.3))
    p = []
    for _ in range(trials):
        pool = rng.multinomial(sum(sizes), share)
        current = rng.multivariate_hypergeometric(pool, sizes[1])
        found = two_sample.homogeneity(np.stack([pool - current, current]))
        p.append(found[2])
    for level in (0.1, 0.01, 0.001):
        assert np.sum(np.array(p) <= level) <= at_most(1.5 * level, trials)
