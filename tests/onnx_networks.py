"""Tiny networks in ONNX with seeded weights, made node by node."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SIZE, COLOURS, CHANNELS, CLASSES = (8, 10), 3, 6, 5
OPSET = 17
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
TYPES["uint8"] = TensorProto.UINT8


class Builder:
    """Nodes and weights, one after the other; `node` returns the name of what the node makes."""

    def __init__(self, seed=0, dtype="float32"):
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.nodes, self.weights, self.inputs, self.outputs = [], {}, [], []

    def input(self, name, shape, dtype=None):
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype or self.dtype], shape))
        return name

    def constant(self, name, value):
        self.weights[name] = np.asarray(value)
        return name

    def weight(self, name, *shape, scale=0.5):
        return self.constant(name, self.rng.normal(0, scale, shape).astype(self.dtype))

    def node(self, kind, inputs, name, **settings):
        """A node called `name`, whose output is called `name:0`."""
        inputs = [inputs] if isinstance(inputs, str) else list(inputs)
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}:0"], name=name, **settings))
        return f"{name}:0"

    def conv(self, x, name, into, out, kernel=(3, 3), **settings):
        kernel_, bias = self.weight(f"{name}/W", out, into, *kernel), self.weight(f"{name}/b", out)
        pads = [n // 2 for n in kernel] * 2
        return self.node("Conv", [x, kernel_, bias], name, pads=pads, **settings)

    def dense(self, x, name, into, out):
        """``x W + b`` as one Gemm with the weights transposed, as torch writes it."""
        W, b = self.weight(f"{name}/W", out, into), self.weight(f"{name}/b", out)
        return self.node("Gemm", [x, W, b], name, transB=1)

    def output(self, tensor, shape, name=None, dtype=None):
        """The tensor as an output, called `name`."""
        if name is not None:
            self.nodes.append(helper.make_node("Identity", [tensor], [name]))
        self.outputs.append(helper.make_tensor_value_info(name or tensor, TYPES[dtype or self.dtype], shape))

    def proto(self, **opsets):
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, weights)
        sets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(k, v) for k, v in opsets.items())]
        return helper.make_model(graph, opset_imports=sets, ir_version=8)


def _trunk(b, x):
    x = b.conv(x, "early", COLOURS, 4)
    x = b.node("Relu", x, "early_relu")
    x = b.conv(x, "conv", 4, CHANNELS)
    return b.node("Relu", x, "relu")


def _ended(b, x, activation, batch="N"):
    if activation:
        x = b.node(activation, x, activation.lower(), **({} if activation == "Sigmoid" else {"axis": -1}))
    b.output(x, [batch, CLASSES], "scores")
    return b.proto()


def gap(activation="Softmax", batch="N", dtype="float32", given=None):
    """Two convolutions, global average pooling, one linear layer; what is `given` in another type is converted."""
    b = Builder(dtype=dtype)
    x = b.input("image", [batch, COLOURS, *SIZE], given)
    x = _trunk(b, b.node("Cast", x, "cast", to=TYPES[dtype]) if given else x)
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    return _ended(b, b.dense(x, "head", CHANNELS, CLASSES), activation, batch)


def matmul_head():
    """ReduceMean over the locations, MatMul and Add: as Keras's models are written."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.node("ReduceMean", x, "mean", axes=[2, 3], keepdims=0)
    x = b.node("MatMul", [x, b.weight("head/W", CHANNELS, CLASSES)], "head/matmul")
    return _ended(b, b.node("Add", [x, b.weight("head/b", CLASSES)], "head/add"), "Softmax")


