# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""espnet_reuse.data.prepare, the data of ./run.sh --corpus custom: what it refuses."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_reuse.data.data_dir import read_data_dir, read_scp


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines))


def test_relative_paths_speakers_and_words_are_taken_over(prepare, corpus, tmp_path):
    data = tmp_path / "data"
    result = prepare(corpus, data)
    assert result.returncode == 0, result.stderr
    words = {"spk0-train0": "GO ON", "spk1-train1": "GO ON"}
    assert read_scp(data / "train/text") == words
    assert read_scp(data / "dev/utt2spk") == {"spk0-dev0": "spk0", "spk1-dev1": "spk1"}
    wav = read_scp(data / "test/wav.scp")["spk0-test0"]
    assert Path(wav) == corpus / "audio/test0.flac"


def test_tabs_divide_ids_from_the_rest_as_spaces_do(prepare, corpus, tmp_path):
    assert prepare(corpus, tmp_path / "spaces").returncode == 0
    for path in corpus.glob("*/*"):
        if path.name in ("wav.scp", "text", "utt2spk"):
            path.write_text(re.sub("^([^ ]+) ", r"\1\t", path.read_text(), flags=re.M))
    result = prepare(corpus, tmp_path / "tabs")
    assert result.returncode == 0, result.stderr
    spaces, tabs = (read_data_dir(tmp_path / f"{x}/train") for x in ("spaces", "tabs"))
    assert spaces == tabs


def test_without_speakers_every_utterance_has_its_own(prepare, corpus, tmp_path):
    (corpus / "train/utt2spk").unlink()
    assert prepare(corpus, tmp_path / "data").returncode == 0
    own = {"train0": "train0", "train1": "train1"}
    assert read_scp(tmp_path / "data/train/utt2spk") == own


def test_silence_around_the_speech_is_left_out_if_asked(prepare, corpus, tmp_path):
    assert prepare(corpus, tmp_path / "whole").returncode == 0
    assert not (tmp_path / "whole/dev/segments").exists()
    rng = np.random.default_rng(0)
    for utt_id, start in (("dev0", 0.5), ("dev1", 0.0)):
        wav = 0.001 * rng.standard_normal(2 * 8000)
        wav[int(start * 8000) : int((start + 1) * 8000)] *= 100
        soundfile.write(corpus / f"audio/{utt_id}.flac", wav, 8000)
    result = prepare(corpus, tmp_path / "data", "--trim_silence", "20")
    assert result.returncode == 0, result.stderr
    segments = read_scp(tmp_path / "data/dev/segments")
    for utt_id, expected in (("spk0-dev0", (0.4, 1.6)), ("spk1-dev1", (0.0, 1.1))):
        recording, *times = segments[utt_id].split()
        assert recording in read_scp(tmp_path / "data/dev/wav.scp")
        assert list(map(float, times)) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("seconds, is_noted", [(1.0, True), (0.1, False)])
def test_much_silence_around_the_speech_is_noted(
    prepare, corpus, tmp_path, seconds, is_noted
):
    wav = np.random.default_rng(0).standard_normal(8000) / 10
    silence = np.zeros(int(seconds * 8000))
    for n in range(2):
        path = corpus / f"audio/train{n}.flac"
        soundfile.write(path, np.concatenate([silence, wav, silence]), 8000)
    notes = prepare(corpus, tmp_path / "data").stdout
    assert ("of train is silence before and after the speech" in notes) == is_noted
    assert ("--trim_silence 35" in notes) == is_noted
    cut = prepare(corpus, tmp_path / "cut", "--trim_silence", "35").stdout
    assert "silence" not in cut


def write_train(corpus, speakers):
    """Write 40 utterances of these speakers to train on, and no set to validate on."""
    shutil.rmtree(corpus / "dev")
    ids = [f"u{n}" for n in range(40)]
    spk2utt = {i: f"s{n % speakers}" for n, i in enumerate(ids)}
    write(corpus / "train/wav.scp", [f"{i} audio/train0.flac" for i in ids])
    write(corpus / "train/text", [f"{i} GO ON" for i in ids])
    write(corpus / "train/utt2spk", [f"{i} {s}" for i, s in spk2utt.items()])


