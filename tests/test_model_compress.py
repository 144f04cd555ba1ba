"""Compression: smaller where it is smaller, equal where it must be, and "no gain" or a refusal where it is not."""

import numpy as np
import onnx
import pandas as pd
import pytest
from helpers.counts import count
from helpers.shop import own_project
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.tree import DecisionTreeRegressor

from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput
from mlops_nb.model import compression, distillation, onnx_compression, onnx_export, scoring
from mlops_nb.model.compress_facts import Candidate
from mlops_nb.model.onnx_session import Predictor


def framed(load) -> tuple[pd.DataFrame, np.ndarray]:
    d = load(as_frame=True)
    return d.data.astype("float32"), d.target.to_numpy()


def served(model, x) -> tuple[bytes, Predictor]:
    inputs = onnx_export.signature(x)
    raw = onnx_export.convert(model, inputs)
    return raw, Predictor(raw, inputs)


@pytest.fixture(scope="module")
def digits():
    "A network on real digits: rows, labels, bytes, session"
    x, y = framed(load_digits)
    return (
        x,
        y,
        *served(MLPClassifier((1024, 1024), max_iter=count(5, 60), random_state=0).fit(x[:900] / 16, y[:900]), x),
    )


def agree(a: bytes, p: Predictor, x) -> float:
    return float((Predictor(a, p.inputs).predict(x) == p.predict(x)).mean())


def test_int8_is_a_quarter_and_agrees(digits):
    x, _, raw, p = digits
    rows = x / 16
    for small in (onnx_compression.int8_dynamic(raw), onnx_compression.int8_static(raw, p, rows[:600])):
        assert len(small) <= 0.26 * len(raw)
        assert agree(small, p, rows[900:]) >= 0.99


def test_half_precision_is_half(digits):
    x, _, raw, p = digits
    small = onnx_compression.half(raw)
    assert 0.48 < len(small) / len(raw) < 0.55
    assert agree(small, p, x / 16) >= 0.995


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_pruning_takes_neurons_away(digits, share):
    x, _, raw, p = digits
    small = onnx_compression.prune(raw, share, p, (x / 16)[:900])
    onnx.checker.check_model(onnx.load_from_string(small))
    assert len(small) < (1 - share) * 1.1 * len(raw)
    assert agree(small, p, (x / 16)[900:]) >= 0.9


def test_pruning_a_regression_network_keeps_its_values():
    x, y = framed(load_diabetes)
    x = (x - x.mean()) / x.std()
    raw, p = served(
        MLPRegressor(hidden_layer_sizes=(100, 50), max_iter=80, random_state=0).fit(x, y / 100), x.astype("float32")
    )
    small = Predictor(onnx_compression.prune(raw, 0.5, p, x.astype("float32")), p.inputs)
    assert np.corrcoef(small(x), p(x))[0, 1] > 0.95


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingClassifier(n_estimators=80, random_state=0),
        RandomForestClassifier(60, random_state=0),
        ExtraTreesClassifier(40, max_depth=9, random_state=0),
    ],
    ids=lambda m: type(m).__name__,
)
def test_fewer_and_shallower_trees_are_smaller_and_near(model):
    x, y = framed(load_breast_cancer)
    raw, p = served(model.fit(x[:400], y[:400]), x)
    for small in (onnx_compression.fewer_trees(raw, 0.5, p, x[:400]), onnx_compression.shallower(raw, 2, p, x[:400])):
        onnx.checker.check_model(onnx.load_from_string(small))
        q = Predictor(small, p.inputs)
        scores = q(x)
        assert len(small) < 0.75 * len(raw)
        assert scores.min() >= -1e-6
        assert scores.max() <= 1 + 1e-6
        assert agree(small, p, x[400:]) >= 0.93


