"""Two processes at once: each test stops one of them at the worst moment and lets another one do its work there."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from helpers.counts import count

from mlops_nb import data, feature
from mlops_nb.core import ledger, segments
from mlops_nb.core.errors import BadInput, BadUsage
from mlops_nb.data import reading
from mlops_nb.data import verbs as data_verbs
from mlops_nb.feature import compute, definition, incremental_read, push_verbs, stream_ingest, stream_store

START = datetime(2026, 3, 1, tzinfo=UTC)
HEAD = """
import os, signal, sys
import pandas as pd
from mlops_nb import data, feature
from mlops_nb.core import ledger, project as projects
from mlops_nb.feature import definition
p = projects.find(sys.argv[1])
at = pd.Timestamp('2026-03-01', tz='UTC')
hours = lambda *x: [at+pd.Timedelta(hours=h) for h in x]
with projects.use(p):
"""


def begun(project, code: str) -> subprocess.Popen:
    "Another process of the same project"
    lines = "".join(f"    {line}\n" for line in code.strip().splitlines())
    return subprocess.Popen([sys.executable, "-c", HEAD + lines, str(project.root)], stdout=subprocess.PIPE, text=True)


def meanwhile(project, code: str):
    "Another process, from its beginning to its end"
    child = begun(project, code)
    child.stdout.read()
    assert child.wait() == 0
    child.stdout.close()


def once(monkeypatch, where, name: str, act, after: bool = True):
    "At the first call of a function, and after or before it, something else happens"
    real, seen = getattr(where, name), []

    def called(*args, **kwargs):
        first = not seen
        seen.append(1)
        if first and not after:
            act()
        got = real(*args, **kwargs)
        if first and after:
            act()
        return got

    monkeypatch.setattr(where, name, called)


def events(*hours: float, x=1.0, known: float | None = None) -> pd.DataFrame:
    at = [pd.Timestamp(START) + pd.Timedelta(hours=h) for h in hours]
    return pd.DataFrame(
        {"k": 1, "t": at, "known": at if known is None else pd.Timestamp(START) + pd.Timedelta(hours=known), "x": x}
    )


def windowed(frame, name="w", window=("count(*) over 9h as n", "sum(x) over 9h as s"), **more):
    data.add(frame, f"{name}_events")
    feature.add(
        name,
        entity=["k"],
        time="t",
        created="known",
        source=f"{name}_events",
        sql="SELECT * FROM source",
        window=[*window],
        **more,
    )


def asked(project, refs: str, hour: float) -> tuple[dict, dict]:
    "What the online store and what history say"
    at = pd.Timestamp(START) + pd.Timedelta(hours=hour)
    reader = feature.Reader(project, refs)
    (values,), _ = reader.read([{"k": 1}], int(at.value // 1000))
    reader.close()
    return values, feature.join(refs, entities=pd.DataFrame({"k": [1], "t": [at]}), time="t").frame[list(values)].iloc[
        0
    ].to_dict()


def test_two_readers_of_one_stream_count_once(project, monkeypatch):
    windowed(events(0))
    rows = events(*range(1, 7))
    rows.to_json("e.jsonl", orient="records", lines=True, date_format="iso")
    read = "feature.stream('w', from_='e.jsonl', once=True, batch=2)"
    once(monkeypatch, stream_ingest, "events_of", lambda: meanwhile(project, read))
    with pytest.raises(BadUsage, match="another process reads e.jsonl into w@1 too"):
        feature.stream("w", from_="e.jsonl", once=True, batch=2)
    said = feature.stream("w", from_="e.jsonl", once=True, batch=2)
    assert (said.seen, said.events) == (0, 6)


@pytest.mark.parametrize(
    "code", ["feature.stream('w', from_=e, once=True)", "feature.push('w', e)"], ids=["stream", "push"]
)
def test_filling_leaves_what_begins_meanwhile(project, monkeypatch, code):
    windowed(events(0))
    new = "e = pd.DataFrame({'k': 1, 't': hours(3), 'known': hours(3), 'x': 5.})\n"
    once(monkeypatch, incremental_read, "read", lambda: meanwhile(project, new + code))
    assert [v["how"] for v in feature.materialize("w").views] == ["streamed"]
    assert asked(project, "w", 4)[0] == {"n": 1, "s": 5.0}


def test_two_fillings_leave_the_newer_one(project, monkeypatch):
    windowed(events(0))
    feature.materialize("w")
    data.add(events(0, 1), "w_events")
    newer = "f = pd.DataFrame({'k': 1, 't': hours(0, 1, 2), 'known': hours(0, 1, 2), 'x': 1.})\n"
    newer += "data.add(f, 'w_events'); feature.materialize('w')"
    once(monkeypatch, incremental_read, "read", lambda: meanwhile(project, newer))
    feature.materialize("w")
    assert feature.materialize("w").views[0]["how"] == "unchanged"
    online, history = asked(project, "w", 3)
    assert online == history == {"n": 3, "s": 3.0}


def test_what_was_not_filled_in_has_no_answer(project):
    "Events that no window of the newest one reaches are not kept: half a window would be a lie"
    windowed(events(0, 2, 30, 40))
    feature.materialize("w")
    assert asked(project, "w", 41)[0] == asked(project, "w", 41)[1] == {"n": 1, "s": 1.0}
    assert asked(project, "w", 3) == ({"n": None, "s": None}, {"n": 2, "s": 2.0})
    data.add(events(0, 2, 30, 40, 60), "w_events")
    feature.materialize("w")
    assert asked(project, "w", 45)[0] == {"n": None, "s": None}
    assert asked(project, "w", 61)[0] == asked(project, "w", 61)[1] == {"n": 1, "s": 1.0}


def test_an_answer_is_of_one_moment(project, monkeypatch):
    "What a stream drops between two questions of a reader is still there for it"
    windowed(events(0))
    feature.stream("w", from_=events(0, 1, 2), once=True, lateness="1h")
    d = definition.find(project, "w")
    store, other = stream_store.of(project), stream_store.of(project)
    later = int((START + timedelta(hours=60)).timestamp() * 1e6)

    def drop():
        row = ("[1]", later, later, "", 3, b"\x91\xcb" + bytes(8))
        other.add("w@1", [row], "s", "1", lateness_us=0, reach=stream_store.reach_us(d))

    once(monkeypatch, store, "forgotten", drop)
    t = int((START + timedelta(hours=3)).timestamp() * 1e6)
    assert store.answer(d, "[1]", t)[0] == {"n": 3, "s": 3.0}
    assert store.answer(d, "[1]", t)[0] == {"n": None, "s": None}
    store.close()
    other.close()


@pytest.mark.parametrize("where", ["sqlite", "redis"])
@pytest.mark.parametrize("how", ["materialize", "push"])
def test_a_reading_that_was_overtaken_overwrites_nothing(project, request, monkeypatch, where, how):
    "A correction of the same event time, written by another process while the first one still holds the old row"
    if where == "redis":
        project.pin("stores", "online", request.getfixturevalue("redis_server").url)
    data.add(events(0, x=1.0), "e")
    feature.add("v", entity=["k"], time="t", created="known", source="e", sql="SELECT k, t, known, x FROM source")
    newer = "f = pd.DataFrame({'k': 1, 't': hours(0, 0), 'known': hours(0, 5), 'x': [1., 2.]})\n"
    newer += (
        "data.add(f, 'e'); feature.materialize('v')"
        if how == "materialize"
        else "feature.push('v', f[1:], offline=True)"
    )
    once(monkeypatch, incremental_read, "read", lambda: meanwhile(project, newer))
    feature.materialize("v")
    online, history = asked(project, "v", 6)
    assert online == history == {"x": 2.0}


def test_two_pushes_into_one_dataset_keep_both(project, monkeypatch):
    data.add(events(0), "e")
    feature.add("v", entity=["k"], time="t", source="e", sql="SELECT k, t, x FROM source")
    new = "e = pd.DataFrame({'k': 1, 't': hours(2), 'known': hours(2), 'x': 5.})\nprint('ready', flush=True)\n"
    children = []

    def second():
        children.append(begun(project, new + "feature.push('v', e, offline=True)"))
        assert children[-1].stdout.readline() == "ready\n"

    once(monkeypatch, push_verbs.data, "read", second)  # the rows to push are read first
    once(monkeypatch, data_verbs, "_prepare", second)  # and now the dataset is held
    feature.push("v", events(1), offline=True)
    for c in children:
        assert c.wait() == 0
        c.stdout.close()
    assert sorted(data.read("e", project)["t"].to_pylist()) == sorted(events(0, 1, *[2] * len(children)).t)


def added(window: str = "8h", **more):
    feature.add(
        "v",
        entity=["k"],
        time="t",
        source="e",
        sql=f"SELECT k, t, x * {len(window)} AS x FROM source",
        ttl=window,
        **more,
    )


@pytest.mark.parametrize("point", range(1, 9))
def test_a_kill_in_the_middle_of_an_add(project, point):
    "Files, record, the end of the change: the old version or the new one, whole and recorded"
    data.add(events(0), "e")
    added()
    old = definition.digest(definition.find(project, "v"))
    code = f"""
