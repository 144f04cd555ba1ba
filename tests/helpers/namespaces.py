"""Namespaces of Linux: whether this user may have one, and one with nothing but loopback

in which every Python process tells of each address that it wants to reach."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.places import ROOT

WATCH = """
import os, sys

def _tell(event, args):
    if event == 'socket.getaddrinfo': who = args[0]
    elif event in ('socket.gethostbyname', 'socket.gethostbyaddr'): who = args[0]
    elif event in ('socket.connect', 'socket.sendto') and isinstance(args[1], tuple): who = args[1][0]
    else: return
    who = who.decode() if isinstance(who, bytes) else who
    if who in (None, '', 'localhost', '::1', '0.0.0.0', os.uname().nodename) or str(who).startswith('127.'): return
    with open(SEEN, 'a') as f: f.write(f'{event} {args[1:] if len(args) > 1 else args} {sys.argv[:3]}\\n')

sys.addaudithook(_tell)

def _here(how='started'):
    with open(SEEN+'.processes', 'a') as f: f.write(f'{os.getpid()} {how} {sys.argv[:2]}\\n')

_here()
os.register_at_fork(after_in_child=lambda: _here('forked'))
"""
UP = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))"  # SIOCSIFFLAGS: lo up


@functools.cache
def may_mount() -> str:
    "Empty, or why a mount namespace is not permitted"
    if not shutil.which("unshare"):
        return "unshare is not installed"
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"a mount namespace is not permitted: {done.stderr.strip()}"


@functools.cache
def may_unshare() -> str:
    "Empty, or why a network namespace is not permitted"
    if not shutil.which("unshare"):
        return "unshare is not installed"
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", UP], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"a network namespace is not permitted: {done.stderr.strip()[-200:]}"


def watched(env: dict, folder: Path) -> dict:
    "The environment with every Python process of it telling what it reaches for, in `folder`/seen"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"SEEN = {str(folder / 'seen')!r}\n{WATCH}")
    return env | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def alone(
    words: list[str], where: Path, env: dict, timeout: float = 300, told: str = ""
) -> subprocess.CompletedProcess:
    "Run a command with loopback only; `told` is its standard input"
    script = f'"{sys.executable}" -S -c "{UP}" && exec "$@"'
    return subprocess.run(
        ["unshare", "-n", "sh", "-ec", script, "sh", *words],
        cwd=where,
        env=env,
        input=told,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def in_namespace(script: str, commands: list, folder: Path) -> list:
    "Answers of the commands, run in `folder` after `script` has changed the mounts"
    shell = f'{script}\ncd "$1" && exec "$2" "$3"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", shell, "sh", folder, sys.executable, ROOT / "tests/helpers/verb_runs.py"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
