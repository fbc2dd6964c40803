"""`camlucida layers`, `methods` and `models`: what there is to choose from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from camlucida.cli.console import DebugOption, out
from camlucida.cli.options import (
    BackendOption,
    PreprocessOption,
    SizeOption,
    WeightsOption,
    load,
)


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As --model of explain.")] = "cifar10",
    weights: WeightsOption = None,
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    backend: BackendOption = None,
    debug: DebugOption = False,
) -> None:
    """List a model's layers with grid and channels, and mark the one that is chosen and why."""
    from camlucida.explain import Explainer
    from camlucida.models.applications import NETWORKS, UNTRAINED
    from camlucida.models.spec import parse

    if weights is None and parse(model).name in NETWORKS:
        weights = Path(UNTRAINED)  # the layers are the same, and nothing is downloaded
    loaded = load(model, weights, preprocess, size, "auto", backend)
    table = Table("", "layer", "kind", "grid", "channels", box=None, padding=(0, 2, 0, 0))
    table.columns[1].overflow = "fold"
    found = Explainer(loaded).anatomy().layers
    for layer in found:
        grid = "x".join(map(str, layer.grid))
        table.add_row("→" if layer.chosen else "", escape(layer.path), layer.kind, grid, str(layer.channels),
                      style="bold" if layer.chosen else None)  # fmt: skip
    console = out()
    console.print(table)
    for layer in found:
        if layer.chosen:
            console.print(f"\n→ {escape(layer.path)}: {escape(layer.reason)}", soft_wrap=True)
    if not any(layer.chosen for layer in found):
        console.print("\nno layer is chosen: none has a grid of locations on the way to the output")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, in full.")] = None,
    debug: DebugOption = False,
) -> None:
    """List the methods, or tell of one: its formula, source, cost and options."""
    from camlucida.methods import find
    from camlucida.methods import methods as registry

    console = out()
    if name is None:
        table = Table("method", "needs", "cost", "variants", "source", box=None, padding=(0, 2, 0, 0))
        for method in registry().values():
            variants = ", ".join(method.scores) if method.differs else ""
            table.add_row(method.name, method.needs.value, method.cost, variants, escape(method.source))
        console.print(table)
        return
    method = find(name)
    console.print(f"[bold]{method.title}[/bold]\n\n    {escape(method.equation)}\n", soft_wrap=True)
    console.print(escape(method.description), soft_wrap=True)
    facts = {
        "source": method.source,
        "cost": f"{method.cost} (F forward pass, B backward pass, K channels)",
        "variants": f"{', '.join(method.scores)} (the first is the default)" if method.differs else "",
        "options": ", ".join(f"{key}={value}" for key, value in method.options.items()),
    }
    console.print()
    for key, value in facts.items():
        if value:
            console.print(f"{key + ':':10}{escape(value)}", soft_wrap=True)


def models(debug: DebugOption = False) -> None:
    """List the models that can be named, with their input size, preprocessing and weights."""
    from camlucida.models import known_models

    table = Table("model", "size", "preprocessing", "weights", box=None, padding=(0, 2, 0, 0))
    for known in known_models():
        table.add_row(known.name, "x".join(map(str, known.size)), known.preprocessing, known.weights)
    console = out()
    console.print(table)
    console.print(
        "\nArguments follow a question mark: mobilenet?alpha=0.75. --weights FILE takes the place of a download."
        "\nFiles: net.keras, net.h5. Your own: package.module:function, which returns a model.",
        soft_wrap=True,
    )
