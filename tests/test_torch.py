"""The engine for torch, held against networks whose two halves are written out by hand."""

import gc
import threading
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.overrides import _get_current_function_mode_stack  # noqa: E402

import camlucida as cl  # noqa: E402
from camlucida.engines import Probes, engine_for  # noqa: E402
from camlucida.errors import CamlucidaError, ConditionError, ModelError, RequestError, UnknownNameError  # noqa: E402
from camlucida.trees import mapped  # noqa: E402
from torch_networks import CLASSES, SIDE, TWINS, images, named, pool, settled  # noqa: E402
from torch_ways import WAYS  # noqa: E402

pytestmark = [  # torch 2.13 of its own parts
    pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

NETWORKS = TWINS | WAYS
HALF_PRECISION = {"mixed_bfloat16": 2e-2}


def explained(network, **request):
    """The explanations of all three inputs, at the layer that the network is about."""
    request = {"layer": "auto" if network.auto else network.layer, "target": "top1", **request}
    if network.output is not None and isinstance(request["target"], int | str):
        request["target"] = cl.targets.output(network.output, request["target"])
    return cl.explain(network.model, network.inputs, preprocess=None, **request)


def tensors(network):
    dtype = next(network.model.parameters()).dtype
    return mapped(lambda x: torch.tensor(x).to(dtype), network.inputs)


def scores(network):
    """What the halves, one after the other, make of the inputs."""
    inputs = tensors(network)
    with torch.no_grad():
        return network.tail(network.trunk(inputs), inputs).float().numpy()


def host(x):
    return x.detach().float().cpu().numpy()


def reference(network, classes=None):
    """Grad-CAM of one class per image: the channels' average gradients times the activations, `(B, *grid)`."""
    inputs = tensors(network)
    with torch.no_grad():
        A = network.trunk(inputs)
    A = A.clone().requires_grad_()
    z = network.tail(A.clone(), inputs).float()
    picked = z.max(-1).values if classes is None else z[range(len(z)), classes]
    (G,) = torch.autograd.grad(picked.sum(), A)
    A, G = (np.moveaxis(host(x), network.axis, -1) for x in (A, G))
    return (A * G.mean(axis=tuple(range(1, A.ndim - 1)), keepdims=True)).sum(-1)


def assert_close(ours, theirs, tolerance=1e-4):
    """Equal up to a share of the largest value, and not both nothing."""
    scale = np.abs(theirs).max()
    assert scale > 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def untouched(model):
    """Everything of a model, and of torch in this thread, that a call could change, to be compared with itself."""
    everything = list(model.named_modules())
    return {
        "parameters": [
            (name, id(p), p.detach().clone().view(torch.uint8).numpy().tobytes(), p.requires_grad, p._version)
            for name, p in model.named_parameters()
        ],
        "gradients": [p.grad for p in model.parameters()],
        "buffers": [(name, id(b), host(b).tobytes(), b._version) for name, b in model.named_buffers()],
        "modules": [(name, id(m), type(m), m.training, sorted(vars(m))) for name, m in everything],
        "hooks": [[dict(hooks) for kind, hooks in sorted(vars(m).items()) if "_hooks" in kind] for _, m in everything],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), _get_current_function_mode_stack()),
    }  # fmt: skip


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
def test_the_halves_are_the_model(name, network):
    """The reference itself: the halves lead to the model's own answer, up to its last activation."""
    this = network(name)
    inputs = tensors(this)
    with torch.no_grad():
        copies = mapped(torch.clone, inputs)
        if isinstance(copies, dict):
            answer = this.model(**copies)
        else:
            answer = this.model(*copies) if isinstance(copies, tuple) else this.model(copies)
    if callable(this.output):
        answer = this.output(answer)
    elif not isinstance(answer, torch.Tensor):
        name = this.output or "logits"
        if name.isdecimal():
            answer = answer[int(name)]
        else:
            answer = answer[name] if isinstance(answer, dict) else getattr(answer, name)
    z = torch.tensor(scores(this))
    forms = [z, torch.softmax(z, -1), torch.log_softmax(z, -1), torch.sigmoid(z), torch.sigmoid(z[:, 1:]), torch.exp(z)]
    tolerance = HALF_PRECISION.get(name, 1e-5)
    assert any(form.shape == answer.shape and torch.allclose(form, answer.float(), tolerance, tolerance)
               for form in forms)  # fmt: skip


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
    wanted, tolerance = scores(this), HALF_PRECISION.get(name, 1e-5)
    np.testing.assert_allclose([item.answer.outputs for item in result], wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose([item.score for item in result], wanted.max(-1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_class_can_be_the_target(name, network):
    this = network(name)
    last = scores(this).shape[-1] - 1
    result = explained(this, target=last)
    assert_close(result.raw, reference(this, [last] * 3), HALF_PRECISION.get(name, 1e-4))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_untouched(name):
    this = NETWORKS[name]()
    before = untouched(this.model)
    explained(this, method=["grad-cam", "grad-cam++", "score-cam", "rise?masks=3", "occlusion"])
    assert untouched(this.model) == before


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("name", ["gap", "vgg_like", "reused_relu", "recurrent", "two_inputs_dict", "one_sigmoid"])
def test_score_cam_is_a_loop_of_plain_passes(name, variant, network):
    """One channel after the other: its map, resized by torch and scaled, times the image."""
    this = network(name)
    inputs = tensors(this)
    image = inputs["image"] if isinstance(inputs, dict) else inputs
    weights = []
    with torch.no_grad():
        A = this.trunk(inputs)
        classes = this.tail(A, inputs).argmax(-1)
        for channel in A.split(1, dim=1):
            mask = F.interpolate(channel, image.shape[2:], mode="bilinear")
            low, high = mask.amin((2, 3), keepdim=True), mask.amax((2, 3), keepdim=True)
            varies = high > low
            masked = image * torch.where(varies, (mask - low) / torch.where(varies, high - low, 1.0), 0.0)
            masked = {**inputs, "image": masked} if isinstance(inputs, dict) else masked
            z = this.tail(this.trunk(masked), masked)
            p = torch.sigmoid(z) if name == "one_sigmoid" else torch.softmax(z, -1)
            weights.append(torch.where(varies[:, 0, 0, 0], p[range(3), classes], 0.0) if variant == "official"
                           else z[range(3), classes])  # fmt: skip
        w = torch.stack(weights, 1) if variant == "official" else torch.softmax(torch.stack(weights, 1), 1)
        wanted = host((w[:, :, None, None] * A).sum(1))
    found = cl.explain(this.model, this.inputs, preprocess=None, layer=this.layer, method="score-cam", variant=variant)
    assert_close(found.raw, wanted)


def test_methods_that_look_at_no_layer(network):
    """RISE and occlusion need nothing but scores: occluding what is read lowers the score."""
    this = network("gap")
    result = explained(this, method=["rise?masks=20", "occlusion"], target=1)
    assert {item.layer for item in result} == {"input"}
    assert {item.raw.shape for item in result} == {(SIDE, SIDE)}
    assert all(np.ptp(item.raw) > 0 for item in result)


# Ends


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("gap", "the softmax of 'head' is set aside"),
        ("softmax_layer", "the softmax of 'softmax' is set aside"),
        ("softmax_function", "the softmax of 'softmax()' is set aside"),
        ("softmax_method", "the softmax of 'softmax()' is set aside"),
        ("plain_sequential", "the softmax of '5' is set aside"),
        ("log_softmax_method", "the log_softmax of 'log_softmax()' is set aside"),
        ("one_sigmoid", "the sigmoid of 'head' is set aside"),
        ("sigmoid_function", "the sigmoid of 'sigmoid()' is set aside"),
        ("mobilenet_like", "the softmax of 'predictions' is set aside"),
        ("no_softmax", "ends without a softmax"),
        ("model_output", "the softmax of 'species' is set aside"),
        ("average_of_two_softmaxes", "cannot be opened: the log-probability is explained"),
    ],
)
def test_a_note_says_what_was_done_about_the_end(name, note, network):
    this = network(name)
    anatomy = engine_for(this.model).anatomy(this.inputs, this.output)
    (said,) = anatomy.notes + anatomy.logit_notes
    assert note in said


def test_regression_needs_no_note(network):
    anatomy = engine_for(network("regression").model).anatomy(images())
    assert anatomy.notes + anatomy.logit_notes == ()


@pytest.mark.parametrize("name", ["one_sigmoid", "sigmoid_function", "sigmoid_method"])
def test_one_sigmoid_unit_is_two_classes_with_opposite_maps(name, network):
    this = network(name)
    result = explained(this, target=[0, 1])
    off, on = result.select(target=0), result.select(target=1)
    assert_close(off.raw, -on.raw, 1e-6)
    with torch.no_grad():
        answer = host(this.model(tensors(this)))[:, 0]
    for no, yes, p in zip(off, on, answer, strict=True):
        assert yes.probability == pytest.approx(p, rel=1e-5)
        assert no.probability == pytest.approx(1 - p, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "squash"),
    [
        ("gap", lambda z: torch.softmax(z, -1)),
        ("log_softmax", lambda z: torch.softmax(z, -1)),
        ("no_softmax", lambda z: torch.softmax(z, -1)),
        ("multi_label", torch.sigmoid),
    ],
)
def test_the_gradient_of_a_probability(name, squash, network):
    this = network(name)
    inputs = tensors(this)
    A = this.trunk(inputs).detach().requires_grad_()
    probabilities = squash(this.tail(A, inputs))
    (G,) = torch.autograd.grad(probabilities[:, 2].sum(), A)
    wanted = host((A * G.mean((2, 3), keepdim=True)).sum(1))
    result = explained(this, score="probability", target=2)
    assert_close(result.raw, wanted)
    np.testing.assert_allclose([item.score for item in result], host(probabilities)[:, 2], rtol=1e-5)


