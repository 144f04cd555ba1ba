"""A ledger that version 0.1 wrote, with an entry of every type, reads in full; what cannot be read is a value, never an exception."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from mlops_nb.core import ledger, payloads, pillars
from mlops_nb.core.events import Skipped, readable, why_skipped
from mlops_nb.core.ledger_file import has_indexes
from mlops_nb.core.payloads import Payload, Unknown, Unreadable

OLD = Path(__file__).parent / "old" / "ledger_0_1.sqlite"


@pytest.fixture
def old(tmp_path) -> ledger.Ledger:
    "A copy that may be written"
    shutil.copyfile(OLD, tmp_path / "ledger.db")
    log = ledger.Ledger(tmp_path / "ledger.db", "old")
    yield log
    log.close()


LATER = {  # Types that 0.1 did not have
    "feature.forgotten",
    "service.disabled",
    "service.enabled",
    "service.ended",
    "service.gave_up",
    "service.started",
    "services.shipped",
    "subject.searched",
}


def test_every_type_is_in_it(old):
    assert {e.type for e in old.events()} == set(pillars.events()) - LATER


def test_every_entry_reads(old):
    skipped: list[Skipped] = []
    read = list(readable(old.events(), skipped))
    assert [s.why for s in skipped] == ["redacted"] and len(read) == old.size() - 1
    assert all(isinstance(e.payload, payloads.struct_of(e.type)) for e in read)


def test_its_fields_arrive(old):
    def one(name: str) -> Payload:
        return next(old.events(name)).payload

    assert one("monitor.drift_checked").rows_ref == 77029 and one("monitor.drift_checked").verdicts == []
    assert one("model.promoted").before == 1 and one("model.promoted").gates[0].ok
    assert one("job.failed").cells[0].usd is not None and one("job.failed").bracket
    assert one("job.notified").told[0].service and one("feature.skew_checked").mismatches
    assert one("run.completed").metrics
    assert one("job.scheduled").cron


def test_it_verifies_and_goes_on(old):
    before = old.size()
    assert old.verify().ok
    event = old.append("dataset.added", "flights@2", {"rows": 3})
    assert event.seq == before and old.verify().ok and event.payload.rows == 3


def test_it_needs_no_index(old, tmp_path, monkeypatch):
    from mlops_nb.core import ledger_reading

    asked = [e.seq for e in old.events("job.*")]
    monkeypatch.setattr(ledger_reading, "SHORT", 0)
    assert [e.seq for e in old.events("job.*")] == asked and has_indexes(old._own())
    old.close()
    (tmp_path / "read").mkdir()
    shutil.copyfile(OLD, tmp_path / "read" / "ledger.db")
    (tmp_path / "read" / "ledger.db").chmod(0o400)
    read_only = sqlite3.connect(f"file:{tmp_path}/read/ledger.db?mode=ro", uri=True, isolation_level=None)
    from mlops_nb.core.ledger_file import make_indexes

    assert make_indexes(read_only) is False and not has_indexes(read_only)
    read_only.close()


BROKEN = {
    "no JSON": ("UPDATE entry SET header='no JSON' WHERE seq=5", "the header"),
    "a header without a time": (
        """UPDATE entry SET header='{"v":1,"type":"run.completed"}' WHERE seq=5""",
        "the header",
    ),
    "bytes": ("UPDATE entry SET header=CAST(x'ff00' AS BLOB) WHERE seq=5", "the header"),
    "a payload of another shape": ("""UPDATE entry SET payload=CAST('[1]' AS BLOB) WHERE seq=5""", "Expected `object`"),
    "a payload that is no JSON": ("UPDATE entry SET payload=x'ff' WHERE seq=5", ""),
}


NO_JSON = [BROKEN[name][0] for name in ("no JSON", "bytes")]  # The file itself sees that these have no type


@pytest.mark.parametrize("sql, why", BROKEN.values(), ids=BROKEN)
def test_one_broken_entry_takes_down_nothing(old, sql, why):
    types = {e.seq: e.type for e in old.events()}
    old._ask(sql)
    found = list(old.events())
    assert [e.seq for e in found] == list(range(old.size()))
    assert isinstance(found[5].payload, Unreadable) and why in found[5].payload.why and why_skipped(found[5])
    for name in set(types.values()):
        wanted = [seq for seq, type in types.items() if type == name and seq != 5]
        assert [e.seq for e in old.events(name) if not isinstance(e.payload, Unreadable)] == wanted
    assert old.broken() == ([5] if sql in NO_JSON else [])
    assert not old.verify().ok


def test_an_undeclared_type_is_a_value(old):
    old._ask("""UPDATE entry SET header=replace(header, 'site.built', 'acme.built') WHERE header LIKE '%site.built%'""")
    (event,) = old.events("acme.built")
    assert isinstance(event.payload, Unknown) and event.payload.raw.startswith(b"{")
    assert "declares" in why_skipped(event)


def test_an_index_that_hides_an_entry_fools_no_evidence(old, monkeypatch):
    "The index was made again over a condition that leaves out one entry, and its text was put back"
    from mlops_nb.core import ledger_reading

    monkeypatch.setattr(ledger_reading, "SHORT", 0)
    (promoted,) = old.events("model.promoted")
    old.close()
    db = sqlite3.connect(old.path, isolation_level=None)
    db.execute("PRAGMA writable_schema=1")
    (text,) = db.execute("SELECT sql FROM sqlite_master WHERE name='entry_by_type'").fetchone()
    hides = f"{text} WHERE seq<>{promoted.seq}"
    db.execute("UPDATE sqlite_master SET sql=? WHERE name='entry_by_type'", (hides,))
    db.close()
    db = sqlite3.connect(old.path, isolation_level=None)
    db.execute("REINDEX entry_by_type")
    db.execute("PRAGMA writable_schema=1")
    db.execute("UPDATE sqlite_master SET sql=? WHERE name='entry_by_type'", (text,))
    db.close()
    assert list(old.events("model.promoted")) == [], "the index hides it"
    assert [e.seq for e in old.events("model.promoted", evidence=True)] == [promoted.seq]
    found = old.verify()
    assert not found.ok and "index" in found.problems[0].detail and found.exit_code == 1
