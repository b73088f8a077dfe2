# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The encoders that are compared: ESPnet's, ours, and ours without attention."""

import copy
import dataclasses
import inspect
import os
import pkgutil
from pathlib import Path
from unittest.mock import patch

import humanfriendly
import torch

from espnet_reuse.errors import UserError, one_line
from espnet_reuse.registry import ENCODERS

ENCODER_CLASSES = {
    path.split(".")[-2].removesuffix("_encoder"): pkgutil.resolve_name(path)
    for path in (*ENCODERS, *ENCODERS.values())
}

SIZES = {"num_blocks": 12, "attention_dropout_rate": 0.1}
# What ESPnet's egs2/librispeech_100/asr1/conf/tuning/train_asr_{conformer_lr2e-3_
# warmup15k_amp_nondeterministic,e_branchformer_size256_mlp1024_linear1024_e12_mactrue_
# edrop0.0_ddrop0.0}.yaml change of the defaults; the others keep ESPnet's defaults.
STANDARD_CONFS = {
    "conformer": SIZES
    | {"linear_units": 1024, "macaron_style": True, "rel_pos_type": "latest"},
    "transformer": SIZES,
    "branchformer": SIZES,
    "e_branchformer": SIZES
    | {"linear_units": 1024, "cgmlp_linear_units": 1024, "merge_conv_kernel": 31}
    | {"use_ffn": True, "macaron_ffn": True},
}
# They skip layers at random or need a CTC module, and times would not compare; or they
# are classes, which no YAML has.
LEFT_OUT = {
    *("stochastic_depth_rate", "layer_drop_rate", "attn_branch_drop_rate"),
    *("interctc_layer_idx", "interctc_use_conditioning", "ctc_trim", "pos_enc_class"),
}
ESPNET = "ESPnet"
SDPA = "ESPnet use_sdpa"
ABSOLUTE = "absolute positions, SDPA"
E_BRANCHFORMER = "E-Branchformer"
COARSER = {"frames of 60 ms": "conv2d6", "frames of 80 ms": "conv2d8"}
LIMIT = "limit"
NAIVE = ", ESPnet's operations"  # ends the name of reuse without our operations
# of runtimes: ESPnet's encoder as PyTorch computes it, and with what we replace of it
OWN = "ESPnet, its own operations"
SAME = "ESPnet, our operations"
FRONTEND = "frontend alone"
RIVALS = (ESPNET, SDPA, ABSOLUTE, E_BRANCHFORMER)
SEED = 0


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What a training configuration says about the encoder and its input."""

    encoder: str  # the parent, such as conformer
    conf: dict  # arguments of the parent, with its defaults
    reuse_dropout: str
    frames_per_second: float  # before subsampling

    @property
    def relative_option(self) -> str | None:
        """Argument that gives attention relative positions, None where it has none."""
        for name, value in self.conf.items():
            if name.endswith("attention_layer_type") and "rel_selfattn" in str(value):
                return name
        return None


@dataclasses.dataclass(frozen=True)
class Peer:
    """An encoder that takes part; small, so that another process can build it."""

    name: str  # in tables; LIMIT has no attention in its layers
    encoder: str  # a key in ENCODER_CLASSES
    conf: dict  # arguments of the encoder
    naive: bool = False  # of ours: with ESPnet's operations instead of fast ones


class NoAttention(torch.nn.Module):
    """Stands where attention was, and does nothing."""

    def forward(self, query, *args):
        """Return the query (#batch, time, size)."""
        return query


def read_config(path: Path) -> EncoderConfig:
    """Read the encoder and the frame rate of an ESPnet training configuration, a YAML.

    Raises:
        OSError: The file cannot be read.
        UserError: It describes none of the encoders.
    """
    from espnet_reuse import pretrained  # not for the processes that measure memory

    config = pretrained.read_config(path)
    encoder, conf = config["encoder"], config["encoder_conf"]
    if encoder not in ENCODER_CLASSES:
        known = ", ".join(ENCODER_CLASSES)
        raise UserError(f"{path} has encoder: {encoder}; use a config with {known}")
    frontend = config.get("frontend_conf") or {}
    if not isinstance(conf, dict) or not isinstance(frontend, dict):
        raise UserError(f"{path}: encoder_conf and frontend_conf must be mappings")
    try:
        fs = humanfriendly.parse_size(str(frontend.get("fs", "16k")))
        rate = fs / int(frontend.get("hop_length", 128))
        input_size = int(frontend.get("n_mels", 80))
    except (humanfriendly.InvalidSize, ValueError, TypeError, ZeroDivisionError):
        raise UserError(
            f"{path}: fs, hop_length and n_mels in frontend_conf must be positive"
        ) from None
    config = make_config(encoder.removesuffix("_reuse"), conf, input_size, rate)
    num_blocks, input_layer = config.conf["num_blocks"], config.conf["input_layer"]
    if type(num_blocks) is not int or num_blocks < 1:  # bool is an int in Python
        raise UserError(f"{path}: num_blocks: {num_blocks} must be a positive integer")
    if input_layer in ("embed", None):
        raise UserError(f"{path}: use input_layer: conv2d, not {input_layer}")
    return config


def make_config(
    encoder: str,
    conf: dict | None = None,
    input_size: int = 80,
    frames_per_second: float = 100.0,
) -> EncoderConfig:
    """Complete the arguments of a parent, or of the reuse encoder, with the defaults.

    Without `conf`, it has the standard sizes: 12 layers, width 256, 4 heads.
    """
    parameters = inspect.signature(ENCODER_CLASSES[encoder]).parameters.values()
    full = {p.name: p.default for p in parameters}
    full |= STANDARD_CONFS[encoder] if conf is None else conf
    # flash attention needs a GPU and serves absolute positions: SDPA stands for it
    full |= {"input_size": input_size, "use_sdpa": False, "use_flash_attn": False}
    full.pop("reuse_group_size", None)
    reuse_dropout = full.pop("reuse_dropout", "per_layer")
    kept = {name: value for name, value in full.items() if name not in LEFT_OUT}
    return EncoderConfig(encoder, kept, reuse_dropout, frames_per_second)


def list_peers(config: EncoderConfig, group_sizes: list[int]) -> list[Peer]:
    """Return the baseline, ESPnet's others, ours by `group_sizes`, and the limit."""
    parent, conf = config.encoder, config.conf
    ours, sdpa = parent + "_reuse", conf | {"use_sdpa": True}
    peers = [baseline_of(config), Peer(SDPA, parent, sdpa)]
    if option := config.relative_option:
        absolute = {"pos_enc_layer_type": "abs_pos", option: "selfattn"}
        peers.append(Peer(ABSOLUTE, parent, sdpa | absolute))
    if parent == "conformer":
        peers.append(Peer(E_BRANCHFORMER, "e_branchformer", _e_branchformer_of(conf)))
    largest = {"reuse_group_size": max(group_sizes, default=1)}
    coarsened = parent == "conformer" and conf["input_layer"] == "conv2d"
    for name, input_layer in COARSER.items() if coarsened else ():
        coarser = conf | {"input_layer": input_layer}
        peers.append(Peer(name, parent, coarser))
        if largest["reuse_group_size"] > 1:
            name += ", groups of {reuse_group_size}".format(**largest)
            peers.append(Peer(name, ours, coarser | largest))
    listed = list_ours(config, group_sizes)
    if largest["reuse_group_size"] > 1:
        name = listed[-1].name + NAIVE
        peers.append(dataclasses.replace(listed[-1], name=name, naive=True))
    return [*peers, *listed, limit_of(config)]


def baseline_of(config: EncoderConfig) -> Peer:
    """Return ESPnet's encoder in its default form."""
    return Peer(ESPNET, config.encoder, config.conf)


def limit_of(config: EncoderConfig) -> Peer:
    """Return the encoder without attention."""
    # of our class, whose mask of padded frames costs less: nothing of ours beats it
    return Peer(LIMIT, f"{config.encoder}_reuse", config.conf)


def list_ours(config: EncoderConfig, group_sizes: list[int]) -> list[Peer]:
    """Return our encoders by `group_sizes`."""
    ours = []
    for size in group_sizes:
        reuse = {"reuse_group_size": size, "reuse_dropout": config.reuse_dropout}
        name = "ours, no reuse" if size == 1 else f"reuse, groups of {size}"
        ours.append(Peer(name, f"{config.encoder}_reuse", config.conf | reuse))
    return ours


def _e_branchformer_of(conf):
    """Return the arguments of an E-Branchformer of a Conformer's sizes."""
    shared = (
        *("input_size", "output_size", "attention_heads", "linear_units"),
        *("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"),
        *("num_blocks", "input_layer", "max_pos_emb_len", "padding_idx"),
    )
    return {name: conf[name] for name in shared} | {
        "cgmlp_linear_units": conf["linear_units"],
        "cgmlp_conv_kernel": conf["cnn_module_kernel"],
        "merge_conv_kernel": conf["cnn_module_kernel"],  # as in ESPnet's recipes
        "use_ffn": True,
        "macaron_ffn": conf["macaron_style"],
        "ffn_activation_type": conf["activation_type"],
    }


def with_layers(baseline: Peer, num_blocks: int) -> Peer:
    """Return the baseline with another number of layers."""
    conf = {  # a list, such as cgmlp_weight, has a value for each layer
        name: value[:num_blocks] if isinstance(value, list) else value
        for name, value in baseline.conf.items()
    }
    name = f"{baseline.name}, {num_blocks} layer{'s' * (num_blocks > 1)}"
    return Peer(name, baseline.encoder, conf | {"num_blocks": num_blocks})


def build_encoder(peer: Peer, source: torch.nn.Module | None = None) -> torch.nn.Module:
    """Build an encoder on the CPU, with a source's weights where their shapes agree."""
    torch.manual_seed(SEED)
    with patch.dict(os.environ, {"ESPNET_REUSE_IMPL": "naive"} if peer.naive else {}):
        encoder = ENCODER_CLASSES[peer.encoder](**peer.conf)
    if peer.name == LIMIT:
        remove_attention(encoder)
    if source is not None:
        shapes = {name: value.shape for name, value in encoder.state_dict().items()}
        weights = source.state_dict().items()
        fitting = {name: w for name, w in weights if shapes.get(name) == w.shape}
        encoder.load_state_dict(fitting, strict=False)
    return encoder


def remove_attention(encoder: torch.nn.Module) -> None:
    """Take the attention out of the layers of an encoder of ours."""
    attention = encoder.layer_class.attention_name
    for layer in encoder.encoders:
        if getattr(layer, attention) is not None:
            setattr(layer, attention, NoAttention())


def build_encoders(peers: list[Peer]) -> dict[str, torch.nn.Module]:
    """Build the encoders of all peers by name, with the first one's weights.

    Raises:
        UserError: One cannot be built from its encoder_conf.
    """
    encoders = {}
    for peer in peers:
        try:
            encoders[peer.name] = build_encoder(peer, encoders.get(peers[0].name))
        except Exception as error:  # ESPnet's constructors raise anything
            failed = f"'{peer.name}' cannot be built from the encoder_conf"
            raise UserError(f"{failed}: {one_line(error)}") from error
    return encoders


def count_output_frames(encoder: torch.nn.Module, input_size: int, frames: int) -> int:
    """Return how many frames subsampling leaves, without computing them."""
    if not hasattr(encoder.embed, "conv"):
        return frames
    convolutions = copy.deepcopy(encoder.embed.conv).to("meta")
    is_1d = isinstance(convolutions[0], torch.nn.Conv1d)
    shape = (1, input_size, frames) if is_1d else (1, 1, frames, input_size)
    try:
        return convolutions(torch.empty(shape, device="meta")).size(2)
    except RuntimeError:  # the kernel is larger than the input
        return 0
