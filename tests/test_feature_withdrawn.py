"""Online equals history after every materialize: what was withdrawn from the source, what was pushed, what expired"""

import contextlib
import json
import random
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from mlops_nb import data, feature
from mlops_nb.core.errors import BadUsage, ToolFailed

START = pd.Timestamp("2026-01-01", tz="UTC")
ROWS = pd.DataFrame(
    {
        "who": ["a", "b", "c"],
        "n": [1, 2, 3],
        "time": START + pd.to_timedelta([0, 1, 2], unit="min"),
        "x": [1.0, 2.0, 3.0],
    }
)


@pytest.fixture(params=["sqlite", "redis", "feast-sqlite"])
def online(request, project):
    "A view over three rows whose store is one of a kind; `n` is a number"
    if request.param == "redis":
        project.pin("stores", "online", request.getfixturevalue("redis_server").url)
    if request.param == "feast-sqlite":
        folder = project.root / "store"
        folder.mkdir()
        yaml = {"project": "t", "provider": "local", "registry": "registry.db", "entity_key_serialization_version": 3}
        yaml["online_store"] = {"type": "sqlite", "path": "feast.db"}
        (folder / "feature_store.yaml").write_text(json.dumps(yaml), encoding="utf-8")
        project.pin("stores", "online", "feast:store")
    data.add(ROWS, "rows")
    feature.add("v", entity=["n"], time="time", source="rows", sql="SELECT n, time, x FROM source")
    feature.materialize()
    return request.param


def x_of(n: object) -> float | None:
    return feature.online("v:x", entity={"n": n}).values["x"]


def test_full_replaces_the_view(online):
    data.add(ROWS.iloc[:2], "rows")
    view = feature.materialize().views[0]
    assert x_of(3) == 3.0, "incremental leaves it"
    if not online.startswith("feast"):
        assert view["withdrawn"] == 1, "and counts it"
    view = feature.materialize(full=True).views[0]
    assert [x_of(n) for n in (1, 2, 3)] == [1.0, 2.0, None]
    if not online.startswith("feast"):
        assert view["removed"] == 1 and feature.materialize(full=True).written == 0
    newer = ROWS.iloc[:2].assign(time=START - timedelta(minutes=9), x=[7.0, 8.0])
    data.add(newer, "rows")
    feature.materialize(full=True)
    assert [x_of(n) for n in (1, 2)] == [7.0, 8.0], "older rows take the place of newer ones that were withdrawn"


def test_what_was_pushed_stays_by_choice(online):
    if online.startswith("feast"):
        pytest.skip("Feast cannot list what a store holds: --keep-pushed leaves all there is")
    late = START + timedelta(days=1)
    feature.push("v", pd.DataFrame({"who": ["z", "a"], "n": [9, 1], "time": [late, late], "x": [9.0, 11.0]}))
    data.add(ROWS.iloc[:2], "rows")
    feature.materialize(full=True, keep_pushed=True)
    assert [x_of(n) for n in (1, 2, 3, 9)] == [11.0, 2.0, None, 9.0]
    feature.materialize(full=True)
    assert [x_of(n) for n in (1, 2, 3, 9)] == [1.0, 2.0, None, None]
    with pytest.raises(BadUsage, match="needs --full"):
        feature.materialize(keep_pushed=True)


def test_one_key_and_one_view_are_removed(online, cli):
    if online.startswith("feast"):
        with pytest.raises(ToolFailed, match="whole views only"):
            feature.forget("v", entity={"n": "2"}, yes=True)
    else:
        assert cli("feature", "forget", "v", "--entity", "n=2").exit == 2, "a destructive verb needs --yes"
        assert cli("feature", "forget", "v", "--entity", "n=2", "--yes", "--json").json["entities"] == 1
        assert [x_of(n) for n in (1, 2, 3)] == [1.0, None, 3.0]
    assert cli("feature", "forget", "v", "--yes").exit == 0
    assert [x_of(n) for n in (1, 2, 3)] == [None] * 3
    feature.materialize()
    assert [x_of(n) for n in (1, 2, 3)] == [1.0, 2.0, 3.0], "history has it"