@pytest.mark.parametrize(
    "end",
    [
        lambda z: 2 * torch.softmax(z, 1),
        lambda z: torch.softmax(z, 1) - 0.1,
        lambda z: torch.softmax(z[None], 0)[0] + z,
        lambda z: torch.sigmoid(z) * z,
        lambda z: torch.softmax(z, 1)[:, 1:3],
        lambda z: torch.sigmoid(z)[:, :2].flip(1)[:, :2],
    ],
    ids=["doubled", "shifted", "over the batch", "swish", "some classes", "some labels"],
)
def test_an_activation_that_is_not_the_end_is_left_alone(end):
    model = settled(named(conv=nn.Conv2d(3, 5, 3), gap=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(5, 4)))
    whole = Ended(model, end)
    result = cl.explain(whole, images(), preprocess=None, target=1)
    with torch.no_grad():
        np.testing.assert_allclose([item.answer.outputs for item in result], host(whole(torch.tensor(images()))), 1e-5)
    assert not any("set aside" in note for note in result[0].notes)


class Ended(nn.Module):
    def __init__(self, body, end):
        super().__init__()
        self.body, self.end = body, end
        self.eval()

    def forward(self, x):
        return self.end(self.body(x))


# Several outputs, layers and targets


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


def test_an_output_that_does_not_exist(network):
    said = refused(network("outputs_dict_first").model, images(), target=cl.targets.output("kind", 1))
    assert "no output 'kind'; it has 'colour', 'species'" in said
    assert "single one" in refused(network("gap").model, images(), target=cl.targets.output("kind", 1))


def test_a_function_that_picks_no_tensor(network):
    this = network("outputs_dict_first")
    assert "picks list" in refused(this.model, images(), target=cl.targets.output(list, 1))


def test_a_layer_that_the_output_does_not_depend_on(network):
    with pytest.raises(ConditionError, match="does not depend on layer 'conv5'"):
        explained(network("outputs_dict_first"), layer="conv5")


def test_several_layers_in_one_pass(network):
    first, second = network("shared_first"), network("shared_second")
    result = cl.explain(first.model, first.inputs, preprocess=None, layer=["conv", "conv#2"])
    assert_close(result.select(layer="conv").raw, reference(first))
    assert_close(result.select(layer="conv#2").raw, reference(second))


