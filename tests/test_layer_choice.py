"""The layer that ``layer="auto"`` means: over keras.applications, one network per family, and on the traps.

The choice knows no framework, so that a few of the networks are enough on JAX and torch.

Numbers that Keras gives to layers without a name (`activation_17`) depend on what was built before, so that such a path
is a regular expression here. That it is the right one is held by what the network itself pools.
"""

import re
from typing import NamedTuple

import numpy as np
import pytest

from camlucida.models import backend

backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")

from keras import layers  # noqa: E402

from camlucida.engines import engine_for  # noqa: E402
from camlucida.engines.keras_anatomy import find_head  # noqa: E402
from camlucida.errors import ConditionError  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


class Row(NamedTuple):
    """What is right for a network.

    Args:
        layer: what it pools or flattens; of VGG, what its last pooling takes.
        official: the input's side that the network is known for, and the grid's side there.
        small: a small input with more than one location left, and the grid's side there.
        least: the smallest input that Keras allows, where a single location may be left at the end.
        earlier: what is right there: the last whole tensor with more than one location.
        cam: what stands in the way of plain CAM; nothing where it applies.
    """

    layer: str
    official: tuple[int, int]
    small: tuple[int, int]
    least: tuple[int, int]
    earlier: str
    cam: str = ""


ACTIVATION = r"activation(_\d+)?"

TABLE = {
    "VGG16": Row("block5_conv3", (224, 14), (64, 4), (32, 2), "block5_conv3", cam="block5_pool"),
    "ResNet50": Row("conv5_block3_out", (224, 7), (64, 2), (32, 2), "conv4_block6_out"),
    "ResNet50V2": Row("post_relu", (224, 7), (64, 2), (32, 2), "conv4_block5_out"),
    "Xception": Row("block14_sepconv2_act", (299, 10), (107, 4), (71, 3), "block14_sepconv2_act"),
    "InceptionV3": Row("mixed10", (299, 8), (107, 2), (75, 3), "mixed7"),
    "InceptionResNetV2": Row("conv_7b_ac", (299, 8), (107, 2), (75, 3), "block17_20_ac"),
    "MobileNet": Row("conv_pw_13_relu", (224, 7), (64, 2), (32, 2), "conv_pw_11_relu"),
    "MobileNetV2": Row("out_relu", (224, 7), (64, 2), (32, 2), "block_13_expand_relu"),
    "MobileNetV3Small": Row(ACTIVATION, (224, 7), (64, 2), (32, 2), ACTIVATION, cam="Activation"),
    "MobileNetV3Large": Row(ACTIVATION, (224, 7), (64, 2), (32, 2), ACTIVATION, cam="Activation"),
    "DenseNet121": Row("relu", (224, 7), (64, 2), (32, 2), "pool4_conv"),
    "NASNetMobile": Row(ACTIVATION, (224, 7), (64, 2), (32, 2), "adjust_relu_1_9"),
    "EfficientNetB0": Row("top_activation", (224, 7), (64, 2), (32, 2), "block6a_expand_activation"),
    "EfficientNetV2B0": Row("top_activation", (224, 7), (64, 2), (32, 2), "block6a_expand_activation"),
    "ConvNeXtTiny": Row(
        r"add(_\d+)?",
        (224, 7),
        (64, 2),
        (32, 2),
        "convnext_tiny_downsampling_block_2/convnext_tiny_downsampling_layernorm_2",
        cam="convnext_tiny_head_layernorm",
    ),
}

ON_EVERY_BACKEND = ("MobileNet", "ResNet50")
NAMES = list(TABLE) if keras.config.backend() == "tensorflow" else ON_EVERY_BACKEND
only_on_tensorflow = pytest.mark.skipif(len(NAMES) < len(TABLE), reason="as on TensorFlow, and slow")


def noise(side):
    return np.random.default_rng(0).normal(size=(1, side, side, 3)).astype("float32")


def build(name, side):
    """The network with random weights for inputs of that side, and the layer chosen in it."""
    network = getattr(keras.applications, name)
    model = network(weights=None, include_top=True, input_shape=(side, side, 3), classes=10)
    return model, chosen(model, noise(side))


