"""Cells that do what cells should not: each leaves a run that ended, one line that says how, and a notebook that can be read."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlops_nb import job as jobs
from mlops_nb.core import warm
from helpers.job_runs import failed_run, job, nb, texts

pytestmark = pytest.mark.skipif(not warm.supported(), reason="needs fork and sockets that say who calls")


def test_a_child_that_a_cell_forks_ends_with_the_cell(project):
    "It must not run the rest of the notebook, tell the supervisor, or save anything"
    job(
        "forks",
        "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: print('child')",
        "open('ran', 'a').write(str(pid > 0)) and None",
        "pid = os.fork()\nif not pid: raise ValueError('child')\nos.waitpid(pid, 0) and None",
        "open('ran', 'a').write(' after') and None",
    )
    r = jobs.run("forks")
    assert r.ok and Path("ran").read_text(encoding="utf-8") == "True after" and "child\n" in texts(r.output)
    assert all(c.cached for c in jobs.run("forks", resume=r.run).cells)


def test_workers_of_a_pool_end_without_a_word(project):
    "What stops the run (SIGTERM raises KeyboardInterrupt in it) is no business of children"
    job(
        "pool",
        "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, 2]))\np.join()",
    )
    assert texts(jobs.run("pool").output) == "[1, 2]\n"


TOLD_AT_BIRTH = """
import os, signal, sys
def interrupt(*_): raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupt)
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # before anything else in the child
from mlops_nb.core import processes
processes.plain_signals_in_children(signal.SIGTERM)
pid = os.fork()
if not pid: os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_a_child_that_is_told_to_end_at_birth_ends():
    "A pool that ends right away tells workers that have not begun: whom the signal passed by would be waited for for ever"
    done = subprocess.run([sys.executable, "-c", TOLD_AT_BIRTH], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == (f"{-signal.SIGTERM} set()\n", "")


def test_half_a_character_is_told_and_kept_whole(project):
    "Names of files in another encoding bring them: no JSON holds them"
    job("half", "name = b'caf\\xe9.csv'.decode(errors='surrogateescape')", "print(name)", "name", "late = 1/0")
    run = failed_run("half")
    job("half", "name = b'caf\\xe9.csv'.decode(errors='surrogateescape')", "print(name)", "name", "raise OSError(name)")
    with pytest.raises(Exception, match=r"OSError: caf\?.csv"):
        jobs.run("half", resume=run)
    out = max((project.state / "runs").glob("half-*/half.ipynb"), key=lambda p: p.stat().st_mtime_ns)
    assert "caf?.csv\n" in texts(out)


def test_a_folder_that_is_gone_stops_no_run(project):
    gone = "import os, tempfile\nos.chdir(tempfile.mkdtemp())\nos.rmdir(os.getcwd())"
    job("gone", gone, "print('went on')")
    r = jobs.run("gone")
    assert "went on\n" in texts(r.output)
    assert [c.cached for c in jobs.run("gone", resume=r.run).cells] == [False, True], (
        "no folder to go back to: it is made again"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_command_that_says_nothing_leaves_no_output(project):
    job("quiet", "!true", "print(_exit_code)")
    r = jobs.run("quiet")
    cells = json.loads(Path(r.output).read_text(encoding="utf-8"))["cells"]
    assert [len(c["outputs"]) for c in cells] == [0, 1] and texts(r.output) == "0\n"
    assert all(c.cached for c in jobs.run("quiet", resume=r.run).cells)


@pytest.mark.parametrize(
    "stem, name", [("Ünï çödé 数据", "Uni-code"), ("Straße 1", "Strasse-1"), ("数据", "job"), ("a (copy)", "a-copy")]
)
def test_a_name_from_a_notebook_of_another_alphabet(project, stem, name):
    Path(f"{stem}.ipynb").write_text(json.dumps(nb("größe = 3", "print(größe)")), encoding="utf-8")
    assert jobs.convert(Path(f"{stem}.ipynb")).name == name


def test_a_disk_that_fills_costs_the_resume_and_not_the_run(project):
    "The cell cache stops, and says so; what was saved before still counts"
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))"
    for name, value in (("log", "bytes(range(256))*1000"), ("block", "np.arange(30_000)")):
        cells = ["import numpy as np\nx = 3", full, f"y = {value}", "print(len(y)*x)"]
        job(name, *cells)
        r = jobs.run(name)
        assert r.ok and str(len(eval(value, {"np": np})) * 3) in texts(r.output)
        assert ["cell 2: from here on nothing is saved for a resume: File too large"] == r.remarks
        assert not [p for p in (project.state / "blocks").rglob(".*") if p.is_file()], "nothing half-written is left"
        assert [c.cached for c in jobs.run(name, resume=r.run).cells] == [True, True, False, False]


def test_a_notebook_is_no_job_and_the_way_is_told(project, cli):
    Path("my data.ipynb").write_text(
        json.dumps(nb("!true", "assert not _exit_code", "x = 3", "print(x)")), encoding="utf-8"
    )
    a = cli("job", "check", "my data.ipynb")
    assert "_exit_code" not in a.out and "next: mlops job convert 'my data.ipynb'" in a.out
    a = cli("job", "run", "my data.ipynb")
    assert (
        a.exit == 2 and "is a notebook; jobs have names; make a job of it: mlops job convert 'my data.ipynb'" in a.err
    )
    jobs.convert(Path("my data.ipynb"), "my")
    a = cli("job", "run", "../my.ipynb")
    assert a.exit == 2 and "is a notebook; jobs have names; write `my`" in a.err
    a = cli("--project", ".", "job", "list")
    assert (
        a.exit == 2
        and a.err == "mlops: `--project` stands before the verb; write it behind: mlops AREA VERB --project\n"
    )
