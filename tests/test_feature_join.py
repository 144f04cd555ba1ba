"""The join through the shell form: rows in are rows out, whatever finds no answer; the property test is in test_feature_history.py."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_nb.core import ledger
from mlops_nb.feature.events import FeatureJoined


@pytest.fixture
def view(project, cli):
    "A view with two rows of one key: true at 10 and 12 o'clock, the second known at 13"
    at = pa.array([10, 12], pa.int64())

    def hours(a):
        return pa.array([x * 3600 * 10**6 for x in a.to_pylist()], pa.timestamp("us", "UTC"))

    pq.write_table(
        pa.table({"k": ["a", "a"], "t": hours(at), "created": hours(pa.array([10, 13])), "x": [1, 2]}), "v.parquet"
    )
    assert cli("data", "add", "v.parquet", "v").exit == 0
    assert (
        cli(
            "feature",
            "add",
            "size",
            "--entity",
            "k",
            "--time",
            "t",
            "--source",
            "v",
            "--ttl",
            "5h",
            "--sql",
            "SELECT * FROM source",
        ).exit
        == 0
    )
    return hours


def asked(cli, view, keys, hours, *more, unit="us", zone="UTC"):
    t = view(pa.array(hours)).cast(pa.timestamp(unit, zone)) if zone else view(pa.array(hours)).cast(pa.timestamp(unit))
    pq.write_table(pa.table({"row": list(range(len(keys))), "k": keys, "t": t}), "asks.parquet")
    a = cli("feature", "join", "size:x", "--entities", "asks.parquet", "--out", "out.parquet", "--json", *more)
    assert a.exit == 0, a
    return a.json, pq.read_table("out.parquet")


def test_three_rows_of_which_one_has_only_future_values(view, cli):
    got, out = asked(cli, view, ["a", "a", "a"], [11, 9, 14])
    assert (got["rows_in"], got["rows_out"], got["order_kept"], got["future_values"]) == (3, 3, True, 0)
    assert out["x"].to_pylist() == [1, None, 2] and out["row"].to_pylist() == [0, 1, 2]
    assert sum(got["unmatched"].values()) == 1


def test_nothing_is_lost_to_nulls_strangers_age_or_late_knowledge(view, cli):
    got, out = asked(cli, view, ["a", None, "b", "a", "a", "a"], [12, 12, 12, 18, 13, 13])
    assert got["rows_in"] == got["rows_out"] == 6
    assert out["x"].to_pylist() == [1, None, None, None, 2, 2], (
        "known at 13 only; after 17 it is too old; the same question twice"
    )


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu", None])
def test_precision_and_zone_change_no_answer(view, cli, unit, zone):
    _, out = asked(cli, view, ["a", "a", "a"], [9, 11, 13], unit=unit, zone=zone)
    assert out["x"].to_pylist() == [None, 1, 2]


def test_the_event_proves_the_digest(view, cli, project):
    got, _ = asked(cli, view, ["a", "a"], [11, 14])
    again, _ = asked(cli, view, ["a", "a"], [11, 14])
    event = next(ledger.of(project).events("feature.joined", newest=True))
    assert event.digest == got["digest"] == again["digest"]
    assert isinstance(event.payload, FeatureJoined) and event.payload.rows_in == 2
