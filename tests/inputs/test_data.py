# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Corpora that people bring to ./run.sh --corpus custom: taken, noted or refused."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from table import Row, each

from espnet_reuse.data.data_dir import read_data_dir
from espnet_reuse.data.prepare import PROG

ASR1 = Path(__file__).resolve().parents[2] / "egs2/mini_an4/asr1"
SETS = ("train", "dev", "test")


def lines(file, *lines):
    """Return a function that gives a file of the corpus these lines."""

    def write(corpus):
        text = "".join(f"{line}\n" for line in lines)
        (corpus / file).write_text(text, encoding="utf-8", newline="")

    return write


def data(file, content):
    """Return a function that gives a file of the corpus these bytes."""
    return lambda corpus: (corpus / file).write_bytes(content) and None


def zeros(file):
    """Return a function that overwrites the middle of a file."""

    def write(corpus):
        content = (corpus / file).read_bytes()
        half = len(content) // 2
        content = content[:half] + bytes(5000) + content[half + 5000 :]
        (corpus / file).write_bytes(content)

    return write


def words(text, name="train"):
    """Return a function that gives an utterance these words."""
    return lines(f"{name}/text", f"{name}0 {text}", f"{name}1 GO ON")


def audio(utt_id, wav, rate=8000, **form):
    """Return a function that writes an utterance's audio."""
    return lambda c: soundfile.write(c / f"audio/{utt_id}.flac", wav, rate, **form)


def noise(seconds, channels=1, rate=8000):
    wav = np.random.default_rng(1).uniform(-0.1, 0.1, (int(seconds * rate), channels))
    return wav[:, 0] if channels == 1 else wav


def train(*utterances):
    """Return a function that trains on these `id speaker`, all with words and audio."""

    def write(corpus):
        ids = [line.split(" ")[0] for line in utterances]
        lines("train/utt2spk", *utterances)(corpus)
        lines("train/text", *(f"{i} GO ON" for i in ids))(corpus)
        for n in range(len(ids)):
            audio(f"u{n}", noise(0.5))(corpus)
        paths = (f"{i} audio/u{n}.flac" for n, i in enumerate(ids))
        lines("train/wav.scp", *paths)(corpus)

    return write


def every(rate, channels=1, test_rate=None):
    """Return a function that gives all audio of the corpus this form."""

    def write(corpus):
        for n, path in enumerate((corpus / "audio").iterdir()):
            fs = test_rate if test_rate and path.stem.startswith("test") else rate
            soundfile.write(path, noise(0.5, channels, rate=fs) / (n + 1), fs)

    return write


def segments(*table, seconds=2.0):
    """Return a function that cuts the training set out of recordings a and b."""

    def write(corpus):
        for name in "ab":
            audio(name, noise(seconds))(corpus)
        lines("train/wav.scp", "a audio/a.flac", "b audio/b.flac")(corpus)
        lines("train/segments", *table)(corpus)

    return write


def all_of(*makers):
    """Return a function that does what all of them do."""
    return lambda corpus: [make(corpus) for make in makers] and None


def command(text):
    """Return a function that allows commands and gives one to an utterance."""
    scp = lines("test/wav.scp", f"test0 {text} |", "test1 audio/test1.flac")
    return only(scp, "--allow_commands", "true")


def only(make, *options):
    """Return a function that makes the same, for a run with these options."""
    return lambda corpus: make(corpus) or options


def remove(*files):
    return lambda corpus: [(corpus / file).unlink() for file in files] and None


def rename_utterance(corpus, old, new):
    for path in (corpus / old[:-1]).iterdir():
        path.write_text(path.read_text().replace(f"{old} ", f"{new} "))


