"""Where the test data lie: real weights and photographs that are not the project's own. See tests that use it."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("CAMLUCIDA_TEST_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")


def path(name):
    """A file or folder of the test data; the test is skipped where it is not there."""
    if not (FOLDER / name).exists():
        pytest.skip(f"no {name} in the test data: set CAMLUCIDA_TEST_DATA to its folder")
    return FOLDER / name
