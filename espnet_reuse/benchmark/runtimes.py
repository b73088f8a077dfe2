# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Times encoders and exported files, in PyTorch and in serving runtimes."""

import dataclasses
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_reuse.benchmark import peers, recognizers
from espnet_reuse.benchmark.measure import time_interleaved
from espnet_reuse.benchmark.peers import FRONTEND, LIMIT, OWN, SAME, SEED, Peer
from espnet_reuse.bin.asr_inference_ctc import Speech2Text
from espnet_reuse.errors import UserError, one_line
from espnet_reuse.export import WITH_CTC, ServedModel, export_model, open_exported
from espnet_reuse.serving import RUNTIMES

PYTORCH = "pytorch"
# Samples, and frames of features, in a second of audio, where no file or model says it.
DEFAULT_RATES = (16000, 100)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Form:
    """An encoder, or an exported file, as a runtime computes it.

    Attributes:
        encoder: Its name, of a file the path.
        runtime: `pytorch`, `onnxruntime` or `openvino`.
        dtype: `float32` or `bfloat16`.
        run: Takes noise `(1, length, *size)`, float32, and its lengths (1,), int64.
        rate: Samples or frames in a second of audio.
        size: Of features; `()` of waveforms.
    """

    encoder: str
    runtime: str
    dtype: str
    run: Callable
    rate: float
    size: tuple[int, ...] = ()

    def prepare(self, seconds: float) -> Callable:
        """Return a function that runs it once, on so much noise."""
        torch.manual_seed(SEED)
        length = max(round(seconds * self.rate), 1)
        inputs = torch.randn(1, length, *self.size), torch.tensor([length])
        return lambda: self.run(*inputs)

    def run_once(self, seconds: float) -> list:
        """Return what it gives for so much noise.

        Raises:
            UserError: It does not run.
        """
        try:
            with torch.inference_mode():
                return self.prepare(seconds)()
        except Exception as error:  # whatever a runtime raises
            where = f"{self.encoder} does not run in {self.runtime}"
            message = f"{where} on {seconds:g} s of audio: {one_line(error)}"
            raise UserError(message) from None


def time_forms(forms: list[Form], seconds: float, min_time: float) -> list[dict]:
    """Time forms that take turns, for `min_time` seconds or more.

    Returns:
        A row for each: `seconds`, `runtime`, `dtype`, `encoder`, and `times_ms` of all
        rounds.

    Raises:
        UserError: One does not run on so much audio.
    """
    for form in forms:
        form.run_once(seconds)
    steps = {n: form.prepare(seconds) for n, form in enumerate(forms)}
    with torch.inference_mode():
        timed = time_interleaved(steps, min_time)
    rows = []
    for form, (times, status) in zip(forms, timed.values(), strict=True):
        if times is None:
            raise UserError(f"{form.encoder} in {form.runtime}: {status}")
        names = ("runtime", "dtype", "encoder")
        row = {"seconds": seconds} | {name: getattr(form, name) for name in names}
        rows.append(row | {"times_ms": times})
    return rows


# ------------------------- encoders, from waveform to CTC -------------------------


def list_encoders(config: peers.EncoderConfig, group_sizes: list[int]) -> list[Peer]:
    """Return ESPnet's encoder, ours without reuse and in groups, and the limit."""
    same, *ours = peers.list_ours(config, [1, *group_sizes])
    own = dataclasses.replace(peers.baseline_of(config), name=OWN)
    same = dataclasses.replace(same, name=SAME)
    return [own, same, *ours, peers.limit_of(config)]


def make_models(
    listed: list[Peer], frontend_conf: dict, dtype: str
) -> dict[str, Speech2Text]:
    """Make models of random weights for the encoders of `list_encoders`, by name."""
    made = recognizers.make_untrained(listed, frontend_conf, [1], dtype, "cpu")
    models = {name: speech2text for (name, *_), speech2text in made.items()}
    # Speech2Text has a faster one of its own
    vars(models[OWN].asr_model.frontend).pop("forward", None)
    return models


