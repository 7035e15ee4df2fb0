"""The directive ``error-reference``: every message of the package, from its source, by module."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from docutils import nodes
from message_source import Message, messages_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

__all__ = ["ErrorReference", "setup"]


class ErrorReference(SphinxDirective):
    """Every message, by folder and file of the package."""

    def run(self) -> list[nodes.Node]:
        """Sections, one for each folder."""
        package = Path(self.config.repository) / "bertswin_ext"
        for path in package.rglob("*.py"):
            self.env.note_dependency(str(path))
        folders = groupby(messages_of(package).items(), key=lambda item: _folder(item[0]))
        # the modules beside the folders stand last
        by_folder = sorted(((folder, list(modules)) for folder, modules in folders), key=lambda f: (not f[0], f[0]))
        merged: dict[str, list[tuple[Path, list[Message]]]] = {}
        for folder, modules in by_folder:
            merged.setdefault(folder, []).extend(modules)
        return [_folder_section(folder or "shared modules", modules) for folder, modules in merged.items()]


def _folder(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else ""


def _section(title: nodes.title, name: str) -> nodes.section:
    section = nodes.section(ids=[nodes.make_id(f"messages {name}")], names=[])
    section += title
    return section


def _folder_section(name: str, modules: list[tuple[Path, list[Message]]]) -> nodes.section:
    section = _section(nodes.title(name, name), name)
    for path, messages in modules:
        title = nodes.title("", "", nodes.literal(str(path), str(path)))
        module = _section(title, str(path))
        module += nodes.bullet_list("", *map(_item, messages), bullet="-", classes=["messages"])
        section += module
    return section


def _item(message: Message) -> nodes.list_item:
    paragraph = nodes.paragraph()
    paragraph += nodes.strong(message.kind, message.kind)
    paragraph += nodes.Text(": ")
    for piece in message.pieces:
        paragraph += nodes.Text(piece.text) if piece.is_fixed else nodes.emphasis(piece.text, piece.text)
    paragraph += nodes.inline("", f" — {message.where or 'module'}", classes=["message-place"])
    return nodes.list_item("", paragraph)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("error-reference", ErrorReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
