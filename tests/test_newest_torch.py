# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Operators and compiled encoders work with the newest PyTorch that ESPnet takes."""

import os
import site
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEWEST = "2.14.0"
CORE = (
    "layers/test_attention_map.py",
    "layers/test_attention_map_operators.py",
    "encoder/test_attention_map_reuse.py",
    "encoder/test_reuse_encoder_compiled.py",
)


@pytest.mark.slow
def test_core_tests_pass_with_the_newest_pytorch(tmp_path):
    """In an environment that has all else from this one, for PyTorch is large."""
    venv.create(tmp_path, with_pip=True)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    others = [f"import site; site.addsitedir({p!r})" for p in site.getsitepackages()]
    (packages / "others.pth").write_text("\n".join(others))
    python = tmp_path / "bin/python"
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}

    def run(*arguments):
        result = subprocess.run(
            [python, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    run("-m", "pip", "install", "-q", f"torch=={NEWEST}")
    assert run("-c", "import torch; print(torch.__version__)").startswith(NEWEST)
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow"]
    kinds = ["-k", "not compiled or conformer"]
    paths = [f"tests/espnet2/asr/{path}" for path in CORE]
    printed = run("-m", "pytest", *options, *kinds, *paths)
    assert "passed" in printed and "failed" not in printed
