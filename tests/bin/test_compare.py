# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The command line of ./run.sh, before anything is installed or planned."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_reuse.bin import compare
from espnet_reuse.comparison.driver import format_command

PROGRAM = Path(compare.__file__)


def run(*argv):
    """Run the file by its path, as run.sh does; -I -S: without installed packages."""
    return subprocess.run(
        [sys.executable, "-I", "-S", PROGRAM, *argv], capture_output=True, text=True
    )


def test_help_lists_every_option_with_its_default_before_anything_is_installed():
    shown = run("--help").stdout
    assert set(re.findall(r"^    --(\w+)  ", shown, re.M)) == set(compare.OPTIONS)
    assert 'default="baseline reuse2 reuse3"' in shown and not re.search(
        r"{\w+}", shown
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ("--stage 8", "--stage: '8' is not a whole number from 0 to 7"),
        ("--stop_stage x", "--stop_stage: 'x' is not a whole number from 0 to 7"),
        ("--stage 2 --stop_stage 1", "--stage: 2 comes after --stop_stage 1"),
        ("--nj 0", "--nj: '0' is not a whole number from 1 to 10000"),
        ("--jobs two", "--jobs: 'two' is not a whole number from 1 to 10000"),
        ("--ngpu -1", "--ngpu: '-1' is not a whole number from 0 to 10000"),
        ("--resume maybe", "--resume: 'maybe' is not true or false"),
        (
            "--seeds '1 two'",
            "--seeds: 'two' is not a whole number from 0 to 4294967295",
        ),
        ("--seeds '1 1'", "--seeds: '1' is there more than once"),
        (
            "--models 'baseline baseline'",
            "--models: 'baseline' is there more than once",
        ),
        ("--models ' '", "--models: name at least one model"),
        ("--stage", "--stage needs a value"),
        ("go", "unexpected argument 'go'"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(options, message):
    result = run(*shlex.split(options))
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith(f"run.sh: error: {message}")
    assert result.stderr.count("\n") == 1


def test_line_breaks_become_blanks_and_letters_of_any_language_stay():
    options, others = compare.read_options(
        ["--models", "baseline\n\treuse2", "--results", "結果\u3000二"]
    )
    assert options.models == ["baseline", "reuse2"]
    assert options.results == "結果\u3000二"


def test_values_may_begin_with_dashes_and_options_be_written_with_them():
    options, others = compare.read_options(
        shlex.split("--asr-args '--max_epoch 2' --seeds '1 2' --nbpe 30 --stage 7")
    )
    assert options.asr_args == "--max_epoch 2" and options.seeds == [1, 2]
    assert others == {"nbpe": "30"} and options.stop_stage == 7


def test_a_published_command_names_no_folders():
    argv = shlex.split(
        "--data corpus --librispeech /a/b --lm-train-text x/y --results results/z "
        "--inference_config conf/x.yaml --asr_args '--init_param a/b.pth --max_epoch 3'"
    )
    assert format_command(argv, published=True) == (
        "./run.sh --data DIR --librispeech DIR --lm-train-text DIR --results results/z "
        "--inference_config conf/x.yaml --asr_args '--init_param DIR --max_epoch 3'"
    )
    assert "/a/b" in format_command(argv, published=False)
