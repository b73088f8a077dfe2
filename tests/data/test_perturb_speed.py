# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""espnet_reuse.data.perturb_speed, stage 2 of every recipe's asr.sh."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_reuse.data.data_dir import (
    Utterance,
    read_data_dir,
    read_scp,
    write_data_dir,
)
from espnet_reuse.data.perturb_speed import main

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parts[-3] for path in ROOT.glob("egs2/*/asr1/run.sh"))
PROGRAM = (sys.executable, "-m", "espnet_reuse.data.perturb_speed")


@pytest.fixture
def source(an4, tmp_path):
    """A data directory, <tmp_path>/train, with four recordings of two speakers."""
    utterances = []
    for n, (words, wav) in enumerate(an4[:4]):
        path, speaker = tmp_path / f"{n}.wav", f"spk{n % 2}"
        soundfile.write(path, wav, 16000)
        utterances.append(Utterance(f"{speaker}-{n}", speaker, words, path))
    write_data_dir(tmp_path / "train", utterances)
    return tmp_path / "train"


def perturb(source, factor="0.9", *options):
    """Return what is made of a data directory, {id without its factor: utterance}."""
    target = source.with_name(f"train_sp{factor}")
    main([*options, factor, str(source), str(target)])
    prefix = f"sp{factor}-"
    assert all(
        u.utt_id.startswith(prefix) and u.speaker.startswith(prefix)
        for u in read_data_dir(target)
    )
    return {u.utt_id.removeprefix(prefix): u for u in read_data_dir(target)}


@pytest.mark.parametrize("factor", ["0.9", "1.1"])
def test_perturbed_speech_has_another_speed_and_the_same_words(source, factor):
    perturbed = perturb(source, factor)
    assert len(perturbed) == 4
    for u in read_data_dir(source):
        assert perturbed[u.utt_id].words == u.words
        wav, rate = soundfile.read(u.audio)
        other, _ = soundfile.read(perturbed[u.utt_id].audio)
        assert abs(len(other) - len(wav) / float(factor)) <= 1
        # the strongest frequency moves by the factor
        peaks = [
            np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * rate / len(x)
            for x in (wav, other)
        ]
        assert peaks[1] == pytest.approx(peaks[0] * float(factor), rel=0.02)


def test_segments_of_one_recording_become_recordings_of_their_lengths(source):
    first = read_data_dir(source)[0]
    long, _ = soundfile.read(first.audio)
    folder = source.parent
    soundfile.write(folder / "long.wav", np.concatenate([long] * 2), 16000)
    (source / "wav.scp").write_text(f"long {folder}/long.wav\n")
    (source / "text").write_text("spk0-a GO\nspk0-b ON\n")
    (source / "utt2spk").write_text("spk0-a spk0\nspk0-b spk0\n")
    times = {"spk0-a": (0.25, 1), "spk0-b": (0.5, 1.75)}
    (source / "segments").write_text(
        "".join(f"{k} long {a} {b}\n" for k, (a, b) in times.items())
    )
    perturbed = perturb(source)
    assert perturbed.keys() == times.keys()
    for utt_id, (start, end) in times.items():
        u = perturbed[utt_id]
        length = pytest.approx((end - start) / 0.9, abs=0.001)
        assert soundfile.info(u.audio).duration == length
        assert u.segment == (0, length)


def test_what_is_cut_in_another_way_is_made_again_and_nothing_else(source):
    utterances = [replace(u, segment=(0.1, 0.6)) for u in read_data_dir(source)]
    write_data_dir(source, utterances)
    before = perturb(source)
    ages = {u.audio: u.audio.stat().st_mtime_ns for u in before.values()}
    # as long as before
    utterances[0] = replace(utterances[0], segment=(0.2, 0.7))
    write_data_dir(source, utterances)
    after = perturb(source)
    changed = [k for k, u in after.items() if u.audio not in ages]
    assert changed == [utterances[0].utt_id]
    for utt_id in after.keys() - set(changed):
        path = after[utt_id].audio
        assert path.stat().st_mtime_ns == ages[path]
    assert not before[changed[0]].audio.exists()


