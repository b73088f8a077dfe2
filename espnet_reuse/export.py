# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""A trained ESPnet ASR model as one file of ONNX or of torch.export, without a search.

The file holds what ESPnet does from the waveform, or from the frontend's features, to
the encoder's output: frontend, normalisation, pre-encoder, encoder, post-encoder; and
the CTC head or its best path, if asked for. Batch and lengths are dynamic.
"""

import contextlib
import itertools
import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import humanfriendly
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
)
from torch.nn.utils.rnn import pad_sequence

from espnet_reuse.asr.layers.attention_map_reuse import MapConsumer
from espnet_reuse.errors import UserError
from espnet_reuse.files import write_text, written_whole
from espnet_reuse.graph import Graph, best_path
from espnet_reuse.pretrained import attentions_of
from espnet_reuse.provenance import describe_run
from espnet_reuse.registry import ENCODERS, path_of
from espnet_reuse.serving import open_in_onnxruntime

WITH_CTC = {  # --with_ctc: outputs beside the encoder's
    "false": (),
    "true": ("ctc_log_probs",),
    "best_path": ("token_int", "token_int_lens", "token_times"),
}
# Hops of the frontend, or frames of features.
TRACED_LENGTHS = (128, 101)
# Other batches, longer and shorter ones, with padding.
CHECKED_LENGTHS = ((331,), (97, 53, 80))
TOLERANCE = 1e-4

Runner = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


class ServedModel(torch.nn.Module):
    """What is exported, by ESPnet's own operations: the reference for the file.

    Args:
        model: An ASR model; it is put into evaluation mode.
        config: Its training config.
        with_frontend: Whether to take waveforms; else features.
        with_ctc: A key of `WITH_CTC`.

    Attributes:
        input_names: `speech` or `feats`, and its lengths.
        output_names: `encoder_out`, `encoder_out_lens` and those of `WITH_CTC`.
        input_size: The features' size; of waveforms, none: ().
        hop: Samples between two frames of features, 1 where the inputs are features.
        sampling_rate, samples_per_frame, seconds_per_frame: Of the audio, and between
            two frames of the output; None where the model takes no audio.

    Raises:
        UserError: The model cannot be exported in this way.
    """

    def __init__(
        self,
        model: ESPnetASRModel,
        config: dict,
        with_frontend: bool = True,
        with_ctc: str = "false",
    ):
        super().__init__()
        model.eval()
        _check_exportable(model, with_frontend, with_ctc)
        self.frontend = model.frontend if with_frontend else None
        parts = model.normalize, model.preencoder, model.encoder, model.postencoder
        self.parts = torch.nn.ModuleList(part for part in parts if part is not None)
        self.encoder = model.encoder
        self.ctc = model.ctc
        self.blank_id = model.blank_id
        self.config = config
        self.with_ctc = with_ctc
        name = "feats" if self.frontend is None else "speech"
        self.input_names = (name, f"{name}_lengths")
        self.output_names = ("encoder_out", "encoder_out_lens", *WITH_CTC[with_ctc])
        frontend_hop = getattr(model.frontend, "hop_length", None)
        self.hop, self.input_size = 1, ()
        if self.frontend is not None:
            self.hop = frontend_hop
        elif model.frontend is not None:
            self.input_size = (model.frontend.output_size(),)
        else:
            self.input_size = (config["input_size"],)
        self.sampling_rate = self.samples_per_frame = self.seconds_per_frame = None
        if frontend_hop:
            rate = (config.get("frontend_conf") or {}).get("fs", 16000)
            self.sampling_rate = humanfriendly.parse_size(str(rate))
            self.samples_per_frame = frontend_hop * self._subsampling()
            self.seconds_per_frame = self.samples_per_frame / self.sampling_rate
        elif with_ctc == "best_path":
            raise UserError(
                "--with_ctc best_path: the model takes no audio, so that its tokens "
                "have no times; use --with_ctc true"
            )

    @torch.no_grad()
    def _subsampling(self) -> int:
        """Return how many of the frontend's frames make one of the encoder's."""
        fewer, more = 96, 192  # multiples of every subsampling
        x, lengths = self.make_inputs((more, fewer))
        x, lengths = self.encode(x, lengths)
        return (more - fewer) // int(lengths[0] - lengths[1])

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Encode waveforms or features.

        Args:
            x: Waveforms (batch, samples) or features (batch, frames, size), float32.
            lengths: Length of each utterance (batch,), int64.

        Returns:
            Encoder output (batch, frames', size) and its lengths (batch,); with
            `with_ctc: true`, log-probabilities (batch, frames', tokens); with
            `best_path`, tokens (batch, frames'), -1 behind the last, their number
            (batch,), and their start and end in seconds (batch, frames', 2).

        Raises:
            TooShortUttError: There are fewer frames than the subsampling needs. What
                is exported gives lengths of 0.
        """
        x, lengths = self.encode(x, lengths)
        if self.with_ctc == "true":
            return x, lengths, self.ctc.log_softmax(x)
        if self.with_ctc == "best_path":
            logits = self.ctc.ctc_lo(x)
            tokens, count, frames = best_path(logits, lengths, self.blank_id)
            return x, lengths, tokens, count, frames * self.seconds_per_frame
        return x, lengths

    def encode(self, x, lengths):
        """Return the encoder's output and its lengths; arguments are `forward`'s."""
        x = x.clone()  # ESPnet normalises in place
        if self.frontend is not None:
            x, lengths = self.featurize(x, lengths)
        for part in self.parts:
            conditioned = getattr(part, "interctc_use_conditioning", False)
            ctc = {"ctc": self.ctc} if conditioned else {}
            x, lengths, *_ = part(x, lengths, **ctc)
            if isinstance(x, tuple):
                x, _ = x  # intermediate outputs
        return x, lengths

    def featurize(self, speech, lengths):
        """Return features (batch, frames, size) and lengths, each utterance's alone.

        In a batch, ESPnet's frontend lets an utterance's last frames see the padding.
        """
        rows = [
            self.frontend(row[None, :n], n[None])[0][0]
            for row, n in zip(speech, lengths, strict=True)
        ]
        frames = torch.tensor([len(row) for row in rows])
        return pad_sequence(rows, batch_first=True), frames

    def make_inputs(self, hops: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return noise as inputs, of so many hops, and its lengths (batch,)."""
        lengths = torch.tensor(hops) * self.hop
        shape = len(lengths), int(lengths.max()), *self.input_size
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator), lengths


def _check_exportable(model: ESPnetASRModel, with_frontend: bool, with_ctc: str):
    """Refuse what no graph can hold.

    Raises:
        UserError: It says why, and what would do.
    """
    encoder, frontend = model.encoder, model.frontend
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
    if with_ctc != "false" and model.ctc is None:
        raise UserError("the model has no CTC head to export (ctc_weight: 0)")
    if not with_frontend:
        return
    if frontend is None:
        raise UserError("--with_frontend true: the model takes features, not audio")
    enhancement = vars(getattr(frontend, "frontend", None) or frontend)
    if (
        type(frontend) is not DefaultFrontend
        or not frontend.apply_stft
        or any(enhancement.get(f"use_{x}") for x in ("wpe", "beamformer"))
    ):
        raise UserError(
            f"--with_frontend true: {type(frontend).__name__} with these options "
            "cannot be exported, ESPnet's default frontend can; use --with_frontend "
            "false, and give the file features"
        )


def export_model(served: ServedModel, path: Path, opset: int | None = None) -> None:
    """Write the model as a graph, .pt2 or .onnx, with its metadata.

    Args:
        served: The model.
        path: The file.
        opset: Version of ONNX's operators, by default PyTorch's choice.

    Raises:
        UserError: PyTorch cannot make a graph of it.
    """
    x, x_lengths = served.input_names
    axis = "frames" if served.input_size else "samples"
    names = {x: {0: "batch", 1: axis}, x_lengths: {0: "batch"}}
    dynamic = [dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in names.values()]
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                Graph(served).eval(),
                served.make_inputs(TRACED_LENGTHS),
                dynamic_shapes=tuple(dynamic),
            )
            if path.suffix == ".pt2":
                # functional: torch.export.load fails over uniform_, which ESPnet's
                # encoders draw also where no layer is dropped
                torch.export.save(program.run_decompositions({}), path)
                return
            onnx_program = torch.onnx.export(
                program,
                input_names=served.input_names,
                output_names=served.output_names,
                dynamic_shapes=names,
                dynamo=True,
                opset_version=opset,
                verbose=False,
            )
            for node in onnx_program.model.graph.all_nodes():
                node.metadata_props.clear()  # stack traces, with this machine's paths
                for value in node.outputs:
                    value.metadata_props.clear()
            onnx_program.model.metadata_props.update(describe(served))
            onnx_program.save(path, external_data=False)
        written = onnx_program.model.opset_imports[""]
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"PyTorch cannot export this model as {path.suffix[1:]}: "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    if opset and opset != written:  # it takes any number
        raise UserError(
            f"argument --opset: PyTorch writes opset {written}, not {opset}"
        )


def describe(served: ServedModel) -> dict[str, str]:
    """Return the metadata that an ONNX file carries, as strings, lists as JSON."""
    run, config = describe_run(1, ""), served.config
    attentions = attentions_of(served.encoder)
    consumes = [isinstance(attention, MapConsumer) for attention in attentions]
    starts = [n for n, is_consumer in enumerate(consumes) if not is_consumer]
    borders = itertools.pairwise([*starts, len(consumes)])
    seconds = served.seconds_per_frame
    return {
        "espnet_reuse": run["espnet_reuse"],
        "sampling_rate": str(served.sampling_rate or ""),
        "samples_per_frame": str(served.samples_per_frame or ""),
        "frames_per_second": f"{1 / seconds:g}" if seconds else "",
        "token_type": str(config.get("token_type")),
        "tokens": json.dumps(config["token_list"], ensure_ascii=False),
        "blank_id": str(served.blank_id),
        # the old relative positions depend on the length of the batch
        "padding_invariant": json.dumps(
            not any(
                isinstance(a, LegacyRelPositionMultiHeadedAttention) for a in attentions
            )
        ),
        "encoder": config["encoder"],
        "group_sizes": json.dumps([end - start for start, end in borders]),
        "versions": json.dumps({name: run[name] for name in ("torch", "espnet")}),
        "commit": run["commit"],
    }


def versions_of(path: Path) -> str:
    """Return the versions that a runtime must know to read the file."""
    if path.suffix == ".pt2":
        return f"PyTorch {torch.__version__}"
    import onnx

    model = onnx.load(path, load_external_data=False)
    (opset,) = (x.version for x in model.opset_import if not x.domain)
    return f"opset {opset}, IR version {model.ir_version}"


def write_tokens(config: dict, path: Path) -> None:
    """Write a model's tokens, one in a line, and copy its BPE model, beside a file."""
    tokens = "\n".join([*config["token_list"], ""])
    write_text(tokens, path.with_suffix(".tokens.txt"))
    bpemodel, copy = config.get("bpemodel"), path.with_suffix(".bpe.model")
    copy.unlink(missing_ok=True)
    if bpemodel and Path(bpemodel).is_file():
        with written_whole(copy) as partial:
            shutil.copy(bpemodel, partial)


def open_exported(path: Path, threads: int | None = None) -> Runner:
    """Return a function that runs an exported file on the CPU.

    Args:
        path: A file of `export_model`.
        threads: CPU threads of ONNX Runtime (default: PyTorch's). A .pt2 file runs on
            PyTorch's threads.
    """
    if path.suffix == ".pt2":
        with quiet():
            # its guards are narrower than what it computes rightly: few frames
            module = torch.export.load(path).module(check_guards=False)
            return torch.no_grad()(module)
    opened = open_in_onnxruntime(path, threads or torch.get_num_threads(), "float32")
    names = sorted(opened.inputs)  # what is encoded, and its lengths

    def run(*inputs):
        named = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(x) for x in opened.run(None, named)]

    return run


def largest_difference(served: ServedModel, runner: Runner) -> float:
    """Compare an exported model with the model, at sizes that were not traced.

    Returns:
        The largest difference of any real frame's output, infinity where the lengths or
        tokens differ, NaN where a difference is.
    """
    differences = []
    for lengths in CHECKED_LENGTHS:
        inputs = served.make_inputs(lengths)
        with torch.no_grad():
            pairs = zip(runner(*inputs), served(*inputs), strict=True)
        actual, expected = zip(*pairs, strict=True)
        for mine, theirs in zip(actual, expected, strict=True):
            if not theirs.is_floating_point():
                if not torch.equal(mine, theirs):
                    return math.inf
                continue
            for i, frames in enumerate(expected[1]):
                differences.append((mine[i, :frames] - theirs[i, :frames]).abs().max())
    return torch.stack(differences).max().item()


@contextlib.contextmanager
def quiet():
    """Keep the exporters' warnings, which are about themselves, off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
