# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Invariants of all encoders with attention map reuse."""

import copy
import gc
import io
import itertools
import math
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from espnet2.asr.encoder.multiconvformer_encoder import MultiConvConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet2.train.class_choices import ClassChoices
from espnet2.utils.get_default_kwargs import get_default_kwargs
from reuse_encoders import (
    ALMOST_SURE,
    BRANCHFORMER,
    CONFORMER,
    E_BRANCHFORMER,
    ENCODERS,
    IDIM,
    LENGTHS,
    SIZE,
    TRANSFORMER,
    WITHOUT_DROPOUT,
    add_conditioning,
    assert_close,
    assert_equals_naive,
    assert_is_parent_bit_for_bit,
    assert_is_parent_to_rounding,
    attention_of,
    backward,
    build,
    cases,
    either_dropout,
    either_implementation,
    either_mode,
    every_encoder,
    every_grouping,
    every_kind,
    make_batch,
    make_kinds,
    naive_apply,
    naive_encode,
    of_kinds,
)

from espnet_reuse import registry
from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers import attention_map as ops
from espnet_reuse.asr.layers.attention_map_reuse import (
    MapConsumer,
    ReuseConfigError,
    ReuseLayer,
)

KINDS = list(itertools.chain(*ENCODERS))
# Relative and absolute positions: the state travels in slots of their own.
either_slot = of_kinds(
    kind for kind in KINDS if "legacy" not in kind.name and "qk_norm" not in kind.name
)
conformer_kinds_and_every_encoder = of_kinds(
    [*CONFORMER, TRANSFORMER[0], BRANCHFORMER[0], E_BRANCHFORMER[0]]
)
every_encoder_of_relative_positions = of_kinds(
    [CONFORMER[0], BRANCHFORMER[0], E_BRANCHFORMER[0]]
)
with_interctc = of_kinds(kind for kind in KINDS if kind.takes("interctc_layer_idx"))
with_stochastic_depth = of_kinds(
    kind
    for kind in KINDS
    if kind.takes("stochastic_depth_rate") and "qk_norm" not in kind.name
)
with_and_without_reuse = cases("size", {"without reuse": 1, "in groups of three": 3})


# Without reuse


@every_kind
@either_mode
def test_naive_groups_of_one_are_espnets_encoder_bit_for_bit(kind, training, naive):
    random = {
        option: 0.3
        for option in ("stochastic_depth_rate", "layer_drop_rate")
        if kind.takes(option)
    }
    assert_is_parent_bit_for_bit(kind, training, **random)


@with_interctc
@either_mode
def test_naive_groups_of_one_keep_interctc_bit_for_bit(kind, training, naive):
    options = {"interctc_layer_idx": [1, 3], "interctc_use_conditioning": True}
    assert_is_parent_bit_for_bit(kind, training, **options)


@every_kind
@either_mode
def test_fast_groups_of_one_are_espnets_encoder(kind, training):
    assert_is_parent_to_rounding(kind, training)


@every_kind
def test_fast_groups_of_one_are_espnets_encoder_with_sdpa(kind):
    assert_is_parent_to_rounding(kind, training=True, use_sdpa=True)


@either_slot
@either_mode
@cases("lengths", {"nothing padded": (8, 8), "one frame": (1, 1)})
def test_fast_groups_of_one_encode_any_batch_as_espnets_encoder(
    kind, training, lengths
):
    assert_is_parent_to_rounding(kind, training, lengths)


@every_encoder_of_relative_positions
def test_groups_of_one_keep_zero_triu(kind):
    assert_is_parent_to_rounding(kind, training=True, zero_triu=True)


# Against the naive reference


@every_kind
@either_mode
@either_implementation
def test_outputs_and_gradients_are_the_naive_references(kind, training, implementation):
    encoder = kind.build(reuse_group_size=[3, 1], **WITHOUT_DROPOUT)
    assert_equals_naive(encoder.train(training), [3, 1])


@either_slot
@every_grouping
def test_any_groups_are_the_naive_references(kind, sizes):
    encoder = kind.build(reuse_group_size=sizes, **WITHOUT_DROPOUT)
    assert_equals_naive(encoder, sizes)