def test_other_views_of_an_entity_stay(project, cli):
    data.add(ROWS, "rows")
    for name in ("v", "w"):
        feature.add(name, entity=["n"], time="time", source="rows", sql=f"SELECT n, time, x, 1 AS {name}1 FROM source")
    feature.materialize()
    data.add(ROWS.iloc[1:], "rows")
    feature.materialize("v", full=True)
    got = feature.online("v:v1,w:w1", entity={"n": 1}).values
    assert got == {"v1": None, "w1": 1}
    feature.materialize("w")
    assert "1 entities or more are online and not in history" in cli("status").out
    feature.materialize("w", full=True)
    assert "not in history" not in cli("status").out and feature.online("w:w1", entity={"n": 1}).values["w1"] is None


def test_expired_keys_are_cleaned(project, cli):
    now = datetime.now(UTC)
    rows = pd.DataFrame({"n": [1, 2], "time": [now - timedelta(days=3), now], "x": [1.0, 2.0]})
    data.add(rows, "rows")
    feature.add("v", entity=["n"], time="time", ttl="1d", source="rows", sql="SELECT n, time, x FROM source")
    feature.materialize()
    assert cli("feature", "forget", "v", "--expired", "--yes", "--json").json["entities"] == 1
    assert feature.online("v:x", entity={"n": 1}).why["x"].startswith("nothing is stored") and x_of(2) == 2.0
    feature.add("w", entity=["n"], time="time", source="rows", sql="SELECT n, time, x FROM source")
    assert cli("feature", "forget", "w", "--expired", "--yes").exit == 2


def test_rows_that_are_taken_out_of_what_was_read_are_counted(project):
    known = ROWS.assign(known=ROWS["time"])
    more = known.assign(time=known["time"] + timedelta(days=1), known=known["known"] + timedelta(days=1))
    data.add(pd.concat([known, more]), "rows")
    sql = "SELECT n, time, known, x FROM source"
    feature.add("v", entity=["n"], time="time", created="known", source="rows", sql=sql)
    feature.materialize()
    data.add(pd.concat([known.iloc[:1], more, more.iloc[:1].assign(known=START + timedelta(days=2))]), "rows")
    view = feature.materialize().views[0]
    assert (view["how"], view["withdrawn"]) == ("since", 2)
    assert feature.materialize(full=True).views[0]["withdrawn"] == 0


def test_windows_forget_too(project):
    data.add(ROWS, "rows")
    sql = "SELECT who, time, x FROM source"
    feature.add("w", entity=["who"], time="time", source="rows", window=["sum(x) over 7d as s"], sql=sql)
    feature.materialize()
    at = str(START + timedelta(hours=1))

    def s_of(who: str) -> float | None:
        return feature.online("w:s", entity={"who": who}, at=at).values["s"]

    assert feature.forget("w", entity={"who": "a"}, yes=True).entities == 1
    assert (s_of("a"), s_of("b")) == (None, 2.0)
    data.add(ROWS.iloc[:1], "rows")
    feature.materialize(full=True)
    assert (s_of("a"), s_of("b")) == (1.0, None)


def test_random_histories(project):
    "After every full materialize the store holds the newest row of each entity of history, and nothing else"
    chance = random.Random(3)
    data.add(ROWS, "rows")
    feature.add("v", entity=["n"], time="time", source="rows", sql="SELECT n, time, x FROM source")
    for _ in range(12):
        size = chance.randrange(1, 12)
        rows = pd.DataFrame(
            {
                "n": [chance.randrange(6) for _ in range(size)],
                "time": [START + timedelta(minutes=chance.randrange(50)) for _ in range(size)],
                "x": [chance.random() for _ in range(size)],
            }
        ).drop_duplicates(["n", "time"])
        data.add(rows, "rows")
        with contextlib.suppress(BadUsage):
            feature.materialize(full=chance.random() < 0.3)
        feature.materialize(full=True)
        truth = rows.sort_values("time").groupby("n")["x"].last().to_dict()
        assert {n: x_of(n) for n in range(6)} == {n: truth.get(n) for n in range(6)}
