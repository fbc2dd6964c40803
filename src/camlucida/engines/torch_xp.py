"""The array words of `xp.Xp` for torch tensors."""

from typing import Any

import torch

from camlucida.types import Array

abs = torch.abs
exp = torch.exp
linalg = torch.linalg
log = torch.log
moveaxis = torch.movedim
multiply = torch.multiply
reshape = torch.reshape
sqrt = torch.sqrt
tanh = torch.tanh
where = torch.where
zeros_like = torch.zeros_like


def argsort(x: Array, axis: int = -1) -> Array:
    """The places that put `x` in order; equal values keep theirs."""
    return torch.argsort(x, dim=axis, stable=True)


def concatenate(arrays: Any, axis: int = 0) -> Array:
    """Arrays one after the other."""
    return torch.cat(list(arrays), dim=axis)


def cumsum(x: Array, axis: int) -> Array:
    """The running sum."""
    return torch.cumsum(x, dim=axis)


def matmul(a: Array, b: Array) -> Array:
    """Matrix product; a NumPy matrix is brought to where the tensor is."""
    if not isinstance(a, torch.Tensor):
        a = torch.tensor(a, dtype=b.dtype, device=b.device)
    if not isinstance(b, torch.Tensor):
        b = torch.tensor(b, dtype=a.dtype, device=a.device)
    return torch.matmul(a, b)


def max(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The greatest value."""
    return x.max() if axis is None else torch.amax(x, dim=axis, keepdim=keepdims)


def min(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The least value."""
    return x.min() if axis is None else torch.amin(x, dim=axis, keepdim=keepdims)


def maximum(a: Array, b: Array) -> Array:
    """The greater of two values at each place."""
    return torch.maximum(a, torch.as_tensor(b, dtype=a.dtype, device=a.device))


def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The average."""
    return torch.mean(x, dim=axis, keepdim=keepdims)


def std(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The standard deviation, divided by the number of values as NumPy does."""
    return torch.std(x, dim=axis, correction=0, keepdim=keepdims)


def sum(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """The sum."""
    return torch.sum(x, dim=axis, keepdim=keepdims)


def take(x: Array, indices: Array, axis: int) -> Array:
    """The entries along an axis at indices of any shape."""
    taken = torch.index_select(x, axis, indices.reshape(-1).long())
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis:][1:])


def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
    """The entries at the indices, row by row."""
    return torch.take_along_dim(x, indices.long(), dim=axis)
