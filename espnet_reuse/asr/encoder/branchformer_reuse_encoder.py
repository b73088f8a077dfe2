# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Branchformer encoder whose layers reuse attention maps."""

from espnet2.asr.encoder.branchformer_encoder import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
)

from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import ReuseLayer


class BranchformerReuseLayer(ReuseLayer, BranchformerEncoderLayer):
    """Branchformer encoder layer, its attention branch of a group with one map."""

    attention_name = "attn"


class BranchformerReuseEncoder(ReuseEncoder, BranchformerEncoder):
    """Branchformer encoder module with attention map reuse (see ReuseEncoder)."""

    layer_class = BranchformerReuseLayer
    forward = BranchformerEncoder.forward  # takes no masks
