"""Methods that score the input seen through groups or components of channels, which gradients weigh."""

from collections.abc import Generator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Laid, Masks
from camlucida.domains import number, whole
from camlucida.maps import combine, divide, min_max, rectify, resize
from camlucida.methods.probes import score_cam
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp

_NEGLIGIBLE = 1e-3
"""Probability below which DecomCAM's code leaves a component out."""


def _blurred(x: Array, sigma: float, radius: int) -> NDArray[np.float32]:
    """Images ``(B, *size, C)`` under a Gaussian."""
    from scipy import ndimage

    inner = tuple(range(1, x.ndim - 1))
    return np.asarray(ndimage.gaussian_filter(np.asarray(x, "float32"), sigma, axes=inner, radius=radius), "float32")


@method(
    "group-cam",
    title="Group-CAM",
    source="Zhang et al. 2021, Group-CAM: Group Score-Weighted Visual Explanations, arXiv:2103.13859",
    cost="1 F + 1 B + 33 F",
    asks=Need.SCORES,
    score="probability",
    gradient_of="logit",
    signed=False,
    proof=("28",),
    options={"groups": whole()},
)
def group_cam(A: Array, G: Array, grid: Grid, x: Array, xp: Xp, *, groups: int = 32) -> Generator[Masks, Array, Array]:
    """L_u = Σ_g s_g M_gu,   M_g = ReLU(Σ_{k in g} w_k A_k),   s_g = ReLU(p(x ∘ m_g + x' ∘ (1 - m_g)) - p(x'))

    A_uk is the activation of channel k at place u, w_k = mean_u G_uk its weight in Grad-CAM, m_g = minmax(resize(M_g)).
    The channels are cut into consecutive groups; a group counts as much as the probability p of the target rises where
    it shows the input x in a blurred copy x' (51 pixels, deviation 50). With one group it is Grad-CAM.
    """
    weighed = A * G.mean(axis=1, keepdims=True)
    parts = np.array_split(np.arange(A.shape[-1]), min(groups, A.shape[-1]))
    M = np.stack([rectify(weighed[..., part].sum(axis=-1), np) for part in parts], axis=1)
    shown = yield Masks(M, base=_blurred(x, 50, 25), remaining=1)
    hidden = yield Masks(np.zeros((1, 1, A.shape[1]), "float32"), grid, scaled=False, base=_blurred(x, 50, 25))
    varies = M.max(axis=-1) > M.min(axis=-1)
    s = np.where(varies, rectify(np.asarray(shown - hidden), np), 0.0)
    return np.asarray((s[..., None] * M).sum(axis=1), "float32")


@method(
    "decom-cam",
    title="DecomCAM",
    source="2024, DecomCAM, arXiv:2405.18882",
    cost="1 F + 1 B + 10 F",
    asks=Need.SCORES,
    score="probability",
    gradient_of="logit",
    signed=False,
    uncertain="which channels count as the first, that they are centred, and the sign of components are chosen here",
    options={"channels": whole(), "components": whole()},
)
def decom_cam(
    A: Array, G: Array, x: Array, xp: Xp, *, channels: int = 500, components: int = 10
) -> Generator[Masks, Array, Array]:
    """L_u = Σ_i S_iu s_i / max_j s_j,   S_i = ReLU(X v_i),   s_i = p(x ∘ m_i + x' ∘ (1 - m_i))

    X_uk = w_k A_uk less its mean over u, for the `channels` with the largest mean, w_k = mean_u G_uk as in Grad-CAM;
    v_i are its first right singular vectors, m_i = minmax(resize(S_i)), x the input, x' a blurred copy (deviation 10),
    p the probability of the target. Grad-CAM's map is taken apart into patterns, and each counts by what it shows.
    """
    S = np.stack([_components(a, channels, components) for a in A * G.mean(axis=1, keepdims=True)])
    scores = yield Masks(S, base=_blurred(x, 10, 40))
    varies = S.max(axis=-1) > S.min(axis=-1)
    s = np.where(varies & (scores >= _NEGLIGIBLE), scores, 0.0)
    share = divide(s, s.max(axis=-1, keepdims=True), np)
    return np.asarray((share[..., None] * S).sum(axis=1), "float32")


def _followed(asking: Generator[Masks, Array, Array], more: int) -> Generator[Masks, Array, Array]:
    """A method at work within another one, which will ask for `more` masks after it."""
    try:
        asked = next(asking)
        while True:
            asked = asking.send((yield replace(asked, remaining=asked.remaining + more)))
    except StopIteration as stop:
        found: Array = stop.value
        return found


def _components(weighed: NDArray[np.float32], channels: int, components: int) -> NDArray[np.float32]:
    """The first principal components of one image's weighed channels ``(U, K)``, rectified, ``(components, U)``."""
    first = np.argsort(-weighed.mean(axis=0), kind="stable")[:channels]
    X = weighed[:, first].astype("float64")
    X = X - X.mean(axis=0)
    _, singular, V = np.linalg.svd(X, full_matrices=False)
    there = singular > singular[0] * max(X.shape) * np.finfo("float32").eps
    signs = np.where(V.sum(axis=1) < 0, -1.0, 1.0)
    maps = rectify((X @ (V * signs[:, None]).T).T, np) * there[:, None]
    whole = np.zeros((components, len(X)), "float32")
    whole[: len(maps)] = maps[:components]
    return whole


@method(
    "union-cam",
    title="Union-CAM",
    source="Hu et al. 2024, Union-CAM, Frontiers in Neurorobotics 18, 10.3389/fnbot.2024.1490198",
    cost="1 F + 1 B + K F + 4 F",
    asks=Need.SCORES,
    score="probability",
    gradient_of="logit",
    signed=False,
    uncertain="the paper could not be read: this is how another's implementation (XplainCAM) has it",
    options={"theta": number(0, 100)},
)
def union_cam(
    A: Array, G: Array, grid: Grid, x: Array, xp: Xp, *, theta: float = 10.0
) -> Generator[Masks, Array, Laid]:
    """L = whichever of L_s and minmax(b(L_d) L_d + b(L_s) L_s) has the larger b,   b(L) = p(x ∘ L) - p(0)

    L_s is Score-CAM, L_d = minmax(resize(Σ_k w_k A_k)) with w_k = Σ_u ReLU(G_uk) / Σ_u G_uk over gradients that are not
    below the `theta`-th percentile of their channel; x is the model's input, p the probability of the target. The union
    of a gradient map and a score map, where that explains more than the score map alone.
    """
    size: Grid = x.shape[1:-1]
    w = yield from _followed(score_cam(A, xp), 4)
    kept = np.where(np.percentile(G, theta, axis=1, keepdims=True) > G, 0.0, G)
    positive = divide(np.maximum(kept, 0).sum(axis=1), kept.sum(axis=1), np)

    def large(weights: Array, *, rectified: bool) -> NDArray[np.float32]:
        whole = resize(np.asarray(combine(A, weights, np), "float32"), grid, size, np).reshape(len(x), -1)
        return np.asarray(min_max(rectify(whole, np) if rectified else whole, np), "float32")

    denoised, scored = large(positive, rectified=False), large(w, rectified=True)
    nothing = np.zeros_like(scored)
    p = yield Masks(np.stack([nothing, denoised, scored], axis=1), size, scaled=False, remaining=1)
    b = p[:, 1:] - p[:, :1]
    union = np.asarray(min_max(b[:, :1] * denoised + b[:, 1:] * scored, np), "float32")
    again = yield Masks(union[:, None], size, scaled=False)
    better = again - p[:, :1] > b[:, 1:]
    return Laid(np.where(better, union, scored), size)
