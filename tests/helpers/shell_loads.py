"""Which modules a verb of the shell loads."""

import subprocess
import sys
from pathlib import Path

SHELL = """
import sys
sys.argv = ["mlops", *sys.argv[1:]]
before = set(sys.modules)
from mlops_nb import cli
code = cli.main()
print(*sorted(set(sys.modules) - before))
sys.exit(code)
"""


def loaded_by(*words: str, cwd: Path, env: dict | None = None) -> set[str]:
    "Modules that a verb of the shell loads beyond what Python has when it starts"
    command = [sys.executable, "-c", SHELL, *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())
