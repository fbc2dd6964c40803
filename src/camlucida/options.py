"""Options written after a name: ``mobilenet?alpha=0.75&depth_multiplier=1``."""

import ast
import warnings
from collections.abc import Mapping
from typing import Any

from camlucida.errors import RequestError


def parse_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name?key=value&key=value`` into the name and its options.

    A value is a Python literal (``0.75``, ``(8, 8)``, ``None``), ``true`` or ``false`` in any case, or else a word,
    which stands for itself.

    Raises:
        RequestError: no name, an option that is not ``key=value``, or one that is given twice.
    """
    name, mark, rest = text.partition("?")
    name = name.strip()
    if not name:
        raise RequestError(f"{text!r} names nothing: write name or name?key=value&key=value")
    options: dict[str, Any] = {}
    for part in rest.split("&") if mark else ():
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not (key.isidentifier() and value):
            raise RequestError(f"option {part!r} of {name!r} is not key=value: write {name}?key=value&key=value")
        if key in options:
            raise RequestError(f"option {key!r} of {name!r} is given twice")
        options[key] = _value(value)
    return name, options


def written(name: str, options: Mapping[str, Any]) -> str:
    """A name and its options as people write them: ``mobilenet?alpha=0.75``."""
    return name + "".join(f"{'&' if i else '?'}{key}={value}" for i, (key, value) in enumerate(options.items()))


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of words such as ``1if`` before it refuses them
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
