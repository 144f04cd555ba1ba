"""Who else is at work: two that register, promote, roll back, mend or add a gate at once, and a project that is moved."""

import os
import signal
import threading
from contextlib import contextmanager

import pytest
from helpers.fresh_process import run_code

from mlops_nb import model
from mlops_nb.core import ledger
from mlops_nb.core import project as projects
from mlops_nb.core.errors import BadInput, Finding, MlopsError, ToolFailed
from mlops_nb.model import manifest, mlflow_aliases, mlflow_recovery, mlflow_registry, promotion_verbs, verbs, views
from mlops_nb.model import mlflow_packaging as packaging
from mlops_nb.model import mlflow_registration as registration

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks and fork are POSIX")


def request() -> registration.Request:
    return registration.Request(bracket=registration.new_bracket(), name="delay", expected=1)


def build(at) -> packaging.Package:
    "A version of one small file: what it holds is not what is tested here"
    at.mkdir(parents=True)
    (at / "model.txt").write_text("a model")
    _, digest = manifest.write(at, {"about": {}})
    return packaging.Package(folder=at, digest=digest, inputs=[], flavour="none")


@contextmanager
def begun(p, r):
    with registration.begun(p, r, verbs.next_number(p, r.name)) as lock:
        yield lock


def registered(p) -> int:
    r = request()
    with begun(p, r):
        return registration.complete(p, r, build).version


def state(p):
    "(versions in the ledger, in MLflow, what is open)"
    events = list(ledger.of(p).events([*views.TYPES, *views.OPENS]))
    return (
        [v.version for v in views.versions(events)],
        [int(v.version) for v in mlflow_registry.versions(p, "delay")],
        len(views.pending(events)) + len(views.promoting(events)),
    )


def last(p) -> str:
    return next(ledger.of(p).events("model.*", newest=True)).type


@pytest.mark.parametrize("fails", [False, True], ids=["registered", "failed"])
def test_two_at_once_get_the_numbers_that_they_were_told(fails, project, model_cache):
    "The later one is ready first; whoever says delay@2 means its model, also when the earlier one fails"
    a, b, ready = request(), request(), threading.Event()

    def slow(at):
        ready.wait()
        if fails:
            raise ToolFailed("no disk")
        return build(at)

    def first():
        with begun(project, a):
            started.set()
            try:
                registration.complete(project, a, slow)
            except MlopsError as e:
                said.append(e.message)

    def quick(at):
        ready.set()
        return build(at)

    started, said = threading.Event(), []
    other = threading.Thread(target=first)
    other.start()
    started.wait()
    with begun(project, b):
        assert (a.expected, b.expected, b.after) == (1, 2, [a.bracket])
        assert registration.complete(project, b, quick).version == 2
    other.join()
    assert state(project) == (([2], [2], 0) if fails else ([1, 2], [1, 2], 0))
    assert said == (["no disk"] if fails else [])
    assert registered(project) == 3


def test_a_number_whose_process_was_killed_is_nobody_elses(project, model_cache):
    heard, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with begun(project, request()):
                os.write(told, b"1")
                signal.pause()
        finally:
            os._exit(1)
    os.read(heard, 1)
    b = request()

    def killing(at):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return build(at)

    with begun(project, b):
        assert registration.complete(project, b, killing).version == 2
    assert [x["state"] for x in model.mend().done] == ["failed"]
    assert state(project) == ([2], [2], 0)


def test_mend_leaves_alone_what_ended_after_it_looked(project, model_cache):
    "Its list is older than the end of the registration and of the promotion that stand in it"
    with begun(project, r := request()):
        pending = views.pending(ledger.of(project).events(views.TYPES))
        registration.complete(project, r, build)
    assert mlflow_recovery.mend(project, pending) == []
    real = mlflow_registry.move
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(
            mlflow_registry,
            "move",
            lambda *args: (seen.extend(views.promoting(ledger.of(project).events(views.OPENS))), real(*args)),
        )
        model.promote("delay@1", to="champion")
    assert len(seen) == 1 and mlflow_aliases.mend(project, seen) == []
    assert (state(project), mlflow_registry.aliases(project, "delay")) == (([1], [1], 0), {"champion": 1})
    assert [e.type for e in ledger.of(project).events("model.promot*")] == ["model.promotion_started", "model.promoted"]


def test_mend_leaves_alone_what_is_just_beginning(project, model_cache):
    (registration.staging(project) / "left").mkdir(parents=True)
    done = []
    mending = threading.Thread(target=lambda: done.extend(mlflow_recovery.mend(project, [])))

    def number():  # its folder is there and nothing else yet
        mending.start()
        return verbs.next_number(project, "delay")()

    r = request()
    with registration.begun(project, r, number):
        mending.join()
        assert [x["subject"] for x in done] == ["left"]
        assert registration.complete(project, r, build).version == 1


def test_who_looks_at_a_folder_that_is_gone_does_not_make_it_again(project, model_cache):
    r = request()
    with begun(project, r):
        registration.complete(project, r, build)
    assert not registration.busy(project, r.bracket)
    assert registration.wait(project, r.bracket).type == "model.registered"
    assert list(registration.staging(project).iterdir()) == []


