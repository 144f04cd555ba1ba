"""`monitor drift` and `monitor profile` as a user meets them: odd columns, hostile names, files, exits, events."""

import datetime as dt
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.counts import count

from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput
from mlops_nb.data import merge_profiles as merge
from mlops_nb.data import profile_of
from mlops_nb.monitor import compare, drift, profile
from mlops_nb.monitor.events import DriftChecked

EVIL = [
    "<script>alert(1)</script>",
    "a|b`c\\",
    "\x1b[31mred",
    "x" * 300,
    "",
    "naïve é漢字",
    "'; DROP TABLE entry; --",
    "{{1+1}}",
]


def window(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "temp": rng.normal(10 + shift, 5, n),
            "carrier": rng.choice(["UA", "DL", "WN"], n, p=[0.5, 0.3, 0.2]),
            "late": rng.random(n) < 0.2,
            "gate": pa.array([None if x < 0.05 else int(9 * x) for x in rng.random(n)]),
            "at": pa.array(np.datetime64("2013-01-01", "us") + rng.integers(0, 10**12, n)),
        }
    )


@pytest.fixture
def files(tmp_path):
    for name, seed, shift in (("ref", 1, 0), ("same", 2, 0), ("warm", 3, 3)):
        pq.write_table(window(2000, seed, shift), tmp_path / f"{name}.parquet")
    return lambda name: str(tmp_path / f"{name}.parquet")


def row(d, name):
    return next(c for c in d.columns if c.name == name)


def test_exit_codes_and_keys(project, cli, files):
    calm = cli("monitor", "drift", files("ref"), files("same"), "--json")
    assert calm.exit == 0 and calm.json["ok"] is True and calm.json["alarm"] is False
    found = cli("monitor", "drift", files("ref"), files("warm"), "--alpha", ".01", "--json")
    assert found.exit == 1 and found.json["ok"] is False and found.json["error"]["kind"] == "finding"
    assert found.json["alarm"] is True and found.json["false_alarm_rate"] == 0.01 and found.json["rows"] == 4000
    temp = next(c for c in found.json["columns"] if c["name"] == "temp")
    assert {"name", "kind", "test", "statistic", "p_value", "p_adjusted", "effect", "drifted"} <= set(temp)
    assert temp["drifted"] is True and temp["test"] == "ks" and temp["p_adjusted"] >= temp["p_value"]
    words = cli("monitor", "drift", files("ref"), files("warm"))
    assert words.exit == 1 and "DRIFT in 1 of 5 columns" in words.out and "temp" in words.out
    told = [event.payload for event in ledger.of(project).events(DriftChecked)]
    assert [comparison.alarm for comparison in told] == [False, True, True]
    assert told[1].drifted == ["temp"] and told[1].verdicts[0].name == "temp" and "UA" not in repr(told[1])


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--alpha", "0"], "between 0 and 1"),
        (["--alpha", "x"], "no float"),
        (["--columns", "tmep"], "did you mean `temp`"),
        (["--min-effect", "2"], "share of rows"),
        (["--alhpa", ".1"], "did you mean `--alpha`"),
        (["--report", "out.pdf"], "HTML or JSON"),
    ],
)
def test_wrong_words_are_one_line(project, cli, files, words, expected):
    a = cli("monitor", "drift", files("ref"), files("same"), *words)
    assert a.exit == 2 and expected in a.err and len(a.err.strip().splitlines()) == 1


def test_missing_and_empty_windows(project, cli, files, tmp_path):
    a = cli("monitor", "drift", files("ref"), str(tmp_path / "nothing.parquet"), "--json")
    assert a.exit == 2 and "nothing.parquet" in a.json["error"]["message"]
    pq.write_table(window(0, 1), tmp_path / "empty.parquet")
    a = cli("monitor", "drift", files("ref"), str(tmp_path / "empty.parquet"))
    assert a.exit == 2 and "the current window has no rows" in a.err


def test_files_need_no_project(cli, files):
    a = cli("monitor", "drift", files("ref"), files("warm"), "--json")
    assert a.exit == 1 and a.json["alarm"] is True, a.out