def conv_head():
    """A 1x1 convolution of the averages, reshaped with a shape that the graph computes."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.node("AveragePool", x, "pool", kernel_shape=list(SIZE))
    x = b.conv(x, "head", CHANNELS, CLASSES, (1, 1))
    rows = b.node("Gather", [b.node("Shape", "relu:0", "shape"), b.constant("first", [0])], "rows")
    shape = b.node("Concat", [rows, b.constant("rest", [-1])], "new_shape", axis=0)
    return _ended(b, b.node("Reshape", [x, shape], "reshape"), "Softmax")


def conv_before_pooling():
    """A 1x1 convolution to the classes at every location, averaged afterwards."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.conv(x, "head", CHANNELS, CLASSES, (1, 1))
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    return _ended(b, x, "Softmax")


def flat_head():
    """Flatten and two dense layers: no head that cam could read."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.node("MaxPool", x, "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Flatten", x, "flatten")
    x = b.node("Relu", b.dense(x, "hidden", CHANNELS * 4 * 5, 7), "hidden_relu")
    return _ended(b, b.dense(x, "head", 7, CLASSES), "Softmax")


def residual():
    """Two convolutions beside a shortcut, added and rectified."""
    b = Builder()
    image = b.input("image", ["N", COLOURS, *SIZE])
    x = b.conv(image, "early", COLOURS, 4)
    x = b.node("Relu", x, "early_relu")
    inner = b.node("Relu", b.conv(x, "inner", 4, CHANNELS), "inner_relu")
    inner = b.conv(inner, "inner2", CHANNELS, CHANNELS)
    x = b.node("Add", [inner, b.conv(x, "shortcut", 4, CHANNELS, (1, 1))], "add")
    x = b.node("Relu", x, "out")
    x = b.node("Dropout", b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten"), "dropout")
    return _ended(b, b.dense(x, "head", CHANNELS, CLASSES), "Softmax")


def channels_last():
    """Images ``(B, h, w, C)``, moved for the convolutions and back, as exports of Keras have it."""
    b = Builder()
    x = b.input("image", ["N", *SIZE, COLOURS])
    x = b.node("Mul", [x, b.constant("scale", np.float32(0.5))], "rescale")
    x = b.node("Transpose", x, "to_first", perm=[0, 3, 1, 2])
    x = b.conv(x, "early", COLOURS, 4)
    x = b.node("Transpose", x, "to_last", perm=[0, 2, 3, 1])
    x = b.node("Relu", x, "early_relu")
    x = b.node("Transpose", x, "to_first_again", perm=[0, 3, 1, 2])
    x = b.conv(x, "conv", 4, CHANNELS)
    x = b.node("Transpose", x, "to_last_again", perm=[0, 2, 3, 1])
    x = b.node("Add", [x, b.weight("shift", CHANNELS)], "shifted")
    x = b.node("Relu", x, "relu")
    x = b.node("ReduceMean", x, "mean", axes=[1, 2], keepdims=0)
    x = b.node("MatMul", [x, b.weight("head/W", CHANNELS, CLASSES)], "head/matmul")
    return _ended(b, b.node("Add", [x, b.weight("head/b", CLASSES)], "head/add"), "Softmax")


def two_inputs():
    """An image and a vector that joins before the head."""
    b = Builder()
    vector = b.input("vector", ["N", 4])
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    x = b.node("Concat", [x, vector], "join", axis=1)
    return _ended(b, b.dense(x, "head", CHANNELS + 4, CLASSES), "Softmax")


def two_outputs():
    """Kinds (softmax) and, from an earlier layer, one sigmoid unit."""
    b = Builder()
    image = b.input("image", ["N", COLOURS, *SIZE])
    x = _trunk(b, image)
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    x = b.node("Softmax", b.dense(x, "head", CHANNELS, CLASSES), "softmax", axis=-1)
    b.output(x, ["N", CLASSES], "kind")
    y = b.node("Flatten", b.node("GlobalAveragePool", "early_relu:0", "early_gap"), "early_flatten")
    b.output(b.node("Sigmoid", b.dense(y, "unit", 4, 1), "sigmoid"), ["N", 1], "lively")
    return b.proto()


def one_unit():
    """One sigmoid unit: two classes."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    b.output(b.node("Sigmoid", b.dense(x, "head", CHANNELS, 1), "sigmoid"), ["N", 1], "lively")
    return b.proto()


