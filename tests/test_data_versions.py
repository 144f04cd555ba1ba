"""Dataset versions: the digest by an independent reading of its description, DVC's own pull, a colleague's clone, damage and loss."""

import hashlib
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.counts import count
from hypothesis import given, settings
from hypothesis import strategies as st
from mlops_nb import data
from mlops_nb.core import ledger
from mlops_nb.core import project as projects
from mlops_nb.core.frames import digest

# The digest, as its description says, in the standard library alone
NUMBERS = {"int64": "<q", "int32": "<i", "uint8": "<B", "double": "<d", "float": "<f"}


def text(s: str) -> bytes:
    return struct.pack("<Q", len(s.encode())) + s.encode()


def bits(flags) -> bytes:
    out = bytearray((len(flags) + 7) // 8)
    for n, f in enumerate(flags):
        out[n // 8] |= bool(f) << n % 8
    return bytes(out)


def described(columns: dict[str, tuple[str, list]]) -> str:
    "Digest of columns given as name -> (type, values)"
    rows = len(next(iter(columns.values()))[1]) if columns else 0
    h = sha256(b"mlops-nb-frame/1" + struct.pack("<QQ", len(columns), rows))
    for name, (kind, values) in columns.items():
        h.update(text(name) + text(kind) + struct.pack("<Q", len(values)) + bits([v is not None for v in values]))
        if kind == "bool":
            h.update(bits([bool(v) for v in values]))
        elif kind in ("string", "binary"):
            raw = [b"" if v is None else v.encode() if isinstance(v, str) else v for v in values]
            h.update(b"".join(struct.pack("<q", len(r)) for r in raw) + b"".join(raw))
        elif kind.startswith("timestamp"):
            h.update(b"".join(struct.pack("<q", v or 0) for v in values))
        else:
            nan = struct.pack(NUMBERS[kind], math.nan if kind in ("double", "float") else 0)
            h.update(
                b"".join(
                    nan if v is not None and v != v else struct.pack(NUMBERS[kind], v or (0 if v is None else v))
                    for v in values
                )
            )
    return h.hexdigest()


def test_the_published_vector():
    columns = {
        "n": ("int64", [1, None, 3]),
        "x": ("double", [0.5, math.nan, None]),
        "s": ("string", ["a", None, "é"]),
        "b": ("bool", [True, False, None]),
    }
    types = {"n": pa.int64(), "x": pa.float64(), "s": pa.string(), "b": pa.bool_()}
    assert described(columns) == digest(pa.table({k: pa.array(v, types[k]) for k, (_, v) in columns.items()}))


TYPES = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "uint8": (pa.uint8(), st.integers(0, 255)),
    "double": (pa.float64(), st.floats()),
    "float": (pa.float32(), st.floats(width=32)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text(st.characters(codec="utf-8"), max_size=6)),
    "binary": (pa.binary(), st.binary(max_size=6)),
    "timestamp[us, tz=UTC]": (pa.timestamp("us", "UTC"), st.integers(-(2**50), 2**50)),
}


@st.composite
def tables(draw):
    rows, names = (
        draw(st.integers(0, 11)),
        draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=4, unique=True)),
    )
    kinds = [draw(st.sampled_from(sorted(TYPES))) for _ in names]
    return {
        n: (k, draw(st.lists(st.none() | TYPES[k][1], min_size=rows, max_size=rows)))
        for n, k in zip(names, kinds, strict=True)
    }


@settings(max_examples=count(60, 500))
@given(tables(), st.integers(0, 11), st.booleans())
def test_the_digest_equals_its_description(columns, cut, encode):
    "Whatever chunks, offsets and dictionaries hold the rows"
    arrays = {n: pa.array(v, TYPES[k][0]) for n, (k, v) in columns.items()}
    table = pa.table(list(arrays.values()), names=list(arrays))
    wanted = described(columns)
    assert digest(table) == wanted
    for n, (k, _) in enumerate(columns.values()):
        if encode and k in ("string", "int64"):
            table = table.set_column(n, table.column_names[n], table.column(n).dictionary_encode())
    pieces = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert digest(pieces) == wanted


