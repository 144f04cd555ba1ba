"""A person in files of every kind: exact counts in tables of every type, in archives, and a broken file is never passed over in silence."""

import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import uuid
import zipfile
import zlib
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

from mlops_nb.core.subject_files import in_file, in_folder
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
    for name, data in {"a.png": b"\x89PNG\r\n", "b.woff2": b"wOF2\0\1\0\0", "c.so": b"\x7fELF\2\1\0"}.items():
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


# What somebody plants who wants it overlooked


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


def parquet(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def noted() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"asked by": "ann@x.org"}), file)
    return file.getvalue()


SHEET = """<worksheet><sheetData><row><c r="A1" t="s"><v>0</v></c></row>
<row><c r="A2" t="s"><v>1</v></c><c r="B2" t="s"><v>2</v></c></row>
<row><c r="A3"><v>4711</v></c><c r="B3" t="s"><v>3</v></c></row>
<row><c r="A4"><v>12</v></c><c r="B4" t="inlineStr"><is><t>bob@x.org</t></is></c></row></sheetData></worksheet>"""
TEXTS = "<sst><si><t>Calls</t></si><si><t>customer</t></si><si><t>mail</t></si><si><r><t>ann</t></r><r><t>@x.org</t></r></si></sst>"
CONTENTS = {"[Content_Types].xml": "<Types/>"}
WORKBOOK = zipped(**{"xl/worksheets/sheet1.xml": SHEET, "xl/sharedStrings.xml": TEXTS}, **CONTENTS)
RUNS = "<w:p><w:r><w:t>Dear ann</w:t></w:r><w:r><w:t>@x.org</w:t></w:r></w:p>"
MAIL = "From: shop\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nRGVhciBhbm5AeC5vcmcsCg==\n"
MAILBOX = f"From shop\n{MAIL}\nFrom shop\nSubject: =?utf-8?b?YW5uQHgub3Jn?=\n\nno\n"
V, KEY, MAILS = Person("ann@x.org"), Person("c-17", key="customer"), Person("Ann@X.org", key="mail")
ZEROS, NUMBER, LETTERS = Person("0042", key="id"), Person("4711", key="customer"), Person("Ute Weiß")
JOSE = Person("José Núñez")
PLANTED = {  # what -> (name, bytes, person, how often by how)
    "a text that begins like a font": ("a.txt", "OTTO wrote to ann@x.org", V, {"text": 1}),
    "a table that begins like a program": ("a.csv", "MZ,mail\n1,ann@x.org\n", V, {"value": 1}),
    "a text that begins like zlib": ("a.txt", "x^2 of ann@x.org", V, {"text": 1}),
    "an old text that begins like music": ("a.txt", "ID3 für ann@x.org".encode("latin-1"), V, {"text": 1}),
    "a column named after them": ("a.parquet", parquet(pd.DataFrame({"ann@x.org": [1]})), V, {"value": 1, "text": 1}),
    "a column of a CSV": ("a.csv", "day,Ann@x.org\n1,2\n", V, {"value": 1}),
    "a column under another key": ("a.csv", "day,c-17\n1,2\n", KEY, {"value": 1}),
    "beside a table": ("a.parquet", noted(), V, {"value": 1}),
    "a document by customers": ("a.json", '{"c-17": {"age": 40}, "c-18": 3}', KEY, {"value": 1}),
    "the key in another case": ("a.csv", "MAIL,x\nAnn@X.org,1\n", MAILS, {"key": 1}),
    "the value in another case": ("a.csv", "mail,x\nann@x.org,1\nbob@x.org,2\n", MAILS, {"value": 1}),
    "zeros that were lost": ("a.csv", "id,x\n42,1\n420,2\n", ZEROS, {"key": 1}),
    "zeros that were added": ("a.json", '[{"id": "00042"}, {"id": "42.5"}]', ZEROS, {"key": 1}),
    "capital letters in an array": ("a.pkl", pickle.dumps(np.array(["aNn@X.Org", "b"])), V, {"bytes": 1}),
    "letters with loose accents": (
        "a.pkl",
        pickle.dumps(np.array(["Jose\u0301 Nu\u0301n\u0303ez"])),
        JOSE,
        {"bytes": 1},
    ),
    "an array named like the key": (
        "a.npz",
        npz(customer=np.array([4711, 12]), n=np.array([4711])),
        NUMBER,
        {"key": 1},
    ),
    "a table without names": ("a.csv", "c-17,3\nc-18,4\nc-19,5\n", KEY, {"text": 1}),
    "above a table": ("a.csv", "# for ann@x.org\na,b\n1,2\n3,4\n", V, {"text": 1}),
    "between rows": ("a.csv", "a,b\n1,2\n# for ann@x.org\n3,4\n", V, {"text": 1}),
    "beside NaN": ("a.json", '{"mail": "ann@x.org", "x": NaN}', V, {"value": 1}),
    "behind a mark": ("a.json", '\ufeff{"mail": "ann@x.org"}', V, {"value": 1}),
    "a field twice": ("a.json", '{"mail": "ann@x.org", "mail": "bob@x.org"}', V, {"text": 1}),
    "lines that are called JSON": ("a.json", '{"customer": "c-17"}\n{"customer": "b"}\n', KEY, {"key": 1}),
    "capitals of a sharp s": ("a.txt", "UTE WEISS kam", LETTERS, {"text": 1}),
    "entities": ("a.html", "<p>Jos&eacute; N&uacute;&ntilde;ez</p>", JOSE, {"text": 1}),
    "a form's address": ("a.log", "GET /?q=Jos%C3%A9+N%C3%BA%C3%B1ez", JOSE, {"text": 1}),
    "a member's name": ("a.zip", zipped(**{"to ann@x.org.txt": "Hello"}), V, {"text": 1}),
    "a workbook": ("a.xlsx", WORKBOOK, V, {"value": 1}),
    "a number in a workbook": ("a.xlsx", WORKBOOK, NUMBER, {"key": 1}),
    "a letter in pieces": ("a.docx", zipped(**{"word/document.xml": RUNS}, **CONTENTS), V, {"text": 1}),
    "a packed mail": ("a.eml", MAIL, V, {"text": 1}),
    "a mailbox": ("Inbox", MAILBOX, V, {"text": 2}),
    "sixteen bits, the other way round": ("a.txt", "\ufeffann@x.org".encode("utf-16-be"), V, {"text": 1}),
}
CLOSED = {  # what nobody can look into -> (bytes, what is said)
    "a PDF": (b"%PDF-1.7\n<< /Filter /FlateDecode >>", "a PDF packs"),
    "RTF": (b"{\\rtf1 ann\\'40x.org}", "RTF packs"),
    "PGP": (b"-----BEGIN PGP MESSAGE-----\n\nhQEMA7jj\n", "it is encrypted"),
    "age": (b"age-encryption.org/v1\n-> X25519 abc\n\xff\xfe", "it is encrypted"),
    "Parquet": (b"PARE" + b"a" * 50 + b"PARE", "it is encrypted"),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "format is not known"),
    "noise": (bytes(range(3, 250)), "format is not known"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_to_be_overlooked(tmp_path, what):
    name, data, person, expected = PLANTED[what]
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert looked(person, tmp_path / name) == (expected, [])
    assert looked(Person("cyd@x.org"), tmp_path / name) == ({}, [])


@pytest.mark.parametrize("what", CLOSED)
def test_what_nobody_can_look_into_is_named(tmp_path, what):
    data, why = CLOSED[what]
    (tmp_path / "closed").write_bytes(data)
    found, unread = looked(Person("c-17"), tmp_path / "closed")
    assert not found and why in unread[0].why


def test_names_of_files_and_folders(tmp_path):
    (tmp_path / "ann@x.org").mkdir()
    for name in ("ann@x.org/scan.txt", "ann@x.org.tar.gz.txt", "joann@x.org.txt"):
        (tmp_path / name).write_text("x")
    told = list(in_folder(V, tmp_path, tmp_path))
    assert sorted(one.record for one in told if isinstance(one, Hit)) == ["ann@x.org.tar.gz.txt", "ann@x.org/scan.txt"]


def test_a_link_to_a_folder_elsewhere_is_named(tmp_path):
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project / "data", outside):
        folder.mkdir(parents=True)
        (folder / "letter.txt").write_text("ann@x.org")
    (project / "theirs").symlink_to(outside)
    (project / "ours").symlink_to(project / "data")
    (project / "one.txt").symlink_to(outside / "letter.txt")
    (project / "nowhere").symlink_to(outside / "missing")
    told = list(in_folder(V, project, project))
    assert [one.place for one in told if isinstance(one, Hit)] == ["one.txt", "data/letter.txt"]
    assert [(one.place, "outside" in one.why) for one in told if isinstance(one, Unread)] == [("theirs", True)]


