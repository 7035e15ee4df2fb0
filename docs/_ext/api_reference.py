"""The directive ``api-reference``: everything that a package exports, from its ``__all__``."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from docstring_markup import as_markup
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

__all__ = ["ApiReference", "exports", "reference_of", "setup"]


def exports(package: ModuleType) -> list[str]:
    """Exported names: classes first, then functions, then values."""
    names = getattr(package, "__all__", [])
    return sorted(names, key=lambda name: (_rank(getattr(package, name)), name.lower()))


def _rank(thing: object) -> int:
    return 0 if inspect.isclass(thing) else 1 if callable(thing) else 2


def reference_of(package: ModuleType) -> list[str]:
    """The lines of reStructuredText about a package."""
    names = exports(package)
    about = inspect.cleandoc(package.__doc__ or "").split("\n\n")[0]
    lines = [f".. py:module:: {package.__name__}", "", *as_markup(about.splitlines()), ""]
    if not names:
        return lines
    lines += [".. list-table::", "   :widths: auto", ""]
    for name in names:
        lines += [f"   * - :py:obj:`{name} <{package.__name__}.{name}>`", f"     - {_first_sentence(package, name)}"]
    lines.append("")
    for name in names:
        lines += _entry(package, name)
    return lines


def _entry(package: ModuleType, name: str) -> list[str]:
    thing, full = getattr(package, name), f"{package.__name__}.{name}"
    if inspect.isclass(thing):
        bases = [] if thing.__bases__ == (object,) else ["   :show-inheritance:"]
        return [f".. autoclass:: {full}", "   :members:", *bases, ""]
    if callable(thing):
        return [f".. autofunction:: {full}", ""]
    # the entry stands in the package, its comment in the module that defines it
    comment = [f"   {line}" for line in as_markup(_comment(package, name).splitlines())]
    return [f".. py:data:: {name}", f"   :value: {_value(thing)}", "", *comment, ""]


def _first_sentence(package: ModuleType, name: str) -> str:
    thing = getattr(package, name)
    documented = inspect.isclass(thing) or callable(thing)
    text = inspect.getdoc(thing) if documented else _comment(package, name)
    words = " ".join((text or "").split("\n\n")[0].split())
    return as_markup([re.split(r"(?<=\.)\s+(?=[A-Z])", words)[0].removesuffix(":")])[0]


def _value(thing: Any) -> str:
    text = repr(thing).removeprefix("mappingproxy(")
    return text.removesuffix(")") if text != repr(thing) else text


def _comment(package: ModuleType, name: str) -> str:
    """The text below a constant, in the module that defines it."""
    for module in _imported_from(package, name):
        found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
        if found:
            return "\n".join(found).strip()
    return ""


def _imported_from(package: ModuleType, name: str) -> list[str]:
    source = inspect.getsource(package)
    blocks = re.findall(r"^from (\S+) import (\([^)]*\)|.*)$", source, flags=re.MULTILINE)
    return [module for module, names in blocks if re.search(rf"\b{name}\b", names)]


class ApiReference(SphinxDirective):
    """Everything that a package exports; its argument is the package's name below ``bertswin_ext``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A table of all names, then each of them."""
        package = importlib.import_module(f"bertswin_ext.{self.arguments[0]}")
        self.env.note_dependency(inspect.getfile(package))
        text = "\n".join(["```{eval-rst}", *reference_of(package), "```"])
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("api-reference", ApiReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
