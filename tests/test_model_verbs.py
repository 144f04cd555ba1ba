"""Runs, versions, gates and promotion through the shell form: keys and exit codes of the contract."""

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlops_nb.core import ledger


@pytest.fixture
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"carrier": rng.choice(["AA", "UA", "DL"], 200), "temp": rng.normal(size=200)})
    return rows.assign(late=(rows.temp + (rows.carrier == "UA") > 0.3).astype(int))


@pytest.fixture
def clf(rows):
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), (StandardScaler(), ["temp"])
    )
    return make_pipeline(columns, LogisticRegression()).fit(rows[["carrier", "temp"]], rows.late)


@pytest.fixture
def delay(project, model_cache, cli, clf, rows):
    "delay@1, registered through the shell"
    joblib.dump(clf, "clf.joblib")
    rows.to_parquet("rows.parquet")
    answer = cli("model", "log", "clf.joblib", "delay", "--example", "rows.parquet", "--pickle", "--json")
    assert answer.exit == 0, answer.out + answer.err
    return answer.json


def test_log_gives_the_keys_of_the_contract(delay):
    assert (delay["name"], delay["version"], delay["onnx"]["rows"]) == ("delay", 1, 200)
    assert delay["onnx"]["parity_max_abs"] < 1e-5
    assert len(delay["digest"]) == 64
    assert delay["size_bytes"] > 1000


def test_a_failing_gate_exits_1_with_the_keys_and_moves_nothing(delay, project, cli):
    assert cli("model", "gate", "delay", "--add", "size.mb < 0.000001", "--json").json["gates"][0]["ok"] is False
    answer = cli("model", "promote", "delay@1", "--to", "champion", "--reason", "first", "--json")
    assert answer.exit == 1
    assert answer.json["error"]["kind"] == "finding"
    assert answer.json["gates"][0] == {
        "expr": "size.mb < 0.000001",
        "value": pytest.approx(delay["size_bytes"] / 1e6),
        "ok": False,
    }
    assert (answer.json["from"], answer.json["to"], answer.json["moved"]) == (None, 1, False)
    assert cli("model", "show", "delay", "--json").json["aliases"] == []
    assert [e.type for e in ledger.of(project).events("model.promot*")] == []


def test_a_missing_approval_exits_3_until_a_second_person_approves(delay, cli, monkeypatch):
    cli("model", "gate", "delay", "--add", "approvals >= 1")
    answer = cli("model", "promote", "delay@1", "--to", "champion", "--json")
    assert answer.exit == 3
    assert set(answer.json) == {"verb", "ok", "error"}
    assert cli("model", "approve", "delay@1").exit == 3  # the same person
    monkeypatch.setenv("MLOPS_ACTOR", "reviewer")
    assert cli("model", "approve", "delay@1", "--text", "read the card").exit == 0
    moved = cli("model", "promote", "delay@1", "--to", "champion", "--reason", "approved", "--json")
    assert (moved.exit, moved.json["to"], moved.json["from"]) == (0, 1, None)


def test_history_says_what_served_when_and_rollback_goes_back(delay, cli, project):
    cli("model", "promote", "delay@1", "--to", "champion", "--reason", "first")
    between = next(ledger.of(project).events("model.promoted")).time
    assert cli("model", "log", "clf.joblib", "delay", "--example", "rows.parquet", "--pickle").exit == 0
    cli("model", "promote", "delay@2", "--to", "champion", "--reason", "newer")
    assert cli("model", "history", "delay", "--json").json["serving"] == {"champion": 2}
    assert cli("model", "history", "delay", "--at", between, "--json").json["serving"] == {"champion": 1}
    back = cli("model", "rollback", "delay", "--reason", "complaints", "--json").json
    assert (back["from"], back["to"], back["back"]) == (2, 1, True)
    unknown = cli("model", "rollback", "dely")
    assert (unknown.exit, "no model `dely`; did you mean `delay`?" in unknown.err) == (2, True), unknown.err
    rows = cli("model", "history", "delay", "--json").json["history"]
    assert [(r["version"], r["reason"]) for r in rows] == [(1, "complaints"), (2, "newer"), (1, "first")]
    assert set(rows[0]) >= {"time", "alias", "version", "actor", "reason"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("clf.joblib", "delay", "--example", "rows.parquet"), "--pickle"),
        (("clf.joblib", "a/b", "--example", "rows.parquet", "--pickle"), "cannot be used"),
        (("clf.joblib", "\N{ROCKET}", "--example", "rows.parquet", "--pickle"), "cannot be used"),
        (("clf.jobli", "delay", "--example", "rows.parquet", "--pickle"), "no notebook variable and no file"),
        (("clf.joblib", "delay", "--pickle"), "--example"),
        (("clf.joblib", "delay", "--example", "less.parquet", "--pickle"), "lacks the column `carrier`"),
        (("clf.joblib", "delay", "--example", "nan.parquet", "--pickle"), "contains NaN"),
        (("text.joblib", "delay", "--example", "rows.parquet", "--pickle"), "has no predict"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, said, *, delay, cli, rows, project):
    rows[["temp"]].to_parquet("less.parquet")
    rows.assign(temp=np.nan).to_parquet("nan.parquet")
    joblib.dump("text", "text.joblib")
    answer = cli("model", "log", *words)
    assert answer.exit == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert [m["version"] for m in cli("model", "list", "--json").json["models"]] == [1]
    assert list((project.state / "registering").iterdir()) == []
    assert not list(ledger.of(project).events(["model.failed"])), "what was refused at once is no version that failed"


