"""The networks of ``keras.applications``: one table, and how to build one of them."""

import contextlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from camlucida.errors import DownloadError, ModelError, RequestError, UnknownNameError, one_line
from camlucida.models.backend import import_keras
from camlucida.models.weights import load_weights
from camlucida.options import written

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of ``keras.applications``.

    Args:
        name: what specs call it: ``function`` in lower case.
        function: what Keras calls the function that builds it.
        module: the module of ``keras.applications`` that has its ``preprocess_input``.
        size: height and width of the pictures that its ImageNet weights were trained on.
        preprocessing: the name of its preprocessing; ``none`` where the network itself rescales.
    """

    name: str
    function: str
    module: str
    size: Size
    preprocessing: str


_FAMILIES: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("convnext", "none", {f"ConvNeXt{s}": 224 for s in ("Tiny", "Small", "Base", "Large", "XLarge")}),
    ("densenet", "torch", {"DenseNet121": 224, "DenseNet169": 224, "DenseNet201": 224}),
    (
        "efficientnet",
        "none",
        {f"EfficientNetB{i}": s for i, s in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    ),
    (
        "efficientnet_v2",
        "none",
        {f"EfficientNetV2B{i}": s for i, s in enumerate((224, 240, 260, 300))}
        | {"EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480},
    ),
    ("inception_resnet_v2", "tf", {"InceptionResNetV2": 299}),
    ("inception_v3", "tf", {"InceptionV3": 299}),
    ("mobilenet", "tf", {"MobileNet": 224}),
    ("mobilenet_v2", "tf", {"MobileNetV2": 224}),
    ("mobilenet_v3", "none", {"MobileNetV3Small": 224, "MobileNetV3Large": 224}),
    ("nasnet", "tf", {"NASNetMobile": 224, "NASNetLarge": 331}),
    ("resnet", "caffe", {"ResNet50": 224, "ResNet101": 224, "ResNet152": 224}),
    ("resnet_v2", "tf", {"ResNet50V2": 224, "ResNet101V2": 224, "ResNet152V2": 224}),
    ("vgg16", "caffe", {"VGG16": 224}),
    ("vgg19", "caffe", {"VGG19": 224}),
    ("xception", "tf", {"Xception": 299}),
)

NETWORKS: Mapping[str, Network] = {
    function.lower(): Network(function.lower(), function, module, (side, side), preprocessing)
    for module, preprocessing, sides in _FAMILIES
    for function, side in sides.items()
}
"""Every network of ``keras.applications`` by its name in specs."""

_FLATTENING = ("vgg16", "vgg19")  # a dense layer on all locations: ImageNet weights fit the official size only
_SETTLED = (  # not for specs: these are other options here, or make no classifier
    "weights",
    "input_tensor",
    "input_shape",
    "include_top",
    "include_preprocessing",
    "pooling",
    "classifier_activation",
    "name",
)


UNTRAINED = "none"
"""In place of a weights file: leave the weights random."""
UNTRAINED_NOTE = "the network is untrained: its weights are random"


def recognise(model_name: str) -> Network | None:
    """The network that gives its models this name (``"mobilenet_0.75_224"``, ``"efficientnetv2-b0"``), or None."""
    plain = re.sub(r"_\d\.\d\d_\w+$", "", model_name.lower())
    return NETWORKS.get(re.sub(r"[-_]", "", plain))


def build(
    name: str, arguments: Mapping[str, Any], weights: str | PathLike[str] | None = None, size: Size | None = None
) -> Any:
    """The network as a Keras model with a softmax over its classes.

    Args:
        name: a key of ``NETWORKS``.
        arguments: what the Keras function takes, apart from what is settled here: ``alpha``, ``classes``...
        weights: a file; None for ImageNet's, which Keras downloads once (progress goes to standard error); "none" for
            random ones, which are enough to see the layers.
        size: height and width of its input; None for the official size.

    Raises:
        UnknownNameError: no such network.
        RequestError: an argument or a size that Keras does not know or refuses.
        ModelError: the weights do not fit the network.
        DownloadError: ImageNet's weights cannot be fetched.
    """
    if name not in NETWORKS:
        raise UnknownNameError("keras.applications network", name, NETWORKS)
    network, label = NETWORKS[name], written(name, arguments)
    function = getattr(import_keras().applications, network.function)
    accepted = {k: p.default for k, p in inspect.signature(function).parameters.items() if k not in _SETTLED}
    for argument, value in arguments.items():
        if argument not in accepted:
            raise RequestError(f"{name} takes no argument {argument!r} in a spec; it takes {', '.join(accepted)}")
        if not isinstance(value, bool if isinstance(accepted[argument], bool) else int | float):
            raise RequestError(f"{label}: {argument} is written as {accepted[argument]!r} is, not as {value!r}")
    size = size or network.size
    if weights is None:
        if arguments.get("classes", 1000) != 1000:
            raise RequestError(f"{label}: ImageNet's weights have 1000 classes; give a file with --weights (weights=)")
        if name in _FLATTENING and size != network.size:
            sides = "x".join(map(str, network.size))
            raise ModelError(f"{label}: its dense layers see every location, so ImageNet's weights fit only {sides}")
        with _refusals(label), _downloads(label), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MobileNetV3 warns of every size but 224; the caller notes that
            return _with_imagenet_weights(function, dict(arguments), size, network.size)
    with _refusals(label):
        model = function(weights=None, input_shape=(*size, 3), **arguments)
    if str(weights) == UNTRAINED:
        return model
    likely = f"were they made with another {' or '.join(a for a in accepted if 'drop' not in a)}?"
    load_weights(model, weights, label, likely)
    return model


def _with_imagenet_weights(function: Callable[..., Any], arguments: dict[str, Any], size: Size, official: Size) -> Any:
    """Keras ties downloaded weights to some sizes. Networks that end in global pooling can wear them at any."""
    try:
        return function(weights="imagenet", input_shape=(*size, 3), **arguments)
    except ValueError:
        if size == official:
            raise
    model = function(weights=None, input_shape=(*size, 3), **arguments)  # first, as it may be refused as well
    trained = function(weights="imagenet", input_shape=(*official, 3), **arguments)
    model.set_weights(trained.get_weights())
    return model


@contextlib.contextmanager
def _refusals(label: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise RequestError(f"Keras refuses {label}: {one_line(error)}") from error


@contextlib.contextmanager
def _downloads(label: str) -> Iterator[None]:
    """Keras prints its progress to standard output, which belongs to results, and raises a plain ``Exception``."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        signs = ("URL fetch failure on", "Incomplete or corrupted file detected")
        if not (isinstance(error, OSError) or any(sign in str(error) for sign in signs)):
            raise
        raise DownloadError(
            f"ImageNet's weights of {label} cannot be downloaded ({one_line(error)}): give a file with --weights FILE"
            " (weights= in Python), or use the embedded model 'cifar10'"
        ) from error
