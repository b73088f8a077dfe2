# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""local/data.sh of every recipe: its options and its help."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent for path in ROOT.glob("egs2/*/asr1/run.sh"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parts[-2])
def test_data_sh_takes_the_options_that_its_help_names_and_no_others(recipe):
    def ask(*options):
        command = ["local/data.sh", *options, "--help"]
        return subprocess.run(command, cwd=recipe, capture_output=True, text=True)

    _, written, _ = (recipe / "local/data.sh").read_text().split("EOH\n")
    printed = ask().stderr
    assert [line for line in written.splitlines()[1:] if "$" not in line] == [
        line for line in printed.splitlines()[1:] if "$" not in line
    ]
    options = re.findall(r"^ +--(\w+) ", printed, re.MULTILINE)
    assert options
    for option in options:
        assert ask(f"--{option}", "true").returncode == 0, option
    for option in ("asr_config", "no_such_option"):
        assert f"invalid option --{option}" in ask(f"--{option}", "true").stderr
