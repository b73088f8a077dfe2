#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make data directories for asr.sh from Kaldi-style ones that anyone has."""

import argparse
import sys
from pathlib import Path

from check_data import MAX_SHOWN, check_audios
from data_dir import read_scp, write_data_dir


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


def main():
    """Write the data directories, or say everything that is wrong with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", required=True, help="names, with commas between")
    parser.add_argument("root", type=Path, help="folder with a directory for each set")
    parser.add_argument("data", type=Path, help="where to make the data directories")
    args = parser.parse_args()
    sets, problems, set_of = {}, [], {}
    for name in args.sets.split(","):
        sets[name], found = read_set(args.root, name)
        problems += found
        for utt_id, *_ in sets[name]:
            if utt_id in set_of:
                problems.append(
                    f"{args.root}/{name}: {utt_id} is in {set_of[utt_id]}, too"
                )
            set_of[utt_id] = name
    for problem in problems[:MAX_SHOWN]:
        print(f"data_prep.py: error: {problem}", file=sys.stderr)
    if len(problems) > MAX_SHOWN:
        print(f"... and {len(problems) - MAX_SHOWN} more", file=sys.stderr)
    if problems:
        sys.exit(1)
    for name, utterances in sets.items():
        write_data_dir(args.data / name, utterances)


if __name__ == "__main__":
    main()
