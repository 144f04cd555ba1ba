"""The project's site: nothing hostile runs, every link leads somewhere, and it can be read by everybody in light and dark."""

import json
import re
import shutil
import sqlite3
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mlops_nb.app import pages, site_content
from mlops_nb.core import ledger, pillars
from mlops_nb.core.contributions import Page, Pages

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
        ("job.converted", f"score{HOSTILE}", {"source": HOSTILE, "parameters": {HOSTILE: HOSTILE}}),
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


def text_of(html: str) -> str:
    "Words of a page, without tags; spaces are one each"
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def row(html: str, word: str) -> str:
    "Words of the first row of a table that holds `word`"
    return next(text_of(found) for found in re.findall(r"<tr.*?</tr>", html, re.DOTALL) if word in text_of(found))


@pytest.fixture
def lived(project):
    "A project in which our own verbs did the writing"
    import numpy as np
    import pandas as pd

    from mlops_nb import data, feature, job, monitor

    rng = np.random.default_rng(7)
    hours = pd.date_range("2013-01-01", periods=300, freq="h", tz="UTC")
    winter = pd.DataFrame(
        {"origin": "JFK", "observed": hours, "temp": rng.normal(10, 5, 300), "wind": rng.normal(9, 2, 300)}
    )
    summer = winter.assign(temp=winter.temp + 15)
    data.add(winter, "weather", purpose="delays of flights")
    feature.add(
        "weather_at",
        entity=["origin"],
        time="observed",
        source="weather",
        sql="SELECT origin, observed, temp, wind FROM source",
        test=["temp > -60", "wind < 100"],
    )
    monitor.drift(winter[["temp", "wind"]], summer[["temp", "wind"]].head(200))
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": "print('forty-two')"}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    Path("hello.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    job.convert("hello.ipynb", "hello")
    job.run("hello")
    return project


def built(project) -> dict[str, str]:
    return pages.render(site_content.gather(project))


def test_what_verbs_recorded_is_shown(lived):
    made = built(lived)
    for test in ("temp > -60", "wind < 100"):
        assert row(made["features.html"], test) == f"{test} HOLDS 0"
    assert row(made["features.html"], "weather_at:temp") == "weather_at:temp double"
    told = next(ledger.of(lived).events("monitor.drift_checked")).payload
    assert [(verdict.name, verdict.drifted) for verdict in told.verdicts] == [("temp", True), ("wind", False)]
    drift = made["drift.html"]
    temp, wind = (row(drift, name).split() for name in ("temp", "wind"))
    effects = [verdict.effect for verdict in told.verdicts]
    assert temp == ["temp", "DRIFT", f"{effects[0]:.3f}", "<", "1e-99", "KS"] and effects[0] > 0.5
    assert wind == ["wind", "STABLE", f"{effects[1]:.3f}", "1", "KS"]
    assert "rows compared 300 against 200" in text_of(drift)
    assert row(made["datasets.html"], "temp").startswith("temp ")
    run = next(path for path in made if path.startswith("runs/"))
    assert "forty-two" in made[run] and f'href="{run}"' in made["jobs.html"]
    assert "could not be read" not in "".join(made.values())


def test_entries_of_the_first_version_show_what_they_have(project):
    log = ledger.of(project)
    log.append("feature.added", "old@1", {"features": ["temp"], "tests": ["temp > 0"], "rows": 9})
    told = {"alarm": True, "drifted": ["temp"], "columns": 3, "rows_ref": 9, "rows_cur": 8, "reference": "winter"}
    log.append("monitor.drift_checked", "summer", told)
    made = built(project)
    assert row(made["features.html"], "temp > 0") == "temp > 0 NOT RECORDED -"
    words = text_of(made["drift.html"])
    assert "winter against summer ALARM" in words and "rows compared 9 against 8" in words
    assert "columns that moved temp" in words and "was not recorded" in words


