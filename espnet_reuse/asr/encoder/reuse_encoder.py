# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What makes an encoder one whose layers reuse attention maps."""

import inspect
import logging
from typing import List, Union

import torch

from espnet_reuse.asr.layers.attention_map_reuse import (
    ReuseConfigError,
    resolve_group_sizes,
    reuse_attention_maps,
)


class ReuseEncoder:
    """Makes groups of the layers of an encoder, each with one attention map.

    Mixed into encoder classes, whose every argument it takes, and by keyword two
    more. With `reuse_group_size: 1` it is the parent. Consumers have no query,
    key and position parameters; all others keep their names, so that a checkpoint of
    the parent initialises this one (`--init_param`, `--ignore_init_mismatch
    true`).

    Source: K. Shim, J. Choi, W. Sung, "Understanding the Role of Self Attention for
    Efficient Speech Recognition", ICLR 2022.

    Args:
        *args: Positional arguments of the parent.
        reuse_group_size (Union[int, List[int]]): Layers per group, the last group
            may be shorter; or a list of group sizes that sums to `num_blocks`.
            The first layer of a group computes the attention map, the others reuse
            it. 1 means no reuse.
        reuse_dropout (str): `per_layer`, every layer draws a dropout mask of its own
            on the map (`attention_dropout_rate`); or `shared`, the layers of a group
            reuse the dropped-out map as it is.
        **kwargs: Keyword arguments of the parent.

    Attributes:
        layer_class: Class of the layers: `ReuseLayer` and the parent's class of them.

    Raises:
        ReuseConfigError: The group sizes do not fit `num_blocks`, `reuse_dropout` is
            unknown, a layer of a group computes no map, or `ctc_trim` is combined
            with reuse.
    """

    layer_class: type

    def __init__(
        self,
        *args,
        reuse_group_size: Union[int, List[int]] = 1,
        reuse_dropout: str = "per_layer",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        group_sizes = resolve_group_sizes(reuse_group_size, len(self.encoders))
        if getattr(self, "ctc_trim", False) and max(group_sizes) > 1:
            raise ReuseConfigError(
                "ctc_trim: true removes frames between layers, so that a reused map "
                "would not fit: set ctc_trim: false or reuse_group_size: 1"
            )
        reuse_attention_maps(
            self.encoders, self.layer_class, group_sizes, reuse_dropout
        )
        logging.info(f"Layers per attention map: {group_sizes}")

    def __init_subclass__(cls):
        """Give the class its parent's signature with the two options, for configs."""
        if ReuseEncoder not in cls.__bases__:  # torch.export makes classes of modules'
            return
        _, parent = cls.__bases__
        signature = inspect.signature(parent)
        own = inspect.signature(ReuseEncoder.__init__).parameters.values()
        options = [option for option in own if option.kind is option.KEYWORD_ONLY]
        parameters = [*signature.parameters.values(), *options]
        cls.__signature__ = signature.replace(parameters=parameters)

    def forward(self, xs_pad, ilens, prev_states=None, masks=None, **kwargs):
        """Calculate forward propagation.

        Args:
            xs_pad (torch.Tensor): Input tensor (#batch, L, input_size).
            ilens (torch.Tensor): Input length (#batch).
            prev_states (torch.Tensor): Not to be used now.
            masks (torch.Tensor): Mask of padded frames (#batch, L), by default of
                `ilens`.
            **kwargs: What else the parent takes, such as `ctc`.

        Returns:
            As the parent does, the output tensor (#batch, L', output_size), with
            intermediate outputs if there are any; the output length (#batch); None.
        """
        if masks is None:
            # the parent makes the same mask in memory that grows with L squared
            frames = torch.arange(xs_pad.size(1), device=xs_pad.device)
            masks = frames >= ilens.to(xs_pad.device)[:, None]
        return self.parent_forward(xs_pad, ilens, prev_states, masks, **kwargs)

    def parent_forward(self, *args, **kwargs):
        """Calculate forward propagation with the parent."""
        return super().forward(*args, **kwargs)
