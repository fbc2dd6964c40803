"""Data sets: every format says the same of the same pictures, and what is wrong in one is said in a line."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pets
from camlucida import images
from camlucida.datasets import Dataset, Item, Painted, Polygon, Runs, read
from camlucida.datasets.shapes import runs
from camlucida.errors import ImageError, RequestError
from camlucida.maps import Box

SIZE = (6, 9)  # height and width differ, so that swapped coordinates show
BOX = Box(1, 2, 8, 5)
INSIDE = np.zeros(SIZE, bool)
INSIDE[2:5, 1:8] = True
OUTLINE = [[1, 2], [8, 2], [8, 5], [1, 5]]


@pytest.fixture
def picture(tmp_path):
    """Writes a picture under a name, and returns its path."""

    def write(name, size=SIZE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, format="PNG")
        return path

    return write


@pytest.fixture
def write(tmp_path, picture):
    """Writes a file beside pictures cat.png and dog.png, and returns its path."""
    picture("cat.png")
    picture("dog.png")

    def text(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return text


def table(*lines, delimiter=","):
    """A table with a header, as a program of tables would write it."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return file.getvalue()


def coco(annotations, **changes):
    document = {
        "images": [{"id": 7, "file_name": "cat.png", "width": 9, "height": 6}],
        "annotations": [{"id": i, "image_id": 7, "category_id": 3} | a for i, a in enumerate(annotations)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    return json.dumps(document | changes)


def voc(*objects, name="cat.png", size=(9, 6), before=""):
    width, height = size
    parts = [
        f"<object><name>{label}</name><part><bndbox><xmin>1</xmin></bndbox></part><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for label, box in objects
    ]
    sizes = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"{before}<annotation><filename>{name}</filename>{sizes}{''.join(parts)}</annotation>"


def said(dataset):
    """What a data set says of each of its pictures."""
    return [(item.name, item.label, item.boxes) for item in dataset]


def refused(dataset, **options):
    with pytest.raises(RequestError) as caught:
        read(dataset, **options)
    message = str(caught.value)
    assert message.isprintable(), message
    assert ": " in message
    return message


def problem(dataset):
    """The one problem of a data set of which something can be used."""
    (line,) = read(dataset).problems
    assert line.isprintable(), line
    assert ": " in line
    return line


# --- Folders


def test_a_folder_per_class(picture, tmp_path):
    for name in ("dog/b.png", "dog/a.PNG", "cat/a.png", "cat/.hidden.png", "cat/Thumbs.db", "dog/ü ö.png"):
        picture(name)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    found = read(tmp_path)
    names = [("cat/a.png", "cat"), ("dog/a.PNG", "dog"), ("dog/b.png", "dog"), ("dog/ü ö.png", "dog")]
    assert [(item.name, item.label) for item in found] == names
    assert found.problems == ()
    assert all(images.read(item.source).pixels.shape == (*SIZE, 3) for item in found)


def test_a_folder_of_pictures_has_no_labels(picture, tmp_path):
    for name in ("b.png", "a.png", "10.png"):
        picture(name)
    found = read(str(tmp_path))
    assert said(found) == [("10.png", None, ()), ("a.png", None, ()), ("b.png", None, ())]
    assert not found.has("label")


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("2", "10"), [10, 2]), (("02", "10"), ["02", "10"]), (("7", "seven"), [7, "seven"]), (("-1", "1"), ["-1", "1"])],
)
def test_classes_are_indices_only_where_all_are_whole_numbers(picture, tmp_path, names, labels):
    for name in names:
        picture(f"{name}/a.png")
    expected = list(map(str, labels)) if not all(name.isdecimal() for name in names) else labels
    assert [item.label for item in read(tmp_path)] == expected


def test_what_is_no_picture_in_a_folder_is_named(picture, tmp_path):
    picture("cat/a.png")
    picture("cat/more/b.png")
    (tmp_path / "cat" / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "read.me").write_text("")
    found = read(tmp_path)
    assert [item.name for item in found] == ["cat/a.png"]
    assert [line.split(":")[0] for line in found.problems] == ["read.me", "cat/more", "cat/notes.txt", "empty"]


