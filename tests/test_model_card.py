"""Model cards: from the record, measured by group, in people's reviewed words, with every gap shown."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from helpers.shop import own_project
from sklearn.linear_model import LogisticRegression, Ridge

from mlops_nb.core import ledger
from mlops_nb.core import project as projects
from mlops_nb.model import card_text, group_metrics, scoring
from mlops_nb.model.events import ModelApproved

MANDATORY = [
    "owner",
    "intended_use",
    "out_of_scope",
    "limits",
    "data",
    "performance",
    "groups",
    "fairness",
    "explanation",
    "energy",
    "approvals",
]
PERSONS = "\n".join(f'{k} = "words about {k}"' for k in card_text.PERSON) + "\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "One project with one registered model for this file: registering is what costs"
    from mlops_nb.model.verbs import log

    with own_project(tmp_path_factory.mktemp("shop")) as made:
        rng = np.random.default_rng(0)
        x = pd.DataFrame(
            {"income": rng.normal(40, 10, 500).astype("float32"), "debt": rng.gamma(2, 5, 500).astype("float32")}
        )
        paid = np.where(x.income - x.debt + rng.normal(0, 8, 500) > 28, "yes", "no")
        log(LogisticRegression(max_iter=500).fit(x, paid), "loan", example=x, wait=True)
        region = np.array(["<b>north</b>"] * 300 + ["south"] * 188 + ["islands"] * 12, object)
        x.assign(paid=paid, region=region).to_parquet("rows.parquet")
        log(Ridge().fit(x, x.income * 2), "line", example=x, wait=True)
        return made


@pytest.fixture
def loans(shop, monkeypatch):
    "The rows of the registered model; its project is the working directory"
    monkeypatch.chdir(shop.root)
    (shop.root / "models/loan/card.toml").unlink(missing_ok=True)


def commit(root):
    for args in (["init", "-q"], ["add", "-A"], ["commit", "--allow-empty", "-qm", "Review the card"]):
        subprocess.run(["git", *args], cwd=root, check=True, capture_output=True)


def test_a_bare_version_has_gaps_and_each_says_what_to_type(loans, cli):
    got = cli("model", "card", "loan@1", "--json")
    assert got.exit == 0
    assert set(got.json["gaps"]) == set(MANDATORY)
    assert all(got.json["fields"][k]["gap"] for k in MANDATORY)
    assert got.json["fields"]["version"]["facts"]["name"] == "loan@1"
    assert f"{len(MANDATORY)} GAPS" in cli("model", "card", "loan@1").out


def test_words_count_when_they_are_committed(loans, shop, cli):
    projects.write_text(shop.root / "models/loan/card.toml", PERSONS)
    draft = cli("model", "card", "loan@1", "--json").json
    assert "commit it" in draft["fields"]["limits"]["gap"]
    commit(shop.root)
    card = cli("model", "card", "loan@1", "--json").json
    assert card["fields"]["limits"]["text"] == "words about limits"
    assert "commit" in card["fields"]["limits"]["source"]
    assert not {"owner", "intended_use", "out_of_scope", "limits"} & set(card["gaps"])
    projects.write_text(shop.root / "models/loan/card.toml", PERSONS + "# changed\n")
    assert "commit it" in cli("model", "card", "loan@1", "--json").json["fields"]["limits"]["gap"]


def test_measured_by_group_explained_and_approved(loans, shop, cli):
    projects.write_text(
        shop.root / "models/loan/card.toml",
        PERSONS + '[measure]\ndata = "rows.parquet"\ntarget = "paid"\nby = ["region"]\n',
    )
    commit(shop.root)
    assert cli("model", "explain", "loan@1", "--data", "rows.parquet", "--rows", 1, "--summary", 20).exit == 0
    ledger.record(shop, ModelApproved(version=1, text="read and understood"), subject="loan@1")
    card = cli("model", "card", "loan@1", "--json").json
    assert card["gaps"] == ["data", "energy"]
    groups = {r["group"]: r for r in card["fields"]["groups"]["rows"]}
    assert {g: r["rows"] for g, r in groups.items()} == {"<b>north</b>": 300, "south": 188, "islands": 12}
    rows = pd.read_parquet("rows.parquet")
    south = rows[rows.region == "south"]
    from mlops_nb.model.verbs import load

    said = load("loan@1").predict(south[["income", "debt"]])
    assert groups["south"]["score"] == pytest.approx((said == south.paid).mean())
    assert groups["south"]["fnr"]["value"] == pytest.approx((said[south.paid == "yes"] == "no").mean())
    assert groups["south"]["low"] < groups["south"]["score"] < groups["south"]["high"]
    assert all(r["left_out"] == ["islands"] for r in card["fields"]["fairness"]["rows"])
    assert card["fields"]["explanation"]["rows"][0]["input"] in ("income", "debt")
    assert card["fields"]["approvals"]["rows"][0]["word"] == "read and understood"
    written = list(ledger.of(shop).events("model.card_written"))[-1]
    assert (written.subject, written.payload.gaps) == ("loan@1", ["data", "energy"])


def test_markdown_html_and_json_say_the_same_and_escape(loans, shop, cli):
    for name in ("card.md", "card.html", "card.json"):
        got = cli(
            "model", "card", "loan@1", "--data", "rows.parquet", "--target", "paid", "--by", "region", "--out", name
        )
        assert got.exit == 0, got.err
    texts = {n: (shop.root / n).read_text(encoding="utf-8") for n in ("card.md", "card.html", "card.json")}
    assert all("islands" in t for t in texts.values())
    assert "<b>north" not in texts["card.html"]
    assert "<b>north" not in texts["card.md"]
    assert json.loads(texts["card.json"])["fields"]["groups"]["rows"][0]["group"] == "<b>north</b>"
    assert len(texts["card.html"]) < 50_000


def test_bad_input_is_one_line(loans, shop, cli):
    for words, said in (
        (["loan@2"], "no version '2'"),
        (["loan@1", "--data", "rows.parquet"], "--target COLUMN"),
        (["loan@1", "--data", "rows.parquet", "--target", "payd"], "did you mean `paid`"),
        (["loan@1", "--out", "card.docx"], ".md, .html or .json"),
    ):
        got = cli("model", "card", *words)
        assert (got.exit, said in got.err, len(got.err.strip().splitlines())) == (2, True, 1), got.err
    for toml, said in (
        ("intended_us = 'x'", "did you mean `intended_use`"),
        ("owner = 3", "card.toml"),
        ("owner = ", "not valid TOML"),
    ):
        projects.write_text(shop.root / "models/loan/card.toml", toml)
        got = cli("model", "card", "loan@1")
        assert (got.exit, said in got.err) == (2, True), got.err


def test_groups_of_numbers_gaps_and_values():
    rng = np.random.default_rng(0)
    age = rng.uniform(18, 80, 400)
    age[:3] = np.nan
    groups = group_metrics.groups_of(age)
    assert len(set(groups)) == 5
    assert (groups == "missing").sum() == 3
    many = group_metrics.groups_of(np.array([f"g{i % 40}" for i in range(400)], object))
    assert "others" in set(many)
    y = rng.normal(size=400)
    a = scoring.Answers(kind="values", label=y, score=y + rng.normal(0, 0.1, 400), classes=[])
    rows = group_metrics.by_group(a, y, groups)
    assert {r["metric"] for r in rows} == {"rmse"}
    assert all(r["low"] <= r["score"] <= r["high"] for r in rows if r["rows"] > 30)
    assert [g["measure"] for g in group_metrics.gaps(rows)] == ["rmse"]
    assert group_metrics.gaps([r for r in rows if r["rows"] < 30]) == []


def test_a_model_of_values(loans, shop, cli):
    rows = pd.read_parquet("rows.parquet")
    rows.assign(y=rows.income * 2 + np.random.default_rng(0).normal(0, 0.1, 500)).to_parquet("line.parquet")
    card = cli("model", "card", "line@1", "--data", "line.parquet", "--target", "y", "--by", "region", "--json").json
    assert set(card["fields"]["performance"]["facts"]) >= {"r2", "rmse"}
    assert {r["metric"] for r in card["fields"]["groups"]["rows"]} == {"rmse"}
