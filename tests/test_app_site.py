"""The project's site: nothing hostile runs, every link leads somewhere, and it can be read by everybody in light and dark."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mlops_nb.app import pages, site_content
from mlops_nb.core import ledger

HOSTILE = "<script>alert(1)</script>"


class Links(HTMLParser):
    "Targets of links, anchors, and what a page would load or run"

    def __init__(self, text: str):
        super().__init__()
        self.hrefs, self.ids, self.loads, self.scripts = [], set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag == "a" and a.get("href"):
            self.hrefs.append(a["href"])
        if a.get("id"):
            self.ids.add(a["id"])
        if tag in ("img", "link", "iframe", "source", "embed", "object"):
            self.loads.append(a.get("src") or a.get("href") or "")
        self.scripts += tag == "script" or any(k.startswith("on") for k in a)


@pytest.fixture
def told(project):
    "A project whose ledger tells a whole story, with a script in every name"
    log = ledger.of(project)
    gates = [{"expr": f"test.roc_auc >= 0.7 {HOSTILE}", "value": 0.74, "ok": True}]
    story = [
        (
            "dataset.added",
            f"flights{HOSTILE}@1",
            {"rows": 336776, "columns": 19, "bytes": 9_800_000, "purpose": HOSTILE},
        ),
        (
            "feature.added",
            f"delays{HOSTILE}@1",
            {"entity": ["origin"], "time": "arrived", "features": [HOSTILE], "rows": 9},
        ),
        ("feature.joined", "delays@1", {"rows_in": 9, "rows_out": 9, "future_values": 0, "unmatched": {"delays@1": 1}}),
        ("run.started", "delay", {"run": "a" * 32, "experiment": HOSTILE, "bracket": "r1"}),
        (
            "run.completed",
            "delay",
            {"run": "a" * 32, "metrics": {HOSTILE: 0.74}, "usd": 0.01, "kwh": 1e-4, "bracket": "r1"},
        ),
        ("model.registered", f"delay{HOSTILE}@1", {"run": "a" * 32, "metrics": {HOSTILE: 1.0}, "data": "flights@1"}),
        ("model.promoted", f"delay{HOSTILE}@1", {"alias": "champion", "version": 1, "reason": HOSTILE, "gates": gates}),
        ("job.converted", f"score{HOSTILE}", {"source": HOSTILE, "parameters": [HOSTILE]}),
        (
            "monitor.drift_checked",
            HOSTILE,
            {"alarm": True, "drifted": [HOSTILE], "columns": 3, "rows_ref": 9, "rows_cur": 9},
        ),
    ]
    for kind, subject, payload in story:
        log.append(kind, subject, payload, digest="ab" * 32)
    return project


@pytest.fixture
def made(told) -> dict[str, str]:
    return {k: v for k, v in pages.render(site_content.gather(told)).items() if k.endswith(".html")}


def test_nothing_hostile_runs_or_loads(made):
    assert len(made) >= 9 and any(HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in text for text in made.values())
    for path, text in made.items():
        page = Links(text)
        assert page.scripts == 0, path
        assert [x for x in page.loads if "//" in x] == [], f"{path} loads from elsewhere"


def test_every_link_leads_somewhere(made):
    ids = {path: Links(text).ids for path, text in made.items()}
    for path, text in made.items():
        for href in Links(text).hrefs:
            if href.startswith(("http:", "https:", "mailto:")):
                continue
            to, _, anchor = href.partition("#")
            target = (Path("/") / Path(path).parent / to).resolve().relative_to("/").as_posix() if to else path
            assert target in made, f"{path} -> {href}"
            assert not anchor or anchor in ids[target], f"{path} -> {href}"


def test_the_shell_form_writes_serves_and_refuses(told, cli):
    first = cli("site", "build", "--json")
    assert first.exit == 0 and "index.html" in first.json["pages"]
    (told.root / "notes").mkdir()
    (told.root / "notes" / "diary.txt").write_text("mine")
    refused = cli("site", "build", "--out", "notes")
    assert refused.exit == 2 and "no site of ours" in refused.err and (told.root / "notes" / "diary.txt").exists()
    assert cli("site", "build", "--out", "..").exit == 2
    with pages.server(told.root / "site") as server:
        import threading

        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            assert b"<h1>" in urlopen(url + "index.html").read()
            foreign = Request(url + "index.html", headers={"Host": "evil.example"})
            with pytest.raises(OSError, match="421"):
                urlopen(foreign)
            with pytest.raises(OSError, match="404"):
                urlopen(url + ".mlops-site")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(told, cli, scheme):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("chromium is not installed")
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    assert cli("site", "build").exit == 0
    with sync_playwright() as p:
        wait_ms = 300_000  # a busy machine may need more than Playwright's half a minute
        words = ["--no-sandbox", "--disable-dev-shm-usage"]  # a container's /dev/shm is small
        browser = p.chromium.launch(executable_path=chromium, args=words, timeout=wait_ms)
        try:
            page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
            page.set_default_timeout(wait_ms)
            for name in ("index", "features", "models", "ledger", "controls"):
                page.goto((told.root / "site" / f"{name}.html").as_uri())
                found = Axe().run(page).response["violations"]
                assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found] == [], f"{name}, {scheme}"
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{name} scrolls sideways on a telephone"
        finally:
            browser.close()


def test_the_words_on_the_pages_hold_no_home(made):
    assert not any(re.search(r"/(root|home|Users)/", text) for text in made.values())
