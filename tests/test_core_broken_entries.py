"""One broken entry takes down nothing that does not need it: reading verbs go on, the verification names it, work is recorded."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlops_nb.core import ledger
from mlops_nb.core.events import VerbFailed

OLD = Path(__file__).parent / "old" / "ledger_0_1.sqlite"  # An entry of every type
BREAKS = {
    "no JSON": "header='no JSON'",
    "bytes": "header=CAST(x'ff00' AS BLOB)",
    "text that is no UTF-8": "header=CAST(x'ff7b' AS TEXT)",
    "no fields": """header='{"v":1}'""",
    "a number as subject": "header=json_set(header, '$.subject', 7)",
    "no time": "header=json_set(header, '$.time', 'soon')",
    "a payload that is too deep": f"payload=CAST('{'[' * 3000}' AS BLOB)",
    "a deep payload that is whole": f"payload=CAST('{'[' * 900}{']' * 900}' AS BLOB)",
    "a payload of bytes": "payload=x'ff00fe'",
    "a payload of text": "payload='text'",
    "a payload that is a number": "payload=3",
    "a list": "payload=CAST('[1]' AS BLOB)",
    "fields of other types": """payload=CAST('{"usd":"many","seconds":[1],"rows":{}}' AS BLOB)""",
    "endless numbers": """payload=CAST('{"usd":1e999,"seconds":-5}' AS BLOB)""",
    "no commitment": "commitment=7",
}
TYPED = {"a number as subject", "no time"}  # Only the tree shows that these were changed
READ = [["status"], ["cost", "show"], ["audit", "log", "--limit", "100"], ["comply", "status"], ["site", "build"]]


@pytest.mark.parametrize("name", BREAKS)
def test_everything_that_does_not_need_it_goes_on(name, project, cli):
    (project.root / ".mlops").mkdir(exist_ok=True)
    shutil.copyfile(OLD, project.ledger_path)
    db = sqlite3.connect(project.ledger_path)
    (last,) = db.execute("SELECT max(seq) FROM entry").fetchone()
    places = sorted({*range(1, last, 4), last})
    db.execute(f"UPDATE entry SET {BREAKS[name]} WHERE seq IN ({','.join(map(str, places))})")
    db.commit()
    db.close()
    for words in READ:
        said = cli(*words)
        assert said.exit in (0, 1) and said.out, (words, said.err)
    log = cli("audit", "log", "--limit", "1000", "--json").json
    assert [entry["seq"] for entry in log["entries"]] == list(range(log["total"]))[::-1]
    found = cli("audit", "verify", "--json")
    named = {p["seq"] for p in found.json["problems"] if p["kind"] == "tampered"}
    assert found.exit == 1 and named and (set(places) <= named or name in TYPED)
    board = {c["id"]: c["status"] for c in cli("comply", "status", "--json").json["controls"]}
    assert board["ledger-intact"] == "fail"
    assert cli("audit", "export", "bundle.json").exit == 0
    carried = cli("audit", "verify", "bundle.json", "--json")
    carries = {p["seq"] for p in carried.json["problems"]}
    assert name in TYPED or (carried.exit == 1 and set(places) <= carries)
    assert ledger.record(project, VerbFailed(message="x"), subject="data.add").seq > last
    json.loads((project.root / "bundle.json").read_text())
