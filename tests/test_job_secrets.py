"""A secret is given by reference and is in no byte that a run writes, whatever the cells do with it."""

import base64
import http.server
import json
import threading
import urllib.parse
from pathlib import Path

import pytest

from mlops_nb import job as jobs
from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput, Finding, NotFound, ToolFailed
from mlops_nb.core import secret_refs
from helpers.job_runs import made

SECRET = 'pa"ss\\word-ünd/mehr+42'
FORMS = [
    f.encode()
    for f in (
        SECRET,
        repr(SECRET)[1:-1],
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        urllib.parse.quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode().rstrip("="),
        SECRET.encode().hex(),
    )
]
CELLS = [
    "token = 'none'\nkept = 1",
    "headers = {'Authorization': 'Bearer '+token}\nlength = len(token)",
    "import base64, os, sys, urllib.parse\nprint(token)\nprint(repr(token), headers, file=sys.stderr)\n"
    "print(base64.b64encode(token.encode()).decode(), urllib.parse.quote(token, safe=''), "
    "token.encode().hex())\n"
    "print(token[:7], end='', flush=True); print(token[7:])\n_ = os.system('echo \"$DEMO_TOKEN\"')",
    "headers",
    "length",
]


def leaks(*roots: Path) -> list[str]:
    "Files below `roots` that hold the secret in any form"
    return [
        str(f)
        for root in roots
        for f in root.rglob("*")
        if f.is_file() and f.suffix != ".sock" and any(x in f.read_bytes() for x in FORMS)
    ]


def forms(isolated: bool) -> dict:
    return {"isolated": isolated, "params": {"token": "secret:env:DEMO_TOKEN"}}


@pytest.mark.parametrize("isolated", [False, True])
def test_no_byte_holds_the_secret(project, home, monkeypatch, isolated):
    monkeypatch.setenv("DEMO_TOKEN", SECRET)
    made("call", *CELLS)
    r = jobs.run("call", **forms(isolated))
    said = Path(r.output).read_text(encoding="utf-8")
    assert f"{len(SECRET)}" in said and "***" in said, (
        "the cells had the secret, and it was taken out of what they said"
    )
    assert "secret:env:DEMO_TOKEN" in said and r.parameters == {"token": "secret:env:DEMO_TOKEN"}
    made("fails", *CELLS[:2], "raise ValueError(token)")
    with pytest.raises(Finding) as e:
        jobs.run("fails", **forms(isolated))
    assert SECRET not in str(e.value) and "***" in str(e.value)
    list(ledger.of(project).rows())
    ledger.of(project).db.execute("PRAGMA wal_checkpoint(FULL)")
    assert leaks(project.root, home) == []
    assert leaks(project.root / "jobs") == []


def test_what_holds_a_secret_is_not_saved_and_comes_back_on_resume(project, monkeypatch):
    monkeypatch.setenv("DEMO_TOKEN", SECRET)
    made("again", *CELLS[:2], "late = 1/0", "print(length, headers == {'Authorization': 'Bearer '+token})")
    with pytest.raises(Finding) as e:
        jobs.run("again", **forms(False))
    run = e.value.result
    assert any("headers" in x and "holds a secret" in x for x in run.remarks), run.remarks
    path = Path("jobs/again/again.ipynb")
    path.write_text(path.read_text(encoding="utf-8").replace("1/0", "1"), encoding="utf-8")
    r = jobs.run("again", resume=run.run)
    assert f"{len(SECRET)} True" in Path(r.output).read_text(encoding="utf-8")
    assert leaks(project.root) == []


def test_a_missing_secret_stops_before_anything_starts(project, cli, tmp_path):
    made("call", *CELLS[:2])
    for reference, words in (
        ("secret:env:NO_SUCH", "NO_SUCH is not set"),
        ("secret:file:no-such-file", "cannot be read"),
        ("secret:moon:x", "refers to no secret"),
        ("secret:vault:kv/data/x#f", "Vault is not set up"),
    ):
        a = cli("job", "run", "call", "-p", f"token={reference}")
        assert a.exit in (2, 4) and words in a.err and len(a.err.strip().split("\n")) == 1, a
    assert not (project.state / "runs").exists()


class Vault(http.server.BaseHTTPRequestHandler):
    "As HashiCorp's key-value store, version 2, answers"

    def do_GET(self):
        if self.path.startswith("/v1/standby/"):
            there = self.headers["Host"] if self.path.endswith("/active") else "192.0.2.1"
            self.send_response(307)
            self.send_header("Location", f"http://{there}/v1/kv/data/app")
            self.end_headers()
            return
        ok = self.headers["X-Vault-Token"] == "root-token" and self.path == "/v1/kv/data/app"
        body = json.dumps(
            {"data": {"data": {"password": SECRET}, "metadata": {"version": 1}}} if ok else {"errors": []}
        ).encode()
        self.send_response(200 if ok else 403)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        "Quiet"


