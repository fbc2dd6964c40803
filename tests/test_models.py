"""The room from a spec to a model: specs, preprocessing, networks, weights, files, labels and what is assumed."""

import contextlib
import hashlib
import importlib.util
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
import urllib.error
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camlucida import errors
from camlucida.models import applications, backend, cifar10, guess, load_model, spec
from camlucida.models import labels as class_names
from camlucida.models.applications import NETWORKS
from camlucida.models.known import known_models
from camlucida.models.preprocessing import PREPROCESSINGS, by_name, range_note
from camlucida.options import parse_options, written

backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")
layers = keras.layers

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

DATA = Path(os.environ.get("CAMLUCIDA_TEST_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")


def data(name):
    """A file of the test data; the test is skipped where it is not there."""
    if not (DATA / name).is_file():
        pytest.skip(f"no {name} in the test data: set CAMLUCIDA_TEST_DATA to its folder")
    return DATA / name


def tiny(*first, name="tiny", filters=3, classes=4, size=(8, 8)):
    """A small classifier that begins with the layers or functions `first`."""
    x = image = keras.Input((*size, 3))
    for step in first:
        x = step(x)
    x = layers.Conv2D(filters, 3, name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="head")(x), name=name)


def backbone(x):
    return keras.Model(image := keras.Input(x.shape[1:]), layers.Conv2D(3, 1)(image), name="vgg16")(x)


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def message(error):
    """The text of an error, which must be one line and must not hold a traceback or an array."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# Options and specs


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("mobilenet", "mobilenet", {}),
        ("mobilenet?alpha=0.75", "mobilenet", {"alpha": 0.75}),
        ("mobilenet?alpha=0.75&depth_multiplier=1", "mobilenet", {"alpha": 0.75, "depth_multiplier": 1}),
        ("rise?grid=(7, 7)&p=.5&mode=soft", "rise", {"grid": (7, 7), "p": 0.5, "mode": "soft"}),
        ("m?a=true&b=False&c=None&d='x y'&e=1if", "m", {"a": True, "b": False, "c": None, "d": "x y", "e": "1if"}),
        (" m ? a = -1e-3 ", "m", {"a": -1e-3}),
        ("m?a=b=c", "m", {"a": "b=c"}),
    ],
)
def test_options(text, name, options):
    assert parse_options(text) == (name, options)


@pytest.mark.parametrize("text", ["", "?a=1", "m?", "m?a", "m?a=", "m?=1", "m?a=1&", "m?a=1&a=2", "m?a b=1"])
def test_options_that_cannot_be_read(text):
    with pytest.raises(errors.RequestError) as error:
        parse_options(text)
    assert message(error)


@settings(deadline=None)  # how long it takes on a busy machine is no matter
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(str.isidentifier),
        st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    )
)
def test_options_survive_being_written(options):
    assert parse_options(written("name", options)) == ("name", options)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(errors.RequestError):
        spec.parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("ResNet50", "name", "resnet50"),
        ("net.keras", "file", "net.keras"),
        ("folder/odd?name=1.H5", "file", "folder/odd?name=1.H5"),
        ("C:\\models\\net.keras", "file", "C:\\models\\net.keras"),
        ("package.module:build", "factory", "package.module:build"),
    ],
)
def test_kinds_of_specs(text, kind, name):
    parsed = spec.parse(text)
    assert (parsed.kind, parsed.name) == (kind, name)


@pytest.mark.parametrize(
    ("text", "kind", "name", "framework"),
    [
        ("xception", "name", "xception", "keras"),
        ("net.KERAS", "file", "net.KERAS", "keras"),
        ("a/net.pt2", "file", "a/net.pt2", "torch"),
        ("net.PTH", "file", "net.PTH", "torch"),
        ("net.onnx", "file", "net.onnx", "onnx"),
        ("timm:vit_base.augreg_in1k", "timm", "vit_base.augreg_in1k", "torch"),
        ("TIMM:hf_hub:owner/Name", "timm", "hf_hub:owner/Name", "torch"),
        ("torchvision:VGG16", "torchvision", "VGG16", "torch"),
        ("hf:google/vit?base", "hf", "google/vit?base", "torch"),
        ("hf:C:\\models\\vit", "hf", "C:\\models\\vit", "torch"),
        ("torchvision.models:vgg16", "factory", "torchvision.models:vgg16", None),
        ("package.module:build", "factory", "package.module:build", None),
    ],
)
def test_specs_tell_the_framework(text, kind, name, framework):
    parsed = spec.parse(text)
    assert (parsed.kind, parsed.name, parsed.framework) == (kind, name, framework)


def test_specs_are_written_again():
    for text in ("timm:resnet50?num_classes=10", "hf:google/vit", "net.onnx", "mobilenet?alpha=0.75", "a.b:c"):
        assert str(spec.parse(text)) == text


@pytest.mark.parametrize("text", ["folder/net.pb", "package.module:", "a b:c", "package.module:build?x=1", "timm:"])
def test_specs_that_cannot_be_read(text):
    with pytest.raises(errors.RequestError) as error:
        load_model(text)
    assert message(error)


# Preprocessing


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype("float32")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_preprocessing_is_kerass(network, pixels):
    expected = getattr(keras.applications, network.module).preprocess_input(pixels.copy())
    before = pixels.copy()
    result = by_name(network.name).apply(pixels)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS.values(), ids=lambda p: p.name)
def test_range_of_preprocessing(preprocessing):
    corners = np.stack(np.meshgrid(*[[0, 255]] * 3), -1).reshape(1, 2, 4, 3).astype("float32")
    result = preprocessing.apply(corners)
    assert preprocessing.low == pytest.approx(result.min(), abs=1e-3)
    assert preprocessing.high == pytest.approx(result.max(), abs=1e-3)


def test_unknown_preprocessing():
    with pytest.raises(errors.UnknownNameError, match="did you mean 'caffe'") as error:
        by_name("cafe")
    assert "unit" in message(error)


@pytest.mark.parametrize("given_", PREPROCESSINGS)
@pytest.mark.parametrize("wanted", PREPROCESSINGS)
def test_range_note(wanted, given_, pixels):
    note = range_note(PREPROCESSINGS[given_].apply(pixels), PREPROCESSINGS[wanted])
    if given_ == wanted or (wanted, given_) == ("torch", "tf"):  # -1..1 is a plausible picture of little contrast
        assert note is None
    else:
        assert "\n" not in note
        assert repr(wanted) in note
        assert "which looks like" in note


def test_range_note_judges_only_what_it_can():
    none = PREPROCESSINGS["none"]
    assert range_note(np.zeros((1, 4, 4, 3)), none) is None
    assert range_note({"a": np.zeros(3)}, none) is None
    assert range_note(np.array([0.0, 1.0]), None) is None
    assert range_note(np.zeros((0, 3)), none) is None
    assert range_note(np.array([0, 255], "uint8"), none) is None
    assert "NaN" in range_note(np.array([0, math.nan]), none)
    assert range_note(np.array([0, 1e9]), load_model(tiny(), preprocess=lambda x: x).preprocessing) is None
    assert "looks" not in range_note(np.array([-1e6, 1e6]), none)


# The table of networks


def test_table_holds_every_network_of_keras():
    functions = {name for name, f in vars(keras.applications).items() if inspect.isfunction(f)}
    assert {n.function for n in NETWORKS.values()} == functions
    assert all(n.name == n.function.lower() == key for key, n in NETWORKS.items())


class CapturedError(Exception):
    """Carries the size that Keras takes by default out of a network that is then not built."""


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_official_size_is_kerass(network, monkeypatch):
    def capture(input_shape, default_size, **_):
        raise CapturedError(default_size)

    module = inspect.getmodule(getattr(keras.applications, network.function))
    monkeypatch.setattr(module.imagenet_utils, "obtain_input_shape", capture)
    function = getattr(keras.applications, network.function)
    if network.module == "mobilenet_v3":  # has no default: its weights say 224
        assert "_224_" in inspect.getsource(module)
        assert network.size == (224, 224)
    else:
        with pytest.raises(CapturedError) as captured:
            function(weights=None)
        assert network.size == captured.value.args * 2


def test_dense_heads_are_known():
    modules = {n.name: inspect.getmodule(getattr(keras.applications, n.function)) for n in NETWORKS.values()}
    sources = {name: inspect.getsource(module) for name, module in modules.items()}
    assert {name for name, source in sources.items() if 'Flatten(name="flatten")' in source} == set(
        applications._FLATTENING
    )


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_networks_take_what_specs_offer(network):
    parameters = inspect.signature(getattr(keras.applications, network.function)).parameters
    assert {"weights", "input_shape", "classes"} <= parameters.keys()
    offered = {k: p.default for k, p in parameters.items() if k not in applications._SETTLED}
    assert all(isinstance(default, bool | int | float) for default in offered.values())


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_networks_are_recognised_by_their_default_names(network):
    default = inspect.signature(getattr(keras.applications, network.function)).parameters["name"].default
    name = default or f"{network.name}_0.75_224"  # mobilenet and mobilenetv2 make theirs of their arguments
    assert applications.recognise(name) is network


@pytest.mark.parametrize("name", ["", "model", "functional_1", "sequential", "my_xception", "resnet"])
def test_other_names_are_not_recognised(name):
    assert applications.recognise(name) is None


# Networks and their weights


def test_mobilenet_from_a_file(tmp_path):
    source = keras.applications.MobileNet(alpha=0.25, weights=None)
    file = tmp_path / "made.weights.h5"
    source.save_weights(file)
    loaded = load_model("MobileNet?alpha=0.25", weights=file)
    assert same_weights(loaded.model, source)
    assert loaded.name == "mobilenet?alpha=0.25"
    assert (loaded.size, loaded.preprocessing, loaded.notes) == ((224, 224), PREPROCESSINGS["tf"], ())
    assert loaded.labels == class_names.imagenet()

    other = load_model("mobilenet?alpha=0.25", weights=file, size=(96, 64))
    assert other.model.input_shape == (None, 96, 64, 3)
    assert other.size == (96, 64)

    with pytest.raises(errors.ModelError, match=r"does not fit mobilenet\?alpha=0\.5: layer conv1") as error:
        load_model("mobilenet?alpha=0.5", weights=file)
    assert str(file) in message(error)
    assert "another alpha or depth_multiplier or classes?" in message(error)


def test_other_classes_have_no_imagenet_labels(tmp_path):
    keras.applications.MobileNet(alpha=0.25, classes=3, weights=None).save_weights(tmp_path / "made.weights.h5")
    loaded = load_model("mobilenet?alpha=0.25&classes=3", weights=tmp_path / "made.weights.h5")
    assert loaded.labels is None
    assert loaded.model.output_shape == (None, 3)
    with pytest.raises(errors.RequestError, match="1000 classes; give a file"):
        load_model("mobilenet?classes=3")


def test_real_weights():
    file = data("weights/mobilenet_v1_0.75_224.weights.h5")
    loaded = load_model("mobilenet?alpha=0.75", weights=file)
    picture = np.asarray(Image.open(data("images/cat_dog.jpg")).convert("RGB").resize((224, 224)), "float32")
    probabilities = loaded.model.predict_on_batch(loaded.preprocessing.apply(picture[None]))
    assert loaded.labels[probabilities.argmax()] == "bull_mastiff"
    assert probabilities.max() == pytest.approx(0.92, abs=0.01)


def test_real_weights_of_another_alpha():
    file = data("weights/mobilenet_v1_0.75_224.weights.h5")
    with pytest.raises(errors.ModelError, match=r"layer conv1 takes \(3, 3, 3, 8\), the file has \(3, 3, 3, 24\)"):
        load_model("mobilenet?alpha=0.25", weights=file)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("mobilenet?beta=1", {}, "it takes alpha, depth_multiplier, dropout, classes"),
        ("mobilenet?weights=x", {}, "takes no argument 'weights' in a spec"),
        ("resnet50?alpha=1", {}, "it takes classes"),
        ("mobilenet?alpha=0.3", {}, "alpha can be one of"),
        ("mobilenet?alpha=wide", {}, "mobilenet?alpha=wide: alpha is written as 1.0 is, not as 'wide'"),
        ("mobilenetv3small?minimalistic=1", {}, "minimalistic is written as False is, not as 1"),
        ("mobilenet?alpha=-1", {"weights": "x.h5"}, "Keras refuses mobilenet?alpha=-1: Invalid value for argument"),
        ("mobilenet?alpha=0.25", {"size": 16}, "at least 32x32"),
        ("cifar10?alpha=1", {}, "takes no arguments"),
    ],
)
def test_arguments_that_are_refused(text, options, expected):
    with pytest.raises(errors.RequestError) as error:
        load_model(text, **options)
    assert expected in message(error)


def test_dense_heads_fit_one_size():
    with pytest.raises(errors.ModelError, match="fit only 224x224"):
        load_model("vgg16", size=100)


@pytest.fixture
def retrieved(tmp_path, monkeypatch):
    """Stands for the network: what `retrieved.by` does is done in place of a download, to an empty folder."""
    file_utils = importlib.import_module("keras.src.utils.file_utils")
    network = SimpleNamespace(by=None, urls=[])

    def urlretrieve(url, target, report=None):
        assert Path(target).is_relative_to(tmp_path)
        network.urls.append(url)
        return network.by(target, report)

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(file_utils, "urlretrieve", urlretrieve)
    return network


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError(OSError(-2, "Name or service not known")),
        urllib.error.HTTPError("https://host", 404, "Not Found", {}, None),
        ConnectionResetError("reset by peer"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_no_network(failure, retrieved, capsys):
    def fail(target, report):
        raise failure

    retrieved.by = fail
    with pytest.raises(errors.DownloadError) as error:
        load_model("mobilenet?alpha=0.25")
    text = message(error)
    assert "mobilenet?alpha=0.25 cannot be downloaded" in text
    assert "--weights FILE (weights= in Python)" in text
    assert "'cifar10'" in text
    assert capsys.readouterr().out == ""


def test_download(retrieved, capsys):
    source = keras.applications.MobileNet(alpha=0.25, weights=None)

    def send(target, report):
        source.save(target)
        report(1, 100, 100)

    retrieved.by = send
    loaded = load_model("mobilenet?alpha=0.25")
    assert same_weights(loaded.model, source)
    assert loaded.notes == ()
    loaded = load_model("mobilenet?alpha=0.25", size=(100, 64))  # a size for which Keras has no weights
    assert loaded.model.input_shape == (None, 100, 64, 3)
    assert same_weights(loaded.model, source)
    assert loaded.notes == ("ImageNet's weights of mobilenet were trained at 224x224, not at 100x64",)
    assert len(retrieved.urls) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Downloading data from" in printed.err


# Weights in files


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model, and a folder with it in every format of Keras and with some files that are none."""
    folder, model = tmp_path_factory.mktemp("saved"), tiny()
    model.save(folder / "net.keras")
    model.save(folder / "net.h5")
    model.save_weights(folder / "new.weights.h5")
    shutil.copy(folder / "net.keras", folder / "archive.h5")
    shutil.copy(folder / "net.h5", folder / "hdf5.keras")
    shutil.copy(folder / "net.h5", folder / "old.weights.h5")  # as Keras 2 named its own layout
    shutil.copy(folder / "new.weights.h5", folder / "renamed.h5")
    for name in ("net.keras", "net.h5"):
        content = (folder / name).read_bytes()
        (folder / f"cut{Path(name).suffix}").write_bytes(content[: len(content) // 2])
    for name in ("text.h5", "text.keras", "weights.npz", "net.pth"):
        (folder / name).write_text("no model")
    with zipfile.ZipFile(folder / "other.keras", "w") as archive:
        archive.writestr("a.txt", "no model")
    import h5py

    with h5py.File(folder / "other.h5", "w") as file:
        file["a"] = [1, 2]
    return SimpleNamespace(folder=folder, model=model)


@pytest.fixture
def tiny_factory(monkeypatch):
    """`factories:build` builds a tiny model."""
    module = SimpleNamespace(build=tiny, wide=lambda: tiny(filters=5), deep=lambda: tiny(layers.Conv2D(3, 1)))
    monkeypatch.setitem(sys.modules, "factories", module)


@pytest.mark.parametrize("file", ["net.keras", "net.h5", "new.weights.h5", "old.weights.h5", "renamed.h5"])
def test_weights_of_every_format(file, saved, tiny_factory):
    assert same_weights(load_model("factories:build", weights=saved.folder / file).model, saved.model)
    for other, expected in (("wide", "conv"), ("deep", "conv2d|3 layers")):
        with pytest.raises(errors.ModelError, match=f"does not fit factories:{other}: .*({expected})") as error:
            load_model(f"factories:{other}", weights=saved.folder / file)
        assert message(error)


def test_layers_that_keep_random_weights(saved, monkeypatch):
    """Keras only warns of layers in nested containers that are not in the file."""
    model = tiny()

    def load_weights(path):
        text = "Skipping nested container at 'x': Affected layers will retain their freshly-initialized weights."
        warnings.warn(text, stacklevel=1)

    monkeypatch.setattr(model, "load_weights", load_weights)
    monkeypatch.setitem(sys.modules, "factories", SimpleNamespace(build=lambda: model))
    with pytest.raises(errors.ModelError, match="lacks the weights of some layers") as error:
        load_model("factories:build", weights=saved.folder / "net.h5")
    assert message(error)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("missing.h5", "there is no weights file"),
        ("weights.npz", "is no file that Keras reads weights from"),
        ("net.pth", "is a file of torch, and factories:build is a Keras model"),
        ("text.h5", "holds no weights that Keras can read"),
        ("text.keras", "holds no weights that Keras can read"),
        ("cut.h5", "holds no weights that Keras can read, or is cut short"),
        ("other.keras", "holds no weights that Keras can read"),
        ("other.h5", "does not fit"),
    ],
)
def test_weights_that_cannot_be_read(file, expected, saved, tiny_factory):
    with pytest.raises(errors.ModelError) as error:
        load_model("factories:build", weights=saved.folder / file)
    assert expected in message(error)
    assert file in message(error)


