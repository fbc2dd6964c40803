"""The formulas, by what they need, and the registry that lists them."""

from camlucida.methods import gradients, probes, scores, weights
from camlucida.methods.probes import Masks
from camlucida.methods.registry import VARIANTS, Configured, Method, Variant, configure, find, methods

__all__ = [
    "VARIANTS",
    "Configured",
    "Masks",
    "Method",
    "Variant",
    "configure",
    "find",
    "gradients",
    "methods",
    "probes",
    "scores",
    "weights",
]
