"""Layer-wise relevance propagation and Relevance-CAM in Keras, held against loops that know neither.

One process tests one backend: KERAS_BACKEND names it. All are held against the same loops, so that they agree.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import camlucida as cl
import frameworks
from asking import everything
from camlucida import targets
from camlucida.engines import engine_for
from camlucida.engines.base import INPUT
from camlucida.errors import ConditionError
from camlucida.targets.compared import Start
from camlucida.types import Need
from networks import settled
from oracles import relevance
from test_engine import untouched

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SHAPE, CLASSES, COUNT = (4, 6, 4), 3, 2


def images(seed=3):
    return np.random.default_rng(seed).normal(size=(COUNT, SHAPE[0] + 2, SHAPE[1] + 2, 2)).astype("float32")


def network(*tail, end="softmax"):
    """A convolution called `features`, whose signed values are explained, and what follows."""
    image = keras.Input((SHAPE[0] + 2, SHAPE[1] + 2, 2))
    x = layers.Conv2D(SHAPE[2], 3, name="features")(image)
    for step in tail:
        x = step(x)
    return settled(keras.Model(image, layers.Dense(CLASSES, activation=end, name="head")(x)))


def evidence(model, x, paths=("features",), classes=(1,), of=CLASSES):
    wanted = tuple(Start(targets.class_(c)).bind(int, of) for c in classes)
    return engine_for(model).evidence(x, everything(paths, wanted, rule="relevance"))


def assert_close(ours, theirs, tolerance=1e-4):
    scale = np.abs(theirs).max()
    assert scale > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


# By loops


def numbers(x):
    return ops.convert_to_numpy(x).astype("float64")


def matrix(layer, shape):
    """What a linear layer does to arrays of this shape, its bias and activation apart, as a matrix."""
    units = np.eye(int(np.prod(shape)), dtype="float32").reshape(-1, *shape)
    own, layer.activation = layer.activation, keras.activations.linear
    try:
        made = numbers(layer(units)) - numbers(layer(0 * units[:1]))
    finally:
        layer.activation = own
    return made.reshape(len(units), -1)


def windows(shape, size, whole=False):
    """The places of each window of a pooling without overlap; the last ones may be cut off, unless it is `valid`."""
    h, w, channels = shape
    places = np.arange(h * w * channels).reshape(shape)
    a, b = (h, w) if whole else size
    return [
        places[i : i + a, j : j + b, k].reshape(-1).tolist()
        for i in range(0, h, a)
        for j in range(0, w, b)
        for k in range(channels)
    ]


def step_back(layer, x, R):
    """The relevance of what one layer took, `(n,)`."""
    shape, flat = x.shape[1:], x.reshape(-1).astype("float64")
    match layer:
        case layers.MaxPooling2D():
            return relevance.max_pool(flat, windows(shape, layer.pool_size), R)
        case layers.AveragePooling2D():
            return relevance.average_pool(flat, windows(shape, layer.pool_size), R)
        case layers.GlobalAveragePooling2D():
            return relevance.average_pool(flat, windows(shape, None, whole=True), R)
        case layers.BatchNormalization():
            w = numbers(layer.gamma) / np.sqrt(numbers(layer.moving_variance) + layer.epsilon)
            return relevance.scaling(flat, np.tile(w, int(np.prod(shape[:-1]))), R)
        case layers.Dense() | layers.Conv2D() | layers.DepthwiseConv2D():
            return relevance.z_plus(flat, matrix(layer, shape), R)
    return R


def back(steps, x, R):
    taken = []
    for step in steps:
        taken.append(x)
        x = ops.convert_to_numpy(step(x))
    for step, given in zip(reversed(steps), reversed(taken), strict=True):
        R = step_back(step, given, R)
    return R


def by_hand(model, tail, x, label=1):
    """`(B, U, K)`"""
    rows = []
    for row in x:
        A = ops.convert_to_numpy(model.get_layer("features")(row[None]))
        R = back([*tail, model.get_layer("head")], A, relevance.start(CLASSES, label))
        rows.append(R.reshape(-1, SHAPE[2]))
    return np.stack(rows)


GAP = layers.GlobalAveragePooling2D
TAILS = {
    "gap": lambda: [layers.ReLU(), GAP()],
    "gap, of signed values": lambda: [GAP()],
    "dense": lambda: [layers.Activation("relu"), layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(7, "relu"),
                      layers.Dropout(0.5)],
    "dense, of signed values": lambda: [layers.Flatten()],
    "averages": lambda: [layers.ReLU(), layers.AveragePooling2D((2, 3)), layers.Conv2D(4, 2, activation="relu"), GAP()],
    "convolutions": lambda: [layers.Conv2D(5, 3, strides=2, padding="same", activation="relu6"),
                             layers.Conv2D(4, 2, use_bias=False), layers.ReLU(6.0), layers.Flatten()],
    "depthwise": lambda: [layers.ReLU(), layers.DepthwiseConv2D(3, padding="same"), layers.ReLU(), layers.Conv2D(4, 1),
                          layers.BatchNormalization(), layers.ReLU(), GAP()],
    "padded": lambda: [layers.MaxPooling2D((5, 3), padding="same"), layers.Flatten()],
    "normalised": lambda: [layers.ReLU(), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 3), GAP()],
    "moved": lambda: [layers.ReLU(), layers.Permute((2, 1, 3)), layers.Permute((2, 1, 3)), layers.Reshape(SHAPE),
                      layers.ZeroPadding2D(1), layers.Cropping2D(1), layers.Flatten()],
}  # fmt: skip


@pytest.mark.parametrize("end", ["softmax", None])
@pytest.mark.parametrize("name", TAILS)
def test_relevance_is_the_oracle(name, end):
    tail, x = TAILS[name](), images()
    model = network(*tail, end=end)
    found = evidence(model, x, classes=(1, 2))
    for t, label in enumerate((1, 2)):
        assert_close(found.gradients["features", t], by_hand(model, tail, x, label))


def joined(form):
    """A block that is added to what it took, and both joined side by side, behind a layer or from before it."""
    image = keras.Input((6, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="early")(image)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", name="features")(x))
    z = layers.ReLU()(form(x, y))
    z = layers.Concatenate()([GAP()(z), layers.GlobalMaxPooling2D()(z)])
    return settled(keras.Model(image, layers.Dense(CLASSES, name="head")(z)))


FORMS = {
    "layer": lambda x, y: layers.Add()([x, y]),
    "operator": lambda x, y: x + y,
    "operation": ops.add,
    "subtraction": lambda x, y: y - x * -1.0,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sum_is_shared_by_what_each_adds(form):
    """Also where one of them comes from before the layer: that one's share does not come to the layer."""
    model, x = joined(FORMS[form]), images()
    early, conv, norm, head = (
        next(layer for layer in model.layers if kind(layer))
        for kind in (
            lambda layer: layer.name == "early",
            lambda layer: layer.name == "features",
            lambda layer: isinstance(layer, layers.BatchNormalization),
            lambda layer: layer.name == "head",
        )
    )
    found = evidence(model, x, ("early", "features"))
    for b in range(COUNT):
        a = ops.convert_to_numpy(early(x[b : b + 1]))
        f = ops.convert_to_numpy(conv(a))
        y = ops.convert_to_numpy(norm(f))
        z = np.maximum(a + y, 0)
        pooled = np.concatenate([z.mean((1, 2)), z.max((1, 2))], axis=1)
        R = relevance.z_plus(pooled[0], matrix(head, (8,)), relevance.start(CLASSES, 1))
        flat, every = z.reshape(-1), windows(z.shape[1:], None, whole=True)
        R = relevance.average_pool(flat, every, R[:4]) + relevance.max_pool(flat, every, R[4:])
        straight, through = relevance.addition(a.reshape(-1).astype("float64"), y.reshape(-1), R)
        through = step_back(norm, f, through)
        assert_close(found.gradients["features", 0][b].reshape(-1), through)
        expected = straight + step_back(conv, a, through)
        assert_close(found.gradients["early", 0][b].reshape(-1), expected)


