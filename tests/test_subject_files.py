"""A person in files of every kind: exact counts in tables of every type, in archives, and a broken file is never passed over in silence."""

import gzip
import io
import json
import sqlite3
import tarfile
import uuid
import zipfile
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from mlops_nb.core.subject_files import in_file
from mlops_nb.core.subject_tables import candidates, in_batches
from mlops_nb.core.subjects import Hit, Passed, Person, Unread

FRAME = pd.DataFrame(
    {
        "customer": ["c-17", "c-18", "c-17", "c-170"],
        "mail": ["Ann@x.org", "bob@x.org", "ann@x.org", "joann@x.org"],
        "n": [4711, 12, 47, 471],
    }
)


def sqlite_file(path: Path) -> None:
    db = sqlite3.connect(path)
    with db:
        FRAME.to_sql("calls", db, index=False)
    db.close()


def duckdb_file(path: Path) -> None:
    frame = FRAME
    with duckdb.connect(str(path)) as db:
        db.register("frame", frame)
        db.execute("CREATE TABLE calls AS SELECT * FROM frame")


def zip_file(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside/calls.csv", FRAME.to_csv(index=False))


def tar_file(path: Path) -> None:
    data = FRAME.to_csv(index=False).encode()
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("calls.csv")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))


def zstd_file(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(FRAME.to_csv(index=False).encode())


TABLES = {
    "calls.parquet": lambda path: FRAME.to_parquet(path),
    "no-suffix": lambda path: FRAME.to_parquet(path),
    "calls.feather": lambda path: feather.write_feather(FRAME, path),
    "old.feather": lambda path: feather.write_feather(FRAME, path, version=1),
    "calls.csv": lambda path: FRAME.to_csv(path, index=False),
    "calls.tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "calls.csv.gz": lambda path: path.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode())),
    "calls.csv.zst": zstd_file,
    "calls.csv.xz": lambda path: FRAME.to_csv(path, index=False, compression="xz"),
    "calls.csv.bz2": lambda path: FRAME.to_csv(path, index=False, compression="bz2"),
    "calls.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "calls.json": lambda path: FRAME.to_json(path, orient="records"),
    "calls.db": sqlite_file,
    "calls.duckdb": duckdb_file,
    "calls.zip": zip_file,
    "calls.tar.gz": tar_file,
}
PICKLES = {
    "calls.pkl": lambda path: FRAME.to_pickle(path),
    "calls.joblib": lambda path: joblib.dump(FRAME, path),
    "zipped.joblib": lambda path: joblib.dump(FRAME, path, compress=3),
    "calls.npz": lambda path: np.savez(path, customer=FRAME.customer.astype(str), mail=FRAME.mail.astype(str)),
}


def looked(person: Person, path: Path) -> tuple[Counter, list[Unread]]:
    "How often it was found, by how; what could not be read"
    told = list(in_file(person, path, path.name))
    return Counter(one.how for one in told if isinstance(one, Hit)), [one for one in told if isinstance(one, Unread)]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "person, expected",
    [
        (Person("c-17", key="customer"), {"key": 2}),
        (Person("ann@x.org"), {"value": 2}),
        (Person("4711"), {"value": 1}),
        (Person("4711", key="n"), {"key": 1}),
        (Person("4711", key="customer"), {}),
        (Person("c-1"), {}),
        (Person("cyd@x.org"), {}),
    ],
    ids=repr,
)
def test_exact_counts_in_tables(tmp_path, name, person, expected):
    TABLES[name](tmp_path / name)
    assert looked(person, tmp_path / name) == (expected, [])


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_and_arrays(tmp_path, name):
    PICKLES[name](tmp_path / name)
    found, unread = looked(Person("ann@x.org"), tmp_path / name)
    assert found.total() > 0 and unread == []
    assert looked(Person("cyd@x.org"), tmp_path / name) == ({}, [])
    path = tmp_path / "never-run.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert looked(Person("touch ran"), path)[0].total() == 1 and not Path("ran").exists()


def cut(name: str, share: float, folder: Path) -> Path:
    "A file of which a part is left"
    {**TABLES, **PICKLES}[name](folder / name)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: max(1, int(len(data) * share))])
    return folder / name


STRUCTURED = [name for name in {**TABLES, **PICKLES} if not name.endswith((".csv", ".tsv", ".jsonl", ".npz"))]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", STRUCTURED)
def test_a_file_that_was_cut_is_named_or_still_tells(tmp_path, name, share):
    whole = tmp_path / "whole"
    whole.mkdir()
    {**TABLES, **PICKLES}[name](whole / name)
    expected, _ = looked(Person("ann@x.org"), whole / name)
    found, unread = looked(Person("ann@x.org"), cut(name, share, tmp_path))
    assert unread or found == expected or name.endswith((".pkl", ".joblib"))


