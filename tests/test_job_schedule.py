"""Schedules: instants on the days when clocks change, one success a fire whatever dies,
two daemons on one store, retries, chains, people told."""

import http.server
import json
import os
import select
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest

from helpers.counts import count
from mlops_nb import job as jobs
from mlops_nb.core import ledger, notification
from mlops_nb.core.draw import LIMIT
from mlops_nb.core.errors import BadInput, ToolFailed
from mlops_nb.job.schedules import cron, daemon, schedule_definition, verbs as schedule_verbs
from mlops_nb.job.events import Delivery, JobStarted
from mlops_nb.job.schedules.facts import Outcome, Schedule
from mlops_nb.job.schedules.schedule_store import LOST, FireRows, Store
from helpers.clock import START, Clock, H
from helpers.job_runs import made
from helpers.odd_texts import ODD

ROOT = Path(__file__).resolve().parents[1]

# instants -------------------------------------------------------------------------------------------------------------

CHANGES = {
    "Europe/Berlin": [(2026, 3, 29), (2026, 10, 25)],
    "America/New_York": [(2026, 3, 8), (2026, 11, 1)],
    "Australia/Lord_Howe": [(2026, 4, 5), (2026, 10, 4)],  # half an hour
    "Africa/Cairo": [(2026, 4, 24), (2026, 10, 30)],  # at midnight
    "America/Sao_Paulo": [(2018, 11, 4), (2018, 2, 18)],  # midnight does not exist
    "Pacific/Apia": [(2011, 12, 30)],  # a day that does not exist
    "Asia/Kathmandu": [(2026, 1, 5)],  # none, but 5:45 from UTC
}
LINES = (
    "* * * * *|*/15 * * * *|30 * * * *|30 2 * * *|0 0 * * *|15 1 * * *|0,30 1-3 * * *|0 */2 * * *|*/20 2 * * "
    "*|30 0 * * *|45 1,2 * * SUN|0 3 29 * *"
)


def brute(line: str, name: str, after: datetime, until: datetime) -> list[datetime]:
    "The same by looking at every minute of a clock on the wall"
    tz, fields, found = ZoneInfo(name), cron.parse(line), set()

    def shows(naive):
        return naive.minute in fields.minutes and naive.hour in fields.hours and fields.match_day(naive.date())

    def real(naive):
        return naive.replace(tzinfo=tz).astimezone(UTC).astimezone(tz).replace(tzinfo=None) == naive

    minute = timedelta(minutes=1)
    if any(f.startswith("*") for f in line.split()[:2]):  # a rhythm: what the wall shows at each real minute
        t = after + minute
        while t <= until:
            found |= {t} if shows(t.astimezone(tz).replace(tzinfo=None)) else set()
            t += minute
        return sorted(found)
    naive = after.astimezone(tz).replace(tzinfo=None) - timedelta(days=2)
    while naive <= until.astimezone(tz).replace(tzinfo=None) + timedelta(
        days=2
    ):  # a time of day: once, the first time, or after the gap
        if shows(naive):
            step = naive
            while not real(step):
                step += minute
            t = step.replace(tzinfo=tz, fold=0).astimezone(UTC)
            found |= {t} if after < t <= until else set()
        naive += minute
    return sorted(found)


@pytest.mark.parametrize("name", CHANGES)
def test_days_when_clocks_change(name):
    for day in CHANGES[name]:
        a = datetime(*day, tzinfo=UTC) - timedelta(hours=30)
        b = a + timedelta(hours=66)
        for line in LINES.split("|"):
            want = brute(line, name, a, b)
            assert list(cron.fires(line, name, a, b)) == want, (day, line)
            for hours in range(0, 64, count(9, 1)):  # asked again at any time, the answer is the same
                now = a + timedelta(hours=hours, minutes=17)
                assert next(cron.fires(line, name, now, b), None) == next((t for t in want if t > now), None), (
                    day,
                    line,
                    now,
                )


def test_a_year_of_one_time_of_day_is_once_a_day():
    for name in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"):
        got = list(
            cron.fires(
                "30 2 * * *",
                name,
                datetime(2026, 1, 1, tzinfo=ZoneInfo(name)),
                datetime(2026, 12, 31, 23, 59, tzinfo=ZoneInfo(name)),
            )
        )
        assert len({t.astimezone(ZoneInfo(name)).date() for t in got}) == len(got) == 365


# stores ---------------------------------------------------------------------------------------------------------------


