"""Methods by metrics over a data set: the run, what is made of its figures, and how that is shown."""

from camlucida.evaluation.evaluate import METHODS, METRICS, check_words, evaluate
from camlucida.evaluation.result import FORMATS, USUAL, Evaluation, check_formats

__all__ = ["FORMATS", "METHODS", "METRICS", "USUAL", "Evaluation", "check_formats", "check_words", "evaluate"]
