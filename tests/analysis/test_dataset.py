# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Utterances of a data directory: which are taken, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_reuse.analysis.dataset import DataDir
from espnet_reuse.errors import UserError

RATE = 16000


@pytest.fixture
def data_dir(tmp_path):
    """Six utterances of three speakers."""
    ids = [f"s{speaker}-{n}" for speaker in range(3) for n in range(2)]
    for utt_id in ids:
        soundfile.write(tmp_path / f"{utt_id}.flac", np.full(800, 0.5), RATE)
    write(tmp_path / "wav.scp", [f"{i} {tmp_path}/{i}.flac" for i in ids])
    write(tmp_path / "text", [f"{i} SOME WORDS" for i in ids])
    write(tmp_path / "utt2spk", [f"{i} {i[:2]}" for i in ids])
    return tmp_path


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines))


def test_every_utterance_is_read_with_its_words_and_speaker(data_dir):
    utterances = list(DataDir(data_dir, 200, RATE))
    assert [u.speaker for u in utterances] == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert all(u.text == "SOME WORDS" and len(u.speech) == 800 for u in utterances)
    assert utterances[0].speech.dtype == np.float32


def test_fewer_utterances_are_spread_over_the_speakers(data_dir):
    assert DataDir(data_dir, 3, RATE).ids == ["s0-0", "s1-0", "s2-0"]


def test_words_and_speakers_may_be_absent(data_dir):
    (data_dir / "text").unlink()
    (data_dir / "utt2spk").unlink()
    (utterance,) = DataDir(data_dir, 1, RATE)
    assert utterance.text is None and utterance.speaker is None


def write_audio(data_dir, samples):
    soundfile.write(data_dir / "s0-0.flac", samples, RATE, format="WAV")


def test_of_several_channels_the_first_counts_as_in_decoding(data_dir):
    write_audio(data_dir, np.stack([np.full(800, 0.25), np.zeros(800)], axis=1))
    (utterance,) = DataDir(data_dir, 1, RATE)
    torch.manual_seed(0)
    frontend = DefaultFrontend(fs=RATE).eval()
    stereo, _ = soundfile.read(data_dir / "s0-0.flac", dtype="float32")
    features = [
        frontend(torch.from_numpy(wav)[None], torch.tensor([800]))[0]
        for wav in (stereo, utterance.speech)
    ]
    torch.testing.assert_close(*features)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / "wav.scp").unlink(), "wav.scp is missing; name a data dir"),
        (lambda d: write(d / "wav.scp", []), "is empty"),
        (lambda d: write(d / "text", ["s0-0 A", "s0-0 B"]), "s0-0 is duplicated"),
        (lambda d: write(d / "segments", ["a b 0 1"]), "has segments"),
        (lambda d: (d / "s0-0.flac").unlink(), "flac cannot be read .* the recipe's"),
        (lambda d: write(d / "s0-0.flac", ["text"]), "s0-0.flac cannot be read"),
        (lambda d: write_audio(d, np.zeros(0)), "holds no audio"),
    ],
    ids=["missing", "empty", "twice", "cut", "absent", "text", "silent"],
)
def test_what_cannot_be_analysed_is_named_in_one_line(data_dir, damage, message):
    damage(data_dir)
    with pytest.raises(UserError, match=message) as raised:
        list(DataDir(data_dir, 200, RATE))
    assert "\n" not in str(raised.value) and "--" not in str(raised.value)


def test_another_sampling_rate_than_the_models_is_refused(data_dir):
    with pytest.raises(UserError, match="16000 Hz, but the model .* 8000 Hz"):
        list(DataDir(data_dir, 200, 8000))
