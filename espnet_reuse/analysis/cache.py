# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What was computed from an utterance, kept in files."""

import hashlib
from pathlib import Path
from typing import Callable, Dict

import numpy as np

from espnet_reuse.files import written_whole


class Cache:
    """Arrays in files, each named by everything that they depend on.

    Several runs may share a folder at once.

    Args:
        folder: Folder of the files; is made.
        *depends: What all of them depend on, besides the code of the analysis.
    """

    def __init__(self, folder: Path, *depends: bytes):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        code = [
            path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))
        ]
        digests = (hashlib.sha256(part).digest() for part in (*code, *depends))
        self.base = hashlib.sha256(b"".join(digests))

    def get(
        self, key, speech: np.ndarray, compute: Callable[[], Dict]
    ) -> Dict[str, np.ndarray]:
        """Return an utterance's arrays, computed if they are not there yet.

        Args:
            key: What they depend on besides the audio, told apart by its `repr`.
            speech: Waveform (samples,).
            compute: Computes them, by name.
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
