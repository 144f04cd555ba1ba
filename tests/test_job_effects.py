"""What conversion leaves out has no effect: generated notebooks end as they end under papermill, or the cell stays."""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import traceback
from pathlib import Path

import pytest
from helpers.counts import FULL, count
from helpers.job_runs import nb

from mlops_nb import job as jobs
from mlops_nb.job.conversion import job_notebook
from mlops_nb.job.notebook import notebook_ast

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

BEFORE = """
import collections, json, logging, os, pathlib, random, shutil, sys
import numpy as np, pandas as pd, matplotlib.pyplot as plt
from sklearn.linear_model import SGDClassifier
random.seed(1); np.random.seed(1)
rng = np.random.default_rng(1)
X = np.arange(20.0).reshape(10, 2)
y = [0, 1]*5
clf = SGDClassifier(random_state=0, max_iter=1, tol=None).fit(X, y)
rows = [3, 1, 2]
bag = {'a': 1}
gaps = collections.defaultdict(list)
it = iter(range(100))
lines = (n for n in range(100))
df = pd.DataFrame({'a': [1, 2, 3], 'b': [4, 5, 6]})
styled = df.style
calls = [0]
logging.basicConfig(filename='log.txt', level=logging.INFO, force=True)
names = ['u', 'v']
fig, ax = plt.subplots()
def bump(*_):
    calls[0] += 1
    return 1
def steps():
    for n in range(50):
        calls[0] += 1
        yield n
walk = steps()
class Tracker:
    seen = 0
    def head(self, n=1):
        self.seen += 1
        return 1
    @property
    def columns(self):
        self.seen += 1
        return [1]
    def __len__(self):
        self.seen += 1
        return 1
tracker = Tracker()
"""

AFTER = """
state = [rows, bag, sorted(gaps), calls, tracker.seen, df.to_dict(), clf.coef_.round(6).tolist(), np.random.rand(),
         random.random(), float(rng.normal()), next(it, 0), next(lines, 0), next(walk, 0), os.environ.get('MARK'), 'x' in sys.path,
         sorted(n for n in globals() if n in ('walrus', 'bound', 'seen_by_globals')), float(np.get_printoptions()['precision']),
         plt.rcParams['figure.dpi'], styled.caption, sorted(os.listdir('.')), ax.get_title(), os.getcwd() == os.environ['START']]
open('state.json', 'w').write(json.dumps(state, default=str))
"""

EFFECTS = [  # Expressions that do something, each worth a number or a list
    "len(rows.append(1) or rows)",
    "rows.pop()",
    "rows.sort() or 1",
    "bag.setdefault('k', 2)",
    "bag.update(z=1) or 1",
    "len(gaps['new'])",
    "clf.partial_fit(X, y).score(X, y)",
    "np.random.rand()",
    "random.random()",
    "rng.normal()",
    "float(df.sample(1).a.iloc[0])",
    "next(it)",
    "sum(lines)",
    "max(itertools_list) if (itertools_list := list(it)) else 0",
    "len(list(walk))",
    "(walrus := 5)",
    "bump()",
    "max(map(bump, rows))",
    "df.a.map(bump).sum()",
    "sorted(rows, key=bump)[0]",
    "df.insert(0, 'c', 1) or 1",
    "(df.pop('b') if 'b' in df else df.a).sum()",
    "df.sort_values('a', ascending=False, inplace=True) or 1",
    "tracker.head()",
    "len(tracker)",
    "tracker.columns[0]",
    "open('made.txt', 'a').write('x')",
    "pathlib.Path('touched').touch() or 1",
    "os.makedirs('folder', exist_ok=True) or 1",
    "len(shutil.copy('log.txt', 'copy.txt'))",
    "logging.info('said') or 1",
    "len(os.environ.setdefault('MARK', '1'))",
    "sys.path.append('x') or 1",
    "globals().update(seen_by_globals=1) or 1",
    "setattr(tracker, 'seen', 40) or 1",
    "np.set_printoptions(precision=3) or 1",
    "(df.to_string('frame.txt') or 1)",
    "np.random.shuffle(rows) or 1",
    "len(styled.set_caption('c').columns)",
    "len(ax.set_title('t').get_text())",
    "[rows.append(n) for n in range(2)] and 1",
    "exec('bound = 1') or 1",
]

