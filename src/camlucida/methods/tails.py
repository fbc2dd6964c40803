"""Methods that alter activations and run what follows the layer."""

from collections.abc import Generator, Iterator

import numpy as np

from camlucida.asks import Altered, Laid, Seen, Views
from camlucida.domains import flag
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need, Readout
from camlucida.xp import Xp

_VALUES_AT_ONCE = 2**26
"""How many altered activations are made at a time, so that memory does not grow with the number of channels."""


def _contributions(A: Array, W: Array, xp: Xp) -> Array:
    return W * xp.mean(A, axis=1)


@method(
    "ablation-cam",
    title="Ablation-CAM",
    source="Desai and Ramaswamy 2020, Ablation-CAM: Visual Explanations via Gradient-free Localization, WACV",
    cost="1 F + K F of what follows the layer",
    asks=Need.TAIL,
    gives="weights",
    closed=_contributions,
    proof=("2", "6"),
)
def ablation_cam(A: Array, xp: Xp) -> Generator[Altered, Array, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = y - y without channel k

    A_uk is the activation of channel k at place u, y the score of the target: a channel weighs as much as the score
    drops when it is set to zero. No gradient is needed. Where the layer is averaged and a linear layer follows, w_k is
    W_k mean_u A_uk and nothing is run.

    The paper divides by y, one factor for all channels. It is left out, since a negative y would turn the map over.
    pytorch-grad-cam puts a very negative number in the place of zero, and others again depend on the batch size.
    """
    K = A.shape[-1]
    whole = yield Altered(A[:, None], remaining=K)
    w = np.zeros((len(A), K), "float32")
    for start, end in _portions(K, A.size):
        altered = np.repeat(A[:, None], end - start, axis=1)
        for i, k in enumerate(range(start, end)):
            altered[:, i, :, k] = 0
        scores = yield Altered(altered, remaining=K - end)
        w[:, start:end] = whole - scores
    return w


def _read(A: Array, head: Readout, grid: Grid, xp: Xp, *, gaussian: bool = False) -> Array:
    share = _stamps(grid).sum(axis=1)[:, None] if gaussian else 1.0
    return head.scores(A * (share / A.shape[1]))


@method(
    "recipro-cam",
    title="ReciproCAM",
    source="Byun and Lee 2024, ReciproCAM: Lightweight Gradient-free Class Activation Map, arXiv:2209.14074",
    cost="1 F + places F of what follows the layer",
    asks=Need.TAIL,
    score="probability",
    offset=True,
    closed=_read,
    proof=("7",),
    options={"gaussian": flag()},
)
def recipro_cam(A: Array, grid: Grid, xp: Xp, *, gaussian: bool = False) -> Generator[Altered, Array, Array]:
    """L_u = p(A ∘ δ_u)

    A is what the layer yields, δ_u a mask that keeps all channels at place u and is zero elsewhere, p the probability
    of the target: how sure the model is if it sees one place alone. No gradient is needed, and as many runs of what
    follows the layer as it has places. It works for vision transformers too: the class token stays.

    gaussian=True stamps the activations of a place, weighed 4 2 1 over 16, on its neighbours as well, as the paper
    proposes and the authors' code does not by default. A probability is positive everywhere: what counts is where it is
    higher.
    """
    U = A.shape[1]
    stamps = _stamps(grid) if gaussian else np.eye(U, dtype="float32")
    found = []
    for start, end in _portions(U, A.size):
        altered = stamps[start:end, :, None] * A[:, start:end, None, :]
        scores = yield Altered(altered, remaining=U - end)
        found.append(np.asarray(scores))
    return np.concatenate(found, axis=1)


@method(
    "lift-cam",
    title="LIFT-CAM",
    source="Jung and Oh 2021, Towards Better Explanations of Class Activation Mapping, arXiv:2102.05228",
    cost="1 F + 1 F and 1 B of what follows the layer",
    asks=(Need.VIEWS, Need.DEEPLIFT),
    gives="weights",
    closed=_contributions,
    proof=("6", "21"),
)
def lift_cam(x: Array, xp: Xp) -> Generator[Views, Seen, Laid]:
    """L_u = Σ_k w_k A_uk,   w_k = Σ_u m_uk A_uk

    A_uk is the activation of channel k at place u, m its DeepLIFT multiplier against activations of zero: w_k is what
    channel k adds to the score, an approximation of its Shapley value in one backward pass. Where the layer is averaged
    and a linear layer follows, it is W_k mean_u A_uk, which is exact.
    """
    seen = yield Views(x[:, None], rule="deeplift")
    names = ", ".join(seen.unguided)
    told = (f"beyond the rescale rule: {names} kept their derivatives",) if names else ()
    return Laid(np.asarray((seen.G * seen.A).sum(axis=2)[:, 0], "float32"), seen.grid, [told] * len(x))


def _portions(count: int, values: int) -> Iterator[tuple[int, int]]:
    """From where to where, of `count` altered copies of `values` activations."""
    step = max(1, _VALUES_AT_ONCE // values)
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _stamps(grid: Grid) -> Array:
    """Per place, how much its activations count at each place ``(U, U)``: 1 2 1 along each axis, over the sum."""
    whole: Array = np.ones((1, 1))
    for n in grid:
        line = np.eye(n) * 2 + np.eye(n, k=1) + np.eye(n, k=-1)
        whole = np.kron(whole, line / 4)
    return whole.astype("float32")
