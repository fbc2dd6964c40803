"""Every error that a user can cause.

    CamlucidaError              the request could not be carried out
    ├── UnknownNameError        a method, layer, class, model, colour map... that does not exist
    ├── RequestError            an option or an input that makes no sense as given
    ├── ConditionError          the model does not meet a method's condition
    ├── ModelError              a model or its weights cannot be loaded
    │   └── DownloadError       its weights cannot be fetched
    ├── MissingPackageError     an optional package is not installed
    └── ImageError              one picture cannot be explained; the others can

Each message is one line: what was wrong, with what value, and what to do.
"""

import difflib
from collections.abc import Iterable


class CamlucidaError(Exception):
    """The request could not be carried out; the message says why and what to do."""


class UnknownNameError(CamlucidaError):
    """A name that does not exist, with the nearest names that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name = kind, name
        known = list(known)
        by_lower_case = {k.lower(): k for k in reversed(known)}
        near = difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.5)
        self.nearest = tuple(by_lower_case[n] for n in near)
        if self.nearest:
            advice = f"; did you mean {' or '.join(map(repr, self.nearest))}?"
        elif len(known) <= 12:
            advice = f"; there are {', '.join(map(repr, known))}."
        else:
            advice = "."
        super().__init__(f"unknown {kind} {name!r}{advice}{' ' + hint if hint else ''}")


class RequestError(CamlucidaError):
    """An option or an input that makes no sense as given."""


class ConditionError(CamlucidaError):
    """The model does not meet a condition of the method; the message names one that works."""


class ModelError(CamlucidaError):
    """A model or its weights cannot be loaded."""


class DownloadError(ModelError):
    """Weights that would have to be downloaded cannot be fetched."""


class MissingPackageError(CamlucidaError):
    """An optional package is not installed; the message has the ``pip install`` line.

    Args:
        package: what is missing.
        purpose: what needs it.
        extra: the extra of camlucida that brings it; None where no extra does, so that pip is given `package`.
    """

    def __init__(self, package: str, purpose: str, extra: str | None = None) -> None:
        wanted = package if extra is None else f'"camlucida[{extra}]"'
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install {wanted}")


class ImageError(CamlucidaError):
    """One picture cannot be explained; the others of the same request can."""


def one_line(error: BaseException, limit: int = 240) -> str:
    """What an error of another library says, without line breaks, cut after `limit` characters; its kind if nothing."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3].rstrip()}..."