def postgres_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    "URL of a PostgreSQL of our own: an unprivileged user, a socket in a folder, no port"
    pytest.importorskip("psycopg")
    bin = postgres_binaries()
    if bin is None:
        pytest.skip("no /usr/lib/postgresql/*/bin: install postgresql")
    root = Path(tempfile.mkdtemp(prefix="pg."))  # short: the path of a socket has at most 107 characters
    drop = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(root, "nobody")
        drop = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
        if not shutil.which("setpriv"):
            pytest.skip("no setpriv to leave root with: install util-linux")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(root)}
    init = [*drop, bin / "initdb", "-D", root / "data", "-U", "mlops", "-A", "trust", "--no-sync"]
    done = subprocess.run([str(x) for x in init], env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    options = f"-c listen_addresses= -c unix_socket_directories={root} -c fsync=off"
    start = [*drop, bin / "pg_ctl", "-D", root / "data", "-o", options, "-w", "-t", "60", "-l", root / "log", "start"]
    done = subprocess.run([str(x) for x in start], env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, (done.stderr, (root / "log").read_text() if (root / "log").exists() else "")
    yield f"postgresql://mlops@/postgres?host={root}"
    stop = [*drop, bin / "pg_ctl", "-D", root / "data", "-m", "immediate", "-w", "stop"]
    subprocess.run([str(x) for x in stop], env=env, cwd=root, capture_output=True)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request, project, monkeypatch):
    "A project whose fires are kept in each kind of store"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
        project.pin("stores", "schedule", url)
        project.pin("project", "name", request.node.name)  # its own rows in one database
    return project


class Once:
    "Sees that no attempt begins twice: a fire that was taken and left open would be taken forever"

    def __init__(self):
        self.attempts = set()

    def begins(self, f):
        assert (f.id, f.attempt) not in self.attempts, f"{f.id} was taken and is waiting still"
        self.attempts.add((f.id, f.attempt))


class Inline(Once):
    "Runs in this process: counts, and ends as it is told"

    def __init__(self, *outcomes):
        super().__init__()
        self.ran, self.outcomes = [], list(outcomes)

    def start(self, f, s, hold, done):
        self.begins(f)
        self.ran.append(f.id)
        done(self.outcomes.pop(0) if self.outcomes else Outcome(status="succeeded", run=f"run-{len(self.ran)}"))


class Meeting(Inline):
    "The first run of each waits for the first run of the others"

    def __init__(self, everybody):
        super().__init__()
        self.everybody = everybody

    def start(self, f, s, hold, done):
        if not self.ran:
            self.everybody.wait(120)
        super().start(f, s, hold, done)


class Held(Once):
    "Runs that go on until the test ends them"

    def __init__(self):
        super().__init__()
        self.done = {}

    def start(self, f, s, hold, done):
        self.begins(f)
        assert hold("elsewhere:1:1")
        self.done[f.id] = done
        return self

    def stop(self):
        for done in self.done.values():
            done(Outcome(status="stopped", message="stopped"))


def job(project, name, cron_line="0 * * * *", **kw) -> Schedule:
    "A job with a schedule; its notebook is never run"
    folder = project.root / "jobs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.toml").write_text(f'[job]\nname = "{name}"\n', encoding="utf-8")
    s = Schedule(job=name, cron=cron_line, **kw)
    schedule_definition.write(project, s)
    return s


def fresh(project, clock, executor=None, **kw) -> daemon.Daemon:
    d = daemon.Daemon(project, Store(project, clock=clock), executor or Inline(), **kw)
    d.lines = []
    d.say = d.lines.append
    return d


def ended(d):
    d.stop()
    d.loop()
    d.store.close()


def states(project, clock, name=""):
    store = Store(project, clock=clock)
    found = [(f.id.partition("@")[2][11:16], f.status) for f in store.fires(name, limit=500)][::-1]
    store.close()
    return found


def test_two_daemons_fire_a_thousand_times_once_each(shared):
    clock, n = Clock(), 10
    for k in range(n):
        job(shared, f"job{k}", "* * * * *", catch_up="all", concurrency=2 if k % 2 else 1)
    both = threading.Barrier(2)
    pair = [fresh(shared, clock, Meeting(both), owner=f"host{k}:1:1") for k in (1, 2)]
    for d in pair:
        d.tick()
    clock.t += 100 * 60

    def work(d):
        while d.tick() == 0 or d.store.fires(status="waiting", limit=1):
            pass

    threads = [threading.Thread(target=work, args=(d,)) for d in pair]
    for t in threads:
        t.start()
    for t in threads:
        t.join(300)
    ran = Counter(f for d in pair for f in d.executor.ran)
    assert len(ran) == n * 100 and set(ran.values()) == {1}, "each fire once"
    assert all(d.executor.ran for d in pair), "both worked"
    store = pair[0].store
    assert Counter(f.status for f in store.fires(limit=5000)) == {"succeeded": 1000}
    assert pair[0].counts["succeeded"] + pair[1].counts["succeeded"] == 1000
    for d in pair:
        ended(d)


