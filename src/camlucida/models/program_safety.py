"""Whether a program that ``torch.export.save`` wrote (``.pt2``) could run code from the file.

``torch.export.load`` of torch 2.13 does so in three ways, each of which was tried: it unpickles whatever the archive
marks as pickled; example inputs too, even where the safe unpickler has refused them; and it hands the expressions of
symbolic sizes to sympy, which evaluates them as Python. In others, only a later check stands between the file and its
code: operators are looked up from ``torch`` down, where ``torch.os.system`` is found, and names of inputs are written
into Python source. Compiled libraries may lie in the archive as well. So a file is read here before, and passes only if
it holds nothing but tensors, operators of torch, arithmetic and plain names.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

_OPERATOR = re.compile(r"torch\.ops\.[a-z]\w*(\.(?!__)\w+){1,2}|torch\.sym_\w+|math\.[a-z]\w*|_operator\.(\w+)")
_WRITING = ("torch.ops.aten.save.", "torch.ops.aten.from_file.")
_ARITHMETIC_OF_PYTHON = re.compile(
    "abs|add|and_|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|not_|or_|pos|pow|sub|truediv"
)  # in the module operator, which has `call` and `methodcaller` as well
_PLAIN = re.compile(r"[\w.\-+/:@<>, ]*")
_ARITHMETIC_OF_SYMPY = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|Abs|floor|ceiling|true|false|And|Or|Not|ITE|Piecewise"
    "|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Eq|Ne|Lt|Le|Gt|Ge"
    "|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural"
    "|FloatPow|FloatTrueDiv|IntTrueDiv|IsNonOverlappingAndDenseIndicator|TruncToFloat|TruncToInt|RoundToInt"
    "|RoundDecimal|ToFloat|Identity"
)  # and the functions that torch adds to it
_OPERATIONS = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
_SYMBOL = re.compile(r"[a-z]+\d+")
_NUMBER_OR_NAME = re.compile(r"[\w.+-]+")
_TREES = ("in_spec", "out_spec")
_UNREAD = ("metadata", "guards_code", "as_string", "as_strings")
"""Texts that are kept as texts; guards are code, but only ``ExportedProgram.module`` runs them."""


def danger(archive: zipfile.ZipFile) -> str:
    """What in an archive could run code; empty if nothing is found that could.

    Raises:
        ValueError: it holds no program, or one for a device that is not here.
    """
    names = {name: name.partition("/")[2] or name for name in archive.namelist()}
    models = [
        name for name, inner in names.items() if re.fullmatch(r"models/.+\.json|serialized_exported.+\.json", inner)
    ]
    if not models:
        raise ValueError("it holds no program that torch.export.save wrote")
    for name, inner in names.items():
        if inner.startswith("data/aotinductor/"):
            return "it holds a compiled library"
        if re.search(r"(^|/)(custom_obj|opaque_obj)_", inner):
            return f"{inner} is a pickled object"
        if inner.endswith(".pt") and (called := _called(archive.read(name))):
            return f"{inner} is a pickle that calls {called}"
        if inner.endswith(".json"):
            document = json.loads(archive.read(name))
            _check_devices(document)
            if found := next(_suspects(document), ""):
                return found
    return ""


def _called(pickled: bytes) -> str:
    """What a pickle calls that no plain tensors need; empty if nothing."""
    try:
        torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        return found[1] if found else "something"
    return ""


def _suspects(value: Any, key: str = "") -> Iterator[str]:
    """What in a document is more than tensors, operators, arithmetic and names."""
    if key in _UNREAD:
        return
    if isinstance(value, dict):
        for name, part in value.items():
            if not _PLAIN.fullmatch(name):
                yield f"{name[:60]!r} is no name"
            if name == "use_pickle" and part:
                yield "some of its tensors are pickled"
            yield from _suspects(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _suspects(part, key)
    elif isinstance(value, str) and not _is_harmless(value, key):
        yield f"it holds {value[:60]!r} where torch writes {_EXPECTED.get(key, 'a name')}"


_EXPECTED = {
    "target": "an operator",
    "as_operator": "an operator",
    "expr_str": "arithmetic",
    "in_spec": "the kinds of inputs",
    "out_spec": "the kinds of outputs",
}


def _is_harmless(text: str, key: str) -> bool:
    if key in ("target", "as_operator"):
        found = _OPERATOR.fullmatch(text)
        known = found is not None and (found[2] is None or _ARITHMETIC_OF_PYTHON.fullmatch(found[2]) is not None)
        return known and not text.startswith(_WRITING)
    if key == "expr_str":
        return _is_arithmetic(text)
    if key in _TREES:  # a defaultdict and an enumeration are looked up by module and name
        return "default_factory" not in text and "__enum__" not in text
    return _PLAIN.fullmatch(text) is not None


def _is_arithmetic(text: str) -> bool:
    """Whether this is an expression as sympy's ``srepr`` writes it: known names, numbers and operators."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    kinds = (ast.Expression, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Constant, ast.Tuple, *_OPERATIONS)
    for node in nodes:
        if not isinstance(node, kinds):
            return False
        if isinstance(node, ast.Name) and not (_ARITHMETIC_OF_SYMPY.fullmatch(node.id) or _SYMBOL.fullmatch(node.id)):
            return False
        if isinstance(node, ast.Call) and not (
            isinstance(node.func, ast.Name) and _ARITHMETIC_OF_SYMPY.fullmatch(node.func.id)
        ):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _NUMBER_OR_NAME.fullmatch(node.value):
            return False
    return True


def _check_devices(document: Any) -> None:
    """Raises a ValueError if tensors are wanted on a device that is not here."""
    if isinstance(document, list):
        for part in document:
            _check_devices(part)
    if not isinstance(document, dict):
        return
    for key, part in document.items():
        if key in ("device", "as_device") and isinstance(part, dict) and not _is_here(part):
            raise ValueError(
                f"it was exported on {part['type']!r}, which is not here; export the model on the CPU (model.cpu())"
            )
        _check_devices(part)


def _is_here(device: dict[str, Any]) -> bool:
    kind = device.get("type")
    if kind in ("cpu", "meta"):
        return True
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and torch.accelerator.is_available() and kind == accelerator.type
