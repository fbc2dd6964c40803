"""What a compiled step takes and does."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from camlucida.trees import leaves, mapped
from camlucida.types import Array

Body = Callable[[Any, list[Array]], Any]
"""What a step computes from the inputs and from data that change from call to call, both as tensors."""


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
