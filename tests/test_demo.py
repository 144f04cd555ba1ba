"""The golden path as a stranger walks it: `mlops demo`, then a colleague's clone that gets the same digests."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import at_home
from helpers.namespaces import alone, may_unshare, watched

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(1500)]
VIEWS = "carrier_delays:*,origin_departures:*,aircraft:*,airport_weather:*"
MLOPS = "from mlops_nb.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


class Person:
    "Somebody with a home, who types commands"

    def __init__(self, home: Path):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "MLFLOW_", "DVC_"))}
        self.env = kept | at_home(home) | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        (home / ".gitconfig").write_text(
            "[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
        )

    def git(self, *words, cwd: Path) -> str:
        return subprocess.run(
            ["git", *map(str, words)], cwd=cwd, env=self.env, capture_output=True, text=True, check=True
        ).stdout

    def mlops(self, *words, cwd: Path, lonely: dict | None = None) -> dict:
        "The JSON document of a command that must succeed; with the environment `lonely`, in a network namespace"
        command = [sys.executable, "-c", MLOPS, *map(str, words), "--json"]
        if lonely:
            done = alone(command, cwd, lonely, timeout=1200)
        else:
            done = subprocess.run(
                command, cwd=cwd, env=self.env, capture_output=True, text=True, check=False, timeout=1200
            )
        assert done.returncode == 0, f"{words}: {done.stdout[-1500:]} {done.stderr[-1500:]}"
        return json.loads(done.stdout)

    def leave(self):
        "End the warm servers that the commands left for the next ones"
        stop = "from mlops_nb.core import warm; warm.supported() and warm.stop()"
        subprocess.run([sys.executable, "-c", stop], env=self.env, check=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def founder(tmp_path_factory):
    somebody = Person(tmp_path_factory.mktemp("founder"))
    yield somebody
    somebody.leave()


@pytest.fixture(scope="module")
def walked(founder, tmp_path_factory) -> tuple[Path, dict]:
    "The demo's folder and what `mlops demo` printed: without a network, where a namespace is permitted"
    at = tmp_path_factory.mktemp("golden")
    lonely = None if may_unshare() else watched(founder.env, at / "watch")
    said = founder.mlops("demo", at / "demo", cwd=at, lonely=lonely)
    founder.leave()  # a warm server of the namespace is out of reach from outside
    return at / "demo", said


def test_every_step_holds(walked):
    root, said = walked
    assert [s["name"] for s in said["steps"] if not s["ok"]] == []
    shown = {s["name"]: s["detail"] for s in said["steps"]}
    assert shown["point-in-time join"] == "336,776 rows in, 336,776 rows out, 0 values from the future"
    assert Path(said["site"]).is_file() and (root / "scores" / "delay-02.parquet").is_file()


def test_the_demo_needs_no_network(walked):
    if why := may_unshare():
        pytest.skip(why)
    watch = walked[0].parent / "watch"
    assert not (watch / "seen").exists(), (watch / "seen").read_text()
    assert " forked " in (watch / "seen.processes").read_text(), "the job's kernel was watched too"


def test_the_story_is_in_the_ledger(founder, walked):
    root, _ = walked
    types = {e["type"] for e in founder.mlops("audit", "log", "--limit", "1000", cwd=root)["entries"]}
    told = {"dataset.added", "feature.added", "feature.joined", "run.completed", "model.registered", "model.promoted"}
    assert (
        told | {"job.converted", "job.completed", "monitor.drift_checked", "audit.checkpointed", "site.built"} <= types
    )
    assert {x["kind"] for x in founder.mlops("audit", "verify", cwd=root)["problems"]} <= {"unanchored"}


def test_winter_is_not_summer(founder, walked):
    root, _ = walked
    entries = founder.mlops("audit", "log", "--type", "monitor.drift_checked", cwd=root)["entries"]
    assert entries and entries[0]["payload"]["alarm"] is True
    assert "temp" in entries[0]["payload"]["drifted"]


@pytest.fixture
def colleague(tmp_path):
    somebody = Person(tmp_path / "home")
    yield somebody
    somebody.leave()


def test_a_colleagues_clone_gets_the_same_digests(founder, walked, colleague, tmp_path):
    root, clone = walked[0], tmp_path / "clone"
    colleague.git("clone", "-q", root, clone, cwd=tmp_path)
    colleague.mlops("init", cwd=clone)
    colleague.mlops("data", "pull", cwd=clone)
    for name in ("flights", "weather"):
        assert (
            colleague.mlops("data", "show", name, cwd=clone)["digest"]
            == founder.mlops("data", "show", name, cwd=root)["digest"]
        )
    asked = ("feature", "join", VIEWS, "--entities", "flights", "--time", "planned")
    joined = [who.mlops(*asked, cwd=at) for who, at in ((founder, root), (colleague, clone))]
    assert joined[0]["digest"] == joined[1]["digest"] and joined[1]["rows_in"] == joined[1]["rows_out"] == 336_776
    colleague.mlops("job", "run", "flights", cwd=clone)  # trains, promotes and scores February
    assert sha256(clone / "scores" / "delay-02.parquet") == sha256(root / "scores" / "delay-02.parquet")


@pytest.mark.prove
def test_twice_in_a_row(founder, walked):
    root, _ = walked
    again = founder.mlops("demo", root, cwd=root.parent)
    assert [s["name"] for s in again["steps"] if not s["ok"]] == []
