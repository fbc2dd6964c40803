"""What a pass of the engines for Keras yields, held against networks whose two halves are written out by hand.

One process tests one backend: KERAS_BACKEND names it.
"""

import functools

import numpy as np
import pytest

from camlucida.models import backend

backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")

from keras import layers, ops  # noqa: E402

import camlucida as cl  # noqa: E402
import frameworks  # noqa: E402
from asking import Given, Read, everything, request, seen  # noqa: E402
from camlucida.engines import Probes, engine_for  # noqa: E402
from camlucida.engines.base import INPUT  # noqa: E402
from camlucida.engines.masked import image_of  # noqa: E402
from camlucida.errors import ConditionError  # noqa: E402
from camlucida.trees import mapped  # noqa: E402
from camlucida.types import Need  # noqa: E402
from networks import CLASSES, HALF_PRECISION, NETWORKS, SIDE, Network, images, pool, sequence, settled, vectors  # noqa: E402
from test_engine import assert_close, host, last, only_where_compiled, untouched  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

DIFFERENCE = cl.targets.difference(0, 1).bind(int, CLASSES)


@pytest.fixture(scope="module")
def network():
    """Networks by name, each built once."""
    return functools.cache(lambda name: NETWORKS[name]())


def tensors(this):
    return mapped(ops.convert_to_tensor, this.inputs)


def whole(this, image):
    """The scores by class of the network with another image in the place of its own."""
    own = image_of(this.inputs)
    inputs = mapped(lambda x: image if x is own else ops.convert_to_tensor(x), this.inputs)
    return ops.cast(this.tail(this.trunk(inputs), inputs), "float32")


def tail(this, A):
    """The scores by class of altered activations."""
    return ops.cast(this.tail(A, tensors(this)), "float32")


def flat(this, x):
    """A tensor shaped as activations or the image, as ``(B, U, K)``."""
    moved = last(host(x), this)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def taken(target, kind="logit"):
    """The score of a target, from what a network answers by class."""

    def score(z):
        z = ops.softmax(z) if kind == "probability" else z
        return z[:, target] if isinstance(target, int) else z[:, 0] - z[:, 1]

    return score


def slope(this, at, target, kind="logit"):
    """The gradient of a score, by the framework's own differentiation, ``(B, U, K)``."""
    run, x = (whole, ops.convert_to_tensor(image_of(this.inputs))) if at == INPUT else (tail, this.trunk(tensors(this)))
    return flat(this, frameworks.gradient(lambda x: taken(target, kind)(run(this, x)), x))


# The image as a layer


@pytest.mark.parametrize("name", NETWORKS)
def test_the_image_stands_beside_a_layer(name, network):
    this = network(name)
    tolerance = HALF_PRECISION.get(name, 1e-4)
    wanted = 0 if name == "regression" else 1
    found = seen(this, everything([INPUT, this.layer], [wanted], output=this.output))
    image = flat(this, image_of(this.inputs))
    np.testing.assert_array_equal(found.activations[INPUT], image)
    assert_close(found.activations[this.layer], flat(this, this.trunk(tensors(this))), tolerance)
    for path in (INPUT, this.layer):
        assert_close(found.gradients[path, 0], slope(this, path, wanted), tolerance)
        assert found.gradients[path, 0].dtype == np.float32
        assert_close(found.strength[path, 0], np.abs(slope(this, path, wanted)).max((1, 2)), tolerance)
    shape = last(image_of(this.inputs), this).shape
    assert found.grids == {INPUT: shape[1:-1], this.layer: this.grid}


@pytest.mark.parametrize("name", ["gap", "nested", "subclassed", "two_inputs_dict", "series", "volume"])
def test_the_image_stands_alone(name, network):
    this = network(name)
    found = seen(this, everything([INPUT], [2]))
    assert_close(found.gradients[INPUT, 0], slope(this, INPUT, 2))
    assert set(found.gradients) == {(INPUT, 0)}


def test_numbers_without_channels_are_places_with_one_channel():
    dense, head = layers.Dense(6, "tanh"), layers.Dense(CLASSES)
    vector = keras.Input((5,))
    model = settled(keras.Model(vector, head(dense(vector))))
    x = vectors()
    found = engine_for(model).evidence(x, everything([INPUT], [1]))
    gradient = host(frameworks.gradient(lambda x: head(dense(x))[:, 1], ops.convert_to_tensor(x)))
    assert_close(found.gradients[INPUT, 0], gradient[..., None])
    np.testing.assert_array_equal(found.activations[INPUT], x[..., None])
    assert found.grids == {INPUT: (5,)}


