# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What only the Transformer encoder with attention map reuse has."""

import pytest
from reuse_encoders import (
    ALMOST_SURE,
    IDIM,
    SIZE,
    TRANSFORMER,
    WITHOUT_DROPOUT,
    assert_equals_naive,
    assert_is_parent_bit_for_bit,
    cases,
    either_mode,
)

ABSOLUTE = TRANSFORMER[0]

OPTIONS = {
    "concat_after": {"concat_after": True},
    "norm after": {"normalize_before": False},
    "feed-forward of convolutions": {
        "positionwise_layer_type": "conv1d",
        "positionwise_conv_kernel_size": 3,
    },
    "feed-forward that begins with one": {
        "positionwise_layer_type": "conv1d-linear",
        "positionwise_conv_kernel_size": 3,
    },
    "positions by convolution": {"pos_enc_layer_type": "conv"},
    "a layer_drop_rate, which ESPnet ignores": {"layer_drop_rate": 0.5},
}


@either_mode
@cases("options", {**OPTIONS, "sdpa": {"use_sdpa": True}})
def test_naive_groups_of_one_keep_the_options_bit_for_bit(options, training, naive):
    assert_is_parent_bit_for_bit(ABSOLUTE, training, **options)


@cases("options", {**OPTIONS, "four heads": {"attention_heads": 4}})
def test_the_options_keep_their_meaning_with_reuse(options):
    encoder = ABSOLUTE.build(reuse_group_size=3, **options, **WITHOUT_DROPOUT)
    assert_equals_naive(encoder, [3, 1])


@cases(
    "positions",
    {"sinusoidal": {}, "by convolution": {"pos_enc_layer_type": "conv"}},
)
@pytest.mark.parametrize("input_layer", ["wav2vec", "conv1d2", None])
def test_input_layers_are_the_naive_references(input_layer, positions):
    idim = IDIM if input_layer == "conv1d2" else SIZE
    encoder = ABSOLUTE.build(
        input_size=idim,
        input_layer=input_layer,
        reuse_group_size=[1, 3],
        **positions,
        **WITHOUT_DROPOUT,
    )
    assert_equals_naive(encoder, [1, 3], lengths=(21, 14, 9), idim=idim)


@cases("normalize_before", {"norm before": True, "norm after": False})
@cases("skipped", {"a producer": {0}, "a consumer": {1}, "all layers": {0, 1, 2, 3}})
def test_a_skipped_layer_leaves_its_group_the_naive_references_map(
    normalize_before, skipped
):
    encoder = ABSOLUTE.build(
        reuse_group_size=[3, 1], normalize_before=normalize_before, **WITHOUT_DROPOUT
    )
    for index in skipped:  # ESPnet's layer can, its encoder has no option for it
        encoder.encoders[index].stochastic_depth_rate = ALMOST_SURE
    assert_equals_naive(encoder, [3, 1], skipped=skipped)
