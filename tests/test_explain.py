"""The public face: what `explain` takes, what comes back, and what it says where something is wrong."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import camlucida as cl
import tiny
from camlucida.errors import CamlucidaError, ConditionError, ImageError, ModelError, RequestError, UnknownNameError

layers = keras.layers
ALL = ["cam", "grad-cam", "grad-cam++", "score-cam"]
LABELS = ["ant", "bee", "cat", "dog", "red fox"]


@pytest.fixture(scope="module")
def net():
    return tiny.gap_net()


@pytest.fixture(scope="module")
def deep():
    return tiny.deep_net()


@pytest.fixture(scope="module")
def x():
    return tiny.inputs()


@pytest.fixture(scope="module")
def cat():
    """Three maps of the embedded network, of scikit-image's cat."""
    return cl.explain("cifar10", "sample:cat", target="top3")


def photographs(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def note_on(item, *words):
    """The one note that has these words."""
    (found,) = [note for note in item.notes if all(word in note for word in words)]
    return found


# The contract, on the embedded network


def test_one_call(cat):
    top = cat[0]
    assert isinstance(cat, cl.Explanations)
    assert isinstance(top, cl.Explanation)
    assert top.target.label == "cat"
    assert top.target.index == 3
    assert top.method == "grad-cam"
    assert top.probability > 0.5
    assert top.predictions[0].label == "cat"
    assert top.predictions[0].probability == top.probability
    assert [p.probability for p in top.predictions] == sorted((p.probability for p in top.predictions), reverse=True)
    assert len(top.predictions) == 5
    assert top.raw.shape == (8, 8)
    assert top.raw.dtype == np.float32
    assert top.image.size == (451, 300)
    assert top.heatmap().shape == (300, 451)
    assert top.heatmap().max() == 1
    assert top.heatmap().min() >= 0
    assert top.overlay().size == (451, 300)
    assert top.overlay().mode == "RGB"
    assert top.boxes()
    assert note_on(top, "was chosen").startswith(f"layer '{top.layer}'")
    assert [item.target.index for item in cat] == [p.index for p in top.predictions[:3]]


def test_the_keras_tutorials_call(tmp_path):
    result = cl.explain("cifar10", "sample:cat", method="grad-cam", target="top1", layer="auto")
    result[0].overlay().save(tmp_path / "cam.png")
    with Image.open(tmp_path / "cam.png") as image:
        assert image.size == (451, 300)


def test_the_score_is_the_logit_and_the_probability_its_softmax(cat):
    model = cl.load_model("cifar10")
    pixels = np.asarray(cat[0].image.resize((32, 32), Image.Resampling.BILINEAR), "float32")
    z = tiny.logits_of_activation(model.model)(pixels[None] / 127.5 - 1).numpy()[0]
    for item in cat:
        assert item.score == pytest.approx(float(z[item.target.index]), abs=1e-3)
        assert item.probability == pytest.approx(float(tiny.softmax(z)[item.target.index]), abs=1e-5)


def test_heat_lies_where_the_picture_has_it(cat):
    """A patch of the cat in an even picture: the heat follows it from corner to corner."""
    patch = cat[0].image.resize((60, 60))
    for corner in ((0, 0), (0, 140), (140, 0), (140, 140)):
        canvas = Image.new("RGB", (200, 200), (127, 127, 127))
        canvas.paste(patch, corner[::-1])
        (item,) = cl.explain("cifar10", canvas, target="cat")
        row, column = np.unravel_index(item.heatmap().argmax(), (200, 200))
        assert (row > 100, column > 100) == tuple(start > 100 for start in corner)


# Order and selection


@pytest.fixture(scope="module")
def many(net, x):
    """Three images, two targets, two methods, two layers."""
    model = tiny.deep_net()
    settings = {"method": ["score-cam", "grad-cam"], "target": [4, "top1"], "layer": ["early", "auto"]}
    return cl.explain(model, x, preprocess=None, **settings)


def test_order_is_by_image_then_target_then_method_then_layer(many):
    order = [(e.answer.position, e.method, e.layer) for e in many]
    expected = [
        (i, m, layer)
        for i in range(3)
        for _ in range(2)
        for m in ("score-cam", "grad-cam")
        for layer in ("early", "conv")
    ]
    assert order == expected
    for i in range(3):
        labels = [e.target.index for e in many[8 * i : 8 * i + 8]]
        assert labels == [4] * 4 + [many[8 * i].predictions[0].index] * 4


def test_the_order_holds_across_batches(deep, x, many):
    for batch_size in (1, 2):
        settings = {"method": ["score-cam", "grad-cam"], "target": [4, "top1"], "layer": ["early", "auto"]}
        again = cl.explain(deep, x, preprocess=None, batch_size=batch_size, **settings)
        for one, other in zip(again, many, strict=True):
            assert (one.answer.position, one.answer.name) == (other.answer.position, other.answer.name)
            assert (one.method, one.layer, one.target) == (other.method, other.layer, other.target)
            np.testing.assert_allclose(one.raw, other.raw, rtol=1e-4, atol=1e-6)


def test_it_is_a_sequence(many):
    assert len(many) == 24
    assert list(many)[5] is many[5]
    assert many[-1] is list(many)[-1]
    part = many[4:6]
    assert isinstance(part, cl.Explanations)
    assert list(part) == [many[4], many[5]]
    with pytest.raises(IndexError):
        many[24]
    assert "24" in repr(many)
    assert "3 images" in repr(many)


def test_select(many):
    assert len(many.select(image=1)) == 8
    assert len(many.select(image="image 1")) == 8
    assert len(many.select(method="grad-cam")) == 12
    assert len(many.select(layer="early", image=2)) == 4
    chosen = many.select(image=0, method="score-cam", target=4, layer="conv")
    assert {(e.method, e.layer, e.target.index) for e in chosen} == {("score-cam", "conv", 4)}
    assert len(many.select(target="4")) == len(many.select(target=4)) >= 12
    assert list(many.select()) == list(many)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"image": 7}, "unknown image '7'"),
        ({"method": "grad-cm"}, "unknown method 'grad-cm'.*'grad-cam'"),
        ({"target": "dog"}, "unknown target 'dog'"),
        ({"layer": "erly"}, "unknown layer 'erly'.*'early'"),
    ],
)
def test_select_what_is_not_there(many, wanted, message):
    with pytest.raises(UnknownNameError, match=message):
        many.select(**wanted)


