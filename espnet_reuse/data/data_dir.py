# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Kaldi data directories: read and written, whole or not at all."""

import contextlib
import shutil
import sys
from pathlib import Path

MAX_NAMED = 3


def some(names):
    """Join a few of the names, and the number of the others."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def scan_scp(path):
    """Read a Kaldi text file, whatever is wrong with it.

    Returns:
        {id: rest of the line}, the first of an id that stands twice, and a list of what
        is wrong: the file is missing, empty or not UTF-8, has empty lines, or ids stand
        twice.
    """
    if not path.is_file():
        return {}, [f"{path} is missing"]
    try:
        # Python knows more ends of a line than Kaldi, which may stand in a transcript
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return {}, [f"{path} is not UTF-8"]
    if lines == [""]:
        return {}, [f"{path} is empty"]
    table, empty, twice = {}, [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            empty.append(str(number))
            continue
        key, *value = line.split(maxsplit=1)
        if key in table:
            twice.append(key)
        table.setdefault(key, "".join(value).strip())
    problems = [f"{path}: line {empty[0]} is empty"] if empty else []
    if twice:
        problems.append(f"{path}: stands twice: {some(twice)}")
    return table, problems


def read_scp(path):
    """Read a Kaldi text file into {id: rest of the line}.

    Raises:
        ValueError: Something is wrong with it, see `scan_scp`.
    """
    table, problems = scan_scp(path)
    if problems:
        raise ValueError(problems[0])
    return table


def write_data_dir(data_dir, utterances, segments=None):
    """Write a Kaldi data directory, which appears once it is whole.

    Args:
        data_dir: Directory to make or replace.
        utterances: (utterance id, speaker, words, audio file) of each, in any order.
        segments: {utterance id: (start, end)}, in seconds of its audio file, if the
            utterances are parts of them.
    """
    utterances = sorted(utterances)
    partial = data_dir.with_name(data_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
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
    for name, lines in files.items():
        (partial / name).write_text("".join(line + "\n" for line in lines))
    shutil.rmtree(data_dir, ignore_errors=True)
    partial.rename(data_dir)


def need_disk(needed, folder, what):
    """Tell the disk that a step needs, before it begins.

    Args:
        needed: Bytes.
        folder: Where they go; it need not exist.
        what: What they are for.

    Raises:
        ValueError: There is too little.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    sizes = (
        f"about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free in {folder}"
    )
    if free < needed:
        raise ValueError(f"no space left for {what}: {sizes}")
    print(f"{what}: {sizes}", flush=True)


@contextlib.contextmanager
def errors_in_one_line():
    """Exit with the one line that says what is wrong, instead of a traceback."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, EOFError) as e:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {' '.join(str(e).split())}")
