# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The encoder of a trained ESPnet ASR model as a file of torch.export or of ONNX.

The graph takes features, as the model's frontend makes them, and holds what ESPnet does
with them up to the encoder's output: normalisation, pre-encoder, encoder, post-encoder,
and the CTC head, if asked for. Batch and frames are dynamic.
"""

import contextlib
import logging
import math
import sys
import warnings
from pathlib import Path
from typing import Callable, Sequence
from unittest.mock import patch

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    LegacyRelPositionalEncoding,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import check_short_utt

from espnet_reuse.errors import UserError
from espnet_reuse.registry import ENCODERS, path_of

INPUTS = ("feats", "feats_lengths")
OUTPUTS = ("encoder_out", "encoder_out_lens", "ctc_log_probs")
PARTS = ("normalize", "preencoder", "encoder", "postencoder")  # as ESPnet applies them
TRACED_LENGTHS = (128, 101)  # frames
# Other batches, longer and shorter ones, with padding.
CHECKED_LENGTHS = ((331,), (97, 53, 80))
TOLERANCE = 1e-4

Runner = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


class ServedEncoder(torch.nn.Module):
    """What is exported: features in, the encoder's output out.

    Args:
        model: An ASR model; it is put into evaluation mode.
        with_ctc: Whether to add the CTC head.

    Raises:
        UserError: The encoder cannot be exported, or there is no CTC head.
    """

    def __init__(self, model: ESPnetASRModel, with_ctc: bool = False):
        super().__init__()
        model.eval()
        encoder = model.encoder
        if ENCODERS.keys().isdisjoint(map(path_of, type(encoder).__mro__)):
            names = ", ".join(path.rpartition(".")[2] for path in ENCODERS)
            raise UserError(
                f"{type(encoder).__name__} cannot be exported; use a model with one of "
                f"{names}, with or without reuse"
            )
        if getattr(encoder, "ctc_trim", False):
            raise UserError(
                "ctc_trim: true in encoder_conf drops frames by their content, and a "
                "graph cannot do that; use a model without it"
            )
        if with_ctc and model.ctc is None:
            raise UserError("the model has no CTC head to export (ctc_weight: 0)")
        for name in PARTS:
            setattr(self, name, getattr(model, name))
        self.ctc = model.ctc
        self.with_ctc = with_ctc
        self.output_names = OUTPUTS if with_ctc else OUTPUTS[:2]

    def forward(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Encode features.

        Args:
            feats: Features (batch, frames, feature size), float32.
            feats_lengths: Frames of each utterance (batch,), int64.

        Returns:
            Encoder output (batch, frames', size); its lengths (batch,); with the CTC
            head, log-probabilities (batch, frames', tokens).

        Raises:
            TooShortUttError: There are fewer frames than the subsampling needs. What
                is exported gives lengths of 0.
        """
        x, lengths = feats.clone(), feats_lengths  # ESPnet normalises in place
        for name in PARTS:
            part = getattr(self, name)
            if part is None:
                continue
            conditioned = getattr(part, "interctc_use_conditioning", False)
            ctc = {"ctc": self.ctc} if conditioned else {}
            x, lengths, *_ = part(x, lengths, **ctc)
            if isinstance(x, tuple):
                x, _ = x  # intermediate outputs
        if self.with_ctc:
            return x, lengths, self.ctc.log_softmax(x)
        return x, lengths


class _TraceableEncoder(torch.nn.Module):
    """Computes what a `ServedEncoder` does by operations that a graph can hold."""

    def __init__(self, served: ServedEncoder):
        super().__init__()
        self.served = served
        classes = {cls for name in PARTS for cls in type(getattr(served, name)).__mro__}
        modules = {sys.modules[cls.__module__] for cls in classes}
        self.mask_users = [m for m in modules if "make_pad_mask" in vars(m)]
        _, least = check_short_utt(served.encoder.embed, 0)
        self.least_frames = max(least, 1)  # -1 where nothing is subsampled

    def forward(self, feats, feats_lengths):
        # fewer are an error in ESPnet's encoders, which decoding takes for no words
        num_frames = torch.sym_max(feats.size(1), self.least_frames)
        frames = torch.arange(num_frames, device=feats.device)
        padding = 0, 0, 0, self.least_frames
        feats = torch.nn.functional.pad(feats, padding).index_select(1, frames)

        def make_pad_mask(lengths, xs=None, length_dim=-1):
            """Mask without reading the longest length, which no graph has as a size."""
            mask = frames >= lengths[:, None]
            return mask if xs is None else mask[:, :, None]

        with contextlib.ExitStack() as stack:
            for user in self.mask_users:
                stack.enter_context(patch.object(user, "make_pad_mask", make_pad_mask))
            for module in self.served.modules():
                for name, value in _replaced_attributes(module):
                    stack.enter_context(patch.object(module, name, value))
            return self.served(feats, feats_lengths)


