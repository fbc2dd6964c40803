"""DeepLIFT's multipliers for Keras, as far as backends share them; the rule is that of `torch_deeplift`.

The model runs on each image twice over. At the explained layer the second half becomes zeros, so that every function
behind it meets what it is given beside what it would be given.
"""

from collections.abc import Callable
from typing import Any

import keras

from camlucida.engines.keras_forward import Tap
from camlucida.engines.masked import image_of
from camlucida.trees import mapped
from camlucida.types import Array

Passes = Callable[[Any, Tap], tuple[Array, Array | None]]
"""From inputs and a tap to scores and probabilities, see `keras_forward.forward`."""


def beside_zeros(passes: Passes, inputs: Any, tap: Tap) -> tuple[Array, Array | None]:
    """Scores and probabilities ``(B, C)`` of B images, from a run that meets each beside zeros at the tapped layer.

    Args:
        tap: sees what the layer yields for the images alone.
    """
    images = keras.ops.shape(image_of(inputs))[0]

    def tapped(path: str, x: Array) -> Array:
        return keras.ops.concatenate([tap(path, x[:images]), keras.ops.zeros_like(x[images:])])

    logits, probabilities = passes(mapped(lambda x: keras.ops.concatenate([x, x]), inputs), tapped)
    return logits[:images], None if probabilities is None else probabilities[:images]
