"""Every verb of the index against help, typos, missing files, wrong types, a read-only project and a full disk:
one clear line, the right code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import at_home
from mlops_nb.core import grammar, verb_index
from helpers.namespaces import in_namespace, may_mount
from helpers.shop import own_project
from helpers.verb_runs import ADD, FILL, LONG, is_foreground, prepared, run, words_for

ROOT = Path(__file__).resolve().parents[1]
INDEX = verb_index.load()
VERBS = sorted(INDEX)
AROUND = {p for p in VERBS if INDEX[p].get("cell") == "around"}  # cells of a notebook: the shell says so
BOTH = {
    p for p in AROUND if any(q.startswith(p + ".") for q in VERBS)
}  # `run` is a cell and an area: on one line it is the area
QUIET = [p for p in VERBS if p not in LONG and not is_foreground(p, INDEX[p])]
NUMBERS = {"int", "float", "date", "datetime", "interval", "choice"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A project with nothing in it, and a home of its own"
    with own_project(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def anywhere(folder, monkeypatch):
    "The same project for every test of this file: MLflow needs seconds to make its tables"
    for name, value in at_home(folder.root.parent / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder.root)
    return folder


def one_line(answer, path, codes):
    "One line on stderr that begins with the verb, nothing else, and one of the codes"
    code, out, err = answer
    assert code in codes, answer
    if code in (2, 3, 4):
        assert out == "" and err.endswith("\n") and err.count("\n") == 1, answer
        assert err.startswith("mlops "), answer
    assert "Traceback" not in out + err and "unexpected " not in err, answer
    return err


def as_json(words):
    "The same with --json: one document with the error's kind, message and hint"
    code, out, err = run([*words, "--json"])
    doc = json.loads(out)
    assert out.count("\n") == 1 and doc["ok"] == (code == 0)
    if code >= 2:
        assert (
            set(doc["error"]) == {"kind", "message", "hint"}
            and doc["error"]["message"]
            and "\n" not in doc["error"]["message"]
        )
    return doc


def test_python_m_mlops_nb(home, tmp_path):
    for words, code, said in (
        ([], 0, "mlops AREA VERB"),
        (["--version"], 0, "mlops "),
        (["data", "lst"], 2, "did you mean `list`"),
        (["dta"], 2, "did you mean `data`"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mlops_nb", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code and said in done.stdout + done.stderr and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == (1 if code else 0)


@pytest.mark.parametrize("path", VERBS)
def test_help(path, anywhere):
    code, out, err = run([*path.split("."), "--help"])
    assert (code, err) == (0, "") and out.startswith(f"Usage: mlops {path.replace('.', ' ')}"), (code, out[:200], err)
    if any(p.startswith(path + ".") for p in VERBS):
        return  # the page of an area
    assert all(
        grammar.option_of(q["name"]) in out for q in INDEX[path]["params"] if not q["word"] and q["name"] != "body"
    )
    assert INDEX[path]["summary"] in out


@pytest.mark.parametrize("path", VERBS)
def test_a_typo(path, anywhere):
    *area, verb = path.split(".")
    wrong = verb[:-1] + ("z" if verb[-1] != "z" else "y") if len(verb) > 2 else verb + "z"
    err = one_line(run([*area, wrong]), path, {2})
    assert "did you mean `" in err, err
    if path in BOTH:
        return
    option = next(
        (grammar.option_of(q["name"]) for q in INDEX[path]["params"] if not q["word"] and q["name"] != "body"), "--json"
    )
    err = one_line(run([*words_for(path, INDEX[path]), option + "x"]), path, {2})
    assert f"has no option `{option}x`" in err and "did you mean `" in err, err
    assert as_json([*words_for(path, INDEX[path]), option + "x"])["error"]["kind"] == "usage"


@pytest.mark.parametrize("path", QUIET)
def test_nothing_is_there(path, anywhere):
    "Files, datasets, models and jobs that are not there"
    entry = INDEX[path]
    words = words_for(
        path,
        entry,
        **{q["name"]: FILL[q["kind"]] for q in entry["params"] if q["kind"] in ("path", "data") and q["word"]},
    )
    needs = {q["kind"] for q in entry["params"] if q["required"]} & {"data", "path", "ref", "refs", "object"}
    answer = run(words)
    if path in AROUND:
        assert "cell" in one_line(answer, path, {2})
    elif needs - {"path"}:
        assert re.search("missing|nothing", one_line(answer, path, {2})), answer
    else:
        one_line(answer, path, {0, 1, 2, 3, 4})
    if path not in AROUND:
        as_json(words)


@pytest.mark.parametrize("path", [p for p in VERBS if p not in BOTH])
def test_a_wrong_type(path, anywhere):
    entry = INDEX[path]
    typed = [q for q in entry["params"] if q["kind"] in NUMBERS or (q["kind"] == "dict" and not q["word"])]
    for q in typed:
        err = one_line(run(words_for(path, entry, **{q["name"]: "notthis"})), path, {2})
        assert "notthis" in err and grammar.option_of(q["name"]).strip("-") in err, err
    if not typed:
        many = next((q for q in entry["params"] if q["word"] and q["kind"] == "list"), None)
        spare = [] if many else [FILL.get(q["kind"], "x") for q in entry["params"] if q["word"] and not q["required"]]
        err = one_line(
            run([*words_for(path, entry), *spare, "one", "two"]) if not many else run([*path.split("."), "--json=x"]),
            path,
            {2},
        )
        assert "one word too many" in err or many, err


def test_no_project_here(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in QUIET:
        if path in ("init", "doctor", "completion", "audit.verify", *AROUND):
            continue
        words = words_for(path, INDEX[path])
        if INDEX[path]["params"] and any(q["kind"] in ("data", "path", "object") for q in INDEX[path]["params"]):
            one_line(run(words), path, {0, 1, 2, 3, 4})
        else:
            code, _, err = run(words)
            assert code == 0 or (code == 2 and err.count("\n") == 1), (path, code, err)


# A read-only project and a full disk, each in a mount namespace of its own


# Acts that would work if the project could be written; what comes back must say that it cannot
ACTS = [
    ["data", "add", "d.csv", "other"],
    [*ADD[:2], "other", *ADD[3:]],
    ["feature", "materialize", "size"],
    ["job", "convert", "n.ipynb", "other"],
    ["job", "run", "score"],
    ["monitor", "profile", "d.csv", "--out", "p.json"],
    ["audit", "checkpoint"],
    ["audit", "export", "bundle.json"],
    ["audit", "redact", "0", "--reason", "asked", "--yes"],
    ["site", "build"],
    ["model", "gate", "delay", "--add", "test.auc >= 0.7"],
]
READS = [
    ["status"],
    ["doctor"],
    ["data", "list"],
    ["data", "show", "d"],
    ["data", "verify"],
    ["feature", "list"],
    ["feature", "show", "size"],
    ["job", "list"],
    ["job", "history"],
    ["job", "check", "n.ipynb"],
    ["audit", "log"],
    ["audit", "verify"],
    ["audit", "prove", "0"],
    ["cost", "show"],
    ["cost", "prices"],
    ["comply", "status"],
    ["comply", "scan", "d.csv"],
]


def every_other() -> list:
    "The rest of the verbs, with what the index says they need"
    known = {tuple(w[: len(p.split("."))]) for w in [*ACTS, *READS] for p in VERBS}
    return [
        words_for(p, INDEX[p]) for p in QUIET if tuple(p.split(".")) not in known and p not in AROUND and p != "init"
    ]


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_project_that_cannot_be_written(kind, project, tmp_path):
    if why := may_mount():
        pytest.skip(why)
    prepared(project.root)
    others, folder = every_other(), project.root
    if kind == "read-only":
        script = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; ! touch "$1/probe" 2>/dev/null'
        words = "read-only|readonly|unable to open|writable|cannot write|cannot make|cannot be kept"
    else:
        for f in ("mlflow.db", "mlflow"):
            assert not (folder / ".mlops" / f).is_dir()
        disk = tmp_path / "disk"
        disk.mkdir()
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        assert size < 900_000, f"the small project has {size} bytes"
        script = (
            f'mount -t tmpfs -o size=1m tmpfs "{disk}"; cp -a "$1/." "{disk}/"; set -- "{disk}" "$2" "$3"; '
            'dd if=/dev/zero of="$1/filler" bs=1k count=2000 2>/dev/null || true'
        )
        words = "full|space|cannot write|cannot make|cannot be used|cannot be kept"
    answers = in_namespace(script, [*READS, *ACTS, *others], folder)
    for command, (code, out, err) in zip([*READS, *ACTS, *others], answers, strict=True):
        where = (kind, " ".join(command), code, err[-500:])
        assert "Traceback" not in out + err and "unexpected " not in err, where
        if code >= 2 and "COULD BE READ" not in out:  # a search names what it could not read, and says the rest
            assert out == "" and err.startswith("mlops ") and err.count("\n") == 1, where
        if command in READS:
            assert code in (0, 1), where
        if command in ACTS:
            assert code == 4 and re.search(words, err, re.I), where


def test_a_full_disk_leaves_a_sound_ledger(project, tmp_path):
    if why := may_mount():
        pytest.skip(why)
    prepared(project.root)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size=1m tmpfs "{disk}"; cp -a "$1/." "{disk}/"; '
        f'dd if=/dev/zero of="{disk}/filler" bs=1k count=2000 2>/dev/null || true\n'
        f'here=$PWD; cd "{disk}"; for n in 1 2 3; do '
        f'"$2" -m mlops_nb data add d.csv more$n >/dev/null 2>&1 && exit 7; done; cd "$here"; rm "{disk}/filler"; '
        f'set -- "{disk}" "$2" "$3"'
    )
    verify, again, listed = in_namespace(
        script,
        [["audit", "verify", "--json"], ["data", "add", "d.csv", "after", "--json"], ["data", "list", "--json"]],
        project.root,
    )
    assert verify[0] == 0 and again[0] == 0, (verify, again)
    assert {d["name"] for d in json.loads(listed[1])["datasets"]} == {"d", "after"}
