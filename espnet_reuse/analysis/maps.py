# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Attention maps, hidden states and frame times of a trained ESPnet encoder."""

import contextlib
import functools
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
    """Maps and hidden states of one utterance, float32, on the CPU.

    Attributes:
        maps: Attention maps (layer, head, time, time); a consumer's is its producer's.
        states: Input of the first layer, and output of each (layer + 1, time, size).
    """

    maps: torch.Tensor
    states: torch.Tensor


class FrameTimes(NamedTuple):
    """When the encoder's frames are: frame k is about `first + k * shift` seconds.

    Attributes:
        shift: Seconds from one frame to the next.
        first: Centre of the audio that the first frame sees, in seconds.
    """

    shift: float
    first: float

    def of(self, num_frames: int) -> torch.Tensor:
        """Return the times (num_frames,) of the first frames, in seconds, float64."""
        return self.first + self.shift * torch.arange(num_frames, dtype=torch.float64)


class AnalysedModel:
    """An ESPnet ASR model whose encoder shows its attention maps.

    Args:
        model (ESPnetASRModel): A trained model. It is put into evaluation mode, and
            its attention modules compute the map that fused kernels do not.

    Attributes:
        group_sizes: Number of layers of each group that shares a map.

    Raises:
        UserError: The encoder has no attention maps that could be analysed.
    """

    def __init__(self, model):
        self.model = model.eval()
        encoder = model.encoder
        name = type(encoder).__name__
        if not isinstance(encoder, SUPPORTED):
            supported = ", ".join(cls.__name__ for cls in SUPPORTED)
            raise UserError(
                f"{name} is not supported; use a model with one of {supported} or "
                "their reuse counterparts"
            )
        if getattr(encoder, "ctc_trim", False):
            raise UserError(
                "encoder_conf.ctc_trim drops frames between layers, so that their maps "
                "cannot be compared; use a model without it"
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
                    f"layer {n} of {name} has no attention map ("
                    f"{type(attention).__name__}); use a model with rel_selfattn or "
                    "selfattn in every layer"
                )

    @torch.no_grad()
    def record(self, speech: torch.Tensor, utt_id: str) -> Recording:
        """Encode a waveform (samples,), float32, at the model's sampling rate.

        Raises:
            UserError: Utterance `utt_id` is too short for the encoder's subsampling.
        """
        states, maps = [], []

        def keep_states(x):
            states.append(_without_positions(x).float().cpu())

        def keep_layer(attention, layer, inputs, output):
            keep_states(output[0])
            if isinstance(attention, MapConsumer):
                maps.append(maps[-1])
            else:
                maps.append(attention.attn[0].float().cpu())
                attention.attn = None

        with contextlib.ExitStack() as hooks:
            keep = self.layers[0].register_forward_pre_hook
            hooks.enter_context(keep(lambda _, inputs: keep_states(inputs[0])))
            for layer, attention in zip(self.layers, self.attentions, strict=True):
                keep = functools.partial(keep_layer, attention)
                hooks.enter_context(layer.register_forward_hook(keep))
            try:
                self._encode(speech)
            except TooShortUttError as error:
                why = error.args[0].split(",")[0]
                raise UserError(f"{utt_id} {why}; remove it") from None
        return Recording(torch.stack(maps), torch.stack(states))

    def measure_frame_times(self, rate: int) -> FrameTimes:
        """Find which samples an encoder frame sees, by the gradient.

        This holds for every frontend and every subsampling, without a table of them.
        The normalisation is left out: over an utterance it sees everything. Where a
        self-supervised frontend does, too, frames are spread evenly over the utterance.
        The rate is in Hz.
        """
        generator = torch.Generator().manual_seed(0)
        speech = torch.randn(4 * rate, generator=generator).requires_grad_()
        inputs = []
        model = self.model
        normalize, model.normalize = model.normalize, None
        try:
            with self.layers[0].register_forward_pre_hook(
                lambda _, args: inputs.append(_without_positions(args[0]))
            ):
                self._encode(speech)
        finally:
            model.normalize = normalize
        middle = len(inputs[0]) // 2
        centres = []
        for frame in (middle, middle + 1):
            (gradient,) = torch.autograd.grad(
                inputs[0][frame].square().sum(), speech, retain_graph=True
            )
            seen = gradient.nonzero()
            if len(seen) > 3 * rate:
                return FrameTimes(4 / len(inputs[0]), 2 / len(inputs[0]))
            centres.append((seen.min() + seen.max()).item() / 2 / rate)
        shift = centres[1] - centres[0]
        return FrameTimes(shift, centres[0] - middle * shift)

    @torch.no_grad()
    def count_flops(self, speech: torch.Tensor) -> Tuple[int, int]:
        """Count floating point operations, multiplications and additions.

        Args:
            speech: Waveform (samples,), float32, at the model's sampling rate.

        Returns:
            Operations of the whole encoder, with a producer in every layer; and those
            that one consumer in a producer's place saves.
        """
        calls = []
        encoder = self.model.encoder
        first = self.attentions[0]  # always a producer
        with (
            first.register_forward_pre_hook(lambda _, args: calls.append(args)),
            encoder.register_forward_pre_hook(lambda _, args: calls.append(args)),
        ):
            self._encode(speech)
        encoder_args, attention_args = calls
        value = attention_args[2]
        size, num_frames = value.size(-1), value.size(-2)
        projections = _count_flops(lambda: first.linear_out(first.linear_v(value)))
        producer = _count_flops(lambda: first(*attention_args))
        saved = producer - projections - 2 * num_frames**2 * size
        wants_ctc = getattr(encoder, "interctc_use_conditioning", False)
        ctc = {"ctc": self.model.ctc} if wants_ctc else {}
        total = _count_flops(lambda: encoder(*encoder_args, **ctc))
        consumers = len(self.layers) - len(self.group_sizes)
        return total + consumers * saved, saved

    def _encode(self, speech):
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(speech)], device=device)
        self.model.encode(speech[None].to(device), lengths)


def _without_positions(x):
    """Return the states (time, size) of a batch of one, with or without positions."""
    return (x[0] if isinstance(x, tuple) else x)[0]


def _count_flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def prepare_model(model, config: Dict) -> Tuple[AnalysedModel, int]:
    """Return a trained ESPnetASRModel to be analysed, and its sampling rate in Hz.

    Raises:
        UserError: It was trained on features, or has no maps to analyse.
    """
    if model.frontend is None:
        raise UserError(
            "the config has no frontend: the model was trained on features; use one "
            "that was trained on audio (feats_type raw)"
        )
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    return AnalysedModel(model), int(humanfriendly.parse_size(str(rate)))
