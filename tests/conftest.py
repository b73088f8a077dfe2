# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What several tests need: helper scripts, copies of the recipe, a trained model."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "local"))

RECIPE = "egs2/mini_an4/asr1"
MADE_BY_RECIPES = shutil.ignore_patterns("data", "downloads", "dump", "exp")


class Repository:
    """A copy of this repository that shares its environment and has run nothing."""

    def __init__(self, root):
        self.root = root
        self.recipe = root / RECIPE
        for path in ROOT.iterdir():
            if path.name not in ("egs2", "run.sh"):
                (root / path.name).symlink_to(path)
        shutil.copytree(
            ROOT / "egs2", root / "egs2", symlinks=True, ignore=MADE_BY_RECIPES
        )
        shutil.copy(ROOT / "run.sh", root / "run.sh")

    def popen(self, *command, cwd=None, **kwargs):
        """Start a program with its output, both streams, in a pipe."""
        return subprocess.Popen(
            list(map(str, command)),
            cwd=cwd or self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **kwargs,
        )

    def run(self, *command, cwd=None):
        """Run a program to its end; return its exit status and output."""
        process = self.popen(*command, cwd=cwd)
        output, _ = process.communicate()
        return process.returncode, output


@pytest.fixture(scope="session")
def copy_repository(tmp_path_factory):
    """A function that makes a copy of the repository."""
    return lambda: Repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def repository(copy_repository):
    return copy_repository()


@pytest.fixture(scope="session")
def trained(copy_repository):
    """A repository whose run.sh has trained, decoded and scored a model for a step."""
    repository = copy_repository()
    repository.command = (
        "./run.sh",
        *("--models", "reuse2", "--stop_stage", "5", "--test_sets", "test"),
        *("--asr_args", "--max_epoch 1 --num_iters_per_epoch 1 --num_att_plot 1"),
    )
    status, repository.output = repository.run(*repository.command)
    assert status == 0, repository.output
    (repository.asr_exp,) = repository.recipe.glob("exp/asr_train_asr_*reuse2*")
    return repository
