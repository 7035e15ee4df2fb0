"""The documentation site: ``python -m sphinx -W --keep-going -b html docs docs/_build``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "_ext"))

import bertswin_ext

project = "BertsWin Bundles"
author = "The BertsWin Bundles contributors"
copyright = f"{author}, Apache-2.0"
release = bertswin_ext.__version__
repository = str(Path(__file__).parents[1])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstring_markup",
    "repository_links",
    "api_reference",
    "command_reference",
    "config_reference",
    "error_reference",
]
exclude_patterns = ["_build", "_ext"]
# quotes in commands stay quotes
smartquotes = False
highlight_language = "none"

myst_heading_anchors = 4
myst_links_external_new_tab = False

# `name` in a docstring is a link where it names something here, and code otherwise
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"BertsWin Bundles {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"announcement": "Research only. Not a medical device."}


def setup(app):
    """Let the directives know where the repository is."""
    app.add_config_value("repository", repository, "env")
