"""The full gradient: what the image and every bias of the network add to the score."""

from collections.abc import Generator

import numpy as np

from camlucida.asks import Biases, Decomposed, Laid
from camlucida.domains import flag
from camlucida.maps import resize
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp

TOLERANCE = 1e-3
"""The gap between the score and what adds up to it, as a share of the score, from which on a note tells of it."""

_ROUNDING = 1e-5
"""What float32 loses, as a share of all that is added up: a score near zero is not known better than that."""


@method(
    "fullgrad",
    title="FullGrad",
    source="Srinivas and Fleuret 2019, Full-Gradient Representation for Neural Network Visualization, arXiv:1905.00780",
    cost="1 F + 1 B through the whole network",
    asks=Need.BIASES,
    place="input",
    signed=False,
    offset=True,
    options={"biases": flag()},
)
def full_grad(xp: Xp, *, biases: bool = True) -> Generator[Biases, Decomposed, Laid]:
    """L_u = Σ_c ψ(x ∘ df/dx)_uc + Σ_l Σ_k resize(ψ(b_l ∘ df/dz_l)_k)_u,   ψ(t) = (|t| - min |t|) / (max |t| - min |t|)

    x is the model's input with colours c, f the score, z_l what layer l yields before its activation, and b_l its bias:
    that of a convolution or a normalisation, which is β - μγ/√(σ² + ε) for the batch norm. Minimum and maximum are over
    all of a layer, so that its channels keep their relative weight. The authors' code adds 1e-6 to the denominator and
    resizes with aligned corners; here 0/0 is 0 and resizing is by half-pixel centres, as everywhere.

    In a network of straight pieces the score is Σ x ∘ df/dx + Σ_l Σ b_l ∘ df/dz_l, dense layers' biases counted in: see
    `completeness`. Where a model has activations that are curved, or other steps beyond these, a note tells the gap.

    biases=False leaves out b_l: Simple FullGrad of the authors' code.
    """
    found = yield Biases(multiplied=bool(biases))
    size = found.shown[0].grid
    alike: dict[Grid, Array] = {}  # resizing is linear: what lies on one grid is added up first
    for part in found.shown:
        alike[part.grid] = alike.get(part.grid, 0.0) + np.asarray(part.values, "float64")
    L = sum(np.asarray(resize(values, grid, size, np)) for grid, values in alike.items())
    return Laid(np.asarray(L, "float32").reshape(len(found.scores), -1), size, _notes(found))


def completeness(found: Decomposed) -> tuple[Array, Array]:
    """What the terms of the full gradient add up to, and how far that is from the score, as a share of it.

    Args:
        found: what is answered to `Biases`.

    Returns:
        The sums ``(B,)``, and ``|sum - score| / |score|`` ``(B,)``: infinite where only the score is zero.
    """
    total = np.asarray(found.totals, "float64").sum(axis=1)
    scores = np.asarray(found.scores, "float64")
    gap = np.abs(total - scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total, np.where(gap == 0, 0.0, gap / np.abs(scores))


def _notes(found: Decomposed) -> tuple[tuple[str, ...], ...]:
    """Per image, how far the terms are from adding up to the score, where that is more than rounding."""
    total, gap = completeness(found)
    known = _ROUNDING * np.abs(np.asarray(found.totals, "float64")).sum(axis=1)
    told = (gap > TOLERANCE) & (np.abs(total - found.scores) > known)
    return tuple(
        (
            f"the terms of the full gradient add up to {total[b]:.4g}, the score is {found.scores[b]:.4g} "
            f"({gap[b]:.2g} of it apart): the model has steps that are not piecewise linear, or biases that are unseen",
        )
        if told[b]
        else ()
        for b in range(len(total))
    )
