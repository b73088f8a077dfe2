# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The fast paths are their naive references, in outputs and gradients."""

import itertools

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    RelPositionMultiHeadedAttention,
)

from espnet_reuse.asr.layers import attention_map as ops


def cases(name, values):
    """Parametrise `name` over a dict from test id to value."""
    return pytest.mark.parametrize(
        name, [pytest.param(value, id=id_) for id_, value in values.items()]
    )


with_and_without_positions = cases(
    "positions", {"relative positions": True, "no positions": False}
)
every_batch = cases(
    "lengths",
    {
        "ragged": (13, 9, 4),
        "nothing padded": (8, 8),
        "one utterance": (70,),
        "one frame": (1, 1),
        "without frames": (17, 0),
    },
)
# of 2 ** 20 scores there is one block; small ones split heads, rows, or both
every_block_size = cases(
    "block_size", {"one block": 2**20, "a head or two": 300, "some rows": 37}
)


@pytest.fixture(autouse=True)
def one_thread_per_operator():
    """Keep tiny operators from waiting for a core that another process uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_inputs(lengths, positions, dtype=torch.float32, heads=4, d_k=8, seed=0):
    """Return the arguments of `attention_map`, and a value, as ESPnet lays them out."""
    generator = torch.Generator().manual_seed(seed)
    batch, frames = len(lengths), max(lengths)

    def projected(batch, frames):
        x = torch.randn(batch, frames, heads, d_k, generator=generator, dtype=dtype)
        return x.transpose(1, 2).requires_grad_()

    mask = (torch.arange(frames) < torch.tensor(lengths)[:, None])[:, None]
    query, key, value, query_pos = (projected(batch, frames) for _ in range(4))
    pos = projected(1, 2 * frames - 1)
    return (query, key, mask, *((query_pos, pos) if positions else (None, None))), value


def gradients(out, inputs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    inputs = [x for x in inputs if x is not None and x.requires_grad]
    return torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)


def assert_all_close(actual, expected, atol=1e-5):
    for pair in zip(actual, expected, strict=True):
        torch.testing.assert_close(*pair, rtol=0, atol=atol)


@with_and_without_positions
@every_batch
@every_block_size
def test_the_map_and_its_gradients_are_the_naive_references(
    positions, lengths, block_size, monkeypatch
):
    monkeypatch.setattr(ops, "BLOCK_ON_CPU", block_size)
    inputs, _ = make_inputs(lengths, positions)
    results = []
    for function in (ops.naive_attention_map, ops.attention_map):
        out = function(*inputs)
        results.append((out, *gradients(out, inputs)))
    assert_all_close(results[1], results[0])
    with torch.inference_mode():
        assert torch.equal(ops.attention_map(*inputs), results[1][0])


@with_and_without_positions
@every_batch
@every_block_size
def test_attending_without_a_map_is_the_naive_reference(
    positions, lengths, block_size, monkeypatch
):
    monkeypatch.setattr(ops, "BLOCK_ON_CPU", block_size)
    (query, key, *rest), value = make_inputs(lengths, positions)
    arguments = (query, key, value, *rest)
    expected = ops.naive_attend(*arguments)
    with torch.inference_mode():
        assert_all_close([ops.attend(*arguments)], [expected])
    # in training, and on CUDA
    expected = (expected, *gradients(expected, arguments))
    fused = lambda *args: ops._fused_attend(*args, 0.0)  # noqa: E731
    for function in (ops.attend, ops.attend_in_blocks, fused):
        out = function(*arguments)
        assert_all_close((out, *gradients(out, arguments)), expected)


@with_and_without_positions
@cases("attends", {"the map": False, "attending": True})
def test_a_mask_of_every_query_by_itself_is_the_naive_references(positions, attends):
    (query, key, mask, *rest), value = make_inputs((13, 9, 4), positions)
    mask = mask & torch.ones(13, 13, dtype=torch.bool).tril(2)
    mask[1, 3] = False
    with torch.inference_mode():
        if attends:
            arguments = (query, key, value, mask, *rest)
            results = ops.attend(*arguments), ops.naive_attend(*arguments)
        else:
            arguments = (query, key, mask, *rest)
            results = ops.attention_map(*arguments), ops.naive_attention_map(*arguments)
        assert torch.all(results[0][1, :, 3] == 0)
    assert_all_close(results[:1], results[1:])


def test_the_naive_reference_is_espnets_attention():
    torch.manual_seed(0)
    attention = RelPositionMultiHeadedAttention(2, 16, 0.0)
    x, pos_emb = torch.randn(3, 13, 16), torch.randn(1, 25, 16)
    mask = (torch.arange(13) < torch.tensor([13, 9, 4])[:, None])[:, None]
    out = attention(x, x, x, pos_emb, mask)
    q, k, v = attention.forward_qkv(x, x, x)
    pos = attention.linear_pos(pos_emb).view(1, 25, 2, 8).transpose(1, 2)
    q_u, q_v = q + attention.pos_bias_u[:, None], q + attention.pos_bias_v[:, None]
    weights = ops.naive_attention_map(q_u, k, mask, q_v, pos)
    assert_all_close([weights], [attention.attn], atol=1e-6)
    context = ops.naive_apply(weights, v).transpose(1, 2).flatten(2)
    assert_all_close([attention.linear_out(context)], [out], atol=1e-6)


@with_and_without_positions
@cases("lengths", {"ragged": (13, 9, 4), "longer": (70, 33)})
@cases("attends", {"the map": False, "attending": True})
def test_bfloat16_is_as_close_to_double_precision_as_the_reference(
    positions, lengths, attends
):
    def to(dtype, tensors):
        return [
            x.detach().to(dtype).requires_grad_()
            if x is not None and x.is_floating_point()
            else x
            for x in tensors
        ]

    def results(function, arguments):
        out = function(*arguments)
        assert out.dtype == arguments[0].dtype
        return [x.double() for x in (out, *gradients(out, arguments))]

    naive, fast = ops.naive_attention_map, ops.attention_map
    if attends:
        naive, fast = ops.naive_attend, ops.attend
    errors = {naive: 0.0, fast: 0.0}
    for seed in range(6):
        (query, key, *rest), value = make_inputs(lengths, positions, seed=seed)
        arguments = (query, key, *([value] if attends else []), *rest)
        arguments = to(torch.bfloat16, arguments)
        expected = results(naive, to(torch.float64, arguments))
        for function in errors:
            pairs = zip(results(function, arguments), expected, strict=True)
            squares = [(one - other).square().mean() for one, other in pairs]
            errors[function] = errors[function] + torch.stack(squares)
    assert torch.all(errors[fast] > 0) and torch.all(errors[fast] < 1.2 * errors[naive])


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
