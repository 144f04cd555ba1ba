"""The ledger: Certificate Transparency's roots, proofs against brute force, strict notes, many writers, group commit, forks, redaction."""

import base64
import json
import random
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from helpers.counts import count
from hypothesis import given
from hypothesis import strategies as st
from mlops_nb.core import ledger, merkle, signed_note, verification
from helpers.ledgers import Key, make
from mlops_nb.core.errors import BadInput, NotFound, ToolFailed

# Inputs and roots of the reference implementation of Certificate Transparency (RFC 6962)
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree(leaves: list[bytes]):
    "(level, index) -> hash of a complete subtree, hashed anew from the leaves"
    kept: dict[tuple[int, int], bytes] = {(0, n): h for n, h in enumerate(leaves)}

    def node(level, idx):
        if (level, idx) not in kept:
            kept[level, idx] = merkle.node_hash(node(level - 1, 2 * idx), node(level - 1, 2 * idx + 1))
        return kept[level, idx]

    return node


# RFC 6962 as it is written: recursion over lists, nothing stored
def split(n):
    return next(k for k in (1 << b for b in range(20, -1, -1)) if k < n)


def mth(d):
    if len(d) < 2:
        return d[0] if d else sha256(b"").digest()
    k = split(len(d))
    return sha256(b"\1" + mth(d[:k]) + mth(d[k:])).digest()


def path(m, d):
    if len(d) == 1:
        return []
    k = split(len(d))
    return path(m, d[:k]) + [mth(d[k:])] if m < k else path(m - k, d[k:]) + [mth(d[:k])]


def proof(m, d, whole=True):
    if m == len(d):
        return [] if whole else [mth(d)]
    k = split(len(d))
    return proof(m, d[:k], whole) + [mth(d[k:])] if m <= k else proof(m - k, d[k:], False) + [mth(d[:k])]


def test_the_roots_of_certificate_transparency():
    node = tree([merkle.leaf_hash(bytes.fromhex(x)) for x in LEAVES])
    assert [merkle.root(n, node).hex() for n in range(1, 9)] == ROOTS
    assert merkle.root(0, node) == sha256(b"").digest()


def test_proofs_equal_brute_force_for_every_size():
    top = count(40, 256)
    leaves = [merkle.leaf_hash(n.to_bytes(2, "big")) for n in range(top)]
    node, wrong = tree(leaves), merkle.leaf_hash(b"other")
    roots = [merkle.root(n, node) for n in range(top + 1)]
    grown: dict[tuple[int, int], bytes] = {}
    for seq, h in enumerate(leaves):
        grown[0, seq] = h
        for level, idx, d in merkle.completed(seq, h, lambda *at: grown[at]):
            grown[level, idx] = d
    assert all(node(*at) == h for at, h in grown.items()), "appended subtrees equal recomputed ones"
    for n in range(1, top + 1):
        assert roots[n] == mth(leaves[:n])
        for m in range(n):
            p = merkle.inclusion(m, n, node)
            assert p == path(m, leaves[:n])
            assert merkle.verify_inclusion(leaves[m], m, n, p, roots[n])
            assert not merkle.verify_inclusion(wrong, m, n, p, roots[n])
            assert not merkle.verify_inclusion(leaves[m], m, n, [*p, wrong], roots[n])
            assert not (p and merkle.verify_inclusion(leaves[m], m, n, p[:-1], roots[n]))
        for m in range(1, n + 1):
            p = merkle.consistency(m, n, node)
            assert p == proof(m, leaves[:n])
            assert merkle.verify_consistency(m, n, roots[m], roots[n], p)
            assert not merkle.verify_consistency(m, n, wrong, roots[n], p)
            assert not merkle.verify_consistency(m, n, roots[m], wrong, p)
            assert m == n or not merkle.verify_consistency(m, n, roots[m], roots[n], [*p, wrong])


@pytest.mark.parametrize("bad", [(0, 0), (5, 5), (-1, 5), (6, 5)])
def test_proofs_outside_the_log_are_refused(bad):
    node = tree([merkle.leaf_hash(b"x")] * 8)
    with pytest.raises(ValueError):
        merkle.inclusion(*bad, node)
    assert not merkle.verify_inclusion(node(0, 0), *bad, [], node(0, 0))
    assert not merkle.verify_consistency(0, 5, merkle.EMPTY, node(0, 0), [])


def test_the_stored_tree_and_its_proofs(tmp_path):
    made = make(tmp_path, entries=37, signed=(20,))
    log = made.open()
    leaves = [verification.leaf(h, c) for _, h, c, *_ in made.rows()]
    for n in range(1, 38):
        assert log.root(n) == mth(leaves[:n])
    for seq in range(37):
        p = log.prove(seq)
        assert p["size"] == (20 if seq < 20 else 37) and bool(p["checkpoint"]) == (seq < 20)
        assert merkle.verify_inclusion(
            bytes.fromhex(p["leaf"]), seq, p["size"], [bytes.fromhex(h) for h in p["path"]], bytes.fromhex(p["root"])
        )
    log.close()


