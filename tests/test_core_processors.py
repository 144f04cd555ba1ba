"""The load model charges for the processors that a process may use, not for those of the machine."""

import os
import subprocess
import sys

import pytest

from mlops_nb.core import processors
from mlops_nb.cost import metering


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a processor")
def test_an_affinity_counts():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from mlops_nb.cost import metering; print(metering.modelled_kwh(3600, 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    most = processors.usable() if processors.usable() < 1 else 1
    assert float(done.stdout) == pytest.approx(most * metering.WATT_IDLE / 1000)


def test_a_meter_asks_about_the_process_that_it_measures(monkeypatch):
    asked = []
    monkeypatch.setattr(processors, "usable", lambda pid=0: asked.append(pid) or 2.5)
    monkeypatch.setattr(metering, "_rapl_uj", lambda: None)
    monkeypatch.setattr(metering, "gpu_joule", lambda: None)
    metering.Meter(os.getpid()).read()
    assert asked == [os.getpid()]
    assert metering.modelled_kwh(3600, 0) == pytest.approx(2.5 * metering.WATT_IDLE / 1000)


@pytest.mark.parametrize(
    "told, files, share",
    [
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/../../x\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "300000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, None),
        ("4:memory:/d\n0::/d\n", {"d/cpu.max": "odd\n"}, None),
        ("", {}, None),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, told, files, share):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors.quota(told, tmp_path) == share
