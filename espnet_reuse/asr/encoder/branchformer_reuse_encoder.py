# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Branchformer encoder whose layers reuse attention maps."""

import types

import torch
from espnet2.asr.encoder.branchformer_encoder import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
)
from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import ReuseLayer


class BranchformerReuseLayer(ReuseLayer, BranchformerEncoderLayer):
    """Branchformer encoder layer, its attention branch of a group with one map."""

    attention_name = "attn"


class Layers(MultiSequential):
    """Layers of which none is dropped, as `torch.compile` can follow."""

    def forward(self, *args):
        """Repeat."""
        torch.empty(len(self)).uniform_()  # drawn by the parent, too
        for layer in self:
            args = layer(*args)
        return args


# The parent takes lengths alone, and makes the mask by a function that `torch.compile`
# cannot follow. This is its forward with the mask in the place of the lengths.
_parent = BranchformerEncoder.forward
_globals = _parent.__globals__ | {"make_pad_mask": lambda mask: mask}
_forward = types.FunctionType(_parent.__code__, _globals)


class BranchformerReuseEncoder(ReuseEncoder, BranchformerEncoder):
    """Branchformer encoder module with attention map reuse (see ReuseEncoder)."""

    layer_class = BranchformerReuseLayer

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoders.__class__ = Layers

    def parent_forward(self, xs_pad, ilens, prev_states, masks):
        """Calculate forward propagation with the parent."""
        return _forward(self, xs_pad, masks, prev_states)
