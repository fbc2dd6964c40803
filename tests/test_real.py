"""Real weights and photographs: the heat lies on what is named. Skipped where the test data are not there."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image, ImageDraw

import camlucida as cl
from camlucida.models.cifar10 import LABELS
from data import path

METHODS = ["cam", "grad-cam", "grad-cam++", "score-cam?channels=32"]


@pytest.fixture(scope="module")
def mobilenet():
    return cl.load_model("mobilenet?alpha=0.75", weights=path("weights/mobilenet_v1_0.75_224.weights.h5"))


@pytest.fixture(scope="module")
def cat_dog(mobilenet):
    """The dog fills the upper half of the picture, the cat lies in the lower half, to the right."""
    return cl.explain(
        mobilenet, path("images/cat_dog.jpg"), target=["bull_mastiff", "tiger_cat"], method=METHODS, batch_size=16
    )


def raw(results, method, target):
    (item,) = results.select(method=method, target=target)
    return item.raw


def share(m, rows):
    """The share of a map's positive mass in some of its rows."""
    positive = np.maximum(m, 0)
    return positive[rows].sum() / positive.sum()


UPPER, LOWER = slice(0, 4), slice(3, 7)


def test_predictions(cat_dog):
    first, second = cat_dog[0].predictions[:2]
    assert (first.label, first.index) == ("bull_mastiff", 243)
    assert first.probability == pytest.approx(0.92, abs=0.02)
    assert (second.label, second.index) == ("tiger_cat", 282)
    assert second.probability == pytest.approx(0.033, abs=0.01)


def test_the_layer_is_the_last_before_the_pooling(cat_dog):
    assert {item.layer for item in cat_dog} == {"conv_pw_13_relu"}
    assert cat_dog.raw.shape == (8, 7, 7)


@pytest.mark.parametrize("method", ["cam", "grad-cam"])
def test_the_dog_lies_above_and_the_cat_below(cat_dog, method):
    assert share(raw(cat_dog, method, "bull_mastiff"), UPPER) >= 0.75
    assert share(raw(cat_dog, method, "tiger_cat"), LOWER) >= 0.65


@pytest.mark.parametrize("method", METHODS)
def test_every_method_tells_dog_from_cat(cat_dog, method):
    dog, cat = (raw(cat_dog, method, target) for target in ("bull_mastiff", "tiger_cat"))
    assert share(dog, UPPER) > max(0.6, share(cat, UPPER) + 0.15)
    assert share(cat, LOWER) > max(0.55, share(dog, LOWER) + 0.15)


def test_score_cams_dog_lies_above(cat_dog):
    dog = raw(cat_dog, "score-cam?channels=32", "bull_mastiff")
    assert share(dog, UPPER) > 0.6
    assert np.unravel_index(dog.argmax(), dog.shape)[0] <= 3


@pytest.mark.parametrize("target", ["bull_mastiff", "tiger_cat"])
def test_cam_is_grad_cam_times_the_number_of_places(cat_dog, target):
    """Also where the classifier is a 1x1 convolution."""
    cam, grad_cam = (raw(cat_dog, method, target) for method in ("cam", "grad-cam"))
    np.testing.assert_allclose(cam, 49 * grad_cam, atol=1e-4 * np.abs(cam).max())


def hottest(item):
    """Row and column of the brightest place of a grey overlay: looked for in the finished picture alone."""
    grey = np.asarray(item.overlay(alpha=1, cmap="gray").convert("L"))
    return np.unravel_index(grey.argmax(), grey.shape)


@pytest.mark.parametrize("method", METHODS)
def test_the_picture_is_not_upside_down(cat_dog, method):
    """The hottest pixel is on the dog's head, or on the cat, in the finished picture."""
    dog, cat = (hottest(cat_dog.select(method=method, target=t)[0]) for t in ("bull_mastiff", "tiger_cat"))
    assert 20 <= dog[0] <= 110
    assert 45 <= dog[1] <= 130
    assert 120 <= cat[0] <= 215
    assert 90 <= cat[1] <= 190


