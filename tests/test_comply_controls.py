"""Every automated control: it passes on a good project, fails when the fault is injected, and is never green without evidence."""

import json
import os
import sqlite3
import subprocess
from datetime import datetime, timedelta, UTC

import pytest
from mlops_nb import comply, guard
from mlops_nb.comply import collectors, controls, verbs
from mlops_nb.comply.facts import STATUSES
from mlops_nb.core import ledger

PIN = "sha256" + "0" * 58


def git(p, *words):
    subprocess.run(["git", "-C", str(p.root), *words], check=True, capture_output=True)


def notebook(source="x = 1", output=""):
    out = [{"output_type": "stream", "name": "stdout", "text": [output]}] if output else []
    cell = {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": [source], "outputs": out}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


@pytest.fixture
def good(project, tmp_path):
    "A project in which every control passes"
    p = project
    git(p, "init", "-q")
    guard.adopt_key(p)
    (p.root / "jobs/score").mkdir(parents=True)
    (p.root / "jobs/score/job.toml").write_text('name = "score"\n')
    (p.root / "jobs/score/requirements.lock").write_text("pandas==2.2.3\n")
    (p.root / "work.ipynb").write_text(notebook())

    def add(kind, subject, payload, digest=""):
        ledger.of(p).append(kind, subject, payload, digest=digest)

    add("dataset.added", "flights@1", {"purpose": "predict delays", "pii": [], "rows": 3}, PIN)
    add("job.converted", "score", {})
    add("job.started", "score", {"bracket": "b", "run": "r"})
    add("job.completed", "score", {"bracket": "b", "run": "r", "kwh": 0.1, "usd": 0.03, "seconds": 9.0})
    add("model.registered", "delay@1", {"data": "flights@1", "data_digest": PIN, "digest": PIN}, PIN)
    gates = [{"expr": "test.roc_auc >= 0.65", "value": 0.7, "ok": True}]
    add("model.promoted", "delay@1", {"alias": "champion", "reason": "better", "gates": gates})
    add("monitor.drift_checked", "winter summer", {"alarm": False})
    git(p, "add", "-A")
    git(p, "commit", "-q", "-m", "Definitions")
    comply.audit.anchor(str(tmp_path / "elsewhere") + "/")
    git(p, "add", "-A")
    return p


def statuses(p, **kw):
    return {r.id: r for r in comply.status(**kw).controls}


def test_everything_passes_with_entries_and_limits(good):
    found = statuses(good)
    assert {i: r.status for i, r in found.items()} == dict.fromkeys(collectors.every(), "pass"), {
        i: r.found for i, r in found.items() if r.status != "pass"
    }
    size = ledger.of(good).size()
    assert all(r.limit and r.clauses and r.fix for r in found.values())
    assert all(0 <= s < size for r in found.values() for s in r.evidence)
    without = {i for i, r in found.items() if not r.evidence}
    assert without == {
        "key-private",
        "definitions-committed",
        "notebooks-without-secrets",
    }  # their evidence lies in files


def cut(p):
    with sqlite3.connect(p.ledger_path) as db:
        db.execute("UPDATE entry SET header = replace(header, 'flights@1', 'flights@7')")


def rec(kind, subject, **payload):
    return lambda p: ledger.of(p).append(kind, subject, payload)


def loosen(p):
    (p.root / "jobs/score/requirements.lock").write_text("pandas>=2\n")
    git(p, "commit", "-q", "-a", "-m", "Any pandas")


FAULTS = {
    "ledger-intact": cut,
    "dataset-purpose": rec("dataset.added", "weather@1", purpose=" ", pii=[]),
    "dataset-classified": rec("dataset.added", "weather@1", purpose="x"),
    "model-lineage": rec("model.registered", "delay@2", digest=PIN),
    "promotion-reasoned": rec("model.promoted", "delay@2", alias="champion", reason=""),
    "job-locked": lambda p: loosen(p),
    "definitions-committed": lambda p: (p.root / "jobs/score/job.toml").write_text('name = "changed"\n'),
    "notebooks-without-secrets": lambda p: (p.root / "work.ipynb").write_text(
        notebook("x", "reply to ada@example.org")
    ),
    "energy-recorded": rec("run.completed", "delay", seconds=3.0),
}


def key():
    from mlops_nb.guard.signing import key_path

    return key_path()


FAULTS["key-private"] = lambda p: os.chmod(key(), 0o644)


@pytest.mark.parametrize("control", list(FAULTS))
def test_a_fault_turns_its_control_red_and_no_other_green(good, control):
    before = statuses(good)
    FAULTS[control](good)
    after = statuses(good)
    assert after[control].status == "fail", after[control]
    newly = {i for i in after if after[i].status == "fail" and before[i].status != "fail"}
    assert newly == {control}


def test_more_ways_to_fail(good):
    p = good
    (p.root / "jobs/score/requirements.lock").unlink()
    assert "no lock file" in statuses(p)["job-locked"].found
    (p.root / "work.ipynb").write_text(notebook('token = "gh' + "p_" + "a1B2" * 9 + '"'))
    r = statuses(p)["notebooks-without-secrets"]
    assert r.status == "fail" and "github_token in work.ipynb cell 0" in r.found and "a1B2" not in r.found
    os.remove(key())
    assert statuses(p)["key-private"].status == "fail"
    gate = {"expr": "auc > 0.9", "value": 0.5, "ok": False}
    ledger.of(p).append("model.promoted", "delay@1", {"reason": "hurry", "gates": [gate]})
    assert "failed 1 gates" in statuses(p)["promotion-reasoned"].found


def test_never_signed_and_never_anchored(project):
    ledger.of(project).append("dataset.added", "a@1", {})
    found = statuses(project)
    assert found["ledger-signed"].status == found["ledger-anchored"].status == "fail"
    ledger.of(project).append("model.promoted", "m@1", {"reason": "x"})
    assert statuses(project)["drift-watched"].status == "fail"


def in_days(p, days):
    "All controls, as if so many days had passed"
    s = verbs._sources(p)
    s.now = datetime.now(UTC) + timedelta(days=days)
    return {c.id: collectors.collect(c, s) for c in controls.catalogue()}


def test_evidence_grows_stale(good):
    found = in_days(good, 8)
    assert {i for i, r in found.items() if r.status == "stale"} == {"ledger-signed", "ledger-anchored", "drift-watched"}
    found = in_days(good, 366)
    assert {i for i, r in found.items() if r.status == "stale"} >= {
        "dataset-purpose",
        "dataset-classified",
        "model-lineage",
        "promotion-reasoned",
    }


def test_open_work_is_unknown_first_and_a_failure_a_day_later(good):
    ledger.of(good).append("job.started", "score", {"bracket": "lost"})
    now = statuses(good)["work-closed"]
    assert now.status == "unknown" and now.evidence == [ledger.of(good).size() - 1]
    assert in_days(good, 2)["work-closed"].status == "fail"


def test_what_cannot_be_looked_at_is_unknown(good, monkeypatch):
    (good.root / "broken.ipynb").write_text("{not json")
    assert statuses(good)["notebooks-without-secrets"].status == "unknown"
    monkeypatch.setenv("PATH", "/nonexistent")
    r = statuses(good)["definitions-committed"]
    assert r.status == "unknown" and "git is not installed" in r.found


def test_an_unreadable_ledger_is_unknown_not_a_pass(good):
    class Broken:
        entries = 0
        problems = [type("P", (), {"kind": "unreadable", "seq": 0})]

    s = verbs._sources(good)
    s.verify = lambda: Broken
    by = {c.id: c for c in controls.catalogue()}
    assert collectors.collect(by["ledger-intact"], s).status == "unknown"


BROKEN = {  # control -> type and subject of an entry that it needs and that does not fit
    "dataset-purpose": ("dataset.added", "flights@1", {"purpose": 7}),
    "dataset-classified": ("dataset.added", "flights@1", {"purpose": "x", "pii": 7}),
    "model-lineage": ("model.registered", "delay@1", {"data_digest": []}),
    "promotion-reasoned": ("model.promoted", "delay@1", {"gates": "all"}),
    "drift-watched": ("monitor.drift_checked", "delay@champion", {"alarm": "no"}),
    "energy-recorded": ("run.completed", "delay", {"kwh": "much"}),
    "ledger-signed": ("audit.checkpointed", "p", {"after": "all"}),
    "ledger-anchored": ("audit.anchored", "p", {"size": "all"}),
    "work-closed": ("job.completed", "score", {"bracket": 7}),
}
TOGETHER = {  # they need the same entries
    "dataset-purpose": {"dataset-classified"},
    "dataset-classified": {"dataset-purpose"},
    "promotion-reasoned": {"work-closed"},
    "model-lineage": {"work-closed"},
    "energy-recorded": {"work-closed"},
    "work-closed": {"energy-recorded"},
}


@pytest.mark.parametrize("control", list(BROKEN))
def test_evidence_that_does_not_fit_is_unknown_and_the_others_go_on(good, control):
    seq = ledger.of(good).append(*BROKEN[control]).seq
    found = statuses(good)
    assert found[control].status == "unknown" and found[control].evidence == [seq], found[control]
    assert f"entry {seq}" in found[control].found
    assert {i for i, r in found.items() if r.status != "pass"} == {control} | TOGETHER.get(control, set())


def test_redacted_evidence_is_unknown_and_a_proven_failure_stays_one(good):
    log = ledger.of(good)
    log.redact(next(log.events("dataset.added")).seq, "asked for")
    assert statuses(good)["dataset-purpose"].status == "unknown"
    log.append("dataset.added", "weather@1", {"pii": []})
    assert statuses(good)["dataset-purpose"].status == "fail"
    log.append("dataset.added", "flights@1", {"purpose": "delays", "pii": []})  # stands instead of what was redacted
    log.append("dataset.added", "weather@1", {"purpose": "weather", "pii": []})
    assert statuses(good)["dataset-purpose"].status == "pass"


@pytest.mark.parametrize("change", ["header='{'", "header=x'ff'", "payload=x'ff00'"])
def test_a_broken_entry_fails_the_ledger_and_nothing_that_does_not_need_it(good, cli, change):
    seq = ledger.of(good).append("feature.materialized", "hourly", {}).seq
    comply.audit.checkpoint()
    ledger.of(good).close()
    with sqlite3.connect(good.ledger_path) as db:
        db.execute(f"UPDATE entry SET {change} WHERE seq={seq}")
    db.close()
    found = statuses(good)
    assert found["ledger-intact"].status == "fail"
    assert {i for i, r in found.items() if r.status != "pass"} == {"ledger-intact"}
    assert f"{seq}" in cli("audit", "log").out
    shown = cli("audit", "show", seq, "--json")
    assert shown.exit == 0 and shown.json["entries"][0]["why"]


def test_no_index_hides_evidence(good, monkeypatch):
    "Collectors look at every entry, so an entry that an index leaves out counts"
    asked = []
    real = ledger.Ledger.entries

    def entries(log, wanted, **how):
        asked.append(how["evidence"])
        return real(log, wanted, **how)

    monkeypatch.setattr(ledger.Ledger, "entries", entries)
    statuses(good)
    assert asked and all(asked)


def test_a_control_without_a_collector_is_unknown(good, monkeypatch):
    monkeypatch.setattr(collectors, "every", dict)
    assert {r.status for r in statuses(good).values()} == {"unknown"}


def test_an_empty_project_has_nothing_to_pass(project):
    found = statuses(project)
    assert {
        r.status
        for i, r in found.items()
        if i.startswith(("dataset", "model", "promotion", "job", "drift", "energy", "ledger", "work"))
    } == {"not_applicable"}


def test_no_repository_is_unknown(project):
    assert statuses(project)["definitions-committed"].status in ("unknown", "fail")


@pytest.mark.parametrize("framework", ["gdpr", "hipaa", "soc2", "eu_ai_act", "iso_42001", "nist_ai_rmf"])
def test_frameworks_choose_controls(good, cli, framework):
    a = cli("comply", "status", "--framework", framework, "--json")
    assert a.exit == 0 and a.json["controls"] and set(a.json["counts"]) == set(STATUSES)
    assert all(
        framework in c["clauses"] and {"id", "status", "evidence", "limit"} <= c.keys() for c in a.json["controls"]
    )
    assert sum(a.json["counts"].values()) == len(a.json["controls"])


def test_shell_forms(good, cli):
    bad = cli("comply", "status", "--framework", "gpdr", "--json")
    assert bad.exit == 2 and "did you mean `gdpr`" in bad.json["error"]["hint"]
    assert cli("comply", "show", "ledger-intact", "--json").json["controls"][0]["status"] == "pass"
    assert cli("comply", "show", "ledger-intakt").exit == 2
    assert len(cli("comply", "list", "--json").json["controls"]) == len(collectors.every())
    text = cli("comply", "status").out
    assert "does not say that an organisation complies" in text and text.strip().split("\n")[-1].startswith(
        "next: mlops "
    )
    assert len(comply.status().panel().html()) < 30_000


def test_the_catalogue_is_complete():
    found = controls.catalogue()
    assert {c.id for c in found} == set(collectors.every())
    assert all(
        c.severity in ("critical", "high", "medium", "low")
        and c.fresh_days > 0
        and c.limit
        and c.evidence
        and all(c.clauses.values())
        for c in found
    )
