"""This checkout against another one: `python -m bench.against ../before`, or some parts of it: `... ../before online job`.

Both run on the same interpreter and the same libraries. They take turns of fractions of a second, so that what the machine does
beside them falls on both; a ratio is the median over all pairs of turns, with its 95 % interval. Above 1 this checkout needs more."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import job, online
from bench.harness import ROOT, at_home, spent
from bench.join import files as join_files

ANSWER = """
import json, sys, time
print(json.dumps(list(turns)), flush=True)
for line in sys.stdin:
    began = time.process_time()
    turns[line.strip()]()
    print(json.dumps(time.process_time() - began), flush=True)
"""
ONLINE = """
import datetime as dt, random, sys
from mlops_nb import feature
from mlops_nb.core import project
folder, files = sys.argv[1], sys.argv[2].split(',')
p = project.create(folder)
feature_of = 'SELECT k, t, f0 AS a{0}, f1 AS b{0}, f2 AS c{0}, f3 AS d{0} FROM source'
with project.use(p):
    for i, file in enumerate(files):
        feature.add(f'v{i}', entity=['k'], time='t', ttl='30d', source=file, sql=feature_of.format(i))
    feature.materialize()
reader = feature.Reader(p, 'v0,v1,v2')
us = int(dt.datetime(2026, 4, 1, tzinfo=dt.timezone.utc).timestamp() * 1e6)
order = random.Random(0).sample(range(20_000), 20_000)
hundreds = iter([order[i : i + 100] for i in range(10_000, 20_000, 100)] * 100)
ones = iter(order[:10_000] * 100)
def read(keys): reader.columnar([{'k': k} for k in keys], us)
def again(keys, times):
    for _ in range(times): read(keys)
def materialize():
    with project.use(p): feature.materialize(full=True)
turns = {
    'one known entity, 1,000 times': lambda: again(order[:1], 1000),
    'one new entity, 50 times': lambda: [read([next(ones)]) for _ in range(50)],
    'known entities, 100 a time, 100 times': lambda: again(order[:100], 100),
    'new entities, 100 a time, 10 times': lambda: [read(next(hundreds)) for _ in range(10)],
    'materialize 60,000 rows': materialize,
}
"""
JOIN = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
from mlops_nb.feature import asof
asked, view = pq.read_table(sys.argv[2]), pq.read_table(sys.argv[3])
def join():
    found = asof.match(*asof.question(asked, view, ['k'], 't', 't'), ttl_s=30 * 86400)
    places = pa.array(found.rows, mask=found.rows < 0)
    return [view[c].take(places) for c in view.column_names[2:]]
turns = {'join of 100,000 and 100,000 rows': join}
"""
PREDICT = """
import logging, sys, warnings
import numpy as np, pandas as pd
warnings.simplefilter('ignore')
logging.disable(logging.WARNING)
from sklearn.ensemble import GradientBoostingClassifier
from mlops_nb import model
from mlops_nb.core import project
rng = np.random.default_rng(0)
frame = pd.DataFrame(rng.normal(size=(5000, 30)), columns=[f'x{k}' for k in range(30)])
trees = GradientBoostingClassifier(n_estimators=100, max_depth=3).fit(frame, frame.x0 + frame.x1 * frame.x2 > 0)
with project.use(project.create(sys.argv[1])):
    model.log(trees, 'trees', example=frame, wait=True)
    ours = model.load('trees@1')
one, many = frame.iloc[:1].reset_index(drop=True), frame.iloc[:1000].reset_index(drop=True)
arrays = one.to_numpy(), many.to_numpy()
turns = {
    '1 row of a frame, 100 times': lambda: [ours(one) for _ in range(100)],
    '1 row of an array, 100 times': lambda: [ours(arrays[0]) for _ in range(100)],
    '1,000 rows of a frame, 5 times': lambda: [ours(many) for _ in range(5)],
    '1,000 rows of an array, 5 times': lambda: [ours(arrays[1]) for _ in range(5)],
}
"""
LEDGER = """
import sys
from pathlib import Path
from mlops_nb.core import ledger
log = ledger.Ledger(Path(sys.argv[1]) / 'ledger.db')
if hasattr(ledger, 'New'):  # as 0.1 wrote it
    entries = [ledger.New('run.completed', 'delay', {'run': str(k)}) for k in range(100)]
else:
    from mlops_nb.model.events import RunCompleted
    entries = [ledger.new(RunCompleted(run=str(k)), 'delay') for k in range(100)]
turns = {'100 entries a batch, 10 times': lambda: [log.append_many(entries) for _ in range(10)]}
"""
TALKS = {"online": ONLINE, "join": JOIN, "predict": PREDICT, "ledger": LEDGER}
COMMANDS = {"import mlops_nb": ["-c", "import mlops_nb"], "mlops --help": ["--help"], "mlops status": ["status"]}
PARTS = (*TALKS, "commands", "job")
Turn = Callable[[], float]  # -> processor seconds


