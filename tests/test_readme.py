"""README.md is written from nbs/index.ipynb, and says only verbs that exist."""

import re
import shlex
from pathlib import Path

from mlops_nb.core import verb_index

ROOT = Path(__file__).resolve().parents[1]


def test_in_sync():
    from nbconvert import MarkdownExporter

    text, _ = MarkdownExporter().from_filename(str(ROOT / "nbs" / "index.ipynb"))
    assert (ROOT / "README.md").read_text(encoding="utf-8").strip() == text.strip(), "run: make readme"


def test_verbs_exist():
    index = verb_index.load()
    areas = {p.split(".")[0] for p in index}
    pillars = {p.name for p in (ROOT / "mlops_nb").iterdir() if (p / "verbs.py").exists()}
    said = re.findall(r"%{0,2}mlops ((?:[a-z]+)(?: [a-z]+)?[^`\n]*)", (ROOT / "README.md").read_text(encoding="utf-8"))
    for line in said:
        words = shlex.split(line.split("`")[0], comments=True)
        if words[0] in areas | pillars:
            path = ".".join(words[:2])
            assert path in index or words[0] in index, f"README says `mlops {line}`"
    assert len(said) > 10


def test_links_into_the_repository():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"/blob/main/([\w./-]+)", text):
        assert (ROOT / path).exists() or path == "bench/RESULTS.md", path
