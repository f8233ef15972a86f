"""Sphinx: `./test docs` builds the site into `build/docs` with warnings as errors and without network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from univfd import __version__  # noqa: E402

project = "UnivFD"
author = "The UnivFD authors"
copyright = "The UnivFD authors, Apache-2.0"
release = version = __version__

smartquotes = False  # they make one dash of the two in front of an option
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "generated",
]
exclude_patterns = ["_ext", "tutorials/*.py"]

html_theme = "furo"
html_title = f"UnivFD {__version__}"
html_show_sourcelink = False

myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist", "tasklist"]
highlight_language = "none"
copybutton_prompt_text = "$ "

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the annotations are in the signature
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
default_role = "code"  # docstrings put names in single backticks

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r".*"),
]
