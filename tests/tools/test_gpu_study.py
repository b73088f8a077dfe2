# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""tools/gpu_study.sh: each part leaves its file, and the clock stops it."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/gpu_study.sh"
MEASURED = ["forward_batch16", "forward_batch1", "train_15s", "train_35s"]
PARTS = ["tests", *MEASURED, "compiled", "compiled_train"]


def study(script, *options, **environment):
    command = [script, "--device", "cpu", "--tiny", "true", *options]
    environment = os.environ | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def parts_of(output):
    """What became of each part."""
    lines = (output / "parts.txt").read_text().splitlines()
    return dict(line.rpartition(", after ")[0].split(": ", 1) for line in lines)


@pytest.fixture
def fake(tmp_path):
    """Runs the script with a python3 that is a shell script."""
    script = tmp_path / "tools/gpu_study.sh"
    script.parent.mkdir()
    shutil.copy(SCRIPT, script)

    def run(python, *options):
        program = tmp_path / "bin/python3"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{python}\n")
        program.chmod(0o755)
        path = f"{program.parent}:{os.environ['PATH']}"
        return study(script, "--output", tmp_path / "out", *options, PATH=path)

    return run


def test_a_part_that_fails_or_lasts_too_long_is_written_and_the_next_one_starts(
    fake, tmp_path
):
    python = 'case "$*" in *pytest\\ -q*) exit 3 ;; *--batch\\ 1*) sleep 60 ;; esac'
    ended = fake(f"{python}\necho ran", "--minutes", "1")
    assert ended.returncode == 1
    became = parts_of(tmp_path / "out")
    assert list(became) == PARTS
    assert became.pop("tests") == "failed: exit status 3, see tests.log"
    assert became.pop("forward_batch1") == "stopped: out of time"
    assert set(became.values()) == {"done"}
    assert (tmp_path / "out/compiled_train.log").read_text() == "ran\n"


@pytest.mark.parametrize(
    "python, options, message",
    [
        ("echo \"No module named 'torch'\" >&2; exit 1", [], "No module named 'torch'"),
        ("exit 0", ["--minutes", "0"], "--minutes 0: use a number from 1 on"),
        ("exit 0", ["--device", "gpu"], "--device gpu: use cuda or cpu"),
        ("exit 0", ["--tiny", "yes"], "--tiny yes: use true or false"),
        ("exit 0", ["--tiny"], "--tiny needs a value"),
        ("exit 0", ["--quick"], "there is no option '--quick': see"),
    ],
)
def test_what_stands_in_its_way_is_one_line(fake, python, options, message, tmp_path):
    ended = fake(python, *options)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"tools/gpu_study.sh: error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_on_a_cpu_each_part_leaves_its_file_and_the_clock_stops_it(tmp_path):
    began = time.monotonic()
    ended = study(SCRIPT, "--output", tmp_path, "--minutes", "3")
    assert time.monotonic() - began < 190, ended.stdout
    became = parts_of(tmp_path)
    assert list(became) == PARTS
    assert ended.returncode == any(text != "done" for text in became.values())
    assert {became[name] for name in ("tests", *MEASURED)} == {"done"}
    for name in MEASURED:
        results = json.loads((tmp_path / name / "benchmark.json").read_text())
        assert results["finished"]
        assert {row["status"] for row in results["measurements"]} == {"measured"}
        assert (tmp_path / name / "benchmark.md").exists()
        assert (tmp_path / f"{name}.log").read_text()
