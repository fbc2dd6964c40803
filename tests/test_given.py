"""From what users give to model inputs and back to pictures, where channels come first or last, for any framework."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import camlucida as cl
from camlucida import errors, given, images
from camlucida.models import PREPROCESSINGS, LoadedModel, load_model

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 12, 20, 3), dtype="uint8")


def net(channels=3):
    torch.manual_seed(0)
    first = nn.Conv2d(channels, 6, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


def loaded(**settings):
    """A model of which only what `given` needs to know is there."""
    usual = {"size": (6, 10), "preprocessing": PREPROCESSINGS["unit"], "labels": None, "channels_first": True}
    return LoadedModel(None, "net", **(usual | settings))


def test_pictures_go_in_with_their_channels_where_the_model_wants_them():
    first, last = (given.from_pictures(loaded(channels_first=flag), PICTURES).inputs for flag in (True, False))
    assert (first.shape, last.shape) == ((2, 3, 6, 10), (2, 6, 10, 3))
    np.testing.assert_array_equal(first, np.moveaxis(last, -1, 1))
    np.testing.assert_array_equal(last, images.to_input(images.read_all(PICTURES), (6, 10)) / np.float32(255))
    assert first.flags.c_contiguous
    assert given.noise(loaded()).shape == (1, 3, 6, 10)


@pytest.mark.parametrize(("first", "shape"), [(True, (2, 1, 6, 10)), (False, (2, 6, 10, 1))])
def test_grey_pictures(first, shape):
    inputs = given.from_pictures(loaded(channels_first=first, grey=True), PICTURES).inputs
    assert inputs.shape == shape
    colours = images.to_input(images.read_all(PICTURES), (6, 10)) / 255
    np.testing.assert_allclose(inputs.reshape(2, 6, 10), colours @ np.array([0.299, 0.587, 0.114]), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "first", "size"),
    [
        ((2, 3, 12, 20), True, (12, 20)),
        ((2, 12, 20, 3), True, (12, 20)),  # a module that moves the channels itself
        ((2, 12, 20, 3), False, (12, 20)),
        ((2, 3, 4, 3), True, (4, 3)),
        ((2, 7, 12, 20), True, (12, 20)),
        ((2, 2, 30), True, (30,)),
        ((2, 30, 2), False, (30,)),
        ((2, 1, 5, 6, 7), True, (5, 6, 7)),
        ((2, 9), True, (9,)),  # numbers without channels are places
    ],
)
def test_the_picture_in_a_ready_input(shape, first, size):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    frame = given.from_ready(loaded(channels_first=first, preprocessing=None), x).frame(1)
    assert frame["size"] == size
    wanted = x[1] if len(size) == len(shape) - 2 and shape[1 : 1 + len(size)] == size else np.moveaxis(x[1], 0, -1)
    np.testing.assert_array_equal(frame["original"], wanted)


def test_the_picture_among_several_inputs():
    inputs = {"age": np.zeros((2, 1)), "picture": np.zeros((2, 3, 12, 20))}
    assert given.from_ready(loaded(preprocessing=None), inputs).frame(0)["size"] == (12, 20)


def test_maps_over_ready_tensors_have_the_size_of_their_picture():
    x = torch.from_numpy(np.moveaxis(PICTURES, -1, 1).copy()).float() / 255
    for item in cl.explain(net(), x, preprocess=None):
        assert item.heatmap().shape == (12, 20)
        assert item.overlay().size == (20, 12)
    whole = (PICTURES[0] - PICTURES[0].min()) / np.ptp(PICTURES[0])
    np.testing.assert_allclose(np.asarray(cl.explain(net(), x[:1], preprocess=None)[0].image) / 255, whole, atol=0.01)


def test_pictures_and_the_same_prepared_get_the_same_map():
    model = load_model(net(), size=(12, 20), preprocess="unit")
    ready = torch.from_numpy(np.moveaxis(PICTURES, -1, 1).copy()).float() / 255
    for one, other in zip(cl.explain(model, PICTURES), cl.explain(model, ready, preprocess=None), strict=True):
        np.testing.assert_allclose(one.raw, other.raw, rtol=1e-4, atol=1e-7)
        assert one.heatmap().shape == other.heatmap().shape == (12, 20)


def test_a_grey_network_takes_colour_pictures():
    explanation = cl.explain(load_model(net(1), size=(12, 20)), Image.fromarray(PICTURES[0]))[0]
    assert explanation.heatmap().shape == (12, 20)


DTYPES = ("float16", "bfloat16", "float32", "uint8", "bool")


@pytest.mark.parametrize(
    ("framework", "dtype"),
    [*(("jax", name) for name in DTYPES), *(("torch", name) for name in (*DTYPES, "float64", "int64"))],
)
def test_arrays_of_any_framework(framework, dtype):
    values = np.array([[0.0, 1.0], [1.0, 0.0]])
    if framework == "torch":
        array = torch.from_numpy(values).to(getattr(torch, dtype))
    else:
        array = pytest.importorskip("jax.numpy").asarray(values, dtype)
    inputs = given.from_ready(loaded(preprocessing=None), array).inputs
    assert isinstance(inputs, np.ndarray)
    assert inputs.dtype == ("float32" if dtype.endswith("float16") else dtype)
    np.testing.assert_array_equal(inputs, values)


def test_tensors_that_need_gradients_are_taken_and_left_as_they_are():
    x = torch.rand(2, 3, 12, 20, requires_grad=True)
    inputs = given.from_ready(loaded(preprocessing=None), {"a": x, "b": (x * 2,)}).inputs
    np.testing.assert_array_equal(inputs["a"], x.detach().numpy())
    np.testing.assert_array_equal(inputs["b"][0], 2 * x.detach().numpy())
    assert (x.requires_grad, x.grad) == (True, None)


def test_a_preprocessing_of_colours_for_a_grey_network_is_refused():
    with pytest.raises(errors.RequestError, match="'torch' is for colours, and net takes grey pictures: name unit"):
        given.from_pictures(loaded(grey=True, preprocessing=PREPROCESSINGS["torch"]), PICTURES)


def test_numbers_may_be_too_large_to_be_added_up():
    huge = np.full((2, 3), 3e38, "float32")
    np.testing.assert_array_equal(given.from_ready(loaded(preprocessing=None), huge).inputs, huge)


def test_ready_inputs_that_are_refused():
    with pytest.raises(errors.RequestError, match="ready inputs need one first axis"):
        given.from_ready(loaded(), (torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4)))
    with pytest.raises(errors.ImageError, match="image 1 holds values that are no numbers"):
        given.from_ready(loaded(), torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(errors.ImageError, match="image 0 holds values that are no numbers"):
        given.from_ready(loaded(), np.array([[np.inf, -np.inf], [0.0, 0.0]]))
    with pytest.raises(errors.RequestError, match="is an array"):
        given.from_ready(loaded(), "picture.png")
    with pytest.raises(errors.RequestError, match="give its inputs ready"):
        given.from_pictures(loaded(preprocessing=None), PICTURES)
