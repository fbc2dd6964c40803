"""The formulas, by what they look at, and the registry that lists them."""

import importlib

from camlucida.methods.configured import Configured
from camlucida.methods.definition import VARIANTS, Method, Variant
from camlucida.methods.registry import FAMILIES, configure, find, methods

for family in FAMILIES:
    importlib.import_module(f"{__name__}.{family}")

__all__ = [
    "FAMILIES",
    "VARIANTS",
    "Configured",
    "Method",
    "Variant",
    "configure",
    "find",
    "methods",
]
