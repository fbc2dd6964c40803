"""Networks in ONNX: what is told of them, their maps against ONNX's own reference implementation, what goes wrong."""

import gc
import io
import re
import threading
import warnings
import weakref

import numpy as np
import onnx
import pytest

import camlucida as cl
import onnx_networks as networks
from camlucida.engines import ends, engine_for
from camlucida.engines.onnx_engine import Onnx
from camlucida.engines.onnx_model import OnnxModel
from camlucida.errors import ConditionError, ImageError, ModelError, RequestError, UnknownNameError
from camlucida.methods import methods
from camlucida.types import Need
from onnx_networks import CHANNELS, CLASSES, SIZE, images, values, weight
from oracles import gradients, probes, scores

SERVED = [name for name, m in methods().items() if m.needs <= Onnx.serves]
FEW = ["score-cam", "rise?masks=30&cells=3", "occlusion?patch=3&stride=2"]
CLASS = 2

NETS = {
    "gap": (networks.gap, images),
    "no softmax": (lambda: networks.gap(None), images),
    "log-softmax": (lambda: networks.gap("LogSoftmax"), images),
    "many sigmoids": (lambda: networks.gap("Sigmoid"), images),
    "matmul head": (networks.matmul_head, images),
    "conv head": (networks.conv_head, images),
    "residual": (networks.residual, images),
    "channels last": (networks.channels_last, lambda: np.moveaxis(images(), 1, -1)),
    "one unit": (networks.one_unit, images),
    "series": (lambda: networks.of_rank((20,)), lambda: images(3, (20,), 2)),
    "volume": (lambda: networks.of_rank((5, 6, 4)), lambda: images(3, (5, 6, 4), 2)),
    "batch of one": (lambda: networks.gap(batch=1), images),
    "batch of two": (lambda: networks.gap(batch=2), images),
    "half precision": (lambda: networks.gap(dtype="float16"), images),
    "double precision": (lambda: networks.gap(given="float64"), images),
}
ORACLES = {
    "grad-cam": gradients.grad_cam,
    "grad-cam++": lambda A, G: gradients.grad_cam_pp(A, G, "paper"),
    "hirescam": gradients.hires_cam,
    "layercam": gradients.layer_cam,
}
CHOSEN = {
    "gap": "relu",
    "conv head": "relu",
    "residual": "out",
    "channels last": "relu",
    "series": "relu",
    "volume": "relu",
}


def explained(model, x, method="cam", target=CLASS, **settings):
    return cl.explain(model, x, method=method, target=target, preprocess=None, **settings)


def net(name):
    make, inputs = NETS[name]
    return OnnxModel(make(), name), inputs()


def fed(model, x):
    return {"image": x.astype(model.image.dtype)}


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def activations(model, x, tensor):
    """``(B, U, K)`` of one tensor, one image at a time, by the reference implementation."""
    A = np.concatenate([values(_free(model.proto), fed(model, one[None]), tensor)[0] for one in x])
    if model.channels_first:
        A = np.moveaxis(A, 1, -1)
    return A.reshape(len(A), -1, A.shape[-1]).astype("float64")