@every_encoder
@cases("size", {"groups of two": 2, "groups of three": 3, "one group": 9})
def test_the_last_of_equal_groups_may_be_shorter(kind, size):
    sizes = {2: [2, 2, 1], 3: [3, 2], 9: [5]}[size]
    encoder = kind.build(num_blocks=5, reuse_group_size=size).eval()
    assert_equals_naive(encoder, sizes)


@either_slot
@cases(
    "lengths",
    {
        "one frame": (1, 1),
        "one frame beside others": (6, 1),
        "one utterance": (8,),
        "nothing padded": (8, 8),
    },
)
def test_degenerate_batches_are_the_naive_references(kind, lengths):
    encoder = kind.build(reuse_group_size=[3, 1]).eval()
    assert_equals_naive(encoder, [3, 1], lengths=lengths)


@every_encoder
@cases("lengths", {"many frames": (41, 30, 19), "one frame": (7, 7)})
def test_subsampled_frames_are_the_naive_references(kind, lengths):
    encoder = kind.build(reuse_group_size=2, input_layer="conv2d").eval()
    assert_equals_naive(encoder, [2, 2], lengths=lengths)


@with_interctc
@cases("sizes", {"groups of three": [3, 1], "a group in the middle": [1, 2, 1]})
@cases("conditioning", {"conditioned": True, "not conditioned": False})
def test_interctc_outputs_are_the_naive_references(kind, sizes, conditioning):
    encoder = kind.build(
        reuse_group_size=sizes,
        interctc_layer_idx=[1, 2],
        interctc_use_conditioning=conditioning,
    ).eval()
    kwargs = {"ctc": add_conditioning(encoder).double()} if conditioning else {}
    assert_equals_naive(encoder, sizes, **kwargs)
    (_, intermediate), _, _ = encoder(*make_batch(dtype=torch.float64), **kwargs)
    assert [index for index, _ in intermediate] == [1, 2]


@with_stochastic_depth
@cases(
    "skipped",
    {
        "a producer": {0},
        "a consumer": {1},
        "a producer and its first consumer": {0, 1},
        "the last consumer": {2},
        "a group of one": {3},
        "all layers": {0, 1, 2, 3},
    },
)
def test_a_skipped_layer_leaves_its_group_the_naive_references_map(kind, skipped):
    encoder = kind.build(
        reuse_group_size=[3, 1],
        stochastic_depth_rate=[ALMOST_SURE * (index in skipped) for index in range(4)],
        **WITHOUT_DROPOUT,
    )
    assert_equals_naive(encoder, [3, 1], skipped=skipped)


@of_kinds(
    [CONFORMER[0], CONFORMER[1], BRANCHFORMER[0], TRANSFORMER[0], E_BRANCHFORMER[0]]
)
@cases("sizes", {"groups of two": [2, 2], "one group": [4]})
def test_bfloat16_is_as_close_to_double_precision_as_espnets(kind, sizes):
    def error(sizes):
        encoder = kind.build(reuse_group_size=sizes).eval()
        reference = copy.deepcopy(encoder).double()
        total = 0.0
        for seed in range(4):
            xs, ilens = make_batch(seed=seed)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = encoder(xs, ilens)[0]
            (expected, *_), _ = naive_encode(reference, xs.double(), ilens, sizes)
            total += (out.double() - expected).square().mean().item()
        return math.sqrt(total / 4)

    assert 0 < error(sizes) < 1.5 * error([1, 1, 1, 1])


# The attention map


