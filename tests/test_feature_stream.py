"""Features from streams: replayed and asked online at t, they are what history answers at t, value by value."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from helpers.counts import count

from mlops_nb import data, feature
from mlops_nb.core.errors import BadInput, BadUsage, NotFound, ToolFailed
from mlops_nb.feature import definition, stream_ingest, stream_sources, stream_store
from mlops_nb.feature.online_store import packed_key

START = datetime(2013, 7, 1, tzinfo=UTC)
WINDOWS = [
    "count(*) over 2h as n",
    "count(x) over 30m as n_x",
    "sum(k) over 2h as sum_k",
    "sum(x) over 2h as sum_x",
    "mean(x) over 1h as mean_x",
    "min(x) over 90m as min_x",
    "max(k) over 90m as max_k",
    "std(x) over 2h as std_x",
    "first(x) over 1h as first_x",
    "last(kind) over 1h as last_kind",
    "distinct(kind) over 2h as kinds",
    "approx_distinct(k) over 2h as about_k",
    "mean(x) over 2h as mean_a where kind = 'a'",
]
KEYS = ["e1", "e2", 'it"s'], [7, 8, 9]


def history(seed: int, corrected: bool) -> pd.DataFrame:
    "Events of a day in the order they come, ten minutes out of order at most, with ties, nulls and NaN"
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 160))
    minutes = np.sort(rng.integers(0, 24 * 60, n))
    frame = pd.DataFrame(
        {
            "who": rng.choice(KEYS[0], n),
            "where": rng.choice(KEYS[1], n),
            "time": pd.Timestamp(START) + pd.to_timedelta(minutes, unit="min"),
            "k": rng.integers(-3, 4, n),
            "x": np.where(rng.random(n) < 0.1, np.nan, rng.normal(0, 1e3, n).round(2)),
            "kind": rng.choice(["a", "b", None], n, p=[0.5, 0.3, 0.2]),
            "id": [f"i{seed}-{k}" for k in range(n)],
        }
    )
    frame["created"] = frame.time + pd.to_timedelta(rng.integers(0, 600, n), unit="s")
    if corrected:
        some = frame.sample(frac=0.15, random_state=seed).copy()
        some["x"] = some.x + 1
        some["time"] = some.time + pd.to_timedelta(rng.integers(-30, 30, len(some)), unit="min")
        some["created"] = some.created + pd.to_timedelta(rng.integers(60, 7200, len(some)), unit="s")
        frame = pd.concat([frame, some], ignore_index=True)
    return frame.sort_values("created", kind="stable").reset_index(drop=True)


def lines(frame: pd.DataFrame) -> list[str]:
    return [
        json.dumps(json.loads(r)) + "\n"
        for r in frame.to_json(orient="records", lines=True, date_format="iso").splitlines()
    ]


@pytest.fixture
def view(project):
    "Registers the view `w` over a frame of history"

    def made(frame: pd.DataFrame, corrected: bool = False):
        data.add(frame, "events")
        more = {"created": "created", "id": "id"} if corrected else {"created": "none"}
        feature.add(
            "w",
            entity=["who", "where"],
            time="time",
            source="events",
            sql="SELECT * FROM source",
            window=WINDOWS,
            **more,
        )
        return definition.find(project, "w")

    return made


def same(a, b) -> bool:
    "To the last bit; missing where the other is missing"
    a, b = (None if v is None or v != v else v for v in (a, b))
    return a == b


@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("seed", range(count(4, 50)))
def test_online_at_t_is_history_at_t(project, view, tmp_path, seed, corrected):
    frame = history(seed, corrected)
    d = view(frame, corrected)
    rng, path, written = np.random.default_rng(seed + 1), tmp_path / "events.jsonl", lines(frame)
    order = frame.created if corrected else frame.time
    cuts = [0, *sorted((1 + rng.choice(len(written) - 1, 4, replace=False)).tolist()), len(written)]
    probes = count(25, 200)  # after each of the five readings: 125 in all, or the 1,000 of `make prove`
    asked, got, read = [], [], 0
    for first, last in zip(cuts, cuts[1:], strict=False):
        repeated = written[max(0, first - 3) : first] if corrected else []  # a producer that sends again what it sent
        with open(path, "a", encoding="utf-8") as f:
            f.writelines([*repeated, *written[first:last]])
        said = feature.stream("w", from_=path, once=True, lateness="12h", batch=int(rng.integers(1, 40)))
        assert (said.late, said.unusable, said.duplicates) == (0, 0, len(repeated))
        read += said.used
        newest = order[:last].max()
        low = newest - timedelta(hours=12)
        high = newest - timedelta(minutes=10) if last < len(written) else newest + timedelta(hours=3)
        store = stream_store.of(project)
        for _ in range(probes):
            t = (low + (high - low) * rng.random()).floor("s")
            who, where = str(rng.choice(KEYS[0])), int(rng.choice(KEYS[1]))
            asked.append({"who": who, "where": where, "time": t})
            got.append(store.answer(d, packed_key([who, where]), int(t.value // 1000))[0])
        store.close()
    assert read == len(frame) and len(got) == probes * 5
    truth = feature.join("w:*", entities=pd.DataFrame(asked)).frame
    names = [f.name for f in d.features]
    wrong = [(asked[n], c, g[c], truth[c][n]) for n, g in enumerate(got) for c in names if not same(g[c], truth[c][n])]
    assert wrong == []
    assert sum(g["n"] > 0 for g in got) > len(got) / 10, "the probes meet events"


def test_late_events_are_counted_and_not_used(project, view, tmp_path):
    frame = history(1, False)
    d = view(frame)
    path = tmp_path / "e.jsonl"
    path.write_text("".join(lines(frame)))
    feature.stream("w", from_=path, once=True, lateness="15m")
    t = int(frame.time.max().value // 1000)
    store = stream_store.of(project)
    before = [store.answer(d, packed_key([w, h]), t)[0] for w in KEYS[0] for h in KEYS[1]]
    old = frame.iloc[[0]].assign(time=frame.time.max() - timedelta(minutes=16))
    with open(path, "a", encoding="utf-8") as f:
        f.writelines(lines(old))
    said = feature.stream("w", from_=path, once=True, lateness="15m")
    assert (said.seen, said.used, said.late) == (1, 0, 1)
    assert before == [store.answer(d, packed_key([w, h]), t)[0] for w in KEYS[0] for h in KEYS[1]]
    store.close()


def test_events_are_forgotten_when_no_window_reaches_them(project, view):
    d = view(history(2, False))
    blank = {"who": "e1", "where": 7, "k": 1, "x": 1.0, "kind": "a", "id": "", "created": None}
    rows = [{**blank, "time": (START + timedelta(minutes=m)).isoformat()} for m in range(5000)]
    said = feature.stream("w", from_=rows, once=True, lateness="10m", batch=100)
    assert said.used == 5000 and said.events <= 2 * 60 + 10 + 100, "two hours, the lateness, and a batch"
    assert definition.find(project, "w").version == d.version


def test_one_busy_entity_costs_no_more_for_each_event(project, tmp_path):
    "The work of a batch grows with what comes and goes, not with what is kept: counted in steps of SQLite"
    second, n = 1_000_000, 300

    def steps(kept: int, ids: bool) -> int:
        store = stream_store.EventStore(tmp_path / f"{kept}{ids}.db")
        t, counted = 0, [0]
        for _ in range(kept // n + 3):
            batch = [("k", (t + k) * second, None, f"e{t + k}" if ids else "", 1, b"x") for k in range(n)]
            t += n
            counted[0] = 0
            store.db.set_progress_handler(lambda: counted.__setitem__(0, counted[0] + 1), 100)
            store.add("v@1", batch, "s", str(t), lateness_us=0, reach=kept * second)
        done = counted[0]
        assert kept <= store.size("v@1")[1] <= kept + n
        store.close()
        return done

    for ids in (False, True):
        few, many = steps(600, ids), steps(4800, ids)
        assert few > 50 and many < 2 * few, (ids, few, many)


def test_materializing_leaves_what_a_stream_maintains(project, view):
    frame = history(9, False)
    view(frame)
    assert feature.materialize("w").written > 0
    rows = [json.loads(line) for line in lines(frame)[:40]]
    feature.stream("w", from_=rows, once=True, lateness="12h")
    store = stream_store.of(project)
    before = store.size("w@1")
    assert feature.materialize("w").written == 0 and store.size("w@1") == before
    store.close()


CHILD = """
import sys
from pathlib import Path
from mlops_nb.core import project
from mlops_nb.feature import stream_store
from mlops_nb import feature
root, path = sys.argv[1:3]
plain = stream_store.EventStore.add
def told(self, *args, **kwargs):
    done = plain(self, *args, **kwargs)
    print(done.used, flush=True)
    return done
