"""What every benchmark stands on: interleaved rounds, medians, processor and wall time of whole process trees,
the machine and the versions.

A benchmark is a module here whose `main()` gives rows. Both sides of a row ran in turn, in one run, on one machine; trust the ratio of
processor time most, since wall clock and single figures are also the neighbours'."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MLOPS = (
    "from mlops_nb.cli import main; import sys; sys.exit(main(sys.argv[1:]))"  # the console script, without its shebang
)


class NotHere(Exception):
    "This machine lacks what a benchmark is about; its last table stays"


class Spent(NamedTuple):
    "Seconds"

    wall: float
    cpu: float


def shell(*words: str) -> list[str]:
    "The shell form of a verb as a command"
    return [sys.executable, "-c", MLOPS, *words]


def _children_s() -> float:
    "Processor seconds of all ended children; os.times() counts in hundredths"
    try:
        import resource
    except ImportError:  # Windows
        t = os.times()
        return t.children_user + t.children_system
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spent(command: list[str], cwd: str | Path = ROOT, env: dict | None = None) -> Spent:
    "Wall and processor seconds of a command and everything that it starts; raises when it fails"
    before, began = _children_s(), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    wall, cpu = time.perf_counter() - began, _children_s() - before
    if done.returncode:
        raise RuntimeError(f"{command[:4]}: {done.stderr[-800:]}")
    return Spent(wall, cpu)


def timed(call: Callable[[], object]) -> Spent:
    "Wall and processor seconds of a call in this process, its threads included"
    before, began = time.process_time(), time.perf_counter()
    call()
    return Spent(time.perf_counter() - began, time.process_time() - before)


def race(sides: dict[str, Callable[[], Spent]], rounds: int, warm: bool = True) -> dict[str, Spent]:
    "Median of each side, run in turn; a first round that is not counted warms files and caches"
    seen: dict[str, list[Spent]] = {k: [] for k in sides}
    for n in range(rounds + warm):
        for name, side in sides.items():
            got = side()
            if n >= warm:
                seen[name].append(got)
    return {k: Spent(*(statistics.median(x) for x in zip(*v, strict=True))) for k, v in seen.items()}


def measured(code: str, *words: str, cwd: str | Path = ROOT, env: dict | None = None) -> list:
    "What a program in a process of its own prints, as JSON, on its last line"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=cwd, env=env
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return json.loads(done.stdout.splitlines()[-1])


def row(
    name: str, ours: float, peer: float | None, unit: str, note: str, *, digits: int = 3, ratio: float | None = None
) -> dict:
    "One line of the table; the ratio is peer over ours unless it is given, so above 1 is in our favour"
    if ratio is None and peer is not None:
        ratio = peer / ours
    return {
        "name": name,
        "ours": round(ours, digits),
        "peer": None if peer is None else round(peer, digits),
        "ratio": None if ratio is None else round(ratio, 2 if ratio < 10 else 1),
        "unit": unit,
        "note": note,
    }


def at_home(folder: str | Path) -> dict[str, str]:
    "The environment with an empty home, in which Python keeps what it compiled"
    xdg = {f"XDG_{k}_HOME": f"{folder}/.{k.lower()}" for k in ("CONFIG", "CACHE", "DATA", "STATE")}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
        "HOME": str(folder),
        **xdg,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def versions(*packages: str) -> str:
    "`duckdb 1.4.1, feast 0.67.0`"

    def known(p: str) -> str:
        try:
            return version(p)
        except PackageNotFoundError:
            return "not installed"

    return ", ".join(f"{p} {known(p)}" for p in packages)


def machine() -> str:
    "Processor, memory and system in one line"
    cpu, memory = platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        names = [
            x.split(":")[1].strip()
            for x in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if x.startswith("model name")
        ]
        cpu = names[0] if names else cpu
        kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split(maxsplit=2)[1])
        memory = f", {kib / 2**20:.0f} GiB"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} processors{memory}, {platform.system()} {platform.release()}, Python {platform.python_version()}{load}"


def _figure(x) -> str:
    return "-" if x is None else f"{x:,}"


def markdown(rows: list[dict]) -> str:
    "The rows as a table"
    head = "| measured | ours | peer | unit | peer / ours | how |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {r['name']} | {_figure(r['ours'])} | {_figure(r['peer'])} | {r['unit']} | {_figure(r['ratio'])} | {r['note']} |\n"
        for r in rows
    )
