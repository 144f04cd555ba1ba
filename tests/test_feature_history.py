"""The point-in-time join equals a loop over random histories, and loses, moves and dates back no row."""

import datetime as dt
import gc
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.counts import count
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb import data, feature
from mlops_nb.core import frames, ledger
from mlops_nb.core.errors import BadInput, BadUsage, Finding, MlopsError, NotFound
from mlops_nb.feature import compute, history
from mlops_nb.feature.facts import Definition
from mlops_nb.model.events import ModelRegistered, RunCompleted

START = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
KEYS = {
    "text": st.sampled_from(["a", "b", 'q"', None]),
    "number": st.sampled_from([1, 2, 2**40, None]),
    "float": st.sampled_from([1.0, 2.5, math.nan]),
}


def at(minutes):
    return None if minutes is None else START + dt.timedelta(minutes=minutes)


@st.composite
def worlds(draw):
    "A view, its rows in any order, and questions about them"
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    key = st.tuples(*(KEYS[k] for k in kinds))
    rows = draw(
        st.lists(
            st.tuples(key, st.one_of(st.none(), st.integers(0, 60)), st.integers(-5, 30), st.integers(0, 9)),
            max_size=25,
        )
    )
    asks = draw(st.lists(st.tuples(key, st.one_of(st.none(), st.integers(-5, 120))), max_size=12))
    unit = draw(st.sampled_from(["s", "ms", "us", "ns"]))
    return kinds, rows, asks, draw(st.booleans()), draw(st.sampled_from(["", "1m", "30m"])), unit


def absent(k) -> bool:
    return any(x is None or x != x for x in k)


def brute(rows, k, t, created, ttl_min):
    "The value with the largest (time, created, value) that was known at t and is young enough"
    if absent(k) or t is None:
        return None
    seen = [
        (m, m + late, v)
        for key, m, late, v in rows
        if key == k and m is not None and m <= t and (not created or m + late <= t)
    ]
    if not seen:
        return None
    m, _, v = max(seen, key=lambda x: (x[0], x[1] if created else 0, x[2]))
    return v if ttl_min is None or t - m <= ttl_min else None


@settings(max_examples=count(70, 700))
@given(worlds())
def test_equal_to_brute_force(world):
    kinds, rows, asks, created, ttl, unit = world
    types = {"text": pa.string(), "number": pa.int64(), "float": pa.float64()}
    names = [f"k{n} {kind}" for n, kind in enumerate(kinds)]
    keys = {
        name: pa.array([r[0][n] for r in rows], types[kind])
        for n, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }
    stamp = pa.timestamp(unit, "UTC")
    frame = pa.table(
        keys
        | {"at": pa.array([at(r[1]) for r in rows], stamp), "value": pa.array([r[3] for r in rows], pa.int64())}
        | ({"created": pa.array([None if r[1] is None else at(r[1] + r[2]) for r in rows], stamp)} if created else {})
    )
    asked = pa.table(
        {
            name: pa.array([k[n] for k, _ in asks], types[kind])
            for n, (name, kind) in enumerate(zip(names, kinds, strict=True))
        }
        | {
            "asked": pa.array([at(t) for _, t in asks], pa.timestamp("us", "UTC")),
            "row": pa.array(range(len(asks)), pa.int64()),
        }
    )
    d = Definition(
        name="v", entity=names, time="at", created="created" if created else "", ttl=ttl, body="SELECT * FROM source"
    )
    answer = history.answer(d, ["value"], compute.rows_of(None, d, frame), asked, "asked")
    want = [brute(rows, k, t, created, {"": None, "1m": 1, "30m": 30}[ttl]) for k, t in asks]
    assert answer.columns["value"].to_pylist() == want
    assert answer.proof.future_values == 0
    assert answer.proof.unmatched == sum(w is None for w in want)


