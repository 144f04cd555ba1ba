"""The ledger: durable appends beside the disk's own fsync, and verification beside the bare hash."""

import itertools
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from bench.harness import row
from mlops_nb.core import ledger
from mlops_nb.model.events import RunCompleted

WRITERS = 64


def fsync_s(folder: Path, times: int = 200) -> float:
    "Median seconds of one fsync after a write of 4 KiB"
    seen = []
    with open(folder / "probe", "wb") as f:
        for _ in range(times):
            f.write(bytes(4096))
            f.flush()
            began = time.perf_counter()
            os.fsync(f.fileno())
            seen.append(time.perf_counter() - began)
    return statistics.median(seen)


def together(each: int, append) -> float:
    "Entries a second of 64 threads that append at once"
    gate = threading.Barrier(WRITERS + 1)

    def work(k):
        gate.wait()
        for n in range(each):
            append(k, n)

    with ThreadPoolExecutor(WRITERS) as pool:
        tasks = [pool.submit(work, k) for k in range(WRITERS)]
        gate.wait()
        began = time.perf_counter()
        for t in tasks:
            t.result()
    return WRITERS * each / (time.perf_counter() - began)


def bare(folder: Path, name: str):
    "The peer: one SQLite transaction a row with the same durability, and no hash, tree or signature"
    db = sqlite3.connect(folder / name, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE entry(seq INTEGER PRIMARY KEY, header TEXT, payload BLOB)")
    turn = threading.Lock()

    def append(k, n):
        with turn:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO entry(header, payload) VALUES (?,?)", (f"{k}@{n}" * 20, b"{}"))
            db.execute("COMMIT")

    return append


def throughput(folder: Path, rounds: int) -> list[dict]:
    "One writer, 64 writers and batches, with the fsync of the same disk"
    log = ledger.Ledger(folder / "ledger.db")
    rates: dict[str, list[float]] = {k: [] for k in ("one", "many", "bare", "batch")}
    commits = entries = 0
    disk = statistics.median(fsync_s(folder) for _ in range(rounds))
    for r in range(rounds):
        began = time.perf_counter()
        for n in range(300):
            log.append("run.completed", f"one@{n}", RunCompleted(run=str(n)))
        rates["one"].append(300 / (time.perf_counter() - began))
        before, size = log.commits, log.size()
        rates["many"].append(
            together(60, lambda k, n: log.append("run.completed", f"{k}@{n}", RunCompleted(run=str(n))))
        )
        commits, entries = commits + log.commits - before, entries + log.size() - size
        rates["bare"].append(together(20, bare(folder, f"bare{r}.db")))
        began = time.perf_counter()
        for n in range(20):
            log.append_many([ledger.new(RunCompleted(run=str(k)), f"batch@{n}") for k in range(100)])
        rates["batch"].append(2000 / (time.perf_counter() - began))
    one, many, plain, batch = (statistics.median(rates[k]) for k in ("one", "many", "bare", "batch"))
    log.close()
    sync = f"fsync of this disk {disk * 1e6:.0f} us"
    return [
        row(
            "durable appends, one writer",
            one,
            1 / disk,
            "a second",
            f"against fsyncs alone; {sync}",
            digits=0,
            ratio=one * disk,
        ),
        row(
            f"durable appends, {WRITERS} threads",
            many,
            plain,
            "a second",
            (
                f"{entries / commits:.0f} entries a commit, {many / one:.1f} times one writer; against bare "
                f"SQLite, a commit a row; {sync}; the ratio is ours / peer"
            ),
            digits=0,
            ratio=many / plain,
        ),
        row(
            "durable appends, 100 a batch",
            batch,
            one,
            "a second",
            "against one writer, an entry at a time; the ratio is ours / peer",
            digits=0,
            ratio=batch / one,
        ),
    ]


def verification(folder: Path, entries: int) -> dict:
    "Verification of a long log, and the same bytes through the bare hash"
    log = ledger.Ledger(folder / "long.db")
    for start in range(0, entries, 20_000):
        log.append_many(
            [ledger.new(RunCompleted(run=str(n)), "delay") for n in range(start, min(entries, start + 20_000))]
        )
    began = time.process_time()
    found = log.verify()
    ours = (time.process_time() - began) / entries
    if not found.ok or found.entries != entries:
        raise RuntimeError(f"the ledger does not verify: {found.problems[:3]}")
    stored = itertools.islice(log.rows(), 20_000)
    some = [(header.encode() + commitment, salt + payload) for _, header, commitment, salt, payload in stored]
    began = time.process_time()
    for leaf, payload in some:
        sha256(payload).digest()
        sha256(b"\0" + leaf).digest()
        sha256(b"\1" + leaf[:64]).digest()
    hashed = (time.process_time() - began) / len(some)
    log.close()
    note = (
        f"{entries:,} entries in {ours * entries:.1f} s; against its three SHA-256 alone (payload, leaf, "
        f"node), so {ours / hashed:.1f} times the bare hash"
    )
    return row("verification, CPU an entry", ours * 1e6, hashed * 1e6, "us", note, digits=2)


def main(rounds: int = 3, entries: int = 1_000_000) -> list[dict]:
    "Rows for bench/RESULTS.md"
    with tempfile.TemporaryDirectory() as d:
        return [*throughput(Path(d), rounds), verification(Path(d), entries)]
