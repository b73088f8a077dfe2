# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Measure all encoders at one length of audio."""

import dataclasses
import logging
from typing import Dict, Sequence

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

PILOT_ROUNDS = 3
PROFILED_STEPS = 3
PRODUCTS = "products of "


def _fit_layers(baseline, ours, encoders, inputs, settings):
    """Return how many layers of the baseline fit into our latency: one or more."""
    one_layer = build_encoder(with_layers(baseline, 1), settings.config.input_size)
    timed = {
        "all": encoders[baseline.name],
        "one": one_layer.to(settings.device),
        "ours": encoders[ours.name],
    }
    steps = {name: make_step(e, inputs, settings) for name, e in timed.items()}
    times = time_interleaved(steps, settings.threads, settings.min_time, PILOT_ROUNDS)
    if any(status != MEASURED for _, status in times.values()):
        return None
    # the fastest, for one disturbed round of few would change the number
    ms = {name: min(values) for name, (values, _) in times.items()}
    num_blocks = baseline.conf["num_blocks"]
    per_layer = (ms["all"] - ms["one"]) / max(1, num_blocks - 1)
    fitting = 1 + (ms["ours"] - ms["one"]) / per_layer if per_layer > 0 else num_blocks
    return max(1, min(num_blocks, int(fitting)))


def _measure_memory(peer, rows, encoder, settings, frames):
    """Start the peer's row with its size and its peak memory."""
    peak, status = attempt(peak_memory, peer, settings, frames)
    rows[peer.name] = {
        "status": status,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "layers": peer.conf["num_blocks"],
        "group_size": peer.conf.get("reuse_group_size"),
        "peak_memory_mb": peak,
        "times_ms": None,
    }
    shown = f"{peak:.0f} MB at the peak" if status == MEASURED else status
    logger.info(f"  {peer.name}: {shown}")


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
    peers: Sequence[Peer],
    encoders: Dict[str, torch.nn.Module],
    settings: Settings,
) -> Dict:
    """Measure memory, time and breakdown of all encoders at one length.

    Args:
        seconds: Length of every utterance, seconds of audio.
        peers: The baseline first, ours in increasing group size, the limit last.
        encoders: Their modules, on the device.
        settings: What holds for all.

    Returns:
        Raw measurements, which `report.summarise` completes: by peer its status, size,
        peak memory (MB) and time of each round (ms), the times of the products that
        reuse cannot avoid, and the breakdown (ms).
    """
    config = settings.config
    frames = settings.frames_of(seconds)
    baseline = peers[0]
    output_frames = count_output_frames(
        encoders[baseline.name], config.input_size, frames
    )
    rows = {}
    logger.info(f"{seconds:g} s: memory of a step of each encoder by itself")
    for peer in peers:
        _measure_memory(peer, rows, encoders[peer.name], settings, frames)

    ok = {name for name, row in rows.items() if row["status"] == MEASURED}
    inputs = attempt(make_inputs, settings, frames)[0] if ok else None
    largest = [peer for peer in peers if peer.is_ours][-1]
    if inputs and {baseline.name, largest.name} <= ok:
        logger.info(f"{seconds:g} s: how many of ESPnet's layers fit our latency")
        num_blocks = _fit_layers(baseline, largest, encoders, inputs, settings)
        if num_blocks:
            fewer = with_layers(baseline, num_blocks)
            encoder = build_encoder(fewer, config.input_size, encoders[baseline.name])
            encoders = encoders | {fewer.name: encoder.to(settings.device)}
            _measure_memory(fewer, rows, encoder, settings, frames)
            peers = [*peers[:-1], fewer, peers[-1]]

    steps, products = {}, {}
    for peer in peers:
        if inputs is None or rows[peer.name]["status"] != MEASURED:
            continue
        steps[peer.name] = make_step(encoders[peer.name], inputs, settings)
        if peer.is_ours:
            step, _ = attempt(make_products, settings, peer.group_sizes, output_frames)
            if step:
                steps[PRODUCTS + peer.name] = step
    logger.info(f"{seconds:g} s: time, in interleaved rounds")
    timed = time_interleaved(steps, settings.threads, settings.min_time)
    for name, (times, status) in timed.items():
        if name.startswith(PRODUCTS):
            products[name.removeprefix(PRODUCTS)] = times
        else:
            rows[name] |= {"times_ms": times, "status": status}
    steps.clear()  # frees the maps of the products

    logger.info(f"{seconds:g} s: breakdown by module")
    breakdown = {
        peer.name: _measure_breakdown(encoders[peer.name], inputs, settings)
        for peer in peers
        if (peer.name in (EAGER, SDPA) or peer.is_ours)
        and rows[peer.name]["status"] == MEASURED
    }
    return {
        "seconds": seconds,
        "frames": frames,
        "output_frames": output_frames,
        "rounds": max((len(row["times_ms"] or []) for row in rows.values()), default=0),
        "peers": {peer.name: rows[peer.name] for peer in peers},
        "products": products,
        "breakdown": {name: parts for name, parts in breakdown.items() if parts},
    }