def chosen(model, inputs, output=None):
    (layer,) = [layer for layer in engine_for(model).anatomy(inputs, output).layers if layer.chosen]
    assert layer.path == engine_for(model).resolve("auto", inputs, output)
    return layer


def last_features(model):
    """What the network itself pools (VGG: what it pools and flattens), read from its graph."""
    kinds = (layers.GlobalAveragePooling2D, layers.Flatten)
    first = next(layer for layer in model.layers if isinstance(layer, kinds) and is_last_pooling(layer))
    before = source(first)
    return source(before) if isinstance(before, layers.MaxPooling2D) else before


def is_last_pooling(layer):
    """Not the pooling within a squeeze-and-excitation block, and not a flattening of what is pooled already."""
    if isinstance(layer, layers.Flatten):
        return 1 not in layer.input.shape[1:3]
    inside = [layer]
    while inside:
        for node in inside.pop()._outbound_nodes:
            if isinstance(node.operation, layers.Multiply):
                return False
            inside.append(node.operation)
    return True


def source(layer):
    return layer.input._keras_history.operation


def test_every_family_has_a_row():
    modules = {
        name
        for name, value in vars(keras.applications).items()
        if not name.startswith("_") and not callable(value) and name != "imagenet_utils"
    }
    of_rows = {re.sub(r"(v\d)?(Small|Large|Tiny|Mobile)?(B0)?\d*$", "", name).lower() for name in TABLE}
    for module in modules:
        family = re.sub(r"\d+$", "", module.replace("_", "")).removesuffix("v")
        assert any(row.startswith(family) for row in of_rows), module


@pytest.mark.parametrize("name", NAMES)
def test_small_inputs(name):
    row = TABLE[name]
    side, grid = row.small
    model, layer = build(name, side)
    assert re.fullmatch(row.layer, layer.path)
    assert layer.grid == (grid, grid)
    assert layer.path == last_features(model).name
    assert layer.channels == last_features(model).output.shape[-1]
    assert layer.reason == "the last features before the spatial dimensions collapse"
    if row.cam:
        with pytest.raises(ConditionError, match=row.cam):
            find_head(model, noise(side), None, layer.path)
    else:
        (linear,) = find_head(model, noise(side), None, layer.path)
        assert linear.name in ("predictions", "conv_preds")


@only_on_tensorflow
@pytest.mark.parametrize("name", TABLE)
def test_inputs_of_the_official_size(name):
    row = TABLE[name]
    side, grid = row.official
    model, layer = build(name, side)
    assert re.fullmatch(row.layer, layer.path)
    assert layer.grid == (grid, grid)
    assert layer.path == last_features(model).name


@only_on_tensorflow
@pytest.mark.parametrize("name", TABLE)
def test_the_smallest_inputs(name):
    """Where a single location is left at the end: the last whole tensor with more, never a 1x1 grid, never a branch."""
    row = TABLE[name]
    side, grid = row.least
    _, layer = build(name, side)
    assert re.fullmatch(row.earlier, layer.path)
    assert layer.grid == (grid, grid)
    with pytest.raises(ValueError, match=r"[Ii]nput"):
        build(name, side - 1)


# Traps


def test_a_backbone_in_a_model_of_ones_own():
    backbone = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(64, 64, 3), alpha=0.25)
    image = keras.Input((64, 64, 3))
    features = backbone(layers.Rescaling(1 / 127.5, -1)(image))
    model = keras.Model(image, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(features)))
    layer = chosen(model, noise(64))
    assert layer.path == f"{backbone.name}/conv_pw_13_relu"
    assert layer.grid == (2, 2)


def tiny(body, classes=3):
    """A functional model from an image of 16x16 through `body` to a list of classes."""
    image = keras.Input((16, 16, 3))
    return keras.Model(image, layers.Dense(classes, "softmax")(body(image)))


def conv(name, filters=4, **settings):
    return layers.Conv2D(filters, 3, padding="same", name=name, **settings)


