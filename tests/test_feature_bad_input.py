"""Bad and odd input, said in one line or answered right, wherever rows come in: the entity frame, a view's source, a stream, the shell."""

import json
import math
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_nb import data, feature
from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput, MlopsError, NotFound, ToolFailed
from mlops_nb.feature import definition, stream_sources, stream_store

NOON = pd.Timestamp("2013-07-01 12:00", tz="UTC")
ODD = ['select"; DROP TABLE x; --', "order", "it's", 'a"b', "from"]


def minutes(*at) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([NOON + pd.Timedelta(minutes=m) for m in at]).as_unit("us")


@pytest.fixture
def view(project):
    "Adds a view with windows over a frame: key `k`, time `t`, value `x`"

    def made(frame: pd.DataFrame, name: str = "w", **more):
        data.add(frame, "rows")
        how = {"entity": ["k"], "time": "t", "window": ["count(*) over 1h as n", "sum(x) over 1h as s"], **more}
        return feature.add(name, source="rows", sql="SELECT * FROM source", created="none", **how)

    yield made
    ledger.of(project).close()


def rows(**columns) -> pd.DataFrame:
    return pd.DataFrame({"k": ["a", "a", "b"], "t": minutes(0, 10, 20), "x": [1.0, 2.0, 3.0], **columns})


def streamed(name: str, messages: list[dict], tmp_path, **more):
    "Read messages as JSON lines"
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(m) + "\n" for m in messages))
    return feature.stream(name, from_=path, once=True, lateness="1d", **more)


