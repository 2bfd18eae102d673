"""How Sphinx builds the site: `make docs`. It reads only files of the repository, and the pages ask no other host."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_site"))

import ziamath

from metacontrast.version import __version__

project = "metacontrast"
copyright = "the metacontrast authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "extension"]
contents_pages = ["index", "start", "own-images", "meta-learning", "why-it-learns", "reproduction", "reference"]
exclude_patterns = ["_build", "_site", "conf.py"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 5
html_math_renderer = "mathml"
default_role = "py:obj"

autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "metacontrast"
html_static_path = ["_site/static", str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
}
