# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Computes and applies attention maps: naive references, and exact operators.

Eager, compiled and exported code call the operators alike (`torch.library`).

Shapes, here and below: batch B, heads H, frames T, width d_k of a head. `mask` is
(B, 1, T) or (B, T, T), True or 1 where a key is real, or None. Relative positions are
those of Z. Dai et al., "Transformer-XL", ACL 2019, Section 3.3 and Appendix B, in
ESPnet's order: from the farthest key on the left to the farthest on the right.
"""

import math
from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor
from torch.library import custom_op

# Scores per block. On a CPU 4 MB in float32: a block stays in the cache from its first
# product to its softmax. Elsewhere all, up to 1 GB.
BLOCK_ON_CPU, BLOCK_ELSEWHERE = 2**20, 2**28
OTHERS = "Tensor? mask=None, Tensor? query_pos=None, Tensor? pos=None"


def naive_attention_map(
    query: Tensor,
    key: Tensor,
    mask: Optional[Tensor] = None,
    query_pos: Optional[Tensor] = None,
    pos: Optional[Tensor] = None,
) -> Tensor:
    """Compute an attention map by the formula, as the fast paths' reference.

    Args:
        query: Query (B, H, T, d_k); with positions, with the bias u.
        key: Key (B, H, T, d_k).
        mask: Mask of real keys, or None.
        query_pos: Query with the bias v (B, H, T, d_k), or None.
        pos: Projected relative positions (B or 1, H, 2T - 1, d_k), or None.

    Returns:
        Attention map (B, H, T, T); rows without a real key are 0.
    """
    scores = query @ key.transpose(-2, -1)
    if pos is not None:
        frames = torch.arange(query.size(2), device=query.device)
        column = len(frames) - 1 - frames[:, None] + frames  # T - 1 - i + j
        by_position = query_pos @ pos.transpose(-2, -1)
        scores = scores + by_position.gather(-1, column.expand_as(scores))
    return masked_softmax(scores / math.sqrt(query.size(-1)), mask)


def masked_softmax(scores: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Turn scores (B, H, T, T) into an attention map; rows without a real key are 0."""
    if mask is None:
        return torch.softmax(scores, dim=-1)
    padded = mask.unsqueeze(1) == 0
    scores = scores.masked_fill(padded, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1).masked_fill(padded, 0.0)


def map_in_blocks(query, key, mask=None, query_pos=None, pos=None):
    """Compute an attention map; arguments and result of `naive_attention_map`.

    By blocks of rows that fit into the cache: each element of the map is written once.
    The backward pass saves the map and nothing else of its size; it cannot be
    differentiated again.
    """
    weights = query.new_empty(*query.shape[:3], query.size(2))
    flat_weights = weights.flatten(0, 1)
    for heads, rows, scores in _score_blocks(query, key, mask, query_pos, pos):
        torch.softmax(scores, dim=-1, out=flat_weights[heads, rows])
    return _zero_empty_rows(weights, mask)


attention_map = custom_op(
    "espnet_reuse::attention_map",
    map_in_blocks,
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, {OTHERS}) -> Tensor",
)


attention_map.register_fake(
    lambda query, *_: query.new_empty(*query.shape[:3], query.size(2))
)


def gradients_in_blocks(grad, weights, query, key, query_pos=None, pos=None):
    """Compute the gradients of a map's query, key and, if any, query_pos and pos.

    Args:
        grad: Gradient of the map (B, H, T, T).
        weights: The map (B, H, T, T), contiguous.
        query, key, query_pos, pos: As in `naive_attention_map`.
    """
    frames, scale = query.size(2), 1 / math.sqrt(query.size(-1))
    q, k, q_pos, p = (_flat(x, query) for x in (query, key, query_pos, pos))
    grad, weights = grad.flatten(0, 1), weights.flatten(0, 1)
    grad_q, grad_k = q.new_empty(q.shape), k.new_zeros(k.shape)
    if pos is not None:
        grad_q_pos, grad_p = q.new_empty(q.shape), p.new_zeros(p.shape)
    spread = None
    for heads, rows in _blocks(len(q), frames, q.device):
        # the operator that autograd itself calls for softmax
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad[heads, rows].contiguous(), weights[heads, rows], -1, weights.dtype
        )
        torch.bmm(grad_scores, k[heads], out=grad_q[heads, rows])
        grad_k[heads].baddbmm_(grad_scores.transpose(1, 2), q[heads, rows])
        if pos is None:
            continue
        seen = _positions_seen(rows, frames)
        shape = (*grad_scores.shape[:2], seen.stop - seen.start)
        if spread is None or spread.shape != shape:
            spread = grad_scores.new_zeros(shape)
        _shift(spread).copy_(grad_scores)  # what lies around stays 0
        torch.bmm(spread, p[heads, seen], out=grad_q_pos[heads, rows])
        grad_p[heads, seen].baddbmm_(spread.transpose(1, 2), q_pos[heads, rows])
    grads = [grad_q, grad_k] if pos is None else [grad_q, grad_k, grad_q_pos, grad_p]
    grads = [x.mul_(scale).unflatten(0, query.shape[:2]) for x in grads]
    return [*grads[:3], *(x.sum_to_size(pos.shape) for x in grads[3:])]