def online(project, name: str, *key, at=NOON + pd.Timedelta("30min")) -> dict:
    from mlops_nb.feature.online_store import packed_key

    store = stream_store.of(project)
    try:
        return store.answer(definition.find(project, name), packed_key(key), int(at.value // 1000))[0]
    finally:
        store.close()


def one_line(error: MlopsError) -> bool:
    return "\n" not in str(error) and len(str(error)) < 400


def test_an_unknown_entity_is_nobody(project, cli, view, tmp_path):
    "Joined: a row without values. Asked online: nothing counted. A key that the view has not: one line"
    view(rows())
    asked = pd.DataFrame({"k": ["a", "nobody"], "t": minutes(30, 30)})
    got = feature.join("w", entities=asked)
    assert (got.rows_out, got.frame.n.tolist(), got.unmatched) == (2, [2, 0], {"w@1": 1})
    streamed("w", json.loads(rows().to_json(orient="records", date_format="iso")), tmp_path)
    assert online(project, "w", "a") == {"n": 2, "s": 3.0} and online(project, "w", "nobody") == {"n": 0, "s": None}
    said = cli("feature", "online", "w", "--entity", "card=a", "--json")
    assert said.exit == 2 and "`k` is not given" in said.json["error"]["message"]


def test_a_missing_column_is_named(project, cli, view, tmp_path):
    view(rows())
    asked = tmp_path / "asked.parquet"
    pd.DataFrame({"key": ["a"], "t": minutes(30)}).to_parquet(asked)
    said = cli("feature", "join", "w", "--entities", asked, "--out", tmp_path / "out.parquet", "--json")
    assert (
        said.exit == 2
        and "lacks the key `k`" in said.json["error"]["message"]
        and "\n" not in said.json["error"]["message"]
    )
    assert not list(tmp_path.glob("*out*"))
    with pytest.raises(BadInput, match="gives no column `y`") as e:
        view(rows(), "bad", window=["sum(y) over 1h as s"])
    assert one_line(e.value) and not (project.root / "features/bad.toml").exists()
    fact = streamed(
        "w",
        [{"t": "2013-07-01T12:00:00Z", "x": 1.0}, {"k": "a", "x": 1.0}, {"k": "a", "t": "2013-07-01T12:00:00Z"}],
        tmp_path,
    )
    assert (fact.seen, fact.used, fact.unusable) == (3, 1, 2), (
        "an event without its value is an event; without key or time it is none"
    )
    assert online(project, "w", "a") == {"n": 1, "s": None}


def test_mixed_time_zones_are_instants_in_a_stream(project, view, tmp_path):
    "The same moment in four spellings, and one without a zone, which is UTC"
    view(rows())
    same = [
        "2013-07-01T12:10:00Z",
        "2013-07-01T14:10:00+02:00",
        "2013-07-01T17:55:00+05:45",
        "2013-07-01T12:10:00",
        "2013-07-01 08:10:00-0400",
    ]
    fact = streamed("w", [{"k": "a", "t": t, "x": 1.0} for t in same], tmp_path)
    assert (fact.used, fact.unusable) == (5, 0)
    before, at = (online(project, "w", "a", at=NOON + pd.Timedelta(minutes=10, microseconds=us))["n"] for us in (-1, 0))
    assert (before, at) == (0, 5)


def test_unsorted_and_repeated_timestamps_of_a_source(project, view):
    "A source in any order, with rows that share key and time, is the same view"
    want = None
    for seed in range(3):
        frame = pd.concat([rows(), rows(x=[10.0, 20.0, 30.0])]).sample(frac=1, random_state=seed).reset_index(drop=True)
        view(frame, f"w{seed}")
        got = feature.join(f"w{seed}", entities=pd.DataFrame({"k": ["a", "b", "a"], "t": minutes(30, 30, 5)})).frame
        assert got.n.tolist() == [4, 2, 2] and got.s.tolist() == [33.0, 33.0, 11.0]
        want = got if want is None else want
        pd.testing.assert_frame_equal(got, want)


def test_nan_and_null_keys_belong_to_nobody(project, view, tmp_path):
    frame = pd.DataFrame({"k": [1.0, math.nan, None, 1.0], "t": minutes(0, 0, 5, 10), "x": [1.0, 2.0, 3.0, 4.0]})
    view(frame)
    got = feature.join("w", entities=pd.DataFrame({"k": [1.0, math.nan], "t": minutes(30, 30)}))
    assert (got.rows_out, got.frame.s.fillna(-1).tolist(), got.unmatched) == (2, [5.0, -1], {"w@1": 1})
    assert got.frame.n.isna().tolist() == [False, True]
    lines = [{"k": 1.0, "t": "2013-07-01T12:00:00Z", "x": 1.0}, {"k": math.nan, "t": "2013-07-01T12:00:00Z", "x": 2.0}]
    fact = streamed("w", [*lines, {**lines[0], "k": None}], tmp_path)
    assert (fact.used, fact.unusable) == (1, 2) and online(project, "w", 1)["s"] == 1.0


def test_no_rows_at_all(project, view, tmp_path):
    "An empty frame of questions, an empty source, an empty file and a Parquet file of no rows in a stream"
    view(rows())
    none = feature.join("w", entities=rows().iloc[:0])
    assert (none.rows_in, none.rows_out, none.order_kept, list(none.frame.columns)[-2:]) == (0, 0, True, ["n", "s"])
    view(rows().iloc[:0], "empty")
    got = feature.join("empty", entities=rows())
    assert (got.rows_out, got.frame.n.tolist(), got.frame.s.isna().all()) == (3, [0, 0, 0], True)
    assert streamed("empty", [], tmp_path).seen == 0
    folder = tmp_path / "landing"
    folder.mkdir()
    pq.write_table(pa.Table.from_pandas(rows().iloc[:0], preserve_index=False), folder / "none.parquet")
    fact = feature.stream("empty", from_=folder, once=True)
    assert (fact.seen, fact.used, fact.unusable, fact.ok) == (0, 0, 0, True)


def test_columns_with_any_name_in_a_stream(project, tmp_path):
    "SQL words and quotes as names: history and the stream agree, and no statement was smuggled in"
    key, time, value = ODD[0], ODD[1], ODD[3]
    frame = pd.DataFrame(
        {key: ["x'; --", "x'; --", 'y"'], time: minutes(0, 10, 20), value: [1.0, 2.0, 3.0], ODD[2]: [1, 2, 3]}
    )
    data.add(frame, "odd")
    feature.add(
        "odd",
        entity=[key],
        time=time,
        source="odd",
        created="none",
        sql="SELECT * FROM source",
        window=['sum("a""b") over 1h as s', 'count(*) over 1h as n where "it\'s" > 1'],
    )
    streamed("odd", json.loads(frame.to_json(orient="records", date_format="iso")), tmp_path)
    asked = pd.DataFrame({key: ["x'; --", 'y"', "; DROP TABLE event; --"], time: minutes(30, 30, 30)})
    offline = feature.join("odd", entities=asked).frame
    assert offline.s.fillna(-1).tolist() == [3.0, 3.0, -1] and offline.n.tolist() == [1, 1, 0]
    for n, k in enumerate(asked[key]):
        got = online(project, "odd", k)
        assert (got["s"] or -1, got["n"]) == (offline.s.fillna(-1)[n], offline.n[n])
    ledger.of(project).close()


def test_columns_without_any_value(project, cli, tmp_path):
    "All null, or no row at all, so that Parquet knows no type: added, shown, joined, materialized and pushed into like others"
    frame = pd.DataFrame({"it's a key": ["a"], "select": [NOON], "all null": [None], 'nul "x"': [None]})
    frame.to_parquet(tmp_path / "one.parquet")
    frame[:0].assign(**{"it's a key": None}).to_parquet(tmp_path / "none.parquet")
    add = ["--entity", "it's a key", "--time", "select", "--sql", "SELECT * FROM source"]
    for name in ("one", "none"):
        assert cli("feature", "add", name, *add, "--source", tmp_path / f"{name}.parquet").exit == 0
    window = ["--window", 'max("all null") over 3h as most', "--window", "count(*) over 3h as n"]
    assert cli("feature", "add", "w", *add, "--source", tmp_path / "one.parquet", *window).exit == 0
    for words in (
        ["list"],
        ["show", "one"],
        ["show", "none"],
        ["materialize"],
        ["push", "one", tmp_path / "one.parquet"],
    ):
        said = cli("feature", *words)
        assert said.exit == 0, said
    said = cli("feature", "online", "one,w", "--entity", "it's a key=a", "--at", str(NOON), "--json").json
    assert said["values"] == {"all null": None, 'nul "x"': None, "most": None, "n": 1}
    ask = frame[["it's a key", "select"]]
    assert feature.join("one,none,w", entities=ask, time="select", full_names=True).frame.w__n.tolist() == [1]


def test_a_frame_as_the_text_of_a_source_is_said(project):
    "What a magic makes of --source {{df}}"
    frame = pd.DataFrame({"k": range(60), "t": NOON, "x": 1.0})
    with pytest.raises(BadInput, match="data add FRAME NAME") as e:
        feature.add("v", entity=["k"], time="t", source=str(frame), sql="SELECT * FROM source")
    assert one_line(e.value) and len(str(e.value)) < 200


@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.98])
def test_a_parquet_file_cut_short(project, cli, view, tmp_path, part):
    "As entity frame, as a dataset and in a stream: one line that names the file, and nothing written"
    view(rows())
    cut = tmp_path / "cut.parquet"
    rows().to_parquet(cut)
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * part)])
    said = cli("feature", "join", "w", "--entities", cut, "--out", tmp_path / "out.parquet", "--json")
    assert (
        said.exit == 2 and "cut.parquet" in said.json["error"]["message"] and "\n" not in said.json["error"]["message"]
    )
    with pytest.raises(MlopsError, match=r"cut\.parquet") as e:
        data.add(str(cut), "torn")
    assert one_line(e.value) and not list(tmp_path.glob("*out*"))
    with pytest.raises(NotFound):
        data.resolve("torn", project)
    folder = tmp_path / "landing"
    folder.mkdir()
    cut.rename(folder / "cut.parquet")
    fact = feature.stream("w", from_=folder, once=True)
    assert (fact.used, fact.unusable, fact.ok) == (0, 1, False) and "cut.parquet" in fact.first_unusable


