"""What a method is: its formula, what that takes and gives, and what is told of it."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from camlucida.domains import Domain
from camlucida.formulas import Documented, parameters
from camlucida.targets import BoundTarget
from camlucida.types import Need, Score

Variant = Literal["paper", "official"]
VARIANTS: tuple[Variant, ...] = ("paper", "official")

Place = Literal["layer", "input", "layers"]
Shown = Literal["sum", "magnitude"]
Gives = Literal["map", "weights", "pixels", "channels"]


@dataclass(frozen=True, slots=True, eq=False)
class Method(Documented):
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
            their own, see `has_closed_form`.
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
    def has_closed_form(self) -> bool:
        """Whether it has a closed form for logits where a linear head follows the layer.

        Such a head says the gradient: ``G_uk = W_k / U`` at every place. Formulas that take nothing else of the model
        beside activations are computed of that, without a backward pass.
        """
        derived = Need.GRADIENT in self.takes and self.place == "layer" and not (self.asks or self.aim or self.waits)
        return self.closed is not None or derived

    @property
    def options(self) -> dict[str, Any]:
        """Keyword options, with their defaults."""
        words = [word for f in (self.formula, self.aim, self.fuse) if f for word in parameters(f)]
        return {p.name: p.default for p in words if p.kind is p.KEYWORD_ONLY and p.name != "variant"}


@functools.cache
def _taken(formula: Callable[..., Any]) -> tuple[Need, ...]:
    words = {need.value: need for need in Need}
    return tuple(words[p.name] for p in parameters(formula) if p.kind is not p.KEYWORD_ONLY and p.name in words)