def record_attention(encoder, *args, **kwargs):
    """Run a forward and record what every layer's attention saw and did.

    Returns:
        A record per layer: `value`, the attention's input; `map`, the attention map
        in the group's state; `applied`, the map after dropout; `out`.
    """
    records, handles, dropped = [], [], []
    for layer in encoder.encoders:
        record = SimpleNamespace(map=None, applied=None)
        records.append(record)

        def on_attention(module, inputs, output, record=record):
            record.value, record.out = inputs[2], output
            record.map = inputs[3].attention_map
            if record.map is None:  # fast groups of one put no map into the state
                record.map = module.attn
            if record.applied is None:
                record.applied = dropped.pop() if dropped else record.map

        def on_dropout(module, inputs, output, record=record):
            record.applied = output

        attention = attention_of(layer)
        handles += [
            attention.register_forward_hook(on_attention),
            attention.dropout.register_forward_hook(on_dropout),
        ]

    native_dropout, apply_kept = torch.native_dropout, ops.apply_kept

    def record_dropped(*args):
        result = native_dropout(*args)
        dropped.append(result[0])
        return result

    def record_kept(weights, value, kept, scale):
        dropped.append(weights * kept * scale)
        return apply_kept(weights, value, kept, scale)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "native_dropout", record_dropped)
        patch.setattr(ops, "apply_kept", record_kept)
        encoder(*args, **kwargs)
    assert not dropped
    for handle in handles:
        handle.remove()
    return records


@every_kind
def test_rows_sum_to_one_once_and_never_reach_padded_frames(kind):
    encoder = kind.build(reuse_group_size=[3, 1]).eval()
    record_attention(encoder, *make_batch())
    for producer in (encoder.encoders[0], encoder.encoders[3]):
        attention_map = attention_of(producer).attn
        assert attention_map.shape == (3, 2, 13, 13)
        assert_close(attention_map.sum(-1), torch.ones(3, 2, 13), atol=1e-6)
        for utterance, length in enumerate(LENGTHS):
            assert attention_map[utterance, :, :, :length].min() > 0
            assert torch.all(attention_map[utterance, :, :, length:] == 0)


@every_kind
def test_an_utterance_without_frames_gets_no_attention_at_all(kind):
    encoder = kind.build(reuse_group_size=[3, 1]).eval()
    records = record_attention(encoder, *make_batch((6, 0)))
    for record in records:
        assert torch.all(record.applied[1] == 0)
        assert torch.isfinite(record.out).all()


def assert_consumers_apply_the_producers_map(encoder, sizes):
    records = record_attention(encoder, *make_batch())
    producers = {0, *itertools.accumulate(sizes)}
    for index, (layer, record) in enumerate(
        zip(encoder.encoders, records, strict=True)
    ):
        attention = attention_of(layer)
        if index in producers:
            produced = attention.attn
        assert isinstance(attention, MapConsumer) == (index not in producers)
        assert torch.equal(record.map, produced)
        assert torch.equal(record.applied, produced)
        out = naive_apply(attention, produced, record.value)
        assert_close(record.out, out, atol=1e-5)


@every_kind
@either_mode
def test_consumers_apply_exactly_the_producers_map(kind, training):
    for sizes in ([2, 2], [3, 1], [1, 2, 1], [4]):
        encoder = kind.build(reuse_group_size=sizes).train(training)
        assert_consumers_apply_the_producers_map(encoder, sizes)


def assert_half_is_dropped(applied, attention_map):
    """Check `applied` to be a dropout of rate 0.5 of the map, done once."""
    kept = applied != 0
    assert torch.equal(applied[kept], 2 * attention_map[kept])
    assert 0.4 < kept[attention_map != 0].float().mean() < 0.6


@every_kind
@either_implementation
@either_dropout
def test_layers_drop_the_map_once_by_masks_of_their_own_or_one_shared(
    kind, reuse_dropout, implementation
):
    encoder = kind.build(
        reuse_group_size=4, reuse_dropout=reuse_dropout, attention_dropout_rate=0.5
    )
    records = record_attention(encoder, *make_batch())
    attentions = [attention_of(layer) for layer in encoder.encoders]
    produced = attentions[0].attn
    for attention, record in zip(attentions, records, strict=True):
        assert_half_is_dropped(record.applied, produced)
        out = naive_apply(attention, record.applied, record.value)
        assert_close(record.out, out, atol=1e-5)
    for one, other in itertools.combinations(records, 2):
        same = torch.equal(one.applied, other.applied)
        assert same == (reuse_dropout == "shared")
    if reuse_dropout == "shared":
        assert {attention.dropout.p for attention in attentions[1:]} == {0.0}

    in_evaluation = record_attention(encoder.eval(), *make_batch())
    produced = attentions[0].attn
    assert all(torch.equal(record.applied, produced) for record in in_evaluation)