SPEAKERS = [
    Row("a speaker's name goes on with '", train("1 O", "2 O'Neil"), "noted", "0-O"),
    Row("a speaker's name goes on with +", train("1 a", "2 a+b"), "noted", "1-a+b"),
    Row("a speaker's name goes on with -", train("1 F1", "2 F1-n"), "taken"),
    Row("ids become one behind speakers", train("b-c a", "c a-b"), "noted", "0-a"),
    Row("speakers with - in ids that sort wrong", train("a-1 a", "a-b-1 a-b"), "taken"),
    Row("speakers whose names sort after digits", train("1 s1", "2 s10"), "taken"),
    Row(
        "ids begin with speakers that _ divides", train("s1_a s1", "s10_a s10"), "taken"
    ),
    Row("ids that are their speakers", train("s1_a s1_a", "s10_a s10_"), "taken"),
    Row("some ids begin with the speaker", train("a-b a", "b a"), "taken"),
    Row("capital and small letters", train("1 anna", "2 Anna", "3 ANNA"), "taken"),
    Row("letters of any language", train("1 Ärger", "2 日本", "3 عمر"), "taken"),
    Row("a speaker's name is the beginning", train("1 a", "2 aa", "3 a."), "taken"),
    Row("a speaker's name goes on with !", train("1 a", "2 a!"), "noted", "1-a!"),
    Row("without utt2spk", remove("train/utt2spk"), "taken"),
    Row(
        "a name with spaces",
        lines("train/utt2spk", "train0 x", "train1 John Smith"),
        *(
            "refused",
            "train/utt2spk: a speaker's name with spaces: train1 (John Smith)",
        ),
    ),
    Row(
        "no speaker",
        lines("train/utt2spk", "train0 x", "train1"),
        *("refused", "train/utt2spk: no speaker: train1"),
    ),
    Row(
        "a speaker of ..",
        lines("train/utt2spk", "train0 x", "train1 ../y"),
        *(
            "refused",
            "train/utt2spk: ids that cannot name a file, of 200 bytes at most: ../y",
        ),
    ),
    Row("an id with /", train("a/1 a", "a/2 a"), "taken"),
    Row(
        *("an id of ..", train("../1 a", "2 a"), "refused"),
        "train/text: ids that cannot name a file, of 200 bytes at most: ../1",
    ),
    Row(
        *("an id from the root", train("/tmp/1 a", "2 a"), "refused"),
        "train/text: ids that cannot name a file, of 200 bytes at most: /tmp/1",
    ),
    Row(
        "ids and speakers of Common Voice, whose names have 128 digits",
        train(*(f"{n:0128}-common_voice_en_{n:08} {n:0128}" for n in (1, 2))),
        "taken",
    ),
    Row(
        *("an id of 300 letters", train("x" * 300 + " a", "2 a"), "refused"),
        "train/text: ids that cannot name a file, of 200 bytes at most: xxx",
    ),
    Row(
        "speakers in two sets",
        lines("test/utt2spk", "test0 train-0", "test1 x"),
        *("noted", "test shares speakers with train: train-0"),
    ),
    Row(
        "one speaker and no dev",
        all_of(train("1 a", "2 a"), lambda c: shutil.rmtree(c / "dev")),
        *("refused", "train: there is only one speaker, so none can be held out"),
    ),
    Row(
        "two speakers and no dev",
        all_of(train("1 a", "2 b"), lambda c: shutil.rmtree(c / "dev")),
        *("noted", "dev: 1 utterances of train, held out: all of"),
    ),
]