def test_every_type_of_a_column():
    columns = {
        "dictionary": pa.array(["c-17", "x"]).dictionary_encode(),
        "large": pa.array(["c-17", "x"], pa.large_string()),
        "view": pa.array(["c-17", "x"], pa.string_view()),
        "list": pa.array([["x", "c-17"], []]),
        "fixed": pa.array([["c-17", "x"], ["x", "x"]], pa.list_(pa.string(), 2)),
        "struct": pa.array([{"a": {"b": "c-17"}}, {"a": None}]),
        "map": pa.array([[("k", "c-17")], []], pa.map_(pa.string(), pa.string())),
        "bytes": pa.array([b"c-17", b"\xff"]),
        "json": pa.array(['{"a": "c-17"}', "{"]),
        "runs": pa.RunEndEncodedArray.from_arrays([1, 2], ["c-17", "x"]),
    }
    for name, column in columns.items():
        batch = pa.RecordBatch.from_arrays([column], [name])
        assert len(list(in_batches(Person("c-17"), [batch], ""))) == 1, name
        assert len(list(in_batches(Person("c-99"), [batch], ""))) == 0, name


NUMBERS = [
    ("4711", pa.array([Decimal("4711.00"), None])),
    ("4711.5", pa.array([4711.5, 1.0], pa.float32())),
    ("470", pa.array([470, 47], pa.int16())),
    ("470", pa.array([470, 47], pa.float16())),
    ("1990-05-17", pa.array([datetime(1990, 5, 17).date(), None])),
    ("1990-05-17 00:00:00+00:00", pa.array([datetime(1990, 5, 17, tzinfo=UTC), None])),
    ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", pa.array([uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8").bytes, b"x"])),
    ("18446744073709551615", pa.array([2**64 - 1, 1], pa.uint64())),
    ("007", pa.array([7, 8])),
]


@pytest.mark.parametrize("value, column", NUMBERS, ids=lambda x: str(getattr(x, "type", x)))
def test_numbers_and_times(value, column):
    batch = pa.RecordBatch.from_arrays([column], ["x"])
    assert len(list(in_batches(Person(value), [batch], ""))) == 1
    assert list(in_batches(Person("98765"), [batch], "")) == []


WORDS = st.sampled_from(
    ["c-17", "C-17", "c-170", "xc-17", "see c-17.", "17", "a c-17b", "", "c-17\n", "José", "jose\u0301", "7"]
)


@given(rows=st.lists(WORDS, max_size=8), nested=st.lists(st.lists(WORDS, max_size=3), max_size=8), who=WORDS)
def test_what_a_column_rules_out_is_not_the_person(rows, nested, who):
    "The quick look says yes too often, never no"
    person = Person(who, key="" if len(who.strip()) >= 3 else "x") if who.strip() else Person("c-17")
    for values, kind in ((rows, pa.string()), (nested, pa.list_(pa.string()))):
        batch = pa.RecordBatch.from_arrays([pa.array(values, kind)], ["x"])
        may = candidates(person, batch)
        assert all(may[n] for n, row in enumerate(batch.to_pylist()) if person.how(row))


@pytest.mark.parametrize(
    "text",
    [
        "Dear José Núñez,",
        "Dear JOSÉ  NÚÑEZ",
        'name="Jos\\u00e9 N\\u00fa\\u00f1ez"',
        "q=Jos%C3%A9%20N%C3%BA%C3%B1ez",
        "José Núñez",
    ],
)
@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
def test_spellings_in_texts(tmp_path, text, code):
    path = tmp_path / "letter.txt"
    path.write_bytes(f"first\n{text}\nlast\n".encode(code))
    assert looked(Person("José Núñez"), path) == ({"text": 1}, [])


def test_latin_1(tmp_path):
    (tmp_path / "old.txt").write_bytes("Müller\nMüllerin\n".encode("latin-1"))
    assert looked(Person("Müller"), tmp_path / "old.txt") == ({"text": 1}, [])


def test_a_line_longer_than_a_block(tmp_path):
    (tmp_path / "long.txt").write_text("x" * 3_000_000 + " c-17 " + "y" * 3_000_000 + "\nc-17\n")
    told = list(in_file(Person("c-17"), tmp_path / "long.txt", "long.txt"))
    assert len(told) == 2 and "c-17" in told[0].record and len(told[0].record) == 2000


