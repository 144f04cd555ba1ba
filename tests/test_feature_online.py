"""Online stores: one contract over SQLite, Redis and Feast's own store; age, ttl and keys; a Redis that goes away mid-write."""

import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from helpers.counts import count
from mlops_nb import data, feature
from mlops_nb.core import ledger
from mlops_nb.core.errors import BadUsage, ToolFailed
from mlops_nb.feature import online_reader
from mlops_nb.feature.feast_online import FeastStore
from mlops_nb.feature.online_store import Batch, SqliteStore, Wanted
from mlops_nb.feature.redis_store import RedisStore

START = datetime(2026, 1, 1, tzinfo=UTC)


def feast_store(folder, online: dict) -> FeastStore:
    "A store of Feast behind our adapter"
    yaml = {"project": "t", "provider": "local", "registry": "registry.db", "online_store": online}
    (folder / "feature_store.yaml").write_text(json.dumps({**yaml, "entity_key_serialization_version": 3}))
    return FeastStore(folder)


def made(name: str, request, folder):
    "One store of a kind; the second of a name sees what the first wrote"
    if name == "sqlite":
        return SqliteStore(folder / "online.db")
    if name == "feast-sqlite":
        return feast_store(folder, {"type": "sqlite", "path": "feast.db"})
    redis_server = request.getfixturevalue("redis_server")
    if name == "redis":
        return RedisStore(redis_server.url, "test")
    return feast_store(
        folder, {"type": "redis", "connection_string": f"localhost:1,unix_socket_path={redis_server.socket}"}
    )


STORES = ["sqlite", "redis", "feast-sqlite", "feast-redis"]  # a new store of any kind is one more line
MARKED = [s for s in STORES if not s.startswith("feast")]  # stores that commit a mark together with its rows


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    if "feast-redis" in request.param:
        pytest.importorskip("redis")
    store = made(request.param, request, tmp_path)
    yield store
    store.close()


def put(
    store, view: str, keys: list[tuple], times: list[int], rows: list[dict], *, mark: str = "", by=("origin", "gate")
) -> int:
    "Rows as dicts of the same features"
    names = tuple(rows[0]) if rows else ("i",)
    columns = [[r[n] for r in rows] for n in names]
    by = by[: len(keys[0])] if keys else by
    return store.write(
        [Batch(view, by, names, [list(c) for c in zip(*keys)] or [[] for _ in by], times, columns, mark)]
    )[0]


def get(store, view: str, keys: list[tuple], names=("i",), by=("origin", "gate")) -> list:
    "(time, {feature: value}) of each key"
    by = by[: len(keys[0])] if keys else by
    got = store.read(Wanted(by, ((view, tuple(names)),)), [list(c) for c in zip(*keys)] or [[] for _ in by])
    return [None if r[0] is None else (r[0], dict(zip(names, r[1:]))) for r in got]


ODD = {
    "i": -5,
    "f": 0.1,
    "big": 2**60,
    "inf": math.inf,
    "s": 'ü "x"',
    "none": None,
    "flag": True,
    "list": [1.5, None],
    "at": START + timedelta(microseconds=7),
    "raw": b"\x00\xff",
}


def test_contract_values_and_keys(store):
    assert put(store, "odd@1", [("JFK", 1)], [10], [ODD]) == 1
    assert get(store, "odd@1", [("JFK", 1), ("JFK", 1.0)], ODD) == [(10, ODD)] * 2
    assert get(store, "odd@1", [("JFK", 1)], ["s", "nowhere", "i"]) == [(10, {"s": ODD["s"], "nowhere": None, "i": -5})]
    keys = [("JFK", 1), ("JFK", 2), ('a"b', -1), ("", 0)]
    assert put(store, "v@1", keys, [10, 20, -30, 0], [{"i": 1}, {"i": 2}, {"i": 3}, {"i": None}]) == 4
    assert get(store, "v@1", [*keys, ("LGA", 1)]) == [
        (10, {"i": 1}),
        (20, {"i": 2}),
        (-30, {"i": 3}),
        (0, {"i": None}),
        None,
    ]
    put(store, "v@1", [("n", 1)], [1], [{"i": math.nan}])
    assert math.isnan(get(store, "v@1", [("n", 1)])[0][1]["i"])
    assert get(store, "v@2", [("JFK", 1)]) == [None]
    assert put(store, "v@1", [], [], []) == 0 and get(store, "v@1", []) == []