def test_raw_of_all_needs_one_grid(many):
    assert many.select(layer="conv").raw.shape == (12, 4, 5)
    assert many.select(layer="early").raw.shape == (12, 8, 10)
    np.testing.assert_array_equal(many.select(layer="conv").raw[1], many.select(layer="conv")[1].raw)
    with pytest.raises(RequestError, match="different grids"):
        _ = many.raw


# Sizes


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (8, 10), (1, 1), (7, 200)])
def test_heat_maps_have_the_pictures_size(net, size):
    (item,) = cl.explain(net, photographs(size), labels=None)
    assert item.raw.shape == (8, 10)
    assert item.heatmap().shape == size
    assert item.image.size == size[::-1]
    assert item.overlay().size == size[::-1]
    for left, top, right, bottom in item.boxes():
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]


def test_pictures_of_several_sizes_in_one_call(net):
    results = cl.explain(net, photographs((20, 30), (9, 5), (40, 40)), target=[0, 1])
    assert [item.heatmap().shape for item in results] == [(20, 30)] * 2 + [(9, 5)] * 2 + [(40, 40)] * 2
    assert results.raw.shape == (6, 8, 10)


def test_heatmap_at_any_size(cat):
    item = cat[0]
    assert item.heatmap((10, 20)).shape == (10, 20)
    assert item.heatmap(12).shape == (12, 12)
    grid = np.maximum(item.raw, 0)
    np.testing.assert_allclose(item.heatmap((8, 8)), grid / grid.max(), rtol=1e-6)
    signed = item.heatmap((8, 8), signed=True)
    np.testing.assert_allclose(signed, item.raw / np.abs(item.raw).max(), rtol=1e-6)


@pytest.mark.parametrize("size", [0, -1, (5,), (5, 5, 5), (0, 5), (5, 0), "large", 7.5, (7.5, 3), True])
def test_sizes_that_are_none(cat, size):
    with pytest.raises(RequestError, match="size"):
        cat[0].heatmap(size)


def test_boxes_are_those_of_the_heat_map(cat):
    item = cat[0]
    heat = item.heatmap()
    for threshold in (0.15, 0.5):
        hot = heat > threshold
        inside = np.zeros_like(hot)
        for left, top, right, bottom in item.boxes(threshold):
            inside[top:bottom, left:right] = True
        assert hot.any()
        assert not (hot & ~inside).any()
    assert item.boxes(0.5) != item.boxes()
    with pytest.raises(RequestError, match="threshold"):
        item.boxes(3)


# Pictures


def test_overlay_settings(cat):
    item = cat[0]
    usual = np.asarray(item.overlay())
    np.testing.assert_array_equal(np.asarray(item.overlay(alpha=0)), np.asarray(item.image))
    np.testing.assert_array_equal(usual, np.asarray(item.overlay(0.4, "jet", "mix")))
    for other in ({"alpha": 0.6}, {"cmap": "viridis"}, {"blend": "add"}, {"signed": True}):
        assert (np.asarray(item.overlay(**other)) != usual).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 2}, "alpha"),
        ({"cmap": "virdis"}, "unknown colour map 'virdis'.*'viridis'"),
        ({"blend": "sum"}, "unknown blend 'sum'"),
    ],
)
def test_overlay_settings_that_make_no_sense(cat, settings, message):
    with pytest.raises(CamlucidaError, match=message):
        cat[0].overlay(**settings)


def test_figures(many, cat):
    page = many.select(image=0).figure()
    titles = [axes.get_title(loc="left") for axes in page.axes]
    assert titles.count("score-cam") == titles.count("grad-cam") == 4
    assert titles.count("image0") == 2
    assert cat[0].figure().axes[1].get_title(loc="left") == "grad-cam"


def test_html(cat):
    html = cat[0]._repr_html_()
    assert "data:image/png;base64," in html
    assert "grad-cam: cat" in html
    assert "was chosen" in html
    assert cat._repr_html_().count("<figure>") == 3


def test_html_is_escaped(net):
    (item,) = cl.explain(net, photographs((9, 9)), target=0, labels=["<b>&", "b", "c", "d", "e"])
    assert "<b>" not in item._repr_html_()
    assert "&lt;b&gt;&amp;" in item._repr_html_()


# Files


def test_save_one(cat, tmp_path):
    path = cat[0].save(tmp_path / "new" / "cat.png", alpha=0.5)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(cat[0].overlay(0.5)))