def _replaced_attributes(module: torch.nn.Module) -> list[tuple[str, object]]:
    """Return attributes of a module to have another value while a graph is recorded."""
    replaced = {"attn": None, "use_flash_attn": False}  # kept for plots; needs a GPU
    if not isinstance(module, LegacyRelPositionalEncoding):
        # Positions are computed in the graph: for any length, and not in the file. The
        # legacy ones depend on how many were computed.
        replaced["pe"] = None
    return [item for item in replaced.items() if item[0] in vars(module)]


def export_encoder(served: ServedEncoder, input_size: int, path: Path) -> None:
    """Write the encoder of feature vectors (input_size,) as a graph, .pt2 or .onnx.

    Raises:
        UserError: PyTorch cannot make a graph of it.
    """
    names = {"feats": {0: "batch", 1: "frames"}, "feats_lengths": {0: "batch"}}
    dynamic = {x: dict.fromkeys(names[x], torch.export.Dim.DYNAMIC) for x in INPUTS}
    encoder = _TraceableEncoder(served).eval()
    inputs = make_features(TRACED_LENGTHS, input_size)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(encoder, inputs, dynamic_shapes=dynamic)
            if path.suffix == ".pt2":
                # functional: torch.export.load fails over uniform_, which ESPnet's
                # encoders draw also where no layer is dropped
                torch.export.save(program.run_decompositions({}), path)
                return
            torch.onnx.export(
                program,
                f=path,
                input_names=INPUTS,
                output_names=served.output_names,
                dynamic_shapes=names,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"PyTorch cannot export this model as {path.suffix[1:]}: "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error


def open_exported(path: Path, threads: int | None = None) -> tuple[Runner, int]:
    """Open an exported encoder, to run on the CPU.

    Args:
        path: A file of `export_encoder`.
        threads: CPU threads of ONNX Runtime (default: PyTorch's). A .pt2 file runs on
            PyTorch's threads.

    Returns:
        Function that runs it, and the size of the feature vectors that it takes.
    """
    if path.suffix == ".pt2":
        with _quiet():
            program = torch.export.load(path)
            (feats, _), _ = program.example_inputs
            # its guards are narrower than what it computes rightly: few frames
            module = program.module(check_guards=False)
            return torch.no_grad()(module), feats.size(2)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4  # fatal; errors are raised
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def run(feats, feats_lengths):
        inputs = zip(INPUTS, (feats.numpy(), feats_lengths.numpy()), strict=True)
        return [torch.from_numpy(x) for x in session.run(None, dict(inputs))]

    return run, session.get_inputs()[0].shape[2]


def largest_difference(served: ServedEncoder, runner: Runner, input_size: int) -> float:
    """Compare an exported encoder with the model, at sizes that were not traced.

    Returns:
        The largest difference of any real frame's output, infinity where the lengths
        differ, NaN where a difference is.
    """
    differences = []
    for lengths in CHECKED_LENGTHS:
        inputs = make_features(lengths, input_size)
        with torch.no_grad():
            expected = served(*inputs)
        output = runner(*inputs)
        if not torch.equal(expected[1], output[1]):
            return math.inf
        for i, frames in enumerate(expected[1]):
            for mine, theirs in zip(output[::2], expected[::2], strict=True):
                differences.append((mine[i, :frames] - theirs[i, :frames]).abs().max())
    return torch.stack(differences).max().item()


def make_features(
    lengths: Sequence[int], input_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise (batch, frames, input_size), and its lengths (batch,) in frames."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(len(lengths), max(lengths), input_size, generator=generator)
    return feats, torch.tensor(lengths)


def feature_size(model: ESPnetASRModel, config: dict) -> int:
    """Return the size of the feature vectors that the model takes."""
    if model.frontend is None:
        return config["input_size"]
    return model.frontend.output_size()


@contextlib.contextmanager
def _quiet():
    """Keep the exporters' warnings, which are about themselves, off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
