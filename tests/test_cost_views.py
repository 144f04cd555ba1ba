"""Cost: real entries become rows, every slice adds up to the same total, nothing is counted twice."""

import random

import pytest
from mlops_nb import cost
from mlops_nb.core import ledger, verbs
from mlops_nb.core.errors import BadInput
from mlops_nb.core.events import readable
from mlops_nb.cost import views

BY = views.BY


def record(p, kind, subject, **payload):
    return ledger.of(p).append(kind, subject, payload).seq


@pytest.fixture
def busy(project):
    "A job that trained a model inside, a run of its own, one failed job and one without a price"
    record(project, "run.completed", "delay", run="r1", parent="j1", usd=0.02, kwh=0.01, seconds=60.0)
    cells = [
        {"index": 0, "usd": 0.004, "kwh": 0.001, "seconds": 10},
        {"index": 1, "usd": 0.021, "kwh": 0.011, "seconds": 62},
    ]
    record(project, "job.completed", "train", run="j1", usd=0.03, kwh=0.016, seconds=100.0, cells=cells)
    record(project, "model.registered", "delay@1", run="r1")
    record(project, "run.completed", "alone", run="r2", usd=0.5, kwh=0.2, seconds=600.0)
    record(project, "job.failed", "score", run="j2", usd=0.001, kwh=0.0004, seconds=3.0, cells=[])
    record(project, "job.completed", "score", run="j3", usd=None, seconds=4.0, cells=[])
    return project


@pytest.mark.parametrize("by", BY)
def test_every_slice_has_the_same_total(busy, by):
    t = cost.show(by=by)
    assert t.total_usd == pytest.approx(0.531, abs=1e-12)
    assert sum(r.usd for r in t.rows) == pytest.approx(t.total_usd, abs=1e-12)
    assert sum(r.kwh for r in t.rows) == pytest.approx(0.2164, abs=1e-12)
    assert t.unpriced == 1 and all(r.evidence for r in t.rows)
    assert cost.total(ledger.of(busy).events()) == pytest.approx(0.531, abs=1e-12)


def test_rows_by_hand(busy):
    rows = {by: {r.key: r for r in cost.show(by=by).rows} for by in BY}
    assert rows["model"]["delay"].usd == pytest.approx(0.02) and rows["model"]["-"].usd == pytest.approx(0.511)
    assert rows["job"]["train"].usd == pytest.approx(0.03) and rows["job"]["score"].usd == pytest.approx(0.001)
    assert rows["run"]["j1"].usd == pytest.approx(0.01) and rows["run"]["r1"].usd == pytest.approx(0.02)
    assert rows["cell"]["train[1]"].usd == pytest.approx(0.021) and rows["cell"]["train[0]"].seconds == 10
    assert rows["job"]["train"].idle_usd == pytest.approx(0.005)
    assert rows["job"]["score"].unpriced == 1 and rows["job"]["score"].count == 2
    assert len(rows["user"]) == 1 and rows["endpoint"].keys() == {"-"}


def test_shell_keys(busy, cli):
    a = cli("cost", "show", "--by", "job", "--json")
    assert a.exit == 0 and a.json["ok"] and a.json["total_usd"] == pytest.approx(0.531)
    assert {"key", "usd", "kwh", "idle_usd"} <= a.json["rows"][0].keys()
    text = cli("cost", "show").out
    assert (
        "estimated" in text and "1 without a price" in text and text.strip().split("\n")[-1].startswith("next: mlops ")
    )


def test_since(busy, cli):
    assert cost.show(since="1h").total_usd == pytest.approx(0.531)
    assert cost.show(since="2999-01-01").total_usd == 0
    bad = cli("cost", "show", "--since", "yesterday", "--json")
    assert bad.exit == 2 and bad.json["error"]["kind"] == "input" and "yesterday" in bad.json["error"]["message"]
    assert cli("cost", "show", "--by", "jobs").exit == 2


def test_nothing_yet(project, cli):
    a = cli("cost", "show", "--json")
    assert a.exit == 0 and a.json["rows"] == [] and a.json["total_usd"] == 0


def test_a_forged_payload_breaks_no_fold(project):
    "Whatever stands in a payload, the fold answers and adds up; what does not fit its type is left out"
    rng = random.Random(7)
    odd = [None, "1", float("inf"), -1.0, True, [], {}, 1e308, 0.25]
    log = ledger.of(project)
    for n in range(60):
        p = {"usd": 0.25, "kwh": 0.5, "seconds": 1.0, "run": f"r{n % 7}", "parent": f"r{n % 11}", "cells": []}
        p[rng.choice([*p, "model", "job"])] = rng.choice(odd)
        if n % 3 == 0:
            p["cells"] = [{"index": 0, "usd": rng.choice(odd)}, *rng.choice([[], ["x", None]])]
        if p["usd"] in (-1.0, 1e308):
            p["usd"] = 0.5
        log.append(rng.choice(["job.completed", "run.failed", "feature.joined"]), f"s{n % 5}", p)
    unread = []
    assert len(list(readable(log.events(), unread))) > 9 and len(unread) > 9
    totals = [cost.show(by=by).total_usd for by in BY]
    assert max(totals) - min(totals) < 1e-9 and totals[0] > 0
    assert all(len(cost.show(by=by).panel().html()) < 50_000 for by in BY)


def test_a_parent_that_is_its_own_child(project):
    record(project, "job.completed", "loop", run="j", parent="j", usd=0.1, seconds=1.0)
    assert cost.show().total_usd == pytest.approx(0.1)


def test_wrong_slice_in_python(project):
    with pytest.raises(BadInput):
        verbs.call("cost.show", by="colour")