SPACES = {
    "a no-break space": "\u00a0",
    "an ideographic space": "\u3000",
    "a line separator": "\u2028",
    "a next line": "\u0085",
    "a narrow no-break space": "\u202f",
    "a form feed": "\f",
    "a unit separator": "\x1f",
    "a tab": "\t",
    "two blanks": "  ",
}
TEXTS = [
    *(
        Row(
            f"{name} between words",
            words(f"GO{space}ON"),
            *("noted", "became single spaces in 1: train0"),
        )
        for name, space in SPACES.items()
    ),
    *(
        Row(
            f"the word {word}",
            words(f"GO {word} ON"),
            *("refused", "train/text: symbols that Kaldi reserves, <s>, </s> or #0"),
        )
        for word in ("<s>", "</s>", "#0", "#0,")
    ),
    Row("#0 within a word", words("A#0 #01 <S>"), "taken"),
    Row(
        *("a NUL", words("GO\0ON"), "refused"),
        "train/text: control characters or byte order marks: train0",
    ),
    Row(
        "a byte order mark before a speaker who sorts first",
        train("1 a", "2 a", "3 \ufeffa"),
        "refused",
        "train/utt2spk: control characters or byte order marks: \ufeffa",
    ),
    Row(
        "files with byte order marks, one behind the other",
        words("GO\n\ufefftrain2 ON"),
        "refused",
        "train/text: control characters or byte order marks: \ufefftrain2",
    ),
    Row("an escape", words("\x1b[0mGO"), "refused", "control characters or byte order"),
    Row("a delete", words("GO\x7f ON"), "refused", "control characters or byte order"),
    Row("a zero-width non-joiner", words("می\u200cخواهم", "train"), "taken"),
    Row("an emoji of several characters", words("GO 👩\u200d🔬"), "taken"),
    Row(
        "letters with combining accents",
        words("E\u0301TE\u0301"),
        *(
            "noted",
            "letters that can be written in two ways (not in Unicode's form NFC)",
        ),
    ),
    Row(
        "small letters in the test set alone",
        words("go on", "test"),
        *("noted", "test: characters that are not in train and cannot be recognised"),
    ),
    Row(
        "a byte order mark",
        data("train/text", b"\xef\xbb\xbftrain0 GO ON\ntrain1 GO ON\n"),
        "taken",
    ),
    Row(
        "lines that end in CR LF",
        data("train/text", b"train0 GO ON\r\ntrain1 GO ON\r\n"),
        "taken",
    ),
    Row(
        "lines that end in CR",
        data("train/text", b"train0 GO ON\rtrain1 GO ON\r"),
        "taken",
    ),
    Row(
        "tabs behind ids",
        data("train/text", b"train0\tGO ON\ntrain1\tGO ON\n"),
        "taken",
    ),
    Row(
        "no end of the last line",
        data("train/text", b"train0 GO ON\ntrain1 GO ON"),
        "taken",
    ),
    Row(
        "Latin 1",
        data("train/text", b"train0 \xc9\ntrain1 A\n"),
        "refused",
        "train/text is not UTF-8",
    ),
    Row(
        "UTF-16",
        data("train/text", "train0 GO".encode("utf-16")),
        "refused",
        "train/text is not UTF-8",
    ),
    Row("an empty text", data("train/text", b""), "refused", "train/text is empty"),
    Row(
        "an empty line",
        lines("train/text", "train0 GO", "", "train1 GO"),
        "refused",
        "train/text: line 2 is empty",
    ),
    Row(
        "no words",
        lines("train/text", "train0", "train1 GO"),
        "refused",
        "train/text: no words: train0",
    ),
    Row(
        "only white space for words",
        lines("train/text", "train0 \u3000", "train1 GO"),
        "refused",
        "train/text: no words: train0",
    ),
    Row(
        "an id twice",
        lines("train/text", "train0 GO", "train1 GO", "train0 GO"),
        "refused",
        "train/text: duplicate ids: train0",
    ),
    Row(
        "an utterance without text",
        lines("dev/text", "dev0 GO"),
        "refused",
        "dev/text: no line for: dev1",
    ),
    Row("no text", remove("dev/text"), "refused", "dev/text is missing"),
    Row(
        "lines in another order",
        lines("train/text", "train1 GO ON", "train0 GO ON"),
        "taken",
    ),
]

