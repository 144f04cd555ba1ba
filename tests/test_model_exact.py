"""Exports in doubles: beside thresholds, on random pipelines, in one meaning, with input as it was taught."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import random_pipelines as randoms
from helpers.counts import count
from sklearn import (
    cluster,
    compose,
    datasets,
    ensemble,
    impute,
    linear_model,
    multioutput,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.feature_extraction.text import TfidfVectorizer

from mlops_nb.core.errors import BadInput
from mlops_nb.model import exact_export, meaning, onnx_export, probe_rows
from mlops_nb.model import mlflow_packaging as packaging
from mlops_nb.model import model_wrappers as wrappers
from mlops_nb.model.onnx_session import Predictor

make = pipeline.make_pipeline
warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")


def exported(model, rows):
    "A predictor of an export that passed its gate, and its parity"
    inputs = onnx_export.signature(rows)
    onnx, parity = packaging.export(wrappers.wrapped(model), rows, inputs, 1e-4)
    return Predictor(onnx, inputs, "m@1"), parity


def scores(model, rows, p):
    return meaning.given(meaning.scores(model, rows, p.meaning), p.meaning)


SCALED_TREES = {
    "histograms": (preprocessing.StandardScaler, lambda: ensemble.HistGradientBoostingRegressor(max_iter=30)),
    "forest": (preprocessing.StandardScaler, lambda: ensemble.RandomForestRegressor(20, random_state=0)),
    "boosted": (preprocessing.RobustScaler, lambda: ensemble.GradientBoostingRegressor(n_estimators=30)),
    "tree": (preprocessing.RobustScaler, lambda: tree.DecisionTreeRegressor(random_state=0)),
    "powers": (preprocessing.PowerTransformer, lambda: ensemble.HistGradientBoostingRegressor(max_iter=30)),
}


@pytest.mark.parametrize("kind", SCALED_TREES)
def test_ten_thousand_rows_beside_thresholds_are_right(kind):
    "0.1 had up to a quarter of them wrong"
    scaler, last = SCALED_TREES[kind]
    x, y = datasets.load_diabetes(scaled=False, return_X_y=True)
    model = make(scaler(), last()).fit(x[:330], y[:330])
    p, parity = exported(model, x[:330])
    assert parity.exporter == "doubles" and parity.probed > 1000
    onnx, _ = exact_export.export(model, x[:330], onnx_export.signature(x[:330]))
    found = [probe_rows.beside_thresholds(onnx, p, x, limit=10_000, seed=seed) for seed in range(8)]
    probes = np.concatenate(found)[:10_000]
    assert len(probes) >= 2000
    difference = np.abs(p(probes) - model.predict(probes)) / np.maximum(1, np.abs(model.predict(probes)))
    assert (difference > 1e-9).sum() == 0


def answers_alike(model, p, rows, want, expected):
    "Largest difference of scores, and labels that differ though they are no tie"
    got, said = p(rows), p.predict(rows)
    assert got.shape == expected.shape and said.dtype == want.dtype
    wide = expected.reshape(len(expected), -1)
    difference = np.abs(got - expected) / np.maximum(1, np.abs(expected))
    other = said != want
    if not other.any():
        return difference.max(), 0, 0
    if wide.shape[1] == 1:
        ties = np.abs(wide[:, 0] - (0.5 if p.meaning.kind == "probabilities" else 0.0)) < 1e-9
    else:
        top = np.sort(wide, axis=1)
        ties = top[:, -1] - top[:, -2] < 1e-9
    return difference.max(), int((other & ~ties).sum()), int((other & ties).sum())


@pytest.mark.parametrize("number", range(count(12, 120)))
def test_random_pipelines_answer_like_the_original_in_every_form(number):
    model, taught = randoms.fitted(number)
    p, parity = exported(model, taught)
    assert parity.exporter == "doubles" and parity.tolerance == 1e-9
    native = Predictor(p.session._model_bytes, p.inputs, "m@1", native=lambda: model, native_from=1)
    tied = 0
    for name, rows in randoms.variants(count(150, 2000), number).items():
        try:
            want = model.predict(rows)
        except ValueError:
            with pytest.raises(BadInput):
                p(rows)
            continue
        expected = scores(model, rows, p)
        moved = rows[[*reversed(rows.columns)]].assign(more=1)
        for form, given in (("frame", rows), ("moved", moved), ("one row", rows.head(1))):
            n = len(given)
            worst, wrong, ties = answers_alike(model, p, given, want[:n], expected[:n])
            assert (worst < 1e-6, wrong) == (True, 0), (name, form)
            tied += ties
        worst, wrong, _ = answers_alike(model, native, moved, want, expected)
        assert (worst < 1e-9, wrong) == (True, 0), name
        if name in ("plain", "numbers missing", "NaN"):
            table = pa.Table.from_pandas(rows, preserve_index=False)
            assert np.array_equal(p(table), p(rows)) and np.array_equal(p.predict(table), p.predict(rows))
    assert tied <= 3


def people(n=240):
    return randoms.frame(n, 3)


def labels(rows):
    return np.where(rows.age > 40, "old", "young")


ONE_MEANING = {
    "perceptron": lambda x, y: (linear_model.Perceptron(), y > 1),
    "ridge of two targets": lambda x, y: (linear_model.Ridge(), x[:, :2] * 3),
    "ridge classifier, 3": lambda x, y: (linear_model.RidgeClassifier(), y),
    "margins with words": lambda x, y: (svm.LinearSVC(), np.array(["a", "b", "c"])[y]),
    "votes of vectors": lambda x, y: (svm.SVC(), y),
    "booleans": lambda x, y: (linear_model.LogisticRegression(), y > 1),
    "two targets of classes": lambda x, y: (
        multioutput.MultiOutputClassifier(tree.DecisionTreeClassifier(max_depth=2)),
        np.c_[y, y > 1].astype(int),
    ),
    "a forest of two targets": lambda x, y: (ensemble.RandomForestClassifier(5, random_state=0), np.c_[y, 2 - y]),
    "outliers": lambda x, y: (ensemble.IsolationForest(n_estimators=10, random_state=0), y),
    "clusters": lambda x, y: (cluster.KMeans(3, n_init=1, random_state=0), y),
    "small whole numbers": lambda x, y: (linear_model.LogisticRegression(), y.astype("int8")),
    "hard votes": lambda x, y: (
        ensemble.VotingClassifier([("a", svm.LinearSVC()), ("b", tree.DecisionTreeClassifier(max_depth=2))]),
        y,
    ),
}


@pytest.mark.parametrize("kind", ONE_MEANING)
def test_what_a_call_gives_depends_on_the_kind_alone(kind):
    "Not on the number of rows, on frames or arrays, or on whether ONNX or the original answers"
    x, y = datasets.load_iris(return_X_y=True)
    last, target = ONE_MEANING[kind](x, y)
    model = make(preprocessing.StandardScaler(), last).fit(x, target)
    p, parity = exported(model, x)
    native = Predictor(p.session._model_bytes, p.inputs, native=lambda: model, native_from=20)
    many = np.tile(x, (10, 1))
    assert np.array_equal(p.predict(many), model.predict(many)) and p.predict(many).dtype == model.predict(many).dtype
    for rows in (x[:1], x[:10], many):
        assert p(rows).shape == native(rows).shape
        if p(rows).dtype.kind == "f":
            assert np.allclose(p(rows), native(rows), atol=1e-9)
        assert np.array_equal(native.predict(rows), p.predict(rows))
        assert native.predict(rows).dtype == p.predict(rows).dtype


def test_the_kinds_give_what_their_table_says():
    x, y = datasets.load_iris(return_X_y=True)
    two = exported(linear_model.Perceptron().fit(x, y > 1), x)[0]
    assert np.allclose(two(x), linear_model.Perceptron().fit(x, y > 1).decision_function(x))
    outliers = ensemble.IsolationForest(n_estimators=10, random_state=0).fit(x)
    assert np.allclose(exported(outliers, x)[0](x), outliers.decision_function(x))
    groups = cluster.KMeans(3, n_init=1, random_state=0).fit(x)
    assert np.allclose(exported(groups, x)[0](x), groups.transform(x))
    several = multioutput.MultiOutputClassifier(tree.DecisionTreeClassifier(max_depth=2)).fit(x, np.c_[y, y > 1])
    assert exported(several, x)[0](x).shape == (150, 5)


def test_a_number_where_text_was_taught_is_refused_and_so_is_a_new_level():
    rows = people()
    rows["zip"] = np.where(rows.n > 4, "01067", "89073")
    columns = compose.make_column_transformer((preprocessing.OneHotEncoder(), ["zip"]), ("passthrough", ["age"]))
    model = make(columns, linear_model.LogisticRegression()).fit(rows[["zip", "age"]], labels(rows))
    p, _ = exported(model, rows[["zip", "age"]])
    native = Predictor(p.session._model_bytes, p.inputs, "m@1", native=lambda: model, native_from=1)
    asked = rows[["zip", "age"]].head(3)
    for form in (p, native):
        assert len(form(asked)) == 3
        with pytest.raises(BadInput, match="row 0: `zip` is 1067, and the model was taught text"):
            form(asked.assign(zip=1067))
        with pytest.raises(BadInput, match=r"01069|unknown categories"):
            form(asked.assign(zip="01069"))
        with pytest.raises(BadInput, match="row 0: `age` is 'x', and the model was taught numbers"):
            form(asked.assign(age="x"))
        assert np.allclose(form(asked.assign(zip=asked.zip.astype("category"))), p(asked))
        assert np.allclose(form(asked.assign(age=asked.age.astype(object))), p(asked))


def test_none_is_not_a_missing_value_where_the_original_tells_them_apart():
    rows = randoms.gaps(people(), ["town"], np.nan, 1)
    columns = compose.make_column_transformer((preprocessing.OneHotEncoder(handle_unknown="ignore"), ["town"]))
    model = make(columns, linear_model.LogisticRegression()).fit(rows[["town"]], rows.town.isna())
    p, _ = exported(model, rows[["town"]])
    for word in (None, np.nan, "", "Rom"):
        asked = pd.DataFrame({"town": [word, "Ulm"]}, dtype=object)
        assert np.allclose(p(asked), model.predict_proba(asked)[:, 1], atol=1e-12), word
    asked = pd.DataFrame({"town": [np.nan, "Ulm"]}, dtype=object)
    table = pa.table({"town": pa.array([None, "Ulm"])})
    assert np.allclose(p(table), model.predict_proba(asked)[:, 1], atol=1e-12), "a null is what was taught"
    assert np.allclose(p(asked.astype("string")), p(asked)), "and so is that of pandas"


def test_categories_of_boosters_keep_the_order_in_which_they_were_taught():
    lightgbm = pytest.importorskip("lightgbm")
    xgboost = pytest.importorskip("xgboost")
    rows = people().astype({"town": "category", "sex": "category"})[["age", "town", "sex"]]
    target = (rows.town.astype(object) == "Ulm") ^ (rows.age > 40)
    for model in (
        lightgbm.LGBMClassifier(n_estimators=10, verbose=-1),
        xgboost.XGBClassifier(n_estimators=10, enable_categorical=True),
    ):
        model.fit(rows, target)
        p, parity = exported(model, rows)
        expected = model.predict_proba(rows)[:, 1]
        assert parity.exporter == "doubles" and np.allclose(p(rows), expected, atol=1e-6)
        turned = rows.assign(town=rows.town.cat.reorder_categories(rows.town.cat.categories[::-1]))
        native = Predictor(p.session._model_bytes, p.inputs, native=lambda m=model: m, native_from=1)
        for asked in (turned, rows.astype({"town": object, "sex": object})):
            assert np.allclose(p(asked), expected, atol=1e-6) and np.allclose(native(asked), expected, atol=1e-6)


def test_texts_are_split_without_a_locale(monkeypatch):
    texts = ["größe ist alles", "the cat sat", "Straße in Łódź", "alles Größe", "a cat", "größe"] * 10
    target = np.array(["größe" in text.lower() for text in texts])
    model = make(TfidfVectorizer(ngram_range=(1, 2)), linear_model.LogisticRegression()).fit(texts, target)
    from mlops_nb.model import example_rows

    rows = example_rows.fit(model, texts)
    p, parity = exported(model, rows)
    asked = ["Größe!", "", "москва the cat", "\x1f cat"]
    expected = model.predict_proba(asked)[:, 1]
    assert parity.exporter == "doubles" and np.allclose(p(asked), expected, atol=1e-12)
    assert np.allclose(p(pd.DataFrame({"text": asked})), expected, atol=1e-12)
    native = Predictor(p.session._model_bytes, p.inputs, native=lambda: model, native_from=1)
    assert np.allclose(native(asked), expected) and p.predict(asked).dtype == bool
    with pytest.raises(BadInput, match="is missing"):
        p([None, "cat"])


def test_targets_and_functions_of_numpy():
    rows = people()[randoms.NUMBERS]
    logs = compose.TransformedTargetRegressor(
        make(preprocessing.FunctionTransformer(lambda x: np.log1p(np.abs(x))), linear_model.Ridge()),
        func=np.log1p,
        inverse_func=np.expm1,
    ).fit(rows, rows.pay)
    p, parity = exported(logs, rows)
    assert parity.exporter == "doubles" and np.allclose(p(rows), logs.predict(rows), rtol=1e-12)


def test_rows_of_32_bits_get_the_answers_of_the_same_numbers_in_64():
    "A scaler that is given 32 bits works in them, and would go another way beside a threshold"
    x, y = datasets.load_diabetes(scaled=False, return_X_y=True)
    model = make(preprocessing.StandardScaler(), ensemble.HistGradientBoostingRegressor(max_iter=30)).fit(x, y)
    p, _ = exported(model, x.astype("float32"))
    native = Predictor(p.session._model_bytes, p.inputs, native=lambda: model, native_from=1)
    small = x.astype("float32")
    assert np.allclose(p(small), model.predict(small.astype("float64")), atol=1e-9)
    assert np.array_equal(native(small), model.predict(small.astype("float64")))


def test_a_graph_of_0_1_answers_as_it_did():
    "It says nothing of its meaning: shapes decide, and rows become 32 bits"
    x, y = datasets.load_iris(return_X_y=True, as_frame=True)
    model = make(preprocessing.StandardScaler(), linear_model.LogisticRegression()).fit(x, y > 0)
    inputs = onnx_export.signature(x)
    p = Predictor(onnx_export.convert(model, inputs), inputs)
    assert p.meaning is None and p.tensors.kind == "float32"
    assert np.allclose(p(x), model.predict_proba(x)[:, 1], atol=1e-6) and p.predict(x).dtype == "int64"
    imputed = make(
        compose.make_column_transformer((preprocessing.OneHotEncoder(handle_unknown="ignore"), ["town"])),
        linear_model.LogisticRegression(),
    )
    rows = people()
    imputed.fit(rows, labels(rows))
    inputs = [{"name": "town", "type": "text", "null": ""}]
    old = Predictor(onnx_export.convert(imputed, onnx_export.signature(rows[["town"]])), inputs)
    assert len(old(pd.DataFrame({"town": ["Ulm", None]}))) == 2


def test_what_has_no_form_is_named_in_one_line_with_what_to_do():
    x, y = datasets.load_iris(return_X_y=True)
    model = make(impute.KNNImputer(), preprocessing.QuantileTransformer(output_distribution="normal", n_quantiles=9))
    whole = make(model, linear_model.LogisticRegression()).fit(x, y)
    with pytest.raises(Exception, match="KNNImputer has no form in ONNX.*--native") as error:
        exact_export.export(whole, x, onnx_export.signature(x))
    assert "\n" not in str(error.value)