@pytest.mark.slow
def test_a_killed_perturbation_is_continued_to_the_same_files(source):
    target = source.with_name("train_sp0.9")
    audio = source.parent / "speed_perturb"
    command = [*PROGRAM, "0.9", source, target]
    # so many that it is at work for a while
    utterances = [
        replace(u, utt_id=f"{u.utt_id}-{n}")
        for u in read_data_dir(source)
        for n in range(50)
    ]
    write_data_dir(source, utterances)
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.time() + 60
    while not list(audio.glob("*/*/*.flac")) and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    def whole_files():  # what was at work is in a folder of its own
        paths = audio.glob("*/*/*.flac")
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}

    done = whole_files()
    assert 0 < len(done) < 200 and not target.exists()
    main(["0.9", str(source), str(target)])
    continued = whole_files()
    assert len(continued) == 200 and done.items() <= continued.items()
    shutil.rmtree(audio)
    main(["0.9", str(source), str(target)])
    anew = whole_files()
    assert {p: c for p, (c, _) in continued.items()} == {
        p: c for p, (c, _) in anew.items()
    }


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_that_looks_whole(source):
    small = source.parent / "small"
    small.mkdir()

    def with_64_kb(command):
        mount = f"mount -t tmpfs -o size=64k none {small} && {command}"
        return subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
            capture_output=True,
            text=True,
        )

    if with_64_kb("true").returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system")
    command = shlex.join([*PROGRAM, "0.9", str(source), f"{small}/train_sp0.9"])
    result = with_64_kb(f"{command}; s=$?; ls {small}; exit $s")
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1 and "no space left" in line.lower(), result.stderr
    assert result.stdout == ""


def make_training_set(recipe):
    """Make data/<train_set> of a recipe, some of it with segments, and return it."""
    (train_set,) = (
        line.split('"')[1]
        for line in (recipe / "conf/asr.conf").read_text().splitlines()
        if line.startswith("train_set=")
    )
    audio = recipe / "noise.wav"
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000)
    soundfile.write(audio, noise, 16000)
    # speakers that sort before, between and after the perturbed ones
    write_data_dir(
        recipe / "data" / train_set,
        [
            Utterance(f"{speaker}-{n}", speaker, "GO ON", audio, (0.1, 0.9))
            for speaker in ("a", "sp", "sp0", "sp1", "z")
            for n in range(2)
        ],
    )
    return train_set


@pytest.mark.parametrize(
    "corpus",
    [
        pytest.param(name, marks=() if name == "custom" else pytest.mark.slow)
        for name in RECIPES
    ],
)
def test_stage_2_of_each_recipes_own_run_sh_needs_no_sox(repository, corpus):
    assert shutil.which("sox") is None
    recipe = repository.recipe_of(corpus)
    train_set = make_training_set(recipe)
    status, output = repository.run(
        *("./run.sh", "--speed_perturb_factors", "0.9 1.0 1.1"),
        *("--stage", "2", "--stop_stage", "2", "--nj", "1"),
        cwd=recipe,
    )
    assert status == 0, output
    perturbed = f"data/{train_set}_sp"
    assert len(read_scp(recipe / perturbed / "text")) == 30
    validate = ("utils/validate_data_dir.sh", "--no-feats", perturbed)
    status, output = repository.run(*validate, cwd=recipe)
    assert status == 0, output


@pytest.mark.parametrize("factors", ["fast", "1.0 1.0", "-1", "-fast"])
def test_a_recipes_own_run_sh_refuses_wrong_factors_before_it_makes_anything(
    copy_repository, factors
):
    recipe = copy_repository().recipe_of("mini_an4")
    run = subprocess.run(
        ["./run.sh", "--speed_perturb_factors", factors, "--stop_stage", "2"],
        cwd=recipe,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    error = f"perturb_speed: error: --speed_perturb_factors: '{factors}' "
    assert error in run.stderr.splitlines()[-1]
    assert not (recipe / "data").exists() and not (recipe / "dump").exists()
