"""Prediction by a registered version against MLflow's pyfunc and scikit-learn; `model log` against MLflow's own.

One process, processor seconds of a call; the same boosted trees, the same rows. The ways take turns, in the other
order every second round, and a ratio is the median of the rounds' own. Where the original answers, the two calls do
the same: 200 pairs tell, with the 95 % interval of their median, and scikit-learn against itself stands beside them."""

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


def pairs(what: str, ours, peer, rows, rounds: int, *, note: str) -> dict:
    "One row of the table from calls in pairs, with the 95 % interval of the median ratio"
    got = race({"ours": ours, "peer": peer}, lambda _: rows, 1, rounds)
    ratios = sorted(b / a for a, b in zip(got["ours"], got["peer"], strict=True))
    far = min(rounds // 2 - 1, round(0.98 * rounds**0.5))
    low, high = ratios[rounds // 2 - far - 1], ratios[rounds // 2 + far]
    return row(
        what, got["ours"], got["peer"], "s, CPU", f"{note}; {rounds} pairs, 95 % interval {low:.3f} to {high:.3f}"
    )


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
    note = (
        "until the cell ends; ours goes on in a child (ONNX, parity, signature, lock), the peer's infers requirements"
    )
    return [row("model log, perceived", ours, peer, "s, wall", note)]


def main(few: int = 9, many: int = 200) -> list[dict]:
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
            ways = {"ours, frame": ours, "ours, array": ours, "pyfunc, frame": pyfunc.predict}
            ways |= {"sklearn, frame": clf.predict_proba, "sklearn, array": clf.predict_proba}
            rows = []
            for n, times in ((1, 200), (1000, 10)):
                big = frame.iloc[np.arange(n) % 5000].reset_index(drop=True)
                array = big.to_numpy()
                got = race(ways, lambda k, big=big, array=array: array if "array" in k else big, times, few)
                note = f"100 trees, 30 columns; the original answers from {ours.native_from:,} rows on; {few} rounds"
                for form in ("frame", "array"):
                    for p in ("pyfunc", "sklearn"):
                        peer = got.get(f"{p}, {form}", got[f"{p}, frame"])
                        rows.append(
                            row(f"predict {n:,} rows ({form}) against {p}", got[f"ours, {form}"], peer, "s, CPU", note)
                        )
            big = frame.iloc[np.arange(100_000) % 5000].reset_index(drop=True)
            for what, a, b, x, note in (
                ("(frame) against pyfunc", ours, pyfunc.predict, big, "the original answers both"),
                ("(frame) against sklearn", ours, clf.predict_proba, big, "the same call with the same frame"),
                (
                    "(array) against sklearn",
                    ours,
                    clf.predict_proba,
                    big.to_numpy(),
                    "the same call with the same array",
                ),
                ("(frame), sklearn against itself", clf.predict_proba, clf.predict_proba, big, "what chance does"),
            ):
                rows.append(pairs(f"predict 100,000 rows {what}", a, b, x, many, note=note))
            return rows + perceived(clf, frame, 3)


if __name__ == "__main__":
    for r in main():
        print(r)