def test_a_bomb_of_zlib_is_read_in_pieces(tmp_path, monkeypatch):
    from mlops_nb.core import subject_files

    (tmp_path / "a").write_bytes(zlib.compress(b"c-17\n" * 1000))
    assert looked(Person("c-17"), tmp_path / "a") == ({"text": 1000}, [])
    monkeypatch.setattr(subject_files, "_GIGABYTE", 1000)
    monkeypatch.setattr(subject_files, "RATIO", 10)
    (tmp_path / "bomb").write_bytes(zlib.compress(b"0" * 10_000_000))
    (unread,) = looked(Person("c-17"), tmp_path / "bomb")[1]
    assert "unpacks to far more" in unread.why


def test_a_line_that_is_longer_than_any(tmp_path, monkeypatch):
    "The value lies across the place at which the line is cut"
    from mlops_nb.core import subject_texts

    monkeypatch.setattr(subject_texts, "BLOCK", 4096)
    monkeypatch.setattr(subject_texts, "LONGEST", 8192)
    monkeypatch.setattr(subject_texts, "_OVERLAP", 64)
    for begins in range(12_280, 12_296):
        (tmp_path / "long.txt").write_text("x" * begins + " c-17 " + "y" * 5000)
        assert looked(Person("c-17"), tmp_path / "long.txt")[0].total() >= 1


def test_columns_that_a_database_computes(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("CREATE TABLE t(who TEXT, mail TEXT GENERATED ALWAYS AS (who || '@x.org') VIRTUAL)")
        db.execute("INSERT INTO t(who) VALUES ('ann'), ('joann')")
        db.execute('CREATE TABLE "ann@x.org"(day INTEGER, "Ann@X.org" REAL)')
    db.close()
    assert looked(V, tmp_path / "a.db") == ({"value": 3}, [])


def test_what_is_only_in_the_log_of_a_database(tmp_path):
    db = sqlite3.connect(tmp_path / "a.db")
    db.execute("PRAGMA journal_mode=WAL")
    with db:
        db.execute("CREATE TABLE t(mail TEXT)")
        db.execute("INSERT INTO t VALUES ('ann@x.org')")
    assert looked(V, tmp_path / "a.db") == ({"value": 1}, [])
    db.close()