@either_slot
@either_dropout
def test_the_last_consumer_trains_the_producers_query_and_key(kind, reuse_dropout):
    encoder = kind.build(
        reuse_group_size=4, reuse_dropout=reuse_dropout, attention_dropout_rate=0.1
    )

    def score_gradients(silenced):
        with torch.no_grad():
            for layer in list(encoder.encoders)[:silenced]:
                attention_of(layer).linear_out.weight.zero_()
                attention_of(layer).linear_out.bias.zero_()
        xs, ilens = make_batch()
        out = encoder(xs.requires_grad_(), ilens)[0]
        gradients = backward([out], encoder, xs)
        scoring = ("linear_q.weight", "linear_k.weight", "linear_pos.weight", "pos_b")
        return [
            gradient.abs().max()
            for name, gradient in gradients.items()
            if any(part in name for part in scoring)
        ]

    through_last_consumer = score_gradients(silenced=3)
    assert len(through_last_consumer) == (5 if "relative" in kind.name else 2)
    assert min(through_last_consumer) > 1e-6
    assert max(score_gradients(silenced=4)) == 0  # there is no other way


# ESPnet's legacy relative positions look at padded frames
@of_kinds(kind for kind in KINDS if "legacy" not in kind.name)
@cases("input_layer", {"linear input": "linear", "conv2d input": "conv2d"})
@cases("sizes", {"groups of three": [3, 1], "a group in the middle": [1, 2, 1]})
def test_an_utterance_encodes_the_same_alone_and_beside_longer_ones(
    kind, input_layer, sizes
):
    encoder = kind.build(reuse_group_size=sizes, input_layer=input_layer)
    encoder = encoder.eval().double()
    lengths = (43, 30, 17)
    xs, ilens = make_batch(lengths, dtype=torch.float64)
    together, olens, _ = encoder(xs, ilens)
    for index, length in enumerate(lengths):
        alone, olen, _ = encoder(xs[index : index + 1, :length], ilens[index, None])
        assert olen.item() == olens[index].item() == alone.size(1)
        assert_close(together[index, : alone.size(1)], alone[0])


@every_kind
@cases("use_sdpa", {"eager": False, "sdpa": True})
def test_plots_find_the_map_of_every_producer(kind, use_sdpa, monkeypatch):
    maps = []
    for implementation in ("naive", "fast"):
        monkeypatch.setenv("ESPNET_REUSE_IMPL", implementation)
        # ESPnet's own groups of one leave nothing for plots with use_sdpa
        encoder = kind.build(
            reuse_group_size=[1, 3], use_sdpa=use_sdpa and implementation == "fast"
        )
        with torch.no_grad():
            encoder.eval()(*make_batch())
        maps.append([attention_of(encoder.encoders[index]).attn for index in (0, 1)])
    for naive_map, fast_map in zip(*maps, strict=True):
        if fast_map is None:
            assert use_sdpa and "legacy" in kind.name  # ESPnet's path
        else:
            assert_close(fast_map, naive_map, atol=1e-6)


@every_kind
def test_naive_groups_of_one_keep_sdpa_and_producers_are_eager(kind, naive):
    sizes = [1, 3]
    eager = kind.build(reuse_group_size=sizes).eval().double()
    fused = kind.build(reuse_group_size=sizes, use_sdpa=True).eval().double()
    batch = make_batch(dtype=torch.float64)
    assert_close(fused(*batch)[0], eager(*batch)[0])
    assert attention_of(fused.encoders[0]).attn is None
    fused_map, eager_map = (attention_of(e.encoders[1]).attn for e in (fused, eager))
    assert_close(fused_map, eager_map)


# Parameters and checkpoints

SCORE_PARAMETER = re.compile(
    r"encoders\.(\d+)\.(self_)?attn\.(linear_[qk]|linear_pos|pos_bias|[qk]_norm)"
)


