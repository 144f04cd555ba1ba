"""The four doors: the extension in a live shell, words and completion, settings, adoption, two projects at once, dry runs, panels."""

import hashlib
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import traceback
import threading
import types
import typing
from datetime import date, datetime
from html.parser import HTMLParser
from pathlib import Path

import mlops_nb
import msgspec
import pytest
from helpers.places import ROOT
from hypothesis import given
from hypothesis import strategies as st
from mlops_nb.core import draw, grammar, ledger, svg, verb_index
from mlops_nb.core import project as projects
from mlops_nb.core.errors import BadInput, BadUsage, MlopsError, NotFound
from mlops_nb.core.fact import Fact
from helpers.shell_loads import loaded_by
from helpers.shop import own_project
from helpers.verb_runs import ADD, LONG, is_foreground, prepared, run, words_for

INDEX = verb_index.load()
HEAVY = (
    "numpy pandas pyarrow duckdb mlflow feast dvc evidently sklearn scipy onnxruntime papermill nbformat "
    "cryptography jinja2 msgspec"
).split()

# %load_ext

LOAD = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
shell.run_line_magic('load_ext', 'mlops_nb')
loaded = set(sys.modules) - before
shell.run_line_magic('unload_ext', 'mlops_nb')
print(json.dumps(sorted(loaded)))
"""


def test_the_extension_loads_little(home, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "mlops_nb.magics" in loaded and len(loaded) < 60, loaded
    assert not {m.split(".")[0] for m in loaded} & set(HEAVY)


# What a start loads


def test_status_loads_what_it_shows(project):
    loaded_by("status", cwd=project.root)  # asks which packages add pillars, and keeps the answer
    loaded = loaded_by("status", cwd=project.root)
    assert "mlops_nb.core.status" in loaded
    idle = {"mlops_nb.app.adoption", "mlops_nb.app.machine", "mlops_nb.core.services", "mlops_nb.model.events"}
    assert not loaded & {*idle, "difflib", "html", "subprocess", "importlib.metadata"}


@pytest.fixture
def shell(project):
    "A live IPython shell with the extension"
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "mlops_nb")
    yield shell
    shell.run_line_magic("unload_ext", "mlops_nb")
    shell.reset()
    InteractiveShell.clear_instance()


def test_a_line_is_a_value(shell):
    shell.run_cell("r = %mlops status").raise_error()
    r = shell.user_ns["r"]
    assert r.counts is not None and set(r._repr_mimebundle_()) == {"text/html", "text/plain", "application/json"}
    assert str(r).splitlines()[-1].startswith("next: ")


def test_braces_are_ours_and_dollars_are_nobodys(shell, project):
    shell.run_cell("name, n = 'small', 2\nimport pandas as pd\nframe = pd.DataFrame({'a': [1, 2]})").raise_error()
    shell.run_cell("r = %mlops data add frame {{name}}-{{n*2}} --purpose '{x} and $HOME stay'").raise_error()
    assert shell.user_ns["r"].name == "small-4"
    assert next(ledger.of(project).events("dataset.added")).payload.purpose == "{x} and $HOME stay"
    shell.run_cell("r = %mlops data add {{frame.assign(b=1)}} wide").raise_error()
    assert shell.user_ns["r"].columns == 2 or len(shell.user_ns["r"].columns) == 2
    shell.run_cell("r = %mlops monitor profile {{frame.head(1)}}").raise_error()  # a frame as the last word
    assert shell.user_ns["r"].rows == 1
    done = shell.run_cell("%mlops monitor profile frame.head(1)")
    assert "an expression goes into {{...}}" in str(done.error_in_exec)
    done = shell.run_cell("%mlops data add {{no_such_name}} x")
    assert isinstance(done.error_in_exec, NameError)


def test_errors_in_a_cell_are_one_line(shell, capsys):
    done = shell.run_cell("%mlops data lst")
    assert isinstance(done.error_in_exec, BadUsage)
    assert done.error_in_exec._render_traceback_() == ["BadUsage: `data` has no verb `lst`; did you mean `list`?"]
    assert isinstance(shell.run_cell("%mlops data show 'x").error_in_exec, BadUsage)
    assert "Traceback" not in capsys.readouterr().out


def test_a_traceback_names_its_cell(shell):
    shell.run_cell("1", store_history=True).raise_error()
    here = shell.execution_count
    done = shell.run_cell("%%mlops run delay\nnothing_here", store_history=True)
    trace = traceback.extract_tb(done.error_in_exec.__traceback__)[-1]
    assert shell.compile.format_code_name(trace.filename) == ("Cell", f"In[{here}]")


def test_a_run_keeps_the_variables_that_it_names(shell):
    from mlops_nb.model import run_verbs

    cell = "depth, auc, test = 3, .7, {'f1': .5, 'label': 'x'}"
    shell.run_cell(f"%%mlops run delay --param depth --metric auc\n{cell}").raise_error()
    first = run_verbs.show(run_verbs.list_().runs[0]["run"])
    assert (first.status.lower(), first.params, first.metrics) == ("completed", {"depth": "3"}, {"auc": 0.7})
    for words, what, kept in (
        ("--metric auc,test", "the metric `test.label` is no number", {"auc": 0.7, "test.f1": 0.5}),
        ("--param dpeth --metric auc", "no variable `dpeth` is there after the cell", {"auc": 0.7}),
    ):
        done = shell.run_cell(f"%%mlops run delay {words}\n{cell}")
        assert isinstance(done.error_in_exec, BadInput) and what in str(done.error_in_exec)
        newest = run_verbs.show(run_verbs.list_().runs[0]["run"])
        assert (newest.status.lower(), newest.metrics) == ("completed", kept)
    assert len(run_verbs.list_().runs) == 3


@pytest.mark.parametrize(
    "line", ["%mlops data add?", "%mlops data add ??", "x = 1\n%mlops data add?", "%mlops data add --help"]
)
def test_a_question_mark_is_help(shell, capsys, line):
    shell.run_cell(line).raise_error()
    assert "Usage: mlops data add DATA NAME" in capsys.readouterr().out


def completions(shell, line: str) -> list[str]:
    from mlops_nb import magics

    context = types.SimpleNamespace(line_with_cursor=line, cursor_position=len(line), text_until_cursor=line)
    return [c.text for c in magics._matches(context)["completions"]]


def test_two_dashes_end_the_options(shell, project, cli):
    "As POSIX has it, in the shell and in the magic: what follows are words, though they look like options"
    Path("-x.csv").write_text("a\n1\n", encoding="utf-8")
    a = cli("data", "add", "--json", "--purpose=-none-", "--", "-x.csv", "x")
    assert a.exit == 0 and a.json["name"] == "x", a
    assert cli("data", "show", "--json", "--", "x").json["rows"] == 1
    for words in (("--", "-x.csv", "x", "--json"), ("--", "-x.csv", "x", "--help")):
        a = cli("data", "add", *words)
        assert a.exit == 2 and f"one word too many: {words[-1]!r}" in a.err and a.out == "", a
    a = cli("job", "run", "--json", "--", "-n")
    assert a.exit == 2 and "-n" in a.json["error"]["message"], a
    assert shell.run_line_magic("mlops", "data add -- -x.csv y").rows == 1
    assert "--   " in cli("data", "add", "--help").out
    assert "Ends the options" not in cli("data", "list", "--help").out, "there are no words to tell from options"


def test_completion(shell, project):
    prepared(project.root)
    shell.run_cell("import pandas as pd\nflights = pd.DataFrame({'carrier': ['AA'], 'origin': ['JFK']})").raise_error()
    assert completions(shell, "%mlops au") == ["audit"] and "verify" in completions(shell, "%mlops audit ")
    assert completions(shell, "r = %mlops audit ver") == ["verify"]
    assert "--purpose" in completions(shell, "%mlops data add x y --p") and completions(shell, "%mlops data show ") == [
        "d"
    ]
    assert {"flights", "d"} <= set(completions(shell, "%mlops monitor profile "))
    assert completions(shell, "%mlops cost show --by jo") == ["job"] and completions(shell, "%mlops job run ") == [
        "score"
    ]
    assert completions(shell, "%%mlops feature add x --source flights --entity ") == ["carrier", "origin"]
    assert completions(shell, "%mlops feature show ") == ["size"] and completions(shell, "plain python") == []


def test_completion_in_bash(project, cli, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "mlops data ad")
    assert cli("--complete", "mlops").out.split() == ["add"]


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_words_are_a_call_or_one_line(words):
    "The grammar reads hostile words without another exception"
    for head in ([], ["data", "add"], ["audit", "log"], ["job", "run"], ["run"]):
        try:
            grammar.parse([*head, *words], INDEX)
        except MlopsError as e:
            assert "\n" not in str(e) and e.exit == 2


@given(st.text(alphabet="ab ,()[]{}'\"", max_size=30))
def test_a_list_is_split_at_its_own_commas_only(text):
    assert ",".join(grammar._pieces(text)) == text, "nothing is lost"
    inner = text.translate({ord(c): None for c in "()[]{}'\""})
    assert grammar._pieces(f"x,f({inner}),y") == ["x", f"f({inner})", "y"], "a bracket keeps its commas"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("a,b , c", ["a", "b", "c"]),
        ("round(x, 1) > 2,y in (1,2)", ["round(x, 1) > 2", "y in (1,2)"]),
        ("kind = 'a,b',z", ["kind = 'a,b'", "z"]),
        ("test.auc >= 0.7, f({'a': [1, 2]})", ["test.auc >= 0.7", "f({'a': [1, 2]})"]),
        ("carrier's,owner's", ["carrier's", "owner's"]),
        ("open(,b", ["open(", "b"]),
        ("a),b", ["a)", "b"]),
        (",,", []),
    ],
)
def test_lists_on_every_verb(typed, words):
    for verb in (
        ["model", "gate", "m", "--add"],
        ["feature", "add", "v", "--test"],
        ["monitor", "drift", "a", "b", "--columns"],
    ):
        call = grammar.parse([*verb, typed], INDEX)
        assert next(v for k, v in call.args.items() if isinstance(v, list)) == words


# Settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[cost]\nusd_per_hour = 3\n", ["line 2", "cost.usd_per_hour", "did you mean `usd_per_h`?"]),
        ("[costs]\nx = 1\n", ["line 1", "`costs`", "did you mean `cost`?"]),
        ("[project]\nname = 'a'\n\n[monitor]\n# so\nalpha = 'x'\n", ["line 6", "monitor.alpha"]),
        ("[monitor]\nalpha = 0.1\nalpha = 0.2\n", ["not valid TOML", "line 3"]),
        ("[project\nname = 'a'\n", ["not valid TOML", "line 1"]),
        ("project = 3\n", ["line 1", "must be a table"]),
        ("[job]\ntimeout_s = 1.5\n", ["line 2", "job.timeout_s"]),
    ],
)
def test_a_broken_settings_file_names_line_and_key(project, cli, text, said):
    (project.root / "mlops.toml").write_text(text)
    for words in (["status"], ["status", "--json"]):
        a = cli(*words)
        assert a.exit == 2
        line = a.json["error"]["message"] + "; " + a.json["error"]["hint"] if "--json" in words else a.err
        assert all(s in line for s in said), line
        assert (a.out if "--json" in words else a.err).count("\n") == 1


def test_settings_from_the_environment(project, monkeypatch):
    monkeypatch.setenv("MLOPS_COST_USD_PER_H", "1.25")
    assert project.settings.cost.usd_per_h == 1.25
    monkeypatch.setenv("MLOPS_COST_USD_PER_H", "much")
    with pytest.raises(BadInput, match="MLOPS_COST_USD_PER_H='much'"):
        _ = project.settings
    monkeypatch.delenv("MLOPS_COST_USD_PER_H")
    monkeypatch.setenv("MLOPS_COST_USD_PER", "1")
    with pytest.raises(BadInput, match="did you mean `usd_per_h`"):
        _ = project.settings


def test_pinning_keeps_every_other_line(project):
    text = "# mine\n[project]\nname = 'a' # with a word\n\n[cost]\nusd_per_h = 3\n"
    (project.root / "mlops.toml").write_text(text)
    project.pin("cost", "provider", 'a"b')
    project.pin("cost", "usd_per_h", 4.5)
    project.pin("monitor", "alpha", 0.01)
    kept = (project.root / "mlops.toml").read_text()
    assert (
        all(x in kept for x in ("# mine\n", "name = 'a' # with a word\n")) and project.settings.cost.provider == 'a"b'
    )
    assert (project.settings.cost.usd_per_h, project.settings.monitor.alpha) == (4.5, 0.01)
    with pytest.raises(BadInput):
        project.pin("cost", "nothing", 1)


# Adoption


def git(root, *words):
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def test_init_uses_what_is_there(home, tmp_path, cli, monkeypatch):
    root = tmp_path / "old"
    (root / "features_repo").mkdir(parents=True)
    (root / "features_repo" / "feature_store.yaml").write_text("project: old\nprovider: local\nregistry: registry.db\n")
    (root / "mlflow.db").write_bytes(b"")
    git(root, "init", "-q", "-b", "trunk")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        f"[core]\n    remote = far\n['remote \"far\"']\n    url = {tmp_path / 'remote'}\n"
    )
    before = (root / ".dvc" / "config").read_text()
    a = cli("init", root, "--json")
    assert a.exit == 0, a
    assert {"git", "dvc", "feast", "mlflow"} <= set(a.json["adopted"]) and a.json["adopted"]["git"] == "trunk"
    assert a.json["stores"]["features"] == "features_repo" and a.json["stores"]["runs"].endswith("mlflow.db")
    assert (root / ".dvc" / "config").read_text() == before, "DVC's own settings stay as they are"
    assert not (root / ".mlops" / "mlflow.db").exists() and "/.mlops/" in (root / ".gitignore").read_text()
    text = (root / "mlops.toml").read_text()
    again = cli("init", root, "--json")
    assert again.exit == 0 and (root / "mlops.toml").read_text() == text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert cli("init", tmp_path / "new", "--json").json["adopted"]["mlflow"] == "http://127.0.0.1:9"


def test_a_project_is_found_upwards(project, cli, monkeypatch, tmp_path):
    deep = project.root / "a" / "b"
    deep.mkdir(parents=True)
    assert projects.find(deep) == project
    monkeypatch.setenv("JPY_SESSION_NAME", str(deep / "n.ipynb"))
    monkeypatch.chdir(tmp_path)
    assert projects.find() == project, "a notebook may go to where its data lie"
    other = projects.create(tmp_path / "other")
    monkeypatch.chdir(other.root)
    assert projects.find() == other, "and into another project"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME")
    with pytest.raises(NotFound, match="mlops init"):
        projects.find()
    assert (
        cli("--project", project.root, "status").exit in (0, 2) and cli("status", "--project", project.root).exit == 0
    )


# Two projects in one process


def test_two_projects_at_once(home, tmp_path, monkeypatch):
    "A trains and logs metrics in a run while B registers a model, in another thread and in the same one"
    import mlflow
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from mlops_nb import model

    a, b = (projects.create(tmp_path / n) for n in "ab")
    monkeypatch.chdir(a.root)
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    clf = LogisticRegression().fit(x, x[:, 0] > 0)
    training, registered, failed = threading.Event(), threading.Event(), []

    def register(name):
        try:
            training.wait(60)
            with projects.use(b):
                model.log(clf, name, example=x, native=False)
        except BaseException as e:
            failed.append(e)
        finally:
            registered.set()

    other = threading.Thread(target=register, args=("other",))
    other.start()
    with projects.use(a), mlops_nb.run("delay"):
        mlflow.log_metric("auc", 0.5, step=0)
        training.set()
        assert registered.wait(120) and not failed, failed
        mlflow.log_metric("auc", 0.7, step=1)
        with projects.use(b):
            model.log(clf, "same", example=x, native=False)
        mlflow.log_metric("auc", 0.9, step=2)
    other.join()
    with projects.use(a):
        assert [r["metrics"]["auc"] for r in model.runs().json()["runs"]] == [0.9] if hasattr(model, "runs") else True
        assert model.list().json()["models"] == []
    with projects.use(b):
        assert {m["name"] for m in model.list().json()["models"]} == {"other", "same"}
    kinds = {p: [e.type for e in ledger.of(p).events()] for p in (a, b)}
    assert kinds[a] == ["run.started", "run.completed"] and kinds[b].count("model.registered") == 2
    assert not [t for t in kinds[b] if t.startswith("run.")]


# Dry runs

CHANGES = sorted(p for p in INDEX if INDEX[p]["changes"] and "dry_run" in [q["name"] for q in INDEX[p]["params"]])
GOOD = {
    "audit.anchor": ["audit", "anchor", "../far/"],
    "audit.checkpoint": ["audit", "checkpoint"],
    "audit.export": ["audit", "export", "bundle.json"],
    "audit.redact": ["audit", "redact", "0", "--reason", "asked"],
    "data.add": ["data", "add", "d.csv", "other"],
    "data.push": ["data", "push"],
    "data.pull": ["data", "pull"],
    "demo": ["demo", "there"],
    "feature.add": [*ADD[:2], "other", *ADD[3:]],
    "feature.materialize": ["feature", "materialize", "size"],
    "init": ["init", "there"],
    "job.convert": ["job", "convert", "n.ipynb", "other"],
    "job.run": ["job", "run", "score"],
    "monitor.profile": ["monitor", "profile", "d.csv", "--out", "p.json"],
    "site.build": ["site", "build"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "One small project for every dry run"
    with own_project(tmp_path_factory.mktemp("dry")) as made:
        prepared(made.root)
        yield made


def digest(root: Path) -> dict[str, str]:
    """Every file but what is derived: SQLite's index of its write-ahead log, in which readers leave marks, the cache of computed
    features, and the empty tables that MLflow makes before anybody can look for a model"""
    derived = re.compile(r"\.mlops/(features/|mlflow\.db)|-shm$")
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and not derived.search(p.as_posix()))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_dry_run_changes_no_byte(made):
    assert set(GOOD) <= set(CHANGES)
    base, wrong = made.root.parent, []
    run(["status"])
    for path in CHANGES:
        if path not in GOOD and (path in LONG or is_foreground(path, INDEX[path])):
            continue
        words = [*GOOD.get(path, words_for(path, INDEX[path])), "--dry-run"]
        before = digest(made.root)
        code, out, err = run(words)
        assert "Traceback" not in err
        if path in GOOD:
            assert code == 0 and "DRY RUN" in out, (words, code, out, err)
        after = digest(made.root)
        if before != after:
            wrong.append(
                (path, sorted(set(before) ^ set(after)), [k for k in before if after.get(k) not in (None, before[k])])
            )
    assert not wrong
    assert sorted(p.name for p in base.iterdir()) == ["home", "work"]


# Panels

HOSTILE = "<script>alert('x')</script><img src=x onerror=\"y\">&\u2028\x1b[31m"


class Page(HTMLParser):
    "What a browser would find"

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


def harmless(html: str):
    page = Page(html)
    assert not page.tags & {"script", "img", "iframe", "object", "link"}, page.tags
    assert not [a for a, _ in page.attributes if a.startswith("on") or a == "src"]
    links = [v for a, v in page.attributes if a == "href"]
    assert [v for v in links if not re.fullmatch(r"[\w%.-]+#cell-id=[\w%.-]*", v)] == [], (
        "a link leads to a cell of a notebook"
    )
    assert len(html.encode()) <= 50_000


def filled(t, depth=0):
    "A value of a type with a script in every text and forty entries in every list"
    of, args = typing.get_origin(t), typing.get_args(t)
    many = 40 if depth == 0 else 2
    if of is typing.Annotated:
        return filled(args[0], depth)
    if of in (typing.Union, types.UnionType):
        return filled(next(a for a in args if a is not type(None)), depth)
    if of is typing.Literal:
        return args[0]
    if of is list or t is list:
        return [filled(args[0] if args else str, depth + 1) for _ in range(many)]
    if of is tuple:
        return tuple(filled(a, depth + 1) for a in args if a is not Ellipsis)
    if of is dict or t is dict:
        return {f"{HOSTILE}{n}": filled(args[1] if args else str, depth + 1) for n in range(many)}
    if isinstance(t, type) and issubclass(t, msgspec.Struct):
        hints = typing.get_type_hints(t)
        return t(**{f: filled(hints[f], depth + (depth > 0)) for f in t.__struct_fields__})
    plain = {str: HOSTILE, bool: True, int: 3, float: 0.5, datetime: datetime(2013, 1, 1), date: date(2013, 1, 1)}
    return plain.get(t, HOSTILE)


def facts() -> list[type]:
    for m in pkgutil.walk_packages(mlops_nb.__path__, "mlops_nb."):
        if m.name.split(".")[-1].endswith("facts"):
            importlib.import_module(m.name)
    found, queue = set(), [Fact]
    while queue:
        queue += (more := [c for c in queue.pop().__subclasses__() if c not in found])
        found |= set(more)
    return sorted((c for c in found if c.__module__.startswith("mlops_nb.")), key=lambda c: (c.__module__, c.__name__))


def test_facts_with_a_script_in_every_text():
    "Facts that draw whatever they are given; those that need a known word or shape are drawn by their own tests"
    drawn = 0
    for kind in facts():
        try:
            fact = filled(kind)
            html, words = fact.panel().html(), str(fact)
        except (KeyError, IndexError, ValueError, TypeError):
            continue
        drawn += 1
        harmless(html)
        assert "\x1b" not in words and words.splitlines() and json.loads(json.dumps(fact.json()))
    assert drawn >= 15


ROOMS = sorted(p for p in (ROOT / "mlops_nb").rglob("*.py") if p.name.endswith("panel.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_panels_write_no_markup_of_their_own(room):
    "Only the drawing kit writes tags, so that there is one place where text is escaped; a picture's <path> and <text> go through Svg"
    tags = re.findall(r"<(?:td|tr|th|table|div|p|b|a|script|details|dl|dd|pre)\b", room.read_text(encoding="utf-8"))
    assert tags == []


def blocks():
    rows = [[HOSTILE, n, n / 3, None, draw.badge(HOSTILE, HOSTILE), svg.meter(0.5, HOSTILE)] for n in range(40)]
    return [
        draw.facts({HOSTILE: HOSTILE, "b": [HOSTILE], "c": {HOSTILE: HOSTILE}}),
        draw.table([HOSTILE, "n", "x", "y", "z", "w"], rows),
        draw.text(HOSTILE),
        draw.text(HOSTILE, code=True),
        draw.figure(svg.spark([1, 2, 3], HOSTILE), HOSTILE),
        draw.details(HOSTILE, draw.text(HOSTILE)),
        draw.table([HOSTILE], [], empty=HOSTILE),
    ]


def test_every_block_escapes_and_has_twins():
    panel = draw.Panel(HOSTILE, *blocks(), verdict=("bad", HOSTILE), next=HOSTILE)
    harmless(panel.html())
    harmless(draw.Panel("m", draw.text(panel.markdown())).html())
    text, markdown = panel.text(), panel.markdown()
    code = re.sub(r"(?s)```.*?```|`[^`]*`", "", markdown)
    assert "alert('x')" in text and "<script" not in code and "\x1b" not in text + markdown and "\u2028" not in text
    fenced = draw.text("a\n```\n<script>", code=True).markdown()
    assert fenced.startswith("````\n") and fenced.endswith("\n````")
    assert set(panel._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_pictures_escape_their_words():
    some = [svg.spark([1, 2], HOSTILE), svg.meter(0.3, HOSTILE), svg.bars([1, 2], HOSTILE)]
    for s in some:
        harmless(draw.Panel("x", draw.figure(s)).html())
        assert HOSTILE.split("<")[0] in str(s)


def test_sizes():
    "30 KB with a picture in each of 40 rows, 50 KB whatever is put in"
    rows = [
        [
            f"column_{n}",
            "numeric",
            "KS",
            n / 7,
            0.01,
            svg.histogram([5, 9, 3, 1] * 4, [1, 4, 9, 6] * 4),
            draw.badge("bad", "DRIFT"),
        ]
        for n in range(40)
    ]
    html = draw.Panel("Drift", draw.table(["column", "kind", "test", "statistic", "p", "", ""], rows)).html()
    assert len(html.encode()) <= 30_000 and html.count("<svg") == 40
    for n in (41, 500, 5_000):
        wide = draw.Panel(
            "x", *[draw.table(["a", "b"], [["w" * 500, svg.spark(range(99), "s")]] * n) for _ in range(8)]
        )
        harmless(wide.html())
    harmless(draw.Panel("x", *[draw.text("é" * 9000) for _ in range(50)]).html())


def test_nan_and_infinity_are_null_in_json():
    class Odd(Fact):
        x: float
        y: list[float]
        z: dict

    doc = Odd(x=float("nan"), y=[float("inf"), 1.0], z={"a": float("-inf")}).json()
    assert doc == {"x": None, "y": [None, 1.0], "z": {"a": None}}
