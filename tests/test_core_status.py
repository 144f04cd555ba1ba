"""`status` and `doctor` collect what the pillars say; entries that cannot be read take nothing down and are named."""

import sqlite3
import time

import pytest
from mlops_nb.app.verbs import doctor, status
from mlops_nb.core import ledger, remembered
from mlops_nb.core.contributions import Check
from mlops_nb.core.errors import ToolFailed
from mlops_nb.data.events import DatasetAdded
from mlops_nb.feature.events import FeatureAdded, FeatureMaterialized
from mlops_nb.job.events import JobCompleted, JobConverted, JobStarted
from mlops_nb.model.events import ModelFailed, ModelLoggingStarted, ModelRegistered, RunCompleted


@pytest.fixture
def busy(project):
    "A project with something of everything"
    for payload, subject in (
        (DatasetAdded(rows=3), "flights@1"),
        (FeatureAdded(), "weather@1"),
        (FeatureMaterialized(late=3), "weather@1"),
        (JobConverted(), "score"),
        (JobStarted(bracket="a"), "score"),
        (JobCompleted(bracket="a", usd=0.5), "score"),
        (JobStarted(bracket="b"), "score"),
        (RunCompleted(usd=0.25), "delay"),
        (ModelRegistered(version=1), "delay@1"),
        (ModelFailed(message="ONNX differs"), "fraud@1"),
    ):
        ledger.record(project, payload, subject=subject)
    return project


def test_the_card(busy, cli):
    said = cli("status", "--json")
    assert said.exit == 0, said.err
    card = said.json
    assert {"root", "counts", "cost_usd_today", "alerts", "ledger", "recent", "unread"} <= set(card)
    assert card["counts"] == {"datasets": 1, "features": 1, "models": 1, "runs": 2, "jobs": 1}
    assert card["cost_usd_today"] == pytest.approx(0.75)
    assert [(alert["kind"], alert["subject"]) for alert in card["alerts"]] == [
        ("open", "score"),
        ("late", "weather@1"),
        ("failed", "fraud@1"),
    ]
    assert card["alerts"][0]["message"].startswith("job.started at ") and "(entry 6)" in card["alerts"][0]["message"]
    assert card["ledger"] == {
        "entries": 10,
        "state": "not signed yet",
        "last_checkpoint": None,
        "verified": "all 10 entries verified now",
    }
    assert [event["seq"] for event in card["recent"]] == [9, 8, 7, 6, 5]
    assert card["unread"] == {"count": 0, "last": []} and "could not be read" not in cli("status").out


def test_what_cannot_be_read_is_named(busy, cli):
    "A payload that does not fit, one that was redacted, a type of nobody, a broken header"
    log = ledger.of(busy)
    log.append("feature.materialized", "weather@1", {"late": "many"})
    ledger.record(busy, JobCompleted(usd=4.0), subject="score")
    log.redact(11, "asked for")
    ledger.record(busy, DatasetAdded(), subject="stranger@1")
    ledger.record(busy, DatasetAdded(), subject="lost@1")
    db = sqlite3.connect(log.path)
    db.execute("UPDATE entry SET header=replace(header, 'dataset.added', 'stranger.came') WHERE seq=13")
    db.execute("UPDATE entry SET header='{' WHERE seq=14")
    db.commit()
    db.close()
    said = cli("status", "--json")
    assert said.exit == 0, said.err
    unread = said.json["unread"]
    assert unread["count"] == 4
    assert [(entry["seq"], entry["type"]) for entry in unread["last"]] == [
        (10, "feature.materialized"),
        (11, "job.completed"),
        (13, "stranger.came"),
        (14, ""),
    ]
    assert [entry["why"] for entry in unread["last"]][1:3] == ["redacted", "no installed package declares its type"]
    assert unread["last"][3]["why"].startswith("the header: ")
    text = cli("status").out
    assert "4 entries could not be read: 10 (Expected" in text and "11 (redacted)" in text
    assert said.json["counts"]["datasets"] == 1 and said.json["cost_usd_today"] == pytest.approx(0.75)
    assert said.json["alerts"][0]["kind"] == "ledger" and "tampered at entry 1" in said.json["alerts"][0]["message"]
    assert cli("status", "--json").exit == 0


@pytest.fixture
def no_leftovers(monkeypatch):
    "MLflow is not asked"
    monkeypatch.setattr("mlops_nb.model.verbs.leftovers", lambda project, apply: [])


def test_the_doctor_asks_in_the_order_of_the_street(busy, no_leftovers):
    ledger.record(busy, ModelLoggingStarted(bracket="m"), subject="price@1")
    checks = {check.name: check for check in doctor().checks}
    assert list(checks) == (
        "python versions git disk settings writable ledger brackets services key datasets features models".split()
    )
    assert checks["ledger"].detail == "11 entries verified"
    assert checks["brackets"].detail.startswith("score: job.started at "), "what models begin is said by their own line"
    assert checks["features"].fix == "mlops feature materialize weather --full"
    assert remembered._recall(ledger.of(busy)).size == 11, "status may go back to this"


def test_an_error_of_one_check_hides_no_other(busy, no_leftovers, monkeypatch):
    def broken(project, kind):
        raise ToolFailed("DVC is gone", "mlops init")

    monkeypatch.setattr("mlops_nb.core.refs.registered", broken)
    checks = {check.name: check for check in doctor().checks}
    assert len(checks) == 13
    assert checks["datasets"] == Check("datasets", False, "DVC is gone", "mlops init")


def test_a_long_ledger_is_looked_at_quickly(project):
    "Bounds are four times what was measured on a quiet machine"
    log = ledger.of(project)
    for _ in range(25):
        log.append_many([ledger.new(JobCompleted(run="score-1", usd=0.1), "score")] * 1000)
    status()
    ledger.record(project, JobStarted(bracket="z"), subject="score")
    began = time.process_time()
    card = status()
    assert time.process_time() - began < 0.12
    assert card.counts["runs"] == 25_000 and card.ledger.verified == "not verified on this machine yet"
    remembered.remember(log, log.verify())
    ledger.record(project, JobStarted(bracket="y"), subject="score")
    assert "only its stored root compared" in status().ledger.verified
