"""What a user can say, set, read in the ledger or catch is named in a notebook; `make export` brings nbs/reference.ipynb up to date."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from helpers.notebooks import taught

from mlops_nb.core import errors, pillars, settings, verb_index


def missing(words, pattern) -> list[str]:
    text = taught()
    return [w for w in words if not re.search(pattern(w), text)]


def test_verbs():
    assert missing(verb_index.load(), lambda p: r"\b" + re.escape(p).replace(r"\.", r"[. ]") + r"\b") == []


def test_event_types():
    assert missing(pillars.events(), lambda t: r"\b" + re.escape(t) + r"\b") == []


def test_settings():
    names = [f"{table}.{key}" for table in pillars.settings() for key in settings.keys_of(table)]
    names = [n for n in names if not re.search(rf"MLOPS_{n.replace('.', '_').upper()}\b", taught())]
    assert missing(names, lambda n: rf"\b({re.escape(n)}|{re.escape(n.partition('.')[2])}\s*=)") == []


def test_errors():
    classes = [n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.MlopsError)]
    assert missing(classes, lambda n: rf"\b{n}\b") == []


@pytest.mark.parametrize("path", sorted(verb_index.load()))
def test_help_says_what_each_word_is(path):
    entry = verb_index.load()[path]
    assert entry["summary"], f"{path} has no summary"
    assert [q["name"] for q in entry["params"] if not q["help"] and q["name"] not in ("dry_run", "yes", "body")] == []
    assert not entry["changes"] or any(q["name"] == "dry_run" for q in entry["params"]), (
        f"{path} changes things and takes no --dry-run"
    )
    assert not entry["destructive"] or any(q["name"] == "yes" for q in entry["params"]), (
        f"{path} destroys and takes no --yes"
    )


def test_commands_in_messages_exist():
    "What a panel or an error tells to type next is a verb that there is"
    index, package = verb_index.load(), Path(verb_index.__file__).resolve().parents[1]
    areas = {p.partition(".")[0] for p in index if "." in p}
    wrong = []
    for f in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(f.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for area, word in re.findall(r"(?:^|: |`)mlops ([a-z]+)(?: ([a-z_]+))?", node.value):
                    ok = f"{area}.{word}" in index if area in areas and word else area in index or area in areas
                    if not ok and not (area in index and f"{area}.{word}" not in index):
                        wrong.append(f"{f.relative_to(package)}:{node.lineno}: mlops {area} {word}")
    assert wrong == []
