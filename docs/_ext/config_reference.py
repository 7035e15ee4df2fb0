"""The directive ``config-reference``: all knobs and overlays of a bundle, from its JSON files and its model card."""

from __future__ import annotations

import re
from pathlib import Path

from bundle_configs import MISSING, Bundle, Config, Knob, plain
from docutils import nodes
from markdown_text import code, shortened, table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

__all__ = ["ConfigReference", "reference_of", "setup"]


def reference_of(bundle: Bundle) -> list[str]:
    """The lines of Markdown about a bundle's configurations."""
    return [line for program in bundle.programs for line in _program(bundle, program)]


def _program(bundle: Bundle, program: Config) -> list[str]:
    lines = [f"## {program.name}.json", "", _description(program), ""]
    lines += table(["knob", "default", "meaning"], map(_knob_row, bundle.knobs(program)))
    others = bundle.others(program)
    if others:
        lines += ["Computed from these, or set by overlays:", ""]
        lines += table(["name", "value"], ([code(k.name), _value(k.default)] for k in others))
    for overlay in bundle.overlays(program):
        lines += _overlay(bundle, program, overlay)
    return lines


def _knob_row(knob: Knob) -> list[str]:
    return [code(knob.name), _value(knob.default), knob.meaning or "see the model card"]


def _overlay(bundle: Bundle, program: Config, overlay: Config) -> list[str]:
    keys = [key for key in overlay.content if key != "_desc_"]
    rows = [[code(key), _before(program, key), _value(overlay.content[key])] for key in keys]
    heading = [f"### {overlay.name}.json", "", _description(overlay), ""]
    own = [knob for key in keys if (knob := _own(bundle, program, overlay, key))]
    if own:
        heading += ["Its own knobs:", "", *table(["knob", "default", "meaning"], map(_knob_row, own))]
    return [*heading, *table(["name", f"in {program.name}.json", "here"], rows)]


def _own(bundle: Bundle, program: Config, overlay: Config, key: str) -> Knob | None:
    """The knob that an overlay brings along."""
    if key in bundle.meanings and key not in program.content:
        return Knob(key, overlay.content[key], bundle.meanings[key])
    return None


def _before(program: Config, key: str) -> str:
    """What an overlay replaces or adds to."""
    if key.startswith("+"):
        return "added to it"
    value = program.value(key)
    return "not there" if value is MISSING else _value(value)


def _value(value: object) -> str:
    return code(shortened(plain(value)))


def _description(config: Config) -> str:
    """Its description, with the command as code; <scan> outside of code is no tag."""
    command = r"(?:python -m|torchrun)\b[^`]*?(?=\. [A-Z`]|\.?$)"
    parts = re.split(rf"(`[^`]*`|{command}|--config_file \"[^\"]*\")", config.description)
    is_code = [k % 2 == 1 for k in range(len(parts))]
    return "".join(
        code(part.strip("`")) if is_one else part.replace("<", "&lt;")
        for part, is_one in zip(parts, is_code, strict=True)
    )


class ConfigReference(SphinxDirective):
    """All knobs and overlays of a bundle; its argument is the name of the bundle's folder."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Sections, one for each program."""
        bundle = Bundle(Path(self.config.repository) / "bundles" / self.arguments[0])
        for path in [*bundle.paths, bundle.card]:
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(reference_of(bundle)), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("config-reference", ConfigReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