def test_several_layers_of_a_block_in_one_pass(network):
    names = ["reused_relu_first", "reused_relu_second", "reused_relu"]
    layers = [network(name).layer for name in names]
    result = cl.explain(network(names[0]).model, images(), preprocess=None, layer=layers)
    for name, layer in zip(names, layers, strict=True):
        assert_close(result.select(layer=layer).raw, reference(network(name)))


def test_both_tensors_of_one_layer_in_one_pass(network):
    first, second = network("tuple_layer_first"), network("tuple_layer_second")
    result = cl.explain(first.model, images(), preprocess=None, layer=["pair[0]", "pair[1]"])
    assert_close(result[0].raw, reference(first)[0])
    assert_close(result[1].raw, reference(second)[0])


def test_layers_are_given_as_paths_ends_of_paths_and_modules(network):
    this = network("nested_twice")
    engine = engine_for(this.model)
    for given in (this.model.outer.inner.conv, "conv", "outer.inner.conv"):
        assert engine.resolve(given, this.inputs) == "outer.inner.conv"
    assert_close(explained(this, layer=this.model.outer.inner.conv).raw, reference(this))


def test_another_target_for_each_image(network):
    this = network("vgg_like")
    result = explained(this, target=cl.targets.each([2, 0, 3]))
    assert_close(result.raw, reference(this, [2, 0, 3]))


def test_a_function_and_a_difference_as_targets(network):
    this = network("vgg_like")
    result = explained(this, target=[cl.targets.difference(1, 2), lambda outputs: outputs[:, 1] - outputs[:, 2]])
    wanted = reference(this, [1] * 3) - reference(this, [2] * 3)
    assert_close(result.raw[::2], wanted)
    assert_close(result.raw[1::2], wanted)


@pytest.mark.parametrize("name", ["functional", "vgg_like", "recurrent", "mixed_bfloat16", "no_grad_backbone"])
def test_an_image_is_explained_alike_alone_and_among_others(name, network):
    this = network(name)
    together = explained(this, method=["grad-cam", "grad-cam++"])
    alone = [
        cl.explain(this.model, this.inputs[i : i + 1], preprocess=None, layer=this.layer, method=methods)
        for i in range(3)
        for methods in [["grad-cam", "grad-cam++"]]
    ]
    assert_close(np.concatenate([one.raw for one in alone]), together.raw, HALF_PRECISION.get(name, 1e-5))


def test_another_size_of_the_input(network):
    """What was seen of one size is not taken for true of another."""
    model = network("reused_relu").model
    small, large = (cl.explain(model, images(side=side), preprocess=None) for side in (8, 12))
    assert small[0].raw.shape == (6, 6)
    assert large[0].raw.shape == (10, 10)


# Layers that cannot be explained


def test_a_layer_that_yields_several_tensors(network):
    said = refused(network("tuple_layer_first").model, images(), ConditionError, layer="pair")
    assert "'pair[0]' (grid 6x6)" in said
    assert "'pair[1]' (grid 4x4)" in said


def test_the_items_of_a_recurrent_layer_without_a_grid(network):
    said = refused(network("recurrent").model, images(), ConditionError, layer="lstm")
    assert "several tensors" in said
    assert "lstm[0]" in said


def test_a_layer_of_another_model(network):
    said = refused(network("gap").model, images(), layer=network("vgg_like").model.conv2)
    assert "'Conv' is not reached" in said


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.spare = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def test_a_module_that_is_not_reached():
    model = settled(Lazy())
    assert "is not reached" in refused(model, images(), layer=model.spare)
    assert "unknown layer 'spare'" in refused(model, images(), UnknownNameError, layer="spare")


class Fickle(nn.Module):
    """Goes another way for more than one image."""

    def __init__(self):
        super().__init__()
        self.one, self.many = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return (self.one if len(x) == 1 else self.many)(x).mean((2, 3))


def test_a_layer_that_is_reached_for_one_image_only():
    said = refused(settled(Fickle()), images(), ConditionError, layer="one")
    assert "'one' is not reached" in said


def test_an_unknown_layer_comes_with_the_nearest(network):
    assert "did you mean 'conv2'" in refused(network("vgg_like").model, images(), UnknownNameError, layer="conv_2")


def test_a_layer_without_a_grid(network):
    assert "'gap' has no grid" in refused(network("gap").model, images(), layer="gap")


def test_a_model_without_a_convolution():
    model = settled(nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4)))
    assert "no layer with a grid" in refused(model, images(), ConditionError)


# Modes and precisions


@pytest.mark.parametrize("name", ["gap", "reused_relu", "inplace_arithmetic", "no_grad_backbone", "recurrent"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_whatever_mode_it_is_called_in(name, mode, network):
    this = network(name)
    wanted = reference(this)
    with mode():
        found = explained(this).raw
    assert_close(found, wanted)


def test_frozen_parameters():
    this = NETWORKS["reused_relu"]()
    this.model.requires_grad_(False)
    before = untouched(this.model)
    assert_close(explained(this).raw, reference(this))
    assert untouched(this.model) == before


def test_parameters_that_hold_a_gradient_keep_it():
    this = NETWORKS["reused_relu"]()
    this.model(tensors(this)).sum().backward()
    held = [p.grad.clone() for p in this.model.parameters()]
    explained(this, method=["grad-cam", "score-cam"])
    assert all(torch.equal(p.grad, g) for p, g in zip(this.model.parameters(), held, strict=True))


@pytest.mark.parametrize("name", ["subclassed_training", "reused_relu"])
def test_training_mode_is_set_aside_and_put_back(name):
    """Dropout and batch statistics are not used, running averages not moved; each flag is what it was."""
    this = NETWORKS[name]()
    wanted = reference(this)
    this.model.train()
    first = next(iter(this.model.children()))
    first.eval()
    before = untouched(this.model)
    assert_close(explained(this).raw, wanted)
    assert untouched(this.model) == before
    with pytest.raises(ZeroDivisionError):
        explained(this, target=raising)
    assert untouched(this.model) == before


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 4e-2), (torch.float16, 6e-3), (torch.float64, 1e-5)])
@pytest.mark.parametrize("name", ["reused_relu", "vgg_like"])
def test_weights_of_another_precision(name, dtype, tolerance):
    this = NETWORKS[name]()
    wanted = reference(this)
    this.model.to(dtype)
    result = explained(this, method=["grad-cam", "score-cam?channels=2"])
    assert result.raw.dtype == np.float32
    assert np.isfinite(result.raw).all()
    assert_close(result.select(method="grad-cam").raw, wanted, tolerance)


