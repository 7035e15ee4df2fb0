"""The directive ``command-reference``: each command of ``python -m bertswin_ext``, from its signature and docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from docutils import nodes
from markdown_text import code, table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

__all__ = ["CommandReference", "Docstring", "read_docstring", "reference_of", "setup"]

_HEADINGS = ("Args", "Returns", "Raises", "Example")
_RUN = "Run it as: "


@dataclass
class Docstring:
    """A docstring in Google's style.

    Attributes:
        paragraphs: what stands before the sections.
        sections: lines of each section, by heading, without its indentation.
    """

    paragraphs: list[str] = field(default_factory=list)
    sections: dict[str, list[str]] = field(default_factory=dict)

    def arguments(self) -> dict[str, str]:
        """Meaning by argument."""
        meanings: dict[str, str] = {}
        name = ""
        for line in self.sections.get("Args", []):
            found = re.match(r"(\w+): (.*)", line)
            name = found[1] if found else name
            meanings[name] = found[2] if found else f"{meanings[name]} {line.strip()}"
        return meanings

    def section(self, heading: str) -> str:
        """A section as one paragraph."""
        return " ".join(line.strip() for line in self.sections.get(heading, [])).strip()


def read_docstring(text: str) -> Docstring:
    """Take a docstring apart."""
    parsed, current, before = Docstring(), "", []
    for line in inspect.cleandoc(text).splitlines():
        if line.removesuffix(":") in _HEADINGS and line.endswith(":"):
            current = line.removesuffix(":")
            parsed.sections[current] = []
        elif not current:
            before.append(line)
        elif line.strip():
            parsed.sections[current].append(line[4:])
    parsed.paragraphs = [" ".join(p.split()) for p in "\n".join(before).split("\n\n") if p.strip()]
    return parsed


def reference_of(name: str, command: Callable[..., object]) -> list[str]:
    """The lines of Markdown about a command."""
    docstring = read_docstring(command.__doc__ or "")
    lines = [f"## {name}", ""]
    for paragraph in docstring.paragraphs:
        lines += _paragraph(paragraph)
    meanings = docstring.arguments()
    defaults = _defaults(command)
    rows = [[code(f"--{flag}"), value, _inline(meanings.get(flag, ""))] for flag, value in defaults.items()]
    lines += table(["flag", "default", "meaning"], rows)
    returned = _inline(docstring.section("Returns"))
    return [*lines, f"Prints: {returned[0].lower()}{returned[1:]}", ""] if returned else lines


def _paragraph(text: str) -> list[str]:
    if text.startswith(_RUN):
        return ["```bash", text.removeprefix(_RUN), "```", ""]
    return [_inline(text), ""]


def _inline(text: str) -> str:
    return text.replace("``", "`")


def _defaults(command: Callable[..., object]) -> dict[str, str]:
    """Flags and their defaults as a user types them; taken from the function itself, as autodoc changes signatures."""
    names = command.__code__.co_varnames[: command.__code__.co_argcount]
    values = command.__defaults__ or ()
    required = dict.fromkeys(names[: len(names) - len(values)], "required")
    given = zip(names[len(required) :], values, strict=True)
    return required | {name: "none" if value is None else code(str(value)) for name, value in given}


class CommandReference(SphinxDirective):
    """Every command, in the order of the alphabet."""

    def run(self) -> list[nodes.Node]:
        """Sections, one for each command."""
        from bertswin_ext.__main__ import COMMANDS

        for command in COMMANDS.values():
            self.env.note_dependency(inspect.getfile(command))
        lines = [line for name in sorted(COMMANDS) for line in reference_of(name, COMMANDS[name])]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
