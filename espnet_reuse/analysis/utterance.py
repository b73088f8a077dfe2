# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Measures of one utterance, and the cache that keeps them."""

import hashlib
import zlib
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

import numpy as np
import torch

from espnet_reuse.analysis import alignments, maps, metrics, similarity
from espnet_reuse.analysis.alignments import Phone
from espnet_reuse.analysis.maps import FrameTimes, Recording
from espnet_reuse.analysis.phonemes import SILENCE
from espnet_reuse.files import written_whole

RADII = np.linspace(0, 1, 101)
# Neighbouring frames are nearly the same: a sample of them is enough for the probe.
PROBE_FRAMES = 50

Measures = Dict[str, np.ndarray]


def measure(
    recording: Recording,
    phones: Optional[Sequence[Phone]],
    frame_times: FrameTimes,
    utt_id: str,
) -> Measures:
    """Compute everything that is kept of an utterance.

    Args:
        recording: Maps and hidden states.
        phones: Its phones, None without an alignment.
        frame_times: Times of the encoder's frames.
        utt_id: Utterance id, which draws the frames for the probe.

    Returns:
        Arrays, with L layers, H heads, R radii, T frames:

        - `frames`: T
        - `cad`, `entropy` (nats), `normalised_entropy` (L, H); `curve` (L, H, R)
        - `js_distance`, `cosine` (L, L, H, H)
        - with phones, of which P different symbols occur: `phonemes` (P,),
          `phoneme_frames` (P,), `phoneme_sums` (L, H, P, P), `probe_states`
          (n, L + 1, size) float16, `probe_labels` (n,) which index `phonemes`, of
          frames that are not silence
    """
    attention_maps = recording.maps
    num_frames = attention_maps.size(-1)
    distance, cosine = similarity.compare_layers(attention_maps)
    entropy = metrics.entropy(attention_maps)
    measures = {
        "frames": torch.tensor(num_frames),
        "cad": metrics.cad(attention_maps),
        "curve": metrics.cumulative_diagonality(attention_maps, torch.tensor(RADII)),
        "entropy": entropy,
        "normalised_entropy": entropy / np.log(max(num_frames, 2)),
        "js_distance": distance,
        "cosine": cosine,
    }
    measures = {name: value.numpy() for name, value in measures.items()}
    if phones is None:
        return measures
    symbols = sorted({phone.symbol for phone in phones})
    labels = alignments.label_frames(
        phones,
        frame_times.of(num_frames).numpy(),
        {symbol: n for n, symbol in enumerate(symbols)},
    )
    labelled = np.flatnonzero(labels >= 0)
    rng = np.random.default_rng(zlib.crc32(utt_id.encode()))
    spoken = [n for n in labelled if symbols[labels[n]] != SILENCE]
    chosen = rng.permutation(spoken)[:PROBE_FRAMES].astype(np.int64)
    counts = np.bincount(labels[labelled], minlength=len(symbols))
    sums = metrics.phoneme_attention_sums(
        attention_maps, torch.from_numpy(labels), len(symbols)
    )
    return measures | {
        "phonemes": np.array(symbols),
        "phoneme_frames": counts,
        "phoneme_sums": sums.numpy(),
        "probe_states": recording.states[:, chosen].transpose(0, 1).half().numpy(),
        "probe_labels": labels[chosen],
    }


class Cache:
    """Keeps each utterance's measures in a file, named by all that they depend on.

    Several runs may share a folder at once.

    Args:
        folder: Folder of the files; is made.
        model_key: Names the model: its weights and its config.
    """

    def __init__(self, folder: Path, model_key: str):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.base = hashlib.sha256(model_key.encode())
        code = [module.__file__ for module in (maps, metrics, similarity, alignments)]
        for source in (*code, __file__):
            self.base.update(Path(source).read_bytes())

    def get(
        self,
        utt_id: str,
        speech: np.ndarray,
        phones: Optional[Sequence[Phone]],
        compute: Callable[[], Measures],
    ) -> Measures:
        """Return an utterance's measures, computed if they are not there yet."""
        key = self.base.copy()
        key.update(repr((utt_id, phones)).encode())
        key.update(np.ascontiguousarray(speech).tobytes())
        path = self.folder / f"{key.hexdigest()[:32]}.npz"
        if path.exists():
            with np.load(path) as file:
                return dict(file)
        measures = compute()
        with written_whole(path) as partial:
            np.savez_compressed(partial, **measures)
        return measures
