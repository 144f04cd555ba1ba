"""One contract over every store in which something about a person may lie: find, export, erase, and name what cannot be read."""

import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import pandas as pd
import pytest

from mlops_nb import data, feature
from mlops_nb.core import folds, journal, ledger, segments, subject_tables, subjects
from mlops_nb.core.events import VerbFailed
from mlops_nb.core.payloads import Payload, declare
from mlops_nb.core.subjects import Hit, Person
from mlops_nb.feature import online_store
from mlops_nb.job.runs import cell_records
from mlops_nb.job.schedules.schedule_store import Store as ScheduleStore
from mlops_nb.model import mlflow_registry

# Ann is planted everywhere, beside Bob; nobody knows the stranger
ANN, BOB = {"customer": "c-17", "mail": "ann@x.org"}, {"customer": "c-18", "mail": "bob@x.org"}
KEY, VALUE = Person("c-17", key="customer"), Person("Ann@X.org")
STRANGER = [Person("c-99", key="customer"), Person("cyd@x.org")]
ROWS = [ANN, BOB]
PROSE = "we called customer c-17 (ann@x.org) back\nand c-18 (bob@x.org), too\n"
Count = dict[tuple[str, str, str], int]  # (place, unit, how) -> how many


class Planted(NamedTuple):
    "What the contract expects of a store"

    key: Count
    value: Count
    erases: bool = False
    stays: str = "not yet"  # Why erasing leaves it


class Case(NamedTuple):
    store: str  # Its name
    plant: Callable  # (project, request) -> Planted
    broken: Callable  # (project, request) -> a context in which something cannot be read
    fixtures: tuple[str, ...] = ()


def twice(count: dict[str, int], unit: str = "row") -> dict[str, Count]:
    "Rows that hold both: by key for the one, by value for the other"
    return {how: {(place, unit, how): n for place, n in count.items()} for how in ("key", "value")}


# What breaks a store


@contextmanager
def torn(path: Path):
    "A file whose first bytes promise what does not follow"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1" + b"\0" * 100)
    yield


@contextmanager
def locked(path: Path):
    "A database that somebody else holds for themselves"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        yield


# Planting, each in the way in which the store is filled


def in_segments(project, request) -> Planted:
    rows = [{"time": datetime(2026, 1, 1, tzinfo=UTC), **row} for row in ROWS]
    sealed = segments.seal(project, "predictions", "risk", [*rows, rows[0]])
    kept = journal.Journal.create(segments.folder(project, "predictions", "risk"))
    for row in rows:
        kept.append(journal.pack(row))
    kept.release()
    places = twice({sealed.path: 2, kept.path.relative_to(project.root).as_posix(): 1})
    return Planted(**places)


class CustomerCalled(Payload):
    "A customer was called"

    customer: str = ""
    mail: str = ""


def in_ledger(project, request) -> Planted:
    declare({"verb.failed": VerbFailed})
    ledger.record(project, VerbFailed(message=json.dumps(ANN)), subject="shop.call")
    ledger.record(project, VerbFailed(message=json.dumps(BOB)), subject="shop.call")
    seq = ledger.of(project).size() - 2
    place = f"entry {seq} (verb.failed)"
    return Planted({(place, "entry", "key"): 1}, {(place, "entry", "text"): 1}, erases=True)


class Calls(msgspec.Struct):
    seen: list[dict[str, str]] = []


def in_kept_views(project, request) -> Planted:
    def step(state, seq, header, fields):
        state.seen += ROWS

    ledger.record(project, VerbFailed(), subject="shop.call")
    fold = folds.Fold("test.calls", 1, lambda: {"verb.failed": folds.Nothing}, Calls, step)
    folds.catch_up(project, [fold])
    return Planted(**twice({".mlops/ledger.folds/test.calls.msgpack": 1}, "view"), erases=True)