def test_double_precision_is_used_where_the_model_has_it():
    """The answer agrees with the model's own to more digits than single precision has room for."""
    this = NETWORKS["vgg_like"]()
    this.model.double()
    with torch.no_grad():
        own = this.model(torch.tensor(this.inputs).double()).float().numpy()
    np.testing.assert_array_equal([item.answer.probabilities for item in explained(this)], own)


def test_autocast(network):
    this = network("vgg_like")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = explained(this)
    assert_close(result.raw, reference(this), 4e-2)
    assert not np.allclose(result.raw, reference(this), rtol=1e-4, atol=1e-6)


def test_a_part_in_half_precision():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

        def forward(self, x):
            return self.fc(pool(torch.relu(self.conv(x))).float())

    model = settled(Mixed())
    wanted = cl.explain(model, images(), preprocess=None).raw
    model.conv.to(torch.bfloat16)
    assert_close(cl.explain(model, images(), preprocess=None, method=["grad-cam"]).raw, wanted, 4e-2)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrapped_models_are_unwrapped(wrap, network):
    this = network("reused_relu")
    wrapped = wrap(this.model)
    result = cl.explain(wrapped, images(), preprocess=None)
    assert {item.layer for item in result} == {"block"}
    assert_close(result.raw, reference(this))
    assert engine_for(wrapped) is engine_for(this.model)


def test_a_compiled_part_runs_as_it_was_written():
    this = NETWORKS["reused_relu"]()
    wanted = reference(this)
    model = nn.Sequential(torch.compile(nn.Sequential(this.model.stem, this.model.block)), this.model.avgpool,
                          nn.Flatten(), this.model.fc)  # fmt: skip
    assert_close(cl.explain(model, images(), preprocess=None).raw, wanted)
    inner = torch.compile(this.model.block)
    this.model.block = inner
    assert_close(cl.explain(this.model, images(), preprocess=None).raw, wanted)
    assert this.model.block is inner


def scripted(model):
    return torch.jit.script(model)


def traced(model):
    return torch.jit.trace(model, torch.tensor(images()))


@pytest.mark.parametrize("close", [scripted, traced])
def test_torch_script_is_closed_to_all_that_looks_inside(close):
    this = NETWORKS["plain_sequential"]()
    model = close(this.model)
    for method in ("cam", "grad-cam", "grad-cam++", "score-cam"):
        said = refused(model, images(), ConditionError, method=method)
        assert "rise" in said
        assert "occlusion" in said
    ours, theirs = (
        cl.explain(m, images(), preprocess=None, method=["rise?masks=20", "occlusion"], score="probability")
        for m in (model, this.model)
    )
    assert_close(ours.raw, theirs.raw, 1e-5)


def test_a_part_in_torch_script():
    """What is around it can be explained."""
    this = NETWORKS["plain_sequential"]()
    model = nn.Sequential(this.model[:2], scripted(this.model[2:]))
    result = cl.explain(model, images(), preprocess=None, layer="0.1", score="probability")
    theirs = explained(this, score="probability").raw
    assert_close(result.raw, theirs)


@pytest.mark.parametrize("name", ["plain_sequential", "reused_relu", "gap"])
def test_exported_programs(name):
    this = NETWORKS[name]()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(this.model, (torch.tensor(images()),), dynamic_shapes=({0: batch},))
    wanted = reference(this)
    flat = cl.explain(program.module(), images(), preprocess=None)
    assert_close(flat.raw, wanted)
    unflattened = torch.export.unflatten(program)
    found = cl.explain(unflattened, images(), preprocess=None)
    assert_close(found.raw, wanted)


def test_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "device 'meta'" in refused(model, images(), ModelError)


def test_an_input_in_the_wrong_order(network):
    last = np.moveaxis(images(side=9), 1, -1)
    said = refused(network("reused_relu").model, last)
    assert "give (1, 3, 9, 9)" in said
    assert "x.transpose(0, 3, 1, 2)" in said


def test_whole_numbers_are_refused_in_one_line(network):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, SIDE, SIDE)).astype("uint8")
    said = refused(network("gap").model, pixels)
    assert "fails on an input" in said


def test_a_network_that_scales_whole_numbers_itself():
    class Bytes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

        def forward(self, x):
            return self.fc(pool(torch.relu(self.conv(x / 255 if x.dtype == torch.uint8 else x))))

    model = settled(Bytes())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, SIDE, SIDE)).astype("uint8")
    scaled = pixels.astype("float32") / 255
    assert_close(*(cl.explain(model, x, preprocess=None, method=["cam", "grad-cam"]).raw for x in (pixels, scaled)))


def test_a_model_that_writes_to_its_input():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

        def forward(self, x):
            x -= 0.5
            x.mul_(2)
            return self.fc(pool(torch.relu(self.conv(x))))

    model = settled(Writing())
    given = images()
    kept = given.copy()
    result = cl.explain(model, given, preprocess=None, method=["grad-cam", "score-cam", "rise?masks=4"])
    np.testing.assert_array_equal(given, kept)
    with torch.no_grad():
        own = host(model(torch.tensor(kept)))
    np.testing.assert_allclose(result[0].answer.outputs, own[0], rtol=1e-5)
    tensor = torch.tensor(kept)
    cl.explain(model, tensor, preprocess=None)
    np.testing.assert_array_equal(tensor, kept)


def test_inputs_as_tensors(network):
    this = network("vgg_like")
    given = torch.tensor(this.inputs, requires_grad=True)
    assert_close(cl.explain(this.model, given, preprocess=None).raw, reference(this))
    assert given.grad is None