def test_catch_up(shared):
    clock = Clock()
    for policy in ("all", "last", "none"):
        job(shared, policy, catch_up=policy)
    d = fresh(shared, clock)
    d.tick()
    clock.t += 3 * H + 600  # three fires were missed
    d.tick()
    assert states(shared, clock, "all") == [("01:00", "succeeded"), ("02:00", "succeeded"), ("03:00", "succeeded")]
    assert states(shared, clock, "last") == [("01:00", "skipped"), ("02:00", "skipped"), ("03:00", "succeeded")]
    assert [s for _, s in states(shared, clock, "none")] == ["skipped"] * 3
    clock.t = START + 4 * H + 1
    d.tick()
    assert [states(shared, clock, p)[-1] for p in ("all", "last", "none")] == [("04:00", "succeeded")] * 3, "on time"
    skips = [e.payload.why for e in ledger.of(shared).events(["job.fire_skipped"])]
    assert (
        skips
        and "3 missed, catch-up is none: 2026-07-01T01:00Z to 2026-07-01T03:00Z" in skips
        and "2 missed, catch-up is last: 2026-07-01T01:00Z to 2026-07-01T02:00Z" in skips
    )
    ended(d)


def test_a_clock_that_is_set_back_or_forward_fires_nothing_twice(shared):
    clock = Clock()
    job(shared, "score", "*/15 * * * *", catch_up="all")
    d = fresh(shared, clock)
    d.tick()
    for step in (15, 15, 15, 15, -60, 15, 15, 15, 15, 15, 600, -600, 15, 300, 330):  # minutes; backwards too
        clock.t += step * 60
        d.tick()
    ended(d)
    e = fresh(shared, clock)  # and a restart changes nothing
    e.tick()
    ended(e)
    ran = d.executor.ran + e.executor.ran
    last = int(max(clock.t, START + (75 + 600) * 60) - START) // 900
    assert len(ran) == len(set(ran)) == last


def test_retries_wait_twice_as_long_each_time_and_bad_input_is_not_tried_again(shared):
    clock = Clock()
    job(shared, "score", retries=2, backoff_s=30.0)
    failed = Outcome(status="failed", message="cell 3 failed: KeyError: 'x'", run="r")
    d = fresh(
        shared, clock, Inline(failed, failed, failed, Outcome(status="failed", message="no parameter `x`", retry=False))
    )
    d.tick()
    clock.t += H
    assert 0 < d.tick() <= 30 and len(d.executor.ran) == 1
    clock.t += 29
    assert d.tick() == 1 and len(d.executor.ran) == 1
    clock.t += 1
    d.tick()
    assert len(d.executor.ran) == 2
    clock.t += 59
    d.tick()
    assert len(d.executor.ran) == 2
    clock.t += 1
    d.tick()
    assert len(d.executor.ran) == 3 and states(shared, clock) == [("01:00", "failed")]
    (told,) = ledger.of(shared).events(["job.fire_failed"])
    assert told.payload.attempts == 3 and told.payload.error.startswith("cell 3 failed")
    clock.t = START + 2 * H
    d.tick()
    assert len(d.executor.ran) == 4 and states(shared, clock)[-1] == ("02:00", "failed")
    ended(d)


@pytest.mark.parametrize("how", ["succeeded", "failed", "again", "stopped", "cannot start", "known"])
def test_every_fire_that_was_taken_is_closed(shared, how):
    "Looked at after each round, so that what stays open fails here and hangs nowhere"
    clock = Clock()
    job(shared, "score", retries=1, backoff_s=30.0)
    outcome = Outcome(
        status={"again": "failed", "stopped": "stopped"}.get(how, how), message="no", retry=how == "again", run="r"
    )
    d = fresh(shared, clock, Inline(outcome), workers=1)
    if how == "cannot start":
        d.executor.start = lambda f, *_: d.executor.begins(f) or (_ for _ in ()).throw(OSError("no process"))
    elif how == "known":
        with (
            ledger.because(fire="score@2026-07-01T01:00Z"),
            ledger.bracket(shared, JobStarted(run="r"), subject="score") as done,
        ):
            done.run = "r"
        d.executor.outcomes = [Outcome(status="stopped", message="killed")]
    d.tick()
    clock.t += H
    for _ in range(4):
        wait = d.tick()
        assert not d.claims.held and not d.runs.unwritten and "running" not in {s for _, s in states(shared, clock)}
        clock.t += 31
    assert wait > 0 and states(shared, clock) == [
        ("01:00", "failed" if how in ("failed", "cannot start") else "succeeded")
    ]
    ended(d)


