# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Attention maps, hidden states and frame times of a trained ESPnet encoder."""

import contextlib
from typing import Dict, Iterator, List, NamedTuple, Tuple

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
    """Maps and hidden states of one utterance, on the CPU.

    Attributes:
        maps: Attention maps (layer, head, time, time), float32; a consumer's is its
            producer's.
        states: Hidden states (layer + 1, time, size), float32: the input of the first
            layer, and the output of each.
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


class LayerCosts(NamedTuple):
    """Floating point operations of an encoder, in multiplications and additions.

    Attributes:
        encoder: The whole encoder, with a producer in every layer.
        saved: Operations that one consumer in a producer's place saves.
    """

    encoder: float
    saved: float

    def speed_up(self, num_producers: int, num_layers: int) -> float:
        """Return how many times less an encoder with consumers computes."""
        return self.encoder / (self.encoder - (num_layers - num_producers) * self.saved)


class AnalysedModel:
    """An ESPnet ASR model whose encoder shows its attention maps.

    Args:
        model (ESPnetASRModel): A trained model; it is put into evaluation mode.

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
        for n, attention in enumerate(self.attentions, 1):
            if not isinstance(attention, (MultiHeadedAttention, MapConsumer)):
                raise UserError(
                    f"layer {n} of {name} has no attention map ("
                    f"{type(attention).__name__}); use a model with rel_selfattn or "
                    "selfattn in every layer"
                )

    @property
    def num_heads(self) -> int:
        """Number of heads of every layer."""
        return self.attentions[0].h

    @property
    def group_sizes(self) -> List[int]:
        """Number of layers of each group that shares a map."""
        sizes = []
        for attention in self.attentions:
            if isinstance(attention, MapConsumer):
                sizes[-1] += 1
            else:
                sizes.append(1)
        return sizes

    def record(self, speech: torch.Tensor, utt_id: str) -> Recording:
        """Encode one utterance and return its maps and hidden states.

        Args:
            speech: Waveform (samples,), float32, at the model's sampling rate.
            utt_id: Utterance id, for the error.

        Raises:
            UserError: The utterance is too short for the encoder's subsampling.
        """
        states, maps = [], []

        def keep_input(layer, inputs):
            states.append(_without_positions(inputs[0])[0].detach().float().cpu())

        def keep_output(layer, inputs, outputs):
            keep_input(layer, outputs)

        def keep_map(producer, *_):
            maps.append(producer.attn[0].detach().float().cpu())
            producer.attn = None

        with self._eager(), contextlib.ExitStack() as hooks, torch.no_grad():
            hooks.enter_context(self.layers[0].register_forward_pre_hook(keep_input))
            for layer, attention in zip(self.layers, self.attentions, strict=True):
                hooks.enter_context(layer.register_forward_hook(keep_output))
                if not isinstance(attention, MapConsumer):
                    hooks.enter_context(attention.register_forward_hook(keep_map))
            try:
                self._encode(speech)
            except TooShortUttError as error:
                why = error.args[0].split(",")[0]
                raise UserError(f"{utt_id} {why}; remove it") from None
        by_layer = [
            attention_map
            for attention_map, size in zip(maps, self.group_sizes, strict=True)
            for _ in range(size)
        ]
        return Recording(torch.stack(by_layer), torch.stack(states))

    def measure_frame_times(self, rate: int) -> FrameTimes:
        """Find which samples an encoder frame sees, by the gradient.

        This holds for every frontend and every subsampling, without a table of them.
        The normalisation is left out: over an utterance it sees everything. Where a
        self-supervised frontend does, too, frames are spread evenly over the utterance.

        Args:
            rate: Sampling rate in Hz.
        """
        generator = torch.Generator().manual_seed(0)
        speech = torch.randn(4 * rate, generator=generator).requires_grad_()
        inputs = []
        model = self.model
        normalize, model.normalize = model.normalize, None
        try:
            with self.layers[0].register_forward_pre_hook(
                lambda _, args: inputs.append(_without_positions(args[0])[0])
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

    def count_costs(self, speech: torch.Tensor) -> LayerCosts:
        """Count the encoder's operations for an utterance.

        Args:
            speech: Waveform (samples,), float32, at the model's sampling rate.
        """
        calls = []
        encoder = self.model.encoder
        first = self.attentions[0]  # always a producer
        with self._eager(), torch.no_grad():
            with (
                first.register_forward_pre_hook(lambda _, args: calls.append(args)),
                encoder.register_forward_pre_hook(lambda _, args: calls.append(args)),
            ):
                self._encode(speech)
            encoder_args, attention_args = calls
            producer = _count_flops(lambda: first(*attention_args))
            value = attention_args[2]
            size, num_frames = value.size(-1), value.size(-2)
            projections = _count_flops(lambda: first.linear_out(first.linear_v(value)))
            saved = producer - projections - 2 * num_frames**2 * size
            wants_ctc = getattr(encoder, "interctc_use_conditioning", False)
            ctc = {"ctc": self.model.ctc} if wants_ctc else {}
            total = _count_flops(lambda: encoder(*encoder_args, **ctc))
        consumers = len(self.layers) - len(self.group_sizes)
        return LayerCosts(total + consumers * saved, saved)

    def _encode(self, speech):
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(speech)], device=device)
        self.model.encode(speech[None].to(device), lengths)

    @contextlib.contextmanager
    def _eager(self) -> Iterator[None]:
        """Have attention modules compute the map that fused kernels do not."""
        fused = ("use_sdpa", "use_flash_attn")
        kept = [
            (module, name, getattr(module, name))
            for module in self.attentions
            for name in fused
            if hasattr(module, name)
        ]
        for module, name, _ in kept:
            setattr(module, name, False)
        try:
            yield
        finally:
            for module, name, value in kept:
                setattr(module, name, value)


def _without_positions(x):
    """Return hidden states without the positions that ESPnet's layers pass along."""
    return x[0] if isinstance(x, tuple) else x


def _count_flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def prepare_model(model, config: Dict) -> Tuple[AnalysedModel, int]:
    """Make a trained ASR model ready to be analysed.

    Args:
        model (ESPnetASRModel): The model.
        config: Its config.

    Returns:
        The model, and its sampling rate in Hz.

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
