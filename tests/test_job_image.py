"""The image of a job, built for real: no daemon, no registry, no network.

Its base is this very Python, its wheels are what is installed here."""

import csv
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from mlops_nb import job as jobs
from mlops_nb.core.verbs import call
from helpers.job_runs import made

ROOT = Path(__file__).resolve().parents[1]
BASE = "localhost/mlops-nb-base:1"
TOOLS = "sh env install groupadd useradd nologin ls cat mkdir id".split()
UNNEEDED = "__pycache__ test tests idlelib tkinter turtledemo lib2to3 site-packages share include *.a *.pyc python*-config".split()


def why_not() -> str:
    "Why no image can be built here; empty when one can"
    if sys.platform != "linux" or shutil.which("buildah") is None:
        return "no buildah: install it with apt-get install buildah"
    if os.geteuid() != 0:
        return "building without a daemon and without isolation needs root"
    return ""


@pytest.fixture
def buildah(tmp_path):
    "buildah with a store of its own"
    if why := why_not():
        pytest.skip(why)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))} | {"TMPDIR": str(tmp_path)}
    words = [
        "buildah",
        "--storage-driver",
        "vfs",
        "--root",
        str(tmp_path / "root"),
        "--runroot",
        str(tmp_path / "state"),
    ]

    def run(*rest, check=True):
        done = subprocess.run([*words, *map(str, rest)], env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
        return done

    yield run
    run("rm", "--all", check=False)
    run("rmi", "--all", "--force", check=False)


def libraries(files) -> set[str]:
    "Shared libraries that programs need, as the loader finds them"
    done = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True)
    return set(re.findall(r"(/\S+\.so[\d.]*) \(0x", done.stdout))


def root_file_system(at: Path) -> None:
    "A small Linux: a shell, what the Dockerfile calls, and this Python"
    for folder in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "proc", "dev", "sys", "usr/local/bin"):
        (at / folder).mkdir(parents=True)
    for folder in ("bin", "sbin", "lib", "lib64"):
        (at / folder).symlink_to(f"usr/{folder}")
    for folder in ("tmp", "var/tmp"):
        (at / folder).mkdir(parents=True)
        (at / folder).chmod(0o1777)
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    programs = [Path(os.path.realpath(shutil.which(t, path=path))) for t in TOOLS]
    for name, program in zip(TOOLS, programs, strict=True):
        shutil.copy2(program, at / ("usr/sbin" if "sbin" in program.parts else "usr/bin") / name)
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "pam.d", "security"):
        if (source := Path("/etc", name)).is_dir():
            shutil.copytree(source, at / "etc" / name)
        elif source.exists():
            shutil.copy2(source, at / "etc" / name)
    python, prefix = Path(os.path.realpath(sys.executable)), Path(sys.base_prefix)
    shutil.copytree(
        prefix,
        at / prefix.relative_to("/"),
        symlinks=True,
        ignore=shutil.ignore_patterns(*UNNEEDED),
        dirs_exist_ok=True,
    )
    for folder in [at / p for p in prefix.relative_to("/").parents]:
        folder.chmod(0o755)  # where this Python lies in a home, other users may enter it there
    (at / "etc/pip.conf").write_text(
        "[global]\nno-index = true\nfind-links = /wheels\n[install]\nno-compile = true\n", encoding="utf-8"
    )
    for name in ("python", "python3"):
        (at / "usr/local/bin" / name).unlink(missing_ok=True)
        (at / "usr/local/bin" / name).symlink_to(python)
    extensions = list((at / prefix.relative_to("/")).rglob("lib-dynload/*.so"))
    loaded = "libnss_files.so.2 libpthread.so.0 libdl.so.2 librt.so.1 libm.so.6 libutil.so.1 libgcc_s.so.1 libstdc++.so.6 security/pam_*.so"
    late = [
        p
        for name in loaded.split()
        for folder in ("/lib", "/usr/lib")
        for p in Path(folder).glob(f"*-linux-gnu/{name}")
    ]
    for library in libraries([*programs, python, *extensions]) | set(map(str, late)):
        target = at / Path(library).relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(library, target)