def test_chains(shared):
    clock = Clock()
    job(shared, "score")
    job(shared, "report", "", after="score")
    job(shared, "nightly", "0 1 * * *", after="score")
    failed = Outcome(status="failed", message="no", retry=False)
    d = fresh(shared, clock, workers=1)
    d.tick()
    clock.t += H
    d.tick()
    assert [f.partition("@")[0] for f in d.executor.ran] == ["score", "nightly", "report"]
    d.executor.outcomes = [failed]
    clock.t += H
    d.tick()
    assert d.executor.ran[3:] == ["score@2026-07-01T02:00Z"], "nothing follows a failure"
    clock.t = START + 25 * H  # the next day, of which the newest fire of `score` is run and fails
    d.executor.outcomes = [failed]
    d.tick()
    assert d.executor.ran[4:] == ["score@2026-07-02T01:00Z"] and states(shared, clock, "nightly")[-1] == (
        "01:00",
        "skipped",
    )
    with pytest.raises(BadInput, match="would wait for itself: score after report"):
        schedule_definition.check_chain(shared, Schedule(job="score", after="report"))
    ended(d)


def test_concurrency_pause_and_backlog(shared):
    clock = Clock()
    job(shared, "one", catch_up="all")
    job(shared, "two", catch_up="all", concurrency=2)
    job(shared, "newest", catch_up="last")
    d = fresh(shared, clock, Held(), workers=10)
    d.tick()
    for _ in range(3):
        clock.t += H
        d.tick()
    assert sorted(f.partition("@")[0] for f in d.executor.done) == ["newest", "one", "two", "two"]
    assert states(shared, clock, "one") == [("01:00", "running"), ("02:00", "waiting"), ("03:00", "waiting")]
    d.executor.done["newest@2026-07-01T01:00Z"](Outcome(status="succeeded"))
    d.tick()
    assert states(shared, clock, "newest") == [("01:00", "succeeded"), ("02:00", "skipped"), ("03:00", "running")]
    d.store.pause("one", True)
    d.executor.done["one@2026-07-01T01:00Z"](Outcome(status="succeeded"))
    clock.t += H
    d.tick()
    assert states(shared, clock, "one") == [("01:00", "succeeded"), ("02:00", "waiting"), ("03:00", "waiting")], (
        "paused"
    )
    d.store.pause("one", False)
    clock.t += 60
    d.planner.next.clear()
    d.tick()
    assert states(shared, clock, "one")[1:] == [("02:00", "running"), ("03:00", "waiting"), ("04:00", "waiting")]
    ended(d)
    assert "running" not in {s for _, s in states(shared, clock)}, "an orderly end gives everything back"


def test_a_daemon_that_vanished_elsewhere_is_replaced_after_its_lease(shared):
    clock = Clock()
    job(shared, "score")
    lost = fresh(shared, clock, Held(), owner="otherhost:1:1")
    lost.tick()
    clock.t += H
    lost.tick()
    d = fresh(shared, clock, owner="thishost:1:1")
    d.tick()
    assert not d.executor.ran, "the lease holds"
    clock.t += 61
    d.tick()
    assert d.executor.ran == ["score@2026-07-01T01:00Z"] and states(shared, clock) == [("01:00", "succeeded")]
    (done,) = lost.executor.done.values()
    done(Outcome(status="succeeded", run="late"))
    lost.runs.collect()
    assert lost.counts["succeeded"] == 0 and "the claim was lost before it ended" in lost.lines[-1]
    assert d.store.fires()[0].run == "run-1"
    for x in (lost, d):
        ended(x)


def test_a_fire_whose_daemons_always_vanish_is_given_up(shared):
    clock = Clock()
    job(shared, "kills_its_host")
    d = fresh(shared, clock, Held(), owner="host0:1:1")
    d.tick()
    clock.t += H
    for n in range(LOST + 1):
        x = fresh(shared, clock, Held(), owner=f"host{n}:1:1")
        x.tick()
        assert list(x.executor.done) == ["kills_its_host@2026-07-01T01:00Z"], n
        x.store.close()
        clock.t += 61
    d.tick()
    (f,) = d.store.fires()
    assert f.status == "failed" and f.message == f"its daemon vanished {LOST + 1} times"
    ended(d)


