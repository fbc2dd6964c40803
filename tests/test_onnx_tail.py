"""Scores of altered activations in ONNX, against ONNX's own reference implementation.

There the node that makes the activations is replaced by their values, one at a time.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_networks as networks
from camlucida import targets
from camlucida.engines import engine_for
from camlucida.engines.base import Altered
from camlucida.engines.onnx_model import OnnxModel
from camlucida.errors import ConditionError, RequestError
from camlucida.types import Need
from onnx_networks import CHANNELS, CLASSES, COLOURS, SIZE, Builder, images, values, weight


def _started():
    b = Builder()
    x = b.node("Relu", b.conv(b.input("image", ["N", COLOURS, *SIZE]), "early", COLOURS, 4), "early_relu")
    return b, x


def _pooled(b, x, channels):
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    b.output(b.node("Softmax", b.dense(x, "head", channels, CLASSES), "softmax", axis=-1), ["N", CLASSES], "scores")
    return b.proto()


def concatenated():
    """As in DenseNet: what was there before is joined to what was made of it, twice."""
    b, x = _started()
    x = b.node("Concat", [x, b.conv(x, "second", 4, 3)], "join", axis=1)
    return _pooled(b, b.node("Concat", [x, b.conv(x, "third", 7, 2)], "join2", axis=1), 9)


def shaped_by_the_image():
    """The number of rows is read from the image, after the convolutions."""
    b, x = _started()
    x = b.node("Relu", b.conv(x, "conv", 4, CHANNELS), "relu")
    x = b.node("GlobalAveragePool", x, "gap")
    rows = b.node("Gather", [b.node("Shape", "image", "shape"), b.constant("first", [0])], "rows")
    shape = b.node("Concat", [rows, b.constant("rest", [-1])], "new_shape", axis=0)
    x = b.node("Reshape", [x, shape], "reshape")
    b.output(b.dense(x, "head", CHANNELS, CLASSES), ["N", CLASSES], "scores")
    return b.proto()


def turned_aside():
    """A shortcut whose axis of the images is not the first where it comes by."""
    b, x = _started()
    aside = b.node("Transpose", x, "aside", perm=[1, 0, 2, 3])
    aside = b.node("Mul", [aside, b.weight("gain", 4, 1, 1, 1)], "scaled")
    x = b.node("Transpose", b.conv(x, "conv", 4, 4), "conv_aside", perm=[1, 0, 2, 3])
    return _pooled(b, b.node("Transpose", b.node("Add", [x, aside], "add"), "back", perm=[1, 0, 2, 3]), 4)


def unpooled():
    """A pooling whose places are used later on."""
    b, x = _started()
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    b.nodes.append(helper.make_node("MaxPool", [x], ["pool:0", "places"], name="pool", **pool))
    x = b.node("Relu", b.conv("pool:0", "conv", 4, 4), "relu")
    return _pooled(b, b.node("MaxUnpool", [x, "places"], "unpool", **pool), 4)


def split():
    """Two halves of the channels, of which one is looked at through a convolution."""
    b, x = _started()
    b.nodes.append(helper.make_node("Split", [x], ["left", "right"], name="split", axis=1))
    return _pooled(b, b.node("Concat", [b.conv("left", "conv", 2, 3), "right"], "join", axis=1), 5)


def branched():
    """A choice between two graphs that take what lies around them."""
    b, x = _started()
    x = b.conv(x, "conv", 4, 4)
    ways = [
        helper.make_graph(
            [helper.make_node(kind, [x, "early_relu:0"], [kind], name=kind)],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)],
        )
        for kind in ("Add", "Sub")
    ]
    mean = b.node("ReduceMean", "image", "mean", keepdims=0)
    bright = b.node("Greater", [mean, b.constant("half", np.float32(0))], "bright")
    b.nodes.append(helper.make_node("If", [bright], ["if:0"], name="if", then_branch=ways[0], else_branch=ways[1]))
    return _pooled(b, b.node("Relu", "if:0", "relu"), 4)


def alike(make, count=3):
    return lambda: (make(), {"image": images(count)})


NETS = {
    "gap": alike(networks.gap),
    "no softmax": alike(lambda: networks.gap(None)),
    "log-softmax": alike(lambda: networks.gap("LogSoftmax")),
    "many sigmoids": alike(lambda: networks.gap("Sigmoid")),
    "matmul head": alike(networks.matmul_head),
    "conv head": alike(networks.conv_head),
    "conv before pooling": alike(networks.conv_before_pooling),
    "flat head": alike(networks.flat_head),
    "residual": alike(networks.residual),
    "channels last": lambda: (networks.channels_last(), {"image": np.moveaxis(images(), 1, -1)}),
    "two inputs": lambda: (networks.two_inputs(), {"vector": images(3, (), 4), "image": images()}),
    "one unit": alike(networks.one_unit),
    "series": lambda: (networks.of_rank((20,)), {"image": images(3, (20,), 2)}),
    "volume": lambda: (networks.of_rank((5, 6, 4)), {"image": images(3, (5, 6, 4), 2)}),
    "closed": alike(networks.closed),
    "batch of one": alike(lambda: networks.gap(batch=1)),
    "batch of two": alike(lambda: networks.gap(batch=2)),
    "half precision": alike(lambda: networks.gap(dtype="float16")),
    "double precision": alike(lambda: networks.gap(given="float64")),
    "concatenated": alike(concatenated),
    "shaped by the image": alike(shaped_by_the_image),
    "turned aside": alike(turned_aside),
    "unpooled": alike(unpooled),
    "split": alike(split),
    "branched": alike(branched),
}
TOLERANCE = {"half precision": 1e-2}


def asked(layer, activations, classes=CLASSES, output=None):
    """Every class as a target of its own, for one image."""
    bound = tuple(targets.class_(c).bind(int, classes) for c in range(classes))
    return Altered(layer, activations, bound, tuple(np.asarray([[c]], "int32") for c in range(classes)), output)


def random(count, shape, axis, seed=3):
    """Activations as a tensor has them, ``(M, ...)``, and the same as ``(M, U, K)``."""
    laid = np.random.default_rng(seed).normal(size=(count, *shape[1:])).astype("float32")
    last = np.moveaxis(laid, axis, -1)
    return laid, np.ascontiguousarray(last.reshape(count, -1, last.shape[-1]))


def replaced(model, inputs, tensor, laid, *outputs):
    """The values of `outputs` where `tensor` has each of these ``(M, ...)``, by the reference implementation."""
    rows, dtype = [], values(model.proto, inputs, tensor)[0].dtype
    for one in laid:
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        node = next(node for node in proto.graph.node if tensor in node.output)
        node.output[:] = [f"{name} as it was" if name == tensor else name for name in node.output]
        proto.graph.initializer.append(numpy_helper.from_array(one[None].astype(dtype), tensor))
        known = {value.name for value in proto.graph.output}
        proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs if name not in known)
        rows.append([x[0].astype("float32") for x in ReferenceEvaluator(proto).run(list(outputs), inputs)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def by_class(z, opposite):
    return np.concatenate([opposite, z], axis=1) if z.shape[1] == 1 else z


def scores(name, answer, logits):
    """Logits and probabilities by class, of a network's output and of what its last activation takes."""
    if name == "closed":
        return np.log(answer), answer
    if name in ("no softmax", "shaped by the image"):
        e = np.exp(answer - answer.max(axis=1, keepdims=True))
        return answer, e / e.sum(axis=1, keepdims=True)
    answer = np.exp(answer) if name == "log-softmax" else answer
    return by_class(logits, -logits), by_class(answer, 1 - answer)


