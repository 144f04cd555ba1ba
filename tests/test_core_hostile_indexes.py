"""Whoever can write the files can make an index or a kept summary lie: no gate or control is fooled, and `audit verify` says so."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from mlops_nb.core import ledger, ledger_reading
from mlops_nb.core import project as projects
from mlops_nb.feature.events import FeatureSkewChecked
from mlops_nb.model import promotion_verbs
from mlops_nb.model.facts import ModelVersion


@pytest.fixture
def skewed(project, monkeypatch) -> projects.Project:
    "A model whose served features were right once and are wrong since; the log is long enough for its indexes"
    monkeypatch.setattr(ledger_reading, "SHORT", 0)
    for rate in (0.0, 0.5):
        told = FeatureSkewChecked(checked=1000, features=1, mismatches={"aircraft@1:delay": rate} if rate else {})
        ledger.record(project, told, subject="delay")
    assert ledger.of(project).has_index(-1)
    return project


def hide(path: Path, seq: int, index: str) -> None:
    "Make an index again without one entry, and put the text of its definition back"
    db = sqlite3.connect(path, isolation_level=None)
    (text,) = db.execute("SELECT sql FROM sqlite_master WHERE name=?", (index,)).fetchone()
    db.execute("PRAGMA writable_schema=1")
    db.execute("UPDATE sqlite_master SET sql=? WHERE name=?", (f"{text} WHERE seq<>{seq}", index))
    db.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"REINDEX {index}")
    db.execute("PRAGMA writable_schema=1")
    db.execute("UPDATE sqlite_master SET sql=? WHERE name=?", (text, index))
    db.close()


def test_a_gate_sees_what_an_index_hides(skewed, cli):
    log = ledger.of(skewed)
    bad = next(log.events(FeatureSkewChecked, newest=True))
    log.close()
    hide(log.path, bad.seq, "entry_by_type")
    assert [e.seq for e in log.events(FeatureSkewChecked)] == [bad.seq - 1], "looked at through the index, all is well"
    version = ModelVersion(name="delay", version=1, digest="ab" * 32)
    assert promotion_verbs._metrics(skewed, version)["skew.rate"] == 0.5
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and "index" in found.json["problems"][0]["detail"]
    controls = {c["id"]: c["status"] for c in cli("comply", "status", "--json").json["controls"]}
    assert controls["ledger-intact"] == "fail"


def kept(project: projects.Project) -> list[Path]:
    return sorted(ledger.folds_of(ledger.of(project).path).glob("*.msgpack"))


def counted(cli) -> dict:
    return cli("status", "--json").json["counts"]


def test_a_summary_of_another_project_is_thrown_away(project, cli, tmp_path):
    ledger.of(project).append("dataset.added", "flights@1", {"rows": 3})
    before = counted(cli)
    other = projects.create(tmp_path / "other")
    for name in ("a@1", "b@1", "c@1"):
        ledger.of(other).append("dataset.added", name, {"rows": 1})
    with projects.use(other):
        counted(cli)
    assert kept(other) and kept(project)
    for file in kept(other):
        shutil.copyfile(file, ledger.folds_of(ledger.of(project).path) / file.name)
    assert counted(cli) == before


def test_an_edited_summary_is_thrown_away(project, cli):
    ledger.of(project).append("dataset.added", "flights@1", {"rows": 3})
    before = counted(cli)
    for file in kept(project):
        data = bytearray(file.read_bytes())
        file.write_bytes(bytes(data).replace(b"flights", b"fl1ghts") if b"flights" in data else bytes(data[:-1]))
    assert counted(cli) == before
