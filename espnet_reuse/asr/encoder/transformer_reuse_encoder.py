# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Transformer encoder whose layers reuse attention maps."""

from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.encoder_layer import EncoderLayer

from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import ReuseLayer


class TransformerReuseLayer(ReuseLayer, EncoderLayer):
    """Transformer encoder layer of a group with one attention map."""

    norm_name = "norm1"

    def pack(self, x, state):
        """Return the arguments of the parent, which has no `pos_emb` slot."""
        return x, state


class TransformerReuseEncoder(ReuseEncoder, TransformerEncoder):
    """Transformer encoder module with attention map reuse (see ReuseEncoder)."""

    layer_class = TransformerReuseLayer
