# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The encoders under test, their naive reference, and what is held against it."""

import copy
import dataclasses
import inspect
import itertools
import math

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.branchformer_encoder import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
)
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import (
    EBranchformerEncoder,
    EBranchformerEncoderLayer,
)
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import (
    EncoderLayer as ConformerEncoderLayer,
)
from espnet2.legacy.nets.pytorch_backend.transformer.encoder_layer import (
    EncoderLayer as TransformerEncoderLayer,
)

from espnet_reuse.asr.encoder.branchformer_reuse_encoder import BranchformerReuseEncoder
from espnet_reuse.asr.encoder.conformer_reuse_encoder import ConformerReuseEncoder
from espnet_reuse.asr.encoder.e_branchformer_reuse_encoder import (
    EBranchformerReuseEncoder,
)
from espnet_reuse.asr.encoder.transformer_reuse_encoder import TransformerReuseEncoder

IDIM, SIZE, VOCAB = 20, 16, 7
LENGTHS = (13, 9, 4)  # frames
ALMOST_SURE = 1 - 1e-9  # a rate of dropping: torch.rand is below it
WITHOUT_DROPOUT = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """An encoder with a kind of attention, four small layers of it.

    Attributes:
        name: Name of the encoder and of the kind.
        parent: ESPnet's encoder.
        reuse: The encoder that reuses attention maps.
        options: Options of both.
    """

    name: str
    parent: type
    reuse: type
    options: dict

    def build(self, **options):
        """Build the encoder that reuses attention maps."""
        return build(self.reuse, **{**self.options, **options})

    def build_parent(self, **options):
        """Build ESPnet's encoder."""
        return build(self.parent, **{**self.options, **options})

    def takes(self, option):
        """Say whether ESPnet's encoder has an option."""
        return option in inspect.signature(self.parent).parameters


def build(encoder_class, seed=0, noise=0.2, **options):
    """Build a small encoder, its biases and norms not at ESPnet's 0 and 1."""
    torch.manual_seed(seed)
    tiny = {
        "input_size": IDIM,
        "output_size": SIZE,
        "attention_heads": 2,
        "num_blocks": 4,
        "input_layer": "linear",
    }
    encoder = encoder_class(**{**tiny, **options})
    add_noise(encoder, noise)
    return encoder


