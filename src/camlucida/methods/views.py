"""Methods that look into other images than the one that is explained: noisy ones, ones on a path, turned ones."""

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Laid, Seen, Views
from camlucida.domains import number, whole
from camlucida.maps import divide, resize
from camlucida.methods.definition import Variant
from camlucida.methods.registry import method
from camlucida.methods.sampling import along, noisy, portions
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp

_CHANNELS_AT_ONCE = 64


@method(
    "smooth-grad-cam++",
    title="Smooth Grad-CAM++",
    source="Omeiza et al. 2019, Smooth Grad-CAM++, arXiv:1908.01224",
    cost="1 F + n F + n B",
    asks=Need.VIEWS,
    gives="weights",
    variants={"official": "logit", "paper": "logit"},
    signed=False,
    proof=("5",),
    uncertain="how many noisy inputs and how strong a noise the paper takes was not read again",
    options={"samples": whole(), "spread": number(0), "seed": whole(0)},
)
def smooth_grad_cam_plus_plus(
    A: Array, x: Array, xp: Xp, *, samples: int = 5, spread: float = 0.15, seed: int = 0, variant: Variant = "official"
) -> Generator[Views, Seen, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = Σ_u α_uk ReLU(D¹_uk),   α_uk = D²_uk / (2 D²_uk + S_k D³_uk),   S_k = Σ_v A_vk

    A_uk is the activation of channel k at place u, D¹, D² and D³ the means over noisy inputs of the gradient and of its
    second and third power: Grad-CAM++ with smoothed derivatives. The noise has a standard deviation of `spread` times
    the input's range, the same noise for all images.

    The paper prints D¹ above the fraction line, which everybody takes for a slip of the pen: variant="paper" takes it
    at its word. D³ may be negative where D¹ is positive, so that α can be large where its denominator nearly vanishes.
    torchcam rectifies the gradient of the last noisy input in the place of the mean.
    """
    D = [np.zeros(A.shape) for _ in range(3)]
    for found in (yield from noisy(x, samples, spread, seed, inside=True)):
        G = np.asarray(found, "float64")
        D = [d + (G**power).sum(axis=1) / samples for power, d in enumerate(D, start=1)]
    S = A.sum(axis=1, keepdims=True)
    above = D[1] if variant == "official" else D[0]
    α = divide(above, 2 * D[1] + S * D[2], np)
    return np.asarray((α * np.maximum(D[0], 0)).sum(axis=1), "float32")


@method(
    "integrated-grad-cam",
    title="Integrated Grad-CAM",
    source="Sattarzadeh et al. 2021, Integrated Grad-CAM, arXiv:2102.07805",
    cost="2 F + m F + m B",
    asks=Need.VIEWS,
    variants={"paper": "logit", "official": "logit"},
    signed=False,
    proof=("10",),
    options={"steps": whole()},
)
def integrated_grad_cam(
    x: Array, xp: Xp, *, steps: int = 20, variant: Variant = "paper"
) -> Generator[Views, Seen, Array]:
    """L_u = mean_m ReLU(Σ_k w_k(t_m) (A_uk(t_m) - A_uk(0))),   w_k(t) = mean_u G_uk(t),   t_m = m / M

    A_uk(t) is the activation of channel k at place u for the input t x, on the way from zero (a middle grey with most
    preprocessings) to the image, G_uk(t) the gradient of the score there. Averaged over M `steps`, it does not miss
    what a saturated score no longer shows.

    variant="official", the authors' notebook: the sum of plain Grad-CAMs, each rectified, at t = 0, 1/M ... (M-1)/M.
    """
    official = variant == "official"
    start: Array = 0.0
    if not official:
        start = (yield Views(np.zeros_like(x)[:, None], gradient=False, remaining=steps)).A
    total = 0.0
    for first, count in portions(steps):
        m = np.arange(first, first + count) + (0 if official else 1)
        seen = yield Views(x[:, None] * along(m / steps, x), remaining=steps - first - count)
        w = seen.G.mean(axis=2)
        maps = np.matmul(seen.A - start, w[..., None])[..., 0]
        total = total + np.maximum(maps, 0).sum(axis=1)
    return np.asarray(total if official else total / steps, "float32")


@method(
    "rsi-grad-cam",
    title="RSI-Grad-CAM",
    source="Lerma and Lucas 2022, RSI-Grad-CAM, arXiv:2205.10900",
    cost="1 F + m F + m B",
    asks=Need.VIEWS,
    gives="weights",
    proof=("21",),
    uncertain="that the weights meet the activations of the image itself was not read again",
    options={"steps": whole()},
)
def rsi_grad_cam(x: Array, xp: Xp, *, steps: int = 20) -> Generator[Views, Seen, Array]:
    """L_u = Σ_k w_k A_uk,   w_k = Σ_u Σ_m G_uk(t_m) (A_uk(t_m) - A_uk(t_{m-1})),   t_m = m / M

    A_uk(t) is the activation of channel k at place u for the input t x, on the way from zero (a middle grey with most
    preprocessings) to the image, G_uk(t) the gradient of the score there: a Riemann-Stieltjes sum. With many `steps`
    the weights sum to f(x) - f(0), so that each is what its channel adds to the score.
    """
    before = (yield Views(np.zeros_like(x)[:, None], gradient=False, remaining=steps)).A
    w = 0.0
    for first, count in portions(steps):
        m = np.arange(first, first + count) + 1
        seen = yield Views(x[:, None] * along(m / steps, x), remaining=steps - first - count)
        change = np.diff(np.concatenate([before, seen.A], axis=1), axis=1)
        w = w + (seen.G * change).sum(axis=(1, 2))
        before = seen.A[:, -1:]
    return np.asarray(w, "float32")


@method(
    "cameras",
    title="CAMERAS",
    source="Jalwana et al. 2021, CAMERAS, arXiv:2106.10649",
    cost="1 F + 8 F + 8 B of inputs up to four times as wide",
    asks=Need.VIEWS,
    options={"resolutions": whole()},
)
def cameras(x: Array, xp: Xp, *, resolutions: int = 8) -> Generator[Views, Seen, Laid]:
    """L_u = Σ_k mean_r resize(A^r_k)_u mean_r resize(G^r_k)_u

    A^r_k are the activations of channel k for the image at resolution r, G^r_k the gradients of the score with respect
    to them, both enlarged to the size of the image: layers see more detail in larger images. The r-th of `resolutions`
    is 1 + 100 (r - 1) / 224 times as wide as the model's input (224, 324 ... 924 for 224), enlarged bicubically.

    It needs a network that takes images of any size. The authors' code leaves out resolutions at which the model
    decides for another class; here the class is settled beforehand, and none is left out.
    """
    from skimage.transform import resize as enlarge

    size: Grid = x.shape[1:-1]
    seen = []
    for r in range(resolutions):
        wide = tuple(round(n * (1 + r * 100 / 224)) for n in size)
        images = x if r == 0 else np.stack([enlarge(one, wide, 3, mode="edge", anti_aliasing=False) for one in x])
        one = yield Views(np.asarray(images[:, None], "float32"), remaining=resolutions - r - 1)
        seen.append(Seen(one.A[:, 0], one.G[:, 0], one.scores, one.grid))
    return Laid(np.stack([_multiplied([_row(one, b) for one in seen], size) for b in range(len(x))]), size)


def _row(seen: Seen, b: int) -> Seen:
    return Seen(seen.A[b], seen.G[b], seen.scores[b], seen.grid)


def _multiplied(seen: list[Seen], size: Grid) -> NDArray[np.float32]:
    """Of one image, the sum over channels of mean activations times mean gradients, some channels at a time."""
    total = np.zeros(int(np.prod(size)), "float32")
    for start in range(0, seen[0].A.shape[-1], _CHANNELS_AT_ONCE):
        some = slice(start, start + _CHANNELS_AT_ONCE)
        A = np.mean([resize(one.A[:, some].T, one.grid, size, np) for one in seen], axis=0)
        G = np.mean([resize(one.G[:, some].T, one.grid, size, np) for one in seen], axis=0)
        total += (A * G).sum(axis=0).reshape(-1)
    return total