def test_whole_numbers_are_real_numbers_to_the_gradient():
    image = keras.Input((SIDE, SIDE, 3))
    conv, head = layers.Conv2D(4, 3, activation="tanh", name="conv"), layers.Dense(CLASSES)
    model = settled(keras.Model(image, sequence(layers.Rescaling(1 / 255), conv, pool, head)(image)))
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype("uint8")
    whole, real = (
        engine_for(model).evidence(x, everything([INPUT], [1])).gradients[INPUT, 0] for x in (pixels, pixels * 1.0)
    )
    assert_close(whole, real)


def test_an_image_that_the_score_does_not_depend_on():
    image, vector = keras.Input((SIDE, SIDE, 3)), keras.Input((5,))
    conv = layers.Conv2D(4, 3, name="conv")
    answers = [layers.Dense(2, name="seen")(pool(conv(image))), layers.Dense(3, name="unseen")(vector)]
    model = settled(keras.Model([image, vector], dict(zip(["seen", "unseen"], answers, strict=True))))
    with pytest.raises(ConditionError, match="the score does not depend on the image"):
        engine_for(model).evidence([images(), vectors()], everything([INPUT], [1], output="unseen"))


# Several targets with scores of their own


@pytest.mark.parametrize("name", ["gap", "vgg_like", "no_softmax", "residual_branch", "subclassed", "two_inputs_dict"])
def test_targets_have_scores_of_their_own(name, network):
    this = network(name)
    order = [(1, "logit"), (1, "probability"), (DIFFERENCE, "logit"), (DIFFERENCE, "probability")]
    found = seen(this, everything([this.layer, INPUT], *zip(*order, strict=True)))
    for t, (target, kind) in enumerate(order):
        for path in (this.layer, INPUT):
            assert_close(found.gradients[path, t], slope(this, path, target, kind))
        z = host(taken(target, kind)(whole(this, ops.convert_to_tensor(image_of(this.inputs)))))
        np.testing.assert_allclose(found.scores[t][kind], z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gap", "two_inputs_dict"])
def test_only_what_was_asked_for_comes_to_the_host(name, network):
    this = network(name)
    within = request([this.layer], [0, 1], formulas=[Given(Need.GRADIENT)])
    found = seen(this, within)
    assert (found.activations, found.gradients) == ({}, {})
    assert list(found.maps) == list(within.jobs)
    for (path, t, _), G in found.maps.items():
        assert_close(G, slope(this, path, t))
    pairs = frozenset({(INPUT, 1), (this.layer, 0)})
    found = seen(this, request([this.layer, INPUT], [0, 1], activations=frozenset({this.layer}), gradients=pairs))
    assert set(found.activations) == {this.layer}
    assert set(found.gradients) == pairs
    assert found.maps == {}
    for path, t in pairs:
        assert_close(found.gradients[path, t], slope(this, path, t))


def test_without_a_need_for_gradients_there_are_none(network):
    this = network("gap")
    found = seen(this, request([this.layer], [1], formulas=[Given(Need.ACTIVATIONS)]))
    assert (found.strength, found.gradients) == ({}, {})
    (A,) = found.maps.values()
    assert_close(A, flat(this, this.trunk(tensors(this))))


# Second derivatives


def ended(*steps):
    """A convolution whose activations are mostly not zero, then layers behind it."""
    conv = layers.Conv2D(5, 3, activation="tanh", name="conv")
    image = keras.Input((SIDE, SIDE, 3))
    model = settled(keras.Model(image, sequence(conv, *steps)(image)))
    return Network(model, images(), "conv", (6, 6), conv, lambda A, _: sequence(*steps)(A))


def smooth():
    later = layers.Conv2D(4, 3, activation="tanh", name="later")
    return ended(later, layers.Flatten(), layers.Dense(6, "tanh"), layers.Dense(CLASSES))


def changed(this, at, target, kind="logit", step=1e-2):
    """How the gradient changes along the activations: central differences, ``(B, U, K)``."""
    run, x = (whole, ops.convert_to_tensor(image_of(this.inputs))) if at == INPUT else (tail, this.trunk(tensors(this)))
    up, down = (
        flat(this, frameworks.gradient(lambda x: taken(target, kind)(run(this, x)), x * (1 + way * step)))
        for way in (1, -1)
    )
    return (up - down) / (2 * step)


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("at", ["conv", INPUT])
def test_curvature_is_how_the_gradient_changes_along_the_activations(at, kind):
    this = smooth()
    found = seen(this, request([at], [1, DIFFERENCE], [kind, kind], [Given(Need.CURVATURE)]))
    for (_, t, _), H_A in found.maps.items():
        assert_close(H_A, changed(this, at, [1, DIFFERENCE][t], kind), 2e-3)


def test_curvature_at_one_layer_knows_nothing_of_another():
    this = smooth()
    places = [INPUT, "conv", "later"]
    together = seen(this, request(places, [1], formulas=[Given(Need.CURVATURE), Given(Need.GRADIENT)]))
    for job, found in together.maps.items():
        (alone,) = seen(this, request([job.layer], [1], formulas=[job.formula])).maps.values()
        assert_close(found, alone)


def test_curvature_of_a_probability_behind_a_linear_head_is_not_zero():
    this = ended(layers.GlobalAveragePooling2D(), layers.Dense(CLASSES))
    asked = request(["conv"], [1, 1], ["logit", "probability"], [Given(Need.CURVATURE)])
    logit, probability = seen(this, asked).maps.values()
    assert not logit.any()
    assert_close(probability, changed(this, "conv", 1, "probability"), 2e-3)


@pytest.mark.parametrize(
    "steps",
    [
        lambda: [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, "softmax")],
        lambda: [layers.ReLU(), layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(CLASSES)],
        lambda: [layers.MaxPooling2D(), layers.Flatten(), layers.Dense(CLASSES)],
    ],
    ids=["linear", "relu", "maximum"],
)
def test_curvature_is_zero_where_the_head_is_linear_in_pieces(steps):
    this = ended(*steps())
    (H_A,) = seen(this, request(["conv"], [1], formulas=[Given(Need.CURVATURE)])).maps.values()
    assert H_A.shape == (3, 36, 5)
    assert not H_A.any()


