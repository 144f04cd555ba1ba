"""Settings have ranges, and a file that Windows wrote is read; each mistake is one line with its place."""

import pytest

from mlops_nb.core import pillars
from mlops_nb.core import project as projects
from mlops_nb.core.errors import BadInput

WRONG = [
    ("cost", "electricity_usd_per_kwh", "-1000"),
    ("cost", "pue", "-2"),
    ("cost", "pue", "0.5"),
    ("cost", "usd_per_h", "-0.1"),
    ("cost", "usd_per_h", "nan"),
    ("cost", "electricity_usd_per_kwh", "inf"),
    ("monitor", "alpha", "5"),
    ("monitor", "alpha", "0"),
    ("monitor", "alpha", "nan"),
    ("job", "timeout_s", "-1"),
    ("job", "grace_s", "-1.0"),
    ("job", "memory_mb", "-1"),
    ("job", "usd", "-0.01"),
    ("model", "approvals", "-1"),
    ("model", "convert_s", "0"),
    ("services", "log_mb", "0"),
    ("services", "log_keep", "-1"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_a_value_out_of_its_range(project, cli, monkeypatch, wrong):
    table, key, value = wrong
    (project.root / "mlops.toml").write_text(f"[project]\n\n[{table}]\n{key} = {value}\n")
    said = cli("cost", "prices", "--json")
    message = said.json["error"]["message"]
    assert said.exit == 2 and f"mlops.toml line 4: `{table}.{key}`" in message, message
    (project.root / "mlops.toml").write_text("[project]\n")
    monkeypatch.setenv(f"MLOPS_{table}_{key}".upper(), value)
    assert cli("cost", "prices").exit == 2


def test_every_default_is_in_its_range(project):
    for table in pillars.settings():
        assert getattr(project.settings, table) is not None
    text = "[cost]\nusd_per_h = 0\n\n[job]\ntimeout_s = 0\n\n[monitor]\nalpha = 0.001\n\n[services]\nlog_mb = 0.1\n"
    (project.root / "mlops.toml").write_text(text)
    assert project.settings.cost.usd_per_h == 0 and project.settings.services.log_mb == 0.1


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_windows_writes(project, cli, mark):
    raw = mark + b'# ours\r\n[project]\r\nname = "churn" # mine\r\n\r\n[cost]\r\npue = 1.2\r\n'
    (project.root / "mlops.toml").write_bytes(raw)
    assert project.settings.cost.pue == 1.2 and cli("status").exit == 0
    project.pin("cost", "pue", 1.5)
    after = (project.root / "mlops.toml").read_bytes()
    assert after == raw.removeprefix(mark).replace(b"1.2", b"1.5") and project.settings.cost.pue == 1.5


def test_definitions_with_a_byte_order_mark(shop, cli):
    for file in [*shop.root.glob("features/*"), *shop.root.glob("jobs/*/*.toml")]:
        if file.is_file():
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert cli("feature", "show", "spending").exit == 0 and cli("job", "list").exit == 0
    assert cli("job", "show", "report").exit == 0


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[2Jb", "a\x7fb", "a\u202eb", "a\u2028b"])
def test_a_folder_whose_name_would_be_obeyed(home, tmp_path, cli, name):
    said = cli("init", tmp_path / name)
    assert said.exit == 2 and said.err.count("\n") == 1 and not (tmp_path / name).exists()
    assert all(c.isprintable() or c == "\n" for c in said.err)
    assert cli("init", tmp_path / name, "--dry-run").exit == 2
    assert cli("init", tmp_path / "plain", "--name", name).exit == 2
    with pytest.raises(BadInput):
        projects.create(tmp_path / name)
    assert cli("init", tmp_path / "süß und 'schön'").exit == 0
