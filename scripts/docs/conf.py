"""The site of the manual: `sphinx-build -c scripts/docs . build/site`, from the root of the repository.

The root is the source folder, so that links between the manual, the recipes and the other pages are the same in the
repository and on the site. What is generated is generated while the site is built (`generated.py`), and never saved.
"""

import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
sys.path[:0] = [str(_ROOT), str(_HERE)]

from generated import expand  # noqa: E402

from finetune import __version__  # noqa: E402

project = "finetune"
author = "the authors of finetune"
copyright = "the authors of finetune, Apache-2.0"
version = release = __version__
language = "en"

root_doc = "scripts/docs/index"
# Listed by name: the root has environments, runs and caches, which Sphinx would read file by file.
_PAGES = ("scripts", "recipes", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
exclude_patterns = ["README.md", *(place.name for place in _ROOT.iterdir() if place.name not in _PAGES)]
exclude_patterns += [
    place.relative_to(_ROOT).as_posix()
    for folder, kept in ((_ROOT / "scripts", ("docs", "deploy")), (_ROOT / "recipes", ()))
    for place in folder.iterdir()
    if not (place.name in kept or folder.name == "recipes")
]
include_patterns = ["*.md", "**/*.md"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
autoclass_content = "both"  # The arguments of a class are told by its __init__.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"  # Docstrings have `names` in single backticks.
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
pygments_style = "tango"
pygments_dark_style = "monokai"
highlight_language = "text"
# External links are checked by `sphinx-build -b linkcheck`, which needs a network.
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"https://huggingface\.co/USER/.*"]
linkcheck_timeout = 20

html_theme = "furo"
html_title = "finetune"
html_static_path = ["static"]
templates_path = ["templates"]
html_css_files = ["manual.css"]
html_js_files = ["versions.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False, "top_of_page_buttons": []}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_additional_pages = {"index": "redirect.html"}


def _generate(app: Any, page: str, source: list[str]) -> None:
    source[0] = expand(source[0], (_ROOT / page).parent)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