def test_a_batch_with_one_bad_event_keeps_the_others(project, view, tmp_path):
    "Values that fit no column are set aside one by one, whatever their number and place"
    view(rows())
    good = [{"k": "a", "t": "2013-07-01T12:00:00Z", "x": float(n)} for n in range(100)]
    bad = [
        {**good[0], "x": "many"},
        {**good[0], "t": 12},
        {**good[0], "t": "2013-13-45"},
        {**good[0], "x": [1]},
        {**good[0], "k": {"a": 1}},
    ]
    mixed = good[:]
    for n, b in zip((0, 17, 50, 51, 104), bad, strict=True):
        mixed.insert(n, b)
    fact = streamed("w", mixed, tmp_path)
    assert (fact.seen, fact.used, fact.unusable) == (105, 100, 5) and "\n" not in fact.first_unusable
    assert online(project, "w", "a") == {"n": 100, "s": float(sum(range(100)))}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("entity =", "entty ="), "unknown field `entty`"),
        (('entity = ["k"]', ""), "names no entity"),
        (('time = "t"', ""), "names no time"),
        (('over = "1h"', 'ovr = "1h"'), "unknown field `ovr`"),
    ],
    ids=["typo", "no entity", "no time", "typo in a window"],
)
def test_a_definition_that_was_edited_badly(project, cli, view, wrong, words):
    "A misspelt key is not a key that was left out: the view would be another one"
    view(rows())
    file = project.root / "features/w.toml"
    file.write_text(file.read_text().replace(*wrong, 1))
    for verb in (("show", "w"), ("list",), ("join", "w", "--entities", "rows"), ("online", "w", "--entity", "k=a")):
        said = cli("feature", *verb)
        assert (
            said.exit == 2
            and words in said.err
            and "git checkout features/w.toml" in said.err
            and said.err.count("\n") == 1
        )


