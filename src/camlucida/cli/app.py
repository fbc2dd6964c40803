"""The command `camlucida`: its commands, and what becomes of errors."""

import sys
import warnings

import typer

from camlucida.cli import explain, listings
from camlucida.cli.console import Debug, complain
from camlucida.errors import CamlucidaError, ImageError

SOME_FAILED = 1
WRONG_REQUEST = 2
INTERRUPTED = 130

app = typer.Typer(
    help="Camera Lucida: what an image model looked at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("explain")(explain.explain)
app.command("layers")(listings.layers)
app.command("methods")(listings.methods)
app.command("models")(listings.models)


def main() -> None:
    """Run the command; an error is one line on standard error and an exit status, with ``--debug`` a traceback."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        app()
    except CamlucidaError as error:
        if Debug.wanted:
            raise
        complain(str(error))
        sys.exit(SOME_FAILED if isinstance(error, ImageError) else WRONG_REQUEST)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if Debug.wanted:
            raise
        complain(f"unexpected {type(error).__name__}: {error}; --debug shows where")
        sys.exit(WRONG_REQUEST)