def test_feast_keeps_its_times_where_others_set_theirs(tmp_path):
    "IPython's history and pandas' to_sql tell the whole process how SQLite reads and writes times"
    store = made("feast-sqlite", None, tmp_path)
    assert put(store, "seen@1", [("JFK", 1)], [10], [{"i": 1}]) == 1
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        pd.DataFrame({"at": [START]}).to_sql("t", db)
        theirs = dict(sqlite3.converters), dict(sqlite3.adapters)
        assert put(store, "seen@1", [("JFK", 2)], [20], [{"i": 2}]) == 1
        assert get(store, "seen@1", [("JFK", 1), ("JFK", 2)]) == [(10, {"i": 1}), (20, {"i": 2})]
        assert (dict(sqlite3.converters), dict(sqlite3.adapters)) == theirs
    store.close()


def test_contract_keys_of_one_part(store):
    "Keys that look alike stay apart; numbers that are the same are one"
    keys = [1, "1", "[1]", 2.5, True, 2**70, "", "a", -7, "true", START.isoformat(), np.int64(9), b"raw"]
    put(store, "k@1", [(k,) for k in keys], list(range(len(keys))), [{"i": n} for n in range(len(keys))])
    assert [r and r[1]["i"] for r in get(store, "k@1", [(k,) for k in keys])] == list(range(len(keys)))
    assert [r and r[1]["i"] for r in get(store, "k@1", [(1.0,), (9,), (np.float64(1),), (0,), (False,)])] == [
        0,
        11,
        0,
        None,
        None,
    ]


def test_contract_views_about_one_entity(store):
    "Views that share an entity are written and read together, and a feature that comes later is None before"
    a, b = ([{"x": k} for k in range(n)] for n in (5, 3))
    batches = [Batch("a@1", ("k",), ("x",), [list(range(5))], [1] * 5, [[r["x"] for r in a]])]
    batches.append(Batch("b@1", ("k",), ("y", "z"), [[1, 2, 7]], [2, 3, 4], [["q"] * 3, [r["x"] for r in b]]))
    assert store.write(batches) == [5, 3]
    wanted = Wanted(("k",), (("b@1", ("z",)), ("none@1", ("x",)), ("a@1", ("x",)), ("b@1", ("y",))))
    nothing = (None, None)
    assert store.read(wanted, [[7, 1, 4, 99]]) == [
        (4, 2, *nothing, *nothing, 4, "q"),
        (2, 0, *nothing, 1, 1, 2, "q"),
        (*nothing, *nothing, 1, 4, *nothing),
        (*nothing, *nothing, *nothing, *nothing),
    ]
    put(store, "a@1", [(1,)], [9], [{"w": "new", "x": -1}], by=("k",))
    assert store.read(Wanted(("k",), (("a@1", ("x", "w")),)), [[1, 2]]) == [(9, -1, "new"), (1, 2, None)]
    assert store.read(wanted, [[1]]) == [(2, 0, *nothing, 9, -1, 2, "q")]


def test_contract_the_newest_row_stays(store):
    "Any order, any repetition, any batches: the store holds the newest row"
    rng = np.random.default_rng(1)
    for _ in range(count(3, 100)):
        view, best = f"v@{_}", {}
        for _ in range(6):
            keys, times = rng.integers(0, 20, 30).tolist(), rng.integers(-50, 50, 30).tolist()
            rows = [{"x": int(x)} for x in rng.integers(0, 1000, 30)]
            put(store, view, [(k,) for k in keys], times, rows)
            for k, t, r in zip(keys, times, rows):
                if k not in best or t >= best[k][0]:
                    best[k] = (t, r)
        assert get(store, view, [(k,) for k in range(20)], ["x"]) == [best.get(k) for k in range(20)]
        assert put(store, view, [(k,) for k in best], [t for t, _ in best.values()], [r for _, r in best.values()]) == 0


