"""Explanations: against the definition, against shap, replayed to the bit, and honest about what they cannot know."""

import itertools
import math

import msgspec
import numpy as np
import pandas as pd
import pytest
from helpers.counts import count
from helpers.shop import own_project
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput, NotFound
from mlops_nb.model import counterfactuals, distillation, explanation, onnx_export, scoring, shapley, tree_tables
from mlops_nb.model.onnx_session import Predictor


def served(model, frame) -> tuple[bytes, shapley.Players]:
    "ONNX bytes and the players of their session"
    inputs = onnx_export.signature(frame)
    onnx = onnx_export.convert(model, inputs)
    return onnx, shapley.Players(Predictor(onnx, inputs))


def brute(players, row, back) -> np.ndarray:
    "Shapley values of one row by the definition, over all subsets"
    d, x, z = len(players.names), players.columns(row), players.columns(back)
    v = {}
    for k in range(d + 1):
        for s in itertools.combinations(range(d), k):
            v[s] = players.scores([np.repeat(x[j], len(back)) if j in s else z[j] for j in range(d)]).mean()
    weight = [math.factorial(k) * math.factorial(d - k - 1) / math.factorial(d) for k in range(d)]
    return np.array(
        [sum(weight[len(s)] * (v[tuple(sorted((*s, j)))] - v[s]) for s in v if j not in s) for j in range(d)],
    )


def numbers(n: int, d: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(size=(n, d)).astype("float32"), columns=[f"c{j}" for j in range(d)])


@pytest.fixture(scope="module")
def mixed():
    "Text, numbers and gaps behind one pipeline"
    frame = numbers(800, 3)
    frame["kind"] = np.random.default_rng(1).choice(["x", "y", "z"], 800)
    frame.loc[::9, "c1"] = np.nan
    inputs = onnx_export.signature(frame)
    pipe = distillation._pipeline(inputs, frame, RandomForestClassifier(20, max_depth=5, random_state=0), False)
    y = np.where(frame.c0 + (frame.kind == "x") + frame.c2 * frame.c1.fillna(0) > 0, "late", "on time")
    return frame, *served(pipe.fit(frame, y), frame)


@pytest.mark.parametrize("seed", range(count(3, 20)))
def test_sampled_values_are_the_definition_within_their_errors(seed):
    x = numbers(300, 5, seed)
    _, players = served(MLPClassifier((16,), max_iter=60, random_state=seed).fit(x, x.c0 * x.c1 + x.c2 > 0), x)
    back, rows = x.head(32), x.tail(6)
    exact = np.array([brute(players, rows.iloc[[i]], back) for i in range(len(rows))])
    got = shapley.attribute(players, rows, back, orders=1024, seed=seed)
    z = np.abs(got.values - exact) / np.maximum(got.errors, 1e-9)
    assert np.abs(got.base + got.values.sum(axis=1) - got.scores).max() <= 1e-6
    assert (z <= 2).mean() >= 0.85
    assert z.max() < 6
    assert np.abs(got.values - exact).sum() / np.abs(exact).sum() < 0.05


def test_text_and_gaps_are_the_definition_too(mixed):
    frame, _, players = mixed
    back, rows = frame.head(32), frame.tail(4)
    exact = np.array([brute(players, rows.iloc[[i]], back) for i in range(4)])
    got = shapley.attribute(players, rows, back, orders=2048)
    assert np.abs(got.values - exact).sum() / np.abs(exact).sum() < 0.05
    assert set(players.names) == {"c0", "c1", "c2", "kind"}


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingClassifier(n_estimators=100, random_state=0),
        RandomForestClassifier(60, max_depth=8, random_state=0),
        MLPClassifier((32, 32), max_iter=40, random_state=0),
    ],
    ids=lambda m: type(m).__name__,
)
def test_twenty_inputs_stay_within_seven_percent_of_4000_orders(model):
    x = numbers(2000, 20)
    _, players = served(model.fit(x, x.c0 * x.c1 + x.c2 - x.c3 > 0), x)
    rows, back = x.tail(count(4, 20)), x.head(64)
    reference = shapley.attribute(players, rows, back, orders=4096, seed=7).values
    got = shapley.attribute(players, rows, back, aim=0.07)
    off = np.abs(got.values - reference).sum(axis=1) / np.abs(reference).sum(axis=1)
    assert off.mean() <= 0.07
    assert np.abs(got.base + got.values.sum(axis=1) - got.scores).max() <= 1e-6