@torch.no_grad()
def add_noise(module, noise, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter += noise * torch.randn(parameter.shape, generator=generator)


def make_kinds(name, parent, reuse, tiny, attention_type=None):
    """Return the kinds of attention of an encoder, the most used one first.

    Args:
        name: Name of the encoder.
        parent: ESPnet's encoder.
        reuse: The encoder that reuses attention maps.
        tiny: Options that make it small.
        attention_type: Option that names the kind, if there is a choice.
    """
    absolute, relative = {}, {}
    if attention_type is not None:
        absolute = {"pos_enc_layer_type": "abs_pos", attention_type: "selfattn"}
        absolute["rel_pos_type"] = "latest"
        relative = {
            "relative positions": {"rel_pos_type": "latest"},
            "legacy relative positions": {"rel_pos_type": "legacy"},
        }
    kinds = relative | {
        "absolute positions": absolute,
        "absolute positions, qk_norm": absolute | {"qk_norm": True},
    }
    return [
        Kind(f"{name}, {positions}", parent, reuse, tiny | options)
        for positions, options in kinds.items()
    ]


CONFORMER = make_kinds(
    "conformer",
    ConformerEncoder,
    ConformerReuseEncoder,
    {
        "linear_units": 24,
        "macaron_style": True,
        "cnn_module_kernel": 3,
        "max_pos_emb_len": 64,
    },
    "selfattention_layer_type",
)
TRANSFORMER = make_kinds(
    "transformer", TransformerEncoder, TransformerReuseEncoder, {"linear_units": 24}
)
BRANCHFORMER = make_kinds(
    "branchformer",
    BranchformerEncoder,
    BranchformerReuseEncoder,
    {"cgmlp_linear_units": 24, "cgmlp_conv_kernel": 3},
    "attention_layer_type",
)
E_BRANCHFORMER = make_kinds(
    "e-branchformer",
    EBranchformerEncoder,
    EBranchformerReuseEncoder,
    {
        "cgmlp_linear_units": 24,
        "cgmlp_conv_kernel": 3,
        "use_ffn": True,
        "macaron_ffn": True,
        "linear_units": 24,
        "max_pos_emb_len": 64,
    },
    "attention_layer_type",
)
ENCODERS = [CONFORMER, TRANSFORMER, BRANCHFORMER, E_BRANCHFORMER]


def cases(name, values):
    """Parametrise `name` over a dict from test id to value."""
    return pytest.mark.parametrize(
        name, [pytest.param(value, id=id_) for id_, value in values.items()]
    )


def of_kinds(kinds):
    """Parametrise `kind`."""
    return cases("kind", {kind.name: kind for kind in kinds})


every_kind = of_kinds(itertools.chain(*ENCODERS))
every_encoder = of_kinds(kinds[0] for kinds in ENCODERS)
either_mode = cases("training", {"in training": True, "in evaluation": False})
either_dropout = cases(
    "reuse_dropout", {"own dropout": "per_layer", "shared dropout": "shared"}
)
either_implementation = pytest.mark.parametrize(
    "implementation", ["fast", "naive"], indirect=True
)
# The four layers of `build` in groups; 3 leaves a shorter last group.
every_grouping = cases(
    "sizes",
    {
        "groups of two": [2, 2],
        "groups of three": [3, 1],
        "a group in the middle": [1, 2, 1],
        "one group": [4],
    },
)


def make_batch(lengths=LENGTHS, seed=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(len(lengths), max(lengths), IDIM, generator=generator)
    return xs.to(dtype), torch.tensor(lengths)


def add_conditioning(encoder):
    """Give the encoder self-conditioning, and return the CTC that it needs."""
    torch.manual_seed(3)
    encoder.conditioning_layer = torch.nn.Linear(VOCAB, SIZE)
    return CTC(VOCAB, SIZE)


def outputs_of(encoded):
    """Return the output and intermediate outputs of an encoder as a flat list."""
    out, _, _ = encoded
    if not isinstance(out, tuple):
        return [out]
    return [out[0], *(hs[1] if isinstance(hs, tuple) else hs for hs in out[1])]


def backward(outputs, module, xs):
    """Return gradients of the input and of the parameters; None where unused."""
    generator = torch.Generator().manual_seed(4)
    loss = 0.0
    for out in outputs:
        weight = torch.randn(out.shape, generator=generator)
        loss = loss + (out * weight.to(out)).sum()
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, [xs, *parameters], allow_unused=True)
    return dict(zip(["input", *names], gradients, strict=True))


def assert_close(actual, expected, message="", atol=1e-10):
    if actual is None or expected is None:
        assert (actual is None) == (expected is None), message
        return
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=atol, msg=lambda text: f"{message}: {text}"
    )


def attention_of(layer):
    """Return the attention module of a layer."""
    return layer.attn if hasattr(layer, "attn") else layer.self_attn


# The naive reference: the encoder's own norms, feed-forward and convolution modules,
# and attention and merging written out. It keeps the first map of a group, and
# nothing else.


def split_heads(attention, x):
    return x.unflatten(-1, (attention.h, attention.d_k)).transpose(1, 2)


