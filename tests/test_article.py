"""The recipe of Keras's Grad-CAM tutorial, written here a second time: our map is the same, and never NaN.

The recipe: the gradient of the class probability with respect to Xception's last convolution, averaged over space,
dotted with the activations, rectified, divided by its maximum; then coloured with jet and added to the picture.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib import colormaps

import camlucida as cl

LAYER = "block14_sepconv2_act"


@pytest.fixture(scope="module")
def xception():
    """Xception with random weights, its head scaled up so that it has an opinion."""
    keras.utils.set_random_seed(0)
    model = keras.applications.Xception(weights=None, input_shape=(224, 224, 3))
    head = model.layers[-1]
    features = keras.Model(model.input, head.input)(prepared(picture())).numpy()
    kernel = head.kernel.numpy()
    head.kernel.assign(kernel * 2 / (features @ kernel).std())
    return model


def picture():
    """A photograph of sorts: smooth, with light and dark places."""
    y, x = np.mgrid[0:224, 0:224] / 224
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 2 * x), np.sin(20 * x * y)]
    return (127.5 + 127 * np.stack(waves, axis=-1)).astype("uint8")


def prepared(pixels):
    return keras.applications.xception.preprocess_input(pixels[None].astype("float32"))


def recipe(model, img_array, layer_name, pred_index):
    """The article's function, the raw map beside its result."""
    grad_model = keras.Model(model.input, [model.get_layer(layer_name).output, model.output])
    with tf.GradientTape() as tape:
        last_conv_layer_output, preds = grad_model(img_array)
        class_channel = preds[:, pred_index]
    grads = tape.gradient(class_channel, last_conv_layer_output)
    pooled_grads = tf.reduce_mean(grads, axis=(0, 1, 2))
    raw = (last_conv_layer_output[0] @ pooled_grads[..., tf.newaxis]).numpy()[..., 0]
    heatmap = np.maximum(raw, 0)
    with np.errstate(invalid="ignore"):
        return raw, heatmap / heatmap.max()


@pytest.fixture(scope="module")
def maps_of_all(xception):
    """The recipe's raw map of every class, up to rounding, without its thousand gradients: ``(C, 7, 7)``."""
    A = keras.Model(xception.input, xception.get_layer(LAYER).output)(prepared(picture())).numpy()[0]
    p = xception(prepared(picture())).numpy()[0]
    L = A @ xception.layers[-1].kernel.numpy() / 49
    return np.moveaxis(p * (L - (L @ p)[..., None]), -1, 0)


@pytest.fixture(scope="module")
def mixed(maps_of_all):
    """The class whose map has most of both signs."""
    balance = np.minimum(maps_of_all.max(axis=(1, 2)), -maps_of_all.min(axis=(1, 2)))
    return int(balance.argmax())


@pytest.fixture(scope="module")
def negative(maps_of_all):
    """The class whose map is the most clearly negative everywhere."""
    return int((maps_of_all.max(axis=(1, 2)) / np.abs(maps_of_all).max(axis=(1, 2))).argmin())


def test_our_map_is_the_recipes(xception, mixed):
    top = int(xception(prepared(picture())).numpy().argmax())
    results = cl.explain(xception, picture(), target=[mixed, top, "top1"], layer=LAYER, score="probability")
    for item, index in zip(results, (mixed, top, top), strict=True):
        raw, heatmap = recipe(xception, prepared(picture()), LAYER, index)
        assert item.target.index == index
        assert item.raw.shape == heatmap.shape == (7, 7)
        assert heatmap.std() > 0.1
        np.testing.assert_allclose(item.raw / np.abs(raw).max(), raw / np.abs(raw).max(), atol=1e-5)
        np.testing.assert_allclose(item.heatmap((7, 7)), heatmap, atol=1e-5)
    assert results[0].raw.min() < 0 < results[0].raw.max()
    assert results[0].heatmap().shape == (224, 224)


def test_the_layer_that_is_chosen_is_the_articles(xception, mixed):
    chosen, named = (
        cl.explain(xception, picture(), target=mixed, score="probability", **settings)[0]
        for settings in ({}, {"layer": LAYER})
    )
    assert chosen.layer == LAYER
    np.testing.assert_array_equal(chosen.raw, named.raw)


def test_where_the_recipe_gives_nan_ours_gives_zeros_and_says_why(xception, negative):
    raw, heatmap = recipe(xception, prepared(picture()), LAYER, negative)
    assert raw.max() < 0
    assert np.isnan(heatmap).all()
    (item,) = cl.explain(xception, picture(), target=negative, layer=LAYER, score="probability")
    np.testing.assert_allclose(item.raw / np.abs(raw).max(), raw / np.abs(raw).max(), atol=1e-5)
    assert not item.heatmap((7, 7)).any()
    assert not item.heatmap().any()
    assert item.boxes() == []
    assert [note for note in item.notes if "empty" in note and "negative" in note]
    assert np.isfinite(np.asarray(item.overlay(blend="add"))).all()


def test_the_overlay_is_the_recipes(xception, mixed):
    """By Keras's own `array_to_img`. The article multiplies by 255, matplotlib by 256: at most one colour apart."""
    (item,) = cl.explain(xception, picture(), target=mixed, layer=LAYER, score="probability")
    heat = item.heatmap()

    def superimposed(index):
        jet_colors = colormaps["jet"](np.arange(256))[:, :3]
        jet_heatmap = keras.utils.img_to_array(keras.utils.array_to_img(jet_colors[index]))
        return np.asarray(keras.utils.array_to_img(jet_heatmap * 0.4 + picture())).astype(int)

    ours = np.asarray(item.overlay(alpha=0.4, cmap="jet", blend="add")).astype(int)
    exact = superimposed(np.minimum(256 * heat, 255).astype(int))
    assert np.abs(ours - exact).max() <= 1
    assert (ours == exact).mean() > 0.99
    assert np.abs(ours - superimposed(np.uint8(255 * heat))).max() <= 3
    assert np.abs(ours - picture()).mean() > 10
