# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Invariants of the Conformer encoder with attention map reuse."""

import copy
import gc
import io
import itertools
import math
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_reuse.asr.encoder.conformer_reuse_encoder import (
    ConformerReuseEncoder,
    ConformerReuseLayer,
)
from espnet_reuse.asr.layers.attention_map_reuse import (
    MapConsumer,
    ReuseConfigError,
    reuse_attention_maps,
)

IDIM, SIZE, VOCAB = 20, 16, 7
LENGTHS = (13, 9, 4)  # frames
SKIPPED = 1 - 1e-9  # a stochastic_depth_rate: torch.rand is below it
WITHOUT_DROPOUT = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}

KINDS = {
    "relative positions": {"rel_pos_type": "latest"},
    "legacy relative positions": {"rel_pos_type": "legacy"},
    "absolute positions": {
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "abs_pos",
        "selfattention_layer_type": "selfattn",
    },
}
KINDS["absolute positions, qk_norm"] = KINDS["absolute positions"] | {"qk_norm": True}
LATEST = KINDS["relative positions"]


def cases(name, values):
    """Parametrise `name` over a dict from test id to value."""
    return pytest.mark.parametrize(
        name, [pytest.param(value, id=id_) for id_, value in values.items()]
    )


every_kind = cases("kind", KINDS)
either_mode = cases("training", {"in training": True, "in evaluation": False})
either_dropout = cases(
    "reuse_dropout", {"own dropout": "per_layer", "shared dropout": "shared"}
)
with_and_without_reuse = cases("size", {"without reuse": 1, "in groups of three": 3})
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


either_implementation = pytest.mark.parametrize(
    "implementation", ["fast", "naive"], indirect=True
)


@pytest.fixture
def implementation(request, monkeypatch):
    """Build encoders with the fast paths, or with ESPnet's own operations."""
    monkeypatch.setenv("ESPNET_REUSE_IMPL", request.param)
    return request.param


@pytest.fixture
def naive(monkeypatch):
    """Build encoders with ESPnet's own operations."""
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "naive")


@pytest.fixture(scope="module", autouse=True)
def one_thread_per_operator():
    """Keep tiny operators from waiting for a core that another process uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(encoder_class=ConformerReuseEncoder, seed=0, noise=0.2, **options):
    """Build a small encoder, its biases and norms not at ESPnet's 0 and 1."""
    torch.manual_seed(seed)
    tiny = {
        "input_size": IDIM,
        "output_size": SIZE,
        "attention_heads": 2,
        "linear_units": 24,
        "num_blocks": 4,
        "input_layer": "linear",
        "macaron_style": True,
        "cnn_module_kernel": 3,
        "max_pos_emb_len": 64,
    }
    encoder = encoder_class(**{**tiny, **options})
    add_noise(encoder, noise)
    return encoder


@torch.no_grad()
def add_noise(module, noise, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter += noise * torch.randn(parameter.shape, generator=generator)


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

        handles += [
            layer.self_attn.register_forward_hook(on_attention),
            layer.self_attn.dropout.register_forward_hook(on_dropout),
        ]

    native_dropout = torch.native_dropout

    def record_dropped(*args):
        result = native_dropout(*args)
        dropped.append(result[0])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "native_dropout", record_dropped)
        encoder(*args, **kwargs)
    assert not dropped
    for handle in handles:
        handle.remove()
    return records


# The naive reference: the encoder's own norms, feed-forward and convolution modules,
# and attention written out. It keeps the first map of a group, and nothing else.


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


def naive_layer(layer, x, pos_emb, valid, attention_map, scale):
    """Encode by a layer; return its output and the map it applied."""

    def add(x, norm, branch, weight=1.0):
        before = layer.normalize_before
        x = x + scale * weight * branch(norm(x) if before else x)
        return x if before else norm(x)

    def attend(x):
        nonlocal attention_map
        attention = layer.self_attn
        if attention_map is None:
            attention_map = naive_map(attention, x, pos_emb, valid)
        out = naive_apply(attention, attention_map, x)
        if not layer.concat_after:
            return out
        return layer.concat_linear(torch.cat((x, out), dim=-1))

    if layer.feed_forward_macaron is not None:
        x = add(x, layer.norm_ff_macaron, layer.feed_forward_macaron, 0.5)
    x = add(x, layer.norm_mha, attend)
    if layer.conv_module is not None:
        x = add(x, layer.norm_conv, lambda x: layer.conv_module(x, valid[:, None]))
    x = add(x, layer.norm_ff, layer.feed_forward, layer.ff_scale)
    return x if layer.conv_module is None else layer.norm_final(x), attention_map


