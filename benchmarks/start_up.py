"""How long commands take that need no model, with the interpreter's start, and bytecode as installers leave it."""

import statistics
import subprocess
import sys
import tempfile
import time

from processes import ENVIRONMENT, Row, tell


def seconds(cache: str, *arguments: str) -> float:
    """The median time of a command of ours over nine runs, after one that is not counted and leaves its bytecode."""
    environment = {**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
    command = [sys.executable, "-c", "from camlucida.cli import main; main()", *arguments]
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as cache:
        return [(f"`camlucida {name}`", "0.4 s", f"{seconds(cache, name):.2f} s") for name in ("--help", "methods")]


if __name__ == "__main__":
    tell(rows())