attention_map_backward = custom_op(
    "espnet_reuse::attention_map_backward",
    gradients_in_blocks,
    mutates_args=(),
    schema="(Tensor grad, Tensor weights, Tensor query, Tensor key, "
    "Tensor? query_pos=None, Tensor? pos=None) -> Tensor[]",
)


@attention_map_backward.register_fake
def _(grad, weights, query, key, query_pos=None, pos=None):
    inputs = query, key, query_pos, pos
    return [x.new_empty(x.shape) for x in inputs if x is not None]


def _save_map(ctx, inputs, output):
    query, key, _, query_pos, pos = inputs
    ctx.save_for_backward(output, query, key, query_pos, pos)


def _differentiate_map(ctx, grad):
    grad_q, grad_k, *by_position = attention_map_backward(grad, *ctx.saved_tensors)
    return grad_q, grad_k, None, *(by_position or (None, None))


attention_map.register_autograd(_differentiate_map, setup_context=_save_map)


def naive_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Optional[Tensor] = None,
    query_pos: Optional[Tensor] = None,
    pos: Optional[Tensor] = None,
) -> Tensor:
    """Apply the attention map to `value` (B, H, T, d_k), as `attend`'s reference."""
    return naive_attention_map(query, key, mask, query_pos, pos) @ value


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Optional[Tensor] = None,
    query_pos: Optional[Tensor] = None,
    pos: Optional[Tensor] = None,
    dropout_rate: float = 0.0,
) -> Tensor:
    """Apply an attention map that nobody else needs, if possible without storing it.

    In inference on a CPU block by block, on CUDA by PyTorch's fused kernels. Arguments
    are those of `naive_attention_map`, `value` (B, H, T, d_k) and the dropout rate on
    the map, 0 in inference. Returns the context (B, H, T, d_k).
    """
    if query.is_cuda or (pos is None and not dropout_rate):
        return _fused_attend(query, key, value, mask, query_pos, pos, dropout_rate)
    if torch.is_grad_enabled() or dropout_rate:
        weights = attention_map(query, key, mask, query_pos, pos)
        return apply(weights, value, dropout_rate)
    return attend_in_blocks(query, key, value, mask, query_pos, pos)


@custom_op(
    "espnet_reuse::attend",
    mutates_args=(),
    schema=f"(Tensor query, Tensor key, Tensor value, {OTHERS}) -> Tensor",
)
def attend_in_blocks(query, key, value, mask=None, query_pos=None, pos=None):
    """Do what `naive_attend` does, without storing the map."""
    context = value.new_empty(value.shape)
    flat_context, value = context.flatten(0, 1), _flat(value, query)
    for heads, rows, scores in _score_blocks(query, key, mask, query_pos, pos):
        torch.softmax(scores, dim=-1, out=scores)
        torch.bmm(scores, value[heads], out=flat_context[heads, rows])
    return _zero_empty_rows(context, mask)


attend_in_blocks.register_fake(lambda q, k, value, *_: value.new_empty(value.shape))


def _differentiate_attended(ctx, grad):
    """Compute the map again, since `attend` has not stored it."""
    query, key, value, mask, query_pos, pos = ctx.saved_tensors
    weights = attention_map(query, key, mask, query_pos, pos)
    grad_value = torch.matmul(weights.transpose(-2, -1), grad)
    grad_weights = torch.matmul(grad, value.transpose(-2, -1))
    inputs = query, key, query_pos, pos
    q, k, *by_position = attention_map_backward(grad_weights, weights, *inputs)
    return q, k, grad_value, None, *(by_position or (None, None))


