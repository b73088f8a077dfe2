# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Encoders in CUDA graphs: the GPU runs their kernels without waiting for Python."""

import contextlib
import copy
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import check_short_utt

from espnet_reuse.errors import UserError, one_line

WARM_UPS = 3  # Triton compiles, cuBLAS and cuDNN choose, positions grow


class CapturedEncoder:
    """Calls an encoder through CUDA graphs, one for each bucket.

    A bucket is a batch size and a number of frames. A batch is padded into the
    smallest bucket that holds it, and its frames are what the encoder computes without
    graphs. Batches that no bucket holds run without graphs. So do other arguments than
    features and lengths, gradients, training mode, another autocast, dtype or device
    than that of the capture, and parameters that were moved since (`.half()`, `.to()`).

    Parameters may be changed in place (`load_state_dict`). Threads may call it on any
    streams; they take turns. Meanwhile an attention map for plots (`attn`) is not kept.
    While the constructor runs, no other thread may use an encoder of ESPnet; a second
    constructor waits.

    Args:
        encoder: An encoder of ESPnet or of this package on CUDA, in evaluation mode,
            with `input_layer` conv2d*, conv1d* or linear. The autocast that is on is
            captured.
        batch_sizes: Utterances that a bucket holds.
        frames: Frames of features that a bucket holds, before subsampling.

    Raises:
        UserError: There is no CUDA, or an argument does not fit.
    """

    device_type = "cuda"
    _capturing = threading.RLock()  # it changes modules of ESPnet

    def __init__(
        self,
        encoder: torch.nn.Module,
        batch_sizes: Sequence[int] = (1, 16),
        frames: Sequence[int] = (500, 1500),
    ):
        self.encoder = encoder
        self.batch_sizes = _increasing("batch_sizes", batch_sizes, 1)
        self._sizes = _input_sizes(encoder)
        self._least = max(check_short_utt(encoder.embed, 0)[1], 1)
        self.frames = _increasing("frames", frames, self._least)
        weight = next(encoder.parameters())
        if weight.device.type != self.device_type:
            raise UserError(
                f"encoder: it is on {weight.device}, and CUDA graphs need an NVIDIA "
                'GPU: use a machine with one, and encoder.to("cuda")'
            )
        if encoder.training:
            raise UserError("encoder: it is in training mode: call encoder.eval()")
        # of an encoder whose forward is captured already, that of before
        self.eager = getattr(encoder.forward, "eager", encoder.forward)
        modules = {sys.modules[cls.__module__] for cls in type(encoder).__mro__}
        self._mask_users = [m for m in modules if "make_pad_mask" in vars(m)]
        self._lock = threading.Lock()
        self._buckets = {}
        with self._capturing, torch.inference_mode(False), torch.no_grad():
            self._refuse_padding_in_output()
            self._weight = weight.detach()  # so that no other gets its address
            self._state = self._current_state()
            # The longest first: ESPnet replaces its positions by longer ones. The
            # graphs' memory is shared, and the largest first leaves no holes.
            buckets = itertools.product(self.batch_sizes, self.frames)
            for size in sorted(buckets, key=lambda size: size[::-1], reverse=True):
                xs_pad = weight.new_zeros(*size, self._sizes[0])
                ilens = torch.full(size[:1], size[1], device=weight.device)
                try:
                    replay, outputs = self._record(xs_pad, ilens)
                except RuntimeError as error:
                    raise UserError(
                        "encoder: bucket ({}, {}) cannot be captured: ".format(*size)
                        + one_line(error)
                    ) from error
                # a graph reads the memory of these, whatever the encoder has later
                kept = [vars(module).get("pe") for module in encoder.modules()]
                self._buckets[size] = xs_pad, ilens, replay, outputs, kept
            self._forget_maps()

    def __call__(self, xs_pad: torch.Tensor, ilens: torch.Tensor, *args, **kwargs):
        """Encode as the encoder's forward does, which has the arguments and result.

        Args:
            xs_pad: Features (batch, frames, size).
            ilens: Frames of each, (batch,).
            *args: What the forward takes besides; then there is no graph.
            **kwargs: The same by name.

        Returns:
            Output (batch, frames', size), with intermediate outputs if there are any;
            its lengths (batch,); None. No later call changes them.
        """
        bucket = self.bucket(*xs_pad.shape[:2])
        if args or kwargs or bucket is None or not self._fits(xs_pad):
            return self.eager(xs_pad, ilens, *args, **kwargs)
        batch, frames, _ = xs_pad.shape
        frames_out = _subsample(self.encoder.embed, frames, 0)
        static_xs, static_ilens, replay, (output, olens), _ = self._buckets[bucket]

        def take(value):
            """Copy what belongs to the batch, from an output or a tuple with some."""
            if isinstance(value, torch.Tensor):
                return value[:batch, :frames_out].clone()
            if isinstance(value, (list, tuple)):
                return type(value)(map(take, value))
            return value

        with self._lock, self._in_order():
            static_xs.zero_()  # of an earlier batch, NaN would reach a real frame
            static_xs[:batch, :frames].copy_(xs_pad[..., : self._sizes[0]])
            static_ilens.fill_(bucket[1])  # no row is empty
            static_ilens[:batch].copy_(ilens.clamp(max=frames))
            replay()
            return take(output), olens[:batch].clone(), None

    def bucket(self, batch: int, frames: int) -> tuple[int, int] | None:
        """Return the smallest bucket (batch size, frames) that holds a batch, or None.

        None also if ESPnet refuses so few frames.
        """
        if not batch or frames < self._least:
            return None
        bucket = tuple(
            next((size for size in sizes if size >= needed), None)
            for sizes, needed in ((self.batch_sizes, batch), (self.frames, frames))
        )
        return None if None in bucket else bucket

    def _fits(self, xs_pad: torch.Tensor) -> bool:
        weight, state = next(self.encoder.parameters()), self._current_state()
        like = xs_pad.device == weight.device and xs_pad.dtype == weight.dtype
        return like and xs_pad.size(-1) in self._sizes and state == self._state

    def _current_state(self) -> tuple:
        """Return what a graph depends on besides its inputs."""
        kind, weight = self.device_type, next(self.encoder.parameters())
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        changes = self.encoder.training, torch.is_grad_enabled()
        return weight.data_ptr(), weight.dtype, autocast, *changes

    def _forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor) -> tuple:
        """Run the encoder without waiting for the device; return output and lengths."""
        frames = torch.arange(xs_pad.size(1), device=xs_pad.device)
        kind = self.device_type
        with contextlib.ExitStack() as stack:
            # a cached cast of a weight would be gone when the graph reads it
            stack.enter_context(
                torch.autocast(
                    kind,
                    torch.get_autocast_dtype(kind),
                    torch.is_autocast_enabled(kind),
                    cache_enabled=False,
                )
            )
            for user in self._mask_users:  # ESPnet's reads the longest length
                mask = patch.object(
                    user, "make_pad_mask", lambda lens: frames >= lens[:, None]
                )
                stack.enter_context(mask)
            for module in self.encoder.modules():
                if getattr(module, "use_flash_attn", False):  # it waits, too
                    stack.enter_context(patch.object(module, "use_flash_attn", False))
            output, olens, _ = self.eager(xs_pad, ilens)
        return output, olens

    def _record(self, xs_pad: torch.Tensor, ilens: torch.Tensor) -> tuple:
        """Return a function that computes the outputs again in place, and these."""
        with torch.cuda.device(xs_pad.device):
            if not self._buckets:
                self._pool = torch.cuda.graph_pool_handle()
                self._done = torch.cuda.Event()
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._forward(xs_pad, ilens)
            current.wait_stream(side)
            self._forget_maps()
            graph = torch.cuda.CUDAGraph()
            # other threads may use the GPU meanwhile
            options = {"pool": self._pool, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(graph, **options):
                outputs = self._forward(xs_pad, ilens)
        return graph.replay, outputs

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        """Let the current stream wait for the one that used the graphs before."""
        device = next(self.encoder.parameters()).device
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)

    def _forget_maps(self) -> None:
        """Drop the maps that are kept for plots: they hold memory of the graphs."""
        for module in self.encoder.modules():
            if isinstance(module, MultiHeadedAttention):
                module.attn = None

    def _refuse_padding_in_output(self) -> None:
        """Compare an utterance with itself in a padded batch, in float64 on the CPU."""
        self._forget_maps()
        own = vars(self.encoder).get("forward")  # has a lock, if captured already
        encoder = copy.deepcopy(self.encoder, {id(own): own}).cpu().double()
        for module in encoder.modules():
            module.use_flash_attn = False
        generator = torch.Generator().manual_seed(0)
        frames = self._least + 60  # more than convolutions see
        shape = 1, frames, self._sizes[0]
        xs_pad = torch.randn(shape, generator=generator, dtype=torch.float64)
        padded = torch.nn.functional.pad(xs_pad, (0, 0, 0, frames)).expand(2, -1, -1)
        ilens = torch.tensor([frames, 2 * frames])
        forward = type(encoder).forward  # not the one that someone put in its place
        with torch.autocast("cpu", enabled=False):
            alone, *_ = forward(encoder, xs_pad, ilens[:1])
            together, *_ = forward(encoder, padded, ilens)
        if isinstance(alone, tuple):  # with intermediate outputs
            alone, together = alone[0], together[0]
        difference = (alone[0] - together[0, : alone.size(1)]).abs().max()
        if not difference <= 1e-6 * alone.abs().max():  # NaN is refused
            raise UserError(
                "encoder: its output depends on the padding of a batch, which buckets "
                "add: use rel_pos_type: latest and positionwise_layer_type: linear"
            )


