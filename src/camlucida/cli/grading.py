"""`camlucida compare` and `camlucida check`: what is to be said of the maps of one picture."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camlucida.cli.console import DebugOption, bar, plain, say, say_prose, say_table
from camlucida.cli.options import (
    BackendOption,
    DeviceOption,
    LabelsOption,
    LayerOption,
    ModelOption,
    PreprocessOption,
    ScoreOption,
    SizeOption,
    TargetOption,
    WeightsOption,
    check_writable,
    load,
)
from camlucida.errors import RequestError

if TYPE_CHECKING:
    from camlucida.compare import Comparison

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file, or sample:cat.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the document and nothing else.")]


def compare(
    image: ImageArgument,
    model: ModelOption = "cifar10",
    weights: WeightsOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help="One of `camlucida methods`; may be repeated. If not given, several."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="One of `camlucida metrics`; may be repeated. Three if not given.",
        ),
    ] = None,
    target: TargetOption = "top1",
    layer: LayerOption = "auto",
    score: ScoreOption = "auto",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .png, .pdf or .svg.")] = Path("comparison.png"),
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    labels: LabelsOption = "auto",
    backend: BackendOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one picture's maps by many methods side by side, with their grades."""
    from camlucida import images
    from camlucida.compare import METHODS
    from camlucida.compare import compare as compared
    from camlucida.grading import QUICK, settled
    from camlucida.methods import configure

    methods, metrics = method or list(METHODS), metric or list(QUICK)
    settled(metrics)
    for name in methods:
        configure(name)
    _check_file(out)
    picture = images.read(image)
    with contextlib.redirect_stdout(sys.stderr), bar("masked images") as progress:
        loaded = load(model, weights, preprocess, size, labels, backend, device)
        settings: dict[str, Any] = {"target": target, "layer": layer, "score": score, "progress": progress}
        found = compared(loaded, picture, methods, metrics, **settings)
    found.save(out)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _show(found)
        say(f"\nall of them in one picture: {plain(str(out))}")


def check(
    image: ImageArgument,
    model: ModelOption = "cifar10",
    weights: WeightsOption = None,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="One of `camlucida methods`.")] = "grad-cam",
    target: TargetOption = "top1",
    layer: LayerOption = "auto",
    score: ScoreOption = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of weights, classes and noise.")] = 0,
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    labels: LabelsOption = "auto",
    backend: BackendOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask of one map whether it depends on the weights, on the class, and on noise."""
    from camlucida import images
    from camlucida.methods import configure
    from camlucida.sanity import CAVEAT, QUESTIONS
    from camlucida.sanity import check as checked

    configure(method)
    picture = images.read(image)
    with contextlib.redirect_stdout(sys.stderr), bar("masked images") as progress:
        loaded = load(model, weights, preprocess, size, labels, backend, device)
        settings: dict[str, Any] = {"target": target, "layer": layer, "score": score, "progress": progress}
        report = checked(loaded, picture, method, seed=seed, **settings)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    item = report.explanation
    where = f"{plain(item.target.label)} in {plain(item.answer.source)}, at {plain(item.layer)}"
    say(f"\n[bold]{plain(item.method)}[/bold] of {where}  ({plain(item.answer.model)})")
    marks = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "not known"}
    for finding in report.findings:
        say(f"\n{QUESTIONS[finding.question]} {marks[finding.passed]}")
        say_prose(finding.words)
    say()
    say_prose(CAVEAT)
    _say_notes(item.notes)


def _check_file(path: Path) -> None:
    """Refuse a file before the work and not after it. Nothing is made yet."""
    from camlucida.compare import check_format

    check_format(path)
    if not path.exists():
        check_writable(path.parent)
    elif path.is_dir():
        raise RequestError(f"cannot write {str(path)!r}: it is a folder; name a file")
    elif not os.access(path, os.W_OK):
        raise RequestError(f"cannot write {str(path)!r}: permission denied")


def _show(found: "Comparison") -> None:
    from camlucida.compare import explains_nothing, figure
    from camlucida.metrics import configure

    first = found.explanations[0]
    say(f"\n[bold]{plain(first.answer.source)}[/bold]  {plain(first.target.label)}  ({plain(first.answer.model)})\n")
    pairs = list(zip(found.explanations, found.grades, strict=True))
    rows = [
        [item.method, item.layer, *map(figure, grades.values()), "explains nothing" * explains_nothing(item.method)]
        for item, grades in pairs
    ]
    say_table(["method", "layer", *found.grades[0], ""], rows)
    say()
    for better in ("high", "low"):
        if names := [name for name in found.grades[0] if configure(name).metric.better == better]:
            say(f"{better} is better: {plain(', '.join(names))}")
    _say_notes(note for item, grades in pairs for note in (*item.notes, *grades.notes))


def _say_notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        say(f"[dim]note: {plain(note)}[/dim]")
