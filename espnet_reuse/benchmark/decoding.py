# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Time models from waveform to text, in parts: frontend, encoder and search."""

import logging
import time
from collections import defaultdict
from itertools import batched
from typing import TYPE_CHECKING

import pandas
import torch
from torch.utils.benchmark import timer  # waits for a GPU

if TYPE_CHECKING:  # it takes seconds
    from espnet_reuse.bin.asr_inference_ctc import Speech2Text

logger = logging.getLogger(__name__)

BEST_PATH = "best path"
PARTS = {"frontend": ("frontend", "normalize"), "encoder": ("encoder",)}


class PartTimes(dict):
    """Seconds that the parts of a model have taken, added up as it runs."""

    def __init__(self, model: torch.nn.Module):
        super().__init__(dict.fromkeys(PARTS, 0.0))
        for part, names in PARTS.items():
            for module in filter(None, (getattr(model, name, None) for name in names)):
                # around the module's other hooks, which work for the part
                module.register_forward_pre_hook(
                    lambda *_, part=part: self.add(part, -timer()), prepend=True
                )
                module.register_forward_hook(
                    lambda *_, part=part: self.add(part, timer())
                )

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part; the start of a call is subtracted."""
        self[part] += seconds


def decode(
    speech2text: "Speech2Text", search: str, batch: int, speeches: list[torch.Tensor]
) -> None:
    """Decode waveforms, `batch` at a time, and drop the text."""
    if search == BEST_PATH:
        single, several = speech2text.best_path, speech2text.best_path_batch
    else:
        single, several = speech2text, speech2text.batch_decode
    for part in batched(speeches, batch):
        if batch == 1:
            single(*part)
        else:
            several(list(part))


def time_turns(
    recognizers: dict[tuple[str, str, int], "Speech2Text"],
    speeches: list[torch.Tensor],
    rounds: int,
    max_seconds: float = float("inf"),
) -> list[dict]:
    """Time recognizers that take turns, after each has decoded the first waveform.

    A turn is as many waveforms as the largest batch. What is neither frontend nor
    encoder counts as search.

    Args:
        recognizers: By model, search and batch. The search is BEST_PATH, or another
            name for the beam search of the recognizer.
        speeches: Waveforms of shape (samples,), at the models' rate.
        rounds: Most rounds.
        max_seconds: When to begin no other round; there is one at least.

    Returns:
        For each round and recognizer `model`, `search` and `batch`; and milliseconds
        for all waveforms: `frontend_ms`, `encoder_ms`, `search_ms` and `total_ms`.
    """
    # keys may share a recognizer
    clocks = {s2t: PartTimes(s2t.asr_model) for s2t in set(recognizers.values())}
    for (_, *how), speech2text in recognizers.items():
        decode(speech2text, *how, speeches[:1])
    rows, begin = [], time.monotonic()
    largest = max(batch for *_, batch in recognizers)
    for number in range(rounds):
        if number and time.monotonic() - begin > max_seconds:
            break
        seconds = {key: defaultdict(float) for key in recognizers}
        for turn in batched(speeches, largest):
            for key, speech2text in recognizers.items():
                clock, own = clocks[speech2text], seconds[key]
                clock.update(dict.fromkeys(PARTS, 0.0))
                start = timer()
                decode(speech2text, *key[1:], turn)
                total = timer() - start
                own["total"] += total
                own["search"] += total - sum(clock.values())
                for part in PARTS:
                    own[part] += clock[part]
        for key, own in seconds.items():
            row = dict(zip(("model", "search", "batch"), key, strict=True))
            parts = (*PARTS, "search", "total")
            rows.append(row | {f"{part}_ms": 1000 * own[part] for part in parts})
        logger.info(f"  round {number + 1} of {rounds}")
    return rows


def per_second(rows: list[dict], audio_seconds: float) -> pandas.DataFrame:
    """Return medians of `time_turns`' rounds in milliseconds for a second of audio.

    A row for each model, search and batch, in the order of the first round.
    """
    keys = ["model", "search", "batch"]
    medians = pandas.DataFrame(rows).groupby(keys, sort=False).median()
    return (medians / audio_seconds).reset_index()
