# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Files and folders that are whole or not there."""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Iterator

import humanfriendly

from espnet_reuse.errors import UserError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write, a file or a folder, that gets its name when it is whole.

    It replaces what has the name before. Nothing is left of it after an error.
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


def is_whole(path: Path) -> bool:
    """Return whether what PyTorch saved, a zip archive, is as its checksums say."""
    with path.open("rb") as file:
        try:
            return zipfile.ZipFile(file).testzip() is None
        except Exception:  # whatever bytes of any kind make zipfile raise
            return False


def write_text(text: str, path: Path) -> None:
    """Write a text file, in UTF-8, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(value, path: Path) -> None:
    """Write compact JSON, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    write_text(text + "\n", path)


def need_disk(needed: int, folder: Path, what: str) -> str:
    """Check that the disk has room for so many bytes in a folder that may not be there.

    Returns:
        A sentence to print, with what takes the room, the needed and the free size.

    Raises:
        UserError: Too little is free.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    needs, has = (humanfriendly.format_size(n, binary=True) for n in (needed, free))
    sizes = f"about {needs}, {has} are free in {folder}"
    if free < needed:
        raise UserError(f"no space left for {what}: {sizes}")
    return f"{what}: {sizes}"
