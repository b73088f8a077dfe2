# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The site: it is built without a warning, and has all pages, modules and pictures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["*.md", "docs/**/*.md", "results/**/*.md", "egs?/*/*/README.md"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site; a page in no table of contents is a warning, too."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    result = subprocess.run(
        [*command, ".", str(site)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert result.returncode == 0, result.stderr
    return site


@pytest.mark.slow
def test_every_page_is_on_the_site(site):
    pages = {path.relative_to(ROOT) for pages in PAGES for path in ROOT.glob(pages)}
    assert Path("docs/index.md") in pages
    assert [
        p for p in sorted(pages) if not (site / p.with_suffix(".html")).exists()
    ] == []
    assert 'url=docs/index.html"' in (site / "index.html").read_text()


@pytest.mark.slow
def test_the_reference_has_every_module_and_the_encoders(site):
    page = (site / "docs/api.html").read_text()
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "espnet_reuse").rglob("[a-z]*.py")
        if path.parent.name != "bin"  # the commands have pages of their own
    }
    assert set(re.findall(r'id="module-([\w.]+)"', page)) == modules
    for family in ("Conformer", "Transformer", "Branchformer", "EBranchformer"):
        assert re.search(rf'id="espnet_reuse[\w.]+\.{family}ReuseEncoder"', page)


@pytest.mark.slow
def test_no_picture_of_the_site_is_missing(site):
    pictures = [
        page.parent / picture
        for page in site.rglob("*.html")
        for picture in re.findall(
            r'<(?:img|source) [^>]*src(?:set)?="(.*?)"', page.read_text()
        )
        if "://" not in picture
    ]
    assert [path for path in pictures if not path.is_file()] == []
    assert {".png", ".svg"} <= {path.suffix for path in pictures}
