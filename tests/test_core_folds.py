"""Kept states of folds: the same as fresh ones, thrown away when the ledger or the rules are others, and what could not be read is told."""

import random
import shutil
import sqlite3

import mlops_nb
import msgspec
import pytest
from mlops_nb.core import brackets, contributions, folds, ledger, pillars
from mlops_nb.core import project as projects
from mlops_nb.core.errors import ToolFailed
from mlops_nb.core.events import VerbFailed
from mlops_nb.data.events import DatasetAdded
from mlops_nb.feature.events import FeatureAdded, FeatureMaterialized
from mlops_nb.job.events import JobCompleted, JobConverted, JobFailed, JobStarted
from mlops_nb.model.events import ModelFailed, ModelRegistered, RunCompleted

PARTS = dict(pillars.collect("status"))
FOLDS = [part.fold for part in PARTS.values()]


def kept(project):
    return sorted(ledger.folds_of(ledger.of(project).path).glob("*"))


def stand(project):
    "Name -> (state, size, unread) of every fold, brought up to the end"
    return {name: tuple(place) for name, place in folds.catch_up(project, FOLDS).items()}


def fresh(project):
    "The same without anything kept"
    ledger.forget_folds(ledger.of(project).path)
    return stand(project)


def some(rng, project):
    "Append a few entries of any kind, readable and not"
    n = rng.randrange(6)
    subject = f"thing{rng.randrange(4)}@{rng.randrange(3)}"
    log = ledger.of(project)
    for _ in range(rng.randrange(1, 5)):
        payload = rng.choice(
            [
                DatasetAdded(rows=n),
                FeatureAdded(),
                FeatureMaterialized(late=rng.choice([0, n, None])),
                JobConverted(),
                JobStarted(bracket=f"b{n}"),
                JobCompleted(bracket=f"b{n}", usd=rng.choice([None, 0.5])),
                JobFailed(bracket=f"b{n}", error="no"),
                ModelFailed(message="no"),
                ModelRegistered(bracket=f"b{n}"),
                RunCompleted(bracket=f"b{n}", usd=0.25),
                VerbFailed(),
            ]
        )
        ledger.record(project, payload, subject=subject)
    if rng.random() < 0.2:
        log.append("feature.materialized", subject, {"late": "many"})
    if rng.random() < 0.2:
        log.redact(rng.randrange(log.size()), "asked for")


@pytest.mark.parametrize("seed", range(12))
def test_a_kept_state_equals_a_fresh_one(seed, project):
    rng = random.Random(seed)
    for _ in range(8):
        some(rng, project)
        have = stand(project)
        assert {size for _, size, _ in have.values()} == {ledger.of(project).size()}
        if rng.random() < 0.5:
            assert have == fresh(project)
    assert stand(project) == fresh(project)
    alone = {fold.name: tuple(folds.catch_up(project, [fold])[fold.name]) for fold in FOLDS}
    assert alone == stand(project), "one walk for all gives what one each gives"


def test_folds_that_stand_at_different_places(project):
    ledger.record(project, DatasetAdded(), subject="flights@1")
    folds.catch_up(project, FOLDS[:1])
    ledger.record(project, JobCompleted(), subject="score")
    folds.catch_up(project, FOLDS[:2])
    ledger.record(project, JobStarted(), subject="score")
    assert stand(project) == fresh(project)


def test_through_an_index_as_without(project, monkeypatch):
    for n in range(30):
        some(random.Random(n), project)
    ledger.of(project).append("dataset.added", "x@1", {})
    db = sqlite3.connect(ledger.of(project).path)
    db.execute("UPDATE entry SET header='{' WHERE seq=3")
    db.execute(
        "UPDATE entry SET header=replace(header, 'dataset.added', 'stranger.came') WHERE seq=(SELECT max(seq) FROM entry)"
    )
    db.commit()
    db.close()
    without = fresh(project)
    monkeypatch.setattr(ledger, "SHORT", 10)
    assert fresh(project) == without
    unread = folds.told_once(one[2] for one in without.values())
    assert unread.counts[""] == 1 and unread.counts["stranger.came"] == 1


def counted(monkeypatch):
    "How many entries walks look at"
    seen = []
    real = folds._entries
    monkeypatch.setattr(folds, "_entries", lambda *args: (seen.append(row[0]) or row for row in real(*args)))
    return seen


@pytest.fixture
def three(project):
    "Three entries, and states behind them"
    for n in range(3):
        ledger.record(project, DatasetAdded(), subject=f"d{n}@1")
    stand(project)
    return project


def test_only_what_is_new_is_read(three, monkeypatch):
    seen = counted(monkeypatch)
    ledger.record(three, DatasetAdded(), subject="d9@1")
    assert stand(three)["data.status"][0].numbers() == {"datasets": 4} and seen == [3]
    stand(three)
    assert seen == [3], "nothing new, nothing read"


def forget_other(project, tmp_path):
    "States of another project, whose ledger is as long"
    other = projects.create(tmp_path / "other")
    for _ in range(3):
        ledger.record(other, DatasetAdded(), subject="same@1")
    stand(other)
    for file in kept(other):
        shutil.copy(file, ledger.folds_of(ledger.of(project).path))


def edited(project, tmp_path):
    for file in kept(project):
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)


def half_written(project, tmp_path):
    for file in kept(project):
        file.write_bytes(file.read_bytes()[:40])


def cut(project, tmp_path):
    log = ledger.of(project)
    log._ask("DELETE FROM entry WHERE seq=2")
    log._ask("DELETE FROM node WHERE (idx + 1) << level > 2")


