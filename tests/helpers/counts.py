"""How often a property is tried: `make test` is quick, `make prove` (MLOPS_PROVE=1) runs the full counts."""

import os

FULL = os.environ.get("MLOPS_PROVE") == "1"


def count(reduced: int, full: int) -> int:
    "`full` under `make prove`, else `reduced`"
    return full if FULL else reduced
