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
