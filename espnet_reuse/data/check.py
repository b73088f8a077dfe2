# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Check Kaldi data directories and the audio they list, before training.

Folders that hold none of their files are passed over.
"""

import argparse
import functools
import itertools
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espnet_reuse.data.audio import check_audio
from espnet_reuse.data.data_dir import check_text, scan_tables, some
from espnet_reuse.errors import UserError, reported_errors

FILES = ("text", "wav.scp", "utt2spk")
NO_FILE = re.compile(r"\|$|:\d+$")  # a command, a place in an archive


def check_audios(
    audio: Mapping[str, Path | str], decoded: bool = False
) -> tuple[list[str], list[str]]:
    """Check audio files, {utterance id: file}; see `check_audio`.

    Returns:
        A line for each kind of problem, with the first file and the ids of some others
        that have it; and the ids of all files with problems.
    """
    check = functools.partial(check_audio, decoded=decoded)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(audio, pool.map(check, audio.values()), strict=True))
    broken, alike = [utt_id for utt_id, problem in found.items() if problem], {}
    for utt_id in broken:
        alike.setdefault(re.sub(r"\d+", "", found[utt_id]), []).append(utt_id)
    lines = [
        f"{first}: {audio[first]} {found[first]}"
        + (f"; likewise {some(others)}" if others else "")
        for first, *others in alike.values()
    ]
    return lines, broken


def check_data_dir(data_dir: Path, decoded: bool = False) -> list[str]:
    """Return what is wrong with a data directory; nothing, if it has none of FILES.

    If its audio is `decoded`, all samples are read.
    """
    if not any((data_dir / name).exists() for name in FILES):
        return []
    tables, problems = scan_tables(data_dir, FILES)
    for what, utt_ids in check_text(tables["text"]):
        problems.append(f"{data_dir / 'text'}: {what}: {some(utt_ids)}")
    pairs = list(itertools.pairwise(sorted(tables["utt2spk"].items())))
    if wrong := [f"{b} after {a}" for (a, s), (b, t) in pairs if t < s]:
        what = "ids do not sort as their speakers do: begin each id with its speaker"
        problems.append(f"{data_dir / 'utt2spk'}: {what}: {some(wrong)}")
    audio = {k: v for k, v in tables["wav.scp"].items() if not NO_FILE.search(v)}
    broken, _ = check_audios(audio, decoded)
    return problems + [f"{data_dir / 'wav.scp'}: {problem}" for problem in broken]


def main(argv: list[str] | None = None):
    """Exit with a line for each problem, if there are any."""
    prog = "espnet_reuse.data.check"
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("--decode", action="store_true", help="read all samples")
    parser.add_argument("data_dirs", nargs="+", type=Path)
    args = parser.parse_args(argv)
    with reported_errors(prog):
        if problems := [
            p for d in args.data_dirs for p in check_data_dir(d, args.decode)
        ]:
            raise UserError("\n".join(problems))


if __name__ == "__main__":
    main()
