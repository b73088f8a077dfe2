# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The program espnet-reuse: which commands it has, and how it starts them."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from espnet_reuse.bin.__main__ import COMMANDS, find_clone, main

ROOT = Path(__file__).parents[2]


def run(*argv, cwd=ROOT, python=sys.executable, **environ):
    """Run the program; return its status, output and errors."""
    result = subprocess.run(
        [python, "-m", "espnet_reuse.bin", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stdout, result.stderr


def test_help_has_a_line_for_each_command_and_imports_no_torch(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["espnet-reuse", "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert sum(line.startswith(f"    {name} ") for line in shown.splitlines()) == 1
    code = "import sys; from espnet_reuse.bin.__main__ import get_parser; get_parser()"
    code += "; print({'torch', 'espnet2.tasks', 'matplotlib'} & set(sys.modules))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert printed == "set()\n"


def test_there_is_a_command_for_each_program_of_the_package():
    files = {path.stem for path in (ROOT / "espnet_reuse/bin").glob("[a-z]*.py")}
    # the program that asr.sh runs is named as ESPnet's
    assert files == {*COMMANDS, "parser", "asr_inference_ctc"}


def test_it_is_the_programs_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["scripts"].items()
    assert name == "espnet-reuse" and EntryPoint(name, value, "").load() is main


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "espnet-reuse: error: the following arguments are required: COMMAND"),
        (["train"], "espnet-reuse: error: argument COMMAND: invalid choice: 'train' ("),
        (["export"], "espnet-reuse export: error: the following arguments are req"),
        (["benchmark", "--batch", "0"], "espnet-reuse benchmark: error: argument --b"),
    ],
)
def test_an_error_begins_with_what_was_typed(argv, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/bin/espnet-reuse", *argv])
    with pytest.raises(SystemExit) as exit_:
        main()
    error = capsys.readouterr().err
    assert (
        exit_.value.code == 2 and error.startswith(message) and error.count("\n") == 1
    )


def test_compare_is_the_run_sh_of_the_clone_where_one_is(tmp_path):
    clone = tmp_path / "clone"
    (clone / "egs2/mini_an4/asr1").mkdir(parents=True)
    for script in (clone / "egs2/mini_an4/asr1/run.sh", clone / "run.sh"):
        script.write_text('#!/bin/sh\necho "$0" "$#" "$2"\nexit 3\n')
        script.chmod(0o755)
    words = ("compare", "--models", "baseline reuse2")
    expected = (3, f"{clone}/run.sh 2 baseline reuse2\n", "")
    assert run(*words, cwd=clone) == expected
    assert run(*words, cwd=tmp_path, ESPNET_REUSE_ROOT=str(clone)) == expected
    _, output, _ = run("compare", "--help", cwd=tmp_path)
    assert output.startswith("Train, decode, score and compare models")


def test_compare_without_a_clone_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPNET_REUSE_ROOT", raising=False)
    monkeypatch.setattr("espnet_reuse.bin.__main__.__file__", str(tmp_path / "a/b/c"))
    assert find_clone() is None
    monkeypatch.setattr(sys, "argv", ["espnet-reuse", "compare", "--stage", "1"])
    with pytest.raises(SystemExit) as exit_:
        main()
    line = exit_.value.code
    assert line.startswith(
        "espnet-reuse compare: error: there are no recipes here: run"
    )
    monkeypatch.setattr(sys, "argv", ["espnet-reuse", "compare", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "Usage: ./run.sh" in capsys.readouterr().out
