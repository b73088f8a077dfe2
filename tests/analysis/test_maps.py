# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Maps, hidden states, frame times and costs of ESPnet's encoders and ours."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_reuse.analysis.grouping import suggest
from espnet_reuse.analysis.maps import AnalysedModel
from espnet_reuse.asr.encoder.conformer_reuse_encoder import ConformerReuseEncoder
from espnet_reuse.errors import UserError

RATE, HOP, MELS, SIZE, HEADS, LAYERS = 16000, 160, 32, 16, 2, 3
ATTENTION = {"output_size": SIZE, "attention_heads": HEADS, "num_blocks": LAYERS}
LINEAR, CGMLP = {"linear_units": 8}, {"cgmlp_linear_units": 8}
LATEST = {"cnn_module_kernel": 3, "rel_pos_type": "latest"}
CONFORMER = ATTENTION | LINEAR | LATEST
LEGACY = CONFORMER | {"rel_pos_type": "legacy"}
SDPA = {"use_sdpa": True}
INTERCTC = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
REUSE = CONFORMER | {"reuse_group_size": [2, 1]}
ENCODERS = {
    "conformer": (ConformerEncoder, CONFORMER),
    "conformer, legacy": (ConformerEncoder, LEGACY),
    "conformer, sdpa": (ConformerEncoder, CONFORMER | SDPA),
    "conformer, interctc": (ConformerEncoder, CONFORMER | INTERCTC),
    "transformer": (TransformerEncoder, ATTENTION | LINEAR),
    "branchformer": (BranchformerEncoder, ATTENTION | CGMLP),
    "e_branchformer": (EBranchformerEncoder, ATTENTION | LINEAR | CGMLP),
    "conformer_reuse": (ConformerReuseEncoder, REUSE),
    "conformer_reuse, sdpa": (ConformerReuseEncoder, REUSE | SDPA),
}


def build(encoder_class, options):
    torch.manual_seed(0)
    frontend = DefaultFrontend(n_fft=512, hop_length=HOP, n_mels=MELS)
    encoder = encoder_class(input_size=MELS, **options)
    tokens = ["<blank>", "a", "<sos/eos>"]
    ctc = CTC(odim=len(tokens), encoder_output_size=encoder.output_size())
    if getattr(encoder, "interctc_use_conditioning", False):
        encoder.conditioning_layer = torch.nn.Linear(len(tokens), SIZE)
    absent = ("specaug", "normalize", "preencoder", "postencoder", "decoder")
    return ESPnetASRModel(
        len(tokens),
        tokens,
        frontend=frontend,
        encoder=encoder,
        ctc=ctc,
        ctc_weight=1.0,
        **dict.fromkeys((*absent, "joint_network")),
    )


def noise(seconds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(seconds * RATE), generator=generator)


@pytest.fixture(params=ENCODERS, ids=str)
def analysed(request):
    return AnalysedModel(build(*ENCODERS[request.param]))


def test_rows_of_every_map_sum_to_one(analysed):
    recording = analysed.record(noise(1.0), "utt")
    num_frames = recording.maps.size(-1)
    assert recording.maps.shape == (LAYERS, HEADS, num_frames, num_frames)
    assert recording.states.shape == (LAYERS + 1, num_frames, SIZE)
    assert recording.maps.min() >= 0
    torch.testing.assert_close(
        recording.maps.sum(-1), torch.ones(LAYERS, HEADS, num_frames)
    )


def test_the_maps_explain_each_layers_attention_output(analysed):
    """The map times the values is what the attention module returned."""
    calls = []
    for attention in analysed.attentions:
        attention.register_forward_hook(lambda *call: calls.append(call))
    maps = analysed.record(noise(1.0), "utt").maps
    assert len(calls) == LAYERS
    for layer_maps, (attention, inputs, output) in zip(maps, calls, strict=True):
        value = attention.linear_v(inputs[2]).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        context = (layer_maps @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.linear_out(context), output)