def naive_map(attention, x, pos_emb, valid):
    """Compute an attention map (batch, head, time, time) by indexing."""
    q = attention.q_norm(split_heads(attention, attention.linear_q(x)))
    k = attention.k_norm(split_heads(attention, attention.linear_k(x)))
    if pos_emb is None:
        scores = torch.einsum("bhid,bhjd->bhij", q, k)
    else:
        frames = x.size(1)
        i, j = torch.arange(frames)[:, None], torch.arange(frames)[None]
        p = split_heads(attention, attention.linear_pos(pos_emb))[0]
        q_u = q + attention.pos_bias_u[:, None]
        q_v = q + attention.pos_bias_v[:, None]
        by_position = torch.einsum("bhid,hpd->bhip", q_v, p)
        if pos_emb.size(1) == 2 * frames - 1:  # position p is distance T - 1 - p
            position = by_position[..., i, frames - 1 - i + j]
        else:  # legacy: right where j <= i, of the next query elsewhere
            row = torch.where(j <= i, i, i + 1).clamp(max=frames - 1)
            column = torch.where(j <= i, frames - 1 - i + j, j - i - 2).clamp(min=0)
            position = by_position[..., row, column] * (j != i + 1)
        scores = torch.einsum("bhid,bhjd->bhij", q_u, k) + position
    scores = scores / math.sqrt(attention.d_k)
    scores = scores.masked_fill(~valid[:, None, None], -math.inf)
    weights = (scores - scores.amax(-1, keepdim=True).detach()).exp()
    return weights / weights.sum(-1, keepdim=True)


def naive_apply(attention, attention_map, x):
    v = split_heads(attention, attention.linear_v(x))
    context = torch.einsum("bhij,bhjd->bihd", attention_map, v)
    return attention.linear_out(context.flatten(2))


# A layer's input x (batch, time, size), its attention on an input, the real frames
# (batch, time), and what stochastic depth multiplies a layer's branches by.


def add(layer, x, norm, branch, weight):
    if layer.normalize_before:
        return x + weight * branch(norm(x))
    return norm(x + weight * branch(x))


def attend_and_concat(layer, attend):
    if not layer.concat_after:
        return attend
    return lambda x: layer.concat_linear(torch.cat((x, attend(x)), dim=-1))


def naive_conformer_layer(layer, x, attend, valid, scale):
    attend = attend_and_concat(layer, attend)
    half = scale / 2 if layer.feed_forward_macaron is not None else scale
    if layer.feed_forward_macaron is not None:
        x = add(layer, x, layer.norm_ff_macaron, layer.feed_forward_macaron, half)
    x = add(layer, x, layer.norm_mha, attend, scale)
    if layer.conv_module is not None:

        def convolve(x):
            return layer.conv_module(x, mask_pad=valid[:, None])

        x = add(layer, x, layer.norm_conv, convolve, scale)
    x = add(layer, x, layer.norm_ff, layer.feed_forward, half)
    return x if layer.conv_module is None else layer.norm_final(x)


def naive_transformer_layer(layer, x, attend, valid, scale):
    x = add(layer, x, layer.norm1, attend_and_concat(layer, attend), scale)
    return add(layer, x, layer.norm2, layer.feed_forward, scale)


def naive_branchformer_layer(layer, x, attend, valid, scale):
    def weight(branch, pooling, weighting):
        """Weigh a branch by its frames' weighted average."""
        scores = pooling(branch).squeeze(-1) / math.sqrt(SIZE)
        frames = scores.masked_fill(~valid, -math.inf).softmax(-1)
        return weighting(torch.einsum("bi,bid->bd", frames, branch))

    def learned_weights():
        if layer.training and layer.attn_branch_drop_rate == ALMOST_SURE:
            return 0.0, 1.0
        weights = (
            weight(attended, layer.pooling_proj1, layer.weight_proj1),
            weight(gated, layer.pooling_proj2, layer.weight_proj2),
        )
        return torch.cat(weights, dim=-1).softmax(-1).T[..., None, None]

    if layer.attn is not None:
        attended = attend(layer.norm_mha(x))
    if layer.cgmlp is not None:
        gated = layer.cgmlp(layer.norm_mlp(x), valid[:, None])
    if layer.attn is None:
        merged = gated
    elif layer.cgmlp is None:
        merged = attended
    elif layer.merge_method == "concat":
        merged = torch.cat((attended, gated), dim=-1)
    elif layer.merge_method == "learned_ave":
        of_attended, of_gated = learned_weights()
        merged = of_attended * attended + of_gated * gated
    else:
        merged = attended + layer.cgmlp_weight * (gated - attended)
    return layer.norm_final(x + scale * layer.merge_proj(merged))


