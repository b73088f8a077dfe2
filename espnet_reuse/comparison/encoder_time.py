# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Time of the models' encoders on the same recordings, measured side by side."""

from pathlib import Path

import numpy as np
import pandas
import torch
import torch.utils.benchmark
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.dataset import ESPnetDataset

from espnet_reuse.data.data_dir import read_scp

ROUNDS = 15
MAX_UTTERANCES = 20


def read_audio(dumpdir: Path, sets: list[str]) -> list[np.ndarray]:
    """Read the first utterances as ESPnet does, waveforms of shape (samples,)."""
    wavs = []
    for name in sets:
        scp, audio_format = dumpdir / name / "wav.scp", dumpdir / name / "audio_format"
        is_ark = "ark" in audio_format.read_text(encoding="utf-8")
        kind = "kaldi_ark" if is_ark else "sound"
        keys = list(read_scp(scp))[: MAX_UTTERANCES - len(wavs)]
        dataset = ESPnetDataset([(str(scp), "speech", kind)])
        wavs += [dataset[key][1]["speech"] for key in keys]
    return wavs


def encoder_inputs(
    model: AbsESPnetModel, wavs: list[np.ndarray]
) -> list[tuple[tuple, dict]]:
    """Return what the encoder is called with, (args, kwargs), for each waveform."""
    inputs, device = [], next(model.parameters()).device
    handle = model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append((args, kwargs)), with_kwargs=True
    )
    for wav in wavs:
        speech = torch.from_numpy(wav)[None].to(device)
        model.encode(speech, torch.tensor([speech.size(1)], device=device))
    handle.remove()
    return inputs


@torch.no_grad()
def measure_encoders(
    models: dict[str, AbsESPnetModel], wavs: list[np.ndarray], fs: int
) -> dict[str, dict[str, float]]:
    """Measure the encoders' real-time factors, interleaved, on one thread.

    Args:
        models: The models, on the device to measure.
        wavs: Waveforms, of shape (samples,).
        fs: Their sampling rate, in Hz.

    Returns:
        {model: {"rtf": median, "rtf_min": ..., "rtf_max": ...}} over the rounds, in
        seconds per second of audio.
    """
    seconds, timers = sum(map(len, wavs)) / fs, {}
    for name, model in models.items():
        model.eval()
        timers[name] = torch.utils.benchmark.Timer(
            "for args, kwargs in inputs:\n    encoder(*args, **kwargs)",
            globals={"encoder": model.encoder, "inputs": encoder_inputs(model, wavs)},
        )
        timers[name].timeit(1)
    rounds = pandas.DataFrame(
        {name: timer.timeit(1).median / seconds for name, timer in timers.items()}
        for _ in range(ROUNDS)
    )
    times = {"rtf": rounds.median(), "rtf_min": rounds.min(), "rtf_max": rounds.max()}
    return pandas.DataFrame(times).to_dict("index")