def rows(n=50, seed=0) -> pa.Table:
    r = random.Random(seed)
    return pa.table(
        {"k": [f"k{r.randrange(9)}" for _ in range(n)], "x": [r.random() for _ in range(n)], "n": list(range(n))}
    )


@pytest.fixture
def flights(project, cli) -> Path:
    "A file to version"
    pq.write_table(rows(), "flights.parquet")
    return Path("flights.parquet").resolve()


def test_versions_keys_and_names(flights, project, cli):
    one = cli("data", "add", flights, "flights", "--purpose", "predict delays", "--json").json
    assert {"name", "version", "digest", "rows", "columns", "bytes"} <= set(one) and (
        one["name"],
        one["version"],
        one["rows"],
    ) == ("flights", 1, 50)
    assert one["digest"] == sha256(flights.read_bytes()).hexdigest() and one["bytes"] == flights.stat().st_size
    size = ledger.of(project).size()
    again = cli("data", "add", flights, "flights", "--json").json
    assert (again["version"], again["new"]) == (1, False) and ledger.of(project).size() == size, (
        "unchanged bytes are the version that is there"
    )
    pq.write_table(rows(60, 1), flights)
    two = cli("data", "add", flights, "flights", "--json").json
    assert two["version"] == 2 and two["digest"] != one["digest"]
    for ref, version in (("flights", 2), ("flights@1", 1), (f"flights@{one['digest'][:8]}", 1)):
        assert cli("data", "show", ref, "--json").json["version"] == version
    for ref, said in (
        ("flights@3", "3"),
        ("flights@" + "0" * 8, "00000000"),
        ("flight", "did you mean `flights`"),
        (f"flights@{one['digest'][:5]}", "no version"),
    ):
        a = cli("data", "show", ref)
        assert a.exit == 2 and said in a.err, (ref, a.err)
    for bad in ("../x", "a b", "", "x" * 65, "a/b"):
        assert cli("data", "add", flights, bad).exit == 2


def test_get_gives_the_same_bytes(flights, cli, tmp_path):
    raw = flights.read_bytes()
    cli("data", "add", flights, "flights")
    pq.write_table(rows(60, 1), flights)
    cli("data", "add", flights, "flights")
    assert cli("data", "get", "flights@1", "--out", tmp_path / "one.parquet").exit == 0
    assert cli("data", "get", "flights", "--out", tmp_path / "two.parquet").exit == 0
    assert (tmp_path / "one.parquet").read_bytes() == raw and (
        tmp_path / "two.parquet"
    ).read_bytes() == flights.read_bytes()


def test_diff_tells_rows_columns_and_statistics(flights, cli):
    cli("data", "add", flights, "flights")
    changed = rows().set_column(1, "x", pa.array([1.0] * 50)).append_column("y", pa.array([0] * 50))
    pq.write_table(changed, flights)
    cli("data", "add", flights, "flights")
    a = cli("data", "diff", "flights@1", "flights@2", "--json").json
    assert [c["name"] for c in a["columns"]] == ["y"] and a["rows"]["only_a"] == 50
    assert cli("data", "diff", "flights@2", "flights@2", "--json").json["columns"] == []


def test_dvc_itself_pulls_the_same_bytes_elsewhere(flights, project, cli, tmp_path, home):
    "A colleague with DVC and without mlops_nb"
    cli("init", ".")
    cli("data", "add", flights, "flights")
    assert cli("data", "push", "--json").json["done"][0]["state"] in ("there", "pushed")
    pointer = yaml.safe_load(Path("data/flights.parquet.dvc").read_text(encoding="utf-8"))
    raw = flights.read_bytes()
    assert pointer["outs"][0]["md5"] == hashlib.md5(raw).hexdigest() and pointer["outs"][0]["size"] == len(raw)
    there = tmp_path / "there"
    (there / "data").mkdir(parents=True)
    shutil.copytree(".dvc", there / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    shutil.copyfile("data/flights.parquet.dvc", there / "data" / "flights.parquet.dvc")
    (remote,) = [
        p for p in project.root.rglob("files") if p.parent.parent == project.state or p.parent.name.endswith("remote")
    ][:1]
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(["git", "-C", there, "init", "-q"], check=True)
    name = subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "default"],
        cwd=there,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for words in (["remote", "modify", name, "url", str(remote.parent)], ["pull", "-q"]):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=there, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (there / "data" / "flights.parquet").read_bytes() == raw
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "-q"],
        cwd=project.root,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, "DVC finds our own checkout clean"