def in_other_files(project, request) -> Planted:
    pd.DataFrame([*ROWS, ANN]).to_csv(project.root / "letters.csv", index=False)
    (project.root / "notes.md").write_text(PROSE)
    (project.state / "left by a tool.json").write_text(json.dumps({"calls": ROWS}))
    files = twice({"letters.csv": 2}) | {}
    for how, count in files.items():
        count[".mlops/left by a tool.json", "record", how] = 1
        count["notes.md", "line", "text"] = 1
    return Planted(**files, stays="a file of yours")


def in_datasets(project, request) -> Planted:
    from mlops_nb.data import dvc_versions

    dvc_versions.adopt(project)
    pd.DataFrame(ROWS[1:]).to_parquet(project.root / "v.parquet")
    data.add(str(project.root / "v.parquet"), "visits")
    pd.DataFrame([*ROWS, ANN]).to_parquet(project.root / "v.parquet")
    data.add(str(project.root / "v.parquet"), "visits")
    (project.root / "v.parquet").unlink()
    _, versions = dvc_versions.read(project, "visits")
    md5 = versions[-1].md5
    kept = f"files/md5/{md5[:2]}/{md5[2:]} (visits@2)"
    places = ["data/visits.parquet (visits@2)", f".dvc/cache/{kept}", f".mlops/dvc-remote/{kept}"]
    return Planted(**twice(dict.fromkeys(places, 2)))


def a_view(project, rows=ROWS, **more) -> None:
    "The feature view `calls` over a file of the project"
    frame = pd.DataFrame(rows).assign(at=pd.Timestamp("2026-01-01", tz="UTC"))
    frame.to_parquet(project.root / "source.parquet")
    feature.add("calls", entity=["customer"], time="at", source="source.parquet", sql="SELECT * FROM source", **more)


def in_offline_features(project, request) -> Planted:
    outside = project.root.parent / "outside.parquet"
    pd.DataFrame(ROWS).assign(at=pd.Timestamp("2026-01-01", tz="UTC")).to_parquet(outside)
    feature.add("calls", entity=["customer"], time="at", source="../outside.parquet", sql="SELECT * FROM source")
    (kept,) = (project.root / ".mlops" / "features").glob("calls-*.parquet")
    return Planted(
        **twice({kept.relative_to(project.root).as_posix(): 1, "../outside.parquet": 1}),
        erases=True,
        stays="outside the project",
    )


def in_online_features(project, request) -> Planted:
    a_view(project)
    feature.materialize("calls")
    (project.root / "source.parquet").unlink()
    return Planted(**twice({"calls@1": 1}, "entity"), erases=True)


def stores(project, url: str) -> None:
    with open(project.root / "mlops.toml", "a", encoding="utf-8") as file:
        file.write(f'\n[stores]\nonline = "{url}"\n')


def in_redis(project, request) -> Planted:
    stores(project, request.getfixturevalue("redis_server").url)
    return in_online_features(project, request)


def feast(project, online: str) -> None:
    folder = project.root / "feast"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        f"online_store: {online}\n"
    )
    stores(project, "feast:feast")


def in_feast_sqlite(project, request) -> Planted:
    feast(project, "{type: sqlite, path: online.db}")
    return in_online_features(project, request)


def in_feast_redis(project, request) -> Planted:
    socket = request.getfixturevalue("redis_server").socket
    feast(project, f"{{type: redis, connection_string: 'localhost:1,unix_socket_path={socket}'}}")
    return in_online_features(project, request)


