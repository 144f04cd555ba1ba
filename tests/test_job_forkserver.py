"""The fork server: who may call it, when it ends, that it is replaced, and that cells do the same in it as in a kernel."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlops_nb import job as jobs
from mlops_nb.core import warm
from mlops_nb.core.errors import Finding
from mlops_nb.job.runs import injection
from helpers.job_runs import SAME, made, nb, texts
from helpers.places import ROOT
from helpers.shell_loads import loaded_by

pytestmark = pytest.mark.skipif(not warm.supported(), reason="needs fork and sockets that say who calls")


@pytest.fixture
def alone(project, tmp_path_factory, monkeypatch):
    "A folder of servers of this test's own"
    place = tmp_path_factory.mktemp("run", numbered=True)
    monkeypatch.setenv("MLOPS_RUNTIME_DIR", str(place))
    place.chmod(0o700)
    yield place
    pids = servers(place)
    warm.stop()
    psutil.wait_procs(pids, timeout=30)


def servers(place: Path) -> list[psutil.Process]:
    "Servers whose sockets are in a folder; their forks have the same command line, and may end while we look"
    found = {}
    for p in psutil.process_iter(["cmdline", "ppid"]):
        line = p.info["cmdline"] or []
        if len(line) > 3 and line[2] == "mlops_nb.job.runs.fork_server" and line[3].startswith(str(place)):
            found[p.pid] = p
    return [p for p in found.values() if p.info["ppid"] not in found]


def with_this_checkout() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(*words, **kw):
    return subprocess.run(
        [sys.executable, "-m", "mlops_nb", *words],
        capture_output=True,
        text=True,
        env=with_this_checkout(),
        **kw,
    )


def test_a_command_that_a_server_carries_out_loads_next_to_nothing(alone, project):
    made("hello", "name = 'x'", "print('hello', name)")
    assert shell("job", "run", "hello").returncode == 0  # starts the server
    loaded = loaded_by("job", "run", "hello", cwd=project.root, env=with_this_checkout())
    assert {name for name in loaded if name.startswith("mlops_nb.")} == {
        "mlops_nb.cli",
        "mlops_nb.core",
        "mlops_nb.core.errors",
        "mlops_nb.core.lazy",
        "mlops_nb.core.warm",
    }
    assert not loaded & {"json", "typing", "collections.abc", "socket", "hashlib", "re", "enum", "pathlib"}


def test_the_second_command_is_carried_out_by_the_server(alone):
    made("hello", "name = 'x'", "import os\nprint('hello', name, os.environ.get('TRACE'), os.getcwd())")
    first = shell("job", "run", "hello", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["form"] == "fork"
    (server,) = servers(alone)
    code = (
        "import sys\nfrom mlops_nb.cli import main\n"
        "sys.argv[1:] = ['job', 'run', 'hello', '-p', 'name=y', '--json']\ncode = main()\n"
        "print(code, 'msgspec' in sys.modules, 'IPython' in sys.modules, file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TRACE": "abc"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stderr.strip().endswith("0 False False"), (
        "the client imported neither the library nor a shell: " + done.stderr
    )
    r = json.loads(done.stdout)
    assert r["parameters"] == {"name": "y"} and f"hello y abc {alone and Path.cwd()}" in texts(r["output"])
    for words, exit_code in (
        (["job", "run", "hello", "-p", "nme=1"], 2),
        (["job", "run", "helo"], 2),
        (["job", "run", "hello", "--dry-run"], 0),
    ):
        a = shell(*words)
        assert a.returncode == exit_code and ("did you mean" in a.stderr) == (exit_code == 2), a
    assert [p.pid for p in servers(alone)] == [server.pid]


def test_it_belongs_to_the_user(alone, monkeypatch):
    made("a", "x = 1")
    jobs.run("a")
    (sock,) = alone.glob("*.sock")
    assert stat.S_IMODE(sock.stat().st_mode) == 0o600 and stat.S_IMODE(alone.stat().st_mode) == 0o700
    with monkeypatch.context() as m:
        m.setattr(os, "getuid", lambda: 4711)
        assert warm.connect(str(sock)) is None, "a server of somebody else is not used"
    alone.chmod(0o755)
    with pytest.raises(PermissionError):
        warm.folder()
    alone.chmod(0o700)
    assert jobs.run("a").ok


def test_a_dead_server_is_replaced(alone):
    made("a", "x = 1", "print(x)")
    jobs.run("a")
    (old,) = servers(alone)
    old.kill()
    old.wait(30)
    assert len(list(alone.glob("*.sock"))) == 1, "its socket is still there"
    assert jobs.run("a").form == "fork"
    (new,) = servers(alone)
    assert new.pid != old.pid


def test_it_ends_when_nobody_needs_it(alone, monkeypatch):
    monkeypatch.setenv("MLOPS_JOB_IDLE_S", "0.2")
    assert warm.start()
    s = warm.connect(warm.address())
    pid = __import__("struct").unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] if s else 0
    if s:
        s.close()
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    psutil.wait_procs(servers(alone), timeout=30)  # it may have stopped listening before we called, and be ending
    assert not servers(alone) and not list(alone.glob("*.sock"))


def test_other_code_means_another_server(alone, tmp_path, monkeypatch):
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(packages))
    made("a", "x = 1")
    jobs.run("a")
    (old,) = servers(alone)
    assert jobs.run("a").form == "fork" and [p.pid for p in servers(alone)] == [old.pid]
    (packages / "new-1.0.dist-info").mkdir()
    os.utime(packages, ns=(1, 1))
    assert jobs.run("a").form == "fork"
    old.wait(30)
    (new,) = servers(alone)
    assert new.pid != old.pid, (
        "something was installed: what is imported in the old one is not what would be imported now"
    )


def test_nonsense_does_not_harm_it(alone):
    env = warm.settled(os.environ)
    assert warm.start((), env)
    path = warm.address((), env)
    for data in (b"", b"\0\0\0\5hello", b"\0\0\0\2{}", b"\0\0\0\x10" + b'{"do": "rm -rf"}'):
        s = warm.connect(path)
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(10) == b""
        s.close()
    made("a", "x = 1")
    assert jobs.run("a").form == "fork" and len(servers(alone)) == 1


def outcomes(path):
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return [injection.outcome({**c, "source": "".join(c["source"])}) for c in cells if c["cell_type"] == "code"]


def test_cells_do_the_same_in_a_fork_and_in_a_kernel(project, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # figures are drawn inline, as they are outside of tests
    made("same", *SAME)
    Path("jobs/same/same.ipynb").write_text(json.dumps(nb(*SAME)), encoding="utf-8")
    a, b = jobs.run("same"), jobs.run("same", isolated=True)
    assert (a.form, b.form) == ("fork", "kernel")
    differ = [
        {k: (x[k], y[k]) for k in x if x[k] != y[k]} | {"cell": x["source"][:60]}
        for x, y in zip(outcomes(a.output), outcomes(b.output), strict=True)
        if x != y
    ]
    assert differ == []
    assert a.digest == b.digest


@pytest.mark.parametrize(
    "bad",
    [
        "1/0",
        "exec('def f(:')",
        "raise SystemExit(3)",
        "import os\nos._exit(3)",
        "%no_such_magic",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_what_goes_wrong_goes_wrong_the_same_way(project, bad):
    made("bad", "x = 1")
    Path("jobs/bad/bad.ipynb").write_text(json.dumps(nb("x = 1", bad, "print('after')")), encoding="utf-8")
    results = []
    for isolated in (False, True):
        with pytest.raises(Finding) as e:
            jobs.run("bad", isolated=isolated)
        results.append(e.value.result)
    a, b = results
    assert a.failed_cell == 1 and a.status == b.status == "failed" and "after" not in texts(a.output)
    if "error" in [
        o["output_type"]
        for c in json.loads(Path(b.output).read_text(encoding="utf-8"))["cells"]
        for o in c.get("outputs", [])
    ]:
        plain = [re.sub(r"\(.*, line", "(line", x.message) for x in results]  # the file of a cell has another name
        assert plain[0] == plain[1]


@pytest.mark.parametrize(
    "cell, why",
    [
        ("import ipywidgets", "ipywidgets"),
        ("from tqdm.notebook import tqdm", "tqdm.notebook"),
        ("get_ipython().kernel", ".kernel"),
    ],
)
def test_what_a_fork_cannot_do_goes_to_a_kernel(project, cell, why):
    made("w", "x = 1")
    Path("jobs/w/w.ipynb").write_text(json.dumps(nb("x = 1", cell)), encoding="utf-8")
    r = jobs.run("w")
    assert r.form == "kernel" and any(why in x for x in r.remarks), r.remarks


def test_twenty_runs_at_once_start_one_server(alone):
    made("many", "k = 1", "print(k*k)")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "mlops_nb", "job", "run", "many", "-p", f"k={k}", "--json"],
            stdout=subprocess.PIPE,
            env=env,
        )
        for k in range(6)
    ]
    said = [json.loads(p.communicate(timeout=300)[0]) for p in runs]
    assert [texts(r["output"]).strip() for r in said] == [str(k * k) for k in range(6)]
    assert len(servers(alone)) == 1


def test_a_caller_that_dies_takes_its_cells_along(alone):
    fifo = alone / "fifo"
    os.mkfifo(fifo)
    made(
        "wait",
        f"fifo = {str(fifo)!r}",
        "import os, threading\nwith open(fifo, 'w') as f: f.write(str(os.getpid()))\nthreading.Event().wait()",
    )
    assert warm.start((), warm.settled(os.environ))
    client = subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "job", "run", "wait"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    with open(fifo, encoding="ascii") as f:
        cells = psutil.Process(int(f.read()))
    client.send_signal(signal.SIGKILL)
    client.wait(30)
    gone, alive = psutil.wait_procs([cells], timeout=60)
    assert gone and not alive


def test_a_command_is_carried_out_by_a_fork(alone):
    "The first run starts the server, the second is the server's own: both say the same"
    made("a", "x = 1\nprint(x)")
    warm.start((), warm.settled(os.environ))
    command = [sys.executable, "-m", "mlops_nb", "job", "run", "a", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "completed", done.stderr
    plain = subprocess.run(command[:-1], capture_output=True, text=True, check=False, timeout=120)
    assert plain.returncode == 0 and "Traceback" not in plain.stderr, plain.stderr
