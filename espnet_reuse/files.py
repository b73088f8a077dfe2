# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Files and folders that are whole or not there."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write, a file or a folder, that gets its name when it is whole.

    Args:
        path: The name; what is there before is replaced.

    Yields:
        A path beside it, not there yet; nothing is left of it after an error.
    """
    path = Path(path)
    # two processes may write the same file, the second after the first
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    partial = beside / path.name
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            path.rename(beside / "before")
        os.replace(partial, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_text(text: str, path: Path) -> None:
    """Write a text file, in UTF-8, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(value, path: Path) -> None:
    """Write compact JSON, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    write_text(text + "\n", path)
