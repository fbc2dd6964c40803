"""The one list of methods. The command line, the documentation and the tests derive theirs from it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from camlucida.domains import Domain, changed
from camlucida.errors import RequestError, UnknownNameError
from camlucida.methods.configured import SMOOTHINGS, Configured
from camlucida.methods.definition import VARIANTS, Method, Variant
from camlucida.options import parse_options
from camlucida.types import Need, Score

FAMILIES = {
    "weights": "Weights of a linear head",
    "gradients": "Gradients averaged over space",
    "elementwise": "Gradients place by place",
    "aimed": "Gradients of another score",
    "layered": "Several layers",
    "activations": "Activations alone",
    "tails": "Altered activations",
    "probes": "Masked inputs",
    "masking": "Masked inputs, channel by channel",
    "grouped": "Masked inputs, groups of channels",
    "poly": "Masked inputs, several layers",
    "optimised": "Optimised masks",
    "scores": "Scores alone",
    "views": "Paths, noise and sizes",
    "augmented": "Augmentation",
    "attention": "Attention of transformers",
    "relevance": "Relevance",
    "full_gradient": "The whole network",
    "pixels": "Pixels",
    "nulls": "Null baselines",
}
"""The modules in which formulas stand, in the order in which methods are listed, and what their methods look at."""

_METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    title: str,
    source: str,
    cost: str,
    asks: Need | tuple[Need, ...] = (),
    score: Score = "logit",
    variants: Mapping[Variant, Score] | None = None,
    closed: Callable[..., Any] | None = None,
    options: Mapping[str, Domain] | None = None,
    **known: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a formula.

    Args:
        score: the score that it explains by its definition.
        variants: where paper and official code differ, the variants with the score that each explains, the default
            first. Where they do not differ, leave it out.
        closed: its formula where a linear head follows the layer.
        options: what each of its options may be.
        known: the other fields of `Method`.
    """

    def register(formula: Callable[..., Any]) -> Callable[..., Any]:
        scores: Mapping[Variant, Score] = variants or {"paper": score, "official": score}
        asked = frozenset(asks if isinstance(asks, tuple) else (asks,))
        made = Method(
            name,
            title,
            formula,
            source,
            cost,
            asked,
            next(iter(scores)),
            variants is not None,
            scores,
            domains=options or {},
            **known,
        )
        if closed is not None:
            made = replace(made, closed=replace(made, formula=closed, asks=frozenset()))
        _METHODS[name] = made
        return formula

    return register


def methods() -> dict[str, Method]:
    """All methods by name, family by family."""
    order = list(FAMILIES)
    return dict(sorted(_METHODS.items(), key=lambda item: order.index(item[1].family)))


def find(name: str) -> Method:
    """The method called `name`."""
    if name not in _METHODS:
        raise UnknownNameError("method", name, _METHODS, "`camlucida methods` lists them all")
    return _METHODS[name]


def configure(text: str, variant: str | None = None, options: Mapping[str, Any] | None = None) -> Configured:
    """The method that a user's words mean.

    Args:
        text: a name, with settings where wanted: ``"score-cam?channels=10&variant=paper"``.
        variant: "paper" or "official"; None for the method's own default. The text goes first.
        options: further options; those that this method does not have are left to the caller to judge.
    """
    if not isinstance(text, str):
        raise RequestError(f"method {text!r} is not a name; camlucida.methods() lists the names")
    name, settings = parse_options(text)
    found = find(name)
    chosen = settings.pop("variant", variant)
    if chosen is None:
        chosen = found.default
    if chosen not in VARIANTS:
        raise UnknownNameError("variant", str(chosen), VARIANTS)
    smooth = settings.pop("smooth", (options or {}).get("smooth"))
    if smooth is not None and smooth not in SMOOTHINGS:
        raise UnknownNameError("smoothing", str(smooth), SMOOTHINGS)
    if smooth == "eigen" and found.gives != "weights":
        raise RequestError(f"{name} does not weigh channels, so that smooth='eigen' means nothing for it")
    for key in settings:
        if key not in found.options:
            raise UnknownNameError(f"option of {name}", key, [*found.options, "variant", "smooth"])
    given = {key: value for key, value in (options or {}).items() if key in found.options} | settings
    options_ = changed(name, given, found.options, found.domains)
    return Configured(found, chosen if found.differs else found.default, options_, smooth)
