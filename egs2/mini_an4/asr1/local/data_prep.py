#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Make Kaldi data directories from the AN4 recordings that come with ESPnet.

Usage: data_prep.py <folder with etc/ and wav/> <folder for the data directories>
"""

import re
import sys
from pathlib import Path

from espnet_reuse.data.data_dir import Utterance, write_data_dir
from espnet_reuse.errors import UserError, reported_errors

FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}


def read_transcription(an4_root, part):
    """Return the sorted utterances of a part, train or test.

    Raises:
        UserError: The transcription is missing or is not one.
    """
    path = an4_root / "etc" / f"an4_{part}.transcription"
    if not path.is_file() or path.stat().st_size == 0:
        raise UserError(
            f"{path} is missing or empty: remove {an4_root.parent} and run this again"
        )
    utterances = []
    for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
        # "<s> GO </s> (an253-fash-b)"
        match = re.fullmatch(r"(?:<s> )?(.*?)(?: </s>)? \((\w+)-(\w+)-(\w+)\)", line)
        if match is None:
            raise UserError(f"{path}: not a transcription: '{line}'")
        words, sentence, speaker, suffix = match.groups()
        audio = f"wav/{FOLDERS[part]}/{speaker}/{sentence}-{speaker}-{suffix}.sph"
        utt_id = f"{speaker}-{sentence}-{suffix}"
        utterances.append(Utterance(utt_id, speaker, words, an4_root / audio))
    return sorted(utterances)


with reported_errors("data_prep.py"):
    an4_root, data = map(Path, sys.argv[1:])
    train, test = (read_transcription(an4_root, part) for part in ("train", "test"))
    write_data_dir(data / "train_dev", train[:1])
    write_data_dir(data / "train_nodev", train[1:])
    # asr.sh refuses to decode the training set under its own name
    write_data_dir(data / "train_nodev_eval", train[1:])
    write_data_dir(data / "test", test)
