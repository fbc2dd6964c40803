"""Tiny torch networks of every kind, each with its two halves written out by hand.

A `Network` is a model with inputs, the layer that a person would explain, and the network again as plain code: `trunk`
leads from the input to that layer's output, `tail` from there to the scores. The halves share the model's modules and
know nothing of the package, so that a gradient taken through them is an independent reference.

`TWINS` are the networks of `networks` again, with the same names of layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIDE = 8
CLASSES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model, three inputs for it, and its two halves.

    Args:
        auto: whether the layer is the one that is to be chosen.
        output: which of several outputs the tail leads to.
        axis: where the layer's channels lie.
    """

    model: Any
    inputs: Any
    layer: str
    grid: tuple[int, ...]
    trunk: Callable[[Any], Any]
    tail: Callable[[Any, Any], Any]
    auto: bool = True
    output: Any = None
    axis: int = 1


def images(count=3, *, side=SIDE, channels=3, axes=2, seed=1):
    """As those of `networks`, with the channels first."""
    x = np.random.default_rng(seed).normal(size=(count, *[side] * axes, channels)).astype("float32")
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def vectors(count=3, size=5, seed=2):
    return np.random.default_rng(seed).normal(size=(count, size)).astype("float32")


def settled(model, seed=0):
    """The model in evaluation, with weights that are random, the same each time, and large enough to matter."""
    rng = np.random.default_rng(seed)
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        shape = tuple(x.shape)
        if not x.is_floating_point():
            continue
        if "running_var" in name or (len(shape) == 1 and name.endswith("weight")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * (1.5 / np.sqrt(max(1, np.prod(shape[1:]))) if len(shape) > 1 else 0.2)
        x.data.copy_(torch.from_numpy(np.asarray(value, "float32")))
    return model.eval()


def sequence(*steps):
    """The steps one after the other."""

    def run(x):
        for step in steps:
            x = step(x)
        return x

    return run


def of(*steps):
    """A tail that does not look at the input."""
    return lambda A, _: sequence(*steps)(A)


def pool(x):
    return x.mean(dim=tuple(range(2, x.ndim)))


def two_classes(z):
    return torch.cat([-z, z], -1)


class Conv(nn.Conv2d):
    """A convolution with its activation inside, as Keras has it."""

    def __init__(self, taken, made, size, activation=None, **settings):
        super().__init__(taken, made, size, **settings)
        self.activation = activation

    def forward(self, x):
        x = super().forward(x)
        return x if self.activation is None else self.activation(x)


class Conv1(nn.Conv1d):
    def forward(self, x):
        return F.relu(super().forward(x))


class Conv3(nn.Conv3d):
    def forward(self, x):
        return F.relu(super().forward(x))


class Dense(nn.Linear):
    """A linear layer with its activation inside; `logits` is the layer without it."""

    def __init__(self, taken, made, activation=None):
        super().__init__(taken, made)
        self.activation = activation

    def logits(self, x):
        return F.linear(x, self.weight, self.bias)

    def forward(self, x):
        x = self.logits(x)
        return x if self.activation is None else self.activation(x)


class Flat(nn.Module):
    """Flattens as Keras does, with the channels last."""

    def forward(self, x):
        return x.movedim(1, -1).flatten(1)


class Pool(nn.Module):
    """Global average pooling."""

    def forward(self, x):
        return pool(x)


def softmax(x):
    return torch.softmax(x, -1)


def named(**modules):
    """Modules one after the other, by name."""
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


# The networks of `networks` again


def _ended(*, units=CLASSES, last=None, after=(), tail=lambda z: z):
    """Two convolutions and global average pooling, with a given end: an activation, modules after it, and the scores.

    Args:
        tail: what makes scores of the head's linear part.
    """
    model = named(
        first=Conv(3, 6, 3, stride=2), relu=nn.ReLU(), conv=Conv(6, 5, 2, F.relu), gap=Pool(),
        head=Dense(5, units, last), **dict(after),
    )  # fmt: skip
    trunk = sequence(model.first, torch.relu, model.conv)
    return Network(settled(model), images(), "conv", (2, 2), trunk, of(pool, model.head.logits, tail))


def gap():
    return _ended(last=softmax)


def softmax_layer():
    return _ended(after={"softmax": nn.Softmax(-1)})


def log_softmax():
    return _ended(last=lambda x: F.log_softmax(x, 1))


def no_softmax():
    return _ended()


def one_sigmoid():
    return _ended(units=1, last=torch.sigmoid, tail=two_classes)


def multi_label():
    return _ended(last=torch.sigmoid)


def regression():
    return _ended(units=1)


def mobilenet_like():
    """As MobileNet ends: pooling that keeps its axes, dropout, a 1x1 convolution, a reshape, an activation."""
    model = named(
        first=Conv(3, 6, 3, stride=2), relu=nn.ReLU(), conv=Conv(6, 5, 2, F.relu), gap=nn.AdaptiveAvgPool2d(1),
        dropout=nn.Dropout(0.3), conv_preds=Conv(5, CLASSES, 1), reshape=nn.Flatten(), predictions=nn.Softmax(1),
    )  # fmt: skip
    tail = of(lambda A: A.mean((2, 3), keepdim=True), model.conv_preds, lambda x: x[:, :, 0, 0])
    trunk = sequence(model.first, torch.relu, model.conv)
    return Network(settled(model), images(), "conv", (2, 2), trunk, tail)


def vgg_like():
    model = named(
        conv1=Conv(3, 4, 3, F.relu), conv2=Conv(4, 5, 3, F.relu), pool=nn.MaxPool2d(2), flatten=Flat(),
        hidden=Dense(20, 7, F.relu), head=Dense(7, CLASSES, softmax),
    )  # fmt: skip
    tail = of(lambda A: F.max_pool2d(A, 2), Flat(), model.hidden, model.head.logits)
    return Network(settled(model), images(), "conv2", (4, 4), sequence(model.conv1, model.conv2), tail)


def sequential():
    model = named(conv=Conv(3, 5, 3, F.relu), gap=Pool(), head=Dense(5, CLASSES, softmax))
    return Network(settled(model), images(), "conv", (6, 6), model.conv, of(pool, model.head.logits))


def functional():
    """Convolution, normalisation and activation as three layers: the last of them is what is pooled."""
    model = named(
        conv=Conv(3, 5, 3, bias=False), norm=nn.BatchNorm2d(5, eps=1e-3), relu=nn.ReLU6(), gap=Pool(),
        head=Dense(5, CLASSES, softmax),
    )  # fmt: skip
    trunk = sequence(model.conv, model.norm, F.relu6)
    return Network(settled(model), images(), "relu", (6, 6), trunk, of(pool, model.head.logits))


def _backbone():
    return named(first=Conv(3, 4, 3, F.relu), conv=Conv(4, 5, 3, F.relu))


class Scaled(nn.Module):
    def forward(self, x):
        return x * 2.0 - 0.1


def nested():
    model = named(scale=Scaled(), backbone=_backbone(), gap=Pool(), drop=nn.Dropout(), head=Dense(5, CLASSES, softmax))
    trunk = sequence(lambda x: 2 * x - 0.1, *model.backbone)
    return Network(settled(model), images(), "backbone.conv", (4, 4), trunk, of(pool, model.head.logits))


def nested_twice():
    model = named(outer=named(inner=_backbone(), gap=Pool()), head=Dense(5, CLASSES, softmax))
    trunk = sequence(*model.outer.inner)
    return Network(settled(model), images(), "outer.inner.conv", (4, 4), trunk, of(pool, model.head.logits))


class Subclassed(nn.Module):
    """Modules with the framework's own words between them."""

    def __init__(self, end=softmax):
        super().__init__()
        self.first, self.conv = Conv(3, 6, 3), Conv(6, 5, 3, F.relu)
        self.head, self.end = Dense(5, CLASSES, softmax if end is softmax else None), end

    def forward(self, x):
        x = self.head(torch.mean(self.conv(torch.relu(self.first(x * 2.0))), (2, 3)))
        return x if self.end is softmax else self.end(x)


def subclassed():
    model = settled(Subclassed())
    trunk = sequence(lambda x: 2 * x, model.first, torch.relu, model.conv)
    return Network(model, images(), "conv", (4, 4), trunk, of(pool, model.head.logits))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = Conv(3, 5, 3), nn.BatchNorm2d(5, eps=1e-3), nn.GELU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class SubclassedTraining(nn.Module):
    """Blocks, and a way of training that matters."""

    def __init__(self):
        super().__init__()
        self.block, self.drop, self.head = Block(), nn.Dropout(0.9), Dense(5, CLASSES)

    def forward(self, x):
        x = torch.mean(self.drop(self.block(x)), (2, 3))
        return self.head(x * 100.0 if self.training else x)


def subclassed_training():
    model = settled(SubclassedTraining())
    trunk = sequence(model.block.conv, model.block.norm, F.gelu)
    return Network(model, images(), "block.act", (6, 6), trunk, of(pool, model.head))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.out = Conv(3, 5, 3), Conv(5, 5, 3, padding=1), nn.ReLU()
        self.head = Dense(5, CLASSES, softmax)

    def forward(self, x):
        short = self.stem(x)
        return self.head(pool(self.out(short + self.branch(short))))


def residual():
    """After the addition and its activation."""
    model = settled(Residual())
    trunk = lambda x: torch.relu(model.stem(x) + model.branch(model.stem(x)))  # noqa: E731
    return Network(model, images(), "out", (6, 6), trunk, of(pool, model.head.logits))


def residual_branch():
    """A layer inside a branch: the shortcut goes round it."""
    model = settled(Residual())
    tail = lambda A, x: model.head.logits(pool(torch.relu(model.stem(x) + A)))  # noqa: E731
    return Network(model, images(), "branch", (6, 6), sequence(model.stem, model.branch), tail, auto=False)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = Conv(3, 3, 3, torch.tanh), Dense(3, CLASSES, softmax)

    def forward(self, x):
        return self.head(pool(self.conv(self.conv(x))))


def shared_first():
    """The first call of a layer that is called twice: the second call lies in its tail."""
    model = settled(Shared())
    return Network(model, images(), "conv", (6, 6), model.conv, of(model.conv, pool, model.head.logits), auto=False)


def shared_second():
    model = settled(Shared())
    trunk = sequence(model.conv, model.conv)
    return Network(model, images(), "conv#2", (4, 4), trunk, of(pool, model.head.logits))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = Conv(3, 5, 3, F.relu), Dense(10, CLASSES, softmax)

    def forward(self, image, vector):
        return self.head(torch.cat([pool(self.conv(image)), vector], -1))


def _two_inputs(form):
    model = settled(TwoInputs())
    pair = [images(), vectors()]
    inputs = dict(zip(["image", "vector"], pair, strict=True)) if form is dict else form(pair)
    first, second = ("image", "vector") if form is dict else (0, 1)
    tail = lambda A, x: model.head.logits(torch.cat([pool(A), x[second]], -1))  # noqa: E731
    return Network(model, inputs, "conv", (6, 6), lambda x: model.conv(x[first]), tail)


def two_inputs_tuple():
    return _two_inputs(tuple)


def two_inputs_dict():
    return _two_inputs(dict)


class TwoOutputs(nn.Module):
    """Two outputs from two layers of a network, at two grids; `form` makes one answer of them."""

    def __init__(self, form):
        super().__init__()
        self.conv4, self.conv5 = Conv(3, 4, 3, F.relu), Conv(4, 5, 3, F.relu)
        self.colour, self.scores, self.species = Dense(4, 3, softmax), Dense(5, CLASSES), nn.Softmax(-1)
        self.form = form

    def forward(self, x):
        early = self.conv4(x)
        species = self.species(self.scores(pool(self.conv5(early))))
        return self.form(self.colour(pool(early)), species)


def two_outputs(form, output, second):
    """Two outputs in one answer, the second of them explained or the first."""
    model = settled(TwoOutputs(form))
    if second:
        trunk = sequence(model.conv4, model.conv5)
        return Network(model, images(), "conv5", (4, 4), trunk, of(pool, model.scores), output=output)
    return Network(model, images(), "conv4", (6, 6), model.conv4, of(pool, model.colour.logits), output=output)


class Pair(NamedTuple):
    colour: Any
    species: Any


@dataclasses.dataclass
class Answer:
    colour: Any
    species: Any


def in_dict(colour, species):
    return {"colour": colour, "species": species}


def outputs_dict_first():
    return two_outputs(in_dict, "colour", False)


def outputs_dict_second():
    return two_outputs(in_dict, "species", True)


def mixed_bfloat16():
    """Half precision, and the softmax in full."""
    model = named(
        first=Conv(3, 4, 3, F.relu), conv=Conv(4, 5, 3, F.relu), gap=Pool(), head=Dense(5, CLASSES),
        activation=FullSoftmax(),
    )  # fmt: skip
    settled(model).to(torch.bfloat16)
    first = lambda x: model.first(x.to(torch.bfloat16))  # noqa: E731
    return Network(model, images(), "conv", (4, 4), sequence(first, model.conv), of(pool, model.head))


class FullSoftmax(nn.Module):
    def forward(self, x):
        return torch.softmax(x.float(), -1)


def series():
    """A signal: one axis of locations."""
    model = named(conv=Conv1(3, 5, 3), gap=Pool(), head=Dense(5, CLASSES, softmax))
    return Network(settled(model), images(axes=1), "conv", (6,), model.conv, of(pool, model.head.logits))


def volume():
    """Three axes of locations, and a pooling that the choice looks through."""
    model = named(conv=Conv3(1, 5, 3), pool=nn.AvgPool3d(2), flatten=Flat(), head=Dense(135, CLASSES, softmax))
    tail = of(lambda A: F.avg_pool3d(A, 2), Flat(), model.head.logits)
    return Network(settled(model), images(axes=3, channels=1), "conv", (6, 6, 6), model.conv, tail)


TWINS = {
    build.__name__: build
    for build in (
        gap,
        vgg_like,
        sequential,
        functional,
        nested,
        nested_twice,
        subclassed,
        subclassed_training,
        residual,
        residual_branch,
        shared_first,
        shared_second,
        two_inputs_tuple,
        two_inputs_dict,
        outputs_dict_first,
        outputs_dict_second,
        mixed_bfloat16,
        series,
        volume,
        softmax_layer,
        log_softmax,
        mobilenet_like,
        one_sigmoid,
        multi_label,
        no_softmax,
        regression,
    )
}
