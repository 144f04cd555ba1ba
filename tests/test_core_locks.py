"""One lock, one way to start and end a process, one way to replace a file: what they promise, and that nobody has their own"""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.counts import count
from mlops_nb.core import locks, process_identity, processes
from mlops_nb.core.project import replacing, write_text

PACKAGE = Path(__file__).resolve().parents[1] / "mlops_nb"
ONCE = {  # call -> the room that alone makes it
    "flock": "core/locks.py",
    "replace": "core/project.py",
    "setsid": "core/processes.py",
    "killpg": "core/processes.py",
    "start_new_session": "core/processes.py",
}


def calls(tree: ast.Module) -> set[str]:
    "What of the above a module calls: functions of `os` and `fcntl`, and the keyword of Popen"
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        found |= {keyword.arg for keyword in node.keywords if keyword.arg == "start_new_session"}
        callee = node.func
        if isinstance(callee, ast.Attribute) and getattr(callee.value, "id", "") in ("os", "fcntl"):
            found.add(callee.attr)
    return found


@pytest.mark.parametrize("call", ONCE)
def test_each_is_done_in_one_room(call):
    rooms = {
        module.relative_to(PACKAGE).as_posix()
        for module in PACKAGE.rglob("*.py")
        if call in calls(ast.parse(module.read_text(encoding="utf-8")))
    }
    assert rooms == {ONCE[call]}


def run(code: str, *args: object, **options) -> subprocess.Popen:
    words = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=processes.environment(), **options)


# locks ----------------------------------------------------------------------------------------------------------------

COUNTS = """
import sys
from pathlib import Path
from mlops_nb.core import locks
at = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with locks.alone(at / "lock"):
        n = int((at / "n").read_text())
        (at / "n").write_text(str(n + 1))
"""


def test_nobody_loses_what_they_counted(tmp_path):
    (tmp_path / "n").write_text("0")
    each = count(200, 2000)
    running = [run(COUNTS, tmp_path, each) for _ in range(3)]
    assert [p.wait(120) for p in running] == [0] * 3
    assert (tmp_path / "n").read_text() == str(3 * each)


REMOVED = """
import os, sys
from mlops_nb.core import locks
at, meeting = sys.argv[1:]
for _ in range(int(300)):
    fd = locks.take(at, wait=True)
    os.close(os.open(meeting, os.O_CREAT | os.O_EXCL))  # fails where two are in here
    os.unlink(meeting)
    os.unlink(at)
    os.close(fd)
"""


def test_a_lock_file_may_be_removed_by_its_holder(tmp_path):
    "Who waited on the file that is gone now waits on the one that lies there"
    running = [run(REMOVED, tmp_path / "lock", tmp_path / "inside") for _ in range(2)]
    assert [p.wait(120) for p in running] == [0, 0]


def test_who_only_looks_turns_nobody_away(tmp_path):
    looks = "import sys; from mlops_nb.core import locks; print('looks', flush=True)\nwhile True: locks.is_held(sys.argv[1])"
    os.close(locks.take(tmp_path / "lock"))
    looking = [run(looks, tmp_path / "lock") for _ in range(2)]
    try:
        assert [p.stdout.readline() for p in looking] == ["looks\n"] * 2
        for _ in range(count(300, 3000)):
            mine = locks.take(tmp_path / "lock")
            assert mine is not None
            os.close(mine)
    finally:
        for p in looking:
            p.kill()
            p.communicate()


def test_a_lock_lives_as_long_as_the_last_process_that_inherited_it(tmp_path):
    fd = locks.take(tmp_path / "lock")
    code = "import os; pid = os.fork(); print(pid or os.getpid(), flush=True) if pid else input()"
    leader = processes.start(
        [sys.executable, "-c", code], keep=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.close(fd)
    child = int(leader.stdout.readline())
    who = process_identity.of(child)
    assert leader.wait(60) == 0 and locks.is_held(tmp_path / "lock"), "its leader is gone, the child is not"
    leader.stdin.close()
    assert processes.wait(who, 60) and not locks.is_held(tmp_path / "lock")
    leader.stdout.close()


def test_a_file_system_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with locks.held(tmp_path / "lock") as one, locks.held(tmp_path / "lock") as two:
        assert one is not None and two is not None and not locks.is_held(tmp_path / "lock")


# processes ------------------------------------------------------------------------------------------------------------

FAMILY = """
import os, signal, sys
deaf = sys.argv[1] == "deaf"
if deaf: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if not child and sys.argv[2] == "apart": os.setsid()
if child: print(child, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", ["polite", "deaf"])
@pytest.mark.parametrize("where", ["with it", "apart"])
def test_a_family_is_stopped(how, where):
    "The group, or all that descends from a process: also what left its group"
    family = processes.start([sys.executable, "-c", FAMILY, how, where], stdout=subprocess.PIPE, text=True)
    child = process_identity.of(int(family.stdout.readline()))
    family.stdout.close()
    tree = where == "apart"
    assert processes.stop(process_identity.of(family.pid), 0.1 if how == "deaf" else 60, tree=tree)
    assert family.wait(60) == -(signal.SIGKILL if how == "deaf" else signal.SIGTERM)
    if tree and how == "polite":  # asked, and ended in time: nobody is ended the hard way
        processes.stop(child, 60)
    assert processes.wait(child, 60)


def test_the_number_of_another_process_is_not_signalled(tmp_path):
    child = processes.start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = process_identity.of(child.pid)
    host, pid, start = who.split(":")
    for other in (f"{host}:{pid}:{int(start) - 1}", f"elsewhere:{pid}:{start}"):
        assert not processes.signal_group(other, signal.SIGKILL)
    assert child.poll() is None
    child.communicate(b"\n")
    assert child.returncode == 0 and not processes.signal_group(who, signal.SIGKILL)


def test_waiting_without_descriptors_of_processes(monkeypatch):
    "An older kernel: it is asked again and again"
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = processes.start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = process_identity.of(child.pid)
    assert not processes.wait(who, 0.05)
    child.communicate(b"\n")
    assert processes.wait(who, 60)


# files ----------------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from mlops_nb.core.project import replacing
with replacing(Path(sys.argv[1])) as work:
    work.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    at = tmp_path / "report"
    at.write_text("whole")
    assert run(KILLED, at).wait(60) == -signal.SIGKILL
    assert at.read_text() == "whole"


def test_a_folder_that_cannot_take_the_place_leaves_the_old_one(tmp_path, monkeypatch):
    at = tmp_path / "site"
    (at / "old").mkdir(parents=True)
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: real(a, b) if Path(a).name == "site" else fails(a, b))

    def fails(a, b):
        if not str(a).endswith(".old"):
            raise OSError(28, "no space")
        real(a, b)

    with pytest.raises(OSError, match="no space"), replacing(at) as work:
        (work / "new").mkdir(parents=True)
    assert [p.name for p in tmp_path.iterdir()] == ["site"] and [p.name for p in at.iterdir()] == ["old"]


@pytest.mark.parametrize("mode, umask, kept", [(None, 0o027, 0o640), (0o600, 0, 0o600), (0o666, 0o077, 0o666)])
def test_modes(tmp_path, mode, umask, kept):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x", "x", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == kept


def test_a_link_is_replaced_and_not_what_it_names(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "kept"
