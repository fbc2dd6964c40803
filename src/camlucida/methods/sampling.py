"""Views of images that several methods ask for: noisy copies, and images on the way from nothing to themselves."""

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Seen, Views
from camlucida.types import Array

AT_ONCE = 8
"""How many views of each image are asked for at a time, so that memory does not grow with their number."""


def portions(total: int) -> Iterator[tuple[int, int]]:
    """The first of each portion of views, and how many there are in it."""
    return ((start, min(AT_ONCE, total - start)) for start in range(0, total, AT_ONCE))


def noisy(x: Array, samples: int, spread: float, seed: int, *, inside: bool) -> Generator[Views, Seen, Iterator[Array]]:
    """The gradients ``(B, n, U, K)`` in noisy copies of each image, portion by portion.

    All images get the same normal noise, with a deviation of `spread` times their own range.

    Args:
        inside: of the layer; False for those of the image.
    """
    axes = tuple(range(1, x.ndim))
    σ = spread * (x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True))[:, None]
    rng = np.random.default_rng(seed)
    found = []
    for start, count in portions(samples):
        noise = rng.normal(size=(1, count, *x.shape[1:])).astype("float32")
        seen = yield Views(x[:, None] + σ * noise, inside=inside, remaining=samples - start - count)
        found.append(seen.G)
    return iter(found)


def along(t: NDArray[np.float64], x: Array) -> NDArray[np.float32]:
    """Places on a path ``(n,)`` as they multiply images ``(B, 1, *size, C)``."""
    return t.astype("float32").reshape(1, -1, *[1] * (x.ndim - 1))
