"""Scores of altered activations on torch, held against the halves of networks that are written out by hand."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from torch import nn  # noqa: E402

from camlucida import targets  # noqa: E402
from camlucida.engines import engine_for  # noqa: E402
from camlucida.engines.base import Altered  # noqa: E402
from camlucida.trees import mapped  # noqa: E402
from torch_networks import TWINS, images, pool, settled  # noqa: E402
from torch_ways import WAYS  # noqa: E402

NETWORKS = TWINS | WAYS
TOLERANCE = {"mixed_bfloat16": 5e-2}


def tail_scores(model, inputs, layer, activations, classes, output=None):
    """The logits ``(M, C)`` that the engine gives."""
    bound = tuple(targets.class_(c).bind(int, classes) for c in range(classes))
    chosen = tuple(np.asarray([[c]], "int32") for c in range(classes))
    image = mapped(lambda x: x[:1], inputs)
    answer = engine_for(model).tail(image, Altered(layer, activations, bound, chosen, output))
    return answer["logit"].T


def altered(shape, axis, count=4, seed=3):
    """Activations as the layer yields them, ``(M, ...)``, and the same as ``(M, U, K)``."""
    laid = np.random.default_rng(seed).normal(size=(count, *shape[1:])).astype("float32")
    last = np.moveaxis(laid, axis, -1)
    return laid, last.reshape(count, -1, last.shape[-1])


@pytest.mark.parametrize("name", NETWORKS)
def test_altered_activations_score_as_the_tail_alone_scores_them(name):
    this = NETWORKS[name]()
    dtype = next(this.model.parameters()).dtype
    inputs = mapped(lambda x: torch.tensor(x[:1]).to(dtype), this.inputs)
    with torch.no_grad():
        laid, flat = altered(this.trunk(inputs).shape, this.axis)
        repeated = mapped(lambda x: x.expand(len(laid), *x.shape[1:]), inputs)
        wanted = this.tail(torch.tensor(laid).to(dtype), repeated).float().numpy()
    layer = engine_for(this.model).resolve(this.layer, this.inputs, this.output)
    ours = tail_scores(this.model, this.inputs, layer, flat, wanted.shape[1], this.output)
    np.testing.assert_allclose(ours, wanted, rtol=TOLERANCE.get(name, 1e-4), atol=TOLERANCE.get(name, 1e-4))


class Counting(nn.Module):
    """A trunk that counts its images, and a tail that ends in one of several ways."""

    def __init__(self, join):
        super().__init__()
        self.early, self.late, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(8, 5)
        self.join, self.seen = join, 0

    def forward(self, x):
        self.seen += len(x)
        before = self.early(x)
        return self.head(self.join(x, before, self.late(before)))


def added(x, before, late):
    return pool(torch.cat([late + before, late], 1))


def concatenated(x, before, late):
    return pool(torch.cat([before, late], 1))


def shaped_by_the_input(x, before, late):
    return pool(torch.cat([late, late], 1)).view(x.shape[0], -1)


@pytest.mark.parametrize(("join", "alone"), [(added, True), (concatenated, False), (shaped_by_the_input, False)])
def test_the_trunk_runs_on_one_image_wherever_the_tail_allows_it(join, alone):
    model = settled(Counting(join))
    x = images(1)
    laid, flat = altered((1, 4, 6, 6), 1, count=16)
    tail_scores(model, x, "late", flat, 5)
    model.seen = 0
    ours = tail_scores(model, x, "late", flat, 5)
    assert model.seen == (1 if alone else 16)
    with torch.no_grad():
        before = model.early(torch.tensor(x)).expand(16, -1, -1, -1)
        wanted = model.head(join(before, before, torch.tensor(laid)))
    np.testing.assert_allclose(ours, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_tokens_that_are_no_places_stay_as_they_are():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    model = settled(transformers.ViTForImageClassification(config))
    x, layer = images(1, side=32), "vit.layers.1.layernorm_before"
    kept = []
    hook = model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[-1]))
    with torch.no_grad():
        wanted = model(torch.tensor(x)).logits.numpy()
        own = kept[0][:, 1:].numpy()
    hook.remove()
    np.testing.assert_allclose(tail_scores(model, x, layer, own, 3), wanted, rtol=1e-4, atol=1e-5)
    other = tail_scores(model, x, layer, own * 0, 3)
    assert np.abs(other - wanted).max() > 1e-3