def test_a_clone_has_the_same_digests(flights, project, cli, *, tmp_path, monkeypatch, home):
    "git clone elsewhere, init, data pull: the same versions from the remote that both can reach"
    cli("init", ".")
    remote = tmp_path / "remote"
    config = project.root / ".dvc" / "config"
    config.write_text(f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {remote}\n")
    one = cli("data", "add", flights, "flights", "--json").json
    assert cli("data", "push", "--json").exit == 0
    git = ["git", "-C", str(project.root)]
    for words in (["add", "."], ["commit", "-qm", "x"], ["clone", "-q", ".", str(tmp_path / "clone")]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    monkeypatch.chdir(tmp_path / "clone")
    assert not Path("data/flights.parquet").exists() and cli("data", "verify", "--json").exit in (0, 1)
    assert cli("data", "get", "flights", "--out", "x.parquet").exit == 0, (
        "straight from the remote, which is a folder here"
    )
    assert Path("x.parquet").read_bytes() == flights.read_bytes()
    assert cli("init", ".").exit == 0 and cli("data", "pull", "--json").json["done"][0]["state"] == "pulled"
    assert Path("data/flights.parquet").read_bytes() == flights.read_bytes()
    assert (
        cli("data", "show", "flights", "--json").json["digest"] == one["digest"]
        and cli("data", "verify", "--json").exit == 0
    )
    assert cli("data", "pull", "--json").json["done"][0]["state"] == "there"
    shutil.rmtree(remote)
    shutil.rmtree(".dvc/cache", ignore_errors=True)
    Path("data/flights.parquet").unlink()
    a = cli("data", "pull", "--json")
    assert a.exit == 4 and "does not have flights" in a.json["error"]["message"]


def test_changed_bytes_are_found(flights, project, cli):
    cli("data", "add", flights, "flights")
    assert cli("data", "verify", "--json").exit == 0
    for at in [Path("data/flights.parquet"), *project.root.rglob("files/md5/*/*")]:
        at.chmod(0o644)
        raw = bytearray(at.read_bytes())
        raw[40] ^= 1
        at.write_bytes(raw)
    a = cli("data", "verify", "--json")
    assert a.exit == 1 and a.json["error"]["kind"] == "finding"


def test_a_failed_record_leaves_the_old_version(flights, project, cli, monkeypatch):
    "No record, no act: the pointer and the file are those of before"
    cli("data", "add", flights, "flights")
    before = {p: p.read_bytes() for p in Path("data").iterdir()}
    pq.write_table(rows(60, 1), flights)
    from mlops_nb.core.errors import ToolFailed

    def refuse(*a, **k):
        raise ToolFailed("the ledger cannot be used: disk I/O error")

    monkeypatch.setattr(ledger, "record", refuse)
    with pytest.raises(ToolFailed):
        data.add(flights, "flights")
    assert {p: p.read_bytes() for p in Path("data").iterdir()} == before


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.csv.gz"])
def test_files_of_every_kind(project, cli, name):
    if name.endswith("parquet"):
        pq.write_table(rows(), name)
    else:
        pc.write_csv(rows(), pa.CompressedOutputStream(name, "gzip") if name.endswith("gz") else name)
    a = cli("data", "add", name, "d", "--json")
    assert a.exit == 0 and a.json["rows"] == 50 and projects.find().path("data", name.replace("x", "d", 1)).is_file()
    for bad, content in (("bad.parquet", b"PAR1 no"), ("empty.csv", b"")):
        Path(bad).write_bytes(content)
        b = cli("data", "add", bad, "bad")
        assert b.exit == 2 and b.err.count("\n") == 1 and bad in b.err, b
    assert cli("data", "list", "--json").json["datasets"][0]["name"] == "d"


def test_no_line_of_a_ragged_file_is_dropped(project, cli):
    "DuckDB's sniffer would take the longest line for the start of the table"
    Path("ragged.csv").write_text("a,b\n1\n2,3,4\n", encoding="utf-8")
    a = cli("data", "add", "ragged.csv", "ragged", "--json")
    assert a.exit == 2 or a.json["rows"] == 2
