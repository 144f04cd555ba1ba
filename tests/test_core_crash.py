"""The ledger under kill -9: what was acknowledged is there, and every crash leaves all of an act or nothing."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
from helpers.counts import count
from helpers.ledgers import make
from mlops_nb.core import ledger

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no SIGKILL and no fork")

WRITER = """
import sys
from mlops_nb.core.ledger import Ledger, New
log, n = Ledger(sys.argv[1]), 0
while True:
    size = n%3+1
    events = log.append_many([New('run.completed', f'{sys.argv[2]}@{n+k}', {'text':'x'*(n%97)*20}) for k in range(size)])
    for e in events: sys.stdout.write(f'{e.seq} {e.subject}\\n')
    sys.stdout.flush()
    n += size
"""


def test_kill_9_loses_no_acknowledged_entry(tmp_path):
    "Two writers acknowledge over a pipe; both are killed after some acknowledgement, in whatever they are doing"
    r, acknowledged = random.Random(9), 0
    made = make(tmp_path, entries=0, signed=())
    for trial in range(count(4, 100)):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, made.path, f"t{trial}w{k}"], stdout=subprocess.PIPE)
            for k in (0, 1)
        ]
        lines = [writers[0].stdout.readline() for _ in range(r.randrange(1, 60))]
        for w in r.sample(writers, 2):
            w.send_signal(signal.SIGKILL)
        lines += [x for w in writers for x in w.stdout.read().splitlines(keepends=True)]
        assert [w.wait(60) for w in writers] == [-signal.SIGKILL] * 2
        for w in writers:
            w.stdout.close()
        stored = {seq: json.loads(h)["subject"] for seq, h, *_ in made.rows()}
        for line in lines:
            seq, _, subject = line.decode().rstrip("\n").partition(" ")
            if line.endswith(b"\n"):
                acknowledged += 1
                assert stored[int(seq)] == subject
        v = made.verify()
        assert v.ok and v.entries == len(stored) and sorted(stored) == list(range(len(stored)))
    assert acknowledged >= count(4, 100)


STEPS = """
import os, signal, sys
from mlops_nb.core.ledger import Ledger, New
sys.path.insert(0, sys.argv[3])
from helpers.ledgers import Key
path, what = sys.argv[1], sys.argv[2]
def act(log):
    if what=='append': log.append_many([New('run.completed', f'new@{n}', {'n':n}) for n in range(3)])
    if what=='redact': log.redact(2, 'asked')
    if what=='checkpoint': log.checkpoint(Key(7))
def killed(at):
    "Do it in a child that kills itself at its n-th statement; was there one?"
    pid = os.fork()
    if not pid:
        seen = 0
        def trace(statement):
            nonlocal seen
            if seen==at: os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        log = Ledger(path)
        log.db.set_trace_callback(trace)
        act(log)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])==-signal.SIGKILL
at = 0
while killed(at):
    at += 1
    log = Ledger(path)
    v = log.verify()
    print(v.ok, v.entries, v.signed, log.event(2).payload is None)
    log.close()
print('steps', at)
"""


@pytest.mark.parametrize("what", ["append", "redact", "checkpoint"])
def test_kill_at_every_statement_leaves_all_or_nothing(what, tmp_path):
    made = make(tmp_path, entries=6, signed=())
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", STEPS, made.path, what, here], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    states = [tuple(x.split()) for x in lines]
    sizes = [int(n) for _, n, *_ in states]
    assert len(states) == int(last.split()[1]) >= {"append": 8, "redact": 6, "checkpoint": 3}[what]
    assert all(ok == "True" for ok, *_ in states)
    if what == "append":
        assert all((n - 6) % 3 == 0 for n in sizes), "three entries, or none"
    if what == "redact":
        assert all((gone == "True") == (int(n) > 6) for _, n, _, gone in states), "blanked and said, or neither"


CHILD_STAYS = """
import os, sys
from mlops_nb.core.ledger import Ledger
log = Ledger(sys.argv[1])
log.append('run.completed', 'parent')
go,said = os.pipe(),os.pipe()
pid = os.fork()
if not pid:
    log.append('run.completed', 'child, first')
    os.write(said[1], b'1')
    os.read(go[0], 1)
    print(log.append('run.completed', 'child, after the parent let go').seq, flush=True)
    os.kill(os.getpid(), 9)
os.read(said[0], 1)
log.close()
os.write(go[1], b'1')
os.waitpid(pid, 0)
"""


def test_a_parent_that_lets_go_takes_nothing_from_its_child(tmp_path):
    "The last close of a parent removes the write-ahead log, unless SQLite knows that a child uses it"
    made = make(tmp_path, entries=0, signed=())
    done = subprocess.run(
        [sys.executable, "-c", CHILD_STAYS, made.path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert [json.loads(h)["subject"] for _, h, *_ in made.rows()][
        2
    ] == "child, after the parent let go" and made.verify().ok


def test_an_open_bracket_stays_visible(project, cli):
    "A job that is killed leaves `job.started` without an end: a finding, not a silence"
    code = (
        "import os; from mlops_nb.core import ledger, project; from mlops_nb.job.events import JobStarted\n"
        "with ledger.bracket(project.find(), JobStarted(), subject='score'): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project.root, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [e.type for e in ledger.of(project).events("job.*")] == ["job.started"]
    assert cli("audit", "verify", "--json").exit == 0
