# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

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
    """Open exported encoders, ONNX Runtime's on so many CPU threads.

    Returns:
        Functions that run them, by path; and the size of the features they take.

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
            raise UserError(
                f"{path} takes features of size {size}, but {paths[0]} of size "
                f"{first_size}: time each by itself"
            )
    return runners, first_size


def count_frames(
    seconds: float, model: ESPnetASRModel | None, config: dict | None
) -> int:
    """Return how many feature vectors the model's frontend makes of so much audio.

    Without a frontend, 100 a second.
    """
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
    """Return the median milliseconds of each, measured in turns on one utterance.

    Each is measured for `min_time` seconds, at least.

    Raises:
        UserError: One does not run on such an utterance.
    """
    inputs = make_features((frames,), input_size)
    steps = {name: lambda run=run: run(*inputs) for name, run in runners.items()}
    with torch.inference_mode():
        for name, step in steps.items():
            try:
                step()
            except Exception as error:  # whatever a runtime raises
                raise UserError(
                    f"{name} does not run on {frames} frames of size {input_size}: "
                    f"{one_line(error)}"
                ) from None
        timed = time_interleaved(steps, min_time)
    for name, (times, status) in timed.items():
        if times is None:
            raise UserError(f"{name}, {frames} frames: {status}")
    return {name: statistics.median(times) for name, (times, _) in timed.items()}