# Probes with a base


BASED = {"gap", "two_inputs_dict", "subclassed_two_inputs", "channels_first"} & set(NETWORKS)


@pytest.mark.parametrize("name", sorted(BASED))
def test_a_base_shows_where_a_mask_is_zero(name, network):
    this = network(name)
    own = image_of(this.inputs)
    rng = np.random.default_rng(5)
    rows = np.array([0, 2, 2, 1, 0], "int32")
    masks = rng.uniform(size=(5, SIDE * SIDE)).astype("float32")
    base = rng.normal(size=own.shape).astype("float32")
    bound = cl.targets.class_(1).bind(int, CLASSES)
    chosen = (np.array([[1], [0], [2]], "int32"),)
    probes = Probes(rows, masks, (SIDE, SIDE), (bound,), chosen, scaled=False, base=base)
    scores = engine_for(this.model).probe(this.inputs, probes)
    m = masks.reshape((5, 1, SIDE, SIDE) if this.first else (5, SIDE, SIDE, 1))
    inputs = mapped(lambda x: x[rows] * m + base[rows] * (1 - m) if x is own else x[rows], this.inputs)
    other = Network(this.model, inputs, this.layer, this.grid, this.trunk, this.tail)
    z = host(tail(other, this.trunk(tensors(other))))
    np.testing.assert_allclose(scores["logit"][0], z[range(5), chosen[0][rows, 0]], rtol=1e-4, atol=1e-4)


# The linear head

HEADED = {
    "gap": True,
    "sequential": True,
    "nested": True,
    "functional": True,
    "mobilenet_like": True,
    "log_softmax": True,
    "softmax_layer": True,
    "one_sigmoid": True,
    "one_sigmoid_layer": True,
    "multi_label": True,
    "no_softmax": True,
    "regression": True,
    "series": True,
    "vgg_like": False,
    "volume": False,
    "recurrent": False,
    "two_inputs_dict": False,
    "residual_branch": False,
    "closed_softmax": False,
}


@pytest.mark.parametrize(("name", "headed"), HEADED.items())
def test_a_linear_head_is_known(name, headed, network):
    this = network(name)
    assert engine_for(this.model).headed(this.layer, this.inputs) is headed


def test_a_convolution_that_ends_in_a_map_has_no_linear_head():
    image = keras.Input((SIDE, SIDE, 3))
    steps = [layers.Conv2D(5, 3, name="conv"), layers.Conv2D(CLASSES, 1), layers.Softmax()]
    model = settled(keras.Model(image, sequence(*steps)(image)))
    assert engine_for(model).headed("conv", images()) is False


