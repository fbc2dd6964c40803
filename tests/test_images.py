"""Pictures: every kind is read as it is seen, what cannot be read is refused in one line."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, features

from camlucida import images
from camlucida.errors import ImageError, RequestError, UnknownNameError
from camlucida.images import Picture, distinct, read, read_all, to_input

RNG = np.random.default_rng(0)
UPRIGHT = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)  # no symmetry of any kind
GREY = UPRIGHT[:, :, 0]
# Blocks of 16 x 16 survive JPEG and AVIF nearly as they are.
BLOCKS = np.kron(np.array([[20, 90, 200], [140, 240, 60]], np.uint8), np.ones((16, 16), np.uint8))
HUES = np.stack([BLOCKS, BLOCKS[::-1], BLOCKS[:, ::-1]], axis=-1)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def repeated(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def refusal(source):
    """The one line with which a source is refused."""
    with pytest.raises(ImageError) as caught:
        read(source)
    message = str(caught.value)
    assert message.isprintable(), message
    assert ": " in message
    return message


@pytest.fixture
def save(tmp_path):
    def save(image, name="picture.png", **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For property tests, which may not share a folder made for one test only."""
    return tmp_path_factory.mktemp("pictures")


# Files


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_lossless_files_are_read_bit_for_bit(save, name):
    path = save(Image.fromarray(UPRIGHT), name, **({"lossless": True} if name == "a.webp" else {}))
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, UPRIGHT)
    assert picture.pixels.dtype == np.uint8
    assert (picture.name, picture.source, picture.notes) == ("a", str(path), ())


@pytest.mark.parametrize(("name", "codec"), [("a.jpg", "jpg"), ("a.jp2", "jpg_2000"), ("a.avif", "avif")])
def test_lossy_files_are_read_closely(save, name, codec):
    if codec not in features.get_supported():
        pytest.skip(f"this build of Pillow has no {codec}")
    options = {} if codec == "jpg_2000" else {"quality": 95, "subsampling": "4:4:4"}
    picture = read(save(Image.fromarray(HUES), name, **options))
    np.testing.assert_allclose(picture.pixels.astype(int), HUES, atol=12)


def test_a_path_may_be_a_string_and_its_ending_may_lie(save):
    path = save(Image.fromarray(UPRIGHT), "a.jpg", format="PNG")
    np.testing.assert_array_equal(read(str(path)).pixels, UPRIGHT)


