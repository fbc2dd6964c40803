"""Methods that look at the image that goes into the model: what each pixel does to the score."""

from collections.abc import Generator

import numpy as np

from camlucida.asks import Laid, Seen, Views
from camlucida.domains import number, whole
from camlucida.maps import combine, rectify, resize
from camlucida.methods.registry import method
from camlucida.methods.sampling import along, noisy, portions
from camlucida.types import Array, Grid, Need, Rule
from camlucida.xp import Xp


@method(
    "gradient",
    title="Gradient",
    source="Simonyan et al. 2014, Deep Inside Convolutional Networks, arXiv:1312.6034",
    cost="1 F + 1 B to the image",
    place="input",
    gives="pixels",
    shown="magnitude",
    signed=False,
    proof=("22",),
)
def gradient(G: Array, xp: Xp) -> Array:
    """L_uc = G_uc

    G_uc is the gradient of the score with respect to colour c of pixel u: what a small change there does. `pixels`
    holds it with its sign, the map is the greatest magnitude over colours, as in the paper.
    """
    return G


@method(
    "gradient-x-input",
    title="Gradient x Input",
    source="Shrikumar et al. 2016, Not Just a Black Box, arXiv:1605.01713",
    cost="1 F + 1 B to the image",
    place="input",
    gives="pixels",
    proof=("19",),
)
def gradient_x_input(A: Array, G: Array, xp: Xp) -> Array:
    """L_uc = G_uc x_uc

    x_uc is the model's input at colour c of pixel u, G_uc the gradient of the score with respect to it; the map is the
    sum over colours. For a network of ReLUs without biases it sums to the score. A pixel that is 0 in the model's input
    has no share, whatever it means.
    """
    return A * G


@method(
    "smoothgrad",
    title="SmoothGrad",
    source="Smilkov et al. 2017, SmoothGrad: removing noise by adding noise, arXiv:1706.03825",
    cost="n F + n B to the image",
    asks=Need.VIEWS,
    place="input",
    gives="pixels",
    shown="magnitude",
    signed=False,
    options={"samples": whole(), "spread": number(0), "seed": whole(0)},
)
def smoothgrad(
    x: Array, xp: Xp, *, samples: int = 25, spread: float = 0.15, seed: int = 0
) -> Generator[Views, Seen, Array]:
    """L_uc = mean_n G_uc(x + ε_n),   ε_n normal

    G_uc is the gradient of the score with respect to colour c of pixel u of a noisy input. The noise has a standard
    deviation of `spread` times the input's range. The mean of the gradients around an image has less noise than the one
    at it.
    """
    gradients = yield from noisy(x, samples, spread, seed, inside=False)
    return np.asarray(sum(G.sum(axis=1) for G in gradients) / samples, "float32")


@method(
    "vargrad",
    title="VarGrad",
    source="Adebayo et al. 2018, Local Explanation Methods for Deep Neural Networks Lack Sensitivity, arXiv:1810.03307",
    cost="n F + n B to the image",
    asks=Need.VIEWS,
    place="input",
    gives="pixels",
    signed=False,
    options={"samples": whole(), "spread": number(0), "seed": whole(0)},
)
def vargrad(
    x: Array, xp: Xp, *, samples: int = 25, spread: float = 0.15, seed: int = 0
) -> Generator[Views, Seen, Array]:
    """L_uc = var_n G_uc(x + ε_n),   ε_n normal

    G_uc is the gradient of the score with respect to colour c of pixel u of a noisy input; the noise is SmoothGrad's.
    How much the gradient changes around an image: it tells edges of the decision, and has no sign.
    """
    gradients = yield from noisy(x, samples, spread, seed, inside=False)
    return np.asarray(np.concatenate(list(gradients), axis=1).var(axis=1), "float32")


