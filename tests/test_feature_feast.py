"""Feast's own API over our offline store, and Feast repositories there and back."""

import re
import shutil
import sys
import warnings
from importlib.util import find_spec
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.feast_stores import OURS, START, minutes, store_of

from mlops_nb import data, feature
from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput, NotFound
from mlops_nb.feature import feast_repository

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.xdist_group("feast"),
    pytest.mark.usefixtures("feast_times"),
]


def write(root: Path, name: str, **columns):
    pd.DataFrame(columns).to_parquet(root / f"{name}.parquet", coerce_timestamps="us")


def view_of(
    name: str, keys: list, ttl: timedelta, features: list[str], *, created: str = "", mapping: dict | None = None
):
    from feast import FeatureView, Field, FileSource
    from feast.types import Float64

    source = FileSource(
        name=f"{name}_source",
        path=f"{name}.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column=created,
        field_mapping=mapping or {},
    )
    return FeatureView(
        name=name, entities=keys, ttl=ttl, schema=[Field(name=f, dtype=Float64) for f in features], source=source
    )


@pytest.fixture
def drivers(tmp_path):
    "Users and items: values in time, expired, in the future, corrected, tied"
    from feast import Entity, ValueType

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
    write(
        tmp_path,
        "tx",
        user_id=[1, 1, 1, 2],
        event_timestamp=minutes(0, 60, 60, 500),
        created=minutes(0, 60, 90, 500),
        amount=[1.0, 2.0, 3.0, 9.0],
    )
    write(tmp_path, "stock", item_id=[7, 8], event_timestamp=minutes(0, 0), left=[70.0, 80.0])
    write(tmp_path, "city", event_timestamp=minutes(0, 100), temp=[5.0, 6.0])
    views = [
        view_of("tx", [user], timedelta(hours=2), ["amount"], created="created"),
        view_of("stock", [item], timedelta(0), ["stock_left"], mapping={"left": "stock_left"}),
        view_of("city", [], timedelta(0), ["temp"]),
    ]
    return tmp_path, [user, item, *views]


ASKED = pd.DataFrame(
    {
        "user_id": [1, 2, 1, 1, 1, 3, 1],
        "item_id": [7, 7, 8, 8, 8, 9, 8],
        "event_timestamp": minutes(75, 75, 1000, 30, 30, 10, -5),
        "label": range(7),
    }
)
FEATURES = ["tx:amount", "stock:stock_left", "city:temp"]


def test_no_entity_row_is_lost(drivers):
    "Feast's default local store loses rows on the data that ours answers in full, in order, through the same API"
    root, objects = drivers
    theirs, ours = store_of(root, "dask"), store_of(root)
    for s in (theirs, ours):
        s.apply(objects)
    got = ours.get_historical_features(entity_df=ASKED, features=FEATURES).to_df()
    assert got.label.tolist() == list(range(7))
    assert got.amount.fillna(-1).tolist() == [3.0, -1, -1, 1.0, 1.0, -1, -1]
    assert got.stock_left.fillna(-1).tolist() == [70, 70, 80, 80, 80, -1, -1]
    assert got.temp.fillna(-1).tolist() == [5, 5, 6, 5, 5, 5, -1]
    lossy = theirs.get_historical_features(entity_df=ASKED, features=FEATURES[:2]).to_df()
    assert len(lossy) < len(ASKED)


def test_known_at_names_and_keys(drivers):
    "The created filter, full names, another key name for a second role, the caller's columns and zones"
    from feast import FeatureService

    root, objects = drivers
    store = store_of(root)
    tx = objects[2]
    twice = FeatureService(
        name="both", features=[tx.with_name("me"), tx.with_name("friend").with_join_key_map({"user_id": "friend_id"})]
    )
    store.apply([*objects, twice])
    asked = ASKED.assign(friend_id=[1, 1, 2, 2, 1, 1, 1])
    got = store.get_historical_features(
        entity_df=asked, features=store.get_feature_service("both"), full_feature_names=True
    ).to_df()
    assert list(got.columns) == [*asked.columns, "me__amount", "friend__amount"]
    assert got.friend__amount.fillna(-1).tolist() == [3, 3, -1, -1, 1, 1, -1]
    known = store.get_historical_features(
        entity_df=ASKED, features=["tx:amount"], filter_by_created_timestamp=True
    ).to_df()
    assert known.amount.fillna(-1).tolist() == [2.0, -1, -1, 1.0, 1.0, -1, -1]
    local = ASKED.assign(event_timestamp=ASKED.event_timestamp.dt.tz_convert("Asia/Kolkata"))
    naive = ASKED.assign(event_timestamp=ASKED.event_timestamp.dt.tz_localize(None))
    want = store.get_historical_features(entity_df=ASKED, features=["tx:amount"]).to_df()
    for frame in (local, naive):
        again = store.get_historical_features(entity_df=frame, features=["tx:amount"]).to_df()
        pd.testing.assert_frame_equal(again, want, check_dtype=False)
    with pytest.raises(NotFound, match="lacks the key `item_id`"):
        store.get_historical_features(entity_df=ASKED.drop(columns="item_id"), features=["stock:stock_left"]).to_df()
    empty = store.get_historical_features(entity_df=ASKED.iloc[:0], features=FEATURES).to_df()
    assert (len(empty), "amount" in empty.columns) == (0, True)


