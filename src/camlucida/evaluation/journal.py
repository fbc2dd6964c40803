"""What is known of each image so far, a line each, so that an evaluation that was stopped goes on where it was."""

import base64
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from camlucida.errors import RequestError
from camlucida.metrics import Traced
from camlucida.writing import make_folder

Record = dict[str, Any]
"""Of one image: its number, name and label, and its values by method and metric, or why there are none."""


class Journal:
    """A file that only grows. Its first line says what is evaluated; each other one is an image's record.

    Args:
        path: of the file; it is made with the first record.
        head: what is evaluated. A file that says something else is refused.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path, self.head = path, dict(head)

    def records(self) -> Iterator[Record]:
        """What was written before; a last line that was not finished is cut off.

        Raises:
            RequestError: the file is of another evaluation, or cannot be read.
        """
        if not self.path.exists():
            return
        whole = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
                    if number:
                        yield _read(line)
                    else:
                        self._check(json.loads(line))
            with self.path.open("rb+") as file:
                file.truncate(whole)
        except (OSError, ValueError) as error:
            raise RequestError(f"cannot read {str(self.path)!r} ({error}): remove it to begin anew") from error

    def add(self, record: Record) -> Record:
        """Write a record. What is read again is what is returned, so that a run that was stopped ends as any other."""
        line = json.dumps({**record, "values": _encoded(record.get("values"))}, ensure_ascii=False)
        try:
            if not self.path.exists() or not self.path.stat().st_size:
                make_folder(self.path.parent)
                self.path.write_text(json.dumps(self.head, ensure_ascii=False) + "\n", encoding="utf-8")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RequestError(f"cannot write {str(self.path)!r}: {error.strerror or error}") from error
        return _read(line)

    def _check(self, head: Mapping[str, Any]) -> None:
        other = [key for key in self.head if not _same(head.get(key), self.head[key])]
        if other:
            key = other[0]
            raise RequestError(
                f"{str(self.path)!r} is of another evaluation: there {key} is {head.get(key)!r}, here it is "
                f"{self.head[key]!r}. Choose another folder, or remove the file to begin anew"
            )


def _same(one: Any, other: Any) -> bool:
    """Whether two entries of heads say the same; numbers that a model answers differ a little between machines."""
    if isinstance(one, list) and isinstance(other, list) and all(isinstance(value, float) for value in one + other):
        return len(one) == len(other) and np.allclose(one, other, rtol=1e-2, atol=1e-3)
    return bool(one == other)


def _read(line: str | bytes) -> Record:
    record: Record = json.loads(line)
    return {**record, "values": _decoded(record.get("values"))}


def _encoded(values: Mapping[str, Mapping[str, Any]] | None) -> Any:
    if values is None:
        return None
    return {method: {metric: _packed(value) for metric, value in row.items()} for method, row in values.items()}


def _decoded(values: Mapping[str, Mapping[str, Any]] | None) -> Any:
    if values is None:
        return None
    return {method: {metric: _unpacked(value) for metric, value in row.items()} for method, row in values.items()}


def _packed(value: Any) -> Any:
    """A number as JSON has it, which knows no NaN; arrays as compressed float32 in text."""
    if isinstance(value, Traced):
        return [_packed(value.value), _packed(value.at), _packed(value.curve)]
    array = np.asarray(value)
    if array.ndim:
        return base64.b64encode(zlib.compress(array.astype("<f4").tobytes())).decode()
    return float(value) if math.isfinite(value) else None


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return Traced(*map(_unpacked, value))
    if isinstance(value, str):
        return np.frombuffer(zlib.decompress(base64.b64decode(value)), "<f4").astype("float64")
    return math.nan if value is None else value
