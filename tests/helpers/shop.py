"""A small shop: a project with a dataset, a feature view, a model and a job. It is made once per process; tests get copies."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.job_runs import made
from helpers.places import at_home, keep_store
from mlops_nb import data, feature, model
from mlops_nb.core import ledger
from mlops_nb.core import project as projects
from mlops_nb.core.project import Project

INPUTS = ["amount", "visits"]
DAY = pd.Timestamp("2026-01-01", tz="UTC")


def sales() -> pd.DataFrame:
    "240 sales to 20 customers, one an hour; who spends much and comes often is loyal"
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "customer": np.arange(240) % 20,
            "sold": pd.date_range(DAY, periods=240, freq="h"),
            "amount": rng.gamma(2, 20, 240).round(2),
            "visits": rng.integers(1, 9, 240).astype(float),
        }
    )
    return rows.assign(loyal=np.where(rows.amount + 10 * rows.visits > 80, "yes", "no"))


def furnish() -> None:
    "Dataset `sales@1`, feature view `spending@1`, model `loyal@1` and job `report`, in the project of the working directory"
    from sklearn.linear_model import LogisticRegression

    rows = sales()
    rows.to_parquet("sales.parquet")
    data.add("sales.parquet", "sales")
    feature.add(
        "spending",
        entity=["customer"],
        time="sold",
        source="sales",
        sql="SELECT customer, sold, amount, visits FROM source",
    )
    loyal = LogisticRegression(max_iter=500).fit(rows[INPUTS], rows.loyal)
    model.log(loyal, "loyal", data="sales@1", example=rows[INPUTS], wait=True)
    made("report", "days = 3  # how many", "print('days', days)")


@contextlib.contextmanager
def own_project(base: Path) -> Iterator[Project]:
    "An empty project in `base`/work, which is the working directory meanwhile, and a home of its own in `base`/home"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in at_home(base / "home").items():
            patch.setenv(name, value)
        project = projects.create(base / "work")
        patch.chdir(project.root)
        yield project
    keep_store(base / "home/.cache")


def opened(base: Path) -> Path:
    "A furnished shop in `base`/work"
    with own_project(base) as project:
        furnish()
        ledger.of(project).close()
        settle(project.root)
        return project.root


def settle(root: Path) -> None:
    "All that databases hold is in their files, and nothing in their write-ahead logs"
    for file in root.glob(".mlops/*.db"):
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copied(shop: Path, root: Path) -> Project:
    "The same shop in another folder"
    shutil.copytree(shop, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    config = root / ".dvc/config"  # the one file that names the folder
    config.write_text(config.read_text(encoding="utf-8").replace(str(shop), str(root)), encoding="utf-8")
    return projects.create(root)
