"""A ledger on a disk that is read-only or full is read; who may write it, and clocks that went back, are told."""

import os
import shutil
import sqlite3

import pytest
from helpers.namespaces import in_namespace, may_mount

from mlops_nb import guard
from mlops_nb.core import ledger, ledger_file
from mlops_nb.core import project as projects

READ = [["status"], ["audit", "log"], ["data", "list"], ["cost", "show"], ["cost", "prices"], ["comply", "status"]]


def grow(project, count: int) -> None:
    ledger.of(project).append_many([ledger.New("dataset.added", f"d@{n}", {"rows": n}) for n in range(count)])


def test_the_write_ahead_log_is_read_too(project, tmp_path):
    "As after a kill: the entries still lie in the log beside the file"
    grow(project, 5)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{project.ledger_path}{suffix}", tmp_path / f"copy.db{suffix}")
    assert os.path.getsize(tmp_path / "copy.db-wal") > 0
    db = ledger_file._merged(tmp_path / "copy.db")
    assert db.execute("SELECT count(*) FROM entry").fetchone() == (5,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM entry")


@pytest.mark.parametrize("kind", ["read-only", "full"])
@pytest.mark.parametrize("what", ["killed", "closed", "a clone"])
def test_reading_verbs_on_a_disk_that_takes_nothing(project, tmp_path, kind, what):
    if why := may_mount():
        pytest.skip(why)
    if what != "a clone":
        grow(project, 5)
    if what == "closed":
        ledger.of(project).close()
    folder = project.root
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm", *([".mlops"] if what == "a clone" else [])))
    ledger.of(project).close()
    if kind == "read-only":
        script = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"'
    else:
        script = (
            f'mkdir "{tmp_path}/disk"; mount -t tmpfs -o size=400k tmpfs "{tmp_path}/disk"; cp -a "$1/." "{tmp_path}/disk/"; '
            f'set -- "{tmp_path}/disk" "$2" "$3"; dd if=/dev/zero of="$1/filler" bs=1k count=2000 2>/dev/null || true'
        )
    answers = in_namespace(
        script, [*READ, ["audit", "verify"], ["audit", "redact", "0", "--reason", "x", "--yes"]], copy
    )
    for words, (code, out, err) in zip(READ, answers, strict=False):
        assert code in (0, 1) and out and "unexpected" not in err, (words, code, err)
    code, out, err = answers[len(READ)]
    assert code == (1 if what == "a clone" else 0), (out, err)
    if what != "a clone":
        assert "d@4" in answers[1][1] and "5" in out
        assert answers[-1][0] == 4 and answers[-1][2].count("\n") == 1


def test_a_kernel_writes_again_once_the_disk_can_be_written(project, monkeypatch):
    grow(project, 2)
    log = ledger.of(project)
    log.close()
    real = ledger_file.write_ahead

    def full(db):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(ledger_file, "write_ahead", full)
    assert log.size() == 2 and not log.is_at_path()
    monkeypatch.setattr(ledger_file, "write_ahead", real)
    grow(project, 1)
    assert ledger.of(project).size() == 3


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_ledger_that_everybody_may_write(project, cli, what):
    guard.adopt_key(project)
    grow(project, 2)
    at = project.ledger_path if what == "file" else project.ledger_path.parent
    at.chmod(0o777)
    found = cli("doctor", "--json")
    checks = {check["name"]: check for check in found.json["checks"]}
    assert (
        found.exit == 1 and "everybody" in checks["ledger"]["detail"] and checks["ledger"]["fix"] == f"chmod o-w {at}"
    )
    told = cli("audit", "verify", "--json")
    assert told.exit == 0 and "can be written by everybody" in str(told.json["problems"])
    at.chmod(0o700)
    assert {check["name"]: check["ok"] for check in cli("doctor", "--json").json["checks"]}["ledger"]


@pytest.mark.parametrize("what, mode", [("signing.key", 0o666), ("pseudonym.key", 0o644), ("", 0o777)])
def test_a_key_that_others_may_reach(project, cli, what, mode):
    guard.adopt_key(project)
    grow(project, 1)
    (guard.signing.key_path().parent / what).chmod(mode)
    checks = {check["name"]: check for check in cli("doctor", "--json").json["checks"]}
    assert not checks["key"]["ok"] and checks["key"]["fix"].startswith("chmod ")
    board = {c["id"]: c["status"] for c in cli("comply", "status", "--json").json["controls"]}
    assert board["key-private"] == "fail"


def test_a_clock_that_was_set_back_is_told(project, cli, monkeypatch):
    grow(project, 2)
    monkeypatch.setattr(ledger, "_now", lambda: "1999-12-31T23:59:59.000000Z")
    grow(project, 2)
    found = cli("audit", "verify", "--json")
    told = [p for p in found.json["problems"] if p["kind"] == "noticed"]
    assert found.exit == 0 and [p["seq"] for p in told] == [2] and "set back" in told[0]["detail"]
    monkeypatch.setattr(ledger, "_now", lambda: "2999-12-31T23:59:59.000000Z")
    grow(project, 1)
    assert "the clock of this machine says" in str(cli("audit", "verify", "--json").json["problems"])
    assert projects.find(project.root) is project
