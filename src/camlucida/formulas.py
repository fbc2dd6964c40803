"""What can be read off a formula itself: its parameters, and what its docstring says."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


class Documented:
    """Something with a formula whose docstring begins with the equation, in plain text."""

    __slots__ = ()

    formula: Callable[..., Any]

    @property
    def family(self) -> str:
        """The module in which its formula stands."""
        return self.formula.__module__.rpartition(".")[2]

    @property
    def equation(self) -> str:
        """The formula as text."""
        return self._lines[0]

    @property
    def description(self) -> str:
        """What the symbols mean, what it tells and when to use it, in what it differs from what others call so."""
        return "\n".join(self._lines[1:]).strip()

    @property
    def _lines(self) -> list[str]:
        return (inspect.getdoc(self.formula) or "").splitlines()


@functools.cache
def parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Those of a function, in order."""
    return tuple(inspect.signature(function).parameters.values())