def test_many_classes_and_values_survive_the_cut():
    x, y = framed(load_digits)
    raw, p = served(RandomForestClassifier(50, random_state=0).fit(x[:1200], y[:1200]), x)
    half = Predictor(onnx_compression.fewer_trees(raw, 0.5, p, x[:1200]), p.inputs)
    assert half(x).shape == (len(x), 10)
    assert np.abs(half(x).sum(axis=1) - 1).max() < 1e-4
    assert (half.predict(x[1200:]) == p.predict(x[1200:])).mean() > 0.9
    x, y = framed(load_diabetes)
    raw, p = served(GradientBoostingRegressor(n_estimators=100, random_state=0).fit(x, y), x)
    few = Predictor(onnx_compression.fewer_trees(raw, 0.5, p, x), p.inputs)
    assert np.corrcoef(few(x), p(x))[0, 1] > 0.95
    assert abs(few(x).mean() - p(x).mean()) < 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_tree_that_was_grown_to_the_end_and_cut_is_the_tree_of_that_depth(depth):
    "Its leaves hold what was seen, so a cut node gives the mean that a shorter tree has there"
    x, y = framed(load_diabetes)
    raw, p = served(DecisionTreeRegressor(random_state=0).fit(x, y), x)
    small = onnx_compression.shallower(raw, depth, p, x)
    truth = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x, y)
    assert np.abs(Predictor(small, p.inputs).predict(x) - truth.predict(x)).max() < 1e-3


def test_a_candidate_that_does_not_load_costs_itself_only(monkeypatch):
    x, y = framed(load_breast_cancer)
    raw, p = served(GradientBoostingClassifier(n_estimators=10, random_state=0).fit(x, y), x)
    monkeypatch.setattr(onnx_compression, "shallower", lambda *args: raw[:40])
    judging = compression.Labelled(x[300:], None)
    _, found, _ = compression.measure(raw, p.inputs, ["depth=1", "trees=.5"], x[:300], judging)
    assert [bool(c.why) for c in found] == [False, True, False] and "cannot be made" in found[1].why


def test_cutting_at_the_full_depth_or_keeping_all_trees_is_refused_in_words():
    x, y = framed(load_breast_cancer)
    raw, p = served(GradientBoostingClassifier(n_estimators=10, max_depth=2, random_state=0).fit(x, y), x)
    with pytest.raises(onnx_compression.NotForThis, match="no tree is deeper than 2"):
        onnx_compression.shallower(raw, 2, p, x)
    with pytest.raises(onnx_compression.NotForThis, match="keep all 10 trees"):
        onnx_compression.fewer_trees(raw, 50, p, x)
    with pytest.raises(onnx_compression.NotForThis, match="no matrix products"):
        onnx_compression.int8_dynamic(raw)
    with pytest.raises(onnx_compression.NotForThis, match="no weights"):
        onnx_compression.half(raw)
    linear, q = served(LogisticRegression(max_iter=5000).fit(x, y), x)
    with pytest.raises(onnx_compression.NotForThis, match="no hidden layer"):
        onnx_compression.prune(linear, 0.5, q, x)


@pytest.mark.parametrize("spec", ["linear", "tree:6", "forest:20x6", "boost:20x3", "mlp:32x16"])
def test_a_student_answers_like_its_teacher(spec):
    x, y = framed(load_breast_cancer)
    raw, p = served(RandomForestClassifier(100, random_state=0).fit(x[:400], y[:400]), x)
    small = distillation.distil(spec, p, x[:400])
    assert [i.name for i in Predictor(small, p.inputs).session.get_inputs()] == [i.name for i in p.session.get_inputs()]
    assert len(small) < 0.5 * len(raw)
    assert agree(small, p, x[400:]) >= 0.87


def test_a_class_that_no_row_shows_keeps_its_name():
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(400, 3)).astype("float32"), columns=["a", "b", "c"])
    y = np.where(rng.random(400) < 0.1, "yes", "no")
    for model in (
        LogisticRegression(),
        RandomForestClassifier(20, max_depth=2, random_state=0),
        MLPClassifier((8,), max_iter=20, random_state=0),
    ):
        raw, p = served(model.fit(x, y), x)
        never = x[p.predict(x) == "no"]
        assert scoring.ask(p, never).classes == ["no", ""]
        assert scoring.ask(p, never, scoring.classes_of(raw)).classes == ["no", "yes"]
        student = distillation.distil("tree:3", p, never, scoring.classes_of(raw))
        assert scoring.classes_of(student) == ["no", "yes"]


