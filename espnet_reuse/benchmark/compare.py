# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Measure all encoders at one length of audio."""

import dataclasses
import logging

import torch

from espnet_reuse.benchmark.breakdown import measure_breakdown
from espnet_reuse.benchmark.measure import (
    MEASURED,
    Settings,
    attempt,
    make_inputs,
    make_products,
    make_step,
    peak_memory,
    time_interleaved,
)
from espnet_reuse.benchmark.peers import (
    EAGER,
    SDPA,
    Peer,
    build_encoder,
    count_output_frames,
    with_layers,
)

logger = logging.getLogger(__name__)

PROFILED_STEPS = 3


def _fit_layers(baseline, ours, encoders, inputs, settings):
    """Return how many layers of the baseline fit into our latency: one or more."""
    one_layer = build_encoder(with_layers(baseline, 1)).to(settings.device)
    timed = one_layer, encoders[baseline.name], encoders[ours.name]
    steps = {i: make_step(encoder, inputs, settings) for i, encoder in enumerate(timed)}
    times, statuses = zip(*time_interleaved(steps, min_time=0).values(), strict=True)
    if set(statuses) != {MEASURED}:
        return None
    # the fastest, for one disturbed round of few would change the number
    one_ms, baseline_ms, our_ms = map(min, times)
    num_blocks = baseline.conf["num_blocks"]
    if baseline_ms <= one_ms:
        return num_blocks
    fitting = 1 + (num_blocks - 1) * (our_ms - one_ms) / (baseline_ms - one_ms)
    return max(1, min(num_blocks, int(fitting)))


def _measure_memory(peer, encoder, settings, seconds, output_frames):
    """Return the peer's row with its size and its peak memory."""
    peak, status = peak_memory(peer, settings, settings.frames_of(seconds))
    shown = f"{peak:.0f} MB at the peak" if status == MEASURED else status
    logger.info(f"  {peer.name}: {shown}")
    return {
        "seconds": seconds,
        "output_frames": output_frames,
        "encoder": peer.name,
        "status": status,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "layers": peer.conf["num_blocks"],
        "group_size": peer.group_size,
        "peak_memory_mb": peak,
        "times_ms": None,
        "products_ms": None,
        "breakdown_ms": None,
    }


def _measure_breakdown(encoder, inputs, settings):
    """Return the milliseconds by category of the fastest of some forwards, or None."""
    conf = settings.config.conf
    step = make_step(encoder, inputs, dataclasses.replace(settings, mode="infer"))
    sizes = conf["output_size"], conf["attention_heads"]
    measured = [
        attempt(measure_breakdown, encoder, step, *sizes, settings.device)[0]
        for _ in range(PROFILED_STEPS)
    ]
    return min(filter(None, measured), key=lambda parts: parts["total"], default=None)


def compare_at(
    seconds: float,
    peers: list[Peer],
    encoders: dict[str, torch.nn.Module],
    settings: Settings,
) -> list[dict]:
    """Measure memory, time and breakdown of all encoders at one length.

    Args:
        seconds: Length of every utterance, seconds of audio.
        peers: The baseline first, ours in increasing group size, the limit last.
        encoders: Their modules, on the device.
        settings: What holds for all.

    Returns:
        A row for each encoder: its status, size and peak memory (MB); the time of each
        round (ms), also of the products that reuse cannot avoid; and the breakdown
        (ms). What was not measured is None. `report.summarise` completes the rows.
    """
    baseline, largest, limit = peers[0], peers[-2], peers[-1]
    frames, input_size = settings.frames_of(seconds), baseline.conf["input_size"]
    output_frames = count_output_frames(encoders[baseline.name], input_size, frames)
    length = settings, seconds, output_frames

    logger.info(f"{seconds:g} s: memory of a step of each encoder by itself")
    rows = {
        peer.name: _measure_memory(peer, encoders[peer.name], *length) for peer in peers
    }

    def measured():
        return [peer for peer in peers if rows[peer.name]["status"] == MEASURED]

    inputs = attempt(make_inputs, settings, frames)[0] if measured() else None
    if inputs and baseline in measured() and largest in measured():
        logger.info(f"{seconds:g} s: how many of ESPnet's layers fit our latency")
        num_blocks = _fit_layers(baseline, largest, encoders, inputs, settings)
        if num_blocks:
            fewer = with_layers(baseline, num_blocks)
            encoder = build_encoder(fewer, encoders[baseline.name])
            encoders = encoders | {fewer.name: encoder.to(settings.device)}
            rows[fewer.name] = _measure_memory(fewer, encoder, *length)
            peers = [*peers[:-1], fewer, limit]

    steps = {}
    for peer in measured() if inputs else ():
        encoder = encoders[peer.name]
        steps[peer.name, "times_ms"] = make_step(encoder, inputs, settings)
        if peer.group_size:
            args = settings, peer.group_size, output_frames
            steps[peer.name, "products_ms"], _ = attempt(make_products, *args)
    logger.info(f"{seconds:g} s: time, in interleaved rounds")
    steps = {key: step for key, step in steps.items() if step}
    timed = time_interleaved(steps, settings.min_time)
    for (name, column), (times, status) in timed.items():
        rows[name][column] = times
        if column == "times_ms":
            rows[name]["status"] = status
    steps.clear()  # frees the maps of the products

    logger.info(f"{seconds:g} s: breakdown by module")
    for peer in measured():
        if peer.group_size or peer.name in (EAGER, SDPA):
            parts = _measure_breakdown(encoders[peer.name], inputs, settings)
            rows[peer.name]["breakdown_ms"] = parts
    return [rows[peer.name] for peer in peers]