def in_adopted_repository(project, request) -> Planted:
    from mlops_nb.feature.feast_online import FeastStore

    folder = project.root.parent / "theirs"
    folder.mkdir()
    yaml = "project: theirs\nprovider: local\nregistry: r.db\nonline_store: {type: sqlite, path: online.db}\n"
    (folder / "feature_store.yaml").write_text(yaml + "entity_key_serialization_version: 3\n")
    columns = [[row["mail"] for row in ROWS]]
    batch = online_store.Batch("calls@1", ("customer",), ("mail",), [["c-17", "c-18"]], [1, 2], columns)
    FeastStore(folder).write([batch])
    (project.root / "features").mkdir(exist_ok=True)
    (project.root / "features" / "feast.json").write_text(json.dumps({"repository": "../theirs"}))
    return Planted(**twice({"calls@1": 1}, "entity"), erases=True)


def in_stream_events(project, request) -> Planted:
    a_view(project, window=[feature_window()])
    events = [{**row, "at": "2026-01-02T00:00:00Z"} for row in [*ROWS, ANN]]
    feature.stream("calls", from_=events, once=True)
    (project.root / "source.parquet").unlink()
    return Planted(**twice({"calls@1": 2}, "event"), erases=True)


def feature_window() -> str:
    return "last(mail) over 30d as last_mail"


def in_runs(project, request) -> Planted:
    client = mlflow_registry.client(project)
    run = client.create_run(mlflow_registry.experiment(project, client, "churn")).info.run_id
    client.log_param(run, "customer", ANN["customer"])
    client.set_tag(run, "asked by", ANN["mail"])
    client.log_param(run, "depth", 3)
    at = ".mlops/mlflow.db, table"
    return Planted({(f"{at} params", "row", "key"): 1}, {(f"{at} tags", "row", "value"): 1})


def in_artefacts(project, request) -> Planted:
    folder = project.root.parent / "model"
    folder.mkdir()
    pd.DataFrame(ROWS).to_parquet(folder / "example.parquet")
    (folder / "model.pkl").write_bytes(pickle.dumps({"neighbours": ROWS}))
    stored = mlflow_registry.register(project, "churn", folder, {"mlops.digest": "0" * 64})
    at = Path(stored.source.removeprefix("file://")).relative_to(project.root).as_posix()
    planted = {}
    for how, count in twice({f"{at}/example.parquet (churn@1)": 1}).items():
        planted[how] = {**count, (f"{at}/model.pkl (churn@1)", "pickle", "value"): 1}
    return Planted(**planted)


def in_job_runs(project, request) -> Planted:
    run = project.state / "runs" / "report-20260101T000000-abcdef"
    run.mkdir(parents=True)
    cells = [{"source": "show(calls)", "outputs": [{"text": PROSE}, {"data": {"image/png": "iVBOR"}}]}]
    (run / "report.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": {"papermill": {"parameters": ANN}}, "nbformat": 4})
    )
    (run / "run.json").write_text(json.dumps({"run": "report", "parameters": ANN}))
    pd.DataFrame(ROWS).to_csv(run / "scored.csv", index=False)
    at = f".mlops/runs/{run.name}"
    planted = {}
    for how in ("key", "value"):
        planted[how] = {
            (f"{at}/report.ipynb, metadata", "record", how): 1,
            (f"{at}/report.ipynb, output of cell 0", "line", "text"): 1,
            (f"{at}/run.json", "record", how): 1,
            (f"{at}/scored.csv", "row", how): 1,
        }
    return Planted(**planted)


def in_cell_cache(project, request) -> Planted:
    run = project.state / "runs" / "report-20260101T000000-abcdef"
    run.mkdir(parents=True)
    block = project.state / "blocks" / "ab" / "abcd"
    block.parent.mkdir(parents=True)
    block.write_bytes(b"\0".join(row["mail"].encode() for row in ROWS) + b"\0" * 70_000)
    records = [
        (cell_records.Record(key="a", codes=["a"], outputs=[[]], counts=[1], usage=[{}]), ("calls", ROWS)),
        (cell_records.Record(key="b", codes=["b"], outputs=[[{"text": PROSE}]], counts=[2], usage=[{}]), ("n", 3)),
        (cell_records.Record(key="c", codes=["c"], outputs=[[]], counts=[3], usage=[{}], buffers=["abcd"]), ("m", 3)),
        (cell_records.Record(key="d", codes=["d"], outputs=[[]], counts=[4], usage=[{}]), ("calls", ROWS[1:])),
    ]
    for record, value in records:
        cell_records.append(run / "cells.log", record, pickle.dumps(value))
    at = f".mlops/runs/{run.name}/cells.log"
    key = {(at, "cell", "value"): 1, (at, "cell", "text"): 1}
    return Planted(key, {**key, (at, "cell", "bytes"): 1}, erases=True)


