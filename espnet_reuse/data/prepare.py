# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Make data directories for asr.sh from Kaldi-style ones that anyone has."""

import argparse
import collections
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import librosa
import numpy as np
import soundfile

from espnet_reuse.data.check import NO_FILE, check_audios
from espnet_reuse.data.data_dir import (
    Utterance,
    scan_tables,
    some,
    split_names,
    write_data_dir,
)
from espnet_reuse.errors import UserError, reported_errors

PROG = "espnet_reuse.data.prepare"
MARGIN = 0.1  # seconds kept around what is louder than the silence
THRESHOLD = 35  # dB below the loudest sample: silence, for the note on silence
MUCH = 0.3  # share of silence in the training set that is worth a note
HELD_OUT = 0.05  # least share of the training set that is held out, of whole speakers
MOST_HELD_OUT = 0.2  # a speaker with whom it would exceed this share is passed over


@dataclass(frozen=True, order=True)
class Checked(Utterance):
    """An utterance with what its audio file's header says."""

    seconds: float = 0.0
    channels: int = 0


Sets = Mapping[str, Sequence[Checked]]


def read_set(folder: Path, root: Path) -> tuple[list[Checked], list[str]]:
    """Read a data directory whose wav.scp may have paths relative to the root.

    Returns:
        The utterances whose audio can be read, and a list of what is wrong with the
        directory. Without utt2spk every utterance has a speaker of its own.
    """
    if (segments := folder / "segments").exists():
        hint = "cut the recordings into one file for each utterance"
        return [], [f"{segments}: segments are not supported: {hint}"]
    tables, problems = scan_tables(folder, ["wav.scp", "text"], optional=["utt2spk"])
    audio, words = tables["wav.scp"], tables["text"]
    speakers = tables.get("utt2spk") or {utt_id: utt_id for utt_id in audio}
    no_files = [k for k, v in audio.items() if NO_FILE.search(v)]
    spaced = [f"{k} ({v})" for k, v in speakers.items() if len(v.split()) > 1]
    for name, what, ids in (
        ("text", "no words", [k for k, v in words.items() if not v]),
        ("utt2spk", "no speaker", [k for k, v in speakers.items() if not v]),
        ("utt2spk", "a speaker's name with spaces", spaced),
        ("wav.scp", "no file", [k for k, v in audio.items() if not v]),
        ("wav.scp", "a command or an archive instead of a file", no_files),
    ):
        if ids:
            problems.append(f"{folder / name}: {what}: {some(ids)}")
    files = {k: root / v for k, v in audio.items() if v and not NO_FILE.search(v)}
    found, broken = check_audios(files)
    problems += [f"{folder / 'wav.scp'}: {problem}" for problem in found]
    utterances = []
    for utt_id in sorted(files.keys() - set(broken)):
        path, info = files[utt_id].resolve(), soundfile.info(files[utt_id])
        said = speakers.get(utt_id, ""), words.get(utt_id, ""), path
        utterances.append(Checked(utt_id, *said, None, info.duration, info.channels))
    return utterances, problems


def find_overlaps(root: Path, sets: Sets) -> Iterator[str]:
    """Say which ids, and which recordings under any name, two sets share."""
    paths = {u.audio for utterances in sets.values() for u in utterances}
    sizes = {path: path.stat().st_size for path in paths}
    count = collections.Counter(sizes.values())
    recording = {  # only files of the same size can have the same content
        path: path if count[size] == 1 else hashlib.sha256(path.read_bytes()).digest()
        for path, size in sizes.items()
    }
    for (a, in_a), (b, in_b) in itertools.combinations(sets.items(), 2):
        for name, what, key in (
            ("text", "ids", lambda u: u.utt_id),
            ("wav.scp", "recordings", lambda u: recording[u.audio]),
        ):
            keys = {key(u) for u in in_a}
            if shared := [u.utt_id for u in in_b if key(u) in keys]:
                yield f"{root / b / name}: {what} that {a} has, too: {some(shared)}"


def find_mixed_channels(root: Path, sets: Sets) -> Iterator[str]:
    """Say which recordings differ in their channels."""
    alike = {}
    for name, utterances in sets.items():
        for u in utterances:
            alike.setdefault(u.channels, []).append(f"{name}/{u.utt_id}")
    if len(alike) > 1:
        counts = "; ".join(f"{n}: {some(ids)}" for n, ids in sorted(alike.items()))
        yield f"{root}: recordings have different numbers of channels: {counts}"


def hold_out(utterances: Sequence[Checked]) -> tuple[list[Checked], list[Checked]]:
    """Split off all utterances of some speakers, the same ones each time.

    They are 5 % of the utterances or more. A speaker with whom it would be above 20 %
    is passed over, unless no other is left.
    """
    counts = collections.Counter(u.speaker for u in utterances)
    shuffled = sorted(counts, key=lambda s: hashlib.sha256(s.encode()).digest())
    least, most = HELD_OUT * len(utterances), MOST_HELD_OUT * len(utterances)
    held_out, count = set(), 0
    for speaker in shuffled:
        if count < least and count + counts[speaker] <= most:
            held_out.add(speaker)
            count += counts[speaker]
    held_out = held_out or {min(shuffled, key=counts.get)}
    train = [u for u in utterances if u.speaker not in held_out]
    return train, [u for u in utterances if u.speaker in held_out]


def trim(utterance: Checked, threshold: float) -> Checked:
    """Leave out silence around the speech: `threshold` dB or more below the loudest.

    Raises:
        UserError: Samples are not finite.
    """
    wav, fs = soundfile.read(utterance.audio, dtype="float32", always_2d=True)
    if not np.isfinite(wav).all():
        raise UserError(f"{utterance.audio} has samples that are not finite numbers")
    _, (start, end) = librosa.effects.trim(wav.mean(axis=1), top_db=threshold)
    segment = max(start / fs - MARGIN, 0.0), min(end / fs + MARGIN, len(wav) / fs)
    return replace(utterance, segment=segment, seconds=segment[1] - segment[0])