def test_verification_crosses_its_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "CHUNK", 8)
    for entries in (1, 7, 8, 9, 16, 63, 64, 65):
        made = make(tmp_path / str(entries), entries, signed=sorted({1, entries // 2 or 1, entries}))
        v = made.verify()
        leaves = [verification.leaf(h, c) for _, h, c, *_ in made.rows()]
        assert (v.root, v.entries, v.signed) == (mth(leaves).hex(), entries, entries)
        assert [p.kind for p in v.problems] == ["unanchored"]


# Checkpoints


@pytest.fixture(scope="module")
def signed() -> tuple[str, Key]:
    key = Key(3)
    return signed_note.sign(signed_note.Checkpoint("mlops-nb/abc/def", 12345, bytes(range(32))), key), key


def test_a_note_reads_back(signed):
    text, key = signed
    cp = signed_note.parse(text, [Key(1).public, key.public])
    assert cp == ("mlops-nb/abc/def", 12345, bytes(range(32)))
    name = "mlops-nb/abc/def"
    wanted = sha256(name.encode() + b"\n\x01" + key.public).digest()[:4]
    assert base64.b64decode(text.splitlines()[-1].split()[-1])[:4] == wanted, "the key id of C2SP's signed notes"


def test_no_bit_of_a_note_may_flip(signed):
    text, key = signed
    raw = text.encode()
    for at in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[at] ^= 1 << bit
            try:
                changed = flipped.decode()
            except UnicodeDecodeError:
                continue
            with pytest.raises(BadInput):
                signed_note.parse(changed, [key.public])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: t.rstrip("\n"),
        lambda t: t + "\n",
        lambda t: t + t.splitlines(keepends=True)[-1],
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n\n", "\n"),
        lambda t: t.replace("\n\n", "\nextension\n\n"),
        lambda t: t.replace("\n12345\n", "\n012345\n"),
        lambda t: t.replace("\n12345\n", "\n+12345\n"),
        lambda t: t.replace("\n12345\n", "\n12345 \n"),
        lambda t: t.replace("\n12345\n", "\n１２３４５\n"),
        lambda t: t.replace("\n12345\n", "\n" + "9" * 5000 + "\n"),
        lambda t: t.replace("\n12345\n", "\n-1\n"),
        lambda t: t.replace("— ", "- "),
        lambda t: t.replace("— mlops-nb/abc/def", "— mlops-nb/abc/xyz"),
        lambda t: t.replace("mlops-nb/abc/def\n", "mlops-nb/abc/def \n"),
        lambda t: t.replace("mlops-nb/abc/def", "mlops nb"),
        lambda t: t[:-3] + "=\n",
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\u2028", 1),
        lambda t: t.replace(t.splitlines()[2], t.splitlines()[2][:-4]),
    ],
)
def test_a_note_that_is_nearly_one(signed, change):
    text, key = signed
    with pytest.raises(BadInput):
        signed_note.parse(change(text), [key.public])


def test_a_note_by_a_stranger(signed):
    text, _ = signed
    for keys in ([], [Key(4).public], [b"short"]):
        with pytest.raises(BadInput, match="not signed by a pinned key"):
            signed_note.parse(text, keys)


# What is written


@given(
    st.text(max_size=30),
    st.recursive(
        st.none() | st.floats() | st.text() | st.integers(-(2**53), 2**53),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=6,
    ),
)
def test_any_subject_and_payload_survives(subject, value):
    header, payload = stored(subject, {"value": value})
    assert json.loads(header)["subject"] == subject.encode("utf-8", "replace").decode()
    json.loads(payload, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert "\n" not in header and b"\n" not in payload


def stored(subject, payload) -> tuple[str, bytes]:
    new, raw = ledger._encoded(ledger.New("run.completed", subject, payload))
    return json.dumps({"subject": new.subject}), raw


def test_hostile_values(tmp_path):
    made = make(tmp_path)
    log = made.open()
    for subject in ("a\nb", "a\u2028b", 'a","type":"model.promoted', "a\x00b", "\udcff.csv", "<script>", "x" * 9999):
        e = log.append("run.completed", subject, {"usd": float("nan"), subject: [float("inf")]})
        header = next(h for s, h, *_ in made.rows() if s == e.seq)
        assert (
            len(header.splitlines()) == (2 if "\u2028" in subject else 1) and e.subject == json.loads(header)["subject"]
        )
        assert log.event(e.seq).payload.usd is None, "strict JSON has no NaN"
        assert len(e.subject) <= 500
    assert not list(log.events("model.promoted")), "a subject cannot pose as another type"
    with pytest.raises(BadInput, match="16,777,216 are allowed"):
        log.append("run.completed", "big", {"x": "x" * (17 << 20)})
    loop: list = []
    loop.append(loop)
    for bad in ({"x": loop}, {("a", "b"): 1}):
        with pytest.raises(BadInput, match="cannot be written as JSON"):
            log.append("run.completed", "x", bad)
    with pytest.raises(BadInput, match="no event type"):
        log.append("run.completd", "x")
    assert log.verify().ok and log.size() == 24 + 7
    log.close()


def test_events_filter_in_the_file(tmp_path):
    made = make(tmp_path, entries=3, signed=())
    log = made.open()
    log.append("model.promoted", "delay@1", {})
    log.append("dataset.added", "flights@1", {}, digest="ab" * 32)
    assert [e.seq for e in log.events("model.*")] == [3] and [
        e.seq for e in log.events(["model.promoted", "dataset.*"])
    ] == [
        3,
        4,
    ]
    assert [e.seq for e in log.events(newest=True, limit=2)] == [4, 3] and not list(log.events("mode_.*"))
    assert [e.digest for e in log.events(subject="flights@1")] == ["ab" * 32]
    assert len(list(log.events(since=log.event(3).time))) == 2 and len(list(log.events(until=log.event(3).time))) == 3
    with pytest.raises(NotFound, match="0 to 4"):
        log.event(99)
    log.close()


# Many writers

WRITER = """
import sys
from mlops_nb.core.ledger import Ledger
log = Ledger(sys.argv[1])
for n in range(int(sys.argv[3])): log.append('run.completed', f'{sys.argv[2]}@{n}', {'n':n})
log.close()
"""


def test_processes_leave_no_gap(tmp_path):
    writers, each = count(4, 8), count(60, 500)
    made = make(tmp_path, entries=0, signed=())
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, made.path, f"w{k}", str(each)], stderr=subprocess.PIPE, text=True
        )
        for k in range(writers)
    ]
    assert [(p.wait(300), p.communicate()[1]) for p in running] == [(0, "")] * writers
    rows = made.rows()
    assert [r[0] for r in rows] == list(range(writers * each))
    seen: dict[str, list[int]] = {}
    for _, header, *_ in rows:
        who, _, n = json.loads(header)["subject"].partition("@")
        seen.setdefault(who, []).append(int(n))
    assert seen == {f"w{k}": list(range(each)) for k in range(writers)}, "each writer's own order is kept"
    assert made.verify().ok


