"""Pictures, read safely: whatever comes in, out comes 8-bit RGB the right way up, or one line that says why not.

A ``Picture`` is the original, as people look at it; ``to_input`` makes of it what a model is fed. Heat maps are laid
over the first and computed from the second, and the two are never mixed up.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from camlucida.errors import ImageError, RequestError, UnknownNameError

Pixels = NDArray[np.uint8]

SAMPLES = {"astronaut": "astronaut.png", "cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}
"""Pictures that lie in scikit-image's wheel. They are read as files: its own loaders may download."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
"""What is decoded. Pillow knows more, but some of that starts other programs (EPS) or is hardly ever looked after."""

UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),  # what plugins raise on purpose
    *(struct.error, zlib.error, LookupError, TypeError, ArithmeticError, MemoryError),  # where they trusted the file
    *(AssertionError, AttributeError),  # Pillow's answers to an image whose file was closed too early
    Warning,  # where Python was told to make warnings errors
)

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright; 1 is upright already."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture as people look at it.

    Args:
        name: what its output files are called after: the file's stem, ``cat`` for ``sample:cat``, else ``image0``.
        source: what messages call it: its path, or ``image 0``.
        pixels: ``(H, W, 3)`` RGB in 0..255, upright, not shared with the caller's array.
        notes: what was assumed or changed in reading it.
    """

    name: str
    source: str
    pixels: Pixels
    notes: tuple[str, ...]


Source = str | Path | Image.Image | NDArray[Any] | Picture


def read(source: Source, name: str = "image") -> Picture:
    """Read one picture.

    EXIF orientation is applied, transparency is laid over white, more than 8 bits are scaled to 8; an animation's first
    frame is taken, or the frame at which a Pillow image stands.

    Args:
        source: a path; ``sample:NAME``; a Pillow image; an array ``(H, W)`` or ``(H, W, C)`` with 1 (grey), 3 (RGB) or
            4 (RGBA) channels. Floats, if all lie in 0..1, are taken as 0..1; all other values must lie in 0..255.
        name: what to call a picture that has no file.

    Raises:
        ImageError: the picture cannot be read.
        UnknownNameError: there is no such sample.
        RequestError: ``source`` is none of these.
    """
    return _read(source, name, name)


def read_all(sources: Source | Sequence[Source]) -> list[Picture]:
    """Read one picture, a list or tuple of them, or a batch: an array ``(B, H, W, C)``. Names are unique.

    Raises:
        ImageError: one of them cannot be read; the message says which.
        UnknownNameError, RequestError: as for ``read``; also if there are no pictures.
    """
    if isinstance(sources, np.ndarray) and sources.ndim == 4:
        fractions = _are_fractions(sources)  # of the batch as a whole: a dark picture must not look like 0..1
        pictures = [
            Picture(f"image{i}", f"image {i}", *_from_array(array, f"image {i}", fractions))
            for i, array in enumerate(sources)
        ]
    else:
        parts = sources if isinstance(sources, (list, tuple)) else [sources]
        pictures = [_read(part, f"image{i}", f"image {i}") for i, part in enumerate(parts)]
    if not pictures:
        raise RequestError("no pictures were given; pass at least one")
    return distinct(pictures)


def distinct(pictures: Iterable[Picture]) -> list[Picture]:
    """The same pictures; of those with one name, all but the first are renamed: ``cat``, ``cat-2``, ``cat-3``.

    No two names differ in letter case only, so that files called after them never collide on any system.
    """
    pictures = list(pictures)
    taken = {picture.name.casefold() for picture in pictures}
    numbers: dict[str, Iterator[int]] = {}
    for i, picture in enumerate(pictures):
        key = picture.name.casefold()
        if key not in numbers:
            numbers[key] = count(2)
            continue
        number = next(n for n in numbers[key] if f"{key}-{n}" not in taken)
        taken.add(f"{key}-{number}")
        pictures[i] = replace(picture, name=f"{picture.name}-{number}")
    return pictures


def to_input(pictures: Sequence[Picture], size: tuple[int, int]) -> NDArray[np.float32]:
    """The pictures at a model's size ``(height, width)``: ``(B, height, width, 3)`` in 0..255, before preprocessing.

    Pillow's antialiased bilinear resampling; the aspect ratio is not kept. A picture of that size stays as it is.

    Raises:
        RequestError: a side of ``size`` is less than one pixel.
    """
    height, width = size
    if height < 1 or width < 1:
        raise RequestError(f"size {size} has no pixels; give (height, width) of at least 1 each")
    batch = np.empty((len(pictures), height, width, 3), np.float32)
    for i, picture in enumerate(pictures):
        image = picture.pixels
        if image.shape[:2] != (height, width):
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        batch[i] = image
    return batch


def _read(source: Source, name: str, label: str) -> Picture:
    if isinstance(source, Picture):
        return source
    if isinstance(source, str) and source.startswith("sample:"):
        name = source.removeprefix("sample:")
        if name not in SAMPLES:
            raise UnknownNameError("sample", name, SAMPLES)
        with resources.as_file(resources.files("skimage") / "data" / SAMPLES[name]) as path:
            return Picture(name, source, *_from_file(path, source))
    if isinstance(source, str) and "://" in source:
        raise _refusal(source, "is an address, not a file", "download it first and pass the file's path")
    if isinstance(source, (str, Path)):
        return Picture(Path(source).stem, str(source), *_from_file(Path(source), str(source)))
    if isinstance(source, Image.Image):
        with _decoding(label):
            return Picture(name, label, *_from_pillow(source, label))
    if isinstance(source, np.ndarray):
        return Picture(name, label, *_from_array(source, label, _are_fractions(source)))
    kind = type(source).__name__
    raise RequestError(f"{label} is of type {kind}: give a path, sample:NAME, a Pillow image or a NumPy array")


def _from_file(path: Path, label: str) -> tuple[Pixels, tuple[str, ...]]:
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # AVIF came with Pillow 11.3
    with _opened(path, label) as file, _decoding(label), Image.open(file, formats=formats) as image:
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError  # where Pillow only warns, up to twice the limit
        pixels, notes = _from_pillow(image, label)
        if getattr(image, "is_animated", False):
            notes = (*notes, "of several frames, the first was taken")
        return pixels, notes


def _opened(path: Path, label: str) -> BinaryIO:
    try:
        if path.is_dir():
            raise _refusal(label, "is a folder", "pass the pictures in it")
        if path.exists() and not path.is_file():  # a pipe would block, a device never end
            raise _refusal(label, "is not a regular file", "save the picture to a file first")
        if path.stat().st_size == 0:
            raise _refusal(label, "is empty", "save or copy it again")
        return path.open("rb")
    except FileNotFoundError as error:
        raise _refusal(label, "does not exist", "check the path") from error
    except (OSError, ValueError) as error:
        raise _refusal(label, f"cannot be opened ({_reason(error)})", "check the path and its permissions") from error


@contextmanager
def _decoding(label: str) -> Iterator[None]:
    """Every way in which Pillow says no, as an ``ImageError``."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise _refusal(label, f"is not a picture in a known format ({', '.join(FORMATS)})", "convert it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        what = f"has more than {Image.MAX_IMAGE_PIXELS} pixels"
        advice = "make it smaller first, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        raise _refusal(label, what, advice) from error
    except UNDECODABLE as error:
        advice = "it may be damaged or cut off: save or copy it again"
        raise _refusal(label, f"cannot be decoded ({_reason(error)})", advice) from error


