# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Factors of speed, audio to perturb, options of the tokens: taken, or one line."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from table import Row, each

from espnet_reuse.comparison.recipe import Recipe
from espnet_reuse.data.data_dir import Utterance, read_data_dir, write_data_dir
from espnet_reuse.data.perturb_speed import main, perturb
from espnet_reuse.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NO_FACTOR = "is not a factor such as 0.9, from 0.5 to 2 with three decimals at most"


def options(**chosen):
    """Make options of ./run.sh."""
    return lambda folder: (
        chosen | {k: v.format(folder) for k, v in chosen.items() if "{}" in v}
    )


def factors(tried, text, outcome, line=""):
    made = options(speed_perturb_factors=text)
    return Row(f"factors that are {tried}", made, outcome, line)


def tokens(tried, outcome, line="", **chosen):
    return Row(tried, options(**chosen), outcome, line)


OPTIONS = [
    factors("three speeds", "0.9 1.0 1.1", "taken"),
    factors("one speed", "1.1", "taken"),
    factors("not in order, 1 without a point", "1.1 1 0.9", "taken"),
    factors("the ends of the range, three decimals", "0.5 0.875 2.0", "taken"),
    factors("none", "", "taken"),
    factors("with spaces to spare", " 0.9  1.0 ", "taken"),
    factors("a space alone", " ", "refused", f"' ' {NO_FACTOR}"),
    factors("zero", "0.9 0", "refused", f"'0' {NO_FACTOR}"),
    factors("negative", "-0.9", "refused", f"'-0.9' {NO_FACTOR}"),
    factors("in percent", "90 110", "refused", f"'90' {NO_FACTOR}"),
    factors("20 times", "20", "refused", f"'20' {NO_FACTOR}"),
    factors("just out of range", "0.499", "refused", f"'0.499' {NO_FACTOR}"),
    factors("words", "slow", "refused", f"'slow' {NO_FACTOR}"),
    factors("not a number to Python", "nan", "refused", f"'nan' {NO_FACTOR}"),
    factors("an exponent", "9e-1", "refused", f"'9e-1' {NO_FACTOR}"),
    factors("digits of Arabic", "٠.٩", "refused", f"'٠.٩' {NO_FACTOR}"),
    factors("with a decimal comma", "0,9", "refused", f"'0,9' {NO_FACTOR}"),
    factors("with commas between", "0.9,1.1", "refused", "several have spaces between"),
    factors("of many decimals", "0.98765", "refused", f"'0.98765' {NO_FACTOR}"),
    factors("the same twice", "1.0 1.0", "refused", "'1.0 1.0' has a factor more than"),
    factors("the same in two spellings", "0.9 0.90", "refused", "a factor more than"),
    factors("1 alone", "1.0", "refused", "1.0 alone changes nothing; '' is for none"),
    tokens("vocabulary of 500 pieces", "taken", nbpe="500", token_type="bpe"),
    tokens("vocabulary size beside characters", "taken", nbpe="500", token_type="char"),
    tokens("vocabulary of none", "refused", "--nbpe: '0' is not", nbpe="0"),
    tokens("vocabulary of fewer than none", "refused", "--nbpe: '-1' is", nbpe="-1"),
    tokens("vocabulary in thousands", "refused", "--nbpe: '5k' is not", nbpe="5k"),
    tokens("vocabulary with a comma", "refused", "--nbpe: '5,000' is", nbpe="5,000"),
    tokens("pieces by merging", "taken", bpemode="bpe"),
    tokens(
        "pieces of an unknown kind",
        "refused",
        "--bpemode: 'wordpiece' is not unigram, bpe, char or word",
        bpemode="wordpiece",
    ),
    tokens(
        "pieces of an unknown kind, and more that is wrong",
        "refused",
        "\n--nlsyms_txt: no file '/no/where'",
        bpemode="x",
        nlsyms_txt="/no/where",
    ),
    tokens("tokens that are words", "taken", token_type="word"),
    tokens("all characters in the pieces", "taken", bpe_char_cover="1"),
    tokens("nearly all characters in the pieces", "taken", bpe_char_cover="0.9995"),
    tokens(
        "characters in percent",
        "refused",
        "--bpe_char_cover: '99.95' is not a share from 0.98 to 1",
        bpe_char_cover="99.95",
    ),
    tokens(
        "too few characters",
        "refused",
        "--bpe_char_cover: '0.9' is not a share",
        bpe_char_cover="0.9",
    ),
    tokens("a list of symbols", "taken", nlsyms_txt="{}/symbols.txt"),
    tokens("no list of symbols", "taken", nlsyms_txt="none"),
    tokens(
        "a list of symbols that is not there",
        "refused",
        "--nlsyms_txt: no file '/no/where'",
        nlsyms_txt="/no/where",
    ),
    tokens(
        "a text for pieces that is not in the recipe's folder",
        "refused",
        f"--bpe_train_text: no file '{ROOT}/egs2/custom/asr1/my.txt'",
        bpe_train_text="my.txt",
    ),
    tokens(
        "texts of which one is made by the run and one is not there",
        "refused",
        "--lm_train_text: no file '/no/where'",
        lm_train_text="data/train/text {}/symbols.txt /no/where",
    ),
    tokens("texts of all kinds", "taken", lm_train_text="dump/raw/x {}/symbols.txt"),
]


