"""Scores of altered activations of a layer: what follows it is run on them, and what comes before it once."""

from typing import Any

import torch

from camlucida.engines.base import Altered
from camlucida.engines.torch_anatomy import TorchAnatomy
from camlucida.engines.torch_forward import forward
from camlucida.engines.torch_layout import flat, laid_out
from camlucida.errors import RequestError
from camlucida.trees import leaves, mapped
from camlucida.types import Array


def altered_scores(
    model: Any, image: Any, altered: Altered, known: TorchAnatomy, *, repeated: bool
) -> tuple[Array, Array | None]:
    """Scores and probabilities ``(M, C)`` of altered activations of a layer.

    Args:
        image: the inputs of one image.
        repeated: run the model on the image M times over, and not once.
    """
    activations = torch.tensor(altered.activations, device=leaves(image)[0].device)
    if repeated:
        image = mapped(lambda x: x.expand(len(activations), *x.shape[1:]), image)
    return _passed(model, image, activations, altered, known)


def broadcasts(model: Any, image: Any, altered: Altered, known: TorchAnatomy) -> bool:
    """Whether a run on one image scores several altered activations as runs on one each do.

    A skip connection from before the layer broadcasts. What joins the batch to something earlier, or takes the number
    of images from the input, does not.
    """
    layout = known.layouts[altered.layer]
    kept: list[Array] = []

    def tap(_: str, x: Array) -> Array:
        kept.append(flat(x, layout).clone())
        return x

    wanted, _, _ = forward(model, image, {altered.layer: known.calls[altered.layer]}, tap, known.end, altered.output)
    silent = torch.zeros_like(kept[0])
    alone, _ = _passed(model, image, silent, altered, known)
    try:
        both, _ = _passed(model, image, torch.cat([kept[0], silent]), altered, known)
    except RequestError:
        return False
    one_each = torch.cat([wanted, alone])
    return both.shape == one_each.shape and bool(torch.allclose(both, one_each, rtol=1e-3, atol=1e-4))


def _passed(
    model: Any, inputs: Any, activations: Array, altered: Altered, known: TorchAnatomy
) -> tuple[Array, Array | None]:
    layout = known.layouts[altered.layer]

    def tap(_: str, x: Array) -> Array:
        return laid_out(activations, x[:1], layout).clone()  # what follows may write to it

    taps = {altered.layer: known.calls[altered.layer]}
    logits, probabilities, _ = forward(model, inputs, taps, tap, known.end, altered.output)
    return logits, probabilities
