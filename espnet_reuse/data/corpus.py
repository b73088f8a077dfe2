# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""A Kaldi-style data directory that somebody brings: read, with all that is wrong."""

import subprocess
import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import joblib
import soundfile

from espnet_reuse.data.audio import check_audio
from espnet_reuse.data.check import NO_FILE, check_audios
from espnet_reuse.data.data_dir import (
    ODD_SPACE,
    Utterance,
    check_text,
    scan_tables,
    some,
)

OVERSHOOT = 0.5  # seconds that a segment may end after its recording, as for Kaldi
MOST_CHANNELS = 8  # of FLAC, the format of dump/


@dataclass(frozen=True, order=True)
class Checked(Utterance):
    """An utterance with what its audio file's header says."""

    seconds: float = 0.0
    rate: int = 0
    channels: int = 0


def run_commands(
    commands: Mapping[str, str], root: Path, output: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Run the commands of a wav.scp, in the folder `root`, and keep their audio.

    Returns:
        The file in `output` of each id, and what is wrong with those that failed.
    """

    def run(numbered: tuple[int, str]) -> Path | str:
        number, command = numbered
        command, path = command.rstrip("| "), output / f"{number}.audio"
        with path.open("wb") as file:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.PIPE,
            )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").split("\n")
            why = next((x for x in reversed(said) if x.strip()), "it said nothing")
            return f"the command failed with status {done.returncode}: {why}"
        problem = check_audio(path)
        return f"the command's output {problem}" if problem else path

    output.mkdir(parents=True)
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        made = dict(
            zip(commands, pool.map(run, enumerate(commands.values())), strict=True)
        )
    paths = {k: v for k, v in made.items() if isinstance(v, Path)}
    return paths, {k: v for k, v in made.items() if k not in paths}


def read_segments(
    segments: Mapping[str, str], seconds: Mapping[str, float], known: Mapping
) -> tuple[dict[str, tuple[str, float, float]], dict[str, list[str]]]:
    """Read segments: {utterance id: "recording start end"}.

    Args:
        segments: The table.
        seconds: Lengths of the recordings that can be read.
        known: All recordings.

    Returns:
        `(recording, start, end)` of each utterance, and the utterances of each problem.
    """
    read, wrong = {}, {}
    for utt_id, line in segments.items():
        try:
            recording, *times = line.split()
            start, end = map(float, times)
        except ValueError:
            wrong.setdefault("not a recording, start and end", []).append(utt_id)
            continue
        length = seconds.get(recording)
        if recording not in known:
            wrong.setdefault("a recording that is not in wav.scp", []).append(utt_id)
        elif length is not None:
            end = length if end == -1 else end  # Kaldi's sign for the whole rest
            if not 0 <= start < end:
                wrong.setdefault("an end that is not after the start", []).append(
                    f"{utt_id} ({line})"
                )
            elif start >= length or end > length + OVERSHOOT:
                what = "beyond the end of the recording"
                wrong.setdefault(what, []).append(f"{utt_id} ({line} of {length:g} s)")
            else:
                read[utt_id] = recording, start, min(end, length)
    return read, wrong


def read_set(
    folder: Path, root: Path, commands: Path | None
) -> tuple[list[Checked], list[str], list[str]]:
    """Read a data directory whose wav.scp may have paths relative to the root.

    Args:
        folder: The directory.
        root: The folder that relative paths start from.
        commands: Folder for the audio of commands in wav.scp; None: they are refused.

    Returns:
        The utterances whose audio can be read, a list of what is wrong with the
        directory, and notes. Without utt2spk every utterance has a speaker of its own.
    """
    optional = ["utt2spk", "segments"]
    tables, problems = scan_tables(folder, ["wav.scp", "text"], optional=optional)
    audio, words, notes = tables["wav.scp"], tables["text"], []
    if spaced := [k for k, v in words.items() if v != " ".join(v.split())]:
        odd = sorted({c for k in spaced for c in ODD_SPACE.findall(words[k])})
        what = "white space" + "".join(f", U+{ord(c):04X}" for c in odd)
        notes.append(f"{what}, became single spaces in {len(spaced)}: {some(spaced)}")
        words = {k: " ".join(v.split()) for k, v in words.items()}
    mixed = [k for k, v in words.items() if not unicodedata.is_normalized("NFC", v)]
    if mixed:
        what = "letters that can be written in two ways (not in Unicode's form NFC)"
        notes.append(f"{what} in {len(mixed)}: {some(mixed)}")
    speakers = tables.get("utt2spk") or {utt_id: utt_id for utt_id in words}
    own_names = dict.fromkeys(speakers.values() - words.keys() - {""}, "")
    piped = {k: v for k, v in audio.items() if v.endswith("|")}
    refused = [k for k in piped if commands is None]
    archives = [k for k, v in audio.items() if NO_FILE.search(v) and k not in piped]
    faults = [
        *(("text", what, ids) for what, ids in check_text(words)),
        *(("utt2spk", what, names) for what, names in check_text(own_names)),
        ("text", "no words", [k for k, v in words.items() if not v]),
        ("utt2spk", "no speaker", [k for k, v in speakers.items() if not v]),
        (
            "utt2spk",
            "a speaker's name with spaces",
            [f"{k} ({v})" for k, v in speakers.items() if len(v.split()) > 1],
        ),
        ("wav.scp", "no file", [k for k, v in audio.items() if not v]),
        ("wav.scp", "an archive instead of a file", archives),
        (
            "wav.scp",
            "commands, which are run with --allow_commands true if you trust them",
            refused,
        ),
    ]
    files = {k: root / v for k, v in audio.items() if v and not NO_FILE.search(v)}
    found, broken = check_audios(files)
    if piped and commands:  # what they make is checked as it is made
        made, failed = run_commands(piped, root, commands / folder.name)
        files |= made
        faults += [("wav.scp", why, [k]) for k, why in failed.items()]
    infos = {k: soundfile.info(v) for k, v in files.items() if k not in broken}
    many = [k for k, info in infos.items() if info.channels > MOST_CHANNELS]
    faults.append(("wav.scp", f"more than {MOST_CHANNELS} channels", many))
    cuts = {k: (k, None, None) for k in infos}
    if "segments" in tables:
        seconds = {k: info.duration for k, info in infos.items()}
        cuts, wrong = read_segments(tables["segments"], seconds, audio)
        faults += [("segments", what, ids) for what, ids in wrong.items()]
        used = {recording for recording, _, _ in cuts.values()}
        if not wrong and (unused := [k for k in infos if k not in used]):
            notes.append(f"recordings without segments are left out: {some(unused)}")
    problems += [f"{folder / n}: {what}: {some(ids)}" for n, what, ids in faults if ids]
    problems += [f"{folder / 'wav.scp'}: {problem}" for problem in found]
    utterances = []
    for utt_id, (recording, start, end) in sorted(cuts.items()):
        info, path = infos[recording], files[recording].resolve()
        said = utt_id, speakers.get(utt_id, ""), words.get(utt_id, ""), path
        segment = None if start is None else (start, end)
        length = info.duration if start is None else end - start
        form = length, info.samplerate, info.channels
        utterances.append(Checked(*said, segment, *form))
    return utterances, problems, [f"note: {folder.name}: {note}" for note in notes]
