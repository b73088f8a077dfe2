# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""On a GPU the encoders compute what they compute on the CPU, by other kernels."""

import copy
import math

import pytest
import torch
from reuse_encoders import (
    WITHOUT_DROPOUT,
    assert_close,
    backward,
    cases,
    either_mode,
    every_encoder,
    make_batch,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

LENGTHS = (150, 97, 64)  # frames: more than a block of the kernel, and ragged
every_grouping = cases(
    "sizes",
    {
        "without reuse": [1, 1, 1, 1],
        "groups of two": [2, 2],
        "groups of three": [3, 1],
    },
)


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    """Keep cuDNN's convolutions in float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def encode(encoder, dtype=torch.float32, device="cuda", autocast=False):
    """Return the output and, in training, the gradients, in double precision."""
    encoder = copy.deepcopy(encoder).to(device, dtype)
    xs, ilens = make_batch(LENGTHS)
    xs, ilens = xs.to(device, dtype).requires_grad_(encoder.training), ilens.to(device)
    with (
        torch.set_grad_enabled(encoder.training),
        torch.autocast(device, torch.bfloat16, enabled=autocast),
    ):
        out = encoder(xs, ilens)[0]
    gradients = backward([out], encoder, xs) if encoder.training else {}
    results = {"output": out.detach(), **gradients}
    return {key: x.cpu().double() for key, x in results.items() if x is not None}


@every_encoder
@every_grouping
@either_mode
def test_outputs_and_gradients_are_the_cpus(kind, sizes, training):
    encoder = kind.build(reuse_group_size=sizes, **WITHOUT_DROPOUT).train(training)
    expected = encode(encoder, torch.float64, "cpu")
    actual = encode(encoder)
    assert actual.keys() == expected.keys()
    atol = 1e-5 * max(x.abs().max().item() for x in expected.values())
    for name, value in expected.items():
        assert_close(actual[name], value, name, atol=atol)


@every_encoder
@every_grouping
@either_mode
def test_bfloat16_is_as_close_to_double_precision_as_espnets_operations(
    kind, sizes, training, monkeypatch
):
    def error(implementation):
        # what an encoder computes with is settled when it is built
        monkeypatch.setenv("ESPNET_REUSE_IMPL", implementation)
        encoder = kind.build(reuse_group_size=sizes, **WITHOUT_DROPOUT).train(training)
        expected = encode(encoder, torch.float64, "cpu")
        actual = encode(encoder, autocast=True)
        squares = ((actual[name] - x).square().sum() for name, x in expected.items())
        return math.sqrt(sum(squares))

    assert 0 < error("fast") < 1.5 * error("naive")
