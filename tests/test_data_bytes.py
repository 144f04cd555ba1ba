"""Bytes are what they are called: damage, DVC's own changes, formats that change, remotes of every kind"""

import http.server
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlops_nb import data, feature
from mlops_nb.core import ledger
from mlops_nb.core.errors import MlopsError, NotFound, ToolFailed
from mlops_nb.data import checked_bytes, dvc_bytes, dvc_versions

ONE = pd.DataFrame({"k": ["a", "b"], "t": pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True), "x": [1.0, 2.0]})
TWO = ONE.assign(x=[10.0, 20.0])


@pytest.fixture
def flights(project) -> Path:
    "The file of the newest of two versions"
    for frame in (ONE, TWO):
        frame.to_parquet("in.parquet")
        data.add("in.parquet", "flights")
    return Path("data/flights.parquet").resolve()


def kept(project, version: int) -> list[Path]:
    "Copies of a version in the cache and the remote"
    md5 = dvc_versions.read(project, "flights")[1][version - 1].md5
    return [dvc_bytes.address(folder, md5) for folder in (dvc_bytes.cache(project), project.root / dvc_bytes.OWN)]


def damage(path: Path) -> None:
    "Another file with the same length and the same time"
    stat = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def x_of(ref: str) -> list[float]:
    return data.read(ref)["x"].to_pylist()


def test_a_damaged_copy_is_passed_over_and_made_again(flights, project):
    cache, remote = kept(project, 1)
    damage(cache)
    assert x_of("flights@1") == [1.0, 2.0]
    assert cache.read_bytes() == remote.read_bytes()
    damage(flights)
    assert x_of("flights@2") == [10.0, 20.0], "the data file may be somebody's work: it stays, and is not what is read"


def test_bytes_that_are_damaged_everywhere_are_read_by_nobody(flights, project, cli):
    for copy in kept(project, 1):
        damage(copy)
    with pytest.raises(NotFound, match="damaged in every place"):
        data.read("flights@1")
    assert cli("data", "get", "flights@1", "--out", "x.parquet").exit == 2 and not Path("x.parquet").exists()
    feature.add("latest", entity=["k"], time="t", source="flights", sql="SELECT k, t, x FROM source")
    with pytest.raises(MlopsError, match="damaged"):
        feature.add("first", entity=["k"], time="t", source="flights@1", sql="SELECT k, t, x FROM source")
    assert not list((project.state / "features").glob("first*"))
    ONE.to_parquet("in.parquet")
    data.add("in.parquet", "flights")
    assert x_of("flights@1") == [1.0, 2.0], "adding the right file again repairs every copy"


def test_damaged_bytes_are_not_pushed_and_pull_repairs(flights, project, cli, tmp_path):
    data.share(str(tmp_path / "shared"))
    remote = dvc_bytes.address(tmp_path / "shared", dvc_versions.read(project, "flights")[1][0].md5)
    cache = kept(project, 1)[0]
    damage(remote)
    assert cli("data", "push", "--json").json["done"][0]["state"] == "pushed"
    assert remote.read_bytes() == cache.read_bytes(), "a damaged file of the remote is sent again"
    damage(cache)
    assert data.pull().done[0]["state"] == "pulled" and cache.read_bytes() == remote.read_bytes()
    assert data.pull().done[0]["state"] == "there"
    remote.unlink()
    damage(cache)
    shutil.rmtree(project.state / "dvc-remote")
    with pytest.raises(ToolFailed, match="flights@1 are not what was added"):
        data.push()
    assert not remote.exists()
    a = cli("data", "verify", "--json")
    assert a.exit == 1 and [c["state"] for c in a.json["checked"]] == ["changed", "ok"]


def test_what_was_read_is_remembered_until_the_file_changes(project, monkeypatch):
    monkeypatch.setattr(checked_bytes, "SMALL", 0)
    monkeypatch.setattr(checked_bytes, "MOMENT_NS", 0)
    read = []
    real = checked_bytes.file_digest
    monkeypatch.setattr(checked_bytes, "file_digest", lambda path, kind: read.append(path) or real(path, kind))
    file = Path("x").resolve()
    file.write_bytes(b"one")
    first = checked_bytes.digest_of(project, file, "md5")
    assert checked_bytes.digest_of(project, file, "md5") == first and len(read) == 1
    checked_bytes._known.clear()  # as another process
    assert checked_bytes.digest_of(project, file, "md5") == first and len(read) == 1
    assert checked_bytes.digest_of(project, file, "md5", fresh=True) == first and len(read) == 2
    damage(file)
    assert checked_bytes.digest_of(project, file, "md5") != first
    file.unlink()
    assert checked_bytes.digest_of(project, file, "md5") == ""


