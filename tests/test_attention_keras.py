"""What Keras models yield for methods that read a transformer's attention, on whichever backend Keras runs."""

import keras
import numpy as np
import pytest

import camlucida as cl
import frameworks
from camlucida import targets
from camlucida.engines import engine_for
from camlucida.engines.attention import Attending, Look, Tokens
from camlucida.errors import ConditionError
from oracles import attention as oracle
from test_engine import untouched

layers, ops = keras.layers, keras.ops
ALL = ("legrad", "chefer", "rollout")
CHANNELS, HEADS, CLASSES, SIDE, CELL, DEPTH = 8, 2, 4, 12, 4, 3
PATCHES = (SIDE // CELL) ** 2


class Begin(layers.Layer):
    """A class token before the patches, and where each token stands."""

    def build(self, shape):
        self.first = self.add_weight(shape=(1, 1, shape[-1]), name="first")
        self.places = self.add_weight(shape=(1, shape[1] + 1, shape[-1]), name="places")

    def call(self, x):
        first = ops.broadcast_to(self.first, (ops.shape(x)[0], 1, CHANNELS))
        return ops.concatenate([first, x], axis=1) + self.places


class OwnAttention(layers.Layer):
    """Attention of one's own, around a softmax layer."""

    def __init__(self, **known):
        super().__init__(**known)
        self.softmax, self.qkv = layers.Softmax(), layers.Dense(3 * CHANNELS)

    def call(self, x):
        shape = (-1, x.shape[1], 3, HEADS, CHANNELS // HEADS)
        q, k, v = ops.unstack(ops.transpose(ops.reshape(self.qkv(x), shape), (2, 0, 3, 1, 4)), axis=0)
        P = self.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / (CHANNELS // HEADS) ** 0.5)
        return ops.reshape(ops.transpose(ops.matmul(P, v), (0, 2, 1, 3)), (-1, x.shape[1], CHANNELS))


def attention(way, name):
    """A layer that attends, by the way in which it is written."""
    if way == "softmax":
        return OwnAttention(name=name)
    if way == "grouped":
        return layers.GroupQueryAttention(CHANNELS // HEADS, HEADS, 1, name=name)
    return layers.MultiHeadAttention(HEADS, CHANNELS // HEADS, dropout=0.3 * (way == "dropout"), name=name)


def attended(layer, y, way):
    if way == "softmax":
        return layer(y)
    return layer(y, y, return_attention_scores=True)[0] if way == "scores" else layer(y, y)


class Block(layers.Layer):
    """A block with additions that are no layers."""

    def __init__(self, number, way):
        super().__init__(name=f"block{number}")
        self.way, self.attend = way, attention(way, f"attend{number}")
        self.norms = [layers.LayerNormalization(name=f"{self.name}_norm{i}") for i in range(2)]
        self.mlp = layers.Dense(CHANNELS, "tanh", name=f"mlp{number}")

    def call(self, x):
        x = x + attended(self.attend, self.norms[0](x), self.way)
        return x + self.mlp(self.norms[1](x))


def vit(way="fused", *, token=True, nested=False, seed=0):
    """A vision transformer of layers alone, or one with blocks of its own, whose variables are drawn from a seed."""
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Reshape((PATCHES, CHANNELS))(layers.Conv2D(CHANNELS, CELL, CELL, name="patch")(image))
    x = Begin(name="tokens")(x) if token else x
    for number in range(DEPTH):
        if nested:
            x = Block(number, way)(x)
            continue
        y = layers.LayerNormalization(name=f"block{number}_norm0")(x)
        x = layers.Add()([x, attended(attention(way, f"attend{number}"), y, way)])
        y = layers.LayerNormalization(name=f"block{number}_norm1")(x)
        x = layers.Add()([x, layers.Dense(CHANNELS, "tanh", name=f"mlp{number}")(y)])
    x = layers.LayerNormalization(name="norm")(x)
    x = x[:, 0] if token else layers.GlobalAveragePooling1D()(x)
    return seeded(keras.Model(image, layers.Dense(CLASSES, "softmax", name="head")(x)), seed)


def seeded(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.6, v.shape) for v in model.weights])
    return model


def pictures(count=3):
    return np.random.default_rng(1).normal(size=(count, SIDE, SIDE, 3)).astype("float32")


def by_hand(model, x, offsets):
    """Per block its attention and the logits if it were the last, with `offsets` added to the attention."""
    part = model.get_layer
    x = ops.reshape(part("patch")(x), (-1, PATCHES, CHANNELS))
    x = part("tokens")(x) if any(layer.name == "tokens" for layer in model.layers) else x
    found, said = [], []
    for number, offset in enumerate(offsets):
        layer, y = part(f"attend{number}"), part(f"block{number}_norm0")(x)
        q, k, v = (dense(y) for dense in (layer._query_dense, layer._key_dense, layer._value_dense))
        scores = ops.einsum("bqhd,bthd->bhqt", q, k) / (CHANNELS // HEADS) ** 0.5
        P = ops.exp(scores) / ops.sum(ops.exp(scores), axis=-1, keepdims=True)
        x = x + layer._output_dense(ops.einsum("bhqt,bthd->bqhd", P + offset, v))
        x = x + part(f"mlp{number}")(part(f"block{number}_norm1")(x))
        found.append(P)
        last = part("norm")(x)
        last = last[:, 0] if last.shape[1] > PATCHES else ops.mean(last, axis=1)
        said.append(ops.matmul(last, part("head").kernel) + part("head").bias)
    return found, said


def gradients_by_hand(model, x, c):
    """Attention, the gradient of the model's logit and of each block's own, per block ``(B, heads, T, T)``."""
    T = PATCHES + any(layer.name == "tokens" for layer in model.layers)
    x = ops.convert_to_tensor(x)
    zeros = ops.zeros((len(x), HEADS, T, T))

    def gradient(number, said):
        def score(offset):
            offsets = [offset if other == number else 0.0 for other in range(DEPTH)]
            return ops.sum(by_hand(model, x, offsets)[1][said][:, c])

        return host(frameworks.gradient(score, zeros))

    P = [host(p) for p in by_hand(model, x, [zeros] * DEPTH)[0]]
    return P, [gradient(number, -1) for number in range(DEPTH)], [gradient(number, number) for number in range(DEPTH)]


def host(x):
    return ops.convert_to_numpy(x)


def as_it_is(P, G, xp):
    return P if G is None else G


def seen(model, x, gradients=("score",), c=1):
    """What an engine makes of the attention: per kind of gradient the blocks' ``(B, heads, T, T)``."""
    looks = tuple(Look(0, gradient, as_it_is) for gradient in gradients)
    chosen = (np.full((len(x), 1), c, "int32"),)
    return engine_for(model).attention(x, Attending(looks, (targets.class_(c),), ("logit",), chosen))


def maps(model, x, method=ALL, target=(1,)):
    """Raw maps ``(B, targets, methods, U)``."""
    found = cl.explain(model, x, method=list(method), target=list(target), preprocess=None)
    return np.stack([one.raw.ravel() for one in found]).reshape(len(x), len(target), len(method), -1)


def close(ours, theirs, tolerance=2e-4):
    """Equal up to a share of the largest value, and not both nothing."""
    scale = np.abs(theirs).max()
    assert scale > 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("token", [True, False])
def test_attention_and_gradients_are_those_by_hand(token):
    model, x = vit(token=token), pictures()
    found = seen(model, x, (None, "score", "blocks"))
    others = range(token, PATCHES + token)
    assert found.tokens == Tokens(tuple(others), (0,) if token else tuple(others), (3, 3))
    for ours, theirs in zip(found.looks, gradients_by_hand(model, x, 1), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    for P in found.looks[0]:
        np.testing.assert_allclose(P.sum(axis=-1), 1, rtol=1e-5)


def test_the_maps_are_the_oracles_for_attention_by_hand():
    model, x = vit(), pictures()
    P, whole, own = gradients_by_hand(model, x, 1)
    patches = range(1, PATCHES + 1)
    for n, ours in enumerate(maps(model, x)[:, 0]):
        close(ours[0], oracle.legrad([g[n] for g in own], patches))
        close(ours[1], oracle.chefer([p[n] for p in P], [g[n] for g in whole], [0], patches))
        close(ours[2], oracle.rollout([p[n] for p in P], [0], patches))


@pytest.mark.parametrize("way", ["dropout", "scores"])
def test_the_maps_are_the_same_however_the_layer_is_asked(way):
    twin, x = vit(), pictures()
    model = vit(way)
    model.set_weights(twin.get_weights() + model.get_weights()[len(twin.weights) :])
    close(maps(model, x), maps(twin, x))


@pytest.mark.parametrize("way", ["fused", "grouped", "softmax"])
def test_blocks_may_be_layers_of_ones_own(way):
    x, found = pictures(), []
    for nested in (False, True):
        model = vit(way, nested=nested)
        values = np.random.default_rng(3)
        for layer in sorted(operations_of(model), key=lambda layer: layer.name):
            layer.set_weights([values.normal(0, 0.6, w.shape) for w in layer.get_weights()])
        found.append(maps(model, x))
    close(found[1], found[0])


def operations_of(model):
    """The layers that have a name in both kinds of model."""
    named = ("patch", "tokens", "norm", "head", "attend", "mlp")
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if layer.weights and (layer.name.startswith(named) or "_norm" in layer.name)
    ]


def test_maps_are_of_their_class_but_for_rollouts():
    found = maps(vit(), pictures(), target=(0, 3))
    for place, name in enumerate(ALL):
        alike = np.corrcoef(found[:, 0, place].ravel(), found[:, 1, place].ravel())[0, 1]
        assert (alike == pytest.approx(1)) == (name == "rollout")


def test_images_do_not_know_of_each_other():
    model, x = vit(), pictures()
    close(maps(model, x), np.concatenate([maps(model, x[n : n + 1]) for n in range(len(x))]))


@pytest.mark.parametrize("way", ["fused", "scores", "grouped", "softmax"])
def test_the_model_is_what_it_was(way):
    model = vit(way)
    model(pictures())
    before, asked = untouched(model), values(model)
    maps(model, pictures())
    assert (untouched(model), values(model)) == (before, asked)


def values(model):
    """The plain attributes of all layers."""
    plain = (bool, int, float, str, type(None))
    return [
        {key: value for key, value in vars(layer).items() if isinstance(value, plain)}
        for layer in model._flatten_layers()
    ]


class Loose(keras.Model):
    """A model with additions that are no layers between its blocks' parts."""

    def __init__(self):
        super().__init__()
        self.patch, self.flat = layers.Conv2D(CHANNELS, CELL, CELL), layers.Reshape((PATCHES, CHANNELS))
        self.attends = [layers.MultiHeadAttention(HEADS, 4) for _ in range(2)]
        self.norms, self.head = [layers.LayerNormalization() for _ in range(3)], layers.Dense(CLASSES)

    def call(self, x):
        x = self.flat(self.patch(x))
        for attend, norm in zip(self.attends, self.norms, strict=False):
            y = norm(x)
            x = x + attend(y, y)
        return self.head(ops.mean(self.norms[2](x), axis=1))


def test_where_blocks_cannot_be_told_apart_legrad_alone_is_refused():
    model, x = Loose(), pictures()
    model(x)
    before = untouched(model)
    assert maps(model, x, ["chefer", "rollout"]).any()
    with pytest.raises(ConditionError, match=r"legrad lets the model end with each of its 2 blocks.*chefer works"):
        maps(model, x, ["legrad"])
    assert untouched(model) == before


@pytest.mark.parametrize("method", ALL)
def test_networks_without_attention_are_told_so(method):
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(CHANNELS, 3)(image))
    model = keras.Model(image, layers.Dense(CLASSES)(x))
    with pytest.raises(ConditionError, match=r"no attention over the image's tokens was met .* vision transformers"):
        maps(model, pictures(), [method])
