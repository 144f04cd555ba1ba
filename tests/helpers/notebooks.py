"""What the notebooks say: their prose and lessons, without the definitions that are exported."""

import functools
import json
import re
from pathlib import Path

from helpers.places import ROOT

EXPORTED = re.compile(r"^#\|\s*(export|exporti|exports|hide)\b", re.M)


def files() -> list[Path]:
    "The notebooks of nbs/"
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def cells(path: Path) -> list[dict]:
    "The cells of a notebook's file"
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def shown(cell: dict) -> str:
    "Tables that a lesson draws as Markdown"
    return "\n".join(
        "".join(o["data"]["text/markdown"]) for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})
    )


@functools.cache
def taught() -> str:
    "Prose and lessons of all notebooks with the tables they show, and the decisions"
    kept = [
        c for f in files() for c in cells(f) if not (c["cell_type"] == "code" and EXPORTED.search("".join(c["source"])))
    ]
    text = ["".join(c["source"]) + "\n" + shown(c) for c in kept]
    return "\n".join([*text, *(q.read_text(encoding="utf-8") for q in (ROOT / "nbs").rglob("*.qmd"))])
