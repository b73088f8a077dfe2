# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A linear classifier of the phoneme from each layer's hidden states."""

import warnings
from typing import Dict

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Every fourth speaker is held out, the first of them in any case.
HOLD_OUT_EVERY = 4
MAX_ITERATIONS = 300  # enough for the accuracy to settle


def probe(states: np.ndarray, labels: np.ndarray, speakers: np.ndarray) -> Dict:
    """Train a classifier of phonemes at each place, and test it on other speakers.

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
        why = f"a probe needs two speakers or more, here is {len(everyone)}"
        return {"skipped": why}
    held_out = everyone[::HOLD_OUT_EVERY]
    is_test = np.isin(speakers, held_out)
    train, test = labels[~is_test], labels[is_test]
    classes, counts = np.unique(train, return_counts=True)
    if len(classes) < 2:
        return {"skipped": "a probe needs two phonemes or more in the training frames"}
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
