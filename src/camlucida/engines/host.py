"""What the engines share whose models take NumPy arrays and answer with NumPy arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import ends
from camlucida.engines.base import Probes, Request, masks_over, raw_maps, score_both
from camlucida.engines.ends import Activation
from camlucida.trees import leaves, mapped
from camlucida.types import Array, Evidence, Grid, Score

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
    heads: Mapping[str, NDArray[np.float32]],
    grids: Mapping[str, Grid],
) -> Evidence:
    """What one forward pass without gradients yields.

    Args:
        A: per layer of the request, the activations ``(B, U, K)``.
        heads: per layer, the weights ``(K, C)`` of the linear head, where they were asked for.
        grids: per layer, how its U locations lie.
    """
    logits, probabilities = answer
    chosen = [target.choose(logits, target.parameters(len(logits)), np) for target in request.targets]
    computed = [np.asarray(m, "float32") for m in raw_maps(request, A, {}, heads, chosen, np)]
    return Evidence(
        outputs=logits,
        probabilities=probabilities,
        chosen=chosen,
        scores=_scores(request.targets, answer, chosen),
        maps=dict(zip(request.maps, computed, strict=True)),
        strength={},
        activations=A if request.activations else {},
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
        return rows * masks.astype(x.dtype if x.dtype.kind == "f" else "float32")

    return mapped(repeated, inputs)


def judged(probes: Probes, answer: Answer) -> dict[Score, Array]:
    """The scores ``(T, M)`` of masked inputs."""
    scores = _scores(probes.targets, answer, [classes[probes.rows] for classes in probes.chosen])
    return {kind: np.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}


def image_of(inputs: Any) -> NDArray[Any]:
    """The image among several inputs: the one with the most axes."""
    image: NDArray[Any] = max(leaves(inputs), key=lambda x: x.ndim)
    return image


def _scores(targets: Sequence[Any], answer: Answer, chosen: Sequence[Array]) -> list[dict[Score, Array]]:
    return [score_both(target, *answer, classes, np) for target, classes in zip(targets, chosen, strict=True)]
