"""`camlucida explain`: maps of pictures, as files, a table or JSON."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camlucida.cli.console import DebugOption, bar, complain, plain, say, say_table
from camlucida.cli.options import (
    BackendOption,
    DeviceOption,
    LabelsOption,
    ModelOption,
    PreprocessOption,
    ScoreOption,
    SizeOption,
    WeightsOption,
    check_writable,
    load,
)
from camlucida.errors import ImageError, RequestError

if TYPE_CHECKING:
    from camlucida.explanation import Explanation
    from camlucida.explanations import Explanations
    from camlucida.images import Picture


def explain(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Picture files, or sample:cat.")],
    model: ModelOption = "cifar10",
    weights: WeightsOption = None,
    method: Annotated[
        list[str],
        typer.Option(
            "--method", metavar="NAME", help="One of `camlucida methods`, as score-cam?channels=64; may be repeated."
        ),
    ] = ["grad-cam"],  # noqa: B006 (typer reads it and leaves it as it is)
    target: Annotated[
        list[str], typer.Option("--target", metavar="T", help="Class label, index, top1 or top3; may be repeated.")
    ] = ["top1"],  # noqa: B006
    layer: Annotated[
        list[str], typer.Option("--layer", metavar="PATH", help="auto, or one of `camlucida layers`; may be repeated.")
    ] = ["auto"],  # noqa: B006
    score: ScoreOption = "auto",
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="How many predictions to show.")] = 5,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where files go.")] = Path("camlucida-out"),
    alpha: Annotated[float, typer.Option("--alpha", metavar="X", help="Strength of the heat map, 0 to 1.")] = 0.4,
    cmap: Annotated[str, typer.Option("--cmap", metavar="NAME", help="A matplotlib colour map.")] = "jet",
    blend: Annotated[
        str, typer.Option("--blend", metavar="NAME", help="mix, or add as in the Keras tutorial.")
    ] = "mix",
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    labels: LabelsOption = "auto",
    backend: BackendOption = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document and nothing else.")] = False,
    debug: DebugOption = False,
) -> None:
    """Explain pictures: write an overlay and a raw map for each target and method, and show them as a table."""
    import numpy as np

    from camlucida.explain import Explainer
    from camlucida.methods import configure
    from camlucida.render import overlay

    # What can be refused at once is refused before a model is loaded.
    settings: dict[str, Any] = {"alpha": alpha, "cmap": cmap, "blend": blend}
    overlay(np.zeros((1, 1, 3), "uint8"), np.zeros((1, 1), "float32"), **settings)
    for name in method:
        configure(name)
    check_writable(out)
    pictures, failures = _read(images)
    if not pictures:
        raise typer.Exit(1)
    with (
        contextlib.redirect_stdout(sys.stderr),
        bar("masked images") as progress,
    ):  # a model of the user's own may print
        loaded = load(model, weights, preprocess, size, labels, backend, device)
        explainer = Explainer(loaded, method=method, target=target, layer=layer, score=score, progress=progress)  # type: ignore[arg-type]
        results = explainer(pictures)
    document = results.save(out, top=top, **settings)
    overviews = _write_overviews(results, out, settings)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(results, document, top)
        _say_where(overviews, out)
    if failures:
        raise typer.Exit(1)


def _say_where(overviews: list[Path], folder: Path) -> None:
    for path in overviews:
        say(f"all maps of a picture in one: {plain(str(path))}")
    say(f"raw maps (.npy) and explanations.json are in {plain(str(folder))}")


def _read(sources: list[str]) -> "tuple[list[Picture], int]":
    """The pictures that can be read, and how many cannot, each with a line on standard error."""
    from camlucida import images

    pictures = []
    for source in sources:
        try:
            pictures.append(images.read(source))
        except ImageError as error:
            complain(str(error))
    return images.distinct(pictures), len(sources) - len(pictures)


def _write_overviews(results: "Explanations", folder: Path, settings: dict[str, Any]) -> list[Path]:
    """For each picture with several maps, one picture of them all."""
    paths = []
    for items in _by_picture(results):
        if len(items) > 1:
            paths.append(folder / f"{items[0].answer.name}.overview.png")
            try:
                items.figure(**settings).savefig(paths[-1])
            except OSError as error:
                raise RequestError(f"cannot write {str(paths[-1])!r}: {error.strerror or error}") from error
    return paths


def _show(results: "Explanations", document: dict[str, Any], top: int) -> None:
    for items, entry in zip(_by_picture(results), document["images"], strict=True):
        answer = items[0].answer
        say(f"\n[bold]{plain(answer.source)}[/bold]  ({plain(answer.model)} on {answer.backend})")
        predictions = [
            [str(p.index), p.label, "" if p.probability is None else f"{p.probability:.4f}"] for p in answer.top(top)
        ]
        say_table(["class", "label", "probability"], predictions)
        say()
        overlays = [written["overlay"] or "none" for written in entry["explanations"]]
        rows = [_row(item, overlay) for item, overlay in zip(items, overlays, strict=True)]
        say_table(["method", "target", "score", "layer", "grid", "overlay"], rows)
        for note in dict.fromkeys(note for item in items for note in item.notes):
            say(f"[dim]note: {plain(note)}[/dim]")
    say()


def _row(item: "Explanation", overlay: str) -> list[str]:
    grid = "x".join(map(str, item.raw.shape))
    return [item.method, item.target.label, f"{item.score:.4f}", item.layer, grid, overlay]


def _by_picture(results: "Explanations") -> list["Explanations"]:
    return [results.select(image=position) for position in dict.fromkeys(item.answer.position for item in results)]
