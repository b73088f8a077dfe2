# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Corpora for Hypothesis to draw: Kaldi-style directories, and what happens to them."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import assume
from hypothesis import strategies as st

TABLES = ("text", "wav.scp", "utt2spk", "segments")
FORMS = [
    (name, subtype)
    for name in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(name)
    if name != "SD2" and soundfile.check_format(name, subtype)  # SD2 is two files
]
COMMON_FORMS = [("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("MP3", None), ("OGG", "OPUS")]
LETTERS = st.characters(exclude_categories=("C", "Z"))
NAMES = st.text("ab-_+'0", max_size=3) | st.text(LETTERS, max_size=3)
SPACES = st.sampled_from([" ", " ", " ", "\t", "  ", "\u00a0", "\u3000", "\u2028"])
ODD = ["<s>", "#0", "|", ":1", "/", "../", "\0", "\r", "\ufeff", "\u200b", "\udcff"]
ODD = SPACES | st.sampled_from(ODD) | st.characters(exclude_categories=("Cs",))


class Audio(bytes):
    """An audio file, which has a short name where a corpus is printed."""

    def __repr__(self):
        return f"<audio of {len(self)} bytes>"


@cache
def encode(number, samples, rate, channels, name, subtype):
    """Return an audio file's bytes: noise and a pause, other noise for each number."""
    noise = np.random.default_rng(number).uniform(-0.3, 0.3, (samples, channels))
    noise[samples // 3 : samples // 2] = 0
    file = io.BytesIO()
    mode = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    mode = mode if name == "MP3" else {}
    soundfile.write(file, noise, rate, subtype, format=name, **mode)
    return Audio(file.getvalue())


def draw_audio(draw, number, seconds, rate, channels):
    """Draw an audio file, now and then an odd one, and its seconds."""
    samples = int(seconds * rate)
    form = rate, channels, *draw(st.sampled_from(COMMON_FORMS))
    if draw(st.integers(0, 49)) == 49:
        samples = draw(st.sampled_from([0, 1, 100, samples, 25 * rate]))
        rate = draw(st.sampled_from([8000, 11025, 16000, 44100]))
        channels = draw(st.sampled_from([1, 2, 9]))
        form = rate, channels, *draw(st.sampled_from(FORMS))
    try:
        return encode(number, samples, *form), samples / form[0]
    except (soundfile.LibsndfileError, OverflowError):
        assume(False)  # not every format has every rate and number of channels


@st.composite
def corpora(draw):
    """Draw a corpus: {file: bytes}, and the seconds of its audio: {path: seconds}."""
    files, seconds, speakers = {}, {}, [draw(NAMES) or "s"]
    speakers += [speakers[0] + draw(NAMES), draw(NAMES) or "t"]
    form = draw(st.sampled_from([16000, 8000, 48000])), draw(st.sampled_from([1, 1, 2]))
    folder = draw(st.sampled_from(["audio/", "the audio/", "T\u00f6ne/"]))
    for name in draw(st.sampled_from([("train", "dev", "test"), ("train", "test")])):
        tables = {table: [] for table in TABLES}
        parts = draw(st.integers(0, 2))  # of a recording; 0: no segments
        length = draw(st.integers(2, 10)) / 10
        for n in range(draw(st.integers(1, 4))):
            speaker, path = draw(st.sampled_from(speakers)), f"{folder}{name}{n}"
            utt_id = draw(st.sampled_from(["", f"{speaker}-"])) + f"{name}{n}"
            utt_id += draw(NAMES)
            words = draw(st.lists(st.text(LETTERS, min_size=1), min_size=1, max_size=4))
            tables["text"].append(f"{utt_id} {draw(SPACES).join(words)}")
            tables["utt2spk"].append(f"{utt_id} {speaker}")
            if not parts or n % parts == 0:
                recording = f"{name}-rec{n}" if parts else utt_id
                audio = draw_audio(draw, len(files), max(parts, 1) * length, *form)
                files[path], seconds[Path(path)] = audio
                tables["wav.scp"].append(f"{recording} {path}")
            if parts:
                start = n % parts * length
                line = f"{utt_id} {recording} {start:g} {start + length:g}"
                tables["segments"].append(line)
        if draw(st.integers(0, 9)) == 9:
            del tables["utt2spk"]
        for table, lines in tables.items():
            if lines:
                files[f"{name}/{table}"] = "".join(f"{x}\n" for x in lines).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        path = draw(st.sampled_from(sorted(files)))
        kind = draw_damaged_table if Path(path).name in TABLES else draw_damaged_audio
        files[path] = kind(draw, files[path])
    return files, seconds


def draw_damaged_audio(draw, data):
    share = draw(st.sampled_from([0.2, 0.6, 0.97]))
    damaged = [Audio(data[: int(len(data) * share)]), b"a text"]
    if data[:1] == b"\xff":  # an MP3: without the frame that has its length
        damaged.append(Audio(data[data.index(data[:2], 4) :]))
    return draw(st.sampled_from(damaged))


def draw_damaged_table(draw, data):
    lines = data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
    n = draw(st.integers(0, len(lines) - 1))
    at = draw(st.integers(0, len(lines[n])))
    odd = lines[n][:at] + draw(ODD) + lines[n][at:]
    damaged = [
        *([], lines[1:], lines[::-1], [*lines, lines[n]], [*lines, ""]),
        *([f"{line}\r" for line in lines], ["\ufeff" + lines[0], *lines[1:]]),
        *([*lines[:n], odd, *lines[n + 1 :]] for _ in range(5)),
    ]
    text = "".join(f"{line}\n" for line in draw(st.sampled_from(damaged)))
    end = draw(st.sampled_from([len(text), len(text), -1]))
    return text[:end].encode("utf-8", "surrogateescape")
