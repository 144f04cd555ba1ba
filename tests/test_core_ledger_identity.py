"""A ledger that is missing, emptied, exchanged or contradicts what was signed and seen is named, without a checkpoint kept elsewhere."""

import base64
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from helpers.ledgers import Key

from mlops_nb import guard
from mlops_nb.core import ledger, ledger_identity, signed_note
from mlops_nb.core import project as projects
from mlops_nb.core.events import VerbFailed


@pytest.fixture
def begun(home, tmp_path, monkeypatch, cli):
    "A project by `init`, with a few entries and a signature"
    assert cli("init", tmp_path / "work").exit == 0
    monkeypatch.chdir(tmp_path / "work")
    project = projects.find()
    grow(project, 4)
    assert cli("audit", "checkpoint").exit == 0
    grow(project, 2)
    return project


def grow(project, count: int) -> None:
    log = ledger.of(project)
    log.append_many([ledger.new(VerbFailed(message="no file"), "data.add")] * count)


def change(project, *statements) -> None:
    ledger.of(project).close()
    db = sqlite3.connect(project.ledger_path, isolation_level=None)
    for statement in statements:
        db.execute(*(statement if isinstance(statement, tuple) else (statement,)))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def remove(project) -> None:
    ledger.of(project).close()
    for file in project.ledger_path.parent.glob("ledger.db*"):
        file.unlink()


def forgotten(project) -> None:
    "As on a machine that never saw this project"
    ledger_identity.forget(project.ledger_path)


def kinds(answer) -> set[str]:
    return {problem["kind"] for problem in answer.json["problems"]} - {"unanchored"}


def cut(size: int) -> list:
    return [
        ("DELETE FROM entry WHERE seq>=?", (size,)),
        ("DELETE FROM node WHERE ((idx+1)<<level)>?", (size,)),
        ("DELETE FROM checkpoint WHERE size>?", (size,)),
    ]


def test_init_pins_and_all_is_well(begun, cli):
    assert begun.settings.audit.ledger == ledger.of(begun).id
    found = cli("audit", "verify", "--json")
    assert found.exit == 0 and kinds(found) == set() and found.json["origin"].endswith(ledger.of(begun).id)
    assert "INTACT" in cli("audit", "verify").out and cli("init", ".").exit == 0
    assert begun.settings.audit.ledger == ledger.of(begun).id, "a second init pins nothing more"


@pytest.mark.parametrize("remembers", [True, False])
def test_a_missing_ledger(begun, cli, remembers):
    remove(begun)
    if not remembers:
        forgotten(begun)
    for _ in range(2):
        found = cli("audit", "verify", "--json")
        assert found.exit == 1 and kinds(found) == {"missing"} and "INTACT" not in cli("audit", "verify").out
        assert not begun.ledger_path.exists(), "verify makes nothing"
    assert cli("audit", "checkpoint").exit == 1 and not begun.ledger_path.exists()
    assert "mlops audit verify" in cli("doctor").out
    board = {c["id"]: c["status"] for c in cli("comply", "status", "--json").json["controls"]}
    assert board["ledger-intact"] == "fail"


def test_a_missing_ledger_stays_named_when_work_goes_on(begun, cli):
    remove(begun)
    grow(begun, 3)
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and {"tampered", "missing"} & kinds(found)
    assert "mlops audit verify" in cli("status").out
    assert cli("init", ".").exit == 0
    assert kinds(cli("audit", "verify", "--json")) == {"missing"}, "this machine knows that another one was here"
    assert cli("audit", "checkpoint").exit == 1
    old, new = begun.settings.audit.ledger.split()
    begun.pin("audit", "ledger", new)
    given_up = cli("audit", "verify", "--json")
    assert given_up.exit == 0 and kinds(given_up) == {"noticed"} and old in str(given_up.json["problems"])
    assert kinds(cli("audit", "verify", "--json")) == {"noticed"} and cli("audit", "checkpoint").exit == 0


@pytest.mark.parametrize("how", ["entries", "file", "tables"])
def test_an_emptied_ledger(begun, cli, how):
    forgotten(begun)
    if how == "entries":
        change(begun, "DELETE FROM entry", "DELETE FROM node", "DELETE FROM checkpoint")
    elif how == "tables":
        change(begun, *(f"DROP TABLE {name}" for name in ("entry", "node", "checkpoint", "meta")))
    else:
        remove(begun)
        begun.ledger_path.touch()
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and kinds(found) == {"missing"}


