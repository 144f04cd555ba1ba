"""What `status` says of a ledger since it was verified: the new is read, the old again slice by slice, and no word claims more."""

import json
import os
import stat
from pathlib import Path

import pytest

from mlops_nb.core import ledger, remembered
from mlops_nb.core.events import VerbFailed

SLICE = 1 << remembered.SLICE
OLD = 3 * SLICE + 5  # Entries of the verified log: three whole slices


@pytest.fixture
def log(project) -> ledger.Ledger:
    "A log that was verified in full"
    log = ledger.of(project)
    grow(log, OLD)
    remembered.remember(log, log.verify())
    return log


def grow(log: ledger.Ledger, count: int) -> None:
    log.append_many([ledger.new(VerbFailed(message="no file"), "data.add")] * count)


def test_the_words_name_what_was_read(log):
    grow(log, 7)
    found = remembered.look(log)
    assert found.ok and found.read == [(0, SLICE - 1), (OLD, OLD + 6)]
    assert f"{OLD:,} to {OLD + 6:,} read now" in found.words() and "the rest verified on 20" in found.words()
    assert "only its stored root compared" in found.words()
    assert remembered.look(log).read[0] == (SLICE, 2 * SLICE - 1), "the next slice in turn"


def test_no_more_entries_are_read_than_it_says(log, monkeypatch):
    grow(log, 3)
    asked = []
    real = ledger.Ledger.hashed
    monkeypatch.setattr(ledger.Ledger, "hashed", lambda self, a, b: asked.append(b - a) or real(self, a, b))
    assert remembered.look(log).ok and sum(asked) == SLICE + 3


def test_never_verified_is_no_verdict(project):
    log = ledger.of(project)
    grow(log, SLICE + 2)
    found = remembered.look(log)
    assert found.ok is None and "not verified on this machine yet" in found.words()


@pytest.mark.parametrize(
    "sql, word",
    [
        (f"DELETE FROM entry WHERE seq>={OLD - 2}", "truncated"),
        ("UPDATE node SET hash=zeroblob(32) WHERE level=(SELECT max(level) FROM node)", "tampered"),
        ("UPDATE entry SET payload=CAST('{}' AS BLOB) WHERE seq=5", "tampered"),
        ("UPDATE entry SET header=replace(header, 'data.add', 'data.get') WHERE seq=5", "tampered"),
        (f"UPDATE entry SET payload=CAST('{{}}' AS BLOB) WHERE seq={OLD + 1}", "tampered"),
    ],
    ids=["cut", "a stored hash", "a payload in the slice", "a header in the slice", "an entry since"],
)
def test_what_it_sees_at_once(log, sql, word):
    grow(log, 4)
    log._ask(sql)
    found = remembered.look(log)
    assert found.ok is False and found.words().startswith(word)


def test_what_it_sees_in_its_turn(log):
    "A change outside the slice stays unseen until its slice is read again; the words said so"
    log._ask(f"UPDATE entry SET payload=CAST('{{}}' AS BLOB) WHERE seq={2 * SLICE + 1}")
    looks = [remembered.look(log).ok for _ in range(3)]
    assert looks == [True, True, False] and not log.verify().ok


def test_a_redaction_is_no_change(log):
    log.redact(3, "a name in it")
    assert remembered.look(log).ok


def test_the_memory_lies_outside_the_project(project, log):
    file = remembered.memory_file(log)
    assert not file.is_relative_to(project.root) and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["size"] == OLD
    file.write_text("{}")
    assert remembered.look(log).ok is None, "a memory that does not read is none"


def test_a_finding_is_remembered_by_nobody(log):
    log._ask("UPDATE entry SET payload=CAST('{}' AS BLOB) WHERE seq=5")
    remembered.remember(log, log.verify())
    assert not remembered.memory_file(log).exists() and remembered.look(log).ok is None


def test_audit_verify_is_what_status_goes_on_from(project, cli):
    log = ledger.of(project)
    grow(log, OLD)
    assert "not verified on this machine yet" in cli("status", "--json").json["ledger"]["verified"]
    assert cli("audit", "verify").exit == 0
    assert "the rest verified on" in cli("status", "--json").json["ledger"]["verified"]
    assert Path(os.environ["XDG_STATE_HOME"]) in remembered.memory_file(log).parents