PLACES = [  # Cells that look as if they only showed something
    "{e}",
    "plt.plot([{e}])",
    "plt.title('%s' % ({e}))",
    "plt.figure(); plt.plot(rows); plt.axhline(y={e}); plt.show()",
    "for _ in range(2):\n    plt.plot([{e}])",
    "if {e}:\n    plt.plot(rows)",
    "with plt.style.context('ggplot'):\n    plt.bar([0], [{e}])",
    "pd.Series([{e}]).plot()",
    "df.head({e} and 2)",
    "df.rename(columns={{'a': str({e})}}).describe()",
    "sorted([2, 1], key=lambda v: {e})",
    "df.a.apply(lambda v: {e}).plot()",
    "[{e} for _ in range(2)]",
    "help({e})",
    "%time {e}",
    "len([{e}])",
    "df.plot(title=str({e}))",
    "str({e}), rows",
]

MAGICS = [
    "for n in names:\n    !echo {n} > out_$n.txt",
    "if names:\n    !echo x > out.txt",
    "with plt.style.context('ggplot'):\n    !echo x > out.txt",
    "try:\n    !echo x > out.txt\nexcept OSError: pass",
    "for n in names:\n    plt.plot(rows)\n    !echo x >> out.txt",
    "while not os.path.exists('out.txt'):\n    !echo x > out.txt",
    "for n in names:\n    %cd ..",
    "if names:\n    %env MARK=9",
    "plt.plot(rows)\n!echo x > out.txt",
    "%ls > out.txt",
    "!pip install --help > out.txt",
    "%precision 2",
    "%timeit -n 2 -r 1 rows.append(1)",
    "%%timeit -n 2 -r 1\nrows.append(1)",
    "if names:\n    %timeit -n 2 -r 1 bump()",
    "ax.set_title('later')",
    "plt.rcParams['figure.dpi'] = 33",
    "for bound in rows:\n    plt.plot([bound])",
    "for ax in [ax]:\n    ax.set_title('loop')",
    "df.a.hist(); tracker.seen = 7",
    "plt.plot(*walk)",
    "plt.hist(lines)",
    "for v in it: plt.axvline(v)",
    "5 in it",
    "f'{bump()}'",
    "{bump(): 1}, rows",
    "rows[bump()]",
    "rows[0] if bump() else 2",
    "not bump()",
    "plt.savefig('a.png')",
]

SHAPES = [place.format(e=e) for e, place in itertools.product(EFFECTS, PLACES)] + MAGICS
assert len(SHAPES) >= 200


def carried_out(sources: list[str], folder: Path, out) -> None:
    "Run cells in a shell of their own, in a fork: the state they leave, and their files"
    try:
        os.chdir(folder)
        os.environ["START"] = str(folder)
        os.environ["MPLBACKEND"] = "agg"
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell.instance()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for source in sources:
                if shell.run_cell(source, store_history=True).error_in_exec:
                    break
        os.chdir(folder)
        out.send({p.name: p.read_text(encoding="utf-8") for p in Path().rglob("*") if p.suffix in (".json", ".txt")})
    except BaseException:  # Told to the test
        out.send(traceback.format_exc())
    finally:
        os._exit(0)


def left(sources: list[str], folder: Path):
    "What cells leave in a folder of their own"
    folder.mkdir()
    here, there = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if not pid:
        carried_out(sources, folder, there)
    there.close()
    found = here.recv()
    os.waitpid(pid, 0)
    return found


def converted(sources: list[str]) -> tuple[list[str], list[int]]:
    made = job_notebook.convert(notebook_ast.check_format(nb(*sources)))
    return [c["source"] for c in made.notebook["cells"] if c["cell_type"] == "code"], [
        d.cell for d in made.job.dropped_cells
    ]


def goes(*sources: str) -> bool:
    "Is the second cell left out?"
    kept, dropped = job_notebook.drop(notebook_ast.cells_of(notebook_ast.check_format(nb(*sources))))
    return 1 in [d.cell for d in dropped]


@pytest.fixture(scope="module")
def loaded():
    "What the forks need, imported once"
    import IPython.core.interactiveshell  # noqa: F401
    import matplotlib
    import pandas
    import sklearn.linear_model  # noqa: F401

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    pandas.Series([1]).plot()
    plt.close("all")


PICKED = SHAPES if FULL else [*SHAPES[::17], *MAGICS[::2]]
GROUPS = [PICKED[n::4] for n in range(4)]


@pytest.mark.parametrize("group", range(4))
def test_what_is_left_out_has_no_effect(tmp_path, loaded, group):
    wrong = []
    for number, shape in enumerate(GROUPS[group]):
        sources = [BEFORE, shape, AFTER]
        if not goes(*sources):
            continue
        plain = left(sources, tmp_path / f"plain-{number}")
        if plain != left(converted(sources)[0], tmp_path / f"job-{number}"):
            wrong.append(shape)
    assert wrong == []


