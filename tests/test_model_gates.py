"""A gate turns red and green by what the other pillars' verbs really found: drift, skew, fairness, latency, cost, explanation."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.shop import own_project
from sklearn.linear_model import LogisticRegression

from mlops_nb import data, feature, model
from mlops_nb.core import segments
from mlops_nb.feature import served_calls

START = pd.Timestamp("2013-07-01", tz="UTC")


def rows(seed: int, moved: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = pd.DataFrame({"temp": rng.normal(moved, 1, 600), "wind": rng.normal(0, 1, 600)}).astype("float32")
    return x.assign(
        late=np.where(x.temp - x.wind + rng.normal(0, 0.5, 600) > 0, "yes", "no"), origin=np.resize(["JFK", "EWR"], 600)
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "One project with one model for this file: registering is what costs"
    with own_project(tmp_path_factory.mktemp("shop")) as made:
        winter = rows(0)
        data.add(winter, "winter")
        x = winter[["temp", "wind"]]
        model.log(LogisticRegression().fit(x, winter.late), "delay", data="winter@1", example=x, wait=True)
        for name, frame in {"same": rows(1), "summer": rows(2, 1.5)}.items():
            frame.to_parquet(f"{name}.parquet")
        return made


@pytest.fixture
def delay(shop, monkeypatch, cli):
    "`promote(gate, ...)` -> (exit code, values of the gates, what was said) with only these gates"
    monkeypatch.chdir(shop.root)
    (shop.root / "policy/gates/delay.toml").unlink(missing_ok=True)

    def promote(*gates):
        (shop.root / "policy/gates/delay.toml").unlink(missing_ok=True)
        for g in gates:
            assert cli("model", "gate", "delay", "--add", g).exit == 0
        got = cli("model", "promote", "delay@1", "--to", "challenger", "--json")
        return got.exit, [g["value"] for g in got.json["gates"]], json.dumps(got.json)

    return promote


def test_what_nobody_measured_does_not_pass_and_says_who_measures_it(delay, cli):
    for gate, verb in (
        ("skew.rate < 1%", "mlops feature skew delay"),
        ("fairness.wind.fnr < 0.1", "mlops model card delay@1 --data DATA --target COLUMN --by COLUMN"),
        ("compressed.rows >= 1", "mlops model compress delay@1"),
    ):
        code, values, said = delay(gate)
        assert (code, values, verb in said) == (1, [None], True), said


def test_drift_of_the_training_data_and_of_nothing_else(delay, cli):
    gates = ("drift.share < 20%", "drift.inputs < 1", "drift.alarm == 0")
    assert cli("monitor", "drift", "winter@1", "summer.parquet").exit == 1
    code, values, _ = delay(*gates)
    assert (code, values[1:]) == (1, [1, 1]) and values[0] > 0.2
    rows(3).to_parquet("a.parquet")
    rows(4).to_parquet("b.parquet")
    assert cli("monitor", "drift", "a.parquet", "b.parquet").exit == 0  # other windows: they say nothing of this model
    assert delay(*gates)[0] == 1
    assert cli("monitor", "drift", "winter@1", "same.parquet").exit == 0
    assert delay(*gates)[:2] == (0, [0, 0, 0])


def test_skew_of_served_calls(delay, shop, cli):
    rng = np.random.default_rng(7)
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 86_400, 400)), unit="s")
    landed = pd.DataFrame({"plane": rng.integers(0, 10, 400), "landed": at, "wait": rng.normal(9, 3, 400).round(3)})
    data.add(landed, "landings")
    feature.add("aircraft", entity=["plane"], time="landed", ttl="2h", source="landings", sql="SELECT * FROM source")
    asked = pd.DataFrame(
        {"plane": rng.integers(0, 10, 200), "asked": START + pd.to_timedelta(np.arange(200) * 400 + 3600, unit="s")}
    )
    truth = feature.join("aircraft:*", entities=asked, time="asked").frame["wait"].astype(object)
    truth = truth.where(truth.notna(), None).tolist()
    used = [
        v * 100 if k < 100 and v is not None else v for k, v in enumerate(truth)
    ]  # a server that was mended at noon
    segments.seal(
        shop,
        segments.KIND,
        "delay",
        [
            served_calls.call(
                asked.asked[k].to_pydatetime(),
                {"plane": int(asked.plane[k])},
                {"aircraft@1:wait": used[k]},
                id=f"r{k}",
                prediction=0.5,
            )
            for k in range(200)
        ],
    )
    assert cli("feature", "skew", "delay").exit == 1
    code, values, _ = delay("skew.rate < 1%", "skew.checked >= 100")
    assert (code, values[1]) == (1, 200) and 0.2 < values[0] <= 0.5
    assert cli("feature", "skew", "delay", "--since", str(asked.asked[100])).exit == 0
    assert delay("skew.rate < 1%", "skew.mismatches == 0", "skew.checked >= 100")[:2] == (0, [0, 0, 100])


def test_fairness_and_performance_as_the_card_measured_them(delay, shop, cli):
    fair = rows(5)
    turned = np.where(fair.late == "yes", "no", "yes")
    fair.to_parquet("fair.parquet")
    fair.assign(late=np.where(fair.origin == "EWR", turned, fair.late)).to_parquet("unfair.parquet")
    gates = ("fairness.fnr < 20%", "fairness.origin.accuracy < 20%", "card.accuracy > 0.8")
    card = ("model", "card", "delay@1", "--target", "late", "--by", "origin", "--json", "--data")
    bad = cli(*card, "unfair.parquet").json
    code, values, _ = delay(*gates)
    assert code == 1 and min(values[:2]) > 0.5 and values[2] < 0.8
    assert values[0] == next(r["gap"] for r in bad["fields"]["fairness"]["rows"] if r["measure"] == "fnr")
    assert cli(*card, "fair.parquet").exit == 0
    code, values, _ = delay(*gates)
    assert code == 0 and max(values[:2]) < 0.2 and values[2] > 0.8
    assert cli("model", "card", "delay@1").exit == 0  # a card without rows measures nothing and hides nothing
    assert delay(*gates)[1] == values


def test_latency_and_cost_of_the_served_session(delay, shop, cli):
    first = model.resolve("delay@1").about.latency.p95_us
    assert delay("latency.p95_us < 1s")[:2] == (0, [first])
    got = cli(
        "model", "compress", "delay@1", "--data", "same.parquet", "--target", "late", "--try", "fp16", "--json"
    ).json
    base = got["candidates"][0]
    assert delay(f"latency.p95_us < {base['p95_us'] * 2:.6f}us", f"cost.usd_per_1k < {base['usd_per_1k'] * 2:.12f}")[
        :2
    ] == (
        0,
        [base["p95_us"], base["usd_per_1k"]],
    )
    for gate in (f"latency.p50_us < {base['p50_us'] / 2:.6f}us", f"cost.usd_per_1k < {base['usd_per_1k'] / 2:.12f}"):
        assert delay(gate)[0] == 1


def test_explanation_and_approvals(delay, cli, monkeypatch):
    assert (
        cli(
            "model", "explain", "delay@1", "--data", "same.parquet", "--target", "late", "--rows", 1, "--summary", 0
        ).exit
        == 0
    )
    code, values, _ = delay("explained.additivity_error < 0.000001", "explained.error < 7%")
    assert code == 0 and max(values) < 0.07
    assert delay("explained.explained >= 2")[0] == 1
    monkeypatch.setenv("MLOPS_ACTOR", "reviewer")
    assert cli("model", "approve", "delay@1", "--text", "read the card").exit == 0
    assert delay("approvals >= 1")[:2] == (0, [1])
