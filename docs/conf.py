# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The site: python -m sphinx -W -b html -c docs . OUT, at the top of a clone.

The source folder is the repository's root, so that the pages' relative links work here
as on GitHub. Links to files that are no pages become downloads.
"""

import shutil
import tomllib
from pathlib import Path

project = "espnet-reuse"
author = "The espnet-reuse authors"
project_copyright = f"2026, {author}"
pyproject = Path(__file__).parents[1] / "pyproject.toml"
version = release = tomllib.loads(pyproject.read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    *("README.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("docs/**", "results/**/*.md", "egs[23]/*/*/README.md", "tools/upstream/*.md"),
]
# not searched: what is no page, and what ./run.sh makes
exclude_patterns = [".*", "docs/figures", "egs2/TEMPLATE", "egs[23]/*/*/[a-z]*"]
exclude_patterns += ["exp", "tests", "tools/espnet*"]
html_theme = "furo"
html_title = "espnet-reuse"

myst_heading_anchors = 4  # as GitHub's
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}


def name_module(app, what, name, obj, options, lines):
    """Put a module's name above its docstring."""
    if what == "module":
        lines[:0] = [f".. rubric:: {name}", "   :heading-level: 3", ""]


def complete(app, error):
    """Copy what the pages' <picture> elements name; lead from the top to the pages."""
    if error is not None or app.builder.name != "html":
        return
    for path in Path(app.srcdir).glob("docs/figures/*.[sp][vn]g"):
        target = app.outdir / path.relative_to(app.srcdir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    refresh = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
    (app.outdir / "index.html").write_text(refresh, encoding="utf-8")


def setup(app):
    """Connect the two."""
    app.connect("autodoc-process-docstring", name_module)
    app.connect("build-finished", complete)
