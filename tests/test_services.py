"""Services: nothing is doubled, lost or left over, whoever is killed when; and what is told about them is true"""

import contextlib
import errno
import json
import os
import plistlib
import random
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from helpers.counts import count
from mlops_nb import job as jobs
from mlops_nb.app import service_files, service_verbs
from mlops_nb.core import (
    ledger,
    locks,
    process_identity,
    processes,
    service_leader,
    service_logs,
    service_store,
    services,
    supervisor,
)
from mlops_nb.core.draw import LIMIT
from mlops_nb.core.errors import Finding, ToolFailed
from mlops_nb.core.service_store import SUPERVISOR, Service
from mlops_nb.job.schedules import schedule_definition
from mlops_nb.job.schedules.facts import Schedule
from mlops_nb.job.schedules.schedule_store import Store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="services need fork and file locks")
LONG_S = 120.0  # Whatever takes longer has failed

DUMMY = """
import fcntl, os, signal, sys, time
name, here = sys.argv[1:]
alone = open(os.path.join(here, name + '.alone'), 'a')
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    open(os.path.join(here, 'DOUBLE'), 'a').write(f'{name} {os.getpid()}\\n')
if name == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if name == 'crowd':
    for _ in range(2):
        if os.fork() == 0:
            break
print(name, os.getpid(), 'works', flush=True)
signal.pause()
"""


def until(asked, what: str = "", every_s: float = 0.02):
    "Ask again and again until the answer is true, or a long time has gone"
    deadline = time.monotonic() + LONG_S
    while not (answer := asked()):
        assert time.monotonic() < deadline, what or asked
        time.sleep(every_s)
    return answer


def dummy(project, name: str, **options) -> Service:
    script = project.root / "dummy.py"
    if not script.exists():
        script.write_text(DUMMY)
    command = (sys.executable, str(script), name, str(project.root))
    return Service(name=name, command=command, **{"grace_s": 0.3, "backoff_s": 0.01, "steady_s": 0.0, **options})


@pytest.fixture
def declare(project, monkeypatch):
    "`declare(service, ...)`: what the pillars have for this project; all of it is ended with the test"
    from mlops_nb.job import services as of_jobs

    def declare(*found: Service) -> None:
        monkeypatch.setattr(of_jobs, "services", lambda _: list(found))

    yield declare
    if not project.root.exists():
        return
    for one in service_store.kept(project):
        service_store.disable(project, [one.service.name])
        services.stop(project, one.service.name, 0)
    services.stop(project, SUPERVISOR, 5)


