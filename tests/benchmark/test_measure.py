# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What is timed, how often, and what becomes of a failure."""

import dataclasses
import functools
import math
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from espnet_reuse.benchmark import measure, peers
from espnet_reuse.benchmark.measure import make_inputs, make_step, time_interleaved

CONFIG = peers.read_config(Path(__file__).with_name("tiny.yaml"))
SETTINGS = measure.Settings(CONFIG, "cpu", "infer", "float32", 3, 0.02)
TRAINING = dataclasses.replace(SETTINGS, mode="train")


def count_flops(settings, num_blocks, group_size, frames):
    conf = settings.config.conf | {"num_blocks": num_blocks}
    config = dataclasses.replace(settings.config, conf=conf)
    settings = dataclasses.replace(settings, config=config)
    products = measure.make_products(settings, group_size, frames)
    with FlopCounterMode(display=False) as counter:
        products()
    return counter.get_total_flops()


@pytest.mark.parametrize("layers", [1, 3, 4])
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_the_products_that_reuse_cannot_avoid_are_those_of_the_method(
    layers, group_size
):
    t, d, batch = 50, 16, 3
    map_ = 2 * t * t * d * batch  # one product of all heads over a map
    projection = 2 * t * d * d * batch
    producer = 3 * map_ + 4 * projection + 2 * (2 * t - 1) * d * d
    consumer = map_ + 2 * projection
    producers = math.ceil(layers / group_size)
    expected = producers * producer + (layers - producers) * consumer
    assert count_flops(SETTINGS, layers, group_size, t) == expected
    assert count_flops(TRAINING, layers, group_size, t) == 3 * expected


@pytest.mark.parametrize(
    ("encoder", "conf"),
    [
        ("conformer", {"selfattention_layer_type": "selfattn"}),
        ("branchformer", {"attention_layer_type": "selfattn"}),
        ("transformer", {}),
    ],
)
def test_absolute_positions_have_no_products_of_positions(encoder, conf):
    sizes = {"output_size": 16, "attention_heads": 8, "num_blocks": 2}
    config = peers.make_config(encoder, sizes | conf)
    absolute = dataclasses.replace(SETTINGS, config=config)
    t, d = 50, 16
    less = 2 * t * t * d * 3 + 2 * (2 * t - 1) * d * d
    assert count_flops(SETTINGS, 1, 1, t) - count_flops(absolute, 1, 1, t) == less


def test_all_steps_are_timed_equally_often_in_mixed_order():
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abc"}
    results = time_interleaved(steps, 0)
    assert [len(times) for times, _ in results.values()] == [measure.MIN_ROUNDS] * 3
    warm_up, rounds = called[:6], called[6:]
    assert warm_up == [*"aabbcc"]
    orders = ["".join(rounds[i : i + 3]) for i in range(0, len(rounds), 3)]
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    assert len(set(orders)) > 1


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.0001, measure.MAX_ROUNDS), (0.05, measure.MIN_ROUNDS)]
)
def test_rounds_adapt_to_the_slowest_step(seconds, rounds):
    results = time_interleaved({"slow": lambda: time.sleep(seconds)}, 0.2)
    (times, _) = results["slow"]
    assert len(times) == rounds
    assert 1000 * seconds < sorted(times)[len(times) // 2] < 1000 * seconds + 5


def test_a_step_that_fails_costs_its_own_row_only():
    fails = iter([False] * 4 + [True] * 100)

    def out_of_memory():
        if next(fails):
            torch.empty(2**60)

    def broken():
        raise ValueError("a\nbug")

    steps = {"large": out_of_memory, "broken": broken, "fine": lambda: None}
    results = time_interleaved(steps, 0)
    assert results["large"] == (None, "out of memory")
    assert results["broken"] == (None, "failed: ValueError: a bug")
    assert len(results["fine"][0]) == 5


def test_inputs_are_the_same_noise_at_full_length():
    features, lengths = make_inputs(SETTINGS, 100)
    assert features.shape == (3, 100, 20) and lengths.tolist() == [100] * 3
    assert torch.equal(features, make_inputs(SETTINGS, 100)[0])
    assert features.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_goes_backward_and_an_inference_step_does_not(dtype):
    encoder = peers.build_encoder(peers.list_peers(CONFIG, [])[0])
    seen = []
    encoder.encoders[0].norm_final.register_full_backward_hook(
        lambda *args: seen.append(encoder.training)
    )
    linear = encoder.encoders[0].feed_forward.w_1
    linear.register_forward_hook(lambda m, args, output: dtypes.append(output.dtype))
    for settings, backward in ((SETTINGS, []), (TRAINING, [True])):
        settings = dataclasses.replace(settings, dtype=dtype)
        dtypes = []
        make_step(encoder, make_inputs(settings, 100), settings)()
        assert seen == backward
        assert dtypes == [getattr(torch, dtype)]
        assert encoder.training == bool(backward)
        assert all(p.grad is None for p in encoder.parameters())


class Times(torch.nn.Module):
    """An encoder that is compiled anew for each number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, xs_pad, ilens):
        return xs_pad * int(self.number), ilens, None


def test_every_encoder_of_a_class_is_compiled(monkeypatch):
    quick = functools.partial(torch.compile, backend="eager")  # needs no compiler
    monkeypatch.setattr(torch, "compile", quick)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # PyTorch's
    graphs, inputs = torch._dynamo.utils.counters["stats"], make_inputs(SETTINGS, 100)
    before = graphs["unique_graphs"]
    for number in range(12):
        make_step(Times(str(number)), inputs, SETTINGS, "compiled")()
    assert graphs["unique_graphs"] == before + 12
