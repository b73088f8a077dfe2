# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The encoders of the benchmark are what their names say."""

from pathlib import Path

import pytest
import torch

from espnet_reuse.benchmark.peers import (
    ABSOLUTE,
    DEFAULT_CONFIG,
    E_BRANCHFORMER,
    EAGER,
    LIMIT,
    SDPA,
    ConfigError,
    build_encoder,
    build_encoders,
    count_output_frames,
    list_peers,
    read_config,
    with_layers,
)

CONFIG = read_config(Path(__file__).with_name("tiny.yaml"))
PEERS = {peer.name: peer for peer in list_peers(CONFIG, [1, 2])}


@pytest.fixture(scope="module")
def encoders():
    return build_encoders(list(PEERS.values()), CONFIG.input_size)


def encode(encoder, frames=100):
    features = torch.randn(1, frames, 20, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return encoder.eval()(features, torch.tensor([frames]))[0]


def test_without_a_config_it_is_the_recipe_of_librispeech_100():
    config = read_config(None)
    assert DEFAULT_CONFIG["encoder_conf"].items() <= config.conf.items()
    assert (config.input_size, config.frames_per_second) == (80, 100)


def test_the_frontend_gives_features_and_frame_rate(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "encoder: conformer\nfrontend_conf: {n_mels: 40, fs: 8000, hop_length: 64}\n"
    )
    config = read_config(path)
    assert (config.input_size, config.frames_per_second) == (40, 125)


@pytest.mark.parametrize(
    "text",
    [
        *("encoder: rnn", "[]", "encoder: conformer\nencoder_conf: 3"),
        "encoder: conformer\nfrontend_conf: {hop_length: 0}",
        "encoder: conformer\nencoder_conf: {input_layer: embed}",
    ],
)
def test_a_config_that_cannot_be_measured_is_refused(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_config(path)


def test_peers_differ_from_the_baseline_in_what_their_names_say(encoders):
    attention = {
        name: encoder.encoders[0].self_attn
        for name, encoder in encoders.items()
        if name != E_BRANCHFORMER
    }
    assert not attention[EAGER].use_sdpa
    assert attention[SDPA].use_sdpa and attention[ABSOLUTE].use_sdpa
    assert hasattr(attention[SDPA], "linear_pos")
    assert not hasattr(attention[ABSOLUTE], "linear_pos")
    assert PEERS["ours, no reuse"].group_sizes == [1, 1]
    assert PEERS["reuse, groups of 2"].group_sizes == [2]
    reuse = encoders["reuse, groups of 2"].encoders[1].self_attn
    assert not hasattr(reuse, "linear_q") and hasattr(reuse, "linear_v")
    assert len(encoders[E_BRANCHFORMER].encoders) == len(encoders[EAGER].encoders)


def test_the_limit_is_the_baseline_but_for_attention(encoders):
    baseline, limit = (set(encoders[name].state_dict()) for name in (EAGER, LIMIT))
    assert {name for name in baseline if ".self_attn." not in name} == limit
    weights = encoders[LIMIT].state_dict()
    for name, weight in encoders[EAGER].state_dict().items():
        if name in limit:
            assert torch.equal(weight, weights[name])
    layer = encoders[LIMIT].encoders[0].eval()
    x = torch.randn(1, 5, 16)
    for module in (layer.feed_forward, layer.feed_forward_macaron, layer.conv_module):
        module.forward = lambda x, **kwargs: torch.zeros_like(x)
    (y, _), _ = layer((x, x), None)
    expected = layer.norm_final(x + layer.norm_mha(x))
    torch.testing.assert_close(y, expected)


def test_encoders_of_the_same_function_have_the_same_output(encoders):
    output = encode(encoders[EAGER])
    for name in (SDPA, "ours, no reuse"):
        torch.testing.assert_close(encode(encoders[name]), output)
    for name in (ABSOLUTE, "reuse, groups of 2", LIMIT):
        assert not torch.allclose(encode(encoders[name]), output)


def test_fewer_layers_are_the_lower_ones(encoders):
    fewer = with_layers(PEERS[EAGER], 1)
    assert fewer.name == "Conformer, 1 layer"
    encoder = build_encoder(fewer, CONFIG.input_size, encoders[EAGER])
    assert len(encoder.encoders) == 1
    weight = encoders[EAGER].state_dict()["encoders.0.self_attn.linear_q.weight"]
    assert torch.equal(encoder.encoders[0].self_attn.linear_q.weight, weight)


@pytest.mark.parametrize("input_layer", ["linear", "conv2d", "conv2d2", "conv2d8"])
def test_output_frames_are_counted_as_the_encoder_leaves_them(input_layer):
    peer = with_layers(PEERS[EAGER], 1)
    peer.conf["input_layer"] = input_layer
    encoder = build_encoder(peer, 20)
    for frames in (15, 64, 101):
        counted = count_output_frames(encoder, 20, frames)
        assert counted == encode(encoder, frames).size(1)
    if input_layer != "linear":
        assert count_output_frames(encoder, 20, 3) == 0