def _free(proto):
    """The same network with its batch left free, which is all the same to the reference implementation."""
    free = onnx.ModelProto()
    free.CopyFrom(proto)
    for value in (*free.graph.input, *free.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return free


def head(model):
    """The weights ``(K, C)`` of the last layer."""
    names = {w.name for w in model.proto.graph.initializer}
    W = weight(model.proto, "head/W").astype("float64")
    if "head/b" in names and W.shape[0] != CHANNELS:
        W = W.reshape(len(W), -1).T
    return np.concatenate([-W, W], axis=1) if W.shape[1] == 1 else W


def close(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


# What is told of a network


@pytest.mark.parametrize(
    ("name", "channels_first", "size", "classes", "batch"),
    [
        ("gap", True, SIZE, CLASSES, None),
        ("channels last", False, SIZE, CLASSES, None),
        ("series", True, None, CLASSES, None),
        ("volume", True, None, CLASSES, None),
        ("batch of two", True, SIZE, CLASSES, 2),
        ("one unit", True, SIZE, 1, None),
    ],
)
def test_what_a_file_says_of_its_network(tmp_path, name, channels_first, size, classes, batch):
    path = tmp_path / "net.onnx"
    onnx.save(NETS[name][0](), path)
    model = OnnxModel.read(path)
    assert (model.channels_first, model.input_size, model.classes, model.batch) == (
        channels_first,
        size,
        classes,
        batch,
    )
    assert model.name == str(path)
    assert [one.name for one in model.inputs] == ["image"]
    assert model.image.dtype == np.float32


def bare(build, shape):
    """A network of one or few nodes behind an input of a shape."""
    b = networks.Builder()
    b.output(build(b, b.input("image", shape)), None)
    return OnnxModel(b.proto())


@pytest.mark.parametrize(
    ("build", "shape", "first"),
    [
        (lambda b, x: b.node("Relu", x, "relu"), ["N", 3, "h", "w"], True),
        (lambda b, x: b.node("Relu", x, "relu"), ["N", "h", "w", 3], False),
        (lambda b, x: b.node("Relu", x, "relu"), ["N", "h", "w", "c"], True),
        (lambda b, x: b.node("Relu", x, "relu"), ["N", 7], False),
        # As exports move a single channel: with a reshaping in place of the transposition.
        (lambda b, x: b.node("Reshape", [x, b.constant("s", [-1, 1, 8, 9])], "r"), ["N", 8, 9, 1], False),
        (lambda b, x: b.conv(b.node("Transpose", x, "t", perm=[0, 3, 1, 2]), "c", 5, 2), ["N", 3, 8, 5], False),
        (lambda b, x: b.conv(b.node("Transpose", x, "t", perm=[0, 1, 3, 2]), "c", 5, 2), ["N", 5, 8, 4], True),
        (lambda b, x: b.conv(b.node("Transpose", x, "t"), "c", 5, 2), [8, 9, 5, "N"], False),
    ],
)
def test_where_the_channels_are(build, shape, first):
    assert bare(build, shape).channels_first is first


@pytest.mark.parametrize(("name", "path"), CHOSEN.items())
def test_the_chosen_layer_is_the_last_before_the_places_collapse(name, path):
    model, x = net(name)
    anatomy = engine_for(model).anatomy(x)
    (chosen,) = [layer for layer in anatomy.layers if layer.chosen]
    assert chosen.path == path
    assert chosen.channels == CHANNELS
    assert chosen.grid == (x.shape[2:] if model.channels_first else x.shape[1:-1])
    assert chosen.reason == "the last features before the spatial dimensions collapse"


def test_every_node_on_the_way_is_a_layer_and_weights_are_none():
    b = networks.Builder()
    x = b.input("image", ["N", 3, *SIZE])
    turned = b.node("Transpose", b.weight("W", 3, 4, 1, 1), "turn_weights", perm=[1, 0, 2, 3])
    b.nodes.append(onnx.helper.make_node("Conv", [x, turned], ["made"]))  # without a name
    x = b.node("Relu", "made", "made")
    x = b.node("Transpose", x, "last", perm=[0, 2, 3, 1])
    b.output(b.node("Reshape", [x, b.constant("shape", [-1, 4, *SIZE])], "reshape"), None)
    model = OnnxModel(b.proto())
    layers = engine_for(model).anatomy(images()).layers
    assert [(layer.path, layer.kind, layer.grid, layer.channels) for layer in layers] == [
        ("made", "Conv", SIZE, 4),
        ("made#2", "Relu", SIZE, 4),
        ("last", "Transpose", SIZE, 4),
        ("reshape", "Reshape", (), 10),  # what lies where after a reshaping, nothing tells
    ]


@pytest.mark.parametrize(
    ("name", "notes", "logit_notes"),
    [
        ("gap", (), (ends.set_aside("softmax", "softmax"),)),
        ("log-softmax", (), (ends.set_aside("log_softmax", "logsoftmax"),)),
        ("many sigmoids", (), (ends.set_aside("sigmoid", "sigmoid"),)),
        ("no softmax", (ends.NO_SOFTMAX,), ()),
    ],
)
def test_the_end_is_told_in_the_words_of_all_engines(name, notes, logit_notes):
    model, x = net(name)
    anatomy = engine_for(model).anatomy(x)
    assert (anatomy.notes, anatomy.logit_notes) == (notes, logit_notes)
    assert anatomy.classes == CLASSES


def test_an_end_that_cannot_be_opened():
    model = OnnxModel(networks.closed())
    item = explained(model, images(1), FEW[2], score="logit")[0]
    assert ends.CLOSED in item.notes
    assert item.score == pytest.approx(np.log(item.probability), rel=1e-5)


# Maps and scores


@pytest.mark.parametrize("name", NETS)
def test_cam_is_weights_times_activations(name):
    model, x = net(name)
    chosen = "out" if name == "residual" else "relu"
    c = 1 if name == "one unit" else CLASS
    results = explained(model, x, target=c)
    expected = activations(model, x, f"{chosen}:0") @ head(model)[:, c]
    assert {item.layer for item in results} == {chosen}
    tolerance = 1e-2 if name == "half precision" else 1e-4
    close(np.stack([item.raw.reshape(-1) for item in results]), expected, tolerance)
    assert results[0].raw.shape == (x.shape[2:] if model.channels_first else x.shape[1:-1])


@pytest.mark.parametrize("name", NETS)
def test_scores_are_those_of_the_reference(name):
    model, x = net(name)
    results = explained(model, x, "cam", 1, score="logit")
    end = {"one unit": "sigmoid", "log-softmax": "softmax", "no softmax": "none"}.get(name, "softmax")
    last = "head/add:0" if name in ("matmul head", "channels last") else "head:0"
    wanted = np.concatenate([values(_free(model.proto), fed(model, one[None]), last)[0] for one in x]).astype("float64")
    wanted = wanted.reshape(len(x), -1)
    tolerance = 2e-2 if name == "half precision" else 1e-4
    close([item.score for item in results], wanted[:, -1] if end == "sigmoid" else wanted[:, 1], tolerance)
    sigmoid = 1 / (1 + np.exp(-wanted))
    p = sigmoid[:, -1] if end == "sigmoid" else sigmoid[:, 1] if name == "many sigmoids" else softmax(wanted)[:, 1]
    close([item.probability for item in results], p, tolerance)


def test_one_unit_speaks_for_class_1_and_against_class_0():
    model, x = net("one unit")
    against, its = explained(model, x, target=[0, 1])[:2]
    close(against.raw, -its.raw)
    assert against.probability == pytest.approx(1 - its.probability)
    assert against.score == pytest.approx(-its.score)


def test_a_linear_layer_before_the_pooling_belongs_to_the_head():
    model = OnnxModel(networks.conv_before_pooling())
    x = images()
    early, whole = explained(model, x, layer=["relu", "auto"], target=CLASS)[:2]
    assert whole.layer == "head"
    bias = weight(model.proto, "head/b")[CLASS]
    close(early.raw + bias, whole.raw)
    close(early.raw.mean() + bias, early.score)


@pytest.mark.parametrize("name", ["gap", "channels last", "batch of two"])
def test_score_cam_is_the_oracle(name):
    model, x = net(name)
    free, last = _free(model.proto), "head/add:0" if name == "channels last" else "head:0"

    def f(image):
        image = image if name == "channels last" else np.moveaxis(image, -1, 0)
        return values(free, {"image": image[None].astype("float32")}, last)[0][0]

    A = activations(model, x, "relu:0").reshape(len(x), *SIZE, CHANNELS)
    results = explained(model, x, "score-cam", batch_size=7)
    for i, item in enumerate(results):
        image = x[i] if name == "channels last" else np.moveaxis(x[i], 0, -1)
        close(item.raw, probes.score_cam(f, image, A[i], CLASS, "official"))


@pytest.mark.parametrize("name", ["gap", "channels last"])
def test_occlusion_is_the_oracle(name):
    model, x = net(name)

    def p(image):
        image = image if name == "channels last" else np.moveaxis(image, -1, 0)
        return values(model.proto, {"image": image[None].astype("float32")}, "scores")[0][0, CLASS]

    for i, item in enumerate(explained(model, x[:2], "occlusion?patch=4&stride=3")):
        assert item.raw.shape == SIZE
        close(item.raw, scores.occlusion(p, x[i] if name == "channels last" else np.moveaxis(x[i], 0, -1), 4, 3))


@pytest.mark.parametrize("name", ["batch of one", "batch of two"])
def test_a_fixed_batch_changes_nothing(name):
    fixed, free = OnnxModel(NETS[name][0]()), OnnxModel(networks.gap())
    x = images(5)
    for one, other in zip(explained(fixed, x, ["cam", *FEW]), explained(free, x, ["cam", *FEW]), strict=True):
        close(one.raw, other.raw, 1e-5)
        assert one.score == pytest.approx(other.score, rel=1e-5)


def test_an_image_is_explained_alone_as_in_a_batch():
    model, x = net("residual")
    together = explained(model, x, ["cam", *FEW], target="top1")
    alone = [item for i in range(3) for item in explained(model, x[i : i + 1], ["cam", *FEW], target="top1")]
    for one, other in zip(together, alone, strict=True):
        assert one.target == other.target
        close(one.raw, other.raw, 1e-5)


def test_whole_numbers_are_rounded_for_a_network_that_takes_them():
    b = networks.Builder()
    x = b.node("Cast", b.input("image", ["N", 3, *SIZE], "uint8"), "cast", to=onnx.TensorProto.FLOAT)
    x = b.node("Flatten", b.node("GlobalAveragePool", b.conv(x, "conv", 3, 4), "gap"), "flatten")
    b.output(b.dense(x, "head", 4, 3), ["N", 3], "scores")
    model = OnnxModel(b.proto())
    pixels = np.random.default_rng(0).integers(1, 256, (2, 3, *SIZE)).astype("uint8")
    exact, near = (explained(model, given, FEW, score="logit") for given in (pixels, pixels - 0.3))
    assert exact[0].score == near[0].score
    close(near.select(method=FEW[2]).raw, exact.select(method=FEW[2]).raw)


# Several inputs and outputs


@pytest.mark.parametrize("kind", ["dict", "turned dict", "tuple", "list"])
def test_several_inputs(kind):
    model = OnnxModel(networks.two_inputs())
    vector, image = np.random.default_rng(1).normal(size=(3, 4)).astype("float32"), images()
    given = {
        "dict": {"vector": vector, "image": image},
        "turned dict": {"image": image, "vector": vector},
        "tuple": (vector, image),
        "list": [vector, image],
    }[kind]
    results = explained(model, given, FEW, batch_size=4)
    for i, item in enumerate(results.select(method=FEW[2])):

        def p(y, i=i):
            feeds = {"vector": vector[i : i + 1], "image": np.moveaxis(y, -1, 0)[None].astype("float32")}
            return values(model.proto, feeds, "scores")[0][0, CLASS]

        close(item.raw, scores.occlusion(p, np.moveaxis(image[i], 0, -1), 3, 2))
    assert results[0].layer == "relu"


def test_several_outputs():
    model, x = OnnxModel(networks.two_outputs()), images()
    assert engine_for(model).anatomy(x).outputs == ("kind", "lively")
    kind, lively = explained(model, x, target=[CLASS, cl.targets.output("lively", 1)])[:2]
    assert (kind.layer, lively.layer) == ("relu", "early_relu")
    close(kind.raw.reshape(-1), (activations(model, x, "relu:0") @ head(model)[:, CLASS])[0])
    unit = weight(model.proto, "unit/W")[0]
    close(lively.raw.reshape(-1), (activations(model, x, "early_relu:0") @ unit)[0])
    assert "lively" not in str(explained(model, x, target=cl.targets.output("kind", 0))[0].notes)


def test_scores_at_every_place():
    model = OnnxModel(networks.segmentation())
    region = cl.targets.custom(lambda outputs: outputs[:, CLASS, :4].mean(axis=(1, 2)), "region")
    item = explained(model, images(1), FEW[2], region)[0]
    assert item.raw[:4].mean() > 3 * np.abs(item.raw[6:]).mean() or item.raw[:4].mean() < 0
    with pytest.raises(RequestError, match="not a list of class scores"):
        explained(model, images(1), FEW[2])


# Layers


@pytest.mark.parametrize("layer", ["early_relu", "early_relu:0"])
def test_a_layer_by_its_name_or_its_tensor(layer):
    model, x = net("gap")
    (item,) = explained(model, x[:1], "score-cam", layer=layer)
    assert item.layer == "early_relu"


def test_the_end_of_a_path_is_enough():
    b = networks.Builder()
    x = b.input("image", ["N", 3, *SIZE])
    x = b.conv(x, "/body/block/conv", 3, 4)
    b.output(b.node("Flatten", b.node("GlobalAveragePool", x, "/gap"), "/flat"), ["N", 4], "scores")
    model = OnnxModel(b.proto())
    assert engine_for(model).resolve("conv", images()) == "/body/block/conv"


def test_one_of_several_tensors_of_a_node():
    b = networks.Builder()
    x = b.conv(b.input("image", ["N", 3, *SIZE]), "conv", 3, 6)
    halves = b.constant("halves", [2, 4])
    b.nodes.append(onnx.helper.make_node("Split", [x, halves], ["one", "two"], name="split", axis=1))
    b.output(b.node("Flatten", b.node("GlobalAveragePool", "two", "gap"), "flat"), ["N", 4], "scores")
    model, x = OnnxModel(b.proto()), images(1)
    engine = engine_for(model)
    with pytest.raises(
        ConditionError, match=re.escape("'split' yields several tensors: say which, 'split[0]' (grid 8x10)")
    ):
        engine.resolve("split", x)
    assert engine.resolve("two", x) == "split[1]"
    (item,) = explained(model, x, "cam", 1, layer="split[1]")
    close(item.raw, values(model.proto, {"image": x}, "two")[0][0, 1])


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("reluu", UnknownNameError, "unknown layer 'reluu'; did you mean 'relu'"),
        ("head", RequestError, "'head' has no grid of locations"),
        ("gap", RequestError, None),
    ],
)
def test_a_layer_that_will_not_do(layer, error, message):
    model, x = net("gap")
    if message is None:
        assert engine_for(model).resolve(layer, x) == "gap"  # one place is a grid, if a poor one
        return
    with pytest.raises(error, match=message):
        explained(model, x, "score-cam", layer=layer)


