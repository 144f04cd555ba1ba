"""What a check finds, what it leaves alone, what it mends, what a fresh kernel says."""

import json
import sys
from pathlib import Path

import pytest
from helpers.job_runs import nb

from mlops_nb.core.draw import LIMIT
from mlops_nb.job.findings import faults, fresh_kernel, repairs
from mlops_nb.job.notebook import notebook_diff


def saved(path, book):
    Path(path).write_text(json.dumps(book), encoding="utf-8")
    return Path(path)


def printed(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def kinds(*sources, **kw):
    return [(f.cell, f.kind) for f in faults.find(nb(*sources, **kw))[0]]


# One notebook as somebody would write it, with a fault of every kind planted.
PLANTED = [
    ("", "import pandas as pd\nimport numpy as np\nimport os\nfrom sklearn.model_selection import train_test_split", 1),
    ("missing_package", "import flightlib_internal", 2),
    ("install", "!pip install lightgbm", 3),
    ("absolute_path", "df = pd.read_csv('/home/bob/projects/flights.csv')", 4),
    ("absolute_path", "cache = os.path.join(os.path.expanduser('~'), 'cache')", 5),
    ("secret", "db_password = 'Tr0ub4dor&3'", 6),
    ("date", "df = df[df['day'] >= '2013-06-30']", 7),
    ("undefined", "df = df.merge(carriers, on='carrier')", 8),
    ("order", "df['late'] = is_late(df)", 9),
    ("", "def is_late(x): return x['arr_delay'] > 15", 10),
    ("network", "url = 'https://example.org/weather.csv'\nweather = pd.read_csv(url)", 11),
    ("shell", "!wc -l flights.csv", 12),
    ("interactive", "limit = int(input('how many rows? '))", 13),
    ("interactive", "import ipywidgets as widgets\nslider = widgets.IntSlider(1, 1, 12)\nslider", 14),
    ("unseeded", "train, test = train_test_split(df)", 15),
    ("personal_data", "print(df['passenger_email'].head())", 16),
    ("stale", "rows = len(df)", 99),
    ("", "print(rows)", 18),
]


def test_every_planted_fault_is_found():
    found, cells = faults.find(nb(*(s for _, s, _ in PLANTED), counts=[n for _, _, n in PLANTED]))
    wanted = {(n, kind) for n, (kind, _, _) in enumerate(PLANTED) if kind}
    got = {(f.cell, f.kind) for f in found}
    assert wanted <= got and cells == len(PLANTED), wanted - got
    assert got - wanted == set(), "and nothing else"
    assert "Tr0ub4dor" not in str(found), "a secret is never repeated"
    assert all(f.fix and f.cell_id == f"c{f.cell}" for f in found)


MORE = [
    ("absolute_path", ["from pathlib import Path\nbase = Path.home()/'data'"]),
    ("absolute_path", ["path = r'D:\\data\\bob\\flights.csv'"]),
    ("absolute_path", ["name = 'x'\nopen(f'/home/ann/{name}.csv')"]),
    ("absolute_path", ["import os\nos.environ['HOME']"]),
    ("absolute_path", ["%cd /home/bob/work"]),
    ("secret", ["import sqlalchemy as sa\nsa.create_engine('postgresql://ann:s3cr3t-pw@db/flights')"]),
    ("secret", ["import os\nos.environ['API_KEY'] = 'k3y-a8f7d6e5'"]),
    ("secret", ["headers = {'api_key': 'k3y-a8f7d6e5'}"]),
    ("date", ["from datetime import datetime\nprint(datetime(2024, 3, 1).weekday())"]),
    ("date", ["rows = open('data/flights_2024-03-15.csv').read()"]),
    (
        "date",
        [
            "rows = [r for r in range(9)]\nprint(rows)",
            "cutoff = '2024-01-31'\nlate = [r for r in rows if str(r) > cutoff]",
        ],
    ),
    ("date", ["days = [d for d in [] if d > '31.12.2023']"]),
    ("network", ["from urllib.request import urlopen\nurlopen(address())\ndef address(): return 1"]),
    ("network", ["from sklearn.datasets import fetch_california_housing\nfetch_california_housing()"]),
    ("network", ["import requests as rq\nrq.get('http://example.org')"]),
    ("shell", ["import subprocess as sp\nsp.run(['ls'])"]),
    ("shell", ["%%bash\nls"]),
    ("interactive", ["from getpass import getpass\ngetpass()"]),
    ("interactive", ["from ipywidgets import interact\n@interact\ndef show(x=3): print(x)"]),
    ("interactive", ["import ipywidgets as W\nW.interact(print, x=3)"]),
    ("interactive", ["%matplotlib widget"]),
    ("unseeded", ["import random\nrandom.seed(1)\nimport numpy as np\nnp.random.rand(2)"]),
    ("unseeded", ["import numpy as np\nx = np.random.rand(2)", "np.random.seed(1)"]),
    ("unseeded", ["from random import choice as pick\npick([1, 2])"]),
    ("unseeded", ["import numpy as np\nrng = np.random.default_rng()"]),
    (
        "unseeded",
        ["from sklearn.ensemble import RandomForestClassifier\nmodel = RandomForestClassifier(n_estimators=3)"],
    ),
    ("unseeded", ["df = {}\npart = df.sample(10)"]),
    ("personal_data", ["df = {}\ndf[['first_name', 'ssn']]"]),
    ("order", ["print(total)", "total = 3"]),
    ("undefined", ["print(total)"]),
    ("syntax", ["x = (1,"]),
]


@pytest.mark.parametrize("kind,sources", MORE, ids=[f"{k}-{s[-1][:24]!r}" for k, s in MORE])
def test_faults_in_other_words(kind, sources):
    assert kind in {k for _, k in kinds(*sources)}


def test_what_was_run_out_of_order_is_named_by_the_fewest_cells():
    assert kinds("a = 1", "b = 2", "c = 3", "d = 4", counts=[1, 9, 3, 4]) == [(1, "stale")]
    assert kinds("a = 1", "b = 2", "c = 3", "d = 4", counts=[1, 5, 12, 40]) == [], "gaps are ordinary work"
    assert kinds("a = 1", "b = 2", "c = 3", counts=[1, None, 3]) == [(1, "stale")]
    assert kinds("a = 1", "b = 2", counts=[None, None]) == [], "never run is not stale"


def test_personal_data_and_errors_in_outputs():
    book = nb("print(x)\nx = 1", "table", "1/0", "raise ValueError", tags={3: ["raises-exception"]})
    book["cells"][0]["outputs"] = [printed("ann@example.org, 3 rows")]
    html = "<table><thead><tr><th>ssn</th><th>n</th></tr></thead><tbody><tr><th>0</th></tr></tbody></table>"
    book["cells"][1]["outputs"] = [
        {"output_type": "execute_result", "data": {"text/html": [html], "text/plain": "ssn n"}}
    ]
    for n in (2, 3):
        book["cells"][n]["outputs"] = [{"output_type": "error", "ename": "E", "evalue": "bad", "traceback": []}]
    found = [(f.cell, f.kind) for f in faults.find(book)[0] if f.kind in ("personal_data", "failed")]
    assert found == [(0, "personal_data"), (1, "personal_data"), (2, "failed")]
    assert "ann@" not in str(faults.find(book)[0])


def test_packages_are_compared_with_requirements(project, cli):
    book = saved("a.ipynb", nb("import msgspec, numpy, duckdb\nprint(1)"))
    assert cli("job", "check", book).exit == 0, "nothing is declared, so nothing is compared"
    import duckdb
    import numpy

    Path("requirements.txt").write_text(f"msgspec>=0.1\nnumpy==1.0\nduckdb=={duckdb.__version__}\n", encoding="utf-8")
    a = cli("job", "check", book, "--json")
    said = {f["message"] for f in a.json["findings"]}
    assert {f["kind"] for f in a.json["findings"]} == {"unpinned_package"} and len(said) == 2, said
    assert any("numpy==1.0" in m and numpy.__version__ in m for m in said) and any(
        "msgspec without a version" in m for m in said
    )
    Path("uv.lock").write_text("", encoding="utf-8")
    assert cli("job", "check", book).exit == 0, "a lock file fixes all"


# Twenty honest notebooks of different styles.
CLEAN = {
    "exploration": [
        "%matplotlib inline\nimport pandas as pd\nimport matplotlib.pyplot as plt",
        "df = pd.DataFrame({'month': [1, 2, 3], 'delay': [4., 5., 9.]})",
        "df.head()",
        "df.describe()",
        "df.plot.bar(x='month', y='delay')\nplt.title('Delay by month')\nplt.show()",
        "late = df[df['delay'] > 4.5]\nlate.shape",
    ],
    "training": [
        (
            "import numpy as np\nfrom sklearn.datasets import load_iris\n"
            "from sklearn.linear_model import LogisticRegression\n"
            "from sklearn.model_selection import train_test_split, cross_val_score, KFold"
        ),
        "X, y = load_iris(return_X_y=True)\nX_train, X_test, y_train, y_test = train_test_split(X, y, test_size=.3, random_state=0)",
        "model = LogisticRegression(max_iter=500).fit(X_train, y_train)\nmodel.score(X_test, y_test)",
        "cross_val_score(model, X, y, cv=KFold(5)).mean()",
    ],
    "simulation": [
        "import numpy as np\nrng = np.random.default_rng(42)",
        "walk = rng.normal(size=1000).cumsum()\nwalk.max(), walk.min()",
        "samples = rng.choice(walk, size=10)\nrng.shuffle(samples)\nprint(samples.mean().round(2))",
    ],
    "recursion": [
        "def fib(n): return n if n < 2 else fib(n-1)+fib(n-2)",
        "[fib(i) for i in range(10)]",
        "from functools import lru_cache\nfast = lru_cache(fib)\nassert fast(20) == fib(20)",
    ],
    "classes": [
        (
            "from dataclasses import dataclass, field\n\n@dataclass\nclass Flight:\n    carrier: str\n"
            "    delay: float = 0.\n    tags: list = field(default_factory=list)\n    @property\n"
            "    def late(self): return self.delay > 15"
        ),
        "f = Flight('UA', 20)\nf.late",
        "class Fleet(list):\n    size = 3\n    def mean(self): return sum(x.delay for x in self)/len(self)\nFleet([f]).mean()",
    ],
    "optional import": [
        "try:\n    import no_such_accelerator as acc\nexcept ImportError:\n    acc = None",
        "print('slow' if acc is None else 'fast')",
    ],
    "files": [
        "from pathlib import Path\nimport json\nout = Path('out')\nout.mkdir(exist_ok=True)",
        "with open(out/'a.json', 'w') as f: json.dump({'rows': 3}, f)",
        "json.loads((out/'a.json').read_text())",
        "Path('data')/'raw'/'flights.csv'",
    ],
    "parameters": [
        "%%mlops params\nsince = '2013-01-01'\nuntil = '2013-12-31'\nlimit = 100",
        "import datetime as dt\ndays = (dt.date.fromisoformat(until)-dt.date.fromisoformat(since)).days\ndays",
        "for i in range(min(limit, 3)): print(i)",
    ],
    "constants on top": [
        "from datetime import date, timedelta",
        "START = date(2013, 1, 1)\nEND = '2013-06-30'\nRATE = 1e-3",
        "def days(n): return [START+timedelta(d) for d in range(n)]",
        "print(days(3), END, RATE)",
    ],
    "database": [
        "import sqlite3\ndb = sqlite3.connect(':memory:')",
        (
            "db.execute('create table flights(carrier text, delay real)')\n"
            "db.executemany('insert into flights values (?, ?)', [('UA', 3.), ('AA', 9.)])"
        ),
        "rows = db.execute('select carrier, avg(delay) from flights group by 1').fetchall()\nrows",
    ],
    "environment": [
        "import os\nroot = os.environ.get('DATA_ROOT', '.')\ntoken = os.environ.get('API_TOKEN')",
        "path = os.path.join(root, 'data', 'x.csv')\nos.path.exists(path)",
    ],
    "text": [
        "import re, collections\ntext = 'the quick brown fox jumps over the lazy dog, the end'",
        "words = re.findall(r'[a-z]+', text.lower())\ncollections.Counter(words).most_common(3)",
        "tokenizer = {'pad_token': '[PAD]', 'sep_token': 'sep_token'}\nprint(tokenizer['pad_token'])",
    ],
    "pipelines": [
        (
            "import pandas as pd\nfrom sklearn.pipeline import make_pipeline\n"
            "from sklearn.preprocessing import StandardScaler\n"
            "from sklearn.ensemble import RandomForestClassifier"
        ),
        "seed = 7\nclf = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=10, random_state=seed))",
        (
            "df = pd.DataFrame({'a': range(20), 'b': [n % 2 for n in range(20)]})\n"
            "clf.fit(df[['a']], df['b'])\ndf.sample(5, random_state=seed)"
        ),
        "import joblib\njoblib.dump(clf, 'model.joblib')",
    ],
    "timing": [
        "%load_ext autoreload\n%autoreload 2",
        "%%time\ntotal = sum(range(1000))",
        "import time\nt0 = time.perf_counter()\nprint(total)\nprint(f'{time.perf_counter()-t0:.1f} s')",
        "%timeit sum(range(10))",
    ],
    "mlops": [
        "%load_ext mlops_nb",
        "train = %mlops data get flights",
        "%%mlops run delay\nscore = len(str(train))",
        "%mlops cost show",
    ],
    "async": [
        "import asyncio\n\nasync def fetch(n):\n    await asyncio.sleep(0)\n    return n*n",
        "results = await asyncio.gather(*(fetch(n) for n in range(4)))\nresults",
    ],
    "functional": [
        "from itertools import groupby, chain\nfrom operator import itemgetter",
        "rows = [('UA', 1), ('AA', 2), ('UA', 3)]\ngrouped = {k: [v for _, v in g] for k, g in groupby(sorted(rows), key=itemgetter(0))}",
        "*head, last = chain.from_iterable(grouped.values())\nprint(head, last)\n_",
        "if (n := len(head)) > 1: print(f'{n:,} rows')",
    ],
    "web routes": [
        "routes = {'/api/v1/flights': 'list', '/data/items': 'items', '/home': 'index'}",
        "def handle(path): return routes.get(path, 'missing')",
        "print(handle('/data/items'))",
    ],
    "polling loop": [
        "import random\nrandom.seed(0)\nattempts = 0",
        "while True:\n    attempts += 1\n    if random.random() > .5: break\nprint(attempts)",
        "del attempts\nsquares = (x*x for x in range(5))\nsum(squares)",
    ],
    "reporting": [
        "import pandas as pd\nfrom IPython.display import display, HTML",
        "df = pd.DataFrame({'email': ['a', 'b', 'a'], 'n': [1, 2, 3]})\nprint(df['email'].nunique())",
        "summary = df.groupby('email').size().rename('visits')\nprint(summary.sum())",
        "display(HTML('<b>done</b>'))",
    ],
}


def test_twenty_clean_notebooks_are_clean(project):
    found = {
        name: [(f.cell, f.kind, f.message) for f in got]
        for name, sources in CLEAN.items()
        if (got := faults.find(nb(*sources, counts=list(range(1, len(sources) + 1))), project.root)[0])
    }
    assert len(CLEAN) == 20 and found == {}


def steps_of(call, *args):
    "How many Python functions a call enters: a measure of work that no other process disturbs"
    entered = 0

    def count(frame, event, arg):
        nonlocal entered
        entered += event == "call"

    sys.setprofile(count)
    try:
        call(*args)
    finally:
        sys.setprofile(None)
    return entered


def test_checking_is_linear_in_the_number_of_cells():
    def book(size):
        return nb(*[f"x{n} = {n}\ny{n} = [x{n} for _ in range(x{n})]\nprint(y{n})" for n in range(size)])

    faults.find(book(3))
    small, big = steps_of(faults.find, book(200)), steps_of(faults.find, book(800))
    assert big < 4.4 * small, (small, big)
    assert small < 200 * 2_500, "two seconds for 200 cells are about ten million entered functions"


def test_a_copy_is_mended_and_the_notebook_is_not(project, cli):
    Path("data").mkdir()
    Path("data/flights.csv").write_text("a\n1\n", encoding="utf-8")
    sources = [
        "import numpy as np, pandas as pd\n%pip install lightgbm\n%matplotlib widget",
        f"df = pd.read_csv({str(project.root / 'data/flights.csv')!r})",
        "late = [d for d in days() if d > '2013-06-30']",
        "def days():\n    return ['2014-01-01x']",
        "noise = np.random.rand(3)\nrng = np.random.default_rng()\npart = df.sample(1)\nclient = dict(password='hunter2-x9')",
        "if late:\n    !pip install x\nprint(df.shape, part.shape, noise.shape)",
    ]
    book = nb(*sources)
    book["cells"][5]["outputs"] = [printed("ann@example.org")]
    path = saved("a.ipynb", book)
    before = path.read_bytes()
    a = cli("job", "check", path, "--fix", "--dry-run", "--json")
    assert (
        "d > day" in a.json["diff"]
        and "hunter2" not in a.out
        and not a.json["copy"]
        and sorted(p.name for p in Path().glob("*.ipynb")) == ["a.ipynb"]
    )
    a = cli("job", "check", path, "--fix", "--json")
    assert a.exit == 0 and a.json["findings"] == [] and a.json["copy"] == "a.fixed.ipynb", a
    assert path.read_bytes() == before, "undoing a repair is deleting the copy"
    made = json.loads(Path("a.fixed.ipynb").read_text(encoding="utf-8"))
    texts = ["".join(c["source"]) for c in made["cells"]]
    for words in (
        "# %pip install lightgbm",
        "%matplotlib inline",
        "pd.read_csv('data/flights.csv')",
        "day = '2013-06-30'",
        "d > day",
    ):
        assert any(words in t for t in texts), words
    for words in (
        "np.random.seed(0)",
        "default_rng(0)",
        "df.sample(1, random_state=0)",
        "os.environ['PASSWORD']",
        "    pass # !pip",
    ):
        assert any(words in t for t in texts), words
    assert [n for n, t in enumerate(texts) if "def days" in t][0] < [
        n for n, t in enumerate(texts) if "days() if" in t
    ][0]
    assert "hunter2" not in json.dumps(made) and "ann@" not in json.dumps(made) and "mlops" not in str(made["cells"])
    assert cli("job", "check", path, "--fix").exit == 0, "a mended copy may be made again"
    Path("b.ipynb").write_text(json.dumps(nb("x = 1")), encoding="utf-8")
    a = cli("job", "check", path, "--fix", "--out", "b.ipynb")
    assert a.exit == 2 and "is no mended copy" in a.err, "nothing else is written over"
    assert cli("job", "check", path, "--fix", "--out", "a.ipynb").exit == 2 and path.read_bytes() == before


def test_what_needs_a_decision_is_left(project, cli):
    saved("a.ipynb", nb("name = input()", "!ls", "print(gone)"))
    a = cli("job", "check", "a.ipynb", "--fix", "--json")
    assert a.exit == 1 and {f["kind"] for f in a.json["findings"]} == {"interactive", "shell", "undefined"}
    assert not Path("a.fixed.ipynb").exists() and a.json["fixed"] == []


def test_every_repair_is_in_the_diff():
    book = nb("import random\nx = random.random()", "y = x")
    made, did = repairs.repair(book, faults.find(book)[0])
    text = notebook_diff.diff(book, made)
    assert (
        did == ["cell 0: seed given"]
        and "@@ new cell @@\n+import random\n+random.seed(0)" in text
        and "cell 1" not in text
    )


def test_a_fresh_kernel_tells_what_changed(project, cli):
    sources = [
        "n = 3\nprint('rows', n)",
        "import os\nos.getcwd().rsplit('/', 1)[-1]",
        "print(object())",
        "later = 5",
        "print(later, hidden)",
    ]
    book = nb(*sources, counts=[1, 2, 3, 4, 5])
    for cell, text in zip(book["cells"], ("rows 4\n", None, "<object object at 0x7f2a3b4c5d60>\n", None, "5 6\n")):
        cell["outputs"] = [printed(text)] if text else []
    book["cells"][1]["outputs"] = [
        {"output_type": "execute_result", "execution_count": 2, "metadata": {}, "data": {"text/plain": "'deep'"}}
    ]
    Path("deep").mkdir()
    path = saved("deep/a.ipynb", book)
    before = path.read_bytes()
    a = cli("job", "check", path, "--fresh", "--json")
    got = [(f["cell"], f["kind"]) for f in a.json["findings"]]
    assert got == [(0, "changed"), (4, "undefined"), (4, "failed")], a.json["findings"]
    assert "'rows 4' then, 'rows 3' now" in a.json["findings"][0]["message"] and path.read_bytes() == before


def test_what_differs_in_every_run_is_no_difference():
    a = {"output_type": "stream", "name": "stdout", "text": "CPU times: user 3 ms\nWall time: 5 ms\nrows 3\n"}
    b = {**a, "text": "CPU times: user 9 ms\nWall time: 1 ms\nrows 3\n"}
    bar = {"output_type": "stream", "name": "stderr", "text": "50%|     | 1/2 [00:01]"}
    cell = {"cell_type": "code", "metadata": {}, "execution_count": 1}
    assert (
        list(fresh_kernel.compare({"cells": [{**cell, "outputs": [a]}]}, {"cells": [{**cell, "outputs": [b, bar]}]}))
        == []
    )


def test_the_panel_links_escapes_and_stays_small(project, cli):
    from mlops_nb import job

    sources = [f"print(gone_{n})\nopen('/home/<b>bob</b>/{n}.csv')" for n in range(300)]
    checked = job.check(saved("a b.ipynb", nb(*sources)))
    html = checked.panel().html()
    assert 'href="a%20b.ipynb#cell-id=c0"' in html and "<b>bob" not in html and len(html.encode()) < LIMIT
    text = str(checked)
    assert (
        "-> bind `gone_0`, or import it" in text and text.splitlines()[-1] == "next: mlops job check 'a b.ipynb' --fix"
    )
    assert len(checked.findings) == 600


def test_every_kind_of_finding_is_planted_somewhere():
    "The list beside `NotebookFinding.kind` is the list of what these tests plant"
    import inspect
    import re

    from mlops_nb.job import facts

    said = re.findall(
        r"\w+", re.search(r"(?m)((?:^ +#.+\n)+) +kind: str\n", inspect.getsource(facts.NotebookFinding))[1]
    )
    elsewhere = {
        "failed",
        "unpinned_package",
        "changed",
        "parameter",
    }  # outputs, requirements, a fresh kernel and parameters: tests of their own
    planted = {kind for kind, *_ in PLANTED if kind} | {kind for kind, _ in MORE}
    assert set(said) == planted | elsewhere and len(said) == len(set(said))


def test_a_notebook_without_outputs_is_run_and_there_is_nothing_to_compare(project, cli):
    path = saved("stripped.ipynb", nb("n = 3\nprint('rows', n)", "n", counts=[1, 2]))
    a = cli("job", "check", path, "--fresh", "--json")
    assert a.exit == 0 and a.json["findings"] == [] and a.json["fresh"] and not a.json["compared"], a
    said = cli("job", "check", path, "--fresh")
    assert "there is nothing to compare them with" in said.out and "WARNING" not in said.err, (
        "the kernel listens on no port"
    )


def test_a_broken_cell_keeps_a_fresh_kernel_from_starting(project, cli):
    path = saved("broken.ipynb", nb("open('ran', 'w').close()", "x = = 1"))
    a = cli("job", "check", path, "--fresh", "--json")
    assert a.exit == 1 and not a.json["fresh"] and not Path("ran").exists()
    assert [(f["cell"], f["kind"]) for f in a.json["findings"]] == [(1, "syntax")]
    assert "until then no fresh kernel runs it" in a.json["findings"][0]["fix"]