# The embedded network


def test_cifar10_with_weights_from_a_file(tmp_path):
    source = cifar10.build()
    source.save_weights(tmp_path / "made.weights.h5")
    loaded = load_model("cifar10", weights=tmp_path / "made.weights.h5")
    assert same_weights(loaded.model, source)
    assert (loaded.name, loaded.size, loaded.labels) == ("cifar10", (32, 32), cifar10.LABELS)
    assert loaded.preprocessing is PREPROCESSINGS["tf"]
    with pytest.raises(errors.RequestError, match="takes inputs of 32x32"):
        load_model("cifar10", weights=tmp_path / "made.weights.h5", size=64)


def test_cifar10():
    if not Path(cifar10.__file__).with_name(cifar10.WEIGHTS).is_file():
        pytest.skip("the embedded network has not been trained yet")
    loaded = load_model("cifar10")
    probabilities = loaded.model.predict_on_batch(np.zeros((2, 32, 32, 3), "float32"))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


# Whole models in files


@pytest.mark.parametrize("file", ["net.keras", "net.h5"])
def test_model_files(file, saved):
    loaded = load_model(saved.folder / file)
    assert same_weights(loaded.model, saved.model)
    assert loaded.name == str(saved.folder / file)
    assert loaded.size == (8, 8)
    assert loaded.preprocessing is PREPROCESSINGS["none"]
    with pytest.raises(errors.RequestError, match="has its own weights"):
        load_model(saved.folder / file, weights="x.weights.h5")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("missing.keras", "there is no model file"),
        ("missing.h5", "there is no model file"),
        ("text.keras", "is no .keras file, or it is cut short"),
        ("cut.keras", "is no .keras file, or it is cut short"),
        ("hdf5.keras", "rename it to end in .h5"),
        ("other.keras", "holds no Keras model"),
        ("text.h5", "is no HDF5 file, or it is cut short"),
        ("cut.h5", "it may be cut short"),
        ("archive.h5", "rename it to end in .keras"),
        ("other.h5", "holds no Keras model"),
        ("new.weights.h5", "name the architecture with --model, and pass this file with --weights"),
        ("renamed.h5", "name the architecture with --model, and pass this file with --weights"),
    ],
)
def test_files_that_are_no_models(file, expected, saved):
    with pytest.raises(errors.ModelError) as error:
        load_model(saved.folder / file)
    assert expected in message(error)
    assert file in message(error)


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "net.h5").mkdir()
    with pytest.raises(errors.ModelError, match="is a folder"):
        load_model(tmp_path / "net.h5")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_code_in_files_is_not_run(ending, tmp_path):
    tiny(layers.Lambda(lambda x: x / 255)).save(tmp_path / f"net{ending}")
    with pytest.raises(errors.ModelError, match="holds arbitrary Python code, which would run") as error:
        load_model(tmp_path / f"net{ending}")
    assert "keras.saving.load_model(path, safe_mode=False)" in message(error)


