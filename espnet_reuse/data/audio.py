# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Would libsndfile, and so ESPnet, read all that is in an audio file?"""

import re
import zlib
from pathlib import Path

import numpy as np
import soundfile

FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"}
FORMATS |= {"FLAC", "OGG", "MP3"}
NO_LENGTH = 2**63 - 1  # what libsndfile says where the header should have one
STREAMED = 2**31 - 2**16  # programs write sizes above before they know the size
SPARE = 4096  # bytes in front of a WAV's samples and behind them
RESYNC = 1024  # bytes that libsndfile skips in an MP3 before it gives up
REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))
CONVERT = "convert it: ffmpeg -i IN OUT.flac"
MP3_FRAMES = {  # a frame's first three bytes: its bytes, its samples
    bytes([255, 0xE2 | version << 3 | crc, n << 4 | rate << 2 | low]): (
        samples * 125 * kbit // (hertz >> shift) + (low >> 1),
        samples,
    )
    for version, shift, samples, kbits in (  # MPEG-1, MPEG-2, MPEG-2.5
        (3, 0, 1152, "32 40 48 56 64 80 96 112 128 160 192 224 256 320"),
        (2, 1, 576, "8 16 24 32 40 48 56 64 80 96 112 128 144 160"),
        (0, 2, 576, "8 16 24 32 40 48 56 64 80 96 112 128 144 160"),
    )
    for n, kbit in enumerate(map(int, kbits.split()), start=1)
    for rate, hertz in enumerate((44100, 48000, 32000))
    for crc in (0, 1)
    for low in range(4)  # 2: a byte of padding
}


def check_mp3(data: bytes, expected: int) -> tuple[str | None, int]:
    """Return what is wrong with an MP3, or None, and its samples, counted by frames.

    Where no Xing frame has the length, libsndfile takes all frames to be as long as the
    first, and reads no more than `expected`. That is a little too much where the first
    frame has no byte of padding, or tags are behind the audio; nothing is lost then.
    """
    position = end = samples = frame = 0
    problem, first = None, b""
    while 0 <= position < len(data):
        size, frame = MP3_FRAMES.get(data[position : position + 3], (0, 0))
        in_step = position == end and first
        after = position + size
        if size and (in_step or data[after : after + 3] in MP3_FRAMES):
            if first and position - end > RESYNC:
                problem = f"is damaged: no audio in {position - end} of its bytes"
            first = first or data[position:after]
            position = end = after
            samples += frame
        else:
            position = data.find(b"\xff", position + 1)
    frame = MP3_FRAMES[first[:3]][1] if first else 0
    if b"Xing" in first or b"Info" in first:
        if expected > samples:
            problem = "is cut short"
        elif samples - expected > 4 * frame:  # itself, and the encoder's padding
            problem = f"goes on after the {expected} samples of its header; {CONVERT}"
    elif samples - expected > frame or expected > 1.01 * samples:
        said = f"libsndfile takes it for {expected}"
        problem = f"has {samples} samples, but no header says so: {said}; {CONVERT}"
    return "is cut short" if end > len(data) else problem, samples


def ogg_checksum(page: bytes) -> bytes:
    """Return the checksum of an Ogg page, as its bytes 22 to 25 should have it.

    It is zlib's with the bits of all bytes in the other order, and without its two
    inversions.
    """
    page = page[:22] + bytes(4) + page[26:]
    checksum = zlib.crc32(page.translate(REVERSED), 2**32 - 1) ^ (2**32 - 1)
    return checksum.to_bytes(4).translate(REVERSED)


