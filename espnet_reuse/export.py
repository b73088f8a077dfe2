# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The encoder of a trained ESPnet ASR model as a file of torch.export or of ONNX.

The graph takes features, as the model's frontend makes them, and holds what ESPnet does
with them up to the encoder's output: normalisation, pre-encoder, encoder, post-encoder,
and the CTC head, if asked for. Batch and frames are dynamic.
"""

import contextlib
import logging
import statistics
import sys
import warnings
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple
from unittest.mock import patch

import humanfriendly
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    LegacyRelPositionalEncoding,
)

from espnet_reuse.benchmark.measure import Settings, time_interleaved
from espnet_reuse.registry import ENCODERS

INPUTS = ("feats", "feats_lengths")
OUTPUTS = ("encoder_out", "encoder_out_lens", "ctc_log_probs")
PARTS = ("normalize", "preencoder", "encoder", "postencoder")  # as ESPnet applies them
TRACED_LENGTHS = (128, 101)  # frames
# Other batches, longer and shorter ones, with padding.
CHECKED_LENGTHS = ((331,), (97, 53, 80))
TOLERANCE = 1e-4
FRAMES_PER_SECOND = 100  # of a model that takes features, for the timing

Runner = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


class ExportError(ValueError):
    """An export cannot be made: one line that says what to change."""


class ServedEncoder(torch.nn.Module):
    """What is exported: features in, the encoder's output out.

    Args:
        model: An ASR model; it is put into evaluation mode.
        with_ctc: Whether to add the CTC head.

    Raises:
        ExportError: The encoder cannot be exported, or there is no CTC head.
    """

    def __init__(self, model: ESPnetASRModel, with_ctc: bool = False):
        super().__init__()
        model.eval()
        encoder = model.encoder
        ancestors = (f"{c.__module__}.{c.__qualname__}" for c in type(encoder).__mro__)
        if ENCODERS.keys().isdisjoint(ancestors):
            names = ", ".join(path.rpartition(".")[2] for path in ENCODERS)
            raise ExportError(
                f"--asr_train_config: {type(encoder).__name__} is not supported; use a "
                f"model with one of {names} or their reuse counterparts"
            )
        if getattr(encoder, "ctc_trim", False):
            raise ExportError(
                "--asr_train_config: encoder_conf.ctc_trim drops frames by what is in "
                "them, which a graph cannot; use a model without it"
            )
        if with_ctc and model.ctc is None:
            raise ExportError(
                "--with_ctc: the model has no CTC head (ctc_weight: 0); leave it out"
            )
        for name in PARTS:
            setattr(self, name, getattr(model, name))
        self.ctc = model.ctc
        self.with_ctc = with_ctc
        self.output_names = OUTPUTS if with_ctc else OUTPUTS[:2]

    def forward(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        """Encode features.

        Args:
            feats: Features (batch, frames, feature size), float32.
            feats_lengths: Frames of each utterance (batch,), int64.

        Returns:
            Encoder output (batch, frames', size); its lengths (batch,); with the CTC
            head, log-probabilities (batch, frames', tokens).
        """
        x, lengths = feats.clone(), feats_lengths  # ESPnet normalises in place
        for name in PARTS:
            part = getattr(self, name)
            if part is None:
                continue
            if getattr(part, "interctc_use_conditioning", False):
                x, lengths, *_ = part(x, lengths, ctc=self.ctc)
            else:
                x, lengths, *_ = part(x, lengths)
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
        parts = [getattr(served, name) for name in PARTS]
        sources = {
            sys.modules[cls.__module__] for part in parts for cls in type(part).__mro__
        }
        self.mask_users = [
            module for module in sources if "make_pad_mask" in vars(module)
        ]

    def forward(self, feats, feats_lengths):
        frames = torch.arange(feats.size(1), device=feats.device)

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


def _replaced_attributes(module: torch.nn.Module) -> List[Tuple[str, object]]:
    """Return attributes of a module to have another value while a graph is recorded."""
    replaced = {"attn": None, "use_flash_attn": False}  # kept for plots; needs a GPU
    if not isinstance(module, LegacyRelPositionalEncoding):
        # Positions are computed in the graph: for any length, and not in the file. The
        # legacy ones depend on how many were computed.
        replaced["pe"] = None
    return [item for item in replaced.items() if item[0] in vars(module)]


def export_encoder(served: ServedEncoder, input_size: int, path: Path) -> None:
    """Write the encoder as a graph.

    Args:
        served: The encoder.
        input_size: Size of a feature vector.
        path: File to write; its suffix, `.pt2` or `.onnx`, says what.

    Raises:
        ExportError: PyTorch cannot make a graph of it.
    """
    dynamic = {"feats": {0: "batch", 1: "frames"}, "feats_lengths": {0: "batch"}}
    inferred = torch.export.Dim.DYNAMIC
    shapes = {name: dict.fromkeys(axes, inferred) for name, axes in dynamic.items()}
    encoder = _TraceableEncoder(served).eval()
    inputs = make_features(TRACED_LENGTHS, input_size)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(encoder, inputs, dynamic_shapes=shapes)
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
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"--format: PyTorch cannot export this model as {path.suffix[1:]}: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error


def open_exported(path: Path, threads: Optional[int] = None) -> Runner:
    """Return a function that runs an exported encoder on the CPU.

    Args:
        path: A file of `export_encoder`.
        threads: CPU threads of ONNX Runtime (default: PyTorch's). A .pt2 file runs on
            PyTorch's threads.
    """
    if path.suffix == ".pt2":
        with _quiet():
            program = torch.export.load(path).module()
        return torch.no_grad()(program)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def run(feats, feats_lengths):
        inputs = zip(INPUTS, (feats.numpy(), feats_lengths.numpy()), strict=True)
        return [torch.from_numpy(x) for x in session.run(None, dict(inputs))]

    return run


def open_compared(path: Path, threads: int, input_size: int) -> Runner:
    """Return `open_exported` of a file of unknown origin.

    Raises:
        ExportError: It does not run on such features.
    """
    try:
        runner = open_exported(path, threads)
        runner(*make_features(TRACED_LENGTHS, input_size))
    except Exception as error:
        raise ExportError(
            f"--compare_to: {path} does not run on features of size {input_size} "
            f"({_first_line(error)}); name a file of this command"
        ) from None
    return runner


def largest_difference(served: ServedEncoder, runner: Runner, input_size: int) -> float:
    """Compare an exported encoder with the model, at sizes that were not traced.

    Args:
        served: The encoder.
        runner: The exported one.
        input_size: Size of a feature vector.

    Returns:
        The largest difference of any real frame's output, or infinity where a length
        or a shape differs.
    """
    largest = 0.0
    for lengths in CHECKED_LENGTHS:
        inputs = make_features(lengths, input_size)
        with torch.no_grad():
            expected = served(*inputs)
        output = runner(*inputs)
        if not torch.equal(expected[1], output[1]):
            return float("inf")
        for i, frames in enumerate(expected[1]):
            for mine, theirs in zip(output[::2], expected[::2], strict=True):
                difference = (mine[i, :frames] - theirs[i, :frames]).abs().max().item()
                # max() would pass over NaN
                largest = difference if not difference <= largest else largest
    return largest


def make_features(
    lengths: Sequence[int], input_size: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return noise (batch, frames, input_size), and its lengths (batch,) in frames."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(len(lengths), max(lengths), input_size, generator=generator)
    return feats, torch.tensor(lengths)


def feature_size(model: ESPnetASRModel, config: Dict) -> int:
    """Return the size of the feature vectors that the model takes."""
    if model.frontend is None:
        return config["input_size"]
    return model.frontend.output_size()


def frames_of(model: ESPnetASRModel, config: Dict, seconds: float) -> int:
    """Return how many feature vectors the frontend makes of so much audio."""
    if model.frontend is None:
        return round(seconds * FRAMES_PER_SECOND)
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    samples = round(seconds * humanfriendly.parse_size(str(rate)))
    with torch.no_grad():
        _, lengths = model.frontend(torch.zeros(1, samples), torch.tensor([samples]))
    return int(lengths)


def time_runners(
    runners: Dict[str, Runner],
    inputs: Tuple[torch.Tensor, torch.Tensor],
    threads: int,
    min_time: float,
) -> Dict[str, float]:
    """Return the median milliseconds of each, measured in turns.

    Args:
        runners: What to time, by name.
        inputs: Features and lengths.
        threads: CPU threads within an operator of PyTorch.
        min_time: Seconds that each is measured, at least.
    """
    settings = Settings(None, "cpu", "infer", "float32", 1, threads, min_time)
    steps = {name: lambda run=run: run(*inputs) for name, run in runners.items()}
    medians = {}
    with torch.inference_mode():
        timed = time_interleaved(steps, settings)
    for name, (times, status) in timed.items():
        if times is None:
            raise ExportError(f"--time: {name}: {status}")
        medians[name] = statistics.median(times)
    return medians


@contextlib.contextmanager
def _quiet():
    """Keep the exporters' warnings, which are about themselves, off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