def test_contract_a_failed_write_is_not_seen(store):
    keys = [(k,) for k in range(10)]
    put(store, "v@1", keys, [1] * 10, [{"x": 0}] * 10, mark="first")

    def values():
        yield from [1] * 5
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        store.write([Batch("v@1", ("origin",), ("x",), [list(range(10))], [2] * 10, [values()], "second")])
    assert get(store, "v@1", keys, ["x"]) == [(1, {"x": 0})] * 10 and store.mark("v@1") == "first"


def test_contract_marks(store):
    assert store.mark("v@1") == ""
    put(store, "v@1", [(1,)], [1], [{"x": 0}], mark="one")
    put(store, "v@1", [(1,)], [2], [{"x": 0}])
    put(store, "w@1", [(1,)], [1], [{"x": 0}], mark="two")
    assert (store.mark("v@1"), store.mark("w@1"), store.mark("v@2")) == ("one", "two", "")


def frame(n: int, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = START + pd.to_timedelta(rng.integers(0, 10 * 86_400, n), unit="s")
    return pd.DataFrame(
        {
            "plane": rng.integers(0, n // 4, n),
            "gate": rng.choice(["A", 'B"'], n),
            "landed": at,
            "delay": rng.normal(size=n),
            "legs": rng.integers(0, 9, n),
        }
    )


def view(n: int = 400, **kw) -> pd.DataFrame:
    f = frame(n)
    data.add(f, "landings")
    feature.add(
        "aircraft", entity=["plane", "gate"], time="landed", source="landings", sql="SELECT * FROM source", **kw
    )
    return f


@pytest.mark.parametrize("where", ["sqlite", "redis", "feast-sqlite"])
def test_online_is_what_join_gives_now(project, request, where):
    if where == "redis":
        project.pin("stores", "online", request.getfixturevalue("redis_server").url)
    if where == "feast-sqlite":
        (project.root / "repo").mkdir()
        feast_store(project.root / "repo", {"type": "sqlite", "path": "feast.db"})
        project.pin("stores", "online", "feast:repo")
    f = view(ttl="3d")
    m = feature.materialize()
    assert m.written == len(f.groupby(["plane", "gate"])) and feature.materialize().written == 0
    reader = feature.Reader(project, "aircraft")
    for t in (START + timedelta(days=10), START + timedelta(days=12)):
        asked = f[["plane", "gate"]].drop_duplicates().assign(at=t)
        truth = feature.join("aircraft", entities=asked, time="at").frame
        values, ages = reader.read(asked.drop(columns="at").to_dict("records"), int(t.timestamp() * 1e6))
        got = pd.DataFrame(values)
        for c in ("delay", "legs"):
            assert [None if pd.isna(x) else x for x in got[c]] == [None if pd.isna(x) else x for x in truth[c]]
        newest = f.groupby(["plane", "gate"])["landed"].max()
        assert [a["delay"] for a in ages] == [(t - newest[k]).total_seconds() for k in zip(asked.plane, asked.gate)]
    assert reader.read([{"plane": -1, "gate": "A"}]) == (
        [{"delay": None, "legs": None}],
        [{"delay": None, "legs": None}],
    )
    with pytest.raises(BadUsage, match="`gate` is not given"):
        reader.read([{"plane": 1}])
    reader.close()


def test_the_shell_form(project, cli):
    f = view(ttl="3d")
    assert (
        cli("feature", "materialize", "--dry-run", "--json").json["steps"]
        and not (project.state / "online.db").exists()
    )
    a = cli("feature", "materialize", "--json")
    assert a.exit == 0 and a.json["written"] > 50, a
    last = f.sort_values("landed").iloc[-1]
    key = f"plane={last.plane},gate={last.gate}"
    a = cli(
        "feature",
        "online",
        "aircraft:delay",
        "--entities",
        key,
        "--at",
        (last.landed + timedelta(hours=1)).isoformat(),
        "--json",
    )
    assert a.exit == 0 and a.json["values"] == {"delay": last.delay} and a.json["age_s"] == {"delay": 3600}, a
    a = cli(
        "feature",
        "online",
        "aircraft:delay",
        "--entities",
        key,
        "--at",
        (last.landed + timedelta(days=4)).isoformat(),
        "--json",
    )
    assert a.json["values"] == {"delay": None} and a.json["age_s"] == {"delay": 4 * 86400}
    a = cli("feature", "online", "aircraft", "--entities", "plane=1")
    assert a.exit == 2 and "--entity gate=VALUE" in a.err
    assert [e.subject for e in ledger.of(project).events("feature.materialized")] == ["aircraft@1"]


def test_on_demand_is_computed_when_asked(project):
    f = view()
    feature.add(
        "ratio",
        needs=["aircraft:delay"],
        request=["distance:double"],
        sql="SELECT delay / distance AS per_km FROM source",
    )
    feature.materialize()
    reader = feature.Reader(project, "ratio,aircraft:legs")
    some = f.sort_values("landed").drop_duplicates(["plane", "gate"], keep="last").head(5)
    values, _ = reader.read([{"plane": r.plane, "gate": r.gate, "distance": 250.0} for r in some.itertuples()])
    assert [v["per_km"] for v in values] == [d / 250.0 for d in some.delay] and [v["legs"] for v in values] == list(
        some.legs
    )
    with pytest.raises(BadUsage, match="needs `distance`"):
        reader.read([{"plane": 1, "gate": "A"}])
    reader.close()


NAMES, BY = ("delay", "legs"), ("plane", "gate")


@pytest.mark.parametrize("when", ["staging", "merging", "answering"])
def test_redis_goes_away_mid_write(project, redis_server, monkeypatch, when):
    "The old values stay until all new ones are there; afterwards the stores agree"
    project.pin("stores", "online", redis_server.url)
    f = view(400)
    feature.materialize()
    keys = [tuple(k) for k in f[["plane", "gate"]].drop_duplicates().itertuples(index=False)]
    store = RedisStore(redis_server.url, project.settings.audit.ident or project.name)
    before = get(store, "aircraft@1", keys, NAMES, BY)
    later = frame(400, 3).assign(delay=lambda x: x.delay + 1)
    data.add(later, "landings")
    real, calls = RedisStore.tried, []

    def dies(self, step, *args, **kwargs):
        calls.append(1)
        merging = step is self._merge
        if (
            when == ("merging" if merging else "staging")
            and getattr(step, "__name__", "") != "ping"
            and "hget" not in str(step)
        ):
            redis_server.kill()
        done = real(self, step, *args, **kwargs)
        if merging and when == "answering":  # Redis has merged, and nobody hears of it
            redis_server.kill()
            raise ToolFailed("Redis does not answer: connection lost")
        return done

    with monkeypatch.context() as m:
        m.setattr(RedisStore, "tried", dies)
        with pytest.raises(ToolFailed, match="Redis does not answer") as e:
            feature.materialize()
    assert "\n" not in str(e.value) and len(calls) >= 3
    with pytest.raises(ToolFailed, match="nothing was half-written"):
        feature.materialize()
    redis_server.socket.unlink(missing_ok=True)
    redis_server.start()
    store = RedisStore(redis_server.url, project.settings.audit.ident or project.name)
    after = get(store, "aircraft@1", keys, NAMES, BY)
    assert (
        after == before
        if when != "answering"
        else all(a[1]["delay"] == b[1]["delay"] + 1 for a, b in zip(after, before))
    )
    feature.materialize()
    assert all(a[1]["delay"] == b[1]["delay"] + 1 for a, b in zip(get(store, "aircraft@1", keys, NAMES, BY), before))
    twin = SqliteStore(project.root / "twin.db")
    monkeypatch.setattr(online_reader, "opened", lambda p: twin)
    monkeypatch.setattr(twin, "close", lambda: None)
    feature.materialize()
    assert get(twin, "aircraft@1", keys, NAMES, BY) == get(store, "aircraft@1", keys, NAMES, BY)
    assert [k for k in store.db.keys() if b"stage" in k and store.db.ttl(k) < 0] == []


def test_a_server_killed_at_any_moment_keeps_whole_writes(redis_server):
    "Rows and mark of two views are of one write, whatever Redis was doing when it died"
    wanted = Wanted(("k",), (("v@1", ("n",)), ("w@1", ("n",))))
    keys, n, kept, rng = list(range(3000)), 0, 0, np.random.default_rng(5)
    for after in rng.integers(4, 40, count(4, 40)):
        asked, failed = threading.Semaphore(0), []

        class Told(RedisStore):
            def tried(self, step, *args, asked=asked, **kwargs):
                asked.release()  # a command is on its way to the server
                return RedisStore.tried(self, step, *args, **kwargs)

        store = Told(redis_server.url, "k")

        def write(first, store=store, failed=failed):
            for g in range(first, first + 1000):
                batches = [Batch(v, ("k",), ("n",), [keys], [g] * 3000, [[g] * 3000], str(g)) for v in ("v@1", "w@1")]
                try:
                    store.write(batches)
                except ToolFailed as e:
                    failed.append((g, e))
                    return

        writer = threading.Thread(target=write, args=(n + 1,))
        writer.start()
        for _ in range(after):
            assert asked.acquire(timeout=60)
        redis_server.kill()
        writer.join(60)
        redis_server.socket.unlink(missing_ok=True)
        redis_server.start()
        store = RedisStore(redis_server.url, "k")
        found = {t or 0 for r in store.read(wanted, [keys]) for t in r} | {
            int(store.mark(v) or 0) for v in ("v@1", "w@1")
        }
        ((lost, error),) = failed
        answered = lost - 1 if lost > n + 1 else kept  # the last write of which Redis said that it was done
        assert len(found) == 1 and found <= {answered, lost} and "\n" not in str(error), (found, answered, lost)
        n, kept = lost, found.pop()


WRITER = """
import os, signal, sys
from mlops_nb.feature.online_store import Batch, SqliteStore
from mlops_nb.feature.redis_store import RedisStore
where, after, steps = sys.argv[1], int(sys.argv[2]), 0

def one_more(half=lambda: None):
    global steps
    steps += 1
    if steps == after: half(); os.kill(os.getpid(), signal.SIGKILL)

if '://' in where: # dies with half a command on the wire
    from redis.connection import AbstractConnection
    send = AbstractConnection.send_packed_command
    def dying(self, command, *more, **how):
        data = command if isinstance(command, bytes) else b''.join(c.encode() if isinstance(c, str) else c for c in command)
        one_more(lambda: self._sock.sendall(data[:len(data)//2]))
        return send(self, command, *more, **how)
    AbstractConnection.send_packed_command = dying
    s = RedisStore(where, 'k')
else: # dies between two steps of SQLite's machine
    s = SqliteStore(where)
    s.db.set_progress_handler(one_more, 500)
n = 1 + int(sys.argv[3])
while True:
    s.write([Batch(v, ('k',), ('n',), [list(range(2000))], [n]*2000, [[n]*2000], str(n)) for v in ('v@1', 'w@1')])
    print(n, flush=True)
    n += 1
"""


@pytest.mark.parametrize("where", ["sqlite", "redis"])
def test_a_writer_killed_at_any_point_leaves_whole_generations(tmp_path, request, where):
    "kill -9 inside a write: every row, both views and their marks are of the last write that was reported, or of the next"
    target = request.getfixturevalue("redis_server").url if where == "redis" else str(tmp_path / "k.db")
    known, rng = 0, np.random.default_rng(3)
    for after in rng.integers(1, 900 if where == "sqlite" else 30, count(3, 20)):
        done = subprocess.run(
            [sys.executable, "-c", WRITER, target, str(after), str(known)], stdout=subprocess.PIPE, text=True
        )
        assert done.returncode == -signal.SIGKILL
        reported = int((done.stdout.split() or [known])[-1])
        s = RedisStore(target, "k") if where == "redis" else SqliteStore(target)
        wanted = Wanted(("k",), (("v@1", ("n",)), ("w@1", ("n",))))
        found = {x or 0 for r in s.read(wanted, [list(range(2000))]) for x in r} | {
            int(s.mark(v) or 0) for v in ("v@1", "w@1")
        }
        s.close()
        assert len(found) == 1 and found <= {reported, reported + 1}, (after, found, reported)
        known = found.pop()


def test_redis_that_is_not_there(project, cli):
    pytest.importorskip("redis")
    project.pin("stores", "online", f"unix://{project.root}/none.sock")
    view(40)
    a = cli("feature", "materialize")
    assert a.exit == 4 and "Redis does not answer" in a.err and len(a.err.strip().split("\n")) == 1, a
    project.pin("stores", "online", "mysql://x")
    a = cli("feature", "materialize")
    assert a.exit == 2 and "redis://HOST" in a.err


def test_what_is_remembered_is_never_old(tmp_path):
    one, two = SqliteStore(tmp_path / "o.db"), SqliteStore(tmp_path / "o.db")
    one.hot = 5
    wanted = Wanted(("k",), (("v@1", ("n",)), ("w@1", ("n",))))
    for n in range(1, 50):
        writer, k = (one, two)[n % 2], n % 7
        put(writer, "vw"[n % 3 == 0] + "@1", [(k,)], [n], [{"n": n}], by=("k",))
        a, b = (s.read(wanted, [list(range(7))]) for s in (one, two))
        assert a == b and (n, n) in (a[k][:2], a[k][2:])
    one.close()
    two.close()


def test_any_number_of_keys_in_any_order(tmp_path):
    "Unknown and repeated keys, keys of several kinds, more keys than one statement takes"
    store, rng = SqliteStore(tmp_path / "o.db"), np.random.default_rng(2)
    keys = [*range(700), *map(str, range(300)), 2**63, -(2**63), 2**63 - 1, -(2**63) - 1, 0.5, b"0"]
    put(store, "v@1", [(k,) for k in keys], list(range(len(keys))), [{"i": n} for n in range(len(keys))])
    asked = [*keys, *(-n - 1 for n in range(40)), "x", 2**64, 3.0, float(2**63)]
    truth = {(type(k), k): n for n, k in enumerate(keys)} | {(float, 3.0): 3, (float, float(2**63)): keys.index(2**63)}
    for n in (1, 2, 7, 8, 9, 10, 13, 100, 511, 512, 513, 1040):
        some = [asked[i] for i in rng.integers(0, len(asked), n)]
        for _ in range(2):  # read, then remembered
            got = get(store, "v@1", [(k,) for k in some])
            assert [r and r[1]["i"] for r in got] == [truth.get((type(k), k)) for k in some]
    store.close()


def test_a_changed_layout_is_seen_at_the_next_read(tmp_path):
    "Another connection adds features and views, or asks for a view by other keys: cold and remembered entities both show it"
    reader, writer = SqliteStore(tmp_path / "o.db"), SqliteStore(tmp_path / "o.db")
    wanted = Wanted(("k",), (("v@1", ("a", "b")), ("w@1", ("c",))))
    assert reader.read(wanted, [[1, 2]]) == [(None,) * 5] * 2
    put(writer, "v@1", [(1,), (2,), (3,)], [5] * 3, [{"a": 1}] * 3, by=("k",))
    assert reader.read(wanted, [[1, 3]]) == [(5, 1, None, None, None)] * 2
    put(writer, "w@1", [(1,), (2,)], [6] * 2, [{"c": 2}] * 2, by=("k",))
    assert reader.read(wanted, [[2]]) == [(5, 1, None, 6, 2)] and reader.read(wanted, [[1]]) == [(5, 1, None, 6, 2)]
    put(writer, "v@1", [(2,)], [7], [{"b": 3}], by=("k",))
    assert reader.read(wanted, [[2, 1]]) == [(7, 1, 3, 6, 2), (5, 1, None, 6, 2)]
    put(writer, "v@1", [(1,)], [8], [{"a": 9}], by=("other",))
    assert reader.read(wanted, [[3]]) == [(None,) * 5] and reader.read(wanted, [[1]]) == [(None, None, None, 6, 2)]
    assert reader.read(Wanted(("other",), (("v@1", ("a",)),)), [[1, 2]]) == [(8, 9), (None, None)]
    reader.close()
    writer.close()


def test_a_read_is_of_one_moment(tmp_path):
    "Many keys, some remembered and some not, and a write before each statement: all of one generation, never an older one"
    reader, writer, written = SqliteStore(tmp_path / "k.db"), SqliteStore(tmp_path / "k.db"), [0]
    wanted = Wanted(("k",), (("v@1", ("n",)), ("w@1", ("n",))))

    def write(_=None):
        written.append(n := len(written))
        writer.write([Batch(v, ("k",), ("n",), [list(range(1300))], [n] * 1300, [[n] * 1300]) for v in ("v@1", "w@1")])

    write()
    reader.read(wanted, [list(range(0, 1300, 40))])
    for keys in (range(0, 1300, 40), range(100), range(0, 1300, 10), range(1300), range(1300), range(7)):
        reader.db.set_trace_callback(write)
        before, rows = written[-1], reader.read(wanted, [list(keys)])
        reader.db.set_trace_callback(None)
        found = {t for r in rows for t in r}
        assert len(found) == 1 and found.pop() >= before
        assert {t for r in reader.read(wanted, [list(keys)]) for t in r} == {written[-1]}
    reader.close()
    writer.close()


def test_rows_are_in_the_file_when_their_writer_closes(tmp_path):
    "While a reader is connected too, so that SQLite itself would leave them in its log"
    reader, writer = SqliteStore(tmp_path / "o.db"), SqliteStore(tmp_path / "o.db")
    put(writer, "v@1", [(k,) for k in range(100)], [1] * 100, [{"i": 1}] * 100)
    writer.close()
    shutil.copy(tmp_path / "o.db", tmp_path / "copy.db")  # without its log
    copy = SqliteStore(tmp_path / "copy.db")
    assert copy.count("v@1") == 100 and get(reader, "v@1", [(99,)]) == get(copy, "v@1", [(99,)])
    copy.close()
    reader.close()


@pytest.mark.parametrize(
    "row", [b"", b"\x93\x01", b"\x94\x01\x02", b"\x91\x01\x02", b"\x91\x01\x91\x01", b"\xc0", b"\x01"]
)
def test_a_damaged_row_is_said_and_never_read_into_its_neighbours(tmp_path, row):
    store = SqliteStore(tmp_path / "o.db")
    put(store, "v@1", [(k,) for k in range(5)], [1] * 5, [{"i": 1}] * 5)
    store.db.execute("UPDATE e1 SET row=? WHERE key=2", (row,))
    with pytest.raises(ToolFailed, match="cannot be read.*mlops feature materialize"):
        get(store, "v@1", [(k,) for k in range(5)])
    assert get(store, "v@1", [(1,), (3,)]) == [(1, {"i": 1})] * 2
    store.close()


def test_a_reader_belongs_to_its_thread(project):
    "A server that hands a reader on is told so, and not to delete its store"
    f = view(20)
    feature.add(
        "n",
        entity=["plane"],
        time="landed",
        source="landings",
        sql="SELECT * FROM source",
        window=["count(*) over 1h as n"],
    )
    feature.materialize()
    for refs in ("aircraft:delay", "n:n"):
        reader, said = feature.Reader(project, refs), []

        def ask(reader=reader, said=said):
            with pytest.raises(ToolFailed, match="one Reader for each thread") as e:
                reader.read([{"plane": f.plane[0], "gate": f.gate[0]}])
            said.append(str(e.value))

        other = threading.Thread(target=ask)
        other.start()
        other.join()
        assert len(said) == 1 and "delete" not in said[0]
        reader.close()
