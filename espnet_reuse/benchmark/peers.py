# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The encoders that are compared: ESPnet's, ours, and ours without attention."""

import contextlib
import copy
import dataclasses
import inspect
import io
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch
import yaml

with contextlib.redirect_stderr(io.StringIO()):  # ESPnet prints that flash_attn lacks
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder

    from espnet_reuse.asr.encoder.conformer_reuse_encoder import ConformerReuseEncoder
    from espnet_reuse.asr.layers.attention_map_reuse import (
        ReuseConfigError as ReuseConfigError,  # for the command
    )
    from espnet_reuse.asr.layers.attention_map_reuse import (
        resolve_group_sizes,
        uses_fast_paths,
    )

# encoder_conf of ESPnet's egs2/librispeech_100/asr1/conf/tuning/
# train_asr_conformer_lr2e-3_warmup15k_amp_nondeterministic.yaml
DEFAULT_CONFIG = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 256,
        "attention_heads": 4,
        "linear_units": 1024,
        "num_blocks": 12,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "conv2d",
        "normalize_before": True,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 31,
    },
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160},
}
ENCODER_CLASSES = {
    "conformer": ConformerEncoder,
    "conformer_reuse": ConformerReuseEncoder,
    "e_branchformer": EBranchformerEncoder,
}
# They skip layers at random or need a CTC module: times would not compare.
LEFT_OUT = (
    "stochastic_depth_rate",
    "layer_drop_rate",
    "interctc_layer_idx",
    "interctc_use_conditioning",
    "ctc_trim",
)
EAGER = "ESPnet eager"
SDPA = "ESPnet use_sdpa"
ABSOLUTE = "absolute positions, SDPA"
E_BRANCHFORMER = "E-Branchformer"
LIMIT = "limit"
SEED = 0


class ConfigError(ValueError):
    """The YAML cannot be measured; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What a training configuration says about the encoder and its input.

    Attributes:
        conf: Arguments of ConformerEncoder but `input_size`, all of them.
        reuse_dropout: Argument of ConformerReuseEncoder.
        input_size: Features per frame.
        frames_per_second: Frames per second of audio, before subsampling.
    """

    conf: Dict
    reuse_dropout: str
    input_size: int
    frames_per_second: float


@dataclasses.dataclass(frozen=True)
class Peer:
    """An encoder that takes part; small, so that another process can build it.

    Attributes:
        name: Name in tables.
        encoder: Key in ENCODER_CLASSES.
        conf: Arguments of the encoder but `input_size`.
        without_attention: Whether attention is taken out of its layers.
    """

    name: str
    encoder: str
    conf: Dict
    without_attention: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether this is the encoder of this package, with its attention."""
        return self.encoder == "conformer_reuse" and not self.without_attention

    @property
    def group_sizes(self) -> List[int]:
        """Number of layers of each group, ones where there is no reuse."""
        return resolve_group_sizes(
            self.conf.get("reuse_group_size", 1), self.conf["num_blocks"]
        )


class NoAttention(torch.nn.Module):
    """Stands where attention was, and does nothing."""

    def forward(self, query, *args):
        """Return the query (#batch, time, size)."""
        return query


def read_config(path: Optional[Path]) -> EncoderConfig:
    """Read the encoder and the frame rate of an ESPnet training configuration.

    Args:
        path: YAML file; None for the sizes of librispeech_100's Conformer.

    Raises:
        ConfigError: The file cannot be read or describes no Conformer.
    """
    try:
        config = DEFAULT_CONFIG if path is None else yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"is not valid YAML: {problem}") from error
    encoder = config.get("encoder") if isinstance(config, dict) else None
    if encoder not in ("conformer", "conformer_reuse"):
        raise ConfigError(
            f"has encoder: {encoder}; needed is an ESPnet training configuration "
            "with encoder: conformer or conformer_reuse"
        )
    own = config.get("encoder_conf") or {}
    frontend = config.get("frontend_conf") or {}
    if not isinstance(own, dict) or not isinstance(frontend, dict):
        raise ConfigError("has an encoder_conf or frontend_conf that is no mapping")
    parameters = inspect.signature(ConformerEncoder).parameters.values()
    conf = {p.name: p.default for p in parameters if p.default is not p.empty}
    # flash attention needs a GPU and serves absolute positions: SDPA stands for it
    conf |= own | {"use_sdpa": False, "use_flash_attn": False}
    conf.pop("reuse_group_size", None)
    for name in LEFT_OUT:
        conf.pop(name, None)
    if conf["input_layer"] in ("embed", None):
        raise ConfigError(
            f"has input_layer: {conf['input_layer']}; needed is one that takes "
            "features, such as conv2d"
        )
    reuse_dropout = conf.pop("reuse_dropout", "per_layer")
    try:
        rate = float(str(frontend.get("fs", 16000)).lower().replace("k", "e3"))
        frames_per_second = rate / int(frontend.get("hop_length", 160))
        input_size = int(frontend.get("n_mels", 80))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            "has a frontend_conf whose fs, hop_length or n_mels is no positive number"
        ) from error
    return EncoderConfig(conf, reuse_dropout, input_size, frames_per_second)


