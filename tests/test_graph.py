# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What a graph holds instead of the model's operations gives the same."""

import itertools

import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)

from espnet_reuse import graph
from espnet_reuse.asr.layers.attention_map_reuse import (
    GroupState,
    MapProducer,
    RelPositionMapProducer,
)

BATCH, HEADS, SIZE = 3, 2, 16


@pytest.mark.parametrize("frames", range(1, 9))
def test_a_slice_is_the_relative_shift(frames):
    by_position = torch.randn(BATCH, HEADS, frames, 2 * frames)
    shift = RelPositionMultiHeadedAttention(HEADS, SIZE, 0.0).rel_shift
    expected = shift(by_position[..., :-1])
    torch.testing.assert_close(graph.shift(by_position), expected, rtol=0, atol=0)


@pytest.mark.parametrize("frames", [1, 2, 19])
@pytest.mark.parametrize("is_relative", [True, False])
def test_attention_is_that_of_espnet_and_of_a_producer(frames, is_relative):
    torch.manual_seed(frames)
    cls = RelPositionMultiHeadedAttention if is_relative else MultiHeadedAttention
    attention = cls(HEADS, SIZE, 0.0).eval()
    x = torch.randn(BATCH, frames, SIZE)
    lengths = torch.tensor([frames, max(frames - 7, 1), 1])
    mask = torch.arange(frames) < lengths[:, None, None]
    pos = (torch.randn(1, 2 * frames - 1, SIZE),) if is_relative else ()
    expected = attention(x, x, x, *pos, mask)
    actual = graph.attend(attention, x, x, x, *pos, mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)

    attention.__class__ = RelPositionMapProducer if is_relative else MapProducer
    states = [GroupState(*(pos or (None,)), mask) for _ in range(2)]
    torch.testing.assert_close(
        graph.attend(attention, x, x, x, states[0]),
        attention(x, x, x, states[1]),
        rtol=0,
        atol=1e-6,
    )
    maps = [state.attention_map for state in states]
    torch.testing.assert_close(*maps, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"win_length": 400, "hop_length": 160, "window": "hamming"},
        {"center": False, "window": None, "win_length": 300},
        {"normalized": True, "n_fft": 400, "hop_length": 100, "n_mels": 20},
    ],
)
def test_features_in_a_batch_are_those_of_each_utterance_alone(options, an4):
    frontend = DefaultFrontend(**options)
    waves = [torch.tensor(wave, dtype=torch.float32) for _, wave in an4[:3]]
    waves[1] = waves[1][:513]
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.full((3, lengths.max() + 1000), 9.0)  # no effect
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    fourier = graph.fourier_transform(frontend.stft)
    feats, frames = graph.log_mel(frontend, fourier, batch, lengths)
    for n, wave in enumerate(waves):
        expected, count = frontend(wave[None], lengths[n : n + 1])
        assert frames[n] == count
        actual = feats[n : n + 1, :count]
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_the_best_path_is_labels_without_repeats_and_blanks():
    torch.manual_seed(0)
    logits = torch.randn(20, 30, 3)  # few tokens, so that some repeat
    lengths = torch.arange(20) + 3
    lengths[:3] = torch.tensor([0, 1, 30])
    tokens, count, times = graph.best_path(logits, lengths, blank=1)
    for n, length in enumerate(lengths):
        labels = enumerate(logits[n, :length].argmax(-1).tolist())
        runs = itertools.groupby(labels, lambda frame_and_label: frame_and_label[1])
        expected = [(label, [frame for frame, _ in run]) for label, run in runs]
        expected = [(label, run) for label, run in expected if label != 1]
        kept = tokens[n, : count[n]].tolist()
        assert kept == [label for label, _ in expected]
        assert (tokens[n, count[n] :] == -1).all()
        borders = [[run[0], run[-1] + 1] for _, run in expected]
        assert times[n, : count[n]].tolist() == borders
