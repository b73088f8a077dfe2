#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Download LibriSpeech's text for language models, one sentence per line."""

import argparse
import gzip
import os
from pathlib import Path

import torch
from data_dir import errors_in_one_line, need_disk

URL = "http://www.openslr.org/resources/11/librispeech-lm-norm.txt.gz"
SIZE = 7 * 2**30  # the archive, and the text with an id for each line


def main():
    """Write <folder>/text, once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    text, archive = args.folder / "text", args.folder / URL.rpartition("/")[2]
    if text.is_file() and text.stat().st_size > 0:
        return
    with errors_in_one_line():
        need_disk(SIZE, args.folder, "text for the LM")
        args.folder.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            # to a temporary name first
            torch.hub.download_url_to_file(URL, str(archive), progress=False)
        partial = text.with_suffix(".partial")
        # gzip verifies its own checksum at the end
        with gzip.open(archive, "rt", encoding="utf-8") as f, partial.open("w") as out:
            for n, line in enumerate(f, 1):
                out.write(f"librispeech_lng_{n:08d} {line}")
        os.replace(partial, text)


if __name__ == "__main__":
    main()