@every_kind
def test_consumers_lack_the_score_parameters_and_no_other_key_differs(kind):
    baseline = kind.build_parent()
    matches = {key: SCORE_PARAMETER.match(key) for key in baseline.state_dict()}
    per_layer = 7 if "relative" in kind.name else 8 if "qk_norm" in kind.name else 4
    for sizes in ([2, 2], [3, 1], [1, 2, 1], [4]):
        encoder = kind.build(reuse_group_size=sizes)
        producers = {0, *itertools.accumulate(sizes)}
        dropped = {
            key
            for key, match in matches.items()
            if match and int(match[1]) not in producers
        }
        assert len(dropped) == per_layer * (4 - len(sizes))
        kept = [key for key in matches if key not in dropped]
        assert list(encoder.state_dict()) == kept
        assert [name for name, _ in encoder.named_parameters()] == [
            name for name, _ in baseline.named_parameters() if name not in dropped
        ]
        dropped_count = sum(baseline.state_dict()[key].numel() for key in dropped)
        assert sum(p.numel() for p in encoder.parameters()) == (
            sum(p.numel() for p in baseline.parameters()) - dropped_count
        )


@every_kind
def test_an_espnet_checkpoint_initialises_every_parameter(kind, tmp_path):
    baseline = kind.build_parent().state_dict()
    torch.save(baseline, tmp_path / "baseline.pth")
    for sizes in ([2, 2], [4]):
        encoder = kind.build(seed=6, reuse_group_size=sizes)
        load_pretrained_model(
            str(tmp_path / "baseline.pth"), encoder, ignore_init_mismatch=True
        )
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, baseline[key]), key


@every_kind
def test_an_espnet_checkpoint_is_refused_unless_told_to_ignore_mismatch(kind, tmp_path):
    baseline = kind.build_parent().state_dict()
    torch.save(baseline, tmp_path / "baseline.pth")
    encoder = kind.build(reuse_group_size=2)
    with pytest.raises(RuntimeError, match=r"encoders\.1\.(self_)?attn has a query"):
        load_pretrained_model(
            str(tmp_path / "baseline.pth"), encoder, ignore_init_mismatch=False
        )
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"encoders\.1\.(self_)?attn has a que"):
            encoder.load_state_dict(baseline, strict=strict)


@every_encoder
@pytest.mark.parametrize(
    ("saved", "loaded", "layer"),
    [
        pytest.param([2, 2], [4], 2, id="groups of two into one group"),
        pytest.param([4], [2, 2], 2, id="one group into groups of two"),
        pytest.param([4], [1, 1, 1, 1], 1, id="one group into no reuse"),
        pytest.param([1, 3], [3, 1], 1, id="other boundaries"),
    ],
)
def test_a_checkpoint_of_other_groups_is_refused(kind, saved, loaded, layer):
    checkpoint = kind.build(reuse_group_size=saved).state_dict()
    kind.build(seed=6, reuse_group_size=saved).load_state_dict(checkpoint)
    encoder = kind.build(reuse_group_size=loaded)
    for strict in (True, False):  # False is how ESPnet loads
        with pytest.raises(RuntimeError, match=rf"encoders\.{layer}\.(self_)?attn has"):
            encoder.load_state_dict(checkpoint, strict=strict)


# Options


@every_encoder
def test_configs_show_the_parents_options_and_two_more(kind):
    options = {"reuse_group_size": 1, "reuse_dropout": "per_layer"}
    expected = get_default_kwargs(kind.parent) | options
    assert get_default_kwargs(kind.reuse) == expected
    own = type("Own", (kind.reuse,), {})  # a user's, of ours
    assert get_default_kwargs(own) == expected
    assert len(build(own, **kind.options, reuse_group_size=2).encoders) == 4


@every_encoder
@pytest.mark.parametrize(
    "size",
    [0, -1, 2.5, True, "3", None, [], [2, 3], [2, 0, 2], [2, 2.0], [3, True]],
    ids="{!r} for four layers".format,
)
def test_impossible_group_sizes_are_refused_by_name(kind, size):
    with pytest.raises(ReuseConfigError, match="reuse_group_size"):
        kind.build(reuse_group_size=size)


@every_encoder
@cases("size", {"with reuse": 2, "without reuse": 1})
def test_an_unknown_reuse_dropout_is_refused_by_name(kind, size):
    with pytest.raises(ReuseConfigError, match="reuse_dropout"):
        kind.build(reuse_group_size=size, reuse_dropout="none")


