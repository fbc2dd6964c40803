"""A method with its settings, as it is computed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from camlucida.asks import Laid
from camlucida.errors import ConditionError
from camlucida.formulas import parameters
from camlucida.maps import combine, principal
from camlucida.methods.definition import Method, Variant
from camlucida.targets import BoundTarget, Classes
from camlucida.types import Array, Need, Score

Smoothing = Literal["augment", "eigen"]
SMOOTHINGS: tuple[Smoothing, ...] = get_args(Smoothing)


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
        return replace(self, headed=True) if self.method.has_closed_form else None

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
        known = {p.name for p in parameters(function) if p.kind is p.KEYWORD_ONLY}
        chosen = {key: value for key, value in self.options if key in known}
        return chosen | ({"variant": self.variant} if "variant" in known else {})