def check_ogg(data: bytes) -> str | None:
    """Return what is wrong with an Ogg file's pages, or None."""
    streams, count, flags, position = 0, 0, 0, 0
    while position < len(data):
        header = data[position : position + 27]
        lengths = data[position + 27 :][: header[-1]]
        page = data[position : position + 27 + len(lengths) + sum(lengths)]
        if flags & 4 and header[:4] != b"OggS":
            break  # what stands behind the last page is no audio
        if len(header) < 27 or len(page) < 27 + header[26] + sum(lengths):
            return "is cut short: its end is missing"
        if header[:4] != b"OggS" or ogg_checksum(page) != page[22:26]:
            return f"is damaged: see its bytes from {position} on"
        flags = header[5]
        streams += flags >> 1 & 1
        if streams > 1:
            return f"has several streams, of which libsndfile reads one; {CONVERT}"
        if int.from_bytes(header[18:22], "little") != count:
            return "has a gap: some of its pages are missing"
        count, position = count + 1, position + len(page)
    return None if flags & 4 else "is cut short: its end is missing"


def find_problem(f: soundfile.SoundFile, path: Path) -> str | None:
    """Return what is wrong with an audio file that could be opened, or None."""
    frames, log = f.frames, f.extra_info
    if frames == NO_LENGTH:
        return f"has no length in its header; {CONVERT}"
    if f.format not in FORMATS or f.subtype in ("MPEG_LAYER_I", "MPEG_LAYER_II"):
        return f"is in a format that does not show whether it is whole; {CONVERT}"
    if not f.seekable():
        return f"is in a format that segments cannot be cut from; {CONVERT}"
    # what libsndfile says of WAV, W64, RF64, AIFF, AU and CAF, then of Ogg and of WAV
    sizes = r"(?:data|riff|SSND|[sS]ize) *: (\d+) \(should be (\d+)\)"
    if any(int(there) < int(n) < STREAMED for n, there in re.findall(sizes, log)):
        return "is cut short"
    if "ended unexpectedly" in log:
        return "is cut short"
    size = re.search(r"data : (\d+)$", log, re.M)
    if size and re.search("Exiting parser|Have 0 marker", log):
        behind = path.read_bytes()[int(size[1]) :].strip(b"\0")
        if len(behind) > SPARE:
            return f"goes on after the {size[1]} bytes of its header; {CONVERT}"
    problem = None
    if f.format == "NIST":
        count = re.search(rb"sample_count -i (\d+)", path.read_bytes()[:1024])
        if count and int(count[1]) > frames:
            problem = f"is cut short: {frames} of {int(count[1])} samples"
    elif f.format == "OGG":
        problem = check_ogg(path.read_bytes())
    elif f.subtype == "MPEG_LAYER_III":
        problem, samples = check_mp3(path.read_bytes(), frames)
        frames = min(frames, samples)
    if problem or frames == 0:
        return problem or "has no samples"
    f.seek(frames - 1)
    return None if len(f.read(1)) == 1 else "is cut short"


def decode(f: soundfile.SoundFile) -> str | None:
    """Return what is wrong with the samples of an audio file, or None."""
    f.seek(0)
    read = 0
    for block in f.blocks(2**16, dtype="float32"):
        if not np.isfinite(block).all():
            return "has samples that are not finite numbers"
        read += len(block)
    return None if read >= f.frames else f"is damaged behind {read} samples"


def check_audio(path: Path | str, decoded: bool = False) -> str | None:
    """Return what is wrong with an audio file, or None.

    Reads the header and the last sample, so that it is quick and yet notices a file
    that was cut short; of an MP3 and an Ogg file the headers of all frames or pages.
    If it is `decoded`, reads all samples.
    """
    try:
        with Path(path).open("rb") as file:
            if not file.read(1):
                return "is empty"
        with soundfile.SoundFile(path) as f:
            return find_problem(f, Path(path)) or (decode(f) if decoded else None)
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    except UnicodeEncodeError:  # the locale's fault, not the file's
        raise
    except ValueError as e:  # its name has a character that no name can have
        return f"cannot be read: {e}"
    except TypeError:  # by its name, soundfile takes it for RAW
        return f"has no header; {CONVERT}"
    except soundfile.LibsndfileError as e:
        return f"cannot be read or is cut short: {e.error_string}"
