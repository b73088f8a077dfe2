# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Kaldi data directories: read, and written whole or not at all."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_reuse.errors import UserError
from espnet_reuse.files import written_whole

MAX_NAMED = 3
# refused by utils/validate_data_dir.sh
RESERVED = re.compile(r"(?<!\w)(?:<s>|</s>|#0)(?!\w)", re.ASCII)
ODD_SPACE = re.compile(r"[^\S \t]")
# with the byte order mark, which readers leave out at the start of a file
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufeff](?<!\s)")
LONGEST_ID = 200  # bytes; with what is added to it, it becomes a file's name of 255


@dataclass(frozen=True, order=True)
class Utterance:
    """What a data directory says of an utterance."""

    utt_id: str
    speaker: str
    words: str
    audio: Path
    segment: tuple[float, float] | None = None  # (start, end) in seconds; None: all


def split_names(text: str) -> list[str]:
    """Split names with commas or spaces between."""
    return text.replace(",", " ").split()


def some(names: Sequence[str]) -> str:
    """Join a few of the names, and the number of the others."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def scan_scp(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read a Kaldi text file, whatever is wrong with it.

    Returns:
        The rest of the line of each id, the last one of a duplicate id; and a list of
        problems. The file is missing, empty or not UTF-8, has empty lines or duplicate
        ids.
    """
    if not path.is_file():
        return {}, [f"{path} is missing"]
    try:
        # Python ends lines at characters that Kaldi takes for part of a transcript
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return {}, [f"{path} is not UTF-8"]
    if lines == [""]:
        return {}, [f"{path} is empty"]
    rows = [line.split(maxsplit=1) for line in lines]
    problems = [f"{path}: line {rows.index([]) + 1} is empty"] if [] in rows else []
    rows = [row for row in rows if row]
    counts = Counter(key for key, *_ in rows)
    if duplicates := [key for key, count in counts.items() if count > 1]:
        problems.append(f"{path}: duplicate ids: {some(duplicates)}")
    return {key: "".join(value).strip() for key, *value in rows}, problems


def read_scp(path: Path) -> dict[str, str]:
    """Read a Kaldi text file into {id: rest of the line}.

    Raises:
        UserError: Something is wrong with it, see `scan_scp`.
    """
    table, problems = scan_scp(path)
    if problems:
        raise UserError(problems[0])
    return table


def is_no_file_name(utt_id: str) -> bool:
    """Return whether an id, which becomes a file's name, leads elsewhere."""
    parts = utt_id.split("/")
    return not parts[0] or {".", ".."} & {*parts} or len(utt_id.encode()) > LONGEST_ID


def check_text(text: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Find transcripts and ids that ESPnet's tools refuse, or would change.

    Yields:
        What is wrong, and the ids of the utterances that have it.
    """
    for what, is_wrong in (
        ("symbols that Kaldi reserves, <s>, </s> or #0", RESERVED.search),
        ("white space other than blanks", ODD_SPACE.search),
        ("control characters or byte order marks", CONTROL.search),
        (
            f"ids that cannot name a file, of {LONGEST_ID} bytes at most",
            lambda s: is_no_file_name(s.split(" ")[0]),
        ),
    ):
        if wrong := [k for k, v in text.items() if is_wrong(f"{k} {v}")]:
            yield what, wrong


def scan_tables(
    folder: Path, names: Iterable[str], optional: Iterable[str] = ()
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Read some of a data directory's files, which should be of the same utterances.

    Returns:
        The table of each file, without optional files that are missing, and a list of
        what is wrong (see `scan_scp`, and ids that one file has and another has not).
        With segments, wav.scp has ids of its own.
    """
    tables, problems = {}, []
    for name in (*names, *(name for name in optional if (folder / name).exists())):
        tables[name], found = scan_scp(folder / name)
        problems += found
    compared = {name: table for name, table in tables.items() if table}
    if (folder / "segments").exists():
        compared.pop("wav.scp", None)
    utt_ids = {utt_id: None for table in compared.values() for utt_id in table}
    for name, table in compared.items():
        if missing := [utt_id for utt_id in utt_ids if utt_id not in table]:
            problems.append(f"{folder / name}: no line for: {some(missing)}")
    return tables, problems


def read_data_dir(data_dir: Path) -> list[Utterance]:
    """Read a Kaldi data directory.

    Raises:
        UserError: Something is wrong with it, a line for each problem.
    """
    names = ("wav.scp", "text", "utt2spk")
    tables, problems = scan_tables(data_dir, names, optional=["segments"])
    if problems:
        raise UserError("\n".join(problems))
    audio, text, utt2spk = (tables[name] for name in names)
    segments = tables.get("segments", {})
    utterances = []
    for utt_id, words in text.items():
        recording, *times = segments.get(utt_id, utt_id).split()
        segment, path = tuple(map(float, times)) or None, Path(audio[recording])
        utterances.append(Utterance(utt_id, utt2spk[utt_id], words, path, segment))
    return utterances


def write_data_dir(data_dir: Path, utterances: Iterable[Utterance]) -> None:
    """Write a Kaldi data directory, which replaces one that is there."""
    files, spk2utt, recordings = defaultdict(list), defaultdict(list), {}
    for u in sorted(utterances):
        # a recording has the id of the first utterance in it
        recording = recordings.setdefault(u.audio, u.utt_id) if u.segment else u.utt_id
        files["text"].append(f"{u.utt_id} {u.words}\n")
        if recording == u.utt_id:
            files["wav.scp"].append(f"{u.utt_id} {u.audio}\n")
        files["utt2spk"].append(f"{u.utt_id} {u.speaker}\n")
        spk2utt[u.speaker].append(u.utt_id)
        if u.segment:
            start, end = u.segment
            line = f"{u.utt_id} {recording} {start:.3f} {end:.3f}\n"
            files["segments"].append(line)
    files["spk2utt"] = [f"{name} {' '.join(ids)}\n" for name, ids in spk2utt.items()]
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(data_dir) as folder:
        folder.mkdir()
        for name, lines in files.items():
            (folder / name).write_text("".join(lines), encoding="utf-8")