@each(OPTIONS)
def test_an_option_is_taken_or_refused_before_anything_is_made(row, tmp_path):
    (tmp_path / "symbols.txt").write_text("<noise>\n")
    take = partial(Recipe, ROOT, "custom", row.make(tmp_path))
    if row.outcome == "taken":
        take()
        return
    with pytest.raises(UserError) as refusal:
        take()
    assert row.line in str(refusal.value)


def recording(rate=16000, channels=1, seconds=0.5, name="a.wav", **kwargs):
    """Make a recording; the channels are tones with 220, 440, ... periods a second."""

    def make(folder):
        times = np.arange(int(seconds * rate))[:, None] / rate
        tones = 0.5 * np.sin(2 * np.pi * 220 * times * np.arange(1, channels + 1))
        soundfile.write(folder / name, tones, rate, **kwargs)
        return folder / name

    return make


AUDIO = [
    Row("mono", recording(), "taken"),
    Row("stereo", recording(channels=2), "taken"),
    Row("8 channels, as many as FLAC has", recording(channels=8), "taken"),
    Row("8 kHz", recording(8000), "taken"),
    Row("11.025 kHz, of which 0.9 is no whole number", recording(11025), "taken"),
    Row("44.1 kHz, stereo", recording(44100, 2), "taken"),
    Row("48 kHz in 24 bits", recording(48000, subtype="PCM_24"), "taken"),
    Row("Ogg Vorbis", recording(name="a.ogg"), "taken"),
    Row("32-bit floats", recording(subtype="FLOAT"), "taken"),
    Row("a hundredth of a second", recording(seconds=0.01), "taken"),
]


@pytest.mark.parametrize("segment", [None, (0.1, 0.35)], ids=["whole", "cut"])
@each(AUDIO)
def test_a_perturbed_recording_keeps_its_rate_and_channels(row, segment, tmp_path):
    path = row.make(tmp_path)
    if segment and soundfile.info(path).duration < 0.4:
        segment = 0.001, 0.009
    target = tmp_path / "speaker/a.flac"
    perturb("0.9", Utterance("u", "s", "GO", path, segment), target)
    before, after = soundfile.info(path), soundfile.info(target)
    assert (after.samplerate, after.channels) == (before.samplerate, before.channels)
    length = segment[1] - segment[0] if segment else before.duration
    assert after.duration == pytest.approx(length / 0.9, abs=2 / before.samplerate)
    if after.duration > 0.2:
        wav, rate = soundfile.read(target, always_2d=True)
        spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))[:, None], axis=0))
        peaks = spectrum.argmax(axis=0) * rate / len(wav)
        expected = 0.9 * 220 * np.arange(1, after.channels + 1)
        assert peaks == pytest.approx(expected, abs=rate / len(wav))


def edited(file, old, new):
    """Change a file of a data directory with two utterances."""

    def make(folder):
        path = folder / file
        path.write_text(path.read_text().replace(old, new))

    return make


