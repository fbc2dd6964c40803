"""Camera Lucida: what an image model looked at.

import camlucida as cl
result = cl.explain("xception", "cat_dog.jpg", method="grad-cam")
result[0].overlay().save("cam.png")
"""

from camlucida import targets
from camlucida.compare import compare
from camlucida.errors import CamlucidaError
from camlucida.evaluation import evaluate
from camlucida.explain import Explainer, explain
from camlucida.explanation import Explanation
from camlucida.explanations import Explanations
from camlucida.methods import methods
from camlucida.metrics import metrics
from camlucida.models import LoadedModel, load_model
from camlucida.sanity import check
from camlucida.sights import fused
from camlucida.version import __version__

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
