"""How the documentation is built: ``make docs``. Nothing is fetched, while building or while reading."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from sepclr_med import __version__

project = "sepclr_med"
author = "The sepclr_med developers"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "code_names",
    "mathml",
    "program_pages",
    "repository_pages",
]
exclude_patterns = ["_build", "tutorials"]
templates_path = ["_templates"]
nitpicky = True
smartquotes = False  # -- is an option here, not a dash

myst_heading_anchors = 4
html_math_renderer = "mathml"

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*$",  # what tutorials share is no tutorial
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "write_computation_times": False,  # that page would fetch scripts
    "show_memory": False,
}

html_theme = "furo"
html_title = f"sepclr_med {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
