"""Scans find what was planted, in files, notebooks, outputs and tables, and never repeat it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlops_nb import comply
from mlops_nb.core import ledger

TOKEN = "gh" + "p_" + "Q7z9" * 9
MAIL = "ada.lovelace@example.org"


def cell(source, *outputs):
    return {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": source, "outputs": list(outputs)}


def write(path, cells, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}))
    return path


STREAM = {"output_type": "stream", "name": "stdout", "text": ["mail " + MAIL[:5], MAIL[5:] + "\n"]}
HTML = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [f"<td>{MAIL}</td>"], "text/plain": "x"}}
ERROR = {
    "output_type": "error",
    "ename": "ValueError",
    "evalue": f"no user {MAIL}",
    "traceback": [f"ValueError: no user {MAIL}"],
}
PNG = {"output_type": "display_data", "metadata": {}, "data": {"image/png": TOKEN}}


def test_cells_outputs_errors_and_parameters(project, cli):
    write(
        project.root / "a.ipynb",
        [cell(f'token = "{TOKEN}"'), cell("1", STREAM), cell("2", HTML), cell("3", ERROR), cell("4", PNG)],
        papermill={"parameters": {"reply_to": MAIL}},
    )
    a = cli("comply", "scan", "a.ipynb", "--json")
    assert a.exit == 1 and a.json["error"]["kind"] == "finding"
    found = {(f["where"], f["name"]) for f in a.json["findings"]}
    outs = {(f"a.ipynb output of cell {n}", "email") for n in (1, 2, 3)}
    assert found == outs | {("a.ipynb cell 0", "github_token"), ("a.ipynb parameters", "email")}
    everything = a.out + cli("comply", "scan", "a.ipynb").out + str([e.payload for e in ledger.of(project).events()])
    assert TOKEN not in everything and MAIL not in everything and "Q7z9" not in everything


def test_a_folder_with_runs_and_text_files(project, cli):
    write(project.root / "sub/clean.ipynb", [cell("x = 1")])
    write(project.root / ".mlops/runs/r1/score.ipynb", [cell("1", STREAM)])
    write(project.root / ".venv/lib/theirs.ipynb", [cell("1", STREAM)])
    (project.root / "deploy.env").write_text("AWS=AK" + "IA" + "ABCDEFGHIJKLMNOP")
    s = comply.scan(".")
    assert {(f.where, f.name) for f in s.findings} == {
        (".mlops/runs/r1/score.ipynb output of cell 0", "email"),
        ("deploy.env", "aws_access_key"),
    }
    assert not s.ok and "aws_access_key" in s.finding


def test_clean(project, cli):
    write(project.root / "clean.ipynb", [cell("x = 1")])
    a = cli("comply", "scan", "clean.ipynb", "--json")
    assert a.exit == 0 and a.json["findings"] == []
    e = list(ledger.of(project).events(["control.checked"]))[-1]
    assert e.payload.findings == 0


def test_what_cannot_be_read_is_named(project, cli):
    (project.root / "broken.ipynb").write_text("{")
    (project.root / "odd.ipynb").write_text("[1, 2]")
    a = cli("comply", "scan", ".", "--json")
    assert len(a.json["skipped"]) == 2 and "NOT ALL READ" in cli("comply", "scan", ".").out


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_tables(project, cli, suffix):
    t = pa.table({"contact": [MAIL, None], "n": [1, 2], "note": ["x", f"use {TOKEN}"]})
    if suffix == "parquet":
        pq.write_table(t, "people.parquet")
    else:
        import pyarrow.csv

        pyarrow.csv.write_csv(t, "people.csv")
    a = cli("comply", "scan", f"people.{suffix}", "--json")
    assert a.exit == 1
    assert {(f["where"], f["kind"], f["name"]) for f in a.json["findings"]} == {
        ("column contact", "pii", "email"),
        ("column note", "secret", "github_token"),
    }


def test_a_registered_dataset_and_a_variable(project, cli):
    t = pa.table({"email": ["x", "y"]})
    assert [f.name for f in comply.scan(t).findings] == ["email"]
    missing = cli("comply", "scan", "nowhere", "--json")
    assert missing.exit == 2 and missing.json["error"]["kind"] in ("not_found", "input")


def test_outside_a_project(home, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text(MAIL)
    a = cli("comply", "scan", "note.txt", "--json")
    assert a.exit == 1 and a.json["findings"][0]["where"] == "note.txt"


# What was not looked at


def b64(text):
    return __import__("base64").b64encode(text.encode()).decode()


def test_every_part_of_a_notebook(project, cli):
    out = {"output_type": "display_data", "metadata": {}}
    plotly = {**out, "data": {"application/vnd.plotly.v1+json": {"data": [{"text": [MAIL]}]}}}
    svg = {**out, "data": {"image/svg+xml": [f"<svg><text>{MAIL}</text></svg>"]}}
    attached = {
        "cell_type": "markdown",
        "metadata": {},
        "source": "x",
        "attachments": {"n.txt": {"text/plain": b64(MAIL)}},
    }
    tagged = {**cell("x = 1"), "metadata": {"owner": MAIL}}
    write(
        project.root / "a.ipynb", [cell("1", plotly), cell("2", svg), attached, tagged], widgets={"state": {"v": MAIL}}
    )
    found = {f["where"] for f in cli("comply", "scan", "a.ipynb", "--json").json["findings"]}
    places = ["output of cell 0", "output of cell 1", "attachment of cell 2", "metadata of cell 3", "metadata"]
    assert found == {f"a.ipynb {place}" for place in places}


def test_an_old_notebook(project, cli):
    old = {
        "cell_type": "code",
        "input": [f"t = '{TOKEN}'"],
        "outputs": [{"output_type": "pyout", "html": [MAIL], "svg": "x"}],
    }
    doc = {"worksheets": [{"cells": [old]}], "metadata": {}, "nbformat": 3}
    (project.root / "old.ipynb").write_text(json.dumps(doc))
    found = {(f["where"], f["name"]) for f in cli("comply", "scan", "old.ipynb", "--json").json["findings"]}
    assert found == {("old.ipynb cell 0", "github_token"), ("old.ipynb output of cell 0", "email")}


def test_every_text_of_a_folder(project, cli):
    files = {
        ".env.local": f"KEY={TOKEN}",
        "id_rsa": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "Dockerfile": f"ENV T={TOKEN}",
    }
    files |= {
        "notes": MAIL,
        "x.r": f"t <- '{TOKEN}'",
        "a.xml": f"<m>{MAIL}</m>",
        "deep/k.pem": "-----BEGIN EC " + "PRIVATE KEY-----",
    }
    for name, text in files.items():
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text(text)
    (project.root / "utf16.txt").write_bytes(MAIL.encode("utf-16"))
    (project.root / "latin.txt").write_bytes(f"für {MAIL}".encode("latin-1"))
    (project.root / "p.csv").write_text(f"who,n\n{MAIL},1\n")
    pq.write_table(pa.table({"who": [MAIL]}), project.root / "p.parquet")
    (project.root / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    said = cli("comply", "scan", ".", "--json").json
    found = {f["where"] for f in said["findings"]}
    assert found == {*files, "utf16.txt", "latin.txt", "p.csv column who", "p.parquet column who"}
    assert [name.split(":")[0] for name in said["skipped"]] == ["x.png"] and said["unread"] == []


@pytest.mark.parametrize("name, raw", [("a.ipynb", b"{"), ("a.ipynb", b"[" * 100_000), ("a.parquet", b"PAR1 torn")])
def test_an_unread_file_of_a_known_kind_is_a_finding(project, cli, name, raw):
    (project.root / name).write_bytes(raw)
    said = cli("comply", "scan", ".", "--json")
    assert said.exit == 1 and said.json["unread"] and "could not be read" in said.json["error"]["message"]
    (project.root / name).unlink()
    (project.root / "x.bin").write_bytes(bytes(range(256)))
    said = cli("comply", "scan", ".", "--json")
    assert said.exit == 0 and said.json["unread"] == [] and len(said.json["skipped"]) == 1


def test_the_last_row_of_a_table_and_the_end_of_a_long_value(project, cli):
    "Every value is looked at, in every type that can hold text"
    many = 30_000
    plain = [f"row {n}" for n in range(many)]
    cards = [4111111111111111] * many
    t = pa.table(
        {
            "last": [*plain[:-1], MAIL],
            "long": ["x " * 3000 + MAIL, *plain[1:]],
            "lists": pa.array([[["a"]]] * (many - 1) + [[["b", MAIL]]]),
            "structs": pa.array([{"note": "a"}] * (many - 1) + [{"note": MAIL}]),
            "raw": pa.array([b"a"] * (many - 1) + [MAIL.encode()]),
            "kinds": pa.array([*plain[:-1], MAIL]).dictionary_encode(),
            "cards": cards,
            "wide": range(10**15, 10**15 + many),
            "secret": [*plain[:-1], TOKEN],
        }
    )
    pq.write_table(t, project.root / "t.parquet", row_group_size=10_000)
    for target in ("t.parquet", "."):
        found = {f["where"].split()[-1] for f in cli("comply", "scan", target, "--json").json["findings"]}
        assert found == set(t.column_names) - {"wide"}, target