def of_rank(size):
    """A convolution over series or volumes, with locations that are free."""
    b = Builder()
    x = b.input("image", ["N", 2, *(f"n{i}" for i in range(len(size)))])
    x = b.node("Relu", b.conv(x, "conv", 2, CHANNELS, (3,) * len(size)), "relu")
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    return _ended(b, b.dense(x, "head", CHANNELS, CLASSES), "Softmax")


def segmentation():
    """Scores at every location."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    b.output(b.conv(x, "head", CHANNELS, CLASSES, (1, 1)), ["N", CLASSES, *SIZE], "scores")
    return b.proto()


def closed():
    """Probabilities that are no softmax's: positive scores divided by their sum."""
    b = Builder()
    x = _trunk(b, b.input("image", ["N", COLOURS, *SIZE]))
    x = b.node("Flatten", b.node("GlobalAveragePool", x, "gap"), "flatten")
    x = b.node("Softplus", b.dense(x, "head", CHANNELS, CLASSES), "positive")
    x = b.node("Div", [x, b.node("ReduceSum", [x, b.constant("axis", [1])], "sum")], "divide")
    return _ended(b, x, None)


def unknown_operator():
    b = Builder()
    x = b.node("Sparkle", b.input("image", ["N", COLOURS, *SIZE]), "sparkle", domain="org.example")
    b.output(x, ["N", COLOURS, *SIZE], "scores")
    return b.proto(**{"org.example": 1})


def images(count=3, size=SIZE, colours=COLOURS, seed=0):
    """``(B, C, *size)``."""
    return np.random.default_rng(seed).uniform(0, 1, (count, colours, *size)).astype("float32")


def values(proto, feeds, *tensors):
    """What tensors hold, by ONNX's own reference implementation."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    known = {value.name for value in whole.graph.output}
    for tensor in tensors:
        if tensor not in known:
            whole.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    return ReferenceEvaluator(whole).run(list(tensors), feeds)


def weight(proto, name):
    return next(numpy_helper.to_array(w) for w in proto.graph.initializer if w.name == name)


def from_keras(model):
    """A Keras model of the embedded network's kinds of layers, node by node, named as its layers.

    Images stay ``(B, h, w, C)`` outside: they are moved before the first convolution, and nothing is moved back.
    """
    b = Builder()
    first = b.input("image", ["N", *model.input_shape[1:]])
    made = {model.inputs[0]._keras_history.operation.name: b.node("Transpose", first, "to_first", perm=[0, 3, 1, 2])}
    for layer in model.layers[1:]:
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        x = [made[source._keras_history.operation.name] for source in sources]
        weights = [b.constant(w.path, np.asarray(w.numpy())) for w in layer.weights]
        kind, name = type(layer).__name__, layer.name
        if kind == "Conv2D":
            kernel = b.constant(f"{name}/OIHW", np.moveaxis(b.weights.pop(weights[0]), (3, 2), (0, 1)))
            made[name] = b.node("Conv", [*x, kernel], name, auto_pad="SAME_UPPER")
        elif kind == "BatchNormalization":
            made[name] = b.node("BatchNormalization", [*x, *weights], name, epsilon=layer.epsilon)
        elif kind == "MaxPooling2D":
            made[name] = b.node("MaxPool", x, name, kernel_shape=[2, 2], strides=[2, 2])
        elif kind == "GlobalAveragePooling2D":
            made[name] = b.node("ReduceMean", x, name, axes=[2, 3], keepdims=0)
        elif kind == "Dense":
            made[name] = b.node("Gemm", [*x, *weights], name)
        else:
            made[name] = b.node({"ReLU": "Relu", "Add": "Add", "Activation": "Softmax"}[kind], x, name)
    b.output(made[model.layers[-1].name], ["N", model.output_shape[-1]])
    return b.proto()