# Answers that are no scores


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.conv, self.answer = nn.Conv2d(3, 4, 3), answer
        settled(self)

    def forward(self, x):
        return self.answer(self.conv(x))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: ["a cat", "a dog", "a cat"], "no tensor"),
        (lambda x: {"label": "a cat"}, "no tensor"),
        (lambda x: None, "no tensor"),
        (lambda x: {}, "no tensor"),
        (lambda x: x, "not a list of class scores"),
        (lambda x: x.mean((1, 2, 3)), "not a list of class scores"),
        (lambda x: x.mean(), "not a list of class scores"),
        (lambda x: x.mean((2, 3)).argmax(1), "not a list of class scores"),
    ],
    ids=["text", "dict of text", "None", "empty", "map", "one number each", "one number", "classes"],
)
def test_an_answer_that_is_no_list_of_scores(answer, says):
    assert says in refused(Answering(answer), images(), target=1)


def test_whole_numbers_as_scores():
    """Votes, say: there is no gradient to be had of them."""
    model = Answering(lambda x: (x.mean((2, 3)) * 10).round().long())
    said = refused(model, images(), ConditionError, target=1, layer="conv")
    assert "does not depend on layer 'conv'" in said


def test_a_map_with_a_function_for_a_target():
    model = Answering(lambda x: torch.cat([x, -x], 1))
    result = cl.explain(model, images(), preprocess=None, layer="conv", target=lambda outputs: outputs[:, 5, 2, 2])
    with torch.no_grad():
        A = model.conv(torch.tensor(images()))
    np.testing.assert_allclose(result.raw, -host(A)[:, 1] / 36, rtol=1e-4, atol=1e-6)


def test_an_answer_for_another_number_of_images():
    model = Answering(lambda x: x.mean((2, 3))[:1])
    assert "answers 3 images with an array of shape (1, 4)" in refused(model, images(), target=1)
    one = Answering(lambda x: x.mean())
    assert "shape ()" in refused(one, images(), target=lambda outputs: outputs)


def test_a_model_that_overwrites_what_a_gradient_needs():
    """It runs where nothing is recorded, and torch itself cannot differentiate it."""

    def answer(x):
        x += x * x
        return x.mean((2, 3))

    said = refused(Answering(answer), images(), ConditionError, target=1, layer="conv")
    assert "no gradient can be taken" in said
    assert "score-cam" in said
    cl.explain(Answering(answer), images(), preprocess=None, target=1, layer="conv", method="score-cam")


# The model after failures


def raising(outputs):
    raise ZeroDivisionError("a target that fails")


class Exploding(nn.Module):
    """Fails at the end of its second run."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.runs = nn.Conv2d(3, 5, 3), nn.Linear(5, 4), 0
        settled(self)

    def forward(self, x):
        self.runs += 1
        x = self.fc(pool(self.conv(x)))
        if self.runs == 2:
            raise MemoryError
        return x


@pytest.mark.parametrize(
    ("name", "request_", "error"),
    [
        ("vgg_like", {"layer": "conv9"}, UnknownNameError),
        ("vgg_like", {"layer": "conv1#2"}, UnknownNameError),
        ("vgg_like", {"method": "cam"}, ConditionError),
        ("vgg_like", {"target": raising}, ZeroDivisionError),
        ("vgg_like", {"target": CLASSES}, RequestError),
        ("reused_relu", {"target": raising, "method": ["grad-cam", "score-cam"]}, ZeroDivisionError),
        ("reused_relu", {"target": raising, "method": ["cam", "grad-cam"]}, ConditionError),
        ("no_grad_backbone", {"target": raising}, ZeroDivisionError),
        ("inference_backbone_deep", {"target": raising}, ZeroDivisionError),
        ("outputs_dict_first", {"layer": "conv5"}, ConditionError),
    ],
)
def test_the_model_is_untouched_after_a_failure(name, request_, error):
    this = NETWORKS[name]()
    this.model.train()
    before = untouched(this.model)
    with pytest.raises(error):
        explained(this, **request_)
    assert untouched(this.model) == before
    this.model.eval()
    assert_close(explained(this).raw, reference(this))


def test_a_failure_in_the_middle_of_a_run():
    model = Exploding().train()
    before = untouched(model)
    said = refused(model, images())
    assert "MemoryError" in said
    model.runs = 0
    assert untouched(model) == before


@pytest.mark.parametrize(
    "inputs", [images(side=2), images(channels=1), images()[:, :, :, 0]], ids=["small", "grey", "no columns"]
)
def test_an_input_that_does_not_fit_leaves_the_model_untouched(inputs):
    this = NETWORKS["vgg_like"]()
    before = untouched(this.model)
    said = refused(this.model, inputs)
    assert str((1, *inputs.shape[1:])) in said
    assert untouched(this.model) == before


def test_modes_around_a_failure():
    """Whatever mode a failing call is made in, that mode is what is left."""
    this = NETWORKS["vgg_like"]()
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            before = untouched(this.model)["modes"]
            with pytest.raises(ZeroDivisionError):
                explained(this, target=raising)
            assert untouched(this.model)["modes"] == before


# What passes are made


class Counting(nn.Module):
    """Counts the rows of its forward passes, and its backward passes by a function of autograd in the trunk."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.late = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1)
        self.head, self.runs, self.back = nn.Linear(6, 4), [], {"trunk": 0, "tail": 0}
        settled(self)

    def forward(self, x):
        self.runs.append(len(x))
        x = Watched.apply(self.first(x), self.back, "trunk")
        x = Watched.apply(self.late(self.conv(x)), self.back, "tail")
        return self.head(pool(torch.relu(x)))


class Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, back, name):
        ctx.back, ctx.name = back, name
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.back[ctx.name] += 1
        return gradient, None, None