def grown_again(project, tmp_path):
    cut(project, tmp_path)
    log = ledger.of(project)
    log.close()
    ledger.record(project, DatasetAdded(), subject="other@1")


@pytest.mark.parametrize("spoil", [forget_other, edited, half_written, cut, grown_again], ids=lambda f: f.__name__)
def test_a_state_that_does_not_fit_is_thrown_away(spoil, three, tmp_path, monkeypatch):
    spoil(three, tmp_path)
    seen = counted(monkeypatch)
    have = stand(three)
    assert min(seen) == 0, "begun anew"
    assert have == fresh(three) and len(have["data.status"][0].names["datasets"]) == ledger.of(three).size()


@pytest.mark.parametrize("what", ["package", "fold", "types"])
def test_other_rules_begin_anew(what, three, monkeypatch):
    seen = counted(monkeypatch)
    wanted = FOLDS
    if what == "package":
        monkeypatch.setattr(mlops_nb, "__version__", "99")
    elif what == "fold":
        wanted = [fold._replace(version=99) for fold in FOLDS]
    else:
        monkeypatch.setattr(
            pillars, "events", lambda have=pillars.events(): {**have, "stranger.came": {"costs": False}}
        )
    folds.catch_up(three, wanted)
    assert seen == [0, 1, 2]


def test_redact_leaves_no_state(three, monkeypatch):
    assert len(kept(three)) == len(FOLDS)
    ledger.of(three).redact(1, "asked for")
    assert kept(three) == []
    assert stand(three) == fresh(three)


def test_a_redaction_behind_a_state_begins_it_anew(three, monkeypatch):
    "Somebody put the states of before back"
    ledger.record(three, FeatureMaterialized(late=7), subject="v@1")
    assert stand(three)["feature.status"][0].late["v"].rows == 7
    before = {file: file.read_bytes() for file in kept(three)}
    ledger.of(three).redact(3, "asked for")
    for file, raw in before.items():
        file.write_bytes(raw)
    have = stand(three)
    assert have["feature.status"][0].late == {} and have == fresh(three)


def test_a_redaction_during_the_walk_leaves_no_state(three, monkeypatch):
    ledger.record(three, FeatureMaterialized(late=7), subject="v@1")
    real = folds._keep

    def keep(*args):
        monkeypatch.setattr(folds, "_keep", real)
        ledger.of(three).redact(3, "asked for")
        real(*args)

    monkeypatch.setattr(folds, "_keep", keep)
    stand(three)
    assert kept(three) == []
    assert stand(three)["feature.status"][0].late == {}


def test_for_the_owner_alone(three):
    assert {file.stat().st_mode & 0o777 for file in kept(three)} == {0o600}
    assert ledger.folds_of(ledger.of(three).path).stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_costs_a_walk(three, monkeypatch):
    "A full or read-only disk: the card is right all the same, and nothing is kept"
    before = [file.read_bytes() for file in kept(three)]

    def refuse(*args, **options):
        raise ToolFailed("cannot write: No space left on device")

    monkeypatch.setattr(projects, "write_text", refuse)
    ledger.record(three, DatasetAdded(), subject="d9@1")
    assert stand(three)["data.status"][0].numbers() == {"datasets": 4}
    assert [file.read_bytes() for file in kept(three)] == before


class Late(msgspec.Struct):
    late: int | None = None


def test_what_cannot_be_read_is_told_once(project, monkeypatch):
    log = ledger.of(project)
    log.append("feature.materialized", "v@1", {"late": "many"})
    ledger.record(project, FeatureMaterialized(late=2), subject="v@1")
    log.redact(1, "asked for")
    bad = folds.Fold("lesson.bad", 1, lambda: {"feature.materialized": Late}, folds.Unread, lambda *args: 1 / 0)
    ledger.record(project, FeatureMaterialized(late=2), subject="v@1")
    places = folds.catch_up(project, [PARTS["feature"].fold, bad])
    assert places["feature.status"].state.late["v"].rows == 2, "one that fails takes no other down"
    said = folds.told_once(place.unread for place in places.values())
    assert said.count == 3 and [entry.seq for entry in said.last] == [0, 1, 3]
    assert said.last[0].why.startswith("Expected `int | null`") and said.last[1].why == "redacted"
    assert said.last[2].why == "division by zero"
    for _ in range(40):
        log.append("feature.materialized", "v@1", {"late": "many"})
    unread = folds.catch_up(project, [PARTS["feature"].fold])["feature.status"].unread
    assert (unread.count, len(unread.last)) == (42, 20)


def test_brackets_from_entries_and_from_the_fold(project):
    for bracket in ("a", "b", "c"):
        ledger.record(project, JobStarted(bracket=bracket), subject="score")
    ledger.record(project, JobFailed(bracket="b"), subject="score")
    state = folds.catch_up(project, [brackets.FOLD])["core.brackets"].state
    assert [entry.seq for entry in state.open.values()] == [e.seq for e in brackets.open_brackets(project)] == [0, 2]


def test_a_part_of_a_stranger_takes_nothing_down(project, monkeypatch):
    ledger.record(project, DatasetAdded(), subject="flights@1")
    part = contributions.StatusPart(folds.names_fold("stranger", {}), lambda project, state: 1 / 0)
    monkeypatch.setattr(pillars, "collect", lambda kind: [*PARTS.items(), ("stranger", part)])
    card = contributions.card(project)
    assert card.counts["datasets"] == 1
    assert [(one.kind, one.subject) for one in card.attention] == [("failed", "stranger")]
