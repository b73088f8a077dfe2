# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Text from an exported file, in ONNX Runtime or OpenVINO: no PyTorch and no ESPnet."""

import contextlib
import functools
import json
import logging
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_reuse.best_path import BATCH_SECONDS, BestPath, BestPathDecoding, collapse
from espnet_reuse.errors import UserError, one_line

DTYPES = ("float32", "bfloat16")
# Outputs of which labels are made, by what the file was exported with.
LOG_PROBS = ("encoder_out_lens", "ctc_log_probs")
TOKENS = ("encoder_out_lens", "token_int", "token_int_lens", "token_times")

logger = logging.getLogger(__name__)


class Transcript(NamedTuple):
    """What is said in an utterance."""

    text: str
    token: list[str]
    token_int: list[int]
    times: list[list[float]]  # [start, end] of each token in seconds


class Opened(NamedTuple):
    """A file in a runtime."""

    inputs: set[str]
    outputs: set[str]
    metadata: dict[str, str]
    run: Callable[[Sequence[str], dict[str, np.ndarray]], list[np.ndarray]]


def open_in_onnxruntime(path: Path, threads: int | None, dtype: str) -> Opened:
    """Open an ONNX file; the arguments are those of `ExportedModel`."""
    import onnxruntime

    if dtype != "float32":
        raise UserError(f"ONNX Runtime computes in float32; {dtype} is for OpenVINO")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # fatal; errors are raised
    providers = ["CPUExecutionProvider"]
    with _reported(path, "damaged or of another kind"):
        session = onnxruntime.InferenceSession(str(path), options, providers)
    return Opened(
        {x.name for x in session.get_inputs()},
        {x.name for x in session.get_outputs()},
        session.get_modelmeta().custom_metadata_map,
        session.run,
    )


def open_in_openvino(path: Path, threads: int | None, dtype: str) -> Opened:
    """Open an ONNX file; the arguments are those of `ExportedModel`."""
    import openvino
    from openvino.frontend import FrontEndManager

    core = openvino.Core()
    capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if dtype == "bfloat16" and not capable:
        raise UserError("this CPU does not compute in bfloat16")
    # float32 has to be asked for: OpenVINO would use bfloat16 where the CPU has it
    config = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype]}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    with _reported(path, "damaged or of another kind"):
        # core.read_model tries other formats, which print what they miss
        reader = FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
        compiled = core.compile_model(model, "CPU", config)
    has_metadata = model.has_rt_info(["framework"])  # of the ONNX file
    rt_info = model.get_rt_info(["framework"]).astype(dict) if has_metadata else {}

    def run(names, inputs):
        outputs = compiled(inputs)
        return [outputs[name] for name in names]

    return Opened(
        {x.any_name for x in compiled.inputs},
        {name for x in compiled.outputs for name in x.names},
        {key: str(value.value) for key, value in rt_info.items()},
        run,
    )


RUNTIMES = {"onnxruntime": open_in_onnxruntime, "openvino": open_in_openvino}


