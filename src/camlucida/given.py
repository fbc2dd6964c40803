"""From what users give to model inputs: pictures prepared as the model wants them, or inputs that come ready."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida import images
from camlucida.errors import ImageError, RequestError
from camlucida.models import LoadedModel, range_note
from camlucida.trees import leaves, mapped

_UNKNOWN_SIZE = (224, 224)


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a call is about: the model's inputs, and what is known of them as pictures.

    Args:
        inputs: as the model takes them.
        pictures: what they were made from; None where they came ready.
        notes: what was assumed.
        channels_first: whether the model takes pictures as ``(B, C, H, W)``.
    """

    inputs: Any
    pictures: Sequence[images.Picture] | None
    notes: tuple[str, ...]
    channels_first: bool

    def frame(self, i: int) -> dict[str, Any]:
        """Name, source, original and size of image `i`."""
        if self.pictures is not None:
            picture = self.pictures[i]
            return {
                "name": picture.name,
                "source": picture.source,
                "original": picture.pixels,
                "size": picture.pixels.shape[:2],
            }
        image = max(leaves(self.inputs), key=lambda x: x.ndim)[i]
        if _channels_first(image, self.channels_first):
            image = np.moveaxis(image, 0, -1)
        return {"name": f"image{i}", "source": f"image {i}", "original": image, "size": image.shape[:-1] or image.shape}


def from_pictures(loaded: LoadedModel, sources: Any) -> Given:
    """Pictures, read and prepared for the model.

    Raises:
        ImageError: a picture cannot be read.
        RequestError: the model takes no single picture.
    """
    pictures = images.read_all(sources)
    notes = list(loaded.notes)
    if loaded.size is None:
        notes.append(f"the model does not say its input size: {_UNKNOWN_SIZE[0]}x{_UNKNOWN_SIZE[1]} was assumed")
    return Given(prepared(loaded, resized(loaded, pictures)), pictures, tuple(notes), loaded.channels_first)


def from_ready(loaded: LoadedModel, inputs: Any) -> Given:
    """Inputs as the model takes them, ``(B, ...)`` each; a range that does not fit the model gets a note.

    Raises:
        RequestError: they are no arrays of numbers, or not of one length.
        ImageError: one of them holds NaN or infinite values.
    """
    arrays = mapped(_host, inputs)
    _check_ready(arrays)
    notes = [note for note in loaded.notes if not note.startswith("preprocessing")]
    assumed = len(notes) < len(loaded.notes)
    note = range_note(arrays, None if assumed else loaded.preprocessing)
    return Given(arrays, None, (*notes, note) if note else tuple(notes), loaded.channels_first)


def noise(loaded: LoadedModel) -> NDArray[np.float32]:
    """One input of random pixels, to see the model's layers with."""
    pixels = np.random.default_rng(0).integers(0, 256, (*(loaded.size or _UNKNOWN_SIZE), 3)).astype("uint8")
    return prepared(loaded, resized(loaded, [images.Picture("noise", "noise", pixels, ())]))


def resized(loaded: LoadedModel, pictures: Sequence[images.Picture]) -> NDArray[np.float32]:
    """The pictures at the size of the model's input, ``(B, h, w, 3)`` in 0..255."""
    return images.to_input(pictures, loaded.size or _UNKNOWN_SIZE)


def prepared(loaded: LoadedModel, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures of the right size as the model takes them, ``(B, h, w, C)`` or ``(B, C, h, w)``, grey where it does."""
    if loaded.preprocessing is None:
        raise RequestError(
            f"{loaded.name} does not take one picture (its input is of another kind): give its inputs ready, with "
            "preprocess=None"
        )
    if loaded.grey:
        pixels = pixels @ np.asarray([[0.299], [0.587], [0.114]], "float32")
    inputs = loaded.preprocessing.apply(pixels)
    if loaded.grey and inputs.shape[-1] != 1:
        raise RequestError(
            f"preprocessing {loaded.preprocessing.name!r} is for colours, and {loaded.name} takes grey pictures: name"
            " unit, tf or none instead"
        )
    return np.ascontiguousarray(np.moveaxis(inputs, -1, 1)) if loaded.channels_first else inputs


def _channels_first(image: NDArray[Any], usual: bool) -> bool:
    """Whether one image is ``(C, *size)``: as usual for the model, unless only the last axis looks like colours."""
    only_last = image.ndim > 2 and image.shape[-1] in (1, 3, 4) and image.shape[0] not in (1, 3, 4)
    return usual and image.ndim > 1 and not only_last


def _host(x: Any) -> NDArray[Any]:
    """An array of any framework as NumPy's, wherever it is; half precision becomes float32, which changes no value."""
    if hasattr(x, "detach"):  # of torch: it may need gradients, be on a device, or be a bfloat16, which NumPy lacks
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() and x.element_size() < 4 else x
    array = np.asarray(x)
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype("float32")
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise RequestError(f"a ready model input is an array (B, ...) of numbers, not {type(x).__name__}")
    return array


def _check_ready(inputs: Any) -> None:
    counts = {len(x) for x in leaves(inputs)}
    if len(counts) != 1 or 0 in counts:
        raise RequestError(
            f"ready inputs need one first axis, of at least one image; there are {sorted(counts)} images"
        )
    for x in leaves(inputs):
        # A sum is a number only where all that it adds are: the quickest way past them.
        if np.isfinite(np.einsum("i->", x.ravel())):
            continue
        finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if not finite.all():  # else the sum was too large
            raise ImageError(f"image {int(np.argmin(finite))} holds values that are no numbers (NaN or infinite)")
