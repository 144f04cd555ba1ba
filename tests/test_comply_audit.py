"""The audit verbs: exit codes and keys of every verdict, anchors that lie elsewhere, bundles for strangers, redaction."""

import base64
import json
import os
import sqlite3

import pytest
from mlops_nb import comply, guard
from mlops_nb.core import ledger, ledger_identity, merkle


@pytest.fixture
def signed(project):
    "Five entries and a pinned key"
    guard.adopt_key(project)
    for n in range(5):
        ledger.of(project).append("dataset.added", f"flights@{n + 1}", {"purpose": f"secret purpose {n}"})
    return project


def edit(p, sql, *args):
    with sqlite3.connect(p.ledger_path) as db:
        db.execute(sql, args)
    db.close()


def kinds(answer):
    return {q["kind"] for q in answer.json["problems"]}


def test_verify_says_what_it_proves(signed, cli):
    a = cli("audit", "verify", "--json")
    assert a.exit == 0 and a.json["ok"] and a.json["entries"] == 5 and len(a.json["root"]) == 64
    assert kinds(a) == {"unanchored"} and a.json["signed"] == 0
    assert cli("audit", "checkpoint", "--json").json["size"] == 6
    a = cli("audit", "verify", "--json")
    assert a.json["signed"] == 6 == a.json["entries"] and a.json["anchored"] == 0
    assert "Cannot prove that everything was recorded" in cli("audit", "verify").out


def test_an_edit_is_tampered_and_exit_1(signed, cli):
    cli("audit", "checkpoint")
    edit(signed, "UPDATE entry SET header = replace(header, 'flights@2', 'flights@9')")
    a = cli("audit", "verify", "--json")
    assert a.exit == 1 and not a.json["ok"] and "tampered" in kinds(a) and a.json["error"]["kind"] == "finding"
    assert cli("audit", "verify", "--strict").exit == 1


def test_a_cut_tail_is_truncated(signed, cli):
    cli("audit", "checkpoint")
    edit(signed, "DELETE FROM entry WHERE seq = 5")
    a = cli("audit", "verify", "--json")
    assert a.exit == 1 and "truncated" in kinds(a)


def test_only_an_anchor_shows_a_cut_to_an_earlier_checkpoint(signed, cli, tmp_path):
    cli("audit", "checkpoint")
    ledger.of(signed).append("dataset.added", "late@1", {})
    anchored = cli("audit", "anchor", str(tmp_path / "far") + "/", "--json").json
    edit(signed, "DELETE FROM entry WHERE seq >= 6")
    edit(signed, "DELETE FROM node WHERE ((idx + 1) << level) > 6")
    edit(signed, "DELETE FROM checkpoint WHERE size > 6")
    assert cli("audit", "verify", "--json").exit == 1  # this machine has seen more
    ledger_identity.forget(signed.ledger_path)
    assert cli("audit", "verify", "--json").exit == 0  # not visible from inside, as promised
    a = cli("audit", "verify", "--anchor", anchored["kept"], "--json")
    assert a.exit == 1 and "truncated" in kinds(a)


def test_an_unreadable_file_is_exit_4(signed, cli):
    ledger.of(signed).close()
    signed.ledger_path.write_bytes(b"this is no database" * 500)
    for extra in ("-wal", "-shm"):
        if os.path.exists(f"{signed.ledger_path}{extra}"):
            os.remove(f"{signed.ledger_path}{extra}")
    a = cli("audit", "verify", "--json")
    assert a.exit == 4 and kinds(a) == {"unreadable"}


def test_anchors_lie_elsewhere(signed, cli, tmp_path):
    for inside in (".", ".mlops", "sub/anchors/"):
        a = cli("audit", "anchor", inside, "--json")
        assert a.exit == 2 and "inside the project" in a.json["error"]["message"]
    assert cli("audit", "anchor").exit == 2
    far = tmp_path / "far"
    assert cli("audit", "anchor", f"{far}/", "--dry-run").exit == 0 and not far.exists()
    first = cli("audit", "anchor", f"{far}/", "--json").json
    second = cli("audit", "anchor", f"{far}/", "--json").json
    assert first["kept"] == second["kept"] and second["size"] > first["size"]
    a = cli("audit", "verify", "--anchor", first["kept"], "--json")
    assert a.exit == 0 and a.json["anchored"] == second["size"]
    signed.pin("audit", "anchor", str(far))
    assert cli("audit", "verify", "--json").json["anchored"] == second["size"]
    assert cli("audit", "anchor", "--json").exit == 0


@pytest.mark.parametrize("text", ["", "hello\n", "a\n1\nb\n\n"])
def test_an_anchor_file_that_is_none(signed, cli, tmp_path, text):
    (tmp_path / "x").write_text(text)
    a = cli("audit", "verify", "--anchor", tmp_path / "x", "--json")
    assert a.exit == 2 and "holds no checkpoints" in a.json["error"]["message"]
    assert cli("audit", "verify", "--anchor", tmp_path / "none").exit == 2


def test_a_forged_anchor_is_seen(signed, cli, tmp_path):
    kept = cli("audit", "anchor", f"{tmp_path / 'far'}/", "--json").json["kept"]
    text = open(kept, encoding="utf-8").read()
    size = text.split("\n")[1]
    open(kept, "w", encoding="utf-8").write(text.replace(f"\n{size}\n", f"\n{int(size) - 1}\n", 1))
    a = cli("audit", "verify", "--anchor", kept, "--json")
    assert a.exit == 1 and "tampered" in kinds(a)