def test_save_all(cat, tmp_path):
    document = cat.save(tmp_path / "out")
    stems = [f"cat.grad-cam.{item.target.label}" for item in cat]
    names = {f"{stem}.{ending}" for stem in stems for ending in ("png", "npy")} | {"explanations.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert json.loads((tmp_path / "out" / "explanations.json").read_text()) == document
    for item, stem in zip(cat, stems, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{stem}.npy"), item.raw)
        with Image.open(tmp_path / "out" / f"{stem}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(item.overlay()))
    entries = document["images"][0]["explanations"]
    assert [entry["overlay"] for entry in entries] == [str(tmp_path / "out" / f"{stem}.png") for stem in stems]


def test_the_document(cat):
    document = cat.to_dict()
    assert set(document) == {"version", "images"}
    assert document["version"] == cl.__version__
    (image,) = document["images"]
    assert set(image) == {"image", "model", "backend", "predictions", "explanations"}
    assert (image["image"], image["model"], image["backend"]) == ("sample:cat", "cifar10", "tensorflow")
    assert len(image["predictions"]) == 5
    assert all(set(p) == {"index", "label", "probability"} for p in image["predictions"])
    for entry, item in zip(image["explanations"], cat, strict=True):
        assert list(entry) == [
            "method", "layer", "target", "score", "probability", "grid", "raw", "overlay", "notes"
        ]  # fmt: skip
        assert entry["target"] == {"index": item.target.index, "label": item.target.label}
        assert entry["grid"] == [8, 8]
        np.testing.assert_array_equal(np.array(entry["raw"], "float32"), item.raw)
        assert entry["overlay"] is None
        assert entry["notes"] == list(item.notes)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert len(cat.to_dict(top=2)["images"][0]["predictions"]) == 2


def test_the_document_goes_by_image(many):
    images = many.to_dict()["images"]
    assert [image["image"] for image in images] == ["image 0", "image 1", "image 2"]
    assert [len(image["explanations"]) for image in images] == [8, 8, 8]


def test_file_names_say_all_that_differs(many, tmp_path):
    document = many.save(tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == len(list(tmp_path.glob("*.png"))) == 24
    assert (tmp_path / "image2.score-cam.4.early.npy").exists()
    saved = [e["overlay"] for image in document["images"] for e in image["explanations"]]
    assert len(set(saved)) == 24


def test_file_names_are_safe(net, tmp_path):
    labels = ["a/b: c*", "../up", "ÄÖ 猫", "d", "e"]
    methods = ["grad-cam++?variant=official", "score-cam?channels=2"]
    results = cl.explain(net, photographs((9, 9)), method=methods, target=[0, 1, 2], labels=labels)
    results.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6 * 2 + 1
    assert not [path for path in tmp_path.iterdir() if set(path.name) & set('/\\:*?"<>| ')]
    assert (tmp_path / "image0.grad-cam++-variant-official.a-b-c.png").exists()


def test_the_same_name_twice(net, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photographs((9, 9))[0]).save(tmp_path / folder / "same.png")
    results = cl.explain(net, [tmp_path / "a" / "same.png", str(tmp_path / "b" / "same.png")], target=0)
    results.save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.npy")} == {"same.grad-cam.0.npy", "same-2.grad-cam.0.npy"}


@pytest.mark.parametrize("call", [lambda cat, path: cat.save(path), lambda cat, path: cat[0].save(path / "a.png")])
def test_a_folder_that_cannot_be_written(cat, tmp_path, call):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match="cannot make the folder"):
        call(cat, tmp_path / "file")


def test_a_kind_of_file_that_cannot_be_written(cat, tmp_path):
    with pytest.raises(RequestError, match="cannot write"):
        cat[0].save(tmp_path / "cat.nonsense")


# Targets


def test_targets_by_index_label_rank_and_object(net, x):
    wanted = [2, "dog", "top1", np.int64(0), cl.targets.class_("red-fox")]
    results = cl.explain(net, x[:1], target=wanted, labels=LABELS, preprocess=None)
    top = results[0].predictions[0]
    assert [(e.target.index, e.target.label) for e in results] == [
        (2, "cat"),
        (3, "dog"),
        (top.index, top.label),
        (0, "ant"),
        (4, "red fox"),
    ]
    for item in results:
        alone = cl.explain(net, x[:1], target=item.target.index, preprocess=None)[0]
        np.testing.assert_allclose(item.raw, alone.raw, rtol=1e-5, atol=1e-7)
        assert item.score == pytest.approx(alone.score)
        assert item.probability == pytest.approx(float(net(x[:1])[0, item.target.index]), rel=1e-5)


def test_a_target_per_image(net, x):
    results = cl.explain(net, x, target=cl.targets.each(["dog", 0, "top1"]), labels=LABELS, preprocess=None)
    assert [e.target.index for e in results] == [3, 0, int(net(x[2:]).numpy().argmax())]
    for i, item in enumerate(results):
        alone = cl.explain(net, x[i : i + 1], target=item.target.index, preprocess=None)[0]
        np.testing.assert_allclose(item.raw, alone.raw, rtol=1e-5, atol=1e-7)
    with pytest.raises(RequestError, match="2 targets for 3 images"):
        cl.explain(net, x, target=cl.targets.each([0, 1]), preprocess=None)


def test_a_target_that_is_no_single_class(net, x):
    margin = cl.targets.custom(lambda outputs: outputs[:, 0] - tf.reduce_mean(outputs, axis=1), "margin")
    both = cl.explain(net, x[:1], target=[cl.targets.difference("cat", 0), margin], labels=LABELS, preprocess=None)
    z = tiny.logits_of(net)(x[:1]).numpy()[0]
    assert [(e.target.index, e.target.label, e.probability) for e in both] == [
        (None, "cat-minus-ant", None),
        (None, "margin", None),
    ]
    assert [e.score for e in both] == pytest.approx([z[2] - z[0], z[0] - z.mean()], rel=1e-4)


def test_a_function_is_a_target(net, x):
    (item,) = cl.explain(net, x[:1], target=lambda outputs: outputs[:, 1], preprocess=None)
    (usual,) = cl.explain(net, x[:1], target=1, preprocess=None)
    np.testing.assert_allclose(item.raw, usual.raw, rtol=1e-5, atol=1e-7)


def test_labels(net, x):
    assert cl.explain(net, x[:1], target=3, preprocess=None)[0].target.label == "3"
    (item,) = cl.explain(net, x[:1], target="3", preprocess=None)
    assert (item.target.index, item.target.label) == (3, "3")
    labelled = cl.explain(net, x[:1], target=3, labels=LABELS, preprocess=None)[0]
    assert [p.label for p in labelled.predictions] == [LABELS[p.index] for p in labelled.predictions]


def test_labels_in_a_file(net, x, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (item,) = cl.explain(net, x[:1], target="dog", labels=tmp_path / "labels.txt", preprocess=None)
    assert item.target.index == 3


# Score and variants


def test_score_probability(net, x):
    logit, probability = (cl.explain(net, x, target=2, score=s, preprocess=None) for s in ("logit", "probability"))
    for one, other in zip(logit, probability, strict=True):
        assert other.score == pytest.approx(other.probability)
        assert one.probability == pytest.approx(other.probability)
        assert one.score != pytest.approx(one.probability, abs=1e-3)
        assert np.abs(one.raw - other.raw).max() > 1e-3


def test_the_score_of_each_method_is_its_own(net, x):
    results = cl.explain(net, x[:1], method=ALL, target=2, preprocess=None)
    by_method = {item.method: item for item in results}
    assert by_method["score-cam"].score == pytest.approx(by_method["score-cam"].probability)
    assert by_method["grad-cam"].score == pytest.approx(float(tiny.logits_of(net)(x[:1])[0, 2]), rel=1e-5)


def test_variants_by_keyword_and_by_text(net, x):
    both = cl.explain(net, x, method=["grad-cam++", "grad-cam++?variant=official"], target=2, preprocess=None)
    keyword = cl.explain(net, x, method="grad-cam++", variant="official", target=2, preprocess=None)
    np.testing.assert_array_equal(both.select(method="grad-cam++?variant=official").raw, keyword.raw)
    assert {e.method for e in keyword} == {"grad-cam++?variant=official"}
    assert np.abs(both.select(method="grad-cam++").raw - keyword.raw).max() > 1e-4


def test_options_by_keyword_and_by_text(net, x):
    text = cl.explain(net, x, method="score-cam?channels=2", target=2, preprocess=None)
    keyword = cl.explain(net, x, method=["score-cam", "grad-cam"], channels=2, target=2, preprocess=None)
    assert [e.method for e in keyword[:2]] == ["score-cam?channels=2", "grad-cam"]
    np.testing.assert_allclose(keyword.select(method="score-cam?channels=2").raw, text.raw, rtol=1e-5, atol=1e-7)
    assert np.abs(text.raw - cl.explain(net, x, method="score-cam", target=2, preprocess=None).raw).max() > 1e-4


# Layers


def test_a_layer_by_name_and_by_object(deep, x):
    named, given = (cl.explain(deep, x, layer=layer, preprocess=None) for layer in ("early", deep.get_layer("early")))
    assert named[0].layer == given[0].layer == "early"
    np.testing.assert_array_equal(named.raw, given.raw)
    assert not [note for note in named[0].notes if "chosen" in note]


@pytest.mark.parametrize("how", ["max", "mean", "product"])
def test_fused_layers_are_one_map(deep, x, how):
    fused = cl.explain(deep, x, target=1, layer=cl.fused(["early", "auto"], how=how), preprocess=None)
    apart = cl.explain(deep, x, target=1, layer=["early", "auto"], preprocess=None)
    assert len(fused) == 3
    operation = {"max": np.maximum, "mean": lambda a, b: (a + b) / 2, "product": np.multiply}[how]
    for i, item in enumerate(fused):
        assert item.layer == f"{how}(early, conv)"
        assert item.raw.shape == (8, 10)
        early, conv = (part.heatmap((8, 10)) for part in apart.select(image=i))
        np.testing.assert_allclose(item.raw, operation(early, conv), atol=1e-5)


def test_fused_and_single_layers_in_one_call(deep, x, tmp_path):
    results = cl.explain(deep, x[:1], layer=["early", cl.fused(["early", "conv"]), "conv"], preprocess=None)
    assert [item.layer for item in results] == ["early", "max(early, conv)", "conv"]
    results.save(tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3


# Inputs


def test_pictures_of_every_kind_are_the_same(net, tmp_path):
    (pixels,) = photographs((8, 10))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = cl.explain(net, pixels, target=2)
    assert expected.raw.shape == (1, 8, 10)
    batch = np.stack([pixels, pixels[::-1]])
    kinds = [str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(pixels), [pixels], (pixels,), batch]
    for given in kinds:
        result = cl.explain(net, given, target=2)
        np.testing.assert_array_equal(result.raw[0], expected.raw[0])
    ready = cl.explain(net, pixels[None].astype("float32"), target=2, preprocess=None)
    np.testing.assert_allclose(ready.raw, expected.raw, rtol=1e-5)


def test_names_and_sources(net, tmp_path):
    Image.fromarray(photographs((9, 9))[0]).save(tmp_path / "a b.png")
    results = cl.explain(net, [tmp_path / "a b.png", photographs((9, 9))[0]])
    assert [e.answer.name for e in results] == ["a b", "image1"]
    assert [e.answer.source for e in results] == [str(tmp_path / "a b.png"), "image 1"]
    assert len(results.select(image="a b")) == 1


def test_pictures_are_not_altered(net):
    (pixels,) = photographs((8, 10))
    before = pixels.copy()
    pixels.flags.writeable = False
    (item,) = cl.explain(net, pixels)
    item.overlay()
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(np.asarray(item.image), before)


def test_floats_from_0_to_1_are_scaled_and_said(net):
    (pixels,) = photographs((8, 10))
    (item,) = cl.explain(net, pixels / 255)
    (usual,) = cl.explain(net, pixels)
    np.testing.assert_allclose(item.raw, usual.raw, rtol=1e-4, atol=1e-3)
    note_on(item, "0..1")


def test_a_suspicious_range_is_said():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(3, 3, name="conv")])
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(4))
    x = tiny.inputs(size=(8, 8))
    (item,) = cl.explain(model, x[:1], preprocess=None)
    note_on(item, "inputs go from", "0 to 255")
    (fine,) = cl.explain(model, x[:1] * 255, preprocess=None)
    assert not [note for note in fine.notes if "inputs go from" in note]


def test_ready_inputs_are_shown_as_they_can_be(net, x):
    (item,) = cl.explain(net, x[:1], preprocess=None)
    assert item.image.size == (10, 8)
    shown = np.asarray(item.image)
    assert (shown.min(), shown.max()) == (0, 255)
    np.testing.assert_allclose(shown / 255, (x[0] - x[0].min()) / np.ptp(x[0]), atol=1 / 255)
    assert item.heatmap().shape == (8, 10)


def test_a_tensor_is_a_ready_input(net, x):
    given, expected = (cl.explain(net, i, target=1, preprocess=None).raw for i in (tf.constant(x), x))
    np.testing.assert_array_equal(given, expected)


@pytest.fixture(scope="module")
def two_inputs():
    image, number = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="number")
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(image))
    y = layers.Dense(3, "softmax")(layers.Concatenate()([y, number]))
    return tiny.seeded(keras.Model({"image": image, "number": number}, y, name="two_inputs"))


