"""Cost: real entries become rows, every slice adds up to the same total, nothing is counted twice."""

import random
from datetime import UTC, datetime, timedelta
from operator import add, sub

import pytest
from counts import count
from mlops_nb import cost
from mlops_nb.core import identity, ledger, verbs
from mlops_nb.core.errors import BadInput
from mlops_nb.core.payloads import Work
from mlops_nb.cost import views
from mlops_nb.model.events import ModelRegistered

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


FITS = {
    "usd": (None, 0.25, -1.0, 1e308),
    "run": ("", "r"),
    "parent": ("", "x"),
    "cells": ([], [{"index": 0, "usd": 0.1}]),
}
ODD = {"usd": ("1", True, [], {}), "run": (1, None, []), "parent": (0.5, {}), "cells": ("x", {}, ["x"], [{"usd": "y"}])}


def test_a_payload_that_does_not_fit_is_reported_and_not_folded(project):
    rng, odd, paid = random.Random(7), [], 0.0
    for n in range(60):
        payload = {name: rng.choice(values) for name, values in FITS.items()}
        payload["run"] += str(n)
        if n % 3 == 0:
            name = rng.choice(list(ODD))
            payload[name] = rng.choice(ODD[name])
        entry = ledger.of(project).append(rng.choice(["job.completed", "job.failed"]), f"s{n % 5}", payload)
        if n % 3 == 0:
            odd.append(entry.seq)
        elif payload["usd"] == 0.25:
            paid += 0.25
    tables = [cost.show(by=by) for by in BY]
    assert {t.unread for t in tables} == {len(odd)}
    assert all([skipped.seq for skipped in t.last_unread] == odd[-20:] for t in tables)
    assert all(t.total_usd == pytest.approx(paid, abs=1e-9) for t in tables)
    assert all(not set(odd) & set(row.evidence) for t in tables for row in t.rows)
    assert all(len(t.panel().html()) < 50_000 for t in tables)
    assert cost.views.table(ledger.of(project).events(), "job").unread == len(odd)


def test_the_panel_names_what_was_not_read(project, cli):
    record(project, "job.completed", "train", run="j1", usd="much")
    assert "1 entry could not be read: entry 0 job.completed" in cli("cost", "show").out
    record(project, "job.completed", "train", run="j2", usd=0.5)
    ledger.of(project).redact(1, "asked for")
    a = cli("cost", "show", "--by", "job", "--json").json
    assert a["rows"] == [] and a["unread"] == 2 and a["last_unread"][1]["why"] == "redacted"


class Plain:
    "The rules without a fold: everything in memory, oldest first"

    def __init__(self, event):
        p = event.payload
        self.event, self.payload = event, p
        self.is_job = event.type.startswith("job.")
        self.run = p.run or event.subject
        self.usd, self.kwh, self.seconds = (max(0.0, x or 0.0) for x in (p.usd, p.kwh, p.seconds))
        self.unpriced = int(p.usd is None)
        self.cells = p.cells if self.is_job else []
        self.idle = max(0.0, self.usd - sum(c.usd or 0.0 for c in self.cells)) if self.cells else 0.0
        if p.idle_usd is not None:
            self.idle = p.idle_usd
        self.parts, self.around = (0.0, 0.0, 0.0), None

    @property
    def job(self):
        w = self if self.is_job or self.around is None else self.around
        return w.payload.job if getattr(w.payload, "job", "") else w.event.subject.split("@")[0] if w.is_job else "-"


def plain_works(events, net=True):
    works = [Plain(e) for e in events if isinstance(e.payload, Work)]
    owner = {w.run: w for w in works if w.is_job}
    for w in works:
        w.usd, w.kwh, w.seconds = map(max, (w.usd, w.kwh, w.seconds), w.parts)
        top = owner.get(w.payload.parent)
        if top is not None and top.event.seq > w.event.seq:
            w.around = top
            top.parts = tuple(map(add, top.parts, (w.usd, w.kwh, w.seconds)))
    if not net:
        return [w for w in works if w.around is None]
    for w in works:
        w.usd, w.kwh, w.seconds = map(sub, (w.usd, w.kwh, w.seconds), w.parts)
    return works


def plain_shares(w):
    "(key, usd, kwh, idle, seconds) of the cells, then of the rest"
    left = [w.usd, w.kwh, w.seconds]
    for c in w.cells:
        share = [min(have, x or 0.0) for have, x in zip(left, (c.usd, c.kwh, c.seconds), strict=True)]
        left = [have - x for have, x in zip(left, share, strict=True)]
        yield f"{w.job}[{c.index}]", share[0], share[1], 0.0, share[2]
    yield "-", left[0], left[1], min(w.idle, left[0]), left[2]


def plain_table(events, by, since):
    "Key -> [usd, kwh, idle, seconds, unpriced, entries], and how many works had no price"
    models = {e.payload.run: e.subject.split("@")[0] for e in events if isinstance(e.payload, ModelRegistered)}
    works = [w for w in plain_works(events, net=by != "cell") if w.event.time >= since]
    rows = {}
    for w in works:
        if by == "cell":
            shares = list(plain_shares(w))
        else:
            model = getattr(w.payload, "model", "") or models.get(w.run, "-")
            keys = {"run": w.run, "job": w.job, "model": model, "endpoint": "-", "user": w.event.actor or "-"}
            shares = [(keys[by], w.usd, w.kwh, w.idle, w.seconds)]
        for key, *amounts in shares:
            row = rows.setdefault(key, [0.0, 0.0, 0.0, 0.0, 0, []])
            row[:4] = map(add, row[:4], amounts)
            if w.event.seq not in row[5]:
                row[4] += w.unpriced
                row[5].append(w.event.seq)
    for row in rows.values():
        row[2] = min(row[2], row[0])
    return rows, sum(w.unpriced for w in works)


