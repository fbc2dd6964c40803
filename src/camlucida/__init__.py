"""Camera Lucida: what an image model looked at.

import camlucida as cl
result = cl.explain("xception", "cat_dog.jpg", method="grad-cam")
result[0].overlay().save("cam.png")
"""

from typing import TYPE_CHECKING, Any

from camlucida import targets
from camlucida.compare import compare
from camlucida.errors import CamlucidaError
from camlucida.explain import Explainer, explain
from camlucida.explanation import Explanation
from camlucida.explanations import Explanations
from camlucida.methods import methods
from camlucida.metrics import metrics
from camlucida.models import LoadedModel, load_model
from camlucida.sanity import check
from camlucida.sights import fused
from camlucida.version import __version__

if TYPE_CHECKING:
    from camlucida.evaluation import evaluate

__all__ = [
    "CamlucidaError",
    "Explainer",
    "Explanation",
    "Explanations",
    "LoadedModel",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "explain",
    "fused",
    "load_model",
    "methods",
    "metrics",
    "targets",
]


def __getattr__(name: str) -> Any:
    """`evaluate`, imported where it is used: data sets and tables take a tenth of the time that a command has."""
    if name == "evaluate":
        from camlucida.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