def test_several_inputs(two_inputs):
    given = {"image": tiny.inputs(size=(8, 8)), "number": np.ones((3, 2), "float32")}
    results = cl.explain(two_inputs, given, method=["grad-cam", "score-cam"], target=1, preprocess=None, batch_size=2)
    assert results.raw.shape == (6, 6, 6)
    assert results[0].heatmap().shape == (8, 8)
    p = two_inputs(given).numpy()
    assert [e.probability for e in results.select(method="grad-cam")] == pytest.approx(list(p[:, 1]), rel=1e-4)


def test_several_inputs_as_a_tuple():
    a, b = keras.Input((8, 8, 3)), keras.Input((2,))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(a))
    model = tiny.seeded(keras.Model([a, b], layers.Dense(3, "softmax")(layers.Concatenate()([y, b]))))
    x = (tiny.inputs(size=(8, 8)), np.ones((3, 2), "float32"))
    tuples, lists = (cl.explain(model, given, target=1, preprocess=None).raw for given in (x, list(x)))
    assert tuples.shape == (3, 6, 6)
    np.testing.assert_array_equal(tuples, lists)


def test_a_model_of_several_inputs_takes_no_picture(two_inputs):
    with pytest.raises(RequestError, match="preprocess=None"):
        cl.explain(two_inputs, photographs((8, 8)))