def test_what_the_ledger_knows_is_not_run_again(shared):
    "Killed between the end of a run and the note in the store: the note is written, nothing is run"
    clock = Clock()
    job(shared, "score")
    lost = fresh(shared, clock, Held(), owner="otherhost:1:1")
    lost.tick()
    clock.t += H
    lost.tick()
    with (
        ledger.because(fire="score@2026-07-01T01:00Z"),
        ledger.bracket(shared, JobStarted(run="score-1"), subject="score") as done,
    ):
        done.run = "score-1"
    clock.t += 61
    d = fresh(shared, clock)
    d.tick()
    (f,) = d.store.fires()
    assert (f.status, f.run, d.executor.ran) == ("succeeded", "score-1", [])
    for x in (lost, d):
        ended(x)


def test_a_store_that_goes_away_stops_nothing_but_the_claims(project):
    clock = Clock()
    job(project, "score")
    d = fresh(project, clock, Held())
    d.tick()
    clock.t += H
    d.tick()
    (done,) = d.executor.done.values()
    real, d.store.backend.transaction = d.store.backend.transaction, lambda: (_ for _ in ()).throw(ToolFailed("gone"))
    done(Outcome(status="succeeded", run="r"))
    with pytest.raises(ToolFailed):
        d.tick()
    with pytest.raises(ToolFailed):
        d.runs.collect()
    d.store.backend.transaction = real
    d.tick()
    assert d.store.fires()[0].status == "succeeded", "how it ended was not forgotten meanwhile"
    ended(d)


def test_a_connection_that_breaks_is_made_again(project, postgres):
    import psycopg

    project.pin("stores", "schedule", postgres)
    project.pin("project", "name", "breaks")
    clock = Clock()
    job(project, "score")
    d = fresh(project, clock)
    d.tick()
    clock.t += H
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='mlops-scheduler'")
    with pytest.raises(ToolFailed, match="the schedule store"):
        d.tick()
    assert not d.executor.ran
    d.tick()
    assert d.executor.ran == ["score@2026-07-01T01:00Z"]
    ended(d)


def test_a_changed_schedule_counts_from_now_and_a_broken_file_stops_nobody(project):
    clock = Clock()
    job(project, "score", "0 0 1 1 *", catch_up="all")
    job(project, "other", catch_up="all")
    d = fresh(project, clock)
    d.tick()
    clock.t += 3 * H
    job(project, "score", "* * * * *", catch_up="all")
    d.tick()
    assert not [f for f in d.executor.ran if f.startswith("score")], (
        "three hours of a line that was not there are not caught up"
    )
    (project.root / "jobs/score/schedule.toml").write_text('cron = "61 * * * *"\n', encoding="utf-8")
    clock.t += H
    d.tick()
    assert len(d.executor.ran) == 4 and any(
        "jobs/score/schedule.toml: cron '61 * * * *': bad minute" in x for x in d.lines
    )
    ended(d)


# real processes -------------------------------------------------------------------------------------------------------

DAEMON = """
import sys
from pathlib import Path
from mlops_nb.core import project as projects
from mlops_nb.job.schedules import daemon
from mlops_nb.job.schedules.schedule_store import Store
p = projects.find(Path.cwd())
clock = Path(sys.argv[1])
d = daemon.Daemon(p, Store(p, clock=lambda: float(clock.read_text())), workers=3)
d.loop(once=len(sys.argv)>2)
"""

WAITS = """import os, pathlib, threading
here = pathlib.Path(root)
if not (here/f'{name}.began').exists():
    (here/f'{name}.began').write_text(str(os.getpid()))
    with open(here/'pipe', 'w') as f: f.write(f'{os.getpid()}\\n')
    threading.Event().wait()
with open(here/f'{name}.done', 'a') as f: f.write(at+'\\n')"""


def process(project, clock_file, *words) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(clock_file), *words],
        cwd=project.root,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes of POSIX")
