"""Networks as only torch has them, each with its two halves written out by hand; see `torch_networks`."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from torch_networks import (
    CLASSES,
    Answer,
    Flat,
    Network,
    Pair,
    images,
    named,
    of,
    pool,
    sequence,
    settled,
    two_classes,
    two_outputs,
    vectors,
)


class Written(nn.Module):
    """Two convolutions and a head, with what lies between them and after them written as functions."""

    def __init__(self, between, after=lambda x: x, *, units=CLASSES, made=5):
        super().__init__()
        self.first, self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(made, units)
        self.between, self.after = between, after

    def forward(self, x):
        return self.after(self.head(self.between(self.conv(torch.relu(self.first(x))))))


def _written(between, layer, trunk=lambda A: A, tail=pool, after=lambda x: x, score=lambda z: z, **settings):
    """A `Written` network.

    Args:
        between, after: as the model writes it.
        trunk, tail: what of `between` comes before the layer, and after it.
        score: what makes scores of what the head makes.
    """
    auto = settings.pop("auto", True)
    model = settled(Written(between, after, **settings))
    whole = sequence(model.first, torch.relu, model.conv, trunk)
    return Network(model, images(), layer, (4, 4), whole, of(tail, model.head, score), auto)


def functional_relu():
    """The activation has no module around it: it is known by its function."""
    return _written(lambda x: F.relu(x).mean((2, 3)), "relu()#2", torch.relu)


def method_relu():
    return _written(lambda x: x.relu().mean((2, 3)), "relu()#2", torch.relu)


def function_silu():
    return _written(lambda x: F.silu(x).mean((2, 3)), "silu()", F.silu)


def scaled_by_operators():
    """Arithmetic on the way is a step of the network too."""
    return _written(lambda x: (2 * x + 1).mean((2, 3)), "add()", lambda x: 2 * x + 1)


def inplace_function():
    """What is explained is what the convolution yielded, and not what it was made into afterwards."""
    return _written(lambda x: pool(F.relu(x, inplace=True)), "conv", tail=lambda A: pool(torch.relu(A)), auto=False)


def inplace_method():
    return _written(lambda x: pool(x.relu_()), "conv", tail=lambda A: pool(torch.relu(A)), auto=False)


def inplace_chosen():
    return _written(lambda x: pool(x.relu_()), "relu()#2", torch.relu)


def _altered(x):
    x += 3.0
    x.mul_(2.0)
    x[:, 0] = 1.0
    return torch.relu_(x)


def inplace_arithmetic():
    def tail(A):
        return pool(torch.cat([torch.ones_like(A[:, :1]), torch.relu(2 * (A[:, 1:] + 3))], 1))

    return _written(lambda x: pool(_altered(x)), "conv", tail=tail, auto=False)


class InplaceModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.short, self.act = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x):
        out = self.conv(x)
        out += self.short(x)
        return self.head(pool(self.act(out)))


def inplace_sum():
    model = settled(InplaceModule())
    tail = lambda A, x: model.head(pool(torch.relu(A + model.short(x))))  # noqa: E731
    return Network(model, images(), "conv", (6, 6), model.conv, tail, auto=False)


def inplace_sum_chosen():
    model = settled(InplaceModule())
    trunk = lambda x: torch.relu(model.conv(x) + model.short(x))  # noqa: E731
    return Network(model, images(), "act", (6, 6), trunk, of(pool, model.head))


class BasicBlock(nn.Module):
    """As torchvision writes it: one activation for both places, and an addition in place."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)

    def inner(self, x):
        return torch.relu(self.bn1(self.conv1(x)))

    def whole(self, x):
        return torch.relu(x + self.bn2(self.conv2(self.inner(x))))


def _block():
    return settled(
        named(stem=nn.Conv2d(3, 5, 3), block=BasicBlock(5), avgpool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
              fc=nn.Linear(5, CLASSES))
    )  # fmt: skip


def reused_relu():
    """The last activation is called twice a block: the block is the better name for its last call."""
    model = _block()
    return Network(model, images(), "block", (6, 6), sequence(model.stem, model.block.whole), of(pool, model.fc))


def reused_relu_first():
    model = _block()
    b = model.block
    tail = lambda A, x: model.fc(pool(torch.relu(model.stem(x) + b.bn2(b.conv2(A)))))  # noqa: E731
    trunk = sequence(model.stem, b.inner)
    return Network(model, images(), "block.relu", (6, 6), trunk, tail, auto=False)


def reused_relu_second():
    model = _block()
    trunk = sequence(model.stem, model.block.whole)
    return Network(model, images(), "block.relu#2", (6, 6), trunk, of(pool, model.fc), auto=False)


class FunctionalBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(5, 5, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv(x) + x)


