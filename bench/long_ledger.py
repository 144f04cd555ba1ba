"""A long ledger: what a look at it costs the first time, again, and after one more entry.

The same mix of entries each time, made through the product's own append. CPU seconds throughout; what keeps its place must
not grow with the ledger."""

import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from unittest import mock

from bench import harness
from bench.harness import row
from mlops_nb.core import ledger, remembered, segments
from mlops_nb.core import project as projects
from mlops_nb.core.events import SegmentSealed, VerbFailed
from mlops_nb.core.payloads import Payload
from mlops_nb.core.project import Project
from mlops_nb.data.events import DatasetAdded
from mlops_nb.job.events import CellCost, Delivery, JobCompleted, JobFailed, JobStarted, PeopleNotified
from mlops_nb.model.events import ModelRegistered, RunCompleted, RunStarted
from mlops_nb.monitor.events import ColumnVerdict, DriftChecked, WindowProfiled

MODELS = ("delay", "fraud", "churn", "price", "eta", "spam", "rank", "risk")
USED = (20, 10, 5, 4, 3, 2, 1, 1)  # How often each of them scores
BATCH = 20_000  # Entries in one commit
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=28.7)  # Between two entries


class Mix:
    "The entries of a busy project, the same ones each time"

    def __init__(self) -> None:
        self.rng = random.Random(7)
        self.clock = BEGAN

    def now(self) -> str:
        self.clock += STEP
        return self.clock.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def digest(self, digits: int = 64) -> str:
        return f"{self.rng.getrandbits(4 * digits):0{digits}x}"

    def segment(self, seq: int) -> Iterator[ledger.New]:
        "A sealed segment of predictions"
        name = self.rng.choices(MODELS, USED)[0]
        at = (BEGAN + seq * STEP).isoformat(timespec="microseconds")
        path = f".mlops/segments/predictions/{name}/{seq:09}.parquet"
        told = SegmentSealed(path=path, rows=1000, bytes=48_211, first=at, last=at, columns=14)
        yield ledger.new(told, f"predictions/{name}", self.digest())

    def training(self, parent: str) -> Iterator[ledger.New]:
        "A training run inside a job"
        model, run, seconds = self.rng.choice(MODELS), self.digest(32), self.rng.random() * 60
        bracket = self.digest(16)
        metrics: dict[str, float | None] = {"test.brier": self.rng.random(), "test.roc_auc": self.rng.random()}
        yield ledger.new(RunStarted(bracket=bracket, run=run, parent=parent, experiment=model), model)
        told = RunCompleted(bracket=bracket, run=run, parent=parent, experiment=model, metrics=metrics)
        told.params = {"learning_rate": "0.1", "max_iter": "150"}
        told.seconds, told.usd, told.kwh, told.cpu_s = seconds, seconds * 4e-7, seconds * 1e-6, seconds
        yield ledger.new(told, model)

    def cells(self) -> list[CellCost]:
        found = []
        for index in range(self.rng.randrange(2, 13)):
            seconds = self.rng.random() * 3
            usage = {"seconds": seconds, "usd": seconds * 3.5e-7, "kwh": seconds * 1.2e-6, "cpu_s": seconds * 0.9}
            found.append(CellCost(index=index, peak_mb=190.0 + seconds, **usage))
        return found

    def job(self, seq: int) -> Iterator[ledger.New]:
        "A job of a few cells, with the training runs inside it; few fail"
        name, bracket = f"job{self.rng.randrange(25):02}", self.digest(16)
        run = f"{name}-{seq}"
        parameters = {"month": self.rng.randrange(1, 13)}
        began = JobStarted(bracket=bracket, run=run, parameters=parameters, source_digest=self.digest())
        yield ledger.new(began, name)
        for _ in range(self.rng.choice((0, 0, 0, 1, 1, 3))):
            yield from self.training(run)
        ended = JobCompleted if self.rng.random() < 0.97 else JobFailed
        told = ended(bracket=bracket, run=run, job=name, cells=self.cells(), digest=self.digest(), form="fork")
        told.seconds = 1.05 * sum(cell.seconds or 0.0 for cell in told.cells)
        told.usd = 1.05 * sum(cell.usd or 0.0 for cell in told.cells)
        told.kwh = 1.05 * sum(cell.kwh or 0.0 for cell in told.cells)
        told.idle_usd = told.usd - sum(cell.usd or 0.0 for cell in told.cells)
        told.energy = "model"
        yield ledger.new(told, name)

    def other(self, seq: int) -> Iterator[ledger.New]:
        "Comparisons, notices, profiles, refusals, datasets and models"
        name, kind = self.rng.choice(MODELS), self.rng.random()
        told: Payload
        if kind < 0.35:
            verdicts = [ColumnVerdict(column, "ks", 0.01, 0.1, column == "hour") for column in ("hour", "temp", "wind")]
            told = DriftChecked(reference="flights@1", rows_ref=77_029, rows_cur=84_124, columns=10, verdicts=verdicts)
            yield ledger.new(told, f"{name}@champion")
        elif kind < 0.65:
            told = PeopleNotified(fire=f"{name}@{seq}", told=[Delivery("json", True)])
            yield ledger.new(told, f"job{self.rng.randrange(25):02}")
        elif kind < 0.85:
            yield ledger.new(WindowProfiled(rows=84_124, columns=10), name)
        elif kind < 0.95:
            yield ledger.new(VerbFailed(kind="finding", message="x" * 200), "job.run")
        elif kind < 0.98:
            yield ledger.new(
                DatasetAdded(rows=26_115, columns=15, bytes=267_875), f"data{seq % 40}@{seq}", self.digest()
            )
        else:
            told = ModelRegistered(run=self.digest(32), data="flights@1", flavour="skops", version=seq)
            yield ledger.new(told, f"{name}@{seq}", self.digest())

    def entries(self, count: int) -> Iterator[ledger.New]:
        made = 0
        while made < count:
            kind = self.rng.choices((self.segment, self.job, self.other), (44, 13, 16))[0]
            for new in kind(made):
                if made < count:
                    yield new
                    made += 1


