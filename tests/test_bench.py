"""The frame of the benchmarks: sides take turns, medians, tables that join; the benchmarks themselves run under `make bench`."""

import importlib
import sys

import pytest
from helpers.places import ROOT

sys.path.insert(0, str(ROOT))

from bench import harness, run


def test_sides_take_turns():
    order, times = [], iter(range(100))

    def side(name):
        order.append(name)
        return harness.Spent(next(times), 1.0)

    got = harness.race({"ours": lambda: side("ours"), "peer": lambda: side("peer")}, rounds=3)
    assert order == ["ours", "peer"] * 4
    assert got == {"ours": (4, 1.0), "peer": (5, 1.0)}, "the first round is not counted"


def test_what_a_command_spent():
    got = harness.spent([sys.executable, "-c", "sum(range(3_000_000))"])
    assert 0 < got.cpu and 0 < got.wall
    with pytest.raises(RuntimeError, match="no such thing"):
        harness.spent([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert harness.measured("import json; print('noise'); print(json.dumps([1, 2]))") == [1, 2]


def test_rows_and_tables():
    r = harness.row("a", 2.0, 5.0, "s", "how")
    assert (r["ours"], r["peer"], r["ratio"]) == (2.0, 5.0, 2.5)
    assert harness.row("b", 2.0, None, "s", "")["ratio"] is None
    assert harness.markdown([r]).splitlines()[-1] == "| a | 2.0 | 5.0 | s | 2.5 | how |"
    assert "processors" in harness.machine() and harness.versions("pytest", "no-such-package").endswith(
        "no-such-package not installed"
    )


def test_run_writes_and_joins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    (tmp_path / "good.py").write_text("")
    (tmp_path / "bad.py").write_text("")
    good = type(sys)("bench.good")
    good.__doc__, good.main = "A title.\n\nMore.", lambda: [harness.row("x", 1.0, 2.0, "s", "")]
    monkeypatch.setitem(sys.modules, "bench.good", good)
    monkeypatch.setitem(sys.modules, "bench.bad", type(sys)("bench.bad"))
    away = type(sys)("bench.away")

    def main():
        raise harness.NotHere("no such machine")

    away.main = main
    monkeypatch.setitem(sys.modules, "bench.away", away)
    (tmp_path / "away.py").write_text("")
    assert run.main(["away"]) == 0 and "bench away left out: no such machine" in capsys.readouterr().err
    assert run.main([]) == 1 and "bench bad failed" in capsys.readouterr().err
    joined = (tmp_path / "RESULTS.md").read_text()
    assert (
        joined.startswith("# Measured")
        and "## good\n\nA title.\n" in joined
        and "| x | 1.0 | 2.0 | s | 2.0 |" in joined
    )
    assert run.main(["nothing"]) == 2 and run.main(["--join"]) == 0


@pytest.mark.parametrize("name", run.names())
def test_every_benchmark_gives_rows(name):
    "Imported, not run: a benchmark has a title and a main()"
    source = (ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")
    if name == "explain" or "import shap" in source:
        pytest.importorskip("shap")
    module = importlib.import_module(f"bench.{name}")
    assert callable(module.main) and module.__doc__.strip()


def test_the_benchmark_of_streams_reads_one():
    "Its measured part is a text, which no import looks at"
    row = importlib.import_module("bench.stream").growth((300,), 5)
    assert "300 events: " in row["note"] and row["ours"] > 0
