"""What Feast asks of every offline store (`universal_offline_stores` in its own tests), asked of ours through its API.

Feast's tests need its repository and its fixtures, so each behaviour is tried here by rows of our own:
historical retrieval, no ttl, backfills, field mapping, persisting, non-entity mode, pulling the latest (also tests/test_feature_feast.py),
shared sources, missing request data, colliding names, types, writing and pushing rows, logging a feature service."""

import datetime as dt
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.feast_stores import START, minutes, store_of

from mlops_nb.core.errors import BadInput

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.xdist_group("feast"),
    pytest.mark.usefixtures("feast_times"),
]
TIMES = {"event_timestamp": minutes(0, 60), "created": minutes(1, 61)}


@pytest.fixture
def drivers(tmp_path):
    "A store with one view of drivers over one file"
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    rows = pd.DataFrame({"driver_id": [1, 2], **TIMES, "rate": [0.5, 0.25], "trips": [10, 20]})
    rows.to_parquet(tmp_path / "drivers.parquet", coerce_timestamps="us")
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
    source = FileSource(
        name="drivers_source",
        path="drivers.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    schema = [Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int64)]
    view = FeatureView(name="drivers", entities=[driver], ttl=dt.timedelta(0), schema=schema, source=source)
    store = store_of(tmp_path)
    store.apply([driver, view])
    return store, driver, view, rows


def joined(store, at, refs=("drivers:rate", "drivers:trips"), **more):
    asked = pd.DataFrame({"driver_id": [1, 2], "event_timestamp": minutes(*at)})
    return store.get_historical_features(entity_df=asked.assign(**more), features=list(refs)).to_df()


def test_two_views_share_a_source(drivers):
    from feast import FeatureView, Field
    from feast.types import Int64

    store, driver, view, _ = drivers
    other = FeatureView(
        name="trips_only",
        entities=[driver],
        ttl=dt.timedelta(hours=3),
        schema=[Field(name="trips", dtype=Int64)],
        source=view.batch_source,
    )
    store.apply([other])
    got = joined(store, (120, 700), ["drivers:rate", "trips_only:trips"])
    assert got.rate.tolist() == [0.5, 0.25] and got.trips.fillna(-1).tolist() == [10, -1]


def test_names_that_collide_and_request_data_that_is_missing(drivers):
    from feast import Field, RequestSource
    from feast.errors import FeatureNameCollisionError, RequestDataNotFoundInEntityDfException
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64

    store, _, view, _ = drivers
    wanted = RequestSource(name="added", schema=[Field(name="added", dtype=Float64)])

    @on_demand_feature_view(sources=[view, wanted], schema=[Field(name="more", dtype=Float64)])
    def plus(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"more": inputs["rate"] + inputs["added"]})

    store.apply([plus])
    with pytest.raises(RequestDataNotFoundInEntityDfException):
        joined(store, (90, 90), ["drivers:rate", "plus:more"])
    assert joined(store, (90, 90), ["drivers:rate", "plus:more"], added=2.0).more.tolist() == [2.5, 2.25]
    with pytest.raises(FeatureNameCollisionError):
        joined(store, (90, 90), ["drivers:rate", "drivers:rate"])


def test_without_an_entity_frame_it_is_the_snapshot_of_a_local_store(drivers):
    "The newest row of each entity in the span; only Feast's Ray store gives every row"
    store, _, _, rows = drivers
    more = rows.assign(event_timestamp=minutes(30, 90), rate=[0.75, 1.0])
    store.write_to_offline_store("drivers", more, allow_registry_cache=False)
    start, end = (m.to_pydatetime() for m in minutes(-1, 100))
    got = store.get_historical_features(
        entity_df=None, features=["drivers:rate"], start_date=start, end_date=end
    ).to_df()
    assert got.sort_values("driver_id").rate.tolist() == [0.75, 1.0]


def test_rows_are_written_in_any_order_of_columns_and_one_after_the_other(drivers, tmp_path):
    store, _, _, rows = drivers
    assert joined(store, (200, 200)).rate.tolist() == [0.5, 0.25]
    later = pd.DataFrame({"trips": [11, 21], "created": minutes(150, 150), "rate": [0.6, 0.3], "driver_id": [1, 2]})
    store.write_to_offline_store("drivers", later.assign(event_timestamp=minutes(150, 150)), allow_registry_cache=False)
    assert joined(store, (200, 200)).rate.tolist() == [0.6, 0.3] and joined(store, (100, 100)).rate.tolist() == [
        0.5,
        0.25,
    ]
    tied = later.assign(event_timestamp=minutes(150, 150), rate=[0.7, 0.4])
    store.write_to_offline_store("drivers", tied, allow_registry_cache=False)
    assert joined(store, (200, 200)).rate.tolist() == [0.7, 0.4], "of a tie the row that came last"
    assert len(pd.read_parquet(tmp_path / "drivers.parquet")) == 6 and [f.name for f in tmp_path.glob("drivers*")] == [
        "drivers.parquet"
    ]


def test_rows_that_do_not_fit_change_nothing(drivers, tmp_path):
    store, _, view, rows = drivers
    before = (tmp_path / "drivers.parquet").read_bytes()
    with pytest.raises(ValueError, match="missing_expected_columns"):
        store.write_to_offline_store("drivers", rows.rename(columns={"rate": "rat"}), allow_registry_cache=False)
    plugin = store._get_provider().offline_store
    for table, words in (
        (pa.table({"driver_id": [1]}), "have no column `event_timestamp`"),
        (
            pa.Table.from_pandas(rows.assign(trips=["many", "few"]), preserve_index=False),
            "do not fit source drivers_source",
        ),
    ):
        with pytest.raises(BadInput, match=words):
            plugin.offline_write_batch(store.config, view, table)
    assert (tmp_path / "drivers.parquet").read_bytes() == before and len(list(tmp_path.glob("drivers*"))) == 1