@pytest.mark.parametrize(
    "model",
    [GradientBoostingClassifier(n_estimators=60, random_state=0), MLPClassifier((32, 32), max_iter=30, random_state=0)],
    ids=lambda m: type(m).__name__,
)
def test_no_larger_error_than_shap_and_less_work(model):
    "What the session scores is what costs: processor time is measured by bench/explain.py"
    shap = pytest.importorskip("shap", reason="shap is not installed: pip install 'mlops-nb[explain]'")
    x = numbers(2000, 16)
    _, players = served(model.fit(x, x.c0 * x.c1 + x.c2 * x.c3 * x.c4 > 0), x)
    back, rows, scored = x.head(64), x.tail(count(6, 20)), []

    def score(z):
        scored.append(len(z))
        return players.scores(np.ascontiguousarray(z, "float32"))

    theirs = shap.explainers.Permutation(score, back.to_numpy(), seed=0)(rows.to_numpy(), silent=True).values
    reference = shapley.attribute(players, rows, back, orders=8192, seed=3).values
    got = shapley.attribute(players, rows, back)
    assert np.abs(got.values - reference).sum() <= np.abs(theirs - reference).sum()
    assert got.calls <= 0.4 * sum(scored)


def test_turned_orders_are_exact_for_three_inputs_that_interact():
    "Each background row gets an order, its turns by thirds, and all of them backwards: every way to order three"
    x = numbers(300, 3)
    _, players = served(MLPClassifier((16,), max_iter=60, random_state=0).fit(x, x.c0 * x.c1 * x.c2 > 0), x)
    got = shapley.attribute(players, x.tail(4), x.head(40), orders=240)
    exact = np.array([brute(players, x.iloc[[i]], x.head(40)) for i in range(296, 300)])
    assert np.abs(got.values - exact).max() < 1e-6
    for d, background, orders in ((1, 5, 4), (2, 64, 384), (20, 64, 512), (7, 10, 300)):
        turns, rows = shapley.plan(d, background, orders, seed=3)
        assert (np.sort(turns, axis=1) == np.arange(d)).all()
        assert len(set(np.bincount(rows, minlength=background).tolist()) - {0}) == 1


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingRegressor(n_estimators=40, max_depth=3, random_state=0),
        GradientBoostingClassifier(n_estimators=40, max_depth=2, random_state=0),
        RandomForestClassifier(25, max_depth=3, random_state=0),
    ],
    ids=lambda m: f"{type(m).__name__}",
)
def test_tables_are_the_definition(model):
    x = numbers(400, 5)
    y = x.c0 * x.c1 + x.c2
    onnx, players = served(model.fit(x, y if "Regressor" in type(model).__name__ else y > 0), x)
    trees = tree_tables.read(onnx, players.names)
    tables = tree_tables.build(trees, x.head(40))
    values, own = tree_tables.explain(tables, x.tail(8))
    margin = shapley.Players(players.predictor)
    margin.scores = lambda columns: tree_tables.explain(tables, np.column_stack(columns))[1] + trees.base
    exact = np.array([brute(margin, x.tail(8).iloc[[i]], x.head(40)) for i in range(8)])
    assert np.abs(values - exact).max() < 1e-9
    assert np.abs(values.sum(axis=1) + tables.base - own - trees.base).max() < 1e-9


def test_tables_and_deep_trees_are_shaps():
    shap = pytest.importorskip("shap", reason="shap is not installed: pip install 'mlops-nb[explain]'")
    x = numbers(600, 8)
    shallow = GradientBoostingClassifier(n_estimators=50, random_state=0).fit(x, x.c0 * x.c1 + x.c2 > 0)
    onnx, players = served(shallow, x)
    values, _ = tree_tables.explain(tree_tables.build(tree_tables.read(onnx, players.names), x.head(64)), x.tail(100))
    theirs = shap.TreeExplainer(shallow, x.head(64).to_numpy()).shap_values(x.tail(100).to_numpy())
    assert np.abs(values - theirs).max() < 1e-5
    deep, predictor = served(RandomForestClassifier(20, max_depth=7, random_state=0).fit(x, x.c0 * x.c1 > 0), x)
    a, method, space = explanation.explain(deep, predictor.predictor, x.tail(5), x.head(30), 1, method="trees")
    many = {"method": "sampled", "sampling": explanation.Sampling(orders=4096)}
    sampled, _, _ = explanation.explain(deep, predictor.predictor, x.tail(5), x.head(30), 1, **many)
    assert (method, space) == ("trees", "probability")
    assert np.abs(a.base + a.values.sum(axis=1) - predictor.scores(predictor.columns(x.tail(5)))).max() < 1e-5
    assert np.abs(a.values - sampled.values).sum() / np.abs(a.values).sum() < 0.06


