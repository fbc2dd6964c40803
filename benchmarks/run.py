"""Measure every figure that the project states, and write them to benchmarks/README.md.

    python benchmarks/run.py [--peers DIR]

DIR is an environment (`python -m venv`) in which the libraries that are compared with are installed. Each part runs in
a process of its own. Run it on a machine that does nothing else.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from processes import HERE, Row, answer

MARK = "<!-- figures -->\n"
PARTS = {
    "Grad-CAM over a plain forward pass of the same batch of 8": (
        ("grad_cam_keras.py", "tensorflow"),
        ("grad_cam_keras.py", "jax"),
        ("grad_cam_keras.py", "torch"),
        ("grad_cam_torch.py", "beside peers"),
        ("grad_cam_xception.py", "beside peers"),
    ),
    "CAM over a plain pass of onnxruntime on the same batch of 8": (("cam_onnx.py", ""),),
    "Twelve methods x three targets, maps at image size, over a plain forward pass of the same batch of 8": (
        ("family.py", "beside peers"),
    ),
    "Methods that alter activations or mask the input": (("probing.py", ""),),
    "Score-CAM, 768 channels": (("score_cam.py", ""),),
    "Metrics": (("grading.py", ""), ("imputation.py", "")),
    "Peak memory of Grad-CAM over that of a forward pass without gradients": (("memory.py", ""),),
    "A thousand calls in a row": (("calls.py", ""),),
    "Start": (("start_up.py", ""),),
}
"""Tables, with the scripts that measure them and the backend of Keras, or that others are measured beside it."""


def rows(script: str, how: str, peers: str) -> list[Row]:
    """What a script measured; one that fails says why itself, and its row that it failed."""
    try:
        if how == "beside peers":
            return answer(script, python=peers)
        return answer(script, backend=how or "tensorflow")
    except subprocess.CalledProcessError:
        return [(f"`{script}` {how}", "", "FAILED")]


def tables(peers: str) -> Iterator[str]:
    """Each table in Markdown, once it is measured."""
    for title, scripts in PARTS.items():
        found = [row for script, how in scripts for row in rows(script, how, peers)]
        lines = [f"| {title} | at most | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in found)]
        yield "\n".join(lines) + "\n"


def main(
    peers: Annotated[Path | None, typer.Option(help="Environment with the libraries to compare with.")] = None,
) -> None:
    """Measure and print; write, unless something failed."""
    python = sys.executable if peers is None else str(peers / "bin" / "python")
    if not Path(python).exists():
        raise typer.BadParameter(f"there is no {python}; give the folder that `python -m venv` made")
    measured = []
    for table in tables(python):
        typer.echo(table)
        measured.append(table)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.\n"
    typer.echo(machine)
    text = "\n".join([*measured, machine])
    if "FAILED" in text:
        raise typer.Exit(1)
    readme = HERE / "README.md"
    head, _, _ = readme.read_text(encoding="utf-8").partition(MARK)
    readme.write_text(head + MARK + text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