def test_boxes_lie_on_the_animals(cat_dog):
    dog, cat = (cat_dog.select(method="grad-cam", target=t)[0].boxes(0.5)[0] for t in ("bull_mastiff", "tiger_cat"))
    assert dog.top < cat.top
    assert dog.bottom < cat.bottom
    assert (dog.top + dog.bottom) / 2 < 112 < (cat.top + cat.bottom) / 2


@pytest.mark.parametrize(("name", "label"), [("bear.jpg", "brown_bear"), ("goldfish.jpg", "goldfish")])
def test_other_photographs(mobilenet, name, label):
    (item,) = cl.explain(mobilenet, path(f"images/{name}"))
    assert item.target.label == label
    assert item.probability > 0.9
    assert item.heatmap().shape == item.image.size[::-1]


def test_heads_of_pets_hold_more_than_their_share_of_the_heat(mobilenet):
    """Ten breeds, none of them square: energy inside the head's box over the box's share of the picture."""
    items = [i for i in json.loads(path("pets/annotations.json").read_text())["items"] if i["imagenet_index"]]
    items = items[:: len(items) // 10][:10]
    results = cl.explain(
        mobilenet,
        [path(f"pets/images/{item['file']}") for item in items],
        target=cl.targets.each([item["imagenet_index"] for item in items]),
    )
    gains, upside_down, transposed = [], [], []
    for item, result in zip(items, results, strict=True):
        heat = result.heatmap()
        assert heat.shape == (item["height"], item["width"])
        left, top, right, bottom = item["head_box_xyxy"]
        area = (bottom - top) * (right - left) / heat.size
        turned = [heat, heat[::-1], result.heatmap(heat.shape[::-1]).T]
        for gain, m in zip((gains, upside_down, transposed), turned, strict=True):
            gain.append(m[top:bottom, left:right].sum() / m.sum() / area)
    assert np.mean(gains) > 1.6
    assert np.mean(gains) > np.mean(upside_down) + 0.4
    assert np.mean(gains) > np.mean(transposed) + 0.4


# The same weights on every backend of Keras, each in a process of its own

ACROSS = ("cam", "grad-cam", "grad-cam++")


@pytest.fixture(scope="module")
def on_backend(tmp_path_factory):
    """What MobileNet says of the photograph, by backend: its top five, and maps of the two animals."""
    weights, image = path("weights/mobilenet_v1_0.75_224.weights.h5"), path("images/cat_dog.jpg")
    folder, answers = tmp_path_factory.mktemp("backends"), {}
    code = f"""
        import json, sys
        import camlucida as cl
        model = cl.load_model("mobilenet?alpha=0.75", weights=sys.argv[1])
        found = cl.explain(model, sys.argv[2], method={ACROSS}, target=["bull_mastiff", "tiger_cat"])
        top = [[p.index, p.probability] for p in found[0].predictions]
        answer = {{"backend": found[0].answer.backend, "layers": [i.layer for i in found], "top": top}}
        answer |= {{"notes": [list(i.notes) for i in found], "raw": found.raw.tolist()}}
        open(sys.argv[3], "w").write(json.dumps(answer))
    """

    def get(backend):
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        if backend not in answers:
            file = folder / f"{backend}.json"
            python = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": python}
            command = [sys.executable, "-c", textwrap.dedent(code), weights, image, file]
            subprocess.run(command, env=environment, check=True)
            answers[backend] = json.loads(file.read_text("utf-8"))
            assert answers[backend]["backend"] == backend
        return answers[backend]

    return get


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_of_keras_says_and_shows_the_same(backend, on_backend):
    ours, theirs = on_backend(backend), on_backend("tensorflow")
    assert len(theirs["top"]) == 5
    assert [index for index, _ in ours["top"]] == [index for index, _ in theirs["top"]]
    np.testing.assert_allclose([p for _, p in ours["top"]], [p for _, p in theirs["top"]], rtol=0, atol=5e-5)
    assert ours["layers"] == theirs["layers"] == ["conv_pw_13_relu"] * 2 * len(ACROSS)
    assert ours["notes"] == theirs["notes"]
    for our, their in zip(np.array(ours["raw"]), np.array(theirs["raw"]), strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-4 * np.abs(their).max())


# In torch


def in_torch(network, weights, **settings):
    """One of the networks that are written in the tests, with weights of the test data."""
    families = pytest.importorskip("torch_families", reason="torch is not installed", exc_type=ImportError)
    import torch

    state = torch.load(path(f"weights/{weights}"), weights_only=True, map_location="cpu")
    state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
    model = getattr(families, network)()
    model.load_state_dict(state)
    return cl.load_model(model.eval(), preprocess="torch", **settings)


@pytest.fixture(scope="module")
def squeezenet():
    return in_torch("SqueezeNet", "squeezenet1_0_torchvision.pth", labels="imagenet", size=224)


def test_squeezenet_tells_dog_from_cat(squeezenet):
    found = cl.explain(
        squeezenet, path("images/cat_dog.jpg"), target=["bull_mastiff", "tiger_cat"], layer="features.12"
    )
    first = found[0].predictions[0]
    assert first.label == "bull_mastiff"
    assert first.probability == pytest.approx(0.92, abs=0.02)
    dog, cat = (raw(found, "grad-cam", target) for target in ("bull_mastiff", "tiger_cat"))
    assert dog.shape == (13, 13)
    assert share(dog, slice(0, 7)) > 0.75
    assert share(cat, slice(6, 13)) > 0.65


def test_squeezenets_class_maps_are_its_last_layer(squeezenet):
    """Its classifier is a convolution before the pooling: what is pooled is a map for each class already."""
    both = ["cam", "grad-cam"]
    found = cl.explain(squeezenet, path("images/cat_dog.jpg"), method=both, target=["bull_mastiff", "tiger_cat"])
    assert {item.layer for item in found} == {"classifier.2"}
    cam, grad_cam = (found.select(method=method).raw for method in both)
    np.testing.assert_allclose(cam, 169 * grad_cam, atol=1e-4 * np.abs(cam).max())
    np.testing.assert_allclose(cam.mean((1, 2)), [item.score for item in found.select(method="cam")], rtol=1e-4)


def test_cam_peaks_on_the_pet(squeezenet):
    """The hottest pixel lies inside the animal's outline for most of a dozen photographs of several breeds."""
    everything = json.loads(path("pets/annotations.json").read_text())["items"]
    items = [i for i in everything if i["imagenet_index"] and i["polygon_matches_trimap"]]
    items = items[:: len(items) // 12][:12]
    results = cl.explain(
        squeezenet,
        [path(f"pets/images/{item['file']}") for item in items],
        method="cam",
        target=cl.targets.each([item["imagenet_index"] for item in items]),
    )
    inside = []
    for item, result in zip(items, results, strict=True):
        heat = result.heatmap()
        outline = Image.new("1", heat.shape[::-1])
        for polygon in ("fg_polygon", "outer_polygon"):
            ImageDraw.Draw(outline).polygon([tuple(point) for point in item[polygon]], fill=1)
        inside.append(np.asarray(outline)[np.unravel_index(heat.argmax(), heat.shape)])
    assert np.mean(inside) >= 0.75


def test_resnet20_of_cifar():
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    model = in_torch("CifarResNet20", "cifar10_resnet20.th", labels=LABELS, size=32)
    pictures = [data.chelsea(), path("images/cat_dog.jpg")]
    found = cl.explain(model, pictures, method=["cam", "grad-cam"])
    assert [item.target.label for item in found] == ["cat", "cat", "dog", "dog"]
    assert all(item.probability > 0.99 for item in found)
    assert {item.layer for item in found} == {"layer3.2"}
    cam, grad_cam = (found.select(method=method).raw for method in ("cam", "grad-cam"))
    assert cam.shape == (2, 8, 8)
    np.testing.assert_allclose(cam, 64 * grad_cam, atol=1e-4 * np.abs(cam).max())


def test_lenet_with_a_dense_head():
    model = in_torch("LeNet", "cifar10_lenet_fc.pt", labels=LABELS, size=32)
    picture = path("images/cat_dog.jpg")
    with pytest.raises(cl.CamlucidaError, match="cam needs global average pooling"):
        cl.explain(model, picture, method="cam")
    (item,) = cl.explain(model, picture)
    assert item.raw.shape == (10, 10)
    assert item.raw.max() > 0
