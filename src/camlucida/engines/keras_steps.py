"""Compiled steps, kept by the kind of request that they answer."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import numpy as np

from camlucida.trees import leaves, mapped
from camlucida.types import Array

_KEPT = 32

Body = Callable[[Any, list[Array]], Any]
"""What a step computes from the inputs and from data that change from call to call, both as tensors."""


class Steps:
    """The steps used last. Two threads that ask for the same one get one, made once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._made: OrderedDict[Hashable, Any] = OrderedDict()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._made.values())

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The step of this key; `make` traces and compiles it the first time."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
                if len(self._made) > _KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]


def flattened(body: Body, inputs: Any) -> Callable[..., Any]:
    """`body` as a function of single arrays: the leaves of the inputs, then the data. It does not keep the inputs."""
    count, frame = len(leaves(inputs)), mapped(lambda _: None, inputs)

    def step(*arrays: Array) -> Any:
        given = iter(arrays[:count])
        return body(mapped(lambda _: next(given), frame), list(arrays[count:]))

    return step


def tensor(x: Array) -> Array:
    """A NumPy array as a tensor; real numbers at the precision that Keras is set to."""
    return keras.ops.convert_to_tensor(x, keras.config.floatx() if np.issubdtype(x.dtype, np.floating) else None)
