# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Boundaries of phones, from every kind of alignment."""

import collections
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_reuse.analysis import alignments
from espnet_reuse.analysis.alignments import Phone, Unaligned
from espnet_reuse.analysis.phonemes import normalise
from espnet_reuse.errors import UserError

FOLDER = Path(__file__).parent / "alignments"
HELLO = [Phone("SIL", 0, 0.25), Phone("HH", 0.25, 0.3), Phone("AH", 0.3, 0.52)]
HELLO += [Phone("L", 0.52, 0.7), Phone("OW", 0.7, 1.2)]
SPEECH, RATE = np.zeros(19200, np.float32), 16000  # 1.2 s
CORPUS = Path(__file__).resolve().parents[3] / "shared/corpora/phone-aligned"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="no phone-aligned corpus")


def open_(source, *utt_ids, cache=Path("unused"), **options):
    return alignments.Alignments(str(source), cache, utt_ids, {}, **options)


def assert_same_phones(actual, expected, tolerance=1e-9):
    assert [p.symbol for p in actual] == [p.symbol for p in expected]
    times = ([p[1:] for p in phones] for phones in (actual, expected))
    np.testing.assert_allclose(*times, atol=tolerance)


# ------------------------------ files ------------------------------


@pytest.mark.parametrize("name", ["long", "short"])
def test_a_textgrid_gives_its_phones(name):
    assert_same_phones(open_(FOLDER, name)(name, SPEECH, RATE, None), HELLO)


def test_a_ctm_file_gives_each_utterances_phones_in_order():
    source = open_(FOLDER / "phones.ctm", "hello", "other")
    assert_same_phones(source("hello", SPEECH, RATE, None), HELLO)
    with pytest.raises(Unaligned, match="only silence in the alignment"):
        source("other", SPEECH, RATE, None)


@needs_corpus
@pytest.mark.parametrize("name", ["acoustic_corpus", "cold_corpus", "cold_corpus3"])
def test_aligned_speech_gives_the_boundaries_in_its_file(name):
    path = CORPUS / "mfa-tests" / f"{name}.TextGrid"
    # the file itself, without a library: three lines for each interval of the last tier
    tier = path.read_text().split('"phones"\n')[1]
    intervals = re.findall(r'([\d.]+)\n([\d.]+)\n"(.*)"\n', tier)
    expected = [Phone(normalise(s), float(a), float(b)) for a, b, s in intervals]
    assert len(expected) > 200
    speech, rate = soundfile.read(path.with_suffix(".flac"), dtype="float32")
    source = open_(CORPUS / "mfa-tests", name)
    assert_same_phones(source(name, speech, rate, None), expected)


def test_textgrids_are_found_in_folders_of_speakers(tmp_path):
    folder = tmp_path / "{corpus}" / "speaker" / "chapter"
    folder.mkdir(parents=True)
    (folder / "utt-1.TextGrid").write_text((FOLDER / "long.TextGrid").read_text())
    source = open_(tmp_path / "{corpus}", "utt-1")
    assert_same_phones(source("utt-1", SPEECH, RATE, None), HELLO)


def test_frames_get_the_phone_at_their_time():
    times = np.array([0.0, 0.249, 0.25, 0.5, 0.52, 1.199, 1.2, 3.0])
    phonemes = alignments.phones_at(times, HELLO)
    assert phonemes.tolist() == ["SIL", "SIL", "HH", "AH", "L", "OW", None, None]


# ------------------------------ bad input ------------------------------


def assert_refused(message, function, *args):
    with pytest.raises(UserError, match=message) as raised:
        function(*args)
    assert "\n" not in str(raised.value) and "--" not in str(raised.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("xmin", "phones?", "utt.TextGrid cannot be read as a TextGrid"),
        ('"phones"', '"segments"', "one interval tier 'phones', but has 0"),
        ('"words"', '"speaker - phones"', "one interval tier 'phones', but has 2"),
        ('"phones"', '"telephones"', "one interval tier 'phones', but has 0"),
        ("xmin = 0.52", "xmin = 0.40", "overlap .*0.52, AH0.* and .*0.4, 0.7"),
    ],
)
def test_what_is_not_a_textgrid_of_phones_is_named(tmp_path, old, new, message):
    path = tmp_path / "utt.TextGrid"
    path.write_text((FOLDER / "long.TextGrid").read_text().replace(old, new))
    assert_refused(message, alignments.read_textgrid, path)


