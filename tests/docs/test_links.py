# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The form of the pages: links, pictures, beginnings, length, notation."""

import posixpath
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from pages import GUIDES, PAGES, WRITTEN, Page, list_files

FILES = set(list_files())
FOLDERS = {str(folder) for name in FILES for folder in PurePosixPath(name).parents}
ANCHORS = {page.name: page.anchors for page in PAGES}
DOCS = [page for page in GUIDES if page.name.startswith("docs/")]
README, INDEX = "README.md", "docs/index.md"

NOTATION = re.compile(
    r"""
    (?<![\w.])x\d+\.\d                           # x0.90
    | (?<![\w."“])\d+(\.\d+)?\ ?[x×](?![\w×])    # 1.33x; a quoted "1.96x" is another's
    | \bin\ (\d\.\d+\ to\ )?\d\.\d+\ of\ (the|its|it)\b    # in 0.78 of the time
    | \d\ ?%\ (faster|slower)
    """,
    re.VERBOSE,
)


def target_of(page: Page, link: str) -> tuple[str, str] | None:
    """Return the file and the anchor that a link names, None for another site's."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = posixpath.join(posixpath.dirname(page.name), unquote(parts.path))
    name = posixpath.normpath(path) if parts.path else page.name
    if page.name == INDEX and name not in FILES | FOLDERS:
        name += ".md"  # MyST's toctree names pages without it
    return name, parts.fragment


def find_dead_links(page: Page) -> list[str]:
    """Return the links to files or anchors that are not there."""
    dead = []
    for link in page.links:
        target = target_of(page, link)
        if target is None:
            continue
        name, anchor = target
        anchors = ANCHORS | {page.name: page.anchors}
        is_there = name in FILES | FOLDERS | anchors.keys()
        if not is_there or anchor and anchor not in anchors.get(name, ()):
            dead.append(link)
    return dead


def find_notation(page: Page) -> list[str]:
    """Return where speed is not written as times as fast."""
    code = [line for block in page.blocks for line in block.code.splitlines()]
    return [match[0] for x in [*page.prose, *code] for match in NOTATION.finditer(x)]


def begins_well(page: Page) -> bool:
    """Whether a title and a paragraph come first."""
    kinds = [token.type for token in page.tokens[:4]]
    return kinds[:1] + kinds[3:] == ["heading_open", "paragraph_open"] and (
        page.tokens[0].tag == "h1"
    )


def named(pages):
    return pytest.mark.parametrize("page", pages, ids=str)


@named(PAGES)
def test_every_link_and_picture_is_there(page):
    assert find_dead_links(page) == []


@named(WRITTEN)
def test_speed_is_written_as_times_as_fast(page):
    assert find_notation(page) == []


@named(DOCS)
def test_a_page_begins_with_a_title_and_a_paragraph(page):
    assert begins_well(page)


@pytest.mark.parametrize("name", [README, INDEX])
def test_every_page_of_docs_is_in_the_table_of_contents(name):
    page = Page(name)
    linked = {target[0] for x in page.links if (target := target_of(page, x))}
    assert {page.name for page in DOCS} - linked <= {INDEX, name}


def test_the_readme_is_read_in_ten_minutes():
    """Words are those of prose and tables, without code blocks and HTML."""
    readme = Page(README)
    words = [x for text in readme.prose for x in text.split() if re.search(r"\w", x)]
    assert len(readme.text.splitlines()) <= 200
    assert len(words) <= 1300


# ------------------------------ the checks themselves ------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[a](nosuch.md)",
        "[a](../README.md#nosuch)",
        "[a](#nosuch)",
        "[a](../tests/nosuch)",
        "[a]: nosuch.md\n\n[b][a]",
        "![a](nosuch.svg)",
        '<img alt="a" src="nosuch.svg">',
        'A <picture><source srcset="../LICENSE, nosuch.svg 2x"></picture>',
    ],
)
def test_a_dead_link_is_found(text):
    assert len(find_dead_links(Page("docs/page.md", text))) == 1


def test_links_that_are_alive_are_not_reported():
    text = "# One: `two`-three (4)\n\n# A\n\n# A\n\n<a id='b'></a> "
    text += "[1](#one-two-three-4) [2](#a-1) [3](#b) [4](../tests/docs) [5](../LICENSE)"
    assert find_dead_links(Page("docs/page.md", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "x0.90",
        "|1.33x|",
        "is 1.5 × as fast",
        "2x faster",
        "in 0.69 to 0.82 of the baseline's time",
        "is 33 % faster",
        "```text\nreuse2  x0.9\n```",
    ],
)
def test_another_notation_of_speed_is_found(text):
    assert find_notation(Page("README.md", text.replace("|", "\n")))


@pytest.mark.parametrize(
    "text",
    ['the paper\'s "1.96x"', "1.33 times as fast", "3x3", "conv2d6", "(T x T)", "0x1f"],
)
def test_other_numbers_are_not_reported(text):
    assert find_notation(Page("README.md", text)) == []


@pytest.mark.parametrize("text", ["A\n\n# B", "# A\n\n## B\n\nC", "## A\n\nB", ""])
def test_a_page_that_begins_otherwise_is_found(text):
    assert not begins_well(Page("docs/page.md", text))