@pytest.mark.parametrize("where", ["register", "record"])
def test_an_interrupt_leaves_nothing_half_registered(where, project, model_cache, monkeypatch):
    "Ctrl-C after MLflow had made the version, or after the ledger had recorded it"
    at = mlflow_registry if where == "register" else registration
    real = getattr(at, where)

    def stopped(*args, **options):
        real(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(at, where, stopped)
    with begun(project, r := request()), pytest.raises(KeyboardInterrupt):
        registration.complete(project, r, build)
    assert state(project) == (([], [], 0) if where == "register" else ([1], [1], 0))
    assert last(project) == ("model.failed" if where == "register" else "model.registered")
    assert list(registration.staging(project).iterdir()) == []


@pytest.fixture
def three(project, model_cache):
    "Three versions; champion went from 1 to 2"
    for _ in range(3):
        registered(project)
    for v in (1, 2):
        model.promote(f"delay@{v}", to="champion")
    return project


def test_an_interrupted_move_is_taken_back(three, monkeypatch):
    real, calls = mlflow_registry.move, []

    def stopped(*args):
        real(*args)
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_registry, "move", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.promote("delay@3", to="champion")
    assert mlflow_registry.aliases(three, "delay") == {"champion": 2}
    assert (state(three)[2], last(three), len(calls)) == (0, "model.promotion_failed", 2)


def test_a_rollback_that_somebody_overtook_moves_nothing(three, monkeypatch):
    real = verbs.resolve

    def meanwhile(ref, p=None):
        monkeypatch.setattr(verbs, "resolve", real)
        model.promote("delay@3", to="champion")
        return real(ref, p)

    monkeypatch.setattr(verbs, "resolve", meanwhile)
    with pytest.raises(BadInput, match="champion of delay was moved meanwhile: it is on 3 and not on 2"):
        model.rollback("delay")
    assert mlflow_registry.aliases(three, "delay") == {"champion": 3}
    assert model.rollback("delay").to == 2, "said again, it goes one step back from where the alias is now"


def test_a_gate_that_was_added_meanwhile_is_asked(three, monkeypatch):
    real = mlflow_aliases.turn

    def once(add):
        def turn(p, name):
            monkeypatch.setattr(mlflow_aliases, "turn", real)
            model.gate("delay", add=[add])
            return real(p, name)

        monkeypatch.setattr(mlflow_aliases, "turn", turn)

    once("size.mb > 1")
    with pytest.raises(Finding, match=r"size\.mb > 1"):
        model.promote("delay@3", to="champion")
    once("size.mb > 2")
    model.gate("delay", add=["size.mb > 3"])
    assert promotion_verbs.gates.of(three, "delay") == ["size.mb > 1", "size.mb > 2", "size.mb > 3"]


def test_a_move_ends_what_a_killed_one_left(three):
    "Its alias was there and served: the history says so, in the right order"
    lost = model.promote("delay@3", to="champion", dry_run=True) and mlflow_aliases.about(
        promotion_verbs.Promotion(name="delay", alias="champion", to=3, before=2, gates=[], reason="lost"),
        "model.promoted",
    )
    ledger.record(three, lost, subject="delay@3")
    mlflow_registry.move(three, "delay", "champion", 3)  # and here its process died
    model.promote("delay@1", to="champion")
    assert [(m["from"], m["version"]) for m in model.history("delay").history] == [(3, 1), (2, 3), (1, 2), (None, 1)]
    assert state(three)[2] == 0


def test_what_mlflow_cannot_say_is_not_taken_for_none(three, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def locked(*args):
        raise MlflowException(
            "(sqlite3.OperationalError) database is locked\n[SQL: UPDATE x]\n(Background on this error)"
        )

    monkeypatch.setattr(MlflowClient, "get_registered_model", locked)
    for verb in (lambda: model.rollback("delay"), lambda: model.promote("delay@3", to="champion"), model.list):
        with pytest.raises(ToolFailed, match="another program is writing to its store"):
            verb()
    assert state(three)[2] == 0


def test_a_store_that_somebody_made_meanwhile_stays(project, model_cache, monkeypatch):
    real = mlflow_registry._template

    def faster():
        monkeypatch.setattr(mlflow_registry, "_template", real)
        registered(project)
        return real()

    monkeypatch.setattr(mlflow_registry, "_template", faster)
    mlflow_registry.ensure_store(project)
    assert state(project) == ([1], [1], 0)
    assert [f.name for f in project.state.iterdir() if f.name.startswith(".")] == []


def test_a_project_that_was_moved_keeps_its_models_and_writes_where_it_is(project, model_cache, monkeypatch):
    assert registered(project) == 1
    new = project.root.with_name("elsewhere")
    os.rename(project.root, new)
    monkeypatch.chdir(new)
    p = projects.create(new)
    assert model.verify("delay@1").problems == [{"kind": "signature", "message": "the model is not signed"}]
    assert registered(p) == 2
    v = model.show("delay@2")
    assert v.files and v.source.startswith(p.artifact_root)
    assert not project.root.exists(), "nothing is written where it has been"


MOVED = """
import os, numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
from mlops_nb import model
X = pd.DataFrame({"temp": np.arange(60.0)})
class Slow(LogisticRegression):
    def __setstate__(self, state):
        super().__setstate__(state)
        open(FIFO).read()
FIFO = os.environ["FIFO"]
print(model.log(Slow().fit(X, X.temp > 30), "delay", example=X, wait=False).state)
"""


def test_a_project_that_is_moved_while_a_version_is_registered(project, model_cache, tmp_path, monkeypatch):
    "The background process says so where the project is now, and makes nothing where it was"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    env = {**os.environ, "FIFO": str(fifo)}
    done = run_code(MOVED, env=env, timeout=200)
    assert done.stdout == "registering\n", done.stderr[-2000:]
    bracket = next(ledger.of(project).events("model.logging_started")).payload.bracket
    new = project.root.with_name("elsewhere")
    with fifo.open("w", encoding="utf-8") as told:  # waits until the background process reads
        os.rename(project.root, new)
        monkeypatch.chdir(new)
        p = projects.create(new)
        told.write("go on")
    e = registration.wait(p, bracket)
    assert (e.type, e.payload.message) == ("model.failed", registration.MOVED)
    assert (list(registration.staging(p).iterdir()), project.root.exists()) == ([], False)
