"""What is made of one pass within it: scores, and the maps of formulas, in the words of any framework."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from camlucida import maps
from camlucida.engines.base import Request
from camlucida.engines.ends import Activation
from camlucida.engines.readout import LinearReadout, class_weights
from camlucida.targets import BoundTarget
from camlucida.types import Array, Grid, Head, Need, Score
from camlucida.xp import Xp


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pass yields for its formulas, on the device.

    Args:
        A: per layer, activations ``(B, U, K)``.
        chosen: per target, the classes that it means, ``(B, n)``.
        G: per layer and target, the gradient of the score, ``(B, U, K)``.
        H_A: per layer and target, the Hessian of the score times the activations, ``(B, U, K)``.
        heads: per layer, the linear head behind it.
        grids: per layer, how its places lie.
        ending: how the model ends.
    """

    A: Mapping[str, Array]
    chosen: Sequence[Array]
    G: Mapping[tuple[str, int], Array] = field(default_factory=dict)
    H_A: Mapping[tuple[str, int], Array] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    ending: Activation = "none"


def raw_maps(request: Request, measured: Measured, xp: Xp) -> list[Any]:
    """What the formulas of a request make of one pass, in the order of its jobs."""

    @functools.cache
    def given(layer: str, t: int, need: Need) -> Any:
        target, chosen = request.targets[t], measured.chosen[t]
        match need:
            case Need.ACTIVATIONS:
                return measured.A[layer]
            case Need.GRADIENT:
                return measured.G[layer, t]
            case Need.CURVATURE:
                return measured.H_A[layer, t]
            case Need.GRID:
                return measured.grids[layer]
            case Need.WEIGHTS:
                return class_weights(measured.heads[layer].weights, target, chosen, xp)
            case Need.LINEAR_GRADIENT:
                A = measured.A[layer]
                return xp.zeros_like(A) + given(layer, t, Need.WEIGHTS)[:, None, :] / A.shape[1]
            case _:
                return LinearReadout(measured.heads[layer], target, chosen, request.scores[t], measured.ending, xp)

    return [job.formula({need: given(*job[:2], need) for need in job.formula.needs}, xp) for job in request.jobs]


def score_both(
    target: BoundTarget, logits: Array, probabilities: Array | None, chosen: Array, xp: Xp
) -> dict[Score, Array]:
    """A target's score of the logits and of the probabilities, ``(B,)`` each; without the latter, the former twice."""
    logit = target.score(logits, chosen, xp)
    return {"logit": logit, "probability": logit if probabilities is None else target.score(probabilities, chosen, xp)}


def spread(t: Array, xp: Xp) -> Array:
    """``Σ_k ψ(t)_uk`` of values ``(B, U, K)``, ``(B, U)``: ``ψ(t) = (|t| - min |t|) / (max |t| - min |t|)``.

    Minimum and maximum are over all places and channels; where they are equal, it is 0 (Srinivas and Fleuret 2019).
    """
    sizes = xp.abs(t)
    least, greatest = (extreme(sizes, axis=(1, 2), keepdims=True)[..., 0] for extreme in (xp.min, xp.max))
    return maps.divide(xp.sum(sizes, axis=-1) - t.shape[-1] * least, greatest - least, xp)