def test_a_network_without_places():
    b = networks.Builder()
    b.output(b.dense(b.input("image", ["N", 12]), "head", 12, 3), ["N", 3], "scores")
    model, x = OnnxModel(b.proto()), np.random.default_rng(0).normal(size=(2, 12)).astype("float32")
    with pytest.raises(ConditionError, match="no layer with a grid"):
        explained(model, x, "score-cam")
    result = explained(model, x, "occlusion?patch=1&stride=1", 1, score="logit")
    close(result.raw, x * weight(model.proto, "head/W")[1])
    assert result[0].heatmap().shape == (12,)


def test_a_series_that_is_convolved_as_a_flat_picture():
    """As exports of Keras have it: moved, widened by an axis of one, narrowed and moved back."""
    b = networks.Builder()
    x = b.node("Transpose", b.input("image", ["N", 20, 2]), "first", perm=[0, 2, 1])
    x = b.node("Unsqueeze", [x, b.constant("axis", [2])], "widen")
    x = b.node("Squeeze", [b.conv(x, "conv", 2, CHANNELS, (1, 3)), "axis"], "narrow")
    x = b.node("Transpose", b.node("Relu", x, "relu"), "last", perm=[0, 2, 1])
    x = b.node("ReduceMean", x, "mean", axes=[1], keepdims=0)
    b.output(b.dense(x, "head", CHANNELS, CLASSES), ["N", CLASSES], "scores")
    model, x = OnnxModel(b.proto()), np.moveaxis(images(2, (20,), 2), 1, -1)
    assert not model.channels_first
    (item, _) = explained(model, x)
    A = values(model.proto, {"image": x}, "relu:0")[0][0]
    assert item.layer == "relu"
    close(item.raw, weight(model.proto, "head/W")[CLASS] @ A)


