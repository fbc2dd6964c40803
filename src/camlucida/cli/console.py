"""Where the command line writes, and how it keeps frameworks quiet."""

import contextlib
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ENDLESS = 10_000


def say(text: str = "") -> None:
    """A line of markup on standard output, as long as it is."""
    _console().print(text)


def say_prose(text: str) -> None:
    """Paragraphs on standard output, filled to a width that reads well."""
    width = min(Console().width, 100)
    filled = [
        textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False) for paragraph in text.split("\n\n")
    ]
    say(escape("\n\n".join(filled)))


def say_table(columns: list[str], rows: list[list[str]], bold: int | None = None) -> None:
    """A table on standard output, a line for each row; `bold` is the number of the row that matters most."""
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, row in enumerate(rows):
        table.add_row(*map(plain, row), style="bold" if number == bold else None)
    _console().print(table)


def plain(text: str) -> str:
    """A text for `say` that is shown as it is: no markup, and on one line even if a file's name is several."""
    return escape(text if text.isprintable() else ascii(text)[1:-1])


def complain(message: str) -> None:
    """One line on standard error."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"[red]error:[/red] {escape(' '.join(message.split()))}")


def _console() -> Console:
    """Standard output. Lines are never broken: a terminal does that itself, and a path that is copied stays whole."""
    return Console(width=_ENDLESS, highlight=False, emoji=False)


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of `what` on standard error, if that is a terminal; it is seen from the first call on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None, visible=False)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=True)


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