def in_schedules(project, request) -> Planted:
    store = ScheduleStore(project)
    with store.backend.transaction() as run:
        for n, row in enumerate(ROWS):
            run("INSERT INTO mlops_notice(project, job, due, body) VALUES ('shop','report',?,?)", n, json.dumps(row))
    store.close()
    place = ".mlops/schedule.db, table mlops_notice"
    return Planted({(place, "row", "key"): 1}, {(place, "row", "text"): 1})


def git(project, *words: str) -> None:
    subprocess.run(["git", "-C", project.root, *words], check=True, capture_output=True)


def in_git_history(project, request) -> Planted:
    git(project, "init")
    for rows in (ROWS, ROWS[1:]):
        pd.DataFrame(rows).to_csv(project.root / "letters.csv", index=False)
        git(project, "add", ".")
        git(project, "commit", "-m", "letters")
    done = subprocess.run(
        ["git", "-C", project.root, "rev-parse", "HEAD~1:letters.csv"], capture_output=True, text=True, check=True
    )
    return Planted(**twice({f"letters.csv in git ({done.stdout[:10]})": 1}), stays="rewrite its history")


@contextmanager
def no_git(project, request):
    request.getfixturevalue("monkeypatch").setenv("PATH", "")
    yield


@contextmanager
def no_redis(project, request):
    request.getfixturevalue("redis_server").kill()
    yield


@contextmanager
def ledger_held(project, request):
    ledger.of(project).close()
    with locked(project.root / ".mlops" / "ledger.db"):
        yield


@contextmanager
def cut_log(project, request):
    log = next(project.state.glob("runs/*/cells.log"))
    os.truncate(log, log.stat().st_size - 1)
    yield


@contextmanager
def missing_bytes(project, request):
    "A version whose bytes are nowhere, and a pointer that cannot be read"
    from mlops_nb.data import dvc_versions

    _, versions = dvc_versions.read(project, "visits")
    for path in project.root.rglob(versions[0].md5[2:]):
        path.unlink()
    (project.root / "data" / "torn.csv.dvc").write_text("outs: [")
    yield


def garbage(place: str) -> Callable:
    @contextmanager
    def broken(project, request):
        "A database of which the first page is all that is left"
        for path in project.root.glob(f"{place}*"):
            path.unlink()
        (project.root / place).write_bytes(b"SQLite format 3\0" + b"\xff" * 2000)
        yield

    return broken


def held(place: str) -> Callable:
    return lambda project, request: locked(project.root / place)


def beside(place: str) -> Callable:
    return lambda project, request: torn(project.root / place)