def test_a_csv_whose_rows_do_not_fit(tmp_path):
    rows = "".join(f"c-{n},a\n" for n in range(100, 40_000))
    (tmp_path / "odd.csv").write_text(f"customer,x\n{rows}c-17,a,b,c,d\n")
    found, unread = looked(Person("c-17", key="customer"), tmp_path / "odd.csv")
    assert found.total() >= 1 and len(unread) == 1


def test_archives_in_archives_and_bombs(tmp_path):
    data = FRAME.to_csv(index=False).encode()
    for _ in range(3):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("calls.csv" if data[:2] != b"PK" else "inner.zip", data)
        data = packed.getvalue()
    (tmp_path / "three.zip").write_bytes(data)
    assert looked(Person("c-17", key="customer"), tmp_path / "three.zip") == ({"key": 2}, [])
    for _ in range(3):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("inner.zip", data)
        data = packed.getvalue()
    (tmp_path / "six.zip").write_bytes(data)
    (unread,) = looked(Person("c-17"), tmp_path / "six.zip")[1]
    assert "archives inside each other" in unread.why


def test_a_bomb_is_named(tmp_path, monkeypatch):
    from mlops_nb.core import subject_files

    monkeypatch.setattr(subject_files, "_GIGABYTE", 1000)
    monkeypatch.setattr(subject_files, "RATIO", 10)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"0" * 10_000_000))
    (unread,) = looked(Person("c-17"), tmp_path / "bomb.gz")[1]
    assert "unpacks to far more" in unread.why


def test_a_password_is_named(tmp_path):
    "The flag of an encrypted member, set in the header"
    with zipfile.ZipFile(tmp_path / "secret.zip", "w") as archive:
        archive.writestr("calls.csv", FRAME.to_csv(index=False))
    data = bytearray((tmp_path / "secret.zip").read_bytes())
    for start in (data.find(b"PK\3\4") + 6, data.find(b"PK\1\2") + 8):
        data[start] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    found, unread = looked(Person("c-17", key="customer"), tmp_path / "secret.zip")
    assert not found and "encrypted" in unread[0].why


def test_onnx_names_categories(tmp_path):
    from onnx import TensorProto, helper

    node = helper.make_node(
        "OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_strings=["c-17", "c-18"], cats_int64s=[4711, 5]
    )
    tree = helper.make_node("TreeEnsembleRegressor", ["y"], ["z"], domain="ai.onnx.ml", nodes_nodeids=[471100])
    graph = helper.make_graph(
        [node, tree],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [None, 1])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 1])],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert looked(Person("c-17"), path)[0].total() == 1 and looked(Person("4711"), path)[0].total() == 1
    assert looked(Person("471100"), path) == ({}, []) and looked(Person("c-99"), path) == ({}, [])
    path.write_bytes(b"\x08 no model")
    assert "no ONNX" in looked(Person("4711"), path)[1][0].why


def test_pictures_and_programs_are_counted_and_the_unknown_is_named(tmp_path):
    for name, data in {"a.png": b"\x89PNG\r\n", "b.woff2": b"wOF2..", "c.so": b"\x7fELF.."}.items():
        (tmp_path / name).write_bytes(data)
        assert [type(one) for one in in_file(Person("c-17"), tmp_path / name, name)] == [Passed]
    (tmp_path / "d.bin").write_bytes(b"\0\1\2")
    assert "format is not known" in looked(Person("c-17"), tmp_path / "d.bin")[1][0].why
    (tmp_path / "empty").write_bytes(b"")
    assert looked(Person("c-17"), tmp_path / "empty") == ({}, [])


def test_a_table_with_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["c-17"]), pa.array(["c-18"])], ["customer", "customer"])
    pq.write_table(table, tmp_path / "twice.parquet")
    for who in ("c-17", "c-18"):
        assert looked(Person(who, key="customer"), tmp_path / "twice.parquet") == ({"key": 1}, [])


def test_a_json_that_is_none(tmp_path):
    (tmp_path / "half.json").write_text('{"customer": "c-17", "x": ')
    found, unread = looked(Person("c-17", key="customer"), tmp_path / "half.json")
    assert found == {"text": 1} and "no JSON" in unread[0].why
    (tmp_path / "half.ipynb").write_text(json.dumps({"cells": 3, "who": "c-17"}))
    found, unread = looked(Person("c-17"), tmp_path / "half.ipynb")
    assert found == {"text": 1} and "no notebook" in unread[0].why


@given(
    data=st.binary(max_size=600),
    head=st.sampled_from([b"", b"PK\3\4", b"PAR1", b"\x80\4", b"\x1f\x8b", b"SQLite format 3\0", b"\x93NUMPY"]),
)
def test_any_bytes_are_read_or_named(data, head, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(head + data)
    assert all(isinstance(one, Hit | Unread | Passed) for one in in_file(Person("c-17"), path, "file"))