def naive_encode(encoder, xs, ilens, sizes, skipped=(), ctc=None):
    """Encode with groups of `sizes` layers; stochastic depth skips `skipped`.

    Returns:
        The outputs as `outputs_of` does, with all hidden states if there is no
        interctc, and the output lengths.
    """
    valid = torch.arange(xs.size(1)) < ilens[:, None]  # (batch, time)
    if isinstance(encoder.embed, torch.nn.Sequential):
        x = encoder.embed(xs)
    else:
        x, mask = encoder.embed(xs, valid[:, None])
        valid = mask[:, 0]
    x, pos_emb = x if isinstance(x, tuple) else (x, None)
    norm = encoder.after_norm if encoder.normalize_before else torch.nn.Identity()
    producers = {0, *itertools.accumulate(sizes)}
    intermediate = []
    for index, layer in enumerate(encoder.encoders):
        if index in producers:
            attention_map = None
        if index not in skipped:
            rate = layer.stochastic_depth_rate if encoder.training else 0.0
            x, attention_map = naive_layer(
                layer, x, pos_emb, valid, attention_map, 1 / (1 - rate)
            )
        elif index in producers:
            seen = layer.norm_mha(x) if layer.normalize_before else x
            attention_map = naive_map(layer.self_attn, seen, pos_emb, valid)
        if not encoder.interctc_layer_idx:
            intermediate.append(x)
        elif index + 1 in encoder.interctc_layer_idx:
            intermediate.append(norm(x))
            if encoder.interctc_use_conditioning:
                x = x + encoder.conditioning_layer(ctc.softmax(intermediate[-1]))
    return [norm(x), *intermediate], valid.sum(1)


def assert_equals_naive(encoder, sizes, lengths=LENGTHS, skipped=(), **kwargs):
    """Compare outputs and gradients, in double precision, with the reference."""
    encoder = encoder.double()
    reference = copy.deepcopy(encoder)
    all_hs = not encoder.interctc_layer_idx
    xs, ilens = make_batch(lengths, dtype=torch.float64)
    xs.requires_grad_()
    encoded = encoder(xs, ilens, return_all_hs=all_hs, **kwargs)
    outputs = outputs_of(encoded)
    expected, olens = naive_encode(reference, xs, ilens, sizes, skipped, **kwargs)
    assert encoded[1].tolist() == olens.tolist()
    for index, pair in enumerate(zip(outputs, expected, strict=True)):
        assert_close(*pair, f"output {index}")
    gradients = backward(outputs, encoder, xs)
    for name, gradient in backward(expected, reference, xs).items():
        assert_close(gradients[name], gradient, f"gradient of {name}", atol=1e-9)
    assert gradients["input"].abs().max() > 0


# Without reuse


@every_kind
@either_mode
@cases(
    "options",
    {
        "macaron": {},
        "not macaron": {"macaron_style": False},
        "without convolution": {"use_cnn_module": False},
        "concat_after": {"concat_after": True},
        "norm after": {"normalize_before": False},
        "sdpa": {"use_sdpa": True},
        "conditioned on interctc": {
            "interctc_layer_idx": [1, 3],
            "interctc_use_conditioning": True,
        },
    },
)
def test_naive_groups_of_one_are_espnets_encoder_bit_for_bit(
    kind, options, training, naive
):
    results = []
    for encoder_class in (ConformerEncoder, ConformerReuseEncoder):
        encoder = build(
            encoder_class,
            noise=0.0,
            dropout_rate=0.1,
            attention_dropout_rate=0.2,
            stochastic_depth_rate=0.3,
            **kind,
            **options,
        ).train(training)
        initial = {key: value.clone() for key, value in encoder.state_dict().items()}
        conditioned = encoder.interctc_use_conditioning
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
    assert all(map(torch.equal, actual[1], outputs))
    assert torch.equal(actual[3], olens)
    for name, gradient in gradients.items():
        if gradient is None:  # of a layer that stochastic depth skipped
            assert actual[2][name] is None, name
        else:
            assert torch.equal(actual[2][name], gradient), name
    assert all(torch.equal(actual[4][key], state[key]) for key in state)


