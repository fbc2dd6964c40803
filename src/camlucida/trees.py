"""Model inputs and outputs as users give them: one array, or a dict, list or tuple of arrays."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from camlucida.types import Array


def leaves(tree: Any) -> list[Array]:
    """The arrays of a tree, in order."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def mapped(function: Callable[[Array], Any], tree: Any) -> Any:
    """The same tree with `function` applied to each array."""
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([mapped(function, value) for value in tree])
    return function(tree)


def count(tree: Any) -> int:
    """The number of images: the length of the first axis of the first array."""
    return int(leaves(tree)[0].shape[0])


def signature(tree: Any) -> Hashable:
    """Shapes and types of the arrays of a tree, the number of images apart."""
    if isinstance(tree, Mapping):
        return tuple((key, signature(value)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return tuple(signature(value) for value in tree)
    return tree.shape[1:], tree.dtype
