#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Download LibriSpeech with torchaudio, which verifies the archives' checksums."""

import argparse
import shutil
from pathlib import Path

from data_prep import OFFICIAL, add_options, choose_parts
from torchaudio.datasets import LIBRISPEECH

from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.files import need_disk


def download(part, downloads):
    """Download a part, which appears in LibriSpeech/ once it is whole.

    torchaudio takes any folder for a whole part, so it works beside. An archive that is
    there already, whose extraction was interrupted, is not downloaded again.

    Raises:
        UserError: The archive's checksum is wrong.
        OSError: It could not be downloaded, or the disk is full.
    """
    partial, corpus = downloads / "partial", downloads / "LibriSpeech"
    shutil.rmtree(partial / "LibriSpeech", ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        LIBRISPEECH(partial, part, download=True)
    except RuntimeError as e:
        raise UserError(one_line(e)) from e
    corpus.mkdir(exist_ok=True)
    (partial / "LibriSpeech" / part).rename(corpus / part)
    (partial / f"{part}.tar.gz").unlink()


@reported_errors("download.py", interrupted="the next run continues")
def main():
    """Download the parts that are not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("downloads", type=Path)
    add_options(parser)
    args = parser.parse_args()
    corpus = args.downloads / "LibriSpeech"
    parts = [p for p in choose_parts(args) if not (corpus / p).is_dir()]
    if parts:  # an archive and what is in it
        needed = 2 * sum(OFFICIAL[part][1] for part in parts)
        print(need_disk(needed, args.downloads, "downloads"), flush=True)
    for part in parts:
        print(f"{part}: {OFFICIAL[part][1] / 1e9:.1f} GB to download", flush=True)
        download(part, args.downloads)


if __name__ == "__main__":
    main()