def test_on_demand_saved_datasets_and_materialization(drivers):
    from feast import Field
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64

    root, objects = drivers
    store, tx = store_of(root), objects[2]

    @on_demand_feature_view(sources=[tx], schema=[Field(name="twice", dtype=Float64)])
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["amount"] * 2})

    store.apply([*objects, doubled])
    job = store.get_historical_features(entity_df=ASKED, features=["tx:amount", "doubled:twice"])
    assert job.to_df().twice.fillna(-1).tolist() == [6.0, -1, -1, 2.0, 2.0, -1, -1]
    store.create_saved_dataset(job, name="train", storage=SavedDatasetFileStorage(path=str(root / "train.parquet")))
    assert len(store.get_saved_dataset("train").to_df()) == 7
    store.materialize(
        start_date=START.to_pydatetime() - timedelta(days=1), end_date=START.to_pydatetime() + timedelta(minutes=100)
    )
    rows = [{"user_id": 1, "item_id": 7}, {"user_id": 2, "item_id": 8}]
    assert store.get_online_features(["tx:amount", "stock:stock_left"], rows).to_dict()["amount"] == [3.0, None]
    store.materialize_incremental(end_date=datetime(2014, 1, 1, tzinfo=UTC))
    assert store.get_online_features(["tx:amount"], rows).to_dict()["amount"] == [3.0, 9.0]
    assert store.get_online_features(["stock:stock_left"], rows).to_dict()["stock_left"] == [70.0, 80.0]


def test_random_frames_through_feast_equal_brute_force(tmp_path):
    from feast import Entity, ValueType

    rng = np.random.default_rng(7)
    n = 400
    at = START + pd.to_timedelta(rng.integers(0, 600, n), unit="min")
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    rows = pd.DataFrame({"user_id": rng.integers(0, 9, n), "event_timestamp": at, "x": rng.normal(size=n)})
    rows["created"] = rows.event_timestamp + pd.to_timedelta(rng.permutation(n), unit="s")
    rows.to_parquet(tmp_path / "v.parquet", coerce_timestamps="us")
    store = store_of(tmp_path)
    store.apply([user, view_of("v", [user], timedelta(minutes=45), ["x"], created="created")])
    asked = pd.DataFrame(
        {
            "user_id": rng.integers(0, 11, 300),
            "event_timestamp": START + pd.to_timedelta(rng.integers(-9, 700, 300), unit="min"),
        }
    )
    for known in (False, True):
        got = store.get_historical_features(
            entity_df=asked, features=["v:x"], filter_by_created_timestamp=known
        ).to_df()
        want = []
        for u, t in asked.itertuples(index=False):
            seen = rows[(rows.user_id == u) & (rows.event_timestamp <= t) & (~np.bool_(known) | (rows.created <= t))]
            last = seen.sort_values(["event_timestamp", "created"]).tail(1)
            young = len(last) and t - last.event_timestamp.iloc[0] <= pd.Timedelta("45min")
            want.append(last.x.iloc[0] if young else np.nan)
        assert np.array_equal(got.x.to_numpy(), np.array(want), equal_nan=True)


