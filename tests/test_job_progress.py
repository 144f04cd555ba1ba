"""How far long work is, as somebody sees it on a terminal: which cell runs, which parameters are done, and a clock that goes on."""

import os
import select
import struct
import subprocess
import sys

from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.job_runs import made

fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")

ROOT = Path(__file__).resolve().parents[1]
WAITS = "with open(pipe) as f: f.read()"


class Terminal:
    "What a command writes to its terminal"

    def __init__(self, *words):
        self.fd, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "mlops_nb", *words],
            env=env,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)
        self.seen = ""

    def more(self, wait_s=120) -> bool:
        assert select.select([self.fd], [], [], wait_s)[0], self.seen
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:  # nobody holds the other end any more
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def wait_for(self, *words):
        while not all(w in self.seen for w in words):
            assert self.more(), self.seen

    def left(self) -> str:
        "What stands on the last line after the command has ended"
        while self.more():
            continue
        line = self.seen.replace("\r\n", "\n").split("\n")[-1]
        return line.split("\r")[-1].strip()

    def said(self) -> str:
        "Standard output"
        return self.child.stdout.read()


@contextmanager
def terminal(*words):
    t = Terminal(*words)
    try:
        yield t
    finally:
        t.child.kill()
        t.child.wait()
        t.child.stdout.close()
        os.close(t.fd)


@pytest.fixture
def pipe(project):
    os.mkfifo(project.root / "pipe")
    return project.root / "pipe"


@pytest.mark.parametrize("form", [[], ["--isolated"]], ids=["fork", "kernel"])
def test_a_run_names_the_cell_that_runs(project, pipe, form):
    made(
        "slow",
        f"%%mlops params\npipe = {str(pipe)!r}",
        "md:## Wait for the file",
        WAITS,
        "md:## Count",
        "print(len(pipe))",
    )
    with terminal("job", "run", "slow", *form) as t:
        t.wait_for("job slow:", "1/3", "Wait for the file")
        drawn = t.seen.count("Wait for the file")
        while t.seen.count("Wait for the file") == drawn:  # its clock goes on while the cell does nothing
            assert t.more(), t.seen
        pipe.write_text("go", encoding="utf-8")
        assert t.left() == "", "the bar is taken away"
        assert t.said().startswith("Job slow: COMPLETED") and t.child.wait() == 0


def test_a_backfill_shows_what_is_done(project, pipe):
    made("slow", f"%%mlops params\npipe = {str(pipe)!r}\nmonth = 1", WAITS, "print(month)")
    with terminal("job", "backfill", "slow", "--over", "month=1..3") as t:
        t.wait_for("backfill slow:", "0/3")
        for k in (1, 2):
            pipe.write_text("go", encoding="utf-8")
            t.wait_for(f"{k}/3", f"month={k}")
        pipe.write_text("go", encoding="utf-8")
        assert t.left() == ""
        assert "Backfill of slow: DONE" in t.said() and t.child.wait() == 0
