"""Control characters and marks of direction are never echoed as they are: not in panels, errors, warnings or JSON."""

import pytest
from mlops_nb.core import ledger

HOSTILE = "x\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\u200e\x9b31m\r\x08\x7fy"


def is_plain(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


@pytest.fixture
def hostile(project):
    log = ledger.of(project)
    log.append("dataset.added", HOSTILE, {"purpose": HOSTILE, "rows": 3, HOSTILE: HOSTILE})
    log.append("run.completed", HOSTILE, {"error": HOSTILE, "usd": 1.0})
    project.pin("project", "purpose", HOSTILE)
    project.pin("cost", "provider", HOSTILE)
    return project


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_verb_echoes_what_a_terminal_obeys(hostile, cli, as_json):
    verbs = [
        ["status"],
        ["doctor"],
        ["audit", "log"],
        ["audit", "show", "0"],
        ["audit", "verify"],
        ["cost", "show"],
        ["cost", "prices"],
        ["comply", "status"],
        ["data", "list"],
        ["data", "show", HOSTILE],
        ["feature", "show", HOSTILE],
        ["model", "list"],
        ["job", "run", HOSTILE],
        ["audit", "log", "--type", HOSTILE],
        ["comply", "scan", HOSTILE],
        [HOSTILE],
        ["audit", HOSTILE],
        ["audit", "log", f"--{HOSTILE}"],
    ]
    for words in verbs:
        said = cli(*words, *(["--json"] if as_json else []))
        assert is_plain(said.out) and is_plain(said.err), (words, said)
    if as_json:
        entries = cli("audit", "log", "--json").json["entries"]
        assert entries[-1]["payload"]["purpose"] == HOSTILE, "escaped, and so whole"
