# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What was computed from an utterance, kept in files."""

import hashlib
from pathlib import Path
from typing import Callable, Dict

import numpy as np

from espnet_reuse.files import written_whole


class Cache:
    """Arrays in files, each named by everything that they depend on.

    That is the code of the analysis, what the folder's user names (`depends`), and a
    key. Several runs may share a folder at once.
    """

    def __init__(self, folder: Path, *depends: bytes):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        code = sorted(Path(__file__).parent.glob("*.py"))
        self.base = hashlib.sha256()
        for part in (*(path.read_bytes() for path in code), *depends):
            self.base.update(hashlib.sha256(part).digest())

    def get(
        self, key, speech: np.ndarray, compute: Callable[[], Dict]
    ) -> Dict[str, np.ndarray]:
        """Return an utterance's arrays by name, computed if they are not there yet.

        They depend on the waveform (samples,) and on the key, told apart by its `repr`.
        """
        name = self.base.copy()
        name.update(repr(key).encode())
        name.update(np.ascontiguousarray(speech).tobytes())
        path = self.folder / f"{name.hexdigest()[:32]}.npz"
        if not path.exists():
            arrays = compute()
            with written_whole(path) as partial:
                np.savez_compressed(partial, **arrays)
        with np.load(path) as file:
            return dict(file)