def some_ledger(p, rng, monkeypatch, entries):
    "Jobs in jobs, runs in them and alone, some that never end, without a price, redacted, or unreadable"
    log, clock, open_jobs, runs = ledger.of(p), [datetime(2026, 3, 1, tzinfo=UTC)], [], []

    def now():
        clock[0] += timedelta(minutes=rng.randrange(1, 200))
        return clock[0].strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    monkeypatch.setattr(ledger, "_now", now)
    monkeypatch.setattr(identity, "actor", lambda: (rng.choice(["u-1", "u-2"]), "claimed"))

    def spent():
        usd = rng.choice([None, 0.0, rng.random(), rng.random()])
        return {"usd": usd, "kwh": rng.random(), "seconds": rng.random() * 100, "energy": rng.choice(["rapl", "model"])}

    first = 100 * log.size()  # no number twice
    for n in range(first, first + entries):
        kind, parent = rng.random(), rng.choice([*open_jobs, ""])
        if kind < 0.25:
            open_jobs.append(f"j{n}")
        elif kind < 0.5:
            end = rng.choice(["run.completed", "run.failed", "run.aborted"])
            log.append(end, f"model{n % 3}", {"run": f"r{n}", "parent": parent, **spent()})
            runs.append(f"r{n}")
        elif kind < 0.8 and open_jobs:
            run = open_jobs.pop(rng.randrange(len(open_jobs)))
            cells = [
                {"index": rng.randrange(4), "usd": rng.random() / 4, "seconds": 3.0} for _ in range(rng.randrange(4))
            ]
            around = parent if parent != run else ""
            more = {
                "cells": cells,
                "idle_usd": rng.choice([None, 0.01]),
                "model": rng.choice(["", "fraud"]),
                "job": rng.choice(["", "named"]),
            }
            log.append(
                rng.choice(["job.completed", "job.failed"]),
                f"job{n % 4}",
                {"run": run, "parent": around, **more, **spent()},
            )
        elif kind < 0.9 and runs:
            log.append("model.registered", f"delay{n % 2}@{n}", {"run": rng.choice(runs)})
        elif kind < 0.95:
            log.append("run.completed", "odd", {"run": f"odd{n}", "usd": "much"})
        elif log.size():
            log.redact(rng.randrange(log.size()), "asked for")


def assert_same(table, wanted, unpriced):
    assert {row.key for row in table.rows} == set(wanted)
    for row in table.rows:
        usd, kwh, idle, seconds, without, entries = wanted[row.key]
        got = (row.usd, row.kwh, row.idle_usd, row.seconds)
        assert got == pytest.approx((usd, kwh, idle, seconds), rel=1e-12, abs=1e-12), row.key
        assert (row.count, row.unpriced, row.evidence) == (len(entries), without, entries[-100:]), row.key
    assert table.unpriced == unpriced
    assert [row.usd for row in table.rows] == sorted((row.usd for row in table.rows), reverse=True)


@pytest.mark.parametrize("seed", range(count(6, 200)))
def test_the_fold_says_what_plain_sums_say(project, monkeypatch, seed):
    "From a kept place, from one pass and from events: the same, for every slice and period"
    rng = random.Random(seed)
    for _ in range(3):  # what was kept goes on
        some_ledger(project, rng, monkeypatch, 80)
        events = list(ledger.of(project).events())
        for by in BY:
            for since in ("", "2026-03-04T00:00:00", "2026-03-04", "2026-03-05T07:30:00", "2999-01-01"):
                wanted, unpriced = plain_table(events, by, since)
                assert_same(views.of_project(project, by, since), wanted, unpriced)
                assert_same(views.table(iter(events), by, since), wanted, unpriced)
        in_all = sum(w.usd for w in plain_works(events))
        assert cost.total(events) == pytest.approx(in_all, rel=1e-12)


def test_a_kept_state_is_small_and_names_the_last_hundred(project):
    log = ledger.of(project)
    log.append_many([ledger.New("run.completed", f"r{n}", {"run": f"r{n}", "usd": 0.001}) for n in range(500)])
    assert cost.show(by="job").rows[0].evidence == list(range(400, 500))
    kept = ledger.folds_of(log.path) / "cost.by_job.msgpack"
    assert kept.stat().st_size < 5_000 and kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("subject", ["x", "-1", "99"])
def test_a_forged_redaction_ends_no_fold(project, subject):
    ledger.of(project).append("entry.redacted", subject, {})
    record(project, "run.completed", "fit", run="r1", usd=0.5)
    assert cost.show(by="job").total_usd == cost.show(by="run").total_usd == 0.5
    ledger.of(project).append("entry.redacted", subject, {})
    record(project, "run.completed", "fit", run="r2", usd=0.5)
    assert cost.show(by="job").total_usd == cost.show(by="run").total_usd == 1.0


def test_a_job_inside_a_job_is_counted_once(project):
    record(project, "run.completed", "fit", run="r", parent="inner", usd=0.1)
    record(project, "job.completed", "inner", run="inner", parent="outer", usd=0.3)
    record(project, "job.completed", "outer", run="outer", usd=0.5)
    rows = {row.key: row.usd for row in cost.show(by="job").rows}
    assert rows == pytest.approx({"inner": 0.3, "outer": 0.2})


def test_a_parent_that_is_its_own_child(project):
    record(project, "job.completed", "loop", run="j", parent="j", usd=0.1, seconds=1.0)
    assert cost.show().total_usd == pytest.approx(0.1)


def test_wrong_slice_in_python(project):
    with pytest.raises(BadInput):
        verbs.call("cost.show", by="colour")