def test_groups_of_one_keep_ctc_trim():
    results = []
    for encoder_class in (ConformerEncoder, ConformerReuseEncoder):
        encoder = build(
            encoder_class, interctc_layer_idx=[2], ctc_trim=True, **LATEST
        ).eval()
        ctc = CTC(VOCAB, SIZE)
        with torch.no_grad():
            ctc.ctc_lo.bias[0] = 100.0  # all frames are blank
        results.append(encoder(*make_batch(), ctc=ctc))
    assert results[0][1].tolist() == [5, 5, 4]
    assert torch.equal(results[1][1], results[0][1])
    assert_close(results[1][0][0], results[0][0][0], atol=1e-5)


@every_kind
@either_mode
@cases("lengths", {"ragged": LENGTHS, "nothing padded": (8, 8), "one frame": (1, 1)})
@cases("use_sdpa", {"eager": False, "sdpa": True})
def test_fast_groups_of_one_are_espnets_encoder(kind, lengths, training, use_sdpa):
    results = []
    for encoder_class in (ConformerEncoder, ConformerReuseEncoder):
        encoder = build(encoder_class, use_sdpa=use_sdpa, **kind, **WITHOUT_DROPOUT)
        xs, ilens = make_batch(lengths)
        xs.requires_grad_()
        outputs = outputs_of(encoder.train(training)(xs, ilens))
        results.append((outputs[0], backward(outputs, encoder, xs)))
        with torch.inference_mode():
            results[-1] += (encoder.eval()(xs, ilens)[0],)
    (out, gradients, inferred), (fast_out, fast_gradients, fast_inferred) = results
    assert_close(fast_out, out, atol=1e-5)
    assert_close(fast_inferred, inferred, atol=1e-5)
    atol = 1e-5 * max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert_close(fast_gradients[name], gradient, name, atol=atol)


# Against the naive reference


@every_kind
@every_grouping
@either_mode
@either_implementation
def test_outputs_and_gradients_are_the_naive_references(
    kind, sizes, training, implementation
):
    encoder = build(reuse_group_size=sizes, **kind, **WITHOUT_DROPOUT)
    assert_equals_naive(encoder.train(training), sizes)


@every_kind
@cases(
    "options",
    {
        "not macaron": {"macaron_style": False},
        "without convolution": {"use_cnn_module": False},
        "concat_after": {"concat_after": True},
        "norm after": {"normalize_before": False},
        "four heads": {"attention_heads": 4},
        "conv2d input": {"input_layer": "conv2d"},
        "shared dropout": {"reuse_dropout": "shared"},
    },
)
def test_options_of_the_parent_keep_their_meaning_with_reuse(kind, options):
    encoder = build(reuse_group_size=3, **kind, **options).eval()
    assert_equals_naive(encoder, [3, 1], lengths=(41, 30, 19))


@cases("size", {"groups of two": 2, "groups of three": 3, "one group": 9})
def test_the_last_of_equal_groups_may_be_shorter(size):
    sizes = {2: [2, 2, 1], 3: [3, 2], 9: [5]}[size]
    encoder = build(num_blocks=5, reuse_group_size=size, **LATEST).eval()
    assert_equals_naive(encoder, sizes)


@every_kind
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
    encoder = build(reuse_group_size=[3, 1], **kind).eval()
    assert_equals_naive(encoder, [3, 1], lengths=lengths)


def test_one_frame_after_subsampling_is_the_naive_references():
    encoder = build(reuse_group_size=2, input_layer="conv2d", **LATEST).eval()
    assert_equals_naive(encoder, [2, 2], lengths=(7, 7))


