"""Jobs on an NVIDIA GPU: their energy against nvidia-smi's power readings, and resuming with tensors on the GPU.

It needs a GPU from Volta on, PyTorch with CUDA and nvidia-ml-py."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import MLOPS, ROOT, NotHere, row

CELLS = [
    "import os, time, torch\nseconds = 6.",
    "torch.manual_seed(0)\na = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)\nopen('ran', 'a').write('a')",
    "net = torch.nn.Linear(64, 1).cuda()\nopt = torch.optim.SGD(net.parameters(), .01)\nopen('ran', 'a').write('b')",
    (
        "x = a[:, :64].float()\nend = time.time()+seconds\nwhile time.time() < end:\n    for _ in range(20): b = a@a\n"
        "    loss = net(x).square().mean(); opt.zero_grad(); loss.backward(); opt.step(); torch.cuda.synchronize()\n"
        "before = [p.detach().cpu().tolist() for p in net.parameters()]\nopen('ran', 'a').write('c')"
    ),
    "if not os.path.exists('mended'): raise RuntimeError('not mended yet')",
    (
        "after = [p.detach().cpu().tolist() for p in net.parameters()]\n"
        "net(x).sum().backward()\n"
        "print(after == before, a.device.type, all(p.is_cuda for p in net.parameters()), opt.param_groups[0]['params'][0] is net.weight)"
    ),
]
POWER = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms", "50"]


def notebook(at: Path) -> None:
    import nbformat.v4 as v4

    at.write_text(json.dumps(v4.new_notebook(cells=[v4.new_code_cell(c) for c in CELLS])), encoding="utf-8")


def mlops(folder: Path, *words: str) -> subprocess.CompletedProcess:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HOME": str(folder.parent),
    }
    return subprocess.run(
        [sys.executable, "-c", MLOPS, *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def said(done: subprocess.CompletedProcess, exit: int = 0) -> dict:
    if done.returncode != exit:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr[-800:]}{done.stdout[-800:]}")
    return json.loads(done.stdout)


def powered(call) -> tuple[dict, float, float]:
    "What a call gives, the joules that nvidia-smi's power readings sum up to, and its seconds"
    watching = subprocess.Popen(POWER, stdout=subprocess.PIPE, text=True)
    watching.stdout.readline()
    began = time.perf_counter()
    try:
        got = call()
    finally:
        watching.terminate()
    seconds = time.perf_counter() - began
    watts = [float(w) for w in watching.communicate()[0].split()]
    return got, sum(watts) / len(watts) * seconds, seconds


def main() -> list[dict]:
    "Rows for bench/RESULTS.md"
    from mlops_nb.cost import metering

    if metering.gpu_joule() is None:
        raise NotHere("no NVIDIA GPU that counts its energy, or no nvidia-ml-py: pip install 'mlops-nb[gpu]'")
    import pynvml

    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d, "gpu")
        if (made := mlops(Path(d), "init", "gpu")).returncode:
            raise RuntimeError(made.stderr)
        notebook(folder / "g.ipynb")
        if (made := mlops(folder, "job", "convert", "g.ipynb")).returncode not in (0, 1):
            raise RuntimeError(made.stderr)
        first, joules, seconds = powered(lambda: said(mlops(folder, "job", "run", "g", "--json"), 1))
        (folder / "mended").touch()
        again = said(mlops(folder, "job", "run", "g", "--resume", first["run"], "--json"))
        ran = (folder / "ran").read_text()
        output = (
            folder / again["output"] if not Path(again["output"]).is_absolute() else Path(again["output"])
        ).read_text()
    cell = next(c for c in first["cells"] if c["seconds"] > 5)
    began = time.perf_counter()
    for _ in range(200):
        metering.gpu_joule()
    reading = (time.perf_counter() - began) / 200
    truth = '"True cuda True True\\n"' in output
    what = f"{name}, PyTorch; 6 s of 8192 x 8192 bf16 products in a job of {seconds:.1f} s; nvidia-smi every 50 ms over the whole job"
    return [
        row("energy of a job, the GPU's part counted", first["kwh"] * 1000, joules / 3600, "Wh", what),
        row(
            "energy of its cell of products",
            cell["kwh"] * 1000,
            None,
            "Wh",
            f"{cell['kwh'] * 3.6e6 / cell['seconds']:.0f} W on average",
        ),
        row("reading the counter, wall", reading * 1e6, None, "us", "twice a cell", digits=1),
        row(
            "finished cells run again by --resume",
            len(ran) - 3,
            None,
            "cells",
            "tensors, a module and its optimizer lie on the GPU",
            digits=1,
        ),
        row(
            "tensors equal, on the GPU, shared as before",
            int(truth),
            None,
            "1 = yes",
            "printed by the resumed run",
            digits=1,
        ),
    ]


if __name__ == "__main__":
    for r in main():
        print(r)
