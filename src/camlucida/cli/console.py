"""Where the command line writes, and how it keeps frameworks quiet."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console


def out() -> Console:
    """Standard output; wide where it is no terminal, so that a pipe gets whole lines."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def complain(message: str) -> None:
    """One line on standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/red] {_escaped(message)}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


class Debug:
    """Whether ``--debug`` was given: errors then come with their traceback, and frameworks may talk."""

    wanted = False

    @classmethod
    def set(cls, value: bool) -> None:
        """What typer calls with the option's value."""
        cls.wanted = value


DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and what frameworks print.", callback=Debug.set, is_eager=True)
]


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Within it, what native code writes to standard error is shown only if Python code fails."""
    if Debug.wanted:
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(before, said.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