def test_a_test_that_is_no_condition_or_fails_writes_nothing(project, cli, tmp_path):
    "Not even the dataset of a frame that was given as the source"
    source = tmp_path / "rows.parquet"
    rows().to_parquet(source)
    add = {"entity": ["k"], "time": "t", "created": "none", "sql": "SELECT * FROM source"}
    for test, words in (
        ("x", "neither true nor false"),
        ("x > 1.5", "1 of 3 rows fail 'x > 1.5'; nothing was registered"),
    ):
        with pytest.raises(MlopsError, match=words):
            feature.add("v", source=rows(), test=[test], **add)
        said = cli(
            "feature",
            "add",
            "v",
            "--entity",
            "k",
            "--time",
            "t",
            "--source",
            source,
            "--sql",
            add["sql"],
            "--test",
            test,
        )
        assert words in said.err and said.err.count("\n") == 1
    assert not (project.root / "features").exists() and not list(project.root.glob("data/*"))
    assert feature.add("v", source=rows(), test=["x > 0"], **add).source == "v_source@1"
    ledger.of(project).close()


def test_a_value_that_is_not_there_says_why(project, view):
    "Too old, unknown, later than asked, null: four reasons, four words"
    view(rows(y=[1.0, None, 3.0]), "v", window=[], ttl="1h")
    feature.materialize()

    def why(at, k="a"):
        return feature.online("v", entity={"k": k}, at=at).why

    assert why("2013-07-01T12:30") == {"y": "null in the source"}
    assert set(why("2013-07-01T14:00").values()) == {"older than the ttl of 1h"}
    assert set(why("2013-07-01T12:30", "nobody").values()) == {"nothing is stored about this entity"}
    assert set(why("2013-07-01T11:00").values()) == {"what is stored is newer; history knows: feature join"}
    card = str(feature.online("v", entity={"k": "a"}, at="2013-07-01T11:00"))
    assert "-1.2 h" in card and "NOTHING THAT STILL HOLDS" in card


