"""Pieces of Markdown that the generated pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["code", "row", "shortened", "split_row", "table", "tables_in"]

_LONGEST = 130


def shortened(text: str, longest: int = _LONGEST) -> str:
    """The text, or its beginning."""
    return text if len(text) <= longest else f"{text[: longest - 2].rstrip()} …"


def code(text: str) -> str:
    """A code span."""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def row(cells: Iterable[str]) -> str:
    """A row of a table; what would end a cell or the row is escaped."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, with an empty one after it."""
    return [row(header), "|" + "---|" * len(header), *map(row, rows), ""]


def split_row(line: str) -> list[str]:
    """The cells of a row."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    cells = inner.replace("\\|", "\0").split("|")
    return [cell.replace("\0", "|").strip() for cell in cells]


def tables_in(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text: rows of cells, the header first, without the line below it."""
    tables: list[list[list[str]]] = []
    is_inside = False
    for line in text.splitlines():
        is_row = line.startswith("|")
        if is_row and not is_inside:
            tables.append([])
        if is_row and set(line) - set("|-: "):
            tables[-1].append(split_row(line))
        is_inside = is_row
    return tables