def test_relevance_is_conserved_through_a_real_kind_of_network():
    """MobileNet with all that is made positive: nothing is shared among nothing, up to the image itself."""
    model = keras.applications.MobileNet((64, 64, 3), 0.25, weights=None, classes=5, classifier_activation=None)
    rng = np.random.default_rng(0)
    means = ["moving_mean" in variable.path for variable in model.weights]
    drawn = [rng.uniform(0.2, 1, w.shape) * (1 if w.ndim == 1 else 2 / w[..., 0].size) for w in model.get_weights()]
    model.set_weights([0 * w if mean else w for w, mean in zip(drawn, means, strict=True)])
    x = rng.uniform(0.5, 1, (2, 64, 64, 3)).astype("float32")
    found = evidence(model, x, ("conv_pw_6_relu", "conv_pw_13_relu"), of=5)
    for R in found.gradients.values():
        np.testing.assert_allclose(R.sum((1, 2)), 1 / 5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["functional", "nested", "sequential", "subclassed"])
def test_every_kind_of_model(kind):
    tail, x = TAILS["dense"](), images()
    expected = evidence(network(*tail), x).gradients["features", 0]
    conv, head = layers.Conv2D(SHAPE[2], 3, name="features"), layers.Dense(CLASSES, activation="softmax", name="head")
    size = x.shape[1:]
    fresh = TAILS["dense"]()
    if kind == "sequential":
        model = keras.Sequential([keras.Input(size), conv, *fresh, head])
    elif kind == "nested":
        inner = keras.Sequential([keras.Input(size), conv, *fresh], name="inner")
        image = keras.Input(size)
        model = keras.Model(image, head(inner(image)))
    elif kind == "subclassed":

        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.steps = [conv, *fresh[1:], head]

            def call(self, x):
                x = frameworks.relu(self.steps[0](x))
                for step in self.steps[1:]:
                    x = step(x)
                return x

        model = Own()
        model(x)
    else:
        model = network(*fresh)
    settled(model)
    path = "inner/features" if kind == "nested" else "features"
    assert_close(evidence(model, x, (path,)).gradients[path, 0], expected)