def naive_e_branchformer_layer(layer, x, attend, valid, scale):
    half = 0.5 if layer.feed_forward_macaron is not None else 1.0
    if layer.feed_forward_macaron is not None:
        x = x + half * layer.feed_forward_macaron(layer.norm_ff_macaron(x))
    gated = layer.cgmlp(layer.norm_mlp(x), valid[:, None])
    both = torch.cat((attend(layer.norm_mha(x)), gated), dim=-1)
    real = (both * valid[..., None]).transpose(1, 2)
    fused = layer.depthwise_conv_fusion(real).transpose(1, 2)
    x = x + layer.merge_proj(both + fused)
    if layer.feed_forward is not None:
        x = x + half * layer.feed_forward(layer.norm_ff(x))
    return layer.norm_final(x)


NAIVE_LAYERS = {
    ConformerEncoderLayer: naive_conformer_layer,
    TransformerEncoderLayer: naive_transformer_layer,
    BranchformerEncoderLayer: naive_branchformer_layer,
    EBranchformerEncoderLayer: naive_e_branchformer_layer,
}


def naive_encode(encoder, xs, ilens, sizes, skipped=(), ctc=None, max_layer=None):
    """Encode with groups of `sizes` layers, of which a step skips `skipped`.

    Returns:
        The outputs as `outputs_of` does, with all hidden states if there is no
        interctc, and the output lengths.
    """

    def attend(x):
        nonlocal attention_map
        attention = attention_of(layer)
        if attention_map is None:
            attention_map = naive_map(attention, x, pos_emb, valid)
        return naive_apply(attention, attention_map, x)

    normalize_before = getattr(encoder, "normalize_before", True)
    norm = encoder.after_norm if normalize_before else torch.nn.Identity()
    interctc = getattr(encoder, "interctc_layer_idx", [])
    interctc_norm = norm
    if isinstance(encoder, EBranchformerEncoder):
        interctc_norm = torch.nn.Identity()
    valid = torch.arange(xs.size(1)) < ilens[:, None]  # (batch, time)
    if encoder.embed is None:
        x = xs
    elif isinstance(encoder.embed, (torch.nn.Sequential, torch.nn.Linear)):
        x = encoder.embed(xs)
    else:
        x, mask = encoder.embed(xs, valid[:, None])
        valid = mask[:, 0]
    x, pos_emb = x if isinstance(x, tuple) else (x, None)
    producers = {0, *itertools.accumulate(sizes)}
    intermediate = []
    for index, layer in enumerate(list(encoder.encoders)[:max_layer]):
        if index in producers:
            attention_map = None
        if index not in skipped:
            rate = getattr(layer, "stochastic_depth_rate", 0.0)
            scale = 1 / (1 - rate) if encoder.training else 1.0
            encode = next(
                encode
                for layer_class, encode in NAIVE_LAYERS.items()
                if isinstance(layer, layer_class)
            )
            x = encode(layer, x, attend, valid, scale)
        elif index in producers and attention_of(layer) is not None:
            before = getattr(layer, "normalize_before", True)
            norm_before = getattr(layer, "norm_mha", None) or layer.norm1
            seen = norm_before(x) if before else x
            attention_map = naive_map(attention_of(layer), seen, pos_emb, valid)
        if not interctc:
            intermediate.append(x)
        elif index + 1 in interctc:
            intermediate.append(interctc_norm(x))
            if encoder.interctc_use_conditioning:
                x = x + encoder.conditioning_layer(ctc.softmax(intermediate[-1]))
    return [norm(x), *intermediate], valid.sum(1)


# What is held against the parent and the reference