REDIS = ("redis_server",)
CASES = {  # a new store is one more line
    "segments": Case("segments", in_segments, beside(".mlops/segments/predictions/risk/x.parquet")),
    "ledger": Case("ledger", in_ledger, ledger_held),
    "kept views": Case("kept views", in_kept_views, beside(".mlops/ledger.folds/x.msgpack")),
    "other files": Case("other files", in_other_files, beside("x.parquet")),
    "datasets": Case("datasets", in_datasets, missing_bytes),
    "offline features": Case("offline features", in_offline_features, beside(".mlops/features/x.parquet")),
    "online features": Case("online features", in_online_features, held(".mlops/online.db")),
    "online features in redis": Case("online features", in_redis, no_redis, REDIS),
    "online features in feast-sqlite": Case("online features", in_feast_sqlite, held("feast/online.db")),
    "online features in feast-redis": Case("online features", in_feast_redis, no_redis, REDIS),
    "adopted Feast repository": Case("adopted Feast repository", in_adopted_repository, garbage("../theirs/online.db")),
    "stream events": Case("stream events", in_stream_events, held(".mlops/streams.db")),
    "runs": Case("runs", in_runs, garbage(".mlops/mlflow.db")),
    "model artefacts": Case("model artefacts", in_artefacts, beside(".mlops/artifacts/churn/x.parquet")),
    "job runs": Case("job runs", in_job_runs, beside(".mlops/runs/x/x.parquet")),
    "cell cache": Case("cell cache", in_cell_cache, cut_log),
    "schedules": Case("schedules", in_schedules, held(".mlops/schedule.db")),
    "git history": Case("git history", in_git_history, no_git),
}
EMBEDDED = [name for name in CASES if " in " not in name]


@pytest.fixture
def redis_server(tmp_path_factory):
    "A redis-server of this test's own, on a socket in its folder"
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    pytest.importorskip("redis")
    folder = tmp_path_factory.mktemp("r")

    class Server:
        socket = folder / "r.sock"
        url = f"unix://{socket}"
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )

        def kill(self):
            if self.process.poll() is None:
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()

    server = Server()
    assert any("eady to accept connections" in line for line in server.process.stdout)
    yield server
    if not server.process.stdout.closed:
        server.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(subject_tables, "WAIT_S", 0.1)


@pytest.fixture(params=CASES)
def case(request, project, model_cache):
    return CASES[request.param]


def store_of(case: Case) -> subjects.SubjectStore:
    (found,) = [s for pillar in subjects.contributed() for s in pillar.stores if s.name == case.store]
    return found


def told(looked: subjects.Looked) -> Count:
    return {(found.place, found.unit, found.how): found.count for found in looked.found}


# The contract


def test_every_store_has_a_case():
    names = [store.name for pillar in subjects.contributed() for store in pillar.stores]
    assert sorted(names) == sorted({case.store for case in CASES.values()}) and len(names) == len(set(names))


def test_exact_places_and_counts(case, project, request):
    planted = case.plant(project, request)
    store = store_of(case)
    for person, expected in ((KEY, planted.key), (VALUE, planted.value)):
        looked = store.find(project, person)
        assert looked.unread == []
        assert told(looked) == expected
    for stranger in STRANGER:
        looked = store.find(project, stranger)
        assert (looked.found, looked.unread) == ([], [])


def test_nothing_is_made_where_nothing_is(case, project):
    before = sorted(project.root.rglob("*"))
    looked = store_of(case).find(project, KEY)
    assert (looked.found, looked.unread) == ([], [])
    assert sorted(project.root.rglob("*")) == before


def test_export_round_trips(case, project, request):
    planted = case.plant(project, request)
    for person, expected in ((KEY, planted.key), (VALUE, planted.value)):
        hits = [one for one in store_of(case).export(project, person) if isinstance(one, Hit)]
        lines = [json.loads(subjects.line_of(hit)) for hit in hits]
        assert len(lines) == sum(expected.values())
        assert [line["place"] for line in lines] == [hit.place for hit in hits]
        for line in lines:  # what comes back tells about the person, and says nothing about anybody else
            assert line["how"] == "bytes" or person.how(line["record"]) or person.in_text(json.dumps(line["record"]))
            assert "bob@x.org" not in json.dumps(line["record"]) or line["unit"] == "view"


def test_what_cannot_be_read_is_named(case, project, request):
    case.plant(project, request)
    with case.broken(project, request):
        looked = subjects.answered(store_of(case), project, KEY)
    assert looked.unread and all(unread.why for unread in looked.unread) and not looked.complete


