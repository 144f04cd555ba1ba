"""A ledger to attack: made quickly, edited as an intruder with the file (and perhaps the key) would."""

import base64
import json
import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlops_nb.core import ledger, merkle, signed_note, verification


class Key:
    "A signer"

    def __init__(self, seed: int):
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self._key.public_key().public_bytes_raw()
        self.pin = base64.b64encode(self.public).decode()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class Made(NamedTuple):
    "A ledger file, its pinned key and the checkpoint that was copied elsewhere"

    path: Path
    key: Key
    outside: str

    def open(self) -> ledger.Ledger:
        return ledger.Ledger(self.path, "attacked", [self.key.public])

    def verify(self, *anchors: str) -> ledger.Verification:
        log = self.open()
        try:
            return log.verify(anchors)
        finally:
            log.close()

    def sql(self, *statements):
        "Change the file behind the ledger's back; a statement may come with its arguments"
        db = sqlite3.connect(self.path)
        for s in statements:
            db.execute(*(s if isinstance(s, tuple) else (s,)))
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()

    def rows(self) -> list[tuple]:
        db = sqlite3.connect(self.path)
        found = db.execute("SELECT seq, header, commitment, salt, payload FROM entry ORDER BY seq").fetchall()
        db.close()
        return found

    def renumber(self):
        "Close gaps: every header carries its place again"
        steps: list = ["DELETE FROM entry"]
        for place, (_, header, *rest) in enumerate(self.rows()):
            head = json.dumps({**json.loads(header), "seq": place}, separators=(",", ":"), ensure_ascii=False)
            steps.append(("INSERT INTO entry VALUES (?,?,?,?,?)", (place, head, *rest)))
        self.sql(*steps)

    def rehash(self):
        "Make commitments and stored subtrees fit what the entries now say"
        nodes: dict[tuple[int, int], bytes] = {}
        steps: list = ["DELETE FROM node"]
        for seq, header, commitment, salt, payload in self.rows():
            if payload is not None:
                commitment = verification.commit(salt, payload)
                steps.append(("UPDATE entry SET commitment=? WHERE seq=?", (commitment, seq)))
            nodes[0, seq] = verification.leaf(header, commitment)
            for level, idx, h in merkle.completed(seq, nodes[0, seq], lambda *at: nodes[at]):
                nodes[level, idx] = h
                steps.append(("INSERT INTO node VALUES (?,?,?)", (level, idx, h)))
        self.sql(*steps)

    def resign(self, key: Key | None = None):
        "Sign every local checkpoint anew"
        log = self.open()
        sizes = [int(n.split("\n")[1]) for n in log.notes()]
        notes = [
            (signed_note.sign(signed_note.Checkpoint(log.origin, s, log.root(s)), key or self.key), s)
            for s in sizes
            if s <= log.size()
        ]
        log.close()
        self.sql(*[("UPDATE checkpoint SET note=? WHERE size=?", n) for n in notes])


def make(folder: Path, entries: int = 24, signed=(9, 17), outside: int = 17, key: int = 7) -> Made:
    "A ledger of `entries` entries, signed at some sizes; the checkpoint over `outside` entries was copied elsewhere"
    folder.mkdir(parents=True, exist_ok=True)
    made = Made(folder / "ledger.db", Key(key), "")
    log, kept, at = made.open(), "", 0
    for size in (*signed, entries):
        if size > at:
            log.append_many(
                [ledger.New("run.completed", f"delay-{n}", {"auc": n / 64, "n": n}) for n in range(at, size)]
            )
            at = size
        if size in signed:
            text = log.checkpoint(made.key)
            kept = text if size == outside else kept
    log.close()
    return made._replace(outside=kept)


def copy(made: Made, folder: Path) -> Made:
    "The same ledger in another folder"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made.path, folder / "ledger.db")
    return made._replace(path=folder / "ledger.db")