@pytest.fixture(scope="module")
def two_outputs():
    image = keras.Input((8, 8, 3))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(image))
    ends = {"kind": layers.Dense(3, "softmax", name="kind")(y), "age": layers.Dense(2, name="age")(y)}
    return tiny.seeded(keras.Model(image, ends, name="two_outputs"))


def test_outputs_by_name_stand_in_the_order_that_was_asked_for(two_outputs):
    x = tiny.inputs(2, size=(8, 8))
    wanted = [cl.targets.output("age", 1), "kind:2", cl.targets.output("age", 0), cl.targets.output("kind", 0)]
    results = cl.explain(two_outputs, x, target=wanted, preprocess=None)
    assert [e.target.index for e in results] == [1, 2, 0, 0] * 2
    y = {name: value.numpy() for name, value in two_outputs(x).items()}
    assert results[0].score == pytest.approx(float(y["age"][0, 1]), rel=1e-4)
    assert results[1].probability == pytest.approx(float(y["kind"][0, 2]), rel=1e-4)
    assert results[7].probability == pytest.approx(float(y["kind"][1, 0]), rel=1e-4)


def test_a_series():
    series = keras.Input((20, 2))
    y = layers.Conv1D(4, 3, strides=2, activation="relu", name="conv")(series)
    model = tiny.seeded(keras.Model(series, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(y))))
    x = np.random.default_rng(0).normal(size=(2, 20, 2)).astype("float32")
    results = cl.explain(model, x, method=ALL, target=1, preprocess=None)
    item = results[0]
    assert item.raw.shape == (9,)
    assert item.heatmap().shape == (20,)
    assert item.heatmap(30).shape == (30,)
    assert item.image is None
    for call in (item.overlay, item.boxes, item.figure):
        with pytest.raises(RequestError):
            call()
    assert "<img" not in item._repr_html_()


def test_a_series_is_saved_as_numbers(tmp_path):
    series = keras.Input((20, 2))
    y = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3, activation="relu")(series))
    model = tiny.seeded(keras.Model(series, layers.Dense(3, "softmax")(y)))
    cl.explain(model, np.ones((1, 20, 2), "float32"), target=1, preprocess=None).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"image0.grad-cam.1.npy", "explanations.json"}


# Notes


def with_head(W, b=0.0):
    model = tiny.gap_net()
    kernel, bias, *_ = model.get_weights()
    model.set_weights([np.abs(kernel), np.abs(bias), np.broadcast_to(W, (6, 5)), np.broadcast_to(b, 5)])
    return model


def test_a_map_with_negative_evidence_alone_says_so(x):
    results = cl.explain(with_head(-1.0), x, method=["cam", "grad-cam"], target=2, preprocess=None)
    for item in results:
        assert item.raw.max() < 0
        assert not item.heatmap().any()
        assert item.heatmap(signed=True).min() == -1
        assert item.boxes() == []
        np.testing.assert_allclose(np.asarray(item.overlay(alpha=0)), np.asarray(item.image))
        note_on(item, "empty", "negative", "signed=True")


