"""Methods that know nothing: what a map must beat for its figures to mean anything."""

import math

import numpy as np

from camlucida.domains import whole
from camlucida.methods.registry import method
from camlucida.types import Array
from camlucida.xp import Xp


@method(
    "random-cam",
    title="Random-CAM",
    source="the null baseline of Cai 2025, CAMs as Shapley Value-based Explainers, arXiv:2501.06261",
    cost="1 F",
    gives="weights",
    options={"seed": whole(0)},
)
def random_cam(A: Array, xp: Xp, *, seed: int = 0) -> Array:
    """L_u = Σ_k w_k A_uk,   w_k uniform in -1..1

    A_uk is the activation of channel k at place u. The weights are drawn from the seed, the same for every image and
    class: a map made of what the layer sees, without asking what the model does with it.
    """
    drawn = np.random.default_rng(seed).uniform(-1, 1, (1, A.shape[-1])).astype("float32")
    return xp.matmul(xp.zeros_like(A[:, :1, 0]) + 1, drawn)


@method(
    "fake-cam",
    title="Fake-CAM",
    source="Poppi et al. 2021, Revisiting The Evaluation of Class Activation Mapping, arXiv:2104.10252",
    cost="none",
    place="input",
    signed=False,
    proof=("29",),
)
def fake_cam(x: Array, xp: Xp) -> Array:
    """L_u = 1, and 0 at the first place

    x is the model's input. It hides one pixel and so leaves the score as it is: a metric that it does well in cannot
    tell whether a map explains anything.
    """
    whole = np.ones((len(x), math.prod(x.shape[1:-1])), "float32")
    whole[:, 0] = 0
    return whole


@method(
    "centre",
    title="Centre",
    source="the centre baseline of Choe et al. 2020, Evaluating Weakly Supervised Object Localization Methods Right",
    cost="none",
    place="input",
    signed=False,
)
def centre(x: Array, xp: Xp) -> Array:
    """L_u = exp(-½ Σ_a ((u_a - c_a) / (n_a / 4))²)

    A Gaussian about the middle c of the input, whose deviation along each axis is a quarter of its n_a places. Objects
    stand in the middle of photographs: a map that finds them no better than this one has found the middle.
    """
    lines = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in x.shape[1:-1]]
    whole = lines[0]
    for line in lines[1:]:
        whole = np.multiply.outer(whole, line)
    return np.broadcast_to(whole.reshape(1, -1).astype("float32"), (len(x), whole.size))
