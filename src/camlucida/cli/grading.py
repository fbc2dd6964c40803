"""`camlucida compare` and `camlucida check`: what is to be said of the maps of one picture."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from camlucida.cli.console import DebugOption, plain, say, say_prose, say_table
from camlucida.cli.options import (
    BackendOption,
    LabelsOption,
    LayerOption,
    ModelOption,
    PreprocessOption,
    ScoreOption,
    SizeOption,
    TargetOption,
    WeightsOption,
    load,
)

ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file, or sample:cat.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the document and nothing else.")]


def compare(
    image: ImageArgument,
    model: ModelOption = "cifar10",
    weights: WeightsOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="One of `camlucida methods`; may be repeated. Else a choice."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="One of `camlucida metrics`; may be repeated. Else three."),
    ] = None,
    target: TargetOption = "top1",
    layer: LayerOption = "auto",
    score: ScoreOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png, .pdf or .svg; comparison.png if not given.")
    ] = None,
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    labels: LabelsOption = "auto",
    backend: BackendOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one picture's maps by many methods side by side, with their grades."""
    from camlucida import images
    from camlucida.compare import METHODS, check_format
    from camlucida.compare import compare as compared
    from camlucida.grading import QUICK, settled
    from camlucida.methods import configure

    methods, metrics, path = method or list(METHODS), metric or list(QUICK), out or Path("comparison.png")
    settled(metrics)
    for name in methods:
        configure(name)
    check_format(path)
    picture = images.read(image)
    with contextlib.redirect_stdout(sys.stderr):
        loaded = load(model, weights, preprocess, size, labels, backend)
        found = compared(loaded, picture, methods, metrics, target=target, layer=layer, score=score)
    found.save(path)
    document = found.to_dict()
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    first = found.explanations[0]
    say(f"\n[bold]{plain(first.answer.source)}[/bold]  {plain(first.target.label)}  ({plain(first.answer.model)})\n")
    names = list(document[0]["grades"])
    rows = [[one["method"], one["layer"], *(_figure(one["grades"][name]) for name in names)] for one in document]
    say_table(["method", "layer", *names], rows)
    say(f"\nall of them in one picture: {plain(str(path))}")


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
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask of one map whether it depends on the weights, on the class, and on noise."""
    from camlucida import images
    from camlucida.methods import configure
    from camlucida.sanity import QUESTIONS
    from camlucida.sanity import check as checked

    configure(method)
    picture = images.read(image)
    with contextlib.redirect_stdout(sys.stderr):
        loaded = load(model, weights, preprocess, size, labels, backend)
        settings: dict[str, Any] = {"target": target, "layer": layer, "score": score}
        report = checked(loaded, picture, method, seed=seed, **settings)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    item = report.explanation
    say(f"\n[bold]{plain(item.method)}[/bold] of {plain(item.target.label)} in {plain(item.answer.source)}")
    marks = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "not known"}
    for finding in report.findings:
        say(f"\n{QUESTIONS[finding.question]} {marks[finding.passed]}")
        say_prose(finding.words)


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"
