"""The command line: parse, explain, present."""

from camlucida.cli.app import main

__all__ = ["main"]