def test_waiting_threads_share_commits(tmp_path):
    """64 threads of one process: at least 16 acknowledged entries per commit, counted in SQLite's own trace

    A commit begins when all others wait, so that the processors' speed does not count."""
    threads, each = 64, count(10, 40)
    log = make(tmp_path, entries=0, signed=()).open()
    commits, done, commit, group = [], [], log._group.write, log._group
    log.db.set_trace_callback(lambda s: commits.append(s) if s == "COMMIT" else None)

    def write(batch):
        while len(batch) + len(group._queue) + len(done) < threads:
            threading.Event().wait(0.001)
        commit(batch)

    group.write = write

    def work(k):
        try:
            return [log.append("run.completed", f"t{k}@{n}", {"n": n}) for n in range(each)]
        finally:
            done.append(k)

    with ThreadPoolExecutor(threads) as pool:
        got = [e for es in pool.map(work, range(threads)) for e in es]
    assert sorted(e.seq for e in got) == list(range(threads * each))
    assert len(commits) == log.commits and threads * each / len(commits) >= 16, (
        f"{threads * each} entries, {len(commits)} commits"
    )
    assert all(log.event(e.seq) == e for e in random.Random(0).sample(got, 50)) and log.verify().ok
    log.close()


def test_a_failed_round_fails_everybody_in_it_and_nobody_later(tmp_path):
    log = make(tmp_path, entries=2, signed=()).open()
    log.db.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON main.entry BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(log.append, "run.completed", str(n)) for n in range(8)]
        assert all(isinstance(t.exception(), ToolFailed) and "free some space" in str(t.exception()) for t in tries)
    assert log.size() == 2
    log.db.execute("DROP TRIGGER temp.no")
    assert log.append("run.completed", "x").seq == 2 and log.verify().ok
    log.close()