@method(
    "integrated-gradients",
    title="Integrated Gradients",
    source="Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, arXiv:1703.01365",
    cost="m F + m B to the image",
    asks=Need.VIEWS,
    place="input",
    gives="pixels",
    proof=("21",),
    options={"steps": whole(), "baseline": number()},
)
def integrated_gradients(x: Array, xp: Xp, *, steps: int = 50, baseline: float = 0.0) -> Generator[Views, Seen, Array]:
    """L_uc = (x_uc - x'_uc) mean_m G_uc(x' + t_m (x - x')),   t_m = (m - ½) / M

    G_uc is the gradient of the score with respect to colour c of pixel u, x' the `baseline`: the same number at every
    pixel of the model's input, which with most preprocessings is a middle grey if it is 0. The map sums to
    f(x) - f(x'), up to what M `steps` along the path leave over (completeness).
    """
    start = np.full_like(x, baseline, dtype="float32")
    total = 0.0
    for first, count in portions(steps):
        t = along((np.arange(first, first + count) + 0.5) / steps, x)
        seen = yield Views(start[:, None] + t * (x - start)[:, None], inside=False, remaining=steps - first - count)
        total = total + seen.G.sum(axis=1)
    return np.asarray((x - start).reshape(len(x), -1, x.shape[-1]) * total / steps, "float32")


def _altered(x: Array, rule: Rule) -> Generator[Views, Seen, Laid]:
    seen = yield Views(x[:, None], inside=False, rule=rule)
    return Laid(seen.G[:, 0], seen.grid, _told(seen))


def _told(seen: Seen) -> list[tuple[str, ...]]:
    """Per image, which activations were not altered."""
    names = ", ".join(seen.unguided)
    return [(f"only ReLUs are altered: {names} kept their derivatives",) if names else () for _ in seen.scores]


@method(
    "guided-backprop",
    title="Guided Backpropagation",
    source="Springenberg et al. 2015, Striving for Simplicity: The All Convolutional Net, arXiv:1412.6806",
    cost="2 F + 1 B to the image",
    asks=(Need.VIEWS, Need.RULES),
    place="input",
    gives="pixels",
    proof=("22",),
)
def guided_backprop(x: Array, xp: Xp) -> Generator[Views, Seen, Laid]:
    """L_uc = the gradient of the score where every ReLU hands back g [z > 0] [g > 0]

    z is what goes into a ReLU, g the gradient that comes back to it: only what was active and speaks for the target
    goes on. The pictures are crisp, and much of that is the image: they hardly change when the network's weights are
    drawn at random (Adebayo et al. 2018). Look at them for detail, not for proof.

    Activations other than ReLU and ReLU6 keep their derivative, and a note names them.
    """
    return (yield from _altered(x, "guided"))


@method(
    "deconvnet",
    title="Deconvnet",
    source="Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901",
    cost="2 F + 1 B to the image",
    asks=(Need.VIEWS, Need.RULES),
    place="input",
    gives="pixels",
    proof=("22",),
)
def deconvnet(x: Array, xp: Xp) -> Generator[Views, Seen, Laid]:
    """L_uc = the gradient of the score where every ReLU hands back g [g > 0]

    g is the gradient that comes back to a ReLU: what speaks for the target goes on, whether or not the unit was active.
    Activations other than ReLU and ReLU6 keep their derivative, and a note names them.
    """
    return (yield from _altered(x, "deconvnet"))


@method(
    "guided-grad-cam",
    title="Guided Grad-CAM",
    source="Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks, arXiv:1610.02391",
    cost="2 F + 2 B",
    asks=(Need.VIEWS, Need.RULES),
    gives="pixels",
)
def guided_grad_cam(A: Array, G: Array, grid: Grid, x: Array, xp: Xp) -> Generator[Views, Seen, Laid]:
    """L_uc = g_uc resize(ReLU(Σ_k w_k A_uk)),   w_k = mean_u G_uk

    g is the guided backpropagation to colour c of pixel u, multiplied with the Grad-CAM of the layer, enlarged
    bilinearly: the detail of the one where the other is hot. It inherits what guided backpropagation is blamed for.
    """
    seen = yield Views(x[:, None], inside=False, rule="guided")
    cam = rectify(combine(A, G.mean(axis=1), np), np)
    large = resize(cam, grid, seen.grid, np).reshape(len(x), -1, 1)
    return Laid(seen.G[:, 0] * large, seen.grid, _told(seen))
