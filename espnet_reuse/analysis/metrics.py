# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Measures of attention maps (diagonality, entropy, phoneme attention), and a probe.

The definitions are our own, after the ideas of Shim, Choi and Sung, ICLR 2022, whose
normalisation is not known here.
"""

import warnings
from typing import Collection, Dict, Tuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MAX_ITERATIONS = 300  # of the probe: enough for its accuracy to settle


def mass_by_distance(maps: torch.Tensor) -> torch.Tensor:
    """Return the share of the attention at each distance, (..., T) of (..., T, T).

    At distance k, it is `(1/T) sum of A[i, j] over |i - j| = k`.
    """
    num_frames = maps.size(-1)
    frames = torch.arange(num_frames, device=maps.device)
    distance = (frames[:, None] - frames).abs().flatten()
    mass = maps.new_zeros(*maps.shape[:-2], num_frames)
    return mass.index_add(-1, distance, maps.flatten(-2)) / num_frames


def cumulative_diagonality(maps: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Return `D(r) = (1/T) sum of A[i, j] over |i - j| <= r (T - 1)`.

    Of maps (..., T, T) and radii (R,), from 0 to 1: D (..., R), 1 where T is 1.
    """
    cumulative = mass_by_distance(maps).cumsum(-1)
    # 0.29 * 100 is 28.999... in floating point: reach further by 1/1000 of a frame
    reach = (radii.double() * (maps.size(-1) - 1) + 1e-3).floor().long()
    return cumulative[..., reach]


def cad(maps: torch.Tensor) -> torch.Tensor:
    """Return CAD (...) of maps (..., T, T), the integral of D(r) over r from 0 to 1.

    D is a step function, so that `CAD = (1/T) sum A[i, j] (1 - |i - j| / (T - 1))`. It
    is 1 for the identity, about 2/3 for the uniform map, 1 where T is 1.
    """
    num_frames = maps.size(-1)
    distance = torch.arange(num_frames, dtype=maps.dtype, device=maps.device)
    return mass_by_distance(maps) @ (1 - distance / max(num_frames - 1, 1))


def entropy(maps: torch.Tensor) -> torch.Tensor:
    """Return the mean over frames of the entropy of A[i, :] (..., T, T), in nats."""
    return torch.special.entr(maps).sum(-1).mean(-1)


def phoneme_attention_sums(
    maps: torch.Tensor, labels: torch.Tensor, num_phonemes: int
) -> torch.Tensor:
    """Sum the attention from frames of one phoneme to frames of another.

    Only attention to other occurrences counts: the unbroken run of a phoneme around a
    frame is left out.

    Args:
        maps: Attention maps (..., T, T).
        labels: Phoneme of each frame (T,), int64; -1 has none, is not counted and ends
            a run.
        num_phonemes: Number P of phonemes.

    Returns:
        Sums (..., P, P) over the frames i of p, of the attention on the frames j of q
        outside the run.
    """
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[1:] = labels[1:] != labels[:-1]
    runs = starts.cumsum(0)
    others = maps * (runs[:, None] != runs)
    # (T, P), unlabelled frames are rows of zeros
    is_of = (labels[:, None] == torch.arange(num_phonemes)).to(maps.dtype)
    return is_of.T @ (others @ is_of)


def phoneme_attention(
    sums: torch.Tensor, counts: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return PAR as mass, and as lift over chance; both (..., P, P).

    From `phoneme_attention_sums` (..., P, P), added over utterances, and the frames of
    each phoneme (P,). Mass: P[p, q] = mean over frames i of p of the attention on
    frames of q outside the run around i. Lift: P[p, q] divided by the share of all
    counted frames that are of q. NaN for phonemes that do not occur.
    """
    counts = counts.to(sums.dtype)
    mass = sums / counts[:, None]
    return mass, mass / (counts / counts.sum())


def same_phoneme_lift(
    sums: torch.Tensor, counts: torch.Tensor, exclude: Collection[int] = ()
) -> torch.Tensor:
    """Return how much more than chance frames attend to their phoneme elsewhere.

    Of the attention that leaves the run, how much goes to the same phoneme: sum over p
    of S[p, p], divided by sum over p, q of S[p, q] s[p], where S are the sums and s[p]
    is the share of p of all counted frames. A layer that looks near is not below chance
    because most of its attention stays in the run. Phonemes to exclude, such as
    silence, are left out as p and as q. Of sums (..., P, P) and counts (P,), as
    `phoneme_attention` takes them, the lift (...): 1 is chance; NaN without frames.
    """
    kept = [p for p in range(len(counts)) if p not in exclude]
    sums, counts = sums[..., kept, :][..., kept], counts[kept].to(sums.dtype)
    attended = sums.diagonal(dim1=-2, dim2=-1).sum(-1)
    return attended / (sums.sum(-1) @ (counts / counts.sum()))


def probe(states: np.ndarray, labels: np.ndarray, speakers: np.ndarray) -> Dict:
    """Train linear classifiers of the phoneme, and test them on every fourth speaker.

    Hidden states are those of N frames at S places (N, S, size), float32; labels and
    speakers are those of the frames (N,).

    Returns:
        `accuracy` (a list, by place), `chance` (1 / number of classes), `majority`
        (accuracy of the training frames' most frequent phoneme), `classes`,
        `train_frames`, `test_frames`, `train_speakers`, `test_speakers`. A phoneme that
        the training frames lack counts as an error. `skipped` alone, with the reason,
        where there are too few speakers or phonemes.
    """
    everyone = sorted(set(speakers.tolist()))
    if len(everyone) < 2:
        why = f"a probe needs two speakers or more; this set has {len(everyone)}"
        return {"skipped": why}
    held_out = everyone[::4]  # the first in any case
    is_test = np.isin(speakers, held_out)
    train, test = labels[~is_test], labels[is_test]
    classes, counts = np.unique(train, return_counts=True)
    if len(classes) < 2:
        return {"skipped": "a probe needs two phonemes or more in its training frames"}
    accuracy = []
    for place in range(states.shape[1]):
        regression = LogisticRegression(max_iter=MAX_ITERATIONS)
        classifier = make_pipeline(StandardScaler(), regression)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(states[~is_test, place], train)
        accuracy.append(float(classifier.score(states[is_test, place], test)))
    return {
        "accuracy": accuracy,
        "chance": 1 / len(classes),
        "majority": float((test == classes[counts.argmax()]).mean()),
        "classes": len(classes),
        "train_frames": len(train),
        "test_frames": len(test),
        "train_speakers": [s for s in everyone if s not in held_out],
        "test_speakers": held_out,
    }