@every_encoder
def test_an_unknown_implementation_is_refused_by_name(kind, monkeypatch):
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "quick")
    with pytest.raises(ReuseConfigError, match="ESPNET_REUSE_IMPL: 'quick'"):
        kind.build()


# Everything around the forward

CONV2D = ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"]
INPUT_LAYERS = {
    CONFORMER[0]: [*CONV2D, "embed", None],
    CONFORMER[2]: ["conv2d", "embed", None],
    TRANSFORMER[0]: [*CONV2D, "conv1d2", "wav2vec", "embed", None],
    BRANCHFORMER[0]: [*CONV2D, "embed"],
    BRANCHFORMER[2]: ["conv2d", "embed", None],
    E_BRANCHFORMER[0]: [*CONV2D, "conv1d1", "conv1d2", "conv1d3", "embed", None],
    E_BRANCHFORMER[2]: ["conv2d", "embed", None],
}


@pytest.mark.parametrize(
    ("kind", "input_layer"),
    [
        pytest.param(kind, input_layer, id=f"{kind.name}, {input_layer} input")
        for kind, input_layers in INPUT_LAYERS.items()
        for input_layer in input_layers
    ],
)
def test_every_input_layer_trains_in_groups(kind, input_layer):
    idim = SIZE if input_layer in ("wav2vec", None) else IDIM
    encoder = kind.build(
        input_size=idim, input_layer=input_layer, padding_idx=0, reuse_group_size=2
    )
    xs, ilens = make_batch((49, 37, 25))
    if input_layer == "embed":
        xs = xs[..., 0].abs().mul(5).long().clamp(max=IDIM - 1)
    else:
        xs = xs[..., :idim]
    out, olens, _ = encoder(xs, ilens)
    assert out.shape == (3, olens.max().item(), SIZE)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    for name, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@conformer_kinds_and_every_encoder
@cases("dtype", {"bfloat16": torch.bfloat16, "float16": torch.float16})
@either_dropout
def test_mixed_precision_trains_without_overflow(kind, dtype, reuse_dropout):
    encoder = kind.build(
        reuse_group_size=[3, 1],
        reuse_dropout=reuse_dropout,
        attention_dropout_rate=0.1,
    )
    xs, ilens = make_batch()
    with torch.autocast("cpu", dtype=dtype):
        if (xs[0] @ xs[0].T).dtype != dtype:
            pytest.skip(f"this torch has no autocast to {dtype} on CPU")
        records = record_attention(encoder, xs, ilens)
        out = encoder(xs, ilens)[0]
    out.float().square().mean().backward()
    assert records[1].out.dtype == dtype
    assert torch.isfinite(out).all()
    for name, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@conformer_kinds_and_every_encoder
@with_and_without_reuse
def test_two_threads_sharing_a_model_do_not_mix_their_maps(kind, size):
    encoder = kind.build(num_blocks=6, reuse_group_size=size).eval()
    batches = [make_batch(), make_batch(seed=7)]

    @torch.inference_mode()
    def encode(batch, times):
        return [encoder(*batch)[0] for _ in range(times)]

    alone = [encode(batch, 1)[0] for batch in batches]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(encode, batches, [20, 20]))
    finally:
        sys.setswitchinterval(interval)
    for outs, expected in zip(together, alone, strict=True):
        assert all(torch.equal(out, expected) for out in outs)


