"""How long commands take that need no model, the interpreter's start included."""

import statistics
import subprocess
import sys
import time

from processes import ENVIRONMENT, Row, tell


def seconds(*arguments: str) -> float:
    """The median time of a command of ours over nine runs, after one that is not counted."""
    command = [sys.executable, "-c", "from camlucida.cli import main; main()", *arguments]
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def rows() -> list[Row]:
    return [(f"`camlucida {name}`", "0.4 s", f"{seconds(name):.2f} s") for name in ("--help", "methods")]


if __name__ == "__main__":
    tell(rows())