def test_every_door_takes_frames(project):
    a, b = window(500, 1), window(500, 2, 5)
    assert drift(a.to_pandas(), b.to_pandas()).drifted == drift(a, b).drifted == ["temp"]
    with pytest.raises(BadInput):
        drift(a, 7)


def test_odd_columns():
    ref = pa.table(
        {
            "constant": [1.0] * 40,
            "nothing": pa.array([None] * 40, pa.float64()),
            "nan": [float("nan")] * 20 + [1.0] * 20,
            "inf": [float("inf")] * 5 + list(range(35)),
            "gone": list(range(40)),
            "retyped": list(range(40)),
            "list": [[1]] * 40,
            "money": [decimal.Decimal("1.50")] * 20 + [decimal.Decimal("2.50")] * 20,
            "day": [dt.date(2013, 1, 1 + i % 20) for i in range(40)],
            "ids": [f"id-{i}" for i in range(40)],
            "nulltype": pa.nulls(40),
            "big": pa.array([2**63 + i for i in range(40)], pa.uint64()),
            "took": pa.array(range(40), pa.duration("ms")),
            "coded": pa.array(["a", None] * 20).dictionary_encode(),
        }
    )
    cur = (
        ref.drop_columns(["gone"])
        .set_column(4, "retyped", pa.array(["x"] * 40))
        .append_column("new", pa.array([1] * 40))
    )
    d = compare(ref, cur)
    assert [c.name for c in d.columns] == [*ref.column_names, "new"]
    assert d.drifted == ["gone", "retyped"] and row(d, "gone").test == "schema" and row(d, "retyped").p_value == 0
    assert {row(d, n).test for n in ("constant", "nothing", "list", "nulltype", "new")} == {"none"}
    assert all(0 <= c.p_value <= 1 and 0 <= c.effect <= 1 for c in d.columns)
    json.dumps(d.json(), allow_nan=False)
    assert "gone from the current window" in str(d) and d.panel().html()


def test_missing_values_are_drift_of_their_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    ref, cur = pa.table({"x": x}), pa.table({"x": np.where(rng.random(2000) < 0.1, np.nan, x)})
    found = row(compare(ref, cur), "x")
    assert (found.test, found.drifted) == ("missing", True) and "missing 0.0% ->" in found.change
    assert found.missing_cur == pytest.approx(0.1, abs=0.02) and found.p_adjusted <= 0.05
    stopped = row(compare(ref, pa.table({"x": pa.nulls(50, pa.float64())})), "x")
    assert stopped.drifted and stopped.test == "missing"


def test_windows_own_time_is_compared_only_when_named():
    a = pa.table({"at": pd.date_range("2013-01-01", periods=100, tz="UTC")})
    b = pa.table({"at": pd.date_range("2014-01-01", periods=100, tz="America/New_York")})
    assert not compare(a, b).alarm and "own time" in compare(a, b).columns[0].change
    assert compare(a, b, columns=["at"]).alarm


def test_units_and_widths_do_not_matter():
    rng = np.random.default_rng(1)
    x, at = rng.integers(0, 100, 500), np.datetime64("2013-01-01", "s") + rng.integers(0, 10**6, 500)
    a = pa.table(
        {
            "x": pa.array(x, pa.int8()),
            "at": pa.array(at.astype("datetime64[s]")),
            "c": pa.array([str(i % 3) for i in x]),
        }
    )
    b = pa.table(
        {
            "x": x * 1.0,
            "at": pa.array(at.astype("datetime64[ns]")),
            "c": pa.array([str(i % 3) for i in x]).dictionary_encode(),
        }
    )
    assert all(c.statistic == 0 and c.effect == 0 for c in compare(a, b).columns)


def test_hostile_names_and_levels_stay_text(project):
    rng = np.random.default_rng(3)
    ref = pa.table({n: rng.choice(EVIL, 300) for n in EVIL})
    cur = pa.table({n: rng.choice(EVIL[:2], 300) for n in EVIL})
    d = drift(ref, cur)
    for fact in (d, profile(ref)):
        html, words = fact.panel().html(), str(fact)
        assert "<script" not in html and "&lt;script&gt;" in html and "\x1b" not in words
    assert d.alarm and len(d.columns) == len(EVIL)


