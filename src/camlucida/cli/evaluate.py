"""`camlucida evaluate`: methods by metrics over a data set."""

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camlucida.cli.console import DebugOption, bar, complain, plain, say, say_table
from camlucida.cli.options import (
    BackendOption,
    DeviceOption,
    LabelsOption,
    LayerOption,
    ModelOption,
    PreprocessOption,
    ScoreOption,
    SizeOption,
    WeightsOption,
    check_writable,
    load,
)

if TYPE_CHECKING:
    from camlucida.evaluation import Evaluation


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A folder with a folder per class, a CSV or JSON file, COCO or Pascal VOC annotations.",
        ),
    ],
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
            help="One of `camlucida metrics`; may be repeated. If not given, those that fit the data set.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="T", help="label, top1, or auto: the label where there is one.")
    ] = "auto",
    layer: LayerOption = "auto",
    score: ScoreOption = "auto",
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Where the pictures lie, if not beside the file.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Take the first N images.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of what is drawn at random.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where files go; a run that was stopped goes on there.")
    ] = Path("camlucida-evaluation"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="csv, json, md, html, parquet; may be repeated. If not given, all but parquet.",
        ),
    ] = None,
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    labels: LabelsOption = "auto",
    backend: BackendOption = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON and nothing else.")] = False,
    debug: DebugOption = False,
) -> None:
    """Grade the maps of several methods by several metrics over a data set, null baselines included."""
    from camlucida import datasets, evaluation

    # What can be refused at once is refused before a model is loaded.
    wanted = formats or list(evaluation.USUAL)
    evaluation.check_formats(wanted)
    evaluation.check_words(target, method or evaluation.METHODS, metric or evaluation.METRICS)
    check_writable(out)
    data = datasets.read(dataset, images=images)
    with contextlib.redirect_stdout(sys.stderr):
        loaded = load(model, weights, preprocess, size, labels, backend, device)
        with bar("images") as progress:
            found = evaluation.evaluate(
                loaded,
                data,
                method or evaluation.METHODS,
                metric or None,
                target=target,
                limit=limit,
                out=out,
                seed=seed,
                command=shlex.join(["camlucida", *sys.argv[1:]]),
                before=lambda line: typer.echo(line, err=True),
                progress=progress,
                layer=layer,
                score=score,
            )
        paths = found.save(out, wanted)
    for problem in found.problems:
        complain(problem)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _show(found)
        say(f"\nin {plain(str(out))}: {', '.join(path.name for path in paths)}")
    if found.problems:
        raise typer.Exit(1)


def _show(found: "Evaluation") -> None:
    for ranking in found.rankings:
        say(f"\n[bold]{plain(ranking.metric.label)}[/bold]  ({ranking.metric.metric.better} is better)")
        rows = [
            [str(row.rank or ""), row.method, row.figure, row.interval, _marks(row.tied, row.null)]
            for row in ranking.rows
        ]
        say_table(["", "method", "mean", "95 % interval", ""], rows)
        if ranking.warning:
            say(f"[yellow]{plain(ranking.warning)}[/yellow]")
    for note in found.notes:
        say(f"[dim]note: {plain(note)}[/dim]")


def _marks(tied: bool | None, null: bool) -> str:
    return ", ".join(["within noise of the best"] * bool(tied) + ["explains nothing"] * null)