@every_kind
@every_grouping
@cases("conditioning", {"conditioned": True, "not conditioned": False})
def test_interctc_outputs_are_the_naive_references(kind, sizes, conditioning):
    encoder = build(
        reuse_group_size=sizes,
        interctc_layer_idx=[1, 2],
        interctc_use_conditioning=conditioning,
        **kind,
    ).eval()
    kwargs = {"ctc": add_conditioning(encoder).double()} if conditioning else {}
    assert_equals_naive(encoder, sizes, **kwargs)
    (_, intermediate), _, _ = encoder(*make_batch(dtype=torch.float64), **kwargs)
    assert [index for index, _ in intermediate] == [1, 2]


@every_kind
@cases("normalize_before", {"norm before": True, "norm after": False})
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
def test_a_skipped_layer_leaves_its_group_the_naive_references_map(
    kind, normalize_before, skipped
):
    encoder = build(
        reuse_group_size=[3, 1],
        normalize_before=normalize_before,
        stochastic_depth_rate=[SKIPPED * (index in skipped) for index in range(4)],
        **kind,
        **WITHOUT_DROPOUT,
    )
    assert_equals_naive(encoder, [3, 1], skipped=skipped)


@cases("seed", {f"draw {seed}": seed for seed in range(6)})
def test_stochastic_depth_scales_the_layers_it_keeps(seed):
    encoder = build(
        reuse_group_size=2, stochastic_depth_rate=0.4, **LATEST, **WITHOUT_DROPOUT
    )
    torch.manual_seed(seed)
    skipped = {index for index in range(4) if torch.rand(1).item() < 0.4}
    torch.manual_seed(seed)
    assert_equals_naive(encoder, [2, 2], skipped=skipped)


@every_kind
@cases("sizes", {"groups of two": [2, 2], "one group": [4]})
def test_bfloat16_is_as_close_to_double_precision_as_espnets(kind, sizes):
    def error(sizes):
        encoder = build(reuse_group_size=sizes, **kind).eval()
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


@every_kind
@every_grouping
def test_rows_sum_to_one_once_and_never_reach_padded_frames(kind, sizes):
    encoder = build(reuse_group_size=sizes, **kind).eval()
    record_attention(encoder, *make_batch())
    producers = [layer for layer in encoder.encoders if layer.starts_group]
    assert len(producers) == len(sizes)
    for producer in producers:
        attention_map = producer.self_attn.attn
        assert attention_map.shape == (3, 2, 13, 13)
        assert_close(attention_map.sum(-1), torch.ones(3, 2, 13), atol=1e-6)
        for utterance, length in enumerate(LENGTHS):
            assert attention_map[utterance, :, :, :length].min() > 0
            assert torch.all(attention_map[utterance, :, :, length:] == 0)


@every_kind
def test_an_utterance_without_frames_gets_no_attention_at_all(kind):
    encoder = build(reuse_group_size=[3, 1], **kind).eval()
    records = record_attention(encoder, *make_batch((6, 0)))
    for record in records:
        assert torch.all(record.applied[1] == 0)
        assert torch.isfinite(record.out).all()


@every_kind
@every_grouping
@either_mode
def test_consumers_apply_exactly_the_producers_map(kind, sizes, training):
    encoder = build(reuse_group_size=sizes, **kind).train(training)
    records = record_attention(encoder, *make_batch())
    for layer, record in zip(encoder.encoders, records, strict=True):
        if layer.starts_group:
            produced = layer.self_attn.attn
        assert isinstance(layer.self_attn, MapConsumer) != layer.starts_group
        assert torch.equal(record.map, produced)
        assert torch.equal(record.applied, produced)
        out = naive_apply(layer.self_attn, produced, record.value)
        assert_close(record.out, out, atol=1e-5)


