# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What a model is recorded as: a graph of few operations, for any batch and length.

A graph holds the modules of the model. While it is recorded, some of their methods are
replaced by these, which give the same in operations that a graph can hold, and in
fewer passes over large arrays. With ESPNET_REUSE_IMPL=naive, attention stays as ESPnet
has it: the reference.
"""

import contextlib
import functools
import math
import sys
from collections.abc import Iterator
from unittest.mock import patch

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.stft import Stft
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    LegacyRelPositionalEncoding,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import check_short_utt
from torch.nn.functional import conv1d, pad

from espnet_reuse.asr.layers.attention_map_reuse import (
    GroupState,
    project,
    split_heads,
    uses_fast_paths,
)


class Graph(torch.nn.Module):
    """Computes what an `espnet_reuse.export.ServedModel` does, as a graph can hold it.

    Inputs and outputs are the model's. A row that is too short has the length 0; what
    lies behind a row's length has no effect.
    """

    def __init__(self, served: torch.nn.Module):
        super().__init__()
        self.served = served
        classes = {cls for part in served.parts for cls in type(part).__mro__}
        modules = {sys.modules[cls.__module__] for cls in classes}
        self.mask_users = [m for m in modules if "make_pad_mask" in vars(m)]
        _, least = check_short_utt(served.encoder.embed, 0)
        self.least_frames = max(least, 1)  # -1 where nothing is subsampled
        if served.frontend is not None:
            self.register_buffer("fourier", fourier_transform(served.frontend.stft))

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """Encode (batch, samples) or (batch, frames, size), and lengths (batch,)."""
        frontend, size = self.served.frontend, x.size(1)
        lengths = lengths.clamp(0, size)
        if frontend is not None:
            size = _count_frames(frontend, size)
        # fewer are an error in ESPnet's encoders, which decoding takes for no words
        num_frames = torch.sym_max(size, self.least_frames)
        frames = torch.arange(num_frames, device=x.device)

        def resize(feats):
            return pad(feats, (0, 0, 0, self.least_frames)).index_select(1, frames)

        def make_pad_mask(lengths, xs=None, length_dim=-1):
            """Mask without reading the longest length, which no graph has as a size."""
            mask = frames >= lengths[:, None]
            return mask if xs is None else mask[:, :, None]

        def featurize(speech, lengths):
            feats, lengths = log_mel(frontend, self.fourier, speech, lengths)
            return resize(feats).masked_fill(make_pad_mask(lengths, feats), 0), lengths

        replaced = [(user, "make_pad_mask", make_pad_mask) for user in self.mask_users]
        replaced.append((self.served, "featurize", featurize))
        for module in self.served.modules():
            replaced += _replaced(module)
        with contextlib.ExitStack() as stack:
            for where, name, value in replaced:
                stack.enter_context(patch.object(where, name, value))
            return self.served(resize(x) if frontend is None else x, lengths)


def _replaced(module: torch.nn.Module) -> Iterator[tuple[object, str, object]]:
    """Yield what has another value while a graph is recorded: where, name, value."""
    values = {"attn": None, "use_flash_attn": False}  # kept for plots; needs a GPU
    if not isinstance(module, LegacyRelPositionalEncoding):
        # Positions are computed in the graph: for any length, and not in the file. The
        # legacy ones depend on how many were computed.
        values["pe"] = None
    for name in values.keys() & vars(module).keys():
        yield module, name, values[name]
    is_other = isinstance(module, LegacyRelPositionMultiHeadedAttention) or getattr(
        module, "zero_triu", False
    )
    if isinstance(module, MultiHeadedAttention) and uses_fast_paths() and not is_other:
        yield module, "forward", functools.partial(attend, module)


def attend(
    attention: MultiHeadedAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slot: torch.Tensor | GroupState,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do what an attention of ESPnet or a producer does, with its arguments.

    The scale goes to the query, and the mask is added: `softmax(scores + bias)`. ESPnet
    writes an array of the map's size for each of the two, and masks the map again.

    The values of a group cannot be projected together: each layer's depend on the
    output of the layer before.
    """
    is_relative = isinstance(attention, RelPositionMultiHeadedAttention)
    if isinstance(slot, GroupState):
        state = slot
    else:  # positions and mask, or the mask alone
        state = GroupState(slot, mask) if is_relative else GroupState(None, slot)
    q, k, v = attention.forward_qkv(query, key, value)
    scale = 1 / math.sqrt(attention.d_k)
    q = q * scale
    if is_relative:
        u, w = (
            (bias * scale).unsqueeze(1)
            for bias in (attention.pos_bias_u, attention.pos_bias_v)
        )
        # a position more: see shift
        pos = pad(state.pos_emb, (0, 0, 0, 1))
        pos = split_heads(attention.linear_pos(pos), attention.h)
        by_position = shift((q + w) @ pos.transpose(-2, -1))
        scores = (q + u) @ k.transpose(-2, -1) + by_position
    else:
        scores = q @ k.transpose(-2, -1)
    if state.mask is not None:
        least = torch.finfo(scores.dtype).min / 2  # a sum with it stays finite
        scores = scores + torch.where(state.mask, 0.0, least).unsqueeze(1)
    weights = torch.softmax(scores, dim=-1)
    state.attention_map = weights
    return project(weights @ v, attention.linear_out)