def test_a_channel_that_is_scaled_to_nothing_has_no_relevance():
    norm = layers.BatchNormalization()
    model, x = network(norm, layers.Flatten()), images()
    norm.gamma.assign(np.array([1, 0, 1, 1], "float32"))
    norm.beta.assign(np.full(4, 5, "float32"))
    R = evidence(model, x).gradients["features", 0]
    assert not R[..., 1].any()
    assert R[..., 0].any()


class Own(layers.Layer):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function", [lambda x: 0.5 - x * -1.0, lambda x: ops.ones((2, 3, 1)) * x + ops.zeros((1, 3, 1)), lambda x: x / 3.0]
)
def test_constants_hand_relevance_on(function):
    """Also where they spread a number out: what comes back is added up."""

    own = Own(lambda x: function(ops.mean(x, axis=(1, 2), keepdims=True)))
    assert_close(
        evidence(network(layers.ReLU(), own, GAP()), images()).gradients["features", 0].sum((1, 2)),
        evidence(network(layers.ReLU(), GAP()), images()).gradients["features", 0].sum((1, 2)),
    )


MOVES = {
    "stacked": lambda x: ops.stack([0 * x, x], axis=1)[:, 1],
    "unstacked": lambda x: ops.stack(ops.unstack(x, axis=2), axis=2),
    "split": lambda x: ops.concatenate(ops.split(x, 2, axis=-1), axis=-1),
    "mirrored": lambda x: ops.flip(ops.flip(x, axis=1), axis=1),
    "taken": lambda x: ops.take(ops.take(x, [3, 2, 1, 0], axis=1), [3, 2, 1, 0], axis=1),
    "repeated": lambda x: ops.repeat(x, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("way", MOVES)
def test_what_is_moved_and_moved_back_keeps_its_relevance(way):
    tails = [layers.ReLU(), layers.Flatten()], [layers.ReLU(), Own(MOVES[way]), layers.Flatten()]
    plain, moved = (evidence(network(*tail), images()).gradients["features", 0] for tail in tails)
    assert_close(moved, plain)


@pytest.mark.skipif(frameworks.BACKEND != "jax", reason="jax.jit and others")
def test_calls_are_gone_into():
    import jax
    import jax.numpy as jnp

    function = jax.checkpoint(jax.jit(lambda x: jnp.ones(SHAPE[2]) * jnp.maximum(x, 0)))
    plain, called = (
        evidence(network(layer, layers.Conv2D(5, 3), GAP()), images()).gradients["features", 0]
        for layer in (layers.ReLU(), Own(function))
    )
    assert_close(called, plain)


def test_relevance_of_a_probability_starts_as_its_gradient():
    """By the logits: p_j s_j less p_j times the mean of all s, where s is what a class and the others count."""
    tail, x = TAILS["gap"](), images()
    model = network(*tail, end=None)
    target = Start(targets.class_(1)).bind(int, CLASSES)
    found = engine_for(model).evidence(x, everything(("features",), (target,), ["probability"], rule="relevance"))
    s = relevance.start(CLASSES, 1)
    for b, row in enumerate(x):
        A = ops.convert_to_numpy(model.get_layer("features")(row[None]))
        p = numbers(ops.softmax(model(row[None])))[0]
        R = back([*tail, model.get_layer("head")], A, p * (s - p @ s))
        assert_close(found.gradients["features", 0][b].reshape(-1), R)


class Bordered(layers.Layer):
    """A border of minus infinity, around maxima."""

    def call(self, x):
        return ops.pad(x, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=-np.inf)


def test_a_border_of_minus_infinity_around_a_maximum():
    tails = [layers.MaxPooling2D(2)], [Bordered(), layers.MaxPooling2D(2), layers.Cropping2D(((0, 1), (0, 1)))]
    plain, bordered = (evidence(network(*tail, layers.Flatten()), images()).gradients["features", 0] for tail in tails)
    assert_close(bordered, plain)


def test_a_single_sigmoid_unit():
    """Its logit z is one class, -z the other: 1 + 1/2 of it."""
    image = keras.Input((6, 8, 2))
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu", name="features")(image))
    model = settled(keras.Model(image, layers.Dense(1, activation="sigmoid")(x)))
    for label, sign in ((1, 1), (0, -1)):
        R = evidence(model, images(), classes=(label,), of=2).gradients["features", 0]
        np.testing.assert_allclose(R.sum((1, 2)), sign * 1.5, rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    """It changes the activations, and with them which units are open."""
    tail, x = TAILS["depthwise"](), images()
    expected = evidence(network(*tail), x).gradients["features", 0]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        found = evidence(network(*TAILS["depthwise"]()), x).gradients["features", 0]
    finally:
        keras.config.set_dtype_policy(before)
    assert found.dtype == "float32"
    assert np.isclose(found, expected, rtol=0.1, atol=0.05 * np.abs(expected).max()).mean() > 0.9


# What has no rule


class Excited(layers.Layer):
    """A product of two tensors."""

    def call(self, x):
        return x * ops.mean(x, axis=(1, 2), keepdims=True)


class Attending(layers.Layer):
    """The attention of places to each other, without weights of its own."""

    def call(self, x):
        tokens = ops.reshape(x, (-1, SHAPE[0] * SHAPE[1], SHAPE[2]))
        scores = ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1)))
        return ops.reshape(ops.matmul(scores, tokens), (-1, *SHAPE))


