# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The blocks of code in the pages: those of README.md and docs/ are run.

A block that cannot be run here has a line above its fence, such as
`<!-- not run: needs a GPU -->`. It is parsed, as are the blocks of all other pages.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import GUIDES, NOT_RUN, PAGES, ROOT, Block, Page

BLOCKS = [block for page in PAGES for block in page.blocks]
COMMANDS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
}
RUN = [
    block
    for page in GUIDES
    for block in page.blocks
    if block.language in COMMANDS and block.reason is None
]
SECONDS = 300  # of a block, on a machine that does other things, too


def parse(block: Block) -> None:
    """Raise an error if the code is not of its language."""
    if block.language == "sh":
        command = ["bash", "-n", "-c", block.code]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SyntaxError(done.stderr)
    elif block.language == "python":
        ast.parse(block.code)
    elif block.language == "yaml":
        # a line of dots alone stands for the rest
        code = re.sub(r"(?m)^ *\.\.\.( *#.*)?$", "", block.code)
        list(yaml.safe_load_all(code))
    elif block.language not in ("text", "bibtex", "json", "{toctree}", "{eval-rst}"):
        raise ValueError(f"no language {block.language!r}")


def count_marks_astray(page: Page) -> int:
    """Return how many marks `not run` do not stand right above a block."""
    used = [block for block in page.blocks if block.reason]
    return len(NOT_RUN.findall(page.text)) - len(used)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_of_its_language(block):
    parse(block)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_mark_stands_right_above_a_block(page):
    assert count_marks_astray(page) == 0


def changes_environment(block: Block) -> bool:
    """Whether it installs into the environment of these tests, or runs them."""
    return bool(re.search(r"pip3? install|git clone|run_tests\.sh", block.code))


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_that_is_run_leaves_the_environment_alone(block):
    assert not changes_environment(block)


@pytest.fixture(scope="module")
def clone(compared, tmp_path_factory):
    """A copy of the repository whose ./run.sh has ended, that blocks may write into."""
    root = tmp_path_factory.mktemp("clone") / "espnet-reuse"
    shutil.copytree(compared.root, root, symlinks=True)
    for name in ("docs", "results"):
        if (root / name).is_symlink():
            (root / name).unlink()
        shutil.copytree(ROOT / name, root / name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block, clone):
    assert not changes_environment(block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*COMMANDS[block.language], block.code],
        cwd=clone,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout


# ------------------------------ the checks themselves ------------------------------


@pytest.mark.parametrize(
    "language, code",
    [
        ("sh", "if true; then"),
        ("python", "def f(:"),
        ("yaml", "a: [1"),
        ("yaml", "a: 1\n  ...\n b: c: 2"),
        ("", "text"),
        ("bash", "true"),
    ],
)
def test_code_that_is_wrong_is_found(language, code):
    (block,) = Page("README.md", f"```{language}\n{code}\n```\n").blocks
    with pytest.raises((SyntaxError, yaml.YAMLError, ValueError)):
        parse(block)


def test_only_the_line_right_above_a_block_marks_it():
    mark, block = "<!-- not run: needs a GPU -->", "```sh\ntrue\n```"
    text = f"{mark}\n{block}\n\n{block}\n\n- a\n\n  {mark}\n  ```sh\n  true\n  ```\n"
    page = Page("README.md", text)
    assert [block.reason for block in page.blocks] == ["needs a GPU", None] + [
        "needs a GPU"
    ]
    assert [block.line for block in page.blocks] == [2, 6, 13]
    assert count_marks_astray(page) == 0
    for wrong in (f"{mark}\n\n{block}", f"{mark}\n\nA\n{block}", f"{mark} a\n{block}"):
        page = Page("README.md", wrong)
        assert page.blocks[0].reason is None and count_marks_astray(page) == 1