def make(folder: Path, entries: int) -> Project:
    "A project with a ledger of so many entries, one in 20,000 of them redacted"
    project, mix = projects.create(folder, "long"), Mix()
    log, real = ledger.of(project), ledger._now
    ledger._now = mix.now
    try:
        batch: list[ledger.New] = []
        for new in mix.entries(entries):
            batch.append(new)
            if len(batch) == BATCH:
                log.append_many(batch)
                batch = []
        log.append_many(batch)
        for seq in range(10_000, entries, 20_000):
            log.redact(seq, "asked for")
    finally:
        ledger._now = real
    return project


def cpu(call: Callable[[], object]) -> float:
    return harness.timed(call).cpu


LOOK = """
import importlib, json, resource, sys, tempfile, time
from pathlib import Path
from mlops_nb.core import project as projects, verb_index, verbs
path, words = sys.argv[2], json.loads(sys.argv[3])
importlib.import_module(verb_index.load()[path]["where"].partition(":")[0])
with tempfile.TemporaryDirectory() as empty, projects.use(projects.create(Path(empty), "empty")):
    verbs.call(path, **words)  # what it needs is imported from here on
with projects.use(projects.find(sys.argv[1])):
    began = time.process_time()
    verbs.call(path, **words)
    spent = time.process_time() - began
print(json.dumps([spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def looks(project: Project, name: str, path: str, words: dict, entries: int) -> list[dict]:
    "A verb the first time, with nothing new and after one more entry; each in a process that looked at an empty one before"

    def look() -> list[float]:
        return harness.measured(LOOK, str(project.root), path, json.dumps(words))

    ledger.forget_folds(ledger.of(project).path)
    first, peak = look()
    again, _ = look()
    ledger.record(project, JobCompleted(run=f"one more {name}", job="job01", usd=1e-3), subject="job01")
    more, _ = look()
    size = f"{entries:,} entries"
    return [
        row(f"{name}, first look", first, None, "s CPU", f"{size}; peak {peak:,.0f} MB"),
        row(f"{name}, one more entry", more, first, "s CPU", f"{size}; against the first look"),
        row(f"{name}, nothing new", again, first, "s CPU", f"{size}; against the first look"),
    ]


def sealed(project: Project, entries: int) -> list[dict]:
    "Segments of one name, of its last day, and of one path; against decoding every entry of the type"
    log = ledger.of(project)
    held: list = []

    def everything() -> None:
        held.extend(event for event in log.events(SegmentSealed) if event.payload)

    segments.sealed(project, "predictions", "risk")  # the file is in memory from here on
    peer = cpu(everything)
    newest = max(event.payload.last for event in held)
    day = datetime.fromisoformat(newest) - timedelta(days=1)
    asks: dict[str, Callable[[], object]] = {
        "of one name": lambda: segments.sealed(project, "predictions", "delay"),
        "of its last day": lambda: segments.sealed(project, "predictions", "delay", since=day),
        "of one path": lambda: segments.sealed_as(project, held[len(held) // 2].payload.path),
    }
    note = f"{entries:,} entries, {len(held):,} segments; against reading them all"
    return [row(f"segments {name}", cpu(ask), peer, "s CPU", note, digits=4) for name, ask in asks.items()]


def bare_hashes(log: ledger.Ledger) -> float:
    "CPU seconds of the two hashes of each entry alone, with the entries in memory"
    spent = 0.0
    rows = log.rows()
    while some := list(itertools.islice(rows, 4096)):
        began = time.process_time()
        for _, header, commitment, salt, payload in some:
            sha256(b"\0" + header.encode() + commitment).digest()
            sha256((salt or b"") + (payload or b"")).digest()
        spent += time.process_time() - began
    return spent


def verified(project: Project, entries: int) -> list[dict]:
    "Full verification beside the two hashes of each entry and SQLite's own check; then a remembered look"
    log = ledger.of(project)
    found: list[ledger.Verification] = []
    full = cpu(lambda: found.append(log.verify()))
    if not found[0].ok:
        raise RuntimeError(f"the ledger does not verify: {found[0].problems[:3]}")

    hashes = bare_hashes(log)
    own = cpu(lambda: log._ask("PRAGMA integrity_check(1)"))
    remembered.remember(log, found[0])
    look = cpu(lambda: remembered.look(log))
    size = f"{entries:,} entries"
    return [
        row(
            "full walk, SQLite's own check apart",
            full - own,
            hashes,
            "s CPU",
            f"{size}; against two bare SHA-256 an entry",
        ),
        row("SQLite's integrity_check", own, None, "s CPU", f"{size}; beside that walk in every `audit verify`"),
        row("remembered look", look, full, "s CPU", f"{size}; against the full verification"),
    ]


def measure(folder: Path, entries: int) -> list[dict]:
    "All rows for one length"
    began = time.process_time()
    project = make(folder, entries)
    made = time.process_time() - began
    size_mb = ledger.of(project).path.stat().st_size / 1e6
    rows = [
        row("made", made, None, "s CPU", f"{entries:,} entries in commits of {BATCH:,}; {size_mb:,.0f} MB", digits=1)
    ]
    rows += looks(project, "status", "status", {}, entries)
    rows += looks(project, "cost by job", "cost.show", {"by": "job"}, entries)
    rows += sealed(project, entries)
    rows += verified(project, entries)
    ledger.of(project).close()
    return rows


def main(lengths: tuple[int, ...] = (100_000, 1_000_000)) -> list[dict]:
    "Rows for bench/RESULTS.md"
    rows = []
    for entries in lengths:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, harness.at_home(folder)):
            rows += measure(Path(folder) / "project", entries)
    return rows
