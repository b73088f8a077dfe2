# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The example and transcribe say what the model says, also where they are alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_reuse.bin.asr_inference_ctc import Speech2Text
from espnet_reuse.serving import RUNTIMES

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/serve.py"


@pytest.fixture(scope="module")
def recordings(an4, tmp_path_factory):
    """Files of speech: three short ones, and one of several windows."""
    folder = tmp_path_factory.mktemp("recordings")
    speeches = [np.float32(wav) for _, wav in an4]
    long = np.tile(np.concatenate(speeches), 4)[: 81 * 16000]
    for name, speech in zip("abcd", [*speeches[:3], long], strict=True):
        soundfile.write(folder / f"{name}.flac", speech, 16000)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(export, recordings):
    """{file's name: words} by ESPnet's model."""
    folder = export().parent
    speech2text = Speech2Text(folder / "config.yaml", folder / "model.pth")
    said = {
        file.stem: " ".join(text for *_, text in speech2text.decode_long(file)).split()
        for file in recordings
    }
    assert len(said["d"]) > 20
    return said


def run(python, *words, cwd):
    """Run Python in another folder, without this repository's environment."""
    words = list(map(str, [python, "-I", *words]))
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def words_of(result):
    """Return {id: words} of what a program has printed."""
    status, output, errors = result
    assert (status, errors) == (0, "")
    return {line.split()[0]: line.split()[1:] for line in output.splitlines()}


def test_the_example_says_what_the_model_says(export, recordings, expected, tmp_path):
    result = run(sys.executable, EXAMPLE, export(), *recordings, cwd=tmp_path)
    assert words_of(result) == expected


def test_the_example_is_short_and_stands_alone():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 60
    assert not {"espnet2", "torch", "import espnet_reuse"} & set(text.split())


def test_the_example_refuses_other_rates_and_files_without_log_probs(
    export, recordings, tmp_path
):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    result = run(sys.executable, EXAMPLE, export(), tmp_path / "a.wav", cwd=tmp_path)
    assert result == (
        1,
        "",
        f"{tmp_path}/a.wav: 8000 Hz, and the model needs 16000 Hz\n",
    )
    file = export("best_path")
    result = run(sys.executable, EXAMPLE, file, recordings[0], cwd=tmp_path)
    assert result == (1, "", f"{file}: export it with --with_ctc true\n")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_numpy_soundfile_and_a_runtime_are_enough(
    runtime, export, recordings, expected, tmp_path
):
    subprocess.check_call([sys.executable, "-m", "venv", tmp_path / "venv"])
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet"]
    packages = "numpy", "soundfile", runtime
    subprocess.check_call([*install, *packages, "-c", ROOT / "tools/constraints.txt"])
    subprocess.check_call([*install, "--no-deps", copy_package(tmp_path / "package")])
    result = run(python, EXAMPLE, export(), *recordings, cwd=tmp_path)
    assert words_of(result) == expected
    program = "-m", "espnet_reuse.bin", "transcribe"
    for with_ctc in ("true", "best_path"):
        result = run(python, *program, export(with_ctc), *recordings, cwd=tmp_path)
        assert words_of(result) == expected
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    for words, missing in {
        (export(), tmp_path / "a.wav"): "soxr",
        ("--runtime", *set(RUNTIMES) - {runtime}, export(), recordings[0]): "",
    }.items():
        status, output, error = run(python, *program, *words, cwd=tmp_path)
        assert (status, output) == (1, "") and f": pip install {missing}" in error
        assert error.splitlines()[-1].startswith("espnet-reuse transcribe: error: no ")


def copy_package(folder):
    """Copy what the package is built from, for a build leaves files beside it."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "espnet_reuse", folder / "espnet_reuse")
    return folder