def test_a_tier_of_points_has_no_phones(tmp_path):
    path = tmp_path / "utt.TextGrid"
    head, *_ = (FOLDER / "short.TextGrid").read_text().partition("0\n1.2\n5\n")
    points = '0\n1.2\n2\n0.3\n"AH"\n0.5\n"L"\n'
    path.write_text(head.replace("IntervalTier", "TextTier") + points)
    assert_refused("but has 0 .its tiers: none", alignments.read_textgrid, path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("utt 1 0.0 SIL", ":1 must be 'utterance channel start duration phone'"),
        ("utt 1 zero 0.1 SIL", ":1 must be"),
        (
            "utt 1 0 0.5 SIL\nutt 1 0.3 0.5 AH",
            "utt: the phone AH, 0.3 to 0.8 s, must",
        ),
        ("utt 1 0.5 -0.2 AH", "utt: the phone AH, 0.5 to 0.3 s, must"),
        ("utt 1 nan 0.1 AH", "utt: the phone AH, nan to nan s, "),
        ("utt 1 0.1 nan AH", "utt: the phone AH, 0.1 to nan s, "),
        (";; no phones", "phones.ctm has no phones"),
    ],
)
def test_a_wrong_line_of_a_ctm_file_is_named(tmp_path, line, message):
    path = tmp_path / "phones.ctm"
    path.write_text(line + "\n")
    assert_refused(message, alignments.read_ctm, path)


def test_a_file_that_is_not_text_is_no_ctm_file(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, SPEECH + 0.5, RATE)
    assert_refused("speech.wav is not a CTM file", alignments.read_ctm, path)


def test_of_two_textgrids_of_one_name_none_is_chosen(tmp_path):
    for speaker, name in (("a", "utt"), ("b", "utt"), ("b", "other")):
        (tmp_path / speaker).mkdir(exist_ok=True)
        text = (FOLDER / "long.TextGrid").read_text()
        (tmp_path / speaker / f"{name}.TextGrid").write_text(text)
    both = "a/utt.TextGrid and .*b/utt.TextGrid are both of the same"
    assert_refused(both, open_, tmp_path, "utt")
    source = open_(tmp_path, "other")
    assert_same_phones(source("other", SPEECH, RATE, None), HELLO)


def test_alignments_that_are_not_there_are_named(tmp_path):
    assert_refused("'/no/where' does not exist", open_, "/no/where")
    assert_refused(r"has no \*.TextGrid", open_, tmp_path)


@pytest.mark.parametrize("path", [FOLDER, FOLDER / "phones.ctm"], ids=lambda p: p.name)
def test_an_utterance_without_alignment_is_named_or_counted(path):
    name = "long" if path == FOLDER else "hello"
    assert_refused("no phones of utt-7, .* allow_missing", open_, path, name, "utt-7")
    source = open_(path, name, "utt-7", allow_missing=True)
    with pytest.raises(Unaligned) as raised:
        source("utt-7", SPEECH, RATE, "A")
    assert str(raised.value) == "no alignment given"


def test_an_alignment_of_longer_audio_is_refused():
    source = open_(FOLDER, "long")
    assert source("long", SPEECH[: int(1.16 * RATE)], RATE, None)  # by rounding
    longer = "the phones of long end at 1.20 s, but its audio lasts 1.00 s"
    assert_refused(longer, source, "long", SPEECH[:RATE], RATE, None)


# ------------------------------ pocketsphinx ------------------------------


def test_the_words_of_an4_are_aligned_with_a_pronunciation_each(an4):
    import pocketsphinx

    dictionary = collections.defaultdict(list)
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    for line in path.read_text(encoding="utf-8").splitlines():
        word, phonemes = line.split(maxsplit=1)
        dictionary[word.partition("(")[0]].append(phonemes)
    for words, wav in an4:
        wav = wav.astype(np.float32)
        phones = alignments.align_with_pocketsphinx(wav, RATE, words)
        spoken = [phone.symbol for phone in phones if phone.symbol != "SIL"]
        pattern = [f"({'|'.join(dictionary[w])})" for w in words.lower().split()]
        assert re.fullmatch(" ".join(pattern), " ".join(spoken)), words
        # without a gap, within the audio
        assert phones[0].start == 0 and phones[-1].end <= len(wav) / RATE + 0.01
        for left, right in zip(phones, phones[1:], strict=False):
            assert left.end == pytest.approx(right.start) and left.start < left.end


def test_another_sampling_rate_moves_no_boundary_by_much(an4):
    import torch
    import torchaudio

    words, wav = an4[0]
    wav = torch.from_numpy(wav.astype(np.float32))
    expected = alignments.align_with_pocketsphinx(wav.numpy(), RATE, words)
    twice = torchaudio.functional.resample(wav, RATE, 2 * RATE).numpy()
    actual = alignments.align_with_pocketsphinx(twice, 2 * RATE, words)
    assert_same_phones(actual, expected, tolerance=0.03)


