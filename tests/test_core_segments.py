"""Sealed segments: whole or not at all, found through the ledger, and nothing acknowledged is lost."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from helpers.counts import count

from mlops_nb.core import journal, ledger, segments
from mlops_nb.core.errors import BadInput, BadUsage, ToolFailed

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


def rows(n: int, start: int = 0) -> list[dict]:
    return [{"time": NOON + timedelta(seconds=start + k), "id": f"r{start + k}", "x": k / 2} for k in range(n)]


def test_a_segment_is_one_event_and_one_file(project):
    s = segments.seal(project, "predictions", "delay", rows(10)[::-1])
    e = ledger.of(project).event(s.seq)
    assert (e.type, e.subject, e.digest) == ("segment.sealed", "predictions/delay", s.digest)
    assert e.payload.rows == 10 and e.payload.first == "2013-07-01T12:00:00.000000+00:00"
    assert pq.read_table(project.root / s.path).num_rows == 10
    assert segments.verify(project, "predictions", "delay") == []


def test_time_ranges_are_half_open_and_skip_files(project):
    for start in (0, 100, 200):
        segments.seal(project, "predictions", "delay", rows(50, start))
    some = segments.sealed(
        project, "predictions", "delay", NOON + timedelta(seconds=120), NOON + timedelta(seconds=200)
    )
    assert [s.rows for s in some] == [50]
    got = segments.read(project, "predictions", "delay", NOON + timedelta(seconds=120), NOON + timedelta(seconds=201))
    assert [t.num_rows for t in got] == [30, 1]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda f: f.unlink(), "missing"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x"), "changed"),
        (lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]), "changed"),
        (lambda f: f.with_name("y.tmp").write_bytes(b"PAR1"), "torn"),
        (lambda f: f.with_name("y.parquet").write_bytes(f.read_bytes()), "unsealed"),
    ],
)
def test_what_is_not_as_sealed_is_named(project, spoil, kind):
    s = segments.seal(project, "predictions", "delay", rows(10))
    spoil(project.root / s.path)
    assert [x["kind"] for x in segments.verify(project, "predictions", "delay")] == [kind]
    if kind in ("missing", "changed"):
        with pytest.raises(ToolFailed):
            list(segments.read(project, "predictions", "delay"))
    else:
        assert sum(t.num_rows for t in segments.read(project, "predictions", "delay")) == 10


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 200])
def test_names_stay_in_their_folder(project, name):
    with pytest.raises(BadInput):
        segments.seal(project, "predictions", name, rows(1))


def test_rows_with_other_columns_fit_together(project):
    mixed = [{"time": NOON, "a": 1}, {"time": NOON, "b": "x"}, {"time": NOON.replace(tzinfo=None), "a": None}]
    s = segments.seal(project, "predictions", "delay", mixed)
    assert pq.read_table(project.root / s.path).to_pylist() == [
        {"time": NOON, "a": 1, "b": None},
        {"time": NOON, "a": None, "b": "x"},
        {"time": NOON, "a": None, "b": None},
    ]


def test_a_full_queue_refuses_and_counts(project, monkeypatch):
    held, go = threading.Event(), threading.Event()
    real = segments.seal

    def slow(*args):
        held.set()
        go.wait()
        return real(*args)

    monkeypatch.setattr(segments, "seal", slow)
    with segments.Writer(project, "predictions", "delay", rows=1, waiting=3) as w:
        assert w.append(rows(1)[0])
        held.wait()
        taken = [w.append(r) for r in rows(5, 10)]
        assert taken == [True, True, True, False, False] and w.refused == 2
        go.set()
    assert (w.sealed, w.refused) == (4, 2)
    assert sum(t.num_rows for t in segments.read(project, "predictions", "delay")) == 4


def test_a_failed_seal_is_counted_and_raised_at_the_end(project, monkeypatch):
    def full(*_):
        raise ToolFailed("no space")

    monkeypatch.setattr(segments, "seal", full)
    w = segments.Writer(project, "predictions", "delay", rows=2)
    for r in rows(4):
        w.append(r)
    with pytest.raises(ToolFailed, match="no space"):
        w.close()
    assert (w.sealed, w.refused) == (0, 4)
    monkeypatch.undo()
    assert [x["kind"] for x in segments.verify(project, "predictions", "delay")] == ["waiting", "waiting"]
    with segments.Writer(project, "predictions", "delay") as again:
        again.flush()
    assert again.sealed == 4 and segments.verify(project, "predictions", "delay") == []


CHILD = """
import sys
from datetime import UTC, datetime, timedelta
from mlops_nb.core import project, segments
p = project.find(sys.argv[1])
for k in range(1000):
    times = [datetime(2013, 7, 1, tzinfo=UTC)+timedelta(seconds=k*10+j) for j in range(10)]
    s = segments.seal(p, 'predictions', 'delay', [{'time': t, 'id': f'{k}-{j}'} for j, t in enumerate(times)])
    print(s.path, flush=True)
