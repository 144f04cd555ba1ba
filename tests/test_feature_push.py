"""What is new: incremental materialize equals a full one, whatever comes late; pushes serve at once what history says."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from helpers.counts import count
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb import data, feature
from mlops_nb.core import ledger, project as projects
from mlops_nb.core.errors import BadInput, BadUsage, NotFound, ToolFailed
from mlops_nb.feature import definition, online_reader, stream_store
from mlops_nb.feature.online_store import SqliteStore, Wanted, packed_key

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = [("a", 1), ("a", 2), ('b"', 1), ("c", 3)]
SQL = "SELECT who, n, time, known, x, upper(s) AS s FROM source WHERE x IS NULL OR x < 90"
WINDOWS = ["count(*) over 6h as n_6h", "mean(x) over 2h as mean_2h", "last(s) over 1d as last_s"]


@st.composite
def growing(draw):
    "Batches of rows: event times of any order, corrections, holes; known in the order of the batches, ten minutes out of order"
    batches, clock = [], 0
    for _ in range(draw(st.integers(2, 4))):
        rows = []
        for _ in range(draw(st.integers(0, 8))):
            who, n = draw(st.sampled_from([*KEYS, (None, 1)]))
            time = clock + draw(st.integers(-600, 60)) if draw(st.booleans()) else draw(st.integers(0, 3000))
            known = None if draw(st.integers(0, 9)) == 0 else clock + draw(st.integers(0, 10))
            x = draw(st.one_of(st.none(), st.integers(0, 99)))
            rows.append((who, n, time, known, x, draw(st.sampled_from(["p", "q", None]))))
        batches.append(rows)
        clock += draw(st.sampled_from([0, 5, 200]))
    return batches


def frame(rows) -> pd.DataFrame:
    f = pd.DataFrame(rows, columns=["who", "n", "time", "known", "x", "s"])
    for c in ("time", "known"):
        f[c] = (pd.Timestamp(START) + pd.to_timedelta(f[c].astype("Float64"), unit="min")).astype("datetime64[us, UTC]")
    return f.astype({"who": "string", "n": "int64", "x": "Float64", "s": "string"})


def held(p) -> tuple:
    "Everything that the online stores of a project hold"
    s, e = SqliteStore(p.state / "online.db"), stream_store.of(p)
    wanted = Wanted(("who", "n"), (("v@1", ("x", "s")),))
    rows = s.read(wanted, [list(c) for c in zip(*KEYS)])
    d, end = definition.find(p, "w"), int(START.timestamp() * 1e6)
    answers = [e.answer(d, packed_key(k), end + h * 3_600_000_000)[0] for k in KEYS for h in (10, 30, 50, 55)]
    s.close()
    e.close()
    return rows, answers


@settings(max_examples=count(6, 200))
@given(growing())
def test_incremental_is_full(tmp_path_factory, batches):
    "After every batch the store that read only what was new holds what a store holds that read all"
    one, two = (projects.create(tmp_path_factory.mktemp("p")) for _ in range(2))
    for n in range(len(batches)):
        so_far = frame([r for b in batches[: n + 1] for r in b])
        for p in (one, two):
            with projects.use(p):
                data.add(so_far, "rows")
                if n == 0 or p is two:
                    for name, more in (("v", {}), ("w", {"window": WINDOWS})):
                        feature.add(
                            name, entity=["who", "n"], time="time", created="known", source="rows", sql=SQL, **more
                        )
                m = feature.materialize(overlap=timedelta(minutes=10)) if p is one else feature.materialize(full=True)
                assert all(v["late"] == 0 for v in m.views)
                if n and p is one:
                    assert {v["how"] for v in m.views} <= {"since", "unchanged", "all"}
                    known = [r[3] for b in batches[:n] for r in b if r[3] is not None and (r[4] is None or r[4] < 90)]
                    if known:
                        assert all(v["how"] != "all" for v in m.views)
                        old = sum(
                            r[3] is not None and r[3] < max(known) - 10
                            for r in [r for b in batches[: n + 1] for r in b]
                        )
                        assert all(v["read"] <= len(so_far) - old for v in m.views), "older rows are not read"
        assert held(one) == held(two)


def landings(n: int, first: int = 0) -> pd.DataFrame:
    k = np.arange(first, first + n)
    at = pd.Timestamp(START) + pd.to_timedelta(k, unit="min")
    return pd.DataFrame({"plane": k % 7, "landed": at, "known": at + timedelta(minutes=2), "delay": k * 1.5})


def test_what_is_read(project, cli):
    "Nothing when nothing changed; all where nothing says what is new, or when asked"
    data.add(landings(100), "l")
    feature.add("plain", entity=["plane"], time="landed", source="l", sql="SELECT plane, landed, delay FROM source")
    add = {"entity": ["plane"], "time": "landed", "source": "l", "created": "known"}
    feature.add("known", sql="SELECT plane, landed, known, delay FROM source -- as it is", **add)
    feature.add(
        "mixed", sql="SELECT plane, landed, known, sum(delay) OVER (PARTITION BY plane) AS s FROM source", **add
    )

    def how(**kw):
        return {v["view"]: (v["how"], v["read"]) for v in feature.materialize(overlap=timedelta(0), **kw).views}

    assert how() == {"known@1": ("all", 100), "mixed@1": ("all", 100), "plain@1": ("all", 100)}
    assert how() == {"known@1": ("unchanged", 0), "mixed@1": ("unchanged", 0), "plain@1": ("unchanged", 0)}
    data.add(landings(150), "l")
    assert how() == {"known@1": ("since", 51), "mixed@1": ("all", 150), "plain@1": ("all", 150)}
    assert how(full=True) == {"known@1": ("all", 150), "mixed@1": ("all", 150), "plain@1": ("all", 150)}
    late = pd.DataFrame(
        {"plane": [99], "landed": [START], "known": [landings(150).known.max() - timedelta(minutes=5)], "delay": [1.0]}
    )
    data.add(pd.concat([landings(150), late]), "l")  # an old event, known before the mark, that came behind it
    assert [(v["how"], v["written"]) for v in feature.materialize("known", overlap=timedelta(minutes=5)).views] == [
        ("since", 1)
    ]
    said = cli("feature", "materialize", "known", "--overlap", "10m")
    assert said.exit == 0 and "none: nothing changed" in said.out, said


def test_rows_that_come_too_late_are_counted(project):
    "As many as came behind the place where a reading began, whatever else came; with another overlap at least no more than did"
    for seed in range(2, 2 + count(2, 40)):
        rng, view = np.random.default_rng(seed), f"v{seed}"
        name, so_far, missed, high = f"l{seed}", [], 0, None
        for n in range(6):
            known = n * 60 + rng.integers(-180 if n > 1 else 0, 60, rng.integers(0, 12))
            behind = 0 if high is None else int((known < high - 30).sum())
            at = pd.Timestamp(START) + pd.to_timedelta(known, unit="min")
            plane = [None if rng.random() < 0.2 else int(k) for k in rng.integers(0, 5, len(known))]
            some = pd.DataFrame(
                {"plane": pd.array(plane, "Int64"), "landed": at, "known": at, "delay": rng.normal(size=len(at))}
            )
            so_far.append(some.astype({"landed": "datetime64[us, UTC]", "known": "datetime64[us, UTC]"}))
            data.add(pd.concat(so_far, ignore_index=True), name)
            if n == 0:
                add = {"entity": ["plane"], "time": "landed", "created": "known", "source": name}
                feature.add(
                    view, sql="SELECT * FROM source", window=["count(*) over 1h as n"] if seed % 2 else [], **add
                )
            wide = seed % 4 == 3 and n == 4
            (found,) = feature.materialize(view, overlap=timedelta(minutes=90 if wide else 30)).views
            missed_now = missed + behind if found["how"] != "all" else 0
            exact = seed % 4 != 3 or n < 4
            assert found["late"] == missed_now if exact else found["late"] <= missed_now, (seed, n)
            missed = missed_now
            high = max([*known, *([] if high is None else [high])], default=None)
        assert feature.materialize(view, full=True).views[0]["late"] == 0


def test_rows_that_come_too_late_are_told(project, cli):
    "By materialize, at once and as long as they are not read, by status and by doctor; --full reads them"
    data.add(landings(100), "l")
    sql = "SELECT plane, landed, known, delay FROM source"
    feature.add("v", entity=["plane"], time="landed", source="l", created="known", sql=sql)
    assert feature.materialize().views[0]["late"] == 0
    late = landings(3).assign(plane=[50, 51, 52])
    data.add(pd.concat([landings(130), late]), "l")
    said = cli("feature", "materialize")
    assert said.exit == 0 and "3 LATE ROWS NOT READ" in said.out and "mlops feature materialize v --full" in said.out, (
        said
    )
    data.add(pd.concat([landings(131), late]), "l")
    for _ in range(2):  # the second time nothing changed
        assert cli("feature", "materialize", "--json").json["views"][0]["late"] == 3
    assert "3 rows came too late to be read: mlops feature materialize v --full" in cli("status").out
    checks = {c["name"]: c for c in cli("doctor", "--json").json["checks"]}
    assert not checks["features"]["ok"] and checks["features"]["fix"] == "mlops feature materialize v --full"
    assert feature.online("v", entity={"plane": "51"}).values == {"delay": None}
    assert "LATE" not in cli("feature", "materialize", "v", "--full").out and "too late" not in cli("status").out
    assert feature.online("v", entity={"plane": "51"}).values == {"delay": 1.5}


def test_only_new_rows_leave_the_file(project, monkeypatch):
    "The condition on `created` reaches into the Parquet file: DuckDB's own plan says so"
    import duckdb

    from mlops_nb.feature import compute

    data.add(landings(1000), "l")
    feature.add(
        "v",
        entity=["plane"],
        time="landed",
        created="known",
        source="l",
        sql="SELECT plane, landed, known, delay FROM source",
    )
    feature.materialize()
    data.add(landings(1010), "l")
    plans, real = [], compute.query

    def planned(con, sql):
        if "WHERE" in sql:
            plans.append(con.sql(f"EXPLAIN {sql}").fetchall()[0][1])
        return real(con, sql)

    monkeypatch.setattr(compute, "query", planned)
    assert feature.materialize(overlap=timedelta(0)).views[0]["read"] == 11
    scan = plans[0][plans[0].index("READ_PARQUET") if "READ_PARQUET" in plans[0] else plans[0].index("PARQUET") :]
    assert "known" in scan and "Filter" in scan and duckdb.__version__, plans[0]


@pytest.fixture
def pushed(project):
    data.add(landings(50), "l")
    add = {"entity": ["plane"], "time": "landed", "source": "l", "created": "known"}
    feature.add("last", sql="SELECT plane, landed, known, delay * 2 AS twice FROM source", test=["twice >= 0"], **add)
    feature.add(
        "recent", sql="SELECT * FROM source", window=["count(*) over 30m as n", "sum(delay) over 1h as sum_1h"], **add
    )
    feature.materialize()
    return project


def test_a_push_is_served_and_history_agrees(pushed):
    new = landings(30, 50)
    for view in ("last", "recent"):
        done = feature.push(view, new, offline=view == "last")
        assert (done.rows, done.entities, done.dataset) == (30, 7, "l@2" if view == "last" else "")
    assert done.written == 30
    at = new.known.max()
    asked = pd.DataFrame({"plane": range(7), "at": at})
    truth = feature.join("last,recent", entities=asked, time="at").frame
    reader = feature.Reader(pushed, "last,recent")
    values, _ = reader.read(asked[["plane"]].to_dict("records"), int(at.value // 1000))
    reader.close()
    assert [[v[c] for c in ("twice", "n", "sum_1h")] for v in values] == truth[
        ["twice", "n", "sum_1h"]
    ].to_numpy().tolist()
    assert feature.push("last", new).written == 0
    assert feature.materialize("last").written == 0
    assert [e.subject for e in ledger.of(pushed).events("feature.pushed")] == ["last@1", "recent@1", "last@1"]


def test_a_created_that_is_not_given_is_now(pushed):
    before = datetime.now(UTC)
    feature.push("last", landings(1, 99).drop(columns="known"), offline=True)
    assert data.read("l", pushed)["known"].to_pylist()[-1] >= before


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda f: f.drop(columns="delay"), NotFound, "no column `delay`"),
        (lambda f: f.assign(gate=1), BadInput, "a column `gate`"),
        (lambda f: f.assign(delay="late"), BadInput, "do not fit the source"),
        (lambda f: f.assign(delay=-1.0), BadInput, "fail the test `twice >= 0`"),
        (lambda f: f.assign(landed=pd.NaT), BadInput, "lack plane, landed, known"),
        (lambda f: f.assign(plane=pd.array([None] * len(f), "Int64")), BadInput, "lack plane"),
    ],
)
def test_a_push_that_cannot_be_used_changes_nothing(pushed, change, error, words):
    before = (pushed.state / "online.db").read_bytes()
    with pytest.raises(error, match=words) as e:
        feature.push("last", change(landings(3, 60)), offline=True)
    assert "\n" not in str(e.value) and (pushed.state / "online.db").read_bytes() == before
    assert [v["version"] for v in data.list().datasets if v["name"] == "l"] == [1]


def test_a_push_where_it_has_no_meaning(pushed, cli, tmp_path):
    feature.add("ratio", needs=["last:twice"], request=["d:double"], sql="SELECT twice / d AS r FROM source")
    feature.add(
        "sums",
        entity=["plane"],
        time="landed",
        source="l",
        sql="SELECT plane, max(landed) AS landed, sum(delay) AS s FROM source GROUP BY plane",
    )
    feature.add(
        "pinned", entity=["plane"], time="landed", source="l@1", sql="SELECT plane, landed, delay AS p FROM source"
    )
    for view, words, more in (
        ("ratio", "computed on demand", {}),
        ("sums", "mixes rows", {}),
        ("pinned", "not the newest version", {"offline": True}),
    ):
        with pytest.raises(BadUsage, match=words):
            feature.push(view, landings(1), **more)
    landings(2, 70).to_parquet(tmp_path / "new.parquet")
    said = cli("feature", "push", "last", tmp_path / "new.parquet", "--dry-run", "--offline", "--json")
    assert said.exit == 0 and len(said.json["steps"]) == 2, said
    said = cli("feature", "push", "last", tmp_path / "new.parquet", "--json")
    assert said.exit == 0 and said.json["written"] == 2, said


def test_a_push_that_fails_online_is_mended_by_materialize(pushed, monkeypatch):
    "History first, then the store: after a failure between the two a materialize brings them together"

    class Away(SqliteStore):
        def write(self, batches):
            raise ToolFailed("the online store cannot be written: disk is full")

    with monkeypatch.context() as m:
        m.setattr(online_reader, "opened", lambda p: Away(p.state / "online.db"))
        with pytest.raises(ToolFailed):
            feature.push("last", landings(7, 50), offline=True)
    assert feature.materialize("last").written == 7
    at = pd.Timestamp(START) + timedelta(hours=5)
    truth = feature.join("last", entities=pd.DataFrame({"plane": range(7), "at": at}), time="at").frame
    reader = feature.Reader(pushed, "last")
    assert [
        v["twice"] for v in reader.read([{"plane": k} for k in range(7)], int(at.value // 1000))[0]
    ] == truth.twice.tolist()
    reader.close()