UNKNOWN = {
    "mul": Excited,
    "gelu": lambda: layers.Activation("gelu"),
    "silu|sigmoid": lambda: layers.Activation("silu"),
    "tanh": lambda: layers.Activation("tanh"),
    "elu": lambda: layers.Activation("elu"),
    "leaky_relu": lambda: layers.LeakyReLU(0.1),
    "softmax": lambda: layers.Softmax(),
    "hard_?sigmoid|hardsigmoid|add|relu6|hardtanh|hardswish|mul": lambda: layers.Activation("hard_silu"),
    "hard_?sigmoid": lambda: layers.Activation("hard_sigmoid"),
    "matmul|BatchMatMul.*|dot_general": Attending,
    "[A-Za-z_0-9]+": lambda: layers.LayerNormalization(),
    "[A-Za-z_0-9]{2,}": lambda: layers.GroupNormalization(2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_treated_is_refused(name):
    model, x = network(UNKNOWN[name](), layers.ReLU(), GAP()), images()
    before = untouched(model)
    # a line of its own, since JAX writes a note below it
    wanted = f"(?im)^relevance-cam cannot treat ({name}); grad-cam works for any network$"
    with pytest.raises(ConditionError, match=wanted):
        evidence(model, x)
    assert untouched(model) == before


def test_only_what_is_on_the_way_is_refused():
    image = keras.Input((6, 8, 2))
    x = layers.Conv2D(4, 3, name="features")(layers.Activation("gelu")(image))
    y = layers.Dense(CLASSES, name="head")(GAP()(layers.ReLU()(x)))
    model = settled(keras.Model(image, {"logits": y, "other": layers.Activation("gelu")(y)}))
    assert evidence(model, images()).gradients["features", 0].any()


def test_the_model_is_what_it_was():
    model, x = network(*TAILS["depthwise"]()), images()
    before = untouched(model)
    evidence(model, x, ("features", INPUT))
    assert untouched(model) == before


# Relevance-CAM


@pytest.mark.parametrize("name", ["gap", "averages", "dense, of signed values"])
def test_relevance_cam_is_the_oracle(name):
    tail, x = TAILS[name](), images()
    model = network(*tail)
    found = cl.explain(model, x, method="relevance-cam", target=[0, 2], layer="features", preprocess=None)
    A = ops.convert_to_numpy(model.get_layer("features")(x)).astype("float64").reshape(COUNT, -1, SHAPE[2])
    for item, (b, c) in zip(found, ((b, c) for b in range(COUNT) for c in (0, 2)), strict=True):
        L = relevance.relevance_cam(A[b], by_hand(model, tail, x, c)[b])
        assert_close(item.raw, L.reshape(SHAPE[:2]))


def test_who_serves_it():
    model = network(*TAILS["gap"]())
    assert Need.RELEVANCE in engine_for(model).serves
