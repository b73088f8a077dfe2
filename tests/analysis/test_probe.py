# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The probe on representations whose answer is known."""

import warnings

import numpy as np
import pytest

from espnet_reuse.analysis.metrics import probe

CLASSES, FRAMES = 5, 2000


@pytest.fixture(scope="module")
def frames():
    """At the first place the label can be read off, at the second there is noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, FRAMES)
    speakers = np.array([f"s{n}" for n in rng.integers(0, 8, FRAMES)])
    separable = np.eye(12)[labels] * 5 + rng.normal(size=(FRAMES, 12))
    noise = rng.normal(size=(FRAMES, 12))
    return np.stack([separable, noise], 1).astype(np.float32), labels, speakers


def test_what_can_be_read_off_is_found_and_noise_is_chance(frames):
    result = probe(*frames)
    separable, noise = result["accuracy"]
    assert separable > 0.97
    # five standard deviations of a binomial
    spread = 5 * (0.2 * 0.8 / result["test_frames"]) ** 0.5
    assert abs(noise - result["chance"]) < spread
    assert abs(result["majority"] - result["chance"]) < spread
    assert result["chance"] == 1 / CLASSES and result["classes"] == CLASSES
    assert probe(frames[0][:, ::-1], *frames[1:])["accuracy"] == [noise, separable]


def test_the_majority_is_the_most_frequent_of_the_training_frames(frames):
    states, labels, speakers = frames
    labels = np.minimum(labels, 1)
    result = probe(states, labels, speakers)
    is_test = np.isin(speakers, result["test_speakers"])
    assert result["majority"] == (labels[is_test] == 1).mean() > 0.7


def test_the_scale_of_the_hidden_dimensions_does_not_matter(frames):
    states, labels, speakers = frames
    scales = np.logspace(-4, 4, 12, dtype=np.float32)
    scaled = probe(states * scales, labels, speakers)["accuracy"]
    assert scaled == pytest.approx(probe(*frames)["accuracy"], abs=0.01)


def test_test_speakers_are_not_trained_on(frames):
    states, labels, speakers = frames
    result = probe(*frames)
    assert len(result["test_speakers"]) == 2
    assert not set(result["train_speakers"]) & set(result["test_speakers"])
    assert result["test_frames"] == np.isin(speakers, result["test_speakers"]).sum()
    assert result["train_frames"] + result["test_frames"] == FRAMES
    # a label that only one speaker's frames give away is not learnt from the others
    own = np.zeros((FRAMES, 1, 8 * CLASSES), np.float32)
    own[np.arange(FRAMES), 0, [int(s[1]) for s in speakers] + 8 * labels] = 1
    assert probe(own, labels, speakers)["accuracy"][0] < 0.5


def test_a_phoneme_that_training_lacks_is_an_error(frames):
    states, labels, speakers = frames
    held_out = probe(*frames)["test_speakers"]
    labels = labels.copy()
    labels[np.isin(speakers, held_out)] = CLASSES
    result = probe(states, labels, speakers)
    assert result["accuracy"] == [0, 0] and result["classes"] == CLASSES
    assert result["chance"] == 1 / CLASSES  # what can be predicted, of six


def test_the_order_of_the_frames_does_not_matter(frames):
    order = np.random.default_rng(1).permutation(FRAMES)
    shuffled = probe(*(x[order] for x in frames))
    expected = probe(*frames)
    assert shuffled.pop("accuracy") == pytest.approx(expected.pop("accuracy"), abs=0.01)
    assert shuffled == expected


def test_one_speaker_or_one_phoneme_has_no_probe(frames):
    states, labels, speakers = frames
    one = probe(states, labels, np.full(FRAMES, "s"))
    assert one == {"skipped": "a probe needs two speakers or more; this set has 1"}
    assert list(probe(states, labels * 0, speakers)) == ["skipped"]


def test_no_warning_is_shown_where_the_iterations_do_not_suffice(frames, monkeypatch):
    monkeypatch.setattr("espnet_reuse.analysis.metrics.MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(*frames)