def test_bad_sources_and_frames_say_so_through_feast(drivers):
    "A column or a file that is not there, text as a key, a Parquet file cut short, a row without a key: in one line, or right"
    root, objects = drivers
    store = store_of(root)
    store.apply(objects[:3])
    file, span = (
        root / "tx.parquet",
        {"start_date": datetime(2012, 1, 1, tzinfo=UTC), "end_date": datetime(2014, 1, 1, tzinfo=UTC)},
    )
    whole, rows = file.read_bytes(), pd.read_parquet(file)

    def both(error, words):
        for act in (
            lambda: store.get_historical_features(entity_df=ASKED, features=["tx:amount"]).to_df(),
            lambda: store.materialize(**span),
        ):
            with pytest.raises(error, match=words) as e:
                act()
            assert "\n" not in str(e.value)

    with pytest.raises(BadInput, match="key `user_id` is string in the entity frame"):
        store.get_historical_features(entity_df=ASKED.assign(user_id="a"), features=["tx:amount"]).to_df()
    rows.drop(columns="amount").to_parquet(file, coerce_timestamps="us")
    both(NotFound, "tx_source has no column `amount`; it has: user_id")
    file.unlink()
    both(NotFound, "there is no .*tx.parquet")
    for part in (0, 0.02, 0.5, 0.98):
        file.write_bytes(whole[: int(len(whole) * part)])
        both(BadInput, "tx_source: .*Parquet")
    pd.concat([rows, rows.assign(user_id=None)]).to_parquet(file, coerce_timestamps="us")
    store.materialize(**span)
    assert store.get_online_features(["tx:amount"], [{"user_id": 1}, {"user_id": 2}]).to_dict()["amount"] == [3.0, 9.0]


