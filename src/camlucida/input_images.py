"""The image among a model's inputs: taken out, as ``(B, *size, C)``, and put back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import Engine
from camlucida.engines.masked import image_size
from camlucida.trees import leaves, mapped


def image_of(engine: Engine, inputs: Any, output: str | None) -> NDArray[Any]:
    """The image among the inputs as ``(B, *size, C)``; numbers ``(B, U)`` without channels as ``(B, U, 1)``."""
    image = _own(inputs)
    first = engine.anatomy(inputs, output).channels_first
    size = image_size(image.shape[1:], first)
    if len(size) == image.ndim - 1:
        return image[..., None]
    return np.moveaxis(image, 1, -1) if first else image


def as_input(engine: Engine, inputs: Any, output: str | None, images: NDArray[Any]) -> NDArray[Any]:
    """Images ``(N, *size, C)`` as the model takes them."""
    if _own(inputs).ndim == images.ndim - 1:
        return images[..., 0]
    return np.moveaxis(images, -1, 1) if engine.anatomy(inputs, output).channels_first else images


def with_image(inputs: Any, images: NDArray[Any], rows: NDArray[Any]) -> Any:
    """The inputs of some rows, with other images; these as the model takes them."""
    own = _own(inputs)
    dtype = own.dtype if own.dtype.kind == "f" else "float32"
    return mapped(lambda x: images.astype(dtype, copy=False) if x is own else x[rows], inputs)


def rows_of(inputs: Any, which: Any) -> Any:
    """The inputs of some rows, given as a slice or as numbers."""
    return mapped(lambda x: x[which], inputs)


def _own(inputs: Any) -> NDArray[Any]:
    image: NDArray[Any] = max(leaves(inputs), key=lambda x: x.ndim)
    return image
