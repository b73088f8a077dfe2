# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Encoders with attention map reuse against their parents."""

import copy
import functools

import pytest
import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

from espnet_reuse.asr.encoder.branchformer_reuse_encoder import BranchformerReuseEncoder
from espnet_reuse.asr.encoder.conformer_reuse_encoder import ConformerReuseEncoder
from espnet_reuse.asr.encoder.e_branchformer_reuse_encoder import (
    EBranchformerReuseEncoder,
)
from espnet_reuse.asr.encoder.transformer_reuse_encoder import TransformerReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import (
    ReuseConfigError,
    reuse_attention_maps,
)

IDIM, SIZE, HEADS, LENGTHS = 20, 16, 2, (13, 9, 4)
GATED = {"cgmlp_linear_units": 24, "cgmlp_conv_kernel": 3, "rel_pos_type": "latest"}
CONFORMER = {"macaron_style": True, "cnn_module_kernel": 3, "rel_pos_type": "latest"}
# Parent, encoder that reuses attention maps, options of both.
ENCODERS = {
    "conformer": (ConformerEncoder, ConformerReuseEncoder, CONFORMER),
    "transformer": (TransformerEncoder, TransformerReuseEncoder, {}),
    "branchformer": (BranchformerEncoder, BranchformerReuseEncoder, GATED),
    "e_branchformer": (EBranchformerEncoder, EBranchformerReuseEncoder, GATED),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)
either_mode = pytest.mark.parametrize("training", [True, False])


def build(name, reuse=True, **options):
    """Build a small encoder, its biases and norms not at their initial 0 and 1."""
    torch.manual_seed(0)
    parent, with_reuse, tiny = ENCODERS[name]
    tiny = {"input_layer": "linear", "num_blocks": 4, **tiny, **options}
    encoder = with_reuse if reuse else parent
    encoder = encoder(IDIM, output_size=SIZE, attention_heads=HEADS, **tiny)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=noise)
    return encoder


def encode(encoder, dtype=torch.float32, frames=13):
    """Return the output of a ragged batch, and gradients by name."""
    torch.manual_seed(2)
    xs = torch.randn(len(LENGTHS), frames, IDIM, dtype=dtype, requires_grad=True)
    out, _, _ = encoder(xs, torch.tensor(LENGTHS) + frames - 13)
    loss = (out * torch.randn(out.shape, dtype=dtype)).sum()
    names, inputs = zip(("input", xs), *encoder.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return out, dict(zip(names, gradients, strict=True))


def attention_of(layer):
    return layer.attn if hasattr(layer, "attn") else layer.self_attn


def apply_map(attention, producer, query, key, value, *args, **kwargs):
    v = attention.linear_v(value).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    context = torch.matmul(producer.attn, v).transpose(1, 2)
    return attention.linear_out(context.flatten(2))


def reuse_by_hand(encoder, sizes):
    """Have a parent's layers apply the map of the first layer of their group."""
    layers = iter(encoder.encoders)
    for size in sizes:
        producer = attention_of(next(layers))
        for _ in range(size - 1):
            attention = attention_of(next(layers))
            attention.forward = functools.partial(apply_map, attention, producer)
    return encoder


def assert_equal(actual, expected, atol=0.0):
    """Compare outputs, and gradients of the parameters that `actual` has."""
    compare = functools.partial(torch.testing.assert_close, rtol=0, atol=atol)
    compare(actual[0], expected[0])
    assert set(actual[1]) <= set(expected[1])
    for name, gradient in actual[1].items():
        if gradient is None:
            assert expected[1][name] is None, name
        else:
            compare(gradient, expected[1][name], msg=lambda m, n=name: f"{n}: {m}")


@every_encoder
@either_mode
def test_naive_groups_of_one_are_the_parent_bit_for_bit(name, training, monkeypatch):
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "naive")
    parent, encoder = build(name, reuse=False), build(name, reuse_group_size=1)
    assert list(encoder.state_dict()) == list(parent.state_dict())
    results = [encode(module.train(training)) for module in (encoder, parent)]
    assert_equal(*results)


