#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Put phones in the place of the words of data directories.

Usage: words_to_phones.py <text-phone> <data directory> ...
"""

import collections
import re
import sys
from dataclasses import replace
from pathlib import Path

from espnet_reuse.data.data_dir import read_data_dir, read_scp, write_data_dir
from espnet_reuse.errors import UserError, reported_errors

with reported_errors("words_to_phones.py"):
    source, *data_dirs = map(Path, sys.argv[1:])
    words = collections.defaultdict(list)  # phones of each word of an utterance
    for utt_id_and_number, phones in read_scp(source).items():
        phones = re.sub(r"\d?_[BIES]\b", "", phones)
        words[utt_id_and_number.partition(".")[0]].append(phones)
    for data_dir in data_dirs:
        utterances = []
        for u in read_data_dir(data_dir):
            # espnet_reuse.data.prepare has put the speaker before the ids
            phones = words[u.utt_id.removeprefix(f"{u.speaker}-")]
            if len(phones) != len(u.words.split()):
                lacks = "has not the phones of every word of"
                raise UserError(f"{source} {lacks} {u.utt_id}")
            utterances.append(replace(u, words=" ".join(phones)))
        write_data_dir(data_dir, utterances)
