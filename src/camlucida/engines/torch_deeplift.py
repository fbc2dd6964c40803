"""DeepLIFT's multipliers by the rescale rule, on torch, with an explained layer that yields zeros as the baseline.

The network runs on each image twice over. At the layer the second half becomes zeros, so that every function behind it
meets what it is given beside what it would be given. An activation hands back the slope of the line between the two.
What is linear is as it is; pooling by maximum, normalisation, attention and products keep their derivatives.

Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating Activation Differences", ICML 2017,
arXiv:1704.02685, section 3.5.1.
"""

from collections.abc import Callable
from typing import Any

import torch

from camlucida.engines.torch_layout import Layout, laid_out
from camlucida.engines.torch_rules import ACTIVATIONS, Ruled
from camlucida.errors import ConditionError
from camlucida.trees import mapped
from camlucida.types import Array

_CURVED = (
    "adaptive_max_pool", "amax", "glu", "group_norm", "gru", "instance_norm", "layer_norm", "lstm", "max_pool",
    "multi_head_attention", "native_layer_norm", "rms_norm", "rnn", "rsqrt", "scaled_dot_product_attention", "softmax",
    "sqrt",
)  # fmt: skip


class Lifted(Ruled):
    """The functions of one run of a network, with its activations by the rescale rule."""

    keeping = _CURVED

    def __init__(self, images: int) -> None:
        """Take the number of images; there are as many baselines behind them."""
        super().__init__()
        self._images = images

    def alters(self, name: str, cap: float | None) -> bool:
        """Every ReLU, and every other function of each number by itself."""
        return cap is not None or name in ACTIVATIONS

    def altered(self, x: Array, given: Array, call: Callable[[Array], Array], part: Any) -> tuple[Array, bool]:
        """See `Ruled.altered`. The first half of `x` is of the images, the second of the baseline."""
        if len(x) % (2 * self._images):
            raise ConditionError(
                f"DeepLIFT needs the images along the first axis everywhere, but an activation takes {tuple(x.shape)}"
            )
        with torch.enable_grad():
            leaf = given.clone().requires_grad_()
            (slope,) = torch.autograd.grad(call(leaf.clone()).sum(), leaf)
        before = given.clone()
        with torch.no_grad():
            made = call(given)
        return _Rescaled.apply(x, _multiplier(before, made, slope), [made]), made is given

    def _is_part(self, *_: Any) -> bool:
        """Nothing is set apart: a ReLU within another activation has its own multiplier."""
        return False


class _Rescaled(torch.autograd.Function):  # type: ignore[misc]
    """What an activation made; backward, its multiplier for the images and nothing for the baseline."""

    @staticmethod
    def forward(ctx: Any, x: Array, multiplier: Array, made: list[Array]) -> Array:
        ctx.save_for_backward(multiplier)
        return made[0]

    @staticmethod
    def backward(ctx: Any, gradient: Array) -> tuple[Array, None, None]:
        (multiplier,) = ctx.saved_tensors
        return torch.cat([gradient[: len(multiplier)] * multiplier, torch.zeros_like(multiplier)]), None, None


def _multiplier(x: Array, y: Array, slope: Array) -> Array:
    """``(y - y0) / (x - x0)``, and the slope where `x` and `x0` are so near that the quotient would be noise."""
    half = len(x) // 2
    step, rise = (z[:half] - z[half:] for z in (x, y))
    near = step.abs() <= torch.finfo(x.dtype).eps ** 0.5 * torch.maximum(x[:half].abs(), x[half:].abs())
    return torch.where(near, slope[:half], rise / torch.where(near, 1, step))


def doubled(inputs: Any) -> Any:
    """Inputs with every image twice: first all, then all once more."""
    return mapped(lambda x: torch.cat([x, x]), inputs)


def with_baseline(x: Array, like: Array, layout: Layout | None) -> Array:
    """What a layer yields for the images, then zeros; tokens that are no locations stay.

    Args:
        x: for the images.
        like: the same, without gradients.
        layout: how it lies; None for the image that goes in.
    """
    if layout is None or not layout.set_aside:
        return torch.cat([x, torch.zeros_like(like)])
    places = like.movedim(layout.axis, -1).shape[1] - len(layout.set_aside)
    return torch.cat([x, laid_out(like.new_zeros(len(like), places, layout.channels), like, layout)])