def shift(by_position: torch.Tensor) -> torch.Tensor:
    """Turn scores by position (B, H, T, 2T), the last not used, into (B, H, T, T).

    Row i's scores begin at T - 1 - i. In a row after row of 2T - 1 they all begin at
    T - 1: a slice, where ESPnet pads and copies. The position that is not used lets one
    frame alone, T = 1, be no case of its own.
    """
    frames = by_position.size(2)
    torch._check(by_position.size(3) == 2 * frames)
    flat = by_position.flatten(2)[..., frames - 1 : -1]
    return flat.unflatten(2, (frames, 2 * frames - 1))[..., :frames]


def log_mel(
    frontend: DefaultFrontend,
    fourier: torch.Tensor,
    speech: torch.Tensor,
    lengths: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what ESPnet's frontend does with each utterance alone.

    The STFT is a convolution with the window's discrete Fourier transform. As alone, an
    utterance goes on by its reflection, wherever it ends in its row.

    Args:
        frontend: Its sizes and mel filters.
        fourier: What `fourier_transform` returns.
        speech: Waveforms (batch, samples).
        lengths: Samples of each, (batch,).

    Returns:
        Features (batch, frames, n_mels), with some frames too many, and the number of
        frames of each, 0 where ESPnet refuses the utterance.
    """
    stft, margin = frontend.stft, _margin(frontend)
    speech = pad(speech, (0, stft.n_fft))
    if margin:
        offsets = torch.arange(margin, device=speech.device)
        ends = speech.gather(1, (lengths[:, None] - 2 - offsets).clamp(min=0))
        speech = torch.cat([speech[:, 1 : margin + 1].flip(1), speech], 1)
        speech = speech.scatter(1, margin + lengths[:, None] + offsets, ends)
    spectrum = conv1d(speech[:, None], fourier[:, None], stride=stft.hop_length)
    power = spectrum.square().unflatten(1, (2, -1)).sum(1)
    feats, _ = frontend.logmel(power.transpose(1, 2))
    frames = _count_frames(frontend, lengths)
    least = margin + 1 if margin else stft.n_fft
    return feats, torch.where(lengths < least, 0, frames)


def fourier_transform(stft: Stft) -> torch.Tensor:
    """Return the windowed transform's real and imaginary parts, (2 bins, n_fft)."""
    make_window = getattr(torch, f"{stft.window}_window", torch.ones)
    spectrum = torch.stft(  # of one impulse at each place
        torch.eye(stft.n_fft, dtype=torch.float64),
        n_fft=stft.n_fft,
        win_length=stft.win_length,
        window=make_window(stft.win_length, dtype=torch.float64),
        center=False,
        normalized=stft.normalized,
        onesided=stft.onesided,
        return_complex=True,
    )
    spectrum = spectrum[..., 0].T
    return torch.cat([spectrum.real, spectrum.imag]).float()


def _margin(frontend: DefaultFrontend) -> int:
    """Return how many samples of reflection the STFT puts at each end."""
    return frontend.stft.n_fft // 2 * frontend.stft.center


def _count_frames(frontend: DefaultFrontend, samples):
    """Return how many frames the frontend makes of so many samples."""
    stft = frontend.stft
    return (samples + 2 * _margin(frontend) - stft.n_fft) // stft.hop_length + 1


def best_path(
    logits: torch.Tensor, lengths: torch.Tensor, blank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take the best token of each frame, merge repeats and remove blanks.

    Args:
        logits: The CTC head's (batch, frames, tokens).
        lengths: Frames of each utterance (batch,).
        blank: CTC's blank.

    Returns:
        The tokens (batch, frames), -1 behind the last; how many (batch,); the frames
        where each starts and ends (batch, frames, 2).
    """
    labels = logits.argmax(-1)
    frames = torch.arange(labels.size(1), device=labels.device)
    real = frames < lengths[:, None]
    labels = torch.where(real, labels, blank)
    border = labels[:, 1:] != labels[:, :-1]
    is_token = labels != blank
    starts = is_token & pad(border, (1, 0), value=True)
    ends = is_token & pad(border, (0, 1), value=True)
    nowhere = labels.size(1)

    def collect(kept, values):
        """Move the kept values of each row to its front."""
        place = torch.where(kept, kept.long().cumsum(1) - 1, nowhere)
        empty = torch.full_like(pad(labels, (0, 1)), -1)
        return empty.scatter(1, place, values)[:, :nowhere]

    frames = frames.expand_as(labels)
    times = collect(starts, frames), collect(ends, frames + 1)
    return collect(starts, labels), starts.sum(1), torch.stack(times, -1)
