"""What the cell cache looks at: the names that a cell can reach and change, however many there are."""

import sys
from pathlib import Path

import pytest

from mlops_nb.job.runs import cell_cache, cell_records, namespace
from mlops_nb.job.notebook.notebook_ast import understand
from mlops_nb.job.runs.cell_records import CellDone, CellFiles


class Notebook:
    "Cells that run here, without a process of their own"

    def __init__(self, folder: Path, sources: list[str], old=()):
        folder.mkdir(exist_ok=True)
        self.ns: dict = {"__builtins__": __builtins__, "__name__": "__main__"}
        self.log = folder / "cells.log"
        self.cells = [understand(k, s) for k, s in enumerate(sources)]
        self.shelf = namespace.Shelf(self.ns, list(self.ns), folder.parent / "blocks")
        self.cache = cell_cache.Cache(self.cells, self.shelf, self.log, old)
        self.looked: list[set[str]] = []

    def run(self, k: int, insist: bool = True) -> None:
        assert self.cache.before(k) == ""
        self.looked.append(set(self.shelf.known.looked))
        exec(self.cells[k].text, self.ns)
        self.cache.after(k, CellDone([], k, {"seconds": 0.0}, CellFiles({}, [], {})), insist)

    def all(self) -> list[int]:
        "Which cells ran; the others are taken from their records"
        ran, k = [], 0
        while k < len(self.cells):
            if hit := self.cache.take(k):
                k += len(hit.codes)
                continue
            self.run(k)
            ran.append(k)
            k += 1
        return ran


def again(folder: Path, first: Notebook, sources: list[str]) -> Notebook:
    return Notebook(folder, sources, cell_records.read(first.log))


def calls_of(act) -> int:
    "Calls of Python and C functions: what time would say, without a clock"
    n = 0

    def count(frame, event, arg):
        nonlocal n
        n += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return n


def measured(at: Path, sources: list[str]) -> tuple[Notebook, dict[str, int]]:
    "A run and its resume, and the calls that each took"
    made: list[Notebook] = []
    calls = {
        "made": calls_of(lambda: made.append(Notebook(at, sources))),
        "ran": calls_of(lambda: made[0].all()),
        "planned": calls_of(lambda: made.append(again(at.with_suffix(".2"), made[0], sources))),
        "taken": calls_of(lambda: made[1].all()),
    }
    assert len(made[0].looked) == len(sources) and made[1].looked == []
    return made[0], calls


