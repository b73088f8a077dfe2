# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What only the Branchformer encoder with attention map reuse has."""

import pytest
from reuse_encoders import (
    ALMOST_SURE,
    BRANCHFORMER,
    WITHOUT_DROPOUT,
    assert_equals_naive,
    assert_is_parent_bit_for_bit,
    assert_is_parent_to_rounding,
    cases,
    either_implementation,
    either_mode,
    of_kinds,
)

from espnet_reuse.asr.layers.attention_map_reuse import ReuseConfigError

RELATIVE, _, ABSOLUTE, _ = BRANCHFORMER
either_slot = of_kinds([RELATIVE, ABSOLUTE])

OPTIONS = {
    "concatenated branches": {"merge_method": "concat"},
    "learned average": {"merge_method": "learned_ave"},
    "fixed average": {"merge_method": "fixed_ave", "cgmlp_weight": 0.3},
    "fixed averages, one of them attention alone": {
        "merge_method": "fixed_ave",
        "cgmlp_weight": [0.2, 0.0, 0.5, 0.9],
    },
    "attention alone": {"use_cgmlp": False},
    "linear gate": {"use_linear_after_conv": True, "gate_activation": "tanh"},
}
# Layers without a map: no attention, no attention by its weight, or another kind.
WITHOUT_MAPS = {
    "use_attn": {"use_attn": False},
    "cgmlp_weight": {"merge_method": "fixed_ave", "cgmlp_weight": 1.0},
    "fast_selfattn": {
        "attention_layer_type": "fast_selfattn",
        "pos_enc_layer_type": "abs_pos",
    },
}
THIRD_WITHOUT_MAP = {
    "merge_method": "fixed_ave",
    "cgmlp_weight": [0.2, 0.0, 1.0, 0.5, 0.9],
    "num_blocks": 5,
}


@either_slot
@either_mode
@cases(
    "options",
    {
        **OPTIONS,
        "dropped attention branches": {
            "merge_method": "learned_ave",
            "attn_branch_drop_rate": 0.5,
        },
        "sdpa": {"use_sdpa": True},
    },
)
def test_naive_groups_of_one_keep_the_options_bit_for_bit(
    kind, options, training, naive
):
    assert_is_parent_bit_for_bit(kind, training, stochastic_depth_rate=0.3, **options)


@either_mode
@either_implementation
@cases("options", {**WITHOUT_MAPS, "one layer": THIRD_WITHOUT_MAP})
def test_groups_of_one_need_no_map(options, training, implementation):
    if implementation == "naive":
        assert_is_parent_bit_for_bit(RELATIVE, training, **options)
    else:
        assert_is_parent_to_rounding(RELATIVE, training, **options)


@either_slot
@cases(
    "options",
    {
        **OPTIONS,
        "four heads": {"attention_heads": 4},
        "shared dropout": {"reuse_dropout": "shared"},
    },
)
def test_the_options_keep_their_meaning_with_reuse(kind, options):
    encoder = kind.build(reuse_group_size=3, **options, **WITHOUT_DROPOUT)
    assert_equals_naive(encoder, [3, 1])


@either_slot
@cases(
    "dropped",
    {
        "of a producer": {0},
        "of a consumer": {1},
        "of the last consumer": {2},
        "of all layers": {0, 1, 2, 3},
    },
)
def test_a_dropped_attention_branch_leaves_its_group_the_map(kind, dropped):
    encoder = kind.build(
        reuse_group_size=[3, 1],
        merge_method="learned_ave",
        attn_branch_drop_rate=[ALMOST_SURE * (index in dropped) for index in range(4)],
        **WITHOUT_DROPOUT,
    )
    assert_equals_naive(encoder, [3, 1])


@either_slot
@cases("skipped", {"nothing": set(), "itself": {2}, "its neighbours": {1, 3}})
def test_a_layer_without_a_map_may_stand_between_groups_and_be_skipped(kind, skipped):
    encoder = kind.build(
        reuse_group_size=[2, 1, 2],
        stochastic_depth_rate=[ALMOST_SURE * (index in skipped) for index in range(5)],
        **THIRD_WITHOUT_MAP,
        **WITHOUT_DROPOUT,
    )
    assert_equals_naive(encoder, [2, 1, 2], skipped=skipped)


@pytest.mark.parametrize("option", WITHOUT_MAPS)
def test_a_group_without_a_map_is_refused_by_name(option):
    with pytest.raises(ReuseConfigError, match=rf"encoders\.0 is in .*{option}"):
        RELATIVE.build(reuse_group_size=2, **WITHOUT_MAPS[option])


@cases("sizes", {"as a producer": [2, 3], "as a consumer": [3, 2], "in one group": [5]})
def test_a_layer_without_a_map_is_refused_in_a_group(sizes):
    with pytest.raises(ReuseConfigError, match=r"encoders\.2 is in a group of"):
        RELATIVE.build(reuse_group_size=sizes, **THIRD_WITHOUT_MAP)
