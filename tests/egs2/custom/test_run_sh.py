# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""./run.sh --corpus custom, on mini_an4's recordings as somebody's own corpus."""

import json
import shutil

import numpy as np
import pytest
import resampy
import soundfile
import yaml

from espnet_reuse.data.data_dir import read_scp

SMALL = {"max_epoch": 1, "batch_type": "unsorted", "batch_size": 4, "num_workers": 0}
SMALL_ENCODER = {"output_size": 32, "num_blocks": 3}


@pytest.fixture(scope="module")
def corpus(an4, tmp_path_factory):
    """A corpus in which much is odd, but nothing wrong.

    In stereo; the training set is segments of the output of a command; one test
    recording has another rate; ids are paths, speakers' names go on one another's,
    transcripts have white space of all kinds.
    """
    root = tmp_path_factory.mktemp("コーパス")
    for name, chosen in (("learn", an4[:4]), ("dev", an4[4:5]), ("unseen", an4[5:])):
        folder = root / name
        folder.mkdir()
        lines = {"wav.scp": [], "text": [], "utt2spk": [], "segments": []}
        for n, (words, wav) in enumerate(chosen):
            stereo = np.stack([wav, wav[::-1]], axis=1)
            path, rate = folder / f"{n} é.ogg", 16000
            if name == "unseen" and n == 0:
                stereo, rate = resampy.resample(stereo, 16000, 8000, axis=0), 8000
            soundfile.write(path, stereo, rate)
            lines["wav.scp"].append(f"{name}/{n} {name}/{path.name}\n")
            lines["text"].append(f"{name}/{n}\t{words.replace(' ', '\u3000')}\n")
            lines["utt2spk"].append(f"{name}/{n} {name}{'+' * n}\n")
        if name == "learn":
            lines["wav.scp"] = ["all cat learn/all.wav |\n"]
            wavs, end = [wav for _, wav in chosen], 0
            soundfile.write(
                folder / "all.wav", np.tile(np.concatenate(wavs), (2, 1)).T, 16000
            )
            for n, wav in enumerate(wavs):
                start, end = end, end + len(wav)
                times = f"{start / 16000} {end / 16000}"
                lines["segments"].append(f"{name}/{n} all {times}\n")
        for file, content in lines.items():
            if content:
                (folder / file).write_text("".join(content), encoding="utf-8")
    return root


def run(repository, corpus, *options):
    return repository.run(
        *("./run.sh", "--corpus", "custom", "--data", corpus, "--train_set", "learn"),
        *("--inference_args", "--beam_size 2", "--allow_commands", "true", *options),
    )


@pytest.fixture(scope="module")
def compared(copy_repository, corpus):
    """A repository with the comparison of two models, of one epoch."""
    repository = copy_repository()
    for path in repository.recipe_of("custom").glob("conf/**/train_asr_*.yaml"):
        config = yaml.safe_load(path.read_text()) | SMALL
        config["encoder_conf"] |= SMALL_ENCODER
        path.write_text(yaml.safe_dump(config))
    options = ("--models", "baseline reuse3_warm", "--test_sets", "unseen")
    options += ("--stop_stage", "7", "--analysis_args", "--num_utts 2")
    repository.status, repository.output = run(repository, corpus, *options)
    return repository


@pytest.mark.slow
def test_the_whole_comparison_runs_on_a_corpus_of_ones_own(compared):
    assert compared.status == 0, compared.output
    exp = compared.recipe_of("custom") / "exp"
    comparison = json.loads((exp / "comparison.json").read_text())
    assert list(comparison["models"]) == ["baseline", "reuse3_warm"]
    assert "\n  reuse3_warm " in compared.output
    assert len(list(exp.glob("*/analysis/unseen/report.html"))) == 2
    for note in (
        "learn: white space, U+3000, became single spaces in 1: learn/2",
        "audio of several rates, in Hz, is resampled: 8000: unseen/unseen/0; 16000",
        "the audio has 2 channels",
        "ids do not sort in the order of their speakers",
    ):
        assert f"note: {note}" in compared.output


def prepare(repository, root, sets, *options):
    return repository.run(
        *(repository.root / "run.sh", "--corpus", "custom", "--stop_stage", "1"),
        *("--models", "baseline", "--test_sets", sets, "--data", root.name, *options),
        cwd=root.parent,
    )


