# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The wheel and the source distribution: what is in them, and that the wheel works."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import soundfile
import yaml

pytest.importorskip("build")
pytest.importorskip("twine")

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in")
MODEL = {
    "token_list": ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<sos/eos>"],
    "token_type": "char",
    "encoder": "conformer_reuse",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "num_blocks": 2},
        **{"linear_units": 16, "cnn_module_kernel": 7, "reuse_group_size": 2},
    },
    "model_conf": {"ctc_weight": 1.0},
    "frontend_conf": {"hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
    **{"max_epoch": 1, "num_iters_per_epoch": 1, "keep_nbest_models": 1},
    **{"batch_type": "unsorted", "batch_size": 2, "num_workers": 0},
    **{"optim": "adam", "use_tensorboard": False, "output_dir": "exp"},
}


def run(*command, cwd):
    """Run a program without this checkout on its path; return its output."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for part in ("espnet_reuse", "tests"):
        shutil.copytree(ROOT / part, source / part, ignore=ignored)
    for name in (*PACKAGED, "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    build = (
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "dist",
    )
    run(*build, source, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def venv(built, tmp_path_factory):
    """A fresh environment with the wheel; it sees this one's other packages."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin/python3", "install")
    (wheel,) = built.glob("*.whl")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=venv)
    (site,) = venv.glob("lib/python3*/site-packages")
    # a line with a path: .pth files that are there, of editable installs, do not count,
    # nor that of setuptools, which brings the distutils that ESPnet imports
    others = sysconfig.get_path("purelib")
    shim = "import _distutils_hack; _distutils_hack.add_shim()"
    (site / "others.pth").write_text(f"{others}\n{shim}\n")
    return venv


@pytest.mark.slow
def test_distributions_are_valid_and_hold_the_package_and_its_data(built):
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    package = ROOT / "espnet_reuse"
    files = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {x for x in archive.namelist() if ".dist-info/" not in x} == files
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files | {*PACKAGED} <= names
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.slow
def test_the_wheel_trains_a_step(venv, an4, tmp_path):
    data = {"wav.scp": "", "text": "", "shape": ""}
    for n, (words, wav) in enumerate(an4[:2]):
        soundfile.write(tmp_path / f"utt{n}.wav", wav, 16000)
        data["wav.scp"] += f"utt{n} utt{n}.wav\n"
        data["text"] += f"utt{n} {words.replace(' ', '')}\n"
        data["shape"] += f"utt{n} {len(wav)}\n"
    for name, lines in data.items():
        (tmp_path / name).write_text(lines)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(MODEL))
    python = venv / "bin/python3"
    found = run(
        python, "-c", "import espnet_reuse as e; print(e.__file__)", cwd=tmp_path
    )
    assert Path(found.splitlines()[-1]).is_relative_to(venv)
    options = ["--config", "train.yaml"]
    for part in ("train", "valid"):
        options += [f"--{part}_shape_file", "shape"]
        for file, name, kind in (
            ("wav.scp", "speech", "sound"),
            ("text", "text", "text"),
        ):
            option = f"--{part}_data_path_and_name_and_type"
            options += [option, f"{file},{name},{kind}"]
    log = run(
        *(python, "-m", "espnet_reuse.run", "-m", "espnet2.bin.asr_train", *options),
        cwd=tmp_path,
    )
    assert "1epoch results: [train]" in log and (tmp_path / "exp/1epoch.pth").is_file()


@pytest.mark.slow
def test_the_wheel_has_the_program_but_no_recipes(venv, tmp_path):
    program = venv / "bin/espnet-reuse"
    assert "transcribe" in run(program, "--help", cwd=tmp_path)
    assert "usage: espnet-reuse convert" in run(
        program, "convert", "--help", cwd=tmp_path
    )
    assert "--models" in run(program, "compare", "--help", cwd=tmp_path)
    with pytest.raises(AssertionError, match="there are no recipes here"):
        run(program, "compare", cwd=tmp_path)
