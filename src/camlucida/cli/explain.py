"""`camlucida explain`: maps of pictures, as files, a table or JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from camlucida.cli.console import DebugOption, complain, out
from camlucida.cli.options import (
    BackendOption,
    LabelsOption,
    ModelOption,
    PreprocessOption,
    SizeOption,
    WeightsOption,
    load,
)
from camlucida.errors import ImageError

if TYPE_CHECKING:
    from camlucida.explanation import Explanation, Explanations
    from camlucida.images import Picture


def explain(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Picture files, or sample:cat.")],
    model: ModelOption = "cifar10",
    weights: WeightsOption = None,
    method: Annotated[
        list[str], typer.Option("--method", metavar="NAME", help="One of `camlucida methods`; may be repeated.")
    ] = ["grad-cam"],  # noqa: B006 (typer reads it and leaves it as it is)
    target: Annotated[
        list[str], typer.Option("--target", metavar="T", help="Class label, index, top1 or top3; may be repeated.")
    ] = ["top1"],  # noqa: B006
    layer: Annotated[
        list[str], typer.Option("--layer", metavar="PATH", help="auto, or one of `camlucida layers`; may be repeated.")
    ] = ["auto"],  # noqa: B006
    score: Annotated[str, typer.Option("--score", help="auto, logit or probability.")] = "auto",
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="How many predictions to show.")] = 5,
    out_folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where files go.")] = Path("camlucida-out"),
    alpha: Annotated[float, typer.Option("--alpha", help="Strength of the heat map, 0 to 1.")] = 0.4,
    cmap: Annotated[str, typer.Option("--cmap", metavar="NAME", help="A matplotlib colour map.")] = "jet",
    blend: Annotated[str, typer.Option("--blend", help="mix, or add as in the Keras tutorial.")] = "mix",
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    labels: LabelsOption = "auto",
    backend: BackendOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document and nothing else.")] = False,
    debug: DebugOption = False,
) -> None:
    """Explain pictures: write an overlay and a raw map for each target and method, and show them as a table."""
    import numpy as np

    from camlucida.explain import Explainer
    from camlucida.methods import configure
    from camlucida.render import overlay

    settings: dict[str, Any] = {"alpha": alpha, "cmap": cmap, "blend": blend}
    overlay(np.zeros((1, 1, 3), "uint8"), np.zeros((1, 1), "float32"), **settings)
    for name in method:
        configure(name)
    pictures, failures = _read(images)
    if not pictures:
        raise typer.Exit(1)
    loaded = load(model, weights, preprocess, size, labels, backend)
    explainer = Explainer(loaded, method=method, target=target, layer=layer, score=score, progress=not as_json)  # type: ignore[arg-type]
    results = explainer(pictures)
    document = results.save(out_folder, top=top, **settings)
    overviews = _write_overviews(results, out_folder, settings)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(results, document, top)
        for path in overviews:
            out().print(f"all maps of a picture in one: {escape(str(path))}")
        out().print(f"raw maps (.npy) and explanations.json are in {escape(str(out_folder))}")
    if failures:
        raise typer.Exit(1)


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
    for position in dict.fromkeys(item.answer.position for item in results):
        items = results.select(image=position)
        if len(items) > 1:
            paths.append(folder / f"{items[0].answer.name}.overview.png")
            items.figure(**settings).savefig(paths[-1])
    return paths


def _show(results: "Explanations", document: dict[str, Any], top: int) -> None:
    console = out()
    entries = iter([entry for image in document["images"] for entry in image["explanations"]])
    positions = dict.fromkeys(item.answer.position for item in results)
    for position in positions:
        items = [item for item in results if item.answer.position == position]
        answer = items[0].answer
        console.print(f"\n[bold]{escape(answer.source)}[/bold]  ({escape(answer.model)} on {answer.backend})")
        predictions = Table("class", "label", "probability", box=None, padding=(0, 2, 0, 0))
        for p in answer.top(top):
            predictions.add_row(str(p.index), escape(p.label), "" if p.probability is None else f"{p.probability:.4f}")
        console.print(predictions)
        maps = Table("method", "target", "score", "layer", "grid", "overlay", box=None, padding=(0, 2, 0, 0))
        maps.columns[-1].overflow = "fold"
        for item in items:
            maps.add_row(*_row(item, next(entries)["overlay"]))
        console.print()
        console.print(maps)
        for note in dict.fromkeys(note for item in items for note in item.notes):
            console.print(f"  note: {escape(note)}", style="dim")
    console.print()


def _row(item: "Explanation", overlay: str | None) -> list[str]:
    grid = "x".join(map(str, item.raw.shape))
    cells = [item.method, item.target.label, f"{item.score:.4f}", item.layer, grid, overlay or "none"]
    return [escape(cell) for cell in cells]