def reload(encoder):
    file = io.BytesIO()
    torch.save(encoder, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_encoder
@with_and_without_reuse
@cases(
    "duplicate",
    {
        "deepcopy": copy.deepcopy,
        "pickle": lambda encoder: pickle.loads(pickle.dumps(encoder)),
        "torch.save": reload,
    },
)
def test_a_copy_made_after_a_training_step_encodes_the_same(kind, size, duplicate):
    encoder = kind.build(reuse_group_size=size)
    encoder(*make_batch())[0].sum().backward()
    twin = duplicate(encoder).eval()
    assert type(twin) is kind.reuse
    assert torch.equal(twin(*make_batch())[0], encoder.eval()(*make_batch())[0])


def reachable_tensors(value):
    """Yield the tensors in a module's attributes, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from reachable_tensors(item)
    elif isinstance(value, dict):
        yield from reachable_tensors(list(value.values()))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from reachable_tensors(vars(value))


@conformer_kinds_and_every_encoder
@with_and_without_reuse
def test_a_forward_leaves_no_graph_and_nothing_that_grows(kind, size):
    encoder = kind.build(reuse_group_size=size)
    gc.freeze()  # what there is already need not be looked at again and again

    def live_tensors(forwards):
        for seed in range(forwards):
            encoder(*make_batch(seed=seed))
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    try:
        before = live_tensors(2)
        assert live_tensors(50) == before
    finally:
        gc.unfreeze()
    left = list(reachable_tensors(encoder))
    assert len(left) > len(list(encoder.parameters()))
    assert all(tensor.grad_fn is None for tensor in left)


@cases(
    "options", {"zero_triu": {"zero_triu": True}, "legacy": {"rel_pos_type": "legacy"}}
)
def test_a_map_in_float32_trains_consumers_of_lower_precision(options, monkeypatch):
    """Autocast gives ESPnet's operations such a map: on CUDA by its softmax."""
    dropout = {"attention_dropout_rate": 0.1}
    encoder = CONFORMER[0].build(reuse_group_size=2, **options, **dropout)
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: softmax(x.float(), dim))
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder.train()(*make_batch())[0]
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="DataParallel needs CUDA")
@every_encoder
def test_data_parallel_replicas_encode_as_the_model_does(kind):
    encoder = kind.build(reuse_group_size=3).eval().cuda()
    devices = list(range(torch.cuda.device_count()))
    batches = [tuple(t.to(device) for t in make_batch()) for device in devices]
    expected = encoder(*batches[0])[0]
    # what DataParallel does, with one device too, where it would do nothing
    replicas = torch.nn.parallel.replicate(encoder, devices)
    for out, _, _ in torch.nn.parallel.parallel_apply(replicas, batches):
        assert_close(out.cpu(), expected.cpu(), atol=1e-5)


# A user's own: another encoder of ESPnet's


class MultiConvConformerReuseLayer(ReuseLayer, EncoderLayer):
    """Multi-convolution Conformer layer of a group with one attention map."""


class MultiConvConformerReuseEncoder(ReuseEncoder, MultiConvConformerEncoder):
    """Multi-convolution Conformer encoder with attention map reuse."""

    layer_class = MultiConvConformerReuseLayer
    forward = MultiConvConformerEncoder.forward  # takes no masks


MULTICONV_CONFORMER = make_kinds(
    "multiconv conformer",
    MultiConvConformerEncoder,
    MultiConvConformerReuseEncoder,
    {
        "linear_units": 24,
        "cgmlp_linear_units": 24,
        "multicgmlp_kernel_sizes": "3,5",
        "multicgmlp_merge_conv_kernel": 3,
        "max_pos_emb_len": 64,
    },
    "selfattention_layer_type",
)[:3]  # it has no qk_norm
every_kind_of_another_encoder = of_kinds(MULTICONV_CONFORMER)


@every_kind_of_another_encoder
@either_mode
def test_another_encoder_in_groups_of_one_is_espnets_bit_for_bit(kind, training, naive):
    assert_is_parent_bit_for_bit(kind, training, stochastic_depth_rate=0.3)


@every_kind_of_another_encoder
@either_mode
@every_grouping
def test_another_encoder_in_groups_is_the_naive_references(kind, training, sizes):
    encoder = kind.build(reuse_group_size=sizes, **WITHOUT_DROPOUT).train(training)
    assert_equals_naive(encoder, sizes)
    assert_consumers_apply_the_producers_map(encoder.float(), sizes)


def test_another_encoder_is_registered_beside_its_parent(monkeypatch):
    parent, own = MultiConvConformerEncoder, MultiConvConformerReuseEncoder
    paths = [f"{cls.__module__}.{cls.__qualname__}" for cls in (parent, own)]
    monkeypatch.setitem(registry.ENCODERS, *paths)
    choices = ClassChoices("encoder", {"multiconv_conformer": parent})
    assert choices.get_class("multiconv_conformer_reuse") is own