def test_the_loss_is_judged_on_the_same_resamples():
    rng = np.random.default_rng(0)
    truth = scoring.words(rng.integers(0, 2, 3000))
    score = (truth == "1") * 0.4 + rng.random(3000) * 0.8
    a = scoring.Answers(
        kind="binary", label=np.where(score > 0.6, "1", "0").astype(object), score=score, classes=["0", "1"]
    )
    same = scoring.judge(a, a, truth, scoring.draws(3000))
    assert (same.loss, same.loss_high) == (0, 0)
    assert same.high - same.low > 0.01  # the score itself is uncertain; its difference to itself is not
    from sklearn.metrics import r2_score, roc_auc_score

    w = rng.integers(0, 4, (1, 3000)).astype(float)
    ours = scoring.score("roc_auc", a, truth, w)[0]
    assert abs(ours - roc_auc_score(truth == "1", score, sample_weight=w[0])) < 1e-12
    v = scoring.Answers(kind="values", label=score, score=score, classes=[])
    y = (truth == "1").astype(float)
    assert abs(scoring.score("r2", v, y, w)[0] - r2_score(y, score, sample_weight=w[0])) < 1e-12


@pytest.mark.parametrize(
    ("how", "ok", "why"),
    [
        ({}, False, "no gain"),
        ({"size_bytes": 50}, True, ""),
        ({"size_bytes": 50, "p50_us": 20}, False, "smaller but slower"),
        ({"p50_us": 5}, True, ""),
        ({"size_bytes": 50, "loss_high": 0.02}, False, "loses up to"),
        ({"size_bytes": 50, "agreement": 0.9}, False, "agrees on 90.0%"),
    ],
)
def test_what_holds_and_gains(how, ok, why):
    same = {
        "size_bytes": 100,
        "p50_us": 10.0,
        "p95_us": 12.0,
        "score": 0.9,
        "loss": 0.0,
        "loss_high": 0.0,
        "agreement": 1.0,
    }
    base, c = Candidate(how="as it is", **same), Candidate(how="x", **{**same, **how})
    compression.verdict(c, base, 0.01, 0.98)
    assert (c.ok, why in c.why) == (ok, True)
    assert (compression.best([base, c]) is c) == ok


