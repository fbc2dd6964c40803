"""The one list of methods. The command line, the documentation and the tests derive theirs from it."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from camlucida.asks import Laid
from camlucida.domains import Domain, changed
from camlucida.errors import ConditionError, RequestError, UnknownNameError
from camlucida.maps import combine, principal
from camlucida.options import parse_options
from camlucida.targets import BoundTarget, Classes
from camlucida.types import Array, Need, Score

Variant = Literal["paper", "official"]
VARIANTS: tuple[Variant, ...] = ("paper", "official")

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

Place = Literal["layer", "input", "layers"]
Shown = Literal["sum", "magnitude"]
Gives = Literal["map", "weights", "pixels", "channels"]

Smoothing = Literal["augment", "eigen"]
SMOOTHINGS: tuple[Smoothing, ...] = get_args(Smoothing)


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method of the family, as its paper defines it.

    Args:
        name: how it is asked for, "grad-cam++".
        title: how its authors write it.
        formula: the formula; its first docstring line is the equation in plain text. The names of its parameters say
            what it takes, see `Need`. A generator asks for more while it works.
        asks: what it asks for while it works.
        source: authors, year, where, equation.
        cost: passes per target, in the field's shorthand: F forward, B backward, K channels.
        default: the variant that is meant when none is named.
        differs: whether paper and official code differ, so that the variant matters.
        scores: which score each variant explains where the user leaves the choice.
        gradient_of: which score its gradients are of where it is scored by another one.
        shown: how the values of a pixel's colours become one: their sum, or the greatest magnitude.
        signed: whether negative values of its raw map mean evidence against the target.
        offset: whether its raw map is positive everywhere, so that a heat map begins at its least value and not at 0.
        place: where it looks: at one layer, at the image that goes into the model, or at several layers together.
        layers: which layers these are where the user leaves the choice.
        gives: what its formula returns. Weights ``(B, K)`` or ``(B, U, K)`` are still to be multiplied with the
            activations and summed over channels; pixels ``(B, U, C)`` have a value per colour, channels ``(B, U, K)``
            one per channel or concept.
        aim: from the target that the user means to the one that this method explains.
        fuse: from what the formula returns at each of several layers to one map.
        host: whether it is computed after the pass, on NumPy arrays, although it asks for nothing more.
        closed: the same method where a linear head follows the layer, without probes. Methods of gradients have one of
            their own, see `headed`.
        domains: what its options may be.
        proof: the identities that hold it here, by their names in the tests.
        uncertain: what of its definition could not be read in its paper; empty for most.
    """

    name: str
    title: str
    formula: Callable[..., Any]
    source: str
    cost: str
    asks: frozenset[Need] = frozenset()
    default: Variant = "paper"
    differs: bool = False
    scores: Mapping[Variant, Score] = field(default_factory=dict)
    gradient_of: Score | None = None
    shown: Shown = "sum"
    signed: bool = True
    offset: bool = False
    place: Place = "layer"
    layers: Literal["stages", "convolutions"] = "stages"
    gives: Gives = "map"
    aim: Callable[..., BoundTarget] | None = None
    fuse: Callable[..., Any] | None = None
    host: bool = False
    closed: "Method | None" = None
    domains: Mapping[str, Domain] = field(default_factory=dict)
    proof: tuple[str, ...] = ()
    uncertain: str = ""

    @property
    def family(self) -> str:
        """The module in which its formula stands."""
        return self.formula.__module__.rpartition(".")[2]

    @property
    def takes(self) -> tuple[Need, ...]:
        """What its formula takes, in the order of its parameters."""
        return _taken(self.formula)

    @property
    def needs(self) -> frozenset[Need]:
        """All that it takes of an engine."""
        return frozenset(self.takes) | self.asks

    @property
    def wanted(self) -> str:
        """All that it takes of an engine, in words."""
        return ", ".join(need.value for need in Need if need in self.needs) or "nothing"

    @property
    def waits(self) -> bool:
        """Whether it is computed after the pass, on the host."""
        return self.host or Need.IMAGE in self.takes or inspect.isgeneratorfunction(self.formula)

    @property
    def agnostic(self) -> bool:
        """Whether its map is the same whatever the target is."""
        return not self.asks and not set(self.takes) & {Need.GRADIENT, Need.CURVATURE, Need.WEIGHTS, Need.HEAD}

    @property
    def headed(self) -> bool:
        """Whether it has a closed form for logits where a linear head follows the layer.

        Such a head says the gradient: ``G_uk = W_k / U`` at every place. Formulas that take nothing else of the model
        beside activations are computed of that, without a backward pass.
        """
        derived = Need.GRADIENT in self.takes and self.place == "layer" and not (self.asks or self.aim or self.waits)
        return self.closed is not None or derived

    @property
    def equation(self) -> str:
        """The formula as text."""
        return self._lines[0]

    @property
    def description(self) -> str:
        """What the symbols mean, when to use it, in what it differs from what others call by its name."""
        return "\n".join(self._lines[1:]).strip()

    @property
    def options(self) -> dict[str, Any]:
        """Keyword options, with their defaults."""
        words = [word for f in (self.formula, self.aim, self.fuse) if f for word in _parameters(f)]
        return {p.name: p.default for p in words if p.kind is p.KEYWORD_ONLY and p.name != "variant"}

    @property
    def _lines(self) -> list[str]:
        return (inspect.getdoc(self.formula) or "").splitlines()


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