def test_erased_or_named_as_left(case, project, request):
    planted = case.plant(project, request)
    store = store_of(case)
    for person, expected in ((KEY, planted.key), (VALUE, planted.value)):
        before = told(store.find(project, person))
        erased = store.erase(project, person)
        removed = {(found.place, found.unit, found.how): found.count for found in erased.removed}
        left = {left.place for left in erased.left}
        after = told(store.find(project, person))
        assert all(planted.stays in entry.why for entry in erased.left)
        assert {place for place, _, _ in after} == left
        assert set(before) <= set(removed) | set(after)
        if planted.erases and person is KEY:
            assert removed and removed == {place: n for place, n in expected.items() if place[0] not in left}
        if not planted.erases:
            assert removed == {} and after == before
    bob = store.find(project, Person("bob@x.org"))
    assert bob.found or case.store in ("ledger", "kept views", "offline features", "cell cache", "runs", "git history")


@pytest.mark.parametrize("name", ["online features", "stream events"])
def test_no_byte_is_left_behind(project, request, name):
    "Free pages and the write-ahead log hold what was deleted, unless they are written over"
    case = CASES[name]
    case.plant(project, request)
    store_of(case).erase(project, KEY)
    files = [path for path in project.state.glob("*.db*")]
    assert not any(b"ann@x.org" in path.read_bytes() for path in files if path.name.startswith(("online", "streams")))