def test_heads_and_tokens_of_attention_are_no_places():
    b = networks.Builder()
    patches = b.conv(b.input("image", ["N", 3, 8, 8]), "patches", 3, 4, (2, 2), strides=[2, 2])
    x = b.node("Reshape", [patches, b.constant("tokens", [0, 4, -1])], "as_tokens")
    x = b.node("Transpose", x, "tokens_first", perm=[0, 2, 1])
    heads = b.node("Reshape", [x, b.constant("heads", [0, 0, 2, 2])], "as_heads")
    query = b.node("Transpose", heads, "query", perm=[0, 2, 1, 3])
    key = b.node("Transpose", heads, "key", perm=[0, 2, 3, 1])
    attention = b.node("Softmax", b.node("MatMul", [query, key], "product"), "attention", axis=-1)
    x = b.node("MatMul", [attention, query], "mixed")
    x = b.node("ReduceMean", x, "mean", axes=[1, 2], keepdims=0)
    b.output(b.dense(x, "head", 2, 3), ["N", 3], "scores")
    model = OnnxModel(b.proto())
    layers = engine_for(model).anatomy(images(1, (8, 8))).layers
    assert {layer.path for layer in layers if len(layer.grid) == 2} == {"patches"}
    assert [layer.path for layer in layers if layer.chosen] == ["patches"]