def trim_all(utterances: Sequence[Checked], threshold: float) -> list[Checked]:
    """Return the utterances without silence: see `trim`."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(trim, utterances, itertools.repeat(threshold)))


def measure_silence(utterances: Sequence[Checked]) -> float:
    """Measure the share of silence around the speech, in 100 of the utterances."""
    chosen = utterances[:: len(utterances) // 100 + 1]
    trimmed = trim_all(chosen, THRESHOLD)
    return 1 - sum(u.seconds for u in trimmed) / sum(u.seconds for u in chosen)


def with_speaker_first(utterances: Sequence[Checked]) -> list[Checked]:
    """Return the utterances with ids that begin with the speaker, as Kaldi wants it."""
    if all(f"{u.utt_id}-".startswith(f"{u.speaker}-") for u in utterances):
        return list(utterances)
    return [replace(u, utt_id=f"{u.speaker}-{u.utt_id}") for u in utterances]


def read_sets(
    root: Path, names: Iterable[str], test_sets: Sequence[str], shortest: float
) -> dict[str, list[Checked]]:
    """Read the data directories root/<name>.

    Raises:
        UserError: Something is wrong, a line for each problem; an utterance of a test
            set, of which ESPnet leaves none out, is shorter than `shortest` seconds.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    sets, problems = {}, []
    for name in dict.fromkeys(names):
        sets[name], found = read_set(root / name, root)
        problems += found
        short = [u.utt_id for u in sets[name] if u.seconds < shortest]
        if name in test_sets and short:
            why = f"shorter than {shortest:g} s, too short to be recognised"
            problems.append(f"{root / name}/wav.scp: {why}: {some(short)}")
    problems += [*find_overlaps(root, sets), *find_mixed_channels(root, sets)]
    if problems:
        raise UserError("\n".join(problems))
    return sets


def note_shared_speakers(sets: Sets, train_set: str, test_sets: Sequence[str]):
    """Print which test sets have speakers of the training set."""
    known = {u.speaker for u in sets[train_set]}
    for name in sorted(set(test_sets) - {train_set}):
        if shared := sorted({u.speaker for u in sets[name]} & known):
            print(f"note: {name} has speakers of {train_set}: {some(shared)}")


def check_lengths(root: Path, sets: Sets, shortest: float, longest: float):
    """Print how many utterances asr.sh will leave out, for their length in seconds.

    Raises:
        UserError: Nothing would be left of a set.
    """
    problems = []
    for name, utterances in sets.items():
        left_out = [u.utt_id for u in utterances if not shortest < u.seconds < longest]
        line = (
            f"{len(left_out)} of {len(utterances)} utterances are left out, which do "
            f"not last from {shortest:g} to {longest:g} s (--min_wav_duration, "
            f"--max_wav_duration): {some(left_out)}"
        )
        if len(left_out) == len(utterances):
            problems.append(f"{root / name}: {line}")
        elif left_out:
            print(f"note: {name}: {line}")
    if problems:
        raise UserError("\n".join(problems))


def prepare(args: argparse.Namespace) -> None:
    """Make the data directories, once nothing is wrong with any; see `main`."""
    root, train_set, test_sets = args.root, args.train_set, args.test_sets
    valid_set = args.valid_set or "dev"
    lengths = args.min_wav_duration, args.max_wav_duration
    is_held_out = not (args.valid_set or "dev" in test_sets or (root / "dev").exists())
    names = [train_set, *([] if is_held_out else [valid_set]), *test_sets]
    sets = read_sets(root, names, test_sets, args.min_wav_duration)
    note_shared_speakers(sets, train_set, test_sets)
    if is_held_out:
        if len({u.speaker for u in sets[train_set]}) < 2:
            raise UserError(
                f"{root / train_set}: a single speaker: none can be held out to "
                "validate on: make a set, and name it with --valid_set"
            )
        sets[train_set], sets[valid_set] = hold_out(sets[train_set])
        speakers = sorted({u.speaker for u in sets[valid_set]})
        count = f"{len(sets[valid_set])} utterances of {train_set}"
        print(f"note: {valid_set}: {count}, held out: all of {some(speakers)}")
    if args.trim_silence:
        sets = {name: trim_all(us, args.trim_silence) for name, us in sets.items()}
    elif (share := measure_silence(sets[train_set])) > MUCH:
        print(
            f"note: {share:.0%} of {train_set} is silence before and after the speech: "
            f"models learn sooner without it, with --trim_silence {THRESHOLD}"
        )
    check_lengths(root, {name: sets[name] for name in (train_set, valid_set)}, *lengths)
    for name, utterances in sets.items():
        write_data_dir(args.data / name, with_speaker_first(utterances))


def main(argv: list[str] | None = None):
    """Write the data directories, or say everything that is wrong with them."""
    parser = argparse.ArgumentParser(PROG, description=__doc__)
    parser.add_argument("--train_set", required=True)
    parser.add_argument("--valid_set", required=True, help="'': dev, or held out")
    parser.add_argument("--test_sets", required=True, type=split_names)
    parser.add_argument(
        "--trim_silence", type=float, help="leave out what is so many dB too quiet"
    )
    # asr.sh leaves out the others, but of test sets
    parser.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20, help="seconds")
    parser.add_argument("root", type=Path, help="folder with a directory for each set")
    parser.add_argument("data", type=Path, help="where to make the data directories")
    args = parser.parse_args(argv)
    with reported_errors(PROG):
        prepare(args)


if __name__ == "__main__":
    main()
