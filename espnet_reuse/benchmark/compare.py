# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Measure all encoders at one length of audio."""

import dataclasses
import logging

import torch

from espnet_reuse.benchmark import measure, peers
from espnet_reuse.benchmark.breakdown import measure_breakdown
from espnet_reuse.benchmark.measure import MEASURED, attempt, make_step

logger = logging.getLogger(__name__)


def _fit_layers(baseline, ours, encoders, inputs, settings):
    """Return how many layers of the baseline fit into our latency: one or more."""
    one_layer = peers.build_encoder(peers.with_layers(baseline, 1)).to(settings.device)
    timed = one_layer, encoders[baseline.name], encoders[ours.name]
    steps = {i: make_step(encoder, inputs, settings) for i, encoder in enumerate(timed)}
    times = [ms for ms, _ in measure.time_interleaved(steps, min_time=0).values()]
    if None in times:
        return None
    # the fastest, for one disturbed round of few would change the number
    one_ms, baseline_ms, our_ms = map(min, times)
    num_blocks = baseline.conf["num_blocks"]
    if baseline_ms <= one_ms:
        return num_blocks
    fitting = 1 + (num_blocks - 1) * (our_ms - one_ms) / (baseline_ms - one_ms)
    return max(1, min(num_blocks, int(fitting)))


def compare_at(
    seconds: float,
    listed: list[peers.Peer],
    encoders: dict[str, torch.nn.Module],
    settings: measure.Settings,
) -> list[dict]:
    """Measure memory, time and breakdown of all encoders at one length.

    `listed` has the baseline first, ours in increasing group size, the limit last;
    `encoders` has their modules by name, on the device.

    Returns:
        A row for each encoder, with its status, size and peak memory (MB); the time of
        each round (ms), also of the products that reuse cannot avoid; and the breakdown
        (ms). What was not measured is None. `report.summarise` completes the rows.
    """
    baseline, *_, largest, limit = listed
    conf, frames = settings.config.conf, settings.frames_of(seconds)
    first = encoders[baseline.name]
    output_frames = peers.count_output_frames(first, conf["input_size"], frames)
    encoders, rows = dict(encoders), {}

    def add_row(peer):
        # the floor of coarser frames is another
        same_frames = peer.conf["input_layer"] == conf["input_layer"]
        peak, status = measure.peak_memory(peer, settings, frames)
        shown = f"{peak:.0f} MB at the peak" if status == MEASURED else status
        logger.info(f"  {peer.name}: {shown}")
        rows[peer.name] = {
            "seconds": seconds,
            "output_frames": output_frames,
            "encoder": peer.name,
            "status": status,
            "parameters": sum(p.numel() for p in encoders[peer.name].parameters()),
            "layers": peer.conf["num_blocks"],
            "group_size": peer.conf.get("reuse_group_size") if same_frames else None,
            "peak_memory_mb": peak,
            **dict.fromkeys(("times_ms", "products_ms", "breakdown_ms")),
        }

    def measured():
        return {name: r for name, r in rows.items() if r["status"] == MEASURED}

    logger.info(f"{seconds:g} s: memory of a step of each encoder by itself")
    for peer in listed:
        add_row(peer)

    inputs = attempt(measure.make_inputs, settings, frames)[0] if measured() else None
    if inputs is None:
        return list(rows.values())
    if {baseline.name, largest.name} <= measured().keys():
        logger.info(f"{seconds:g} s: how many of ESPnet's layers fit our latency")
        num_blocks = _fit_layers(baseline, largest, encoders, inputs, settings)
        if num_blocks:
            fewer = peers.with_layers(baseline, num_blocks)
            encoders[fewer.name] = peers.build_encoder(fewer, first).to(settings.device)
            add_row(fewer)
            rows[limit.name] = rows.pop(limit.name)  # the last one

    logger.info(f"{seconds:g} s: time, in interleaved rounds")
    steps = {}
    for name, row in measured().items():
        steps[name, "times_ms"] = make_step(encoders[name], inputs, settings)
        if row["group_size"]:
            args = settings, row["group_size"], output_frames
            products, _ = attempt(measure.make_products, *args)
            if products:
                steps[name, "products_ms"] = products
    timed = measure.time_interleaved(steps, settings.min_time)
    for (name, column), (times, status) in timed.items():
        rows[name][column] = times
        if column == "times_ms":
            rows[name]["status"] = status
    steps.clear()  # frees the maps of the products

    logger.info(f"{seconds:g} s: breakdown by module")
    inference = dataclasses.replace(settings, mode="infer")
    for name, row in measured().items():
        if row["group_size"] or name in (peers.EAGER, peers.SDPA):
            step = make_step(encoders[name], inputs, inference)
            args = encoders[name], step, conf, settings.device
            tries = [attempt(measure_breakdown, *args)[0] for _ in range(3)]
            fastest = min(filter(None, tries), key=lambda ms: ms["total"], default=None)
            row["breakdown_ms"] = fastest
    return list(rows.values())
