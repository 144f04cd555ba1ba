"""The shop that tests share works where it was copied to, and nothing in the copy leads back."""

from helpers.shop import INPUTS, sales

from mlops_nb import feature, model


def test_a_copied_shop_is_whole(shop, shop_template, cli):
    before = {p: p.stat().st_mtime_ns for p in shop_template.rglob("*")}
    assert [d["name"] for d in cli("data", "list", "--json").json["datasets"]] == ["sales"]
    joined = feature.join("spending", entities=sales()[["customer", "sold"]]).frame
    assert joined.amount.tolist() == sales().amount.tolist()
    answers = model.load("loyal@1").predict(sales()[INPUTS])
    assert set(answers) == {"yes", "no"} and (answers == sales().loyal).mean() > 0.9
    assert cli("job", "run", "report", "-p", "days=4", "--json").json["parameters"] == {"days": 4}
    assert cli("data", "add", "sales.parquet", "again", "--json").exit == 0
    wrong = [c for c in cli("doctor", "--json").json["checks"] if not c["ok"]]
    assert [c["name"] for c in wrong] == ["key"], "no key was adopted: a test that needs one does so"
    assert {p: p.stat().st_mtime_ns for p in shop_template.rglob("*")} == before
