# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Audio files that people bring: ESPnet reads all that is in them, or they are named.

Each row makes the bytes of a file of 2 s or more of noise.
"""

import io
import re
import struct

import numpy as np
import soundfile
from table import Row, each

from espnet_reuse.data.check import check_audios

SAMPLES = 2 * 16000 + 1  # an odd number: WAV fills chunks up to an even one
TAKES = "libsndfile takes it for"


def written(audio_format, subtype=None, rate=16000, **kwargs):
    """Return a file of noise and a pause, as most encoders write it."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, SAMPLES)
    noise[8000:24000] = 0
    file = io.BytesIO()
    soundfile.write(file, noise, rate, subtype, format=audio_format, **kwargs)
    return file.getvalue()


def mp3(mode="VARIABLE", rate=16000):
    kwargs = {"bitrate_mode": mode, "compression_level": 0.5}
    return written("MP3", "MPEG_LAYER_III", rate, **kwargs)


def bare(data):
    """Leave out the first frame, in which MP3s have their length."""
    return data[data.index(data[:2], 4) :]


def cut(data, size=0.6):
    return data[: int(len(data) * size) if isinstance(size, float) else size]


def tagged(data, picture=0):
    tag = bytes(picture) + b"\xff\xe1jpeg"
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + size + tag + data + b"TAG".ljust(128)


def wav_of_sizes(riff, data):
    wav = written("WAV")
    at = wav.index(b"data") + 4
    sizes = (struct.pack("<I", size) for size in (riff, data))
    return wav[:4] + next(sizes) + wav[8:at] + next(sizes) + wav[at + 4 :]


