# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Attention map reuse: groups of encoder layers with one attention map.

A group's first layer, the producer, computes the attention map softmax(QK^T);
its other layers, the consumers, apply that map to their own values. Source:
K. Shim, J. Choi, W. Sung, "Understanding the Role of Self Attention for
Efficient Speech Recognition", ICLR 2022.

ESPnet's encoder layers pass `pos_emb` on to their attention module and to the next
layer without looking at it. A group's `GroupState` travels in that slot.
"""

import dataclasses
from typing import List, Optional, Sequence, Union

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)


class ReuseConfigError(ValueError):
    """An option or a checkpoint does not fit; the message says what to change."""


@dataclasses.dataclass
class GroupState:
    """What one forward hands from a group's producer to its consumers.

    Attributes:
        pos_emb: Positional embedding (1, 2 * time - 1, size), (1, time, size) for
            the legacy kind, None for attention without relative positions.
        attention_map: Attention map (batch, head, time, time), None until the
            producer has computed it.
    """

    pos_emb: Optional[torch.Tensor]
    attention_map: Optional[torch.Tensor] = None


def resolve_group_sizes(
    reuse_group_size: Union[int, Sequence[int]], num_blocks: int
) -> List[int]:
    """Return the number of layers of each group, from the lowest group up.

    Args:
        reuse_group_size: Layers per group, the last group may be shorter; or the
            size of every group, which sum to `num_blocks`.
        num_blocks: Number of encoder layers.

    Raises:
        ReuseConfigError: The sizes are not positive integers or do not sum to
            `num_blocks`.

    Examples:
        >>> resolve_group_sizes(3, 8)
        [3, 3, 2]
        >>> resolve_group_sizes([1, 1, 4], 6)
        [1, 1, 4]
    """
    is_list = isinstance(reuse_group_size, (list, tuple))
    sizes = list(reuse_group_size) if is_list else [reuse_group_size]
    # bool is an int in Python
    if not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise ReuseConfigError(
            f"reuse_group_size: {reuse_group_size!r} must be a positive integer "
            "(layers per group) or a list of positive integers (the size of every "
            f"group) that sums to num_blocks, {num_blocks}"
        )
    if is_list:
        if sum(sizes) != num_blocks:
            raise ReuseConfigError(
                f"reuse_group_size: {reuse_group_size} sums to {sum(sizes)}, but "
                f"num_blocks is {num_blocks}: make the two equal"
            )
        return sizes
    full, rest = divmod(num_blocks, sizes[0])
    return sizes * full + [rest] * (rest > 0)


def apply_attention_map(
    attention_map: torch.Tensor, value: torch.Tensor, linear_out: torch.nn.Module
) -> torch.Tensor:
    """Weight the values by the map, join the heads and project.

    Args:
        attention_map: Attention map (batch, head, time1, time2).
        value: Transformed value (batch, head, time2, d_k).
        linear_out: Output projection.

    Returns:
        Output (batch, time1, head * d_k).
    """
    context = torch.matmul(attention_map, value)  # (batch, head, time1, d_k)
    return linear_out(context.transpose(1, 2).flatten(2))


class _RefusesMisfit:
    """Refuses a checkpoint that was trained with other groups.

    ESPnet loads checkpoints with `strict=False`: without this a producer would keep
    random query and key projections, and the model would decode to garbage.
    """

    def _load_from_state_dict(self, state_dict, prefix, *args):
        has_query = prefix + "linear_q.weight" in state_dict
        has_value = prefix + "linear_v.weight" in state_dict
        if has_query and isinstance(self, MapConsumer):
            problem = "has a query projection, but this model's layer is a consumer"
        elif has_value and not has_query and not isinstance(self, MapConsumer):
            problem = "has no query projection, but this model's layer is a producer"
        else:
            super()._load_from_state_dict(state_dict, prefix, *args)
            return
        raise ReuseConfigError(
            f"the checkpoint's {prefix.rstrip('.')} {problem}: use the config.yaml "
            "that was saved with the checkpoint (reuse_group_size differs), or "
            "initialise from it with --init_param and --ignore_init_mismatch true"
        )


class _MapProducer(_RefusesMisfit):
    """Computes the attention map and leaves it in the group's state.

    Mixed into ESPnet's attention classes. Their `forward` computes the scores and
    hands them to `forward_attention` with the mask, which it does not look at: the
    state travels with the mask.
    """

    shares_dropout = False

    def forward(self, query, key, value, state, mask):
        """Compute attention as ESPnet does, and keep the map for the consumers.

        Args:
            query (torch.Tensor): Query tensor (#batch, time1, size).
            key (torch.Tensor): Key tensor (#batch, time2, size).
            value (torch.Tensor): Value tensor (#batch, time2, size).
            state (GroupState): State of the group, in ESPnet's `pos_emb` slot.
            mask (torch.Tensor): Mask (#batch, 1, time2) or (#batch, time1, time2).

        Returns:
            torch.Tensor: Output tensor (#batch, time1, size).
        """
        pos_emb = () if state.pos_emb is None else (state.pos_emb,)
        if self.use_sdpa or self.use_flash_attn:  # a group of one needs no map
            return super().forward(query, key, value, *pos_emb, mask)
        return super().forward(query, key, value, *pos_emb, (mask, state))

    def forward_attention(self, value, scores, mask):
        """Turn scores into the attention map and apply it.

        ESPnet's method reads the map back from `self.attn`, where a second thread
        may have put its own; here `self.attn` is only written, for plots.

        Args:
            value (torch.Tensor): Transformed value (#batch, n_head, time2, d_k).
            scores (torch.Tensor): Attention scores (#batch, n_head, time1, time2).
            mask (tuple): Mask (#batch, 1, time2) or (#batch, time1, time2) or None,
                and the group's state. The mask alone where flash attention failed.

        Returns:
            torch.Tensor: Output tensor (#batch, time1, size).
        """
        mask, state = mask if isinstance(mask, tuple) else (mask, GroupState(None))
        if mask is None:
            attention_map = torch.softmax(scores, dim=-1)
        else:
            padded = mask.unsqueeze(1).eq(0)  # (batch, 1, *, time2)
            scores = scores.masked_fill(padded, torch.finfo(scores.dtype).min)
            attention_map = torch.softmax(scores, dim=-1).masked_fill(padded, 0.0)
        self.attn = attention_map.detach()
        dropped_map = self.dropout(attention_map)
        state.attention_map = dropped_map if self.shares_dropout else attention_map
        return apply_attention_map(dropped_map, value, self.linear_out)


class MapProducer(_MapProducer, MultiHeadedAttention):
    """Producer with absolute or no positions (`selfattn`)."""


class LegacyRelPositionMapProducer(_MapProducer, LegacyRelPositionMultiHeadedAttention):
    """Producer with ESPnet's old relative positions (`legacy_rel_selfattn`)."""


class RelPositionMapProducer(_MapProducer, RelPositionMultiHeadedAttention):
    """Producer with relative positions (`rel_selfattn`)."""


PRODUCER_CLASSES = {
    MultiHeadedAttention: MapProducer,
    LegacyRelPositionMultiHeadedAttention: LegacyRelPositionMapProducer,
    RelPositionMultiHeadedAttention: RelPositionMapProducer,
}


class MapConsumer(_RefusesMisfit, torch.nn.Module):
    """Applies the producer's attention map to its own values.

    Args:
        attention: ESPnet's attention module, which gives its value and output
            projections; its query, key and position parameters are left out.
        dropout_rate: Dropout rate on the map.
    """

    def __init__(self, attention: MultiHeadedAttention, dropout_rate: float):
        super().__init__()
        self.h = attention.h
        self.d_k = attention.d_k
        self.linear_v = attention.linear_v
        self.linear_out = attention.linear_out
        self.dropout = torch.nn.Dropout(dropout_rate)

    def forward(self, query, key, value, state, mask):
        """Apply the map of the group's producer.

        Args:
            query: Not used.
            key: Not used.
            value (torch.Tensor): Value tensor (#batch, time2, size).
            state (GroupState): State of the group, in ESPnet's `pos_emb` slot.
            mask: Not used, since the map is masked already.

        Returns:
            torch.Tensor: Output tensor (#batch, time1, size).
        """
        v = self.linear_v(value).unflatten(-1, (self.h, self.d_k)).transpose(1, 2)
        return apply_attention_map(
            self.dropout(state.attention_map), v, self.linear_out
        )


class ReuseLayer:
    """Carries the group's state through an encoder layer of ESPnet.

    Mixed into ESPnet's layer classes. The producer's layer puts the state into the
    `pos_emb` slot, the group's last layer takes it out again.
    """

    starts_group: bool
    ends_group: bool

    def forward(self, x_input, mask, cache=None):
        """Compute encoded features with ESPnet's layer.

        Args:
            x_input (Union[Tuple, torch.Tensor]): Input tensor (#batch, time, size),
                in a tuple with the positional embedding or the group's state.
            mask (torch.Tensor): Mask tensor for the input (#batch, 1, time).
            cache (torch.Tensor): Cache tensor of the input (#batch, time - 1, size).

        Returns:
            Output in the form of `x_input`, and the mask.
        """
        x, slot = x_input if isinstance(x_input, tuple) else (x_input, None)
        state = GroupState(pos_emb=slot) if self.starts_group else slot
        (x_out, _), mask_out = super().forward((x, state), mask, cache)
        if state.attention_map is None and not self.ends_group:
            # Stochastic depth skipped the producer, but its consumers need the map.
            self.compute_map(x, mask, state)
        if not self.ends_group:
            return (x_out, state), mask_out
        if state.pos_emb is not None:
            return (x_out, state.pos_emb), mask_out
        return x_out, mask_out

    def compute_map(self, x, mask, state):
        """Put the map of a skipped producer into `state`.

        A skipped layer adds nothing to its input, so its attention sees that.

        Args:
            x (torch.Tensor): Input tensor (#batch, time, size).
            mask (torch.Tensor): Mask tensor for the input (#batch, 1, time).
            state (GroupState): State of the group.
        """
        raise NotImplementedError


def reuse_attention_maps(
    layers: Sequence[torch.nn.Module],
    layer_class: type,
    group_sizes: Sequence[int],
    reuse_dropout: str,
) -> None:
    """Turn ESPnet's encoder layers into groups of a producer and its consumers.

    Objects are converted after ESPnet has built them, so that its constructor needs
    no copy and a model without reuse draws the same initial weights.

    Args:
        layers: Encoder layers, with their attention module in `self_attn`.
        layer_class: Subclass of `ReuseLayer` and of the layers' own class.
        group_sizes: Number of layers of each group.
        reuse_dropout: `per_layer`, every layer draws a dropout mask of its own; or
            `shared`, the consumers reuse the producer's dropped-out map as it is.

    Raises:
        ReuseConfigError: `reuse_dropout` is neither.
    """
    if reuse_dropout not in ("per_layer", "shared"):
        raise ReuseConfigError(
            f"reuse_dropout: {reuse_dropout!r} must be 'per_layer' or 'shared'"
        )
    shared = reuse_dropout == "shared"
    first = 0
    for size in group_sizes:
        for layer in layers[first : first + size]:
            attention = layer.self_attn
            layer.__class__ = layer_class
            layer.starts_group = layer is layers[first]
            layer.ends_group = layer is layers[first + size - 1]
            if not layer.starts_group:
                layer.self_attn = MapConsumer(
                    attention, 0.0 if shared else attention.dropout_rate
                )
                continue
            attention.__class__ = PRODUCER_CLASSES[type(attention)]
            if size > 1:  # fused kernels compute no map
                attention.use_sdpa = attention.use_flash_attn = False
                attention.dropout = torch.nn.Dropout(attention.dropout_rate)
                attention.shares_dropout = shared
        first += size