def test_one_forward_pass_for_all_methods_and_targets():
    model = Counting()
    methods = ["grad-cam", "grad-cam++", "grad-cam++?variant=official"]
    explainer = cl.Explainer(model, method=methods, target=[0, 1, "top1"], preprocess=None, layer="conv")
    explainer(images())
    model.runs.clear()
    model.back.update(trunk=0, tail=0)
    assert len(explainer(images())) == 27
    assert model.runs == [3]
    assert model.back == {"trunk": 0, "tail": 3}


def test_the_backward_pass_ends_at_the_layer():
    """Convolutions that run backward: those behind the layer, by their inputs and never by their kernels."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append((func.__name__, args[-1] if "backward" in func.__name__ else None))
            return func(*args, **(kwargs or {}))

    model = Counting()
    explainer = cl.Explainer(model, preprocess=None, layer="conv", target=[0, 1])
    explainer(images())
    with Watch():
        explainer(images())
    assert len([name for name, _ in seen if name.startswith("convolution.")]) == 3
    assert [mask for name, mask in seen if name.startswith("convolution_backward")] == [[True, False, False]] * 2


def test_probes_pass_in_batches_and_only_once():
    model = Counting()
    methods = ["cam", "grad-cam", "score-cam"]
    explainer = cl.Explainer(model, method=methods[1:], target=[0, 1, 2], preprocess=None, layer="conv", batch_size=10)
    explainer(images())
    model.runs.clear()
    explainer(images())
    assert model.runs == [3, 10, 8]  # 3 images of 6 channels, for all three targets at once
    assert model.back["trunk"] == 0


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


@pytest.mark.parametrize("name", ["vgg_like", "reused_relu", "no_grad_backbone", "functional_relu"])
def test_threads_that_use_one_model_do_not_notice_each_other(name):
    this = NETWORKS[name]()
    given = torch.tensor(this.inputs)
    with torch.no_grad():
        plain = this.model(given)
    before = untouched(this.model)
    wanted = {target: reference(this, [target] * 3) for target in range(CLASSES)}
    found, answers, stop = {}, [], threading.Event()

    def explain(targets):
        try:
            for round_ in range(8):
                for target in targets:
                    # Another size of batch each time, so that every round is a new dry run while others work.
                    side = 8 + round_
                    cl.explain(this.model, images(side=side), preprocess=None, layer=this.layer)
                    found[target, round_] = explained(this, target=target).raw
        finally:
            stop.set()

    def predict():
        while not stop.is_set():
            with torch.inference_mode():
                answers.append(this.model(given))

    works = [lambda: explain([0, 1]), predict]
    if name != "vgg_like":  # whose dense layer takes one size
        in_threads(works[0], lambda: explain([2, 3]), works[1])
    for (target, _), raw in found.items():
        assert_close(raw, wanted[target])
    for answer in answers:
        torch.testing.assert_close(answer, plain)
    assert untouched(this.model) == before


def test_a_thread_between_two_steps_of_placing_a_hook():
    """A hook that another thread meets while it is being placed or taken away does not fail there."""
    this = NETWORKS["vgg_like"]()
    met = []

    class Meeting(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            hooks = [*self.inner.conv1._forward_pre_hooks.values()]

            def other():  # what torch does where it knows of a hook, and not yet or no longer of its keywords
                met.extend(hook(self.inner.conv1, (x,)) for hook in hooks)

            in_threads(other)
            return self.inner(x)

    cl.explain(Meeting(this.model), images(), preprocess=None)
    assert met
    assert set(met) == {None}


class Meeting(nn.Module):
    """Runs its parts, and waits before the second of them until somebody lets that thread go on."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.arrived, self.go = {}, {}

    def expect(self, name):
        self.arrived[name], self.go[name] = threading.Event(), threading.Event()

    def forward(self, x):
        name = threading.current_thread().name
        for i, part in enumerate(self.parts):
            if i == 1 and name in self.go:
                self.arrived[name].set()
                assert self.go[name].wait(30)
            x = part(x)
        return x


def overlapping(first, second):
    """Two explanations, of which the second begins and the first ends while the other is within the model."""
    found = {}

    def run(model, name):
        found[name] = cl.explain(model, images(), preprocess=None, target=1).raw

    works = {"first": first, "second": second}
    threads = {name: threading.Thread(target=run, args=(model, name), name=name) for name, model in works.items()}
    for name, model in works.items():
        model.expect(name)
        threads[name].start()
        assert model.arrived[name].wait(30)
    for name, model in works.items():
        model.go[name].set()
        threads[name].join()
    return found["first"], found["second"]


def trained_parts():
    return [settled(part) for part in (
        nn.Conv2d(3, 5, 3), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(5)),
        nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    )]  # fmt: skip


def test_threads_with_a_model_in_training():
    """One that ends while another is at work does not switch dropout on under it."""
    model = Meeting(*trained_parts()).eval()
    wanted = cl.explain(model, images(), preprocess=None, target=1).raw
    model.train()
    before = untouched(model)
    first, second = overlapping(model, model)
    assert_close(first, wanted, 1e-6)
    assert_close(second, wanted, 1e-6)
    model.arrived.clear()
    model.go.clear()
    assert untouched(model) == before


def test_threads_with_two_models_that_share_modules_in_training():
    parts = trained_parts()
    models = [Meeting(*parts).eval() for _ in range(2)]
    wanted = [cl.explain(model, images(), preprocess=None, target=1).raw for model in models]
    for model in models:
        model.train()
    for found, right in zip(overlapping(*models), wanted, strict=True):
        assert_close(found, right, 1e-6)
    assert all(module.training for model in models for module in model.modules())


# Life and death


def test_an_engine_is_made_once_per_model(network):
    model = network("gap").model
    assert engine_for(model) is engine_for(model)
    assert engine_for(model) is not engine_for(network("vgg_like").model)


@pytest.mark.parametrize("name", ["gap", "nested_twice", "reused_relu", "no_grad_backbone_deep", "recurrent"])
def test_a_model_is_freed_with_its_engine(name):
    this = NETWORKS[name]()
    result = explained(this, method=["grad-cam", "grad-cam++", "score-cam"], target=["top1", lambda z: z[:, 0]])
    model, engine = weakref.ref(this.model), weakref.ref(engine_for(this.model))
    del this
    gc.collect()
    assert model() is None
    assert engine() is None
    assert len(result) == 18


