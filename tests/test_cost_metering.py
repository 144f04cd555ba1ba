"""The energy of GPUs: counters of a management library that stands in for NVIDIA's, and the real library without a GPU."""

import os
import sys
import types

import pytest

from mlops_nb import cost
from mlops_nb.core import ledger
from mlops_nb.cost import metering
from mlops_nb.job.events import JobCompleted


@pytest.fixture
def anew(monkeypatch):
    "As on a machine with the driver, before anything was asked"
    monkeypatch.setattr(metering, "_NODES", (os.devnull,))
    metering._nvml.cache_clear()
    yield
    metering._nvml.cache_clear()


def library(counts, fails=()):
    "pynvml with GPUs whose counters, in millijoule, are read from `counts`"

    class NVMLError(Exception):
        pass

    def energy(g):
        if g in fails:
            raise NVMLError("not supported")
        return counts[g]

    return types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(counts),
        nvmlDeviceGetHandleByIndex=lambda n: n,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_the_counters_of_all_gpus_are_added(anew, monkeypatch):
    counts = [1_000_000, 5_000_000]
    monkeypatch.setitem(sys.modules, "pynvml", library(counts))
    monkeypatch.setattr(metering, "_rapl_uj", lambda: None)
    assert metering.gpu_joule() == 6000
    with metering.measure() as used:
        counts[0] += 3_600_000
        counts[1] += 7_200_000
    assert used.energy == "model+nvml"
    assert used.kwh == pytest.approx(0.003 + metering.modelled_kwh(used.seconds, used.cpu_s))
    monkeypatch.setattr(metering, "_rapl_uj", iter([0, 3_600_000_000]).__next__)
    with metering.measure() as used:
        counts[0] += 3_600_000
    assert (used.energy, used.kwh) == ("rapl+nvml", pytest.approx(0.002))


def test_gpus_that_do_not_count_are_left_out(anew, monkeypatch):
    lib = library([1, 2], fails={1})
    monkeypatch.setitem(sys.modules, "pynvml", lib)
    assert metering.gpu_joule() is None
    with metering.measure() as used:
        pass
    assert used.energy in ("model", "rapl")


def test_a_counter_that_goes_away_leaves_the_rest(anew, monkeypatch):
    fails = set()
    monkeypatch.setitem(sys.modules, "pynvml", library([7], fails))
    with metering.measure() as used:
        fails.add(0)
    assert used.energy in ("model", "rapl") and used.kwh > 0


def test_the_real_library_without_a_driver_says_nothing(anew):
    pytest.importorskip("pynvml")
    if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        assert metering.gpu_joule() is None or metering.gpu_joule() > 0
    else:
        assert metering.gpu_joule() is None


@pytest.mark.parametrize(
    "known, measured",
    [(["rapl"], True), (["rapl", "rapl+nvml"], True), (["rapl", "model+nvml"], False), (["model"], False)],
)
def test_energy_is_measured_when_every_counter_was_read(known, measured, project):
    for n, e in enumerate(known):
        done = JobCompleted(run=f"j{n}", usd=0.1, kwh=1.0, seconds=1.0, energy=e)
        ledger.record(project, done, subject="train")
    assert cost.show().measured is measured
