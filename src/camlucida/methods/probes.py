"""Methods that ask for the scores of masked inputs. They know no model, no batch size and no device."""

from collections.abc import Generator
from dataclasses import dataclass

from camlucida.errors import RequestError
from camlucida.maps import combine
from camlucida.methods.registry import Variant, method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Inputs that a method wants scored: each image times each of its masks.

    Args:
        maps: ``(B, N, U)``, or ``(1, N, U)`` for the same masks over every image. Each is resized to the input, then
            scaled to 0..1 (a constant one to 0), in this order, and multiplied with the model's input.
        grid: how the U locations lie; None for the layer's grid.
        scaled: whether they are to be scaled; False where they are in 0..1 as they come.
        remaining: how many masks the method will ask for after these, where it asks in portions.
    """

    maps: Array
    grid: Grid | None = None
    scaled: bool = True
    remaining: int = 0


@method(
    "score-cam",
    title="Score-CAM",
    needs=Need.PROBES,
    source="Wang et al. 2020, Score-CAM: Score-Weighted Visual Explanations, arXiv:1910.01279, algorithm 1",
    cost="1 F + K F",
    variants={"official": "probability", "paper": "logit"},
)
def score_cam(
    A: Array, xp: Xp, *, variant: Variant = "official", channels: int | None = None
) -> Generator[Masks, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = p(x ∘ m_k),   m_k = minmax(resize(A_k))

    A_uk is the activation of channel k at place u, x the model's input, p the probability of the target. No gradient
    is needed: each channel is weighed by how well the input is recognised through it.

    variant="official", the authors' code: w_k is the probability; constant channels count nothing.
    variant="paper", algorithm 1: w_k = softmax over channels of the logit f(x ∘ m_k) - f(0). The baseline f(0) is the
    same for all channels and cancels in the softmax. Logits make that softmax nearly one-hot: a map of one channel.

    channels=N takes only the N channels that vary most over space (Faster-Score-CAM, as in tf-keras-vis).
    """
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise RequestError(f"channels={channels!r} of score-cam is not a whole number above 0")
    if channels is not None and channels < A.shape[-1]:
        most_varied = xp.argsort(-xp.std(A, axis=1), axis=-1)[:, :channels]
        A = xp.take_along_axis(A, most_varied[:, None, :], axis=-1)
    maps = xp.moveaxis(A, -1, 1)
    scores = yield Masks(maps)
    if variant == "official":
        w = xp.where(xp.max(maps, axis=-1) > xp.min(maps, axis=-1), scores, 0.0)
    else:
        powers = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        w = powers / xp.sum(powers, axis=-1, keepdims=True)
    return combine(A, w, xp)