# What cam needs


@pytest.mark.parametrize(
    ("make", "layer", "obstacle"),
    [
        (networks.flat_head, "auto", r"'pool' \(MaxPool\) follows"),
        (networks.gap, "early_relu", r"'conv' \(Conv\) follows"),
        (networks.residual, "early_relu", "2 nodes use what it makes"),
        (networks.closed, "auto", r"'positive' \(Softplus\) follows"),
        (lambda: networks.gap(None), "conv", r"'relu' \(Relu\) follows"),
    ],
)
def test_cam_is_refused_where_there_is_no_linear_head(make, layer, obstacle):
    with pytest.raises(ConditionError, match=f"{obstacle}; score-cam works for any network"):
        explained(OnnxModel(make()), images(), layer=layer)


def test_cam_is_refused_where_something_joins_before_the_head():
    model = OnnxModel(networks.two_inputs())
    with pytest.raises(ConditionError, match=r"'join' \(Concat\) follows"):
        explained(model, {"image": images(), "vector": np.zeros((3, 4), "float32")})


@pytest.mark.parametrize(
    ("kind", "settings", "obstacle"),
    [
        ("GlobalMaxPool", {}, r"'pool' \(GlobalMaxPool\) follows"),
        ("ReduceSum", {}, r"'pool' \(ReduceSum\) follows"),
        # One place, and the average of not all of the others.
        ("AveragePool", {"kernel_shape": [7, 9], "strides": [8, 10]}, "what lies between .* is not linear"),
    ],
)
def test_cam_is_refused_where_something_else_than_all_places_is_averaged(kind, settings, obstacle):
    b = networks.Builder()
    x = b.node("Relu", b.conv(b.input("image", ["N", 3, *SIZE]), "conv", 3, 4), "relu")
    x = b.node(kind, [x, b.constant("axes", [2, 3])] if kind == "ReduceSum" else x, "pool", **settings)
    b.output(b.dense(b.node("Flatten", x, "flatten"), "head", 4, 3), ["N", 3], "scores")
    with pytest.raises(ConditionError, match=obstacle):
        explained(OnnxModel(b.proto()), images(), layer="relu")


