# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Attention maps, hidden states and frame times of a trained ESPnet encoder."""

import contextlib
import functools
import math
from typing import Dict, NamedTuple, Tuple

import humanfriendly
import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    TooShortUttError,
)
from torch.utils.flop_counter import FlopCounterMode

from espnet_reuse.asr.layers.attention_map_reuse import MapConsumer
from espnet_reuse.errors import UserError
from espnet_reuse.pretrained import attentions_of

SUPPORTED = (
    ConformerEncoder,
    TransformerEncoder,
    BranchformerEncoder,
    EBranchformerEncoder,
)


class Recording(NamedTuple):
    """Maps and hidden states of one utterance, float32, on the CPU."""

    maps: torch.Tensor  # (layer, head, time, time); a consumer's is its producer's
    states: torch.Tensor  # first layer's input, each layer's output (L + 1, time, size)


class FrameTimes(NamedTuple):
    """When the encoder's frames are: frame k is about `first + k * shift` seconds."""

    shift: float  # seconds from one frame to the next
    first: float  # centre of the audio that the first frame sees, in seconds

    def of(self, num_frames: int) -> torch.Tensor:
        """Return the times (num_frames,) of the first frames, in seconds, float64."""
        return self.first + self.shift * torch.arange(num_frames, dtype=torch.float64)


class AnalysedModel:
    """A trained ESPnetASRModel whose encoder shows its attention maps.

    It is put into evaluation mode, and its attention modules compute the map that fused
    kernels do not. `group_sizes` are the layers of each group that shares a map.

    Raises:
        UserError: The encoder has no attention maps that could be analysed.
    """

    def __init__(self, model):
        self.model = model.eval()
        encoder = model.encoder
        if not isinstance(encoder, SUPPORTED):
            supported = ", ".join(cls.__name__ for cls in SUPPORTED)
            raise UserError(
                f"{type(encoder).__name__} cannot be analysed; use a model with one of "
                f"{supported}, with or without reuse"
            )
        if getattr(encoder, "ctc_trim", False):
            raise UserError(
                "ctc_trim: true in encoder_conf drops frames between layers, so their "
                "maps cannot be compared; use a model without it"
            )
        self.layers = list(encoder.encoders)
        self.attentions = attentions_of(encoder)
        self.group_sizes = []
        for n, attention in enumerate(self.attentions, 1):
            if isinstance(attention, MapConsumer):
                self.group_sizes[-1] += 1
            elif isinstance(attention, MultiHeadedAttention):
                self.group_sizes.append(1)
                attention.use_sdpa = attention.use_flash_attn = False
            else:
                raise UserError(
                    f"layer {n} has no attention map ({type(attention).__name__}); use "
                    "a model with rel_selfattn or selfattn in every layer"
                )

    @torch.no_grad()
    def record(self, speech: torch.Tensor, utt_id: str) -> Recording:
        """Encode a waveform (samples,), float32, at the model's sampling rate.

        Raises:
            UserError: Utterance `utt_id` is too short for the encoder's subsampling.
        """
        states, maps = [], []

        def keep(attention, layer, inputs, output):
            new = (output[0],) if states else (inputs[0], output[0])
            states.extend(_without_positions(x).float().cpu() for x in new)
            if isinstance(attention, MapConsumer):
                maps.append(maps[-1])
            else:
                maps.append(attention.attn[0].float().cpu())
                attention.attn = None

        with contextlib.ExitStack() as hooks:
            for layer, attention in zip(self.layers, self.attentions, strict=True):
                hook = functools.partial(keep, attention)
                hooks.enter_context(layer.register_forward_hook(hook))
            try:
                self._encode(speech)
            except TooShortUttError as error:
                why = error.args[0].split(",")[0]
                raise UserError(f"{utt_id} {why}; remove the utterance") from None
        return Recording(torch.stack(maps), torch.stack(states))

    def measure_frame_times(self, rate: int) -> FrameTimes:
        """Find which samples an encoder frame sees, by the gradient; the rate is in Hz.

        This holds for every frontend and every subsampling, without a table of them.
        The normalisation is left out: over an utterance it sees everything. Where a
        self-supervised frontend does, too, frames are spread evenly over the utterance.
        """
        generator = torch.Generator().manual_seed(0)
        speech = torch.randn(4 * rate, generator=generator).requires_grad_()
        inputs = []
        model = self.model
        normalize, model.normalize = model.normalize, None
        with self.layers[0].register_forward_pre_hook(
            lambda _, args: inputs.append(_without_positions(args[0]))
        ):
            self._encode(speech)
        model.normalize = normalize
        middle = len(inputs[0]) // 2
        centres = []
        for frame in (middle, middle + 1):
            energy = inputs[0][frame].square().sum()
            seen = torch.autograd.grad(energy, speech, retain_graph=True)[0].nonzero()
            if len(seen) > 3 * rate:
                return FrameTimes(4 / len(inputs[0]), 2 / len(inputs[0]))
            centres.append((seen.min() + seen.max()).item() / 2 / rate)
        shift = centres[1] - centres[0]
        return FrameTimes(shift, centres[0] - middle * shift)

    @torch.no_grad()
    def count_flops(self, speech: torch.Tensor) -> Tuple[int, int]:
        """Count the encoder's floating point operations on a waveform (samples,).

        Those of the whole encoder, with a producer in every layer; and those that one
        consumer in a producer's place saves. They are multiplications and additions.
        """
        operators = torch.ops.espnet_reuse
        ours = {operators.attention_map: _map_flops, operators.attend: _attend_flops}
        with FlopCounterMode(display=False, custom_mapping=ours) as counter:
            num_frames = self._encode(speech)
        flops = {
            name: sum(by_operation.values())
            for name, by_operation in counter.get_flop_counts().items()
        }
        names = {module: name for name, module in self.model.encoder.named_modules()}
        encoder = type(self.model.encoder).__name__
        first = f"{encoder}.{names[self.attentions[0]]}"  # always a producer
        consumer = flops[f"{first}.linear_v"] + flops[f"{first}.linear_out"]
        consumer += 2 * num_frames**2 * self.attentions[0].linear_v.out_features
        saved = flops[first] - consumer
        consumers = len(self.layers) - len(self.group_sizes)
        return flops[encoder] + consumers * saved, saved

    def _encode(self, speech):
        """Encode a waveform; return the number of frames."""
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(speech)], device=device)
        return self.model.encode(speech[None].to(device), lengths)[1].item()


def _map_flops(query, key, mask=None, query_pos=None, pos=None, **_):
    """Count the operations of an attention map, by the shapes of its arguments."""
    return 2 * math.prod(query) * (key[2] + (pos[2] if pos else 0))


def _attend_flops(query, key, value, *others, **_):
    return _map_flops(query, key, *others) + 2 * math.prod(query) * key[2]


def _without_positions(x):
    """Return the states (time, size) of a batch of one, with or without positions."""
    return (x[0] if isinstance(x, tuple) else x)[0]


def prepare_model(model, config: Dict) -> Tuple[AnalysedModel, int]:
    """Return a trained ESPnetASRModel to be analysed, and its sampling rate in Hz.

    Raises:
        UserError: It was trained on features, or has no maps to analyse.
    """
    if model.frontend is None:
        raise UserError(
            "the model was trained on features; use a model of audio (feats_type: raw)"
        )
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    return AnalysedModel(model), int(humanfriendly.parse_size(str(rate)))
