# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The fast paths are their naive references, in outputs and gradients."""

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
    for function in (ops.attend, ops.attend_in_blocks, ops._fused_attend):
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
