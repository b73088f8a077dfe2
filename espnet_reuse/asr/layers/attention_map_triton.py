# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Kernels of the attention map and its gradients: scores never reach the memory."""

from typing import Optional, Tuple

import torch

from espnet_reuse.asr.layers import attention_map as ops

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch brings Triton on Linux only
    triton = None


def is_available(tensor: torch.Tensor) -> bool:
    """Return whether `triton_attention_map` takes `tensor` as its query."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return triton is not None and tensor.is_cuda and tensor.dtype in dtypes


@ops.attention_map.register_kernel("cuda")
def compute_map(query, key, mask=None, query_pos=None, pos=None):
    """Compute a map as `attention_map.map_in_blocks` does, which has the arguments."""
    if not is_available(query):
        return ops.map_in_blocks(query, key, mask, query_pos, pos)
    by_position = None if pos is None else query_pos @ pos.transpose(-2, -1)
    real = None if mask is None else mask != 0
    return triton_attention_map(query, key, by_position, real, query.size(-1) ** -0.5)


@ops.attention_map_backward.register_kernel("cuda")
def compute_gradients(grad, weights, query, key, query_pos=None, pos=None):
    """Compute what `attention_map.gradients_in_blocks` does, with its arguments."""
    inputs = query, key, query_pos, pos
    if not is_available(query):
        return ops.gradients_in_blocks(grad, weights, *inputs)
    scale = query.size(-1) ** -0.5
    gradients = triton_attention_map_backward(grad, weights, *inputs, scale)
    return list(gradients[: 2 if pos is None else 4])


def triton_attention_map(
    query: torch.Tensor,
    key: torch.Tensor,
    position_scores: Optional[torch.Tensor],
    mask: Optional[torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """Compute the attention map softmax((QK^T + shifted position scores) * scale).

    Scores and softmax are float32, whatever the dtype of the tensors.

    Args:
        query: Query (batch, head, time, d_k), float32, float16 or bfloat16, with
            stride 1 in d_k.
        key: Key, like the query.
        position_scores: Product of query and position embeddings before ESPnet's
            `rel_shift` (batch, head, time, 2 * time - 1), contiguous: row i has the
            score of frame j in column time - 1 - i + j. None without positions.
        mask: True where a key is real (batch, 1, time) or (batch, time, time), bool.
            None if all are.
        scale: Factor of the scores.

    Returns:
        Attention map (batch, head, time, time) in the query's dtype, contiguous. A
        row sums to one; where it has no real key, it is all zeros.
    """
    batch, head, time, d_k = query.shape
    assert query.stride(-1) == key.stride(-1) == 1
    assert position_scores is None or position_scores.is_contiguous()
    mask_strides = (0,) * 3 if mask is None else mask.expand(batch, time, time).stride()
    attention_map = query.new_empty(batch, head, time, time)
    # Chosen by registers per thread (sm_90, bfloat16): 100, 4 warps would need 214.
    row_block, column_block, num_warps = 64, 64, 8
    with torch.cuda.device_of(query):
        _attention_map_kernel[triton.cdiv(time, row_block), head, batch](
            *(query, key, position_scores, mask, attention_map, scale, time),
            *(query.stride()[:-1] + key.stride()[:-1] + mask_strides),
            D_K=d_k,
            D_BLOCK=max(16, triton.next_power_of_2(d_k)),  # tl.dot takes no less
            ROW_BLOCK=row_block,
            COLUMN_BLOCK=column_block,
            ROWS_SHARE_MASK=mask_strides[1] == 0,
            num_warps=num_warps,
        )
    return attention_map


def triton_attention_map_backward(
    grad: torch.Tensor,
    attention_map: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    query_pos: Optional[torch.Tensor],
    pos: Optional[torch.Tensor],
    scale: float,
) -> Tuple[Optional[torch.Tensor], ...]:
    """Compute the gradients of an attention map, without another array of its size.

    Gradients of scores are float32, then rounded to the tensors' dtype for products,
    which add up in float32. A masked key has gradient 0: its attention is 0.

    Args:
        grad: Gradient of the map (batch, head, time, time), with any strides.
        attention_map: What `triton_attention_map` returned, contiguous.
        query: Query (batch, head, time, d_k).
        key: Key, like the query.
        query_pos: Query of the positions, like the query, or None without positions.
        pos: Relative positions (batch or 1, head, 2 * time - 1, d_k), or None.
        scale: Factor of the scores.

    Returns:
        Gradients of query, key, query_pos and pos, contiguous; of None, None.
    """
    batch, head, time, d_k = query.shape
    assert attention_map.is_contiguous()
    row_sums = query.new_empty(batch, head, time, dtype=torch.float32)
    d_block = max(16, triton.next_power_of_2(d_k))
    # Chosen by registers per thread (sm_90, bfloat16): d_k 32, 64 and 128 need 60, 103
    # and 127. With an inner block of 64, d_k 32 and 128 would need 186 and 213.
    outer_block, inner_block, num_warps = 64, 64 if d_block == 64 else 32, 8

    def gradient(operand, length, outer_is_row, by_position):
        """Multiply the gradient of scores, over its other axis, by `operand`."""
        operand = operand.expand(batch, -1, -1, -1)
        if operand.stride(-1) != 1:
            operand = operand.contiguous()
        product = query.new_empty(batch, head, length, d_k)
        with torch.cuda.device_of(query):
            _gradient_kernel[triton.cdiv(length, outer_block), head, batch](
                *(grad, attention_map, row_sums, operand, product, scale, time),
                *(*grad.stride(), *operand.stride()[:-1]),
                D_K=d_k,
                D_BLOCK=d_block,
                OUTER_BLOCK=outer_block,
                INNER_BLOCK=inner_block,
                OUTER_IS_ROW=outer_is_row,
                BY_POSITION=by_position,
                num_warps=num_warps,
            )
        return product

    grad_query = gradient(key, time, True, False)  # first: it writes `row_sums`
    grad_key = gradient(query, time, False, False)
    if pos is None:
        return grad_query, grad_key, None, None
    grad_query_pos = gradient(pos, time, True, True)
    grad_pos = gradient(query_pos, 2 * time - 1, False, True)
    return grad_query, grad_key, grad_query_pos, grad_pos.sum_to_size(pos.shape)


if triton is not None:
    # A compilation takes seconds: none for every new kind of length. Strides of query
    # and key stay specialised, since their divisor 16 allows wide loads.
    _LENGTHS = ["time", "mask_stride_batch", "mask_stride_row", "mask_stride_column"]

    @triton.jit(do_not_specialize=_LENGTHS)
    def _attention_map_kernel(
        query,
        key,
        position_scores,
        mask,
        attention_map,
        scale,
        time,
        query_stride_batch,
        query_stride_head,
        query_stride_row,
        key_stride_batch,
        key_stride_head,
        key_stride_column,
        mask_stride_batch,
        mask_stride_row,
        mask_stride_column,
        D_K: tl.constexpr,
        D_BLOCK: tl.constexpr,
        ROW_BLOCK: tl.constexpr,
        COLUMN_BLOCK: tl.constexpr,
        ROWS_SHARE_MASK: tl.constexpr,
    ):
        """Write ROW_BLOCK rows of the attention map of one head of one utterance."""
        # int64, since a batch can have more than 2^31 position scores
        head = tl.program_id(1).to(tl.int64)
        batch = tl.program_id(2).to(tl.int64)
        rows = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)[:, None]
        is_row = rows < time
        rows = tl.minimum(rows, time - 1).to(tl.int64)  # spares loads a mask of rows
        map_rows = (batch * tl.num_programs(1) + head) * time + rows

        attention_map += map_rows * time
        key += batch * key_stride_batch + head * key_stride_head
        query += batch * query_stride_batch + head * query_stride_head
        if position_scores is not None:
            position_scores += map_rows * (2 * time - 1) + (time - 1 - rows)
        if mask is not None:
            mask += batch * mask_stride_batch
            if not ROWS_SHARE_MASK:
                mask += rows * mask_stride_row

        depth = tl.arange(0, D_BLOCK)
        query += rows * query_stride_row + depth[None, :]
        query_block = tl.load(query, depth[None, :] < D_K, other=0.0)
        # The lowest float32 in place of -inf: a row without real keys has no NaN.
        maximum = tl.full([ROW_BLOCK, 1], -3.4028234e38, tl.float32)
        total = tl.zeros([ROW_BLOCK, 1], tl.float32)
        for writes in tl.static_range(2):  # first maximum and total, then the map
            for first_column in range(0, time, COLUMN_BLOCK):
                columns = first_column + tl.arange(0, COLUMN_BLOCK)[None, :]
                is_column = columns < time
                keys = key + columns * key_stride_column + depth[:, None]
                is_key = is_column & (depth[:, None] < D_K)
                key_block = tl.load(keys, is_key, other=0.0)
                # ieee: no tf32 for float32 tensors
                scores = tl.dot(query_block, key_block, input_precision="ieee")
                if position_scores is not None:
                    scores += tl.load(position_scores + columns, is_column, other=0.0)
                is_real = is_column
                if mask is not None:
                    real = mask + columns * mask_stride_column
                    is_real = tl.load(real, is_column, other=False)
                scores = tl.where(is_real, scores * scale, float("-inf"))
                if writes:
                    weights = tl.exp(scores - maximum) / total
                    tl.store(attention_map + columns, weights, is_row & is_column)
                else:
                    previous = maximum
                    maximum = tl.maximum(previous, tl.max(scores, 1, keep_dims=True))
                    total *= tl.exp(previous - maximum)
                    total += tl.sum(tl.exp(scores - maximum), 1, keep_dims=True)
            total = tl.where(total == 0.0, 1.0, total)

    _GRAD_LENGTHS = ["time", "grad_stride_batch", "grad_stride_head", "grad_stride_row"]

    @triton.jit
    def _weigh(weights, x):
        return tl.where(weights == 0.0, 0.0, weights * x)  # no NaN from masked keys

    @triton.jit(do_not_specialize=_GRAD_LENGTHS)
    def _gradient_kernel(
        grad,
        attention_map,
        row_sums,
        operand,
        product,
        scale,
        time,
        grad_stride_batch,
        grad_stride_head,
        grad_stride_row,
        grad_stride_column,
        operand_stride_batch,
        operand_stride_head,
        operand_stride_inner,
        D_K: tl.constexpr,
        D_BLOCK: tl.constexpr,
        OUTER_BLOCK: tl.constexpr,
        INNER_BLOCK: tl.constexpr,
        OUTER_IS_ROW: tl.constexpr,
        BY_POSITION: tl.constexpr,
    ):
        """Write OUTER_BLOCK rows of gradient of scores (outer, inner) @ operand.

        Outer and inner are row and column of the map, in either order; by position,
        the column gives its place to the position time - 1 - row + column.
        """
        head = tl.program_id(1).to(tl.int64)
        batch = tl.program_id(2).to(tl.int64)
        index = batch * tl.num_programs(1) + head
        grad += batch * grad_stride_batch + head * grad_stride_head
        attention_map += index * time * time
        row_sums += index * time
        operand += batch * operand_stride_batch + head * operand_stride_head

        first_outer = tl.program_id(0) * OUTER_BLOCK
        outer = first_outer + tl.arange(0, OUTER_BLOCK)[:, None]
        outer_length = time
        first_inner = 0
        inner_stop = time
        if BY_POSITION:  # time - 1 <= outer + inner < 2 * time - 1
            first_inner = tl.maximum(0, time - first_outer - OUTER_BLOCK)
            inner_stop = 2 * time - 1 - first_outer
            if not OUTER_IS_ROW:
                outer_length = 2 * time - 1
                inner_stop = tl.minimum(time, inner_stop)
        is_outer = outer < outer_length
        depth = tl.arange(0, D_BLOCK)[None, :]
        sums_rows: tl.constexpr = OUTER_IS_ROW and not BY_POSITION
        if sums_rows:
            row_sum = tl.zeros([OUTER_BLOCK, 1], tl.float32)
        elif OUTER_IS_ROW:
            row_sum = tl.load(row_sums + outer, is_outer, other=0.0)
        total = tl.zeros([OUTER_BLOCK, D_BLOCK], tl.float32)
        for multiplies in tl.static_range(0 if sums_rows else 1, 2):
            for first in range(first_inner, inner_stop, INNER_BLOCK):
                inner = first + tl.arange(0, INNER_BLOCK)
                is_inner = inner < inner_stop
                is_element = is_outer & is_inner[None, :]
                row = (outer if OUTER_IS_ROW else inner[None, :]).to(tl.int64)
                column = inner[None, :] if OUTER_IS_ROW else outer
                if BY_POSITION:
                    column = outer + inner[None, :] - (time - 1)
                    is_element &= (column >= 0) & (column < time)
                column = column.to(tl.int64)
                weights = attention_map + row * time + column
                weights = tl.load(weights, is_element, other=0.0).to(tl.float32)
                grads = grad + row * grad_stride_row + column * grad_stride_column
                grads = tl.load(grads, is_element, other=0.0).to(tl.float32)
                if multiplies:
                    if not OUTER_IS_ROW:
                        row_sum = tl.load(row_sums + inner, is_inner, other=0.0)
                        row_sum = row_sum[None, :]
                    block = operand + inner[:, None].to(tl.int64) * operand_stride_inner
                    is_operand = is_inner[:, None] & (depth < D_K)
                    block = tl.load(block + depth, is_operand, other=0.0)
                    grads = _weigh(weights, grads - row_sum).to(block.dtype)
                    total = tl.dot(grads, block, total, input_precision="ieee")
                else:
                    row_sum += tl.sum(_weigh(weights, grads), 1, keep_dims=True)
        if sums_rows:
            tl.store(row_sums + outer, row_sum, is_outer)
        product += (index * outer_length + outer) * D_K + depth
        tl.store(product, total * scale, is_outer & (depth < D_K))