def test_killed_during_a_run_and_restarted_after_two_missed_fires(project):
    "The acceptance, with real kernels: one success for each fire that the policy keeps"
    policies = ("all", "last", "none")
    pipe, clock_file = project.root / "pipe", project.root / "clock"
    os.mkfifo(pipe)
    for p in policies:
        made(p, f"%%mlops params\nroot = {str(project.root)!r}\nname = {p!r}\nat = ''", WAITS)
        schedule_definition.write(
            project, Schedule(job=p, cron="0 * * * *", catch_up=p, parameters={"name": p, "at": "@datetime"})
        )
    clock = Clock()
    store = Store(project, clock=clock)
    for p in policies:
        store.see(schedule_definition.read(project, p), START)
    clock_file.write_text(str(START + H), encoding="utf-8")
    first = process(project, clock_file)
    fd = os.open(pipe, os.O_RDWR)  # our own end stays open: no end of file between two writers
    said = ""
    while len(said.split()) < 3:
        assert select.select([fd], [], [], 120)[0], (
            first.stderr.read() if first.poll() is not None else "no kernel began"
        )
        said += os.read(fd, 100).decode()
    kernels = [psutil.Process(int(x)) for x in said.split()]
    first.kill()
    first.wait(30)
    first.stderr.close()
    assert {f.status for f in store.fires()} == {"running"}
    clock.t = START + 3 * H + 600  # 02:00 and 03:00 were missed
    d = daemon.Daemon(project, Store(project, clock=clock), workers=3)
    d.loop(once=True)
    d.store.close()
    _, alive = psutil.wait_procs(kernels, timeout=60)
    assert not alive, "the orphans' kernels are gone"
    os.close(fd)
    want = {"all": ["01", "02", "03"], "last": ["01", "03"], "none": ["01"]}
    for p in policies:
        done = (project.root / f"{p}.done").read_text(encoding="utf-8").split()
        assert done == [f"2026-07-01T{h}:00:00+00:00" for h in want[p]], p
        assert {f.id[-6:-4] for f in store.fires(p, "succeeded")} == set(want[p])
        wins = Counter(e.payload.fire for e in ledger.of(project).events(["job.completed"], subject=p))
        assert wins == {f"{p}@2026-07-01T{h}:00Z": 1 for h in want[p]}, "and the ledger says the same"
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM of POSIX")
def test_two_processes_share_the_work_and_sigterm_ends_one(shared):
    made("count", "%%mlops params\nat = ''", "with open('done.txt', 'a') as f: f.write(at+'\\n')")
    clock = Clock()
    schedule_definition.write(
        shared, Schedule(job="count", cron="0 * * * *", catch_up="all", concurrency=2, parameters={"at": "@datetime"})
    )
    store = Store(shared, clock=clock)
    store.see(schedule_definition.read(shared, "count"), START)
    clock_file = shared.root / "clock"
    n = count(3, 12)
    clock_file.write_text(str(START + n * H), encoding="utf-8")
    pair = [process(shared, clock_file, "once") for _ in range(2)]
    for x in pair:
        _, err = x.communicate(timeout=300)
        assert x.returncode == 0, err
    done = (shared.root / "done.txt").read_text(encoding="utf-8").split()
    assert sorted(done) == [f"2026-07-01T{h:02}:00:00+00:00" for h in range(1, n + 1)]
    assert {f.status for f in store.fires()} == {"succeeded"}
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM of POSIX")
def test_the_verb_runs_in_the_foreground_until_sigterm(project):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlops_nb", "job", "scheduler", "--json"]
    x = subprocess.Popen(command, cwd=project.root, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert "scheduler" in x.stderr.readline()
    x.send_signal(signal.SIGTERM)
    out, err = x.communicate(timeout=60)
    assert x.returncode == 0, err
    assert json.loads(out)["verb"] == "job.scheduler" and json.loads(out)["failed"] == 0


def test_a_run_that_takes_too_long_is_stopped(project):
    made("endless", "x = 1", "import threading\nthreading.Event().wait()")
    clock = Clock()
    schedule_definition.write(project, Schedule(job="endless", cron="0 * * * *", timeout_s=0.5))
    d = fresh(project, clock, daemon.Processes(project))
    d.tick()
    clock.t += H
    d.loop(once=True)
    store = Store(project, clock=clock)
    (f,) = store.fires()
    assert f.status == "failed" and f.message == "took longer than 0.5 s"
    store.close()
    assert [e.type for e in ledger.of(project).events(["job.completed"])] == []


class Stopped:
    "An executor whose run is stopped from outside, so that nobody says which it was"

    def __init__(self, project):
        self.project = project

    def start(self, fire, schedule, hold, done):
        told = JobStarted(run=f"{fire.job}-{fire.attempt}", fire=fire.id)
        ledger.record(self.project, told, subject=fire.job)
        done(Outcome(status="failed", message="took longer than 5 s", retry=False))


def test_a_fire_that_timed_out_names_its_run(project):
    clock = Clock()
    job(project, "score", notify=["env:NOT_SET"])
    ledger.record(project, JobStarted(run="by hand"), subject="score")
    d = fresh(project, clock, Stopped(project))
    d.tick()
    clock.t += H
    d.tick()
    d.runs.collect()
    (fire,) = d.store.fires()
    assert (fire.status, fire.run) == ("failed", "score-1")
    (told,) = ledger.of(project).events(["job.fire_failed"])
    assert told.payload.run == "score-1"
    schedule = schedule_definition.read(project, "score")
    said = daemon.notice_of(fire, schedule, Outcome(status="failed", message="too long", run="score-1"))
    assert said.endswith("failed at attempt 1 (run score-1): too long")
    ended(d)


# people ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def webhook():
    "`(url, bodies)` of a server that takes what it is sent"
    got = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            "quiet"

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://user:s3cret@127.0.0.1:{server.server_port}/hook", got
        server.shutdown()


@pytest.fixture
def mailbox():
    "`(url, mails)` of an SMTP server"
    got = []

    class Smtp(socketserver.StreamRequestHandler):
        def handle(self):
            def say(line):
                self.wfile.write(line.encode() + b"\r\n")

            say("220 test")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                if word == "DATA":
                    say("354 go on")
                    got.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                say({"EHLO": "250 test", "QUIT": "221 bye"}.get(word, "250 ok"))
                if word == "QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"mailto://127.0.0.1:{server.server_address[1]}?from=jobs@example.org&to=team@example.org", got
        server.shutdown()


def test_people_are_told_once_by_mail_and_webhook(project, webhook, mailbox, monkeypatch):
    pytest.importorskip("apprise")
    (hook, posts), (mail, mails) = webhook, mailbox
    monkeypatch.setenv("TEAM_HOOK", hook)
    (project.root / "mail.url").write_text(mail + "\n", encoding="utf-8")
    clock = Clock()
    job(project, "score", notify=["env:TEAM_HOOK", "file:mail.url"])
    failed = Outcome(status="failed", message="cell 3 failed: <b>no</b>", retry=False)
    d = fresh(project, clock, Inline(Outcome(status="succeeded"), failed))
    d.tick()
    for _ in range(4):
        clock.t += H
        d.tick()
        d.tick()
    ended(d)
    assert len(posts) == len(mails) == 1, "of a failure only, and once"
    assert "score@2026-07-01T02:00Z failed at attempt 1: cell 3 failed" in posts[0]["message"]
    assert posts[0]["type"] == "failure", "services show bad news as such"
    assert "score" in mails[0] and "team@example.org" in mails[0]
    (told,) = ledger.of(project).events(["job.notified"])
    assert told.payload.told == [Delivery(service=s, ok=True) for s in ("json", "mailto")]
    for kept in (project.root / ".mlops/ledger.db", project.root / ".mlops/schedule.db"):
        assert b"s3cret" not in kept.read_bytes(), "an address with its token stays where it was"


def test_a_notice_that_cannot_be_delivered_is_tried_again(project, monkeypatch):
    pytest.importorskip("apprise")
    clock = Clock()
    job(project, "score", notify=["env:NOT_SET"])
    d = fresh(project, clock, Inline(Outcome(status="failed", message="no", retry=False)))
    d.tick()
    clock.t += H
    for _ in range(12):
        d.tick()
        clock.t += H / 2 if d.executor.ran else 0
        d.executor.outcomes = []
    told = list(ledger.of(project).events(["job.notified"]))
    assert len(told) == 6 and not any(t.ok for e in told for t in e.payload.told)
    ended(d)


def test_a_notice_says_why_it_was_not_delivered(project, monkeypatch):
    pytest.importorskip("apprise")

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_):
            "quiet"

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HOOK", f"json://ann:s3cret-word@{place}/t0ken-in-path")
        (refused,) = notification.send(project, ["env:HOOK"], "title", "body")
        server.shutdown()
    (nobody,) = notification.send(project, [f"json://{place}/t0ken-in-path"], "title", "body")
    assert not refused.ok and "503" in refused.detail and refused.detail != "not delivered"
    assert not nobody.ok and nobody.detail not in ("", "not delivered")
    for told in (refused, nobody):
        assert "s3cret" not in told.detail and "t0ken" not in told.detail and "\n" not in told.detail


