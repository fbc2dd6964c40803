"""What the networks of the suite yield on the backend at work, written to a file, to be compared with other backends'.

KERAS_BACKEND=jax python across.py FILE
"""

import json
import sys
from pathlib import Path

import keras

import frameworks
from networks import NETWORKS, explained

METHODS = {"gap": ["cam", "score-cam"], "one_sigmoid": ["cam"], "subclassed_two_inputs": ["score-cam"]}
"""The methods that are tried beside Grad-CAM and Grad-CAM++."""


def finding(name):
    """Raw maps, outputs, layers and notes of one network."""
    keras.utils.clear_session()  # so that layers without a name are numbered alike
    methods = ["grad-cam", "grad-cam++", *METHODS.get(name, ())]
    result = explained(NETWORKS[name](), method=methods)
    return {
        "raw": result.raw.tolist(),
        "outputs": [item.answer.outputs.tolist() for item in result],
        "layers": [item.layer for item in result],
        "notes": [list(item.notes) for item in result],
    }


if __name__ == "__main__":
    found = {name: finding(name) for name in NETWORKS if name != "channels_first"}
    Path(sys.argv[1]).write_text(json.dumps({"backend": frameworks.BACKEND, "networks": found}), encoding="utf-8")