left = [{point}]
def counted(real):
    def call(*a, **k):
        left[0] -= 1
        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
        return real(*a, **k)
    return call
definition.write_text = counted(definition.write_text)
ledger.record = counted(ledger.record)
feature.add('v', entity=['k'], time='t', source='e', sql='SELECT k, t, x AS y FROM source', ttl='100h')
left[0] = 1
"""
    child = begun(project, code)
    child.stdout.read()
    assert child.wait() == (-signal.SIGKILL if point < 7 else 0)
    child.stdout.close()
    seen = definition.find(project, "v")
    assert (definition.digest(seen) == old) == (point < 7)
    fact = feature.add("v", entity=["k"], time="t", source="e", sql="SELECT k, t, x AS y FROM source", ttl="100h")
    assert [d.version for d in definition.versions(project, "v")] == [1, 2] and fact.version == 2
    assert definition.digest(definition.find(project, "v@1")) == old
    assert [e.subject for e in ledger.of(project).events(["feature.added"])] == ["v@1", "v@2"]


def test_a_reader_beside_an_add_sees_whole_definitions(project, monkeypatch):
    data.add(events(0), "e")
    added()
    old, real, seen = definition.digest(definition.find(project, "v")), definition.write_text, []

    def written(*args):
        real(*args)
        seen.append(
            definition.digest(definition.find(project, "v")) == old and len(definition.versions(project, "v")) == 1
        )

    with monkeypatch.context() as m:
        m.setattr(definition, "write_text", written)
        added("100h")
    assert len(seen) >= 5 and all(seen)
    assert (
        definition.digest(definition.find(project, "v")) != old
        and definition.digest(definition.find(project, "v@1")) == old
    )


def test_a_change_that_was_recorded_stays(project, monkeypatch):
    "Killed behind the record and before the last step: what is recorded is not put back"
    data.add(events(0), "e")
    added()
    text = {}
    once(monkeypatch, definition, "save", lambda: text.update(undo=definition._undo(project).read_bytes()))
    added("100h")
    new = definition.digest(definition.find(project, "v"))
    definition._undo(project).write_bytes(text["undo"])
    feature.add("w", entity=["k"], time="t", source="e", sql="SELECT k, t, x AS z FROM source")
    assert definition.digest(definition.find(project, "v")) == new and definition.find(project, "v").version == 2


def test_two_adds_make_two_versions(project, monkeypatch):
    data.add(events(0), "e")
    added()
    children = []

    def second():
        code = "feature.add('v', entity=['k'], time='t', source='e', sql='SELECT k, t, x AS y FROM source')"
        children.append(begun(project, f"print('ready', flush=True)\n{code}"))
        assert children[0].stdout.readline() == "ready\n"

    once(monkeypatch, definition, "save", second, after=False)
    added("100h")
    assert children[0].wait() == 0
    children[0].stdout.close()
    assert sorted(d.version for d in definition.versions(project, "v")) == [1, 2, 3]
    assert sorted(e.subject for e in ledger.of(project).events(["feature.added"])) == ["v@1", "v@2", "v@3"]


def test_a_file_that_changes_while_it_is_read_is_not_kept_under_its_old_digest(project, monkeypatch):
    events(0, x=1.0).to_parquet("e.parquet")
    before = (project.root / "e.parquet").read_bytes()

    def change():
        events(0, x=2.0).to_parquet("e.parquet")

    with monkeypatch.context() as m:
        once(m, compute, "_sql", change, after=False)
        feature.add("v", entity=["k"], time="t", created="none", source="e.parquet", sql="SELECT k, t, x FROM source")
    (project.root / "e.parquet").write_bytes(before)
    assert compute.rows(project, definition.find(project, "v"))["x"].to_pylist() == [1.0]


@pytest.mark.parametrize("when", ["read", "resolve"])
def test_a_file_that_changes_while_it_is_added_is_refused(project, monkeypatch, when):
    events(0).to_parquet("e.parquet")

    def change():
        events(0, 1).to_parquet("e.parquet")

    once(monkeypatch, reading if when == "read" else data_verbs, "read" if when == "read" else "_columns", change)
    with pytest.raises(BadInput, match="changed while it was read"):
        data.add("e.parquet", "e")
    assert data.list().datasets == []
    assert data.add("e.parquet", "e").rows == 2


def test_checking_beside_a_writer_that_seals_finds_nothing(project, monkeypatch):
    found, real = [], segments.ledger.record
    rows = [{"time": START, "id": f"r{k}"} for k in range(4)]

    def recorded(*args, **kwargs):
        found.append(segments.verify(project, "predictions", "m"))
        return real(*args, **kwargs)

    monkeypatch.setattr(segments.ledger, "record", recorded)
    with segments.Writer(project, "predictions", "m") as w:
        assert all(w.append(r) for r in rows)
    assert found == [[]] and w.sealed == 4


def test_readers_beside_writers_see_whole_rows(project):
    "A real reader beside two processes that materialize: every row is of one generation"
    rounds = count(6, 60)
    frame = pd.DataFrame({"k": range(300), "t": pd.Timestamp(START), "a": 0, "b": 0})
    data.add(frame, "e")
    for name, c in (("va", "a"), ("vb", "b")):
        feature.add(name, entity=["k"], time="t", created="none", source="e", sql=f"SELECT k, t, {c} FROM source")
    feature.materialize()
    code = f"""
for n in range({rounds}):
    data.add(pd.DataFrame({{'k': range(300), 't': at+pd.Timedelta(seconds=n+1), 'a': n+1, 'b': n+1}}), 'e')
    feature.materialize()
"""
    child = begun(project, code)
    reader, seen = feature.Reader(project, "va,vb"), set()
    ended = False
    while not ended:
        ended = child.poll() is not None  # and once more
        values, _ = reader.read([{"k": k} for k in range(300)])
        seen |= {(v["a"], v["b"]) for v in values}
    reader.close()
    child.stdout.close()
    assert child.returncode == 0 and seen and all(a == b for a, b in seen)
    assert os.path.exists(project.state / "online.db")
