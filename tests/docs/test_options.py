# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The options in the pages are those of the programs, and the other way round."""

import functools
import importlib
import re
from pathlib import Path

import espnet2.bin.pack
import pytest
from espnet2.tasks.asr import ASRTask
from pages import GUIDES, PAGES, ROOT, Page, list_files

from espnet_reuse.bin import asr_inference_ctc

OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")
# Where each option of a command stands.
HOMES = {
    "compare": "docs/recipes.md",
    "analyze": "docs/analysis.md",
    "convert": "docs/convert.md",
    "export": "docs/serve.md",
    "transcribe": "docs/serve.md",
    "benchmark": "docs/speed.md",
}
WITH_OPTIONS = [
    page for page in PAGES if page in GUIDES or page.name.startswith("egs2/")
]
# Of other programs.
OTHERS = {
    "pip": {"dry-run"},
    "sbatch": {"cpus-per-task", "export", "ntasks-per-node", "time"},
}


def options_in(page: Page) -> set[str]:
    """Return the options in the page's code, with ESPnet's underscores."""
    code = [block.code for block in page.blocks if block.language == "sh"]
    code += [span.content for span in page.spans("code_inline")]
    return {x.replace("-", "_") for text in code for x in OPTION.findall(text)}


def help_of(command: str, capsys) -> set[str]:
    """Return the options that a command's help describes."""
    program = importlib.import_module(f"espnet_reuse.bin.{command}")
    with pytest.raises(SystemExit) as stopped:
        program.main(["--help"])
    assert not stopped.value.code
    lines = capsys.readouterr().out
    return set(re.findall(r"^ +(?:-\w, )?--(\w+)", lines, re.M)) - {"help"}


@functools.cache
def known_elsewhere() -> frozenset[str]:
    """Return the options of ESPnet, of the scripts here and of other programs."""
    parsers = ASRTask.get_parser(), asr_inference_ctc.get_parser()
    known = {x for parser in parsers for x in parser._option_string_actions}
    # what stands before parse_options.sh is an option
    asr = (ROOT / "egs2/TEMPLATE/asr1/asr.sh").read_text("utf-8")
    known |= set(re.findall(r"^(\w+)=", asr.split("parse_options.sh")[0], re.M))
    scripts = [Path(espnet2.bin.pack.__file__)]
    for name in list_files():
        if re.match(r"(egs\d/.+|local/.+|tools/.+|docs/.+|run_tests)\.(sh|py)", name):
            scripts.append(ROOT / name)
    known = known.union(*(OPTION.findall(x.read_text("utf-8")) for x in scripts))
    known = known.union(*OTHERS.values())
    return frozenset(x.removeprefix("--").replace("-", "_") for x in known)


@pytest.mark.parametrize("page", WITH_OPTIONS, ids=str)
def test_a_program_has_each_option_in_the_page(page, capsys):
    known = known_elsewhere().union(*(help_of(name, capsys) for name in HOMES))
    assert options_in(page) - known == set()


@pytest.mark.parametrize("command, home", HOMES.items())
def test_the_page_has_each_option_of_the_command(command, home, capsys):
    options = help_of(command, capsys)
    assert len(options) > 2
    assert options - options_in(Page(home)) == set()


@pytest.mark.parametrize("text", ["`a --nosuch 1`", "```sh\na --nosuch=1\n```"])
def test_an_option_that_no_program_has_is_found(text):
    assert options_in(Page("README.md", text)) - known_elsewhere() == {"nosuch"}
