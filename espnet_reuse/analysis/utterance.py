# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Measures of one utterance."""

import zlib
from typing import Dict, Optional, Sequence

import numpy as np
import pandas as pd
import torch

from espnet_reuse.analysis import metrics, similarity
from espnet_reuse.analysis.alignments import Phone, phones_at
from espnet_reuse.analysis.dataset import Utterance
from espnet_reuse.analysis.maps import AnalysedModel, FrameTimes
from espnet_reuse.analysis.phonemes import SILENCE

RADII = np.linspace(0, 1, 101)
# Neighbouring frames are nearly the same: a sample of them is enough for the probe.
PROBE_FRAMES = 50


def measure(
    analysed: AnalysedModel,
    utterance: Utterance,
    phones: Optional[Sequence[Phone]],
    frame_times: FrameTimes,
) -> Dict[str, np.ndarray]:
    """Compute everything that is kept of an utterance.

    Args:
        analysed: The model.
        utterance: The utterance; its id draws the frames for the probe.
        phones: Its phones, None without an alignment.
        frame_times: Times of the encoder's frames.

    Returns:
        Arrays, with L layers, H heads, R radii, T frames:

        - `frames`: T
        - `cad`, `entropy` (nats), `normalised_entropy` (L, H); `curve` (L, H, R)
        - `js_distance`, `cosine` (L, L, H, H)
        - with phones, of which frames have P different ones: `phonemes` (P,),
          `phoneme_frames` (P,), `phoneme_sums` (L, H, P, P), `probe_states`
          (n, L + 1, size) float16, `probe_labels` (n,) which index `phonemes`, of
          frames that are not silence
    """
    speech = torch.from_numpy(utterance.speech)
    maps, states = analysed.record(speech, utterance.id)
    num_frames = maps.size(-1)
    distance, cosine = similarity.compare_layers(maps)
    entropy = metrics.entropy(maps)
    measures = {
        "frames": torch.tensor(num_frames),
        "cad": metrics.cad(maps),
        "curve": metrics.cumulative_diagonality(maps, torch.tensor(RADII)),
        "entropy": entropy,
        "normalised_entropy": entropy / np.log(max(num_frames, 2)),
        "js_distance": distance,
        "cosine": cosine,
    }
    measures = {name: value.numpy() for name, value in measures.items()}
    if phones is None:
        return measures
    spoken = phones_at(frame_times.of(num_frames).numpy(), phones)
    labels, symbols = pd.factorize(spoken, sort=True)  # -1 for None
    rng = np.random.default_rng(zlib.crc32(utterance.id.encode()))
    candidates = np.flatnonzero((labels >= 0) & (spoken != SILENCE))
    chosen = rng.permutation(candidates)[:PROBE_FRAMES]
    sums = metrics.phoneme_attention_sums(maps, torch.from_numpy(labels), len(symbols))
    return measures | {
        "phonemes": symbols.astype(str),
        "phoneme_frames": np.bincount(labels[labels >= 0], minlength=len(symbols)),
        "phoneme_sums": sums.numpy(),
        "probe_states": states[:, chosen].transpose(0, 1).half().numpy(),
        "probe_labels": labels[chosen],
    }
