# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The Markdown pages of this repository: their code, links, headings and words."""

import collections
import re
import subprocess
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Iterator, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
PARSER = MarkdownIt("commonmark").enable("table")


def list_files() -> list[str]:
    """Return the repository's files, also new ones that git does not have yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    return sorted(name for name in names if (ROOT / name).is_file())


class Block(NamedTuple):
    """A block of code between fences."""

    page: str
    line: int  # of the opening fence, from 1
    language: str
    code: str
    reason: str | None  # why it is not run, if its page says so

    def __str__(self):
        return f"{self.page}:{self.line}-{self.language}"


class _Tags(HTMLParser):
    """The links and anchors in HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.links, self.anchors = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            elif name == "srcset":
                self.links += [part.split()[0] for part in (value or "").split(",")]
            elif name in ("id", "name"):
                self.anchors.append(value)


class Page:
    """A page, read when it is first asked for something."""

    def __init__(self, name: str, text: str | None = None):
        self.name = name
        self.text = (ROOT / name).read_text("utf-8") if text is None else text

    def __str__(self):
        return self.name

    @cached_property
    def tokens(self) -> list[Token]:
        """The page's elements, as markdown-it gives them."""
        return PARSER.parse(self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """The blocks of code, in order."""
        blocks, above = [], None
        for token in self.tokens:
            if token.type == "fence":
                mark = above and NOT_RUN.fullmatch(above.content.strip())
                reason = mark[1] if mark and above.map[1] == token.map[0] else None
                line, language = token.map[0] + 1, token.info.strip()
                blocks.append(Block(self.name, line, language, token.content, reason))
            above = token if token.type == "html_block" else None
        return blocks

    def spans(self, *kinds: str) -> Iterator[Token]:
        """Yield the elements of these kinds within lines."""
        for token in self.tokens:
            yield from (child for child in token.children or () if child.type in kinds)

    @cached_property
    def html(self) -> _Tags:
        """The links and anchors of the page's HTML."""
        blocks = [token for token in self.tokens if token.type == "html_block"]
        parts = [*blocks, *self.spans("html_inline")]
        return _Tags("\n".join(part.content for part in parts))

    @cached_property
    def links(self) -> list[str]:
        """Where links and pictures point, with those of MyST's toctree."""
        spans = self.spans("link_open", "image")
        links = [str(span.attrs.get("href", span.attrs.get("src"))) for span in spans]
        for block in self.blocks:
            if block.language == "{toctree}":
                lines = block.code.splitlines()
                names = [x for x in lines if re.match(r"[^:*]+$", x)]
                links += [re.sub(r".*<(.*)>", r"\1", name) for name in names]
        return links + self.html.links

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors that GitHub gives the headings, and those in HTML."""
        anchors, seen = set(self.html.anchors), collections.Counter()
        for opened, token in zip(self.tokens, self.tokens[1:], strict=False):
            if opened.type != "heading_open":
                continue
            text = re.sub(r"[^\w\- ]", "", words_of(token).lower().strip())
            slug = text.replace(" ", "-")
            anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return anchors

    @property
    def prose(self) -> list[str]:
        """The text of each paragraph, heading, item and cell, without HTML."""
        return [words_of(token) for token in self.tokens if token.type == "inline"]


def words_of(token: Token) -> str:
    """Return the text that a reader sees of an element, in one line."""
    kinds = {"softbreak": " ", "hardbreak": " "}
    seen = ("text", "code_inline", "image", "text_special")
    return "".join(
        child.content if child.type in seen else kinds.get(child.type, "")
        for child in token.children or ()
    )


PAGES = [Page(name) for name in list_files() if name.endswith(".md")]
# Pages whose code is run, and whose options and form are checked.
GUIDES = [
    page
    for page in PAGES
    if page.name == "README.md" or re.fullmatch(r"docs/\w+\.md", page.name)
]
# What is written by hand of ours, without what commands write.
WRITTEN = [
    page
    for page in PAGES
    if page in GUIDES
    or page.name in ("RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")
    or page.name.startswith(("results/", "egs2/", "egs3/"))
    and page.name.endswith("/README.md")
]
