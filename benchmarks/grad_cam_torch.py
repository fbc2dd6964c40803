"""Grad-CAM with maps at image size over a plain forward pass of the same batch, on torch, ours and others'.

Batch 8, random weights, each image for a class of its own; baseline: the module under `torch.inference_mode`, with the
batch as a tensor already. What is not installed is left out and said.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from beside import rows as beside
from processes import Row, tell
from torch_modules import ResNet50, SqueezeNet

import camlucida as cl

BATCH, SIZE, ROUNDS = 8, 224, 11


def forward(model: Any, x: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model(x).numpy()


def grad_cam(model: Any, layer: Any, x: torch.Tensor, classes: list[int]) -> Callable[[], object]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    explainer = GradCAM(model, target_layers=[layer])
    return lambda: explainer(x, targets=[ClassifierOutputTarget(c) for c in classes])


def torchcam(model: Any, layer: Any, x: torch.Tensor, classes: list[int]) -> Callable[[], object]:
    from torchcam.methods import GradCAM

    explainer = GradCAM(model, target_layer=layer)

    def run() -> np.ndarray:
        (maps,) = explainer(classes, model(x))
        return at_image_size(maps[:, None])

    return run


def captum(model: Any, layer: Any, x: torch.Tensor, classes: list[int]) -> Callable[[], object]:
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(model, layer)
    return lambda: at_image_size(explainer.attribute(x, target=classes, relu_attributions=True))


def at_image_size(maps: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.interpolate(maps.detach(), (SIZE, SIZE), mode="bilinear").numpy()


NETWORKS = {
    "SqueezeNet": (SqueezeNet, "auto", "1.05"),
    "SqueezeNet at `features`": (SqueezeNet, "features", ""),  # a convolution to 1000 channels lies behind it
    "ResNet-50": (ResNet50, "auto", "1.05"),
}
"""The network, the layer, and the limit."""
PEERS = {"pytorch-grad-cam 1.5.7": grad_cam, "torchcam 0.5.0": torchcam, "captum 0.9.0": captum}


def rows(network: str) -> list[Row]:
    build, layer, limit = NETWORKS[network]
    torch.manual_seed(0)
    model = build().eval()
    batch = np.random.default_rng(0).normal(size=(BATCH, 3, SIZE, SIZE)).astype("float32")
    x, classes = torch.from_numpy(batch), list(range(BATCH))
    explainer = cl.Explainer(model, target=cl.targets.each(classes), layer=layer, preprocess=None)
    chosen = explainer(batch)[0].layer
    peers = {}
    for name, prepare in PEERS.items():
        theirs = build().eval()  # a model of their own, since some of them leave hooks in it
        theirs.load_state_dict(model.state_dict())
        peers[name] = functools.partial(prepare, theirs, theirs.get_submodule(chosen), x, classes)
    return beside(
        f"torch, {network}",
        limit,
        lambda: forward(model, x),
        lambda: explainer(batch).heatmaps(),
        peers,
        ROUNDS,
    )


if __name__ == "__main__":
    tell([row for network in NETWORKS for row in rows(network)])
