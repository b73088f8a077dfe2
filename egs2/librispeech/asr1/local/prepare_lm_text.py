#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Download LibriSpeech's text for language models, one sentence per line.

Usage: prepare_lm_text.py <folder>, where it makes the file text, once.
"""

import gzip
import sys
from pathlib import Path

import torch

from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.files import need_disk, written_whole

URL = "http://www.openslr.org/resources/11/librispeech-lm-norm.txt.gz"
SIZE = 7 * 2**30  # the archive, and the text with an id for each line

folder = Path(sys.argv[1])
text, archive = folder / "text", folder / URL.rpartition("/")[2]
if text.is_file() and text.stat().st_size > 0:
    sys.exit()
with reported_errors("prepare_lm_text.py", interrupted="the next run continues"):
    print(need_disk(SIZE, folder, "text for the LM"), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not archive.is_file():
        # to a temporary name first
        torch.hub.download_url_to_file(URL, str(archive), progress=False)
    try:
        # gzip verifies its own checksum at the end
        with gzip.open(archive) as lines, written_whole(text) as partial:
            with_ids = (b"librispeech_lng_%08d %s" % x for x in enumerate(lines, 1))
            with partial.open("wb") as out:
                out.writelines(with_ids)
    except EOFError as e:
        raise UserError(f"{archive}: {one_line(e)}") from e