def test_a_reader_that_keeps_the_log_is_named(project, request):
    case = CASES["online features"]
    case.plant(project, request)
    with closing(sqlite3.connect(project.root / ".mlops" / "online.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entity").fetchone()
        erased = store_of(case).erase(project, KEY)
    assert erased.removed == [] and "end it" in erased.left[0].why


# The verb


def streamed(project) -> None:
    frame = pd.DataFrame(ROWS).assign(at=pd.Timestamp("2026-01-01", tz="UTC"))
    frame.to_parquet(project.root / "events.parquet")
    sql = "SELECT * FROM source"
    feature.add("waves", entity=["customer"], time="at", source="events.parquet", sql=sql, window=[feature_window()])
    feature.stream("waves", from_=[{**row, "at": "2026-01-02T00:00:00Z"} for row in ROWS], once=True)
    (project.root / "events.parquet").unlink()


@pytest.fixture
def full(project, model_cache, request, monkeypatch):
    "A project in which Ann is in every store"
    online = online_store.SqliteStore(project.root / ".mlops" / "online.db")
    with closing(online):
        columns = [[row["mail"] for row in ROWS]]
        batch = online_store.Batch("calls@1", ("customer",), ("mail",), [["c-17", "c-18"]], [1, 2], columns)
        online.write([batch])
    monkeypatch.setitem(CASES, "online features", CASES["online features"]._replace(plant=lambda *_: None))
    runs = project.state / "runs"
    for name in EMBEDDED:
        if name == "stream events":
            streamed(project)
        elif name != "git history":
            CASES[name].plant(project, request)
        if name == "job runs":
            next(runs.iterdir()).rename(runs / "another")
    in_git_history(project, request)
    return project


@pytest.mark.parametrize("words", [("c-17", "--key", "customer"), ("ANN@x.org",)], ids=["key", "value"])
def test_a_person_is_found_in_every_store(full, cli, words):
    done = cli("comply", "find", *words, "--json")
    assert done.exit == 0, done.err
    stores = {store["store"]: store for store in done.json["stores"]}
    assert set(stores) == {case.store for case in CASES.values()}
    assert {name for name, store in stores.items() if not store["found"]} == set()
    assert all(store["complete"] and not store["why"] and store["erased"] is None for store in stores.values())
    assert done.json["pseudonym"].startswith("s-")
    assert {model["model"] for model in done.json["models"]} == {"churn@1"}
    text = cli("comply", "find", *words)
    for said in (done.out, text.out):
        assert words[0].lower() not in said.lower()


def test_a_stranger_is_in_no_store(full, cli):
    done = cli("comply", "find", "cyd@x.org", "--json")
    assert done.exit == 0 and sum(store["found"] for store in done.json["stores"]) == 0
    assert "NOTHING FOUND" in cli("comply", "find", "c-99", "--key", "customer").out


def test_nothing_of_the_person_reaches_the_ledger(project, cli):
    (project.root / "notes.md").write_text(PROSE)
    assert cli("comply", "find", "c-17", "--key", "customer").exit == 0
    assert cli("comply", "find", "ann@x.org").exit == 0
    log = ledger.of(project)
    events = list(log.events("subject.searched"))
    assert [event.payload.found for event in events] == [{"other files": 1}] * 2
    assert all(event.subject.startswith("s-") for event in events)
    log.close()
    kept = b"".join(path.read_bytes() for path in project.state.glob("ledger.db*"))
    assert b"c-17" not in kept and b"ann@x.org" not in kept


def test_what_cannot_be_read_ends_with_4(project, cli):
    (project.root / "notes.md").write_text(PROSE)
    with torn(project.root / "ann@x.org.parquet"):
        done = cli("comply", "find", "ann@x.org", "--json")
    assert done.exit == 4 and done.json["ok"] is False
    (store,) = [store for store in done.json["stores"] if not store["complete"]]
    assert store["store"] == "other files" and store["found"] == 1 and len(store["why"]) == 1
    assert done.json["pseudonym"] in store["why"][0] and "ann@x.org" not in done.out
    assert "NOT EVERYTHING COULD BE READ" in cli("comply", "find", "ann@x.org").out


def test_a_file_that_nobody_may_read(project, monkeypatch):
    "As root every file can be read, so the system's answer is given for it"
    (project.root / "secret.txt").write_text(PROSE)
    real = open

    def refused(path, *args, **kwargs):
        if str(path).endswith("secret.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refused)
    looked = store_of(CASES["other files"]).find(project, KEY)
    assert [(unread.place, unread.why) for unread in looked.unread] == [("secret.txt", "Permission denied")]


def test_a_value_from_standard_input(project, cli, monkeypatch):
    import io

    (project.root / "notes.md").write_text(PROSE)
    monkeypatch.setattr("sys.stdin", io.StringIO("ann@x.org\n"))
    done = cli("comply", "find", "-", "--json")
    assert done.exit == 0 and sum(store["found"] for store in done.json["stores"]) == 1


@pytest.mark.parametrize("words", [("",), ("ab",), ("-",)])
def test_nobody_is_named(project, cli, monkeypatch, words):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli("comply", "find", *words).exit == 2


# Stores of other packages


class Broken(subjects.Store):
    name = "a stranger's store"

    def export(self, project, person):
        yield Hit("the attic", "value", {"mail": "ann@x.org"})
        raise RuntimeError("the attic is closed to ann@x.org")


@pytest.fixture
def stranger(monkeypatch):
    from mlops_nb.core import pillars

    known = {**pillars.load(), "attic": {"package": "attic", "subjects": f"{__name__}:ATTIC"}}
    monkeypatch.setattr(pillars, "load", lambda: known)
    return known


ATTIC = [Broken()]


def test_a_strangers_store_is_asked_and_its_failure_named(project, stranger):
    (answer,) = [answer for answer in subjects.ask(project, VALUE) if answer.pillar == "attic"]
    assert answer.looked.count == 1
    assert answer.looked.unread[0].why == f"RuntimeError: the attic is closed to {VALUE.pseudonym}"


def test_a_strangers_stores_that_cannot_be_loaded_are_named(project, stranger):
    stranger["attic"]["subjects"] = "no_such_package.subjects:STORES"
    (answer,) = [answer for answer in subjects.ask(project, VALUE) if answer.pillar == "attic"]
    assert "cannot be loaded" in answer.looked.unread[0].why
