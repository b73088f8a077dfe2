# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What several tests need: helper scripts, copies of the recipe, a trained model."""

import argparse
import functools
import io
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import yaml

from espnet_reuse.data import prepare

ROOT = Path(__file__).resolve().parents[1]

RECIPE = "egs2/mini_an4/asr1"
MADE_BY_RECIPES = shutil.ignore_patterns("data", "downloads", "dump", "exp")
# Run by the worker that runs another file, for both need `compared`.
SHARING = {"tests/docs/test_blocks.py": "tests/egs2/mini_an4/test_run_sh.py"}


def pytest_collection_modifyitems(items):
    """Run the pages' blocks last, in a repository where other tests have trained."""
    items.sort(key=lambda item: item.path.name == "test_blocks.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a worker whole files, as loadfile does, and those that share their work."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return SHARING.get(file, file)

    return Scheduler(config, log)


class Repository:
    """A copy of this repository that shares its environment and has run nothing."""

    def __init__(self, root):
        self.root = root
        self.recipe = root / RECIPE
        for path in ROOT.iterdir():
            if path.name not in ("egs2", "results", "run.sh"):
                (root / path.name).symlink_to(path)
        shutil.copytree(
            ROOT / "egs2", root / "egs2", symlinks=True, ignore=MADE_BY_RECIPES
        )
        shutil.copy(ROOT / "run.sh", root / "run.sh")

    def recipe_of(self, corpus):
        """Return the recipe's folder of a corpus."""
        return self.root / "egs2" / corpus / "asr1"

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
def save_model():
    """A function that saves a model of random parameters as ESPnet's trainer does."""
    # for the tests that ask for it alone: these take seconds
    import torch
    from espnet2.tasks.asr import ASRTask

    def save(folder, config, noise, model_file="model.pth"):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        config = ASRTask.get_default_config() | config
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        model = ASRTask.build_model(argparse.Namespace(**config))
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms are not 0 and 1
                parameter += noise * torch.randn_like(parameter)
        torch.save(model.state_dict(), folder / model_file)
        return folder

    return save


@pytest.fixture(scope="session")
def export(tmp_path_factory, save_model):
    """A function that exports a small model once for each value of --with_ctc.

    It returns the file, which has config.yaml and model.pth beside it.
    """
    from espnet_reuse.bin import export as command

    encoder = {"output_size": 16, "attention_heads": 2, "linear_units": 16}
    config = {
        "token_list": ["<blank>", "<unk>", *"abcdef", "<space>", "<sos/eos>"],
        "token_type": "char",
        "encoder": "conformer_reuse",
        "encoder_conf": encoder | {"num_blocks": 2, "reuse_group_size": 2},
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "frontend_conf": {"fs": "16k", "hop_length": 160, "n_mels": 20},
        "normalize": "utterance_mvn",
    }
    root = tmp_path_factory.mktemp("exported")

    @functools.cache
    def export_once(with_ctc="true", *options, rel_pos_type="latest"):
        config["encoder_conf"]["rel_pos_type"] = rel_pos_type
        folder = root / rel_pos_type
        if not folder.exists():
            save_model(folder, config, 0.1)
        file = folder / f"{'_'.join([with_ctc, *options])}.onnx"
        words = ["--asr_train_config", folder / "config.yaml", "--format", "onnx"]
        words += ["--asr_model_file", folder / "model.pth", "--with_ctc", with_ctc]
        command.main(list(map(str, [*words, "--output", file, *options])))
        return file

    return export_once


@pytest.fixture(scope="session")
def an4():
    """(words, waveform at 16 kHz) of each recording of mini_an4."""
    with tarfile.open(ROOT / RECIPE / "downloads.tar.gz") as archive:
        files = {
            Path(member.name).name: archive.extractfile(member).read()
            for member in archive
            if member.isfile()
        }
    recordings = []
    for part in ("train", "test"):
        for line in files[f"an4_{part}.transcription"].decode().splitlines():
            words, name = re.fullmatch(
                r"(?:<s> )?(.*?)(?: </s>)? \((.*)\)", line
            ).groups()
            sph = next(v for k, v in files.items() if k.startswith(name))
            wav, rate = soundfile.read(io.BytesIO(sph))
            assert rate == 16000
            recordings.append((words, wav))
    return recordings


@pytest.fixture(scope="session")
def make_librispeech(an4):
    """A function that makes a folder of LibriSpeech's form from mini_an4's recordings.

    Given {part: {reader/chapter: number of utterances}}.
    """

    def make(root, parts):
        n = 0
        for part, chapters in parts.items():
            for name, utterances in chapters.items():
                folder = root / "LibriSpeech" / part / name
                folder.mkdir(parents=True)
                prefix, lines = name.replace("/", "-"), []
                for i in range(utterances):
                    words, wav = an4[n % len(an4)]
                    wav = wav * 0.9 ** (n // len(an4))  # no recording twice
                    n += 1
                    soundfile.write(folder / f"{prefix}-{i:04d}.flac", wav, 16000)
                    lines.append(f"{prefix}-{i:04d} {words}\n")
                (folder / f"{prefix}.trans.txt").write_text("".join(lines))
        return root

    return make


@pytest.fixture
def make_corpus():
    """A function that makes a folder of data directories: root/<set>, for each set.

    Each has two utterances, <set>0 and <set>1, of speakers spk0 and spk1: half a second
    of noise in two of silence; "spk" is what the speakers' names begin with.
    """

    def make(root, sets, speaker="spk"):
        rng = np.random.default_rng(0)
        for name in sets:
            (root / name).mkdir(parents=True)
            files = {
                "wav.scp": "{id}.flac",
                "text": "COFFEE",
                "utt2spk": f"{speaker}{{n}}",
            }
            for n in range(2):
                wav = np.zeros(32000)
                wav[8000:16000] = rng.uniform(-0.5, 0.5, 8000)
                soundfile.write(root / f"{name}{n}.flac", wav, 16000)
            for file, value in files.items():
                lines = [
                    f"{name}{n} {value.format(id=f'{name}{n}', n=n)}\n"
                    for n in range(2)
                ]
                (root / name / file).write_text("".join(lines))
        return root

    return make


@pytest.fixture
def corpus(tmp_path):
    """Two utterances of two speakers in each of three sets, with relative paths."""

    def write(path, lines):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    root = tmp_path / "corpus"
    (root / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train", "dev", "test"):
        ids = [f"{name}{n}" for n in range(2)]
        for utt_id in ids:
            noise = rng.uniform(-0.1, 0.1, 4000)
            soundfile.write(root / f"audio/{utt_id}.flac", noise, 8000)
        write(root / name / "wav.scp", [f"{i} audio/{i}.flac" for i in ids])
        write(root / name / "text", [f"{i} GO ON" for i in ids])
        write(root / name / "utt2spk", [f"{i} spk{n}" for n, i in enumerate(ids)])
    return root


@pytest.fixture(name="prepare")
def prepare_data(capsys):
    """A function that runs the command; what it gives is like subprocess.run's."""

    def run(corpus, data, *options, valid_set=""):
        sets = ("--train_set", "train", "--valid_set", valid_set, "--test_sets", "test")
        status = 0
        try:
            prepare.main([*sets, *options, str(corpus), str(data)])
        except SystemExit as e:
            status = e.code
        output = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=output.out, stderr=output.err)

    return run


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


@pytest.fixture(scope="session")
def compared(copy_repository):
    """A repository whose ./run.sh has run to its end, from nothing."""
    repository = copy_repository()
    started = time.time()
    repository.status, repository.output = repository.run("./run.sh")
    repository.seconds = time.time() - started
    return repository
