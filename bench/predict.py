"""Prediction by a registered version against MLflow's pyfunc and scikit-learn; `model log` against MLflow's own.

One process, processor seconds of a call; the same boosted trees, the same rows. The ways take turns, in the other order every second round, and
a ratio is the median of the rounds' own. scikit-learn against itself stands beside the largest batch: what its ratio differs from 1 is noise."""

import logging
import os
import statistics
import tempfile
import time
import warnings

import numpy as np
import pandas as pd


def cpu(f, rows, times: int) -> float:
    "Processor seconds of one call"
    began = time.process_time()
    for _ in range(times):
        f(rows)
    return (time.process_time() - began) / times


def race(ways: dict, rows, times: int, rounds: int) -> dict[str, list[float]]:
    "Processor seconds of each way in each round, the ways in turn"
    seen: dict[str, list[float]] = {k: [] for k in ways}
    for r in range(rounds):
        for k in list(ways)[:: 1 if r % 2 else -1]:
            seen[k].append(cpu(ways[k], rows(k), times))
    return seen


def row(name, ours: list[float], peer: list[float], unit, note) -> dict:
    return {
        "name": name,
        "ours": round(statistics.median(ours), 7),
        "peer": round(statistics.median(peer), 7),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, peer, strict=True)), 2),
        "unit": unit,
        "note": note,
    }


def perceived(clf, frame, rounds: int) -> list[dict]:
    "Wall seconds until the notebook goes on"
    import mlflow

    from mlops_nb import model
    from mlops_nb.core import project
    from mlops_nb.model import mlflow_registration

    p, ours, peer = project.current(), [], []
    mlflow.set_tracking_uri(p.mlflow_uri)
    for k in range(rounds):
        began = time.perf_counter()
        model.log(clf, "trees", example=frame, wait=False)
        ours.append(time.perf_counter() - began)
        for at in list(mlflow_registration.staging(p).iterdir()):
            mlflow_registration.wait(p, at.name)  # so that the peer runs alone
        began = time.perf_counter()
        with mlflow.start_run():
            signature = mlflow.models.infer_signature(frame, clf.predict(frame))
            mlflow.sklearn.log_model(
                clf, name="m", signature=signature, serialization_format="cloudpickle", registered_model_name=f"peer{k}"
            )
        peer.append(time.perf_counter() - began)
    note = "until the cell ends; ours goes on in a child (ONNX, parity, signature, lock), the peer's infers requirements"
    return [row("model log, perceived", ours, peer, "s, wall", note)]


def main(few: int = 9, many: int = 60) -> list[dict]:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from sklearn.ensemble import GradientBoostingClassifier

    from mlops_nb import model
    from mlops_nb.core import project

    with tempfile.TemporaryDirectory() as d:
        p = project.create(d)
        os.environ["MLFLOW_TRACKING_URI"] = p.mlflow_uri
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.normal(size=(5000, 30)), columns=[f"x{k}" for k in range(30)])
        clf = GradientBoostingClassifier(n_estimators=100, max_depth=3).fit(frame, frame.x0 + frame.x1 * frame.x2 > 0)
        with project.use(p):
            model.log(clf, "trees", example=frame, wait=True)
            ours = model.load("trees@1")
            import mlflow

            pyfunc = mlflow.pyfunc.load_model(str(model.folder(model.resolve("trees@1"))))
            ways = {"ours": ours, "ours, array": ours, "pyfunc": pyfunc.predict, "sklearn": clf.predict_proba}
            rows = []
            for n, times, rounds in ((1, 200, few), (1000, 10, few), (100_000, 1, many)):
                big = frame.iloc[np.arange(n) % 5000].reset_index(drop=True)
                array = big.to_numpy()
                got = race(ways, lambda k, big=big, array=array: array if k == "ours, array" else big, times, rounds)
                for form in ("ours", "ours, array"):
                    for peer in ("pyfunc", "sklearn"):
                        kind = "array" if "array" in form else "frame"
                        note = f"CPU a call, 100 trees, 30 columns; ours takes a {kind}; original from {ours.native_from} rows on"
                        rows.append(row(f"predict {n:,} rows ({kind}) against {peer}", got[form], got[peer], "s, CPU", note))
            again = race({"a": clf.predict_proba, "b": clf.predict_proba}, lambda k: big, 1, many)
            note = "the same call twice: how far a ratio is from 1 by chance"
            rows.append(row("predict 100,000 rows, scikit-learn against itself", again["a"], again["b"], "s, CPU", note))
            return rows + perceived(clf, frame, 3)


if __name__ == "__main__":
    for r in main():
        print(r)