def test_a_bundle_verifies_without_the_project(signed, cli, tmp_path, monkeypatch):
    kept = cli("audit", "anchor", f"{tmp_path / 'far'}/", "--json").json["kept"]
    bundle = tmp_path / "bundle.json"
    x = cli("audit", "export", bundle, "--json").json
    assert x["entries"] == 7 and x["bytes"] == bundle.stat().st_size
    pin = signed.settings.audit.public_key.split()[0]
    (tmp_path / "stranger").mkdir()
    monkeypatch.chdir(tmp_path / "stranger")
    own = cli("audit", "verify", bundle, "--json")
    assert own.exit == 0 and own.json["own_keys"] is False and own.json["root"] == x["root"]
    known = cli("audit", "verify", bundle, "--key", pin, "--anchor", kept, "--json")
    assert known.exit == 0 and known.json["own_keys"] and known.json["anchored"] == 6
    other = base64.b64encode(bytes(32)).decode()
    assert cli("audit", "verify", bundle, "--key", other, "--json").exit == 1
    assert cli("audit", "verify", bundle, "--key", "short").exit == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["entries"][2].update(payload='{"purpose":"other"}'),
        lambda d: d["entries"].pop(3),
        lambda d: d["entries"].pop(),
        lambda d: d["entries"][1].update(header=d["entries"][1]["header"].replace("flights@2", "flights@9")),
        lambda d: d["entries"].__setitem__(slice(1, 3), d["entries"][1:3][::-1]),
    ],
)
def test_a_changed_bundle_is_caught(signed, cli, tmp_path, change):
    bundle = tmp_path / "bundle.json"
    cli("audit", "checkpoint")
    cli("audit", "export", bundle)
    d = json.loads(bundle.read_text())
    change(d)
    bundle.write_text(json.dumps(d))
    assert cli("audit", "verify", bundle, "--json").exit == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"entries": 3}', '{"entries": [{}], "public_keys": [], "checkpoints": [], "origin": ""}', "\x00"],
)
def test_a_bundle_that_is_none(project, cli, tmp_path, text):
    (tmp_path / "b").write_text(text)
    assert cli("audit", "verify", tmp_path / "b", "--json").exit == 2
    assert cli("audit", "verify", tmp_path / "no", "--json").exit == 2


def test_proofs(signed, cli):
    cli("audit", "checkpoint")
    for seq in range(6):
        p = cli("audit", "prove", seq, "--json").json
        path = [bytes.fromhex(h) for h in p["path"]]
        assert (
            merkle.verify_inclusion(bytes.fromhex(p["leaf"]), seq, p["size"], path, bytes.fromhex(p["root"]))
            and p["checkpoint"]
        )
    assert cli("audit", "prove", 99).exit == 2 and cli("audit", "prove", "x").exit == 2


def test_redaction(signed, cli):
    cli("audit", "checkpoint")
    assert cli("audit", "redact", 2, "--reason", "asked").exit == 2  # without --yes
    assert cli("audit", "redact", 2, "--reason", "asked", "--dry-run").exit == 0
    assert cli("audit", "redact", 2, "--reason", " ", "--yes").exit == 2
    assert cli("audit", "redact", 2, "--reason", "asked", "--yes").exit == 0
    assert cli("audit", "redact", 2, "--reason", "again", "--yes").exit == 2
    assert cli("audit", "show", 2, "--json").json["entries"][0]["payload"] is None
    assert b"secret purpose 2" not in signed.ledger_path.read_bytes()
    a = cli("audit", "verify", "--json")
    assert a.exit == 0 and cli("comply", "status", "--json").exit == 0


def test_log(signed, cli):
    a = cli("audit", "log", "--limit", "2", "--json").json
    assert [e["seq"] for e in a["entries"]] == [4, 3] and a["total"] == 5
    assert len(cli("audit", "log", "--type", "dataset.*", "--json").json["entries"]) == 5
    assert cli("audit", "log", "--subject", "flights@2", "--json").json["entries"][0]["seq"] == 1
    assert cli("audit", "log", "--since", "2999-01-01", "--json").json["entries"] == []
    bad = cli("audit", "log", "--type", "dataset.aded", "--json")
    assert bad.exit == 2 and "dataset.added" in bad.json["error"]["hint"]
    assert cli("audit", "log", "--limit", "0").exit == 2
    assert "flights@2" in cli("audit", "list").out


def test_log_shows_what_no_view_can_read(project, cli):
    log = ledger.of(project)
    log.append("dataset.added", "a@1", {"rows": "many", "purpose": "x"})
    log.append("dataset.added", "b@1", {"rows": 3, "colour": "red"})
    log.redact(1, "asked for")
    edit(project, "UPDATE entry SET header = replace(header, 'entry.redacted', 'ticket.sold') WHERE seq = 2")
    newest, redacted, odd = cli("audit", "log", "--json").json["entries"]
    assert odd["payload"] == {"rows": "many", "purpose": "x"} and "rows" in odd["why"]
    assert redacted["payload"] is None and redacted["why"] == "redacted"
    assert newest["type"] == "ticket.sold" and newest["payload"] == {"reason": "asked for"}
    assert "no installed package declares its type" in newest["why"]
    text = cli("audit", "log").out
    assert "rows=many" in text and "redacted" in text and "reason=asked for" in text


def test_nothing_to_sign(project, cli):
    guard.adopt_key(project)
    assert cli("audit", "verify", "--json").json["entries"] == 0
    assert cli("audit", "checkpoint").exit == 2


def test_an_unpinned_key_signs_nothing(project, cli):
    ledger.of(project).append("dataset.added", "a@1", {})
    assert cli("audit", "checkpoint").exit == 2
    assert comply.audit.log().total >= 1
