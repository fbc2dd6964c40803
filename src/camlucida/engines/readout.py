"""A linear head, as formulas read it."""

from dataclasses import dataclass

from camlucida.engines.ends import Activation
from camlucida.errors import ConditionError
from camlucida.maps import softmax
from camlucida.targets import BoundTarget
from camlucida.types import Array, Head, Score
from camlucida.xp import Xp


@dataclass(frozen=True, slots=True)
class LinearReadout:
    """What averages of channels lead to, through the head behind a layer."""

    head: Head
    target: BoundTarget
    chosen: Array
    kind: Score
    ending: Activation
    xp: Xp

    def logits(self, a: Array) -> Array:
        """The class scores ``(B, N, C)`` that averages of channels ``(B, N, K)`` lead to."""
        return self.xp.matmul(a, self.head.weights) + self.head.bias

    def pick(self, values: Array) -> Array:
        """What the target takes of values by class ``(B, N, C)``: ``(B, N)``."""
        xp = self.xp
        parts = [
            sign * xp.take_along_axis(values, self.chosen[:, None, j : j + 1], axis=-1)[..., 0]
            for j, sign in enumerate(_signs(self.target))
        ]
        return sum(parts)

    def scores(self, a: Array) -> Array:
        """The explained score ``(B, N)`` that averages of channels ``(B, N, K)`` lead to."""
        logits = self.logits(a)
        single = logits.shape[-1] == 1 and self.ending == "none"  # a number that has no probability
        if self.kind == "logit" or single:
            return self.pick(logits)
        if self.ending == "sigmoid":
            return self.pick(1 / (1 + self.xp.exp(-logits)))
        return self.pick(softmax(logits, self.xp))


def class_weights(weights: Array, target: BoundTarget, chosen: Array, xp: Xp) -> Array:
    """The weights ``(B, K)`` that lead from the channel averages to the target's score.

    Args:
        weights: of the head, ``(K, C)``.

    Raises:
        ConditionError: the target is no sum of class scores, so that no weights lead to it.
    """
    signs = _signs(target)
    return sum(sign * xp.moveaxis(xp.take(weights, chosen[:, j], axis=1), 0, 1) for j, sign in enumerate(signs))


def _signs(target: BoundTarget) -> tuple[float, ...]:
    if target.signs is None:
        raise ConditionError(
            "a linear head can be read for a class or a difference of two, not for this target; grad-cam works for any"
        )
    return target.signs
