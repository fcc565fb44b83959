"""Reads a user's file with libcst: functions, parameters with their comments, and which statement stands on a line."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from flashlight.diagnostics import Diagnostic
from flashlight.source.model import ParameterText, Source, Statement, Target


def read(path: Path | str) -> Source:
    """The file at ``path``. Raises FL101 (missing), FL102 (not readable) or FL103 (syntax error)."""
    path = Path(path)
    if not path.is_file():
        raise Diagnostic("FL101", f"there is no file {path}", "check the path", path=path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Diagnostic("FL102", f"the file cannot be read: {error}", "give a Python source file", path=path) from None
    return parse(text, path)


def parse(text: str, path: Path | str) -> Source:
    """The same for text that is already at hand. Raises FL103."""
    path = Path(path)
    try:
        compile(text, str(path), "exec")
        module = cst.parse_module(text)
    except (SyntaxError, ValueError) as error:
        line, column = getattr(error, "lineno", None), getattr(error, "offset", None)
        message = getattr(error, "msg", str(error))
        raise Diagnostic("FL103", f"not valid Python: {message}", None, path=path, line=line, column=column) from None
    except cst.ParserSyntaxError as error:
        raise Diagnostic(
            "FL103", f"not valid Python: {error.message}", None, path=path, line=error.raw_line, column=error.raw_column
        ) from None
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    collector = _Collector(_comments(text))
    wrapper.visit(collector)
    return Source(path, text, module, tuple(collector.functions), collector.statements)


def _comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("#").strip() for token in tokens if token.type == tokenize.COMMENT}


class _Collector(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, comments: dict[int, str]) -> None:
        super().__init__()
        self.comments = comments
        self.functions: list[Target] = []
        self.statements: dict[int, Statement] = {}
        self.depth = 0

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.depth += 1

    def leave_ClassDef(self, original_node: cst.ClassDef) -> None:
        self.depth -= 1

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        if self.depth == 0:
            self.functions.append(self._target(node))
        self.depth += 1

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:
        self.depth -= 1

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        for small in node.body:
            self._record(small, _assigned(small))

    def visit_If(self, node: cst.If) -> None:
        self._record(node.test, None)

    def visit_For(self, node: cst.For) -> None:
        self._record(node.iter, None)

    def visit_While(self, node: cst.While) -> None:
        self._record(node.test, None)

    def visit_With(self, node: cst.With) -> None:
        for item in node.items:
            self._record(item, None)

    def _record(self, node: cst.CSTNode, name: str | None) -> None:
        place = self.get_metadata(PositionProvider, node)
        statement = Statement(place.start.line, place.end.line, name)
        for line in range(statement.first_line, statement.last_line + 1):
            self.statements[line] = statement

    def _target(self, node: cst.FunctionDef) -> Target:
        place = self.get_metadata(PositionProvider, node.name)
        whole = self.get_metadata(PositionProvider, node)
        parameters = []
        listed = node.params
        for parameter in (*listed.posonly_params, *listed.params):
            parameters.append((parameter, "positional"))
        if isinstance(listed.star_arg, cst.Param):
            parameters.append((listed.star_arg, "*"))
        parameters += [(parameter, "keyword") for parameter in listed.kwonly_params]
        if listed.star_kwarg is not None:
            parameters.append((listed.star_kwarg, "**"))
        places = [self.get_metadata(PositionProvider, parameter.name) for parameter, _ in parameters]
        documented = _documented(node.get_docstring() or "", [parameter.name.value for parameter, _ in parameters])
        texts = []
        for position, (parameter, kind) in enumerate(parameters):
            # a comment speaks of the last parameter on its line
            last = self.get_metadata(PositionProvider, parameter).end.line
            shared = position + 1 < len(places) and places[position + 1].start.line == last
            start, end = places[position].start, places[position].end
            texts.append(
                ParameterText(
                    name=parameter.name.value,
                    annotation=None if parameter.annotation is None else _code(parameter.annotation.annotation),
                    default=None if parameter.default is None else _code(parameter.default),
                    comment=None if shared else self.comments.get(last),
                    line=start.line,
                    column=start.column + 1,
                    end_column=end.column + 1,
                    kind=kind,
                    documented=documented.get(parameter.name.value),
                )
            )
        return Target(
            name=node.name.value,
            line=place.start.line,
            column=place.start.column + 1,
            docstring=node.get_docstring(),
            parameters=tuple(texts),
            node=node,
            last_line=whole.end.line,
        )


def _documented(docstring: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of each parameter, from the name to the next one, in any of the usual styles.

    A name counts where a type or a colon follows: ``q: [B, S, D]``, ``q (Tensor): …``, ``:param q: …``, ``q : Tensor``.
    """
    listed = "|".join(map(re.escape, names)) or r"(?!)"
    opening = re.compile(rf"(?:^|(?<=[\s;,*`]))({listed})[*`]*\s*(\([^()\n]*\))?\s*:", re.MULTILINE)
    found = list(opening.finditer(docstring))
    ends = [*(match.start() for match in found[1:]), len(docstring)]
    texts: dict[str, str] = {}
    for match, end in zip(found, ends, strict=False):
        paragraph = f"{match.group(2) or ''} " + docstring[match.end() : end].split("\n\n")[0]
        texts.setdefault(match.group(1), " ".join(paragraph.split()))
    return texts


def _code(node: cst.CSTNode) -> str:
    return cst.Module(body=[]).code_for_node(node)


def _assigned(statement: cst.BaseSmallStatement) -> str | None:
    """The one plain name that a statement assigns: ``s = …``, ``s: Tensor = …``, ``s += …``."""
    if isinstance(statement, cst.Assign) and len(statement.targets) == 1:
        target = statement.targets[0].target
    elif isinstance(statement, (cst.AugAssign, cst.AnnAssign)):
        target = statement.target
    else:
        return None
    return target.value if isinstance(target, cst.Name) else None