def test_the_ledger_of_another_project(begun, cli, tmp_path):
    assert cli("init", tmp_path / "other").exit == 0
    other = projects.find(tmp_path / "other")
    grow(other, 30)
    with projects.use(other):
        assert cli("audit", "verify").exit == 0
    ledger.of(other).close()
    remove(begun)
    shutil.copyfile(other.ledger_path, begun.ledger_path)
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and {"tampered", "missing"} == kinds(found)
    forgotten(begun)
    assert kinds(cli("audit", "verify", "--json")) == {"tampered"}
    assert cli("audit", "checkpoint").exit == 1


def test_an_exchange_under_an_open_kernel(begun, cli, tmp_path):
    "The file is replaced while this process has the old one open"
    log = ledger.of(begun)
    assert log.size() == 8
    other = ledger.Ledger(tmp_path / "other.db")
    other.append("run.completed", "x")
    other.close()
    log._ask("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "other.db").replace(begun.ledger_path)
    assert kinds(cli("audit", "verify", "--json")) >= {"tampered"}


def test_what_this_machine_has_seen_is_an_anchor(begun, cli):
    assert cli("audit", "verify").exit == 0
    change(begun, *cut(6))
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and kinds(found) == {"truncated"}
    assert cli("audit", "checkpoint", "--json").json["error"]["kind"] == "finding"
    assert "truncated" in cli("status").out
    forgotten(begun)
    assert cli("audit", "verify").exit == 0, "another machine needs a checkpoint that was kept elsewhere"


def test_another_history_from_an_earlier_checkpoint(begun, cli):
    "The second signature over as many entries contradicts the first"
    assert cli("audit", "checkpoint").exit == 0
    change(begun, *cut(6))
    grow(begun, 9)
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and kinds(found) == {"tampered"}
    assert cli("audit", "checkpoint").exit == 1


def test_anchor_signs_no_contradiction(begun, cli, tmp_path):
    assert cli("audit", "anchor", f"{tmp_path / 'far'}/").exit == 0
    change(begun, *cut(6))
    forgotten(begun)
    refused = cli("audit", "anchor", f"{tmp_path / 'far'}/", "--json")
    assert refused.exit == 1 and "truncated" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER t AFTER INSERT ON entry BEGIN UPDATE entry SET payload=NULL WHERE seq=NEW.seq; END",
        "CREATE VIEW v AS SELECT * FROM entry",
        "CREATE TABLE more(x)",
        "CREATE INDEX odd ON entry(header)",
        "ALTER TABLE entry ADD COLUMN more TEXT",
        "INSERT INTO node VALUES (1, 77, zeroblob(32))",
        "INSERT INTO node VALUES (9, 0, zeroblob(32))",
        "INSERT INTO meta VALUES ('more', 'x')",
    ],
)
def test_what_a_ledger_does_not_have(begun, cli, sql):
    change(begun, sql)
    found = cli("audit", "verify", "--json")
    assert found.exit in (1, 4) and kinds(found) <= {"tampered", "unreadable"} and kinds(found)


def test_checkpoints_that_entries_speak_of(begun, cli):
    forgotten(begun)
    change(begun, "DELETE FROM checkpoint")
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and "that checkpoint is gone" in str(found.json["problems"])


def test_a_signature_of_an_earlier_version_without_its_checkpoint_is_noticed(begun, cli):
    "There the entry came first, so a crash in between looks the same"
    ledger.of(begun).append("audit.checkpointed", "work", {"after": 9})
    found = cli("audit", "verify", "--json")
    assert found.exit == 0 and kinds(found) == {"noticed"}
    assert "SOMETHING TO LOOK AT" in cli("audit", "verify").out


def test_an_anchored_root_that_is_another(begun, cli):
    ledger.of(begun).append("audit.anchored", "work", {"size": 6, "root": "ab" * 32, "to": "/far"})
    found = cli("audit", "verify", "--json")
    assert found.exit == 1 and "is another one" in str(found.json["problems"])


def test_redactions_are_counted_and_unsigned_ones_told(begun, cli):
    ledger.of(begun).redact(2, "asked for")
    found = cli("audit", "verify", "--json")
    told = [p["detail"] for p in found.json["problems"] if "blanked" in p["detail"]]
    assert found.exit == 0 and found.json["redacted"] == 1 and "without a key" in told[0]
    assert "1 payloads" in cli("audit", "verify").out
    assert cli("audit", "checkpoint").exit == 0
    signed = cli("audit", "verify", "--json")
    assert signed.json["redacted"] == 1 and "blanked" not in str(signed.json["problems"])