def test_a_model_is_freed_whose_parts_know_it():
    """As where a hook of its own is a method of the model."""

    class Observing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc, self.seen = nn.Conv2d(3, 5, 3), nn.Linear(5, 4), []
            self.conv.register_forward_hook(self.see)
            settled(self)

        def see(self, module, args, result):
            self.seen.append(result.shape)

        def forward(self, x):
            return self.fc(pool(torch.relu(self.conv(x))))

    model = Observing()
    cl.explain(model, images(), preprocess=None, method=["cam", "grad-cam"])
    assert model.seen
    known = weakref.ref(model)
    del model
    gc.collect()
    assert known() is None


def test_an_engine_keeps_no_inputs_and_no_tensors():
    this = NETWORKS["reused_relu"]()
    inputs = images()
    cl.explain(this.model, inputs, preprocess=None, method=["cam", "grad-cam", "score-cam"])
    gc.collect()
    kept = weakref.ref(inputs)
    del inputs
    gc.collect()
    assert kept() is None
    own = {id(x) for x in (*this.model.parameters(), *this.model.buffers())}
    mine = engine_for(this.model)
    waiting, seen, found = [mine], set(), []
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | nn.Module | type(gc) | type(images)):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor) and id(thing) not in own:
            found.append(thing.shape)
        waiting += gc.get_referents(thing)
    assert found == []
    assert len(seen) > 20


def test_an_engine_outlives_its_model_with_a_clear_error():
    this = NETWORKS["gap"]()
    engine, inputs = engine_for(this.model), this.inputs
    del this
    gc.collect()
    with pytest.raises(CamlucidaError, match="no longer exists"):
        engine.anatomy(inputs)


@pytest.mark.parametrize("name", ["reused_relu", "no_grad_backbone"])
def test_nothing_grows_over_calls(name):
    this = NETWORKS[name]()
    explainer = cl.Explainer(this.model, method=["grad-cam", "score-cam?channels=2"], target=[0, "top1"],
                             preprocess=None, layer=this.layer)  # fmt: skip

    def objects():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(5):
        explainer(this.inputs)
    before = objects()
    for _ in range(200):
        explainer(this.inputs)
    assert objects() - before < 50


# Probes


@pytest.mark.parametrize("name", ["vgg_like", "two_inputs_dict", "image_last", "one_sigmoid", "log_softmax"])
def test_probes_are_scores_of_masked_inputs(name, network):
    this = network(name)
    rows = np.array([0, 0, 2, 1, 2], "int32")
    masks = np.random.default_rng(3).uniform(size=(5, 9)).astype("float32")
    classes = np.array([[1], [0], [1]], "int32")
    targets = (cl.targets.class_(1).bind(int, 2), cl.targets.top().bind(int, 2))
    found = engine_for(this.model).probe(this.inputs, Probes(rows, masks, (3, 3), targets, (classes, 1 - classes)))

    large = F.interpolate(torch.tensor(masks).reshape(-1, 1, 3, 3), (SIDE, SIDE), mode="bilinear")
    low, high = large.amin((1, 2, 3), keepdim=True), large.amax((1, 2, 3), keepdim=True)
    scaled = (large - low) / (high - low)
    inputs = mapped(lambda x: x[rows] * scaled if x.ndim == 4 else x[rows], tensors(this))
    with torch.no_grad():
        z = this.tail(this.trunk(inputs), inputs)
    p = torch.sigmoid(z) if name == "one_sigmoid" else torch.softmax(z, -1)
    picked = np.stack([classes[rows, 0], 1 - classes[rows, 0]])
    for kind, values in (("logit", z), ("probability", p)):
        np.testing.assert_allclose(found[kind], host(values)[np.arange(5), picked], rtol=2e-4, atol=2e-5)


# CAM and its condition


class Written(nn.Module):
    """One convolution, and what follows it written as a function of the model."""

    def __init__(self, after, **modules):
        super().__init__()
        self.conv, self.fc, self.one, self.after = nn.Conv2d(3, 5, 3), nn.Linear(5, 4), nn.Conv2d(5, 4, 1), after
        for name, module in modules.items():
            self.add_module(name, module)
        settled(self)

    def forward(self, x):
        return self.after(self, torch.relu(self.conv(x)))


def gap(x):
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


ACCEPTED = {
    "linear": lambda m, x: m.fc(gap(x)),
    "mean": lambda m, x: m.fc(x.mean(dim=(2, 3))),
    "mean, negative axes": lambda m, x: m.fc(x.mean((-1, -2))),
    "mean over flattened": lambda m, x: m.fc(x.flatten(2).mean(-1)),
    "mean, keepdim": lambda m, x: m.fc(x.mean((2, 3), keepdim=True)[:, :, 0, 0]),
    "torch.mean": lambda m, x: m.fc(torch.mean(x, (2, 3))),
    "whole average": lambda m, x: m.fc(F.avg_pool2d(x, 6).flatten(1)),
    "whole average by module": (lambda m, x: m.fc(torch.flatten(m.pool(x), 1)), {"pool": nn.AvgPool2d(6)}),
    "F.linear": lambda m, x: F.linear(gap(x), m.fc.weight, m.fc.bias),
    "F.linear by name": lambda m, x: F.linear(input=gap(x), bias=m.fc.bias, weight=m.fc.weight),
    "no bias": lambda m, x: F.linear(gap(x), m.fc.weight),
    "convolution before": lambda m, x: gap(m.one(x)),
    "convolution after": lambda m, x: m.one(F.adaptive_avg_pool2d(x, 1)).flatten(1),
    "softmax": lambda m, x: torch.softmax(m.fc(gap(x)), -1),
    "log_softmax": lambda m, x: F.log_softmax(m.fc(gap(x)), -1),
    "dropout": (lambda m, x: m.fc(m.drop(gap(m.drop2(x)))), {"drop": nn.Dropout(), "drop2": nn.Dropout2d()}),
    "two linear": (lambda m, x: m.fc(m.mid(gap(x))), {"mid": nn.Linear(5, 5)}),
    "channels last": lambda m, x: m.fc(x.permute(0, 2, 3, 1).mean((1, 2))),
    "linear before": lambda m, x: m.fc(x.permute(0, 2, 3, 1)).mean((1, 2)),
}