"""


@pytest.mark.parametrize("after", [1 + 3 * k for k in range(count(3, 20))])
def test_a_kill_loses_nothing_that_was_sealed(project, after):
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(project.root)], stdout=subprocess.PIPE, text=True)
    acknowledged = [child.stdout.readline().strip() for _ in range(after)]
    child.kill()
    acknowledged += [x for x in child.stdout.read().split("\n")[:-1] if x]
    child.wait()
    child.stdout.close()
    known = {s.path for s in segments.sealed(project, "predictions", "delay")}
    assert set(acknowledged) <= known
    found = segments.verify(project, "predictions", "delay")
    assert {x["kind"] for x in found} <= {"torn", "unsealed"} and len(found) <= 1
    assert sum(t.num_rows for t in segments.read(project, "predictions", "delay")) == 10 * len(known)
    assert ledger.of(project).verify().ok


def test_a_full_disk_at_the_first_row_stops_no_writer(project, monkeypatch):
    "The journal is there and took nothing; the writer goes on with what comes next, and `flush` returns"
    from mlops_nb.core import journal

    real, failing = journal.Journal.append, [True]

    def append(self, data):
        if failing:
            failing.clear()
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(journal.Journal, "append", append)
    with segments.Writer(project, "predictions", "delay", rows=1) as writer:
        assert not writer.append(rows(1)[0]) and "No space" in str(writer.error)
        writer.flush()
        assert writer.append(rows(1)[0])
        writer.flush()
        assert (writer.sealed, writer.refused) == (1, 1)
        writer.error = None


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from mlops_nb.core import project, segments
w = segments.Writer(project.find(sys.argv[1]), 'predictions', 'delay', rows=int(sys.argv[2]))
w.append({'time': datetime(2013, 7, 1, tzinfo=UTC), 'id': 'first', 'x': float('nan'), 'kind': None}); w.flush()
for k in range(100_000):
    if not w.append({'time': datetime(2013, 7, 1, tzinfo=UTC)+timedelta(seconds=k), 'id': f'{k}', 'x': k/2, 'kind': 'a'}): break
    sys.stdout.write(f'{k}\\n'); sys.stdout.flush()
"""


def ids(project) -> list[str]:
    return [x for t in segments.read(project, "predictions", "delay") for x in t["id"].to_pylist()]


@pytest.mark.parametrize("after", [1 + 40 * k for k in range(count(3, 20))])
@pytest.mark.parametrize("size", [7, 10_000])
def test_a_killed_writer_loses_no_row_that_it_took(project, after, size):
    "kill -9 at any moment: every row whose append returned True is sealed by the next writer, exactly once"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(project.root), str(size)], stdout=subprocess.PIPE, text=True
    )
    taken = [child.stdout.readline().strip() for _ in range(after)]
    child.kill()
    taken += [x for x in child.stdout.read().split("\n")[:-1] if x]
    child.wait()
    child.stdout.close()
    segments.recover(project, "predictions", "delay")
    got = ids(project)
    assert len(got) == len(set(got)) and {"first", *taken} <= set(got)
    assert len(got) <= len(taken) + 2, "at most the row that was written and not yet told of"
    assert [x for x in segments.verify(project, "predictions", "delay") if x["kind"] != "torn"] == []
    assert segments.recover(project, "predictions", "delay") == [] and ledger.of(project).verify().ok