def as_stored(upright, orientation):
    """Where the pixels of an upright picture lie in a file of that EXIF orientation, by the definition of the tag."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_orientation_is_applied(save, name, orientation):
    stored = Image.fromarray(np.ascontiguousarray(as_stored(UPRIGHT, orientation)))
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(stored, name, exif=exif(orientation), **options)
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, UPRIGHT)
    with Image.open(path) as image:  # and Pillow images are treated alike
        np.testing.assert_array_equal(read(image).pixels, UPRIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_photographs(save, orientation):
    stored = Image.fromarray(np.ascontiguousarray(as_stored(HUES, orientation)))
    picture = read(save(stored, "a.jpg", exif=exif(orientation), quality=95, subsampling="4:4:4"))
    np.testing.assert_allclose(picture.pixels.astype(int), HUES, atol=12)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(save, orientation):
    np.testing.assert_array_equal(read(save(Image.fromarray(UPRIGHT), exif=exif(orientation))).pixels, UPRIGHT)


def test_a_damaged_exif_block_costs_a_note_not_the_picture(save):
    picture = read(save(Image.fromarray(UPRIGHT), exif=b"Exif\0\0this is no EXIF block"))
    np.testing.assert_array_equal(picture.pixels, UPRIGHT)
    (note,) = picture.notes
    assert "EXIF" in note


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_a_note_says_so(tmp_path, kind):
    frames = [Image.new("RGB", (7, 5), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "moving"
    path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    picture = read(path)
    assert picture.pixels.shape == (5, 7, 3)
    assert (picture.pixels == (255, 0, 0)).all()
    (note,) = picture.notes
    assert "first" in note


# Modes


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGB", UPRIGHT),
        ("L", repeated(np.asarray(Image.fromarray(UPRIGHT).convert("L")))),
        ("1", repeated(np.asarray(Image.fromarray(UPRIGHT).convert("1")).astype(np.uint8) * 255)),
        ("CMYK", UPRIGHT),
        ("LA", repeated(np.asarray(Image.fromarray(UPRIGHT).convert("L")))),
        ("RGBA", UPRIGHT),
    ],
)
def test_modes_of_eight_bits_or_less(save, mode, expected):
    image = Image.fromarray(UPRIGHT).convert(mode)
    for source in (image, save(image, "a.tif")):
        picture = read(source)
        np.testing.assert_array_equal(picture.pixels, expected)
        assert picture.notes == ()  # opaque alpha is not worth one


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp"])
def test_palettes(save, name):
    image = Image.fromarray(UPRIGHT).quantize(8)
    picture = read(save(image, name))
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.notes == ()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])], ids=["one colour", "alpha of each colour"])
def test_palettes_with_transparency(save, transparency):
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture = read(save(image, transparency=transparency))
    assert picture.pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    (note,) = picture.notes
    assert "white" in note


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(save, mode):
    alpha = np.array([[0, 64, 128, 255]], np.uint8)
    colour = np.full((1, 4), 100, np.uint8)
    channels = [colour, alpha] if mode == "LA" else [colour, colour, colour, alpha]
    path = save(Image.merge(mode, [Image.fromarray(channel) for channel in channels]))
    picture = read(path)
    expected = repeated(255 - (255 - 100) * (alpha / 255))
    np.testing.assert_allclose(picture.pixels, expected, atol=1)
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert picture.pixels[0, 3].tolist() == [100, 100, 100]
    (note,) = picture.notes
    assert "white" in note


def test_a_transparent_colour_is_white(save):
    picture = read(save(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), transparency=(1, 2, 3)))
    assert picture.pixels.tolist() == [[[255, 255, 255], [4, 5, 6]]]


SIXTEEN = np.array([[0, 257, 1000], [32896, 40000, 65535]])


@pytest.mark.parametrize(
    ("array", "mode"),
    [(SIXTEEN.astype("<u2"), "I;16"), (SIXTEEN.astype(">u2"), "I;16B"), (SIXTEEN.astype(np.int32), "I")],
)
def test_sixteen_bits_are_scaled_not_clipped(save, array, mode):
    image = Image.frombuffer(mode, (3, 2), array.tobytes(), "raw", mode, 0, 1)
    assert image.mode == mode
    for source in (image, save(image, "a.tif")):
        picture = read(source)
        assert picture.pixels[:, :, 0].tolist() == [[0, 1, 4], [128, 156, 255]]
        (note,) = picture.notes
        assert "0..65535" in note


def test_sixteen_bits_in_a_png(save):
    picture = read(save(Image.fromarray(SIXTEEN.astype(np.uint16))))
    assert picture.pixels[:, :, 2].tolist() == [[0, 1, 4], [128, 156, 255]]


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255], "0..1"),
        ([0.0, 63.6, 255.0], [0, 64, 255], None),
        ([-1.0, 0.0, 1.0], [0, 128, 255], "-1..1"),
        ([0.0, 500.0, 1000.0], [0, 128, 255], "0..1000"),
        ([7e3, 7e3, 7e3], [0, 0, 0], "7000..7000"),
    ],
)
def test_float_images(save, values, expected, note):
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    for source in (image, save(image, "a.tif")):
        picture = read(source)
        assert picture.pixels[0, :, 0].tolist() == expected
        assert len(picture.notes) == (note is not None)
        assert all(note in text for text in picture.notes)


def test_integers_beyond_sixteen_bits_are_scaled_from_their_own_range():
    picture = read(Image.fromarray(np.array([[-5, 99995]], np.int32)))
    assert picture.pixels[0, :, 0].tolist() == [0, 255]
    assert "-5..99995" in picture.notes[0]


def test_a_float_image_with_nan_is_refused(save):
    assert "NaN" in refusal(save(Image.fromarray(np.array([[np.nan, 1]], np.float32)), "a.tif"))


# What cannot be read


def test_a_missing_file(tmp_path):
    message = refusal(tmp_path / "nowhere.png")
    assert "nowhere.png" in message
    assert "exist" in message


def test_a_folder(tmp_path):
    assert "folder" in refusal(tmp_path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert "empty.png is empty" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"hello, I am no picture", b"\0" * 1000, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n"],
    ids=["text", "zeros", "EPS, which would start another program"],
)
def test_a_file_that_is_no_picture(tmp_path, content):
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    message = refusal(path)
    assert "notes.jpg is not a picture" in message
    assert "PNG" in message


def test_a_file_that_may_not_be_read(save, monkeypatch):
    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = save(Image.fromarray(UPRIGHT))
    monkeypatch.setattr(Path, "open", forbidden)  # and not chmod, which does not bind an administrator
    message = refusal(path)
    assert "Permission denied" in message
    assert "Errno" not in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("source", ["http://example.org/cat.jpg", "https://example.org/cat.jpg", "s3://bucket/cat.jpg"])
def test_an_address(source):
    message = refusal(source)
    assert source in message
    assert "download" in message


@pytest.mark.parametrize("name", ["a\nb.png", "a\0b.png", "a" * 5000, "\udcff.png"])
def test_a_strange_name_is_still_refused_in_one_line(tmp_path, name):
    refusal(str(tmp_path / name))


@pytest.mark.parametrize("filters", ["error", "ignore"])
@pytest.mark.parametrize(("width", "height"), [(11, 10), (30, 10)], ids=["above the limit", "above twice the limit"])
def test_a_decompression_bomb(save, monkeypatch, width, height, filters):
    path = save(Image.new("RGB", (width, height)), "bomb.png")
    fits = save(Image.new("RGB", (10, 10)), "fits.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        before = list(warnings.filters)
        message = refusal(path)
        assert read(fits).pixels.shape == (10, 10, 3)
        assert warnings.filters == before
    assert "bomb.png has more than 100 pixels" in message
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_may_be_lifted(save, monkeypatch):
    path = save(Image.fromarray(UPRIGHT))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(read(path).pixels, UPRIGHT)


def test_an_image_whose_file_was_closed_too_early(save):
    with Image.open(save(Image.fromarray(UPRIGHT))) as image:
        pass
    assert "cannot be decoded" in refusal(image)


KINDS = {
    "png": encoded(Image.fromarray(UPRIGHT), "PNG", exif=exif(6)),
    "palette": encoded(Image.fromarray(UPRIGHT).quantize(8), "PNG", transparency=2),
    "jpeg": encoded(Image.fromarray(HUES), "JPEG", exif=exif(6)),
    "progressive": encoded(Image.fromarray(HUES), "JPEG", progressive=True),
    "gif": encoded(Image.fromarray(UPRIGHT), "GIF", save_all=True, append_images=[Image.fromarray(UPRIGHT[::-1])]),
    "webp": encoded(Image.fromarray(UPRIGHT), "WEBP", exif=exif(6)),
    "bmp": encoded(Image.fromarray(UPRIGHT), "BMP"),
    "tiff": encoded(Image.fromarray(UPRIGHT), "TIFF", exif=exif(6)),
    "tiff-lzw": encoded(Image.fromarray(UPRIGHT), "TIFF", compression="tiff_lzw"),
    "ppm": encoded(Image.fromarray(UPRIGHT), "PPM"),
}


def read_or_refuse(source):
    """The picture or the line that says why not; any other exception fails the test."""
    try:
        picture = read(source)
    except ImageError as error:
        message = str(error)
    else:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.ndim == 3
        assert picture.pixels.shape[2] == 3
        return picture
    assert message.isprintable(), message
    return message


def content_read_or_refused(folder, content):
    path = folder / "picture"
    path.write_bytes(content)
    outcome = read_or_refuse(path)
    assert isinstance(outcome, Picture) or str(path) in outcome
    return outcome


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_file_cut_off_anywhere_is_read_or_refused(folder, kind, data):
    whole = KINDS[kind]
    cut = content_read_or_refused(folder, whole[: data.draw(st.integers(0, len(whole) - 1))])
    if isinstance(cut, Picture):
        assert cut.pixels.shape == content_read_or_refused(folder, whole).pixels.shape


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_garbled_file_is_read_or_refused(folder, kind, data):
    content = bytearray(KINDS[kind])
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[place] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a garbled header must not cost the test gigabytes
        content_read_or_refused(folder, bytes(content))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
def test_half_a_file_is_refused_and_named(tmp_path, kind):
    path = tmp_path / "half"
    path.write_bytes(KINDS[kind][: len(KINDS[kind]) // 2])
    message = refusal(path)
    assert str(path) in message
    assert "copy it again" in message


# Samples


@pytest.mark.parametrize(
    ("name", "shape"), [("cat", (300, 451)), ("coffee", (400, 600)), ("astronaut", (512, 512)), ("rocket", (427, 640))]
)
def test_samples(name, shape):
    picture = read(f"sample:{name}")
    assert picture.pixels.shape == (*shape, 3)
    assert (picture.name, picture.source, picture.notes) == (name, f"sample:{name}", ())


def test_the_cat_is_chelsea():
    from skimage import data

    np.testing.assert_array_equal(read("sample:cat").pixels, data.chelsea())


def test_an_unknown_sample():
    with pytest.raises(UnknownNameError, match="unknown sample 'cats'; did you mean 'cat'"):
        read("sample:cats")


# Arrays

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
CHANNELS = st.sampled_from([(), (1,), (3,), (4,)])


@st.composite
def arrays(draw):
    """Arrays that are pictures, of every shape, type and byte order."""
    dtype = draw(st.sampled_from(["?", "u1", "i1", "u2", ">u2", "i4", "i8", "u8", "f2", "f4", ">f4", "f8"]))
    dtype = np.dtype(dtype)
    high = {"b": 1, "f": draw(st.sampled_from([1, 255]))}.get(dtype.kind, 127 if dtype == np.int8 else 255)
    values = st.booleans() if dtype.kind == "b" else st.integers(0, high)
    if dtype.kind == "f":
        values = st.floats(0, high, width=16)
    return draw(hnp.arrays(dtype, draw(SHAPES) + draw(CHANNELS), elements=values))


@given(array=arrays())
def test_arrays_are_read_as_their_values_say(array):
    before = array.copy()
    picture = read(array)
    fractions = array.dtype.kind in "bf" and array.max() <= 1
    values = np.rint(array.astype(np.float64) * (255 if fractions else 1))
    if array.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] == 4:
        values = 255 - (255 - values[:, :, :3]) * (values[:, :, 3:] / 255)
    np.testing.assert_allclose(picture.pixels, np.broadcast_to(values, picture.pixels.shape), atol=1)
    if array.ndim == 2 or array.shape[2] != 4:
        np.testing.assert_array_equal(picture.pixels, np.broadcast_to(values, picture.pixels.shape))
    assert picture.pixels.shape == (*array.shape[:2], 3)
    assert picture.pixels.dtype == np.uint8
    assert any("0..1" in note for note in picture.notes) == fractions
    assert not np.shares_memory(picture.pixels, array)
    np.testing.assert_array_equal(array, before)


@given(array=hnp.arrays(st.sampled_from([np.float32, np.int16]), hnp.array_shapes(max_dims=4, min_side=0, max_side=5)))
def test_any_other_array_is_refused_in_one_line(array):
    outcome = read_or_refuse(array)
    assert isinstance(outcome, str) or outcome.pixels.shape == (*array.shape[:2], 3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(5), ["(5,)", "(H, W, 3)"]),
        (np.zeros((3, 8, 8)), ["(3, 8, 8)", "moveaxis"]),
        (np.zeros((2, 8, 8, 3)), ["(2, 8, 8, 3)"]),
        (np.zeros((8, 8, 2)), ["(8, 8, 2)"]),
        (np.zeros((0, 8, 3)), ["no pixels", "height 0"]),
        (np.zeros((8, 0, 3), np.uint8), ["no pixels", "width 0"]),
        (np.array([[0.0, np.nan]]), ["NaN"]),
        (np.array([[0.0, np.inf]]), ["infinite"]),
        (np.array([[-1.5, 1.0]]), ["-1.5", "preprocess=None"]),
        (np.array([[0.0, 300.0]]), ["300", "0..255"]),
        (np.array([[0, 40000]], np.uint16), ["40000", "0..255"]),
        (np.array([[-1, 5]]), ["-1", "0..255"]),
        (np.array([["a"]]), ["<U1", "float32"]),
        (np.array([[1j]]), ["complex128"]),
        (np.array([[None]]), ["object"]),
    ],
)
def test_arrays_that_are_no_pictures(array, words):
    message = refusal(array)
    assert all(word in message for word in words), message


def test_a_pillow_image_without_pixels_is_refused():
    assert "no pixels" in refusal(Image.new("RGB", (0, 5)))


def test_pixels_are_the_pictures_own():
    array = UPRIGHT.copy()
    picture = read(array, name="mine")
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, UPRIGHT)
    assert (picture.name, picture.source) == ("mine", "mine")


# Many


def test_a_list_of_every_kind_keeps_its_order(save):
    path = save(Image.fromarray(UPRIGHT), "dog.png")
    pictures = read_all([UPRIGHT, path, "sample:cat", Image.fromarray(GREY), str(path)])
    assert [p.name for p in pictures] == ["image0", "dog", "cat", "image3", "dog-2"]
    assert [p.source for p in pictures] == ["image 0", str(path), "sample:cat", "image 3", str(path)]


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a], lambda a: (a,), lambda a: a[None]])
def test_one_source_is_a_list_of_one(wrap):
    (picture,) = read_all(wrap(UPRIGHT))
    np.testing.assert_array_equal(picture.pixels, UPRIGHT)
    assert picture.name == "image0"


def test_a_batch():
    batch = np.stack([UPRIGHT, UPRIGHT[::-1]])
    pictures = read_all(batch)
    assert [p.name for p in pictures] == ["image0", "image1"]
    np.testing.assert_array_equal(np.stack([p.pixels for p in pictures]), batch)


def test_a_dark_picture_does_not_change_its_meaning_within_a_batch():
    batch = np.stack([np.full((2, 2, 3), 200.0), np.full((2, 2, 3), 1.0)])
    assert [int(p.pixels.max()) for p in read_all(batch)] == [200, 1]
    assert [int(p.pixels.max()) for p in read_all(batch / 200)] == [255, 1]


@pytest.mark.parametrize(
    "sources", [[UPRIGHT, np.array([[np.nan]])], np.stack([np.zeros((1, 1, 3)), [[[np.nan] * 3]]])]
)
def test_a_bad_picture_among_many_is_named(sources):
    with pytest.raises(ImageError, match=r"^image 1 has NaN"):
        read_all(sources)


@pytest.mark.parametrize("sources", [[], (), np.zeros((0, 5, 7, 3))])
def test_no_pictures(sources):
    with pytest.raises(RequestError, match="no pictures"):
        read_all(sources)


@pytest.mark.parametrize(
    ("sources", "kind"),
    [(None, "NoneType"), ({"a": 1}, "dict"), (b"a.png", "bytes"), ([UPRIGHT, 3], "int"), ([[]], "list")],
)
def test_other_types_are_named(sources, kind):
    with pytest.raises(RequestError, match=rf"^image \d is of type {kind}: "):
        read_all(sources)


def pictures_named(names):
    return [Picture(name, name, UPRIGHT, ()) for name in names]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat", "cat", "cat"], ["cat", "cat-2", "cat-3"]),
        (["cat", "cat", "cat-2"], ["cat", "cat-3", "cat-2"]),
        (["cat-2", "cat", "cat", "cat-2"], ["cat-2", "cat", "cat-3", "cat-2-2"]),
        (["cat", "Cat", "CAT"], ["cat", "Cat-2", "CAT-3"]),
        (["image0", "image0"], ["image0", "image0-2"]),
    ],
)
def test_names_are_made_distinct(names, expected):
    assert [p.name for p in distinct(pictures_named(names))] == expected


@given(st.lists(st.sampled_from(["a", "A", "a-2", "a-2-2", "a-3", "b", "ß", "ss", "SS"]), max_size=12))
def test_names_never_collide(names):
    made = [p.name for p in distinct(pictures_named(names))]
    assert len({name.casefold() for name in made}) == len(names)
    for name in {name.casefold() for name in names}:  # the first of each keeps its name
        first = [n.casefold() for n in names].index(name)
        assert made[first] == names[first]


def test_files_of_the_same_stem_from_different_folders(tmp_path):
    paths = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png", tmp_path / "b" / "cat.bmp"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(UPRIGHT).save(path)
    assert [p.name for p in read_all(paths)] == ["cat", "cat-2", "cat-3"]


# Model input


def test_a_picture_of_the_right_size_is_left_bit_for_bit():
    batch = to_input(read_all([UPRIGHT, UPRIGHT[::-1]]), (5, 7))
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, np.stack([UPRIGHT, UPRIGHT[::-1]]))


@pytest.mark.parametrize("size", [(7, 5), (224, 299), (2, 3), (1, 1)])
def test_resizing_is_pillows_antialiased_bilinear(size):
    (resized,) = to_input([read(UPRIGHT)], size)
    height, width = size
    expected = Image.fromarray(UPRIGHT).resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(expected))
    assert resized.shape == (height, width, 3)


def test_shrinking_averages():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    (small,) = to_input([read(stripes)], (8, 8))
    np.testing.assert_allclose(small[:, 1:-1], 127.5, atol=2)


def test_pictures_of_different_sizes_share_a_batch():
    batch = to_input(read_all([UPRIGHT, GREY, UPRIGHT[:2]]), (4, 6))
    assert batch.shape == (3, 4, 6, 3)
    assert batch.min() >= 0
    assert batch.max() <= 255
    assert to_input([], (4, 6)).shape == (0, 4, 6, 3)


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_a_size_without_pixels(size):
    with pytest.raises(RequestError, match="size"):
        to_input([read(UPRIGHT)], size)


def test_the_import_is_light():
    heavy = "{'skimage', 'scipy', 'matplotlib', 'keras', 'tensorflow', 'torch', 'jax'}"
    code = f"import sys, camlucida.images; print({heavy} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(images.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "set()"
