# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""tools/setup.sh says in one line what stands in its way, and continues after it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh(tmp_path):
    """A fresh checkout in which nothing is set up."""
    (tmp_path / "tools").mkdir()
    for name in ("setup.sh", "constraints.txt", "extra_path.sh"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


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


def active_environment():
    """The environment that these tests run in, as if it had been activated."""
    return {"VIRTUAL_ENV": sys.prefix}


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "environment, message",
    [
        pytest.param(
            {"PYTHON": "/no/such/python"},
            "PYTHON=/no/such/python is not a Python 3.12 or 3.13",
            id="no such python",
        ),
        pytest.param(
            active_environment() | {"ESPNET_ROOT": "/no/espnet"},
            "ESPNET_ROOT=/no/espnet is not an ESPnet checkout",
            id="not a checkout of ESPnet",
        ),
        pytest.param(
            active_environment()
            | {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0"}
            | {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""},
            "the package index could not be reached; check the network",
            id="no network",
        ),
    ],
)
def test_what_stands_in_the_way_is_said_in_one_line(fresh, environment, message):
    result = setup(fresh, **environment)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("tools/setup.sh: error: ") and message in line
    assert not (fresh / "tools/.setup_done").exists()
    assert not (fresh / "tools/espnet").exists()


def test_a_python_that_espnet_does_not_support_is_named(fresh):
    old = program(fresh / "python3", "exit 1")  # answers the version check with no
    result = setup(fresh, PYTHON=str(old))
    assert f"PYTHON={old} is not a Python 3.12 or 3.13" in result.stderr


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
    checkout = ROOT / "tools/espnet"
    environment = active_environment() | {"ESPNET_ROOT": str(checkout)}
    result = setup(fresh, **environment)
    assert result.returncode == 0, result.stderr
    assert not (fresh / ".venv").exists()
    assert (fresh / "tools/espnet").readlink() == checkout
    activate = (fresh / "tools/activate_python.sh").read_text()
    for path in (f"{sys.prefix}/bin", checkout, fresh):
        assert f"={path}:" in activate
    # a second time there is nothing to do
    again = setup(fresh, **environment)
    assert (again.returncode, again.stdout) == (0, "")


def test_through_links_the_checkout_they_lead_to_is_set_up(fresh, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    for path in fresh.iterdir():
        (linked / path.name).symlink_to(path)
    checkout = str(ROOT / "tools/espnet")
    result = setup(linked, **active_environment(), ESPNET_ROOT=checkout)
    assert result.returncode == 0, result.stderr
    # what it leaves there must outlive the links
    assert str(linked) not in (fresh / "tools/activate_python.sh").read_text()


def test_a_folder_that_is_not_from_the_set_up_is_not_removed(fresh):
    ours = fresh / "tools/espnet/egs2/TEMPLATE/asr1/asr.sh"
    ours.parent.mkdir(parents=True)
    ours.write_text("mine")
    checkout = str(ROOT / "tools/espnet")
    result = setup(fresh, **active_environment(), ESPNET_ROOT=checkout)
    assert "tools/espnet is not from this script" in result.stderr
    # but it may be the checkout to use
    result = setup(
        fresh, **active_environment(), ESPNET_ROOT=str(fresh / "tools/espnet")
    )
    assert result.returncode == 0, result.stderr
    assert ours.read_text() == "mine"


def test_arguments_are_refused(fresh):
    assert "takes no arguments, but got 'x'" in setup(fresh, "x").stderr
    assert setup(fresh, "--help").returncode == 0