def _increasing(name: str, values: Sequence[int], least: int) -> list[int]:
    values = list(values) if isinstance(values, Sequence) else [values]
    if (
        not values
        or any(type(value) is not int or value < least for value in values)
        or sorted(set(values)) != values
    ):
        raise UserError(
            f"{name}: {values} must be increasing integers from {least} on, for "
            f"example {[least + 1, 4 * least + 12]}"
        )
    return values


def _subsample(embed: torch.nn.Module, size: int, axis: int) -> int:
    """Return how many frames (axis 0) or features (axis 1) the convolutions leave."""
    for layer in getattr(embed, "conv", ()):
        if hasattr(layer, "kernel_size"):
            size = (size - layer.kernel_size[axis]) // layer.stride[axis] + 1
    return size


def _input_sizes(encoder: torch.nn.Module) -> Sequence[int]:
    """Return the sizes of features that an encoder takes.

    Several, since strided convolutions do not read the last features; what they do not
    read is not copied into a bucket.
    """
    embed = getattr(encoder, "embed", None)
    layers = getattr(embed, "conv", embed)
    first = layers[0] if isinstance(layers, torch.nn.Sequential) else None
    with_ctc = ("interctc_use_conditioning", "ctc_trim")
    if any(getattr(encoder, name, False) for name in with_ctc):
        raise UserError(
            "encoder: interctc_use_conditioning and ctc_trim need the CTC head: "
            "capture an encoder without them"
        )
    if isinstance(first, torch.nn.Linear):
        return [first.in_features]
    if isinstance(first, torch.nn.Conv1d):
        return [first.in_channels]
    if not isinstance(first, torch.nn.Conv2d):
        raise UserError(
            "encoder: a Conformer, Transformer, Branchformer or E-Branchformer with "
            f"input_layer conv2d*, conv1d* or linear is needed, not this "
            f"{type(encoder).__name__}"
        )
    left = embed.out.in_features // first.out_channels
    # the largest subsampling is 8
    return [s for s in range(8 * left + 16) if _subsample(embed, s, 1) == left]