HARMLESS = [  # They are left out; a rule that keeps everything proves nothing
    "df.head()",
    "df.groupby('a').b.mean().plot(kind='bar')",
    "plt.plot(rows, label='x')\nplt.legend(); plt.show()",
    "for c in df.columns:\n    plt.hist(df[c])\n    plt.title(c)",
    "df.describe().T",
    "fig2, axes = plt.subplots(2)\nfor a, c in zip(axes.flat, df.columns):\n    a.hist(df[c], bins=3)",
    "len(rows), sorted(rows)",
    "df[df.a > 1].b.value_counts().head(3)",
    "plt.scatter(df['a'], np.sqrt(df['b']), c=[v**2 for v in rows])",
    "%timeit sorted(rows)",
    "df.style.background_gradient()",
    "help(len)",
]


@pytest.mark.parametrize("source", HARMLESS)
def test_what_only_a_reader_needs_still_goes(source):
    before = BEFORE.partition("class Tracker")[0]
    assert goes(before, source, "open('n', 'w').write(str(df.a.sum()))")


def test_each_shape_of_an_effect_stays():
    "Every generated cell does something"
    assert [shape for shape in PICKED if goes(BEFORE, shape, AFTER)] == []


@pytest.mark.parametrize(
    "shape", [SHAPES[n] for n in range(0, len(SHAPES), len(SHAPES) // count(1, 12))][: count(1, 12)]
)
def test_a_job_ends_as_papermill_ends(project, tmp_path, monkeypatch, shape):
    import papermill

    monkeypatch.setenv("START", str(tmp_path))
    plain = tmp_path / "plain"
    plain.mkdir()
    before = BEFORE + "\nos.environ['START'] = os.getcwd()"
    (plain / "n.ipynb").write_text(json.dumps(nb(before, shape, AFTER)), encoding="utf-8")
    Path("n.ipynb").write_bytes((plain / "n.ipynb").read_bytes())
    papermill.execute_notebook(plain / "n.ipynb", None, cwd=str(plain), progress_bar=False)
    jobs.convert(Path("n.ipynb"))
    assert jobs.run("n").ok

    def state(folder):
        *rest, files, title, _ = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return rest, sorted(set(files) & {"made.txt", "touched", "folder", "copy.txt", "out.txt"}), title

    assert state(plain) == state(project.root)


CHARTS = ["import matplotlib.pyplot as plt\nxs = [1, 2]", "plt.plot(xs)", "len(xs)", "print(xs)"]


def test_charts_stay_where_they_are_the_product(project, cli):
    assert converted(CHARTS)[1] == [], "nothing else is written"
    written = [*CHARTS, "open('a', 'w').write(str(xs))"]
    assert converted(written)[1] == [1, 2]
    Path("n.ipynb").write_text(json.dumps(nb(*written)), encoding="utf-8")
    reasons = cli("job", "convert", "n.ipynb", "--json").json["dropped_cells"]
    assert [r["reason"].partition(":")[0] for r in reasons] == ["plot", "display"] and all(r["source"] for r in reasons)
    assert cli("job", "convert", "n.ipynb", "--keep-displays", "--json").json["dropped_cells"] == []
    Path("n.ipynb").write_text(json.dumps(nb(*written, tags={1: ["keep"]})), encoding="utf-8")
    assert [d["cell"] for d in cli("job", "convert", "n.ipynb", "--json").json["dropped_cells"]] == [2]


@pytest.mark.parametrize(
    "sources, dropped",
    [
        (["fig, ax = plt.subplots()", "ax.plot([1])", "fig.savefig('a.png')"], []),
        (["plt.style.use('ggplot')", "plt.plot([1])", "x = 1", "plt.savefig('b.png')"], [2]),
        (["n = 4", "n * 2", "open('a', 'w').write(str(_))"], []),
        (["import pandas as pd\ndf = pd.DataFrame({'a': [1]})", "a = df.plot()", "df.query('a > 0').to_csv('o')"], []),
        (["rows = [1]", "rows", "open('a', 'w').write(str(rows))"], [2]),
        (["from mine import *", "plot(x)", "open('a', 'w')"], []),
        (["from mine import t", "t.head()", "open('a', 'w')"], []),
    ],
)
def test_what_a_cell_that_stays_needs_comes_back(sources, dropped):
    assert converted(["import matplotlib.pyplot as plt", *sources])[1] == dropped
