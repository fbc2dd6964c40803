"""The metrics, by what they look at, and the registry that lists them."""

import importlib

from camlucida.metrics.registry import (
    ANNOTATIONS,
    FAMILIES,
    SPACES,
    Configured,
    Metric,
    Space,
    Take,
    Traced,
    configure,
    metrics,
)

for family in FAMILIES:
    importlib.import_module(f"{__name__}.{family}")

__all__ = [
    "ANNOTATIONS",
    "FAMILIES",
    "SPACES",
    "Configured",
    "Metric",
    "Space",
    "Take",
    "Traced",
    "configure",
    "metrics",
]
