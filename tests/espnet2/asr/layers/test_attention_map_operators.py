# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The operators keep PyTorch's rules, and training keeps one map of a group."""

import itertools

import pytest
import torch
from test_attention_map import assert_all_close, cases, gradients, make_inputs

from espnet_reuse.asr.layers import attention_map as ops


@cases("rate", {"no dropout": 0.0, "dropout": 0.4})
def test_applying_drops_once_and_its_gradients_are_the_references(rate):
    inputs, value = make_inputs((70, 70), True)
    weights = ops.naive_attention_map(*inputs).detach().requires_grad_()
    identity = torch.eye(70).expand(2, 4, 70, 70)
    torch.manual_seed(3)
    dropped = ops.apply(weights, identity, rate).detach()
    torch.manual_seed(3)
    out = ops.apply(weights, value, rate)
    kept = dropped != 0
    scale = torch.where(kept, 1 / (1 - rate), 0.0)
    assert_all_close([dropped], [weights * scale], atol=1e-6)
    assert 1 - rate - 0.05 < kept.float().mean() <= 1 - rate + 0.05
    expected = (weights * scale) @ value
    assert_all_close([out], [expected])
    assert_all_close(
        gradients(out, [weights, value]), gradients(expected, [weights, value])
    )
    assert not rate or not torch.equal(ops.apply(weights, value, rate), out)


@cases("rate", {"no dropout": 0.0, "dropout": 0.4})
def test_training_saves_the_map_of_a_group_once(rate):
    inputs, value = make_inputs((70, 33), True)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        weights = ops.attention_map(*inputs)
        outs = [ops.apply(weights, value, rate) for _ in range(3)]
    elements = weights.numel()
    large = sorted(nbytes for nbytes in saved.values() if nbytes >= elements)
    assert len(outs) == 3
    # a float per element for all three, and a byte for each dropout mask
    assert large == [elements] * (3 if rate else 0) + [4 * elements]


def test_everything_dropped_leaves_zeros_and_finite_gradients():
    inputs, value = make_inputs((13, 9), True)
    out = ops.apply(ops.attention_map(*inputs), value, 1.0)
    assert torch.all(out == 0)
    assert all(torch.all(gradient == 0) for gradient in gradients(out, inputs))


def measure_peak(layers, rate, frames=256):
    """Return the peak of a training step of a group, in arrays of the map's size."""
    inputs, value = make_inputs((frames, frames - 5), True)

    def step():
        weights, out = ops.attention_map(*inputs), value
        for _ in range(layers):
            out = ops.apply(weights, out, rate)
        gradients(out, [*inputs, value])

    cpu = [torch.profiler.ProfilerActivity.CPU]
    options = {"profile_memory": True, "acc_events": True}
    step()
    with torch.profiler.profile(activities=cpu, **options) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    allocated = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(allocated)) / (2 * 4 * 4 * frames**2)


@cases("rate", {"no dropout": 0.0, "dropout": 0.3})
def test_a_training_step_has_one_map_and_a_byte_per_element_for_each_layer(rate):
    added = 0.25 if rate else 0.0
    few, many = (measure_peak(layers, rate) for layers in (6, 10))
    assert few < 5.5 + 6 * added  # the map, and what one backward pass needs for it
    assert abs((many - few) / 4 - added) < 0.05


def test_operators_keep_the_rules_of_pytorch():
    """Schemas, fake kernels and gradients, under dynamic shapes too."""
    for lengths, positions in itertools.product([(13, 9), (8, 8)], [True, False]):
        (query, key, *rest), value = make_inputs(lengths, positions)
        weights = ops.attention_map(query, key, *rest).detach().requires_grad_()
        grad, kept = torch.randn_like(weights), weights > 0.05
        ours = [x.detach() for x in (grad, weights, query, key)]
        by_position = [x if x is None else x.detach() for x in rest[1:]]
        torch.library.opcheck(ops.attention_map, (query, key, *rest))
        torch.library.opcheck(ops.attention_map_backward, (*ours, *by_position))
        torch.library.opcheck(ops.attend_in_blocks, (query, key, value, *rest))
        torch.library.opcheck(ops.apply_kept, (weights, value, kept, 1.5))


def test_a_map_cannot_be_differentiated_twice():
    inputs, _ = make_inputs((13, 9), True)
    total = ops.attention_map(*inputs).square().sum()
    (gradient,) = torch.autograd.grad(total, inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="attention_map_backward"):
        gradient.sum().backward()
