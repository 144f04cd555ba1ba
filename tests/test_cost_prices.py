"""Prices: the arithmetic against a calculation by hand, settings, a project's own sheet, and prices that are missing."""

import pytest
from mlops_nb import cost
from mlops_nb.core import project as projects
from mlops_nb.core.errors import BadInput
from mlops_nb.core.resources import resource
from mlops_nb.cost import price_book

HEAD = "provider,region,instance_type,on_demand_usd_per_h,as_of,source\n"


def use(p, **settings):
    for k, v in settings.items():
        p.pin("cost", k, v)


def test_electricity_of_an_own_machine(project):
    use(project, electricity_usd_per_kwh=0.25, pue=1.5)
    # 0.08 kWh at the plug, half as much again for the room, a quarter dollar each
    assert cost.price(cost.Usage(seconds=7200, kwh=0.08), project) == pytest.approx(0.08 * 1.5 * 0.25)


def test_hours_of_a_rented_machine(project):
    use(project, provider="aws", region="us-east-1", instance="c7i.xlarge")
    # 0.1785 USD an hour, 20 minutes
    assert cost.price(cost.Usage(seconds=1200, kwh=9), project) == pytest.approx(0.1785 / 3)
    assert cost.prices().used.as_of == "2026" and cost.prices().used.source
    use(project, usd_per_h=12.0)
    assert cost.price(cost.Usage(seconds=1), project) == pytest.approx(12 / 3600)


def test_the_environment_overrides(project, monkeypatch):
    monkeypatch.setenv("MLOPS_COST_USD_PER_H", "3.6")
    assert cost.price(cost.Usage(seconds=10), project) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"provider": "awz"}, "did you mean `aws`"),
        ({"provider": "aws", "region": "us-east-1", "instance": "m7i.xlrge"}, "did you mean `m7i.xlarge`"),
        ({"provider": "aws", "instance": "g5.xlarge"}, "set [cost] region to one of us-east-1, eu-west-1"),
        ({"provider": "aws"}, "set [cost] instance"),
    ],
)
def test_a_missing_price_is_said_and_never_zero(project, cli, settings, says):
    use(project, **settings)
    assert cost.price(cost.Usage(seconds=3600, kwh=1), project) is None
    used, why = cost.machine(project)
    assert used is None and says in why
    a = cli("cost", "prices", "--json")
    assert a.exit == 0 and a.json["used"] is None and says in a.json["why"]
    assert "NO PRICE" in cli("cost", "prices").out


def test_a_project_sheet_replaces_lines(project):
    (project.root / "prices.csv").write_text(
        HEAD + "aws,us-east-1,m7i.xlarge,0.15,2026-11-01,our contract\nhomelab,,box,0.02,2026-11-01,meter\n"
    )
    book = {(p.provider, p.region, p.instance): p for p in cost.prices().prices}
    assert (
        book["aws", "us-east-1", "m7i.xlarge"].usd == 0.15
        and book["aws", "us-east-1", "m7i.xlarge"].source == "our contract"
    )
    assert book["aws", "us-east-1", "m7i.large"].usd == 0.1008
    use(project, provider="homelab", instance="box")
    assert cost.price(cost.Usage(seconds=3600), project) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "no column `provider`"),
        ("provider,region\naws,x\n", "no column `instance_type`"),
        (HEAD + "aws,us-east-1,m7i.large,-1,2026,x\n", "line 2: price '-1'"),
        (HEAD + "aws,us-east-1,m7i.large,0,2026,x\n", "no amount above 0"),
        (HEAD + "aws,us-east-1,m7i.large,nan,2026,x\n", "'nan'"),
        (HEAD + "aws,us-east-1,m7i.large,one dollar,2026,x\n", "'one dollar'"),
        (HEAD + "aws,us-east-1\n", "instance_type is empty"),
        (HEAD + ",us-east-1,m7i.large,1,2026,x\n", "provider or instance_type is empty"),
        (HEAD + "aws,us-east-1,m7i.large,.1", "line 2 does not have a value for each column"),
        (HEAD + "aws,us-east-1,m7i.large,.1785,2026,x", "ends in the middle of a line"),
        (HEAD + "aws,us-east-1,m7i.large,.1785,2026,x,more\n", "line 2 does not have a value for each column"),
        (HEAD + "aws,us-east-1,m7i.large,1_0,2026,x\n", "'1_0'"),
    ],
)
def test_a_broken_sheet_names_line_and_value(project, cli, text, says):
    (project.root / "prices.csv").write_text(text)
    a = cli("cost", "prices", "--json")
    assert a.exit == 2 and says in a.json["error"]["message"] and "prices.csv" in a.json["error"]["message"]


@pytest.mark.parametrize("cut", [-1, -3, -15, -20, -60])
def test_a_torn_sheet_is_no_smaller_price(project, cli, cut):
    "The last good sheet stays in force, and that is told; without one there is no price, and work goes on"
    whole = HEAD + "homelab,,box,0.1785,2026-11-01,meter\n"
    use(project, provider="homelab", instance="box")
    (project.root / "prices.csv").write_text(whole[:cut])
    with pytest.warns(UserWarning, match=r"prices\.csv"):
        assert cost.price(cost.Usage(seconds=3600), project) is None
    (project.root / "prices.csv").write_text(whole)
    assert cost.price(cost.Usage(seconds=3600), project) == pytest.approx(0.1785)
    (project.root / "prices.csv").write_text(whole[:cut])
    with pytest.warns(UserWarning, match="last good sheet stays in force"):
        assert cost.price(cost.Usage(seconds=3600), project) == pytest.approx(0.1785)
    assert cli("cost", "prices").exit == 2 and cli("cost", "show").exit == 0
    (project.root / "prices.csv").unlink()
    assert cost.price(cost.Usage(seconds=3600), project) is None, "a sheet that was taken away is no longer in force"


def test_a_sheet_that_windows_wrote(project):
    text = HEAD + "homelab,,box,0.02,2026-11-01,meter\n"
    (project.root / "prices.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    use(project, provider="homelab", instance="box")
    assert cost.price(cost.Usage(seconds=3600), project) == pytest.approx(0.02)


def test_a_sheet_that_is_no_text(project, cli):
    (project.root / "prices.csv").write_bytes(b"\xff\xfe\x00")
    assert cli("cost", "prices").exit == 2


def test_every_price_of_the_package_has_unit_date_and_source():
    book = price_book.book()
    assert len(book) == len(resource("prices.csv").splitlines()) - 1 == 40
    assert all(
        p.usd > 0 and p.unit == "h" and p.as_of and p.source and p.confidence in ("high", "medium", "low") for p in book
    )
    assert all(p.spot_usd is None or 0 < p.spot_usd < p.usd for p in book)


def test_a_negative_rate_in_settings(project):
    use(project, usd_per_h=-1.0)
    with pytest.raises(BadInput, match="usd_per_h"):
        cost.machine(project)


def test_provider_filter(project, cli):
    a = cli("cost", "prices", "--provider", "gcp", "--json")
    assert {p["provider"] for p in a.json["prices"]} == {"gcp"}
    assert cli("cost", "prices", "--provider", "moon").exit == 2


def test_two_projects_two_prices(home, tmp_path):
    a, b = projects.create(tmp_path / "a"), projects.create(tmp_path / "b")
    use(a, usd_per_h=1.0)
    use(b, usd_per_h=2.0)
    work = cost.Usage(seconds=3600)
    assert (cost.price(work, a), cost.price(work, b)) == (1.0, 2.0)
