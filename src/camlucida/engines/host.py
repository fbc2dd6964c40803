"""What the engines share whose models take NumPy arrays and answer with NumPy arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import ends
from camlucida.engines.base import Probes, Request
from camlucida.engines.ends import Activation
from camlucida.engines.made import Measured, raw_maps, score_both
from camlucida.engines.masked import blended, image_of, masks_over
from camlucida.trees import mapped
from camlucida.types import Array, Evidence, Grid, Head, Score

Answer = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Scores and probabilities, ``(B, C)`` each; the latter None where there are none."""


def read(
    activation: Activation, answer: NDArray[Any], logits: NDArray[Any] | None = None, *, log: bool = False
) -> Answer:
    """Scores and probabilities, as `ends.read` has them, from arrays of any type."""
    answer = np.asarray(answer, "float32")
    if logits is not None:
        logits = np.asarray(logits, "float32").reshape(answer.shape)
    return ends.read(activation, answer, logits, _softmax, np, log=log)


def _softmax(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis."""
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), "float32")


def evidence(
    request: Request,
    answer: Answer,
    A: Mapping[str, NDArray[np.float32]],
    heads: Mapping[str, Head],
    grids: Mapping[str, Grid],
    ending: Activation = "none",
) -> Evidence:
    """What one forward pass without gradients yields.

    Args:
        A: per layer of the request, the activations ``(B, U, K)``.
        heads: per layer, the linear head behind it, where it was asked for.
        grids: per layer, how its U locations lie.
        ending: how the model ends.
    """
    logits, probabilities = answer
    chosen = [target.choose(logits, target.parameters(len(logits)), np) for target in request.targets]
    measured = Measured(A, chosen, heads=heads, grids=grids, ending=ending)
    computed = [mapped(lambda m: np.asarray(m, "float32"), made) for made in raw_maps(request, measured, np)]
    return Evidence(
        outputs=logits,
        probabilities=probabilities,
        chosen=chosen,
        scores=_scores(request.targets, answer, chosen),
        maps=dict(zip(request.jobs, computed, strict=True)),
        strength={},
        activations={path: A[path] for path in request.activations},
        gradients={},
        grids=grids,
    )


def masked(inputs: Any, probes: Probes, channels_first: bool) -> Any:
    """The inputs that probes ask for: the image times each mask, whatever else goes in as often."""
    image = image_of(inputs)
    masks = masks_over(image.shape[1:], probes.masks, probes, channels_first, np)

    def repeated(x: NDArray[Any]) -> Any:
        rows = x[probes.rows]
        if x is not image:
            return rows
        dtype = x.dtype if x.dtype.kind == "f" else "float32"
        base = None if probes.base is None else probes.base[probes.rows].astype(dtype)
        return blended(rows, masks.astype(dtype), base)

    return mapped(repeated, inputs)


def judged(probes: Probes, answer: Answer) -> dict[Score, Array]:
    """The scores ``(T, M)`` of masked inputs."""
    scores = _scores(probes.targets, answer, [classes[probes.rows] for classes in probes.chosen])
    return {kind: np.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}


def _scores(targets: Sequence[Any], answer: Answer, chosen: Sequence[Array]) -> list[dict[Score, Array]]:
    return [score_both(target, *answer, classes, np) for target, classes in zip(targets, chosen, strict=True)]