def dvc(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_dvc_does_is_seen(flights, project, cli):
    "`dvc add` of new bytes, pointers elsewhere, `dvc gc`"
    subprocess.run(["git", "init", "-q"], check=True)
    ONE.assign(x=[7.0, 8.0]).to_parquet(flights)
    Path("raw").mkdir()
    ONE.to_csv("raw/visits.csv", index=False)
    dvc("add", "-q", "data/flights.parquet", "raw/visits.csv")
    assert x_of("flights") == [7.0, 8.0] and x_of("visits") == [1.0, 2.0]
    said = cli("data", "show", "flights", "--json").json
    assert (said["version"], said["rows"], len(said["columns"])) == (3, 2, 3)
    assert "made by DVC" in cli("doctor").out and x_of("flights@2") == [10.0, 20.0]
    assert [e["name"] for e in cli("data", "list", "--json").json["datasets"]] == ["flights", "visits"]
    three = data.add(str(flights), "flights")
    assert (three.version, three.rows, len(list(ledger.of(project).events("dataset.added")))) == (3, 2, 3)
    assert data.add("raw/visits.csv", "visits").version == 1 and not list(Path("data").glob("visits*"))
    dvc("gc", "-w", "-f", "-q")
    assert not kept(project, 1)[0].exists() and x_of("flights@1") == [1.0, 2.0], "the remote has it"
    shutil.rmtree(project.state / "dvc-remote")
    a = cli("doctor", "--json")
    check = next(c for c in a.json["checks"] if c["name"] == "datasets")
    assert not check["ok"] and "dvc gc" in check["detail"] and "--all-commits" in check["fix"]


def test_old_bytes_again_are_the_newest(flights, project):
    ONE.to_parquet("in.parquet")
    again = data.add("in.parquet", "flights")
    assert (again.version, again.new) == (3, True) and x_of("flights") == [1.0, 2.0]
    assert data.show(f"flights@{again.digest[:12]}").version == 3 and x_of("flights@2") == [10.0, 20.0]


def test_a_dataset_grows_from_a_file_to_a_frame_and_back(project):
    names = []
    for n in range(4):
        frame = ONE.assign(x=[float(n), 0.5])
        source = frame if n % 2 else "in.csv.gz"
        frame.to_csv("in.csv.gz", index=False)
        names.append(Path(data.add(source, "grown").file).name)
    assert names == ["grown.csv.gz", "grown.parquet"] * 2
    assert sorted(p.name for p in Path("data").iterdir()) == [".gitignore", "grown.parquet", "grown.parquet.dvc"]
    assert [x_of(f"grown@{n + 1}")[0] for n in range(4)] == [0.0, 1.0, 2.0, 3.0]
    assert data.verify().ok


def test_the_pointer_keeps_what_others_wrote(project):
    ONE.to_csv("in.csv", index=False)
    data.add("in.csv", "d")
    file = Path("data/d.csv.dvc")
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    more = {**document, "desc": "of the airport", "meta": {**document["meta"], "team": "ops"}}
    file.write_text(yaml.safe_dump(more), encoding="utf-8")
    TWO.to_csv("in.csv", index=False)
    data.add("in.csv", "d")
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert document["desc"] == "of the airport" and document["meta"]["team"] == "ops"
    for bad in ({"outs": [{"md5": "../../x", "path": "d.csv"}]}, {"outs": [{"md5": "0" * 32, "path": "../../d.csv"}]}):
        file.write_text(yaml.safe_dump(bad), encoding="utf-8")
        with pytest.raises(MlopsError, match="is not a pointer"):
            data.read("d")


class Kept(http.server.BaseHTTPRequestHandler):
    "A remote that is no folder"

    files: dict[str, bytes] = {}

    def do_GET(self):
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.files[self.path] = body
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        return


@pytest.fixture
def web():
    "URL and files of a server on loopback"
    Kept.files = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kept)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/flights", Kept.files
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_version_goes_through_a_remote_that_is_no_folder(flights, project, web):
    subprocess.run(["git", "init", "-q"], check=True)
    url, files = web
    assert data.share(url).done[0]["state"] == "pushed" and len(files) == 2, list(files)
    cache = kept(project, 1)[0]
    shutil.rmtree(project.root / ".dvc" / "cache")
    shutil.rmtree(project.state / "dvc-remote")
    flights.unlink()
    assert data.pull().done[0]["state"] == "pulled" and cache.exists()
    assert x_of("flights@1") == [1.0, 2.0] and x_of("flights") == [10.0, 20.0]
    damage(cache)
    assert x_of("flights@1") == [1.0, 2.0], "fetched again from the remote"


def test_random_damage_is_never_served(project):
    "Whatever is damaged: the right rows or one line"
    chance = random.Random(7)
    truth = {}
    for n in range(1, 5):
        ONE.assign(x=[float(n), 0.25 * n]).to_parquet("in.parquet")
        truth[data.add("in.parquet", "flights").version] = [float(n), 0.25 * n]
    places = [p for n in truth for p in kept(project, n)] + [Path("data/flights.parquet").resolve()]
    for _ in range(30):
        at = chance.choice(places)
        if at.exists():
            (damage if chance.random() < 0.7 else Path.unlink)(at)
        if chance.random() < 0.3:
            data.pull() if chance.random() < 0.5 else None
        for number, rows in truth.items():
            try:
                assert x_of(f"flights@{number}") == rows
            except NotFound as error:
                assert "damaged" in str(error) or "not here" in str(error)
                ONE.assign(x=rows).to_parquet("in.parquet")
                again = data.add("in.parquet", "flights").version
                truth = {**truth, again: rows} if again not in truth else truth
                break