@every_encoder
def test_fast_groups_of_one_are_the_parent(name):
    parent, encoder = build(name, reuse=False), build(name, reuse_group_size=1)
    assert_equal(encode(encoder.eval()), encode(parent.eval()), atol=1e-4)


@every_encoder
@pytest.mark.parametrize("implementation", ["fast", "naive"])
@pytest.mark.parametrize("sizes", [[2, 2], [3, 1], [1, 2, 1], [4]])
def test_groups_apply_the_map_of_their_first_layer(
    name, implementation, sizes, monkeypatch
):
    monkeypatch.setenv("ESPNET_REUSE_IMPL", implementation)
    parent = build(name, reuse=False).double().eval()
    encoder = build(name, reuse_group_size=sizes).double().eval()
    parent.load_state_dict(encoder.state_dict(), strict=False)
    expected = encode(reuse_by_hand(parent, sizes), torch.float64)
    assert_equal(encode(encoder, torch.float64), expected, atol=1e-10)


@every_encoder
def test_bfloat16_is_as_close_to_double_precision_as_the_parent(name):
    def error(sizes, reuse):
        options = {"reuse_group_size": sizes} if reuse else {}
        encoder = build(name, reuse, **options).eval()
        exact = encode(copy.deepcopy(encoder).double(), torch.float64)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (encode(encoder)[0].double() - exact).square().mean()

    assert 0 < error([2, 2], True) < 2 * error(None, False)


@every_encoder
def test_an_encoder_initialised_from_its_parent_trains(name):
    # a length that subsampling keeps; all kinds of dropout at their defaults
    encoder = build(name, reuse_group_size=3, input_layer="conv2d")
    parent = build(name, reuse=False, input_layer="conv2d").state_dict()
    lacking = parent.keys() - encoder.state_dict().keys()
    assert lacking and all(
        key.startswith(("encoders.1.", "encoders.2."))
        and ".linear_" in key.replace("pos_bias_", "linear_")
        for key in lacking
    )
    with pytest.raises(RuntimeError, match="has a query projection"):
        encoder.load_state_dict(parent, strict=False)
    encoder.load_state_dict({k: v for k, v in parent.items() if k not in lacking})
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-3)
    _, gradients = encode(encoder, frames=40)
    for parameter_name, parameter in encoder.named_parameters():
        parameter.grad = gradients[parameter_name]
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    optimizer.step()
    assert encode(encoder, frames=40)[0].isfinite().all()


@every_encoder
def test_a_group_has_the_map_of_a_first_layer_that_is_dropped(name):
    encoder = build(name, reuse_group_size=4)
    encoder.encoders[0].drop_rate = 1.0
    _, gradients = encode(encoder.train())
    (query,) = (key for key in gradients if key.endswith("linear_q.weight"))
    assert gradients[query].abs().max() > 0


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("conformer", {"reuse_group_size": 0}, "must be a positive integer"),
        ("conformer", {"reuse_group_size": [3, 3]}, "sums to 6, but num_blocks is 4"),
        ("conformer", {"reuse_dropout": "none"}, "'per_layer' or 'shared'"),
        ("conformer", {"reuse_group_size": 2, "ctc_trim": True}, "ctc_trim"),
        ("branchformer", {"reuse_group_size": 2, "use_attn": False}, "use_attn"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(ReuseConfigError, match=message):
        build(name, **options)


@every_encoder
def test_a_layer_of_another_class_is_refused_in_a_group(name):
    layers = build(name, reuse=False).encoders
    layer_class = ENCODERS[name][1].layer_class
    layers[1].__class__ = own = type("Own", (type(layers[1]),), {})
    with pytest.raises(ReuseConfigError, match=r"encoders\.1 is in .* a Own with"):
        reuse_attention_maps(layers[:2], layer_class, [2], "per_layer")
    reuse_attention_maps(layers[1:], layer_class, [1, 2], "per_layer")
    assert [type(layer) for layer in layers[1:]] == [own, layer_class, layer_class]