@every_kind
@either_dropout
def test_the_last_consumer_trains_the_producers_query_and_key(kind, reuse_dropout):
    encoder = build(
        reuse_group_size=4,
        reuse_dropout=reuse_dropout,
        attention_dropout_rate=0.1,
        **kind,
    )

    def score_gradients(silenced):
        with torch.no_grad():
            for layer in encoder.encoders[:silenced]:
                layer.self_attn.linear_out.weight.zero_()
                layer.self_attn.linear_out.bias.zero_()
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
    assert len(through_last_consumer) == (2 if "pos_enc_layer_type" in kind else 5)
    assert min(through_last_consumer) > 1e-6
    assert max(score_gradients(silenced=4)) == 0  # there is no other way


# ESPnet's legacy relative positions look at padded frames
@cases("kind", {name: kind for name, kind in KINDS.items() if "legacy" not in name})
@cases("input_layer", {"linear input": "linear", "conv2d input": "conv2d"})
@every_grouping
def test_an_utterance_encodes_the_same_alone_and_beside_longer_ones(
    kind, input_layer, sizes
):
    encoder = build(reuse_group_size=sizes, input_layer=input_layer, **kind)
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
        encoder = build(
            reuse_group_size=[1, 3],
            use_sdpa=use_sdpa and implementation == "fast",
            **kind,
        )
        with torch.no_grad():
            encoder.eval()(*make_batch())
        maps.append([encoder.encoders[index].self_attn.attn for index in (0, 1)])
    for naive_map, fast_map in zip(*maps, strict=True):
        if fast_map is None:
            assert use_sdpa and kind["rel_pos_type"] == "legacy"  # ESPnet's path
        else:
            assert_close(fast_map, naive_map, atol=1e-6)


def test_an_unknown_implementation_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "quick")
    with pytest.raises(ReuseConfigError, match="ESPNET_REUSE_IMPL: 'quick'"):
        build()


# Parameters and checkpoints


@every_kind
@every_grouping
def test_consumers_lack_the_score_parameters_and_no_other_key_differs(kind, sizes):
    baseline = build(ConformerEncoder, **kind)
    encoder = build(reuse_group_size=sizes, **kind)
    producers = {0, *itertools.accumulate(sizes)}
    of_scores = ("linear_q", "linear_k", "linear_pos", "pos_bias", "q_norm", "k_norm")
    dropped = {
        key
        for key in baseline.state_dict()
        if any(f"self_attn.{part}" in key for part in of_scores)
        and int(key.split(".")[1]) not in producers
    }
    relative = "pos_enc_layer_type" not in kind
    per_consumer = 7 if relative else 8 if "qk_norm" in kind else 4
    assert len(dropped) == per_consumer * (4 - len(sizes))
    kept = [key for key in baseline.state_dict() if key not in dropped]
    assert list(encoder.state_dict()) == kept
    assert [name for name, _ in encoder.named_parameters()] == [
        name for name, _ in baseline.named_parameters() if name not in dropped
    ]
    dropped_count = sum(baseline.state_dict()[key].numel() for key in dropped)
    assert sum(p.numel() for p in encoder.parameters()) == (
        sum(p.numel() for p in baseline.parameters()) - dropped_count
    )


@every_kind
@every_grouping
def test_an_espnet_checkpoint_initialises_every_parameter(kind, sizes, tmp_path):
    baseline = build(ConformerEncoder, **kind).state_dict()
    torch.save(baseline, tmp_path / "baseline.pth")
    encoder = build(seed=6, reuse_group_size=sizes, **kind)
    load_pretrained_model(
        str(tmp_path / "baseline.pth"), encoder, ignore_init_mismatch=True
    )
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, baseline[key]), key


@every_kind
def test_an_espnet_checkpoint_is_refused_unless_told_to_ignore_mismatch(kind, tmp_path):
    baseline = build(ConformerEncoder, **kind).state_dict()
    torch.save(baseline, tmp_path / "baseline.pth")
    encoder = build(reuse_group_size=2, **kind)
    with pytest.raises(ReuseConfigError, match=r"encoders\.1\.self_attn"):
        load_pretrained_model(
            str(tmp_path / "baseline.pth"), encoder, ignore_init_mismatch=False
        )
    for strict in (True, False):
        with pytest.raises(ReuseConfigError, match=r"encoders\.1\.self_attn"):
            encoder.load_state_dict(baseline, strict=strict)