RECORDINGS = [
    Row(
        "no audio for an utterance",
        lines("dev/wav.scp", "dev0 audio/dev0.flac"),
        "refused",
        "dev/wav.scp: no line for: dev1",
    ),
    Row(
        "no file for an id",
        lines("dev/wav.scp", "dev0 audio/dev0.flac", "dev1"),
        "refused",
        "dev/wav.scp: no file: dev1",
    ),
    Row(
        "a file that is not there",
        remove("audio/dev0.flac"),
        "refused",
        "dev0.flac cannot be read: No such file",
    ),
    Row(
        "a folder for a file",
        lines("dev/wav.scp", "dev0 audio", "dev1 audio/dev1.flac"),
        "refused",
        "dev/wav.scp: dev0: ",
    ),
    Row(
        "a text for audio",
        data("audio/dev0.flac", b"not audio"),
        "refused",
        "dev0.flac cannot be read or is cut short",
    ),
    Row(
        "an archive",
        lines("dev/wav.scp", "dev0 wav.ark:5", "dev1 audio/dev1.flac"),
        "refused",
        "dev/wav.scp: an archive instead of a file: dev0",
    ),
    Row(
        "no samples",
        audio("dev0", [], format="WAV"),
        "refused",
        "dev0.flac has no samples",
    ),
    Row(
        "one sample to train on",
        audio("train0", [0.1]),
        "noted",
        "ESPnet drops 1 of 2 utterances",
    ),
    Row(
        "50 ms to train on",
        audio("train0", noise(0.05)),
        "noted",
        "ESPnet drops 1 of 2 utterances",
    ),
    Row(
        "50 ms to test on",
        audio("test0", noise(0.05)),
        "refused",
        "test/wav.scp: shorter than 0.1 s, too short to be recognised: test0",
    ),
    Row(
        "less to test on than is trained on",
        only(audio("test0", noise(0.3)), "--min_wav_duration", "0.4"),
        "taken",
    ),
    Row(
        "25 s to train on",
        audio("train0", noise(25)),
        "noted",
        "(--min_wav_duration, --max_wav_duration): train0",
    ),
    Row("25 s to test on", audio("test0", noise(25)), "taken"),
    Row(
        "nothing but long ones",
        all_of(audio("train0", noise(25)), audio("train1", noise(26))),
        "refused",
        "train: ESPnet drops 2 of 2 utterances",
    ),
    Row(
        "a name with blanks",
        all_of(
            lambda c: (c / "audio/dev0.flac").rename(c / "audio/d 0.flac"),
            lines("dev/wav.scp", "dev0 audio/d 0.flac", "dev1 audio/dev1.flac"),
        ),
        "taken",
    ),
    Row(
        "a name in Japanese",
        all_of(
            lambda c: (c / "audio/dev0.flac").rename(c / "audio/音　声.flac"),
            lines("dev/wav.scp", "dev0 audio/音　声.flac", "dev1 audio/dev1.flac"),
        ),
        "taken",
    ),
    Row(
        "the same recording in two sets",
        lambda c: shutil.copy(c / "audio/dev1.flac", c / "audio/test1.flac") and None,
        "refused",
        "test/wav.scp: recordings that are also in dev: test1",
    ),
    Row(
        "the same file in two sets",
        lines("test/wav.scp", "test0 audio/dev1.flac", "test1 audio/test1.flac"),
        "refused",
        "test/wav.scp: recordings that are also in dev: test0",
    ),
    Row(
        "the same id in two sets",
        lambda c: rename_utterance(c, "test0", "train0"),
        "refused",
        "test/text: ids that are also in train: train0",
    ),
    Row(
        "one file twice in a set",
        lines("train/wav.scp", "train0 audio/train0.flac", "train1 audio/train0.flac"),
        "taken",
    ),
    Row(
        "samples that are no numbers",
        audio("train0", [np.nan] * 4000, format="WAV", subtype="FLOAT"),
        "refused",
        "train0.flac has samples that are not finite numbers",
    ),
    Row(
        "FLAC with damage in its middle",
        all_of(audio("train0", noise(3)), zeros("audio/train0.flac")),
        "refused",
        "train0.flac is damaged: ",
    ),
    Row(
        "a path that no file can have",
        data("test/wav.scp", b"test0 audio/test0\0.flac\ntest1 audio/test1.flac\n"),
        "refused",
        "cannot be read: embedded null",
    ),
    Row(
        "16 kHz to train and 8 kHz to test",
        every(16000, test_rate=8000),
        "noted",
        "audio of several rates, in Hz, is resampled: 8000: test/test0",
    ),
    Row("44.1 kHz everywhere", every(44100), "taken"),
    Row(
        "stereo everywhere",
        every(8000, channels=2),
        "noted",
        "2 channels: ESPnet trains on a random one",
    ),
    Row(
        "stereo and mono",
        audio("test0", noise(0.5, 2)),
        "refused",
        "recordings differ in channels",
    ),
    Row(
        "9 channels",
        audio("test0", noise(0.5, 9), format="WAV"),
        "refused",
        "test/wav.scp: more than 8 channels: test0",
    ),
    Row(
        "much silence",
        all_of(*(audio(f"train{n}", np.pad(noise(0.5), 8000)) for n in (0, 1))),
        "noted",
        "of train is silence before and after the speech",
    ),
    Row(
        "silence that is trimmed",
        only(
            all_of(*(audio(f"train{n}", np.pad(noise(0.5), 8000)) for n in (0, 1))),
            "--trim_silence",
            "35",
        ),
        "taken",
    ),
    Row(
        "little left to test on, trimmed",
        only(
            all_of(every(16000), audio("test0", np.pad(noise(0.05), 16000), 16000)),
            *("--trim_silence", "35", "--min_wav_duration", "0.45"),
        ),
        "taken",
    ),
    Row(
        "nothing but silence, trimmed",
        only(audio("train0", np.zeros(8000)), "--trim_silence", "35"),
        "taken",
    ),
]