def squeeze_and_excite(image):
    x = conv("features")(image)
    weights = layers.Dense(4, "sigmoid")(layers.GlobalAveragePooling2D()(x))
    return layers.GlobalAveragePooling2D()(layers.Multiply(name="weighed")([x, layers.Reshape((1, 1, 4))(weights)]))


def two_poolings(image):
    x = conv("features")(image)
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


def several_scales(image):
    early = conv("early")(image)
    late = conv("late", strides=2)(early)
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x) for x in (late, early)])


def branches_of_one_tensor(image):
    x = layers.Concatenate(name="whole")([conv("left")(image), conv("right")(image)])
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(y) for y in (conv("a")(x), conv("b")(x), x)])


def shortcut(image):
    short = conv("short", strides=2)(image)
    long = conv("long", strides=2)(conv("longer")(image))
    return layers.GlobalAveragePooling2D()(layers.Activation("relu", name="out")(layers.Add()([long, short])))


def passive_layers(image):
    x = layers.ReLU(name="relu")(conv("conv")(image))
    x = layers.Activation("linear")(layers.SpatialDropout2D(0.5)(layers.ZeroPadding2D()(x)))
    return layers.Flatten()(layers.AveragePooling2D(2)(layers.MaxPooling2D()(x)))


def tokens(image):
    x = layers.Reshape((64, 4))(conv("features", strides=2)(image))
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    return layers.GlobalAveragePooling1D()(x)


def attention_pooling(image):
    x = conv("features", strides=2)(image)
    weights = layers.Softmax()(layers.Flatten()(layers.Conv2D(1, 1, name="attention")(x)))
    return layers.Flatten()(layers.Dot(1)([weights, layers.Reshape((64, 4))(x)]))


def pooled_late(image):
    """A single location is left before the pooling: the layer before that."""
    x = conv("features", strides=2)(image)
    return layers.GlobalAveragePooling2D()(layers.Conv2D(6, 8, name="collapsed")(x))


@pytest.mark.parametrize(
    ("body", "path", "grid"),
    [
        (squeeze_and_excite, "weighed", (16, 16)),
        (two_poolings, "features", (16, 16)),
        (several_scales, "late", (8, 8)),
        (branches_of_one_tensor, "whole", (16, 16)),
        (shortcut, "out", (8, 8)),
        (passive_layers, "relu", (16, 16)),
        (attention_pooling, "features", (8, 8)),
        (tokens, "features", (8, 8)),
        (pooled_late, "features", (8, 8)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_traps(body, path, grid):
    layer = chosen(tiny(body), noise(16))
    assert layer.path == path
    assert layer.grid == grid


@pytest.mark.parametrize(
    ("body", "says"),
    [(several_scales, "the last of several: also early"), (branches_of_one_tensor, "before it branches into a, b")],
)
def test_the_reason_tells_of_others(body, says):
    assert says in chosen(tiny(body), noise(16)).reason


def test_a_network_whose_output_has_a_grid():
    """Segmentation: the smallest grid, where the network has seen most of the picture."""
    image = keras.Input((16, 16, 3))
    down = conv("down", strides=4, activation="relu")(image)
    up = layers.UpSampling2D(4)(layers.ReLU(name="middle")(conv("deep")(down)))
    model = keras.Model(image, layers.Conv2D(2, 1, activation="softmax")(up))
    layer = chosen(model, noise(16))
    assert layer.path == "middle"
    assert "output has a grid" in layer.reason


def test_a_subclassed_network_with_operations_that_are_no_layers():
    class Branches(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.side = conv("first"), conv("second"), layers.Dense(4, name="side")
            self.head = layers.Dense(3)

        def call(self, inputs):
            x = keras.ops.relu(self.first(inputs))
            x = keras.ops.relu(self.second(x)) + x
            side = self.side(keras.ops.mean(inputs, (1, 2)))
            return self.head(keras.ops.mean(x, (1, 2)) * side)

    layer = chosen(Branches(), noise(16))
    assert layer.path == "second"
    assert "as far as the model is made of layers" in layer.reason
