"""`camlucida layers`, `methods`, `metrics` and `models`: what there is to choose from."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camlucida.cli.console import DebugOption, plain, say, say_prose, say_table
from camlucida.cli.options import (
    BackendOption,
    DeviceOption,
    PreprocessOption,
    SizeOption,
    WeightsOption,
    load,
)

if TYPE_CHECKING:
    from camlucida.methods import Method


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As --model of explain.")] = "cifar10",
    weights: WeightsOption = None,
    preprocess: PreprocessOption = "auto",
    size: SizeOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """List a model's layers with grid and channels, and mark the one that is chosen and why."""
    from camlucida.explain import Explainer
    from camlucida.models.applications import NETWORKS, UNTRAINED
    from camlucida.models.spec import LIBRARIES, parse

    spec = parse(model)
    if weights is None and (spec.name in NETWORKS or spec.kind in LIBRARIES):
        weights = Path(UNTRAINED)  # the layers are the same, and no weights are downloaded
    loaded = load(model, weights, preprocess, size, "auto", backend, device)
    found = Explainer(loaded).anatomy().layers
    chosen = next((number for number, layer in enumerate(found) if layer.chosen), None)
    rows = [
        ["→" if layer.chosen else "", layer.path, layer.kind, "x".join(map(str, layer.grid)), str(layer.channels)]
        for layer in found
    ]
    say_table(["", "layer", "kind", "grid", "channels"], rows, bold=chosen)
    if chosen is None:
        say("\nno layer is chosen: none has a grid of locations on the way to the output")
    else:
        say(f"\n→ {plain(found[chosen].path)}: {plain(found[chosen].reason)}")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, in full.")] = None,
    debug: DebugOption = False,
) -> None:
    """List the methods, or tell of one: its formula, source, cost and options."""
    from camlucida.methods import FAMILIES, find
    from camlucida.methods import methods as registry
    from camlucida.methods.facts import COST, facts, identities

    if name is None:
        known = list(registry().values())
        widths = [max(map(len, column)) for column in zip(*map(_row, known), strict=True)]
        for family, title in FAMILIES.items():
            if found := [method for method in known if method.family == family]:
                say(f"[bold]{title}[/bold]")
                for method in found:
                    cells = [cell.ljust(width) for cell, width in zip(_row(method), widths, strict=True)]
                    say(plain("  ".join(cells).rstrip()))
                say()
        say(f"{COST}.\n`camlucida methods NAME` tells more of one.")
        return
    method = find(name)
    say(f"[bold]{method.title}[/bold]\n\n    {plain(method.equation)}\n")
    say_prose(method.description)
    say()
    for key, value in facts(method).items():
        say(f"{key + ':':13}{plain(value)}")
    for sentence in identities(method):
        say(f"{'holds:':13}{plain(sentence)}")


def metrics(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One metric, in full.")] = None,
    debug: DebugOption = False,
) -> None:
    """List the metrics, or tell of one: its formula, source, range, cost and options."""
    from camlucida.metrics import FAMILIES, configure
    from camlucida.metrics import metrics as registry
    from camlucida.metrics.facts import facts, identities

    if name is not None:
        metric = configure(name).metric
        say(f"[bold]{metric.title}[/bold]\n\n    {plain(metric.equation)}\n")
        say_prose(metric.description)
        say()
        for key, value in facts(metric).items():
            say(f"{key + ':':13}{plain(value)}")
        for sentence in identities(metric):
            say(f"{'holds:':13}{plain(sentence)}")
        return
    known = list(registry().values())
    width = max(len(metric.name) for metric in known)
    for family, title in FAMILIES.items():
        say(f"[bold]{title}[/bold]")
        for metric in known:
            if metric.family == family:
                say(plain(f"{metric.name:{width}}  {metric.better + ' is better':14}  {metric.title}"))
        say()
    say("`camlucida metrics NAME` tells more of one.")


def _row(method: "Method") -> tuple[str, str, str]:
    """What the list says of a method: its name, what it takes and what it costs."""
    return method.name, method.wanted, _short(method.cost)


def _short(cost: str) -> str:
    """A cost without what is said of its passes in words, which a table has no place for."""
    passes = re.split(r",| to | of | through ", cost)[0]
    return passes if passes == cost else f"{passes} …"


def models(debug: DebugOption = False) -> None:
    """List the models that can be named, and which kinds can be used with what is installed."""
    from camlucida.models import known_models
    from camlucida.models.known import kinds

    rows = [
        [known.name, "x".join(map(str, known.size)), known.preprocessing, known.weights] for known in known_models()
    ]
    say_table(["model", "size", "preprocessing", "weights"], rows)
    say("\nArguments follow a question mark: mobilenet?alpha=0.75. --weights FILE replaces a download.\n")
    say_table(["what --model may be", "can be used"], [[kind.spec, kind.install or "yes"] for kind in kinds()])
