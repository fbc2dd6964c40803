"""The pet photographs of the test data, as items of a JSON data set: breeds, head boxes, outlines of the animal."""

import json

import data


def items(only_indexed=True, matching=False):
    """A list of dicts that `datasets.read` takes; the test is skipped where the photographs are not there.

    The mask is the foreground united with the border about it, which nobody could tell from either.

    Args:
        only_indexed: those of a breed that is a class of ImageNet, labelled by its index; else all, by their breeds.
        matching: those whose outlines agree with the painted masks that they were made from.
    """
    folder = data.path("pets")
    pets = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["items"]
    return [
        {
            "image": str(folder / "images" / pet["file"]),
            "label": pet["imagenet_index"] if only_indexed else pet["breed"],
            "boxes": [pet["head_box_xyxy"]],
            "polygons": [pet["fg_polygon"], pet["outer_polygon"]],
        }
        for pet in pets
        if (pet["imagenet_index"] is not None or not only_indexed) and (pet["polygon_matches_trimap"] or not matching)
    ]