class Unregistered(layers.Layer):
    def call(self, x):
        return x


def unregistered(x):
    return x


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    "make", [Unregistered, lambda: layers.Lambda(unregistered), lambda: layers.Activation(unregistered)]
)
def test_custom_objects_that_are_not_registered(make, ending, tmp_path):
    tiny(make()).save(tmp_path / f"net{ending}")
    with pytest.raises(errors.ModelError) as error:
        load_model(tmp_path / f"net{ending}")
    assert "nregistered', which is not registered with Keras" in message(error)
    assert "package.module:function" in message(error)


# Model objects, and what is assumed of them


@pytest.mark.parametrize(
    ("first", "name", "expected", "note"),
    [
        ([], "tiny", "none", "pixels are given as 0..255"),
        ([layers.Rescaling(1 / 255)], "xception", "none", None),
        ([layers.Normalization(mean=0.0, variance=1.0)], "tiny", "none", None),
        ([keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 255)])], "tiny", "none", None),
        ([], "xception", "tf", "from the model's name, xception"),
        ([], "mobilenet_0.75_224", "tf", "from the model's name, mobilenet_0.75_224"),
        ([], "resnet50", "caffe", "from the model's name, resnet50"),
        ([], "efficientnetv2-b0", "none", "pixels are given as 0..255"),
        ([backbone], "mine", "caffe", "vgg16"),
        ([lambda x: x / 127.5 - 1], "xception", "none", "since the model begins with TrueDivide, Subtract"),
        ([layers.Lambda(lambda x: x / 255)], "xception", "none", "since the model begins with Lambda"),
    ],
)
def test_preprocessing_of_a_model_object(first, name, expected, note):
    model = tiny(*first, name=name)
    loaded = load_model(model)
    assert loaded.model is model
    assert loaded.name == name
    assert loaded.preprocessing is PREPROCESSINGS[expected]
    assert (len(loaded.notes) == 1 and note in loaded.notes[0]) if note else not loaded.notes