@pytest.fixture
def vault():
    server = http.server.HTTPServer(("127.0.0.1", 0), Vault)
    t = threading.Thread(target=server.serve_forever)
    t.start()
    yield {"VAULT_ADDR": f"http://127.0.0.1:{server.server_port}", "VAULT_TOKEN": "root-token"}
    server.shutdown()
    t.join()
    server.server_close()


def test_where_secrets_come_from(tmp_path, vault):
    (tmp_path / "s").write_text(SECRET + "\n", encoding="utf-8")
    assert secret_refs.look_up(f"secret:file:{tmp_path / 's'}") == SECRET
    assert secret_refs.look_up("secret:vault:kv/data/app#password", vault) == SECRET
    assert secret_refs.look_up("secret:vault:standby/active#password", vault) == SECRET
    with pytest.raises(ToolFailed, match="sends us on"):
        secret_refs.look_up("secret:vault:standby/elsewhere#password", vault)
    with pytest.raises(NotFound, match="no field nothing"):
        secret_refs.look_up("secret:vault:kv/data/app#nothing", vault)
    with pytest.raises(ToolFailed, match="403"):
        secret_refs.look_up("secret:vault:kv/data/app#password", {**vault, "VAULT_TOKEN": "wrong"})
    for address in (
        "http://example.org",
        "http://127.0.0.1.example.org",
        "http://localhost@example.org",
        "ftp://127.0.0.1",
        "http://[",
    ):
        with pytest.raises(BadInput, match="not an https"):
            secret_refs.look_up("secret:vault:kv/x", {**vault, "VAULT_ADDR": address})
    with pytest.raises(BadInput, match="cannot be told"):
        secret_refs.look_up("secret:env:PIN", {"PIN": "1234"})


@pytest.fixture
def key_ring(home, monkeypatch):
    "keyring's own choice of a backend by environment, with a file as the store: what a server without a desktop uses"
    keyring = pytest.importorskip("keyring")
    pytest.importorskip("keyrings.alt")
    before = keyring.get_keyring()
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    keyring.core.init_backend()
    keyring.set_password("warehouse", "etl", SECRET)
    yield home / "data"
    keyring.set_keyring(before)


def test_secrets_in_a_key_ring(key_ring, monkeypatch):
    import keyring

    assert secret_refs.look_up("secret:keyring:warehouse/etl") == SECRET
    with pytest.raises(NotFound, match="nothing for warehouse/nobody") as e:
        secret_refs.look_up("secret:keyring:warehouse/nobody")
    assert e.value.hint == "store it with: keyring set warehouse nobody"
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    keyring.core.init_backend()
    with pytest.raises(ToolFailed, match="key ring does not answer: NoKeyringError"):
        secret_refs.look_up("secret:keyring:warehouse/etl")


@pytest.mark.parametrize("isolated", [False, True])
def test_a_run_with_a_secret_of_the_key_ring(project, key_ring, isolated):
    made("ring", *CELLS[:2], "print(length, token)")
    r = jobs.run("ring", isolated=isolated, params={"token": "secret:keyring:warehouse/etl"})
    assert f"{len(SECRET)} ***" in Path(r.output).read_text(encoding="utf-8")
    assert leaks(project.root) == [] and list(key_ring.rglob("*.cfg")), "only the ring itself holds it"


def test_an_empty_secret_is_a_parameter_and_one_in_clear_text_is_shown_nowhere(project, cli, monkeypatch):
    monkeypatch.setenv("DEMO_TOKEN", SECRET)
    clear = f"api_key = {SECRET!r}\nuse = len(api_key)"
    made("call", "token = ''", "best = ''", clear, "print(len(token), use)")
    about = cli("job", "show", "call", "--json").json
    assert [(p["name"], p["type"], p["default"]) for p in about["parameters"]] == [("token", "str", "")]
    assert [n["message"] for n in about["remarks"]] == [
        (
            '`api_key` holds a secret and is no parameter: empty it (api_key = ""), convert again, and give '
            "each run a reference: -p api_key=secret:env:NAME"
        )
    ]
    a = cli("job", "run", "call", "-p", "token=secret:env:DEMO_TOKEN")
    assert a.exit == 0 and SECRET not in a.out and "api_key = ***" in a.out
    record = next((project.state / "runs").glob("*/run.json")).read_text(encoding="utf-8")
    assert SECRET not in record
    at = Path("jobs/call/call.ipynb")
    at.write_text(at.read_text(encoding="utf-8").replace("api_key = ", "api_key = = "), encoding="utf-8")
    a = cli("job", "run", "call")
    assert a.exit == 2 and "`api_key = = ***`" in a.err and SECRET not in a.err, a
