"""Messages in the package's source: what is raised, what is logged as a warning, and sentences in these."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Message", "Piece", "messages_in", "messages_of"]

_SHORTEST_WORDS = 4
_WARNINGS = ("warning", "warn")
_LISTS = ("listed", "listed_under")
_FOR_FILES = ("markdown", "html")
_PERCENT = re.compile(r"%[-.\d]*[sdrgf]")


@dataclass(frozen=True)
class Piece:
    """A part of a message.

    Attributes:
        text: the words, or what is put in their place.
        is_fixed: False for what differs from one message to the next.
    """

    text: str
    is_fixed: bool = True


@dataclass(frozen=True)
class Message:
    """A message to the user.

    Attributes:
        kind: the exception's name, "warning", or "text" for a sentence that others, or what a command prints, contain.
        pieces: its text.
        where: function, with its class, that has it.
    """

    kind: str
    pieces: tuple[Piece, ...]
    where: str

    @property
    def text(self) -> str:
        """All in one."""
        return "".join(piece.text if piece.is_fixed else f"{{{piece.text}}}" for piece in self.pieces)

    @property
    def is_worth_it(self) -> bool:
        """Whether somebody could search for it."""
        fixed = " ".join(piece.text for piece in self.pieces if piece.is_fixed)
        return len([word for word in fixed.split() if word.strip("'\"`.,:;()").isalpha()]) >= _SHORTEST_WORDS


def messages_of(package: Path) -> dict[Path, list[Message]]:
    """Messages of every module of a package, by path relative to it."""
    found = {
        path.relative_to(package): messages_in(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }
    return {path: messages for path, messages in found.items() if messages}


def messages_in(source: str) -> list[Message]:
    """Messages of a module, each once, in the order of its source."""
    tree = ast.parse(source)
    found = _Finder(_constants(tree))
    found.visit(tree)
    unique = {(message.kind, message.text): message for message in found.messages if message.is_worth_it}
    return list(unique.values())


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Strings and numbers that a module gives names to."""
    assignments = [s for s in tree.body if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name)]
    plain = [s for s in assignments if isinstance(s.value, ast.JoinedStr | ast.Constant)]
    return {s.targets[0].id: s.value for s in plain if isinstance(s.targets[0], ast.Name)}


class _Finder(ast.NodeVisitor):
    """Walks through a module and keeps what users may see."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants
        self.messages: list[Message] = []
        self._inside: list[str] = []
        self._gives_reasons = False

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside.append(node.name)
        self.generic_visit(node)
        self._inside.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if any(word in node.name for word in _FOR_FILES):
            return
        before, self._gives_reasons = self._gives_reasons, _gives_reasons(node)
        self._inside.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._inside.pop()
        self._gives_reasons = before

    def visit_Assign(self, node: ast.Assign) -> None:
        # the named strings of a module are shown where they are used
        if self._inside or node.value not in self.constants.values():
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call) and node.exc.args:
            self._keep(ast.unparse(node.exc.func).rpartition(".")[2], node.exc.args[0])

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in _WARNINGS and node.args:
            self._keep("warning", node.args[0], _with_places)
        else:
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # no docstring
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._keep_reason(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._keep_reason(node)

    def _keep_reason(self, node: ast.expr) -> None:
        """Keep whole sentences, and what a function that says why returns or yields."""
        text = "".join(piece.text for piece in self._pieces(node)).strip()
        if text.endswith((".", "?")) or self._gives_reasons:
            self._keep("text", node)

    def _keep(self, kind: str, node: ast.expr, change: Callable[[Iterator[Piece]], Iterator[Piece]] = iter) -> None:
        self.messages.append(Message(kind, tuple(change(self._pieces(node))), ".".join(self._inside)))

    def _pieces(self, node: ast.expr) -> Iterator[Piece]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Piece(node.value)
        elif isinstance(node, ast.JoinedStr):
            for part in node.values:
                yield from self._pieces(part.value if isinstance(part, ast.FormattedValue) else part)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from self._pieces(node.left)
            yield from self._pieces(node.right)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _LISTS:
            yield from self._pieces(node.args[0])
            yield Piece("…", is_fixed=False)
        elif isinstance(node, ast.Name) and node.id in self.constants:
            yield from self._pieces(self.constants[node.id])
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield Piece(f"{node.value:g}")
        else:
            yield Piece(_word_for(node), is_fixed=False)


def _with_places(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces of a logged text, whose places are marked as %s."""
    for piece in pieces:
        first, *others = _PERCENT.split(piece.text) if piece.is_fixed else [piece.text]
        yield Piece(first, piece.is_fixed)
        for text in others:
            yield Piece("…", is_fixed=False)
            yield Piece(text)


def _gives_reasons(node: ast.FunctionDef) -> bool:
    """Whether a function returns a reason or nothing, or yields faults."""
    returns = ast.unparse(node.returns) if node.returns else ""
    return returns in ("str | None", "Iterator[str]", "list[str]") and bool(_says_so(node))


def _says_so(node: ast.FunctionDef) -> bool:
    words = f"{node.name} {ast.get_docstring(node) or ''}".lower()
    return any(word in words for word in ("why", "fault", "wrong", "problem", "unlike", "differ", "mismatch"))


def _word_for(node: ast.expr) -> str:
    """A short name for what stands in a place of a message."""
    match node:
        case ast.Call(func=ast.Name(id="map"), args=[_, things]):
            return _word_for(things)
        case ast.Call(args=[first, *_]):
            return _word_for(first)
        case ast.Call(func=ast.Attribute(value=thing)) | ast.GeneratorExp(generators=[ast.comprehension(iter=thing)]):
            return _word_for(thing)
        case ast.Attribute(attr="__name__", value=thing):
            return _word_for(thing)
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name.strip("_").lower()
        case ast.Subscript(value=thing):
            return _word_for(thing)
    return "…"