attend_in_blocks.register_autograd(
    _differentiate_attended,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def naive_apply(
    attention_map: Tensor, value: Tensor, dropout_rate: float = 0.0
) -> Tensor:
    """Apply a dropped-out map (B, H, T, T) to `value`, as `apply`'s reference."""
    return torch.nn.functional.dropout(attention_map, dropout_rate) @ value


def apply(attention_map: Tensor, value: Tensor, dropout_rate: float = 0.0) -> Tensor:
    """Apply a map to a value; arguments and result of `naive_apply`.

    The backward pass needs the map, which a group shares, and with dropout a byte per
    element, but no dropped-out map.
    """
    if not dropout_rate:
        return torch.matmul(attention_map, value)
    kept = torch.empty_like(attention_map, dtype=torch.bool).bernoulli_(
        1 - dropout_rate
    )
    scale = 1 / (1 - dropout_rate) if dropout_rate < 1 else 0.0
    return apply_kept(attention_map, value, kept, scale)


@custom_op("espnet_reuse::apply", mutates_args=())
def apply_kept(weights: Tensor, value: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Compute `(weights * kept * scale) @ value`; `kept` (B, H, T, T) is boolean."""
    return torch.matmul((weights * kept).mul_(scale), value)


apply_kept.register_fake(lambda weights, value, *_: value.new_empty(value.shape))


def _save_kept(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_kept(ctx, grad):
    weights, value, kept = ctx.saved_tensors
    grad = grad * ctx.scale
    grad_weights = torch.matmul(grad, value.transpose(-2, -1)).mul_(kept)
    grad_value = torch.matmul((weights * kept).transpose(-2, -1), grad)
    return grad_weights, grad_value, None, None


apply_kept.register_autograd(_differentiate_kept, setup_context=_save_kept)


def _fused_attend(query, key, value, mask, query_pos, pos, dropout_rate=0.0):
    """Attend by PyTorch's fused kernels, position scores as an additive mask."""
    bias, is_empty = None, None
    if mask is not None:
        is_empty = (mask == 0).all(-1)[:, None, :, None]
        bias = (mask != 0).unsqueeze(1) | is_empty  # a row without a key gives NaN
    if pos is not None:
        by_position = _flat(query_pos, query) @ _flat(pos, query).transpose(1, 2)
        scores = _shift(by_position).unflatten(0, query.shape[:2])
        scores = scores / math.sqrt(query.size(-1))
        if mask is not None:
            scores = scores.masked_fill(~bias, torch.finfo(scores.dtype).min)
        bias = scores
    context = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, bias, dropout_p=dropout_rate
    )
    return context if is_empty is None else context.masked_fill(is_empty, 0.0)


def _flat(x, query):
    """Return `x`, of every utterance, as (B * H, T, d_k)."""
    return None if x is None else x.expand(len(query), -1, -1, -1).flatten(0, 1)


def _blocks(heads: int, frames: int, device) -> Iterator[Tuple[slice, slice]]:
    """Yield heads and rows of blocks that are contiguous in a (heads, T, T)."""
    size = BLOCK_ON_CPU if device.type == "cpu" else BLOCK_ELSEWHERE
    step = max(1, size // frames**2)
    rows = min(frames, max(1, size // frames))
    for head in range(0, heads, step):
        some_heads = slice(head, min(head + step, heads))
        for row in range(0, frames, rows):
            yield some_heads, slice(row, min(row + rows, frames))


def _positions_seen(rows: slice, frames: int) -> slice:
    """Return the positions between the queries in `rows` and any key."""
    return slice(frames - rows.stop, 2 * frames - 1 - rows.start)


def _shift(by_position):
    """View scores by position (N, rows, T + rows - 1) by key (N, rows, T).

    Row i's scores begin one column further left than those of row i - 1.
    """
    heads, rows, positions = by_position.shape
    frames = positions - rows + 1
    return by_position.as_strided(
        (heads, rows, frames), (rows * positions, positions - 1, 1), rows - 1
    )


def _score_blocks(query, key, mask, query_pos, pos):
    """Yield heads, rows and scores (heads, rows, T) of blocks.

    Scores of padded keys are the smallest number.
    """
    frames, scale = query.size(2), 1 / math.sqrt(query.size(-1))
    q, k, q_pos, p = (_flat(x, query) for x in (query, key, query_pos, pos))
    bias = None
    if mask is not None and _may_be_any(mask == 0):
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
        bias.masked_fill_(mask == 0, torch.finfo(q.dtype).min)
    for heads, rows in _blocks(len(q), frames, q.device):
        keys = k[heads].transpose(1, 2)
        if pos is None:
            scores = torch.bmm(q[heads, rows], keys).mul_(scale)
        else:
            positions = p[heads, _positions_seen(rows, frames)].transpose(1, 2)
            by_position = _shift(torch.bmm(q_pos[heads, rows], positions))
            scores = torch.baddbmm(
                by_position, q[heads, rows], keys, beta=scale, alpha=scale
            )
        if bias is not None:
            places = torch.arange(heads.start, heads.stop, device=q.device)
            utterances = places // query.size(1)
            masked_rows = rows if bias.size(1) > 1 else slice(None)
            scores += bias[utterances, masked_rows]
        yield heads, rows, scores


def _zero_empty_rows(x, mask):
    """Set the rows of `x` (B, H, T, any) without a real key to 0, in place."""
    if mask is not None:
        is_empty = (mask == 0).all(-1)
        if _may_be_any(is_empty):
            x.masked_fill_(is_empty[:, None, :, None], 0.0)
    return x


def _may_be_any(condition):
    """Say whether one is true: on a CPU. Elsewhere the host would wait to know it."""
    return condition.device.type != "cpu" or bool(condition.any())
