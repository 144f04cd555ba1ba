"""Random pipelines of text steps, number steps and estimators, and rows that try them: gaps, None, levels never seen, ''."""

import numpy as np
import pandas as pd
from sklearn import calibration, compose, ensemble, impute, linear_model, pipeline, preprocessing, svm, tree

TEXT, NUMBERS = ["town", "sex"], ["age", "pay", "n"]
TOWNS, SHARES = ["Ulm", "Köln", "Bonn", "Jena", "Trier", "Zug"], [0.4, 0.3, 0.2, 0.06, 0.03, 0.01]
make = pipeline.make_pipeline


def frame(n: int, seed: int) -> pd.DataFrame:
    "People: three numbers, two texts"
    r = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": r.normal(40, 12, n),
            "pay": np.exp(r.normal(7, 1, n)),
            "n": r.integers(0, 9, n).astype(float),
            "town": r.choice(TOWNS, n, p=SHARES).astype(object),
            "sex": r.choice(["m", "f"], n).astype(object),
        }
    )


def gaps(rows: pd.DataFrame, columns: list[str], word, seed: int, share: float = 0.12) -> pd.DataFrame:
    "Some values replaced by a word"
    r, rows = np.random.default_rng(seed), rows.copy()
    for column in columns:
        values = rows[column].to_numpy(object if column in TEXT else "float64", copy=True)
        values[r.random(len(rows)) < share] = word
        rows[column] = values
    return rows


def truth(rows: pd.DataFrame, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, len(rows))
    return (rows.age / 12 + np.log(rows.pay) + (rows.town == "Ulm") + noise).to_numpy()


TEXT_STEPS = [
    lambda: preprocessing.OneHotEncoder(handle_unknown="ignore"),
    lambda: preprocessing.OneHotEncoder(),
    lambda: preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=40),
    lambda: preprocessing.OneHotEncoder(max_categories=3, handle_unknown="ignore", sparse_output=False),
    lambda: make(
        impute.SimpleImputer(strategy="most_frequent"),
        preprocessing.OneHotEncoder(handle_unknown="ignore", drop="first"),
    ),
    lambda: make(
        impute.SimpleImputer(strategy="constant", fill_value="?"),
        preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    ),
    lambda: preprocessing.TargetEncoder(random_state=0),
]
NUMBER_STEPS = [
    lambda: make(impute.SimpleImputer(add_indicator=True), preprocessing.StandardScaler()),
    lambda: make(impute.SimpleImputer(strategy="median"), preprocessing.RobustScaler()),
    lambda: make(impute.SimpleImputer(), preprocessing.PowerTransformer()),
    lambda: make(impute.SimpleImputer(), preprocessing.KBinsDiscretizer(5, quantile_method="averaged_inverted_cdf")),
    lambda: make(impute.SimpleImputer(), preprocessing.MinMaxScaler(), preprocessing.PolynomialFeatures(2)),
    lambda: make(impute.SimpleImputer(strategy="constant", fill_value=-1), preprocessing.MaxAbsScaler()),
    lambda: make(impute.SimpleImputer(), preprocessing.StandardScaler(), preprocessing.FunctionTransformer(np.tanh)),
]
ESTIMATORS = [
    lambda: linear_model.LogisticRegression(max_iter=300),
    lambda: ensemble.RandomForestClassifier(20),
    lambda: ensemble.HistGradientBoostingClassifier(max_iter=15),
    lambda: ensemble.GradientBoostingClassifier(n_estimators=15),
    lambda: svm.LinearSVC(),
    lambda: svm.SVC(),
    lambda: linear_model.RidgeClassifier(),
    lambda: linear_model.SGDClassifier(loss="log_loss"),
    lambda: ensemble.ExtraTreesClassifier(20),
    lambda: calibration.CalibratedClassifierCV(svm.LinearSVC(), method="isotonic", cv=3),
    lambda: ensemble.VotingClassifier(
        [("a", linear_model.LogisticRegression(max_iter=300)), ("b", tree.DecisionTreeClassifier(max_depth=4))],
        voting="soft",
        weights=[2, 1],
    ),
    lambda: ensemble.StackingClassifier(
        [("a", tree.DecisionTreeClassifier(max_depth=4)), ("b", linear_model.RidgeClassifier())], cv=3
    ),
]


def fitted(number: int, rows: int = 500):
    "A pipeline by its number, and the rows that taught it"
    r = np.random.default_rng((number, 17))
    taught = frame(rows, number)
    values = truth(taught, number)
    taught = gaps(gaps(taught, NUMBERS, np.nan, number + 1), TEXT, np.nan, number + 2)
    labels = values > values.mean()
    if number % 3:
        labels = labels.astype(int)
    if number % 2:
        labels = np.array(["low", "middle", "up"])[np.digitize(values, np.quantile(values, [0.4, 0.75]))]
    columns = compose.ColumnTransformer(
        [
            ("text", TEXT_STEPS[number % len(TEXT_STEPS)](), TEXT),
            ("numbers", NUMBER_STEPS[number // 7 % len(NUMBER_STEPS)](), NUMBERS),
        ],
        sparse_threshold=0,
    )
    model = make(columns, ESTIMATORS[(number * 5 + r.integers(2)) % len(ESTIMATORS)]())
    return model.fit(taught, labels), taught


def variants(rows: int, seed: int) -> dict[str, pd.DataFrame]:
    "Rows of each sort"
    plain = frame(rows, seed + 1000)
    found = {"plain": plain, "numbers missing": gaps(plain, NUMBERS, np.nan, seed)}
    for name, word in (("NaN", np.nan), ("None", None), ("unseen", "Rom"), ("empty", "")):
        found[name] = gaps(plain, TEXT, word, seed + 3)
    found["all at once"] = gaps(gaps(found["unseen"], NUMBERS, np.nan, seed + 4), TEXT, np.nan, seed + 5)
    return found
