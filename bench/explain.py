"""Explanations: ours against shap on the same session, interleaved; processor time and error against a long reference."""

import statistics
import time
import warnings

import numpy as np
import pandas as pd
import shap
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.neural_network import MLPClassifier

from mlops_nb.model import onnx_export, shapley, tree_tables
from mlops_nb.model.onnx_session import Predictor

BACKGROUND, ROWS = 64, 20


def timed(call) -> tuple[object, float]:
    "A result and its processor seconds"
    began = time.process_time()
    return call(), time.process_time() - began


def error(values, reference) -> float:
    "L1 error relative to the size of the explanation, mean over rows"
    return float((np.abs(values - reference).sum(axis=1) / np.abs(reference).sum(axis=1)).mean())


def session(model, frame) -> shapley.Players:
    "The players of a model's ONNX session"
    inputs = onnx_export.signature(frame)
    return shapley.Players(Predictor(onnx_export.convert(model, inputs), inputs))


def sampled(name: str, model, frame, rounds: int) -> dict:
    "Ours and shap's permutation explainer on the same ONNX session, the same rows, the same background"
    players, back, rows = session(model, frame), frame[:BACKGROUND], frame[-ROWS:]
    peer = shap.explainers.Permutation(
        lambda x: players.scores(np.ascontiguousarray(x, "float32")), back.to_numpy(), seed=0
    )
    reference = shapley.attribute(players, rows, back, orders=8192, seed=99).values
    peer(rows[:1].to_numpy(), silent=True)
    ours_s, peer_s, ours_e, peer_e = [], [], [], []
    for n in range(rounds):
        a, s = timed(lambda seed=n: shapley.attribute(players, rows, back, seed=seed))
        ours_s.append(s)
        ours_e.append(error(a.values, reference))
        b, s = timed(lambda: peer(rows.to_numpy(), silent=True))
        peer_s.append(s)
        peer_e.append(error(b.values, reference))
    ours, theirs = statistics.median(ours_s) / ROWS, statistics.median(peer_s) / ROWS
    note = f"512 orders, L1 error {np.mean(ours_e):.1%}; shap's default permutations, {np.mean(peer_e):.1%}; both by 8,192 orders"
    return row(f"explain {name}, CPU a row", ours, theirs, note)


def shallow(frame, label, rounds: int) -> list[dict]:
    "Tables of 100 trees of depth 3 against TreeExplainer, both ways that it has"
    model = GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=0).fit(frame, label)
    players, x, rows = session(model, frame), frame.to_numpy(), []
    back, onnx = x[:BACKGROUND], onnx_export.convert(model, onnx_export.signature(frame))
    build_s = []
    for _ in range(rounds):
        tables, s = timed(lambda: tree_tables.build(tree_tables.read(onnx, players.names), back))
        build_s.append(s)
    for name, data, peer, many in (
        ("path-dependent", None, shap.TreeExplainer(model), 5000),
        ("interventional", back, shap.TreeExplainer(model, back), 500),
    ):
        ours_s, peer_s = [], []
        for _ in range(rounds):
            (got, _), s = timed(lambda n=many: tree_tables.explain(tables, x[:n]))
            ours_s.append(s / many)
            theirs, s = timed(lambda p=peer, n=many: p.shap_values(x[:n], check_additivity=False))
            peer_s.append(s / many)
        same = "" if data is None else f"; largest difference {np.abs(got - theirs).max():.1e}"
        rows.append(
            row(
                f"explain 100 shallow trees, TreeExplainer {name}, CPU a row",
                statistics.median(ours_s),
                statistics.median(peer_s),
                f"{many:,} rows{same}",
            )
        )
    return [
        *rows,
        row("tables of 100 shallow trees, CPU", statistics.median(build_s), None, f"{BACKGROUND} background rows"),
    ]


def row(name: str, ours: float, peer: float | None, note: str) -> dict:
    "A line of bench/RESULTS.md; seconds"
    ratio = None if peer is None else round(peer / ours, 2)
    return {
        "name": name,
        "ours": float(f"{ours:.3g}"),
        "peer": peer and float(f"{peer:.3g}"),
        "ratio": ratio,
        "unit": "s",
        "note": note,
    }


def main(rounds: int = 5) -> list[dict]:
    "Rows for bench/RESULTS.md"
    warnings.simplefilter("ignore")
    x, y = make_classification(8000, 20, n_informative=8, random_state=0)
    frame = pd.DataFrame(x.astype("float32"), columns=[f"c{j}" for j in range(20)])
    models = {
        "boosted trees": GradientBoostingClassifier(n_estimators=100, random_state=0),
        "a forest": RandomForestClassifier(100, max_depth=8, random_state=0),
        "a network": MLPClassifier((64, 64), max_iter=60, random_state=0),
    }
    return [*[sampled(k, m.fit(frame, y), frame, rounds) for k, m in models.items()], *shallow(frame, y, rounds)]


if __name__ == "__main__":
    for line in main():
        print(line)
