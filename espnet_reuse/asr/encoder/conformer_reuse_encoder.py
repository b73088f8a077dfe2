# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Conformer encoder whose layers reuse attention maps."""

import inspect
import logging
from typing import List, Union

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_reuse.asr.layers.attention_map_reuse import (
    ReuseConfigError,
    ReuseLayer,
    resolve_group_sizes,
    reuse_attention_maps,
)


class ConformerReuseLayer(ReuseLayer, EncoderLayer):
    """Conformer encoder layer of a group with one attention map."""

    def compute_map(self, x, mask, state):
        """Put the map of a skipped producer into `state`."""
        if self.normalize_before:
            x = self.norm_mha(x)
        self.self_attn(x, x, x, state, mask)


class ConformerReuseEncoder(ConformerEncoder):
    """Conformer encoder module with attention map reuse.

    Takes every argument of ESPnet's ConformerEncoder, and by keyword two more. With
    `reuse_group_size: 1` it is that encoder. Consumers have no query, key and
    position parameters; all others keep their names, so that a ConformerEncoder's
    checkpoint initialises this one (`--init_param`, `--ignore_init_mismatch true`).

    Source: K. Shim, J. Choi, W. Sung, "Understanding the Role of Self Attention for
    Efficient Speech Recognition", ICLR 2022.

    Args:
        *args: Positional arguments of ConformerEncoder.
        reuse_group_size (Union[int, List[int]]): Layers per group, the last group
            may be shorter; or a list of group sizes that sums to `num_blocks`.
            The first layer of a group computes the attention map, the others reuse
            it. 1 means no reuse.
        reuse_dropout (str): `per_layer`, every layer draws a dropout mask of its own
            on the map (`attention_dropout_rate`); or `shared`, the layers of a group
            reuse the dropped-out map as it is.
        **kwargs: Keyword arguments of ConformerEncoder.

    Raises:
        ReuseConfigError: The group sizes do not fit `num_blocks`, `reuse_dropout` is
            unknown, or `ctc_trim` is combined with reuse.
    """

    def __init__(
        self,
        *args,
        reuse_group_size: Union[int, List[int]] = 1,
        reuse_dropout: str = "per_layer",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        group_sizes = resolve_group_sizes(reuse_group_size, len(self.encoders))
        if self.ctc_trim and max(group_sizes) > 1:
            raise ReuseConfigError(
                "ctc_trim: true removes frames between layers, so that a reused map "
                "would not fit: set ctc_trim: false or reuse_group_size: 1"
            )
        reuse_attention_maps(
            self.encoders, ConformerReuseLayer, group_sizes, reuse_dropout
        )
        logging.info(f"Layers per attention map: {group_sizes}")

    def forward(self, xs_pad, ilens, prev_states=None, masks=None, **kwargs):
        """Calculate forward propagation.

        Args:
            xs_pad (torch.Tensor): Input tensor (#batch, L, input_size).
            ilens (torch.Tensor): Input length (#batch).
            prev_states (torch.Tensor): Not to be used now.
            masks (torch.Tensor): Mask of padded frames (#batch, L), by default of
                `ilens`.
            **kwargs: `ctc` and `return_all_hs` of ConformerEncoder.

        Returns:
            What ConformerEncoder returns: output tensor (#batch, L', output_size),
            with intermediate outputs if there are any; output length (#batch); None.
        """
        if masks is None:
            # ESPnet makes the same mask in memory that grows with L squared
            frames = torch.arange(xs_pad.size(1), device=xs_pad.device)
            masks = frames >= ilens.to(xs_pad.device)[:, None]
        return super().forward(xs_pad, ilens, prev_states, masks, **kwargs)


def _signature_of(encoder_class: type) -> inspect.Signature:
    """Return the parent's signature with the two options, as ESPnet's configs show."""
    own = inspect.signature(encoder_class.__init__).parameters.values()
    parent = inspect.signature(encoder_class.__base__)
    return parent.replace(
        parameters=[
            *parent.parameters.values(),
            *(p for p in own if p.kind is p.KEYWORD_ONLY),
        ]
    )


ConformerReuseEncoder.__signature__ = _signature_of(ConformerReuseEncoder)