def test_columns_in_another_order_give_the_same_answers(delay, cli, clf, rows):
    "In the example, in a frame that is asked, and in a file of the shell form"
    from mlops_nb import model

    turned = rows[["late", "temp", "carrier"]]
    turned.to_parquet("turned.parquet")
    again = cli("model", "log", "clf.joblib", "delay", "--example", "turned.parquet", "--pickle", "--json").json
    assert (again["version"], again["onnx"]["over"], again["onnx"]["flips"]) == (2, 0, 0)
    truth = clf.predict(rows[["carrier", "temp"]])
    for version in ("delay@1", "delay@2"):
        p = model.load(version)
        assert [i["name"] for i in p.inputs] == ["carrier", "temp"]
        assert (p.predict(rows[["temp", "carrier"]]) == truth).all()
        assert np.allclose(p(turned), p(rows[["carrier", "temp"]]), atol=0)
        assert np.allclose(p(turned.iloc[:1]), clf.predict_proba(rows[["carrier", "temp"]])[:1, 1], atol=1e-5)


def test_numbers_alone_in_another_order_and_missing_and_too_many(project, model_cache, cli):
    "A model of numbers takes one matrix: order must come from the names, not from the place"
    from mlops_nb import model
    from mlops_nb.core.errors import BadInput

    x = pd.DataFrame({"a": np.arange(80.0), "b": np.arange(80.0)[::-1] ** 2})
    clf = LogisticRegression(max_iter=5000).fit(x, x.a > 40)
    model.log(clf, "numbers", example=x[["b", "a"]], wait=True)
    p = model.load("numbers@1")
    assert np.abs(p(x[["b", "a"]]) - clf.predict_proba(x)[:, 1]).max() < 1e-5
    assert np.abs(p(x.assign(c=1.0)[["c", "b", "a"]]) - clf.predict_proba(x)[:, 1]).max() < 1e-5
    with pytest.raises(BadInput, match="lack the input `b`"):
        p(x[["a"]])


def test_an_onnx_file_whose_rows_begin_without_a_text(delay, project, cli, rows):
    "What the graph takes is said by the graph, not by the first rows"
    from pathlib import Path

    from mlops_nb import model

    v = model.resolve("delay@1")
    Path("given.onnx").write_bytes((model.folder(v) / "model.onnx").read_bytes())
    rows.assign(carrier=rows.carrier.where(rows.index > 60)).to_parquet("gaps.parquet")
    given = cli("model", "log", "given.onnx", "given", "--example", "gaps.parquet", "--json").json
    assert (given["version"], given["onnx"]["over"], given["onnx"]["flips"]) == (1, 0, 0)
    rows.assign(carrier=None).to_parquet("none.parquet")
    answer = cli("model", "log", "given.onnx", "given", "--example", "none.parquet")
    assert (answer.exit, answer.err.count("\n")) == (2, 1) and "`carrier` holds no value" in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ("model", "log", "clf.joblib", "delay"),
        ("model", "promote", "delay@1", "--to", "champion"),
        ("model", "gate", "delay", "--add", "size.mb < 1"),
        ("model", "explain", "delay@1", "--data", "rows.parquet"),
        ("model", "compress", "delay@1", "--data", "rows.parquet", "--try", "int8"),
        ("model", "card", "delay@1"),
        ("model", "history", "delay"),
        ("model", "list"),
        ("run", "list"),
    ],
    ids=" ".join,
)
def test_without_a_project_it_is_one_line(words, cli, tmp_path):
    answer = cli(*words)
    assert answer.exit == 2
    assert "mlops init" in answer.err
    assert answer.err.count("\n") == 1
    assert not list(tmp_path.glob("**/.mlops")), "nothing was made"


def test_onnx_that_differs_is_refused_with_the_worst_row(delay, cli):
    answer = cli(
        "model", "log", "clf.joblib", "delay", "--example", "rows.parquet", "--pickle", "--tolerance", "1e-30", "--json"
    )
    assert answer.exit == 1
    assert "worst is row" in answer.json["error"]["message"]
    assert "carrier=" in answer.json["error"]["message"]


def test_runs_list_show_and_diff(project, model_cache, cli):
    import mlflow

    import mlops_nb

    for depth in (3, 5):
        with mlops_nb.run("delay", param={"depth": depth}):
            mlflow.log_metric("test.roc_auc", depth / 10)
    runs = cli("run", "list", "--json").json["runs"]
    assert [r["params"]["depth"] for r in runs] == ["5", "3"]
    b, a = (r["run"] for r in runs)
    assert cli("run", "show", a[:8], "--json").json["metrics"] == {"test.roc_auc": 0.3}
    d = cli("run", "diff", a, b, "--json").json
    assert d["metrics"] == [{"name": "test.roc_auc", "a": 0.3, "b": 0.5, "change": "+0.2 (+66.7%)"}]
    assert cli("run", "show", "feed", "--json").exit == 2
    assert json.loads(cli("run", "list", "dela", "--json").out)["error"]["kind"] == "not_found"
