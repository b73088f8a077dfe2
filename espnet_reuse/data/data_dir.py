# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Kaldi data directories: read, and written whole or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from espnet_reuse.errors import UserError
from espnet_reuse.files import written_whole

MAX_NAMED = 3


def some(names: Sequence[str]) -> str:
    """Join a few of the names, and the number of the others."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def scan_scp(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read a Kaldi text file, whatever is wrong with it.

    Returns:
        {id: rest of the line}, with the first line of a duplicate id, and a list of
        problems: the file is missing, empty or not UTF-8, has empty lines or duplicate
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
    table, empty, duplicates = {}, [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            empty.append(str(number))
            continue
        key, *value = line.split(maxsplit=1)
        if key in table:
            duplicates.append(key)
        table.setdefault(key, "".join(value).strip())
    problems = [f"{path}: line {empty[0]} is empty"] if empty else []
    if duplicates:
        problems.append(f"{path}: duplicate ids: {some(duplicates)}")
    return table, problems


def read_scp(path: Path) -> dict[str, str]:
    """Read a Kaldi text file into {id: rest of the line}.

    Raises:
        UserError: Something is wrong with it, see `scan_scp`.
    """
    table, problems = scan_scp(path)
    if problems:
        raise UserError(problems[0])
    return table


def write_data_dir(
    data_dir: Path,
    utterances: Iterable[tuple[str, str, str, Path]],
    segments: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write a Kaldi data directory.

    Args:
        data_dir: Directory to make or replace.
        utterances: (utterance id, speaker, words, audio file) of each, in any order.
        segments: {utterance id: (start, end)}, in seconds of its audio file, if the
            utterances are parts of them.
    """
    utterances = sorted(utterances)
    spk2utt = {}
    for utt_id, speaker, _, _ in utterances:
        spk2utt.setdefault(speaker, []).append(utt_id)
    files = {
        "text": [f"{utt_id} {words}" for utt_id, _, words, _ in utterances],
        "wav.scp": [f"{utt_id} {audio}" for utt_id, _, _, audio in utterances],
        "utt2spk": [f"{utt_id} {speaker}" for utt_id, speaker, _, _ in utterances],
        "spk2utt": [f"{speaker} {' '.join(ids)}" for speaker, ids in spk2utt.items()],
    }
    if segments:
        files["segments"] = [
            f"{utt_id} {utt_id} {start:.3f} {end:.3f}"
            for utt_id, (start, end) in sorted(segments.items())
        ]
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(data_dir) as folder:
        folder.mkdir()
        for name, lines in files.items():
            text = "".join(line + "\n" for line in lines)
            (folder / name).write_text(text, encoding="utf-8")
