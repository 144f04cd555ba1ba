"""Run the benchmarks and write bench/RESULTS.md: `make bench`, or `python -m bench.run ledger join` for some of them.

Each writes bench/results/NAME.md with its table, machine and date; RESULTS.md joins what lies there. `--join` only joins."""

import importlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import harness

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
INTRO = """# Measured

Each table comes from one run in which both sides took turns on the same machine; figures are medians. Trust the ratio of processor time:
wall clock and single figures are also the neighbours'. A ratio above 1 says that the peer needs more. `make bench` measures everything
again; `python -m bench.run NAME` measures one table.
"""


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("run", "harness", "against", "__init__"))


def measure(name: str) -> None:
    "Run one benchmark and keep its table"
    module = importlib.import_module(f"bench.{name}")
    title = (module.__doc__ or name).strip().split("\n")[0].rstrip(".")
    began = time.perf_counter()
    rows = module.main()
    took, day = time.perf_counter() - began, datetime.now(UTC).date()
    text = f"## {name}\n\n{title}.\n\n{harness.markdown(rows)}\n{harness.machine()}; {day}, {took:.0f} s.\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text + "\n")


def join() -> None:
    "Write RESULTS.md from the tables"
    parts = [p.read_text(encoding="utf-8").strip() for p in sorted(RESULTS.glob("*.md"))]
    (HERE / "RESULTS.md").write_text("\n\n".join([INTRO.strip(), *parts]) + "\n", encoding="utf-8")


def main(words: list[str]) -> int:
    "Exit code: 0, or 1 when a benchmark failed; the others still ran"
    if unknown := {w for w in words if w.startswith("-")} - {"--join"}:
        sys.stdout.write(f"{__doc__}\n\nBenchmarks: {', '.join(names())}\n")
        return 0 if unknown == {"--help"} else 2
    wanted, failed = [w for w in words if not w.startswith("-")], []
    if unknown := set(wanted) - set(names()):
        sys.stderr.write(f"no benchmark {sorted(unknown)[0]!r}; there are: {', '.join(names())}\n")
        return 2
    for name in [] if "--join" in words else wanted or names():
        try:
            measure(name)
        except harness.NotHere as e:
            sys.stderr.write(f"bench {name} left out: {e}\n")
        except Exception as e:  # a peer that is not installed must not cost the other tables
            failed.append(name)
            sys.stderr.write(f"bench {name} failed: {type(e).__name__}: {e}\n")
    join()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
