"""Docstrings are written to be read in the source; signs that mean something in reStructuredText are made plain."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sphinx.application import Sphinx

__all__ = ["as_markup", "setup"]

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
# a star or two at the beginning of a word, as in (c, *size), that nothing closes
_STAR = re.compile(r"(?<![\\*\w])(\*{1,2})(?=[A-Za-z_])(?![^*]*\w\1(?!\w))")
_BAR = re.compile(r"(?<!\\)\|")
# "K." alone in a line or a field is a word, not the beginning of a list
_LETTER = re.compile(r"^(\s*(?::[^:]+: )?)(\w\.)$")
_SOURCE = re.compile(r"^(Source:)(?= )")


def as_markup(lines: Sequence[str]) -> list[str]:
    """The lines of a docstring with stars and bars as they stand, and the name of the paragraph on sources in bold.

    Args:
        lines: docstring, after napoleon.

    Returns:
        As many lines; code and examples are left alone.
    """
    changed, is_example = [], False
    for line in lines:
        is_example = line.lstrip().startswith(">>>") or (is_example and bool(line.strip()))
        changed.append(line if is_example else _escaped(line))
    return changed


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    # every second part is code
    words = [part if k % 2 else _BAR.sub(r"\\|", _STAR.sub(r"\\\1", part)) for k, part in enumerate(parts)]
    plain = "".join(words).replace("\\**", "\\*\\*")
    return _LETTER.sub(r"\1\\\2", _SOURCE.sub(r"**\1**", plain))


def _on_docstring(_: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    # what Python itself says about the fields of a named tuple tells nobody anything
    lines[:] = [] if lines and lines[0].startswith("Alias for field number") else as_markup(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Change every docstring, after napoleon."""
    app.connect("autodoc-process-docstring", _on_docstring, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