@pytest.mark.parametrize("name", [name for name, headed in HEADED.items() if headed])
def test_a_head_read_at_the_average_is_the_model(name, network):
    this = network(name)
    order = [(0, "logit"), (0, "probability")]
    if name != "regression":
        order += [(DIFFERENCE, "logit"), (DIFFERENCE, "probability"), (1, "probability")]
    found = seen(this, request([this.layer], *zip(*order, strict=True), formulas=[Read()]))
    assert len(found.maps) == len(order)
    half = host(tail(this, this.trunk(tensors(this)) / 2))
    for (_, t, _), (logits, picked, scores) in found.maps.items():
        target, kind = order[t]
        np.testing.assert_allclose(logits[:, 0], found.outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits[:, 1], half, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(picked[:, 0], found.scores[t]["logit"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(picked[:, 1], taken(target)(half), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[:, 0], found.scores[t][kind], rtol=1e-4, atol=1e-5)
        if kind == "logit":
            np.testing.assert_allclose(scores, picked, rtol=1e-5)


# Stages


def plain():
    """Strides make the steps, and the features are whole after their activations."""
    steps = []
    for i, stride in enumerate([1, 2, 1, 2]):
        steps += [layers.Conv2D(4, 3, stride, "same", name=f"conv{i}"), layers.ReLU(name=f"relu{i}")]
    return [*steps, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]


def vgg():
    """Pooling makes the steps: the stage is what is pooled."""
    steps = []
    for i in range(3):
        steps += [layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{i}{j}") for j in range(2)]
        steps += [layers.MaxPooling2D(name=f"pool{i}")]
    return [*steps, layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(CLASSES)]


def conv(name, stride=1, size=3):
    return layers.Conv2D(4, size, stride, "same", name=name)


def residual(x):
    """The first block of a size has its stride in the middle of its branch, and in its shortcut."""
    x = layers.ReLU(name="stem_relu")(conv("stem")(x))
    for name, stride in [("a1", 1), ("a2", 1), ("b1", 2), ("b2", 1), ("c1", 2)]:
        branch = sequence(conv(f"{name}_1"), layers.ReLU(name=f"{name}_relu"), conv(f"{name}_2", stride))(x)
        shortcut = conv(f"{name}_0", stride, 1)(x) if stride > 1 else x
        x = layers.ReLU(name=f"{name}_out")(layers.Add()([branch, shortcut]))
    return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))


def inception(x):
    """What lies inside a branch at the larger grid is no stage: the concatenation before the branches is."""
    x = conv("stem")(x)
    for i in range(2):
        wide = layers.Concatenate(name=f"mixed{i}")([conv(f"m{i}_1")(x), sequence(conv(f"m{i}_2"), conv(f"m{i}_3"))(x)])
        strided = sequence(conv(f"r{i}_1"), layers.ReLU(name=f"r{i}_relu"), conv(f"r{i}_2", 2))(wide)
        pooled = layers.MaxPooling2D(2, name=f"r{i}_pool")(wide)
        x = layers.Concatenate(name=f"reduced{i}")([strided, pooled])
    return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))


STAGES = {
    "plain": (lambda x: sequence(*plain())(x), ("relu0", "relu2", "relu3")),
    "vgg": (lambda x: sequence(*vgg())(x), ("conv01", "conv11", "conv21")),
    "residual": (residual, ("a2_out", "b2_out", "c1_out")),
    "inception": (inception, ("mixed0", "mixed1", "reduced1")),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_the_last_whole_features_at_each_size(name):
    build, right = STAGES[name]
    image = keras.Input((2 * SIDE, 2 * SIDE, 3))
    model = settled(keras.Model(image, build(image)))
    anatomy = engine_for(model).anatomy(images(side=2 * SIDE))
    assert anatomy.stages == right
    grids = [info.grid for path in right for info in anatomy.layers if info.path == path]
    assert grids == sorted(set(grids), reverse=True)
    assert anatomy.stages[-1] == next(info.path for info in anatomy.layers if info.chosen)


# What is left behind


def failing(outputs):
    raise ZeroDivisionError("a target that fails while it is traced")


@pytest.mark.parametrize("name", ["gap", "nested", "subclassed", "two_inputs_dict"])
def test_the_model_is_untouched_by_image_and_curvature(name):
    this = NETWORKS[name]()
    this.model(this.inputs)
    before = untouched(this.model)
    formulas = [Given(Need.CURVATURE), Given(Need.GRADIENT)]
    wanted = request([INPUT, this.layer], [1, 2], ["logit", "probability"], formulas)
    first = seen(this, wanted)
    assert untouched(this.model) == before
    fails = request([INPUT, this.layer], [cl.targets.custom(failing)], formulas=formulas)
    with pytest.raises(ZeroDivisionError):
        seen(this, fails)
    assert untouched(this.model) == before
    again = seen(this, wanted)
    for job, found in again.maps.items():
        np.testing.assert_array_equal(found, first.maps[job])


@only_where_compiled
def test_another_class_is_no_other_trace():
    this = NETWORKS["vgg_like"]()
    engine = engine_for(this.model)
    formulas = [Given(Need.CURVATURE), Given(Need.GRADIENT)]
    for c in range(CLASSES):
        found = seen(this, request([INPUT, this.layer], [c], formulas=formulas, gradients=frozenset({(INPUT, 0)})))
        assert_close(found.gradients[INPUT, 0], slope(this, INPUT, c))
    assert engine.traces == 1
