"""How `make docs` makes the site: from the pages here, the docstrings and the parser, without network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nbclient import NotebookClient

from i2am import __version__

_here = Path(__file__).parent
sys.path.insert(0, str(_here / "extensions"))
# Nothing is fetched, not even by what a page runs.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
# Notebooks call `i2am` by its name. Their small models gain nothing from a second thread, and several
# threads wait for each other where another build shares the machine.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["OMP_NUM_THREADS"] = "1"

project = "i2am"
author = "The i2am developers"
release = version = __version__
language = "en"
# Without a date: the same sources give the same site.
project_copyright = author

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "command_pages",
    "mathml",
    "repository_pages",
    "store_pages",
]
exclude_patterns = ["assets", "extensions", "**/_*.md", "**/.ipynb_checkpoints"]
templates_path = ["assets/templates"]
# What is in single backticks in a docstring is a link where it names something of the reference.
default_role = "py:obj"

# Markdown; a heading's anchor is the one that it has on GitHub.
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
# A page that is a notebook runs while the site is built, and ends the build when a cell fails.
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# What a page's code writes is not left among the pages.
nb_execution_in_temp = True
# What a command prints comes in pieces of a hundred characters; they are joined as they were printed.
NotebookClient.coalesce_streams = True  # type: ignore[assignment] # for a trait
nb_merge_streams = True
# Widgets would come from a host.
nb_ipywidgets_js: dict[str, str] = {}

# What is in the repository for its readers, and on the site for others.
repository_pages = {
    "explanation/generated/contributing": "CONTRIBUTING.md",
    "gallery/generated/tiny-model": "capture/i2am-tiny/README.md",
    "gallery/generated/tiny-model-recipe": "examples/tiny_model/README.md",
    "reference/generated/changelog": "CHANGELOG.md",
    "reference/generated/security": "SECURITY.md",
    "reference/generated/benchmarks": "benchmarks/README.md",
    **{
        f"reference/generated/benchmarks-{page.stem}": f"benchmarks/results/{page.name}"
        for page in sorted((_here.parent / "benchmarks" / "results").glob("*.md"))
    },
}

# The reference from the docstrings: types are told there, with dims and units.
autosummary_generate = [
    page.relative_to(_here).as_posix()
    for page in sorted((_here / "reference" / "api").glob("*.md"))
]
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Members of our own base classes, none of those that Python and pydantic give.
autodoc_default_options = {
    "exclude-members": "model_config",
    "inherited-members": "Mapping,BaseModel,BaseException,tuple,object",
}
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = "i2am"
html_math_renderer = "mathml"
html_static_path = ["assets/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "search_bar_text": "Search …",
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_sidebars: dict[str, list[str]] = {"index": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