def living(project, *words: str) -> list[int]:
    "Processes that have all these words in their command, as the system knows them; no corpses"
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if all(any(word in part for part in line) for word in words) and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def dummies(project, name: str) -> list[int]:
    script = str(project.root / "dummy.py")
    return [pid for pid in living(project, script) if f"\0{name}\0".encode() in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    import psutil

    try:
        return b"\0".join(part.encode() for part in psutil.Process(pid).cmdline()) + b"\0"
    except psutil.Error:
        return b""


def supervisors(project) -> list[int]:
    import psutil

    found = []
    for pid in living(project, "mlops_nb.core.supervisor"):
        with contextlib.suppress(psutil.Error):  # it ends meanwhile
            if "service_leader" not in cmdline(pid).decode() and psutil.Process(pid).cwd() == str(project.root):
                found.append(pid)
    return found


def kill(pid: int) -> None:
    "kill -9, until it is dead"
    who = process_identity.of(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    assert processes.wait(who, LONG_S)


def remove(folder: Path) -> None:
    "As `rm -rf`, once more where somebody wrote into it meanwhile"
    try:
        shutil.rmtree(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
        shutil.rmtree(folder, ignore_errors=True)


# whoever is killed ----------------------------------------------------------------------------------------------------


def test_whoever_is_killed_nothing_is_doubled_or_left(project, declare):
    "Three dummies: one that forks, one that is deaf, one that is plain; supervisors and services are killed at random"
    rng = random.Random(7)
    names = ["crowd", "deaf", "plain"]
    declare(*[dummy(project, name) for name in names])
    service_verbs.up(wait=LONG_S)
    kept = 0
    for round_ in range(count(3, 50)):
        before = {row.name: row.pid for row in service_verbs.ps().services}
        leader = before[rng.choice(names)]
        for pid in [supervisors(project), [leader], [*supervisors(project), leader]][round_ % 3]:
            kill(pid)
        for row in service_verbs.ps().services:
            assert row.pid is None or row.pid in dummies(project, row.name), (
                "ps names a process that is no such service"
            )
            assert row.state != "down" or not dummies(project, row.name), "ps says down of a service that lives"
        service_verbs.up(wait=LONG_S)
        after = {row.name: row.pid for row in service_verbs.ps().services}
        kept += sum(before[name] == after[name] for name in names)
        assert len(supervisors(project)) == 1
        until(lambda: [len(dummies(project, name)) for name in names] == [3, 1, 1])
    assert kept, "what nobody killed lived on"
    assert not (project.root / "DOUBLE").exists()
    service_verbs.down()
    assert living(project, str(project.root / "dummy.py")) == supervisors(project) == []
    told = Counter(event.payload.pid for event in ledger.of(project).events(["service.started"]))
    assert set(told.values()) == {1}, "no life was told twice"


CLOCKED = """
import signal, sys, threading, time
from pathlib import Path
from mlops_nb.core import project as projects, services
from mlops_nb.job.schedules import daemon
from mlops_nb.job.schedules.schedule_store import Store

project, clock = projects.find(), Path(sys.argv[1])
said = [clock.read_text()]

def now():
    said[0] = clock.read_text() or said[0]
    return float(said[0])

running = daemon.Daemon(project, Store(project, clock=now), say=lambda line: print(line, flush=True))
signal.signal(signal.SIGTERM, lambda *_: running.stop())

def watch():
    seen = said[0]
    while True:
        time.sleep(0.02)
        if (text := clock.read_text()) and text != seen:
            seen = text
            running.ring()

threading.Thread(target=watch, daemon=True).start()
services.attend()
running.loop()
"""
RUNS = """import fcntl, os
with open('alone', 'a') as file:
    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: open('DOUBLE', 'a').write(at)
    open('began', 'a').write(at + '\\n')
    print(at)"""


class Scheduled:
    "A project with a job that is due every minute of a clock that the test turns, and a scheduler on that clock"

    START = 1_782_864_000  # 2026-07-01T00:00Z

    def __init__(self, project, declare):
        self.project = project
        self.clock = project.root / "clock"
        self.minute = 0
        self.turn(0)
        book = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        for n, source in enumerate(["%%mlops params\nat = ''", RUNS]):
            cell = {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None}
            book["cells"].append({**cell, "source": source})
        Path("tick.ipynb").write_text(json.dumps(book), encoding="utf-8")
        jobs.convert(Path("tick.ipynb"))
        every = Schedule(job="tick", cron="* * * * *", catch_up="all", parameters={"at": "@datetime"})
        schedule_definition.write(project, every)
        store = self.store()
        store.see(every, self.START)
        store.close()
        (project.root / "clocked.py").write_text(CLOCKED)
        command = (sys.executable, str(project.root / "clocked.py"), str(self.clock))
        self.service = Service(
            name="scheduler",
            command=command,
            ready="told",
            reopens=True,
            grace_s=75,
            backoff_s=0.01,
            steady_s=0.0,
        )
        declare(self.service)

    def turn(self, minutes: int) -> None:
        self.minute += minutes
        made = self.clock.with_suffix(".new")
        made.write_text(str(self.START + 60 * self.minute))
        made.rename(self.clock)

    def store(self) -> Store:
        return Store(self.project, clock=lambda: float(self.clock.read_text()))

    def schedulers(self) -> list[int]:
        return living(self.project, str(self.project.root / "clocked.py"))

    def statuses(self) -> list[str]:
        store = self.store()
        found = [fire.status for fire in store.fires(limit=500)]
        store.close()
        return found

    def settled(self) -> bool:
        "Has every fire that came due succeeded?"
        return self.statuses() == ["succeeded"] * self.minute

    def began(self) -> int:
        at = self.project.root / "began"
        return len(at.read_text().split()) if at.exists() else 0


@pytest.fixture
def scheduled(project, declare):
    return Scheduled(project, declare)


def other_boot(scheduled) -> None:
    "As after a power cut: nothing lives, and all that is written down names another boot"
    project, here = scheduled.project, process_identity.host()
    pids = supervisors(project) + scheduled.schedulers() + living(project, "mlops_nb.job", "unattended")
    for pid in pids:
        kill(pid)
    for name in (SUPERVISOR, "scheduler"):
        at = services.lock_of(project, name)
        at.write_text(at.read_text().replace(here, "0" * 12))
    db = sqlite3.connect(service_store.path(project))
    db.execute("UPDATE service SET running=replace(running, ?, ?)", (here, "0" * 12))
    db.commit()
    db.close()
    db = sqlite3.connect(project.root / ".mlops" / "schedule.db")
    db.execute("UPDATE mlops_fire SET owner=replace(owner, ?, ?), worker=replace(worker, ?, ?)", (here, "0" * 12) * 2)
    db.commit()
    db.close()


def test_one_success_a_fire_whatever_is_killed(scheduled):
    "The acceptance: supervisor, scheduler, both, an unclean boot, and the folder of the locks removed under them"
    project = scheduled.project
    service_verbs.up(wait=LONG_S)
    for round_ in range(count(5, 50)):
        begun = scheduled.began()
        scheduled.turn(1)
        if round_ % 2:
            until(lambda before=begun: scheduled.began() > before, "a run begins")
        what = round_ % 5
        if what in (0, 2):
            for pid in supervisors(project):
                kill(pid)
        if what in (1, 2):
            for pid in scheduled.schedulers():
                kill(pid)
        if what == 3:
            other_boot(scheduled)
            scheduled.turn(2)  # The claims of that host are waited out
        if what == 4:
            remove(services.folder(project))
        service_verbs.up(wait=LONG_S)
        until(scheduled.settled, "every fire succeeds")
        found = until(lambda: (now := service_verbs.ps()).ok and now.supervisor and now, "all is well again")
        assert [row.pid for row in found.services] == scheduled.schedulers()
        assert [found.supervisor] == supervisors(project)
    service_verbs.down()
    assert supervisors(project) == scheduled.schedulers() == []
    until(lambda: not living(project, "unattended", str(project.root)), "its workers are gone")
    assert not (project.root / "DOUBLE").exists()
    wins = Counter(event.payload.fire for event in ledger.of(project).events(["job.completed"]))
    assert len(wins) == scheduled.minute and set(wins.values()) == {1}


# up and down ----------------------------------------------------------------------------------------------------------


def test_two_at_once_make_one_supervisor(project, declare):
    declare(dummy(project, "plain"))
    code = (
        "from mlops_nb.core import project as projects, service_store, services, supervisor\n"
        "project = projects.find(); input()\n"
        "supervisor.bring_up(project, [one.service for one in service_store.kept(project)], 60)\n"
        "print(services.look(project, 'plain').state, services.look(project, 'supervisor').pid)"
    )
    service_store.enable(project, [dummy(project, "plain")])
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=project.root,
            env=processes.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for p in pair:
        p.stdin.write("\n")
        p.stdin.flush()
    said = [p.communicate(timeout=LONG_S)[0] for p in pair]
    assert [p.returncode for p in pair] == [0, 0]
    assert len(set(said)) == 1 and said[0].startswith("alive "), said
    assert len(supervisors(project)) == 1 and len(dummies(project, "plain")) == 1


def test_up_in_a_shell_is_said_twice(project, declare, cli):
    declare(dummy(project, "plain"), dummy(project, "deaf", order=60))
    one = cli("up", "--json")
    assert one.exit == 0 and one.json["changed"] == ["plain", "deaf"], one
    two = cli("up", "--json")
    assert two.exit == 0 and two.json["changed"] == [] and two.json["supervisor"] == one.json["supervisor"]
    keys = {"name", "state", "pid", "port", "since", "restarts", "ready"}
    assert all(keys <= set(row) for row in two.json["services"])
    assert [row["pid"] for row in two.json["services"]] == [row["pid"] for row in one.json["services"]]
    assert cli("ps").exit == 0
    assert cli("down", "plain", "--json").json["changed"] == ["plain"]
    states = {row["name"]: row["state"] for row in cli("ps", "--json").json["services"]}
    assert states == {"plain": "stopped", "deaf": "alive"}
    assert cli("down", "--json").json["changed"] == ["deaf"] and supervisors(project) == []
    events = [(event.type, event.subject) for event in ledger.of(project).events(["service.*"])]
    assert Counter(kind for kind, _ in events) == {
        "service.enabled": 2,
        "service.started": 2,
        "service.ended": 2,
        "service.disabled": 2,
    }


def test_down_without_a_supervisor_the_last_one_first(project, declare):
    declare(dummy(project, "plain", order=10), dummy(project, "crowd", order=20))
    service_verbs.up(wait=LONG_S)
    kill(*supervisors(project))
    assert service_verbs.ps().unattended == ["plain", "crowd"]
    assert service_verbs.down().changed == ["crowd", "plain"]
    assert living(project, str(project.root / "dummy.py")) == []
    ended = [(event.subject, event.payload.asked) for event in ledger.of(project).events(["service.ended"])]
    assert ended == [("crowd", True), ("plain", True)]


def test_the_supervisor_ends_the_last_one_first(project, declare):
    declare(dummy(project, "plain", order=10), dummy(project, "deaf", order=20))
    service_verbs.up(wait=LONG_S)
    os.kill(supervisors(project)[0], signal.SIGTERM)
    until(lambda: not supervisors(project))
    ended = [(event.subject, event.payload.how) for event in ledger.of(project).events(["service.ended"])]
    assert ended == [("deaf", "SIGKILL"), ("plain", "SIGTERM")]
    assert [one.wanted for one in service_store.kept(project)] == [True, True], "a reboot changes no wish"


WAITS = "open('began', 'a').write(f'{at}\\n')\nimport threading\nthreading.Event().wait()"


def test_down_during_a_run(scheduled):
    "The run ends as its grace says, and is recorded"
    book = json.loads(Path("tick.ipynb").read_text(encoding="utf-8"))
    book["cells"][1]["source"] = WAITS
    Path("tick.ipynb").write_text(json.dumps(book), encoding="utf-8")
    jobs.convert(Path("tick.ipynb"))
    service_verbs.up(wait=LONG_S)
    scheduled.turn(1)
    until(lambda: scheduled.began(), "the run begins")
    service_verbs.down()
    assert scheduled.schedulers() == []
    (row,) = jobs.history("tick").runs
    assert row.status in ("aborted", "failed"), "its bracket has an end"
    assert scheduled.statuses() == ["waiting"], "and its fire is for the next scheduler"
    from mlops_nb.core import brackets

    assert brackets.open_brackets(scheduled.project) == []


# what is told ---------------------------------------------------------------------------------------------------------


def test_what_dies_again_and_again_is_given_up_aloud(project, declare, cli):
    fails = Service(name="fails", command=(sys.executable, "-c", "raise SystemExit(3)"), tries=3, backoff_s=0.01)
    declare(fails, dummy(project, "plain"))
    with pytest.raises(Finding, match=r"fails is not ready: gave up, exit 3; mlops logs fails"):
        service_verbs.up(wait=LONG_S)
    (told,) = until(lambda: list(ledger.of(project).events(["service.gave_up"])))
    assert (told.subject, told.payload.fails, told.payload.how) == ("fails", 3, "exit 3")
    said = cli("ps")
    assert said.exit == 1 and "GAVE UP" in said.out
    card = cli("status", "--json").json
    assert [(one["kind"], one["subject"]) for one in card["alerts"]] == [("gave up", "fails")]
    starts = len(list(ledger.of(project).events(["service.started"])))
    with pytest.raises(Finding):
        service_verbs.up(["fails"], wait=LONG_S)
    assert len(list(ledger.of(project).events(["service.started"]))) == starts + 3, "asked for again, it is tried again"


def test_people_are_told_once_of_what_is_given_up(project, declare, monkeypatch):
    "The notice outlives a supervisor that could not deliver it"
    heard = []

    class Hears(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            "No line for each notice"

    project.pin("services", "notify", ["env:CHAT"])
    fails = Service(name="fails", command=(sys.executable, "-c", "raise SystemExit(3)"), tries=2, backoff_s=0.01)
    declare(fails, dummy(project, "plain"))
    with pytest.raises(Finding):
        service_verbs.up(wait=LONG_S)
    until(lambda: "not set" in str(service_verbs.logs("supervisor")), "it has tried to deliver the notice")
    kill(*supervisors(project))
    with closing(sqlite3.connect(service_store.path(project))) as db:
        db.executescript("UPDATE mlops_notice SET not_before=0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hears) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CHAT", f"json://127.0.0.1:{server.server_port}")
        service_verbs.up(["plain"], wait=LONG_S)
        kill(services.look(project, "plain").pid)  # Something to tell, so that it looks for notices at once
        until(lambda: heard, "the notice is delivered")
        until(lambda: service_store.next_notice(project) is None)
        server.shutdown()
    (notice,) = heard
    assert notice["title"].endswith(": fails") and notice["message"].startswith("given up after 2 short lives")


@pytest.mark.parametrize("restart, code, lives", [("failure", 0, 1), ("never", 3, 1), ("failure", 3, 3)])
def test_after_which_ends_it_starts_again(project, declare, restart, code, lives):
    script = f"open('lives', 'a').write('x'); raise SystemExit({code})"
    command = (sys.executable, "-c", script)
    declare(Service(name="once", command=command, restart=restart, tries=3, backoff_s=0.01))
    service_store.enable(project, services.declared(project))
    supervisor.bring_up(project, services.declared(project), LONG_S)
    until(lambda: service_store.kept(project)[0].rest)
    assert (project.root / "lives").read_text() == "x" * lives


def test_a_program_that_is_not_there(project, declare):
    declare(Service(name="typo", command=("no-such-program",), tries=2, backoff_s=0.01))
    with pytest.raises(Finding, match="exit 127"):
        service_verbs.up(wait=LONG_S)
    assert "no-such-program: No such file" in str(service_verbs.logs("typo"))


def test_wanted_and_nobody_looks_after_them(project, declare, cli):
    declare(dummy(project, "plain"))
    service_verbs.up(wait=LONG_S)
    kill(*supervisors(project))
    (alert,) = cli("status", "--json").json["alerts"]
    assert (alert["kind"], alert["subject"]) == ("unsupervised", "plain") and "mlops up plain" in alert["message"]
    (check,) = [one for one in cli("doctor", "--json").json["checks"] if one["name"] == "services"]
    assert check["ok"] is False and check["fix"] == "mlops up plain"
    assert "NOBODY LOOKS AFTER THEM" in cli("ps").out and cli("ps").exit == 0, "it works, and is ready"


def test_ready_is_more_than_alive(project, declare):
    listens = (
        "import os, socket, sys\n"
        "os.mkfifo('go'); open('go').read()\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: s.accept()[0].close()"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    declare(Service(name="server", command=(sys.executable, "-c", listens, str(port)), ready=f"tcp:{port}"))
    with pytest.raises(Finding, match="server is not ready: (starting|waiting)"):
        service_verbs.up(wait=0.1)
    until((project.root / "go").exists)
    (project.root / "go").write_text("x")
    (row,) = until(lambda: (found := service_verbs.ps()).ok and found.services)
    assert (row.state, row.port, row.ready) == ("ready", port, True)


def test_one_that_another_container_runs_is_left_alone(project, declare):
    "Its lock is held, and its leader is a process of another number space"
    declare(dummy(project, "plain"))
    services.folder(project).mkdir(parents=True)
    with locks.held(services.lock_of(project, "plain")) as fd:
        os.pwrite(fd, b"elsewhere:17:4711 1782864000.000\n", 0)
        service_store.enable(project, services.declared(project))
        (row,) = service_verbs.ps().services
        assert (row.state, row.pid) == ("elsewhere", None)
        assert supervisor._is_coming(project, services.declared(project)[0], {}), "for a moment it may look so"
        with pytest.raises(Finding, match="elsewhere"):
            service_verbs.up(wait=LONG_S)
        with pytest.raises(ToolFailed, match="cannot be ended from here"):
            service_verbs.down(["plain"])
        assert dummies(project, "plain") == []
        assert dummies(project, "plain") == []


LEAVES = """
import os, signal
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.pause()
"""


def test_a_program_that_makes_itself_a_daemon_is_not_lost(project, declare):
    "It leaves its leader and its group, and holds the lock: it is ended, and given up in the end"
    if not service_leader.PROC:
        pytest.skip("who has a lock file open is read from /proc")
    declare(Service(name="daemon", command=(sys.executable, "-c", LEAVES), tries=2, backoff_s=0.01))
    with pytest.raises(Finding, match="gave up"):
        service_verbs.up(wait=LONG_S)
    assert service_leader.members(services.folder(project), "daemon") == []
    assert services.look(project, "daemon").state == "gone"


def test_what_a_killed_leader_leaves_without_the_lock_is_ended(project, declare):
    "Its children have closed all that they inherited"
    crowd = DUMMY.replace("if os.fork() == 0:", "if os.fork() == 0:\n            os.closerange(3, 256)")
    (project.root / "dummy.py").write_text(crowd)
    declare(dummy(project, "crowd"))
    service_verbs.up(wait=LONG_S)
    until(lambda: len(dummies(project, "crowd")) == 3)
    before = set(dummies(project, "crowd"))
    kill(services.look(project, "crowd").pid)
    until(lambda: len(set(dummies(project, "crowd")) - before) == 3)
    until(lambda: not set(dummies(project, "crowd")) & before)


def test_the_removed_folder_is_noticed_without_anybody_asking(project, declare):
    declare(dummy(project, "plain"))
    service_verbs.up(wait=LONG_S)
    old = services.look(project, "plain").pid
    remove(services.folder(project))
    row = service_verbs.ps().services[0]
    assert row.pid in (old, *dummies(project, "plain")) or row.state != "stopped"
    until(lambda: (now := service_verbs.ps()).ok and now.supervisor)
    assert len(dummies(project, "plain")) == 1 and dummies(project, "plain") != [old]
    assert len(supervisors(project)) == 1 and not (project.root / "DOUBLE").exists()


def test_a_removed_project_takes_its_services_with_it(project, declare):
    declare(dummy(project, "plain"))
    service_verbs.up(wait=LONG_S)
    who = [process_identity.of(pid) for pid in supervisors(project) + dummies(project, "plain")]
    remove(project.root)
    assert len(who) == 2 and all(processes.wait(one, LONG_S) for one in who)
    assert not project.root.exists()


# logs -----------------------------------------------------------------------------------------------------------------

TALKS = """
import sys
from mlops_nb.core import services
services.attend()
n = 0
while True:
    n += 1
    sys.stdout.write(f'line {n}\\n')
"""


def test_no_line_is_lost_when_a_log_is_put_aside(project, declare):
    "A service of ours writes at full speed; a follower goes on through every rotation"
    project.pin("services", "log_mb", 0.05)
    project.pin("services", "log_keep", 1000)
    command = (sys.executable, "-c", TALKS)
    declare(Service(name="talks", command=command, ready="told", reopens=True))
    service_verbs.up(wait=LONG_S)
    log = services.log_of(project, "talks")
    seen = service_logs.follow([log], 1, every_s=0.01)
    followed = []
    who = services.look(project, "talks").who
    for _ in range(count(5, 50)):
        until(lambda: service_logs.rotate(log, 10_000, 1000, lambda: os.kill(int(who.split(":")[1]), signal.SIGUSR1)))
        followed += [next(seen) for _ in range(100)]
    service_verbs.down()
    *whole, _ = service_logs.tail(log, 10_000_000)  # It was stopped in the middle of one
    numbers = [int(line.text.split()[1]) for line in whole]
    assert numbers == list(range(1, len(numbers) + 1))
    got = [int(line.text.split()[1]) for line in followed]
    assert got == list(range(got[0], got[0] + len(got)))


def test_logs_of_a_shell(project, declare, cli):
    declare(dummy(project, "plain"), dummy(project, "deaf"))
    service_verbs.up(wait=LONG_S)
    until(lambda: all("works" in cli("logs", name).out for name in ("plain", "deaf")))
    said = cli("logs", "plain", "--lines", "1", "--json").json
    assert said["lines"][0]["text"].startswith("plain ") and set(said["lines"][0]) == {"time", "text", "name"}
    assert {line["name"] for line in cli("logs", "--json").json["lines"]} == {"plain", "deaf"}
    assert "plain: started" in cli("logs", "supervisor").out
    follows = subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "logs", "plain", "-f"],
        cwd=project.root,
        env=processes.environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A shell ignores it in the background
    )
    ends = threading.Timer(LONG_S, follows.kill)  # A line that does not come is an end
    ends.start()
    assert "works" in follows.stdout.readline()
    with open(services.log_of(project, "plain"), "a", encoding="utf-8") as log:
        log.write("and more\n")
    assert follows.stdout.readline() == "and more\n"
    follows.send_signal(signal.SIGINT)
    assert follows.wait(LONG_S) == 0
    ends.cancel()
    follows.stdout.close()


# words ----------------------------------------------------------------------------------------------------------------


def test_words(project, declare, cli):
    assert cli("ps").exit == 0
    up = cli("up")
    assert up.exit == 2 and "a schedule declares one" in up.err and up.err.count("\n") == 1
    declare(dummy(project, "scheduler"))
    for words, said in {
        ("up", "schedular"): "did you mean `scheduler`?",
        ("down", "x"): "no service `x`",
        ("logs", "schedulr"): "did you mean `scheduler`?",
        ("logs", "scheduler", "--lines", "0"): "expected 1 to 100000",
        ("up", "--wait", "-1"): "expected 0 to 3600",
    }.items():
        answer = cli(*words)
        assert answer.exit == 2 and said in answer.err and answer.err.count("\n") == 1, (words, answer)
    before = sorted(project.root.rglob("*"))
    plan = cli("up", "--dry-run", "--json").json["steps"]
    assert plan[0].startswith("start a supervisor") and plan[1].startswith("start scheduler: ")
    assert cli("down", "--dry-run", "--json").json["steps"] == ["nothing: none of them lives"]
    assert sorted(project.root.rglob("*")) == before


def test_a_declaration_that_cannot_work_is_refused(project, declare):
    for wrong in (
        Service(name="../x", command=("true",)),
        Service(name="supervisor", command=("true",)),
        Service(name="x", command=()),
        Service(name="x", command=("true",), ready="udp:1"),
    ):
        declare(wrong)
        with pytest.raises(ValueError):
            services.declared(project)


def test_without_locks_nothing_is_started(project, declare, monkeypatch):
    import fcntl

    declare(dummy(project, "plain"))
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(ToolFailed, match="services need file locks"):
        service_verbs.up()
    assert service_store.kept(project) == []


def test_cards_are_small_and_escaped(project, declare):
    declare(*[dummy(project, f"s{n}", says="<script>alert(1)</script>" * 3) for n in range(60)])
    html = service_verbs.ps().panel().html()
    assert len(html.encode()) < LIMIT and "<script>" not in html and "&lt;script&gt;" in html
    services.folder(project).mkdir(parents=True)
    services.log_of(project, "s0").write_text("<script>\n" * 3000)
    html = service_verbs.logs("s0", lines=2000).panel().html()
    assert len(html.encode()) < LIMIT and "<script>" not in html


# elsewhere ------------------------------------------------------------------------------------------------------------


HOSTILE = Service(
    name="hostile",
    command=("mlops", "$HOME", "%h", 'a "b" \\ c', "{{ 7*7 }}", "<&>", "it's"),
    says='%h $HOME {{ 7*7 }} "\n[Service]\nExecStart=/bin/false',
    ready="tcp:8080",
    order=60,
)


def test_ship_writes_files_that_are_valid_and_holds_every_word(project, declare, cli):
    declare(dummy(project, "plain", grace_s=0.3, restart="failure"), HOSTILE)
    words = ("--to", "systemd,launchd,compose,k8s", "--out", "build", "--root", "/srv/a b", "--image", "x:1")
    shipped = cli("ship", *words, "--json")
    assert shipped.exit == 0, shipped
    found = {file["path"]: file["validator"] for file in shipped.json["files"]}
    assert len(found) == 7 and "bytes" not in found.values()
    assert {"path", "target", "validator", "ok"} <= set(shipped.json["files"][0])
    told = list(HOSTILE.command[1:])
    plist = plistlib.loads(Path("build/launchd/nb.mlops.work.hostile.plist").read_bytes())
    assert plist["ProgramArguments"][-len(told) :] == told and plist["WorkingDirectory"] == "/srv/a b"
    compose = yaml.safe_load(Path("build/compose/compose.yaml").read_text(encoding="utf-8"))["services"]["hostile"]
    assert [word.replace("$$", "$") for word in compose["entrypoint"]][-len(told) :] == told
    deployment, port = yaml.safe_load_all(Path("build/k8s/mlops-work-hostile.yaml").read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [word.replace("$$", "$") for word in container["command"]][-len(told) :] == told
    assert port["spec"]["ports"] == [{"port": 8080, "targetPort": 8080}]
    unit = Path("build/systemd/mlops-work-hostile.service").read_text(encoding="utf-8")
    assert "After=mlops-work-plain.service" in unit.splitlines()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line[10:])][-len(told) :] == told


def test_what_elsewhere_starts_is_seen_here_and_not_started_twice(project, declare):
    "The command of a unit, as systemd would start it"
    declare(dummy(project, "plain"))
    at = service_files.place(project, "", "", "")
    (filled,) = service_files._each(project, services.declared(project), at, "systemd")
    command = filled[1]["command"]
    unit = processes.start(command, cwd=project.root, env={**processes.environment(), **filled[1]["variables"]})
    (row,) = until(lambda: [row for row in service_verbs.ps().services if row.state == "alive"])
    assert row.pid == unit.pid
    service_verbs.up(wait=LONG_S)
    assert dummies(project, "plain") == [unit.pid] and not (project.root / "DOUBLE").exists()
    assert subprocess.run(command, cwd=project.root, env=processes.environment(), capture_output=True).returncode == 75
    assert service_verbs.down().changed == ["plain"] and unit.wait(LONG_S) == -signal.SIGTERM


def test_ship_refuses_in_one_line(project, declare, cli):
    assert "has no service" in cli("ship", "--to", "systemd", "--out", "b").err
    declare(dummy(project, "plain"))
    for words, said in {
        ("--to", "systemdd"): "did you mean `systemd`?",
        ("--to", "kserve"): "KServe runs models",
        ("--to", "k8s"): "needs --image NAME",
        ("--to", "systemd", "--root", "here"): "expected an absolute path",
        ("--to", "compose", "--image", "UPPER"): "is no image",
    }.items():
        answer = cli("ship", *words, "--out", "b")
        assert answer.exit == 2 and said in answer.err and answer.err.count("\n") == 1, (words, answer)
    assert not Path("b").exists()


def test_what_cannot_be_looked_at_is_said(project, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o755)
    monkeypatch.setenv("MLOPS_RUNTIME_DIR", str(folder))
    found = service_verbs.ps(all=True)
    assert found.ok and found.exit_code == 4 and str(folder) in found.unseen
    assert "unknown" in str(found) and service_verbs.ps().exit_code == 0
