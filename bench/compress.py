"""Compression: an int8 network against the network it was made from, in turn, in sessions of one thread."""

import time
import warnings

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from mlops_nb.model import compression, onnx_compression, onnx_export
from mlops_nb.model.onnx_session import Predictor


def batch_s(sessions: dict[str, Predictor], rows, rounds: int) -> dict[str, float]:
    "Median wall seconds of one call with all rows, the sessions in turn"
    fed = {k: onnx_export.feed(p.inputs, rows, p.whole) for k, p in sessions.items()}
    took: dict[str, list[float]] = {k: [] for k in sessions}
    for _ in range(rounds):
        for k, p in sessions.items():
            began = time.perf_counter()
            p.session.run(None, fed[k])
            took[k].append(time.perf_counter() - began)
    return {k: float(np.median(v)) for k, v in took.items()}


def row(name: str, ours: float, peer: float, unit: str, note: str) -> dict:
    "A line of bench/RESULTS.md"
    return {
        "name": name,
        "ours": float(f"{ours:.4g}"),
        "peer": float(f"{peer:.4g}"),
        "ratio": round(peer / ours, 2),
        "unit": unit,
        "note": note,
    }


def main(rounds: int = 30) -> list[dict]:
    "Rows for bench/RESULTS.md"
    warnings.simplefilter("ignore")
    d = load_breast_cancer()
    x = pd.DataFrame(StandardScaler().fit_transform(d.data).astype("float32"), columns=[f"c{j}" for j in range(30)])
    model = MLPClassifier((1024, 1024), max_iter=20, random_state=0).fit(x[:400], d.target[:400])
    inputs = onnx_export.signature(x)
    raw = onnx_export.convert(model, inputs)
    full = Predictor(raw, inputs)
    made = {"int8": onnx_compression.int8_dynamic(raw), "int8-static": onnx_compression.int8_static(raw, full, x[:400])}
    sessions = {"as it is": full, **{k: Predictor(b, inputs) for k, b in made.items()}}
    many = pd.concat([x] * 2)[:1000]
    one, hundred, thousand = (
        compression.latencies(sessions, x),
        batch_s(sessions, x[:100], rounds),
        batch_s(sessions, many, rounds),
    )
    out = []
    for k, b in made.items():
        same = float((sessions[k].predict(x) == full.predict(x)).mean())
        out.append(
            row(
                f"{k} network 30-1024-1024, size",
                len(b),
                len(raw),
                "bytes",
                f"{len(b) / len(raw):.3f} x; same answers {same:.2%}",
            )
        )
        out.append(
            row(f"{k} network, 1 row, p50", one[k][0], one["as it is"][0], "us", "ONNX Runtime, one thread, in turn")
        )
        out.append(row(f"{k} network, 100 rows", hundred[k], hundred["as it is"], "s", "median of one call"))
        out.append(row(f"{k} network, 1,000 rows", thousand[k], thousand["as it is"], "s", "median of one call"))
    return out


if __name__ == "__main__":
    for line in main():
        print(line)
