"""What options of methods and metrics may be: said where they are registered, checked before anything is run."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from camlucida.errors import RequestError


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that an option may have.

    Args:
        text: what they are, as the end of a sentence: "a whole number above 0".
        holds: whether a value is one of them.
    """

    text: str
    holds: Callable[[Any], bool]


def whole(least: int = 1, *, or_none: bool = False) -> Domain:
    """Whole numbers from `least`, and None where that leaves the choice to the method."""
    text = f"a whole number {'above 0' if least == 1 else f'from {least}'}{' or None' if or_none else ''}"

    def holds(value: Any) -> bool:
        return (or_none and value is None) or (type(value) is int and value >= least)

    return Domain(text, holds)


def number(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False, or_none: bool = False
) -> Domain:
    """Finite numbers from `low` to `high`, without `low` itself where `above`, without `high` where `below`."""
    from_ = "" if low == -math.inf else f" above {low:g}" if above else f" from {low:g}"
    to = "" if high == math.inf else f" and below {high:g}" if below else f" and at most {high:g}"
    text = f"a number{from_}{to}{' or None' if or_none else ''}"

    def holds(value: Any) -> bool:
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            return or_none and value is None
        inside = (value > low if above else value >= low) and (value < high if below else value <= high)
        return inside and -sys.float_info.max <= value <= sys.float_info.max

    return Domain(text, holds)


def word(*words: str) -> Domain:
    """One of some words."""
    return Domain(f"one of {', '.join(map(repr, words))}", lambda value: value in words)


def flag() -> Domain:
    """True or False."""
    return Domain("True or False", lambda value: isinstance(value, bool))


def changed(
    name: str, given: Mapping[str, Any], defaults: Mapping[str, Any], domains: Mapping[str, Domain]
) -> tuple[tuple[str, Any], ...]:
    """The options that differ from their defaults, in alphabetical order.

    Args:
        name: of what they are options of.

    Raises:
        RequestError: one is outside its domain.
    """
    for key, value in given.items():
        if not isinstance(value, int | float | str | None):
            raise RequestError(f"{key}={value!r} of {name} is not a plain number or word")
        if not domains[key].holds(value):
            raise RequestError(f"{key}={value!r} of {name} is not {domains[key].text}")
    return tuple(sorted((key, value) for key, value in given.items() if value != defaults[key]))