stream_store.EventStore.add = told
with project.use(project.find(root)): feature.stream('w', from_=Path(path), once=True, lateness='12h', batch=3)
"""


@pytest.mark.parametrize("after", [1 + 2 * k for k in range(count(3, 20))])
def test_a_kill_loses_nothing_and_counts_nothing_twice(project, view, tmp_path, after):
    frame = history(3, False)
    d = view(frame)
    path = tmp_path / "e.jsonl"
    path.write_text("".join(lines(frame)))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(project.root), str(path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(after):
        child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()
    feature.stream("w", from_=path, once=True, lateness="12h")
    store = stream_store.of(project)
    assert store.size("w@1")[1] == sum(frame.time > frame.time.max() - timedelta(hours=14))
    t = frame.time.max() + timedelta(minutes=1)
    asked = pd.DataFrame([{"who": w, "where": h, "time": t} for w in KEYS[0] for h in KEYS[1]])
    truth = feature.join("w:*", entities=asked).frame
    for n, r in asked.iterrows():
        got = store.answer(d, packed_key([r.who, r["where"]]), int(t.value // 1000))[0]
        assert all(same(got[c], truth[c][n]) for c in got)
    store.close()


def test_sigterm_ends_behind_a_whole_batch(project, view, tmp_path):
    frame = history(4, False)
    view(frame)
    path = tmp_path / "e.jsonl"
    path.write_text("".join(lines(frame)))
    follow = CHILD.replace("once=True", "once=False")
    child = subprocess.Popen(
        [sys.executable, "-c", follow, str(project.root), str(path)], stdout=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    child.stdout.close()
    said = feature.stream("w", from_=path, once=True, lateness="12h")
    assert said.late == 0 and said.unusable == 0


def test_parquet_folders_grow_by_files(project, view, tmp_path):
    frame = history(5, False)
    view(frame)
    folder = tmp_path / "landing"
    folder.mkdir()
    half = len(frame) // 2
    frame[:half].to_parquet(folder / "a.parquet")
    assert feature.stream("w", from_=folder, once=True, lateness="2d").used == half
    frame[half:].to_parquet(folder / "b.parquet")
    assert feature.stream("w", from_=folder, once=True, lateness="2d").used == len(frame) - half
    (folder / "c.parquet").write_bytes((folder / "a.parquet").read_bytes()[:100])
    torn = feature.stream("w", from_=folder, once=True, lateness="2d")
    assert torn.unusable == 1 and "c.parquet: no Parquet" in torn.first_unusable and not torn.ok


def test_unusable_events_are_counted_and_the_first_is_named(project, cli, view, tmp_path):
    frame = history(6, False)
    view(frame)
    bad = [
        "not json\n",
        "[1, 2]\n",
        '{"who": "e1", "where": 7, "x": 1.0}\n',
        '{"who": null, "where": 7, "time": "2013-07-01"}\n',
    ]
    bad += [
        '{"who": "e1", "where": "seven", "time": "2013-07-01"}\n',
        '{"who": "e1", "where": 7, "time": "yesterday"}\n',
    ]
    path = tmp_path / "e.jsonl"
    path.write_text("".join([*bad, *lines(frame)]))
    said = cli("feature", "stream", "w", "--from", path, "--once", "--lateness", "12h", "--json")
    assert (
        said.exit == 1 and said.json["error"]["kind"] == "finding" and "byte 0: no JSON" in said.json["first_unusable"]
    )
    assert (said.json["seen"], said.json["unusable"], said.json["used"]) == (len(frame) + 6, 6, len(frame))


def test_bad_input_is_one_line(project, cli, view, tmp_path):
    frame = history(7, False)
    view(frame)
    feature.add("rows", entity=["who"], time="time", source="events", sql="SELECT who, time, x FROM source")
    feature.add(
        "mixed",
        entity=["who"],
        time="time",
        source="events",
        sql="SELECT who, time, sum(x) OVER () AS x FROM source",
        window=["max(x) over 1h as m"],
    )
    path = tmp_path / "e.jsonl"
    path.write_text("".join(lines(frame)))
    for error, words, name, url in [
        (BadUsage, "has no windows", "rows", path),
        (BadUsage, "mixes rows", "mixed", path),
        (NotFound, "is not there", "w", tmp_path / "none.jsonl"),
        (BadInput, "no such source", "w", "ftp://somewhere/x"),
        (BadInput, "names no stream", "w", "redis://127.0.0.1:1/0"),
        (ToolFailed, "127.0.0.1:1", "w", "redis://user:secret@127.0.0.1:1/0#s"),
        (BadInput, "no Kafka topic", "w", "kafka://127.0.0.1:1"),
    ]:
        with pytest.raises(error, match=words) as e:
            feature.stream(name, from_=url, once=True)
        assert "secret" not in str(e.value) and "\n" not in str(e.value)
    feature.stream("w", from_=path, once=True)
    path.write_text("")
    with pytest.raises(BadInput, match="shorter than it was"):
        feature.stream("w", from_=path, once=True)


QUERIES = {
    "plain": ("SELECT who, time, abs(x) AS x FROM source WHERE x IS NOT NULL", True, 0),
    "sorted": ("SELECT who, time, x FROM source ORDER BY x", True, 0),
    "with": ("WITH a AS (SELECT * FROM source) SELECT who, time, x FROM a", True, 7),
    "python": ("def f(source): return source.assign(x=source.x * 2)[['who', 'time', 'x']]", True, 7),
    "over": ("SELECT who, time, lag(k) OVER (ORDER BY time) AS x FROM source", False, 7),
    "grouped": ("SELECT who, max(time) AS time, sum(x) AS x FROM source GROUP BY who", False, 7),
    "inner": ("SELECT who, time, x - (SELECT min(k) FROM source) AS x FROM source", False, 7),
    "centred": ("def f(source): return source.assign(x=source.k - source.k.min())[['who', 'time', 'x']]", False, 7),
}


@pytest.mark.parametrize("name", QUERIES)
def test_what_mixes_rows_is_found_at_each_reading(project, view, name, monkeypatch):
    "A query that can be read is believed; what cannot is tried on six rows, alone and together"
    body, alone, tried = QUERIES[name]
    frame = history(8, False).drop(columns=["created", "id"]).assign(k=range(len(history(8, False))))
    view(frame)
    feature.add("v", entity=["who"], time="time", source="events", body=body, window=["max(x) over 1h as m"])
    path, calls, rows_of = project.root / "e.jsonl", [], stream_ingest.compute.rows_of
    monkeypatch.setattr(stream_ingest.compute, "rows_of", lambda *a, **kw: calls.append(1) or rows_of(*a, **kw))
    for some in (frame[:20], frame[20:40]):
        with path.open("a", encoding="utf-8") as f:
            f.writelines(lines(some))
        calls.clear()
        if alone:
            assert feature.stream("v", from_=path, once=True).seen == 20 and len(calls) == tried + 1
        else:
            with pytest.raises(BadUsage, match="mixes rows"):
                feature.stream("v", from_=path, once=True)
            assert len(calls) == tried


@pytest.fixture
def redis_server(tmp_path_factory):
    "A Redis on a Unix socket; its URL"
    binary = shutil.which("redis-server")
    if not binary:
        pytest.skip("redis-server is not installed")
    redis = pytest.importorskip("redis")
    at = tmp_path_factory.mktemp("r")
    child = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", "s", "--save", "", "--appendonly", "no"],
        cwd=at,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while "eady to accept connections" not in (line := child.stdout.readline()):
            assert line, "redis-server ended"
        yield f"unix://{at}/s?db=0", redis.Redis(unix_socket_path=str(at / "s"))
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


def test_redis_streams(project, view, redis_server):
    url, r = redis_server
    frame = history(8, False)
    d = view(frame)
    written = lines(frame)
    for half in (written[:50], written[50:]):
        for line in half:
            r.xadd("flights", {"json": line})
        assert feature.stream("w", from_=f"{url}#flights", once=True, lateness="12h", batch=7).used == len(half)
    t = frame.time.max()
    asked = pd.DataFrame([{"who": w, "where": h, "time": t} for w in KEYS[0] for h in KEYS[1]])
    truth, store = feature.join("w:*", entities=asked).frame, stream_store.of(project)
    for n, a in asked.iterrows():
        got = store.answer(d, packed_key([a.who, a["where"]]), int(t.value // 1000))[0]
        assert all(same(got[c], truth[c][n]) for c in got)
    store.close()


def test_a_redis_that_is_followed_stops_when_told(redis_server):
    url, r = redis_server
    stop, seen = threading.Event(), []

    def follow():
        for b in stream_sources.of_redis(f"{url}#s", once=False, stop=stop):
            seen.extend(b.rows)
            if len(seen) == 3:
                stop.set()

    reader = threading.Thread(target=follow)
    reader.start()
    for k in range(3):
        r.xadd("s", {"k": k})
    reader.join(60)
    assert [x["k"] for x in seen] == ["0", "1", "2"] and not reader.is_alive()


def test_kafka():
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused"})
    brokers = next(iter(producer.list_topics(timeout=10).brokers.values()))
    at = f"{brokers.host}:{brokers.port}"
    for k in range(200):
        producer.produce("flights", json.dumps({"k": k}), partition=k % 2)
    producer.produce("flights", b"not json", partition=0)
    assert producer.flush(30) == 0
    first = list(stream_sources.of_kafka(f"kafka://{at}/flights", size=50))
    assert sorted(r["k"] for b in first for r in b.rows) == list(range(200))
    assert sum(len(b.unusable) for b in first) == 1
    producer.produce("flights", json.dumps({"k": 200}), partition=1)
    assert producer.flush(30) == 0
    again = list(stream_sources.of_kafka(f"kafka://{at}/flights", first[-1].position))
    assert [r["k"] for b in again for r in b.rows] == [200]


def test_a_time_whose_events_are_gone_has_no_answer_instead_of_half_a_window(project, cli):
    "Only what windows can still reach is kept; history knows the rest"
    at = pd.date_range("2026-01-01", periods=40, freq="D", tz="UTC")
    pd.DataFrame({"k": 1, "t": at, "x": np.arange(40.0)}).to_parquet("events.parquet")
    feature.add(
        "spend",
        entity=["k"],
        time="t",
        source="events.parquet",
        sql="SELECT k, t, x FROM source",
        window=["sum(x) over 7d as week", "count(*) over 1d as day"],
    )
    feature.stream("spend", from_="events.parquet", once=True)
    for days, week, day, why in ((39, 252.0, 1, set()), (36, None, 1, {"week"}), (20, None, None, {"week", "day"})):
        said = cli("feature", "online", "spend", "--entity", "k=1", "--at", str(at[days]), "--json").json
        assert (said["values"]["week"], said["values"]["day"]) == (week, day)
        assert set(said["why"]) == why and all("feature join" in x for x in said["why"].values())