@pytest.mark.parametrize("text", ODD)
def test_every_text_of_a_schedule_comes_back_from_its_file(project, text):
    job(project, "score")
    said = Schedule(job="score", cron="0 * * * *", after=text, parameters={text: text, "day": "@date"}, notify=[text])
    schedule_definition.write(project, said)
    assert schedule_definition.read(project, "score") == said


def test_a_schedule_is_written_for_reading(project):
    job(project, "score", cron_line="30 2 * * *", tz="Europe/Berlin", backoff_s=0.5, parameters={"day": "@date-1d"})
    head, *lines = (project.root / "jobs/score/schedule.toml").read_text(encoding="utf-8").splitlines()
    assert head.startswith("# When this job runs")
    assert lines == [
        'cron = "30 2 * * *"',
        'tz = "Europe/Berlin"',
        "backoff_s = 0.5",
        'parameters = {"day" = "@date-1d"}',
    ]


# the verbs ------------------------------------------------------------------------------------------------------------


def test_words(project, cli):
    made("score", "day = '2013-01-01'\nn = 3", "print(day, n)")
    a = cli(
        "job", "schedule", "score", "30 2 * * *", "--tz", "Europe/Berlin", "--retries", "2", "--backoff", "30", "--json"
    )
    assert a.exit == 0 and len(a.json["next"]) == 5 and a.json["path"] == "jobs/score/schedule.toml", a
    assert all(t[11:16] == "02:30" or t[11:16] == "03:00" for t in a.json["next"])
    assert cli("job", "calendar", "--json").json["schedules"][0]["when"] == "30 2 * * *"
    for words, said in {
        ("61 * * * *",): "bad minute",
        ("* * * *",): "has 4 fields, not 5",
        ("@daily", "--tz", "Mars/Olympus"): "no time zone",
        ("@daily", "--retries", "-1"): "retries=-1: expected a number from 0 up",
        ("@daily", "--catch-up", "some"): "is none of last, all, none",
        ("@daily", "-p", "m=3"): "has no parameter `m`",
        ("@daily", "--after", "scores"): "did you mean `score`?",
        (): "neither a cron line nor --after",
        ("@daily", "--notify", "slak://x"): "is no service",
    }.items():
        b = cli("job", "schedule", "score", *words)
        assert b.exit == 2 and said in b.err and len(b.err.strip().split("\n")) == 1, (words, b)
    for bad in ("../score", "a/b", ""):
        assert cli("job", "schedule", bad, "@daily").exit == 2
    assert sorted(p.name for p in project.root.iterdir()) == [
        ".gitignore",
        ".mlops",
        "jobs",
        "mlops.toml",
        "score.ipynb",
    ]
    before = (project.root / "jobs/score/schedule.toml").read_bytes()
    assert cli("job", "schedule", "score", "@daily", "--dry-run").exit == 0
    assert (project.root / "jobs/score/schedule.toml").read_bytes() == before
    jobs.convert(Path("score.ipynb"))
    assert (project.root / "jobs/score/schedule.toml").read_bytes() == before, "converting again keeps the schedule"
    assert cli("job", "pause", "score").exit == 0 and cli("job", "calendar", "--json").json["next"] == []
    assert cli("job", "unpause", "score").exit == 0 and cli("job", "unschedule", "score").exit == 0
    assert cli("job", "unschedule", "score").exit == 2


