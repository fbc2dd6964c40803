"""Whether a package is there, without importing it."""

import importlib.util
import sys


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported."""
    return module in sys.modules or importlib.util.find_spec(module) is not None
