"""Links of pages that are written for the repository: made to work where the site shows them."""

from __future__ import annotations

import re
from os.path import relpath
from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["pages_of_files", "setup", "with_site_links"]

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def pages_of_files(repository: Path) -> dict[Path, Path]:
    """Files outside the documentation that are included by one of its pages, and that page."""
    docs = repository / "docs"
    cards = sorted((repository / "bundles").glob("*/docs/README.md"))
    pages = {card: docs / "bundles" / f"{card.parents[1].name}.md" for card in cards}
    return pages | {repository / "README.md": docs / "index.md"}


def with_site_links(text: str, source: Path, page: Path, pages: dict[Path, Path]) -> str:
    """Turn the links of a Markdown file into links from the page that shows it.

    A link to a file that a page includes leads to that page, one to a folder becomes plain words. What is no path of an
    existing file or folder is left alone.

    Args:
        text: Markdown of ``source``.
        source: the file that the links are relative to.
        page: the page that shows the text, maybe ``source`` itself.
        pages: see `pages_of_files`.

    Returns:
        The text with other links.
    """

    def changed(link: re.Match[str]) -> str:
        words, target, anchor = link[1], source.parent / link[2], link[3] or ""
        if not target.exists():
            return link[0]
        if target.is_dir():
            return words
        target = pages.get(target.resolve(), target.resolve())
        return f"[{words}]({relpath(target, page.parent)}{anchor})"

    return _LINK.sub(changed, text)


def _page(app: Sphinx, name: str) -> Path:
    return Path(app.env.doc2path(name)).resolve()


def _on_page(app: Sphinx, name: str, content: list[str]) -> None:
    page = _page(app, name)
    if page.suffix == ".md":
        content[0] = with_site_links(content[0], page, page, pages_of_files(app.srcdir.parent))


def _on_include(app: Sphinx, path: Path, _: str, content: list[str]) -> None:
    source = (app.srcdir / path).resolve()
    page = _page(app, app.env.current_document.docname)
    content[0] = with_site_links(content[0], source, page, pages_of_files(app.srcdir.parent))


def setup(app: Sphinx) -> dict[str, bool]:
    """Change links when a page, or a file that it includes, is read."""
    app.connect("source-read", _on_page)
    app.connect("include-read", _on_include)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