SEGMENTS = [
    Row("segments", segments("train0 a 0 0.5", "train1 b 0.25 1.75"), "taken"),
    Row(
        "segments of one recording",
        segments("train0 a 0 0.5", "train1 a 0.5 1"),
        "noted",
        "recordings without segments are left out: b",
    ),
    Row("segments that overlap", segments("train0 a 0 1", "train1 b 0.5 1.5"), "taken"),
    Row(
        "a segment to the end, -1", segments("train0 a 0 1", "train1 b 0.5 -1"), "taken"
    ),
    Row(
        "a segment that ends a little late",
        segments("train0 a 0 1", "train1 b 0.5 2.3"),
        "taken",
    ),
    Row(
        "a segment that ends too late",
        segments("train0 a 0 1", "train1 b 0.5 2.6"),
        "refused",
        "train/segments: beyond the end of the recording: train1 (b 0.5 2.6 of 2 s)",
    ),
    Row(
        "a segment that begins too late",
        segments("train0 a 0 1", "train1 b 2.1 2.2"),
        "refused",
        "train/segments: beyond the end of the recording: train1",
    ),
    Row(
        "a segment that ends before it begins",
        segments("train0 a 1 0.5", "train1 b 0 1"),
        "refused",
        "train/segments: an end that is not after the start: train0 (a 1 0.5)",
    ),
    Row(
        "a segment of no length",
        segments("train0 a 1 1", "train1 b 0 1"),
        "refused",
        "train/segments: an end that is not after the start: train0",
    ),
    Row(
        "a segment from before the start",
        segments("train0 a -0.5 1", "train1 b 0 1"),
        "refused",
        "train/segments: an end that is not after the start: train0",
    ),
    Row(
        "a time that is no number",
        segments("train0 a 0 nan", "train1 b 0 x"),
        "refused",
        "train/segments: not a recording, start and end: train1",
    ),
    Row(
        "segments with a channel",
        segments("train0 a 0 1 A", "train1 b 0 1 B"),
        "refused",
        "train/segments: not a recording, start and end: train0, train1",
    ),
    Row(
        "segments of another recording",
        segments("train0 a 0 1", "train1 c 0 1"),
        "refused",
        "train/segments: a recording that is not in wav.scp: train1",
    ),
    Row(
        "an utterance without a segment",
        segments("train0 a 0 1"),
        "refused",
        "train/segments: no line for: train1",
    ),
    Row(
        "a segment of a broken recording",
        all_of(segments("train0 a 0 1", "train1 b 0 1"), data("audio/a.flac", b"")),
        "refused",
        "a.flac is empty",
    ),
    Row(
        "segments that are trimmed",
        only(segments("train0 a 0 0.5", "train1 b 1 2"), "--trim_silence", "35"),
        "taken",
    ),
    Row(
        "a piece of a training recording to test on",
        all_of(
            segments("train0 a 0 1", "train1 b 0 1"),
            lines("test/wav.scp", "a audio/a.flac"),
            lines("test/segments", "test0 a 0.9 1.5", "test1 a 1.5 2"),
        ),
        "refused",
        "test/wav.scp: recordings that are also in train: test0",
    ),
    Row(
        "a piece to test on that begins in the end of another, as padding does",
        all_of(
            segments("train0 a 0 1", "train1 b 0 1"),
            lines("test/wav.scp", "a audio/a.flac"),
            lines("test/segments", "test0 a 0.95 1.5", "test1 a 1.5 2"),
        ),
        "taken",
    ),
    Row(
        "another piece of it to test on",
        all_of(
            segments("train0 a 0 1", "train1 b 0 1"),
            lines("test/wav.scp", "a audio/a.flac"),
            lines("test/segments", "test0 a 1 1.5", "test1 a 1.5 2"),
        ),
        "taken",
    ),
    Row(
        "an empty segments",
        all_of(segments(), data("train/segments", b"")),
        "refused",
        "train/segments is empty",
    ),
]