def assert_is_parent_bit_for_bit(kind, training, **options):
    """Compare weights, outputs and gradients without reuse, under dropout."""
    options = {"dropout_rate": 0.1, "attention_dropout_rate": 0.2, **options}
    results = []
    for build_either in (kind.build_parent, kind.build):
        encoder = build_either(noise=0.0, **options).train(training)
        initial = {key: value.clone() for key, value in encoder.state_dict().items()}
        conditioned = getattr(encoder, "interctc_use_conditioning", False)
        kwargs = {"ctc": add_conditioning(encoder)} if conditioned else {}
        add_noise(encoder, 0.2)
        xs, ilens = make_batch()
        xs.requires_grad_()
        torch.manual_seed(5)
        encoded = encoder(xs, ilens, **kwargs)
        outputs = outputs_of(encoded)
        gradients = backward(outputs, encoder, xs)
        results.append((initial, outputs, gradients, encoded[1], encoder.state_dict()))

    (initial, outputs, gradients, olens, state), actual = results
    assert list(actual[0]) == list(initial)
    assert all(torch.equal(actual[0][key], initial[key]) for key in initial)
    assert len(actual[1]) == len(outputs)
    assert all(map(torch.equal, actual[1], outputs))
    assert torch.equal(actual[3], olens)
    for name, gradient in gradients.items():
        if gradient is None:  # of a layer that was skipped
            assert actual[2][name] is None, name
        else:
            assert torch.equal(actual[2][name], gradient), name
    assert all(torch.equal(actual[4][key], state[key]) for key in state)


def assert_is_parent_to_rounding(kind, training, lengths=LENGTHS, **options):
    """Compare outputs and gradients without reuse, in float32, without dropout."""
    results = []
    for build_either in (kind.build_parent, kind.build):
        encoder = build_either(**options, **WITHOUT_DROPOUT)
        xs, ilens = make_batch(lengths)
        xs.requires_grad_()
        outputs = outputs_of(encoder.train(training)(xs, ilens))
        results.append((outputs[0], backward(outputs, encoder, xs)))
        with torch.inference_mode():
            results[-1] += (encoder.eval()(xs, ilens)[0],)
    (out, gradients, inferred), (fast_out, fast_gradients, fast_inferred) = results
    assert_close(fast_out, out, atol=1e-5)
    assert_close(fast_inferred, inferred, atol=1e-5)
    used = [gradient for gradient in gradients.values() if gradient is not None]
    atol = 1e-5 * max(gradient.abs().max().item() for gradient in used)
    for name, gradient in gradients.items():
        assert_close(fast_gradients[name], gradient, name, atol=atol)


def assert_equals_naive(
    encoder, sizes, lengths=LENGTHS, skipped=(), idim=IDIM, **kwargs
):
    """Compare outputs and gradients, in double precision, with the reference."""
    encoder = encoder.double()
    reference = copy.deepcopy(encoder)
    returns_all = isinstance(
        encoder, (ConformerEncoder, TransformerEncoder, EBranchformerEncoder)
    )
    interctc = getattr(encoder, "interctc_layer_idx", [])
    all_hs = {"return_all_hs": True} if returns_all and not interctc else {}
    xs, ilens = make_batch(lengths, dtype=torch.float64)
    xs = xs[..., :idim].requires_grad_()
    encoded = encoder(xs, ilens, **all_hs, **kwargs)
    outputs = outputs_of(encoded)
    expected, olens = naive_encode(reference, xs, ilens, sizes, skipped, **kwargs)
    if not all_hs and not interctc:
        expected = expected[:1]
    assert encoded[1].tolist() == olens.tolist()
    for index, pair in enumerate(zip(outputs, expected, strict=True)):
        assert_close(*pair, f"output {index}")
    gradients = backward(outputs, encoder, xs)
    for name, gradient in backward(expected, reference, xs).items():
        assert_close(gradients[name], gradient, f"gradient of {name}", atol=1e-9)
    assert gradients["input"].abs().max() > 0
