"""Score-CAM: channels weighed by how the model scores the input seen through them."""

from collections.abc import Generator

import numpy as np

from camlucida.asks import Masks
from camlucida.domains import number, whole
from camlucida.errors import RequestError
from camlucida.maps import combine, softmax
from camlucida.methods.definition import Variant
from camlucida.methods.registry import method
from camlucida.types import Array, Need
from camlucida.xp import Xp

_PORTION = 32
"""How many channels are scored before it is asked again whether those that are left can matter."""


@method(
    "score-cam",
    title="Score-CAM",
    asks=Need.SCORES,
    source="Wang et al. 2020, Score-CAM: Score-Weighted Visual Explanations, arXiv:1910.01279, algorithm 1",
    cost="1 F + K F",
    variants={"official": "probability", "paper": "logit"},
    gives="weights",
    proof=("25", "28"),
    options={"channels": whole(or_none=True), "tolerance": number(0, 1, below=True)},
)
def score_cam(
    A: Array, xp: Xp, *, variant: Variant = "official", channels: int | None = None, tolerance: float = 0.0
) -> Generator[Masks, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = p(x ∘ m_k),   m_k = minmax(resize(A_k))

    A_uk is the activation of channel k at place u, x the model's input, p the probability of the target. No gradient
    is needed: each channel is weighed by how well the input is recognised through it.

    variant="official", the authors' code: w_k is the probability; constant channels count nothing.
    variant="paper", algorithm 1: w_k = softmax over channels of the logit f(x ∘ m_k) - f(0). The baseline f(0) is the
    same for all channels and cancels in the softmax. Logits make that softmax nearly one-hot: a map of one channel.

    channels=N takes only the N channels that vary most over space (Faster-Score-CAM, as in tf-keras-vis).

    tolerance=t stops early, when no place of the scaled map can be off by more than t, for probabilities of a class and
    the official variant. Channels are taken by their greatest activation, and those that are left get the weight 1/2.
    Their true weights lie in 0..1, so L_u is off by at most e = max_u ½ Σ_left |A_uk|. Rectifying does not enlarge
    that, and neither does taking the maximum M. With a, b the true and the found value of a place, m, M the maxima:
    |a/m - b/M| ≤ |a - b|/M + (a/m) |M - m|/M ≤ 2 e / M. It stops once that is at most t.
    """
    if tolerance and variant != "official":
        raise RequestError("tolerance of score-cam is for variant='official': a softmax over channels needs them all")
    kept = _most_varied(A, channels or A.shape[-1])
    chosen = np.take_along_axis(A, kept[:, None], axis=-1)
    w = np.zeros((len(A), A.shape[-1]), "float32")
    if tolerance:
        found = yield from _until_settled(chosen, tolerance)
    else:
        scores = yield Masks(np.moveaxis(chosen, -1, 1))
        found = _of_varying(chosen, scores) if variant == "official" else softmax(scores, np)
    np.put_along_axis(w, kept, np.asarray(found, "float32"), axis=-1)
    return w


def _most_varied(A: Array, channels: int) -> Array:
    """The channels ``(B, N)`` that vary most over space, in their order where all of them are wanted."""
    if channels >= A.shape[-1]:
        return np.broadcast_to(np.arange(A.shape[-1]), (len(A), A.shape[-1]))
    return np.argsort(-A.std(axis=1), axis=-1, kind="stable")[:, :channels]


def _of_varying(A: Array, scores: Array) -> Array:
    """Scores of channels, and 0 of those that are the same everywhere."""
    return np.where(A.max(axis=1) > A.min(axis=1), scores, 0.0)


def _until_settled(A: Array, tolerance: float) -> Generator[Masks, Array, Array]:
    """Weights ``(B, K)`` with which every scaled map is within the tolerance; 1/2 for the channels that were left."""
    varying = A.max(axis=1) > A.min(axis=1)
    size = np.where(varying, np.abs(A).max(axis=1), -1.0)
    order = np.argsort(-size, axis=-1, kind="stable")
    sorted_ = np.take_along_axis(A, order[:, None], axis=-1)
    counting = np.take_along_axis(varying, order, axis=-1)
    w = np.where(counting, 0.5, 0.0)
    K = A.shape[-1]
    for start in range(0, K, _PORTION):
        found = np.maximum(combine(sorted_, w, np), 0).max(axis=-1)
        left = (np.abs(sorted_[..., start:]) * counting[:, None, start:]).sum(axis=-1).max(axis=-1)
        if (left <= tolerance * found).all():
            break
        end = min(start + _PORTION, K)
        scores = yield Masks(np.moveaxis(sorted_[..., start:end], -1, 1), remaining=K - end)
        if scores.min() < 0 or scores.max() > 1:
            raise RequestError("tolerance of score-cam needs the probability of a class: weights from 0 to 1")
        w[:, start:end] = np.where(counting[:, start:end], scores, 0.0)
    whole = np.zeros_like(w)
    np.put_along_axis(whole, order, w, axis=-1)
    return whole
