# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""An exported ONNX file with weights of 8 bits, and what this does to the best path.

The weights of matrix products become int8: all linear layers, and so most of a file.
Convolutions stay in float32, and so does the frontend: its power spectrum spans too
many orders of magnitude for 8 bits. With int8 mel filters, a model had up to four times
as many word errors.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from espnet_reuse.errors import UserError
from espnet_reuse.export import quiet
from espnet_reuse.serving import ExportedModel

# Weights that share a scale. ONNX Runtime computes such products in float32, where the
# batch has no effect.
BLOCK = 64
PIECE = 30  # seconds of a long recording that are compared at once


def quantize(path: Path, output: Path, runtime: str) -> None:
    """Write an exported file again, with int8 weights; the rest of it is the same.

    Args:
        path: An ONNX file of `espnet_reuse.export`.
        output: The file to write.
        runtime: The runtime that it shall be fast in. onnxruntime: products of
            integers, with one scale for all activations of a batch. openvino: a scale
            for each `BLOCK` weights; OpenVINO itself rounds activations. In both, an
            utterance's rounding depends a little on its batch and padding.
    """
    model = onnx.load(path)
    frontend = [
        node.name
        for node in model.graph.node
        if any(name.startswith("served.frontend.") for name in node.input)
    ]
    metadata = list(model.metadata_props)
    with quiet():
        if runtime == "onnxruntime":
            quantize_dynamic(
                model,
                output,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=frontend,
            )
            model = onnx.load(output)
        else:
            how = {"bits": 8, "block_size": BLOCK, "is_symmetric": True}
            quantizer = MatMulNBitsQuantizer(model, **how, nodes_to_exclude=frontend)
            quantizer.process()
            model = quantizer.model.model
    del model.metadata_props[:]  # the quantizer adds its own
    model.metadata_props.extend(metadata)
    onnx.save(model, output)


class Changes(NamedTuple):
    """How many best paths of audio differ between two files."""

    other_frames: int
    frames: int
    other_utterances: int
    utterances: int

    def __str__(self):
        """Return a line for the user."""
        share = 100 * self.other_frames / self.frames
        return (
            f"{self.other_frames:,} of {self.frames:,} frames ({share:.2f} %) have "
            f"another best token than in float32, {self.other_utterances:,} of "
            f"{self.utterances:,} utterances another best path"
        )


def count_changes(
    before: ExportedModel, after: ExportedModel, speeches: Iterable[np.ndarray]
) -> Changes:
    """Compare the best paths of two files, each utterance alone.

    Args:
        before, after: The files, of one model.
        speeches: Waveforms (samples,) at the model's rate.

    Raises:
        UserError: All utterances are too short for the model.
    """
    other_frames = frames = other_utterances = utterances = 0
    for speech in speeches:
        was, is_now = (
            np.concatenate(list(_labels(model, speech))) for model in (before, after)
        )
        other_frames += int((was != is_now).sum())
        frames += len(was)
        other_utterances += before._collapse(was)[0] != after._collapse(is_now)[0]
        utterances += 1
    if not frames:
        raise UserError("all audio is too short for the model: nothing to compare")
    return Changes(other_frames, frames, other_utterances, utterances)


def _labels(model: ExportedModel, speech: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the most likely token of each frame (frames,), of piece after piece."""
    size = PIECE * model.sample_rate
    for start in range(0, max(len(speech), 1), size):
        (path,) = model._best_paths([speech[start : start + size]])
        yield path.labels