def _from_pillow(image: Image.Image, label: str) -> tuple[Pixels, tuple[str, ...]]:
    """``(H, W, 3)`` and notes. To be called within ``_decoding``."""
    _check_sides(image.height, image.width, label)
    image.load()
    notes: list[str] = []
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNDECODABLE:
        turn = None
        notes.append("its EXIF data are damaged: it was taken as upright")
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "F" or image.mode.startswith("I"):
        image, changes = _to_eight_bit(image, label)
        notes += changes
    pixels, changes = _over_white(image)
    return pixels, (*notes, *changes)


def _to_eight_bit(image: Image.Image, label: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Grey of 16 bits, 32 bits or floats, scaled from the range usual for it, or else from its own."""
    values = np.array(image, np.float64)
    if not np.isfinite(values).all():
        raise _not_finite(label)
    low, high = float(values.min()), float(values.max())
    usual = [(0.0, 1.0), (0.0, 255.0)] if image.mode == "F" else [(0.0, 65535.0)]
    low, high = next(((a, b) for a, b in usual if a <= low and high <= b), (low, high))
    scaled = np.rint((values - low) * (255 / ((high - low) or 1)))
    notes = () if (low, high) == (0, 255) else (f"its values {low:g}..{high:g} were scaled to 0..255",)
    return Image.fromarray(scaled.astype(np.uint8)), notes


def _from_array(array: NDArray[Any], label: str, fractions: bool) -> tuple[Pixels, tuple[str, ...]]:
    """``(H, W, 3)`` and notes. ``fractions``: whether the array's values are meant as 0..1."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        advice = "give (H, W) or (H, W, 3), with the channels last (np.moveaxis(array, 0, -1))"
        raise _refusal(label, f"has shape {array.shape}", advice)
    _check_sides(array.shape[0], array.shape[1], label)
    if array.dtype.kind not in "buif":
        raise _refusal(label, f"has values of type {array.dtype}", "convert it to uint8 or float32")
    notes: tuple[str, ...] = ()
    if array.dtype != np.uint8:
        if not np.isfinite(array).all():
            raise _not_finite(label)
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 255:
            advice = "scale it to 0..255, or pass it with preprocess=None if it is preprocessed already"
            raise _refusal(label, f"has values {low:g}..{high:g}", advice)
        if fractions:
            array = array.astype(np.float64) * 255
            notes = ("its values were taken as 0..1 and scaled to 0..255",)
        array = np.rint(array).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    pixels, changes = _over_white(Image.fromarray(array))
    return pixels, (*notes, *changes)


def _are_fractions(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "bf" and array.size > 0 and bool(array.max() <= 1)


def _over_white(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    """An image of 8 bits as ``(H, W, 3)``, and a note if some of it was transparent."""
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), ()
    image = image.convert("RGBA")
    opaque = np.asarray(image.getchannel("A")).min() == 255
    white = Image.new("RGBA", image.size, "white")
    pixels = np.array(Image.alpha_composite(white, image).convert("RGB"))
    return pixels, () if opaque else ("its transparency was laid over white",)


def _check_sides(height: int, width: int, label: str) -> None:
    if height == 0 or width == 0:
        raise _refusal(label, f"has no pixels (height {height}, width {width})", "check how it was made")


def _not_finite(label: str) -> ImageError:
    return _refusal(label, "has NaN or infinite values", "replace them, by np.nan_to_num for example")


def _refusal(label: str, what: str, advice: str) -> ImageError:
    """One line, even if a file's name is several."""
    return ImageError(f"{label if label.isprintable() else ascii(label)} {what}: {advice}")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