@pytest.mark.parametrize("shift", [0, 2])
def test_forty_columns_draw_small(shift):
    rng = np.random.default_rng(4)

    def wide(by):
        numeric = {f"measured_quantity_{n}": rng.lognormal(by, 1, 800) for n in range(20)}
        return pa.table(
            numeric
            | {
                f"<category> & number {n}": rng.choice([f"level <{i}>" for i in range(30 - by * 5)], 800)
                for n in range(20)
            }
        )

    ref, cur = wide(0), wide(shift)
    d = compare(ref, cur)
    assert len(d.columns) == 40 and d.alarm == bool(shift)
    for panel in (d.panel(), profile_of(ref).panel()):
        html = panel.html()
        assert len(html.encode()) < 30_000 and html.count("<svg") == 40


@pytest.mark.parametrize("seed", range(count(5, 50)))
def test_profiles_merge_in_any_cut(seed):
    rng = np.random.default_rng(seed)
    t = window(int(rng.integers(30, 3000)), seed)
    cut = int(rng.integers(1, t.num_rows))
    whole, parts = profile_of(t), merge(profile_of(t[:cut]), profile_of(t[cut:]))
    for a, b in zip(whole.columns, parts.columns):
        assert (a.rows, a.missing, a.low, a.high, a.kind) == (b.rows, b.missing, b.low, b.high, b.kind)
        assert {k: n for k, n in a.bins.items()} == b.bins
        assert (a.mean is None) == (b.mean is None)
        if a.mean is not None:
            assert (a.mean, a.std) == (
                pytest.approx(b.mean, rel=1e-9, abs=1e-9),
                pytest.approx(b.std, rel=1e-9, abs=1e-9),
            )
    assert merge(profile_of(t[cut:]), profile_of(t[:cut])).columns[0].bins == parts.columns[0].bins


def test_a_profile_stands_in_for_its_window(project, cli, files, tmp_path):
    made = cli("monitor", "profile", files("ref"), "--out", str(tmp_path / "ref.json"), "--json")
    assert made.exit == 0 and made.json["rows"] == 2000 and {"name", "kind", "missing"} <= set(made.json["columns"][0])
    for name, alarm in (("same", False), ("warm", True)):
        exact = cli("monitor", "drift", files("ref"), files(name), "--json").json
        stored = cli("monitor", "drift", str(tmp_path / "ref.json"), files(name), "--json").json
        assert exact["alarm"] == stored["alarm"] == alarm
        for a, b in zip(exact["columns"], stored["columns"]):
            assert (a["name"], a["kind"], a["drifted"]) == (b["name"], b["kind"], b["drifted"])
            if a["test"] == "ks":
                assert b["statistic"] <= a["statistic"] + 1e-12 and a["statistic"] - b["statistic"] < 0.02
            else:
                assert b["p_value"] == pytest.approx(a["p_value"], rel=1e-6)
    (tmp_path / "broken.json").write_text('{"format": "mlops-nb-profile/1", "rows": "many"}')
    assert "not a profile" in cli("monitor", "drift", str(tmp_path / "broken.json"), files("same")).err


def test_a_profile_holds_no_rare_level(tmp_path, project):
    people = pa.table({"name": ["common"] * 50 + [f"person {i}" for i in range(9)]})
    profile(people, out=tmp_path / "p.json")
    assert "person" not in (tmp_path / "p.json").read_text()


def test_dry_run_writes_nothing(project, cli, files, tmp_path):
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    a = cli("monitor", "profile", files("ref"), "--out", str(tmp_path / "new.json"), "--dry-run", "--json")
    assert a.exit == 0 and any("new.json" in step for step in a.json["steps"])
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == before


def test_evidently_report_is_written_and_names_what_it_leaves_out(project, cli, files, tmp_path):
    t = window(300, 9)
    pq.write_table(t.append_column("odd", pa.array([[1]] * 300)), tmp_path / "odd.parquet")
    out = tmp_path / "report.json"
    a = cli("monitor", "drift", files("ref"), str(tmp_path / "odd.parquet"), "--report", str(out))
    assert a.exit in (0, 1) and "without odd" in a.out
    assert all(n in out.read_text() for n in ("temp", "carrier", "late", "gate"))