KINDS = {
    "new numbers": lambda k: f"x{k} = {k}",
    "new lists": lambda k: f"x{k} = [{k}]",
    "each from the one before": lambda k: f"x{k} = x{k - 1}+1" if k else "x0 = 0",
    "one list that changes": lambda k: f"x[0] = {k}" if k else "x = [0]",
    "one name bound again": lambda k: f"x = {k}",
    "a function of the first cell": lambda k: f"x{k} = f({k})" if k else "def f(a): return a+1",
    "pairs that share": lambda k: f"x{k} = x{k - 1}" if k % 2 else f"x{k} = []",
    "names that come and go": lambda k: f"del x{k - 1}" if k % 2 else f"x{k} = []",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_of_a_cell_does_not_grow_with_the_notebook(tmp_path, kind):
    "Twice the cells, twice the calls: to run them, to plan a resume, and to take them from their records"
    few, many = ([KINDS[kind](k) for k in range(n)] for n in (60, 120))
    done, calls = {}, {}
    for name, sources in (("warm", few), ("few", few), ("many", many)):
        done[name], calls[name] = measured(tmp_path / name, sources)
    for what, n in calls["many"].items():
        assert n < 2.2 * calls["few"][what], (what, calls)
    most = {
        "one list that changes": 1,
        "a function of the first cell": 1,
        "pairs that share": 1,
        "names that come and go": 1,
    }
    assert max(map(len, done["many"].looked)) <= most.get(kind, 0), "names that were fingerprinted for one cell"


def test_ten_thousand_names_and_the_one_that_is_meant(tmp_path):
    "A cell among many names pickles the one it changed and its alias, and its key tells of the names it mentions"
    sources = [
        "for i in range(10_000): globals()[f'x{i}'] = [i]",
        "alias = x77",
        "x78.append(1)",
        "alias.append(2)",
        "print(x5)",
    ]
    nb = Notebook(tmp_path / "a", sources)
    assert nb.all() == [0, 1, 2, 3, 4]
    wrote = [set(r.names) for r in nb.cache.did]
    assert len(wrote[0]) == 10_001 and wrote[1:] == [{"alias", "x77"}, {"x78"}, {"alias", "x77"}, set()]
    assert nb.looked[2] == {"x78"} and nb.looked[3] == {"alias", "x77"} and nb.looked[4] == {"x5"}
    assert [n for n, _ in nb.cache.keys.used([3], nb.cache.progress.known, nb.cache.progress.lost())] == ["alias"]


def test_cells_before_a_late_checkpoint_are_all_looked_after(tmp_path):
    "Several cells are saved together: what the first of them changed is not forgotten for the second"
    nb = Notebook(tmp_path / "a", ["a = [1]", "b = [2]", "a.append(3)", "b.append(4)", "print(a, b)"])
    nb.shelf.affordable = lambda seconds: False
    for k in range(4):
        nb.run(k, insist=k != 2)
    assert nb.cache.did[-1].at == [2, 3] and nb.cache.did[-1].changed == ["a", "b"]
    nb.run(4)
    more = again(tmp_path / "b", nb, [c.text for c in nb.cells])
    assert more.all() == [] and (more.ns["a"], more.ns["b"]) == ([1, 3], [2, 4])


STALE = {
    "a name with an underscore": (["_limit = 5", "y = _limit+1"], 0, "_limit = 6", {"y": 7}),
    "a function that a list holds": (
        ["hooks = []", "def h(): return least", "hooks.append(h)", "least = 5", "y = hooks[0]()"],
        3,
        "least = 6",
        {"y": 6},
    ),
    "a function inside a function": (
        ["def f():\n    def g(): return [top for _ in range(1)]\n    return g", "g = f()", "top = 1", "y = g()"],
        2,
        "top = 2",
        {"y": [2]},
    ),
    "a method of a class that an object leads to": (
        ["class A:\n    def m(self): return top", "box = {}", "box['a'] = A()", "top = 1", "y = box['a'].m()"],
        3,
        "top = 2",
        {"y": 2},
    ),
    "a text that is evaluated": (["a = 1", "y = eval('a'+'+1')"], 0, "a = 2", {"y": 3}),
    "a name in a query": (
        ["import pandas as pd\ndf = pd.DataFrame({'a':[1, 2, 3]})", "least = 1", "y = len(df.query('a>@least'))"],
        1,
        "least = 2",
        {"y": 1},
    ),
    "a global that a function binds": (
        ["n = 0\ndef up():\n    global n\n    n += 1", "up()", "y = n"],
        0,
        "n = 5\ndef up():\n    global n\n    n += 1",
        {"y": 6},
    ),
    "an alias made and undone": (
        ["a = [1]", "b = a", "a.append(2)", "a = None", "y = list(b)"],
        2,
        "a.append(3)",
        {"y": [1, 3]},
    ),
}


@pytest.mark.parametrize("kind", STALE)
def test_an_edit_reaches_what_reads_it_by_whatever_way(tmp_path, kind):
    sources, at, text, after = STALE[kind]
    first = Notebook(tmp_path / "a", sources)
    first.all()
    edited = [*sources[:at], text, *sources[at + 1 :]]
    second = again(tmp_path / "b", first, edited)
    ran = second.all()
    assert {n: second.ns[n] for n in after} == after and at in ran and len(sources) - 1 in ran
    assert again(tmp_path / "c", second, edited).all() == [], "and what has run is taken over"


def test_a_connection_is_opened_again_for_those_who_use_it(tmp_path):
    "What was read from it is kept; a cell that only uses that needs no connection"
    sources = [
        "import sqlite3",
        "db = sqlite3.connect(':memory:')",
        "def ask(x): return db.execute(f'select {x}').fetchone()[0]",
        "n = ask(3)",
        "m = n*2",
        "k = ask(4)",
    ]
    first = Notebook(tmp_path / "a", sources)
    assert first.all() == [0, 1, 2, 3, 4, 5] and "db" in first.shelf.known.unsaved
    assert again(tmp_path / "b", first, [*sources[:4], "m = n*3", sources[5]]).all() == [4]
    through = again(tmp_path / "c", first, [*sources[:5], "k = ask(5)"])
    ran = through.all()
    assert ran[0] == 1 and 5 in ran and through.ns["k"] == 5, "the function reads the connection"
