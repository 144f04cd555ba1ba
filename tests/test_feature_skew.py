"""Served calls against history: the planted fault is named, its rate and beginning are right, and a clean run is clean."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_nb import data, feature
from mlops_nb.core import ledger, segments
from mlops_nb.core.errors import BadInput
from mlops_nb.feature import served_calls

START = pd.Timestamp("2013-07-01", tz="UTC")
CALLS = 20_000


@pytest.fixture
def events(project) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    n = 4_000
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 4 * 86_400, n)), unit="s")
    frame = pd.DataFrame(
        {
            "plane": rng.integers(0, 60, n),
            "landed": at,
            "delay": rng.normal(9, 30, n).round(3),
            "gate": rng.choice(list("ABC"), n),
        }
    )
    data.add(frame, "landings")
    feature.add("aircraft", entity=["plane"], time="landed", ttl="2h", source="landings", sql="SELECT * FROM source")
    return frame


@pytest.fixture
def asked() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 4 * 86_400, CALLS)), unit="s")
    return pd.DataFrame({"plane": rng.integers(0, 60, CALLS), "asked": at})


def right(asked: pd.DataFrame, refs: str = "aircraft:*") -> pd.DataFrame:
    return feature.join(refs, entities=asked, time="asked").frame


def serve(project, asked, used: pd.DataFrame, view: str = "aircraft@1", sealed: int = 5_000):
    "Seal calls as a server would"
    times = asked.asked.dt.to_pydatetime()
    columns = {f"{view}:{c}": used[c].astype(object).where(used[c].notna(), None).tolist() for c in used}
    rows = [
        served_calls.call(
            times[k], {"plane": int(asked.plane[k])}, {c: v[k] for c, v in columns.items()}, id=f"r{k}", prediction=0.5
        )
        for k in range(len(asked))
    ]
    for k in range(0, len(rows), sealed):
        segments.seal(project, segments.KIND, "delay", rows[k : k + sealed])


def test_a_feature_times_100_for_one_call_in_a_hundred(project, cli, events, asked):
    used = right(asked)[["delay", "gate"]]
    wrong = np.zeros(CALLS, bool)
    candidates = np.flatnonzero(used.delay.notna() & (used.delay != 0))
    wrong[np.random.default_rng(9).choice(candidates[candidates > 2_000], CALLS // 100, replace=False)] = True
    used.loc[wrong, "delay"] *= 100
    serve(project, asked, used)
    found = cli("feature", "skew", "delay", "--json")
    assert found.exit == 1 and found.json["error"]["kind"] == "finding" and found.json["checked"] == CALLS
    [m] = found.json["mismatches"]
    assert m["feature"] == "aircraft@1:delay" and abs(m["rate"] - 0.01) <= 0.002
    assert m["interval"][0] < 0.01 < m["interval"][1] and m["rows"] == wrong.sum()
    assert pd.Timestamp(m["first"]) == asked.asked[wrong].min() and m["reason"].startswith("scaled: used = 100 x")
    top = m["worst"][0]
    assert top["used"] == pytest.approx(100 * top["truth"]) and abs(top["truth"]) == pytest.approx(
        used.delay[wrong].abs().max() / 100
    )
    assert ledger.of(project).verify().ok


def test_a_clean_run_has_no_finding(project, cli, events, asked):
    served = right(asked)[["delay", "gate"]]
    served["delay"] = served.delay.astype("float32").astype("float64")  # as a model takes it
    serve(project, asked, served)
    calm = cli("feature", "skew", "delay", "--json")
    assert (
        calm.exit == 0
        and calm.json["mismatches"] == []
        and calm.json["checked"] == CALLS
        and calm.json["features"] == 2
    )


def beyond(asked):
    "What a store without a ttl would answer"
    feature.add(
        "for_ever", entity=["plane"], time="landed", source="landings", sql="SELECT plane, landed, delay FROM source"
    )
    old, now = right(asked, "for_ever:delay").delay, right(asked).delay
    return pd.DataFrame({"delay": old.where(now.isna(), now)})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (beyond, "stale: the value of an older event, beyond the ttl of 2h"),
        (
            lambda asked: right(asked.assign(asked=asked.asked - timedelta(minutes=40))),
            "late data: the value of an older event",
        ),
        (lambda asked: right(asked).assign(delay=None), "missing"),
    ],
    ids=["stale", "late", "missing"],
)
def test_reasons(project, events, asked, fault, reason):
    some = asked.iloc[:3_000].reset_index(drop=True)
    serve(project, some, fault(some)[["delay"]])
    [m] = feature.skew("delay").mismatches
    assert m.reason.startswith(reason)


def test_an_older_definition_is_recognised(project, events, asked):
    some = asked.iloc[:2_000].reset_index(drop=True)
    feature.add(
        "aircraft",
        entity=["plane"],
        time="landed",
        ttl="2h",
        source="landings",
        sql="SELECT * REPLACE (delay/60 AS delay) FROM source",
    )
    serve(project, some, right(some, "aircraft@1:delay")[["delay"]], view="aircraft@2")
    [m] = feature.skew("delay").mismatches
    assert m.reason == "code version: the values of aircraft@1"


def test_a_late_row_is_no_skew_where_rows_say_when_they_became_known(project, events, asked):
    some = asked.iloc[:3_000].reset_index(drop=True)
    data.add(events.assign(created=events.landed + timedelta(minutes=30)), "late")
    feature.add("aircraft", entity=["plane"], time="landed", ttl="2h", source="late", sql="SELECT * FROM source")
    serve(project, some, right(some)[["delay"]], view="aircraft@2")
    assert feature.skew("delay").ok


def test_an_older_value_is_a_store_that_was_behind_where_the_newer_one_was_known(project, events, asked):
    some = asked.iloc[:3_000].reset_index(drop=True)
    data.add(events.assign(created=events.landed + timedelta(minutes=1)), "known")
    feature.add("aircraft", entity=["plane"], time="landed", ttl="2h", source="known", sql="SELECT * FROM source")
    behind = right(some.assign(asked=some.asked - timedelta(minutes=40)))[["delay"]]
    serve(project, some, behind, view="aircraft@2")
    [m] = feature.skew("delay").mismatches
    assert m.reason.startswith("behind: the value of an older event; the newer one was known")


def test_an_event_that_came_after_its_window_was_served(project, asked):
    "Windows without an event in their middle"
    rng = np.random.default_rng(4)
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 4 * 86_400, 3_000)), unit="s")
    frame = pd.DataFrame({"plane": rng.integers(0, 20, 3_000), "landed": at, "delay": rng.normal(9, 30, 3_000)})
    lines = ["mean(delay) over 8h as mean_8h", "sum(delay) over 8h as sum_8h where delay < 60"]
    some = asked[asked.plane < 20].iloc[:2_000].reset_index(drop=True)
    data.add(frame.drop(frame.index[5::40]), "seen")
    feature.add(
        "w", entity=["plane"], time="landed", source="seen", sql="SELECT * FROM source", created="none", window=lines
    )
    served = right(some, "w:*")[["mean_8h", "sum_8h"]]
    data.add(frame, "seen")
    serve(project, some, served, view="w@1")
    found = {m.feature: m.reason for m in feature.skew("delay").mismatches}
    assert (
        set(found.values()) == {"late data: history has an event in the window that serving did not have"}
        and len(found) == 2
    )


def test_since_leaves_older_calls_out(project, events, asked):
    serve(project, asked, right(asked)[["delay"]])
    late = feature.skew("delay", since="2013-07-04")
    assert late.checked == (asked.asked >= "2013-07-04").sum() and late.ok


def test_bad_input_is_one_line(project, cli, events, asked):
    assert cli("feature", "skew", "delay").exit == 2
    serve(project, asked.iloc[:100], right(asked.iloc[:100].reset_index(drop=True))[["delay"]])
    assert cli("feature", "skew", "delay", "--since", "noon").exit == 2
    assert cli("feature", "skew", "delay", "--since", "2099-01-01").exit == 2
    segment = next((project.root / ".mlops/segments/predictions/delay").glob("*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-8])
    torn = cli("feature", "skew", "delay")
    assert torn.exit == 4 and "is not what entry" in torn.err and torn.err.count("\n") == 1


def test_one_moment_and_calls_that_history_cannot_answer(project, cli, events, asked):
    "All calls at one time; text where a number was; a feature that is gone; no calls at all"
    at = asked.asked[5_000].to_pydatetime()

    def sealed(model, value, name="aircraft@1:delay", **entity):
        segments.seal(project, segments.KIND, model, [served_calls.call(at, entity or {"plane": 3}, {name: value})])
        return cli("feature", "skew", model)

    assert sealed("text", "many").exit == 1 and sealed("infinite", float("inf")).exit == 1
    assert feature.skew("text").mismatches[0].over_time[0] == 1
    for model, how, words in (
        ("gone", {"name": "aircraft@1:dely"}, "`aircraft@1:dely`, which that view has not; did you mean `delay`?"),
        ("view", {"name": "airplane@1:delay"}, "no feature view `airplane`"),
        ("key", {"tail": "N1"}, "lacks the key `plane`"),
    ):
        said = sealed(model, 1.0, **how)
        assert said.exit == 2 and words in said.err and said.err.count("\n") == 1, said.err
    for rows, words in (([], "no rows"), ([{"id": "a"}], "has the time None")):
        with pytest.raises(BadInput, match=words):
            segments.seal(project, segments.KIND, "none", rows)
