"""The wrapper module: the user's file, with every target calling its kernel where that runs.

All else is the user's own, verbatim. The original of each target stays, under another name: it runs tensors that do
not lie on a GPU and empty ones, for which no kernel is launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import libcst as cst
import libcst.matchers as m

from flashlight.emit.module import formatted
from flashlight.trace.traced import Parameter

if TYPE_CHECKING:
    from flashlight.source import Source
    from flashlight.unit import Unit


def wrapper_module(source: Source, units: Sequence[Unit], provenance: str) -> str:
    """The text of the wrapper file."""
    transformer = _Transformer({unit.target.name: unit for unit in units}, f"{source.path.stem}_triton")
    module = source.module.visit(transformer)
    header = cst.parse_module(f"# {provenance}\n".replace("\n", "\n# ").rstrip("# \n") + "\n").header
    module = module.with_changes(body=_with_imports(list(module.body), f"{source.path.stem}_triton"))
    return formatted(module.with_changes(header=[*header, *module.header]).code)


def _with_imports(body: list[cst.BaseStatement], kernels: str) -> list[cst.BaseStatement]:
    """The import of the kernels, after the file's docstring and its own imports."""
    place = 0
    for number, statement in enumerate(body):
        if _is_import(statement) or (number == 0 and _is_docstring(statement)):
            place = number + 1
    either = f"if __package__:\n    from . import {kernels}\nelse:\n    import {kernels}\n"
    return [*body[:place], *cst.parse_module(f"\n{either}").body, *body[place:]]


def _is_import(statement: cst.BaseStatement) -> bool:
    imports = (cst.Import, cst.ImportFrom)
    return isinstance(statement, cst.SimpleStatementLine) and isinstance(statement.body[0], imports)


def _is_docstring(statement: cst.BaseStatement) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, cst.SimpleString)
    )


class _Transformer(cst.CSTTransformer):
    def __init__(self, units: dict[str, Unit], kernels: str) -> None:
        self.units = units
        self.kernels = kernels
        self.depth = 0

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self.depth += 1
        return True

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        self.depth += 1
        return True

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        self.depth -= 1
        return updated_node

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef | cst.FlattenSentinel[cst.BaseStatement]:
        self.depth -= 1
        unit = self.units.get(original_node.name.value)
        if self.depth or unit is None:
            return updated_node
        name = original_node.name.value
        original = updated_node.with_changes(name=cst.Name(f"_{name}_pytorch"))
        body = [*_docstring(updated_node), *cst.parse_module("\n".join(self._calls(unit))).body]
        blank = [cst.EmptyLine(), cst.EmptyLine()]
        wrapper = updated_node.with_changes(body=cst.IndentedBlock(body), leading_lines=blank)
        return cst.FlattenSentinel([original, wrapper])

    def _calls(self, unit: Unit) -> list[str]:
        name = unit.target.name
        parameters = unit.traced.parameters
        listed = unit.target.parameters
        absent = {p.name for p in listed if p.default == "None"}
        given = [p for p in parameters if p.tensor is not None]
        tensors = [_access(p) for p in given if p.name not in absent]
        passed = [_access(p) for p in parameters if p.tensor is not None or p.scalar is not None]
        known = {p.name for p in parameters}
        keyword = {p.name for p in listed if p.kind == "keyword"}
        further = [p for p in listed if p.kind in ("*", "**") and m.findall(unit.target.node.body, m.Name(p.name))]
        stars = {p.name: p.kind for p in further}
        every = [
            f"{p.name}={p.name}" if p.name in keyword else f"{stars.get(p.name, '')}{p.name}"
            for p in listed
            if p.name in known or p.name in stars
        ]
        lines = []
        fixed = [p for p in parameters if p.tensor is None and p.scalar is None and p.value is not None]
        lines.append(f"if not {self.kernels}.runs_kernel({', '.join(tensors)}):")
        lines.append(f"    return _{name}_pytorch({', '.join(every)})")
        for rest in further:
            lines.append(f"if {rest.name}:")
            message = f"{name}: the kernel was written for no further arguments as {rest.kind}{rest.name}"
            lines.append(f"    raise ValueError({message!r})")
        for optional in dict.fromkeys(p.name for p in given if p.name in absent):
            lines.append(f"if {optional} is None:")
            message = f"{name}: the kernel was written for a tensor as {optional}"
            lines.append(f"    raise ValueError({message!r})")
        for parameter in fixed:
            operator = "is not" if parameter.value in ("None", "True", "False") else "!="
            lines.append(f"if {parameter.name} {operator} {parameter.value}:")
            message = f"{name}: the kernel was written for {parameter.name}={parameter.value}"
            lines.append(f"    raise ValueError({message!r})")
        lines.append(f"return {self.kernels}.{name}({', '.join(passed)})")
        return lines


def _access(parameter: Parameter) -> str:
    return parameter.name if parameter.item is None else f"{parameter.name}[{parameter.item}]"


def _docstring(node: cst.FunctionDef) -> list[cst.BaseStatement]:
    first = node.body.body[0] if isinstance(node.body, cst.IndentedBlock) and node.body.body else None
    return [first] if isinstance(first, cst.BaseStatement) and _is_docstring(first) else []