@functools.cache
def _taken(formula: Callable[..., Any]) -> tuple[Need, ...]:
    words = {need.value: need for need in Need}
    return tuple(words[p.name] for p in _parameters(formula) if p.kind is not p.KEYWORD_ONLY and p.name in words)


@dataclass(frozen=True, slots=True)
class Configured:
    """A method with its variant and options settled: hashable, and callable as its formula.

    Args:
        headed: whether a linear head follows the layer, which says the gradient.
    """

    method: Method
    variant: Variant
    options: tuple[tuple[str, Any], ...] = ()
    smooth: Smoothing | None = None
    headed: bool = False

    @property
    def label(self) -> str:
        """How it is told from the others of a request: ``score-cam?channels=10``."""
        settings = [f"{key}={value}" for key, value in self.options]
        if self.variant != self.method.default:
            settings.insert(0, f"variant={self.variant}")
        if self.smooth:
            settings.append(f"smooth={self.smooth}")
        return self.method.name + ("?" + "&".join(settings) if settings else "")

    @property
    def needs(self) -> frozenset[Need]:
        """What its formula takes within a pass."""
        return frozenset(self._takes) | ({Need.ACTIVATIONS} if self.method.gives == "weights" else frozenset())

    @property
    def score(self) -> Score:
        """The score that this variant explains by its definition."""
        return self.method.scores[self.variant]

    @property
    def closed(self) -> "Configured | None":
        """The same where a linear head follows the layer, if it has a closed form there."""
        if self.method.closed:
            return replace(self, method=self.method.closed)
        return replace(self, headed=True) if self.method.headed else None

    def aimed(self, target: BoundTarget) -> BoundTarget:
        """The target that it explains where the user means `target`.

        Raises:
            ConditionError: it compares classes, and the target is none.
        """
        if self.method.aim is None:
            return target
        if not isinstance(target, Classes) or len(target.signs) != 1:
            raise ConditionError(f"{self.method.name} needs a target that is one class; grad-cam works for any target")
        return self.method.aim(target, **self._settings(self.method.aim))

    def fused(self, parts: Sequence[Any]) -> Any:
        """One map of what the formula returned at several layers."""
        assert self.method.fuse is not None
        return self.method.fuse(parts, **self._settings(self.method.fuse))

    def __call__(self, given: Mapping[Need, Any], xp: Any) -> Any:
        """The formula's result: a raw map ``(B, U)``, or the generator of a probing method."""
        result = self.method.formula(*(given[need] for need in self._takes), xp, **self._settings(self.method.formula))
        if self.method.gives != "weights":
            return result
        if inspect.isgenerator(result):
            return self._weighed(result, given, xp)
        return self._combined(result, given, xp)

    @property
    def _takes(self) -> tuple[Need, ...]:
        """What its formula takes, in the order of its parameters."""
        instead = {Need.GRADIENT: Need.LINEAR_GRADIENT} if self.headed else {}
        return tuple(instead.get(need, need) for need in self.method.takes)

    def _weighed(self, asking: Any, given: Mapping[Need, Any], xp: Any) -> Any:
        weights = yield from asking
        if isinstance(weights, Laid):
            return weights._replace(values=self._combined(weights.values, given, xp))
        return self._combined(weights, given, xp)

    def _combined(self, w: Array, given: Mapping[Need, Any], xp: Any) -> Array:
        A = given[Need.ACTIVATIONS]
        if self.smooth == "eigen":
            return principal(A * (w if len(w.shape) == 3 else w[:, None, :]), xp)
        return xp.sum(A * w, axis=-1) if len(w.shape) == 3 else combine(A, w, xp)

    def _settings(self, function: Callable[..., Any]) -> dict[str, Any]:
        known = {p.name for p in _parameters(function) if p.kind is p.KEYWORD_ONLY}
        chosen = {key: value for key, value in self.options if key in known}
        return chosen | ({"variant": self.variant} if "variant" in known else {})


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
