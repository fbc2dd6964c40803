"""Methods that read the attention of a vision transformer's blocks.

P_l is the attention of block l after its softmax, ``(B, heads, T, T)``: how much token q takes of token t in each head.
"""

from collections.abc import Generator

import numpy as np

from camlucida.asks import Attended, Attention, Laid
from camlucida.domains import whole
from camlucida.maps import rectify
from camlucida.methods.definition import Variant
from camlucida.methods.registry import method
from camlucida.types import Array, Need
from camlucida.xp import Xp

Asking = Generator[Attention, Attended, Laid]


@method(
    "legrad",
    title="LeGrad",
    asks=Need.ATTENTION,
    source="Bousselham et al. 2025, LeGrad: An Explainability Method for Vision Transformers via Feature Formation "
    "Sensitivity, arXiv:2404.03214, section 3",
    cost="2 F + 1 B",
    place="input",
    variants={"paper": "logit", "official": "logit"},
    signed=False,
    offset=True,
    proof=("the last block alone is the gradient of the model's own score", "one linear block"),
    uncertain="whether the paper takes all blocks in each of its experiments was not read again",
    options={"blocks": whole(or_none=True)},
)
def legrad(xp: Xp, *, blocks: int | None = None, variant: Variant = "paper") -> Asking:
    """L_t = Σ_l mean_h mean_q ReLU(∂s_l / ∂P_l[h, q, t]),   s_l = score(end(T_l))

    P_l is the attention of block l, T_l the tokens that this block yields, and s_l what the model would say if they
    were its last ones: each block has a score of its own, and only its own attention is asked for what moves it. The
    attention itself is not multiplied. The map is that of the tokens t that are patches.

    `end` is the model's own ending: last norm, class token or mean, head. The authors' code (for CLIP and its like)
    reads the mean of all tokens at each block instead, also where the model reads its class token, which a model's
    head was not trained for. They scale by the number of blocks, which leaves the heat map as it is.

    variant="paper" sums over all blocks, variant="official" over the last two, as the code does by default;
    blocks=N over the last N. All gradients come from one backward pass, since no s_l goes through another block.
    """
    count = blocks if blocks is not None else 2 if variant == "official" else None
    seen = yield Attention(_sensitivity, "blocks")
    E = np.sum(seen.blocks[-count:] if count else seen.blocks, axis=0)
    return Laid(np.asarray(E[:, list(seen.patches)], "float32"), seen.grid)


@method(
    "chefer",
    title="Gradient-weighted attention rollout",
    asks=Need.ATTENTION,
    source="Chefer et al. 2021, Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder "
    "Transformers, arXiv:2103.15679, eq. 5 and 6",
    cost="2 F + 1 B",
    place="input",
    signed=False,
    offset=True,
    proof=("where G is 1 and the heads agree, it is the product of I + P",),
)
def chefer(xp: Xp) -> Asking:
    """R ← R + Ā_l R,   Ā_l = mean_h ReLU(G_l ∘ P_l),   from R = I and the first block to the last

    P_l is the attention of block l, G_l the gradient of the model's score with respect to it. The map is the class
    token's row of R at the patches. Where the model has no class token or does not read it, the map is the mean over
    the rows of the tokens that it reads; it then holds the identity, the same at every patch.
    """
    seen = yield Attention(_relevance, "score")
    R = np.eye(seen.blocks[0].shape[-1])
    for P in seen.blocks:
        R = R + P @ R
    return _read(R, seen)


@method(
    "rollout",
    title="Attention rollout",
    asks=Need.ATTENTION,
    source="Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers, arXiv:2005.00928",
    cost="2 F",
    place="input",
    signed=False,
    offset=True,
    proof=("attention that stays with each token gives a map of nothing but this token",),
)
def rollout(xp: Xp) -> Asking:
    """R = M_L ⋯ M_2 M_1,   M_l = rows of (mean_h P_l + I) / 2, each divided by its sum

    P_l is the attention of block l, and I stands for the way around it. The map is the class token's row of R at the
    patches, or the mean over the rows that the model reads where that is not the class token.

    It knows of no class: the map is the same for every target.
    """
    seen = yield Attention(_attention, None)
    R = np.eye(seen.blocks[0].shape[-1])
    for P in seen.blocks:
        M = (P + np.eye(P.shape[-1])) / 2
        R = M / M.sum(axis=-1, keepdims=True) @ R
    return _read(R, seen)


def _sensitivity(P: Array, G: Array, xp: Xp) -> Array:
    """``(B, T)``"""
    return xp.mean(rectify(G, xp), axis=(1, 2))


def _relevance(P: Array, G: Array, xp: Xp) -> Array:
    """``(B, T, T)``"""
    return xp.mean(rectify(G * P, xp), axis=1)


def _attention(P: Array, G: None, xp: Xp) -> Array:
    """``(B, T, T)``"""
    return xp.mean(P, axis=1)


def _read(R: Array, seen: Attended) -> Laid:
    """The rows that the model reads of ``(B, T, T)``, at the patches."""
    read = R[:, list(seen.rows)].mean(axis=1)
    return Laid(np.asarray(read[:, list(seen.patches)], "float32"), seen.grid)