def in_pytorch(models: dict[str, Speech2Text], dtype: str) -> list[Form]:
    """Return models as PyTorch computes them, and the frontend of ours alone."""
    rate, model = models[LIMIT].sample_rate, models[LIMIT].asr_model
    runs = {
        name: lambda speech, _, s2t=s2t: s2t.ctc_log_probs(speech[0])
        for name, s2t in models.items()
    }
    runs[FRONTEND] = lambda *speech: model.normalize(*model.frontend(*speech))
    return [Form(name, PYTORCH, dtype, run, rate) for name, run in runs.items()]


def export_encoders(models: dict[str, Speech2Text], folder: Path) -> dict[str, Path]:
    """Export models, in float32, and the frontend alone; return the files by name."""
    files = {}
    for name in (*models, FRONTEND):
        logger.info(f"exporting {name}")
        is_espnets = name in (OWN, SAME, FRONTEND)
        source = models[OWN if is_espnets else name]
        with_ctc = "false" if name == FRONTEND else "true"
        served = ServedModel(
            source.asr_model, vars(source.asr_train_args), with_ctc=with_ctc
        )
        if name == FRONTEND:
            served.parts = torch.nn.ModuleList([source.asr_model.normalize])
        naive = {"ESPNET_REUSE_IMPL": "naive"} if name == OWN else {}
        files[name] = folder / f"{len(files)}.onnx"
        with patch.dict(os.environ, naive):
            export_model(served, files[name])
    return files


# ------------------------------------ any files ------------------------------------


def open_file(
    path: Path,
    runtime: str,
    threads: int,
    dtype: str,
    rates: tuple[float, float] = DEFAULT_RATES,
    name: str | None = None,
) -> Form:
    """Open an exported file: .onnx in the runtime, .pt2 in PyTorch.

    Args:
        path: The file.
        runtime: `onnxruntime` or `openvino`.
        threads: CPU threads.
        dtype: `float32`, or of OpenVINO `bfloat16`; the others compute in float32.
        rates: Samples, and frames of features, in a second of audio. A rate that an
            ONNX file names comes first.
        name: Its name, by default the path.

    Raises:
        UserError: The file cannot be opened.
    """
    if path.suffix == ".pt2":
        return _open_pt2(path, rates)
    import onnx

    dtype = dtype if runtime == "openvino" else "float32"
    opened = RUNTIMES[runtime](path, threads, dtype)
    outputs = sorted(opened.outputs)
    if len(opened.inputs) != 2:
        count = len(opened.inputs)
        raise UserError(f"{path} is no exported file: it has {count} inputs, not 2")
    x, x_lengths = onnx.load(path, load_external_data=False).graph.input
    size = tuple(axis.dim_value for axis in x.type.tensor_type.shape.dim[2:])

    def run(feats, lengths):
        inputs = {x.name: feats.numpy(), x_lengths.name: lengths.numpy()}
        return opened.run(outputs, inputs)

    rate = rates[1] if size else float(opened.metadata.get("sampling_rate") or rates[0])
    return Form(name or str(path), runtime, dtype, run, rate, size)


def _open_pt2(path, rates):
    try:
        run = open_exported(path)
        x = next(x for x in inspect.unwrap(run).graph.nodes if x.op == "placeholder")
        size = tuple(x.meta["val"].shape[2:])
    except Exception as error:  # a file of another origin raises anything
        raise UserError(f"{path} is no exported file: {one_line(error)}") from None
    return Form(str(path), PYTORCH, "float32", run, rates[len(size)], size)


def rates_of(model: ESPnetASRModel, config: dict) -> tuple[float, float]:
    """Return the samples and the frames of features in a second of a model's audio."""
    served = ServedModel(model, config, with_frontend=False)
    if served.sampling_rate is None:
        return DEFAULT_RATES
    return served.sampling_rate, served.sampling_rate / model.frontend.hop_length


def beside(file: Form, model: ESPnetASRModel, config: dict, dtype: str) -> Form:
    """Return a model in PyTorch that gives what an exported file of it gives."""
    given = len(file.run_once(1.0))
    kinds = {len(outputs) + 2: kind for kind, outputs in WITH_CTC.items()}
    if given not in kinds:
        raise UserError(f"{file.encoder} is no exported file: it has {given} outputs")
    served = ServedModel(model, config, not file.size, kinds[given])
    run = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")(served)
    rate = rates_of(model, config)[len(file.size)]
    return Form("model", PYTORCH, dtype, run, rate, file.size)
