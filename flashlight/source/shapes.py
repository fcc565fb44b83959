"""Shapes of parameters as users state them: annotations, comments, ``--shape``, docstrings, and the names q, k, v."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashlight.diagnostics import Diagnostic
from flashlight.source.model import ParameterText

ELEMENT_WORDS = frozenset({"float", "element"})
DTYPE_WORDS = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "float16", "bfloat16", "float32", "float64"}
)
SYNONYMS = {"int": "int64", "long": "int64", "half": "float16", "double": "float64", "boolean": "bool"}
JAXTYPING: dict[str, str | None] = {
    "Float": None,
    "Shaped": None,
    "Num": None,
    "Real": None,
    "Inexact": None,
    "Bool": "bool",
    "Int": "int64",
    "Integer": "int64",
    "UInt8": "uint8",
    "Int8": "int8",
    "Int16": "int16",
    "Int32": "int32",
    "Int64": "int64",
    "Float16": "float16",
    "BFloat16": "bfloat16",
    "Float32": "float32",
    "Float64": "float64",
}
CONVENTION: dict[str, tuple[str, ...]] = {
    "q": ("B", "H", "S", "D"),
    "k": ("B", "H_kv", "S_kv", "D"),
    "v": ("B", "H_kv", "S_kv", "D_v"),
}
LONG_NAMES = {"query": "q", "key": "k", "value": "v"}
FLEXIBLE = {"H_kv": "H", "S_kv": "S", "D_v": "D"}
"""Sizes that the convention keeps apart until a program needs them to be equal."""


@dataclass(frozen=True)
class Shape:
    """Sizes, each a name, a number or an integer expression over names, and a dtype; None: generic in the dtype."""

    dims: tuple[str, ...]
    dtype: str | None = None
    conventional: bool = False


def stated(
    parameter: ParameterText, overrides: Mapping[str, tuple[str, ...]], path: Path
) -> Shape | tuple[Shape, ...] | None:
    """What is known of the shape of a parameter; a tuple for a list of tensors. Raises FL203."""
    tensor = parameter.annotation is None or "Tensor" in parameter.annotation
    try:
        if parameter.annotation and (found := _annotated(parameter.annotation)) is not None:
            return found
        if parameter.comment and (commented := _commented(parameter.comment)) is not None:
            return commented
        if parameter.name in overrides:
            return Shape(_dims(overrides[parameter.name]))
        if parameter.documented and tensor and (documented := _documented(parameter.documented)) is not None:
            return documented
    except _Bad as error:
        raise at(
            parameter, path, Diagnostic("FL203", str(error), "sizes are names and numbers: # [B, H, S, D]")
        ) from None
    short = LONG_NAMES.get(parameter.name, parameter.name)
    if short in CONVENTION and tensor and parameter.default is None:
        return Shape(CONVENTION[short], conventional=True)
    return None


def at(parameter: ParameterText, path: Path, diagnostic: Diagnostic) -> Diagnostic:
    """The diagnostic with its caret below the parameter."""
    return diagnostic.located(path, parameter.line, parameter.column, parameter.end_column)


class _Bad(Exception):
    pass


def _annotated(annotation: str) -> Shape | None:
    match = re.search(r"\b(\w+)\s*\[\s*(?:\w+\.)*\w+\s*,\s*([\"'])(.*?)\2\s*\]", annotation)
    if match is None or match.group(1) not in JAXTYPING:
        return None
    return Shape(_dims(match.group(3).split()), JAXTYPING[match.group(1)])


def _commented(comment: str) -> Shape | tuple[Shape, ...] | None:
    several = re.match(r"\[\s*(\[.*)\]", comment)
    if several is not None:
        shapes = re.findall(r"\[([^\[\]]*)\]\s*(\w+)?", several.group(1))
        return tuple(Shape(_dims(inner.split(",")), _dtype(word)) for inner, word in shapes)
    match = re.match(r"(?:\w+\s*:\s*)?\[([^\[\]]*)\]\s*,?\s*(?:torch\.)?(\w+)?", comment)
    if match is None:
        return None
    inner = match.group(1).strip()
    return Shape(_dims(inner.split(",") if inner else ()), _dtype(match.group(2)))


def _documented(text: str) -> Shape | None:
    """The first list of sizes in prose: in brackets, or in parentheses if it has a comma or is called a shape."""
    for match in re.finditer(r"(shape\W*)?(\[[^\[\]]*\]|\([^()]*\))(?:\W*(?:torch\.)?\w+)?", text, re.IGNORECASE):
        inner = match.group(2)[1:-1].strip().rstrip(",")
        try:
            dims = _dims(inner.split(","))
        except _Bad:
            continue
        listed = match.group(2).startswith("[") or "," in match.group(2) or match.group(1)
        # (0, 1) is the range of a number, not a shape
        if listed and not all(dim.isdigit() for dim in dims):
            # before the sizes or right behind them: "boolean tensor of shape (B, S)", "[B, S], bool"
            words = re.findall(r"\w+", text[: match.start(2)]) + re.findall(r"\w+", text[match.end(2) : match.end()])
            return Shape(dims, next(filter(None, map(_dtype, words)), None))
    return None


def _dtype(word: str | None) -> str | None:
    word = SYNONYMS.get(word or "", word)
    return word if word in DTYPE_WORDS else None


def _dims(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_dim(text.strip()) for text in texts)


def _dim(text: str) -> str:
    text = text.removeprefix("#")
    if "=" in text:
        text = text.split("=", 1)[1]
    if "..." in text or text.startswith(("*", "_")) or not text:
        raise _Bad(f"`{text}` is not a size: the number of dimensions must be fixed")
    try:
        tree = ast.parse(text.strip("{}"), mode="eval")
    except SyntaxError:
        raise _Bad(f"`{text}` is not a size") from None
    allowed = (ast.Expression, ast.Name, ast.Constant, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Load)
    if not all(isinstance(node, allowed) for node in ast.walk(tree)):
        raise _Bad(f"`{text}` is not a size")
    return ast.unparse(tree)
