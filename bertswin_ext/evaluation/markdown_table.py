"""Tables of scores in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["HEADINGS", "markdown_table", "score_cell"]

HEADINGS = {"dice": "Dice", "hd95_mm": "HD95 in mm", "assd_mm": "ASSD in mm"}
"""The scores as a reader knows them."""

_DIGITS = {"dice": 4, "hd95_mm": 2, "assd_mm": 2}


def score_cell(score: str, value: float | None) -> str:
    """A score with as many digits as make sense, or a dash where nothing counted.

    Example:
        >>> score_cell("dice", 0.98765), score_cell("hd95_mm", 0.4), score_cell("dice", None)
        ('0.9877', '0.40', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.{_DIGITS[score]}f}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    r"""The lines of a table.

    Args:
        head: names of the columns.
        rows: cells, as many as there are columns.

    Example:
        >>> markdown_table(["a", "b"], [["1", "x|y"]])
        ['| a | b |', '|---|---|', '| 1 | x\\|y |']
    """
    lines = [_line(head), "|" + len(head) * "---|"]
    return lines + [_line(row) for row in rows]


def _line(cells: Sequence[str]) -> str:
    """One line of a table; a bar in a cell does not end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