@pytest.mark.parametrize("name", ["gap", "matmul head", "conv head", "channels last", "one unit", "series"])
def test_gradients_are_those_of_a_linear_head(name):
    """No gradient is taken, and none is needed: the head says it."""
    model, x = net(name)
    target = 1 if name == "one unit" else CLASS
    A = activations(model, x, "relu:0")
    G = np.broadcast_to(head(model)[:, target] / A.shape[1], A.shape)
    for method, oracle in ORACLES.items():
        close(explained(model, x, method, target).raw.reshape(len(x), -1), oracle(A, G))


def test_what_needs_a_gradient_is_refused_without_such_a_head():
    assert "grad-cam" not in SERVED
    assert {"cam", "score-cam", "rise", "occlusion"} <= set(SERVED)
    with pytest.raises(ConditionError) as caught:
        explained(OnnxModel(networks.flat_head()), images(), "grad-cam")
    said = (
        "grad-cam needs the gradient of the score, which a model in ONNX gives only for the logit of a class, and "
        "where global average pooling and linear layers follow the layer; these work with it: "
    )
    without_head = [name for name in SERVED if not methods()[name].needs & {Need.WEIGHTS, Need.HEAD}]
    assert "cam" not in without_head
    assert str(caught.value) == said + ", ".join(without_head)
    with pytest.raises(ConditionError) as caught:
        explained(*net("gap"), "grad-cam", score="probability")
    assert str(caught.value) == said + ", ".join(SERVED)
    with pytest.raises(ConditionError, match=r"gscore-cam needs the gradient of the score, .* does not give"):
        explained(*net("gap"), "gscore-cam")


