"""Writes the annotations of Oxford-IIIT pets as a data set of ours, of the breeds that ImageNet has.

    python benchmarks/pets_json.py FOLDER > pets.json
    python benchmarks/pets_json.py FOLDER 2 > half.json       one picture of each two

FOLDER holds annotations.json and images. The label is ImageNet's index, the box that of the head, the mask the
animal with the border about it. Pictures whose outlines do not agree with the painted masks that they were made from
are left out.
"""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1]).resolve()
pets = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["items"]
items = [
    {
        "image": str(folder / "images" / pet["file"]),
        "label": pet["imagenet_index"],
        "boxes": [pet["head_box_xyxy"]],
        "polygons": [pet["fg_polygon"], pet["outer_polygon"]],
    }
    for pet in pets
    if pet["imagenet_index"] is not None and pet["polygon_matches_trimap"]
]
print(json.dumps(items[:: int(sys.argv[2]) if sys.argv[2:] else 1], indent=1))