class Tokens:
    """Token ids to tokens to text, as ESPnet's converter and tokenizer do it.

    Args:
        token_list: All tokens.
        token_type: ESPnet's: bpe, char, word or phn.

    Raises:
        ValueError: It is another one.
    """

    def __init__(self, token_list: list[str], token_type: str):
        if token_type not in ("bpe", "char", "word", "phn"):
            raise ValueError(f"token_type {token_type}: its text is not known here")
        self.token_list, self.token_type = token_list, token_type

    def ids2tokens(self, token_int: Sequence[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.token_list[n] for n in token_int]

    def tokens2text(self, token: Sequence[str]) -> str:
        """Return the text of tokens."""
        if self.token_type == "phn":
            return "".join(token)
        if self.token_type == "char":
            return "".join(token).replace("<space>", " ")
        if self.token_type != "bpe":
            return " ".join(token)
        text = ""  # as sentencepiece makes it
        for piece in token:
            words = piece.replace("▁", " ")
            words = words if text else words.removeprefix(" ")
            text += " ⁇ " if piece == "<unk>" else words
        return re.sub("(<0x[0-9A-F]{2}>)+", _decode_bytes, text)


class ExportedModel(BestPathDecoding):
    """A file of `espnet-reuse export` that takes audio and has a CTC head.

    Examples:
        >>> model = ExportedModel("model.onnx")
        >>> model.best_path(speech).text
        'a text'
        >>> for start, end, text in model.iter_long("an_hour.flac"):
        ...     print(start, end, text)

    Args:
        path: ONNX file.
        runtime: onnxruntime or openvino, by default the first that is installed.
        threads: CPU threads, by default as many as the runtime chooses.
        dtype: float32, or bfloat16 in OpenVINO on a CPU that has it.

    Attributes:
        metadata: The file's, {name: text}.

    Raises:
        UserError: The file is damaged, of another kind or without what a text needs, or
            the runtime cannot compute in the dtype.
        ModuleNotFoundError: The runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        runtime: str | None = None,
        threads: int | None = None,
        dtype: str = "float32",
    ):
        self.path, self.dtype = Path(path), dtype
        runtime = runtime or next(filter(find_spec, RUNTIMES), "onnxruntime")
        inputs, outputs, about, self._run = RUNTIMES[runtime](self.path, threads, dtype)
        if "espnet_reuse" not in about:
            raise UserError(f"{path} is no file of espnet-reuse export")
        if "speech" not in inputs:
            raise UserError(
                f"{path} takes features, not audio: export it with --with_frontend true"
            )
        self._outputs = LOG_PROBS if LOG_PROBS[1] in outputs else TOKENS
        if not outputs.issuperset(self._outputs):
            raise UserError(
                f"{path} has no CTC head, and so no text: export it with --with_ctc "
                "true or best_path"
            )
        self.metadata = about
        with _reported(path, "of another version"):
            self.sample_rate = int(about["sampling_rate"])
            self.samples_per_frame = int(about["samples_per_frame"])
            self.blank_id = int(about["blank_id"])
            self._pads_freely = about["padding_invariant"] == "true"
            tokens = Tokens(json.loads(about["tokens"]), about["token_type"])
        self.converter = self.tokenizer = tokens

    def best_path(self, speech: np.ndarray) -> Transcript:
        """Return what is said in a waveform (samples,) at the model's rate."""
        return self.best_path_batch([speech])[0]

    def best_path_batch(
        self,
        speeches: Sequence[np.ndarray],
        batch_seconds: float = BATCH_SECONDS["cpu"],
        utt_ids: Sequence[str] | None = None,
    ) -> list[Transcript]:
        """Return what is said in utterances, similar lengths in one batch.

        An utterance that is too short has no text, and a warning names it. Where the
        encoder's output depends on the padding, each is decoded alone.

        Args:
            speeches: Waveforms (samples,) at the model's rate.
            batch_seconds: Most seconds of padded audio in a batch; one utterance may
                be longer.
            utt_ids: Names for the warnings, by default the places in the list.
        """
        results, lengths = [None] * len(speeches), [len(speech) for speech in speeches]
        for batch in self._plan_batches(lengths, batch_seconds * self.sample_rate):
            paths = self._best_paths([speeches[n] for n in batch])
            for n, (labels, _) in zip(batch, paths, strict=True):
                if not len(labels):
                    name = utt_ids[n] if utt_ids else f"number {n}"
                    seconds = lengths[n] / self.sample_rate
                    logger.warning(f"{name}: {seconds:g} s is too short: no text")
                token_int, *borders = self._collapse(labels)
                times = (np.stack(borders, -1) * self.seconds_per_frame).tolist()
                token, text = self._read(token_int)
                results[n] = Transcript(text, token, token_int, times)
        return results

    @functools.cached_property
    def is_padding_invariant(self) -> bool:
        """Whether an utterance is encoded in a padded batch as it is alone."""
        if not self._pads_freely:
            logger.warning(
                "this encoder's output depends on the padding of a batch: utterances "
                "are decoded one at a time"
            )
        return self._pads_freely

    def _encode(self, names, speeches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return outputs of the file for a batch of waveforms (samples,)."""
        # a waveform without samples has one here
        lengths = np.array([max(len(speech), 1) for speech in speeches])
        padded = np.zeros((len(lengths), lengths.max()), np.float32)
        for row, speech in zip(padded, speeches, strict=True):
            row[: len(speech)] = speech
        with _reported(self.path, "not able to run"):
            return self._run(names, {"speech": padded, "speech_lengths": lengths})

    def _best_paths(self, speeches: Sequence[np.ndarray]) -> list[BestPath]:
        """Return the best path of each utterance of a batch."""
        lengths, *outputs = self._encode(self._outputs, speeches)
        lengths = [
            n if len(speech) else 0 for n, speech in zip(lengths, speeches, strict=True)
        ]
        if self._outputs == LOG_PROBS:
            (log_probs,) = outputs
            rows = zip(log_probs.argmax(-1), log_probs.max(-1), lengths, strict=True)
            return [BestPath(labels[:n], best[:n]) for labels, best, n in rows]
        return [
            BestPath(self._spread(n, token_int[:count], times[:count]), None)
            for n, token_int, count, times in zip(lengths, *outputs, strict=True)
        ]

    def _spread(self, length, token_int, times) -> np.ndarray:
        """Return the label of each frame, given tokens and their times."""
        labels = np.full(length, self.blank_id)
        borders = np.rint(times / self.seconds_per_frame).astype(int)
        for token, (start, end) in zip(token_int, borders, strict=True):
            labels[start:end] = token
        return labels

    def _collapse(self, labels: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
        return collapse(labels, self.blank_id)


@contextlib.contextmanager
def _reported(path: str | Path, problem: str):
    """Report in one line whatever is raised over a file."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{path} is {problem}: {one_line(error)[:300]}") from error


def _decode_bytes(match: re.Match) -> str:
    """Return the text of sentencepiece's bytes, such as <0xC3><0xA9>."""
    return bytes.fromhex(re.sub("<0x|>", "", match[0])).decode(errors="replace")
