"""The command `camlucida`: its commands, and what becomes of errors."""

import io
import logging
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from camlucida.cli import evaluate, explain, grading, listings
from camlucida.cli.console import Debug, complain
from camlucida.errors import CamlucidaError, ImageError
from camlucida.version import __version__

SOME_FAILED = 1
WRONG_REQUEST = 2
INTERRUPTED = 130

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for options that it cannot read. Old versions have it from click, new ones have their own."""

app = typer.Typer(add_completion=False)
app.command("explain")(explain.explain)
app.command("compare")(grading.compare)
app.command("check")(grading.check)
app.command("evaluate")(evaluate.evaluate)
app.command("layers")(listings.layers)
app.command("methods")(listings.methods)
app.command("metrics")(listings.metrics)
app.command("models")(listings.models)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"camlucida {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def camlucida(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Camera Lucida: what an image model looked at."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(WRONG_REQUEST)


def main() -> NoReturn:
    """Run the command; an error is one line on standard error and an exit status, with ``--debug`` a traceback."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a font without the usual weight is no news
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a Σ, or a file's name, that the terminal cannot show
    sys.exit(_status())


def _status() -> int:
    try:
        return app(prog_name="camlucida", standalone_mode=False) or 0
    except (CamlucidaError, UsageError) as error:
        if Debug.wanted and isinstance(error, CamlucidaError):
            raise
        complain(_message(error))
        return SOME_FAILED if isinstance(error, ImageError) else WRONG_REQUEST
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if Debug.wanted:
            raise
        complain(f"unexpected {type(error).__name__}: {error}; --debug shows where")
        return WRONG_REQUEST


def _message(error: Exception) -> str:
    if not isinstance(error, UsageError):
        return str(error)
    said = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{said[:1].lower()}{said[1:]}; see {context.command_path if context else 'camlucida'} --help"
