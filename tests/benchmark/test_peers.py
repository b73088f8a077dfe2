# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The encoders of the benchmark are what their names say."""

from pathlib import Path

import pytest
import torch
import yaml
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_reuse.benchmark import peers
from espnet_reuse.benchmark.peers import (
    ABSOLUTE,
    COARSER,
    E_BRANCHFORMER,
    ESPNET,
    LIMIT,
    NAIVE,
    SDPA,
)
from espnet_reuse.errors import UserError

REPOSITORY = Path(__file__).parents[2]
CONFIG = peers.read_config(Path(__file__).with_name("tiny.yaml"))
SIZES = {"output_size": 16, "attention_heads": 8, "num_blocks": 2}
OTHERS = {
    "transformer": {"linear_units": 32},
    "branchformer": {"cgmlp_linear_units": 32, "cgmlp_weight": [0.3, 0.5]},
    "e_branchformer": {"cgmlp_linear_units": 32, "merge_conv_kernel": 3},
}
CONFIGS = {"conformer": CONFIG} | {
    name: peers.make_config(name, SIZES | conf, input_size=20)
    for name, conf in OTHERS.items()
}
PEERS = {
    encoder: {peer.name: peer for peer in peers.list_peers(config, [1, 2])}
    for encoder, config in CONFIGS.items()
}


@pytest.fixture(scope="module", params=PEERS)
def family(request):
    """The name of a parent, and the encoders that are compared with it."""
    listed = list(PEERS[request.param].values())
    return request.param, peers.build_encoders(listed)


def encode(encoder, frames=100):
    features = torch.randn(1, frames, 20, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return encoder.eval()(features, torch.tensor([frames]))[0]


def test_the_standard_conformer_is_that_of_our_librispeech_100_recipe():
    path = REPOSITORY / "egs2/librispeech_100/asr1/conf/train_asr_conformer.yaml"
    conf = yaml.safe_load(path.read_text())["encoder_conf"]
    config = peers.make_config("conformer")
    assert conf.items() <= config.conf.items()
    assert config == peers.read_config(path)


def test_what_a_command_line_is_checked_for_is_the_same_in_all_standard_encoders():
    assert set(peers.STANDARD_CONFS) == {
        *("conformer", "transformer", "branchformer", "e_branchformer")
    }
    configs = [peers.make_config(name) for name in peers.STANDARD_CONFS]
    names = ("num_blocks", "output_size", "attention_heads", "input_layer")
    for name in (*names, "input_size"):
        assert len({config.conf[name] for config in configs}) == 1, name
    assert len({config.frames_per_second for config in configs}) == 1


@pytest.mark.parametrize("encoder", peers.STANDARD_CONFS)
def test_a_stock_config_and_its_reuse_config_are_the_same_baseline(encoder, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"encoder: {encoder}\n")
    stock = peers.read_config(path)
    conf = "{reuse_group_size: 2, stochastic_depth_rate: 0.1, layer_drop_rate: 0.1}"
    path.write_text(f"encoder: {encoder}_reuse\nencoder_conf: {conf}\n")
    assert peers.read_config(path) == stock
    assert peers.list_peers(stock, [])[0].encoder == stock.encoder == encoder


def test_the_frame_rate_without_a_frontend_is_that_of_espnets_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("encoder: transformer\n")
    frontend = DefaultFrontend()
    config = peers.read_config(path)
    assert config.frames_per_second == 16000 / frontend.hop_length
    assert config.conf["input_size"] == frontend.output_size()


def test_the_frontend_gives_features_and_frame_rate(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "encoder: conformer\nfrontend_conf: {n_mels: 40, fs: 8000, hop_length: 64}\n"
    )
    config = peers.read_config(path)
    assert (config.conf["input_size"], config.frames_per_second) == (40, 125)


@pytest.mark.parametrize(
    "text",
    [
        *("encoder: rnn", "[]", "encoder: conformer\nencoder_conf: 3"),
        "encoder: conformer\nfrontend_conf: {hop_length: 0}",
        "encoder: conformer\nencoder_conf: {input_layer: embed}",
        "encoder: conformer\nencoder_conf: {num_blocks: 0}",
        "encoder: [conformer]",
    ],
)
def test_a_config_that_cannot_be_measured_is_refused(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=str(path)):
        peers.read_config(path)


def attention_of(encoder, layer=0):
    layer = encoder.encoders[layer]
    return layer.attn if hasattr(layer, "attn") else layer.self_attn


def test_peers_differ_from_the_baseline_in_what_their_names_say(family):
    name, encoders = family
    assert not attention_of(encoders[ESPNET]).use_sdpa
    assert attention_of(encoders[SDPA]).use_sdpa
    has_positions = hasattr(attention_of(encoders[ESPNET]), "linear_pos")
    assert has_positions == (name != "transformer") == (ABSOLUTE in encoders)
    assert hasattr(attention_of(encoders[SDPA]), "linear_pos") == has_positions
    if has_positions:
        assert attention_of(encoders[ABSOLUTE]).use_sdpa
        assert not hasattr(attention_of(encoders[ABSOLUTE]), "linear_pos")
    coarser = {n: x for n in encoders for f, x in COARSER.items() if n.startswith(f)}
    assert len(coarser) == 4 * (name == "conformer")
    for peer, input_layer in coarser.items():
        conf = PEERS[name][peer].conf
        assert conf["input_layer"] == input_layer
        ms = int(peer.split()[2])  # of a frame; 10 before subsampling
        assert encode(encoders[peer], 800).size(1) == pytest.approx(8000 / ms, abs=3)
        assert ("groups of 2" in peer) == (conf.get("reuse_group_size") == 2)
    naive = f"reuse, groups of 2{NAIVE}"
    others = [x for x in PEERS[name].values() if x.name not in {*coarser, naive}]
    sizes = [peer.conf.get("reuse_group_size") for peer in others]
    assert sizes == [None] * (len(sizes) - 3) + [1, 2, None]
    assert hasattr(attention_of(encoders["ours, no reuse"], layer=1), "linear_q")
    reuse = attention_of(encoders["reuse, groups of 2"], layer=1)
    assert not hasattr(reuse, "linear_q") and hasattr(reuse, "linear_v")
    assert (E_BRANCHFORMER in encoders) == (name == "conformer")
    assert {len(encoder.encoders) for encoder in encoders.values()} == {2}


def test_the_limit_is_the_baseline_but_for_attention(family):
    _, encoders = family
    baseline, limit = encoders[ESPNET], encoders[LIMIT]
    attention = set(attention_of(baseline).state_dict())
    kept = {
        name: weight
        for name, weight in baseline.state_dict().items()
        if name.partition("attn.")[2] not in attention
    }
    assert len(baseline.state_dict()) - len(kept) == 2 * len(attention)
    weights = limit.state_dict()
    assert kept.keys() == weights.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in kept.items())
    x = torch.randn(1, 5, 16)
    assert attention_of(limit)(x, x, x, None, None) is x