def test_what_a_reader_of_the_calendar_could_miss_is_said(project, cli, monkeypatch):
    job(project, "score")
    a = cli("job", "schedule", "score", "* * * * *", "--notify", "env:NOT_HERE")
    assert (
        a.exit == 0
        and "notify 'env:NOT_HERE': the environment variable is not set: the daemon that tells needs it" in a.out
    ), a
    monkeypatch.setenv("NOT_HERE", "json://127.0.0.1:9/")
    assert "daemon that tells" not in cli("job", "schedule", "score", "* * * * *", "--notify", "env:NOT_HERE").out
    assert "no further than the first 1,000 fires" in cli("job", "calendar").out
    cli("job", "schedule", "score", "0 3 * * *")
    said = cli("job", "calendar").out
    assert "no further" not in said and "  1 fire " in said


def test_panels_are_small_and_escaped(project):
    for k in range(12):
        job(project, f"job{k}", "*/5 * * * *" if k % 2 else "@daily")
    s = schedule_verbs._store(project)
    with s.backend.transaction() as run:
        for k in range(40):
            FireRows(run, s.key).add("job1", int(START) + k * 60, "failed", "<script>alert(1)</script>" * 5)
    s.close()
    c = jobs.calendar(days=14)
    html = c.panel().html()
    assert len(html.encode()) < LIMIT and "<script>" not in html and "&lt;script&gt;" in html
    assert "1 FAILING" in str(c) and str(c).split("\n")[-1] == "next: mlops up"


def test_the_url_of_a_store_keeps_its_password(project, cli):
    pytest.importorskip("psycopg")
    made("score", "n = 3", "print(n)")
    project.pin("stores", "schedule", "postgresql://mlops:s3cret@127.0.0.1:1/x")
    a = cli("job", "calendar")
    assert a.exit == 4 and "s3cret" not in a.err and len(a.err.strip().split("\n")) == 1, a
    project.pin("stores", "schedule", "mysql://mlops:s3cret@h/x")
    a = cli("job", "calendar")
    assert a.exit == 2 and "s3cret" not in a.err
    assert not (project.root / ".mlops" / "schedule.db").exists()