def test_an_interrupted_caller_holds_nobody_up(tmp_path):
    "A caller that is interrupted while it waits leaves the queue; the next one leads"
    from mlops_nb.core.group_commit import GroupCommit, Waiting

    entered, go = threading.Event(), threading.Event()

    def write(batch):
        entered.set()
        go.wait(30)
        for w in batch:
            w.result = w.work

    class Interrupted(Waiting):
        def wait(self):
            while not group._queue:
                pass
            raise KeyboardInterrupt

    group = GroupCommit(write)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group.do, 1)
        entered.wait(30)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlops_nb.core.group_commit.Waiting", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                group.do(2)
        later = pool.submit(group.do, 3)
        go.set()
        assert first.result(30) == 1 and later.result(30) == 3
    assert not group._queue and not group._busy


def test_a_lock_held_too_long_is_one_line(tmp_path):
    made = make(tmp_path)
    log, other = made.open(), sqlite3.connect(made.path, isolation_level=None)
    log.db.execute("PRAGMA busy_timeout=1")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ToolFailed, match="database is locked"):
        log.append("run.completed", "x")
    other.execute("ROLLBACK")
    assert log.append("run.completed", "x").seq == 24
    other.close()
    log.close()


FORKS = """
import os, sys, threading
from mlops_nb.core import ledger, project
from mlops_nb.job.events import JobStarted
from mlops_nb.model.events import RunCompleted
p = project.create(sys.argv[1])
log = ledger.of(p)
session = log.session
stop = threading.Event()
def busy():
    while not stop.is_set(): log.append('run.completed', 'thread', {})
threads = [threading.Thread(target=busy) for _ in range(4)]
for t in threads: t.start()
children = []
for k in range(int(sys.argv[2])):
    log.append('run.completed', f'parent@{k}', {})
    pid = os.fork()
    if not pid:
        try:
            for n in range(5): ledger.record(p, RunCompleted(), subject=f'child{k}@{n}')
            log.append('run.completed', f'child{k}@5', {})
            with ledger.bracket(p, JobStarted(), subject=f'child{k}'): pass
            assert ledger.of(p) is log and log.session!=session
            os._exit(0)
        except BaseException as e: print(type(e), e, file=sys.stderr); os._exit(9)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
stop.set()
for t in threads: t.join()
kinds = [e.subject for e in log.events()]
v = log.verify()
print(codes, v.entries==len(kinds), v.ok, sum(s.startswith('child') for s in kinds), sum(s.startswith('parent') for s in kinds))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_forked_children_write_their_own(home, tmp_path):
    "Forked while other threads are in the middle of a commit"
    n = count(4, 20)
    done = subprocess.run(
        [sys.executable, "-c", FORKS, tmp_path / "p", str(n)], capture_output=True, text=True, timeout=200
    )
    assert (done.stdout.strip(), done.stderr) == (f"{[0] * n} True True {n * 8} {n}", "")


# Redaction


def test_redaction_keeps_every_proof_and_loses_every_byte(tmp_path):
    made = make(tmp_path, entries=4, signed=())
    log = made.open()
    secret = "Erika Mustermann, born 1964-08-12"
    e = log.append("run.completed", "delay", {"note": secret})
    log.append_many([ledger.New("run.completed", "later", {"n": n}) for n in range(20)])
    kept = log.checkpoint(made.key)
    before = {seq: log.prove(seq) for seq in range(25)}

    def found():
        return [p.name for p in sorted(tmp_path.iterdir()) if secret.encode() in p.read_bytes()]

    assert found()
    log.redact(e.seq, "asked")
    assert found() == [], "gone from the database and from the write-ahead log"
    assert {seq: log.prove(seq) for seq in range(25)} == before
    v = log.verify([kept])
    assert v.ok and v.anchored == 25 and log.event(e.seq).payload is None
    log.close()
    made.sql(("UPDATE entry SET payload=NULL, salt=NULL WHERE seq=?", (2,)))
    v = made.verify(kept)
    assert [(p.seq, p.kind) for p in v.problems if p.kind != "unanchored"] == [(2, "tampered")], "no entry says so"


def test_a_reader_in_the_way_of_redaction_is_said(tmp_path):
    made = make(tmp_path)
    log, reader = made.open(), sqlite3.connect(made.path, isolation_level=None)
    log.db.execute("PRAGMA busy_timeout=1")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM entry").fetchone()
    with pytest.raises(ToolFailed, match="keeps its bytes in the write-ahead log"):
        log.redact(3, "asked")
    reader.close()
    assert log.event(3).payload is None and log.verify().ok
    log.close()


def test_a_symbolic_link_is_no_ledger(tmp_path):
    made = make(tmp_path / "real")
    (tmp_path / "ledger.db").symlink_to(made.path)
    for path in (tmp_path / "ledger.db", tmp_path / "dangling.db"):
        path.is_symlink() or path.symlink_to(tmp_path / "nowhere.db")
        with pytest.raises(ToolFailed, match="symbolic link"):
            ledger.Ledger(path)
    assert not (tmp_path / "nowhere.db").exists()