COMMANDS = [
    Row(
        "a command",
        lines("test/wav.scp", "test0 cat audio/test0.flac |", "test1 audio/test1.flac"),
        "refused",
        "commands, which are run with --allow_commands true if you trust them: test0",
    ),
    Row("a command that is allowed", command("cat audio/test0.flac"), "taken"),
    Row("two commands in a pipe", command("cat audio/test0.flac | cat"), "taken"),
    Row(
        "a command that fails",
        command("cat nowhere.flac"),
        "refused",
        "the command failed with status 1: cat: nowhere.flac: No such",
    ),
    Row(
        "a command that is not there",
        command("sph2pipe-2 x.sph"),
        "refused",
        "the command failed with status 127: ",
    ),
    Row(
        "a command that says nothing",
        command("false"),
        "refused",
        "the command failed with status 1: it said nothing",
    ),
    Row(
        "a command that makes a text",
        command("echo hello"),
        "refused",
        "test/wav.scp: the command's output cannot be read or is cut short: ",
    ),
    Row(
        "a command that makes nothing",
        command("true"),
        "refused",
        "test/wav.scp: the command's output is empty: test0",
    ),
    Row(
        "a command whose audio is cut short",
        only(
            all_of(
                audio("test0", noise(0.5), format="WAV"),
                command("head -c 4000 audio/test0.flac"),
            ),
            "--allow_commands",
            "true",
        ),
        "refused",
        "test/wav.scp: the command's output is cut short: test0",
    ),
    Row(
        "a pipe whose first command fails",
        command("(cat audio/test0.flac; false) | cat"),
        "refused",
        "the command failed with status 1",
    ),
    Row(
        "segments of a command",
        only(
            all_of(
                segments("train0 a 0 1", "train1 b 0 1"),
                lines("train/wav.scp", "a cat audio/a.flac |", "b audio/b.flac"),
            ),
            "--allow_commands",
            "true",
        ),
        "taken",
    ),
]


def test_the_folder_that_is_made_is_not_taken_for_a_corpus(prepare, corpus):
    before = sorted(corpus.rglob("*"))
    result = prepare(corpus, corpus)
    assert result.returncode == 1 and "recipe writes its own data" in result.stderr
    assert sorted(corpus.rglob("*")) == before


@pytest.fixture
def corpus(corpus):
    """The corpus, with speakers of their own in each set."""
    for name in SETS:
        lines(f"{name}/utt2spk", *(f"{name}{n} {name}-{n}" for n in (0, 1)))(corpus)
    return corpus


@each(SPEAKERS + TEXTS + RECORDINGS + SEGMENTS + COMMANDS)
def test_a_corpus_is_taken_as_a_whole_or_refused_in_a_line(
    row, prepare, corpus, tmp_path
):
    options = row.make(corpus) or []
    made = tmp_path / "data"
    result = prepare(corpus, made, *options)
    said = result.stdout.splitlines()
    if row.outcome == "refused":
        assert result.returncode == 1 and not list(made.glob("*"))
        said = result.stderr.splitlines()
        assert all(line.startswith(f"{PROG}: error: ") for line in said)
        assert any(row.line in line for line in said), said
        return
    assert result.returncode == 0, result.stderr
    if row.outcome == "noted":
        assert any(x.startswith("note: ") and row.line in x for x in said), said
    else:
        assert said == []
    for name in SETS:
        check = ["utils/validate_data_dir.sh", "--no-feats", "--non-print", made / name]
        checked = subprocess.run(check, cwd=ASR1, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        for utterance in read_data_dir(made / name):
            assert soundfile.info(utterance.audio).frames > 0
    tested = len((corpus / "test/text").read_text(encoding="utf-8").splitlines())
    assert len(read_data_dir(made / "test")) == tested


def test_as_many_commands_run_at_once_as_the_process_may_use_cores(
    prepare, corpus, tmp_path, monkeypatch
):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    alone = "mkdir busy && sleep 0.2 && rmdir busy && cat"
    scp = (f"test{n} {alone} audio/test{n}.flac |" for n in (0, 1))
    lines("test/wav.scp", *scp)(corpus)
    result = prepare(corpus, tmp_path / "data", "--allow_commands", "true")
    assert result.returncode == 0, result.stderr
