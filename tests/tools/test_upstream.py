# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The patches for ESPnet: what they are made of, what they claim, and their check."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import espnet2.tasks.asr
import espnet2.tasks.st
import pytest
from espnet2.train.class_choices import ClassChoices

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ROOT / "tools/upstream"
MAKE, CHECK = UPSTREAM / "make_patches.sh", UPSTREAM / "check_patches.sh"
sys.path.insert(0, str(UPSTREAM))

import make_patches  # noqa: E402


def run(*command, **kwargs):
    command = list(map(str, command))
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


@pytest.fixture
def folder(tmp_path):
    """Trees and patches that are refused, by name."""

    def espnet(name, version):
        (tmp_path / name / "espnet2/tasks").mkdir(parents=True)
        (tmp_path / name / "espnet2/tasks/asr.py").touch()
        (tmp_path / name / "version.txt").write_text(f"{version}\n")
        return tmp_path / name

    (tmp_path / "empty").mkdir()
    espnet("later", 209901)
    dirty = espnet("dirty", make_patches.VERSION)
    assert run("git", "init", "-q", dirty).returncode == 0
    (tmp_path / "patches").mkdir()
    for number in (1, 2, 3):
        (tmp_path / f"patches/000{number}-x.patch").touch()
    return tmp_path


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        (MAKE, "", "--output_dir is missing"),
        (MAKE, "--output_dir", "--output_dir needs a value"),
        (MAKE, "--output_dir empty", "--output_dir: empty is there already"),
        (MAKE, "--outputdir out", "--outputdir is not an option"),
        (MAKE, "out", "out is not an option"),
        (MAKE, "--output_dir out --espnet_root empty", "empty is not ESPnet"),
        (MAKE, "--output_dir out --espnet_root later", "209901, which was never tried"),
        (MAKE, "--output_dir out --espnet_root dirty", "has 2 changed or untracked"),
        (CHECK, "", "it takes one PATCH_DIR, not 0"),
        (CHECK, "empty", "PATCH_DIR: empty does not have three patches"),
        (CHECK, "patches empty", "it takes one PATCH_DIR, not 2"),
        (CHECK, "patches --every 0", "--every: 0 is not a positive integer"),
        (CHECK, "patches --espnet_version new", "--espnet_version: new is not"),
        (CHECK, "patches --espnet_root later", "209901, which was never tried"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(script, arguments, message, folder):
    before = sorted(folder.rglob("*"))
    result = run(script, *arguments.split(), cwd=folder)
    assert result.returncode == 1 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{script.name}: error: ") and message in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("script", [MAKE, CHECK], ids=lambda script: script.name)
def test_help_is_a_success(script):
    result = run(script, "--help")
    assert result.returncode == 0 and "Options:" in result.stdout


@pytest.mark.parametrize("task", [espnet2.tasks.asr, espnet2.tasks.st])
def test_each_parent_is_followed_by_the_encoder_with_reuse(task):
    source = Path(task.__file__).read_text(encoding="utf-8")
    registered, parents = make_patches.register(source)
    assert parents == set(make_patches.KINDS)
    lines = registered.splitlines(keepends=True)
    assert "".join(line for line in lines if "_reuse" not in line) == source
    change = (r"(\w+)(=|_encoder import )(\w+)Encoder", r"\1_reuse\2\3ReuseEncoder")
    for parent, line in itertools.pairwise(lines):
        assert "_reuse" not in line or line == re.sub(*change, parent)
    classes = {
        (f"espnet2.asr.encoder.{kind}_encoder", parent)
        for parent, kind in make_patches.KINDS.items()
    }
    offered = [
        encoder
        for choices in vars(task).values()
        if isinstance(choices, ClassChoices)
        for encoder in choices.classes.values()
        if (encoder.__module__, encoder.__name__) in classes
    ]
    added = len(lines) - len(source.splitlines())
    assert added == len(parents) + len(offered)


def test_a_task_in_another_form_is_refused(tmp_path):
    source = Path(espnet2.tasks.asr.__file__).read_text(encoding="utf-8")
    source = source.replace(
        "conformer=ConformerEncoder,\n        tr", "conformer=ConformerEncoder, tr"
    )
    (tmp_path / "espnet2/tasks").mkdir(parents=True)
    (tmp_path / "espnet2/tasks/asr.py").write_text(source)
    with pytest.raises(SystemExit, match="asr.py does not offer ConformerEncoder,"):
        make_patches.make_registrations(tmp_path)


def test_only_names_of_espnet_go_upstream():
    source = "from espnet_reuse.asr.layers import attention_map\n"
    assert make_patches.rewrite(source) == source.replace("espnet_reuse", "espnet2")
    with pytest.raises(SystemExit, match="names espnet_reuse"):
        make_patches.rewrite("import espnet_reuse.registry\n")


def test_every_row_that_is_claimed_is_in_the_results():
    pages = ROOT.glob("results/*/README.md")
    results = [line for page in pages for line in page.read_text().splitlines()]
    rows = [
        line
        for text in UPSTREAM.glob("*.md")
        for line in text.read_text().splitlines()
        if line[:1] == "|"
    ]
    assert len(rows) > 15
    assert [row for row in rows if row not in results] == []


@pytest.mark.slow
def test_the_patches_apply_and_work(tmp_path):
    """Every 100th of ESPnet's encoder tests; check_patches.sh by itself runs all."""
    made = run(MAKE, "--output_dir", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    checked = run(CHECK, "--every", 100, tmp_path / "out")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    files_and_lines = re.findall(r"(\d+) files, (\d+) changed lines", made.stdout)
    assert len(files_and_lines) == 3
    for files, lines in files_and_lines:
        assert int(files) <= 30 and int(lines) < 1500
    passed = int(re.search(r"(\d+) passed", checked.stdout)[1])
    assert passed > 500  # the patches' own 149, and some 440 of ESPnet's
