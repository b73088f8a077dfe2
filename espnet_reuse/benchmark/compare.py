# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Measure all encoders at one length of audio."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence

import torch

from espnet_reuse.benchmark import measure, peers
from espnet_reuse.benchmark.breakdown import measure_breakdown, measure_kernels
from espnet_reuse.benchmark.measure import COMPILED, EAGER, MEASURED, attempt, make_step

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
    forms: Sequence[str] = (EAGER,),
) -> list[dict]:
    """Measure memory, time and breakdown of all encoders at one length.

    `listed` has the baseline first, ours in increasing group size, and last the limit:
    without it, the baseline with fewer layers is left out, too. `encoders` has their
    modules by name, on the device; `forms` has `eager` first.

    Returns:
        A row for each form of each encoder, with its status, size and peak memory (MB);
        the time of each round (ms), also of the products that reuse cannot avoid; on a
        GPU the sum of its kernels (ms); of the eager form the breakdown (ms). What was
        not measured is None. `report.summarise` completes the rows.
    """
    baseline, limit = listed[0], listed[-1]
    conf, frames = settings.config.conf, settings.frames_of(seconds)
    first = encoders[baseline.name]
    output_frames = peers.count_output_frames(first, conf["input_size"], frames)
    encoders, rows = dict(encoders), {}

    def add_row(peer, form):
        # the floor of coarser frames is another
        is_ours = peer.conf["input_layer"] == conf["input_layer"] and not peer.naive
        if form == EAGER:
            peak, status = measure.peak_memory(peer, settings, frames)
            shown = f"{peak:.0f} MB at the peak" if status == MEASURED else status
            logger.info(f"  {peer.name}: {shown}")
        else:
            peak, status = None, rows[peer.name, EAGER]["status"]
        rows[peer.name, form] = {
            "seconds": seconds,
            "output_frames": output_frames,
            "encoder": peer.name,
            "form": form,
            "status": status,
            "parameters": sum(p.numel() for p in encoders[peer.name].parameters()),
            "layers": peer.conf["num_blocks"],
            "group_size": peer.conf.get("reuse_group_size") if is_ours else None,
            "peak_memory_mb": peak,
            **dict.fromkeys(("times_ms", "products_ms", "kernels_ms", "breakdown_ms")),
        }

    def measured():
        return {key: row for key, row in rows.items() if row["status"] == MEASURED}

    logger.info(f"{seconds:g} s: memory of a step of each encoder by itself")
    for form, peer in itertools.product(forms, listed):
        add_row(peer, form)

    inputs = attempt(measure.make_inputs, settings, frames)[0] if measured() else None
    if inputs is None:
        return list(rows.values())
    ours = [peer for peer in listed if rows[peer.name, EAGER]["group_size"]]
    timed = {(peer.name, EAGER) for peer in (baseline, *ours[-1:])} & measured().keys()
    if limit.name == peers.LIMIT and len(timed) == 2:
        logger.info(f"{seconds:g} s: how many of ESPnet's layers fit our latency")
        num_blocks = _fit_layers(baseline, ours[-1], encoders, inputs, settings)
        if num_blocks:
            fewer = peers.with_layers(baseline, num_blocks)
            encoders[fewer.name] = peers.build_encoder(fewer, first).to(settings.device)
            for form in forms:
                add_row(fewer, form)
                rows[limit.name, form] = rows.pop((limit.name, form))  # the last one

    logger.info(f"{seconds:g} s: time, in interleaved rounds")
    steps = {}
    for (name, form), row in measured().items():
        args = encoders[name], inputs, settings, form
        steps[name, form, "times_ms"], row["status"] = attempt(make_step, *args)
        if steps[name, form, "times_ms"] is None:
            del steps[name, form, "times_ms"]
        elif row["group_size"]:
            args = settings, row["group_size"], output_frames
            products, _ = attempt(measure.make_products, *args)
            if products:
                steps[name, form, "products_ms"] = products
    timed = measure.time_interleaved(steps, settings.min_time)
    for (name, form, column), (times, status) in timed.items():
        row = rows[name, form]
        row[column] = times
        if column == "times_ms":
            row["status"] = status
            if times and settings.device == "cuda":
                step = steps[name, form, column]
                row["kernels_ms"], _ = attempt(measure_kernels, step)
                if form == COMPILED:  # a captured graph keeps its memory
                    row["peak_memory_mb"], _ = attempt(measure.gpu_memory_of, step)
    steps.clear()  # frees the maps of the products

    logger.info(f"{seconds:g} s: breakdown by module")
    inference = dataclasses.replace(settings, mode="infer")
    for (name, form), row in measured().items():
        if form != EAGER:
            continue
        if row["group_size"] or name in (peers.ESPNET, peers.SDPA):
            step = make_step(encoders[name], inputs, inference)
            args = encoders[name], step, conf, settings.device
            tries = [attempt(measure_breakdown, *args)[0] for _ in range(3)]
            fastest = min(filter(None, tries), key=lambda ms: ms["total"], default=None)
            row["breakdown_ms"] = fastest
    return sorted(rows.values(), key=lambda row: forms.index(row["form"]))
