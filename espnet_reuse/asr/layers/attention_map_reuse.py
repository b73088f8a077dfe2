# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Attention map reuse: groups of encoder layers with one attention map.

A group's first layer, the producer, computes the attention map softmax(QK^T);
its other layers, the consumers, apply that map to their own values. Source:
K. Shim, J. Choi, W. Sung, "Understanding the Role of Self Attention for
Efficient Speech Recognition", ICLR 2022.

Encoder layers pass `pos_emb`, or where there is none the mask, on to their
attention module and to the next layer without looking at it. A group's `GroupState`
travels in that slot.
"""

import dataclasses
import functools
import os
from typing import List, Optional, Sequence, Union

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)

from espnet_reuse.asr.layers.attention_map import (
    apply,
    attend,
    attention_map,
    masked_softmax,
)


class ReuseConfigError(ValueError):
    """An option does not fit; the message says what to change."""


@dataclasses.dataclass
class GroupState:
    """What one forward hands from a group's producer to its consumers.

    Attributes:
        pos_emb: Positional embedding (1, 2 * time - 1, size), (1, time, size) for
            the legacy kind, None for attention without relative positions.
        mask: Mask of real frames (batch, 1, time), or None.
        attention_map: Attention map (batch, head, time, time), None until the
            producer has computed it.
    """

    pos_emb: Optional[torch.Tensor]
    mask: Optional[torch.Tensor]
    attention_map: Optional[torch.Tensor] = None


def resolve_group_sizes(
    reuse_group_size: Union[int, Sequence[int]], num_blocks: int
) -> List[int]:
    """Return the number of layers of each group, from the lowest group up.

    The arguments are an encoder's (see `ReuseEncoder`).

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


def uses_fast_paths() -> bool:
    """Say whether modules that are built now use the fast paths (the default).

    Raises:
        ReuseConfigError: The environment variable ESPNET_REUSE_IMPL is neither `fast`
            nor `naive`.
    """
    implementation = os.environ.get("ESPNET_REUSE_IMPL", "fast")
    if implementation not in ("naive", "fast"):
        raise ReuseConfigError(
            f"ESPNET_REUSE_IMPL: {implementation!r} in the environment must be 'fast' "
            "(the default) or 'naive' (ESPnet's own operations)"
        )
    return implementation == "fast"