def test_a_kill_between_seal_and_removal_counts_once(project, monkeypatch):
    monkeypatch.setattr(journal.Journal, "remove", journal.Journal.release)
    with segments.Writer(project, "predictions", "delay", rows=5) as w:
        assert all(w.append(r) for r in rows(12))
    monkeypatch.undo()
    assert [x["kind"] for x in segments.verify(project, "predictions", "delay")] == ["waiting"] * 3
    assert segments.recover(project, "predictions", "delay") == [] and len(ids(project)) == 12
    assert segments.verify(project, "predictions", "delay") == []


def test_a_torn_tail_costs_the_torn_row_alone(project):
    at = segments.folder(project, "predictions", "delay")
    j = journal.Journal.create(at)
    for r in rows(3):
        j.append(journal.pack(r))
    with open(j.path, "ab") as f:
        f.write(b"\x40\x00\x00\x00half a frame")
    j.release()
    assert [s.rows for s in segments.recover(project, "predictions", "delay")] == [3]
    assert ids(project) == ["r0", "r1", "r2"] and list(at.glob("*.journal")) == []


def test_writers_side_by_side_keep_their_rows(project):
    "A second writer, or `recover`, takes nothing from one that lives"
    with segments.Writer(project, "predictions", "delay") as one:
        assert all(one.append(r) for r in rows(5))
        with segments.Writer(project, "predictions", "delay") as two:
            assert all(two.append(r) for r in rows(5, 5))
            assert segments.recover(project, "predictions", "delay") == []
            assert segments.verify(project, "predictions", "delay") == []
    assert sorted(ids(project)) == sorted(f"r{k}" for k in range(10)) and (one.sealed, two.sealed) == (5, 5)


def test_what_is_no_row_is_refused_alone(project):
    w = segments.Writer(project, "predictions", "delay")
    assert [w.append(r) for r in ({"id": "no time"}, {"time": NOON, "x": object()}, *rows(2))] == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(BadInput, match="cannot be kept"):
        w.close()
    assert (w.sealed, w.refused) == (2, 2) and ids(project) == ["r0", "r1"]
    assert w.append(rows(1)[0]) is False, "closed"


def test_rows_that_fit_into_no_table_are_kept_aside(project):
    w = segments.Writer(project, "predictions", "delay")
    assert w.append({"time": NOON, "x": 1}) and w.append({"time": NOON, "x": "one"})
    with pytest.raises(BadInput, match="one table"):
        w.close()
    (found,) = segments.verify(project, "predictions", "delay")
    assert found["kind"] == "rejected" and (w.sealed, w.refused) == (0, 2)
    assert [r["x"] for r in journal.frames((project.root / found["path"]).read_bytes())] == [1, "one"]


def test_a_fork_does_not_write_into_its_parents_journal(project, monkeypatch):
    w = segments.Writer(project, "predictions", "delay")
    assert w.append(rows(1)[0])
    with monkeypatch.context() as m:
        m.setattr(segments.os, "getpid", lambda: -1)
        assert w.append(rows(1, 1)[0]) is False
    with pytest.raises(BadUsage, match="in each process"):
        w.close()
    assert ids(project) == ["r0"]


def test_rows_reach_the_disk_within_the_stated_time(project, monkeypatch):
    "Bounded loss at a power cut: a row is flushed after `sync_s`, long before its segment is sealed"
    synced = threading.Event()
    real = journal.Journal.sync
    monkeypatch.setattr(journal.Journal, "sync", lambda j: (real(j), synced.set()))
    with segments.Writer(project, "predictions", "delay", wait_s=3600, sync_s=0.01) as w:
        assert w.append(rows(1)[0])
        assert synced.wait(60) and w.sealed == 0 and w._unsealed[0]._synced == 1


def test_a_file_system_without_locks(project, monkeypatch):
    "Rows are taken and recovered; two writers at a time are the user's to avoid"
    import errno
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    at = segments.folder(project, "predictions", "delay")
    j = journal.Journal.create(at)
    j.append(journal.pack(rows(1)[0]))
    j.release()
    with segments.Writer(project, "predictions", "delay") as w:
        assert w.append(rows(1, 1)[0])
    assert sorted(ids(project)) == ["r0", "r1"]