def test_a_map_without_positive_gradients_says_so(x):
    (item,) = cl.explain(with_head(-1.0), x[:1], method="grad-cam++", target=2, preprocess=None)
    assert not item.raw.any()
    note_on(item, "empty", "no gradient is positive")


def test_a_map_without_gradients_says_so(x):
    methods = ["grad-cam", "grad-cam++"]
    for item in cl.explain(with_head(0.0), x[:1], method=methods, target=lambda y: y[:, 2], preprocess=None):
        assert not item.raw.any()
        note_on(item, "empty", "gradient", "zero")


def test_a_map_of_a_head_without_weights_says_so(x):
    (item,) = cl.explain(with_head(0.0), x[:1], target=2, preprocess=None)
    assert not item.raw.any()
    note_on(item, "empty", "weights", "zero")


def test_a_map_of_a_saturated_probability_says_so(x):
    model = with_head(np.eye(6, 5), b=[0, 0, 200, 0, 0])
    (item,) = cl.explain(model, x[:1], target=2, score="probability", preprocess=None)
    assert item.probability == 1
    assert not item.raw.any()
    note_on(item, "empty", "saturated", "logit")
    (logit,) = cl.explain(model, x[:1], target=2, preprocess=None)
    assert logit.heatmap().max() == 1
    assert not [note for note in logit.notes if "empty" in note]


def test_a_fused_map_without_anything_to_show_says_why(x):
    model = tiny.gap_net()
    model.set_weights([np.abs(w) for w in model.get_weights()[:2]] + [np.full((6, 5), -1.0), np.zeros(5)])
    (item,) = cl.explain(model, x[:1], target=2, layer=cl.fused(["conv", "conv"]), preprocess=None)
    assert not item.raw.any()
    note_on(item, "empty", "negative")


def test_notes_say_what_was_assumed(net):
    (item,) = cl.explain(net, photographs((9, 9)))
    note_on(item, "preprocessing 'none' was assumed")
    note_on(item, "the logit is explained", "softmax", "head")
    note_on(item, "layer 'conv' was chosen")
    (probability,) = cl.explain(net, photographs((9, 9)), score="probability", layer="conv", preprocess="unit")
    assert probability.notes == ()


# All heat maps at once


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [None, 5, (4, 9)])
def test_all_heat_maps_at_once_are_those_of_each(net, x, size, signed):
    results = cl.explain(net, x, method=[*ALL, "lafam"], target=["top1", 2], preprocess=None)
    assert any(item.floor for item in results)  # or a map that begins above zero is not among them
    found = results.heatmaps(size, signed=signed)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [item.heatmap(size, signed=signed) for item in results])


def test_heat_maps_of_different_sizes_are_not_put_together(net):
    pictures = [np.zeros((n, 10, 3), "uint8") for n in (8, 9)]
    results = cl.explain(net, pictures, preprocess=lambda x: x)
    with pytest.raises(RequestError, match="give one size for all"):
        results.heatmaps()
    assert results.heatmaps(6).shape == (2, 6, 6)


# The reusable form


def test_an_explainer_is_explain(net, x):
    explainer = cl.Explainer(net, method=ALL, target=["top1", 2], preprocess=None, batch_size=2)
    for part in (x, x[:1], x[::-1]):
        expected = cl.explain(net, part, method=ALL, target=["top1", 2], preprocess=None)
        for one, other in zip(explainer(part), expected, strict=True):
            np.testing.assert_allclose(one.raw, other.raw, rtol=1e-4, atol=1e-6)
            assert one.target == other.target


def test_an_explainer_traces_once(net, x):
    explainer = cl.Explainer(net, method=ALL, preprocess=None)
    explainer(x)
    cl.explain(net, x, method=ALL, target=0, preprocess=None)  # by index, where nothing has to be put in order
    traces = explainer.engine.traces
    for count in (1, 2, 3, 5):
        explainer(tiny.inputs(count, seed=count))
    for target in range(5):
        cl.explain(net, x, method=ALL, target=target, preprocess=None)
    assert explainer.engine.traces == traces


def test_an_explainer_goes_on_after_a_failure(net, x):
    explainer = cl.Explainer(net, target=cl.targets.each([1, 2, 3]), preprocess=None)
    expected = explainer(x).raw
    with pytest.raises(CamlucidaError):
        explainer(x[:2])
    np.testing.assert_array_equal(explainer(x).raw, expected)


def test_progress(net, x, capsys):
    calls = []
    cl.explain(net, x, method=ALL, preprocess=None, batch_size=4, progress=lambda *call: calls.append(call))
    assert calls[-1] == (18, 18)
    cl.explain(net, x, method=ALL, preprocess=None, progress=True)
    assert capsys.readouterr().out == ""


def test_a_loaded_model(x):
    loaded = cl.load_model(tiny.gap_net(), labels=LABELS, preprocess="unit")
    (item,) = cl.explain(loaded, photographs((9, 9)), target="dog")
    assert item.target.index == 3
    assert item.answer.model == "gap_net"
    assert not [note for note in item.notes if "assumed" in note]


def test_methods_lists_the_registry():
    assert {*ALL, "rise", "occlusion"} < set(cl.methods())
    assert all(method.name == name for name, method in cl.methods().items())
    assert cl.methods()["cam"].equation.startswith("L_u")


# Bad requests