def loaded(name):
    """A network, the inputs of one image as it takes them, and the engine."""
    proto, given = NETS[name]()
    model = OnnxModel(proto, name)
    one = {key: x[:1] for key, x in given.items()}
    return model, one, engine_for(model)


def layers_of(engine, one, output=None):
    """The layers with a grid, and the single outputs of those that have several: path, tensor, channel axis."""
    known = engine._study(one, output)
    found = [path for path, call in known.calls.items() if known.grids[path] and len(call.outputs) == 1]
    return [(path, known.tensors[path], known.axes[path]) for path in found]


@pytest.mark.parametrize("name", NETS)
def test_altered_activations_score_as_the_network_scores_them_in_their_place(name):
    model, one, engine = loaded(name)
    given = {key: x.astype(next(i.dtype for i in model.inputs if i.name == key)) for key, x in one.items()}
    free = _free(model)
    end = engine._study(one, None).end.logits
    tested = layers_of(engine, one)
    assert tested
    for path, tensor, axis in tested:
        shape = values(free.proto, given, tensor)[0].shape
        laid, flat = random(3, shape, axis)
        answer = engine.tail(one, asked(path, flat, classes=2 if name == "one unit" else CLASSES))
        wanted = scores(name, *replaced(free, given, tensor, laid, model.outputs[0], end))
        for kind, theirs in zip(("logit", "probability"), wanted, strict=True):
            tolerance = TOLERANCE.get(name, 1e-4)
            np.testing.assert_allclose(answer[kind].T, theirs, rtol=tolerance, atol=tolerance, err_msg=path)