DIRECTORIES = [
    Row(
        "a set that is perturbed already",
        lambda folder: [
            edited(file, "a-1", "sp0.9-a-1")(folder)
            for file in ("text", "wav.scp", "utt2spk")
        ],
        "refused",
        "train has 0.9 already: sp0.9-a-1",
    ),
    Row(
        "a set of which audio is not there",
        edited("wav.scp", "a.wav", "b.wav"),
        "refused",
        "b.wav: No such file or directory",
    ),
    Row(
        "a set without the text of an utterance",
        edited("text", "a-1 GO\n", ""),
        "refused",
        "train/text: no line for: a-1",
    ),
    Row(
        "a set without a list of speakers",
        lambda folder: (folder / "utt2spk").unlink(),
        "refused",
        "train/utt2spk is missing",
    ),
]


@each(DIRECTORIES)
def test_a_wrong_directory_is_refused_in_one_line(row, tmp_path, capsys):
    audio, train = recording()(tmp_path), tmp_path / "train"
    write_data_dir(train, [Utterance(f"a-{n}", "a", "GO", audio) for n in range(2)])
    assert len(read_data_dir(train)) == 2
    row.make(train)
    with pytest.raises(SystemExit):
        main(["0.9", str(train), str(tmp_path / "train_sp0.9")])
    (line,) = capsys.readouterr().err.splitlines()
    assert row.line in line
    assert not (tmp_path / "train_sp0.9").exists()


def count_lines(path):
    return len(path.read_text().splitlines())


BPE = ("./run.sh", "--models", "baseline", "--stop_stage", "2", "--token_type", "bpe")
TOO_MANY = "Vocabulary size too high (5000). Please set it to a value <= "
TOO_FEW = "Vocabulary size is smaller than required_chars. 3 vs 22. "


@pytest.mark.slow
def test_after_a_vocabulary_of_a_wrong_size_another_needs_no_cleaning_up(repository):
    perturbed = ("--speed_perturb_factors", "0.9 1.0")
    for nbpe, line in (("5000", TOO_MANY), ("3", TOO_FEW)):
        status, output = repository.run(*BPE, *perturbed, "--nbpe", nbpe)
        last = output.splitlines()[-1]
        assert status != 0 and f"failed: --nbpe: {line}" in last, output
        assert "--character_coverage" not in last
    status, output = repository.run(*BPE, *perturbed, "--nbpe", "30")
    assert status == 0, output
    assert "formatting of the data: done already" in output
    # asr.sh by itself takes the texts from a set that is not there
    dump = repository.recipe / "dump/raw"
    assert count_lines(dump / "lm_train.txt") == 4
    assert count_lines(dump / "train_nodev_sp/text") == 8


@pytest.mark.slow
def test_speed_and_silence_of_a_corpus_of_ones_own_go_together(
    repository, make_corpus, tmp_path
):
    sets = ("train", "dev", "test")
    corpus = make_corpus(tmp_path / "corpus", sets)
    dump = repository.recipe_of("custom") / "dump/raw"

    def run(corpus, *options):
        command = ("./run.sh", "--corpus", "custom", "--data", corpus)
        status, output = repository.run(*command, "--stop_stage", "1", *options)
        assert status == 0, output

    def samples():
        lines = (dump / "train_sp/utt2num_samples").read_text().splitlines()
        return {k: int(n) for k, n in map(str.split, lines)}

    perturbed = ("--speed_perturb_factors", "0.9 1.0")
    run(corpus, *perturbed, "--trim_silence", "35")
    both = samples()
    ids = [f"{sp}spk{n}-train{n}" for sp in ("sp0.9-", "") for n in range(2)]
    assert list(both) == ids
    # half a second of noise, and a margin on both sides
    for utt_id, count in both.items():
        length = count / 16000 * (0.9 if utt_id.startswith("sp0.9-") else 1)
        assert 0.5 < length < 0.9
    run(corpus, *perturbed)
    assert all(count >= 32000 for count in samples().values())
    # what is left of it does not stand in the way of another corpus
    shutil.rmtree(corpus)
    run(make_corpus(tmp_path / "other", sets))
