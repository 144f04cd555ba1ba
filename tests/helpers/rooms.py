"""Which tests look at a room: what `make try NB=core/ledger` runs.

As a script: takes rooms and writes what pytest is to run, one a line."""

import re
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def topic(file: Path) -> str:
    "`online` of tests/test_feature_online.py"
    return file.stem.split("_", 2)[2]


def tests_of(room: str) -> list[Path]:
    "Tests of `feature/online_store`: files with a topic that begins its name, or that its name begins, as test_feature_online.py"
    pillar, _, inside = room.partition("/")
    names = {inside.replace("/", "_"), room.rpartition("/")[2]}
    files = sorted(TESTS.glob(f"test_{pillar}_*.py"))
    return [f for f in files if any(topic(f).startswith(name) or name.startswith(topic(f)) for name in names)]


def lesson_of(room: str) -> str:
    "How pytest calls the lessons of a notebook"
    return f"tests/test_lessons.py::test_lesson[nbs/{room}.ipynb]"


def main(rooms: list[str]) -> int:
    "Exit code"
    if not rooms:
        print("say which notebook: NB=core/ledger", file=sys.stderr)
        return 2
    for word in rooms:
        room = re.sub(r"^nbs/|\.ipynb$", "", word)
        if not (TESTS.parent / f"nbs/{room}.ipynb").is_file():
            print(f"there is no notebook nbs/{room}.ipynb; write NB=core/ledger", file=sys.stderr)
            return 2
        print(lesson_of(room), *[f"tests/{file.name}" for file in tests_of(room)], sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
