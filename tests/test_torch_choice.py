"""The layer that ``layer="auto"`` means in torch: over other people's networks, and the grid of their tokens.

What is right stands in tables, by what each network's head reads. That it is the right one is held by a gradient that
is taken by hand there, and by a corner of the picture that is painted over.
"""

import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import camlucida as cl  # noqa: E402
import hugging_face_networks as hf  # noqa: E402
import torch_families  # noqa: E402
from camlucida.engines import Request, engine_for  # noqa: E402
from torch_networks import images  # noqa: E402

pytestmark = [  # torch 2.13, of tokens whose number is odd
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
]

CASES = [
    *[(hf, name, wide) for name, row in hf.TABLE.items() for wide in ([False] if row.square else [False, True])],
    *[(torch_families, name, wide) for name in torch_families.FAMILIES for wide in (False, True)],
]


class Case:
    """A network with two pictures, and what is right for it."""

    def __init__(self, kind, name, wide):
        if kind is hf:
            row = hf.TABLE[name]
            self.size = hf.size(row, wide)
            self.model, self.layer = hf.network(row, wide), row.layer
            stride, self.aside = row.stride, row.aside
        else:
            self.size = (64, 96) if wide else (64, 64)
            self.model, self.layer, stride, self.aside = torch_families.family(name, self.size)
        self.grid = tuple(side // stride for side in self.size)
        self.pictures = np.random.default_rng(3).normal(size=(2, 3, *self.size)).astype("float32")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[1]}{', wide' if case[2] else ''}")
def case(request):
    return Case(*request.param)


def logits(answer):
    return answer if isinstance(answer, torch.Tensor) else answer.logits


def output_of(model, layer, run):
    """The tensor that a module yields in a run of the model; for a function, what the pooling after it takes."""
    kept = []

    def hook(module, args, result):
        result = result[0] if isinstance(result, tuple) else result
        kept.append(result)
        return None

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        answer = run()
    finally:
        handle.remove()
    return kept[-1], answer


def by_hand(case):
    """Grad-CAM of the top class, by hooks and autograd, with class and register tokens cut off: `(B, h, w)`."""
    pictures = torch.tensor(case.pictures)
    if case.layer == "relu()":  # of DenseNet
        A = torch.relu(case.model.features(pictures)).detach().requires_grad_()
        z = case.model.classifier(A.mean((2, 3)))
    else:
        A, answer = output_of(case.model, case.layer, lambda: case.model(pictures))
        z = logits(answer)
    (G,) = torch.autograd.grad(z.max(-1).values.sum(), A)
    if A.ndim == 4:
        A, G = (x.movedim(1, -1).flatten(1, 2) for x in (A, G))
    else:
        A, G = (x[:, case.aside :] for x in (A, G))
    return (A * G.mean(1, keepdim=True)).sum(-1).reshape(2, *case.grid).detach().numpy()


def test_the_layer_is_what_the_head_reads(case):
    anatomy = engine_for(case.model).anatomy(case.pictures)
    (chosen,) = (layer for layer in anatomy.layers if layer.chosen)
    assert chosen.path == case.layer
    assert chosen.grid == case.grid
    assert anatomy.classes == 4


def test_the_map_is_the_one_that_hooks_yield(case):
    result = cl.explain(case.model, case.pictures, preprocess=None)
    wanted = by_hand(case)
    scale = np.abs(wanted).max()
    assert scale > 1e-6
    np.testing.assert_allclose(result.raw, wanted, rtol=1e-3, atol=1e-4 * scale)


TOKENS = ["Swin", "SwinV2", "ViT", "DeiT", "DINOv2, registers", "BEiT", "ViT, token", "ViT, registers", "ViT, average"]
"""Networks whose locations are tokens, and small enough beside the picture for what lies where to be told."""


@pytest.mark.parametrize("name", TOKENS)
def test_patches_lie_in_the_order_of_rows(name):
    """Painting over the right half of a picture changes most what lies to the right; over the lower half, below."""
    case = Case(hf if name in hf.TABLE else torch_families, name, wide=True)
    plain, noise = np.random.default_rng(4).normal(size=(2, 4, 3, *case.size)).astype("float32")
    h, w = case.size
    right, lower = plain.copy(), plain.copy()
    right[..., w // 2 :], lower[:, :, h // 2 :] = 3 * noise[..., w // 2 :], 3 * noise[:, :, h // 2 :]
    target = cl.targets.class_(0).bind(int, 4)
    request = Request((case.layer,), (target,), ("logit",), activations=frozenset({case.layer}))
    A = engine_for(case.model).evidence(np.concatenate([plain, right, lower]), request).activations[case.layer]
    A = A.reshape(3, 4, *case.grid, -1)
    to_the_right, below = (np.abs(changed - A[0]).mean((0, -1)) for changed in A[1:])
    half_h, half_w = (side // 2 for side in case.grid)
    assert to_the_right[:, -half_w:].min() > to_the_right[:, :half_w].max()
    assert below[-half_h:].min() > below[:half_h].max()


@pytest.mark.parametrize("name", ["ResNet", "EfficientNet", "DenseNet", "GoogLeNet"])
def test_cam_where_the_head_is_linear(name):
    model, layer, stride, _ = torch_families.family(name, (64, 64))
    result = cl.explain(model, images(2, side=64), preprocess=None, method=["cam", "grad-cam"])
    cam, grad_cam = (result.select(method=method).raw for method in ("cam", "grad-cam"))
    assert {item.layer for item in result} == {layer}
    np.testing.assert_allclose(cam, (64 // stride) ** 2 * grad_cam, rtol=1e-4, atol=1e-4 * np.abs(cam).max())


@pytest.mark.parametrize("name", ["VGG", "MobileNetV3", "ViT, token", "ViT, average"])
def test_cam_is_refused_where_more_than_a_linear_layer_follows(name):
    model, *_ = torch_families.family(name, (64, 64))
    with pytest.raises(cl.CamlucidaError, match="cam needs global average pooling"):
        cl.explain(model, images(2, side=64), preprocess=None, method="cam")


def test_swin_gives_cam_over_tokens():
    """A normalised layer of tokens, averaged, and one linear layer."""
    row = hf.TABLE["Swin"]
    result = cl.explain(hf.network(row), hf.pictures(row), preprocess=None, method=["cam", "grad-cam"])
    cam, grad_cam = (result.select(method=method).raw for method in ("cam", "grad-cam"))
    np.testing.assert_allclose(cam, 64 * grad_cam, rtol=1e-3, atol=1e-4 * np.abs(cam).max())


def test_the_answer_of_one_of_two_heads():
    """DeiT with a teacher: the average of two heads, or one of them by name."""
    row = hf.TABLE["DeiT, two heads"]
    model, pictures = hf.network(row), hf.pictures(row)
    targets = [cl.targets.output(name, 1) for name in ("logits", "cls_logits", "distillation_logits")]
    both, one, other = (cl.explain(model, pictures, preprocess=None, target=target) for target in targets)
    np.testing.assert_allclose(both.raw, (one.raw + other.raw) / 2, rtol=1e-3, atol=1e-6)
    assert not np.allclose(one.raw, other.raw)