def flac_of_a_stream():
    flac = bytearray(written("FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    return bytes(flac)


def without_page(data, number):
    pages = re.split(b"(?=OggS)", data)
    del pages[number]
    return b"".join(pages)


def scratched(data):
    """Damage a few bytes in the middle."""
    middle = len(data) // 2
    return data[:middle] + b"scratched" + data[middle + 9 :]


TABLE = [
    Row("MP3 of variable bit rate", mp3, "taken"),
    Row("MP3 with ID3 tags", lambda: tagged(mp3(), 5000), "taken"),
    *(
        Row(
            *(f"MP3 without its length, {x} Hz", lambda x=x: bare(mp3(rate=x))),
            *("refused", f"has 33408 samples, but no header says so: {TAKES}"),
        )
        for x in (8000, 16000, 44100)
    ),
    Row(
        *("MP3 without its length, of variable bit rate, cut short",),
        *(lambda: cut(bare(mp3())), "refused", "is cut short"),
    ),
    Row(
        *("MP3 without its length, with tags", lambda: tagged(bare(mp3()), 5000)),
        *("refused", "has 33408 samples, but no header says so"),
    ),
    Row(
        *("MP3 without its length, of constant bit rate, 22050 Hz",),
        *(lambda: bare(mp3("CONSTANT", 22050)), "taken"),
    ),
    Row(
        *("MP3 without its length, of constant bit rate, whose frames are not alike",),
        *(lambda: 60 * bare(mp3("CONSTANT", 44100)), "taken"),
    ),
    Row(
        *("MP3 of constant bit rate without its length, cut short",),
        *(lambda: cut(bare(mp3("CONSTANT"))), "refused", "is cut short"),
    ),
    Row("MP3 cut short", lambda: cut(mp3()), "refused", "is cut short"),
    Row("MP3 cut in its last frame", lambda: cut(mp3(), -1), "refused", "is cut short"),
    Row(
        *("two MP3s in one file", lambda: mp3() + mp3(), "refused"),
        f"goes on after the {SAMPLES} samples of its header",
    ),
    Row(
        *("MP3 with few bytes amiss between frames",),
        *(lambda: mp3()[:2000] + bytes(300) + mp3()[2000:], "taken"),
    ),
    Row("Ogg Vorbis", lambda: written("OGG", "VORBIS"), "taken"),
    Row("Ogg Opus", lambda: written("OGG", "OPUS"), "taken"),
    Row("Ogg with a tag", lambda: written("OGG", "VORBIS") + b"TAG" * 9, "taken"),
    Row(
        *("Ogg Vorbis with a scratch", lambda: scratched(written("OGG", "VORBIS"))),
        *("refused", "is damaged: see its bytes from"),
    ),
    Row(
        *("Ogg Opus with a scratch", lambda: scratched(written("OGG", "OPUS"))),
        *("refused", "is damaged: see its bytes from"),
    ),
    Row(
        *("Ogg Vorbis without its last page",),
        *(lambda: without_page(written("OGG", "VORBIS"), -1), "refused", "end is miss"),
    ),
    Row(
        *("Ogg Opus cut in its last page", lambda: cut(written("OGG", "OPUS"), -1)),
        *("refused", "is cut short: its end is missing"),
    ),
    Row(
        *("Ogg Opus without a page", lambda: without_page(written("OGG", "OPUS"), 4)),
        *("refused", "has a gap: some of its pages are missing"),
    ),
    Row(
        *("two Ogg files in one", lambda: 2 * written("OGG", "VORBIS"), "refused"),
        "has several streams, of which libsndfile reads one",
    ),
    *(
        Row(f"WAV of an odd size, {x}", lambda x=x: written("WAV", x), "taken")
        for x in ("PCM_U8", "PCM_24", "ULAW")
    ),
    Row(
        *("WAV of an odd size, cut", lambda: cut(written("WAV", "ULAW"), -2)),
        *("refused", "is cut short"),
    ),
    Row(
        *("WAV that a program (ffmpeg) wrote into a pipe",),
        *(lambda: wav_of_sizes(2**32 - 1, 2**32 - 1), "taken"),
    ),
    Row(
        *("WAV that a program (sox) wrote into a pipe",),
        *(lambda: wav_of_sizes(0x7FFFF024, 0x7FFFF000), "taken"),
    ),
    Row(
        *("WAV whose program died", lambda: wav_of_sizes(0, 0), "refused"),
        "goes on after the 0 bytes of its header; convert it",
    ),
    Row(
        *("WAV whose header knows half of it", lambda: wav_of_sizes(64000, 32000)),
        *("refused", "goes on after the 32000 bytes of its header; convert it"),
    ),
    Row("WAV with a wrong size of all", lambda: wav_of_sizes(70000, 64002), "taken"),
    Row("FLAC", lambda: written("FLAC"), "taken"),
    Row("FLAC cut short", lambda: cut(written("FLAC")), "refused", "cut short"),
    Row(
        *("FLAC that a program wrote into a pipe", flac_of_a_stream, "refused"),
        "has no length in its header; convert it",
    ),
    *(
        Row(f"{x} {y}", lambda x=x, y=y: written(x, y), "taken")
        for x, y in (
            *(("AIFF", "PCM_16"), ("AU", "ULAW"), ("NIST", "PCM_16")),
            *(("CAF", "PCM_16"), ("CAF", "ALAC_16")),
            *(("RF64", "PCM_16"), ("W64", "PCM_24"), ("WAV", "DOUBLE")),
            *(("WAV", "MS_ADPCM"), ("WAVEX", "FLOAT")),
        )
    ),
    *(
        Row(f"{x}, cut short", lambda x=x: cut(written(x)), "refused", "is cut short")
        for x in ("AIFF", "AU", "CAF", "NIST", "RF64", "W64", "WAV")
    ),
    *(
        Row(
            *(f"{x} that nobody sees cut", lambda x=x: cut(written(x, "PCM_16"))),
            *("refused", "a format that does not show whether it is whole; convert it"),
        )
        for x in ("AVR", "IRCAM", "MAT5", "PAF", "PVF", "VOC")
    ),
    *(
        Row(
            *(f"{x} {y}, which nobody can seek in", lambda x=x, y=y: written(x, y)),
            *("refused", "a format that segments cannot be cut from; convert it"),
        )
        for x, y in (("WAV", "GSM610"), ("WAV", "NMS_ADPCM_16"), ("AU", "G721_32"))
    ),
    Row("RAW", lambda: written("RAW", "PCM_16"), "refused", "has no header; convert"),
]


@each(TABLE)
def test_espnet_reads_all_of_an_audio_file_or_it_is_named(row, tmp_path):
    path = (
        tmp_path / f"u.{row.tried.split()[0].lower()}"
    )  # "raw" says something to soundfile
    path.write_bytes(row.make())
    lines, broken = check_audios({"u": path})
    if row.outcome == "refused":
        assert broken == ["u"] and lines[0].startswith(f"u: {path} "), lines
        assert row.line in lines[0]
    else:
        assert lines == []
        assert len(soundfile.read(path)[0]) >= SAMPLES


def test_mp3s_without_their_length_are_one_line_however_many(tmp_path):
    paths = {f"u{rate}": tmp_path / f"{rate}.mp3" for rate in (8000, 16000)}
    for path in paths.values():
        path.write_bytes(bare(mp3(rate=int(path.stem))))
    lines, broken = check_audios(paths)
    assert len(lines) == 1 and lines[0].endswith("; likewise u16000")
    assert broken == list(paths)


def test_a_scratch_in_flac_is_named_once_the_samples_are_read(tmp_path):
    path = tmp_path / "u.flac"
    path.write_bytes(scratched(written("FLAC")))
    assert check_audios({"u": path}) == ([], [])  # the header and the end are whole
    ((problem,), broken) = check_audios({"u": path}, decoded=True)
    assert broken == ["u"] and problem.startswith(f"u: {path} ")
    path.write_bytes(written("FLAC"))
    assert check_audios({"u": path}, decoded=True) == ([], [])
