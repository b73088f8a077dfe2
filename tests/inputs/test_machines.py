# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Locales, folders and machines that people run ./run.sh in."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from table import Row, each

from espnet_reuse.bin import compare
from espnet_reuse.comparison.display import Display
from espnet_reuse.comparison.driver import share_gpus
from espnet_reuse.comparison.recipe import Recipe
from espnet_reuse.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def make_letters(folder, make_corpus, sets=("train", "test")):
    """A corpus of all scripts, in a folder with letters of its own."""
    data = make_corpus(folder / "Dätä_データ", sets, speaker="Jürgen山田")
    for name in sets:
        for file in ("wav.scp", "text"):
            path = data / name / file
            text = path.read_text().replace(".flac", "_تسجيل.flac")
            path.write_text(text.replace("COFFEE", "ÄRGER 日本語 مرحبا"), "utf-8")
        for path in data.glob(f"{name}?.flac"):
            path.rename(path.with_name(f"{path.stem}_تسجيل.flac"))
    return data


NOT_UTF8 = os.fsdecode(b"M\xe4rz")
PREPARE = [sys.executable, "-m", "espnet_reuse.data.prepare", "--train_set", "train"]
PREPARE += ["--valid_set", "", "--test_sets", "test"]


def in_folder(name):
    """`./run.sh --dry_run true` in a folder of this name, of a repository beside it."""

    def make(root, make_corpus):
        (root / name).mkdir()
        return [root / "run.sh", "--dry_run", "true"], root / name

    return make


def as_repository(name):
    """The same where the repository has this name."""

    def make(root, make_corpus):
        return [root.rename(root.with_name(name)) / "run.sh", "--dry_run", "true"], "/"

    return make


# (command, current folder) of a repository and a function that makes a corpus
LOCALES = [
    Row(
        "data of all scripts",
        lambda root, make_corpus: (
            ["local/data.sh", "--data", make_letters(root, make_corpus)],
            root / "egs2/custom/asr1",
        ),
        "noted",
        "held out: all of Jürgen山田",
    ),
    Row(
        "the same without a recipe's path.sh",
        lambda root, make_corpus: (
            [*PREPARE, make_letters(root, make_corpus), root / "data"],
            root,
        ),
        "refused",
        "cannot be written in ascii: export PYTHONUTF8=1",
    ),
    Row(
        "results with letters",
        lambda root, make_corpus: (
            ["./run.sh", "--results", "März/結果", "--dry_run", "true"],
            root,
        ),
        "taken",
    ),
    Row("a folder with letters", in_folder("Größe_大きさ"), "taken"),
    Row("a repository with letters", as_repository("プロジェクト_ÄÖ"), "taken"),
    Row(
        "an option that is not UTF-8",
        lambda root, make_corpus: (["./run.sh", "--data", NOT_UTF8], root),
        "refused",
        "run.sh: error: --data: 'M\\udce4rz' is not UTF-8",
    ),
    Row("a folder that is not UTF-8", in_folder(NOT_UTF8), "refused", "is not UTF-8"),
    Row("such a repository", as_repository(NOT_UTF8), "refused", "is not UTF-8"),
    Row(
        "a repository with what a shell evaluates",
        as_repository("a$b"),
        "refused",
        "do not run in a path with spaces or any of $ ` \" \\: move '",
    ),
]


@each(LOCALES)
def test_letters_of_any_language_in_a_locale_that_has_none(
    row, copy_repository, make_corpus
):
    command, where = row.make(copy_repository().root, make_corpus)
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, cwd=where, env=env, capture_output=True)
    said = (done.stdout + done.stderr).decode()
    lines = [line for line in said.splitlines() if re.search("error: |note: ", line)]
    assert (done.returncode != 0) == (row.outcome == "refused"), said
    assert row.line in "".join(lines) and bool(lines) == (row.outcome != "taken"), said
    assert len(lines) == 1 or row.outcome != "refused", said


# A machine with GPUs, as a program that asks PyTorch for them sees it.
TORCH = """class cuda:
    is_available = staticmethod(lambda: {count} > 0)
    device_count = staticmethod(lambda: {count})
"""