def interval(ratios: list[float]) -> tuple[float, float, float]:
    "Median, and the 95 % interval of it by order statistics"
    ordered, n = sorted(ratios), len(ratios)
    far = min(n // 2 - 1, round(0.98 * n**0.5)) if n > 1 else 0
    return ordered[n // 2], ordered[max(0, n // 2 - far - 1)], ordered[min(n - 1, n // 2 + far)]


def compare(name: str, ours: Turn, other: Turn, rounds: int) -> str:
    "One line of the answer"
    ratios, seen = [], ([], [])
    for turn in range(rounds + 1):
        sides = ((0, ours), (1, other)) if turn % 2 else ((1, other), (0, ours))
        took = {place: call() for place, call in sides}
        if turn:  # the first one warms files and caches
            ratios.append(took[0] / took[1])
            seen[0].append(took[0])
            seen[1].append(took[1])
    middle, low, high = interval(ratios)
    us, them = (sorted(times)[rounds // 2] * 1000 for times in seen)
    return f"{name:<40} {middle:5.2f} [{low:.2f}, {high:.2f}]  {us:9.2f} ms against {them:9.2f} ms"


class Side:
    "A checkout as its users have it: an environment, and a home of its own"

    def __init__(self, tree: Path, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.mlops, _ = job.installed(folder / "env", tree)
        self.env = {**at_home(folder), "MLOPS_RUNTIME_DIR": f"{folder}/run"}
        self.env.pop("PYTHONPATH")

    @contextmanager
    def talk(self, code: str, *words: str) -> Iterator[tuple[list[str], Callable[[str], float]]]:
        "A process that takes a turn whenever it is told to, and the names of its turns"
        place = self.folder / "project"
        place.mkdir(exist_ok=True)
        command = [self.mlops[0], "-c", code + ANSWER, str(place), *words]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env, cwd=place
        ) as child:

            def answer() -> Any:
                while line := child.stdout.readline():
                    try:
                        return json.loads(line)
                    except ValueError:
                        continue  # what a library prints
                raise RuntimeError(f"{self.folder.name} ended before it answered")

            def turn(name: str) -> float:
                child.stdin.write(name + "\n")
                child.stdin.flush()
                return answer()

            yield answer(), turn
            child.stdin.close()


def talks(part: str, sides: list[Side], words: list[str], rounds: int) -> Iterator[str]:
    with ExitStack() as stack:
        (names, ours), (_, other) = (stack.enter_context(side.talk(TALKS[part], *words)) for side in sides)
        for name in names:
            few = 15 if name.startswith(("materialize", "join")) else rounds
            yield compare(f"{part}: {name}", lambda name=name: ours(name), lambda name=name: other(name), few)


def commands(sides: list[Side], rounds: int) -> Iterator[str]:
    for side in sides:
        spent([*side.mlops, "init", "."], side.folder, side.env)
    for name, words in COMMANDS.items():
        first = [[side.mlops[0]] if words[0] == "-c" else side.mlops for side in sides]
        turns = [
            lambda side=side, command=[*begin, *words]: spent(command, side.folder, side.env).cpu
            for side, begin in zip(sides, first, strict=True)
        ]
        yield compare(name, *turns, rounds)


def jobs(sides: list[Side], rounds: int) -> Iterator[str]:
    made = {"n1": job.notebook(1), "n50": job.notebook(50), "ml": job.notebook(0, job.ML)}
    try:
        for side in sides:
            spent([*side.mlops, "init", "."], side.folder, side.env)
            for name, notebook in made.items():
                (side.folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
                spent([*side.mlops, "job", "convert", f"{name}.ipynb"], side.folder, side.env)
                for _ in range(3):
                    spent([*side.mlops, "job", "run", name, "-p", "n=2000"], side.folder, side.env)
        for name in made:
            # The system counts a server's forks in hundredths of a second: five runs are one turn
            turns = [
                lambda side=side, command=[*side.mlops, "job", "run", name, "-p", "n=2000"]: (
                    job.spent(command, str(side.folder), side.env, 5).cpu
                )
                for side in sides
            ]
            yield compare(f"job {name}", *turns, rounds)
    finally:
        for side in sides:
            for pid in job.processes(side.env):
                os.kill(int(pid), 15)


def main(words: list[str]) -> int:
    "Exit code: 0, or 2 for words that say nothing"
    wanted = words[1:] or list(PARTS)
    if not words or not Path(words[0], "mlops_nb").is_dir() or set(wanted) - set(PARTS):
        sys.stdout.write(f"{__doc__}\n\nParts: {', '.join(PARTS)}\n")
        return 2
    with tempfile.TemporaryDirectory() as d:
        trees = {"ours": ROOT, "other": Path(words[0]).resolve()}
        sides = [Side(tree, Path(d, name)) for name, tree in trees.items()]
        given = {"online": [",".join(online.files(d, 20_000))], "join": list(join_files(d, 100_000))}
        for part in wanted:
            if part == "commands":
                lines = commands(sides, 40)
            elif part == "job":
                lines = jobs(sides, 15)
            else:
                lines = talks(part, sides, given.get(part, []), 60)
            for line in lines:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
