# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What only the E-Branchformer encoder with attention map reuse has."""

import itertools

import pytest
import torch
from reuse_encoders import (
    E_BRANCHFORMER,
    WITHOUT_DROPOUT,
    add_conditioning,
    assert_equals_naive,
    assert_is_parent_bit_for_bit,
    assert_is_parent_to_rounding,
    backward,
    cases,
    either_implementation,
    either_mode,
    make_batch,
    of_kinds,
    outputs_of,
)

from espnet_reuse.asr.layers.attention_map_reuse import ReuseConfigError

RELATIVE, _, ABSOLUTE, _ = E_BRANCHFORMER
either_slot = of_kinds([RELATIVE, ABSOLUTE])

OPTIONS = {
    "without feed-forward": {"use_ffn": False},
    "not macaron": {"macaron_ffn": False},
    "wide merging": {"merge_conv_kernel": 7},
    "linear gate": {"use_linear_after_conv": True, "gate_activation": "tanh"},
}
FAST_ATTENTION = {
    "attention_layer_type": "fast_selfattn",
    "pos_enc_layer_type": "abs_pos",
}


@either_slot
@either_mode
@cases(
    "options",
    {
        **OPTIONS,
        "sdpa": {"use_sdpa": True},
        "recomputed layers": {"gradient_checkpoint_layers": [0, 1, 3]},
    },
)
def test_naive_groups_of_one_keep_the_options_bit_for_bit(
    kind, options, training, naive
):
    assert_is_parent_bit_for_bit(kind, training, layer_drop_rate=0.3, **options)


@either_mode
@either_implementation
def test_groups_of_one_need_no_map(training, implementation):
    if implementation == "naive":
        assert_is_parent_bit_for_bit(
            ABSOLUTE, training, layer_drop_rate=0.3, **FAST_ATTENTION
        )
    else:
        assert_is_parent_to_rounding(ABSOLUTE, training, **FAST_ATTENTION)


def test_a_group_without_a_map_is_refused_by_name():
    with pytest.raises(ReuseConfigError, match=r"encoders\.1 is in .* fast_selfattn"):
        ABSOLUTE.build(reuse_group_size=[1, 3], **FAST_ATTENTION)


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


@either_mode
def test_positions_by_convolution_are_the_naive_references(training):
    encoder = ABSOLUTE.build(
        reuse_group_size=[1, 3], pos_enc_layer_type="conv", **WITHOUT_DROPOUT
    )
    assert_equals_naive(encoder.train(training), [1, 3])


@either_slot
@pytest.mark.parametrize("max_layer", range(5))
def test_leaving_early_is_the_naive_references(kind, max_layer):
    encoder = kind.build(reuse_group_size=[1, 3]).eval()
    assert_equals_naive(encoder, [1, 3], max_layer=max_layer)


# Dropped layers


def seed_that_drops(dropped, rate):
    """Return a seed with which a training step drops these of four layers."""
    for seed in itertools.count():
        torch.manual_seed(seed)
        # ESPnet's encoder draws before each layer, too
        draws = [(torch.rand(1), torch.rand(1))[1] for _ in range(4)]
        if {index for index, draw in enumerate(draws) if draw < rate} == dropped:
            return seed


EVERY_DROP = {
    "none": set(),
    "a producer": {0},
    "a consumer": {1},
    "a producer and its first consumer": {0, 1},
    "the last consumer": {2},
    "a whole group": {0, 1, 2},
    "a group of one": {3},
    "the last consumer and the next group": {2, 3},
    "all layers": {0, 1, 2, 3},
}


@either_slot
@cases("dropped", EVERY_DROP)
def test_a_dropped_layer_leaves_its_group_the_naive_references_map(kind, dropped):
    encoder = kind.build(
        reuse_group_size=[3, 1], layer_drop_rate=0.4, **WITHOUT_DROPOUT
    )
    torch.manual_seed(seed_that_drops(dropped, 0.4))
    assert_equals_naive(encoder, [3, 1], skipped=dropped)


@either_slot
@cases("dropped", EVERY_DROP)
def test_a_dropped_layer_has_the_interctc_of_its_input(kind, dropped):
    encoder = kind.build(
        reuse_group_size=[3, 1],
        layer_drop_rate=0.4,
        interctc_layer_idx=[1, 3],
        interctc_use_conditioning=True,
        **WITHOUT_DROPOUT,
    )
    ctc = add_conditioning(encoder).double()
    torch.manual_seed(seed_that_drops(dropped, 0.4))
    assert_equals_naive(encoder, [3, 1], skipped=dropped, ctc=ctc)


@cases("size", {"with reuse": 2, "without reuse": 1})
def test_nothing_is_dropped_in_evaluation(size):
    encoder = RELATIVE.build(reuse_group_size=size, layer_drop_rate=0.9)
    sizes = [size] * (4 // size)
    assert_equals_naive(encoder.eval(), sizes)


# Layers that are computed again in the backward pass


@either_slot
@either_implementation
@cases(
    "layers",
    {
        "a producer": [1],
        "consumers": [2, 3],
        "a producer and a consumer": [1, 2],
        "everything": [0, 1, 2, 3, 4],
    },
)
@cases("layer_drop_rate", {"none dropped": 0.0, "some dropped": 0.4})
def test_recomputed_layers_have_the_same_gradients(
    kind, implementation, layers, layer_drop_rate
):
    results = []
    for recomputed in ([], layers):
        encoder = kind.build(
            reuse_group_size=[3, 1],
            dropout_rate=0.1,
            attention_dropout_rate=0.2,
            layer_drop_rate=layer_drop_rate,
            gradient_checkpoint_layers=recomputed,
        )
        xs, ilens = make_batch()
        xs.requires_grad_()
        torch.manual_seed(0)
        outputs = outputs_of(encoder(xs, ilens, return_all_hs=True))
        results.append((outputs, backward(outputs, encoder, xs)))
    (outputs, gradients), (recomputed_outputs, recomputed_gradients) = results
    assert all(map(torch.equal, recomputed_outputs, outputs))
    for name, gradient in gradients.items():
        if gradient is None:  # of a layer that was dropped
            assert recomputed_gradients[name] is None, name
        else:
            assert torch.equal(recomputed_gradients[name], gradient), name
