# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Times exported encoders side by side, and beside their model in PyTorch."""

import statistics
from pathlib import Path

import humanfriendly
import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_reuse.benchmark.measure import time_interleaved
from espnet_reuse.errors import UserError, one_line
from espnet_reuse.export import Runner, make_features, open_exported


def open_files(paths: list[Path], threads: int) -> tuple[dict[str, Runner], int]:
    """Return functions that run exported files, by path, and their features' size.

    Raises:
        UserError: A file cannot be opened, or takes features of another size.
    """
    runners, first_size = {}, None
    for path in paths:
        try:
            runners[str(path)], size = open_exported(path, threads)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a file of another origin raises anything
            raise UserError(
                f"{path} is no exported encoder ({one_line(error)}); name a file that "
                "espnet_reuse.bin.export has written"
            ) from None
        first_size = first_size or size
        if size != first_size:
            takes = f"{path} takes features of size {size}, but {paths[0]} of size"
            raise UserError(f"{takes} {first_size}: time each by itself")
    return runners, first_size


def count_frames(
    seconds: float, model: ESPnetASRModel | None, config: dict | None
) -> int:
    """Return how many frames the frontend makes of audio; without one, 100 a second."""
    if model is None or model.frontend is None:
        return round(100 * seconds)
    rate = (config.get("frontend_conf") or {}).get("fs", "16k")
    samples = round(seconds * humanfriendly.parse_size(str(rate)))
    with torch.no_grad():
        _, lengths = model.frontend(torch.zeros(1, samples), torch.tensor([samples]))
    return int(lengths)


def time_runners(
    runners: dict[str, Runner], frames: int, input_size: int, min_time: float
) -> dict[str, float]:
    """Return each one's median milliseconds, over `min_time` seconds or more of turns.

    Raises:
        UserError: One does not run on such an utterance.
    """
    inputs = make_features((frames,), input_size)
    utterance = f"{frames} frames of size {input_size}"
    steps = {name: lambda run=run: run(*inputs) for name, run in runners.items()}
    with torch.inference_mode():
        for name, step in steps.items():
            try:
                step()
            except Exception as error:  # whatever a runtime raises
                failed = f"{name} does not run on {utterance}"
                raise UserError(f"{failed}: {one_line(error)}") from None
        medians = {}
        for name, (times, status) in time_interleaved(steps, min_time).items():
            if times is None:
                raise UserError(f"{name}, {utterance}: {status}")
            medians[name] = statistics.median(times)
    return medians