def test_unknown_words_and_too_little_audio_are_not_guessed(an4):
    words, wav = an4[0]
    wav = wav.astype(np.float32)
    for text, speech, reason in (
        (words + " blorque zyzzq", wav, "unknown words"),
        (words, wav[:1600], "no alignment found"),
        (words, wav[:0], "no audio"),
        ("", wav, "no words"),
    ):
        with pytest.raises(Unaligned, match=reason):
            alignments.align_with_pocketsphinx(speech, RATE, text)


def test_what_was_aligned_or_failed_once_is_kept(an4, tmp_path, monkeypatch):
    words, wav = an4[0]
    wav = wav.astype(np.float32)
    source = open_("pocketsphinx", cache=tmp_path)
    phones = source("utt", wav, RATE, words)
    with pytest.raises(Unaligned):
        source("other", wav, RATE, "blorque")
    with monkeypatch.context() as patch:
        patch.setattr(alignments, "align_with_pocketsphinx", None)
        assert source("utt", wav, RATE, words) == phones
        with pytest.raises(Unaligned, match="unknown words"):
            source("other", wav, RATE, "blorque")
    # other words are another alignment, here one that fails
    with pytest.raises(Unaligned, match="no alignment found"):
        source("utt", wav, RATE, "no")


def test_other_audio_rate_words_or_pocketsphinx_are_aligned_anew(tmp_path, monkeypatch):
    def count_kept(speech=SPEECH, rate=RATE, text="blorque"):
        source = open_("pocketsphinx", cache=tmp_path)
        with pytest.raises(Unaligned):
            source("utt", speech, rate, text)
        return len(list(tmp_path.iterdir()))

    assert count_kept() == count_kept() == 1
    assert count_kept(speech=SPEECH + 0.1) == 2
    assert count_kept(rate=8000) == 3
    assert count_kept(text="zyzzq") == 4
    monkeypatch.setattr(alignments, "version", lambda package: "another")
    assert count_kept() == 5


def test_pocketsphinx_without_words_is_refused(tmp_path):
    source = open_("pocketsphinx", cache=tmp_path)
    with pytest.raises(UserError, match="utt-7 has no line in text"):
        source("utt-7", SPEECH, RATE, None)


def agreement(actual, expected, seconds):
    """Share of 10 ms frames that have the same phone in both."""
    times = np.arange(0.005, seconds, 0.01)
    shown, wanted = (alignments.phones_at(times, p) for p in (actual, expected))
    return (shown == wanted).mean()


@needs_corpus
def test_pocketsphinx_gives_the_boundaries_that_it_is_shipped_with():
    """But for its running mean of the cepstra, which began elsewhere in those files."""
    agreements = []
    for path in sorted((CORPUS / "pocketsphinx-librivox").glob("*.phone.json")):
        shipped = json.loads(path.read_text())
        expected = [
            Phone(phone["t"], phone["b"], phone["b"] + phone["d"])
            for word in shipped["w"]
            for phone in word["w"]
        ]
        audio = path.with_name(path.name.replace(".phone.json", ".flac"))
        speech, rate = soundfile.read(audio, dtype="float32")
        words = audio.with_suffix(".txt").read_text()
        actual = alignments.align_with_pocketsphinx(speech, rate, words)
        agreements.append(agreement(actual, expected, len(speech) / rate))
    assert len(agreements) == 5
    assert min(agreements) > 0.9 and np.median(agreements) > 0.98, agreements


@needs_corpus
def test_pocketsphinx_gives_cmu_arctics_phones_with_boundaries_20_ms_off_at_most():
    """On average; measured: 13 ms, at most 45 ms."""
    folder = CORPUS / "cmu-arctic-a0009"
    labels = (folder / "arctic_a0009_phone.lab").read_text().splitlines()
    expected_symbols, expected_starts = [], []
    for start, _, context in map(str.split, labels):
        symbol = normalise(re.search(r"-(.*?)\+", context).group(1))
        # the reduced vowel of HTS, which CMUdict writes AH0
        expected_symbols.append("AH" if symbol == "ax" else symbol)
        hundred_ns = 1e-7
        expected_starts.append(int(start) * hundred_ns)
    speech, rate = soundfile.read(folder / "arctic_a0009.flac", dtype="float32")
    words = "he turned sharply and faced gregson across the table"
    phones = alignments.align_with_pocketsphinx(speech, rate, words)
    assert [phone.symbol for phone in phones] == expected_symbols
    differences = np.abs(np.array([p.start for p in phones]) - expected_starts)[1:]
    assert differences.mean() < 0.02 and differences.max() < 0.06