def test_a_new_key_in_the_settings(begun, cli):
    "It signs everything anew, and no entry that an older key signed speaks of it"
    forged = Key(99)
    begun.pin("audit", "public_key", f"{begun.settings.audit.public_key} {forged.pin}")
    log = ledger.of(begun)
    text = signed_note.sign(signed_note.Checkpoint(log.origin, log.size(), log.root()), forged)
    log._ask("INSERT INTO checkpoint VALUES (?, '', ?)", log.size(), text)
    found = cli("audit", "verify", "--json")
    assert found.exit == 0 and kinds(found) == {"noticed"} and forged.pin[:12] in str(found.json["problems"])
    assert cli("audit", "checkpoint").exit == 0, "signed with the old key, with both in mlops.toml"
    assert kinds(cli("audit", "verify", "--json")) == set()
    begun.pin("audit", "public_key", forged.pin)
    assert cli("audit", "verify").exit == 1, "an exchanged key signed nothing of what there is"


def test_a_new_key_does_not_vouch_for_itself(begun, cli, home):
    key_file = guard.signing.key_path()
    key_file.write_bytes(base64.b64encode(bytes([5]) * 32))
    begun.pin("audit", "public_key", f"{begun.settings.audit.public_key} {guard.signing.load().pin}")
    assert cli("audit", "checkpoint").exit == 0
    assert kinds(cli("audit", "verify", "--json")) == {"noticed"}


def test_an_old_project_is_known_from_its_next_checkpoint_on(project, cli):
    guard.adopt_key(project)
    grow(project, 2)
    assert cli("audit", "verify").exit == 0 and not project.settings.audit.ledger
    said = cli("audit", "checkpoint")
    assert said.exit == 0 and "this machine knows the ledger" in said.out and "mlops init" in said.out
    remove(project)
    assert kinds(cli("audit", "verify", "--json")) == {"missing"}


def test_an_old_project_is_pinned_by_init(project, cli):
    grow(project, 2)
    said = cli("init", ".")
    assert said.exit == 0 and "is pinned in mlops.toml" in said.out
    assert project.settings.audit.ledger == ledger.of(project).id


