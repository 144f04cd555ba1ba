"""Definitions in git: whatever a text holds, what is written can be read again."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import BadInput
from mlops_nb.feature import definition
from mlops_nb.feature.facts import Definition, Feature, Window

HOSTILE = [
    "\x00",
    "a\x7fb",
    "".join(map(chr, range(32))) + "z",
    "\x80\x85\x9f",
    'say "x"',
    "it's",
    '"""',
    "'''",
    "C:\\new\\u0041",
    "ends with \\",
    "a\nb",
    "a\r\nb\rc",
    "a\tb",
    "a\u2028b\u2029c",
    "\ufeffbom",
    "\ufffe\uffff",
    "rain \N{CLOUD WITH RAIN}\ufe0f \N{GRINNING FACE} in Zürich",
    "# no comment",
    "[table]",
    "a = 1",
    "a.b",
    "",
    " ",
]


def filled(text: str) -> Definition:
    "A definition with the text in every field that holds one"
    return Definition(
        name="w",
        entity=[text, "k"],
        time=text,
        created=text,
        ttl=text,
        source=text,
        body=f"SELECT '{text}'",
        id=text,
        windows=[Window(name=text, aggregate=text, column=text, over=text, filter=text)],
        needs=[text],
        request=[Feature(text, text)],
        tests=[text, "x > 0"],
        features=[Feature(text, text), Feature("x", "double")],
        description=text,
        owner=text,
        purpose=text,
        tags={text: text, "team": "ops"},
    )


def read_again(project, given: Definition) -> Definition:
    "What a definition is in its files, with the ends of lines of its query as they were"
    definition.save(project, given)
    found = definition.find(project, given.name)
    assert definition.digest(found) == definition.digest(given)
    assert definition.save(project, given) is False, "the same again is no new version"
    assert found.body == given.body.replace("\r\n", "\n").replace("\r", "\n").strip()
    found.body = given.body
    return found


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_any_text_in_any_field_is_read_again(project, text):
    given_ = filled(text)
    given_.entity = given_.entity or ["k"]
    given_.time = text or "t"
    assert read_again(project, given_) == given_


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(text=st.text(min_size=1, max_size=20))
def test_whatever_text_comes(project, text):
    given_ = filled(text)
    assert read_again(project, given_) == given_


@pytest.mark.parametrize("field", ["description", "time", "body", "tests", "tags", "features", "windows"])
def test_half_a_surrogate_pair_is_refused_and_nothing_is_written(project, field):
    given_ = filled("x")
    setattr(given_, field, getattr(filled("a\udcff"), field))
    with pytest.raises(BadInput, match=rf"view `w`: {field} holds '\\udcff'") as error:
        definition.save(project, given_)
    assert "\n" not in str(error.value)
    assert not list((project.root / "features").glob("w.*"))


def test_the_command_line(project, cli, tmp_path):
    import pandas as pd

    source = tmp_path / "rows.csv"
    pd.DataFrame({"k": ["a"], "t": ["2013-07-01 12:00"], "x": [1.0]}).to_csv(source, index=False)
    sql = "SELECT k, t::TIMESTAMP AS t, x FROM source"
    add = ("--entity", "k", "--time", "t", "--source", source, "--sql", sql)
    said = cli("feature", "add", "w", *add, "--description", "a\x7fb", "--tag", "cost-centre=\x01", "--json")
    assert said.exit == 0, said.err
    shown = cli("feature", "show", "w", "--json")
    assert (shown.exit, shown.json["description"], shown.json["tags"]) == (0, "a\x7fb", {"cost-centre": "\x01"})
    refused = cli("feature", "add", "v", *add, "--description", "a\udcff")
    assert (refused.exit, refused.err.count("\n")) == (2, 1) and "no character" in refused.err
    assert not (project.root / "features/v.toml").exists()


def test_ordinary_definitions_look_as_they_always_did(project):
    definition.save(
        project,
        Definition(
            name="w",
            entity=["carrier", "origin"],
            time="at",
            ttl="6h",
            source="flights",
            body="SELECT carrier, origin, at,\n  delay\nFROM source\n",
            windows=[Window(name="mean_1h", aggregate="mean", column="delay", over="1h", filter='origin = "JFK"')],
            tests=["delay > -60", 'origin <> "é"'],
            features=[Feature("mean_1h", "double"), Feature("delay", "double")],
            tags={"team": "ops", "cost-centre": "9"},
        ),
    )
    assert (project.root / "features/w.sql").read_text() == "SELECT carrier, origin, at,\n  delay\nFROM source\n"
    assert (project.root / "features/w.toml").read_text() == LOOK


LOOK = """name = "w"
version = 1
entity = ["carrier","origin"]
time = "at"
ttl = "6h"
source = "flights"
tests = ["delay > -60","origin <> \\"é\\""]

[tags]
team = "ops"
"cost-centre" = "9"

[[windows]]
name = "mean_1h"
aggregate = "mean"
column = "delay"
over = "1h"
filter = "origin = \\"JFK\\""

[[features]]
name = "mean_1h"
type = "double"

[[features]]
name = "delay"
type = "double"
"""