def model_of(entry):
    after, modules = entry if isinstance(entry, tuple) else (entry, {})
    return Written(after, **modules)


@pytest.mark.parametrize("name", ACCEPTED)
def test_cam_is_grad_cam_times_the_number_of_places(name):
    model = model_of(ACCEPTED[name])
    result = cl.explain(model, images(), preprocess=None, method=["cam", "grad-cam"], layer="relu()", target=[0, 2])
    assert_close(result.select(method="cam").raw, 36 * result.select(method="grad-cam").raw)


REFUSED = {
    "flatten": (lambda m, x: m.wide(x.flatten(1)), {"wide": nn.Linear(180, 4)}, "no global average pooling"),
    "pooling, then flatten": (
        lambda m, x: m.wide(F.avg_pool2d(x, 2).flatten(1)), {"wide": nn.Linear(45, 4)}, "avg_pool2d"),
    "maximum": (lambda m, x: m.fc(m.most(x).flatten(1)), {"most": nn.AdaptiveMaxPool2d(1)}, "'most'"),
    "hidden layer": (
        lambda m, x: m.fc(m.act(m.mid(gap(x)))), {"act": nn.ReLU(), "mid": nn.Linear(5, 5)}, "'act'"),
    "activation before": (lambda m, x: m.fc(gap(m.act(x))), {"act": nn.Hardswish()}, "'act'"),
    "normalisation": (lambda m, x: m.fc(m.norm(gap(x))), {"norm": nn.LayerNorm(5)}, "'norm'"),
    "larger convolution": (lambda m, x: gap(m.later(x)), {"later": nn.Conv2d(5, 4, 3)}, "'later'"),
    "strided": (lambda m, x: gap(m.later(x)), {"later": nn.Conv2d(5, 4, 1, stride=2)}, "'later'"),
    "padded": (lambda m, x: gap(m.later(x)), {"later": nn.Conv2d(5, 4, 1, padding=1)}, "'later'"),
    "groups": (lambda m, x: m.fc(gap(m.later(x))), {"later": nn.Conv2d(5, 5, 1, groups=5)}, "'later'"),
    "sum": (lambda m, x: m.fc(x.sum((2, 3))), {}, "sum"),
    "one axis": (lambda m, x: m.wide(x.mean(3).flatten(1)), {"wide": nn.Linear(30, 4)}, "mean"),
    "two branches": (lambda m, x: m.fc(gap(x)) + m.fc(x.amax((2, 3))), {}, "2 steps"),
    "scaled": (lambda m, x: m.fc(gap(x) * 2), {}, "mul"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_cam_names_what_stands_in_its_way(name):
    after, modules, obstacle = REFUSED[name]
    said = refused(Written(after, **modules), images(), ConditionError, method="cam", layer="relu()", target=0)
    assert obstacle in said
    assert "grad-cam works" in said


@pytest.mark.parametrize("name", ["one_sigmoid", "multi_label"])
def test_cam_of_sigmoids(name, network):
    this = network(name)
    result = explained(this, target=[0, 1], method=["cam", "grad-cam"])
    assert_close(result.select(method="cam").raw, result.select(method="grad-cam").raw * np.prod(this.grid))


@pytest.mark.parametrize("normalise", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_cam_with_weights_that_are_computed(normalise):
    model = model_of(ACCEPTED["linear"])
    normalise(model.fc)
    model.eval()
    before = untouched(model)
    result = cl.explain(model, images(), preprocess=None, method=["cam", "grad-cam"])
    assert_close(result.select(method="cam").raw, 36 * result.select(method="grad-cam").raw)
    assert untouched(model) == before


def test_cam_reads_the_weights_as_they_are_now():
    model = model_of(ACCEPTED["linear"])
    before = cl.explain(model, images(), preprocess=None, method="cam", target=1).raw
    with torch.no_grad():
        model.fc.weight *= -2
        model.fc.bias *= -2
    assert_close(cl.explain(model, images(), preprocess=None, method="cam", target=1).raw, -2 * before, 1e-5)


def test_a_module_in_the_place_of_another():
    """What a dry run told of the old one does not hold, neither of its address nor of the model's end."""
    this, other = TWINS["gap"](), TWINS["gap"]()
    explained(this, method=["cam", "grad-cam"])
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(-1)
    this.model.conv, this.model.head = other.model.conv, nn.Linear(5, CLASSES)
    A = this.model.conv(torch.relu(this.model.first(tensors(this))))
    result = explained(this, method="grad-cam", target=1)
    assert_close(result.raw, host(torch.einsum("bkhw,k->bhw", A, this.model.head.weight[1]) / 4))
    assert any("ends without a softmax" in note for note in result[0].notes)


def test_cam_at_a_layer_that_was_altered_in_place(network):
    """The head is behind the activation, and not behind what it overwrote."""
    this = network("plain_sequential")
    assert_close(explained(this, method="cam").raw, 36 * reference(this))
    assert "'1' (relu" in refused(this.model, images(), ConditionError, method="cam", layer="0")


def test_cam_refuses_a_target_that_is_no_sum_of_classes(network):
    with pytest.raises(ConditionError, match="cam needs a target that is a class"):
        explained(network("gap"), method="cam", target=lambda outputs: outputs[:, 0] ** 2)


# Bad input


def refused(model, inputs, error=RequestError, **request):
    """The message of the error that a request ends in: one line, and not a long one."""
    with pytest.raises(error) as raised:
        cl.explain(model, inputs, **{"preprocess": None, **request})
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_an_input_is_missing(network):
    assert "vector" in refused(network("two_inputs_dict").model, {"image": images()})
    assert "vector" in refused(network("two_inputs_tuple").model, images())
    assert "unexpected" in refused(network("two_inputs_dict").model, {"picture": images(), "image": images()})