def run_feast(folder: Path, *words: str):
    "What Feast's command line did, in this process, with the repository's modules forgotten afterwards"
    from click.testing import CliRunner
    from feast.cli.cli import cli

    with feast_repository.inside(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(cli, list(words), input="\n" * 20)  # every answer is the default


def feast(folder: Path, *words: str) -> str:
    "Feast's own command; its text"
    done = run_feast(folder, *words)
    assert done.exit_code == 0, done.output[-2000:] + repr(done.exception)
    return re.sub(r"\x1b\[[0-9;]*m", "", done.output)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    "Feast's template `local`, applied"
    folder = tmp_path_factory.mktemp("feast")
    feast(folder, "init", "-t", "local", "shop")
    feast(folder / "shop/feature_repo", "apply")
    return folder / "shop/feature_repo"


def test_round_trip_of_the_local_template(local, project, tmp_path):
    got = feature.adopt(local)
    assert set(got.views) == {
        "driver_hourly_stats",
        "driver_hourly_stats_fresh",
        "driver_quality_labels",
        "transformed_conv_rate",
        "transformed_conv_rate_fresh",
    }
    assert set(got.services) == {"driver_activity_v1", "driver_activity_v2", "driver_activity_v3"}
    assert "driver_stats_push_source" in got.kept["data_sources"]
    out = feature.export(tmp_path / "again")
    assert (out.as_proto, out.as_code) == (0, 15)
    said = feast(tmp_path / "again", "plan")
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said
    assert feature.adopt(tmp_path / "again").kept == got.kept
    ledger.of(project).close()


def test_round_trip_of_the_nlp_template(project, tmp_path):
    "Feast's template `pytorch_nlp`: functions that lean on their module, and sources named by where the module lies"
    feast(tmp_path, "init", "-t", "pytorch_nlp", "texts")
    repo = tmp_path / "texts/feature_repo"
    feast(repo, "apply")
    got = feature.adopt(repo)
    assert (set(got.views), got.skipped) == ({"sentiment_prediction", "text_features", "user_stats"}, [])
    out = feature.export(tmp_path / "again")
    assert (out.as_proto, out.as_code) == (0, 10)
    said = feast(tmp_path / "again", "plan")
    assert "No changes to registry" in said and "No changes to infrastructure" in said
    assert (tmp_path / "again/example_repo.py").read_bytes() == (repo / "example_repo.py").read_bytes()
    rows = [pd.read_parquet(x / "data/sentiment_data.parquet") for x in (repo, tmp_path / "again")]
    pd.testing.assert_frame_equal(*rows)
    assert feature.adopt(tmp_path / "again").kept == got.kept
    ledger.of(project).close()


NOT_ACCEPTED = {  # the other templates of Feast -> what `feast init` or `feast apply` wants that a base installation has not
    "athena": "is not one of",  # a folder that `feast init` does not offer
    "aws": "boto3",
    "cassandra": "cassandra",
    "couchbase": "couchbase_columnar",
    "gcp": "google.api_core",
    "hazelcast": "hazelcast",
    "hbase": "hbase",
    "milvus": "milvus",
    "postgres": "Postgres user",  # asks for a running server
    "rag": "milvus",
    "ray": "ray",
    "ray_rag": "ray",
    "snowflake": "snowflake",
    "spark": "spark",
}


def test_every_other_template_is_refused_by_feast_itself(tmp_path):
    "The round trips above are all that `feast apply` accepts without a cloud, a server or another engine"
    import feast as package

    assert set(NOT_ACCEPTED) | {"local", "minimal", "pytorch_nlp"} == {
        f.name
        for f in (Path(package.__file__).parent / "templates").iterdir()
        if f.is_dir() and f.name != "__pycache__"
    }
    if installed := [m for m in ("boto3", "pymilvus", "pyspark", "ray", "snowflake") if find_spec(m)]:
        pytest.skip(f"{', '.join(installed)} installed: what Feast accepts depends on services that are not here")
    for template, wants in NOT_ACCEPTED.items():
        done = [run_feast(tmp_path, "init", "-t", template, f"of_{template}")]
        for yaml in [] if done[0].exit_code else (tmp_path / f"of_{template}").rglob("feature_store.yaml"):
            done.append(run_feast(yaml.parent, "apply"))
        assert done[-1].exit_code != 0 and wants in done[-1].output + repr(done[-1].exception), template


def test_an_adopted_service_joins_as_feast_does(local, project):
    "The same rows, the same on-demand code, through our verb and through Feast"
    from feast import FeatureStore

    feature.adopt(local)
    rows = pd.read_parquet(local / "data/driver_stats.parquet")
    asked = rows[["driver_id", "event_timestamp"]].sample(40, random_state=1).reset_index(drop=True)
    asked = asked.assign(
        event_timestamp=asked.event_timestamp.astype("datetime64[us, UTC]") + pd.Timedelta("7min"),
        val_to_add=1,
        val_to_add_2=2,
    )
    ours = feature.join("driver_activity_v1", entities=asked, as_known=False).frame
    known = feature.join("driver_activity_v1", entities=asked)
    shutil.copytree(local, project.root / "copy")
    yaml = project.root / "copy/feature_store.yaml"
    yaml.write_text(yaml.read_text() + f"offline_store:\n    type: {OURS}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = FeatureStore(repo_path=str(project.root / "copy"))
        service = store.get_feature_service("driver_activity_v1")
        theirs = store.get_historical_features(entity_df=asked, features=service).to_df()
    for c in ("conv_rate", "conv_rate_plus_val1", "conv_rate_plus_val2"):
        assert np.allclose(ours[c], theirs[c], equal_nan=True)
    assert ours.conv_rate.notna().any()
    assert known.unmatched == {"driver_hourly_stats@1": 40}, (
        "the template's rows became known today, long after they were true"
    )
    ledger.of(project).close()


def test_round_trip_of_an_empty_repository(project, tmp_path):
    "Feast's template `minimal` defines nothing but its stores"
    feast(tmp_path, "init", "-m", "small")
    repo = next(f.parent for f in (tmp_path / "small").rglob("feature_store.yaml"))
    text = (repo / "feature_store.yaml").read_text()
    text = text.replace("/path/to/registry.db", "registry.db").replace("/path/to/online_store.db", "online_store.db")
    (repo / "feature_store.yaml").write_text(text)
    feast(repo, "apply")
    assert feature.adopt(repo).views == []
    feature.export(tmp_path / "again")
    assert (tmp_path / "again/feature_store.yaml").read_text() == text
    assert "No changes to registry" in feast(tmp_path / "again", "plan")
    ledger.of(project).close()


def test_views_of_ours_in_feast_give_the_same_values(project, tmp_path):
    "Windows, composite keys and on-demand code, exported and asked through Feast's API"
    from feast import FeatureStore

    rng = np.random.default_rng(3)
    n = 120
    rows = pd.DataFrame(
        {
            "carrier": rng.choice(["UA", "AA"], n),
            "origin": rng.choice(["JFK", "LGA"], n),
            "landed": START + pd.to_timedelta(rng.integers(0, 3000, n), unit="min"),
            "delay": rng.normal(size=n).round(2),
        }
    )
    rows["created"] = rows.landed + pd.to_timedelta(rng.integers(0, 200, n), unit="min")
    data.add(rows, "flights")
    lines = [
        "mean(delay) over 6h as mean_6h",
        "count(*) over 2h as n_2h",
        "max(delay) over 1d as max_1d where delay < 1",
        "last(delay) over 30m as last_30m",
    ]
    feature.add(
        "late", entity=["carrier", "origin"], time="landed", source="flights", window=lines, sql="SELECT * FROM source"
    )
    feature.add(
        "plain",
        entity=["carrier"],
        time="landed",
        ttl="3h",
        source="flights",
        sql="SELECT carrier, landed, created, delay FROM source",
    )
    feature.add(
        "ratio",
        needs=["late:mean_6h"],
        request=["distance:double"],
        body="def ratio(mean_6h, distance):\n    return {'ratio': mean_6h/distance}",
    )
    feature.add(
        "sum", needs=["late:mean_6h"], request=["distance:double"], sql="SELECT mean_6h+distance AS total FROM source"
    )
    feature.export(tmp_path / "repo")
    feast(tmp_path / "repo", "apply")
    asked = pd.DataFrame(
        {
            "carrier": rng.choice(["UA", "AA", "DL"], 200),
            "origin": rng.choice(["JFK", "LGA"], 200),
            "event_timestamp": START + pd.to_timedelta(rng.integers(-60, 5000, 200), unit="min"),
            "distance": rng.uniform(1, 9, 200),
        }
    )
    ours = feature.join("late,plain:delay,ratio,sum", entities=asked, time="event_timestamp").frame
    store = FeatureStore(repo_path=str(tmp_path / "repo"))
    refs = ["late:mean_6h", "late:n_2h", "late:max_1d", "late:last_30m", "plain:delay", "ratio:ratio", "sum:total"]
    theirs = store.get_historical_features(entity_df=asked, features=refs, filter_by_created_timestamp=True).to_df()
    for c in ("mean_6h", "max_1d", "last_30m", "delay", "ratio", "total"):
        assert np.allclose(ours[c], theirs[c], equal_nan=True), c
    assert (ours.n_2h == theirs.n_2h.fillna(0)).all()
    ledger.of(project).close()


def test_exchange_refuses_in_one_line_and_writes_nothing(project, tmp_path):
    with pytest.raises(NotFound, match="no feature_store.yaml"):
        feature.adopt(tmp_path)
    with pytest.raises(NotFound, match="no feature view to export"):
        feature.export(tmp_path / "out")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "feature_store.yaml").write_text("project: p\nprovider: local\nregistry: r.db\n")
    (bad / "defs.py").write_text("raise RuntimeError('broken\\nrepository')\n")
    with pytest.raises(BadInput, match="cannot be read: RuntimeError: broken repository"):
        feature.adopt(bad)
    assert not (project.root / "features").exists()
    assert not (tmp_path / "out").exists()
    assert "defs" not in sys.modules


def test_functions_that_lean_on_their_module_keep_their_files(project, tmp_path):
    "What cannot be written without the rest of its file comes back with it"
    repo = tmp_path / "lean"
    (repo / "data").mkdir(parents=True)
    write(repo / "data", "tx", user_id=[1], event_timestamp=minutes(0), amount=[2.0])
    (repo / "feature_store.yaml").write_text(
        "project: lean\nprovider: local\nregistry: data/registry.db\nonline_store:\n    type: sqlite\n"
        "    path: data/online.db\nentity_key_serialization_version: 3\n"
    )
    (repo / "helper.py").write_text("RATE = 1.25\n")
    (repo / "defs.py").write_text(
        "from datetime import timedelta\nimport pandas as pd\nfrom feast import Entity, FeatureView, Field, FileSource\n"
        "from feast.on_demand_feature_view import on_demand_feature_view\nfrom feast.types import Float64\nfrom helper import RATE\n"
        'user = Entity(name="user", join_keys=["user_id"])\n'
        'tx = FeatureView(name="tx", entities=[user], ttl=timedelta(days=1), schema=[Field(name="amount", dtype=Float64)],\n'
        '    source=FileSource(name="tx_source", path="data/tx.parquet", timestamp_field="event_timestamp"))\n'
        '@on_demand_feature_view(sources=[tx], schema=[Field(name="euros", dtype=Float64)])\n'
        "def in_euros(inputs: pd.DataFrame) -> pd.DataFrame:\n"
        '    return pd.DataFrame({"euros": inputs["amount"] * RATE})\n'
    )
    feast(repo, "apply")
    feature.adopt(repo)
    out = feature.export(tmp_path / "again")
    assert {"defs.py", "helper.py", "data/tx.parquet"} <= set(out.files)
    assert (tmp_path / "again/defs.py").read_text() == (repo / "defs.py").read_text()
    said = feast(tmp_path / "again", "plan")
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said
    ledger.of(project).close()