@pytest.mark.slow
def test_any_rate_is_taken_and_what_is_edited_is_prepared_anew(
    copy_repository, make_corpus, tmp_path
):
    repository = copy_repository()
    data = repository.recipe_of("custom") / "data"
    dump = repository.recipe_of("custom") / "dump/raw"
    first, second = (
        make_corpus(tmp_path / name, ["train", "dev", *sets])
        for name, sets in (("first", ["old"]), ("second", ["test"]))
    )
    status, output = prepare(repository, first, "old")
    assert status == 0, output
    shutil.rmtree(first)  # and yet it does not stand in the way of another corpus

    for utt_id, rate in (("train0", 8000), ("train1", 48000)):
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, rate)
        soundfile.write(second / f"{utt_id}.flac", noise, rate)
    status, output = prepare(repository, second, "test")
    assert status == 0, output
    lengths = read_scp(dump / "org/train/utt2num_samples")
    assert [int(n) for n in lengths.values()] == [16000, 16000]

    text = second / "train/text"
    text.write_text(text.read_text().replace("COFFEE", "TEA"))
    (second / "test/text").write_text("")
    (second / "dev/text").unlink()
    status, output = prepare(repository, second, "test")
    assert status != 0
    *problems, last = output.splitlines()[-3:]
    for problem, message in zip(
        problems, ("dev/text is missing", "test/text is empty"), strict=True
    ):
        assert problem.startswith("run.sh: error: ") and message in problem
    assert "Stage 1: data preparation failed: for the 2 reasons above" in last

    for name in ("dev", "test"):
        (second / name / "text").write_text(f"{name}0 TEA\n{name}1 TEA\n")
    status, output = prepare(repository, second, "test")
    assert status == 0, output
    assert set(read_scp(data / "train/text").values()) == {"TEA"}
    status, output = prepare(repository, second, "test")
    assert status == 0 and "data preparation: done already" in output


@pytest.mark.slow
def test_audio_that_espnet_cannot_decode_is_named(
    copy_repository, make_corpus, tmp_path
):
    root = make_corpus(tmp_path / "scratched", ["train", "dev", "test"])
    flac = (root / "test1.flac").read_bytes()
    middle = len(flac) // 2
    (root / "test1.flac").write_bytes(flac[:middle] + bytes(99) + flac[middle + 99 :])
    status, output = prepare(copy_repository(), root, "test")
    assert status != 0
    last = output.splitlines()[-1]
    assert "Stage 1: formatting of the data: check of data failed: " in last
    assert f"test/wav.scp: spk1-test1: {root}/test1.flac " in last


@pytest.mark.parametrize("sets", ["test,dev", "audio/test"])
def test_what_is_not_the_name_of_a_set_is_refused(copy_repository, sets):
    status, output = copy_repository().run(
        *("./run.sh", "--corpus", "custom", "--data", ".", "--test_sets", sets)
    )
    assert status != 0
    assert f"--test_sets: '{sets}' is not the name of a set" in output.splitlines()[-1]


@pytest.mark.slow
def test_what_an_earlier_state_of_a_model_decoded_is_not_kept(compared, corpus):
    asr_exp = compared.recipe_of("custom") / "exp/asr_train_asr_conformer"
    (decode_dir,) = asr_exp.glob("decode_asr_beam*")
    assert (decode_dir / "unseen/text").is_file()
    path = compared.recipe_of("custom") / "conf/train_asr_conformer.yaml"
    path.write_text(path.read_text().replace("max_epoch: 1", "max_epoch: 2"))
    options = ("--models", "baseline", "--test_sets", "dev")
    status, output = run(compared, corpus, *options)
    assert status == 0, output
    assert (decode_dir / "org/dev/text").is_file()
    assert not (decode_dir / "unseen").exists()
    options = ("--models", "baseline", "--test_sets", "unseen")
    status, output = run(compared, corpus, *options)
    assert status == 0 and "training baseline: done already" in output
    for name in ("org/dev", "unseen"):
        assert (decode_dir / name / "text").is_file()


@pytest.mark.slow
def test_other_data_do_not_pass_for_those_that_a_model_was_trained_on(
    compared, corpus, tmp_path
):
    shutil.copytree(corpus, tmp_path / "other")
    text = tmp_path / "other/learn/text"
    text.write_text(text.read_text().replace("learn/0\t", "learn/0\tONE MORE "))
    status, output = run(compared, tmp_path / "other", "--test_sets", "unseen")
    assert status != 0
    assert "asr_train_asr_conformer was made before a change" in output
    assert "tokens and statistics: dump/raw/learn: " in output.splitlines()[-1]
