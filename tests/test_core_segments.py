"""Sealed segments: whole or not at all, found through the ledger, and nothing acknowledged is lost."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from counts import count

from mlops_nb.core import ledger, segments
from mlops_nb.core.errors import BadInput, ToolFailed

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


def rows(n: int, start: int = 0) -> list[dict]:
    return [{"time": NOON + timedelta(seconds=start + k), "id": f"r{start + k}", "x": k / 2} for k in range(n)]


def test_a_segment_is_one_event_and_one_file(project):
    s = segments.seal(project, "predictions", "delay", rows(10)[::-1])
    e = ledger.of(project).event(s.seq)
    assert (e.type, e.subject, e.digest) == ("segment.sealed", "predictions/delay", s.digest)
    assert e.payload["rows"] == 10 and e.payload["first"] == "2013-07-01T12:00:00.000000+00:00"
    assert pq.read_table(project.root / s.path).num_rows == 10
    assert segments.verify(project, "predictions", "delay") == []


def test_time_ranges_are_half_open_and_skip_files(project):
    for start in (0, 100, 200):
        segments.seal(project, "predictions", "delay", rows(50, start))
    some = segments.sealed(project, "predictions", "delay", NOON + timedelta(seconds=120), NOON + timedelta(seconds=200))
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


CHILD = """
import sys
from datetime import UTC, datetime, timedelta
from mlops_nb.core import project, segments
p = project.find(sys.argv[1])
for k in range(1000):
    s = segments.seal(p, 'predictions', 'delay', [{'time': datetime(2013, 7, 1, tzinfo=UTC)+timedelta(seconds=k*10+j), 'id': f'{k}-{j}'} for j in range(10)])
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