# Nothing changes, nothing grows


def test_the_protobuf_is_left_alone():
    proto = networks.residual()
    before = proto.SerializeToString(deterministic=True)
    model = OnnxModel(proto)
    explained(model, images(), ["cam", *FEW], layer=["auto", "early_relu"][:1])
    with pytest.raises(ConditionError):
        explained(model, images(), layer="early_relu")
    assert proto.SerializeToString(deterministic=True) == before


def test_sessions_are_kept_for_the_tensors_that_were_wanted_last():
    model, x = net("residual")
    for _ in range(3):
        for layer in ("auto", "early_relu", "inner", "inner_relu", "inner2", "shortcut", "add"):
            explained(model, x[:1], "score-cam?channels=1", layer=layer)
    assert len(model._sessions) <= 4
    session = model._session(())
    explained(model, x[:1], "occlusion?patch=8")
    assert model._session(()) is session


def test_a_model_goes_when_nobody_holds_it():
    model, x = net("gap")
    explained(model, x[:1])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_two_threads_explain_as_one_after_the_other():
    model, x = net("residual")
    alone = [explained(model, x, ["cam", "score-cam"], target=c).raw for c in (0, 1)]
    results = {}

    def work(c):
        results[c] = [explained(model, x, ["cam", "score-cam"], target=c).raw for _ in range(5)]

    threads = [threading.Thread(target=work, args=(c,)) for c in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for c in (0, 1):
        for raw in results[c]:
            np.testing.assert_allclose(raw, alone[c], rtol=1e-5, atol=1e-6)


# Files and inputs that will not do


def test_a_file_with_weights_beside_it(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(networks.gap(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    close(explained(OnnxModel.read(path), images()).raw, explained(OnnxModel(networks.gap()), images()).raw, 1e-6)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx keeps weights in a file net\.data, which is not beside it"):
        OnnxModel.read(path)


BROKEN = {
    "truncated": (lambda data: data[: len(data) // 2], "is no ONNX file, or it is cut short"),
    "cut at its end": (lambda data: data[:-7], "is no ONNX file, or it is cut short"),
    "text": (lambda data: b"not a network\n", "is no ONNX file, or it is cut short"),
    "empty": (lambda data: b"", "is no ONNX file, or it holds no network"),
    "weights cut out": (lambda data: _without_weights(data), "cannot be run by onnxruntime"),
    "unknown operator": (
        lambda data: networks.unknown_operator().SerializeToString(),
        "uses the operator 'Sparkle' of the domain 'org.example', which onnxruntime does not know",
    ),
}


def _without_weights(data):
    proto = onnx.load_model_from_string(data)
    del proto.graph.initializer[:]
    return proto.SerializeToString()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(tmp_path, kind):
    change, message = BROKEN[kind]
    path = tmp_path / "net.onnx"
    path.write_bytes(change(networks.gap().SerializeToString()))
    with pytest.raises(ModelError, match=message) as caught:
        OnnxModel.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model file .*none\.onnx"):
        OnnxModel.read(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        (
            "gap",
            np.zeros((2, *SIZE, 3)),
            re.escape("is (?, 3, 8, 10), not (2, 8, 10, 3): its channels come first, give numpy.moveaxis(x, -1, 1)"),
        ),
        (
            "channels last",
            np.zeros((2, 3, *SIZE)),
            re.escape("is (?, 8, 10, 3), not (2, 3, 8, 10): its channels come last, give numpy.moveaxis(x, 1, -1)"),
        ),
        ("gap", np.zeros((2, 3, 9, 9)), r"is \(\?, 3, 8, 10\), not \(2, 3, 9, 9\)$"),
        ("gap", np.zeros((3, 8, 10)), r"not \(3, 8, 10\)$"),
        ("gap", (np.zeros((1, 3, *SIZE)), np.zeros((1, 4))), "takes the inputs 'image', not other ones"),
        ("gap", {"picture": np.zeros((1, 3, *SIZE))}, "takes the inputs 'image', not 'picture'"),
        ("series", np.zeros((1, 3, 20)), r"is \(\?, 2, \?\), not \(1, 3, 20\)$"),
    ],
)
def test_an_input_of_another_shape_is_refused(name, x, message):
    with pytest.raises(RequestError, match=message):
        explained(net(name)[0], x)


def test_what_only_onnxruntime_can_tell_is_said_in_one_line():
    b = networks.Builder()
    x = b.node("Flatten", b.input("image", ["N", 3, "h", "w"]), "flatten")
    b.output(b.dense(x, "head", 3 * 8 * 10, 4), ["N", 4], "scores")
    with pytest.raises(RequestError, match=r"the model fails on an input of shape \(1, 3, 5, 5\): ") as caught:
        explained(OnnxModel(b.proto()), np.zeros((1, 3, 5, 5)), FEW[2])
    assert "\n" not in str(caught.value)


def test_an_output_that_it_does_not_have():
    model, x = OnnxModel(networks.two_outputs()), images()
    with pytest.raises(RequestError, match="no output 'colour'; it has 'kind', 'lively'"):
        explained(model, x, target=cl.targets.output("colour", 0))


def test_a_network_that_answers_with_no_number():
    proto = networks.gap()
    bias = next(w for w in proto.graph.initializer if w.name == "head/b")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(CLASSES, np.nan, "float32"), "head/b"))
    with pytest.raises(ImageError, match="image 0 is not a number"):
        explained(OnnxModel(proto), images(), FEW[2])


# Networks of other makers


@pytest.fixture(scope="module")
def embedded():
    pytest.importorskip("keras", reason="Keras is not installed")
    keras_model = cl.load_model("cifar10")
    return keras_model, OnnxModel(networks.from_keras(keras_model.model), "cifar10.onnx")


def as_loaded(embedded):
    """The exported network with the embedded one's preprocessing and labels."""
    keras_model, model = embedded
    return cl.load_model(model, preprocess=keras_model.preprocessing, labels=keras_model.labels)


def test_the_embedded_network_has_the_same_layer_scores_and_maps(embedded):
    pictures = ["sample:cat", np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3)).astype("uint8")]
    for given in pictures:
        methods = ["cam", "score-cam?channels=8", "occlusion"]
        settings = {"method": methods, "target": ["top1", "dog"]}
        ours, theirs = cl.explain(as_loaded(embedded), given, **settings), cl.explain(embedded[0], given, **settings)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.layer, one.target, one.method) == (other.layer, other.target, other.method)
            assert one.layer == ("input" if one.method == "occlusion" else "block3_out")
            assert one.probability == pytest.approx(other.probability, abs=1e-4)
            close(one.raw, other.raw)


