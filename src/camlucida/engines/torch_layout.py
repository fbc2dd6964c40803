"""Where the channels and the locations of a torch tensor lie. No tensor says so: it is told from what made it.

Channels come first after convolutions and last after linear layers; what follows keeps or moves them. Three axes in a
network that takes pictures are tokens: they become the grid whose shape is nearest to the picture's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from camlucida.types import Grid

_FIRST = (
    "conv", "batch_norm", "native_batch_norm", "instance_norm", "group_norm", "local_response_norm", "max_pool",
    "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool", "interpolate", "upsample", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle",
)  # fmt: skip
_LAST = (
    "linear",
    "layer_norm",
    "native_layer_norm",
    "rms_norm",
    "embedding",
    "matmul",
    "addmm",
    "multi_head_attention",
)
_MOVES = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "get")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the channels and locations of a tensor ``(B, ...)`` lie.

    Args:
        axis: the axis of the channels.
        grid: the locations; empty where there are none.
        channels: the number of channels.
        set_aside: places along the tokens' axis that are no locations.
    """

    axis: int
    grid: Grid
    channels: int
    set_aside: tuple[int, ...] = ()


def flat(x: Any, layout: Layout) -> Any:
    """What a layer yields, as float32 ``(B, U, K)``."""
    return patches_only(x.float(), layout).reshape(len(x), -1, layout.channels)


def laid_out(activations: Any, like: Any, layout: Layout) -> Any:
    """Activations ``(M, U, K)`` as a layer yields them: `like` it, with its own tokens that are no locations."""
    whole = like.movedim(layout.axis, -1)
    if layout.set_aside:
        given = whole.expand(len(activations), *whole.shape[1:]).clone()
        given[:, [i for i in range(whole.shape[1]) if i not in layout.set_aside]] = activations.to(like.dtype)
    else:
        given = activations.to(like.dtype).reshape(-1, *whole.shape[1:])
    return given.movedim(-1, layout.axis)


def patches_only(x: Any, layout: Layout) -> Any:
    """``(B, ..., K)`` with the channels last, and without the tokens that are no locations."""
    x = x.movedim(layout.axis, -1)
    if not layout.set_aside:
        return x
    keep = [i for i in range(x.shape[1]) if i not in layout.set_aside]
    return x[:, keep[0] : keep[-1] + 1] if keep == list(range(keep[0], keep[-1] + 1)) else x[:, keep]


def channel_axis(
    name: str, move: Callable[[Any], Any], source: Sequence[int], source_axis: int, shape: Sequence[int]
) -> int:
    """The axis of the channels in what a function made.

    Args:
        name: the function.
        move: makes the same call of another tensor.
        source: the shape of what the function took.
        source_axis: the axis of the channels in it.
        shape: the shape of what it made.
    """
    last = len(shape) - 1
    if last < 2 or name.startswith(_FIRST):
        return min(1, last)
    if name.startswith(_LAST):
        return last
    if name in _MOVES and len(source) == len(shape):
        sizes = tuple(range(2, 2 + len(source)))
        return tuple(move(torch.empty(sizes, device="meta")).shape).index(sizes[source_axis])
    if len(source) == len(shape):
        return source_axis
    alike = [axis for axis in range(1, len(shape)) if shape[axis] == source[source_axis]]
    return 1 if alike and source_axis == 1 and 1 in alike else alike[-1] if alike else last


def picture_axis(shape: Sequence[int]) -> int:
    """The axis of the channels in a model's input: the first after the batch, unless only the last looks like one."""
    return len(shape) - 1 if len(shape) > 3 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4) else 1