def test_what_cannot_be_read_is_named_and_the_rest_is_there(lived):
    log = ledger.of(lived)
    places = [log.append("dataset.added", f"d{n}@1", {"rows": n}).seq for n in range(4)]
    log.append("dataset.added", "d4@1", {"rows": "many"})
    log.redact(places[0], "a name in it")
    log.close()
    with sqlite3.connect(log.path) as db:
        header = db.execute("SELECT header FROM entry WHERE seq=?", (places[1],)).fetchone()[0]
        db.execute(
            "UPDATE entry SET header=? WHERE seq=?", (header.replace("dataset.added", "garden.planted"), places[1])
        )
        db.execute("UPDATE entry SET header='{' WHERE seq=?", (places[2],))
    db.close()
    made = built(lived)
    first = made["index.html"].partition('id="unread"')[2]
    assert "4 entries could not be read" in text_of(first)
    assert row(first, "redacted").split() == [str(places[0]), "dataset", "added", "redacted"]
    assert "no installed package declares its type" in row(first, "garden planted")
    assert row(first, "the header").startswith(f"{places[2]} unknown the header")
    assert "dataset added" in row(first, "Expected `int")
    datasets = made["datasets.html"]
    assert "2 entries could not be read" in text_of(datasets)  # the others do not say that they are datasets
    assert all(f"<h2>{name}</h2>" in datasets for name in ("weather", "d3")) and "<h2>d0</h2>" not in datasets
    assert "garden planted" in made["ledger.html"] and "NOT READ" in made["ledger.html"]
    assert "HOLDS" in made["features.html"] and "DRIFT" in made["drift.html"] and "hello" in made["jobs.html"]


def test_a_stranger_adds_pages_and_takes_none_down(project, monkeypatch):
    def garden(project):
        return Pages([Page("trees/oak.html", "Oaks", nav="Oaks", body="<p>Three oaks.</p>")])

    def clash(project):
        return Pages([Page("jobs.html", "Not jobs", body="")])

    def broken(project):
        raise KeyError("leaf")

    collect = pillars.collect
    strangers = [("garden", garden), ("clash", clash), ("broken", broken)]
    monkeypatch.setattr(
        pillars, "collect", lambda kind: iter([*collect(kind), *(strangers if kind == "pages" else [])])
    )
    with pytest.warns(UserWarning, match="no pages of"):
        made = built(project)
    assert "<p>Three oaks.</p>" in made["trees/oak.html"] and 'href="../jobs.html"' in made["trees/oak.html"]
    assert 'href="trees/oak.html"' in made["index.html"] and "<h1>Jobs</h1>" in made["jobs.html"]
    words = text_of(made["index.html"])
    assert "clash could not be made: there is a page jobs.html already" in words and "broken could not be made" in words


def test_an_executed_notebook_is_harmless_and_keeps_its_look(tmp_path):
    import pyarrow as pa

    from mlops_nb.data import profile_of
    from mlops_nb.job.notebook.nbconvert_page import notebook_page

    hostile = [
        HOSTILE,
        "<img src=x onerror=alert(1)><svg onload=alert(1)><script>alert(1)</script></svg>",
        "</div></main></body><iframe src='http://a/'></iframe><object data='http://a/'></object>",
        "<a href='java&#10;script:alert(1)'>a</a><a href='data:text/html,x'>b</a><form action='http://a/'><input></form>",
        "<p style='position:fixed;inset:0'>a</p><p style='po\\73ition:fixed'>b</p><p style='background:u\\72l(http://a/)'>c</p>",
        "<style>@import 'http://a/';body{display:none}</style><link rel=stylesheet href='http://a/'><base href='http://a/'>",
        "<svg><style><img src=x onerror=alert(1)></style></svg><math><mtext><img src=x onerror=alert(1)></math>",
        "<title><a id='</title><img src=x onerror=alert(1)>'>",
    ]
    panel = profile_of(pa.table({"temp": [1.0, 2.0, 4.0]}))._repr_mimebundle_()["text/html"]
    table = "<table border='1' class='dataframe'><tr style='text-align: right;'><td colspan='2'>1</td></tr></table>"
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": h}} for h in (*hostile, panel, table)
    ]
    cell = {"cell_type": "code", "metadata": {}, "execution_count": 1, "outputs": outputs, "source": "x = 1"}
    prose = [{"cell_type": "markdown", "metadata": {}, "source": f"# Late?\n\n{text}"} for text in hostile]
    path = tmp_path / "a.ipynb"
    notebook = {"cells": [cell, *prose], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    html = notebook_page(path)
    page = Links(html)
    assert page.scripts == 0 and [src for src in page.loads if src and not src.startswith("data:image/")] == []
    assert page.hrefs == [] and not re.search(r"position|url\(|@import|http://a/(?!&|')", re.sub(r"&[^;]*;", "", html))
    assert 'class="mlops"' in html and '<svg viewBox="0 0' in html and '<h3 id="Late?">' in html
    assert '<tr style="text-align:right">' in html and 'class="dataframe"' in html and 'colspan="2"' in html