@pytest.mark.parametrize("speakers", [2, 10, 40])
def test_speakers_are_held_out_where_there_is_no_set_to_validate_on(
    prepare, corpus, tmp_path, speakers
):
    write_train(corpus, speakers)
    result = prepare(corpus, tmp_path / "data")
    assert result.returncode == 0, result.stderr
    train, dev = (
        read_scp(tmp_path / "data" / name / "utt2spk") for name in ("train", "dev")
    )
    assert len(train) + len(dev) == 40 and 0.05 * 40 <= len(dev) <= 20
    assert set(train.values()).isdisjoint(dev.values())
    assert f"dev: {len(dev)} utterances of train, held out: all of s" in result.stdout
    assert prepare(corpus, tmp_path / "again").returncode == 0
    assert read_scp(tmp_path / "again/dev/utt2spk") == dev


@pytest.mark.parametrize("names", [("a", "b"), ("anna", "bob"), ("s2", "s1")])
def test_the_speaker_of_most_utterances_is_not_held_out(
    prepare, corpus, tmp_path, names
):
    write_train(corpus, 2)
    many, one = names
    lines = [f"u{n} {one if n == 7 else many}" for n in range(40)]
    write(corpus / "train/utt2spk", lines)
    assert prepare(corpus, tmp_path / "data").returncode == 0
    assert read_scp(tmp_path / "data/dev/utt2spk") == {f"{one}-u7": one}


def test_a_named_set_to_validate_on_is_never_held_out(prepare, corpus, tmp_path):
    write_train(corpus, 2)
    result = prepare(corpus, tmp_path / "data", valid_set="dev")
    assert result.returncode == 1 and "dev/wav.scp is missing" in result.stderr


def write_audio(corpus, utt_id, wav, **form):
    soundfile.write(corpus / f"audio/{utt_id}.flac", wav, 8000, **form)


def test_all_problems_are_listed_in_one_go(prepare, corpus, tmp_path):
    (corpus / "dev/text").unlink()
    write(corpus / "train/text", ["train0", "train1 GO", "", "train1 GO"])
    with (corpus / "train/wav.scp").open("a") as file:
        file.write("train0 audio/train0.flac\n")
    (corpus / "audio/train0.flac").unlink()
    (corpus / "audio/test1.flac").unlink()
    write(corpus / "test/utt2spk", ["test0 spk0", "test1 spk1", "test9 spk9"])
    result = prepare(corpus, tmp_path / "data")
    problems = [
        "dev/text is missing",
        "train/text: line 3 is empty",
        "train/text: duplicate ids: train1",
        "train/text: no words: train0",
        "train/wav.scp: duplicate ids: train0",
        "train0.flac cannot be read: No such file or directory",
        "test1.flac cannot be read: No such file or directory",
        "test/wav.scp: no line for: test9",
        "test/text: no line for: test9",
    ]
    lines = result.stderr.strip().splitlines()
    assert len(lines) == len(problems)
    assert all(any(problem in line for line in lines) for problem in problems), lines


def test_many_problems_of_a_kind_hide_no_other(prepare, corpus, tmp_path):
    write_train(corpus, 40)
    (corpus / "audio/train0.flac").unlink()
    write(corpus / "test/text", ["test0", "test1 GO"])
    result = prepare(corpus, tmp_path / "data")
    first, last = result.stderr.strip().splitlines()
    assert first.endswith("; likewise u1, u2, u3 and 36 more")
    assert last.endswith("test/text: no words: test0")


def test_what_asr_sh_will_leave_out_is_noted(prepare, corpus, tmp_path):
    write_audio(corpus, "train0", np.random.default_rng(1).uniform(-1, 1, 25 * 8000))
    notes = prepare(corpus, tmp_path / "data").stdout
    assert "note: train: ESPnet drops 1 of 2 utterances" in notes
    assert "(--min_wav_duration, --max_wav_duration): train0" in notes
    options = "--max_wav_duration", "30"
    assert "ESPnet drops" not in prepare(corpus, tmp_path / "data", *options).stdout


def test_speakers_of_the_training_set_in_a_test_set_are_noted(
    prepare, corpus, tmp_path
):
    notes = prepare(corpus, tmp_path / "data").stdout
    assert "note: test shares speakers with train: spk0, spk1" in notes
    write(corpus / "test/utt2spk", ["test0 other0", "test1 other1"])
    assert "shares speakers" not in prepare(corpus, tmp_path / "data").stdout
