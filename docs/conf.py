"""Settings of the site: make docs."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
import made  # the file beside this one

project = "tsslbp"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "tsslbp"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_build/extra"]
html_copy_source = False
html_show_copyright = False
highlight_language = "none"  # equations and output are indented or plain
default_role = "code"
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 100
NO_PAGE = "|".join(
    [
        "functional|kernels|rules.get|utils.(fields|imports)",
        "network.(architecture|model_file|notation.parse)",
        "layers.(called|state_dicts)",
        "data.(audio|filters|found|readers|sample_values)",
        "training.(automatic|score|settings)",
    ]
)
nitpick_ignore_regex = [
    ("py:.*", r"(?!tsslbp\.[a-z]).*"),  # names of Python and PyTorch, and of types
    ("py:.*", rf"tsslbp.({NO_PAGE})(\..*)?"),
    ("py:.*", r"tsslbp\..*(\._\w+|\.T|Numbers)"),
]


def setup(app: Sphinx) -> None:
    made.make()
    app.connect("source-read", made.read)
    app.connect("doctree-read", made.values)
    app.connect("autodoc-process-docstring", made.equations, priority=400)  # before napoleon