def test_a_model_computes_and_remembers_the_same_as_before(analysed):
    speech, lengths = noise(1.0)[None], torch.tensor([RATE])
    with torch.no_grad():
        expected, _ = analysed.model.encode(speech, lengths)
    analysed.record(speech[0], "utt")
    assert not any(module._forward_hooks for module in analysed.model.modules())
    assert all(getattr(a, "attn", None) is None for a in analysed.attentions)
    with torch.no_grad():
        actual, _ = analysed.model.encode(speech, lengths)
    if isinstance(expected, tuple):
        expected, actual = expected[0], actual[0]
    assert torch.equal(actual, expected)


def test_an_utterance_has_the_same_maps_after_others(analysed):
    first = analysed.record(noise(0.7), "utt")
    analysed.record(noise(1.3, seed=1), "other")
    again = analysed.record(noise(0.7), "utt")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_fused_kernels_do_not_hide_the_map():
    eager, fused = (build(*ENCODERS[name]) for name in ("conformer", "conformer, sdpa"))
    assert fused.encoder.encoders[0].self_attn.use_sdpa
    torch.testing.assert_close(
        *(AnalysedModel(model).record(noise(1.0), "u") for model in (eager, fused))
    )


def test_a_consumers_map_is_its_producers():
    analysed = AnalysedModel(build(*ENCODERS["conformer_reuse"]))
    maps = analysed.record(noise(1.0), "utt").maps
    assert analysed.group_sizes == [2, 1]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[1], maps[2])


# ------------------------------ time ------------------------------


@pytest.mark.parametrize(
    "input_layer, subsampling, centre",
    [
        ("linear", 1, 0),
        ("conv2d1", 1, 2),
        ("conv2d2", 2, 3),
        ("conv2d", 4, 3),
        ("conv2d6", 6, 5),
        ("conv2d8", 8, 7),
    ],
)
def test_a_frame_is_in_the_middle_of_what_it_sees(input_layer, subsampling, centre):
    """`centre`: the middle one of the features that the first encoder frame sees."""
    options = CONFORMER | {"input_layer": input_layer}
    model = AnalysedModel(build(ConformerEncoder, options))
    times = model.measure_frame_times(RATE)
    half_a_sample = 0.5 / RATE
    assert times.shift == pytest.approx(subsampling * HOP / RATE)
    assert times.first == pytest.approx(centre * HOP / RATE, abs=2 * half_a_sample)


@pytest.mark.parametrize("input_layer", ["conv2d2", "conv2d", "conv2d6", "conv2d8"])
@pytest.mark.parametrize("seconds", [0.9, 1.234, 2.5])
def test_a_click_changes_the_frames_around_its_time(input_layer, seconds):
    options = CONFORMER | {"input_layer": input_layer}
    model = AnalysedModel(build(ConformerEncoder, options))
    times = model.measure_frame_times(RATE)
    quiet = 0.01 * noise(4.0)
    click = quiet.clone()
    click[round(seconds * RATE)] += 10
    changed = [model.record(x, "utt").states[0] for x in (quiet, click)]
    frames = (changed[0] - changed[1]).abs().amax(-1).gt(1e-4).nonzero().flatten()
    middle = times.of(int(frames.max()) + 1)[frames].mean().item()
    assert middle == pytest.approx(seconds, abs=times.shift / 2 + HOP / RATE)


def test_a_normalisation_over_the_utterance_does_not_hide_the_time():
    from espnet2.layers.utterance_mvn import UtteranceMVN

    model = build(*ENCODERS["conformer"])
    expected = AnalysedModel(model).measure_frame_times(RATE)
    model.normalize = UtteranceMVN()
    assert AnalysedModel(model).measure_frame_times(RATE) == expected
    assert isinstance(model.normalize, UtteranceMVN)


class WholeUtteranceFrontend(DefaultFrontend):
    """Features that depend on the whole utterance, as those of a Transformer do."""

    def forward(self, input, input_lengths):
        features, lengths = super().forward(input, input_lengths)
        return features + 0.01 * features.mean(1, keepdim=True), lengths


