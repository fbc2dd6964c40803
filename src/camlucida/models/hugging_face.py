"""Image classifiers of Hugging Face transformers, from a folder or by name: safetensors only, and no code of theirs."""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camlucida.errors import CamlucidaError, ModelError, one_line
from camlucida.models.applications import Size
from camlucida.models.guess_torch import config_labels
from camlucida.models.libraries import Recipe, finished, loading, need
from camlucida.models.loaded import File, LoadedModel
from camlucida.models.preprocessing import Preprocessing, normalised
from camlucida.models.spec import Spec

_STEPS = "preprocessor_config.json"
_MEAN, _DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet, which transformers takes where a configuration names none."""


def load(spec: Spec, weights: File | None, size: Size | None) -> LoadedModel:
    """The classifier that ``hf:NAME-OR-FOLDER`` means.

    Args:
        spec: a folder that ``save_pretrained`` wrote, or a name on the Hub.
        weights: a file; None for its own; "none" for random ones.
        size: height and width of its input; None for its own.

    Raises:
        MissingPackageError: transformers is not installed.
        ModelError: the folder holds no such model, or not all of its weights, or it would run code.
        DownloadError: it cannot be fetched.
    """
    need(spec, "transformers")
    folder = Path(spec.name).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and (spec.name.startswith((".", "~", "/")) or spec.name.count("/") > 1):
        raise ModelError(f"there is no folder {folder}")
    source = str(folder) if is_folder else spec.name
    with loading(spec), _refusals(spec, is_folder):
        transformers = importlib.import_module("transformers")
        with _silent(transformers):
            model = _model(transformers, spec, source, is_folder, weights is None)
            steps = _steps(transformers, source, is_folder)
    return finished(model, spec, weights, size, recipe(model.config, steps))


def recipe(config: Any, steps: Mapping[str, Any]) -> Recipe:
    """What a model's configuration and its ``preprocessor_config.json`` (empty where there is none) say."""
    cropped = bool(steps.get("do_center_crop"))
    size = _size(steps.get("crop_size") if cropped else steps.get("size")) if steps.get("do_resize", True) else None
    crop = "the centre crop of the model's own preprocessing" if cropped or steps.get("crop_pct") else ""
    return Recipe(size, _preprocessing(steps) if steps else None, config_labels(config), crop)


def _model(transformers: Any, spec: Spec, source: str, is_folder: bool, pretrained: bool) -> Any:
    auto, settings = transformers.AutoModelForImageClassification, {"local_files_only": is_folder}
    if not pretrained:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **settings)
        return auto.from_config(config, trust_remote_code=False)
    model, said = auto.from_pretrained(
        source, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **settings
    )
    if missing := sorted(said["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(f"{spec} lacks {missing[0]!r}{more}, which would be random: was it trained as a classifier?")
    return model


def _steps(transformers: Any, source: str, is_folder: bool) -> Mapping[str, Any]:
    """How its pictures are prepared, as it is written down: the classes that would do it need torchvision."""
    if is_folder:
        path = Path(source, _STEPS)
    else:
        found = transformers.utils.cached_file(source, _STEPS, _raise_exceptions_for_missing_entries=False)
        path = Path(found or _STEPS)
    if not path.is_file():
        return {}
    steps: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return steps


def _size(sides: Any) -> Size | None:
    """Sizes are written in four ways: 224, {"shortest_edge": 224}, {"height": 224, "width": 224}, [224, 224]."""
    if isinstance(sides, Mapping):
        shortest = sides.get("shortest_edge")
        sides = (sides.get("height", shortest), sides.get("width", shortest))
    if isinstance(sides, int):
        sides = (sides, sides)
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
        return sides[0], sides[1]
    return None


def _preprocessing(steps: Mapping[str, Any]) -> Preprocessing:
    scale = float(steps.get("rescale_factor", 1 / 255)) if steps.get("do_rescale", True) else 1.0
    mean, deviation = [0.0], [1.0]
    if steps.get("do_normalize", True):
        mean, deviation = steps.get("image_mean", _MEAN), steps.get("image_std", _DEVIATION)
    if steps.get("rescale_offset"):  # EfficientNet: less 1 after rescaling
        mean = [value + 1 for value in mean]
    made = normalised(mean, deviation, scale)
    if not steps.get("do_flip_channel_order"):
        return made
    return Preprocessing(f"BGR, {made.name}", lambda x: made.apply(x[..., ::-1]), made.low, made.high)


@contextmanager
def _refusals(spec: Spec, is_folder: bool) -> Iterator[None]:
    """What transformers says of a folder, or of a model that brings code, in a line of our own."""
    try:
        yield
    except CamlucidaError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(f"{spec} needs Python code that comes with it, which is never run here") from error
        if is_folder:
            raise ModelError(f"{spec} holds no classifier that transformers can load: {one_line(error)}") from error
        raise


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Transformers logs a table of the weights, which are checked here, and shows bars even without a terminal."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
