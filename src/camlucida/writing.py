"""Folders and files that are written."""

import os
from contextlib import suppress
from pathlib import Path

from camlucida.errors import RequestError


def make_folder(folder: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        RequestError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from error
    return folder


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file so that it is there whole or not at all: what was there before stays until then.

    Raises:
        RequestError: it cannot be written.
    """
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RequestError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    return path