def _free(model):
    """The same network with its batch left free, which is all the same to the reference implementation."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return OnnxModel(proto, model.name)


@pytest.mark.parametrize("name", ["gap", "concatenated", "batch of one", "batch of two"])
@pytest.mark.parametrize("count", [1, 3, 37])
def test_there_may_be_one_an_odd_number_or_many(name, count):
    _model, one, engine = loaded(name)
    layer = "third" if name == "concatenated" else "relu"
    flat = random(count, (1, 2 if name == "concatenated" else CHANNELS, *SIZE), 1)[1]
    answer = engine.tail(one, asked(layer, flat))["logit"]
    assert answer.shape == (CLASSES, count)
    alone = [engine.tail(one, asked(layer, flat[i : i + 1]))["logit"][:, 0] for i in range(count)]
    np.testing.assert_allclose(answer.T, alone, rtol=1e-4, atol=1e-5)


def test_the_head_by_hand():
    model, one, engine = loaded("gap")
    laid, flat = random(5, (1, CHANNELS, *SIZE), 1)
    wanted = laid.mean(axis=(2, 3)) @ weight(model.proto, "head/W").T + weight(model.proto, "head/b")
    np.testing.assert_allclose(engine.tail(one, asked("relu", flat))["logit"].T, wanted, rtol=1e-4, atol=1e-5)


def test_each_target_takes_its_own_score():
    model, one, engine = loaded("gap")
    laid, flat = random(4, (1, CHANNELS, *SIZE), 1)
    y, p = scores("gap", *replaced(model, one, "relu:0", laid, "scores", "head:0"))
    bound = (
        targets.class_(2).bind(int, CLASSES),
        targets.difference(1, 3).bind(int, CLASSES),
        targets.custom(lambda z: z[:, 0] + 2 * z[:, 4]).bind(int, CLASSES),
    )
    chosen = tuple(np.asarray([c], "int32") for c in ([2], [1, 3], []))
    answer = engine.tail(one, Altered("relu", flat, bound, chosen))
    for kind, z in {"logit": y, "probability": p}.items():
        theirs = [z[:, 2], z[:, 1] - z[:, 3], z[:, 0] + 2 * z[:, 4]]
        np.testing.assert_allclose(answer[kind], theirs, rtol=1e-4, atol=1e-5)


def test_one_output_of_several():
    model = OnnxModel(networks.two_outputs())
    one, engine = {"image": images(1)}, engine_for(model)
    laid, flat = random(3, (1, 4, *SIZE), 1)
    for output, classes in {"kind": CLASSES, "lively": 2}.items():
        end = engine._study(one, output).end.logits
        (wanted,) = replaced(model, one, "early_relu:0", laid, end)
        answer = engine.tail(one, asked("early_relu", flat, classes, output))["logit"].T
        np.testing.assert_allclose(answer, by_class(wanted, -wanted), rtol=1e-4, atol=1e-5)


# What is run


@pytest.fixture
def runs(monkeypatch):
    """How many rows each run of a network had, by the names of its nodes."""
    seen = []
    run = OnnxModel.run

    def spied(self, names, feeds, **settings):
        seen.append(([node.name for node in self.proto.graph.node], {len(x) for x in feeds.values()}))
        return run(self, names, feeds, **settings)

    monkeypatch.setattr(OnnxModel, "run", spied)
    return seen


HEAD = ["gap", "flatten", "head", "softmax", ""]


@pytest.mark.parametrize(
    ("name", "layer", "channels", "tail", "trunk"),
    [
        ("gap", "relu", CHANNELS, HEAD, False),
        ("flat head", "relu", CHANNELS, ["pool", "flatten", "hidden", "hidden_relu", "head", "softmax", ""], False),
        ("residual", "inner2", CHANNELS, ["add", "out", "gap", "flatten", "dropout", "head", "softmax", ""], True),
        ("concatenated", "third", 2, ["join2", *HEAD], True),
        ("two inputs", "relu", CHANNELS, ["gap", "flatten", "join", "head", "softmax", ""], False),
    ],
)
def test_the_trunk_runs_on_one_image_and_not_at_all_where_nothing_is_needed_of_it(
    runs, name, layer, channels, tail, trunk
):
    model, one, engine = loaded(name)
    flat = random(16, (1, channels, *SIZE), 1)[1]
    engine.tail(one, asked(layer, flat))
    runs.clear()
    engine.tail(one, asked(layer, flat))
    whole = [node.name for node in model.proto.graph.node]
    assert runs == ([(whole, {1})] if trunk else []) + [(tail, {16})]


def test_a_tail_is_cut_off_once(runs):
    model, one, engine = loaded("concatenated")
    flat = random(4, (1, 2, *SIZE), 1)[1]
    for _ in range(3):
        engine.tail(one, asked("third", flat))
    assert {len(nodes) for nodes, _ in runs if len(nodes) < len(model.proto.graph.node)} == {6}
    assert len(list(engine._tails)) == 1
    engine.tail(one, asked("second", random(4, (1, 3, *SIZE), 1)[1]))
    assert len(list(engine._tails)) == 2


@pytest.mark.parametrize("name", ["gap", "concatenated", "unpooled", "branched"])
def test_the_network_and_what_is_given_are_untouched(name):
    model, one, engine = loaded(name)
    before = model.proto.SerializeToString()
    for path, tensor, axis in layers_of(engine, one):
        flat = random(3, values(model.proto, one, tensor)[0].shape, axis)[1]
        given = flat.copy()
        engine.tail(one, asked(path, flat))
        np.testing.assert_array_equal(flat, given)
    assert model.proto.SerializeToString() == before


# What goes wrong


def test_a_layer_beside_the_way_to_the_output():
    model = OnnxModel(networks.two_outputs())
    flat = random(2, (1, CHANNELS, *SIZE), 1)[1]
    with pytest.raises(ConditionError, match="the score does not depend on layer 'relu'"):
        engine_for(model).tail({"image": images(1)}, asked("relu", flat, 2, "lively"))


@pytest.mark.parametrize("shape", [(4, 40, CHANNELS), (4, 80, 3), (4, CHANNELS, 80)])
def test_activations_of_another_shape_are_refused(shape):
    _model, one, engine = loaded("gap")
    with pytest.raises(RequestError, match=rf"'relu' must be \(M, 80, 6\), not \({', '.join(map(str, shape))}\)"):
        engine.tail(one, asked("relu", np.zeros(shape, "float32")))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([1, -1], r"answers 2 altered activations of layer 'early_relu' with an array of shape \(1, 640\)"),
        ([1, 320], r"fails on an input of shape \(2, 4, 8, 10\)"),
    ],
)
def test_a_tail_for_one_image_only_says_so(shape, said):
    b, x = _started()
    b.output(b.node("Reshape", [x, b.constant("shape", shape)], "reshape"), [1, 320], "scores")
    model = OnnxModel(b.proto(), "net")
    with pytest.raises(RequestError, match=said):
        engine_for(model).tail({"image": images(1)}, asked("early_relu", np.zeros((2, 80, 4), "float32"), 1))


def test_it_is_told_that_altered_activations_can_be_scored():
    assert Need.TAIL in engine_for(OnnxModel(networks.gap())).serves