@pytest.mark.parametrize(
    ("saved", "loaded", "layer"),
    [
        pytest.param([2, 2], [4], 2, id="groups of two into one group"),
        pytest.param([4], [2, 2], 2, id="one group into groups of two"),
        pytest.param([4], [1, 1, 1, 1], 1, id="one group into no reuse"),
        pytest.param([1, 3], [3, 1], 1, id="other boundaries"),
    ],
)
@cases("strict", {"strict": True, "as ESPnet loads": False})
def test_a_checkpoint_of_other_groups_is_refused(saved, loaded, layer, strict):
    checkpoint = build(reuse_group_size=saved, **LATEST).state_dict()
    build(seed=6, reuse_group_size=saved, **LATEST).load_state_dict(checkpoint)
    with pytest.raises(ReuseConfigError, match=rf"encoders\.{layer}\.self_attn"):
        build(reuse_group_size=loaded, **LATEST).load_state_dict(
            checkpoint, strict=strict
        )


@pytest.mark.parametrize(
    "size",
    [0, -1, 2.5, True, "3", None, [], [2, 3], [2, 0, 2], [2, 2.0], [3, True]],
    ids="{!r} for four layers".format,
)
def test_impossible_group_sizes_are_refused_by_name(size):
    with pytest.raises(ReuseConfigError, match="reuse_group_size"):
        build(reuse_group_size=size)


def test_ctc_trim_is_refused_with_reuse():
    with pytest.raises(ReuseConfigError, match="ctc_trim"):
        build(reuse_group_size=2, interctc_layer_idx=[1], ctc_trim=True)


@cases("size", {"with reuse": 2, "without reuse": 1})
def test_an_unknown_reuse_dropout_is_refused_by_name(size):
    with pytest.raises(ReuseConfigError, match="reuse_dropout"):
        build(reuse_group_size=size, reuse_dropout="none")


# Dropout on the map and fused kernels


def assert_half_is_dropped(applied, attention_map):
    """Check `applied` to be a dropout of rate 0.5 of the map, done once."""
    kept = applied != 0
    assert torch.equal(applied[kept], 2 * attention_map[kept])
    assert 0.4 < kept[attention_map != 0].float().mean() < 0.6


@every_kind
@either_implementation
@cases("use_flash_attn", {"flash asked for": True, "no flash": False})
@either_dropout
def test_layers_drop_the_map_once_by_masks_of_their_own_or_one_shared(
    kind, use_flash_attn, reuse_dropout, implementation
):
    encoder = build(
        reuse_group_size=4,
        reuse_dropout=reuse_dropout,
        attention_dropout_rate=0.5,
        use_flash_attn=use_flash_attn,
        **kind,
    )
    records = record_attention(encoder, *make_batch())
    produced = encoder.encoders[0].self_attn.attn
    for layer, record in zip(encoder.encoders, records, strict=True):
        assert_half_is_dropped(record.applied, produced)
        out = naive_apply(layer.self_attn, record.applied, record.value)
        assert_close(record.out, out, atol=1e-5)
    for one, other in itertools.combinations(records, 2):
        same = torch.equal(one.applied, other.applied)
        assert same == (reuse_dropout == "shared")
    if reuse_dropout == "shared":
        assert {layer.self_attn.dropout.p for layer in encoder.encoders[1:]} == {0.0}

    in_evaluation = record_attention(encoder.eval(), *make_batch())
    produced = encoder.encoders[0].self_attn.attn
    assert all(torch.equal(record.applied, produced) for record in in_evaluation)


@every_kind
def test_naive_groups_of_one_keep_sdpa_and_producers_are_eager(kind, naive):
    sizes = [1, 3]
    eager = build(reuse_group_size=sizes, **kind).eval().double()
    fused = build(reuse_group_size=sizes, use_sdpa=True, **kind).eval().double()
    batch = make_batch(dtype=torch.float64)
    assert_close(fused(*batch)[0], eager(*batch)[0])
    assert fused.encoders[0].self_attn.attn is None
    assert_close(fused.encoders[1].self_attn.attn, eager.encoders[1].self_attn.attn)


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


# Everything around the forward


