#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Download LibriSpeech's text for language models, one sentence per line."""

import argparse
import gzip
from pathlib import Path

import torch

from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.files import need_disk, written_whole

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
    with reported_errors("prepare_lm_text.py", interrupted="the next run continues"):
        print(need_disk(SIZE, args.folder, "text for the LM"), flush=True)
        args.folder.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            # to a temporary name first
            torch.hub.download_url_to_file(URL, str(archive), progress=False)
        # gzip verifies its own checksum at the end
        try:
            with (
                gzip.open(archive, "rt", encoding="utf-8") as lines,
                written_whole(text) as partial,
                partial.open("w", encoding="utf-8") as out,
            ):
                for n, line in enumerate(lines, 1):
                    out.write(f"librispeech_lng_{n:08d} {line}")
        except EOFError as e:
            raise UserError(f"{archive}: {one_line(e)}") from e


if __name__ == "__main__":
    main()
