"""The engines for Keras, held against networks whose two halves are written out by hand.

One process tests one backend: KERAS_BACKEND names it.
"""

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest

from camlucida.models import backend

backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")

from keras import layers, ops  # noqa: E402

import camlucida as cl  # noqa: E402
import frameworks  # noqa: E402
import networks  # noqa: E402
from camlucida.engines import Probes, engine_for  # noqa: E402
from camlucida.engines.keras_calls import operations  # noqa: E402
from camlucida.errors import CamlucidaError, ConditionError, ImageError, RequestError, UnknownNameError  # noqa: E402
from camlucida.trees import mapped  # noqa: E402
from networks import CLASSES, HALF_PRECISION, NETWORKS, SIDE, Network, explained, images, sequence, settled  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ON = frameworks.BACKEND
COMPILED = ON != "torch"


def halves(network):
    """The layer's activations and the scores, from the halves that are written out by hand."""
    inputs = mapped(ops.convert_to_tensor, network.inputs)
    A = network.trunk(inputs)
    return A, network.tail(A, inputs)


def host(x):
    """A tensor's values, float32."""
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def reference(network, classes=None):
    """Grad-CAM of one class per image: the channels' average gradients times the activations, `(B, *grid)`."""
    inputs = mapped(ops.convert_to_tensor, network.inputs)
    A = network.trunk(inputs)
    if classes is None:
        classes = host(network.tail(A, inputs)).argmax(-1)

    def picked(A):
        scores = ops.cast(network.tail(A, inputs), "float32")
        return ops.take_along_axis(scores, np.array(classes)[:, None], axis=1)

    A, gradient = (last(host(x), network) for x in (A, frameworks.gradient(picked, A)))
    weights = gradient.mean(axis=tuple(range(1, A.ndim - 1)), keepdims=True)
    return (A * weights).sum(-1)


def last(x, network):
    """Activations, or what has their shape, with the channels last."""
    return np.moveaxis(x, 1, -1) if network.first else x


