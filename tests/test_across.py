"""The same networks with the same weights on every backend of Keras: the same maps, layers and notes.

Keras settles its backend once in a process, so each is asked in a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")

if any(importlib.util.find_spec(name) is None for name in ("keras", "tensorflow")):
    pytest.skip("Keras or TensorFlow, which the others are held against, is not installed", allow_module_level=True)

from networks import HALF_PRECISION, NETWORKS  # noqa: E402

COMMON = [name for name in NETWORKS if name != "channels_first"]  # which TensorFlow does not run on the CPU


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the networks yield, by backend."""
    folder, answers = tmp_path_factory.mktemp("across"), {}

    def get(backend):
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        if backend not in answers:
            file = folder / f"{backend}.json"
            path = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
            script = Path(__file__).with_name("across.py")
            subprocess.run([sys.executable, script, file], env=environment, check=True)
            answers[backend] = json.loads(file.read_text("utf-8"))
            assert answers[backend]["backend"] == backend
        return answers[backend]["networks"]

    return get


@pytest.mark.parametrize("name", COMMON)
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_backends_agree(backend, name, found):
    ours, theirs = found(backend)[name], found("tensorflow")[name]
    assert ours["layers"] == theirs["layers"]
    assert ours["notes"] == theirs["notes"]
    tolerance = HALF_PRECISION.get(name, 1e-4)
    for kind in ("raw", "outputs"):
        a, b = np.array(ours[kind]), np.array(theirs[kind])
        assert np.abs(b).max() > 1e-4
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
