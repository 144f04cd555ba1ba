"""Parameters, drops, faults and bad files: what a notebook becomes before anything runs."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.job_runs import nb
from helpers.odd_texts import ODD

from mlops_nb import job as jobs
from mlops_nb.core.errors import BadInput
from mlops_nb.job import definition
from mlops_nb.job.conversion import job_notebook
from mlops_nb.job.findings import faults
from mlops_nb.job.notebook import notebook_ast, parameters
from mlops_nb.job.runs import injection
from mlops_nb.job.facts import Dropped, Job, Note, Parameter, Step, Thing


def typed(*sources, **kw):
    job = job_notebook.convert(notebook_ast.check_format(nb(*sources, **kw))).job
    return {p.name: (p.type, p.default) for p in job.parameters}


ELEVEN = """rate = 1e-3
start = date(2026, 1, 31)
query = "a=b"
options = dict(k=1)
offset = -5
limit = None  # type: int
columns = [
    "carrier",
    "origin",
]
mode = "fast"  # one of: fast, slow
steps = 10  # type: float
since = "2026-01-01"
n = 5 if mode == "fast" else 50"""


def test_types_of_the_eleven_names_that_papermill_gets_wrong():
    made = job_notebook.convert(
        notebook_ast.check_format(nb("from datetime import date", ELEVEN, "print(n)", tags={1: ["parameters"]}))
    )
    found = {p.name: (p.type, p.default) for p in made.job.parameters}
    assert found == {
        "rate": ("float", 0.001),
        "start": ("date", "2026-01-31"),
        "query": ("str", "a=b"),
        "options": ("dict", {"k": 1}),
        "offset": ("int", -5),
        "limit": ("int | None", None),
        "columns": ("list", ["carrier", "origin"]),
        "mode": ("enum", "fast"),
        "steps": ("float", 10.0),
        "since": ("date", "2026-01-01"),
    }
    assert [n.message for n in made.job.remarks if "`n` depends on a condition" in n.message]
    sources = [c["source"] for c in made.notebook["cells"] if c["cell_type"] == "code"]
    assert "from datetime import date" in sources[0] and "rate = 1e-3" in sources[0], (
        "the parameters cell stands alone and first"
    )
    assert any('n = 5 if mode == "fast"' in s for s in sources[1:]), "what is computed stays below the parameters"


CORPUS = [
    (["alpha: float = 1", "print(alpha)"], {"alpha": ("float", 1.0)}),
    (["until: 'date | None' = None", "print(until)"], {"until": ("date | None", None)}),
    (["from typing import Optional\nk: Optional[int] = 3", "k+1"], {"k": ("int | None", 3)}),
    (["from typing import Literal\nhow: Literal['mean','max'] = 'max'", "print(how)"], {"how": ("enum", "max")}),
    (["a, b = 1, 2.5", "print(a, b)"], {"a": ("int", 1), "b": ("float", 2.5)}),
    (["day_s = 24*60*60", "print(day_s)"], {"day_s": ("int", 86400)}),
    (["when = '2026-01-01T06:30'", "print(when)"], {"when": ("datetime", "2026-01-01T06:30")}),
    (["debug = True", "print(debug)"], {"debug": ("bool", True)}),
    (["pair = (1, 2)", "print(pair)"], {"pair": ("list", [1, 2])}),
    (["bins = [(0, 1), (1, 2)]", "print(bins)"], {"bins": ("list", [[0, 1], [1, 2]])}),
    (["from datetime import date\ncrises = [(date(2007, 10, 11), 'peak')]", "print(crises)"], {}),
    (["limits = [0, float('inf')]", "print(limits)"], {}),
    (
        ["import datetime", "from datetime import datetime\nsince = datetime(2014, 3, 11)", "print(since)"],
        {"since": ("datetime", "2014-03-11T00:00:00")},
    ),
    (
        [
            "import datetime\na = datetime.date(2014, 3, 11)",
            "from datetime import datetime\nb = datetime(2014, 3, 11)",
            "print(a, b)",
        ],
        {"a": ("date", "2014-03-11")},
    ),
    ([" rate = 1\n print(rate)"], {"rate": ("int", 1)}),
    ([">>> rate = 1", ">>> print(rate)"], {"rate": ("int", 1)}),
    (["rate = 1", "#@title Do it\n%%time\nprint(rate)"], {"rate": ("int", 1)}),
    (["cd ..", "ls -la", "rate = 1", "print(rate)", "mkdir -p out"], {"rate": ("int", 1)}),
    (
        ["%md some words\nand more", "rate = 1", "%%time\n%%capture out\nprint(rate)", "out.show()"],
        {"rate": ("int", 1)},
    ),
    (["rows = []", "rows.append(1)"], {}),
    (["i = 0", "i += 1\nprint(i)"], {}),
    (["unused = 4", "print(1)"], {}),
    (["_private = 4", "print(_private)"], {}),
    (["x = 4", "def f(): return x\nprint(f())"], {"x": ("int", 4)}),
    (["%%mlops params\nx = 4", "y = 5\nprint(x, y)"], {"x": ("int", 4)}),
    (
        ["from enum import Enum\nclass Mode(Enum):\n    FAST = 1\n    SLOW = 2\nmode = Mode.FAST", "print(mode)"],
        {"mode": ("enum", "FAST")},
    ),
]


@pytest.mark.parametrize("sources,expected", CORPUS, ids=[c[0][0][:30] for c in CORPUS])
def test_types_in_ordinary_code(sources, expected):
    assert typed(*sources) == expected
    made = job_notebook.convert(notebook_ast.check_format(nb(*sources)))
    (cell,) = [c for c in made.notebook["cells"] if "parameters" in (c["metadata"].get("tags") or [])] or [
        {"source": ""}
    ]
    written: dict = {}
    exec(cell["source"], written)
    for p in made.job.parameters:
        again = eval(parameters.as_code(p, p.default), written)
        assert again == written[p.name] and type(again) in (type(written[p.name]), float), (
            "injecting the default changes nothing"
        )


@pytest.mark.parametrize(
    "type_,text,value",
    [
        ("float", "1e-3", 0.001),
        ("float", "-2", -2.0),
        ("int", "-7", -7),
        ("bool", "false", False),
        ("date", "2026-02-28", "2026-02-28"),
        ("datetime", "2026-02-28T06:00:00Z", "2026-02-28T06:00:00+00:00"),
        ("list", '["a", "b"]', ["a", "b"]),
        ("list", "a,b", ["a", "b"]),
        ("dict", '{"k": [1, null]}', {"k": [1, None]}),
        ("str", "x=y=z", "x=y=z"),
        ("int | None", "none", None),
    ],
)
def test_values_are_read_by_type(type_, text, value):
    assert parameters.bind([Parameter(name="v", type=type_, default=None)], {"v": text}) == {"v": value}


@pytest.mark.parametrize(
    "type_,text",
    [
        ("int", "1.5"),
        ("int", "ten"),
        ("int", "None"),
        ("float", "1,5"),
        ("bool", "maybe"),
        ("date", "31.01.2026"),
        ("date", "2026-02-30"),
        ("datetime", "noon"),
        ("dict", "[1]"),
        ("dict", "{"),
        ("list", "[1"),
    ],
)
def test_wrong_values_are_one_line(type_, text):
    with pytest.raises(BadInput) as e:
        parameters.bind([Parameter(name="v", type=type_, default=None)], {"v": text})
    assert "`v`" in str(e.value) and "\n" not in str(e.value) and text.strip()[:10] in str(e.value)


def test_python_values_are_checked_too():
    ps = [Parameter(name="d", type="date", default="2026-01-01"), Parameter(name="n", type="int", default=1)]
    assert parameters.bind(ps, {"d": date(2026, 5, 1), "n": 4}) == {"d": "2026-05-01", "n": 4}
    for bad in ({"n": 4.5}, {"n": True}, {"n": object()}, {"d": 3}):
        with pytest.raises(BadInput):
            parameters.bind(ps, bad)


def test_injected_values_are_literals():
    "Nothing that a user types becomes code"
    evil = "__import__('os').system('true')"
    for form in ("", "str"):
        code = parameters.as_code(Parameter(name="x", type="str", default="", form=form), evil)
        assert code == repr(evil)
    made = job_notebook.convert(notebook_ast.check_format(nb("x = 'a'", "print(x)")))
    new, at = injection.inject(made.notebook, made.job.parameters, {"x": '"; import os; "'})
    space = {}
    exec(new["cells"][at]["source"], {}, space)
    assert space == {"x": '"; import os; "'}


def test_what_only_a_reader_needs_is_left_out():
    made = job_notebook.convert(
        notebook_ast.check_format(
            nb(
                "md:# Title",
                "%matplotlib inline\nimport matplotlib.pyplot as plt\nimport json, sys",
                "!pip install something",
                "data = json.loads('[1, 2, 3]')",
                "data?",
                "md:## Look",
                "plt.plot(data)\nplt.show()",
                "len(data)",
                "%time total = sum(data)",
                "md:## Write",
                "fig = plt.figure()",
                "fig.savefig('total.png')",
                "total",
            )
        )
    )
    reasons = {d.cell: d.reason.split(":")[0] for d in made.job.dropped_cells}
    assert reasons == {2: "install", 4: "help", 6: "plot", 7: "display"}, "what the last cell shows is the answer"
    code = "\n".join(c["source"] for c in made.notebook["cells"] if c["cell_type"] == "code")
    assert "%time" not in code and "pip" not in code and "total = sum(data)" in code
    assert [(t.kind, t.name) for t in made.job.outputs] == [("file", "total.png")]
    compile(code.replace("%matplotlib inline\n", ""), "job", "exec")
    assert "%matplotlib inline" in code, "a chart stays, and with it what says how charts look"


def test_what_only_a_clock_needed_is_left_out_and_its_values_are_not_shown(project):
    cells = {
        "x = list(range(9))": "x = list(range(9))",
        "%timeit sorted(x)": None,
        "%timeit -n 10 -r3 y = x*2\nz = x[1:]": "z = x[1:]",
        "%%timeit -n 1\nz = 0\nz": None,
        "for k in range(2):\n    %timeit x+[k]\n    x = x+[k]": "for k in range(2):\n    pass\n    x = x+[k]",
        "%timeit -n 1 open('a.txt', 'w').write('a')": "%timeit -n 1 open('a.txt', 'w').write('a')",
        "%prun -s cumulative -l 5 w = x.copy()": "w = x.copy()",
        "%prun w.pop()  # é": "w.pop();  # é",
        "%%prun -q\nz.append(w[0])\nz.pop(), z.pop()": "z.append(w[0])\nz.pop(), z.pop();",
        "%time z.pop()": "z.pop()",
        "%%time\nz.append(1)\nz.pop()": "z.append(1)\nz.pop()",
        "z.append(len(x))\n%timeit z.pop": "z.append(len(x))",
    }
    raw = notebook_ast.check_format(nb("%%mlops params\nunused = 1", *cells))
    made = job_notebook.convert(raw, "clock")
    code = {c["metadata"]["mlops"]["cell"]: c["source"] for c in made.notebook["cells"] if "mlops" in c["metadata"]}
    assert {text: code.get(n) for n, text in enumerate(cells, 1)} == cells
    assert {d.cell: (d.reason, d.source) for d in made.job.dropped_cells} == {
        2: ("timing: it leaves nothing behind", "%timeit sorted(x)"),
        4: ("timing: it leaves nothing behind", "%%timeit -n 1"),
    }
    made.job.notebook = "clock.ipynb"
    definition.write(project, made.job, made.notebook, [])
    ran = notebook_ast.load(jobs.run("clock").output)["cells"]
    shown = [c["source"] for c in ran if any(o["output_type"] == "execute_result" for o in c.get("outputs", []))]
    assert shown == ["z.pop()", "z.append(1)\nz.pop()"], (
        "what %time shows is the value of a cell, what %prun shows is not"
    )


def test_convert_writes_text_for_review_and_says_it_in_the_ledger(project, cli):
    Path("notebooks").mkdir()
    source = Path("notebooks/fit.ipynb")
    source.write_text(json.dumps(nb("import msgspec\nrate = 0.5  # step", "rate", "print(rate)")), encoding="utf-8")
    plan = cli("job", "convert", source, "--dry-run", "--json")
    assert plan.exit == 0 and not (project.root / "jobs").exists()
    a = cli("job", "convert", source, "--json")
    assert a.exit == 0, a
    assert a.json["name"] == "fit" and a.json["parameters"][0] | {"cell": 0} == {
        "name": "rate",
        "type": "float",
        "default": 0.5,
        "help": "step",
        "cell": 0,
    }
    assert a.json["requirements"][0].startswith("msgspec==") and a.json["dropped_cells"][0]["cell"] == 1
    folder = project.root / "jobs/fit"
    assert sorted(p.name for p in folder.iterdir()) == ["fit.ipynb", "job.toml", "requirements.lock"]
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / "NOTES.md").write_text("mine")
    assert cli("job", "convert", source).exit == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "NOTES.md"} == first, (
        "the same notebook gives the same job"
    )
    assert (folder / "NOTES.md").read_text() == "mine"
    assert definition.read(project, "fit").cwd == "notebooks"
    from mlops_nb.core import ledger

    events = list(ledger.of(project).events(["job.converted"]))
    assert [e.subject for e in events] == ["fit", "fit"] and events[0].payload.parameters == {"rate": "float"}
    shown = cli("job", "show", "fit", "--json").json
    assert shown["parameters"] == [{k: v for k, v in a.json["parameters"][0].items() if k != "cell"}]
    assert cli("job", "list", "--json").json["jobs"][0]["name"] == "fit"


@pytest.mark.parametrize(
    "raw,words",
    [
        (b'{"nbformat": 4', "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[]", "is no notebook"),
        (b"", "is not valid JSON"),
        (json.dumps(nb("x = 1")).encode("utf-16"), "is not valid JSON"),
        (json.dumps(nb("x = 'caf\u00e9'"), ensure_ascii=False).encode("latin-1"), "is not valid JSON"),
        (json.dumps({"nbformat": 4, "cells": {}}).encode(), "has notebook format 4 and no list of cells"),
        (json.dumps({"nbformat": 4, "cells": [1]}).encode(), "cell 0 is no notebook cell"),
        (
            json.dumps(nb("x = 1", kernelspec={"display_name": "Julia 1.11", "language": "julia"})).encode(),
            "in Julia 1.11",
        ),
        (json.dumps({"nbformat": 3, "worksheets": []}).encode(), "has notebook format 3"),
        (json.dumps(nb("x <- 1", kernelspec={"name": "ir", "language": "R"})).encode(), "is a notebook in"),
        (json.dumps(nb()).encode(), "no code"),
        (json.dumps(nb("x = 1", "y = (")).encode(), "cell 1 is no valid Python"),
        (
            json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": 5}]}).encode(),
            "cell 0 is no notebook cell",
        ),
    ],
)
def test_bad_files_are_one_line(project, cli, raw, words):
    Path("bad.ipynb").write_bytes(raw)
    a = cli("job", "convert", "bad.ipynb")
    assert a.exit == 2 and words in a.err and len(a.err.strip().split("\n")) == 1, a
    assert not (project.root / "jobs").exists()
    if words in ("no code", "cell 1 is no valid Python"):
        return  # to check these is no error: there is nothing to find, or the cell is a finding
    for form in ([], ["--fix"]):
        a = cli("job", "check", "bad.ipynb", *form)
        assert a.exit == 2 and words in a.err and len(a.err.strip().split("\n")) == 1, a
    definition.write(project, Job(name="bad", notebook="bad.ipynb"), nb("open('ran', 'w')"), [])
    (project.root / "jobs/bad/bad.ipynb").write_bytes(raw)
    a = cli("job", "run", "bad")
    assert a.exit == 2 and words in a.err and len(a.err.strip().split("\n")) == 1, a
    assert not Path("ran").exists() and not list((project.state / "runs").glob("*/cells.log"))


def test_the_diff_says_what_changes_and_writes_nothing(project, cli):
    sources = ["%matplotlib inline\nimport msgspec, matplotlib.pyplot as plt", "rate = 0.5  # step", "rows = [rate]"]
    sources += [
        "plt.plot(rows)",
        "%time total = sum(rows)",
        "print(total)",
        "api_key = 'k3y-a8f7d6e5'\n!pip install x\nprint(len(api_key))",
        "open('total.txt', 'w').write(str(total))",
    ]
    Path("fit.ipynb").write_text(json.dumps(nb(*sources)), encoding="utf-8")
    a = cli("job", "convert", "fit.ipynb", "--diff", "--json")
    assert a.exit == 0 and not (project.root / "jobs").exists()
    hunks = a.json["diff"].split("@@ ")
    assert a.json["diff"].startswith("--- fit.ipynb\n+++ jobs/fit/fit.ipynb\n") and "k3y-a8f7d6e5" not in a.out
    assert any(h.startswith("new cell @@\n+rate = 0.5  # step") for h in hunks)
    assert any(h.startswith("cell 3 left out: plot") and "-plt.plot(rows)" in h for h in hunks)
    assert any(h.startswith("cell 4 @@\n-%time total = sum(rows)\n+total = sum(rows)") for h in hunks)
    assert not any(h.startswith("cell 2 ") for h in hunks), "what stays is not shown"
    assert [p["name"] for p in a.json["parameters"]] == ["rate"], (
        "a secret is no parameter: job.toml and the ledger would keep it"
    )
    assert any("`api_key` holds a secret" in n["message"] for n in a.json["remarks"])
    from mlops_nb import job
    from mlops_nb.core.draw import LIMIT

    html = job.convert(Path("fit.ipynb"), diff=True).panel().html()
    assert "nothing was written" in html and "background:rgba(46" in html and len(html.encode()) < LIMIT
    assert "what was changed in the cells" in str(job.convert(Path("fit.ipynb")))


@pytest.mark.parametrize(
    "line",
    [
        "db_password = 'Tr0ub4dor&3'",
        "config = {'rows': 3, 'api_key': 'k3y-a8f7d6e5'}",
        "url = 'postgresql://ann:s3cr3t-pw@db/flights'",
        "key = 'AKIAIOSFODNN7ABCDEFG'",
    ],
)
def test_no_secret_becomes_a_parameter(project, cli, line):
    Path("a.ipynb").write_text(json.dumps(nb(line, f"print({line.split()[0]})")), encoding="utf-8")
    a = cli("job", "convert", "a.ipynb", "--json")
    secret = line.rpartition("'")[0].rpartition("'")[2]
    assert a.exit == 0 and a.json["parameters"] == [] and secret not in a.out
    assert secret not in (project.root / "jobs/a/job.toml").read_text(encoding="utf-8")


def test_names_that_lead_elsewhere_are_refused(project, cli):
    Path("a.ipynb").write_text(json.dumps(nb("x = 1", "print(x)")), encoding="utf-8")
    for name in ("../a", "a/b", "..", ".hidden", "a" * 65):
        a = cli("job", "convert", "a.ipynb", name)
        assert a.exit == 2 and "cannot be used" in a.err, (name, a)
        assert cli("job", "run", name).exit == 2
    assert cli("job", "convert", "no.ipynb").exit == 2
    assert not list(project.root.parent.glob("a*")) and not (project.root / "jobs").exists()


def test_many_cells(project, cli):
    size = count(2_000, 10_000)
    many = nb(*[f"x{n} = {n}\nprint(x{n})" for n in range(size)])
    many["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 5_000_000}]
    Path("many.ipynb").write_text(json.dumps(many), encoding="utf-8")
    assert cli("job", "check", "many.ipynb").exit == 0
    a = cli("job", "convert", "many.ipynb", "--json")
    assert a.exit == 0 and len(a.json["parameters"]) == size
    assert (project.root / "jobs/many/many.ipynb").stat().st_size < 800 * size, "outputs stay behind"


BOUNDED = """
import re, resource, sys
from pathlib import Path
from mlops_nb.core import project, verbs, ledger
from mlops_nb.job import verbs as v
from mlops_nb.job.conversion import job_notebook, steps
from mlops_nb.job.findings import faults, repairs, verbs as check_verbs
from mlops_nb.job.notebook import notebook_ast, notebook_diff
now = int(re.search(r'VmData:\\s+(\\d+)', open('/proc/self/status').read())[1])*1024
resource.setrlimit(resource.RLIMIT_DATA, (now+48*2**20,)*2)
nb = notebook_ast.load(sys.argv[1], lazy=True)
found, cells = faults.find(nb)
made = job_notebook.convert(nb)
print(cells, [f.kind for f in found], len(made.notebook['cells']))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_outputs_of_200_mb_cost_no_memory(tmp_path):
    "Every private byte beyond 48 MB is refused to the process that checks and converts"
    megabytes = count(80, 200)
    with open(tmp_path / "big.ipynb", "w", encoding="utf-8") as f:
        cells = nb(*[f"x{n} = {n}\nprint(x{n})" for n in range(10)])
        text = "row 1, row 2\\n" * (megabytes * 100_000 // 14)
        for cell in cells["cells"]:
            cell["outputs"] = "OUT"
        output = '[{"output_type": "stream", "name": "stdout", "text": "' + text + '"}]'
        for n, part in enumerate(json.dumps(cells).split('"OUT"')):
            f.write((output if n else "") + part)
    assert (tmp_path / "big.ipynb").stat().st_size > megabytes * 0.9e6
    command = [sys.executable, "-c", BOUNDED, str(tmp_path / "big.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "10 [] 11", done.stderr[-2000:]


PLANTED = [
    ("stale", "b = a+1", 1),
    ("undefined", "print(deleted_long_ago)", 3),
    ("order", "print(later_on)", 4),
    ("absolute_path", "open('/home/bob/flights.csv')", 6),
    ("secret", "client = dict(password='hunter2-x9')", 7),
    ("missing_package", "import no_such_package_at_all", 8),
    ("install", "!pip install polars", 9),
    ("shell", "!ls -la", 10),
    ("network", "import urllib.request\nurllib.request.urlopen('https://example.org')", 11),
    ("interactive", "name = input('who?')", 12),
    ("date", "late = [d for d in [] if d > '2013-06-30']", 13),
    ("unseeded", "import random\nrandom.random()", 14),
    ("syntax", "x = (1,", 15),
]


def test_twelve_planted_faults_are_found():
    sources = [
        "a = 1",
        PLANTED[0][1],
        "a = 2",
        *(s for _, s, _ in PLANTED[1:3]),
        "later_on = 1",
        *(s for _, s, _ in PLANTED[3:]),
    ]
    counts = [1, 9, 3, *range(4, len(sources) + 1)]
    found, cells = faults.find(nb(*sources, counts=counts))
    kinds = {f.kind for f in found}
    assert {k for k, _, _ in PLANTED} <= kinds and cells == len(sources)
    assert "hunter2" not in str(found)
    assert len(found) <= len(PLANTED) + 1, [(f.cell, f.kind, f.message) for f in found]


CLEAN = [
    ["import os\nroot = os.environ.get('ROOT', '.')", "print(os.path.join(root, 'data', 'x.csv'))"],
    ["import numpy as np\nrng = np.random.default_rng(0)", "x = rng.normal(size=10)\nprint(x.mean())"],
    ["def fib(n): return n if n < 2 else fib(n-1)+fib(n-2)", "print([fib(i) for i in range(10)])"],
    ["class A:\n    size = 3\n    def area(self): return self.size**2", "A().area()"],
    ["try:\n    import no_such_thing\nexcept ImportError:\n    no_such_thing = None", "print(no_such_thing is None)"],
    ["from pathlib import Path\nout = Path('out')", "with open(out/'a.txt', 'w') as f: f.write('x')"],
    ["total = 0\nfor i in range(3):\n    total += i", "assert total == 3\nprint(f'{total:,} rows at {i}')"],
    ["%load_ext mlops_nb", "train = %mlops data get flights", "%mlops cost show"],
    ["import sqlite3\ndb = sqlite3.connect(':memory:')", "rows = db.execute('select 1').fetchall()\nrows"],
    ["%%time\nx = sum(range(10))", "print(x)\n_", "with open('/dev/null') as f: pass"],
]


def test_clean_notebooks_are_clean(project):
    found = [
        (n, f.kind, f.message)
        for n, sources in enumerate(CLEAN)
        for f in faults.find(nb(*sources, counts=list(range(1, len(sources) + 1))))[0]
    ]
    assert found == []


def test_a_check_that_found_something_exits_1(project, cli):
    Path("a.ipynb").write_text(json.dumps(nb("print(gone)")), encoding="utf-8")
    a = cli("job", "check", "a.ipynb", "--json")
    assert a.exit == 1 and a.json["error"]["kind"] == "finding" and a.json["findings"][0]["kind"] == "undefined"
    assert {"cell", "kind", "message", "fix"} <= set(a.json["findings"][0])


def test_reading_a_notebook_loads_no_tool():
    code = (
        "import sys, json\nfrom mlops_nb.job.conversion import job_notebook\nfrom mlops_nb.job.findings import faults\n"
        "faults.find(json.loads(sys.argv[1]))\njob_notebook.convert(json.loads(sys.argv[1]))\n"
    )
    code += (
        "print([m for m in ('IPython', 'nbformat', 'papermill', 'nbconvert', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(nb("import msgspec\nx = 1", "print(x)"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("text", ODD)
def test_every_text_of_a_job_comes_back_from_its_file(text):
    said = Job(
        name="score",
        notebook=text,
        source=text,
        source_digest=text,
        cwd=text,
        kernel=text,
        requirements=[text],
        limits={text: 1.5},
        parameters=[
            Parameter(name=text, type="enum", default=text, choices=[text], item=text, form=text, help=text),
            Parameter(name="table", type="dict", default={text: [text, {text: 1e300}]}),
            Parameter(name="gap", type="dict", default={text: None}),
        ],
        steps=[Step(name=text, cells=[1], needs=[text], uses=[text], gives=[text], backoff_s=0.1)],
        inputs=[Thing(kind="file", name=text, cell=None)],
        outputs=[Thing(kind="model", name=text, cell=2)],
        dropped_cells=[Dropped(cell=3, reason=text, source=text)],
        remarks=[Note(cell=None, message=text)],
        folder="jobs/score",
    )
    assert definition.from_toml(definition.to_toml(said), "score") == said


def test_a_job_is_written_for_reading():
    job = Job(
        name="score",
        requirements=["a==1", "b==2"],
        limits={"usd": 0.5},
        parameters=[
            Parameter(name="month", type="int", default=2, help="of 2013"),
            Parameter(name="tags", type="dict", default={"a b": [1, True]}),
        ],
        inputs=[Thing(kind="file", name="a.csv", cell=0), Thing(kind="dataset", name="flights", cell=None)],
    )
    head, _, text = definition.to_toml(job).partition("\n")
    assert head.startswith("# A job")
    assert (
        text
        == """[job]
name = "score"
kernel = "python3"
requirements = ["a==1", "b==2"]
limits = {"usd" = 0.5}

[parameters.month]
type = "int"
default = 2
help = "of 2013"

[parameters.tags]
type = "dict"
default = {"a b" = [1, true]}

[[inputs]]
kind = "file"
name = "a.csv"
cell = 0

[[inputs]]
kind = "dataset"
name = "flights"
"""
    )


def test_job_toml_that_was_edited_is_checked(project, cli):
    definition.write(
        project,
        Job(name="a", notebook="a.ipynb", parameters=[Parameter(name="n", type="int", default=1)]),
        nb("n = 1", "print(n)"),
        [],
    )
    file = project.root / "jobs/a/job.toml"
    for old, new, words in (
        ('type = "int"', 'type = "integer"', "no type 'integer'"),
        ("[job]", "[jbo]", "unknown section `jbo`"),
        ("name =", "nmae =", "did you mean `name`"),
    ):
        good = file.read_text()
        file.write_text(good.replace(old, new))
        a = cli("job", "run", "a")
        assert a.exit == 2 and words in a.err, a
        file.write_text(good)
