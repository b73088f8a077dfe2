# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Make data directories for asr.sh from Kaldi-style ones that anyone has."""

import argparse
import collections
import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import soundfile

from espnet_reuse.data.corpus import Checked, read_set
from espnet_reuse.data.data_dir import some, split_names, write_data_dir
from espnet_reuse.data.sets import (
    Sets,
    find_overlaps,
    in_order,
    list_by,
    note_shared_speakers,
    note_unseen_characters,
)
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import written_whole

PROG = "espnet_reuse.data.prepare"
MARGIN = 0.1  # seconds kept around what is louder than the silence
THRESHOLD = 35  # dB below the loudest sample: silence, for the note on silence
MUCH = 0.3  # share of silence in the training set that is worth a note
HELD_OUT = 0.05  # least share of the training set that is held out, of whole speakers
MOST_HELD_OUT = 0.2  # a speaker with whom it would exceed this share is passed over
SHORTEST = 0.1  # seconds that can be recognised


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
        UserError: The audio cannot be decoded, or samples are not finite.
    """
    fs, (first, last) = utterance.rate, utterance.segment or (0.0, utterance.seconds)
    samples = {"start": round(first * fs), "stop": round(last * fs)}
    path = utterance.audio
    try:
        wav, _ = soundfile.read(path, dtype="float32", always_2d=True, **samples)
    except soundfile.LibsndfileError as e:
        raise UserError(f"{path} is damaged: {e.error_string}") from e
    if not np.isfinite(wav).all():
        raise UserError(f"{path} has samples that are not finite numbers")
    _, (start, end) = librosa.effects.trim(wav.mean(axis=1), top_db=threshold)
    start, end = max(start / fs - MARGIN, 0.0), min(end / fs + MARGIN, len(wav) / fs)
    segment = first + start, first + end
    return replace(utterance, segment=segment, seconds=end - start)


def trim_all(utterances: Sequence[Checked], threshold: float) -> list[Checked]:
    """Return the utterances without silence: see `trim`."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(trim, utterances, itertools.repeat(threshold)))


def measure_silence(utterances: Sequence[Checked]) -> float:
    """Measure the share of silence around the speech, in 100 of the utterances."""
    chosen = utterances[:: len(utterances) // 100 + 1]
    trimmed = trim_all(chosen, THRESHOLD)
    return 1 - sum(u.seconds for u in trimmed) / sum(u.seconds for u in chosen)


def read_sets(
    args: argparse.Namespace, names: Iterable[str], commands: Path | None
) -> dict[str, list[Checked]]:
    """Read the data directories args.root/<name>; see `read_set` on commands.

    Raises:
        UserError: Something is wrong, a line for each problem; an utterance of a test
            set, of which ESPnet leaves none out, is too short.
    """
    root, shortest = args.root, min(args.min_wav_duration, SHORTEST)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    if root.resolve() == args.data.resolve():
        raise UserError(
            f"{root} is where the recipe writes its own data: name another folder"
        )
    sets, problems, notes = {}, [], []
    for name in dict.fromkeys(names):
        sets[name], found, noted = read_set(root / name, root, commands)
        problems += found
        notes += noted
        short = [u.utt_id for u in sets[name] if u.seconds < shortest]
        if name in args.test_sets and short:
            why = f"shorter than {shortest:g} s, too short to be recognised"
            problems.append(f"{root / name}/wav.scp: {why}: {some(short)}")
    problems += find_overlaps(root, sets)
    if channels := list_by(sets, "channels"):
        what = "recordings differ in channels, give all of them the same number"
        problems.append(f"{root}: {what}: {channels}")
    if problems:
        raise UserError("\n".join(problems))
    if rates := list_by(sets, "rate"):
        notes.append(f"note: audio of several rates, in Hz, is resampled: {rates}")
    if (channels := next(iter(sets.values()))[0].channels) > 1:
        notes.append(
            f"note: the audio has {channels} channels: ESPnet trains on a random one "
            "of them, and decodes the first"
        )
    print("".join(f"{note}\n" for note in notes), end="")
    return sets


def check_lengths(root: Path, sets: Sets, shortest: float, longest: float):
    """Print how many utterances asr.sh will leave out, for their length in seconds.

    Raises:
        UserError: Nothing would be left of a set.
    """
    problems = []
    for name, utterances in sets.items():
        left_out = [u.utt_id for u in utterances if not shortest < u.seconds < longest]
        line = (
            f"ESPnet drops {len(left_out)} of {len(utterances)} utterances, because "
            f"they are shorter than {shortest:g} s or longer than {longest:g} s "
            f"(--min_wav_duration, --max_wav_duration): {some(left_out)}"
        )
        if len(left_out) == len(utterances):
            problems.append(f"{root / name}: {line}")
        elif left_out:
            print(f"note: {name}: {line}")
    if problems:
        raise UserError("\n".join(problems))


def prepare(args: argparse.Namespace, commands: Path | None) -> None:
    """Make the data directories, once nothing is wrong with any; see `main`.

    Args:
        args: The options.
        commands: Folder to make for the audio of commands in wav.scp; it gets its
            place, args.data/commands, afterwards.
    """
    root, train_set, test_sets = args.root, args.train_set, args.test_sets
    valid_set = args.valid_set or "dev"
    is_held_out = not (args.valid_set or "dev" in test_sets or (root / "dev").exists())
    names = [train_set, *([] if is_held_out else [valid_set]), *test_sets]
    sets = read_sets(args, names, commands)
    note_shared_speakers(sets, train_set, test_sets)
    note_unseen_characters(sets, train_set)
    if is_held_out:
        if len({u.speaker for u in sets[train_set]}) < 2:
            raise UserError(
                f"{root / train_set}: there is only one speaker, so none can be held "
                "out for validation: make a set, and name it with --valid_set"
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
            f"models learn sooner without it; add --trim_silence {THRESHOLD}"
        )
    lengths = args.min_wav_duration, args.max_wav_duration
    check_lengths(root, {name: sets[name] for name in (train_set, valid_set)}, *lengths)
    for name, utterances in in_order(sets).items():
        kept = []
        for u in utterances:
            if commands and u.audio.is_relative_to(commands):
                place = args.data / "commands" / u.audio.relative_to(commands)
                u = replace(u, audio=place.resolve())
            # asr.sh would resample the short ones before it leaves them out
            if u.seconds >= args.min_wav_duration or name in test_sets:
                kept.append(u)
        write_data_dir(args.data / name, kept)


def main(argv: list[str] | None = None):
    """Write the data directories, or say everything that is wrong with them."""
    parser = argparse.ArgumentParser(PROG, description=__doc__)
    parser.add_argument("--train_set", required=True)
    parser.add_argument("--valid_set", required=True, help="'': dev, or held out")
    parser.add_argument("--test_sets", required=True, type=split_names)
    parser.add_argument(
        "--trim_silence", type=float, help="dB below the loudest part: silence"
    )
    # asr.sh leaves out the others, but of test sets
    parser.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20, help="seconds")
    parser.add_argument(
        "--allow_commands", choices=["true", "false"], help="run commands in wav.scp"
    )
    parser.add_argument("root", type=Path, help="folder with a directory for each set")
    parser.add_argument("data", type=Path, help="where to make the data directories")
    args = parser.parse_args(argv)
    with reported_errors(PROG), contextlib.ExitStack() as stack:
        commands = None
        if args.allow_commands == "true":
            args.data.mkdir(parents=True, exist_ok=True)
            commands = stack.enter_context(
                written_whole(args.data.resolve() / "commands")
            )
            commands.mkdir()
        prepare(args, commands)


if __name__ == "__main__":
    main()
