"""Attacks on the record: what is seen from inside the project, what with one checkpoint kept elsewhere, and what never.

`ATTACKS` is the table of what may be promised. A row whose attack is seen where the table says it cannot be is wrong too."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.counts import count
from helpers.ledgers import Key, Made, copy, make

from mlops_nb import guard
from mlops_nb.core import ledger, signed_note, verification
from mlops_nb.core.errors import MlopsError

N, SIGNED, OUTSIDE = 24, (9, 17), 17  # entries; local checkpoints; the one that was copied elsewhere


class Attack(NamedTuple):
    "What an intruder does, and whether it shows"

    do: Callable[[Made, random.Random], object]
    inside: set[str]  # kinds of problems from the project alone; empty: nothing shows
    outside: set[str]  # with one checkpoint kept elsewhere


def field(made: Made, seq: int, old: str, new: str):
    made.sql(("UPDATE entry SET header=replace(header, ?, ?) WHERE seq=?", (old, new, seq)))


def edit(m, r):
    n = r.randrange(OUTSIDE)
    field(m, n, f"delay-{n}", "delay-x")


def edit_payload(m, r):
    m.sql(("UPDATE entry SET payload=? WHERE seq=?", (b'{"auc":0.99,"n":3}', r.randrange(OUTSIDE))))


def edit_and_rehash(m, r):
    r.choice([edit, edit_payload])(m, r)
    m.rehash()


def delete(m, r):
    m.sql(("DELETE FROM entry WHERE seq=?", (r.randrange(OUTSIDE - 1),)))


def delete_and_rechain(m, r):
    delete(m, r)
    m.renumber()
    m.rehash()


def swap(m, r):
    a, b = r.sample(range(OUTSIDE), 2)
    rows = {row[0]: row[1:] for row in m.rows()}
    for to, new in ((a, rows[b]), (b, rows[a])):
        m.sql(("UPDATE entry SET header=?, commitment=?, salt=?, payload=? WHERE seq=?", (*new, to)))
    if r.random() < 0.5:
        m.renumber()
        m.rehash()


def insert(m, r):
    rows, at = m.rows(), r.randrange(OUTSIDE)
    forged = (rows[at][0], rows[at][1].replace("delay", "forged"), *rows[at][2:])
    moved = [*rows[:at], forged, *rows[at:]]
    m.sql(
        "DELETE FROM entry", *[("INSERT INTO entry VALUES (?,?,?,?,?)", (n, *row[1:])) for n, row in enumerate(moved)]
    )
    m.renumber()
    m.rehash()


def new_key(m, r):
    edit_and_rehash(m, r)
    m.resign(Key(99))


def cut(m: Made, size: int):
    m.sql(
        ("DELETE FROM entry WHERE seq>=?", (size,)),
        ("DELETE FROM node WHERE ((idx+1)<<level)>?", (size,)),
        ("DELETE FROM checkpoint WHERE size>?", (size,)),
    )


def cut_tail(m, r):
    size = r.randrange(10, OUTSIDE)
    m.sql(("DELETE FROM entry WHERE seq>=?", (size,)), ("DELETE FROM node WHERE ((idx+1)<<level)>?", (size,)))


def cut_to_checkpoint(m, r):
    cut(m, 9)


def replay(m, r):
    "An old copy of the file is put back"
    old = make(m.path.parent / "old", 9, signed=(9,))
    m.sql("DELETE FROM checkpoint", "DELETE FROM entry WHERE seq>=9", "DELETE FROM node WHERE ((idx+1)<<level)>9")
    log = m.open()
    text = signed_note.sign(signed_note.Checkpoint(log.origin, 9, log.root(9)), old.key)
    log.close()
    m.sql(("INSERT INTO checkpoint VALUES (9, '', ?)", (text,)))


def rewrite_with_key(m, r):
    edit_and_rehash(m, r)
    m.resign()


def split_view(m, r):
    "Another history with the same key and the same beginning is shown to somebody else"
    cut(m, 9)
    log = m.open()
    log.append_many([ledger.New("run.completed", f"other-{n}") for n in range(9, N)])
    for size in (17, N):
        text = signed_note.sign(signed_note.Checkpoint(log.origin, size, log.root(size)), m.key)
        m.sql(("INSERT INTO checkpoint VALUES (?, '', ?)", (size, text)))
    log.close()


def edit_after_the_anchor(m, r):
    n = r.randrange(OUTSIDE, N)
    field(m, n, f"delay-{n}", "delay-x")
    m.rehash()
    m.resign()


def drop_checkpoints(m, r):
    m.sql("DELETE FROM checkpoint")


def foreign_checkpoints(m, r):
    "Checkpoints of another project, by the same key"
    other = make(m.path.parent / "other", N, SIGNED)
    log = other.open()
    notes = log.notes()
    log.close()
    m.sql(*[("UPDATE checkpoint SET note=? WHERE size=?", (t, s)) for t, s in zip(notes, SIGNED, strict=True)])


def stored_tree(m, r):
    at = r.randrange(8)
    m.sql(("UPDATE node SET hash=? WHERE level=1 AND idx=?", (bytes(32), at)))


def duplicate_keys(m, r):
    n = r.randrange(OUTSIDE)
    field(m, n, '"type":', '"type":"model.approved","type":')


def nan(m, r):
    m.sql(("UPDATE entry SET payload=? WHERE seq=?", (b'{"auc":NaN}', r.randrange(OUTSIDE))))


def newline(m, r):
    n = r.randrange(OUTSIDE)
    field(m, n, f"delay-{n}", r.choice(["delay\n0", "delay\u2028", "delay\r"]))


def forged_actor(m, r):
    n = r.randrange(OUTSIDE)
    actor = json.loads(m.rows()[n][1])["actor"]
    field(m, n, actor, "u-0000000000000000")


def blank(m, r):
    m.sql(("UPDATE entry SET payload=NULL, salt=NULL WHERE seq=?", (r.randrange(OUTSIDE),)))


def wrong_types(m, r):
    what = r.choice(["commitment=7", "commitment=x''", "header=x'ff00'", "salt=3", "payload='text'", "commitment='x'"])
    m.sql((f"UPDATE entry SET {what} WHERE seq=?", (r.randrange(OUTSIDE),)))


SEEN, GONE, BOTH, NOTHING = {"tampered"}, {"truncated"}, {"tampered", "truncated"}, set()
ATTACKS = {
    "edit": Attack(edit, SEEN, SEEN),
    "edit a payload": Attack(edit_payload, SEEN, SEEN),
    "edit and rehash": Attack(edit_and_rehash, SEEN, SEEN),
    "delete": Attack(delete, SEEN, SEEN),
    "delete and re-chain": Attack(delete_and_rechain, SEEN, SEEN),
    "swap": Attack(swap, SEEN, SEEN),
    "insert": Attack(insert, SEEN, SEEN),
    "sign with a new key": Attack(new_key, SEEN, SEEN),
    "cut the tail, leave the checkpoints": Attack(cut_tail, GONE, GONE),
    "cut to an earlier checkpoint": Attack(cut_to_checkpoint, NOTHING, GONE),
    "put an old file back": Attack(replay, NOTHING, GONE),
    "rewrite with the key": Attack(rewrite_with_key, NOTHING, SEEN),
    "two heads (split view)": Attack(split_view, NOTHING, SEEN),
    "edit with the key after the last outside checkpoint": Attack(edit_after_the_anchor, NOTHING, NOTHING),
    "drop the checkpoints": Attack(drop_checkpoints, NOTHING, NOTHING),
    "swap in checkpoints of another log": Attack(foreign_checkpoints, SEEN, SEEN),
    "change a stored hash": Attack(stored_tree, SEEN, SEEN),
    "duplicate JSON keys": Attack(duplicate_keys, SEEN, SEEN),
    "NaN in a payload": Attack(nan, SEEN, SEEN),
    "a newline in a field": Attack(newline, SEEN, SEEN),
    "forge the actor": Attack(forged_actor, SEEN, SEEN),
    "blank a payload and say nothing": Attack(blank, SEEN, SEEN),
    "values of another type": Attack(wrong_types, SEEN, SEEN),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Made:
    return make(tmp_path_factory.mktemp("original"), N, SIGNED, OUTSIDE)


def serious(v: ledger.Verification) -> set[str]:
    return {p.kind for p in v.problems} - {"unanchored"}


def shows(v: ledger.Verification, wanted: set[str]) -> bool:
    "Exactly what the table says: something of these kinds, or nothing at all"
    return bool(serious(v)) == bool(wanted) and serious(v) <= (wanted | {"tampered"} if wanted else set())


def test_the_original_is_sound(original):
    assert not serious(original.verify()) and not serious(original.verify(original.outside))
    assert original.verify(original.outside).anchored == OUTSIDE


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_shows_as_the_table_says(name, original, tmp_path):
    attack = ATTACKS[name]
    for trial in range(count(3, 60)):
        m = copy(original, tmp_path / str(trial))
        attack.do(m, random.Random(f"{name}/{trial}"))
        alone, helped = m.verify(), m.verify(m.outside)
        assert shows(alone, attack.inside), (trial, alone.problems)
        assert shows(helped, attack.outside), (trial, helped.problems)
        if attack.inside == GONE:
            assert "truncated" in serious(alone)
        if attack.outside == GONE:
            assert "truncated" in serious(helped)
        shutil.rmtree(m.path.parent)


WHOLLY_SIGNED = {"cut to an earlier checkpoint", "put an old file back", "two heads (split view)"}


@pytest.mark.parametrize("name", [n for n, a in ATTACKS.items() if not a.inside])
def test_what_cannot_be_seen_is_said(name, original, tmp_path):
    "Wherever an attack goes unseen, the window in which it could is printed: the entries and who could have"
    m = copy(original, tmp_path / "m")
    ATTACKS[name].do(m, random.Random(name))
    window = [p for p in m.verify().problems if p.kind == "unanchored"]
    assert [p.seq for p in window] == [0]
    signed_too = (
        "only whoever holds the key could change them unseen, and whoever can write the file could cut them off"
    )
    unsigned = "whoever can write the file could change or cut them unseen, without a key"
    assert (signed_too in window[0].detail) == (name != "drop the checkpoints")
    assert unsigned in window[0].detail or name in WHOLLY_SIGNED
    helped = m.verify(m.outside)
    if not ATTACKS[name].outside:
        assert {(p.seq, p.kind) for p in helped.problems} == {(OUTSIDE, "unanchored")}


def test_dropped_checkpoints_read_as_unsigned(original, tmp_path):
    m = copy(original, tmp_path / "m")
    drop_checkpoints(m, random.Random(0))
    v = m.verify()
    assert v.signed == 0 and "are not signed" in v.problems[0].detail
    helped = m.verify(m.outside)
    assert helped.signed == 0 and any("are gone from the project" in p.detail for p in helped.problems)


def test_a_redaction_by_an_intruder_is_a_redaction(original, tmp_path):
    "Whoever can write may append: a blanked payload with its entry is no tampering, and the entry tells of it"
    m = copy(original, tmp_path / "m")
    log = m.open()
    log.redact(3, "no reason")
    assert not serious(log.verify([m.outside])) and [e.subject for e in log.events("entry.redacted")] == ["3"]
    log.close()


@pytest.mark.parametrize("subject", ["x", "99", "-1", "1" * 5000])
def test_a_forged_redaction(original, tmp_path, subject):
    m = copy(original, tmp_path / "m")
    log = m.open()
    log.append("entry.redacted", subject, {})
    log.close()
    blank(m, random.Random(1))
    assert "tampered" in serious(m.verify())


def test_a_clock_set_back_changes_no_order(original, tmp_path, monkeypatch):
    "Clocks prove nothing: order comes from the place in the log"
    m = copy(original, tmp_path / "m")
    log = m.open()
    monkeypatch.setattr(ledger, "_now", lambda: "1999-12-31T23:59:59.000000Z")
    e = log.append("run.completed", "late")
    assert e.seq == N and [x.seq for x in log.events()] == list(range(N + 1)) and log.verify([m.outside]).ok
    assert next(log.events(newest=True)).time.startswith("1999")
    log.close()


def test_an_actor_by_environment_is_known_to_be_so(original, tmp_path, monkeypatch, home):
    m = copy(original, tmp_path / "m")
    log = m.open()
    monkeypatch.setenv("MLOPS_ACTOR", "director@example.org")
    e = log.append("run.completed", "x")
    assert (
        e.actor_source == "environment"
        and e.actor.startswith("u-")
        and "director" not in m.path.read_bytes().decode("latin1")
    )
    log.close()


# Damage


def content(m: Made) -> tuple:
    return tuple(m.rows())


def examine(m: Made, original: Made, whole: tuple):
    "A damaged file is told, or nothing that counts was damaged"
    try:
        v = m.verify(m.outside)
    except MlopsError as e:
        assert e.exit == 4 and "\n" not in str(e)
        return False
    if v.exit_code == 0:
        assert content(m) == whole
        log = m.open()
        assert all(signed_note.parse(t, [m.key.public]) for t in log.notes())
        log.close()
    return v.exit_code == 0


def damaged(original: Made, folder: Path, change) -> Made:
    raw = bytearray(original.path.read_bytes())
    change(raw)
    folder.mkdir(exist_ok=True)
    for p in folder.iterdir():
        p.unlink()
    (folder / "ledger.db").write_bytes(raw)
    return original._replace(path=folder / "ledger.db")


def test_bit_flips(original, tmp_path):
    r, whole, passed, trials = random.Random(4), content(original), 0, count(150, 10_000)
    size = original.path.stat().st_size

    def flip(raw):
        raw[r.randrange(size)] ^= 1 << r.randrange(8)

    for _ in range(trials):
        passed += examine(damaged(original, tmp_path / "f", flip), original, whole)
    assert 0 < passed < trials, "some flips hit free space, some hit entries"


def test_cuts(original, tmp_path):
    r, whole = random.Random(5), content(original)
    size = original.path.stat().st_size
    for trial in range(count(40, 1_000)):
        at = r.randrange(1, size) if trial else 0
        m = damaged(original, tmp_path / "c", lambda raw, at=at: raw.__delitem__(slice(at, None)))
        assert not examine(m, original, whole), f"cut at {at} of {size}"


# The same through the shell form, with its exit codes


@pytest.fixture
def signed(project, cli, tmp_path):
    guard.adopt_key(project)
    ledger.of(project).append_many([ledger.New("run.completed", f"delay-{n}", {"n": n}) for n in range(8)])
    kept = cli("audit", "anchor", f"{tmp_path / 'far'}/", "--json").json["kept"]
    ledger.of(project).append("run.completed", "later")
    ledger.of(project).close()
    return Made(Path(project.ledger_path), Key(1), kept)


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ("UPDATE entry SET header=replace(header, 'delay-3', 'delay-x')", "tampered", 1),
        ("DELETE FROM entry WHERE seq>=5", "truncated", 1),
        ("SELECT 1", "unanchored", 0),
        ("UPDATE entry SET commitment=7 WHERE seq=2", "tampered", 1),
        ("DROP TABLE node", "unreadable", 4),
    ],
)
def test_kinds_and_exit_codes(signed, cli, change, kind, code):
    signed.sql(change)
    for words in (["--anchor", signed.outside], ["--anchor", signed.outside, "--strict"]):
        a = cli("audit", "verify", "--json", *words)
        assert (a.exit, a.err) == (code, ""), a
        assert kind in {p["kind"] for p in a.json.get("problems", [{"kind": kind}])}
        assert ("error" in a.json) == (code != 0)
    said = cli("audit", "verify", "--anchor", signed.outside)
    assert said.exit == code and kind in said.out.lower() and "Traceback" not in said.out + said.err


def test_a_subject_cannot_write_lines_of_its_own(signed, project, cli):
    ledger.of(project).append("run.completed", "x\n99 2013 model.promoted delay@9\u2028\u0085\r\x1b[2K", {})
    lines = cli("audit", "log").out.splitlines()
    assert not [x for x in lines if x.strip().startswith("99 2013")] and "\x1b" not in "".join(lines)
    assert verification.CHUNK & (verification.CHUNK - 1) == 0


def test_a_chunk_in_halves_says_what_its_entries_one_by_one_say():
    "Redactions and forgeries at every border: the same leaves, problems and redactions"
    rng = random.Random(3)
    whole = []
    for n in range(300):
        header = f'{{"v":1,"seq":{n},"type":"x.y","subject":"s"}}'
        whole.append((n, header, verification.commit(b"s" * 32, b"{}"), b"s" * 32, b"{}"))
    borders = (0, 1, 63, 64, 74, 75, 149, 150, 151, 224, 225, 298, 299)
    for _ in range(count(40, 2000)):
        rows = list(whole)
        for n in rng.sample(borders, rng.randrange(1, 4)):
            seq, header, commitment, salt, payload = rows[n]
            rows[n] = rng.choice(
                [
                    (seq, header, commitment, None, None),
                    (seq, header, commitment, salt, None),
                    (seq, header, commitment, salt, b"{1}"),
                    (seq, header, commitment[:5], salt, payload),
                    (seq + 1, header, commitment, salt, payload),
                    (seq, header.replace(f'"seq":{n}', '"seq":7000'), commitment, salt, payload),
                    (seq, header.replace("x.y", "entry.redacted").replace('"s"}', '"5"}'), commitment, salt, payload),
                    (seq, header.encode(), commitment, salt, payload),
                    (seq, header, "text", salt, payload),
                ]
            )
        halved, each = verification._Entries(), verification._Entries()
        assert halved.leaves(rows, 0) == [each._leaf(row, at) for at, row in enumerate(rows)]
        assert halved.all_problems() == each.all_problems() and halved.redacted == each.redacted