def test_a_clone_pins_its_own_ledger_beside(begun, cli, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(begun.root, clone, ignore=shutil.ignore_patterns(".mlops"))
    project = projects.find(clone)
    with projects.use(project):
        found = cli("audit", "verify", "--json")
        assert kinds(found) == {"missing"} and "mlops init" in str(found.json["problems"])
    said = cli("init", clone)
    assert said.exit == 0 and "beside" in said.out
    with projects.use(project):
        assert cli("audit", "verify").exit == 0 and len(project.settings.audit.ledger.split()) == 2


def test_a_new_project_in_the_folder_of_an_old_one(begun, cli, tmp_path, monkeypatch):
    assert cli("audit", "verify").exit == 0
    ledger.of(begun).close()
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(begun.root)
    assert cli("init", begun.root).exit == 0
    monkeypatch.chdir(begun.root)
    assert cli("audit", "verify").exit == 0


def test_the_sentence_says_who_could_do_what(begun, cli):
    (told,) = [p["detail"] for p in cli("audit", "verify", "--json").json["problems"] if p["kind"] == "unanchored"]
    assert "entries 0 to 5 are signed here: only whoever holds the key could change them" in told
    assert "could cut them off unseen, without a key" in told
    assert "entries 6 to 7 are not signed: whoever can write the file could change or cut them unseen" in told


# Anchors


def anchored(cli, where: Path) -> str:
    return cli("audit", "anchor", f"{where}/", "--json").json["kept"]


def test_two_projects_of_one_name_share_a_folder(home, tmp_path, cli):
    far = tmp_path / "far"
    kept = set()
    for parent in ("a", "b"):
        assert cli("init", tmp_path / parent / "churn").exit == 0
        project = projects.find(tmp_path / parent / "churn")
        project.pin("audit", "anchor", str(far))
        with projects.use(project):
            grow(project, 3)
            kept.add(anchored(cli, far))
            assert cli("audit", "anchor").exit == 0 and cli("audit", "verify", "--json").json["anchored"] > 0
    assert len(kept) == 2 and len(list(far.iterdir())) == 2
    for parent in ("a", "b"):
        with projects.use(projects.find(tmp_path / parent / "churn")):
            assert cli("audit", "verify").exit == 0 and cli("audit", "verify", "--anchor", far).exit == 0


def test_one_file_for_several_projects(home, tmp_path, cli):
    for name in ("a", "b"):
        assert cli("init", tmp_path / name).exit == 0
        project = projects.find(tmp_path / name)
        project.pin("audit", "anchor", str(tmp_path / "all.checkpoints"))
        with projects.use(project):
            assert cli("audit", "verify").exit == 0
            assert cli("audit", "anchor").exit == 0
    for name in ("a", "b"):
        with projects.use(projects.find(tmp_path / name)):
            for words in ([], ["--anchor", tmp_path / "all.checkpoints"]):
                found = cli("audit", "verify", "--json", *words)
                assert found.exit == 0 and found.json["anchored"] > 0


def test_an_anchor_of_another_ledger_is_no_anchor(begun, cli, tmp_path):
    assert cli("init", tmp_path / "other").exit == 0
    with projects.use(projects.find(tmp_path / "other")):
        kept = anchored(cli, tmp_path / "far")
    found = cli("audit", "verify", "--anchor", kept, "--json")
    assert found.exit == 1 and "belongs to another project" in str(found.json["problems"])


@pytest.mark.parametrize("name", ["../../escaped", "/etc/escaped", "a/b", "..", "x\u202ey", "n" * 300, "  "])
def test_no_name_leaves_the_folder(begun, cli, tmp_path, name):
    begun.pin("project", "name", name)
    far = tmp_path / "deep" / "far"
    kept = Path(anchored(cli, far))
    assert kept.parent == far and kept.name.isascii() and "escaped" not in str(kept.parent)
    assert cli("audit", "verify", "--anchor", kept).exit == 0


def test_a_name_for_checkpoints_that_is_set_later(begun, cli, tmp_path):
    kept = anchored(cli, tmp_path / "far")
    begun.pin("audit", "ident", "acme-churn")
    found = cli("audit", "verify", "--anchor", kept, "--json")
    assert found.exit == 0 and found.json["anchored"] > 0 and "acme-churn" in found.json["origin"]
    assert anchored(cli, tmp_path / "far") == kept and cli("audit", "verify", "--anchor", kept).exit == 0


def test_the_file_that_an_earlier_version_wrote_is_still_read(begun, cli, tmp_path):
    kept = Path(anchored(cli, tmp_path / "far"))
    kept.rename(kept.with_name("work-ledger.checkpoints"))
    begun.pin("audit", "anchor", str(kept.parent))
    assert cli("audit", "verify", "--json").json["anchored"] > 0
    change(begun, *cut(6))
    forgotten(begun)
    assert kinds(cli("audit", "verify", "--json")) == {"truncated"}


# Bundles


def test_a_bundle_shows_whose_it_is(begun, cli, tmp_path):
    bundle = tmp_path / "b.json"
    assert cli("audit", "export", bundle).exit == 0
    said = cli("audit", "verify", bundle)
    assert ledger.of(begun).origin in said.out and "mlops-nb-ledger/1" in said.out
    doc = json.loads(bundle.read_text())
    bundle.write_text(json.dumps({**doc, "format": "mlops-nb-ledger/9"}))
    other = cli("audit", "verify", bundle, "--json")
    assert other.exit == 2 and "format" in other.json["error"]["message"]
    bundle.write_text(json.dumps({**doc, "entries": [], "checkpoints": []}))
    empty = cli("audit", "verify", bundle, "--json")
    assert empty.exit == 1 and kinds(empty) == {"missing"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"origin":' + "[" * 100_000,
        '{"origin": "x", "public_keys": [], "checkpoints": [], "entries": ' + "[" * 9000 + "]" * 9000 + "}",
        '{"origin": "x", "public_keys": ["zz"], "checkpoints": [], "entries": []}',
        '{"origin": 3, "public_keys": [], "checkpoints": [7], "entries": []}',
    ],
    ids=["deep", "deep in a field", "deep and whole", "no key", "other types"],
)
def test_a_bundle_that_is_none_is_one_line(begun, cli, tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    said = cli("audit", "verify", tmp_path / "b.json")
    assert said.exit == 2 and said.err.count("\n") == 1 and len(said.err) < 600


def test_a_payload_that_is_no_text_is_exported(begun, cli, tmp_path):
    change(begun, ("UPDATE entry SET payload=? WHERE seq=1", (b"\xff\x00\xfe",)))
    assert cli("audit", "export", tmp_path / "b.json").exit == 0
    found = cli("audit", "verify", tmp_path / "b.json", "--json")
    assert found.exit == 1 and [p["seq"] for p in found.json["problems"] if p["kind"] == "tampered"] == [1]
    change(begun, "UPDATE entry SET commitment=7, header=CAST(x'ff7b' AS BLOB) WHERE seq=3")
    assert cli("audit", "export", tmp_path / "c.json").exit == 0