def test_networks_that_rescale_are_seen_to():
    model = load_model(keras.applications.MobileNetV3Small(weights=None, minimalistic=True, alpha=0.25))
    assert model.preprocessing is PREPROCESSINGS["none"]
    assert (model.size, model.notes) == (None, ())
    assert model.labels == class_names.imagenet()


def test_models_that_take_no_pictures():
    series = keras.Sequential([keras.Input((10, 3)), layers.Conv1D(2, 3), layers.GlobalAveragePooling1D()])
    loaded = load_model(series)
    assert (loaded.size, loaded.preprocessing, loaded.labels, loaded.notes) == (None, None, None, ())
    a, b = keras.Input((8, 8, 3)), keras.Input((2,))
    two = keras.Model([a, b], layers.Concatenate()([layers.Flatten()(a), b]))
    loaded = load_model(two)
    assert (loaded.size, loaded.preprocessing) == (None, None)


class Subclassed(keras.Model):
    def __init__(self, *steps):
        super().__init__(name="mine")
        self.steps = steps

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return x


@pytest.mark.parametrize("make", [Subclassed, lambda *steps: keras.Sequential(steps, name="mine")])
def test_models_without_shapes(make):
    model = make(layers.RandomFlip(), layers.Rescaling(1 / 255), layers.Conv2D(2, 3), layers.GlobalMaxPooling2D())
    loaded = load_model(model, size=(6, 5), labels=["a", "b", "c"])
    assert (loaded.size, loaded.labels, loaded.notes) == ((6, 5), ("a", "b", "c"), ())


