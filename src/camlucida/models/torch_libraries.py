"""Networks of timm and torchvision, with the preprocessing and the labels that belong to their weights."""

import importlib
from typing import Any

from camlucida.errors import RequestError, UnknownNameError
from camlucida.models.applications import Size
from camlucida.models.labels import imagenet
from camlucida.models.libraries import Recipe, finished, loading, need
from camlucida.models.loaded import File, LoadedModel
from camlucida.models.preprocessing import normalised
from camlucida.models.spec import Spec


def load(spec: Spec, weights: File | None, size: Size | None) -> LoadedModel:
    """The network that ``timm:NAME`` or ``torchvision:NAME`` means.

    Args:
        spec: its arguments go to the function that builds the network.
        weights: a file; None for the library's own, which it downloads once; "none" for random ones.
        size: height and width of its input; None for the library's.

    Raises:
        MissingPackageError: the library is not installed.
        UnknownNameError: it has no such network.
        RequestError: it refuses an argument, or the network is no image classifier.
        DownloadError: its weights cannot be fetched.
        ModelError: the weights do not fit.
    """
    need(spec, spec.kind)
    with loading(spec):
        model, recipe = (_timm if spec.kind == "timm" else _torchvision)(spec, weights is None)
    return finished(model, spec, weights, size, recipe)


def _timm(spec: Spec, pretrained: bool) -> tuple[Any, Recipe]:
    timm = importlib.import_module("timm")
    try:
        model = timm.create_model(spec.name, pretrained=pretrained, **spec.arguments)
    except RuntimeError as error:
        if not str(error).startswith("Unknown model"):
            raise
        raise UnknownNameError("timm network", spec.name, timm.list_models()) from error
    config = importlib.import_module("timm.data").resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    if isinstance(side := spec.arguments.get("img_size"), int):
        height = width = side
    names = imagenet() if getattr(model, "num_classes", None) == len(imagenet()) else None
    share = config.get("crop_pct") or 1
    crop = f"the centre crop of timm's preprocessing (to {share:.1%} of each side)" if share < 1 else ""
    return model, Recipe((height, width), normalised(config["mean"], config["std"]), names, crop)


def _torchvision(spec: Spec, pretrained: bool) -> tuple[Any, Recipe]:
    models = importlib.import_module("torchvision.models")
    name = spec.name.lower()
    if name not in models.list_models():
        raise UnknownNameError("torchvision network", spec.name, models.list_models())
    own: Any = getattr(models.get_model_weights(name), "DEFAULT", None)
    steps: Any = own.transforms() if own is not None else None
    if len(getattr(steps, "crop_size", ())) != 1:  # videos have two sides, detectors none
        raise RequestError(f"{spec} is no image classifier of torchvision with weights for one")
    model = models.get_model(name, weights=own if pretrained else None, **spec.arguments)
    (side,), categories = steps.crop_size, tuple(own.meta["categories"])
    names = categories if spec.arguments.get("num_classes", len(categories)) == len(categories) else None
    enlarged = steps.resize_size[0]
    crop = f"the centre crop of torchvision's preprocessing (of {side} from {enlarged})" if enlarged > side else ""
    return model, Recipe((side, side), normalised(steps.mean, steps.std), names, crop)
