#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make data directories for asr.sh from Kaldi-style ones that anyone has."""

import argparse
import collections
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import soundfile
from check_data import MAX_SHOWN, check_audios
from data_dir import read_scp, write_data_dir

MARGIN = 0.1  # seconds kept around what is louder than the silence
THRESHOLD = 35  # dB below the loudest that --trim_silence is suggested with ...
MUCH = 0.3  # ... where it would leave out this share of the training set


def read_set(root, name):
    """Read a data directory.

    Args:
        root: Folder that relative paths in wav.scp start from.
        name: Name of the directory in it.

    Returns:
        (utterance id, speaker, words, audio file) of every utterance, and a list of
        what is wrong with them. Ids begin with the speaker, as Kaldi's tools want it;
        without utt2spk every utterance has a speaker of its own.
    """
    folder = root / name
    try:
        audio, words = (read_scp(folder / file) for file in ("wav.scp", "text"))
        has_speakers = (folder / "utt2spk").is_file()
        speakers = read_scp(folder / "utt2spk") if has_speakers else {}
    except ValueError as error:
        return [], [str(error)]
    audio = {utt_id: root / path for utt_id, path in audio.items()}
    problems = [
        f"{folder}: {utt_id}: {problem}"
        for utt_id, problem in check_audios(audio).items()
    ]
    utterances = []
    for utt_id, path in audio.items():
        speaker = speakers.get(utt_id, "") if has_speakers else utt_id
        if not words.get(utt_id):
            problems.append(f"{folder}/text: {utt_id} has no words")
        if not speaker:
            problems.append(f"{folder}/utt2spk: {utt_id} has no speaker")
        own_id = utt_id if utt_id.startswith(speaker) else f"{speaker}-{utt_id}"
        utterances.append((own_id, speaker, words.get(utt_id, ""), path.resolve()))
    problems += [
        f"{folder}/wav.scp: {utt_id} of text is missing"
        for utt_id in sorted(words.keys() - audio.keys())
    ]
    return utterances, problems


def hold_out(utterances):
    """Split off some speakers: the same ones each time, 5 % of the utterances or more.

    Args:
        utterances: (utterance id, speaker, words, audio file) of each.

    Returns:
        The utterances of the other speakers, and of those held out.

    Raises:
        ValueError: There are fewer than two speakers.
    """
    counts = collections.Counter(speaker for _, speaker, *_ in utterances)
    if len(counts) < 2:
        raise ValueError(
            "a set to validate on cannot be held out of a single speaker's utterances: "
            "make one, and name it with --valid_set"
        )
    held_out, count = set(), 0
    for speaker in sorted(
        counts, key=lambda name: hashlib.sha256(name.encode()).digest()
    )[:-1]:
        if count >= 0.05 * len(utterances):
            break
        held_out.add(speaker)
        count += counts[speaker]
    return (
        [utterance for utterance in utterances if utterance[1] not in held_out],
        [utterance for utterance in utterances if utterance[1] in held_out],
    )


def find_speech(path, threshold):
    """Find where the silence before an utterance ends, and that after it begins.

    Args:
        path: Audio file.
        threshold: What is this many dB below the loudest is silence.

    Returns:
        (start, end) in seconds.
    """
    wav, fs = soundfile.read(path, dtype="float32", always_2d=True)
    _, (start, end) = librosa.effects.trim(wav.mean(axis=1), top_db=threshold)
    return max(start / fs - MARGIN, 0.0), min(end / fs + MARGIN, len(wav) / fs)


def find_all_speech(utterances, threshold):
    """Find where the speech begins and ends in all utterances: see `find_speech`."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(
            lambda path: find_speech(path, threshold), (path for *_, path in utterances)
        )
        ids = (utt_id for utt_id, *_ in utterances)
        return dict(zip(ids, found, strict=True))


def measure_silence(utterances):
    """Measure the share of silence around the speech, in 100 of the utterances."""
    chosen = utterances[:: len(utterances) // 100 + 1]
    speech = sum(
        end - start for start, end in find_all_speech(chosen, THRESHOLD).values()
    )
    return 1 - speech / sum(soundfile.info(path).duration for *_, path in chosen)


def main():
    """Write the data directories, or say everything that is wrong with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train_set", required=True)
    parser.add_argument("--valid_set", required=True, help="'': dev, or held out")
    parser.add_argument("--test_sets", required=True, help="with commas between")
    parser.add_argument(
        "--trim_silence", type=float, help="leave out what is so many dB too quiet"
    )
    parser.add_argument("root", type=Path, help="folder with a directory for each set")
    parser.add_argument("data", type=Path, help="where to make the data directories")
    args = parser.parse_args()
    sets, problems, set_of = {}, [], {}
    valid_set = args.valid_set or "dev"
    is_held_out = not args.valid_set and not (args.root / valid_set).exists()
    names = [args.train_set, valid_set, *args.test_sets.split(",")]
    for name in names:
        if is_held_out and name == valid_set:
            continue
        sets[name], found = read_set(args.root, name)
        problems += found
        for utt_id, *_, audio in sets[name]:
            for item in (utt_id, audio):
                if set_of.setdefault(item, name) != name:
                    problems.append(
                        f"{args.root}/{name}: {item} is in {set_of[item]}, too"
                    )
    if is_held_out and not problems:
        try:
            train, held_out = hold_out(sets[args.train_set])
        except ValueError as error:
            problems.append(f"{args.root}/{args.train_set}: {error}")
        else:
            sets |= {args.train_set: train, valid_set: held_out}
            speakers = sorted({speaker for _, speaker, *_ in held_out})
            shown = ", ".join(speakers[:MAX_SHOWN]) + ", ..." * (
                len(speakers) > MAX_SHOWN
            )
            count = f"{len(held_out)} utterances of {args.train_set}"
            print(f"note: {valid_set}: {count}, held out: all of {shown}")
    for problem in problems[:MAX_SHOWN]:
        print(f"data_prep.py: error: {problem}", file=sys.stderr)
    if len(problems) > MAX_SHOWN:
        print(f"... and {len(problems) - MAX_SHOWN} more", file=sys.stderr)
    if problems:
        sys.exit(1)
    for name, utterances in sets.items():
        segments = None
        if args.trim_silence:
            segments = find_all_speech(utterances, args.trim_silence)
        elif name == args.train_set and (share := measure_silence(utterances)) > MUCH:
            print(
                f"note: {share:.0%} of {name} is silence before and after the speech: "
                f"models learn sooner without it, with --trim_silence {THRESHOLD}"
            )
        write_data_dir(args.data / name, utterances, segments)


if __name__ == "__main__":
    main()