def _compute_map(*scored):
    """Compute an attention map: a function, which can be pickled."""
    return attention_map(*scored)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """View a projection (batch, time, head * d_k) as (batch, head, time, d_k)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def project(context: torch.Tensor, linear_out: torch.nn.Module) -> torch.Tensor:
    """Join the heads of a context (batch, head, time, d_k) and project it."""
    return linear_out(context.transpose(1, 2).flatten(2))


def refuse_other_groups(module, state_dict, prefix, *args):
    """Refuse a checkpoint that was trained with other groups.

    A hook of PyTorch, which raises a RuntimeError for the message also where ESPnet
    loads with `strict=False`. Without it a producer would keep random query and key
    projections, and the model would decode to garbage.
    """
    error_msgs = args[-1]
    has_query = prefix + "linear_q.weight" in state_dict
    is_consumer = isinstance(module, MapConsumer)
    if prefix + "linear_v.weight" in state_dict and has_query == is_consumer:
        error_msgs.append(
            f"the checkpoint's {prefix.rstrip('.')} has {'a' if has_query else 'no'} "
            "query projection, but this model's layer is a "
            f"{'consumer' if is_consumer else 'producer'}: use the config.yaml that "
            "was saved with the checkpoint (reuse_group_size differs), or initialise "
            "from it with init_param and ignore_init_mismatch: true"
        )


class _MapProducer:
    """Computes the attention map and leaves it in the group's state.

    Mixed into attention classes. The naive path is theirs: their `forward`
    computes the scores and hands them to `forward_attention` with the mask, which it
    does not look at, so that the state travels in the mask's place.
    """

    is_fast = False
    has_consumers = False
    shares_dropout = False
    _attn = None

    @property
    def attn(self):
        """Attention map of the last forward, for plots; may be computed when read."""
        return self._attn() if callable(self._attn) else self._attn

    @attn.setter
    def attn(self, attention_map):
        self._attn = attention_map

    def forward(self, query, key, value, state, mask=None):
        """Compute attention, and keep the map for the consumers.

        Args:
            query (torch.Tensor): Query tensor (#batch, time, size).
            key (torch.Tensor): Key tensor (#batch, time, size).
            value (torch.Tensor): Value tensor (#batch, time, size).
            state (GroupState): State of the group.
            mask: Not used, since the state has it.

        Returns:
            torch.Tensor: Output tensor (#batch, time, size).
        """
        if self.has_consumers and (self.use_sdpa or self.use_flash_attn):
            # fused kernels compute no map; s2t_inference sets these later
            self.use_sdpa = self.use_flash_attn = False
        if self.is_fast and self._fits_fast_path():
            return self._fast_forward(query, key, value, state)
        pos_emb = () if state.pos_emb is None else (state.pos_emb,)
        if self.use_sdpa or self.use_flash_attn:  # a group of one needs no map
            return super().forward(query, key, value, *pos_emb, state.mask)
        return super().forward(query, key, value, *pos_emb, state)

    def forward_attention(self, value, scores, state):
        """Turn scores into the attention map and apply it.

        The parent's method reads the map back from `self.attn`, where a second thread
        may have put its own; here `self.attn` is only written, for plots.

        Args:
            value (torch.Tensor): Transformed value (#batch, n_head, time, d_k).
            scores (torch.Tensor): Attention scores (#batch, n_head, time, time).
            state (GroupState): State of the group. The mask alone where flash
                attention failed.

        Returns:
            torch.Tensor: Output tensor (#batch, time, size).
        """
        if not isinstance(state, GroupState):
            state = GroupState(None, state)
        weights = masked_softmax(scores, state.mask)
        self.attn = weights.detach()
        dropped = self.dropout(weights)
        # autocast may have computed the softmax in float32
        state.attention_map = (dropped if self.shares_dropout else weights).to(value)
        return project(torch.matmul(dropped, value), self.linear_out)

    def _fits_fast_path(self):
        return not self.use_flash_attn

    def _fast_forward(self, query, key, value, state):
        q, k, v = self.forward_qkv(query, key, value)
        scored = self._score_inputs(q, k, state)
        kept = (x if x is None else x.detach() for x in scored)
        self._attn = functools.partial(_compute_map, *kept)
        rate = self.dropout_rate if self.training else 0.0
        if not self.has_consumers:
            q, k, *rest = scored
            return project(attend(q, k, v, *rest, rate), self.linear_out)
        weights = attention_map(*scored)
        if self.shares_dropout and rate:
            weights, rate = torch.native_dropout(weights, rate, True)[0], 0.0
        state.attention_map = weights
        return project(apply(weights, v, rate), self.linear_out)

    def _score_inputs(self, q, k, state):
        """Return the arguments of `attention_map`."""
        return q, k, state.mask, None, None


class MapProducer(_MapProducer, MultiHeadedAttention):
    """Producer with absolute or no positions (`selfattn`)."""


class LegacyRelPositionMapProducer(_MapProducer, LegacyRelPositionMultiHeadedAttention):
    """Producer with the old relative positions (`legacy_rel_selfattn`)."""

    def _fits_fast_path(self):
        return False  # deprecated


class RelPositionMapProducer(_MapProducer, RelPositionMultiHeadedAttention):
    """Producer with relative positions (`rel_selfattn`)."""

    def _fits_fast_path(self):
        return super()._fits_fast_path() and not self.zero_triu

    def _score_inputs(self, q, k, state):
        p = split_heads(self.linear_pos(state.pos_emb), self.h)
        # under autocast the biases are float32 beside a query of lower precision
        q_u = (q + self.pos_bias_u.unsqueeze(1)).to(k.dtype)
        q_v = (q + self.pos_bias_v.unsqueeze(1)).to(k.dtype)
        return q_u, k, state.mask, q_v, p


PRODUCER_CLASSES = {
    MultiHeadedAttention: MapProducer,
    LegacyRelPositionMultiHeadedAttention: LegacyRelPositionMapProducer,
    RelPositionMultiHeadedAttention: RelPositionMapProducer,
}


class MapConsumer(torch.nn.Module):
    """Applies the producer's attention map to its own values.

    Args:
        attention: The parent's attention module, which gives its value and output
            projections; its query, key and position parameters are left out.
        dropout_rate: Dropout rate on the map.
    """

    def __init__(self, attention: MultiHeadedAttention, dropout_rate: float):
        super().__init__()
        self.is_fast = uses_fast_paths()
        self.h = attention.h
        self.d_k = attention.d_k
        self.linear_v = attention.linear_v
        self.linear_out = attention.linear_out
        self.dropout = torch.nn.Dropout(dropout_rate)

    def forward(self, query, key, value, state, mask=None):
        """Apply the map of the group's producer, which is masked already.

        Args:
            query: Not used.
            key: Not used.
            value (torch.Tensor): Value tensor (#batch, time, size).
            state (GroupState): State of the group.
            mask: Not used.

        Returns:
            torch.Tensor: Output tensor (#batch, time, size).
        """
        v = split_heads(self.linear_v(value), self.h)
        weights = state.attention_map
        if self.is_fast:
            context = apply(weights, v, self.dropout.p if self.training else 0.0)
        else:
            context = torch.matmul(self.dropout(weights), v)
        return project(context, self.linear_out)


class ReuseLayer:
    """Carries the group's state through an encoder layer.

    Mixed into layer classes. The producer's layer puts the state into a slot
    of the layer's arguments, the group's last layer takes it out again.

    Attributes:
        attention_name: Name of the layer's attention module.
        norm_name: Name of the norm of its input.
        drop_rate: Probability that a training step drops the layer, which then
            returns its input.
    """

    attention_name = "self_attn"
    norm_name = "norm_mha"
    drop_rate = 0.0
    starts_group: bool
    ends_group: bool

    def forward(self, x_input, mask):
        """Compute encoded features with the parent.

        Args:
            x_input (Union[Tuple, torch.Tensor]): Input tensor (#batch, time, size),
                in a tuple with the positional embedding or the group's state.
            mask (Union[torch.Tensor, GroupState]): Mask tensor for the input
                (#batch, 1, time), or the group's state.

        Returns:
            Output in the form of `x_input`, and the mask or the state.
        """
        x, slot = x_input if isinstance(x_input, tuple) else (x_input, None)
        if self.starts_group:
            state = GroupState(slot, mask)
        else:
            state = mask if slot is None else slot
        x_out = x
        if not (self.training and self.drop_rate and torch.rand(1) < self.drop_rate):
            x_out, _ = super().forward(*self.pack(x, state))
            if isinstance(x_out, tuple):
                x_out, _ = x_out
        if state.attention_map is None and not self.ends_group:
            # The producer was skipped or dropped, but its consumers need the map. The
            # layer then adds nothing to its input, so that its attention sees that.
            if getattr(self, "normalize_before", True):
                x = getattr(self, self.norm_name)(x)
            getattr(self, self.attention_name)(x, x, x, state)
        if not self.ends_group:
            return self.pack(x_out, state)
        return x_out if state.pos_emb is None else (x_out, state.pos_emb), state.mask

    def pack(self, x, state):
        """Return the arguments of the parent for `x`, with the state in its slot."""
        return (x, state), state.mask


def reuse_attention_maps(
    layers: Sequence[torch.nn.Module],
    layer_class: type,
    group_sizes: Sequence[int],
    reuse_dropout: str,
) -> None:
    """Turn encoder layers into groups of a producer and its consumers.

    Layers are converted after ESPnet has built them, so that no constructor is copied
    and a model without reuse draws the same initial weights.

    Args:
        layers: Encoder layers.
        layer_class: Subclass of `ReuseLayer` and of the layers' own class.
        group_sizes: Number of layers of each group.
        reuse_dropout: `per_layer`, every layer draws a dropout mask of its own; or
            `shared`, the consumers reuse the producer's dropped-out map as it is.

    Raises:
        ReuseConfigError: `reuse_dropout` is neither, or a layer in a group of several
            is not of ESPnet's own class or has no attention that computes a map.
    """
    if reuse_dropout not in ("per_layer", "shared"):
        raise ReuseConfigError(
            f"reuse_dropout: {reuse_dropout!r} must be 'per_layer' or 'shared'"
        )
    shared = reuse_dropout == "shared"
    parent = next(c for c in layer_class.__mro__ if not issubclass(c, ReuseLayer))
    first = 0
    for size in group_sizes:
        for index in range(first, first + size):
            layer = layers[index]
            attention = getattr(layer, layer_class.attention_name, None)
            if type(layer) is not parent or type(attention) not in PRODUCER_CLASSES:
                if size == 1:  # it stays as it is
                    continue
                raise ReuseConfigError(
                    f"reuse_group_size: encoders.{index} is in a group of {size}, but "
                    f"is not an {parent.__name__} whose attention computes a map: it "
                    f"is a {type(layer).__name__} with {type(attention).__name__} "
                    "(use_attn: false, cgmlp_weight: 1.0 and fast_selfattn compute "
                    "none): give it a group of its own"
                )
            layer.__class__ = layer_class
            layer.starts_group = index == first
            layer.ends_group = index == first + size - 1
            if layer.starts_group:
                attention.__class__ = PRODUCER_CLASSES[type(attention)]
                attention.is_fast = uses_fast_paths()
                if size > 1:
                    attention.use_sdpa = attention.use_flash_attn = False
                    attention.dropout = torch.nn.Dropout(attention.dropout_rate)
                    attention.has_consumers = True
                    attention.shares_dropout = shared
            else:
                rate = 0.0 if shared else attention.dropout_rate
                attention = MapConsumer(attention, rate)
                setattr(layer, layer_class.attention_name, attention)
            attention.register_load_state_dict_pre_hook(refuse_other_groups)
        first += size