def test_size():
    model = tiny(size=(8, 6))
    assert load_model(model).size == (8, 6)
    assert load_model(model, size=(8, 6)).size == (8, 6)
    with pytest.raises(errors.RequestError, match="tiny takes inputs of 8x6, so its size cannot be 9x9"):
        load_model(model, size=9)
    assert load_model(tiny(size=(None, None))).size is None
    assert load_model(tiny(size=(None, None)), size=9).size == (9, 9)
    for wrong in (0, -1, (1, 2, 3), (4, 0), "12", 1.5):
        with pytest.raises(errors.RequestError, match="size is one positive number"):
            load_model(model, size=wrong)


def test_channels_first(monkeypatch):
    assert not load_model(tiny()).channels_first
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    series = keras.Sequential([keras.Input((3, 8, 6)), layers.Flatten(), layers.Dense(2)])
    loaded = load_model(series)
    assert (loaded.size, loaded.channels_first, loaded.grey) == ((8, 6), True, False)
    assert load_model(keras.Sequential([keras.Input((1, 8, 6)), layers.Flatten(), layers.Dense(2)])).grey


def test_preprocess():
    model = tiny(name="xception")
    assert load_model(model, preprocess=None).preprocessing is None
    assert load_model(model, preprocess="caffe").preprocessing is PREPROCESSINGS["caffe"]
    assert load_model(model, preprocess="ResNet50").preprocessing is PREPROCESSINGS["caffe"]
    assert load_model(model, preprocess=PREPROCESSINGS["unit"]).preprocessing is PREPROCESSINGS["unit"]
    assert load_model(model, preprocess="tf").notes == ()
    with pytest.raises(errors.RequestError, match="preprocess is a name, a function or None, not int 3"):
        load_model(model, preprocess=3)


