"""What options of methods may be: said where a method is registered, checked before anything is run."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