def test_missing_values_take_the_way_of_the_session():
    from sklearn.ensemble import HistGradientBoostingRegressor

    x = numbers(500, 4)
    x.loc[::5, "c0"] = np.nan
    onnx, players = served(
        HistGradientBoostingRegressor(max_iter=30, max_depth=3, max_leaf_nodes=8, random_state=0).fit(
            x, x.c0.fillna(3) + x.c1
        ),
        x,
    )
    trees = tree_tables.read(onnx, players.names)
    tables = tree_tables.build(trees, x.head(40))
    assert np.abs(tree_tables.explain(tables, x)[1] + trees.base - players.scores(players.columns(x))).max() < 1e-4


def test_one_row_one_input_one_background_row_and_a_constant():
    x = numbers(50, 3).assign(c2=np.float32(1.0))
    _, players = served(Ridge().fit(x, x.c0 * 2 + x.c1), x)
    one = shapley.attribute(players, x.tail(1), x.head(1))
    assert one.values.shape == (1, 3)
    assert np.abs(one.base + one.values.sum() - one.scores[0]) <= 1e-6
    assert abs(one.values[0, 2]) < 1e-6  # the same 32 bits in another place of the batch
    single = x[["c0"]]
    _, players = served(Ridge().fit(single, x.c0 * 2), single)
    got = shapley.attribute(players, single.tail(3), single.head(20))
    assert np.abs(got.values[:, 0] - (got.scores - got.base)).max() < 1e-9


def test_matrix_models_and_hostile_names():
    x = numbers(200, 3)
    hostile = x.set_axis(["<script>alert(1)</script>", "a|b`\n", "\U0001f642 {{x}}"], axis=1)
    _, players = served(Ridge().fit(hostile, x.c0), hostile)
    got = shapley.attribute(players, hostile.tail(2), hostile.head(20))
    m = x.to_numpy()
    _, matrix = served(Ridge().fit(m, m[:, 0]), m)
    assert matrix.names == ["x0", "x1", "x2"]
    assert np.abs(shapley.attribute(matrix, m[-2:], m[:20]).values - got.values).max() < 1e-5


def test_counterfactuals_are_true_and_stay_within_bounds():
    x = numbers(600, 4).assign(age=np.random.default_rng(0).integers(18, 80, 600).astype("float32"))
    _, players = served(GradientBoostingClassifier(n_estimators=30, random_state=0).fit(x, x.c0 + x.c1 * 0.5 > 0.2), x)
    p = players.predictor
    free = [counterfactuals.freedom(s, players.names, lambda n: x[n]) for s in ("c0=-1..1", "c1=-2..2", "age=30..40")]
    bound = {f.name: (f.low, f.high) for f in free}
    found = 0
    for i in range(count(25, 200)):
        row = x.iloc[[i]]
        c = explanation.counterfactual(p, row, free, "", scoring.ask(p, x).classes)
        assert c["verified"]
        if not c["changes"]:
            continue
        found += 1
        assert c["answer"] != str(scoring.ask(p, row).label[0])
        for change in c["changes"]:
            low, high = bound[change["input"]]
            assert low - 1e-6 <= change["to"] <= high + 1e-6
            assert change["input"] != "age" or change["to"] == round(change["to"])
    assert found >= 10