@every_kind
@pytest.mark.parametrize(
    "input_layer",
    ["linear", "conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", "embed", None],
    ids="{} input".format,
)
def test_every_input_layer_trains_in_groups(kind, input_layer):
    idim = SIZE if input_layer is None else IDIM
    encoder = build(
        input_size=idim,
        input_layer=input_layer,
        padding_idx=0,
        reuse_group_size=2,
        **kind,
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


@every_kind
@cases("dtype", {"bfloat16": torch.bfloat16, "float16": torch.float16})
@either_dropout
def test_mixed_precision_trains_without_overflow(kind, dtype, reuse_dropout):
    encoder = build(
        reuse_group_size=[3, 1],
        reuse_dropout=reuse_dropout,
        attention_dropout_rate=0.1,
        **kind,
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


@every_kind
@with_and_without_reuse
@cases("lengths", {"of other lengths": (9, 9, 2), "of the same lengths": LENGTHS})
def test_two_threads_sharing_a_model_do_not_mix_their_maps(kind, size, lengths):
    encoder = build(num_blocks=6, reuse_group_size=size, **kind).eval()
    batches = [make_batch(), make_batch(lengths, seed=7)]

    @torch.inference_mode()
    def encode(batch, times):
        return [encoder(*batch)[0] for _ in range(times)]

    alone = [encode(batch, 1)[0] for batch in batches]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(encode, batches, [40, 40]))
    finally:
        sys.setswitchinterval(interval)
    for outs, expected in zip(together, alone, strict=True):
        assert all(torch.equal(out, expected) for out in outs)


def reload(encoder):
    file = io.BytesIO()
    torch.save(encoder, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_kind
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
    encoder = build(reuse_group_size=size, **kind)
    encoder(*make_batch())[0].sum().backward()
    twin = duplicate(encoder).eval()
    assert type(twin) is ConformerReuseEncoder
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


@every_kind
@with_and_without_reuse
def test_a_forward_leaves_no_graph_and_nothing_that_grows(kind, size):
    encoder = build(reuse_group_size=size, **kind)

    def live_tensors(forwards):
        for seed in range(forwards):
            encoder(*make_batch(seed=seed))
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    before = live_tensors(2)
    assert live_tensors(100) == before
    left = list(reachable_tensors(encoder))
    assert len(left) > len(list(encoder.parameters()))
    assert all(tensor.grad_fn is None for tensor in left)


def assert_compiles(backend, atol):
    encoder = build(num_blocks=2, reuse_group_size=2, **LATEST, **WITHOUT_DROPOUT)
    for training in (False, True):
        torch.compiler.reset()
        results = []
        for module in (encoder, torch.compile(copy.deepcopy(encoder), backend=backend)):
            xs, ilens = make_batch()
            xs.requires_grad_()
            out = module.train(training)(xs, ilens)[0]
            results.append((out, backward([out], module, xs)))
        (out, gradients), (compiled_out, compiled_gradients) = results
        assert_close(compiled_out, out, atol=atol)
        for name, gradient in gradients.items():
            compiled_name = "input" if name == "input" else f"_orig_mod.{name}"
            actual = compiled_gradients[compiled_name]
            assert_close(actual, gradient, name, atol=10 * atol)


def test_a_compiled_graph_encodes_and_trains_as_eager_does():
    assert_compiles("aot_eager", atol=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ on CPU")
def test_compiled_kernels_encode_and_train_as_eager_does():
    assert_compiles("inductor", atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="DataParallel needs CUDA")
@every_kind
def test_data_parallel_replicas_encode_as_the_model_does(kind):
    encoder = build(reuse_group_size=3, **kind).eval().cuda()
    devices = list(range(torch.cuda.device_count()))
    batches = [tuple(t.to(device) for t in make_batch()) for device in devices]
    expected = encoder(*batches[0])[0]
    # what DataParallel does, with one device too, where it would do nothing
    replicas = torch.nn.parallel.replicate(encoder, devices)
    for out, _, _ in torch.nn.parallel.parallel_apply(replicas, batches):
        assert_close(out.cpu(), expected.cpu(), atol=1e-5)