def assert_close(ours, theirs, tolerance=1e-4):
    """Equal up to a share of the largest value, and not both nothing."""
    scale = np.abs(theirs).max()
    assert scale > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def untouched(model):
    """Everything of a model that a call could change, to be compared with itself."""
    parts = [model, *operations(model)]
    return {
        "weights": [w.tobytes() for w in model.get_weights()],
        "trainable": [getattr(part, "trainable", None) for part in parts],
        "attributes": [sorted(vars(part)) for part in parts],
        "call": [(id(vars(part).get("call")), part.call.__qualname__) for part in parts],
        "activation": [id(getattr(part, "activation", None)) for part in parts],
        "nodes": [(len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts],
        "policy": keras.config.dtype_policy().name,
        "policies": [getattr(part, "dtype_policy", None) and part.dtype_policy.name for part in parts],
        "framework": frameworks.condition(model),
    }


@pytest.fixture(scope="module")
def network():
    """Networks by name, each built once."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = NETWORKS[name]()
        return built[name]

    return get


# Every kind of model


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_is_the_one_that_the_halves_yield(name, network):
    this = network(name)
    result = explained(this)
    assert {item.layer for item in result} == {this.layer}
    assert result.raw.shape == (3, *this.grid)
    assert result.raw.dtype == np.float32
    assert_close(result.raw, reference(this), HALF_PRECISION.get(name, 1e-4))


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_the_halves(name, network):
    this = network(name)
    result = explained(this)
    scores = host(halves(this)[1])
    tolerance = HALF_PRECISION.get(name, 1e-5)
    np.testing.assert_allclose([item.score for item in result], scores.max(-1), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose([item.answer.outputs for item in result], scores, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_are_those_that_the_model_gives(name, network):
    this = network(name)
    answer = this.model(this.inputs)
    if this.output is not None:
        answer = answer[this.output] if isinstance(answer, dict) else answer[-1]
    answer = host(answer)
    softmax = np.exp(answer) / np.exp(answer).sum(-1, keepdims=True)
    wanted = {
        "no_softmax": lambda: softmax,
        "subclassed_training": lambda: softmax,
        "subclassed_two_inputs": lambda: softmax,
        "picked": lambda: softmax,
        "log_softmax": lambda: np.exp(answer),
        "one_sigmoid": lambda: np.concatenate([1 - answer, answer], -1),
        "one_sigmoid_layer": lambda: np.concatenate([1 - answer, answer], -1),
        "regression": lambda: None,
    }.get(name, lambda: answer)()
    for i, item in enumerate(explained(this)):
        if wanted is None:
            assert item.answer.probabilities is None
            assert item.probability is None
        else:
            tolerance = HALF_PRECISION.get(name, 1e-5)
            np.testing.assert_allclose(item.answer.probabilities, wanted[i], rtol=tolerance, atol=tolerance)
            assert item.probability == item.answer.probabilities[item.target.index]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_class_can_be_the_target(name, network):
    this = network(name)
    classes = halves(this)[1].shape[-1]
    result = explained(this, target=classes - 1)
    assert_close(result.raw, reference(this, [classes - 1] * 3), HALF_PRECISION.get(name, 1e-4))
    assert {item.target.index for item in result} == {classes - 1}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "never_built"])
def test_the_model_is_untouched(name):
    this = NETWORKS[name]()
    this.model(this.inputs)
    before = untouched(this.model)
    explained(this, method=["grad-cam", "grad-cam++", "score-cam"])
    assert untouched(this.model) == before


def test_a_model_that_was_never_built_is_built_and_nothing_else():
    this, twin = NETWORKS["never_built"](), NETWORKS["never_built"]()
    twin.model(twin.inputs)
    explained(this)
    mine, theirs = untouched(this.model), untouched(twin.model)
    for kind in ("weights", "trainable", "attributes", "nodes"):
        assert mine[kind] == theirs[kind], kind


# Ends


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("gap", "softmax of 'head' is set aside"),
        ("softmax_layer", "softmax"),
        ("softmax_operation", "softmax"),
        ("mobilenet_like", "softmax of 'predictions' is set aside"),
        ("one_sigmoid", "sigmoid of 'head' is set aside"),
        ("no_softmax", "ends without a softmax"),
        ("closed_softmax", "cannot be opened: the log-probability is explained"),
    ],
)
def test_a_note_says_what_was_done_about_the_end(name, note, network):
    (said,) = network_notes(network(name))
    assert note in said


def network_notes(this):
    anatomy = engine_for(this.model).anatomy(this.inputs, this.output)
    return anatomy.notes + anatomy.logit_notes


def test_a_probability_is_told_to_be_assumed_and_no_logit_is_spoken_of(network):
    this = network("no_softmax")
    result = explained(this, score="probability", target=0)[0]
    assert any("probabilities are the softmax" in note for note in result.notes)
    this = network("gap")
    result = explained(this, score="probability", target=0)[0]
    assert not any("logit" in note for note in result.notes)


def test_regression_needs_no_note(network):
    assert network_notes(network("regression")) == ()


@pytest.mark.parametrize("name", ["one_sigmoid", "one_sigmoid_layer"])
def test_one_sigmoid_unit_is_two_classes_with_opposite_maps(name, network):
    this = network(name)
    result = explained(this, target=[0, 1])
    off, on = result.select(target=0), result.select(target=1)
    assert_close(off.raw, -on.raw, 1e-6)
    for no, yes, p in zip(off, on, host(this.model(this.inputs))[:, 0], strict=True):
        assert yes.probability == pytest.approx(p, rel=1e-5)
        assert no.probability == pytest.approx(1 - p, rel=1e-5)
        assert no.score == pytest.approx(-yes.score, rel=1e-5)


@pytest.mark.parametrize("name", ["one_sigmoid", "one_sigmoid_layer"])
def test_cam_of_one_sigmoid_unit(name, network):
    this = network(name)
    result = explained(this, target=[0, 1], method=["cam", "grad-cam"])
    assert_close(result.select(method="cam").raw, result.select(method="grad-cam").raw * np.prod(this.grid))


def test_the_gradient_of_a_probability(network):
    """The recipe of the Keras tutorial, which leaves the softmax on."""
    this = network("gap")
    A, _ = halves(this)
    gradient = frameworks.gradient(lambda A: ops.max(ops.softmax(this.tail(A, None)), -1), A)
    wanted = np.einsum("bhwk,bk->bhw", host(A), host(gradient).mean((1, 2)))
    assert_close(explained(this, score="probability").raw, wanted)


class Recurrence(keras.Model):
    """Its last layer has a sigmoid inside its recurrence, not at its end."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru = layers.Conv1D(4, 3, name="conv"), layers.GRU(2, activation="sigmoid", name="gru")

    def call(self, inputs):
        return self.gru(self.conv(inputs))


class Cooled(layers.Layer):
    """A layer with an activation that is not the last thing it does."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.dense, self.activation = layers.Dense(CLASSES, name="dense"), keras.activations.softmax

    def call(self, inputs):
        return 2 * self.activation(self.dense(inputs))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Recurrence(),
        lambda: keras.Sequential(
            [keras.Input((SIDE, 3)), layers.Conv1D(4, 3, name="conv"), layers.GlobalAveragePooling1D(), Cooled()]
        ),
    ],
    ids=["recurrence", "cooled"],
)
def test_an_activation_that_is_not_the_end_is_left_alone(model):
    model = model()
    inputs = images(axes=1)
    model(inputs)
    settled(model)
    result = cl.explain(model, inputs, preprocess=None, layer="conv")
    np.testing.assert_allclose([item.answer.outputs for item in result], host(model(inputs)), rtol=1e-5)
    assert not any("set aside" in note for note in result[0].notes)


# Several outputs


def test_outputs_are_chosen_by_name_and_by_text(network):
    this = network("outputs_dict_second")
    by_name = cl.explain(this.model, this.inputs, preprocess=None, target=cl.targets.output("species", 2))
    by_text = cl.explain(this.model, this.inputs, preprocess=None, target="species:2")
    assert_close(by_name.raw, by_text.raw, 1e-6)
    assert_close(by_text.raw, reference(this, [2] * 3))


def test_targets_of_two_outputs_in_one_call(network):
    first, second = network("outputs_dict_first"), network("outputs_dict_second")
    result = cl.explain(first.model, first.inputs, preprocess=None, target=["colour:top1", "species:top1"])
    assert [item.layer for item in result] == ["conv4", "conv5"] * 3
    assert_close(result.select(layer="conv4").raw, reference(first))
    assert_close(result.select(layer="conv5").raw, reference(second))


def test_without_a_name_the_first_output_is_meant(network):
    this = network("outputs_dict_first")
    assert_close(cl.explain(this.model, this.inputs, preprocess=None).raw, reference(this))


def test_a_layer_that_the_output_does_not_depend_on(network):
    this = network("outputs_dict_first")
    with pytest.raises(ConditionError, match="does not depend on layer 'conv5'"):
        explained(this, layer="conv5")


# Several layers, targets and methods


def test_several_layers_in_one_pass(network):
    first, second = network("shared_first"), network("shared_second")
    result = cl.explain(first.model, first.inputs, preprocess=None, layer=["conv", "conv#2"])
    assert_close(result.select(layer="conv").raw, reference(first))
    assert_close(result.select(layer="conv#2").raw, network_like(second, first))


def network_like(this, other):
    """The reference of the layer of `this`, on the model of `other` (the same weights)."""
    assert all(np.array_equal(a, b) for a, b in zip(this.model.get_weights(), other.model.get_weights(), strict=True))
    return reference(this)


def test_layers_are_given_as_paths_ends_of_paths_and_objects(network):
    this = network("nested_twice")
    layer = this.model.layers[1].layers[0].get_layer("conv")
    engine = engine_for(this.model)
    for given in (layer, "conv", "outer/inner/conv"):
        assert engine.resolve(given, this.inputs) == "outer/inner/conv"


def test_another_target_for_each_image(network):
    this = network("vgg_like")
    classes = [2, 0, 3]
    result = explained(this, target=cl.targets.each(classes))
    assert_close(result.raw, reference(this, classes))
    assert [item.target.index for item in result] == classes


def test_a_function_and_a_difference_as_targets(network):
    this = network("vgg_like")
    result = explained(this, target=[cl.targets.difference(1, 2), lambda outputs: outputs[:, 1] - outputs[:, 2]])
    wanted = reference(this, [1] * 3) - reference(this, [2] * 3)
    assert_close(result.raw[::2], wanted)
    assert_close(result.raw[1::2], wanted)


@pytest.mark.parametrize("name", ["functional", "vgg_like", "recurrent", "mixed_float16"])
def test_an_image_is_explained_alike_alone_and_among_others(name, network):
    this = network(name)
    together = explained(this, method=["grad-cam", "grad-cam++"])
    alone = [explained(replaced(this, i), method=["grad-cam", "grad-cam++"]) for i in range(3)]
    assert_close(np.concatenate([one.raw for one in alone]), together.raw, HALF_PRECISION.get(name, 1e-5))


def replaced(this, i):
    inputs = mapped(lambda x: x[i : i + 1], this.inputs)
    return Network(this.model, inputs, this.layer, this.grid, this.trunk, this.tail, this.auto, this.output)


# The model after failures


def raising(outputs):
    raise ZeroDivisionError("a target that fails while it is traced")


@pytest.mark.parametrize(
    ("name", "request_", "error"),
    [
        ("vgg_like", {"layer": "conv9"}, UnknownNameError),
        ("vgg_like", {"method": "cam"}, ConditionError),
        ("vgg_like", {"target": raising}, ZeroDivisionError),
        ("vgg_like", {"target": CLASSES}, RequestError),
        ("mobilenet_like", {"target": raising}, ZeroDivisionError),
        ("nested", {"target": raising, "method": ["grad-cam", "score-cam"]}, ZeroDivisionError),
        ("nested", {"target": raising, "method": ["cam", "grad-cam"]}, ConditionError),
        ("subclassed", {"target": raising}, ZeroDivisionError),
        ("outputs_dict_first", {"layer": "conv5"}, ConditionError),
    ],
)
def test_the_model_is_untouched_after_a_failure(name, request_, error):
    this = NETWORKS[name]()
    this.model(this.inputs)
    before = untouched(this.model)
    with pytest.raises(error):
        explained(this, **request_)
    assert untouched(this.model) == before
    assert_close(explained(this).raw, reference(this))
    assert untouched(this.model) == before


def test_an_input_that_does_not_fit_leaves_the_model_untouched():
    this = NETWORKS["vgg_like"]()
    before = untouched(this.model)
    with pytest.raises(CamlucidaError):
        cl.explain(this.model, images(side=5), preprocess=None)
    assert untouched(this.model) == before


# Threads


def in_threads(*works):
    """Run the works at the same time, and raise what one of them raised."""
    failures = []
    start = threading.Barrier(len(works))

    def guarded(work):
        start.wait()
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("name", ["vgg_like", "subclassed"])
def test_threads_that_use_one_model_do_not_notice_each_other(name):
    this = NETWORKS[name]()
    plain = host(this.model(this.inputs))
    this.model.predict_on_batch(this.inputs)
    before = untouched(this.model)
    wanted = {target: reference(this, [target] * 3) for target in range(CLASSES)}
    found, answers, stop = {}, [], threading.Event()

    def explain(targets):
        try:
            for target in targets:
                # A function is another computation each time, so that every round is traced while others run.
                found[target] = explained(this, target=lambda outputs, t=target: outputs[:, t]).raw
        finally:
            stop.set()

    def predict():
        while not stop.is_set():
            if ON != "jax":  # there it gives the memory of the variables away while it runs, whoever else needs it
                answers.append(this.model.predict_on_batch(this.inputs))
            answers.append(host(this.model(this.inputs)))

    in_threads(lambda: explain([0, 1]), lambda: explain([2, 3]), predict)
    for target in range(CLASSES):
        assert_close(found[target], wanted[target])
    for answer in answers:
        np.testing.assert_allclose(answer, plain, rtol=1e-5)
    assert len(answers) >= 2
    assert untouched(this.model) == before


def test_threads_that_explain_two_models_with_one_backbone():
    backbone = networks._backbone()

    def model(classes):
        image = keras.Input((SIDE, SIDE, 3))
        steps = [backbone, layers.GlobalAveragePooling2D(), layers.Dense(classes)]
        return settled(keras.Model(image, sequence(*steps)(image)), seed=classes)

    models = [model(2), model(3)]
    models[1].layers[1].set_weights(models[0].layers[1].get_weights())
    wanted = [cl.explain(m, images(), preprocess=None, target=0).raw for m in models]
    before = [untouched(m) for m in models]
    found = [[], []]

    def explain(i):
        for _ in range(6):
            target = lambda outputs: outputs[:, 0]  # noqa: E731
            found[i].append(cl.explain(models[i], images(), preprocess=None, target=target).raw)

    in_threads(lambda: explain(0), lambda: explain(1))
    for i in range(2):
        for raw in found[i]:
            assert_close(raw, wanted[i], 1e-5)
    assert [untouched(m) for m in models] == before


def test_one_engine_for_threads_that_begin_together():
    this = NETWORKS["gap"]()
    made = []
    in_threads(*[lambda: made.append(engine_for(this.model))] * 4)
    assert len(set(map(id, made))) == 1


# What is traced, and what passes are made


only_on_tensorflow = pytest.mark.skipif(ON != "tensorflow", reason="about TensorFlow's graphs")
only_on_jax = pytest.mark.skipif(ON != "jax", reason="about JAX's programs")
only_on_torch = pytest.mark.skipif(ON != "torch", reason="about torch's ways")
only_where_compiled = pytest.mark.skipif(not COMPILED, reason="torch compiles nothing")


def filled(count):
    """The size of the batch that runs for so many images or masks: on JAX, a power of two."""
    return 2 ** int(np.ceil(np.log2(count))) if ON == "jax" else count


@only_on_tensorflow
def test_nothing_is_traced_twice():
    this = NETWORKS["vgg_like"]()
    engine = engine_for(this.model)
    many = images(10)
    for target in (0, 1, 2, 3, "top1", "top2", cl.targets.each([0, 1, 2, 3, "top1", 0, 1, 2, 3, 0])):
        cl.explain(this.model, many, preprocess=None, target=target if target != "top2" else cl.targets.top(2))
    for count, batch_size in itertools.product((1, 3, 10), (4, 32)):
        cl.explain(this.model, many[:count], preprocess=None, batch_size=batch_size)
    assert engine.traces == 2  # of classes by index, and of classes by rank
    cl.explain(this.model, many, preprocess=None, method="score-cam?channels=3", batch_size=4)
    assert engine.traces == 4  # the pass and the probes
    cl.explain(this.model, many[:7], preprocess=None, method="score-cam?channels=3", batch_size=5, target=3)
    assert engine.traces == 5  # probes are the same for both
    cl.explain(this.model, many[:7], preprocess=None, method="score-cam?channels=3", batch_size=5, target=0)
    assert engine.traces == 5


@only_on_jax
def test_few_sizes_of_batches_are_traced():
    this = NETWORKS["vgg_like"]()
    engine = engine_for(this.model)
    many = images(32)
    wanted = cl.explain(this.model, many, preprocess=None, target=2).raw
    assert engine.traces == 1
    for count in range(1, 33):
        found = cl.explain(this.model, many[:count], preprocess=None, target=2).raw
        assert_close(found, wanted[:count], 1e-5)
    assert engine.traces == 6  # 1, 2, 4, 8, 16, 32
    cl.explain(this.model, many, preprocess=None, batch_size=5, target=cl.targets.each([0, 1, 2, 3] * 8))
    assert engine.traces == 6
    methods = ["grad-cam", "score-cam?channels=3"]
    cl.explain(this.model, many[:16], preprocess=None, method=methods, batch_size=4, target=1)
    traced = engine.traces
    cl.explain(this.model, many[8:], preprocess=None, method=methods, batch_size=4, target=3)
    assert engine.traces == traced


@only_on_jax
def test_weights_are_no_constants_of_what_is_compiled():
    this = NETWORKS["vgg_like"]()
    explained(this)
    settled(this.model, seed=7)
    assert_close(explained(this).raw, reference(this))
    assert engine_for(this.model).traces == 1


@only_where_compiled
def test_ten_classes_in_turn_are_one_trace():
    image = keras.Input((SIDE, SIDE, 3))
    y = sequence(layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(10, "softmax"))(image)
    model = settled(keras.Model(image, y))
    explainers = [cl.Explainer(model, target=target, preprocess=None) for target in range(10)]
    for explainer in explainers:
        explainer(images())
    assert engine_for(model).traces == 1


class Counted(layers.Layer):
    """Counts how often it runs: not how often it is traced."""

    def __init__(self):
        super().__init__()
        self.runs = []

    def call(self, inputs):
        return frameworks.observed(inputs, lambda x: self.runs.append(len(x)))


class Counting(keras.Model):
    def __init__(self):
        super().__init__()
        self.counted, self.conv, self.head = Counted(), layers.Conv2D(6, 3, name="conv"), layers.Dense(CLASSES)

    def call(self, inputs):
        return self.head(ops.mean(self.conv(self.counted(inputs)), (1, 2)))


def test_one_forward_pass_for_three_methods_and_three_targets():
    model = Counting()
    model(images())
    explainer = cl.Explainer(
        model, method=["grad-cam", "grad-cam++"], target=[0, 1, "top1"], preprocess=None, layer="conv"
    )
    explainer(images())
    model.counted.runs.clear()
    explainer(images())
    assert model.counted.runs == [filled(3)]


def test_one_forward_pass_with_cam_and_the_probes_of_score_cam_beside_it():
    counted = Counted()
    image = keras.Input((SIDE, SIDE, 3))
    steps = [layers.Conv2D(6, 3, name="conv"), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, "softmax")]
    model = settled(keras.Model(image, sequence(SetShape(counted), *steps)(image)))
    methods = ["cam", "grad-cam", "grad-cam++"]
    explainer = cl.Explainer(model, method=methods, target=[0, 1, 2], preprocess=None)
    explainer(images())
    counted.runs.clear()
    assert len(explainer(images())) == 3 * 3 * 3
    assert counted.runs == [filled(3)]
    explainer = cl.Explainer(model, method=[*methods, "score-cam"], target=[0, 1, 2], preprocess=None, batch_size=10)
    explainer(images())
    counted.runs.clear()
    explainer(images())
    assert counted.runs == [filled(3), filled(10), filled(8)]  # 3 images of 6 channels, for all three targets at once


class SetShape(layers.Layer):
    """Tells Keras, which builds functional models without values, what shape a layer's output has."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def six_convolutions():
    image = keras.Input((SIDE, SIDE, 3))
    convs = [layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{i}") for i in range(6)]
    y = sequence(*convs, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, "softmax"))(image)
    return settled(keras.Model(image, y))


@only_on_tensorflow
@pytest.mark.parametrize("targets", [1, 3])
def test_the_backward_pass_ends_at_the_layer(targets):
    """As many backward convolutions as layers behind the explained one, per target, and none for the kernels."""
    model = six_convolutions()
    cl.explain(model, images(), preprocess=None, layer="conv3", target=list(range(targets)))
    (step,) = engine_for(model)._steps
    run = executed(step.graph)
    assert run.count("Conv2D") + run.count("_FusedConv2D") == 6
    assert run.count("Conv2DBackpropInput") == 2 * targets
    assert run.count("Conv2DBackpropFilter") == 0


def executed(graph):
    """The kinds of the operations that the outputs of a graph need: what is left of it when it runs."""
    found, waiting = set(), [output.op for output in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [x.op for x in operation.inputs] + list(operation.control_inputs)
    return [operation.type for operation in found]


@only_on_jax
@pytest.mark.parametrize("targets", [1, 3])
def test_the_backward_pass_ends_at_the_layer_on_jax(targets):
    """The convolutions that are left in the compiled program, forward and backward."""
    model = six_convolutions()
    cl.explain(model, images(), preprocess=None, layer="conv3", target=list(range(targets)))
    ((_, program),) = engine_for(model)._steps
    assert program.as_text().count("convolution(") == 6 + 2 * targets


@only_on_torch
@pytest.mark.parametrize("targets", [1, 3])
def test_the_backward_pass_ends_at_the_layer_on_torch(targets):
    """Convolutions that run backward: those behind the layer, by their inputs and never by their kernels."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append((func.__name__, args[-1] if "backward" in func.__name__ else None))
            return func(*args, **(kwargs or {}))

    model = six_convolutions()
    explainer = cl.Explainer(model, preprocess=None, layer="conv3", target=list(range(targets)))
    explainer(images())
    with Watch():
        explainer(images())
    assert len([name for name, _ in seen if name.startswith("convolution.")]) == 6
    backward = [mask for name, mask in seen if name.startswith("convolution_backward")]
    assert backward == [[True, False, False]] * 2 * targets


# Channels before locations


@pytest.mark.skipif(ON == "tensorflow", reason="TensorFlow's convolutions take channels last on the CPU")
def test_channels_may_come_first(network):
    """Every kind of method yields what it yields for the same network with channels last."""
    first, last_ = network("channels_first"), networks.channels_first("channels_last")
    methods = ["cam", "grad-cam", "grad-cam++", "score-cam", "rise?masks=20"]
    ours, theirs = (explained(this, method=methods) for this in (first, last_))
    assert {item.layer for item in ours} == {"relu", "input"}
    for our, their in zip(ours, theirs, strict=True):
        assert our.raw.shape == their.raw.shape
        assert_close(our.raw, their.raw)
    (layer,) = [layer for layer in engine_for(first.model).anatomy(first.inputs).layers if layer.chosen]
    assert (layer.grid, layer.channels) == ((6, 4), 5)


def test_where_no_layer_names_an_order_the_setting_of_keras_counts():
    image = keras.Input((3, 4, 8))
    model = keras.Model(image, layers.Dense(CLASSES)(layers.Flatten()(layers.ReLU(name="relu")(image))))
    bare = keras.Model(image, layers.ReLU(name="relu")(image))
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        (layer,) = engine_for(bare).anatomy(np.ones((1, 3, 4, 8), "float32")).layers[-1:]
        assert (layer.grid, layer.channels) == ((4, 8), 3)
        # Flatten was made when Keras was set to channels last.
        relu = next(x for x in engine_for(model).anatomy(np.ones((1, 3, 4, 8), "float32")).layers if x.path == "relu")
        assert (relu.grid, relu.channels) == ((3, 4), 8)
    finally:
        keras.config.set_image_data_format(before)


# torch's ways


@only_on_torch
@pytest.mark.parametrize("mode", ["no_grad", "enable_grad", "inference_mode"])
@pytest.mark.parametrize("name", ["vgg_like", "never_built", "subclassed"])
def test_the_mode_of_gradients_does_not_matter(mode, name):
    import torch

    this = NETWORKS[name]()
    with getattr(torch, mode)():
        found = explained(this, method=["grad-cam", "score-cam?channels=2"]).select(method="grad-cam").raw
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert modes == (mode == "enable_grad", mode == "inference_mode")
    assert_close(found, reference(this))
    assert all(variable.value.grad is None for variable in this.model.variables)


@only_on_torch
def test_what_is_frozen_is_explained_and_stays_frozen():
    this = NETWORKS["vgg_like"]()
    this.model.trainable = False
    before = untouched(this.model)
    assert_close(explained(this).raw, reference(this))
    assert untouched(this.model) == before
    assert not any(variable.value.requires_grad for variable in this.model.variables)


@only_on_torch
def test_what_writes_in_place_does_not_reach_the_activations():
    import torch

    class InPlace(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.later = layers.Conv2D(5, 3, name="conv"), layers.Conv2D(5, 3, name="later")
            self.head = layers.Dense(CLASSES)

        def call(self, inputs):
            x = torch.relu_(self.later(torch.relu_(self.conv(inputs))))
            return self.head(frameworks.average(x))

    model = InPlace()
    model(images())
    settled(model)
    tail = networks.of(torch.relu, model.later, torch.relu, networks.pool, model.head)
    this = Network(model, images(), "conv", (6, 6), model.conv, tail)
    wanted = reference(this)
    result = cl.explain(model, this.inputs, preprocess=None, layer=["conv", "later"])
    assert_close(result.select(layer="conv").raw, wanted)
    trunk, tail = sequence(model.conv, torch.relu, model.later), networks.of(torch.relu, networks.pool, model.head)
    assert_close(result.select(layer="later").raw, reference(Network(model, images(), "later", (4, 4), trunk, tail)))


@only_on_torch
def test_inputs_go_where_the_variables_are(monkeypatch):
    """Not to the device that Keras prefers, which is made one that is not there."""
    import importlib

    this = NETWORKS["vgg_like"]()
    wanted = reference(this)
    monkeypatch.setattr(importlib.import_module("keras.src.backend.torch.core"), "DEFAULT_DEVICE", "cuda:99")
    found = explained(this, method=["grad-cam", "score-cam?channels=2"])
    assert_close(found.select(method="grad-cam").raw, wanted)


# Life and death


def test_an_engine_is_made_once_per_model(network):
    model = network("gap").model
    assert engine_for(model) is engine_for(model)
    assert engine_for(model) is not engine_for(network("vgg_like").model)


@pytest.mark.parametrize("name", ["gap", "nested_twice", "never_built", "subclassed", "recurrent", "closed_softmax"])
def test_a_model_is_freed_with_its_engine(name):
    this = NETWORKS[name]()
    methods = ["grad-cam", "grad-cam++", "score-cam"]
    result = explained(this, method=methods, target=["top1", lambda outputs: outputs[:, 0]])
    model, engine = weakref.ref(this.model), weakref.ref(engine_for(this.model))
    del this
    gc.collect()
    assert model() is None
    assert engine() is None
    assert len(result) == 3 * 2 * len(methods)


def test_an_engine_keeps_no_inputs():
    this = NETWORKS["gap"]()
    inputs = images()
    kept = weakref.ref(inputs)
    cl.explain(this.model, inputs, preprocess=None, method=["cam", "grad-cam"])
    del inputs
    gc.collect()
    assert kept() is None


def test_an_engine_outlives_its_model_with_a_clear_error():
    this = NETWORKS["gap"]()
    engine, inputs = engine_for(this.model), this.inputs
    del this
    gc.collect()
    with pytest.raises(CamlucidaError, match="no longer exists"):
        engine.anatomy(inputs)


# Probes


def masked(x, masks, rows):
    """Each input times its mask; the masks resized by TensorFlow, then scaled to 0..1."""
    large = host(ops.image.resize(masks.reshape(-1, 3, 3, 1), (SIDE, SIDE), data_format="channels_last"))
    low, high = large.min((1, 2, 3), keepdims=True), large.max((1, 2, 3), keepdims=True)
    return x[rows] * (large - low) / (high - low)


@pytest.mark.parametrize(
    "name", ["vgg_like", "two_inputs_dict", "subclassed_two_inputs", "one_sigmoid", "closed_softmax"]
)
def test_probes_are_scores_of_masked_inputs(name, network):
    this = network(name)
    rows = np.array([0, 0, 2, 1, 2], "int32")
    masks = np.random.default_rng(3).uniform(size=(5, 9)).astype("float32")
    classes = np.array([[1], [0], [1]], "int32")
    engine = engine_for(this.model)
    targets = (cl.targets.class_(1).bind(int, 2), cl.targets.top().bind(int, 2))
    scores = engine.probe(this.inputs, Probes(rows, masks, (3, 3), targets, (classes, 1 - classes)))

    inputs = mapped(lambda x: masked(x, masks, rows) if x.ndim == 4 else x[rows], this.inputs)
    other = Network(this.model, inputs, this.layer, this.grid, this.trunk, this.tail)
    logits = host(halves(other)[1])
    squash = ops.softmax if name != "one_sigmoid" else ops.sigmoid
    probabilities = host(squash(logits))
    picked = np.stack([classes[rows, 0], 1 - classes[rows, 0]])
    for kind, values in (("logit", logits), ("probability", probabilities)):
        np.testing.assert_allclose(scores[kind], values[np.arange(5), picked], rtol=2e-4, atol=2e-5)


def test_probes_of_whole_numbers_are_not_cut_to_black_and_white():
    """Pictures as uint8 into a network that scales them itself."""
    image = keras.Input((SIDE, SIDE, 3))
    steps = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    model = settled(keras.Model(image, sequence(*steps)(image)))
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype("uint8")
    whole, real = (
        cl.explain(model, given, preprocess=None, method=["grad-cam", "score-cam"]).raw
        for given in (pixels, pixels.astype("float32"))
    )
    assert_close(whole, real, 2e-2)  # the network itself rounds its input to whole numbers


# CAM and its condition


def classifier(*after, size=SIDE, before=()):
    image = keras.Input((size, size, 3))
    conv = layers.Conv2D(5, 3, activation="relu", name="conv")
    return settled(keras.Model(image, sequence(*before, conv, *after)(image)))


GAP, DENSE = layers.GlobalAveragePooling2D, layers.Dense

ACCEPTED = {
    "dense": lambda: [GAP(), DENSE(4, "softmax")],
    "no activation": lambda: [GAP(), DENSE(4)],
    "no bias": lambda: [GAP(), DENSE(4, use_bias=False), layers.Softmax()],
    "dropout": lambda: [layers.SpatialDropout2D(0.5), GAP(), layers.Dropout(0.5), DENSE(4, "softmax")],
    "two dense": lambda: [GAP(), DENSE(6), DENSE(4, "softmax")],
    "convolution before": lambda: [layers.Conv2D(4, 1), GAP(), layers.Softmax()],
    "convolution after": lambda: [GAP(keepdims=True), layers.Conv2D(4, 1), layers.Flatten(), layers.Softmax()],
    "average pooling": lambda: [layers.AveragePooling2D(6), layers.Flatten(), DENSE(4, "softmax")],
    "linear activation": lambda: [layers.Activation("linear"), GAP(), DENSE(4), layers.Activation("softmax")],
    "sigmoid": lambda: [GAP(), DENSE(4, "sigmoid")],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_cam_is_grad_cam_times_the_number_of_places(name):
    model = classifier(*ACCEPTED[name]())
    result = cl.explain(model, images(), preprocess=None, method=["cam", "grad-cam"], layer="conv", target=[0, 2])
    assert_close(result.select(method="cam").raw, 36 * result.select(method="grad-cam").raw)


REFUSED = {
    "flatten": (lambda: [layers.Flatten(), DENSE(4, "softmax")], "Flatten"),
    "pooling, then flatten": (lambda: [layers.AveragePooling2D(2), layers.Flatten(), DENSE(4)], "AveragePooling2D"),
    "maximum": (lambda: [layers.GlobalMaxPooling2D(name="most"), DENSE(4, "softmax")], "'most'"),
    "hidden layer": (lambda: [GAP(), DENSE(6, "relu", name="hidden"), DENSE(4, "softmax")], "'hidden'"),
    "not the last": (lambda: [layers.Conv2D(5, 3, name="later"), GAP(), DENSE(4, "softmax")], "'later'"),
    "activation": (lambda: [layers.ReLU(name="relu"), GAP(), DENSE(4, "softmax")], "'relu'"),
    "normalisation": (lambda: [GAP(), layers.BatchNormalization(name="norm"), DENSE(4, "softmax")], "'norm'"),
    "strided": (lambda: [layers.Conv2D(4, 1, strides=2, name="strided"), GAP()], "'strided'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_cam_names_what_stands_in_its_way(name):
    end, obstacle = REFUSED[name]
    model = classifier(*end())
    with pytest.raises(ConditionError) as error:
        cl.explain(model, images(), preprocess=None, method="cam", layer="conv", target=0)
    text = str(error.value)
    assert obstacle in text
    assert "grad-cam works" in text
    assert "\n" not in text


def test_cam_is_refused_where_an_operation_that_is_no_layer_lies_between(network):
    this = network("subclassed_two_inputs")
    with pytest.raises(ConditionError, match="cam needs global average pooling"):
        explained(this, method="cam")


def test_cam_is_refused_for_a_target_that_is_no_sum_of_classes():
    model = classifier(GAP(), DENSE(4, "softmax", name="head"))
    with pytest.raises(ConditionError, match="cam needs a target that is a class") as error:
        cl.explain(model, images(), preprocess=None, method="cam", target=lambda outputs: outputs[:, 0] ** 2)
    assert "\n" not in str(error.value)


def test_cam_reads_the_weights_as_they_are_now():
    model = classifier(GAP(), DENSE(4, "softmax", name="head"))
    engine = engine_for(model)
    before = cl.explain(model, images(), preprocess=None, method="cam", target=1).raw
    head = model.get_layer("head")
    head.set_weights([-2 * w for w in head.get_weights()])
    after = cl.explain(model, images(), preprocess=None, method="cam", target=1).raw
    assert_close(after, -2 * before, 1e-5)
    assert engine.traces == int(COMPILED)


# Bad input


def refused(model, inputs, error=RequestError, **request):
    """The message of the error that a request ends in: one line, and not a long one."""
    with pytest.raises(error) as raised:
        cl.explain(model, inputs, **{"preprocess": None, **request})
    text = str(raised.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 500
    return text


def test_a_layer_of_another_model(network):
    this, other = network("gap"), network("vgg_like")
    assert "'conv2' is not reached" in refused(this.model, this.inputs, layer=other.model.get_layer("conv2"))


def test_a_layer_that_is_not_reached():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.spare = layers.Conv2D(4, 3, name="conv"), layers.Conv2D(4, 3, name="spare")
            self.spare.build((None, SIDE, SIDE, 3))

        def call(self, inputs):
            return ops.mean(self.conv(inputs), (1, 2))

    model = Lazy()
    assert "'spare' is not reached" in refused(model, images(), layer=model.spare)
    assert "unknown layer 'spare'" in refused(model, images(), UnknownNameError, layer="spare")


def test_a_layer_without_a_grid(network):
    this = network("gap")
    assert "'gap' has no grid" in refused(this.model, this.inputs, layer="gap")


def test_an_unknown_layer_comes_with_the_nearest(network):
    this = network("vgg_like")
    assert "did you mean 'conv2'" in refused(this.model, this.inputs, UnknownNameError, layer="conv_2")


@pytest.mark.parametrize("name", ["flat", "empty"])
def test_a_model_without_a_convolution(name):
    image = keras.Input((SIDE, SIDE, 3))
    steps = [layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(4, "softmax")]
    if name == "empty":
        steps = [layers.Rescaling(1 / 255), *steps]
    model = keras.Model(image, sequence(*steps)(image))
    assert "no layer with a grid" in refused(model, images(), ConditionError)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_no_number(value, network):
    this = network("gap")
    bad = images()
    bad[1, 2, 3, 0] = value
    assert "image 1 holds values that are no numbers" in refused(this.model, bad, ImageError)


def test_weights_that_are_no_numbers():
    this = NETWORKS["gap"]()
    head = this.model.get_layer("head")
    head.set_weights([w * np.nan for w in head.get_weights()])
    assert "not a number" in refused(this.model, this.inputs, ImageError)


@pytest.mark.parametrize(
    ("name", "inputs", "says"),
    [
        ("vgg_like", images(side=5), "(1, 5, 5, 3)"),
        ("vgg_like", images(channels=1), "(1, 8, 8, 1)"),
        ("vgg_like", images()[..., 0], "(1, 8, 8)"),
        ("sequential", vectors := networks.vectors(), "(1, 5)"),
        ("subclassed", vectors, "(1, 5)"),
        ("subclassed", images(side=2), "(1, 2, 2, 3)"),
        ("two_inputs_list", [images(), vectors[:, :3]], "(1, 3)"),
    ],
)
def test_an_input_of_the_wrong_shape(name, inputs, says, network):
    text = refused(network(name).model, inputs)
    assert says in text


@pytest.mark.parametrize("inputs", [images(), [images()], {"image": images()}], ids=["array", "list", "dict"])
def test_an_input_that_is_missing(inputs, network):
    assert "vector" in refused(network("two_inputs_dict").model, inputs)


def test_an_output_that_is_no_list_of_classes():
    image = keras.Input((SIDE, SIDE, 3))
    model = settled(keras.Model(image, sequence(layers.Conv2D(4, 3, name="conv"), layers.Conv2D(2, 1))(image)))
    text = refused(model, images(), target=1)
    assert "not a list of class scores" in text
    assert "target=lambda outputs" in text
    result = cl.explain(model, images(), preprocess=None, layer="conv", target=lambda outputs: outputs[:, 2, 2, 1])
    assert result.raw.shape == (3, 6, 6)
    assert np.abs(result.raw).max() > 0


def test_an_output_that_does_not_exist(network):
    this = network("outputs_dict_first")
    text = refused(this.model, this.inputs, target=cl.targets.output("kind", 1))
    assert "no output 'kind'" in text
    assert "'colour', 'species'" in text
    this = network("gap")
    assert "single one" in refused(this.model, this.inputs, target=cl.targets.output("kind", 1))


@pytest.mark.parametrize("target", [CLASSES, 99, -1, -99, "top5", cl.targets.each([0, 1, CLASSES])], ids=str)
def test_a_class_that_is_out_of_range(target, network):
    this = network("vgg_like")
    text = refused(this.model, this.inputs, target=target)
    assert "out of range" in text or "negative" in text


@pytest.mark.parametrize("count", [1, 2, 4])
def test_targets_for_another_number_of_images(count, network):
    this = network("vgg_like")
    if count == 1:  # one target stands for all
        assert len(explained(this, target=cl.targets.each([1]))) == 3
        return
    text = refused(this.model, this.inputs, target=cl.targets.each([1] * count))
    assert f"{count} targets for 3 images" in text


@only_where_compiled
def test_a_model_that_only_runs_eagerly():
    class Doubting(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 3, name="conv")

        def call(self, inputs):
            A = ops.mean(self.conv(inputs), (1, 2))
            return A if ops.sum(A) > 0 else -A

    model = Doubting()
    model(images())
    assert {"tensorflow": "symbolic", "jax": "traced"}[ON] in refused(model, images())


def test_a_layer_that_yields_several_tensors():
    class Pair(layers.Layer):
        def call(self, inputs):
            return inputs, inputs * 2.0

    image = keras.Input((SIDE, SIDE, 3))
    one, two = Pair(name="pair")(layers.Conv2D(4, 3, name="conv")(image))
    model = settled(keras.Model(image, sequence(GAP(), DENSE(4))(layers.Add()([one, two]))))
    assert "several tensors" in refused(model, images(), ConditionError, layer="pair")


@pytest.mark.parametrize("model", [object(), "text"], ids=["object", "text"])
def test_what_is_no_model(model):
    with pytest.raises(RequestError, match="cannot be explained; give a Keras model"):
        engine_for(model)