def flights(n=2000, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    left = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(np.sort(rng.integers(0, 90 * 86400, n)), unit="s")
    return pd.DataFrame(
        {
            "carrier": rng.choice(["UA", "AA", "DL"], n),
            "left": left,
            "landed": left + pd.to_timedelta(rng.integers(3600, 20000, n), unit="s"),
            "delay": rng.normal(10, 30, n).round(1),
            "distance": rng.integers(100, 3000, n),
        }
    )


@pytest.fixture
def flown(project):
    "A project with flights, a view of windows and a plain one"
    data.add(flights(), "flights")
    feature.add(
        "carrier",
        entity=["carrier"],
        time="landed",
        source="flights",
        window=[
            "mean(delay) over 7d as delay_7d",
            "count(*) over 1d as flights_1d",
            "distinct(distance) over 2d as routes_2d",
        ],
        sql="SELECT carrier, landed, delay, distance FROM source",
    )
    feature.add(
        "last",
        entity=["carrier"],
        time="landed",
        ttl="2h",
        source="flights",
        sql="SELECT carrier, landed, delay AS last_delay FROM source",
    )
    yield project
    ledger.of(project).close()


def test_windows_join_through_the_verb(flown):
    df = flights()
    train = feature.join("carrier,last", entities=df, time="left")
    assert (train.rows_in, train.rows_out, train.order_kept, train.future_values) == (2000, 2000, True, 0)
    got = train.frame
    for n in (0, 7, 999, 1999):
        here = df[(df.carrier == df.carrier[n]) & (df.landed <= df.left[n])]
        week = here[here.landed > df.left[n] - pd.Timedelta("7d")].delay
        day = here[here.landed > df.left[n] - pd.Timedelta("1d")]
        assert got.flights_1d[n] == len(day)
        assert (math.isnan(got.delay_7d[n]) and week.empty) or math.isclose(got.delay_7d[n], week.mean(), rel_tol=1e-9)


def test_pieces_equal_the_whole(flown, tmp_path, monkeypatch):
    "A streamed frame gives the bytes, the proof and the digest of one in memory"
    df = flights(1500, 5)
    df.to_parquet(tmp_path / "asked.parquet", coerce_timestamps="us", row_group_size=200)
    whole = feature.join(
        "carrier,last",
        entities=df.assign(left=df.left.astype("datetime64[us, UTC]"), landed=df.landed.astype("datetime64[us, UTC]")),
        time="left",
    )
    monkeypatch.setattr(history.pieces, "__defaults__", (400,))
    parts = feature.join(
        "carrier,last", entities=str(tmp_path / "asked.parquet"), time="left", out=tmp_path / "out.parquet"
    )
    assert parts.digest == whole.digest == frames.digest(pq.read_table(tmp_path / "out.parquet"))
    assert parts.unmatched == whole.unmatched
    assert parts.table.equals(whole.table)
    assert parts.views[0].age_s[0] == whole.views[0].age_s[0]
    assert parts.views[0].age_s[4] == whole.views[0].age_s[4]


def test_memory_is_bounded_by_the_piece(flown, tmp_path, monkeypatch):
    "Ten times the rows take the memory of one piece, not ten times the memory"
    monkeypatch.setattr(history.pieces, "__defaults__", (20_000,))
    peak = {}
    for n in (40_000, 400_000):
        flights(n, 1)[["carrier", "left"]].to_parquet(
            tmp_path / f"{n}.parquet", coerce_timestamps="us", row_group_size=20_000
        )
        gc.collect()  # what earlier tests left must not go while we count
        most, was = 0, pa.total_allocated_bytes()
        joined = history.joined

        def watched(*args, joined=joined, was=was, **words):
            nonlocal most
            out = joined(*args, **words)
            most = max(most, pa.total_allocated_bytes() - was)
            return out

        with monkeypatch.context() as m:
            m.setattr(history, "joined", watched)
            train = feature.join("carrier", entities=str(tmp_path / f"{n}.parquet"), out=tmp_path / "out.parquet")
        assert train.rows_out == n
        peak[n] = most
    assert peak[400_000] < 4 * peak[40_000], peak


def test_on_demand_is_the_same_alone_and_among_others(flown):
    feature.add(
        "speed",
        needs=["carrier:delay_7d"],
        request=["distance:double"],
        body="def speed(delay_7d, distance):\n    return {'ratio': distance/(1+abs(delay_7d))}",
    )
    feature.add("double", request=["distance"], sql="SELECT 2*distance AS twice FROM source")
    df = flights(300, 3)
    train = feature.join("speed,double:twice,carrier:delay_7d", entities=df, time="left")
    got = train.frame
    assert np.allclose(got.ratio, df.distance / (1 + got.delay_7d.abs()), equal_nan=True)
    assert (got.twice == 2 * df.distance).all()
    with pytest.raises(BadInput, match="among 300 rows"):
        feature.add(
            "share",
            request=["distance:double"],
            body="def share(distance):\n    return {'share': distance/distance.sum()}",
        )
        feature.join("share", entities=df, time="left")
    with pytest.raises(BadInput, match="needs the column `distance`"):
        feature.join("double", entities=df[["carrier", "left"]])
    for bad in (
        "SELECT distance FROM source LIMIT 1",
        "SELECT DISTINCT distance FROM source",
        "SELECT distance FROM source WHERE distance>0",
        "SELECT 1 AS x FROM source GROUP BY distance",
    ):
        with pytest.raises(BadInput, match="list of expressions"):
            feature.add("bad", request=["distance"], sql=bad)
    with pytest.raises(BadUsage, match="takes no --ttl"):
        feature.add("bad", request=["distance"], ttl="3d", sql="SELECT 2*distance AS d FROM source")


def test_leaks_are_found(flown):
    df = flights()
    clean = feature.join("carrier", entities=df, time="left", label="delay")
    assert clean.leaks == []
    assert clean.ok
    late = feature.join("carrier:delay_7d", entities=df, time="landed", label="delay", label_time="left")
    assert {x.kind for x in late.leaks} == {"postdates", "own_event"}
    own = feature.join(
        "carrier:delay_7d", entities=df.drop_duplicates(["carrier", "landed"]), time="landed", label="delay"
    )
    assert [x.kind for x in own.leaks] == ["own_event"]
    copied = feature.join("last", entities=df, time="landed", label="delay")
    assert [x.kind for x in copied.leaks] == ["equal"]
    assert not copied.ok


def test_a_leak_is_exit_1(flown, cli, tmp_path):
    flights().to_parquet(tmp_path / "asked.parquet", coerce_timestamps="us")
    got = cli(
        "feature",
        "join",
        "last",
        "--entities",
        tmp_path / "asked.parquet",
        "--time",
        "landed",
        "--label",
        "delay",
        "--json",
    )
    assert got.exit == 1
    assert got.json["error"]["kind"] == "finding"
    assert got.json["leaks"][0]["kind"] == "equal"


def test_versions_stay_resolvable(flown):
    before = feature.join("last", entities=flights(50, 1), time="left").digest
    changed = feature.add(
        "last",
        entity=["carrier"],
        time="landed",
        ttl="9h",
        source="flights",
        sql="SELECT carrier, landed, delay*2 AS last_delay FROM source",
    )
    assert (changed.version, changed.changes) == (2, ["ttl: '2h' -> '9h'", "code changed"])
    assert feature.join("last@1", entities=flights(50, 1), time="left").digest == before
    assert feature.join("last", entities=flights(50, 1), time="left").digest != before
    diff = feature.diff("last@1")
    assert ([f["field"] for f in diff.fields], diff.same_values) == (["ttl"], False)
    assert any(line.startswith("+SELECT carrier, landed, delay*2") for line in diff.code)


def test_known_at_is_on_by_default(project):
    rows = pd.DataFrame({"k": 1, "at": [START, START], "created_at": [START, at(60)], "x": [1.0, 2.0]})
    view = feature.add("v", entity=["k"], time="at", source=rows, sql="SELECT * FROM source")
    assert (view.created, view.source, [f.name for f in view.features]) == ("created_at", "v_source@1", ["x"])
    asked = pd.DataFrame({"k": 1, "t": [at(30), at(90)]})
    assert feature.join("v", entities=asked).frame.x.tolist() == [1.0, 2.0]
    assert feature.join("v", entities=asked, as_known=False).frame.x.tolist() == [2.0, 2.0]
    early = pd.DataFrame({"k": 1, "t": [at(5)]})
    data.add(rows.assign(created_at=at(60)), "late")
    feature.add("late", entity=["k"], time="at", source="late", sql="SELECT * FROM source")
    for out in ({}, {"out": project.root / "out.parquet"}):
        got = feature.join("late,v", entities=early, **out)
        assert got.unmatched["late@1"] == 1 and len(got.hints) == 1 and "--no-as-known" in got.hints[0]
        assert "late@1: what is there became known (`created_at`) only after the rows asked" in str(got)
    assert (
        feature.add("w", entity=["k"], time="at", created="none", source="v_source", sql="SELECT * FROM source").created
        == ""
    )


def test_corrections_by_id(project):
    rows = pd.DataFrame(
        {
            "k": 1,
            "event": ["a", "a", "b"],
            "at": [START, START, at(5)],
            "created": [START, at(60), at(5)],
            "x": [1.0, 10.0, 100.0],
        }
    )
    feature.add(
        "v",
        entity=["k"],
        time="at",
        id="event",
        window=["sum(x) over 90d as total", "count(*) over 90d as n"],
        source=rows,
        sql="SELECT * FROM source",
    )
    asked = pd.DataFrame({"k": 1, "t": [at(0), at(30), at(90)]})
    assert feature.join("v", entities=asked).frame[["total", "n"]].to_numpy().tolist() == [[1, 1], [101, 2], [110, 2]]
    assert feature.join("v", entities=asked, as_known=False).frame.total.tolist() == [10, 110, 110]


def test_sources_of_every_kind(project, tmp_path):
    df = flights(60)
    df["left"], df["landed"] = (df[c].astype("datetime64[us, UTC]") for c in ("left", "landed"))
    table = frames.to_arrow(df)
    df.to_parquet(project.root / "f.parquet", coerce_timestamps="us")
    df.to_csv(project.root / "f.csv", index=False)
    import sqlite3

    import duckdb
    import pyarrow.feather as feather

    feather.write_feather(table, str(project.root / "f.arrow"))
    with duckdb.connect(str(project.root / "f.duckdb")) as con:
        con.register("t", table)
        con.execute('CREATE TABLE "flights" AS SELECT * FROM t')
    lite = sqlite3.connect(project.root / "f.db")
    df.assign(landed=df.landed.dt.strftime("%Y-%m-%d %H:%M:%S")).to_sql("flights", lite, index=False)
    lite.close()
    data.add(df, "flown")
    asked = df[["carrier", "left"]]
    seen = set()
    for n, source in enumerate(
        [
            "f.parquet",
            "f.csv",
            "f.arrow",
            "duckdb:///f.duckdb#flights",
            "sqlite:///f.db#flights",
            "flown",
            "flown@1",
            df,
        ]
    ):
        feature.add(
            f"v{n}",
            entity=["carrier"],
            time="landed",
            source=source,
            sql="SELECT carrier, CAST(landed AS TIMESTAMPTZ) AS landed, delay FROM source",
        )
        seen.add(feature.join(f"v{n}", entities=asked).digest)
    assert len(seen) == 1
    with pytest.raises(NotFound, match="no table 'flight'"):
        feature.add(
            "bad", entity=["carrier"], time="landed", source="duckdb:///f.duckdb#flight", sql="SELECT * FROM source"
        )


ODD = ['select"; DROP TABLE x; --', "order", "group by", "it's", "ünï", 'a"b', " time"]


def test_columns_may_have_any_name(project):
    "Names like SQL keywords and with quotes are names and nothing else"
    hours = pd.date_range("2013-01-01", periods=3, freq="h", tz="UTC")
    rows = pd.DataFrame({ODD[0]: ["x", "x", "y"], ODD[1]: hours, **{c: [1.0, 2.0, 3.0] for c in ODD[2:]}})
    feature.add("odd", entity=[ODD[0]], time=ODD[1], source=rows, sql="SELECT * FROM source")
    asked = pd.DataFrame({ODD[0]: ["x", "y", "z"], ODD[1]: hours + pd.Timedelta("90min")})
    assert feature.join("odd", entities=asked).frame["it's"].tolist()[:2] == [2.0, 3.0]
    line = 'sum("a""b") over 5h as s'
    feature.add(
        "wodd",
        entity=[ODD[0]],
        time=ODD[1],
        window=[line, 'count(*) over 5h as n where "it\'s" > 1.5'],
        source=rows,
        sql="SELECT * FROM source",
    )
    got = feature.join("wodd", entities=asked).frame
    assert got.n.tolist() == [1, 1, 0]


def refused(error, match, *args, **kwargs):
    with pytest.raises(error, match=match) as e:
        feature.join(*args, **kwargs)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 400


def test_bad_input_is_one_line_and_writes_nothing(flown, tmp_path):
    df, out = flights(100, 2), tmp_path / "out.parquet"
    files = sorted(f.name for f in (flown.root / "features").iterdir())
    df.to_parquet(tmp_path / "cut.parquet")
    cut = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(cut[: len(cut) // 2])
    refused(BadInput, "cannot be read as parquet", "last", entities=str(tmp_path / "cut.parquet"), time="left", out=out)
    refused(
        NotFound, "lacks the key `carrier`", "last", entities=df.rename(columns={"carrier": "c"}), time="left", out=out
    )
    refused(NotFound, "no column `lift`", "last", entities=df, time="lift", out=out)
    refused(NotFound, "no feature view `lost`", "lost", entities=df, out=out)
    refused(
        BadInput,
        "is string, not a time|object",
        "last",
        entities=df.assign(left=df.left.astype(str)),
        time="left",
        out=out,
    )
    refused(
        BadInput, "carrier` is int64 in the entity frame", "last", entities=df.assign(carrier=1), time="left", out=out
    )
    refused(NotFound, "no column `target`", "last", entities=df, time="left", label="target", out=out)
    refused(BadInput, "expected a .parquet or .csv", "last", entities=df, time="left", out=tmp_path / "out.xlsx")
    assert not list(tmp_path.glob("*out*"))
    for error, how in [
        (NotFound, dict(entity=["carier"], time="landed", source="flights", sql="SELECT * FROM source")),
        (NotFound, dict(entity=["carrier"], time="land", source="flights", sql="SELECT * FROM source")),
        (BadInput, dict(entity=["carrier"], time="delay", source="flights", sql="SELECT * FROM source")),
        (
            BadInput,
            dict(
                entity=["carrier"],
                time="landed",
                source="flights",
                window=["mean(lag) over 7d"],
                sql="SELECT * FROM source",
            ),
        ),
        (
            BadInput,
            dict(
                entity=["carrier"],
                time="landed",
                source="flights",
                window=["mean(delay) over 7d where sum(delay)>1"],
                sql="SELECT * FROM source",
            ),
        ),
        (
            BadInput,
            dict(
                entity=["carrier"],
                time="landed",
                source="flights",
                window=["mean(delay) over soon"],
                sql="SELECT * FROM source",
            ),
        ),
        (
            BadInput,
            dict(entity=["carrier"], time="landed", source=str(tmp_path / "cut.parquet"), sql="SELECT * FROM source"),
        ),
        (
            Finding,
            dict(
                entity=["carrier"],
                time="landed",
                source="flights",
                test=["delay in (1, 2)"],
                sql="SELECT * FROM source",
            ),
        ),
        (BadUsage, dict(time="landed", source="flights", sql="SELECT * FROM source")),
    ]:
        with pytest.raises(error) as e:
            feature.add("bad", **how)
        assert "\n" not in str(e.value)
    assert sorted(f.name for f in (flown.root / "features").iterdir()) == files


def test_odd_but_honest_input(flown):
    "Unsorted, repeated, empty and keyless frames are answered, each row in its place"
    df = flights(200, 4).sample(frac=1, random_state=1).reset_index(drop=True)
    twice = pd.concat([df, df], ignore_index=True)
    train = feature.join("last", entities=twice, time="left")
    assert train.frame.last_delay[:200].equals(train.frame.last_delay[200:].reset_index(drop=True))
    assert train.order_kept
    empty = feature.join("carrier,last", entities=df.iloc[:0], time="left")
    assert (empty.rows_in, empty.rows_out, empty.order_kept) == (0, 0, True)
    nobody = feature.join("carrier,last", entities=df.assign(carrier=None).astype({"carrier": "string"}), time="left")
    assert nobody.unmatched == {"carrier@1": 200, "last@1": 200}
    never = feature.join(
        "last", entities=df.assign(left=pd.Series(pd.NaT, df.index, "datetime64[us, UTC]")), time="left"
    )
    assert never.unmatched == {"last@1": 200}


def test_time_zones_are_instants(flown):
    "Local, UTC and zone-less times of the same instant get the same answers; a mix in one column is the same or refused"
    df = flights(100, 6)
    want = feature.join("last", entities=df, time="left").frame.last_delay
    for zone in ("America/New_York", "Asia/Kolkata"):
        assert feature.join(
            "last", entities=df.assign(left=df.left.dt.tz_convert(zone)), time="left"
        ).frame.last_delay.equals(want)
    assert feature.join(
        "last", entities=df.assign(left=df.left.dt.tz_localize(None)), time="left"
    ).frame.last_delay.equals(want)
    zones = ["America/New_York", "UTC"]
    mixed = df.assign(left=pd.Series([t.tz_convert(zones[n % 2]) for n, t in enumerate(df.left)], dtype=object))
    assert feature.join("last", entities=mixed, time="left").frame.last_delay.equals(want)
    half = df.assign(left=pd.Series([t if n % 2 else t.tz_localize(None) for n, t in enumerate(df.left)], dtype=object))
    try:
        assert feature.join("last", entities=half, time="left").frame.last_delay.equals(want)
    except MlopsError as e:
        assert "\n" not in str(e)


def test_the_catalogue_shows_lineage_and_what_rows_hold(flown):
    train = feature.join("carrier", entities=flights(50), time="left")
    ledger.record(flown, ModelRegistered(training_set=train.digest), subject="late@1")
    ledger.record(flown, ModelRegistered(data_digest=train.digest), subject="later@1")
    ledger.record(flown, ModelRegistered(data=train.digest, source=train.digest), subject="other@1")
    ledger.record(flown, RunCompleted(params={"set": train.digest}), subject="search")
    ledger.of(flown).append("model.registered", "unread@1", {"training_set": train.digest, "version": "one"})
    line = {v["name"]: v for v in feature.list().views}
    assert (line["carrier"]["sources"], line["carrier"]["models"], line["carrier"]["rows"]) == (
        ["flights@1"],
        ["late@1", "later@1"],
        2000,
    )
    assert line["carrier"]["runs"] == ["search"]
    assert line["last"]["models"] == []
    view = feature.show("carrier")
    assert {c["name"] for c in view.columns} == {"delay", "distance"}
    assert "late@1" in str(view) and f"{train.digest[:12]} (50 rows of flights@1)" in str(view)
    assert "▁" in str(feature.list()) or "█" in str(feature.list())
    for fact in (view, feature.list(), train):
        html = fact.panel().html()
        assert len(html) < 50_000
        assert "<script" not in html


def test_the_catalogue_says_that_a_test_fails_now(project):
    "It held when the view was added; then the dataset got another version"
    at = pd.Timestamp("2013-07-01", tz="UTC")
    for x in (1.0, -1.0):
        data.add(pd.DataFrame({"k": ["a", "b"], "t": at, "x": [x, None]}), "rows")
        if x > 0:
            feature.add("v", entity=["k"], time="t", source="rows", sql="SELECT * FROM source", test=["x > 0"])
            [line] = feature.list().views
            assert (line["sources"], line["tests"]) == (["rows@1"], [{"expr": "x > 0", "failed": 0}])
            assert "1 HOLDS" in str(feature.list()) and "50.0%" in str(feature.list())
    assert "not computed here" in str(feature.list())
    assert feature.show("v").tests[0].failed == 1
    [line] = feature.list().views
    assert (line["sources"], line["tests"][0]["failed"]) == (["rows@2"], 1) and "1 FAILS" in str(feature.list())
    ledger.of(project).close()


def test_the_catalogue_reads_no_row_twice(project, monkeypatch):
    "What the rows of a file hold is found out once; a file that was cut is made again"
    data.add(pd.DataFrame({"k": ["a", "b"], "t": pd.Timestamp("2013-07-01", tz="UTC"), "x": [1.0, None]}), "rows")
    feature.add("v", entity=["k"], time="t", created="none", source="rows", sql="SELECT * FROM source")
    feature.add("w", entity=["k"], time="t", created="none", sql="SELECT k, t, x * 2 AS y FROM v", test=["y > 0"])
    first, shown = feature.list().views, feature.show("w")

    def read(*args, **kwargs):
        raise AssertionError("a row was read")

    with monkeypatch.context() as m:
        m.setattr(pq, "read_table", read)
        m.setattr(compute.data, "read", read)
        again = feature.list().views
        assert [{**v, "age_s": 0} for v in again] == [{**v, "age_s": 0} for v in first]
        assert feature.show("w").columns == shown.columns and feature.show("w").tests == shown.tests
    for f in (project.state / "features").glob("w-*"):
        f.unlink() if f.suffix == ".json" else f.write_bytes(f.read_bytes()[:-9])
    assert feature.show("w").columns == shown.columns


@settings(max_examples=count(60, 600))
@given(worlds())
def test_the_sort_and_the_sql_agree(world):
    "One number per key and time, or DuckDB's ASOF join: the same rows, expiries and ties"
    import duckdb

    from mlops_nb.feature import asof

    kinds, rows, asks, _, ttl, _ = world
    types = {"text": pa.string(), "number": pa.int64(), "float": pa.float64()}

    def side(keys, times):
        columns = {
            f"k{n}": pa.array([k[n] for k in keys], types[kind], from_pandas=True) for n, kind in enumerate(kinds)
        }
        return pa.table(columns | {"t": pa.array(times, pa.int64())})

    view, asked = side([r[0] for r in rows], [r[1] for r in rows]), side([k for k, _ in asks], [t for _, t in asks])
    ttl_s = {"": None, "1m": 1e-6, "30m": 3e-5}[ttl]
    with duckdb.connect() as con:
        a, b = asof.match(asked, view, ttl_s=ttl_s), asof.match(asked, view, ttl_s=ttl_s, con=con)
    assert a.rows.tolist() == b.rows.tolist()
    assert (a.expired, a.future) == (b.expired, b.future) == (b.expired, 0)
    assert sorted(a.age_s.tolist()) == sorted(b.age_s.tolist())