def list_peers(config: EncoderConfig, group_sizes: Sequence[int]) -> List[Peer]:
    """Return all peers but the Conformer with fewer layers, the baseline first."""
    conf = config.conf
    absolute = {
        "pos_enc_layer_type": "abs_pos",
        "selfattention_layer_type": "selfattn",
        "use_sdpa": True,
    }
    shared = (
        *("output_size", "attention_heads", "linear_units", "num_blocks"),
        *("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"),
        *("input_layer", "max_pos_emb_len", "padding_idx", "use_flash_attn"),
    )
    e_branchformer = {name: conf[name] for name in shared} | {
        "cgmlp_linear_units": conf["linear_units"],
        "cgmlp_conv_kernel": conf["cnn_module_kernel"],
        "merge_conv_kernel": conf["cnn_module_kernel"],  # as in ESPnet's recipes
        "use_ffn": True,
        "macaron_ffn": conf["macaron_style"],
        "ffn_activation_type": conf["activation_type"],
    }
    peers = [
        Peer(EAGER, "conformer", conf),
        Peer(SDPA, "conformer", conf | {"use_sdpa": True}),
        Peer(ABSOLUTE, "conformer", conf | absolute),
        Peer(E_BRANCHFORMER, "e_branchformer", e_branchformer),
    ]
    for size in group_sizes:
        reuse = {"reuse_group_size": size, "reuse_dropout": config.reuse_dropout}
        name = "ours, no reuse" if size == 1 else f"reuse, groups of {size}"
        peers.append(Peer(name, "conformer_reuse", conf | reuse))
    # of our class, whose mask of padded frames costs less: nothing of ours beats it
    return [*peers, Peer(LIMIT, "conformer_reuse", conf, without_attention=True)]


def with_layers(baseline: Peer, num_blocks: int) -> Peer:
    """Return the baseline with another number of layers."""
    name = f"Conformer, {num_blocks} layer{'s' * (num_blocks > 1)}"
    return Peer(name, baseline.encoder, baseline.conf | {"num_blocks": num_blocks})


def build_encoder(
    peer: Peer, input_size: int, weights_of: Optional[torch.nn.Module] = None
) -> torch.nn.Module:
    """Build an encoder on the CPU.

    Args:
        peer: Which one.
        input_size: Features per frame.
        weights_of: Encoder whose weights it takes where names and shapes agree.
    """
    torch.manual_seed(SEED)
    encoder = ENCODER_CLASSES[peer.encoder](input_size, **peer.conf)
    if peer.without_attention:
        for layer in encoder.encoders:
            layer.self_attn = NoAttention()
    if weights_of is not None:
        own = encoder.state_dict()
        weights = {
            name: weight
            for name, weight in weights_of.state_dict().items()
            if name in own and own[name].shape == weight.shape
        }
        encoder.load_state_dict(weights, strict=False)
    return encoder


def build_encoders(
    peers: Sequence[Peer], input_size: int
) -> Dict[str, torch.nn.Module]:
    """Build the encoders of all peers, with the first one's weights.

    Raises:
        ConfigError: One cannot be built from its encoder_conf.
        ReuseConfigError: ESPNET_REUSE_IMPL is neither `fast` nor `naive`.
    """
    uses_fast_paths()
    encoders = {}
    for peer in peers:
        try:
            encoders[peer.name] = build_encoder(
                peer, input_size, encoders.get(peers[0].name)
            )
        except Exception as error:  # ESPnet's constructors raise anything
            problem = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"has an encoder_conf of which '{peer.name}' cannot be built: {problem}"
            ) from error
    return encoders


def count_output_frames(encoder: torch.nn.Module, input_size: int, frames: int) -> int:
    """Return how many frames subsampling leaves, without computing them."""
    embed = encoder.embed
    if frames < 1 or isinstance(embed, torch.nn.Sequential):
        return frames
    try:
        features = torch.empty(1, frames, input_size, device="meta")
        convolutions = copy.deepcopy(embed.conv).to("meta")
        return convolutions(features.unsqueeze(1)).size(2)
    except RuntimeError:  # the kernel is larger than the input
        return 0
