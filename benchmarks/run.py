"""Measure every figure that the project states, and write them to benchmarks/README.md.

    python benchmarks/run.py [--peers PYTHON]

PYTHON is the interpreter of an environment in which the libraries that are compared with are installed; each part runs
in a process of its own. Run it on a machine that does nothing else.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
MARK = "<!-- figures -->\n"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(HERE.parent / "src"),
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def part(python: str, script: str, *arguments: str) -> Any:
    """What one of the scripts prints, run by this interpreter."""
    command = [python, str(HERE / script), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout[done.stdout.rindex("\n") + 1 :] if "\n" in done.stdout else done.stdout)


def start_up(*arguments: str) -> float:
    """The median time of a command of ours over nine runs, in seconds, the interpreter's start included."""
    command = [sys.executable, "-c", "from camlucida.cli import main; main()", *arguments]
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def figures(peers: str) -> list[tuple[str, str, str]]:
    """Rows of the table: what, limit, measured."""
    grad_cam = part(peers, "grad_cam.py")
    rows = []
    for name, ratio in grad_cam["ratios"].items():
        if name != "predict_on_batch":
            limit = "1.05" if name == "camlucida" else ""
            rows.append((f"Grad-CAM, Xception, batch 8, over `predict_on_batch`: {name}", limit, f"{ratio:.2f}"))
    rows += [(f"the same: {name}", "", f"not measured ({why})") for name, why in grad_cam["missing"].items()]
    rows.append(("new traces for ten classes in turn, batches of 8, 5 and 1", "0", str(grad_cam["new traces"])))
    ratio = part(sys.executable, "score_cam.py", "time")
    rows.append(("Score-CAM, MobileNet 0.75, 768 channels, over 24 forward passes of 32", "1.15", f"{ratio:.2f}"))
    more, less = (part(sys.executable, "score_cam.py", channels) for channels in ("768", "64"))
    rows.append(("Score-CAM, peak memory for 768 channels less that for 64", "300 MB", f"{more - less:.0f} MB"))
    rows += [(f"`camlucida {name}`", "0.4 s", f"{start_up(name):.2f} s") for name in ("--help", "methods")]
    return rows


def main(peers: Annotated[str, typer.Option(help="Interpreter with the libraries to compare with.")] = "") -> None:
    """Measure, print and write."""
    rows = figures(peers or sys.executable)
    lines = ["| figure | at most | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    text = "\n".join(lines) + f"\n\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.\n"
    typer.echo(text)
    readme = HERE / "README.md"
    head, _, _ = readme.read_text(encoding="utf-8").partition(MARK)
    readme.write_text(head + MARK + text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
