"""Cells that do what cells should not: each leaves a run that ended, one line that says how, and a notebook that can be read."""

import json
import sys
from pathlib import Path

import pytest

from mlops_nb import job as jobs
from mlops_nb.core import warm
from test_job_convert import nb
from test_job_resume import failed_run, job
from test_job_run import texts

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
    job("pool", "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, 2]))\np.join()")
    assert texts(jobs.run("pool").output) == "[1, 2]\n"


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
    assert [c.cached for c in jobs.run("gone", resume=r.run).cells] == [False, True], "no folder to go back to: it is made again"


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