def test_a_counterfactual_that_does_not_exist_is_said_so(mixed):
    frame, _, players = mixed
    row = frame[players.predictor.predict(frame) == "on time"].head(1)
    classes = scoring.ask(players.predictor, frame).classes
    free = [counterfactuals.freedom(f"kind={row.kind.iloc[0]}", players.names, lambda n: frame[n].to_numpy())]
    assert explanation.counterfactual(players.predictor, row, free, "", classes)["changes"] is None
    text = [counterfactuals.freedom("kind", players.names, lambda n: frame[n].to_numpy())]
    assert text[0].levels == ["x", "y", "z"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "One project with one registered model for this file: registering is what costs"
    from mlops_nb.model.verbs import log

    with own_project(tmp_path_factory.mktemp("shop")) as made:
        x = numbers(400, 4)
        y = np.where(x.c0 + x.c1 * x.c2 > 0, "yes", "no")
        log(GradientBoostingClassifier(n_estimators=30, random_state=0).fit(x, y), "m", example=x, wait=True)
        x.to_parquet("rows.parquet")
        return made


@pytest.fixture
def registered(shop, monkeypatch):
    "The rows of the registered model; its project is the working directory"
    monkeypatch.chdir(shop.root)
    return pd.read_parquet("rows.parquet")


def test_the_shell_form_keeps_its_contract_and_replays_to_the_bit(registered, shop, cli):
    first = cli("model", "explain", "m@1", "--data", "rows.parquet", "--rows", 3, "--mutable", "c0,c1=-3..3", "--json")
    got = first.json
    assert first.exit == 0
    assert {"base", "rows", "additivity_error"} <= set(got)
    assert got["additivity_error"] <= 1e-6
    for row in got["rows"]:
        assert abs(got["base"] + sum(row["values"].values()) - row["prediction"]) <= 1e-6
        assert row["counterfactual"]["verified"]
    again = cli("model", "explain", "m@1", "--data", "rows.parquet", "--replay", got["entry"], "--json")
    assert (again.exit, again.json["replayed"], again.json["digest"]) == (0, True, got["digest"])
    assert [r["values"] for r in again.json["rows"]] == [r["values"] for r in got["rows"]]
    kept = next(e.payload for e in ledger.of(shop).events("model.explained"))
    assert not any(str(v) in str(kept) for v in registered.head(3).to_numpy().ravel())


def test_a_replay_of_something_else_is_refused(registered, shop, cli):
    entry = cli("model", "explain", "m@1", "--data", "rows.parquet", "--rows", 1, "--summary", 0, "--json").json[
        "entry"
    ]
    registered.head(50).to_parquet("less.parquet")
    other = cli("model", "explain", "m@1", "--data", "less.parquet", "--replay", entry)
    assert other.exit == 2
    assert "not the rows of entry" in other.err
    assert cli("model", "explain", "m@1", "--data", "rows.parquet", "--replay", 0).exit == 2
    payload = next(e.payload for e in ledger.of(shop).events("model.explained"))
    ledger.record(shop, msgspec.structs.replace(payload, values_digest="0" * 64), subject="m@1")
    last = max(e.seq for e in ledger.of(shop).events("model.explained"))
    changed = cli("model", "explain", "m@1", "--data", "rows.parquet", "--replay", last, "--json")
    assert (changed.exit, changed.json["error"]["kind"], changed.json["replayed"]) == (1, "finding", False)


def test_bad_input_is_one_line(registered, cli):
    registered.drop(columns="c3").to_parquet("narrow.parquet")
    registered.head(0).to_parquet("empty.parquet")
    for words, said in (
        (["m@9", "--data", "rows.parquet"], "no version '9'"),
        (["m@1", "--data", "rows.parquet", "--at", "400"], "no such row"),
        (["m@1", "--data", "rows.parquet", "--output", "yess"], "did you mean `yes`"),
        (["m@1", "--data", "rows.parquet", "--method", "guess"], "--method"),
        (["m@1", "--data", "rows.parquet", "--method", "trees", "--target", "x", "--orders", "0"], "at least 4 orders"),
        (["m@1", "--data", "rows.parquet", "--mutable", "c9"], "no input `c9`"),
        (["m@1", "--data", "rows.parquet", "--rows", "0"], "at least one row"),
        (["m@1", "--data", "narrow.parquet"], "lack the input `c3`"),
        (["m@1", "--data", "empty.parquet"], "no rows"),
    ):
        got = cli("model", "explain", *words)
        assert got.exit == 2, words
        assert said in got.err
        assert len(got.err.strip().splitlines()) == 1


def test_scores_that_are_no_number_are_refused():
    x = numbers(100, 2)
    _, players = served(LogisticRegression().fit(x, x.c0 > 0), x)
    with pytest.raises(BadInput, match="no finite score"):
        shapley.attribute(players, x.head(2).assign(c0=np.float32(np.nan)), x.tail(20))
    with pytest.raises((BadInput, NotFound)):
        shapley.attribute(players, x.head(0), x.tail(20))