def test_stores_that_are_torn_say_what_to_delete(project, cli, view, tmp_path):
    view(rows())
    streamed("w", json.loads(rows().to_json(orient="records", date_format="iso")), tmp_path)
    file = project.root / ".mlops/streams.db"
    whole = file.read_bytes()
    for n, torn in enumerate((whole[:100], b"x" * len(whole), whole[:8192] + b"Z" * (len(whole) - 8192))):
        for f in file.parent.glob("streams.db*"):
            f.unlink()
        file.write_bytes(torn)
        for verb in (
            ("online", "w", "--entity", "k=a"),
            ("stream", "w", "--from", tmp_path / "events.jsonl", "--once"),
        ):
            said = cli("feature", *verb)
            assert said.exit == 4 and f"delete {file}" in said.err and said.err.count("\n") == 1, (n, said.err)
    file.unlink()
    assert streamed("w", [{"k": "a", "t": "2013-07-01T12:00:00Z", "x": 1.0}], tmp_path).used == 1
    ledger.of(project).close()


def test_a_full_disk_says_so(tmp_path):
    "A store whose file may not grow, as on a disk that is full: the reason is told, what was there stays"
    store = stream_store.EventStore(tmp_path / "s.db")
    events = [(f"[{n}]", n, None, "", 1, b"x" * 400) for n in range(2000)]
    store.add("v@1", events[:50], "file", "50")
    store.db.execute(f"PRAGMA max_page_count={store.db.execute('PRAGMA page_count').fetchone()[0] + 8}")
    for act in (
        lambda: store.add("v@1", events, "file", "2000"),
        lambda: store.fill("v@2", events, "", "m", reach=9999),
    ):
        with pytest.raises(MlopsError, match="is full; free some space"):
            act()
        assert (store.size("v@1"), store.position("v@1", "file")) == ((50, 50), "50")
    store.close()


def test_another_iterable_is_not_taken_for_the_one_before(project, view):
    "New events in a new list are read; the same list again is not; a frame is its rows; what is no dict is counted"
    view(rows())
    events = [{"k": "a", "t": (NOON + pd.Timedelta(minutes=m)).isoformat(), "x": float(m)} for m in range(40, 46)]

    def read(what, **more):
        got = feature.stream("w", from_=what, once=True, lateness="1d", **more)
        return got.seen, got.used, got.skipped, got.unusable

    assert read(events[:3], batch=2) == (3, 3, 0, 0)
    assert read(events[:3]) == (0, 0, 3, 0) and read(iter(events[:4])) == (1, 1, 3, 0)
    assert read(events[4:5]) == (1, 1, 0, 0)
    assert read(pd.DataFrame(events[5:]).assign(t=lambda f: pd.to_datetime(f.t))) == (1, 1, 0, 0)
    assert read([1, "two", None]) == (3, 0, 0, 3)
    assert online(project, "w", "a", at=NOON + pd.Timedelta("50min"))["s"] == 255.0
    read(events[:3])
    with pytest.raises(BadInput, match="row 3 is not the one that was read there before"):
        read([*events[:2], events[4]])
    ledger.of(project).close()


BROKER = """
import time
from confluent_kafka import Producer
p = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused", "log_level": 0, "batch.num.messages": 10})
b = next(iter(p.list_topics(timeout=10).brokers.values()))
for k in range(3000): p.produce("events", b'{"k": 1}' + b" " * 200)
assert p.flush(30) == 0
print(f"{b.host}:{b.port}", flush=True)
time.sleep(600)
"""


def test_a_kafka_that_goes_away_ends_the_reading_in_one_line():
    "What was read before is kept; nobody waits for ever, and the client's own log is not shown"
    pytest.importorskip("confluent_kafka")
    broker = subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE, text=True)
    try:
        small = {"queued.min.messages": 10, "queued.max.messages.kbytes": 4, "fetch.message.max.bytes": 2000}
        found = stream_sources.of_kafka(f"kafka://{broker.stdout.readline().strip()}/events", size=20, settings=small)
        read = [next(found).position]
        broker.kill()
        with pytest.raises(ToolFailed, match="is the broker there") as e:
            read.extend(b.position for b in found)
    finally:
        broker.kill()
        broker.wait()
        broker.stdout.close()
    assert one_line(e.value) and 0 < sum(json.loads(read[-1]).values()) < 3000