def test_frames_that_see_everything_are_spread_evenly():
    model = build(*ENCODERS["conformer"])
    expected = AnalysedModel(model).measure_frame_times(RATE)
    model.frontend = WholeUtteranceFrontend(n_fft=512, hop_length=HOP, n_mels=MELS)
    times = AnalysedModel(model).measure_frame_times(RATE)
    assert times.shift == pytest.approx(expected.shift, rel=0.02)
    assert times.first == pytest.approx(expected.first, abs=expected.shift / 2)


# ------------------------------ costs ------------------------------


def test_a_consumer_saves_what_only_a_producer_computes():
    _, saved = AnalysedModel(build(*ENCODERS["conformer"])).count_flops(noise(1.0))
    t, d = 24, SIZE
    positions = 2 * t - 1
    scores = 2 * t * t * d + 2 * t * positions * d
    projections = 2 * (2 * t * d * d) + 2 * positions * d * d
    assert saved == scores + projections


def test_the_speed_up_is_that_of_the_encoder_without_what_its_consumers_save():
    suggestions = suggest(torch.zeros(4, 4), (100, 10), [1, 4], None)
    speed_ups = [suggestion["suggested"]["speed_up"] for suggestion in suggestions]
    assert speed_ups == [100 / 70, 1]


def test_the_cost_of_a_reuse_model_is_that_of_its_baseline():
    """The estimate is over the encoder without reuse, whichever is analysed."""
    speech = noise(1.0)
    baseline, reuse = (
        AnalysedModel(build(*ENCODERS[name])).count_flops(speech)
        for name in ("conformer", "conformer_reuse")
    )
    assert reuse == baseline


# ------------------------------ refusals ------------------------------

FAST = ATTENTION | {
    "attention_layer_type": "fast_selfattn",
    "pos_enc_layer_type": "abs_pos",
}
TRIM = {"ctc_trim": True}


@pytest.mark.parametrize(
    "encoder_class, options, message",
    [
        (
            ContextualBlockConformerEncoder,
            ATTENTION,
            "ContextualBlockConformerEncoder cannot be analysed",
        ),
        (EBranchformerEncoder, FAST, "has no attention map"),
        (
            ConformerEncoder,
            CONFORMER | INTERCTC | TRIM,
            "ctc_trim: true in",
        ),
    ],
    ids=["another encoder", "attention without a map", "ctc_trim"],
)
def test_an_encoder_without_comparable_maps_is_refused(encoder_class, options, message):
    with pytest.raises(UserError, match=message):
        AnalysedModel(build(encoder_class, options))


def test_an_utterance_too_short_for_subsampling_is_named():
    analysed = AnalysedModel(build(*ENCODERS["conformer"]))
    with pytest.raises(UserError, match="utt-1 has 4 frames and is too short"):
        analysed.record(noise(0.03), "utt-1")


# ------------------------------ memory ------------------------------

LONG_UTTERANCE = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_maps import CONFORMER, AnalysedModel, ConformerEncoder, build, noise
from espnet_reuse.analysis.alignments import Phone
from espnet_reuse.analysis.dataset import Utterance
from espnet_reuse.analysis.analyze import measure

size = {{"output_size": 256, "attention_heads": 8, "num_blocks": 12}}
analysed = AnalysedModel(build(ConformerEncoder, CONFORMER | size))
times = analysed.measure_frame_times(16000)
phones = [Phone("AH" if n % 2 else "T", n / 10, (n + 1) / 10) for n in range(350)]
utterance = Utterance("utt", noise(35).numpy(), None, None)
measures = measure(analysed, utterance, phones, times)
assert measures["frames"] == 874
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_35_seconds_fit_in_4_gb():
    """12 layers of 8 heads: a process of its own, whose peak is this utterance."""
    program = LONG_UTTERANCE.format(folder=str(Path(__file__).parent))
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 4