def test_the_cat_is_a_cat(embedded):
    item = cl.explain(as_loaded(embedded), "sample:cat", method="cam")[0]
    assert item.target.label == "cat"
    assert item.answer.backend == "onnx"
    assert item.overlay().size == item.image.size


def test_a_network_that_torch_wrote():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(4)
            self.deep = torch.nn.Conv2d(4, CHANNELS, 3, stride=2, padding=1)
            self.head = torch.nn.Linear(CHANNELS, CLASSES)

        def forward(self, x):
            A = torch.relu(self.deep(torch.relu(self.norm(self.conv(x)))))
            return A, torch.softmax(self.head(A.mean((2, 3))), -1)

    torch.manual_seed(0)
    net, x = Net().eval(), images()

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)[1]

    file = io.BytesIO()
    axes = {"image": {0: "N"}, "scores": {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's older exporter says that it is old; the newer one needs onnxscript
        names = {"input_names": ["image"], "output_names": ["scores"]}
        example = (torch.zeros(1, 3, *SIZE),)
        torch.onnx.export(Scores().eval(), example, file, dynamo=False, dynamic_axes=axes, **names)
    model = OnnxModel(onnx.load_model_from_string(file.getvalue()))
    results = explained(model, x)
    with torch.no_grad():
        A, p = net(torch.from_numpy(x))
        expected = torch.einsum("bkhw,k->bhw", A, net.head.weight[CLASS])
    close(results.raw, expected.numpy())
    close([item.probability for item in results], p[:, CLASS].numpy())
    assert results[0].layer.endswith("Relu_1")
