"""Methods that weigh channels by how the model scores the input seen through them, in the wake of Score-CAM."""

import math
from collections.abc import Generator

import numpy as np

from camlucida.asks import Masks
from camlucida.domains import number, whole, word
from camlucida.maps import masks, softmax
from camlucida.methods.probes import score_cam
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp


@method(
    "faster-score-cam",
    title="Faster-Score-CAM",
    source="tabayashi0117, github.com/tabayashi0117/Score-CAM; there is no paper",
    cost="1 F + 10 F",
    asks=Need.SCORES,
    score="probability",
    gives="weights",
    proof=("25",),
    options={"channels": whole()},
)
def faster_score_cam(A: Array, xp: Xp, *, channels: int = 10) -> Generator[Masks, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = p(x ∘ minmax(resize(A_k))) for the channels that vary most

    A_uk is the activation of channel k at place u, x the model's input, p the probability of the target: Score-CAM with
    the few channels whose standard deviation over places is largest. It is quick, and forgets what weak channels know.
    """
    return (yield from score_cam(A, xp, channels=channels))


@method(
    "gscore-cam",
    title="gScoreCAM",
    source="Chen et al. 2022, gScoreCAM: What objects is CLIP looking at?, ACCV",
    cost="1 F + 1 B + K/10 F",
    asks=Need.SCORES,
    gives="weights",
    score="probability",
    gradient_of="logit",
    options={"share": number(0, 1, above=True)},
)
def gscore_cam(A: Array, G: Array, xp: Xp, *, share: float = 0.1) -> Generator[Masks, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = p(x ∘ minmax(resize(A_k))) for the channels with the largest mean gradient

    A_uk is the activation of channel k at place u, G_uk the gradient of the score with respect to it, x the model's
    input, p the probability of the target: Score-CAM with a `share` of the channels, those that Grad-CAM would weigh
    most.
    """
    count = math.ceil(round(share * A.shape[-1], 9))
    kept = np.argsort(-G.mean(axis=1), axis=-1, kind="stable")[:, :count]
    chosen = np.take_along_axis(A, kept[:, None], axis=-1)
    w = np.zeros((len(A), A.shape[-1]), "float32")
    np.put_along_axis(w, kept, (yield from score_cam(chosen, xp)), axis=-1)
    return w


@method(
    "ss-cam",
    title="SS-CAM",
    source="Wang et al. 2020, SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization, arXiv:2006.14255",
    cost="1 F + 35 K F",
    asks=Need.SCORES,
    gives="weights",
    uncertain="which of its two ways of adding noise is which, and the unit of sigma, could not be read again",
    options={"samples": whole(), "sigma": number(0), "noise": word("mask", "activation"), "seed": whole(0)},
)
def ss_cam(
    A: Array, grid: Grid, x: Array, xp: Xp, *, samples: int = 35, sigma: float = 2.0, noise: str = "mask", seed: int = 0
) -> Generator[Masks, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w = softmax_k mean_n (f(x ∘ m_kn) - f(0)),   m_kn = minmax(resize(A_k)) + ε_n

    A_uk is the activation of channel k at place u, x the model's input, f the logit of the target, ε normal noise with
    standard deviation `sigma`: Score-CAM smoothed over noisy masks. noise="activation" adds it to the activations
    before they are scaled. The baseline f(0) cancels in the softmax. All images get the same noise.

    35 samples for each channel are more passes than anyone will wait for; `samples` takes fewer.
    """
    size, K = x.shape[1:-1], A.shape[-1]
    scores = np.zeros((len(A), K))
    rng = np.random.default_rng(seed)
    for k in range(K):
        left = (K - k - 1) * samples
        if noise == "activation":
            drawn = sigma * rng.normal(size=(1, samples, A.shape[1]))
            asked = Masks(np.asarray(A[:, None, :, k] + drawn, "float32"), remaining=left)
        else:
            own = masks(A[..., k], grid, size, np).reshape(len(A), 1, -1)
            drawn = sigma * rng.normal(size=(1, samples, own.shape[-1]))
            asked = Masks(np.asarray(own + drawn, "float32"), size, scaled=False, remaining=left)
        answered = yield asked
        scores[:, k] = answered.mean(axis=1)
    return np.asarray(softmax(scores, np), "float32")


@method(
    "is-cam",
    title="IS-CAM",
    source="Naidu et al. 2020, IS-CAM: Integrated Score-CAM for axiomatic-based explanations, arXiv:2010.03023",
    cost="1 F + 10 K F",
    asks=Need.SCORES,
    gives="weights",
    proof=("25",),
    uncertain="whether the paper adds up the coefficients n/N could not be read: here they stay within 0..1",
    options={"steps": whole()},
)
def is_cam(A: Array, grid: Grid, x: Array, xp: Xp, *, steps: int = 10) -> Generator[Masks, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w = softmax_k mean_n (f(n/N x ∘ m_k) - f(0)),   m_k = minmax(resize(A_k))

    A_uk is the activation of channel k at place u, x the model's input, f the logit of the target: Score-CAM integrated
    along the way from nothing to the masked input, in N `steps`. The baseline f(0) cancels in the softmax. torchcam
    adds the coefficients up, so that they go far beyond 1.
    """
    size, K = x.shape[1:-1], A.shape[-1]
    along = (np.arange(1, steps + 1, dtype="float32") / steps)[None, :, None]
    scores = np.zeros((len(A), K))
    for k in range(K):
        own = masks(A[..., k], grid, size, np).reshape(len(A), 1, -1)
        answered = yield Masks(np.asarray(along * own, "float32"), size, scaled=False, remaining=(K - k - 1) * steps)
        scores[:, k] = answered.mean(axis=1)
    return np.asarray(softmax(scores, np), "float32")
