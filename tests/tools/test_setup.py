# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""tools/setup.sh: what stands in its way, how it continues, what recipes get of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("asr.sh", "path.sh", "scripts", "pyscripts", "steps", "utils")
COPIES = ("cmd.sh", "db.sh", *(f"conf/{name}.conf" for name in ("queue", "slurm")))
RECIPE = "egs2/mini_an4/asr1"
CHECKOUT = str(ROOT / "tools/espnet")
# the environment that these tests run in, as if it had been activated
ACTIVE = {"VIRTUAL_ENV": sys.prefix}


@pytest.fixture
def fresh(tmp_path):
    """A fresh checkout in which nothing is set up, with a recipe."""
    (tmp_path / "tools").mkdir()
    add_recipe(tmp_path / RECIPE)
    for name in ("setup.sh", "constraints.txt", "extra_path.sh"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add_recipe(path):
    (path / "conf").mkdir(parents=True)
    (path / "run.sh").touch()


def setup(root, *arguments, **environment):
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON", "ESPNET_ROOT")
    }
    return subprocess.run(
        ["tools/setup.sh", *arguments],
        cwd=root,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


OBSTACLES = {
    "PYTHON=/no/such/python is not a Python 3.12 or 3.13": {
        "PYTHON": "/no/such/python"
    },
    "PYTHON=/bin/false is not a Python 3.12 or 3.13": {"PYTHON": "/bin/false"},
    "ESPNET_ROOT=/no/espnet is not an ESPnet checkout": {
        **ACTIVE,
        "ESPNET_ROOT": "/no/espnet",
    },
    "the package index could not be reached; check the network": {
        **ACTIVE,
        **{"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0"},
        **{"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""},
    },
}


@pytest.mark.parametrize("message", OBSTACLES)
def test_what_stands_in_the_way_is_said_in_one_line(fresh, message):
    result = setup(fresh, **OBSTACLES[message])
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("tools/setup.sh: error: ") and message in line
    assert not (fresh / "tools/.setup_done").exists()
    assert not (fresh / "tools/espnet").exists()


def test_a_full_disk_is_named(fresh):
    pip = fresh / "environment/bin/python3"
    pip.parent.mkdir(parents=True)
    # the environment's real Python for all but pip, which finds the disk full
    program(
        pip,
        'case "$*" in *"pip download"*) echo "[Errno 28] No space left on device" >&2;'
        f' exit 1;; esac; exec {sys.executable} "$@"',
    )
    result = setup(fresh, VIRTUAL_ENV=str(fresh / "environment"))
    assert result.returncode == 1
    assert "the disk is full; free" in result.stderr.splitlines()[-1]


def test_an_active_environment_and_a_checkout_are_used_as_they_are(fresh):
    environment = ACTIVE | {"ESPNET_ROOT": CHECKOUT}
    result = setup(fresh, **environment)
    assert result.returncode == 0, result.stderr
    assert not (fresh / ".venv").exists()
    assert str((fresh / "tools/espnet").readlink()) == CHECKOUT
    activate = (fresh / "tools/activate_python.sh").read_text()
    for path in (f"{sys.prefix}/bin", CHECKOUT, fresh):
        assert f"={path}:" in activate
    # a second time there is nothing to do
    again = setup(fresh, **environment)
    assert (again.returncode, again.stdout) == (0, "")


def test_through_links_the_checkout_they_lead_to_is_set_up(fresh, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    for path in fresh.iterdir():
        (linked / path.name).symlink_to(path)
    result = setup(linked, **ACTIVE, ESPNET_ROOT=CHECKOUT)
    assert result.returncode == 0, result.stderr
    # what it leaves there must outlive the links
    assert str(linked) not in (fresh / "tools/activate_python.sh").read_text()


def test_a_folder_that_is_not_from_the_set_up_is_not_removed(fresh):
    shutil.copytree(ROOT / "tools/espnet/egs2", fresh / "tools/espnet/egs2")
    ours = fresh / "tools/espnet/egs2/TEMPLATE/asr1/asr.sh"
    ours.write_text("mine")
    result = setup(fresh, **ACTIVE, ESPNET_ROOT=CHECKOUT)
    assert "tools/espnet is not from this script" in result.stderr
    # but it may be the checkout to use
    result = setup(fresh, **ACTIVE, ESPNET_ROOT=str(fresh / "tools/espnet"))
    assert result.returncode == 0, result.stderr
    assert ours.read_text() == "mine"


def test_arguments_are_refused(fresh):
    assert "takes no arguments, but got 'x'" in setup(fresh, "x").stderr
    assert setup(fresh, "--help").returncode == 0


# ---------------------------------- recipes ----------------------------------


@pytest.fixture
def ready(fresh):
    """A checkout that is set up; a function that sets it up once more."""

    def again(**environment):
        own = str(fresh / "espnet")
        result = setup(fresh, **ACTIVE, ESPNET_ROOT=own, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    # a tree of its own, to be removed
    for name in ("egs2", "version.txt"):
        (fresh / "espnet").mkdir(exist_ok=True)
        (fresh / "espnet" / name).symlink_to(ROOT / "tools/espnet" / name)
    again()
    return fresh, again


def assert_whole(recipe):
    template = ROOT / "tools/espnet/egs2/TEMPLATE/asr1"
    for name in LINKS:
        assert (recipe / name).samefile(template / name)
        assert not (recipe / name).readlink().is_absolute()
    for name in COPIES:
        assert not (recipe / name).is_symlink()
        assert (recipe / name).read_bytes() == (template / name).read_bytes()


def test_every_recipe_gets_links_to_espnet_and_copies_to_edit(ready):
    root, again = ready
    assert_whole(root / RECIPE)
    assert (root / RECIPE / "downloads.tar.gz").stat().st_size > 0
    add_recipe(root / "egs2/mine/asr1")
    assert again() == ""  # nothing is installed for it
    assert_whole(root / "egs2/mine/asr1")
    assert not (root / "egs2/mine/asr1/downloads.tar.gz").is_symlink()


def test_what_the_user_has_edited_stays(ready):
    root, again = ready
    cmd, asr = root / RECIPE / "cmd.sh", root / RECIPE / "asr.sh"
    cmd.write_text("mine")
    asr.unlink()
    asr.write_text("mine")
    (root / RECIPE / "utils").unlink()
    (root / "tools/.setup_done").unlink()
    again()
    assert cmd.read_text() == asr.read_text() == "mine"
    assert (root / RECIPE / "utils/parse_options.sh").is_file()


def test_links_that_lead_nowhere_are_mended(ready):
    root, again = ready
    (root / "tools/espnet").unlink()
    for name in ("asr.sh", "utils", "cmd.sh"):
        (root / RECIPE / name).unlink()
        (root / RECIPE / name).symlink_to("/no/where")
    (root / "egs2/TEMPLATE").unlink()
    again()
    assert_whole(root / RECIPE)


@pytest.mark.parametrize("message", ["flock: 8: No locks available", None])
def test_where_there_are_no_locks_a_line_says_so(ready, message):
    root, again = ready
    (root / "tools/.setup_done").unlink()
    programs = root / "programs"
    programs.mkdir()
    if message:  # of a network file system
        program(programs / "flock", f"echo '{message}' >&2; exit 71")
        path = f"{programs}:{os.environ['PATH']}"
    else:  # none
        for folder in os.environ["PATH"].split(":"):
            for file in Path(folder).glob("*"):
                if file.name != "flock" and not (programs / file.name).exists():
                    (programs / file.name).symlink_to(file)
        path = str(programs)
    reason = "No locks available" if message else "command not found"
    warning = f"WARNING: no lock in {root / 'tools'} (flock: {reason})"
    assert warning in again(PATH=path)
