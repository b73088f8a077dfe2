# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""One kernel computes the attention map: the scores never reach the GPU's memory."""

import math
from typing import Optional

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch brings Triton on Linux only
    triton = None


def is_available(tensor: torch.Tensor) -> bool:
    """Return whether `triton_attention_map` takes `tensor` as its query."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return triton is not None and tensor.is_cuda and tensor.dtype in dtypes


def kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: Optional[torch.Tensor] = None,
    query_pos: Optional[torch.Tensor] = None,
    pos: Optional[torch.Tensor] = None,
) -> Optional[torch.Tensor]:
    """Compute the map of tensors that are for Triton, of all others return None.

    Arguments and result are those of `attention_map.naive_attention_map`.
    """
    if not is_available(query):
        return None
    by_position = None if pos is None else query_pos @ pos.transpose(-2, -1)
    real = None if mask is None else mask != 0
    scale = 1 / math.sqrt(query.size(-1))
    return triton_attention_map(query, key, by_position, real, scale)


def triton_attention_map(
    query: torch.Tensor,
    key: torch.Tensor,
    position_scores: Optional[torch.Tensor],
    mask: Optional[torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """Compute the attention map softmax((QK^T + shifted position scores) * scale).

    Scores and softmax are float32, whatever the dtype of the tensors. There is no
    gradient: the caller has its own backward.

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