def gpus(count, visible, line):
    return lambda: (count, visible, line)


# what is printed: how the GPUs are shared out over the jobs
MACHINES = [
    Row("no GPU", gpus(0, None, ""), "noted", "PyTorch finds no GPU here: using"),
    Row("GPUs hidden", gpus(0, "", ""), "noted", "PyTorch finds no GPU here: using"),
    Row("GPUs hidden by -1", gpus(0, "-1", ""), "noted", "no GPU here: using --ngpu 0"),
    Row("no GPU wanted", gpus(4, None, "--ngpu 0 --jobs 2"), "taken", "[]"),
    Row("one job", gpus(4, None, "--ngpu 4"), "taken", "[]"),
    Row("a GPU for each job", gpus(2, None, "--jobs 2"), "taken", "['0', '1']"),
    Row("more jobs than GPUs", gpus(2, None, "--jobs 3"), "taken", "['0', '1', '0']"),
    Row(
        "two GPUs for each job",
        gpus(5, None, "--ngpu 2 --jobs 2"),
        "taken",
        "['0,1', '2,3']",
    ),
    Row("GPUs chosen", gpus(2, "5,3", "--jobs 2"), "taken", "['5', '3']"),
    Row("GPUs up to -1", gpus(1, "5,-1,3", "--jobs 2"), "taken", "['5', '5']"),
    Row(
        "GPUs by UUID",
        gpus(2, "GPU-8f,GPU-1a", "--jobs 2"),
        "taken",
        "['GPU-8f', 'GPU-1a']",
    ),
    Row(
        "slices of a GPU, of which a program sees one",
        gpus(1, "MIG-1,MIG-2,MIG-3", "--jobs 3"),
        "taken",
        "['MIG-1', 'MIG-2', 'MIG-3']",
    ),
    Row(
        "more slices than a training can use",
        gpus(1, "MIG-1,MIG-2", "--ngpu 2"),
        "refused",
        "--ngpu: 2 GPUs are asked for, PyTorch finds 1 here: add --ngpu 1",
    ),
]


@each(MACHINES)
def test_gpus_are_those_that_pytorch_can_use(row, tmp_path, monkeypatch):
    count, visible, line = row.make()
    (tmp_path / "torch.py").write_text(TORCH.format(count=count))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    options, _ = compare.read_options(["--corpus", "custom", *line.split()])
    recipe, said = Recipe(ROOT, "custom", {}), io.StringIO()
    display = Display(Console(file=said, width=200))
    try:
        print(share_gpus(recipe, options, display), file=said)
    except UserError as e:
        assert row.outcome == "refused" and row.line in str(e)
        return
    assert row.outcome != "refused" and row.line in said.getvalue()
    assert ("no GPU" in said.getvalue()) == (row.outcome == "noted")
    assert (recipe["ngpu"] == "0") == (count == 0 or "--ngpu 0" in line)


def test_the_cores_are_those_that_the_process_may_use(tmp_path):
    command = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from espnet_reuse.comparison import actions; print(actions.joblib.cpu_count())"
    )
    done = subprocess.check_output([sys.executable, "-c", command], cwd=tmp_path)
    assert done == b"1\n"


@pytest.mark.slow
def test_letters_of_any_language_come_through_a_comparison(
    copy_repository, tmp_path, make_corpus
):
    root = copy_repository().root.rename(tmp_path / "プロジェクト_ÄÖ")
    data = make_letters(tmp_path, make_corpus, ("train", "dev", "test"))
    command = ["./run.sh", "--corpus", "custom", "--data", data, "--models", "baseline"]
    command += ["--asr_args", "--max_epoch 1 --num_iters_per_epoch 1 --num_att_plot 1"]
    command += ["--inference_args", "--beam_size 1", "--results", "Ergebnisse/März"]
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(command, cwd=root, env=env, check=True)
    assert "1 " in (root / "Ergebnisse/März/RESULTS.md").read_text("utf-8")