def test_the_front_is_what_nothing_beats():
    def made(how, size, p50, loss):
        return Candidate(how=how, size_bytes=size, p50_us=p50, score=1 - loss, loss=loss)

    some = [
        made("a", 100, 10.0, 0.0),
        made("b", 50, 5.0, 0.1),
        made("c", 60, 6.0, 0.2),
        Candidate(how="d", why="cannot be made"),
    ]
    compression.fronted(some)
    assert [c.how for c in some if c.front] == ["a", "b"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "One project with one registered model for this file: registering is what costs"
    from mlops_nb.model.verbs import log

    with own_project(tmp_path_factory.mktemp("shop")) as made:
        x, y = framed(load_breast_cancer)
        x = x.set_axis([c.replace(" ", "_") for c in x.columns], axis=1)
        log(RandomForestClassifier(100, random_state=0).fit(x, y), "tumour", example=x, wait=True)
        x.assign(benign=y).to_parquet("rows.parquet")
        return made


@pytest.fixture
def registered(shop, monkeypatch):
    "The rows of the registered model; its project is the working directory"
    monkeypatch.chdir(shop.root)
    return pd.read_parquet("rows.parquet").drop(columns="benign")


def test_the_shell_form_keeps_its_contract_and_registers_a_child(registered, shop, cli):
    got = cli(
        "model",
        "compress",
        "tumour@1",
        "--data",
        "rows.parquet",
        "--try",
        "trees=.2,int8,depth=1",
        "--prefer",
        "size",
        "--max-loss",
        ".05",
        "--min-agreement",
        ".9",
        "--no-serving",
        "--json",
    )
    found = got.json
    assert got.exit == 0, got.err
    assert {"how", "size_bytes", "p50_us", "score", "agreement", "usd_per_1k", "ok"} <= set(found["candidates"][0])
    by = {c["how"]: c for c in found["candidates"]}
    assert by["trees=.2"]["ok"]
    assert found["chosen"] == min((c for c in found["candidates"] if c["ok"]), key=lambda c: c["size_bytes"])["how"]
    assert (found["registered"], found["metric"]) == (2, "roc_auc")
    assert by["int8"]["why"].startswith("cannot be made")
    assert by["trees=.2"]["usd_per_1k"] > 0
    child = next(e for e in ledger.of(shop).events("model.registered") if e.subject == "tumour@2")
    assert child.payload.parent == "tumour@1"
    assert child.payload.data == ""
    assert cli("model", "show", "tumour@2").exit == 0
    from mlops_nb.model.verbs import load

    assert (load("tumour@2").predict(registered) == load("tumour@1").predict(registered)).mean() >= 0.9
    assert " from tumour@1 " in cli("model", "list").out, "the difference is the one from its parent"


def test_lossy_candidates_are_refused(registered, shop, cli):
    before = len(list(ledger.of(shop).events("model.registered")))
    got = cli(
        "model",
        "compress",
        "tumour@1",
        "--data",
        "rows.parquet",
        "--try",
        "distill=tree:1",
        "--max-loss",
        ".001",
        "--no-serving",
        "--json",
    )
    assert (got.exit, got.json["chosen"], got.json["error"]["kind"]) == (1, None, "finding")
    assert "loses" in got.json["error"]["message"]
    assert len(list(ledger.of(shop).events("model.registered"))) == before


def test_no_gain_is_an_answer(registered, shop, cli):
    got = cli("model", "compress", "tumour@1", "--data", "rows.parquet", "--try", "int8,fp16", "--no-serving", "--json")
    assert (got.exit, got.json["chosen"], got.json["registered"]) == (0, None, None)
    assert (
        "NO GAIN" in cli("model", "compress", "tumour@1", "--data", "rows.parquet", "--try", "int8", "--no-serving").out
    )


def test_a_dry_run_changes_nothing(registered, shop, cli):
    before = len(list(ledger.of(shop).events()))
    assert (
        "make and measure"
        in cli("model", "compress", "tumour@1", "--data", "rows.parquet", "--try", "trees=.5", "--dry-run").out
    )
    assert len(list(ledger.of(shop).events())) == before


def test_bad_input_is_one_line(registered, cli):
    for words, said in (
        (["--try", "int9"], "did you mean `int8`"),
        (["--try", "prune"], "write prune=.5"),
        (["--try", "distill=bost:3x3"], "did you mean `boost`"),
        (["--try", "depth=x"], "is no number"),
        (["--try", "trees=.5", "--max-loss", "2"], "between 0 and 1"),
        (["--try", "trees=.5", "--target", "benin"], "did you mean `benign`"),
        (["--try", "trees=.5", "--score", "r2"], "does not fit this model"),
        ([], "--try"),
    ):
        got = cli("model", "compress", "tumour@1", "--data", "rows.parquet", "--no-serving", *words)
        assert got.exit == 2, words
        assert said in got.err
        assert len(got.err.strip().splitlines()) == 1


def test_too_few_rows(registered, cli):
    registered.head(20).to_parquet("few.parquet")
    got = cli("model", "compress", "tumour@1", "--data", "few.parquet", "--try", "trees=.5")
    assert (got.exit, "too few" in got.err) == (2, True)
    with pytest.raises(BadInput, match="no share"):
        x = registered
        raw, p = served(MLPClassifier((8,), max_iter=5, random_state=0).fit(x, np.arange(len(x)) % 2), x)
        onnx_compression.prune(raw, 1.5, p, x)
