# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""espnet_reuse.data.check finds what would make training fail later."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_reuse.data.check import FILES, check_data_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data_dir(tmp_path):
    """A data directory of two utterances, in FLAC and WAV."""
    for name in ("a-1.flac", "a-2.wav"):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
        soundfile.write(tmp_path / name, noise, 16000)
    (tmp_path / "text").write_text("a-1 GO\na-2 YES\n")
    (tmp_path / "utt2spk").write_text("a-1 a\na-2 a\n")
    (tmp_path / "wav.scp").write_text(
        f"a-1 {tmp_path / 'a-1.flac'}\na-2 {tmp_path / 'a-2.wav'}\n"
    )
    return tmp_path


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_a_good_directory_has_no_problems(data_dir):
    assert check_data_dir(data_dir) == []


@pytest.mark.parametrize("name", FILES)
def test_a_missing_and_an_empty_file_are_named(data_dir, name):
    (data_dir / name).write_text("")
    assert check_data_dir(data_dir) == [f"{data_dir / name} is empty"]
    (data_dir / name).unlink()
    assert check_data_dir(data_dir) == [f"{data_dir / name} is missing"]


def test_an_utterance_without_text_is_named(data_dir):
    (data_dir / "text").write_text("a-1 GO\n")
    assert check_data_dir(data_dir) == [f"{data_dir / 'text'}: no line for: a-2"]


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("name", ["a-1.flac", "a-2.wav"])
def test_audio_that_is_cut_short_is_named(data_dir, name, share):
    cut(data_dir / name, share)
    (problem,) = check_data_dir(data_dir)
    assert str(data_dir / name) in problem and "cut short" in problem


def test_sphere_audio_that_is_cut_short_is_named(data_dir):
    header = (
        "NIST_1A\n   1024\nsample_count -i 1000\nsample_rate -i 16000\n"
        "sample_n_bytes -i 2\nsample_byte_format -s2 01\nchannel_count -i 1\n"
        "sample_coding -s3 pcm\nend_head\n"
    )
    audio = data_dir / "a-1.sph"
    audio.write_bytes(header.encode().ljust(1024) + bytes(2000))
    (data_dir / "wav.scp").write_text(f"a-1 {audio}\na-2 {data_dir / 'a-2.wav'}\n")
    assert check_data_dir(data_dir) == []
    cut(audio, 0.6)
    (problem,) = check_data_dir(data_dir)
    assert problem.endswith("a-1.sph is cut short: 395 of 1000 samples")


@pytest.mark.parametrize(
    "content, reason",
    [(b"", "is empty"), (b"not audio", "cannot be read"), (None, "No such file")],
)
def test_audio_that_cannot_be_read_is_named(data_dir, content, reason):
    audio = data_dir / "a-2.wav"
    audio.unlink() if content is None else audio.write_bytes(content)
    (problem,) = check_data_dir(data_dir)
    assert str(audio) in problem and reason in problem


def test_ids_that_espnet_would_find_out_of_order_are_named(data_dir):
    (data_dir / "utt2spk").write_text("a-1 z\na-2 a\n")
    (problem,) = check_data_dir(data_dir)
    assert problem.endswith(
        "as their speakers do: begin each id with its speaker: a-2 after a-1"
    )


def test_transcripts_that_espnet_would_refuse_are_named(data_dir):
    (data_dir / "text").write_text("a-1 GO\u00a0ON\na-2 <s> YES\n", encoding="utf-8")
    reserved, space = check_data_dir(data_dir)
    assert reserved.endswith("text: symbols that Kaldi reserves, <s>, </s> or #0: a-2")
    assert space.endswith("text: white space other than blanks: a-1")


def test_the_command_names_every_problem_of_the_folders_that_are_data_dirs(data_dir):
    (data_dir / "text").unlink()
    (data_dir / "utt2spk").write_text("")
    command = [sys.executable, ROOT / "local/check_data.py", data_dir, "/no/where"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"espnet_reuse.data.check: error: {data_dir / 'text'} is missing",
        f"espnet_reuse.data.check: error: {data_dir / 'utt2spk'} is empty",
    ]
