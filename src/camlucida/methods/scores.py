"""Methods that ask for nothing but scores: they mask the input itself, so that any model will do."""

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Masks
from camlucida.domains import number, whole
from camlucida.errors import RequestError
from camlucida.maps import resize
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp

_VALUES_AT_ONCE = 2**22
"""How many values the masks of one portion may have, so that memory does not grow with the number of masks."""

Portion = NDArray[np.float32]
"""Masks ``(N, U)`` in 0..1 at the size of the input, which are asked for together."""


@method(
    "rise",
    title="RISE",
    asks=Need.SCORES,
    place="input",
    offset=True,
    proof=("26",),
    source="Petsiuk et al. 2018, RISE: Randomized Input Sampling for Explanation, arXiv:1806.07421, eq. 6",
    cost="1 F + 4000 F",
    score="probability",
    options={"masks": whole(), "cells": whole(), "p": number(0, 1, above=True), "seed": whole(0)},
)
def rise(
    x: Array, xp: Xp, *, masks: int = 4000, cells: int = 7, p: float = 0.5, seed: int = 0
) -> Generator[Masks, Array, Array]:
    """L_u = 1/(N p) Σ_n p_c(x ∘ M_n) M_nu

    x is the model's input, p_c the probability of the target, M_n the n-th of N random masks: a coarse grid of `cells`
    along each axis, each cell kept with probability p, enlarged bilinearly by a little more than one cell, and cut out
    at a random place. A place is important if the model is sure whenever it is seen. Nothing of the model is needed but
    its scores.

    The map is an estimate: more masks, less noise (the paper takes 4000 for VGG16 and 8000 for ResNet50; its authors'
    later code 8 cells and p=0.1). Its values are averages of probabilities, so it is positive everywhere, and what
    counts is where it is higher: the heat map begins at its least value. All images see the same masks, and the same
    seed draws them again.
    """
    size = x.shape[1:-1]
    total = yield from _weighted(_drawn(np.random.default_rng(seed), masks, size, cells, p), len(x), size, masks)
    return total / (masks * p)


@method(
    "occlusion",
    title="Occlusion",
    asks=Need.SCORES,
    place="input",
    proof=("27",),
    source="Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901, section 4.2",
    cost="2 F + 225 F",
    score="probability",
    options={"patch": whole(or_none=True), "stride": whole(or_none=True)},
)
def occlusion(
    x: Array, xp: Xp, *, patch: int | None = None, stride: int | None = None
) -> Generator[Masks, Array, Array]:
    """L_u = (1/W_u) Σ_w (p_c(x) - p_c(x ∘ M_w)),   w over the W_u windows that cover u

    x is the model's input, p_c the probability of the target, M_w a mask that is 0 within a window and 1 around it. A
    place is important if the probability drops when it is covered; where it rises, the map is negative. The windows
    begin at one border, lie `stride` apart and end at the other border, so that every place is covered.

    patch and stride are in pixels of the model's input. By default a window is an eighth of the input along each axis,
    and the next one begins half a window further. A covered pixel is 0 in the model's input, which with most
    preprocessings is a middle grey; the paper's square is grey as well.
    """
    size = x.shape[1:-1]
    sides = tuple(_side(patch, n) for n in size)
    steps = tuple(_step(stride, side) for side in sides)
    starts = [_starts(n, side, step) for n, side, step in zip(size, sides, steps, strict=True)]
    whole = yield Masks(np.ones((1, 1, math.prod(size)), "float32"), size, False, remaining=math.prod(map(len, starts)))
    drops, covered = np.zeros((len(x), math.prod(size))), np.zeros(math.prod(size))
    left = math.prod(map(len, starts))
    for portion in _windows(starts, sides, size):
        left -= len(portion)
        scores = yield Masks(portion[None], size, False, remaining=left)
        drops += _sum(np.asarray(whole - scores), 1 - portion)
        covered += (1 - portion).sum(axis=0)
    return drops / covered


def _weighted(
    portions: Iterator[Portion], images: int, size: Grid, count: int
) -> Generator[Masks, Array, NDArray[np.float64]]:
    """The sum of all masks, each times its score: ``(B, U)``."""
    total = np.zeros((images, math.prod(size)))
    for portion in portions:
        count -= len(portion)
        scores = yield Masks(portion[None], size, False, remaining=count)
        total += _sum(np.asarray(scores), portion)
    return total


def _sum(weights: NDArray[Any], portion: Portion) -> NDArray[Any]:
    """``Σ_n w_bn M_nu``, ``(B, U)``.

    A product of matrices would be no quicker, and the threads that NumPy's BLAS wakes for it go on to wait busily for
    some 40 ms, in which they take the processor from the model.
    """
    return np.asarray(np.einsum("bn,nu->bu", weights, portion))


def _drawn(rng: np.random.Generator, count: int, size: Grid, cells: int, p: float) -> Iterator[Portion]:
    """The random masks of RISE, in portions."""
    chances, places = rng.spawn(2)  # so that what is drawn does not depend on how it is cut into portions
    cell = tuple(math.ceil(n / cells) for n in size)
    lines = [np.asarray(resize(np.eye(cells), (cells,), ((cells + 1) * n,), np), "float32") for n in cell]
    for many in _portions(count, math.prod((cells + 1) * n for n in cell)):
        kept = (chances.random((many, *(cells,) * len(size))) < p).astype("float32")
        shifts = places.integers(0, cell, (many, len(size)))
        masks = np.empty((many, *size), "float32")
        for mask, coarse, shift in zip(masks, kept, shifts, strict=True):
            mask[:] = _enlarged(coarse, lines, shift, size)
        yield masks.reshape(many, -1)


def _enlarged(coarse: Portion, lines: Sequence[Portion], shift: NDArray[np.int64], size: Grid) -> Portion:
    """A coarse grid enlarged by the matrices of its axes, of which only what is cut out at a place is made."""
    for axis, (line, start, n) in enumerate(zip(lines, shift, size, strict=True)):
        coarse = np.moveaxis(np.moveaxis(coarse, axis, -1) @ line[:, start : start + n], -1, axis)
    return coarse


def _windows(starts: list[list[int]], sides: Grid, size: Grid) -> Iterator[Portion]:
    """The masks of occlusion, in portions: 0 within a window, 1 around it."""
    corners = itertools.product(*starts)
    for many in _portions(math.prod(map(len, starts)), math.prod(size)):
        masks = np.ones((many, *size), "float32")
        for mask, corner in zip(masks, itertools.islice(corners, many), strict=True):
            mask[tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))] = 0
        yield masks.reshape(many, -1)


def _portions(count: int, values: int) -> Iterator[int]:
    """How many of `count` masks to make at a time: a power of two, so that batches of the model come out even."""
    most = 1 << (max(1, _VALUES_AT_ONCE // values).bit_length() - 1)
    return (min(most, count - start) for start in range(0, count, most))


def _starts(n: int, side: int, step: int) -> list[int]:
    """Where the windows begin along one axis; the last one ends at the border."""
    return [*range(0, n - side, step), n - side]


def _side(patch: int | None, n: int) -> int:
    if patch is None:
        return max(1, round(n / 8))
    if patch > n:
        raise RequestError(f"patch={patch} of occlusion is larger than the model's input, which has {n} pixels")
    return patch


def _step(stride: int | None, side: int) -> int:
    if stride is None:
        return max(1, side // 2)
    if stride > side:
        raise RequestError(
            f"stride={stride} of occlusion is larger than its patch of {side}, so that it would leave gaps"
        )
    return stride