def test_preprocess_by_a_function(pixels):
    before = pixels.copy()
    preprocessing = load_model(tiny(), preprocess=keras.applications.xception.preprocess_input).preprocessing
    assert (preprocessing.name, preprocessing.low, preprocessing.high) == ("preprocess_input", -math.inf, math.inf)
    np.testing.assert_allclose(preprocessing.apply(pixels), pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(pixels, before)
    doubled = load_model(tiny(), preprocess=lambda x: x.astype("float64") * 2).preprocessing.apply(pixels)
    assert doubled.dtype == np.float32


def test_a_loaded_model_can_be_altered():
    loaded = load_model(tiny(name="xception", size=(None, None)))
    altered = load_model(loaded, labels=list("abcd"), size=12)
    assert (altered.labels, altered.size) == (tuple("abcd"), (12, 12))
    assert altered.notes == loaded.notes != ()
    assert altered.model is loaded.model
    assert load_model(loaded, preprocess="unit").notes == ()
    with pytest.raises(errors.RequestError, match="has its own weights"):
        load_model(loaded, weights="x.h5")


def test_what_is_no_model():
    with pytest.raises(errors.RequestError, match="a model is a spec, a path or a model object, not int 3"):
        load_model(3)
    old = type("Functional", (type("Model", (), {"__module__": "tf_keras.src.engine.training"}),), {})
    with pytest.raises(errors.RequestError, match="Keras 2"):
        load_model(old())
    loaded = load_model(len)  # whether a callable can be explained is for an engine to say
    assert (loaded.model, loaded.name, loaded.size) == (len, "len", None)


def test_unknown_model():
    with pytest.raises(errors.UnknownNameError, match="did you mean 'xception'") as error:
        load_model("xeption")
    assert ".keras" in message(error)
    assert "package.module:function" in message(error)


# Factories


def test_factory_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_factories.py").write_text(
        textwrap.dedent(
            """
            def build():
                import test_models
                return test_models.tiny(name="xception")

            def fail():
                raise KeyError("no such thing")

            def nothing():
                return None
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    loaded = load_model("my_factories:build", size=8)
    assert (loaded.name, loaded.size) == ("my_factories:build", (8, 8))
    assert loaded.preprocessing is PREPROCESSINGS["tf"]
    for name, kind, expected in [
        ("my_factories:fail", errors.ModelError, "failed with KeyError"),
        ("my_factories:biuld", errors.UnknownNameError, "did you mean 'build'"),
        ("my_factories:nothing", errors.RequestError, "not NoneType None"),
        ("no_such_module:build", errors.ModelError, "No module named 'no_such_module'"),
    ]:
        with pytest.raises(kind) as error:
            load_model(name)
        assert expected in message(error)
    assert sys.path == path


def test_weights_need_a_model_of_a_framework(monkeypatch):
    monkeypatch.setitem(sys.modules, "factories", SimpleNamespace(build=lambda: len))
    assert load_model("factories:build").model is len
    with pytest.raises(errors.RequestError, match="makes no Keras or torch model"):
        load_model("factories:build", weights="x.h5")


def test_factory_may_load_by_itself(monkeypatch):
    made = load_model(tiny(), preprocess="unit", labels=list("abcd"))
    monkeypatch.setitem(sys.modules, "factories", SimpleNamespace(build=lambda: made))
    loaded = load_model("factories:build")
    assert (loaded.preprocessing, loaded.labels) == (made.preprocessing, made.labels)


# Labels


def test_imagenet_labels():
    names = class_names.imagenet()
    assert (len(names), len(set(names))) == (1000, 1000)
    assert names[0] == "tench"
    assert names[243] == "bull_mastiff"
    assert names[282] == "tiger_cat"


def test_imagenet_labels_are_kerass_but_for_six():
    index = json.loads(data("imagenet_class_index.json").read_text())
    assert [index[str(i)][1] for i in range(1000)] == list(class_names.imagenet())
    for i, name in {
        134: "crane",
        517: "crane",
        264: "Cardigan",
        474: "cardigan",
        638: "maillot",
        639: "maillot",
    }.items():
        index[str(i)][1] = name
    source = inspect.getsource(sys.modules[keras.applications.imagenet_utils.decode_predictions.__module__])
    assert hashlib.md5(json.dumps(index).encode(), usedforsecurity=False).hexdigest() in source


@pytest.mark.parametrize(
    ("name", "index"),
    [("tiger_cat", 282), ("Tiger Cat", 282), ("shih tzu", 155), ("hen of the woods", 996), ("sunglass", 836)],
)
def test_find(name, index):
    assert class_names.find(class_names.imagenet(), name) == index


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crane", "134 (crane_wading_bird), 517 (crane_lifting_device)"),
        ("Maillot", "638 (maillot_tights), 639 (maillot_swimsuit)"),
        ("black", "..."),
    ],
)
def test_ambiguous_names(name, expected):
    with pytest.raises(errors.RequestError, match="give the index") as error:
        class_names.find(class_names.imagenet(), name)
    assert expected in message(error)


def test_names_that_are_used_twice():
    labels = ["crane", "Cardigan", "crane", "cardigan"]
    assert class_names.find(labels, "cardigan") == 3
    for name, expected in (("crane", "0 (crane), 2 (crane)"), ("CARDIGAN", "1 (Cardigan), 3 (cardigan)")):
        with pytest.raises(errors.RequestError) as error:
            class_names.find(labels, name)
        assert expected in message(error)


@pytest.mark.parametrize("name", ["tiger_kat", "", "crane_wading", "no such thing at all"])
def test_unknown_classes(name):
    with pytest.raises(errors.UnknownNameError) as error:
        class_names.find(class_names.imagenet(), name)
    assert message(error)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "cat\nbig dog\n"),
        ("names.txt", "\ufeffcat\r\nbig dog\r\n\r\n"),
        ("names.json", '["cat", "big dog"]'),
        ("names.json", '{"1": "big dog", "0": "cat"}'),
        ("names.json", '{"0": ["n01", "cat"], "1": ["n02", "big dog"]}'),
        ("names.json", '{"big dog": 1, "cat": 0}'),
        ("names", '["cat", "big dog"]'),
    ],
)
def test_label_files(file, text, tmp_path):
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    assert class_names.read_labels(tmp_path / file) == ("cat", "big dog")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("names.txt", b"", "holds no labels"),
        ("names.txt", b"cat\n\ndog\n", "label 1 in"),
        ("names.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("names.json", b"[1, 2]", "label 0 in"),
        ("names.json", b"[", "not a JSON list or object"),
        ("names.json", b'"cat"', "it is a str"),
        ("names.json", b'{"0": "a", "2": "b"}', "do not go from 0 to 1"),
        ("names.json", b'{"a": "b"}', "not a JSON list or object"),
        ("names.json", b"{}", "holds no labels"),
    ],
)
def test_label_files_that_are_refused(file, content, expected, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(errors.RequestError) as error:
        class_names.read_labels(tmp_path / file)
    assert expected in message(error)


def test_labels_of_a_model(tmp_path):
    with pytest.raises(errors.RequestError, match="cannot be read: No such file"):
        load_model(tiny(), labels=tmp_path / "missing.txt")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    assert load_model(tiny(), labels=tmp_path / "names.txt").labels == tuple("abcd")
    assert load_model(tiny(), labels=str(tmp_path / "names.txt")).labels == tuple("abcd")
    assert load_model(tiny(), labels=np.array(list("abcd"))).labels == tuple("abcd")
    assert load_model(tiny(), labels=None).labels is None
    assert load_model(tiny(name="xception")).labels is None
    assert load_model(tiny(name="xception", classes=1000)).labels == class_names.imagenet()
    assert load_model(tiny(classes=1000)).labels is None
    assert load_model(tiny(classes=1000), labels="imagenet").labels == class_names.imagenet()
    with pytest.raises(errors.RequestError, match="number of labels is 3, but the model has 4 outputs"):
        load_model(tiny(), labels=["a", "b", "c"])


# Backends


@pytest.fixture
def keras_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)


def without(monkeypatch, *missing):
    """Let it look as if some packages were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    for name in missing:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("keras_not_imported")
@pytest.mark.parametrize(
    ("missing", "first"), [((), "tensorflow"), (("tensorflow",), "jax"), (("tensorflow", "jax"), "torch")]
)
def test_the_backend_is_the_first_that_is_installed(missing, first, monkeypatch):
    without(monkeypatch, *missing)
    backend.choose()
    assert os.environ["KERAS_BACKEND"] == first


@pytest.mark.usefixtures("keras_not_imported")
def test_a_backend_that_is_named_comes_before_the_environment_and_that_before_what_is_installed(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    backend.choose()
    assert os.environ["KERAS_BACKEND"] == "jax"
    backend.choose("torch")
    assert os.environ["KERAS_BACKEND"] == "torch"


@pytest.mark.usefixtures("keras_not_imported")
def test_nothing_is_settled_where_nothing_is_installed(monkeypatch):
    without(monkeypatch, *backend.SUPPORTED)
    backend.choose()
    assert "KERAS_BACKEND" not in os.environ


def test_unknown_backend(monkeypatch):
    with pytest.raises(errors.UnknownNameError, match="did you mean 'tensorflow'"):
        load_model(tiny(), backend="tensorflo")
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    with pytest.raises(
        errors.UnknownNameError, match="unknown backend 'openvino'; there are 'tensorflow', 'jax', 'torch'"
    ):
        load_model("cifar10")


def test_keras_that_runs_on_another_backend(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(config=SimpleNamespace(backend=lambda: "jax")))
    backend.choose("jax")
    with pytest.raises(errors.RequestError, match="Keras already runs on 'jax'"):
        load_model("cifar10", backend="tensorflow")


@pytest.mark.usefixtures("keras_not_imported")
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (backend.SUPPORTED, 'needs TensorFlow, .* pip install "camlucida[tensorflow]"'),
        (("keras",), 'needs keras, .* pip install "camlucida[tensorflow]"'),
        (("keras", "tensorflow"), 'needs keras, .* pip install "camlucida[jax]"'),
        (("keras", "tensorflow", "jax"), "needs keras, .* pip install keras"),
    ],
)
def test_nothing_installed(missing, said, monkeypatch):
    without(monkeypatch, *missing)
    for text in ("cifar10", "xception"):
        with pytest.raises(errors.MissingPackageError, match=said.replace("[", r"\[")):
            load_model(text)


@pytest.mark.usefixtures("keras_not_imported")
@pytest.mark.parametrize("name", backend.SUPPORTED)
def test_a_backend_that_is_not_installed(name, monkeypatch):
    without(monkeypatch, name)
    with pytest.raises(errors.MissingPackageError, match=rf'pip install "camlucida\[{name}\]"'):
        backend.choose(name)
    monkeypatch.setenv("KERAS_BACKEND", name)
    backend.choose()  # another kind of model may need none
    with pytest.raises(errors.MissingPackageError, match=rf'pip install "camlucida\[{name}\]"'):
        backend.import_keras()


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize("platform", ["cuda", "gpux"])
def test_a_platform_of_jax_that_is_not_there(platform):
    code = """
        from camlucida.models import load_model
        load_model("cifar10", backend="jax")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": platform}
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True)
    line = ran.stderr.strip().splitlines()[-1]
    assert f"RequestError: JAX cannot run on the platform that JAX_PLATFORMS names, {platform!r}" in line
    assert "cpu" in line


# The room as a whole


def test_known_models():
    known = {m.name: m for m in known_models()}
    assert set(known) == {"cifar10", *NETWORKS}
    assert (known["cifar10"].size, known["cifar10"].weights) == ((32, 32), "embedded")
    assert known["xception"].size == (299, 299)
    assert known["xception"].preprocessing == "tf"
    assert known["xception"].weights == "downloaded by Keras"


def test_no_framework_is_imported():
    code = """
        import sys
        from camlucida.models import find, imagenet, known_models
        assert known_models() and find(imagenet(), "tench") == 0
        assert not {"keras", "tensorflow", "h5py", "torch", "jax"} & sys.modules.keys()
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment)


def test_keras_models_are_told_apart():
    assert guess.is_keras(tiny())
    assert guess.is_keras(keras.Sequential())
    assert not guess.is_keras(layers.Dense(1))
    assert not guess.is_keras(np)
    assert not guess.is_legacy_keras(tiny())