def test_links_that_go_in_circles_end(picture, tmp_path):
    picture("cat/a.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "nothing.png")
    found = read(tmp_path)
    assert [item.name for item in found] == ["cat/a.png"]
    assert [line.split(":")[0] for line in found.problems] == ["self", "cat/up", "cat/lost.png", "again"]


def test_a_link_to_a_class_is_followed(picture, tmp_path):
    picture("elsewhere/cats/a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
    assert said(read(tmp_path / "data")) == [("cat/a.png", "cat", ())]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.png", "cat/b.png"], "a.png, and folders of pictures, as cat"),
        (["train/cat/a.png", "val/cat/b.png"], "train"),
        ([], "it is empty"),
    ],
)
def test_folders_that_can_be_meant_in_two_ways_are_refused(picture, tmp_path, names, words):
    for name in names:
        picture(name)
    assert words in refused(tmp_path)


# --- Tables

TABLES = {
    "edges": table(["image", "label", "left", "top", "right", "bottom"], ["cat.png", "cat", 1, 2, 8, 5]),
    "limits": table(
        ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"], ["cat.png", 9, 6, "cat", 1, 2, 8, 5]
    ),
    "spans": table(["path", "x", "y", "width", "height", "label"], ["cat.png", 1, 2, 7, 3, "cat"]),
    "semicolons": table(
        ["File", " Label ", "Left", "TOP", "right", "bottom"], ["cat.png", "cat", 1, 2, 8.2, 4.9], delimiter=";"
    ),
    "tabs": table(["label", "bottom", "right", "top", "left", "image"], ["cat", 5, 8, 2, 1, "cat.png"], delimiter="\t"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_boxes(write, name):
    assert said(read(write("boxes.csv", TABLES[name]))) == [("cat.png", "cat", (BOX,))]


def test_a_table_tells_the_size_of_pictures_where_that_is_not_the_size_of_boxes(write):
    assert read(write("limits.csv", TABLES["limits"]))[0].size == SIZE
    assert read(write("spans.csv", TABLES["spans"]))[0].size is None


def test_sizes_that_differ_from_line_to_line_are_refused(write):
    rows = [["cat.png", 9, 6, 1, 2, 8, 5], ["cat.png", 6, 9, 0, 0, 2, 2], ["dog.png", 9, 6, 1, 2, 8, 5]]
    path = write("t.csv", table(["image", "width", "height", "xmin", "ymin", "xmax", "ymax"], *rows))
    assert "has 6 x 9 pixels here and 9 x 6 before" in problem(path)
    assert said(read(path)) == [("dog.png", None, (BOX,))]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_as_other_systems_write_it(write, ending, mark):
    text = mark + TABLES["edges"].replace("\n", ending) + ending * 2
    found = read(write("BOXES.CSV", text))
    assert said(found) == [("cat.png", "cat", (BOX,))]
    assert found.problems == ()


def test_rows_of_one_picture_and_class_are_one_item(write):
    lines = [["cat.png", "cat", 1, 2, 8, 5], ["dog.png", "dog", 0, 0, 3, 3]]
    lines += [["./cat.png", "cat", 0, 0, 2, 2], ["cat.png", "dog", 3, 3, 4, 4], ["dog.png", "", "", "", "", ""]]
    found = read(write("boxes.csv", table(["image", "label", "left", "top", "right", "bottom"], *lines)))
    assert said(found) == [
        ("cat.png", "cat", (BOX, Box(0, 0, 2, 2))),
        ("dog.png", "dog", (Box(0, 0, 3, 3),)),
        ("cat.png", "dog", (Box(3, 3, 4, 4),)),
        ("dog.png", None, ()),
    ]
    assert found.problems == ()


def test_labels_of_a_table_are_one_kind(write):
    numbers = table(["image", "label"], ["cat.png", "281"], ["dog.png", ""])
    names = table(["image", "label"], ["cat.png", "01"], ["dog.png", "10"])
    assert [item.label for item in read(write("a.csv", numbers))] == [281, None]
    assert [item.label for item in read(write("b.csv", names))] == ["01", "10"]


def test_a_table_of_polygons_and_masks(write, tmp_path):
    Image.fromarray(INSIDE).save(tmp_path / "mask.png")
    header = ["image", "polygon", "mask"]
    found = read(write("t.csv", table(header, ["cat.png", json.dumps(OUTLINE), ""], ["dog.png", "", "mask.png"])))
    assert [item.has("mask") for item in found] == [True, True]
    for item in found:
        np.testing.assert_array_equal(item.mask_of(SIZE), INSIDE)


def test_a_quoted_name_with_a_comma_is_one_cell(write, picture):
    picture("a, b.png")
    assert [item.name for item in read(write("t.csv", table(["image"], ["a, b.png"])))] == ["a, b.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("image,label\n", "nothing in"),
        ("cat.png,cat\n", "no column image"),
        ("image,left,top,right\ncat.png,1,2,8\n", "lacks the column 'bottom'"),
        ("image,left,top,right,bottom,xmin,ymin,xmax,ymax\n", "in two ways"),
        ("image,file\ncat.png,cat.png\n", "two columns for the image"),
        ('image,label\n"cat.png,cat\n', "no table"),
        (b"image,label\ncat.png,\xe9t\xe9\n", "UTF-8"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(write, text, words):
    assert words in refused(write("t.csv", text))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["cat.png", "cat", "1", "two", "8", "5"], "'two' is not a number"),
        (["cat.png", "cat", "1", "", "8", "5"], "'' is not a number"),
        (["cat.png", "cat", "nan", "2", "8", "5"], "'nan' is not a number"),
        (["cat.png", "cat", "1", "2", "inf", "5"], "'inf' is not a number"),
        (["cat.png", "cat", "1_0", "2", "30", "5"], "'1_0' is not a number"),
        (["cat.png", "cat", "8", "2", "1", "5"], "no area"),
        (["cat.png", "cat", "1", "2", "8", "2"], "no area"),
        (["cat.png", "cat", "0.1", "0.2", "0.8", "1"], "shares"),
        (["lost.png", "cat", "1", "2", "8", "5"], "lost.png is no file here"),
        (["", "cat", "1", "2", "8", "5"], "names no picture"),
        (["a\nb.png", "cat", "1", "2", "8", "5"], "no file here"),
        (["x" * 300, "cat", "1", "2", "8", "5"], "cannot be a path"),
        (["https://a.b/c.png", "cat", "1", "2", "8", "5"], "is an address"),
        (["dog.png", "dog", "1", "2", "8", "5"], "was there before"),
        (["cat.png", "cat"], "2 cells"),
    ],
)
def test_a_line_that_makes_no_sense_is_left_out(write, row, words):
    header = ["image", "label", "left", "top", "right", "bottom"]
    path = write("t.csv", table(header, ["dog.png", "dog", 1, 2, 8, 5], row))
    line = problem(path)
    assert words in line
    assert line.startswith("t.csv, line ")
    assert said(read(path)) == [("dog.png", "dog", (BOX,))]


def test_a_picture_with_one_wrong_box_is_left_out_whole(write):
    header = ["image", "label", "left", "top", "right", "bottom"]
    rows = [["cat.png", "cat", 1, 2, 8, 5], ["cat.png", "cat", "?", 2, 8, 5], ["dog.png", "dog", 1, 2, 8, 5]]
    assert [item.name for item in read(write("t.csv", table(header, *rows)))] == ["dog.png"]


def test_unknown_columns_are_named(write):
    path = write("t.csv", table(["image", "lable"], ["cat.png", "cat"]))
    assert "'lable'" in problem(path)


# --- JSON


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_of_objects(write, tmp_path, wrapped):
    Image.fromarray(INSIDE).save(tmp_path / "mask.png")
    items = [
        {"image": "cat.png", "label": "cat", "boxes": [list(BOX), [0, 0, 2, 2]]},
        {"file": "dog.png", "class": 207, "polygons": [OUTLINE]},
        {"image": "dog.png", "mask": "mask.png"},
        {"image": "dog.png", "label": "07"},
    ]
    text = json.dumps({"items": items} if wrapped else items)
    found = read(write("items.JSON", "\ufeff" + text))
    expected = [("cat.png", "cat", (BOX, Box(0, 0, 2, 2))), ("dog.png", 207, ()), ("dog.png", None, ())]
    assert said(found) == [*expected, ("dog.png", "07", ())]
    for item in found.items[1:3]:
        np.testing.assert_array_equal(item.mask_of(SIZE), INSIDE)


@pytest.mark.parametrize("folder", ["images", "pictures"])
def test_pictures_lie_beside_the_annotations_or_where_it_is_said(write, picture, tmp_path, folder):
    there = picture(f"{folder}/cow.png")
    path = write("items.json", json.dumps([{"image": "cow.png"}]))
    found = read(path, images=None if folder == "images" else tmp_path / folder)
    assert Path(found[0].source) == there


def test_pictures_are_looked_for_where_it_is_said_first(write, picture, tmp_path):
    there = picture("other/cat.png")
    path = write("items.json", json.dumps([{"image": "cat.png"}]))
    assert Path(read(path, images=tmp_path / "other")[0].source) == there


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"label": "cat"}, "names no picture"),
        ({"image": 3}, "3 is no picture"),
        ({"image": "cat.png", "file": "dog.png"}, "both mean its image"),
        ({"image": "cat.png", "label": True}, "label True"),
        ({"image": "cat.png", "label": -1}, "negative"),
        ({"image": "cat.png", "label": ""}, "label ''"),
        ({"image": "cat.png", "label": ["cat"]}, "label ['cat']"),
        ({"image": "cat.png", "boxes": list(BOX)}, "box 1 is not four numbers"),
        ({"image": "cat.png", "boxes": 3}, "boxes 3 is not a list"),
        ({"image": "cat.png", "boxes": [[1, 2, 8, None]]}, "None is not a number"),
        ({"image": "cat.png", "boxes": [[1, 2, 8, True]]}, "True is not a number"),
        ({"image": "cat.png", "boxes": [[1, 2, 8, 10**400]]}, "is not a number"),
        ({"image": "cat.png", "polygons": [[]]}, "fewer than 3 points"),
        ({"image": "cat.png", "polygons": [OUTLINE[:2]]}, "fewer than 3 points"),
        ({"image": "cat.png", "polygons": [[*OUTLINE[:2], *OUTLINE[:2]]]}, "fewer than 3 points"),
        ({"image": "cat.png", "polygons": OUTLINE}, "point 1 of a polygon"),
        ({"image": "cat.png", "polygons": [[[1, 2], [3, "x"], [4, 5]]]}, "'x' is not a number"),
        ({"image": "cat.png", "mask": "lost.png"}, "lost.png is no file here"),
        ({"image": "cat.png", "mask": 4}, "mask 4"),
        ({"image": "cat.png", "mask": {"counts": [1]}}, "no size and counts"),
        ({"image": "dog.png"}, "was there before"),
        (["dog.png"], "not a pair"),
        (None, "names no picture"),
    ],
)
def test_an_entry_that_makes_no_sense_is_left_out(write, entry, words):
    path = write("items.json", json.dumps([{"image": "dog.png"}, entry]))
    line = problem(path)
    assert words in line
    assert line.startswith("items.json, item 1: ")
    assert said(read(path)) == [("dog.png", None, ())]


