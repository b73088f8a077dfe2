# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""E-Branchformer encoder whose layers reuse attention maps."""

from espnet2.asr.encoder.e_branchformer_encoder import (
    EBranchformerEncoder,
    EBranchformerEncoderLayer,
)

from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import ReuseLayer


class EBranchformerReuseLayer(ReuseLayer, EBranchformerEncoderLayer):
    """E-Branchformer encoder layer, its attention branch of a group with one map."""

    attention_name = "attn"


class EBranchformerReuseEncoder(ReuseEncoder, EBranchformerEncoder):
    """E-Branchformer encoder module with attention map reuse (see ReuseEncoder)."""

    layer_class = EBranchformerReuseLayer

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not all(getattr(layer, "ends_group", True) for layer in self.encoders):
            # the parent passes over a layer that it drops, and over its map
            for layer in self.encoders:
                layer.drop_rate = self.layer_drop_rate
            self.layer_drop_rate = 0.0