def residual_functional():
    """An activation after the addition that no module makes: the block makes it."""
    model = settled(named(stem=nn.Conv2d(3, 5, 3), block=FunctionalBlock(), pool=nn.AdaptiveAvgPool2d(1),
                          flat=nn.Flatten(), fc=nn.Linear(5, CLASSES)))  # fmt: skip
    trunk = sequence(model.stem, lambda x: torch.relu(x + model.block.conv(x)))
    return Network(model, images(), "block", (6, 6), trunk, of(pool, model.fc))


def plain_sequential():
    """Modules known by their numbers."""
    model = settled(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                  nn.Linear(5, CLASSES), nn.Softmax(dim=1)))  # fmt: skip
    return Network(model, images(), "1", (6, 6), sequence(model[0], torch.relu), of(pool, model[4]))


# Ends


def _end(after, score=lambda z: z, units=CLASSES):
    between = lambda x: F.relu(x).mean((2, 3))  # noqa: E731
    return _written(between, "relu()#2", torch.relu, after=after, score=score, units=units)


def softmax_function():
    return _end(lambda z: F.softmax(z, dim=1))


def softmax_method():
    return _end(lambda z: z.softmax(-1))


def log_softmax_method():
    return _end(lambda z: z.log_softmax(dim=-1))


def sigmoid_function():
    return _end(torch.sigmoid, two_classes, units=1)


def sigmoid_method():
    return _end(lambda z: z.sigmoid(), two_classes, units=1)


def average_of_two_softmaxes():
    """What cannot be opened: the log-probability is explained."""
    after = lambda z: (torch.softmax(z, 1) + torch.softmax(2 * z, 1)) / 2  # noqa: E731
    return _end(after, lambda z: torch.log(after(z)))


# Answers of every form


def _listed(colour, species):
    return colour, species


def outputs_tuple_first():
    return two_outputs(_listed, "0", False)


def outputs_tuple_second():
    return two_outputs(_listed, "1", True)


def outputs_namedtuple():
    return two_outputs(Pair, "species", True)


def outputs_dataclass():
    return two_outputs(Answer, "species", True)


def outputs_function():
    return two_outputs(Answer, lambda answer: answer.species, True)


def outputs_nested():
    """Scores that lie deeper in the answer are reached by a function."""
    return two_outputs(lambda c, s: {"all": [c, {"deep": s}]}, lambda answer: answer["all"][1]["deep"], True)


def model_output():
    """The answer of a model of transformers, whose logits come after its loss and before its hidden states."""

    def form(colour, species):
        return ImageClassifierOutput(loss=colour.mean(), logits=species, hidden_states=(colour,))

    return two_outputs(form, None, True)


# Layers of every form


class Twofold(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.one, self.two, self.form = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 2, 5), form

    def forward(self, x):
        return self.form(self.one(x), self.two(x))


class AfterTwo(nn.Module):
    """A layer that yields two tensors, one of which is a map of its own."""

    def __init__(self, form, parts):
        super().__init__()
        self.pair, self.head, self.parts = Twofold(form), nn.Linear(7, CLASSES), parts

    def forward(self, x):
        one, two = self.parts(self.pair(x))
        return self.head(torch.cat([pool(one), pool(two)], 1))


def _after_two(form, parts, item):
    model = settled(AfterTwo(form, parts))
    if item:
        tail = lambda A, x: model.head(torch.cat([pool(model.pair.one(x)), pool(A)], 1))  # noqa: E731
        return Network(model, images(), "pair[1]", (4, 4), model.pair.two, tail, auto=False)
    tail = lambda A, x: model.head(torch.cat([pool(A), pool(model.pair.two(x))], 1))  # noqa: E731
    return Network(model, images(), "pair[0]", (6, 6), model.pair.one, tail, auto=False)


def tuple_layer_first():
    return _after_two(_listed, lambda pair: pair, 0)


def tuple_layer_second():
    return _after_two(_listed, lambda pair: pair, 1)


def dict_layer():
    return _after_two(lambda one, two: {"one": one, "two": two}, lambda found: (found["one"], found["two"]), 1)


def namedtuple_layer():
    return _after_two(Pair, lambda pair: (pair.colour, pair.species), 0)


def dataclass_layer():
    return _after_two(Answer, lambda pair: (pair.colour, pair.species), 0)


class Recurrent(nn.Module):
    """Columns of the picture read one after the other by an LSTM."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.head = nn.Conv2d(3, 3, 3), nn.LSTM(18, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv(x)).permute(0, 3, 1, 2).flatten(2)
        _, (state, _) = self.lstm(x)
        return torch.softmax(self.head(state[-1]), -1)


class DeepRecurrent(nn.Module):
    """Two recurrent layers with dropout between them, which there is none of in evaluation."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.recurrent, self.head = kind(24, 5, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.read(torch.relu(self.conv(x)))

    def read(self, A):
        states, _ = self.recurrent(A.flatten(1, 2).transpose(1, 2))
        return self.head(states[:, -1])