def test_a_write_that_is_killed_leaves_the_file_whole(tmp_path):
    "kill -9 between the new file and its name"
    file = tmp_path / "v.parquet"
    rows = pd.DataFrame({"k": [1], "event_timestamp": [START], "x": [1.0]})
    rows.to_parquet(file, coerce_timestamps="us")
    before = file.read_bytes()
    code = f"""
import os, signal, types, pyarrow.parquet as pq
from feast import FileSource
from mlops_nb.feature.feast_plugin import PitOfflineStore
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
source = FileSource(name='s', path='v.parquet', timestamp_field='event_timestamp')
config = types.SimpleNamespace(repo_path={str(tmp_path)!r})
view = types.SimpleNamespace(batch_source=source)
PitOfflineStore.offline_write_batch(config, view, pq.read_table({str(file)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == -signal.SIGKILL
    assert file.read_bytes() == before


def test_pushed_rows_are_in_history_and_online(drivers):
    from feast import PushSource
    from feast.data_source import PushMode

    store, driver, view, rows = drivers
    push = PushSource(name="drivers_push", batch_source=view.batch_source)
    view.stream_source = push
    store.apply([push, view])
    new = rows.assign(event_timestamp=minutes(300, 301), created=minutes(300, 301), rate=[0.9, 0.8])
    store.push("drivers_push", new, to=PushMode.OFFLINE)
    assert joined(store, (400, 400)).rate.tolist() == [0.9, 0.8]
    store.push(
        "drivers_push", new.assign(event_timestamp=minutes(500, 501), rate=[1.9, 1.8]), to=PushMode.ONLINE_AND_OFFLINE
    )
    assert joined(store, (600, 600)).rate.tolist() == [1.9, 1.8]
    assert store.get_online_features(["drivers:rate"], [{"driver_id": 1}, {"driver_id": 3}]).to_dict()["rate"] == [
        1.9,
        None,
    ]


def test_values_of_every_type_come_back_as_they_were(tmp_path):
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast import types as t

    at = pd.Timestamp("2013-01-01 00:00", tz="UTC")
    columns = {
        "small": (t.Int32, np.array([1, 2], "int32")),
        "big": (t.Int64, [2**53 + 1, -1]),
        "single": (t.Float32, np.array([0.1, 2], "float32")),
        "text": (t.String, ["a", "ü'\""]),
        "flag": (t.Bool, [True, False]),
        "raw": (t.Bytes, [b"\x00", b"\xff"]),
        "when": (t.UnixTimestamp, [at, at]),
        "floats": (t.Array(t.Float64), [[0.5, 1.5], []]),
        "texts": (t.Array(t.String), [["x"], ["y", "z"]]),
    }
    frame = pd.DataFrame({"k": [1, 2], "event_timestamp": [at, at], **{c: v for c, (_, v) in columns.items()}})
    frame.to_parquet(tmp_path / "v.parquet", coerce_timestamps="us")
    key = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    source = FileSource(name="s", path="v.parquet", timestamp_field="event_timestamp")
    schema = [Field(name=c, dtype=d) for c, (d, _) in columns.items()]
    store = store_of(tmp_path)
    store.apply([key, FeatureView(name="v", entities=[key], ttl=dt.timedelta(0), schema=schema, source=source)])
    asked = pd.DataFrame({"k": [2, 1, 3], "event_timestamp": [at, at, at]})
    got = store.get_historical_features(entity_df=asked, features=[f"v:{c}" for c in columns]).to_arrow()
    want = pq.read_table(tmp_path / "v.parquet")
    for c in columns:
        assert got[c].to_pylist() == [*reversed(want[c].to_pylist()), None] and got[c].type == want[c].type, c


def test_a_feature_service_logs_and_reads_its_logs(drivers, tmp_path):
    from feast import FeatureService
    from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    store, _, view, _ = drivers
    logs = tmp_path / "logs"
    logs.mkdir()
    service = FeatureService(
        name="s", features=[view], logging_config=LoggingConfig(destination=FileLoggingDestination(path=str(logs)))
    )
    store.apply([service])
    schema = FeatureServiceLoggingSource(feature_service=service, project=store.project).get_schema(store.registry)
    at = pd.Timestamp("2013-01-01 12:00", tz="UTC")

    def table(ids):
        full = {
            "driver_id": [1] * len(ids),
            "drivers__rate": [0.5] * len(ids),
            "drivers__trips": [3] * len(ids),
            "drivers__rate__timestamp": [at] * len(ids),
            "drivers__trips__timestamp": [at] * len(ids),
            "drivers__rate__status": [1] * len(ids),
            "drivers__trips__status": [1] * len(ids),
            "__log_timestamp": [at] * len(ids),
            "__log_date": [at.date()] * len(ids),
            "__request_id": ids,
        }
        return pa.table({f.name: pa.array(full[f.name]).cast(f.type) for f in schema})

    store.write_logged_features(source=service, logs=table(["a", "b"]))
    pq.write_table(table(["c"]), tmp_path / "more.parquet")
    store.write_logged_features(source=service, logs=tmp_path / "more.parquet")
    job = store._get_provider().retrieve_feature_service_logs(
        feature_service=service,
        start_date=at.to_pydatetime(),
        end_date=at.to_pydatetime() + dt.timedelta(seconds=1),
        config=store.config,
        registry=store.registry,
    )
    assert sorted(job.to_df()["__request_id"]) == ["a", "b", "c"]