BAD = {
    "method": [
        ("grad-cm", UnknownNameError, "unknown method 'grad-cm'.*'grad-cam'"),
        ([], RequestError, "no method"),
        (["grad-cam", 3], RequestError, "method 3"),
        (3, RequestError, "method 3"),
        (None, RequestError, "method None"),
        ("score-cam?chanels=3", UnknownNameError, "option of score-cam 'chanels'.*'channels'"),
        ("score-cam?channels=0", RequestError, "channels=0"),
    ],
    "target": [
        ("cta", UnknownNameError, "unknown class 'cta'.*'cat'"),
        (5, RequestError, "class index 5 is out of range: the model has 5 classes, 0 to 4"),
        ("7", RequestError, "class index 7"),
        (-1, RequestError, "negative"),
        ("top6", RequestError, "out of range"),
        ("top0", RequestError, "rank 0"),
        ([], RequestError, "no target"),
        (1.5, RequestError, "target 1.5"),
        (None, RequestError, "target None"),
        ("", CamlucidaError, "class"),
        ("²", CamlucidaError, "class"),
        (cl.targets.output("kind", 1), CamlucidaError, "kind"),
    ],
    "layer": [
        ("cnv", UnknownNameError, "unknown layer 'cnv'.*'conv'"),
        ("gap", RequestError, "layer 'gap' has no grid"),
        ([], RequestError, "no layer"),
        (5, RequestError, "layer"),
        (None, RequestError, "layer"),
        (layers.Conv2D(1, 1, name="stranger"), RequestError, "stranger"),
    ],
    "score": [("logits", UnknownNameError, "unknown score 'logits'.*'logit'"), (None, UnknownNameError, "score")],
    "variant": [("oficial", UnknownNameError, "unknown variant 'oficial'.*'official'"), (1, UnknownNameError, "1")],
    "preprocess": [("imagenett", UnknownNameError, "preprocessing"), (5, RequestError, "preprocess is")],
    "labels": [
        (["a", "b"], RequestError, "labels is 2, but the model has 5"),
        (5, RequestError, "labels are a file"),
        ("no-such-file.txt", RequestError, "no-such-file.txt cannot be read"),
    ],
    "batch_size": [(0, RequestError, "batch_size=0"), (2.5, RequestError, "batch_size=2.5"), ("x", RequestError, "x")],
    "seed": [("x", RequestError, "seed='x'"), (-1, RequestError, "seed=-1")],
    "progress": [("yes", RequestError, "progress='yes'")],
    "chanels": [(3, UnknownNameError, "unknown option 'chanels'")],
    "channels": [(3, UnknownNameError, "unknown option 'channels'")],
}