def _deep(kind):
    model = settled(DeepRecurrent(kind))
    return Network(model, images(), "relu()", (6, 6), sequence(model.conv, torch.relu), of(model.read))


def recurrent_lstm():
    return _deep(nn.LSTM)


def recurrent_gru():
    return _deep(nn.GRU)


def recurrent_rnn():
    return _deep(nn.RNN)


def recurrent():
    model = settled(Recurrent())

    def tail(A):
        x = A.permute(0, 3, 1, 2).flatten(2)
        h = c = torch.zeros(len(x), 6)
        for t in range(x.shape[1]):
            gates = x[:, t] @ model.lstm.weight_ih_l0.T + h @ model.lstm.weight_hh_l0.T
            i, f, g, o = (gates + model.lstm.bias_ih_l0 + model.lstm.bias_hh_l0).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return model.head(h)

    return Network(model, images(), "relu()", (6, 6), sequence(model.conv, torch.relu), of(tail))


class ImageLast(nn.Module):
    """Takes a vector first and lets it weigh the channels of the image."""

    def __init__(self):
        super().__init__()
        self.gate, self.conv, self.head = nn.Linear(5, 5), nn.Conv2d(3, 5, 3), nn.Linear(5, CLASSES)

    def forward(self, vector, image):
        return self.head(pool(torch.relu(self.conv(image)) * self.gate(vector)[:, :, None, None]))


def image_last():
    model = settled(ImageLast())
    tail = lambda A, x: model.head(pool(torch.relu(A) * model.gate(x[0])[:, :, None, None]))  # noqa: E731
    return Network(model, (vectors(), images()), "conv", (6, 6), lambda x: model.conv(x[1]), tail, auto=False)


def channels_last_head():
    """A dense head over the flattened layer, in the picture's order."""
    model = settled(named(conv=nn.Conv2d(3, 5, (3, 2), stride=(1, 2)), relu=nn.ReLU(), flat=Flat(),
                          head=nn.Linear(5 * 6 * 4, CLASSES)))  # fmt: skip
    return Network(model, images(), "relu", (6, 4), sequence(model.conv, torch.relu), of(Flat(), model.head))


# Backbones that their models freeze


class Frozen(nn.Module):
    """The backbone runs without gradients, by the model's own word."""

    def __init__(self, mode):
        super().__init__()
        self.backbone = named(first=nn.Conv2d(3, 6, 3), act=nn.ReLU(inplace=True), conv=nn.Conv2d(6, 5, 3))
        self.late, self.head, self.mode = nn.Conv2d(5, 5, 1), nn.Linear(5, CLASSES), mode

    def forward(self, x):
        with self.mode():
            x = self.backbone(x)
            x = torch.relu(x)
        return self.head(pool(torch.relu(self.late(x))))

    def after(self, A):
        return self.head(pool(torch.relu(self.late(torch.relu(A)))))


def _frozen(mode, layer):
    model = settled(Frozen(mode))
    if layer == "backbone.conv":
        tail = of(model.after)
        return Network(model, images(), layer, (4, 4), model.backbone, tail, auto=False)
    trunk = sequence(model.backbone.first, torch.relu)
    return Network(model, images(), layer, (6, 6), trunk, of(model.backbone.conv, model.after), auto=False)


def no_grad_backbone():
    return _frozen(torch.no_grad, "backbone.conv")


def no_grad_backbone_deep():
    return _frozen(torch.no_grad, "backbone.act")


def inference_backbone():
    return _frozen(torch.inference_mode, "backbone.conv")


def inference_backbone_deep():
    return _frozen(torch.inference_mode, "backbone.act")


WAYS = {
    build.__name__: build
    for build in (
        functional_relu,
        method_relu,
        function_silu,
        scaled_by_operators,
        inplace_function,
        inplace_method,
        inplace_chosen,
        inplace_arithmetic,
        inplace_sum,
        inplace_sum_chosen,
        reused_relu,
        reused_relu_first,
        reused_relu_second,
        residual_functional,
        plain_sequential,
        softmax_function,
        softmax_method,
        log_softmax_method,
        sigmoid_function,
        sigmoid_method,
        average_of_two_softmaxes,
        outputs_tuple_first,
        outputs_tuple_second,
        outputs_namedtuple,
        outputs_dataclass,
        outputs_function,
        outputs_nested,
        model_output,
        tuple_layer_first,
        tuple_layer_second,
        dict_layer,
        namedtuple_layer,
        dataclass_layer,
        recurrent,
        recurrent_lstm,
        recurrent_gru,
        recurrent_rnn,
        image_last,
        channels_last_head,
        no_grad_backbone,
        no_grad_backbone_deep,
        inference_backbone,
        inference_backbone_deep,
    )
}