def test_a_layer_without_attention_has_none_in_the_limit_either():
    conf = CONFIGS["branchformer"].conf | {"use_attn": False}
    limit = peers.list_peers(peers.make_config("branchformer", conf, 20), [1])[-1]
    encoder = peers.build_encoder(limit)
    assert all(layer.attn is None for layer in encoder.encoders)
    encode(encoder)


def test_encoders_of_the_same_function_have_the_same_output(family):
    _, encoders = family
    output = encode(encoders[ESPNET])
    for name in (SDPA, "ours, no reuse"):
        torch.testing.assert_close(encode(encoders[name]), output)
    groups, naive = (f"reuse, groups of 2{name}" for name in ("", NAIVE))
    torch.testing.assert_close(encode(encoders[groups]), encode(encoders[naive]))
    is_fast = {name: attention_of(encoders[name]).is_fast for name in (groups, naive)}
    assert is_fast == {groups: True, naive: False}
    for name in {ABSOLUTE, "reuse, groups of 2", LIMIT} & set(encoders):
        assert not torch.allclose(encode(encoders[name]), output)


def test_fewer_layers_are_the_lower_ones(family):
    name, encoders = family
    fewer = peers.with_layers(PEERS[name][ESPNET], 1)
    assert fewer.name == "ESPnet, 1 layer"
    encoder = peers.build_encoder(fewer, encoders[ESPNET])
    assert len(encoder.encoders) == 1
    layer, full = encoder.encoders[0], encoders[ESPNET].encoders[0]
    assert getattr(layer, "cgmlp_weight", 0) == getattr(full, "cgmlp_weight", 0)
    for name, weight in full.state_dict().items():
        assert torch.equal(layer.state_dict()[name], weight)


@pytest.mark.parametrize(
    ("encoder", "input_layer"),
    [("conformer", layer) for layer in ("linear", "conv2d", "conv2d2", "conv2d8")]
    + [("transformer", "conv1d2"), ("branchformer", "conv2d6")]
    + [("e_branchformer", layer) for layer in ("conv1d1", "conv1d3")],
)
def test_output_frames_are_counted_as_the_encoder_leaves_them(encoder, input_layer):
    peer = peers.with_layers(PEERS[encoder][ESPNET], 1)
    peer.conf["input_layer"] = input_layer
    encoder = peers.build_encoder(peer)
    for frames in (15, 64, 101):
        counted = peers.count_output_frames(encoder, 20, frames)
        assert counted == encode(encoder, frames).size(1)
    if input_layer.startswith("conv2d"):
        assert peers.count_output_frames(encoder, 20, 3) == 0
