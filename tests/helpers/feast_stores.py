"""Feature stores of Feast without repository files, and instants for their rows."""

from pathlib import Path

import pandas as pd

OURS = "mlops_nb.feature.feast_plugin.PitOfflineStore"
START = pd.Timestamp("2013-01-01", tz="UTC")


def minutes(*at) -> list[pd.Timestamp]:
    "Instants so many minutes after START"
    return [START + pd.Timedelta(minutes=m) for m in at]


def store_of(root: Path, offline: str = OURS):
    "A feature store without repository files"
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project="p",
        provider="local",
        registry=str(root / f"{offline[-5:]}.db"),
        online_store={"type": "sqlite", "path": str(root / "online.db")},
        offline_store={"type": offline},
    )
    config.repo_path = root
    return FeatureStore(config=config)