def wheel_of(name: str, out: Path) -> None:
    "A wheel of what is installed: its files and a RECORD, as the wheel format says"
    dist = importlib.metadata.distribution(name)
    files = [
        f
        for f in dist.files or []
        if f.suffix != ".pyc" and f.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    ]
    (info,) = {f.parts[0] for f in files if f.parts[0].endswith(".dist-info")}
    tags = [
        line.split(":", 1)[1].strip()
        for line in (dist.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag:")
    ]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*(t.split("-") for t in tags), strict=True))
    rows, stem = [], info.removesuffix(".dist-info")
    with zipfile.ZipFile(out / f"{stem}-{tag}.whl", "w") as z:
        for f in files:
            place = str(f)
            if (
                f.parts[0] == ".."
            ):  # beside the libraries: programs are made again from their entry points, the rest is data
                if "bin" in f.parts:
                    continue
                place = f"{stem}.data/data/" + "/".join(p for p in f.parts if p != "..")
            data = Path(f.locate()).read_bytes()
            z.writestr(place, data)
            rows.append(
                [place, "sha256=" + urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("="), len(data)]
            )
        z.writestr(f"{info}/RECORD", "".join(",".join(map(str, r)) + "\n" for r in [*rows, [f"{info}/RECORD", "", ""]]))


def own_wheel(out: Path, version: str) -> None:
    "This package as a wheel, from the checkout"
    info = f"mlops_nb-{version}.dist-info"
    content = {
        p.relative_to(ROOT).as_posix(): p.read_bytes()
        for p in (ROOT / "mlops_nb").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    content |= {
        f"mlops_nb/{p.relative_to(ROOT).as_posix()}": p.read_bytes()
        for p in (ROOT / "templates").rglob("*")
        if p.is_file()
    }
    content |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mlops-nb\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": (
            b"[console_scripts]\nmlops = mlops_nb.cli:main\n[papermill.engine]\n"
            b"mlops = mlops_nb.job.runs.papermill_plugin:MlopsEngine\n"
        ),
    }
    with zipfile.ZipFile(out / f"mlops_nb-{version}-py3-none-any.whl", "w") as z:
        for place, data in content.items():
            z.writestr(place, data)
        z.writestr(f"{info}/RECORD", "".join(f"{place},,\n" for place in [*content, f"{info}/RECORD"]))


def wheels(lock: list[str], out: Path) -> None:
    out.mkdir()
    for name, version in (x.split("==") for x in lock):
        own_wheel(out, version) if name == "mlops-nb" else wheel_of(name, out)


def test_wheels_of_what_is_installed_hold_all_of_it(tmp_path):
    wheel_of("msgspec", tmp_path)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        rows = list(csv.reader(z.read(next(n for n in names if n.endswith("/RECORD"))).decode().splitlines()))
    assert sysconfig.get_config_var("EXT_SUFFIX") in "".join(names) and {r[0] for r in rows} == set(names)


def test_the_image_builds_and_runs_the_job(project, buildah, tmp_path):
    made("score", "%%mlops params\nn = 3", "import getpass, os\nprint('n is', n, os.getuid(), os.getcwd())")
    call("job.ship", "score", to=["docker"], out=project.root / "build", base=BASE)
    context = project.root / "build/docker"
    lock = (context / "requirements.lock").read_text(encoding="utf-8").split()
    wheels(lock, tmp_path / "wheels")
    root_file_system(tmp_path / "base")
    base = buildah("from", "scratch").stdout.strip()
    buildah("add", "--quiet", base, tmp_path / "base", "/")
    buildah("commit", "--quiet", base, BASE)
    buildah(
        "bud",
        "--isolation",
        "chroot",
        "--pull-never",
        "--format",
        "docker",
        "-v",
        f"{tmp_path / 'wheels'}:/wheels:ro",
        "-t",
        "score:1",
        context,
    )
    about = json.loads(buildah("inspect", "--type", "image", "score:1").stdout)["Docker"]["config"]
    assert (
        about["User"] == "10001:10001"
        and about["Entrypoint"] == ["mlops", "job", "run", "score"]
        and about["Healthcheck"]["Test"][0] == "CMD"
    )
    container = buildah("from", "--pull-never", "score:1").stdout.strip()

    def run(*words, check=True):
        return buildah("run", "--isolation", "chroot", container, "--", *words, check=check)

    answer = json.loads(run(*about["Entrypoint"], "-p", "n=7", "--json").stdout)
    assert answer["status"] == "completed" and answer["form"] == "fork", answer
    told = run("cat", answer["output"]).stdout
    assert "n is 7 10001 /project" in told, "as the user without rights, in the project"
    assert run(*about["Healthcheck"]["Test"][1:]).returncode == 0
    assert "score" in json.loads(run("cat", "/usr/share/sbom/sbom.cdx.json").stdout)["metadata"]["component"]["name"]
    wrong = run(*about["Entrypoint"], "-p", "n=x", check=False)
    assert wrong.returncode == 2 and "n" in wrong.stderr
    assert run("mkdir", "/opt/venv/x", check=False).returncode != 0, "nothing but its state is the user's to write"
    assert jobs.history("score").runs == [], "what runs in the image is recorded there"