@pytest.mark.parametrize(
    ("keyword", "value", "error", "message"),
    [pytest.param(k, *case, id=f"{k}-{case[0]!r}"[:40]) for k, cases in BAD.items() for case in cases],
)
def test_bad_requests(net, x, keyword, value, error, message):
    before = [w.copy() for w in net.get_weights()]
    settings = {"labels": LABELS, "preprocess": "unit"} | {keyword: value}
    with pytest.raises(error, match=message) as caught:
        cl.explain(net, (x * 255).astype("uint8"), **settings)
    assert issubclass(caught.type, cl.CamlucidaError)
    assert "\n" not in str(caught.value)
    for one, other in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert net.get_layer("head").activation is keras.activations.softmax
    assert "call" not in vars(net.get_layer("conv"))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("xceptoin", UnknownNameError, "unknown model 'xceptoin'.*'xception'"),
        ("no-such-file.keras", ModelError, "no-such-file.keras"),
        ("", CamlucidaError, "model|nothing"),
        (5, RequestError, "not int 5"),
        (None, RequestError, "model"),
        (lambda x: x, ConditionError, "grad-cam needs the gradient of the score, which a function"),
        ("no_such_module:make", ModelError, "no_such_module"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message) as caught:
        cl.explain(model, photographs((8, 8)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "error"),
    [
        ("no-such-file.png", ImageError),
        ("sample:dgo", UnknownNameError),
        ("https://example.org/a.png", ImageError),
        ([], RequestError),
        (5, RequestError),
        (None, RequestError),
        (np.zeros((3, 4, 5, 7), np.uint8), ImageError),
        (np.full((8, 8, 3), np.nan), ImageError),
        (np.zeros((0, 8, 8, 3), np.uint8), RequestError),
    ],
)
def test_bad_images(net, images, error):
    with pytest.raises(error) as caught:
        cl.explain(net, images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 7, 7, 3), "float32"),  # of another size
        np.zeros((8, 10, 3), "float32"),  # one image without its batch
        np.zeros((2, 8, 10, 1), "float32"),
        np.zeros((0, 8, 10, 3), "float32"),
        {"image": np.zeros((2, 8, 10, 3), "float32"), "other": np.zeros((1, 2), "float32")},
        {"picture": np.zeros((2, 8, 10, 3), "float32")},
        {},
        "a.png",
        None,
        5.0,
        np.array(["a", "b"]),
        np.zeros((2, 8, 10, 3), complex),
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:30],
)
def test_bad_ready_inputs(net, inputs):
    with pytest.raises(CamlucidaError) as caught:
        cl.explain(net, inputs, preprocess=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_ready_input_that_is_no_number(net, x, value):
    broken = x.copy()
    broken[2, 3, 4, 1] = value
    with pytest.raises(ImageError, match="image 2"):
        cl.explain(net, broken, preprocess=None, batch_size=2)


def test_an_answer_that_is_no_number_names_the_image(x):
    model = tiny.gap_net()
    kernel, *rest = model.get_weights()
    model.set_weights([kernel * 1e38, *rest])
    huge = np.concatenate([x * 1e-38, x[:1] * 1e5, x[:1] * 1e-38])
    with pytest.raises(ImageError, match="image 3"):
        cl.explain(model, huge, preprocess=None, batch_size=2)


def test_cam_needs_its_head(deep, net, x):
    with pytest.raises(ConditionError, match=r"cam needs global average pooling.*grad-cam works"):
        cl.explain(deep, x, method="cam", preprocess=None)
    with pytest.raises(ConditionError):
        cl.explain(deep, x, method="cam", layer="early", preprocess=None)


def test_a_model_without_a_grid(x):
    flat = keras.Sequential([keras.Input((8, 10, 3)), layers.Flatten(), layers.Dense(3, "softmax")])
    with pytest.raises(ConditionError, match="no layer with a grid"):
        cl.explain(flat, x, preprocess=None)


def test_fused_needs_layers():
    with pytest.raises(RequestError, match="at least one layer"):
        cl.fused([])
    with pytest.raises(RequestError, match="'conv'"):
        cl.fused("conv")
    with pytest.raises(UnknownNameError, match=r"unknown fusion 'maximum'.*'max'"):
        cl.fused(["conv"], how="maximum")


# What it costs to have it


def test_importing_is_light():
    code = "import sys, camlucida; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in answer.stdout.split()}
    assert "camlucida" in loaded
    assert not loaded & {"keras", "tensorflow", "torch", "jax", "matplotlib", "scipy", "skimage", "rich", "typer"}


def test_the_public_names_are_there():
    assert set(cl.__all__) >= {
        "CamlucidaError", "Explainer", "Explanation", "Explanations", "explain", "fused", "load_model", "methods",
        "targets", "__version__",
    }  # fmt: skip
    assert all(hasattr(cl, name) for name in cl.__all__)


# Channels and concepts


@pytest.fixture(scope="module")
def seen():
    picture = np.random.default_rng(0).integers(0, 255, (8, 10, 3), dtype="uint8")
    net, methods = tiny.gap_net(channels=12), ["activations", "dff?concepts=3", "cam"]
    return cl.explain(net, picture, method=methods, preprocess=lambda x: x / 255)


def test_channels_add_up_to_the_map(seen):
    activations, concepts, cam = seen
    assert activations.channels.shape == (8, 10, 12)
    assert concepts.channels.shape == (8, 10, 3)
    assert (cam.channels, cam.pixels, activations.pixels) == (None, None, None)
    for item in (activations, concepts):
        np.testing.assert_allclose(item.channels.sum(axis=-1), item.raw, rtol=1e-5)


def test_a_sheet_shows_the_strongest_channels_first(seen):
    activations, *_ = seen
    titles = [axes.get_title(loc="left") for axes in activations.sheet(4).axes]
    order = np.argsort(-activations.channels.sum(axis=(0, 1)), kind="stable")
    assert [title for title in titles if title] == [str(k) for k in order[:4]]


def test_concepts_have_a_legend(seen):
    _, concepts, _ = seen
    titles = [axes.get_title(loc="left") for axes in concepts.concepts().axes]
    assert [t for t in titles if t] == ["dff?concepts=3", "concept 0", "concept 1", "concept 2"]


def test_what_keeps_no_channels_says_which_does(seen):
    *_, cam = seen
    for show in (cam.sheet, cam.concepts):
        with pytest.raises(RequestError, match="cam keeps no maps of channels; method='activations' or 'dff' does"):
            show()


def test_too_many_channels_for_colours():
    picture = np.zeros((16, 20, 3), "uint8")
    net = tiny.gap_net(channels=11)
    item = cl.explain(net, picture, method="activations", preprocess=lambda x: x)[0]
    with pytest.raises(RequestError, match="11 channels are too many for colours"):
        item.concepts()
    assert set(item.channel_figures()) == {"sheet"}


def test_they_are_saved_beside_the_overlay(seen, tmp_path):
    seen.save(tmp_path)
    names = {file.name for file in tmp_path.glob("*.png")}
    assert sum(".sheet." in name for name in names) == 2
    assert sum(".concepts." in name for name in names) == 1
    assert len(names) == 6


# Smoothing


def test_smoothing_is_an_option_of_any_method(net, x):
    smooth = cl.explain(net, x, method=["grad-cam", "rise?masks=10"], smooth="augment", preprocess=None)
    assert [item.method for item in smooth[:2]] == ["grad-cam?smooth=augment", "rise?masks=10&smooth=augment"]
    plain = cl.explain(net, x, method=["grad-cam", "rise?masks=10"], preprocess=None)
    assert np.abs(smooth[0].raw - plain[0].raw).max() > 1e-4
    assert smooth[0].score == plain[0].score


# Notes on methods


def test_a_note_tells_what_is_uncertain_and_where_a_heat_map_begins(net, x):
    finer, rise, cam = cl.explain(net, x[:1], method=["finer-cam", "rise?masks=20", "cam"], preprocess=None)
    assert any(note.startswith("finer-cam: γ = 0.6") for note in finer.notes)
    assert "the map is positive everywhere: its heat map begins at its least value" in rise.notes
    assert rise.floor == rise.raw.min() > 0
    assert rise.heatmap(rise.raw.shape).min() == 0
    assert not any("positive everywhere" in note or "uncertain" in note for note in cam.notes)
    assert cam.floor == 0


def test_a_note_names_the_activations_that_could_not_be_guided():
    image = keras.Input((8, 10, 3))
    y = keras.layers.Conv2D(4, 3, activation="gelu")(image)
    y = keras.layers.Conv2D(4, 3, activation="relu")(y)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y)))
    guided = cl.explain(tiny.seeded(model), tiny.inputs(1), method="guided-backprop", preprocess=None)[0]
    assert any("only ReLUs are altered" in note and "gelu" in note for note in guided.notes)
    assert guided.pixels.shape == (8, 10, 3)