def test_unknown_fields_are_named_once(write):
    items = [{"image": "cat.png", "bbox": [1, 2, 3, 4]}, {"image": "dog.png", "bbox": [1, 2, 3, 4]}]
    assert "'bbox'" in problem(write("items.json", json.dumps(items)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ('"cat.png"', "neither a list"),
        ('{"cat.png": "cat"}', "neither a list"),
        ("[]", "it is empty"),
        ('[{"image": "lost.png"}, {"image": "gone.png"}]', "and 1 more): items.json, item 0: lost.png"),
        (b"\xff\xfe[\0]\0", "UTF-8"),
    ],
)
def test_json_that_makes_no_sense_is_refused(write, text, words):
    assert words in refused(write("items.json", text))


# --- COCO


def test_coco(write):
    parts = [[1, 2, 4, 2, 4, 5, 1, 5], [4, 2, 8, 2, 8, 5, 4, 5]]
    annotations = [
        {"bbox": [1, 2, 7, 3], "segmentation": parts},
        {"bbox": [0, 0, 2.4, 1.6], "category_id": 5},
        {"bbox": [3, 3, 1, 1], "segmentation": []},
        {"bbox": [0, 0, 9, 6], "iscrowd": 1, "segmentation": {"size": SIZE, "counts": [53, 1]}},
    ]
    found = read(write("coco.json", coco(annotations)))
    assert said(found) == [("cat.png", "cat", (BOX, Box(3, 3, 4, 4))), ("cat.png", "dog", (Box(0, 0, 2, 2),))]
    expected = INSIDE.copy()
    expected[5, 8] = True
    np.testing.assert_array_equal(found[0].mask_of(SIZE), expected)
    assert [item.size for item in found] == [SIZE, SIZE]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"image_id": 8, "bbox": list(BOX)}, "no image 8"),
        ({"image_id": [7]}, "no image None"),
        ({"category_id": 4}, "no category 4"),
        ({"category_id": 5, "bbox": [1, 2, 0, 3]}, "no area"),
        ({"category_id": 5, "bbox": [1, 2, 3]}, "not four numbers"),
        ({"category_id": 5, "segmentation": [[1, 2, 8, 2, 8]]}, "point 1 of a polygon"),
        ({"category_id": 5, "segmentation": {"size": SIZE, "counts": [53, 2]}}, "55 pixels, not 6 x 9"),
        ({"category_id": 5, "segmentation": {"size": SIZE, "counts": [55, -1]}}, "54 pixels"),
        ({"category_id": 5, "segmentation": {"size": SIZE, "counts": "é"}}, "no size and counts"),
        ({"category_id": 5, "segmentation": {"size": SIZE, "counts": "P"}}, "no size and counts"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_left_out(write, annotation, words):
    path = write("coco.json", coco([{"bbox": [1, 2, 7, 3]}, annotation]))
    line = problem(path)
    assert words in line
    assert line.startswith("coco.json, annotation 1: ")
    assert said(read(path)) == [("cat.png", "cat", (BOX,))]


def test_pictures_without_annotations_are_counted(write):
    pictures = [{"id": 7, "file_name": "cat.png"}, {"id": 8, "file_name": "dog.png"}, {"id": 9, "file_name": "x.png"}]
    assert "2 of its images have no annotation, as 'dog.png'" in problem(write("c.json", coco([{}], images=pictures)))


def packed(counts):
    """COCO's text for run lengths: differences from the last but one, five bits a character, the sign in the last."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while not -16 <= value < 16:
            text += chr(48 + (value % 32 | 32))
            value //= 32
        text += chr(48 + value % 32)
    return text


def test_run_lengths_go_down_the_columns():
    np.testing.assert_array_equal(
        runs({"size": [2, 3], "counts": [1, 3, 2]}).inside((2, 3)), [[False, True, False], [True, True, False]]
    )


def test_packed_run_lengths():
    assert runs({"size": [1080, 1920], "counts": "PPYo1"}).counts == (1080 * 1920,)  # an empty mask in full HD
    rng = np.random.default_rng(0)
    counts = tuple(map(int, rng.integers(0, 3000, 200)))
    assert runs({"size": [1, sum(counts)], "counts": packed(counts)}).counts == counts


# --- Pascal VOC


def test_voc(write, picture, tmp_path):
    for name in ("JPEGImages/b.png", "JPEGImages/a.PNG"):
        picture(name)
    write("Annotations/b.xml", voc(("cat", (2, 3, 8, 5)), ("dog", (1, 1, 2, 2)), ("cat", (3, 3, 3, 3)), name="b.png"))
    write("Annotations/a.xml", "\ufeff" + voc(("cat", ("0", "0", "2.0", "2.0")), name="a"))
    (tmp_path / "SegmentationObject").mkdir()
    painted = np.zeros(SIZE, np.uint8)
    painted[0, 1], painted[2, 3], painted[4, 5], painted[5, 5] = 1, 2, 3, 255
    mask = Image.fromarray(painted)
    mask.putpalette([0, 0, 0, 128, 0, 0] * 128)
    mask.save(tmp_path / "SegmentationObject" / "b.png")
    found = read(tmp_path)
    expected = [("b.png", "cat", (BOX, Box(2, 2, 3, 3))), ("b.png", "dog", (Box(0, 0, 2, 2),))]
    assert said(found) == [("a.PNG", "cat", (Box(0, 0, 2, 2),)), *expected]
    assert {item.size for item in found} == {SIZE}
    assert np.argwhere(found[1].mask_of(SIZE)).tolist() == [[0, 1], [4, 5]]
    assert np.argwhere(found[2].mask_of(SIZE)).tolist() == [[2, 3]]
    assert [item.has("mask") for item in found] == [False, True, True]
    split = write("ImageSets/Main/val.txt", "b\r\n\r\n")
    assert said(read(split)) == expected


@pytest.mark.parametrize("where", ["", "images/", "../images/"])
def test_a_folder_of_xml(write, picture, where):
    folder = write("xml/cow.xml", voc(("cow", (2, 3, 8, 5)), name="cow.png")).parent
    picture(f"xml/{where}cow.png")
    assert said(read(folder)) == [("cow.png", "cow", (BOX,))]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (voc(("cat", (2, 3, 8, 5)), before=BOMB), "DOCTYPE"),
        (
            voc(("cat", (2, 3, 8, 5)), before=f'<?xml version="1.0" encoding="UTF-16"?>{BOMB}').encode("utf-16"),
            "DOCTYPE",
        ),
        (voc(("cat", (2, 3, "x", 5))), "'x' is not a number"),
        (voc(("", (2, 3, 8, 5))), "label ''"),
        (voc(), "no object"),
        ("<annotation>", "not XML"),
        ("", "not XML"),
        (voc(("cow", (2, 3, 8, 5)), name="cow.png"), "cow.png is no file here"),
    ],
)
def test_xml_that_makes_no_sense_is_left_out(write, tmp_path, text, words):
    write("x.xml", voc(("dog", (2, 3, 8, 5)), name="dog.png"))
    write("y.xml", text)
    assert words in problem(tmp_path)
    assert said(read(tmp_path)) == [("dog.png", "dog", (BOX,))]


@pytest.mark.parametrize(("name", "text"), [("val.txt", "cat\n"), ("ImageSets/Main/cat_val.txt", "cat  1\n")])
def test_lists_of_other_kinds_are_refused(write, name, text):
    refused(write(name, text))


# --- Lists


def test_a_list_of_anything(picture):
    path = picture("ä b/cat.png")
    array = np.zeros((*SIZE, 3), np.uint8)
    found = read(
        [
            path,
            (str(path), "cat"),
            [array, np.int64(3)],
            Image.open(path),
            {"image": array, "boxes": [BOX]},
            "sample:cat",
        ]
    )
    assert [item.label for item in found] == [None, "cat", 3, None, None, None]
    assert [item.name for item in found][2:] == ["image2", "image3", "image4", "sample:cat"]
    assert found[4].boxes == (BOX,)
    assert all(images.read(item.source, item.name).pixels.ndim == 3 for item in found)
    assert read(found) is found


def test_names_that_files_share_are_told_apart(picture):
    found = read([(picture("cat/1.png"), "x"), (picture("dog/1.png"), "x")])
    assert len(found) == 2
    assert found.problems == ()


def test_the_same_picture_twice_is_one(picture):
    path = picture("cat.png")
    array = np.zeros((*SIZE, 3), np.uint8)
    found = read([path, array, os.path.relpath(path), array])
    assert len(found) == 2
    assert [line.split(":")[0] for line in found.problems] == ["entry 2", "entry 3"]


@pytest.mark.parametrize("dataset", [3, None, {"image": "cat.png"}, np.zeros((2, 6, 9, 3)), []])
def test_what_is_no_data_set_is_refused(dataset):
    refused(dataset)


def test_paths_that_are_no_data_sets_are_refused(write, picture, tmp_path):
    picture("flat/a.png")
    assert "cannot be read" in refused(tmp_path / "none.csv")
    assert "cannot be read" in refused("a\0b.csv")
    assert "no data set" in refused(tmp_path / "cat.png")
    assert "images=" in refused(tmp_path / "flat", images=tmp_path)
    assert "is no folder" in refused(write("a.json", "[]"), images=tmp_path / "none")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "neither a file nor a folder" in refused(tmp_path / "pipe.csv")


@pytest.mark.parametrize("name", ["photographs", "photographs/cat", "labels.csv", "items.json", "coco.json", "xml"])
def test_paths_from_where_one_stands(write, picture, tmp_path, monkeypatch, name):
    picture("photographs/cat/1.png")
    picture("xml/cat.png")
    write("labels.csv", table(["image"], ["cat.png"]))
    write("items.json", json.dumps([{"image": "cat.png"}]))
    write("coco.json", coco([{"bbox": [1, 2, 7, 3]}]))
    write("xml/cat.xml", voc(("cat", (2, 3, 8, 5))))
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name), f"../{tmp_path.name}/{name}"):
        data = read(path)
        assert [images.read(item.source).pixels.shape for item in data] == [(*SIZE, 3)]
        assert data.problems == ()


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat.png\n\ndog.png\n", [None, None]),
        ("cat.png 3\ndog.png\t12\n", [3, 12]),
        ("cat.png tabby\r\ndog.png 3\r\n", ["tabby", "3"]),
        ("a cat.png tabby\ndog.png", ["tabby", None]),
    ],
)
def test_a_list_of_paths(write, picture, text, labels):
    picture("a cat.png")
    data = read(write("list.txt", text))
    assert [item.label for item in data] == labels
    assert [Path(item.source).name for item in data] == [text.split(".png")[0] + ".png", "dog.png"]
    assert data.problems == ()


def test_a_path_of_a_list_that_is_not_there(write):
    data = read(write("list.txt", "cat.png\nnone.png tabby\n"))
    (line,) = data.problems
    assert "list.txt, line 2" in line
    assert "none.png" in line


def test_no_picture_is_decoded(write, tmp_path, monkeypatch):
    Image.fromarray(INSIDE).save(tmp_path / "mask.png")
    path = write("items.json", json.dumps([{"image": "cat.png", "mask": "mask.png"}, {"image": "dog.png"}]))

    def opened(*_, **__):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Image, "open", opened)
    found = read(path)
    assert len(list(found)) == len(list(found)) == len(found) == 2


# --- What only the picture can tell


def item(**known):
    return Item("cat.png", "cat.png", **known)


def test_boxes_that_stick_out_are_cut_with_a_note():
    found, notes = item(boxes=(Box(-1, 2, 12, 7), BOX)).checked(SIZE)
    assert found.boxes == (Box(0, 2, 9, 6), BOX)
    assert notes == ("(-1, 2, 12, 7) was cut to (0, 2, 9, 6)",)
    assert item(boxes=(Box(0, 0, 9, 6),)).checked(SIZE)[1] == ()


@pytest.mark.parametrize("box", [Box(9, 0, 12, 6), Box(0, 6, 6, 9), Box(-3, 0, 0, 6)])
def test_boxes_outside_are_refused(box):
    with pytest.raises(ImageError, match=r"cat\.png: box .* lies outside its 9 x 6 pixels"):
        item(boxes=(box,)).checked(SIZE)


@pytest.mark.parametrize("call", ["checked", "mask_of"])
def test_a_picture_of_another_size_is_refused(call):
    turned = item(size=SIZE[::-1], shapes=(Polygon(tuple(map(tuple, OUTLINE))),))
    with pytest.raises(ImageError, match=r"9 x 6 pixels and its annotations are for 6 x 9"):
        getattr(turned, call)(SIZE)


def polygon(*points):
    return Polygon(tuple(points))


def test_a_polygon_holds_the_pixels_whose_centres_it_encloses():
    for order in (OUTLINE, OUTLINE[::-1], [*OUTLINE, OUTLINE[0]]):
        np.testing.assert_array_equal(polygon(*map(tuple, order)).inside(SIZE), INSIDE)
    lower = polygon((0, 0), (4, 4), (0, 4)).inside((4, 4))
    upper = polygon((0, 0), (4, 0), (4, 4)).inside((4, 4))
    assert (lower ^ upper).all()  # what meets at an edge shares no pixel and leaves none out
    assert not polygon((1.6, 1.6), (2.4, 1.6), (2.4, 2.4), (1.6, 2.4)).inside((4, 4)).any()


def test_polygons_are_filled_as_a_point_in_polygon_test_says():
    from matplotlib.path import Path as Outline

    rng = np.random.default_rng(1)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    points = np.stack([20 + 25 * np.cos(angles), 15 + 13 * np.sin(angles)], axis=1) * rng.uniform(0.5, 1, (40, 1))
    rows, columns = np.mgrid[:31, :37]
    expected = Outline(points).contains_points(np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5)
    star = polygon(*map(tuple, points.tolist()))
    np.testing.assert_array_equal(star.inside((31, 37)), expected.reshape(31, 37))


@pytest.mark.parametrize(
    "points",
    [
        [(1, 1), (8, 5), (8, 1), (1, 5)],  # a bow tie
        [(0, 0), (4, 3), (8, 6), (8, 0), (4, 3), (0, 6)],  # another, that crosses in one of its points
        [(4.5, 0), (7.5, 6), (0, 2), (9, 2), (1.5, 6)],  # a star in one stroke
        [(1, 1), (8, 1), (8, 5), (1, 5), (1, 1), (8, 1), (8, 5), (1, 5)],  # twice about
    ],
)
def test_polygons_that_cross_themselves_are_refused(points):
    with pytest.raises(ImageError, match=r"cat\.png: the polygon from \(.*\) crosses itself near"):
        item(shapes=(polygon(*points),)).checked(SIZE)


@pytest.mark.parametrize(
    "points",
    [
        [(1, 2), (8, 2), (8, 5), (5, 5), (5, 6), (5, 5), (1, 5)],  # out along a line and back
        [(1, 2), (4, 2), (4, 5), (4, 2), (8, 2), (8, 5), (1, 5)],  # a cut into it
        [(-5, -5), (20, -5), (20, 20), (-5, 20)],  # around the picture
        [(1, 5), (4, 2), (1, 2), (8, 2), (4, 2), (8, 5)],  # two parts that touch in a point
    ],
)
def test_polygons_that_touch_themselves_are_accepted(points):
    shape = polygon(*points)
    found, notes = item(shapes=(shape,)).checked(SIZE)
    assert notes == ()
    assert found.mask_of(SIZE).any()


def test_shapes_are_united():
    both = item(shapes=(polygon((0, 0), (3, 0), (3, 3), (0, 3)), polygon((2, 2), (5, 2), (5, 5), (2, 5)))).mask_of(SIZE)
    assert both.sum() == 9 + 9 - 1


def test_a_mask_without_a_pixel_is_refused_and_a_part_without_one_noted():
    away = polygon((20, 20), (30, 20), (30, 30))
    with pytest.raises(ImageError, match="holds no pixel"):
        item(shapes=(away,)).checked(SIZE)
    _, notes = item(shapes=(away, polygon(*map(tuple, OUTLINE)))).checked(SIZE)
    assert notes == ("the polygon from (20, 20) holds no pixel of the picture",)
    with pytest.raises(ImageError, match="holds no pixel"):
        item(shapes=(Runs(SIZE, (54,)),)).checked(SIZE)


def test_an_item_without_a_mask_has_none():
    with pytest.raises(RequestError, match="has no mask"):
        item(boxes=(BOX,)).mask_of(SIZE)


GREY = (INSIDE * 255).astype(np.uint8)
MASKS = {
    "bits.png": Image.fromarray(INSIDE),
    "ones.png": Image.fromarray(INSIDE.astype(np.uint8)),
    "grey.tif": Image.fromarray(GREY),
    "numbers16.png": Image.fromarray(INSIDE.astype(np.uint16)),
    "palette.png": Image.fromarray(INSIDE.astype(np.uint8)).convert("P"),
    "blue.png": Image.fromarray(np.stack([GREY * 0, GREY * 0, GREY], axis=-1)),
    "clear.png": Image.fromarray(np.stack([GREY * 0 + 9, GREY * 0, GREY * 0, GREY], axis=-1)),
    "blurred.jpg": Image.fromarray(GREY),
}


@pytest.mark.parametrize("name", MASKS)
def test_painted_masks(tmp_path, name):
    MASKS[name].save(tmp_path / name)
    np.testing.assert_array_equal(item(shapes=(Painted(tmp_path / name),)).mask_of(SIZE), INSIDE)


def test_painted_masks_that_do_not_fit_are_refused(tmp_path):
    Image.fromarray(INSIDE.T.copy()).save(tmp_path / "turned.png")
    with pytest.raises(ImageError, match=r"cat\.png: the mask .*turned\.png is 6 x 9 pixels and its picture 9 x 6"):
        item(shapes=(Painted(tmp_path / "turned.png"),)).checked(SIZE)
    with pytest.raises(ImageError, match="6 x 9"):
        item(shapes=(Runs(SIZE[::-1], (27, 27)),)).checked(SIZE)
    (tmp_path / "broken.png").write_bytes((tmp_path / "turned.png").read_bytes()[:30])
    with pytest.raises(ImageError, match=r"broken\.png cannot be read"):
        item(shapes=(Painted(tmp_path / "broken.png"),)).checked(SIZE)
    MASKS["blue.png"].save(tmp_path / "blue.png")
    with pytest.raises(ImageError, match="has colours"):
        item(shapes=(Painted(tmp_path / "blue.png", 2),)).checked(SIZE)


def test_a_data_set_can_be_made_of_a_part_of_another():
    whole = Dataset("whole", (item(label="cat"), item(boxes=(BOX,))))
    assert whole.has("label")
    assert whole.has("boxes")
    assert not whole.has("mask")
    assert not Dataset("first", whole.items[:1]).has("boxes")


# --- Real photographs


def pixels(item):
    return images.read(item.source).pixels.shape[:2]


def test_the_pets():
    found = read(pets.items())
    assert found.problems == ()
    assert len(found) == 125
    assert all(isinstance(item.label, int) and item.has("boxes") and item.has("mask") for item in found)
    assert {item.label for item in read(pets.items(only_indexed=False))} > {"Abyssinian"}
    assert len(read(pets.items(matching=True))) < len(found)
    crossed = [pet for pet in found if "Egyptian_Mau_140" in pet.name]
    with pytest.raises(ImageError, match="crosses itself near"):  # by six pixels
        crossed[0].checked(pixels(crossed[0]))
    for pet in [pet for pet in found if pet not in crossed][::20]:
        size = pixels(pet)
        checked, notes = pet.checked(size)
        left, top, right, bottom = checked.boxes[0]
        assert notes == ()
        assert checked.mask_of(size)[top:bottom, left:right].mean() > 0.5  # the head is part of the animal
