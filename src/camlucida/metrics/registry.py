"""The one list of metrics. The command line, the documentation and the tests derive theirs from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from camlucida.domains import Domain, changed
from camlucida.errors import RequestError, UnknownNameError
from camlucida.formulas import Documented, parameters
from camlucida.options import parse_options, written
from camlucida.types import Array, Score

FAMILIES = {
    "masked": "Faithfulness: the image seen through the map",
    "ordered": "Faithfulness: pixels removed in the map's order",
    "road": "Faithfulness: pixels removed and filled in",
    "sampled": "Faithfulness: sums of the map against changes of the score",
    "robustness": "Robustness: the same picture with a little noise",
    "localisation": "Localisation: one picture at a time",
    "pooled": "Localisation: thresholds over a data set",
    "randomisation": "Randomisation: another model, another class",
    "complexity": "Complexity: how much of the picture is shown",
}
"""The modules in which metrics stand, in the order in which they are listed, and what they look at."""

Better = Literal["high", "low"]

Space = Literal["image", "input"]
SPACES: tuple[Space, ...] = get_args(Space)
"""Where pictures are altered: the picture itself, 0..255 at the size of the model's input, or what goes into the model
after preprocessing."""


class Take(Enum):
    """What metrics take of one map, of one image. The values are the names of a metric's parameters."""

    HEAT = "L"
    """The heat map at the size of the model's input, ``(*size)`` float32 in 0..1."""
    RAW = "raw"
    """The raw map on its own grid, ``(*grid)`` float32, signed."""
    VALUES = "phi"
    """Signed values of the input's pixels, ``(*size, C)`` float32: those of a method that has them, else the raw map at
    the size of the input, shared out evenly among colours."""
    IMAGE = "x"
    """The image at the size of the model's input, ``(*size, C)`` float32, in the metric's space (see `SPACES`)."""
    SPAN = "span"
    """The width of the range in which the image's values lie: 255 for a picture, else the greatest less the least."""
    SCORE = "y"
    """The score of the unaltered image, by the metric's kind of score."""
    SHOWN = "heat"
    """The heat map at the size of the picture as it was given, ``(H, W)`` float32 in 0..1."""
    BOXES = "boxes"
    """Boxes of the true class in the picture, int ``(n, 4)``: left, top, right, bottom; the last two lie outside."""
    SCALED = "B"
    """The same boxes in the pixels of the model's input, where `L` lies, float ``(n, 4)``."""
    MASK = "mask"
    """Where the object is in the picture, bool ``(H, W)``, with at least one True."""
    RANK = "rank"
    """The place of the true class among the model's predictions, from 0."""
    LAYERS = "layers"
    """The paths of the layers that have weights, from the output to the input."""


ANNOTATIONS = {Take.BOXES: "boxes", Take.SCALED: "boxes", Take.MASK: "a mask", Take.RANK: "the true class"}
"""What a data set must tell of an image, and how errors call it."""


class Traced(NamedTuple):
    """A figure with the curve that it was read from, both of length n."""

    value: float
    at: Array
    curve: Array


@dataclass(frozen=True, slots=True, eq=False)
class Metric(Documented):
    """One metric, as its paper defines it.

    Args:
        name: how it is asked for, "average-drop".
        title: how its authors write it.
        formula: the metric of one map of one image. The names of its parameters say what it takes, see `Take`. It
            returns a number, NaN where it is `undefined`; a `Traced` one; or, where it is `pooled`, an array ``(d,)``.
            A generator asks for scores or maps while it works (`camlucida.asks`).
        source: authors, year, where, equation.
        better: whether high or low figures are good.
        low, high: the range of its figure.
        masks: what is masked with what, in words; "nothing" where nothing is.
        passes: from its options to how many pictures it has scored for each map, at most.
        shared: whether these pictures are the same for all maps of an image, so that they are scored once.
        maps: from its options to how many further maps it asks for.
        score: which score it is told.
        undefined: where it has no value, in words: "the map is empty"; such images are left out of means, and counted.
        pooled: from the mean over images of what the formula returns to the figure.
        by_class: whether the mean over images is taken within each class, and then over classes.
        axes: of its curve, across and up, in words.
        domains: what its options may be.
        proof: the identities that hold it here, by their names in the tests.
    """

    name: str
    title: str
    formula: Callable[..., Any]
    source: str
    better: Better
    low: float
    high: float
    masks: str = "nothing"
    passes: Callable[[Mapping[str, Any]], int] = lambda _: 0
    shared: bool = False
    maps: Callable[[Mapping[str, Any]], int] = lambda _: 0
    score: Score = "probability"
    undefined: str = ""
    pooled: Callable[[Array], float] | None = None
    by_class: bool = False
    axes: tuple[str, str] = ("", "")
    domains: Mapping[str, Domain] = field(default_factory=dict)
    proof: tuple[str, ...] = ()

    @property
    def takes(self) -> tuple[Take, ...]:
        """What its formula takes, in the order of its parameters."""
        return tuple(Take(p.name) for p in parameters(self.formula) if p.kind is not p.KEYWORD_ONLY)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword options, with their defaults."""
        return {p.name: p.default for p in parameters(self.formula) if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True, slots=True)
class Configured:
    """A metric with its options settled: hashable, and callable as its formula."""

    metric: Metric
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """How it is told from the others of a request: ``deletion?steps=32``."""
        return written(self.metric.name, dict(self.options))

    @property
    def settings(self) -> dict[str, Any]:
        """All its options."""
        return self.metric.options | dict(self.options)

    @property
    def space(self) -> Space:
        """Where it alters pictures."""
        chosen: Space = self.settings.get("space", "input")
        return chosen

    @property
    def passes(self) -> int:
        """How many pictures it has scored for each map."""
        return self.metric.passes(self.settings)

    @property
    def maps(self) -> int:
        """How many further maps it asks for, for each map."""
        return self.metric.maps(self.settings)

    def figure(self, mean: Array) -> float:
        """The figure of a data set, or of one image, from the mean of what the formula returned."""
        return float(self.metric.pooled(np.asarray(mean)) if self.metric.pooled else mean)

    def __call__(self, given: Mapping[Take, Any]) -> Any:
        """What the formula returns, or the generator that it is."""
        return self.metric.formula(*(given[take] for take in self.metric.takes), **dict(self.options))


_METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    title: str,
    source: str,
    better: Better,
    range: tuple[float, float],
    options: Mapping[str, Domain] | None = None,
    **known: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a metric.

    Args:
        range: the least and the greatest figure.
        options: what each of its options may be.
        known: the other fields of `Metric`.
    """

    def register(formula: Callable[..., Any]) -> Callable[..., Any]:
        _METRICS[name] = Metric(name, title, formula, source, better, *range, domains=options or {}, **known)
        return formula

    return register


def metrics() -> dict[str, Metric]:
    """All metrics by name, family by family."""
    order = list(FAMILIES)
    return dict(sorted(_METRICS.items(), key=lambda item: order.index(item[1].family)))


def configure(text: str) -> Configured:
    """The metric that a user's words mean: a name, with settings where wanted, ``"deletion?steps=32"``."""
    if not isinstance(text, str):
        raise RequestError(f"metric {text!r} is not a name; camlucida.metrics() lists the names")
    name, settings = parse_options(text)
    if name not in _METRICS:
        raise UnknownNameError("metric", name, _METRICS, "`camlucida metrics` lists them all")
    found = _METRICS[name]
    for key in settings:
        if key not in found.options:
            raise UnknownNameError(f"option of {name}", key, found.options or {"none": None})
    return Configured(found, changed(name, settings, found.options, found.domains))
