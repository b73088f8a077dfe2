# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What only the Conformer encoder with attention map reuse has."""

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from reuse_encoders import (
    ALMOST_SURE,
    CONFORMER,
    SIZE,
    VOCAB,
    WITHOUT_DROPOUT,
    assert_close,
    assert_equals_naive,
    assert_is_parent_bit_for_bit,
    cases,
    either_mode,
    make_batch,
    of_kinds,
)

from espnet_reuse.asr.encoder.conformer_reuse_encoder import ConformerReuseLayer
from espnet_reuse.asr.layers.attention_map_reuse import (
    ReuseConfigError,
    reuse_attention_maps,
)

every_kind = of_kinds(CONFORMER)
RELATIVE, _, ABSOLUTE, _ = CONFORMER
either_slot = of_kinds([RELATIVE, ABSOLUTE])

OPTIONS = {
    "not macaron": {"macaron_style": False},
    "without convolution": {"use_cnn_module": False},
    "concat_after": {"concat_after": True},
    "norm after": {"normalize_before": False},
}


@either_slot
@either_mode
@cases("options", {**OPTIONS, "sdpa": {"use_sdpa": True}})
def test_naive_groups_of_one_keep_the_options_bit_for_bit(
    kind, options, training, naive
):
    assert_is_parent_bit_for_bit(kind, training, stochastic_depth_rate=0.3, **options)


@every_kind
@cases(
    "options",
    {
        **OPTIONS,
        "four heads": {"attention_heads": 4},
        "shared dropout": {"reuse_dropout": "shared"},
    },
)
def test_the_options_keep_their_meaning_with_reuse(kind, options):
    encoder = kind.build(reuse_group_size=3, **options).eval()
    assert_equals_naive(encoder, [3, 1])


@every_kind
@cases("skipped", {"a producer": {0}, "all layers": {0, 1, 2, 3}})
def test_a_skipped_layer_with_its_norm_after_leaves_its_group_a_map(kind, skipped):
    encoder = kind.build(
        reuse_group_size=[3, 1],
        normalize_before=False,
        stochastic_depth_rate=[ALMOST_SURE * (index in skipped) for index in range(4)],
        **WITHOUT_DROPOUT,
    )
    assert_equals_naive(encoder, [3, 1], skipped=skipped)


@cases("seed", {f"draw {seed}": seed for seed in range(6)})
def test_stochastic_depth_scales_the_layers_it_keeps(seed):
    encoder = RELATIVE.build(
        reuse_group_size=2, stochastic_depth_rate=0.4, **WITHOUT_DROPOUT
    )
    torch.manual_seed(seed)
    skipped = {index for index in range(4) if torch.rand(1).item() < 0.4}
    torch.manual_seed(seed)
    assert_equals_naive(encoder, [2, 2], skipped=skipped)


def test_groups_of_one_keep_ctc_trim():
    results = []
    for build in (RELATIVE.build_parent, RELATIVE.build):
        encoder = build(interctc_layer_idx=[2], ctc_trim=True).eval()
        ctc = CTC(VOCAB, SIZE)
        with torch.no_grad():
            ctc.ctc_lo.bias[0] = 100.0  # all frames are blank
        results.append(encoder(*make_batch(), ctc=ctc))
    assert results[0][1].tolist() == [5, 5, 4]
    assert torch.equal(results[1][1], results[0][1])
    assert_close(results[1][0][0], results[0][0][0], atol=1e-5)


def test_ctc_trim_is_refused_with_reuse():
    with pytest.raises(ReuseConfigError, match="ctc_trim"):
        RELATIVE.build(reuse_group_size=2, interctc_layer_idx=[1], ctc_trim=True)


@cases("sizes", {"a group of two": [2], "groups of one": [1, 1]})
def test_attention_built_for_flash_falls_back_to_the_eager_result(sizes):
    # as ESPnet builds it where flash_attn is installed: without a dropout of its own
    def layer(use_flash_attn):
        attention = MultiHeadedAttention(2, SIZE, 0.5, use_flash_attn=use_flash_attn)
        feed_forward = torch.nn.Linear(SIZE, SIZE)
        return EncoderLayer(SIZE, attention, feed_forward, None, None, 0.0)

    mask = torch.arange(8) < torch.tensor([[[8]], [[5]]])
    outputs = []
    for use_flash_attn in (True, False):
        torch.manual_seed(0)
        x = torch.randn(2, 8, SIZE)
        layers = [layer(use_flash_attn) for _ in range(2)]
        reuse_attention_maps(layers, ConformerReuseLayer, sizes, "per_layer")
        for producer_or_consumer in layers:
            x, _ = producer_or_consumer.eval()(x, mask)
        outputs.append(x)
        if sizes == [2]:
            assert [layer.self_attn.dropout.p for layer in layers] == [0.5, 0.5]
    assert_close(*outputs, atol=1e-6)
