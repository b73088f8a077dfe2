# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Conformer encoder whose layers reuse attention maps."""

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import ReuseLayer


class ConformerReuseLayer(ReuseLayer, EncoderLayer):
    """Conformer encoder layer of a group with one attention map."""


class ConformerReuseEncoder(ReuseEncoder, ConformerEncoder):
    """Conformer encoder module with attention map reuse (see ReuseEncoder)."""

    layer_class = ConformerReuseLayer
