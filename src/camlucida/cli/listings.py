"""`camlucida layers`, `methods` and `models`: what there is to choose from."""

from pathlib import Path
from typing import Annotated

import typer

from camlucida.cli.console import DebugOption, plain, say, say_prose, say_table
from camlucida.cli.options import (
    BackendOption,
    PreprocessOption,
    SizeOption,
    WeightsOption,
    load,
)

_COST = "F: forward pass, B: backward pass, K: channels"


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
    from camlucida.models.spec import LIBRARIES, parse

    spec = parse(model)
    if weights is None and (spec.name in NETWORKS or spec.kind in LIBRARIES):
        weights = Path(UNTRAINED)  # the layers are the same, and no weights are downloaded
    loaded = load(model, weights, preprocess, size, "auto", backend)
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
    from camlucida.methods import find
    from camlucida.methods import methods as registry

    if name is None:
        rows = [
            [m.name, m.needs.value, m.cost, ", ".join(m.scores) if m.differs else "", m.source.partition(",")[0]]
            for m in registry().values()
        ]
        say_table(["method", "needs", "cost", "variants", "source"], rows)
        say(f"\n{_COST}. `camlucida methods NAME` tells more of one.")
        return
    method = find(name)
    say(f"[bold]{method.title}[/bold]\n\n    {plain(method.equation)}\n")
    say_prose(method.description)
    facts = {
        "source": method.source,
        "cost": f"{method.cost} ({_COST})",
        "variants": f"{', '.join(method.scores)} (the first is the default)" if method.differs else "",
        "options": ", ".join(f"{key}={value}" for key, value in method.options.items()),
    }
    say()
    for key, value in facts.items():
        if value:
            say(f"{key + ':':10}{plain(value)}")


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
