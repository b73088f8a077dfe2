# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Where an encoder spends its time, by module and within attention by step."""

import contextlib
from typing import Callable
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

ATTENTION = "rest of attention"
FUSED = "fused attention"
REST = "rest"
CATEGORIES = (
    *("attention projections", "scores", "softmax", "A·V", FUSED, ATTENTION),
    *("convolution", "feed-forward", "subsampling", REST),
)
# attributes of ESPnet's encoders and encoder layers
MODULES = {
    "embed": "subsampling",
    **dict.fromkeys(("self_attn", "attn"), ATTENTION),
    **dict.fromkeys(("feed_forward", "feed_forward_macaron"), "feed-forward"),
    **dict.fromkeys(("conv_module", "cgmlp", "depthwise_conv_fusion"), "convolution"),
}
# which argument of a matrix product has the contraction size as its last one
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
RANGE = "espnet_reuse: "


def _category_of(event, category, conf):
    """Return the category of an operator or range, called from one of `category`.

    Inside attention, a product over d_k makes scores, and one over time applies the
    map; a map of d_k frames would be taken for scores.
    """
    if event.name.startswith(RANGE):
        return event.name.removeprefix(RANGE)
    if category != ATTENTION:
        return category
    operator = event.name.removeprefix("aten::").rstrip("_")
    if "scaled_dot_product" in operator:
        return FUSED
    if "softmax" in operator:
        return "softmax"
    if operator == "linear":
        return "attention projections"
    if operator in PRODUCTS and event.input_shapes:
        shape = event.input_shapes[PRODUCTS[operator]]
        if len(shape) == 2 and shape[-1] == conf["output_size"]:
            return "attention projections"
        d_k = conf["output_size"] // conf["attention_heads"]
        return "scores" if shape[-1] == d_k else "A·V"
    return category


def _kernel_time(profiler):
    """Return the microseconds of all kernels on the GPU."""
    return sum(
        event.time_range.elapsed_us()
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA
        and not event.is_user_annotation
        and RANGE not in event.name
    )


def measure_kernels(step: Callable[[], None]) -> float:
    """Return the milliseconds of all kernels of one step on the GPU, in any form."""
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        step()
        torch.cuda.synchronize()
    return _kernel_time(profiler) / 1000


def measure_breakdown(
    encoder: torch.nn.Module, step: Callable[[], None], conf: dict, device: str
) -> dict[str, float]:
    """Return the milliseconds of one step by category, and their `total`.

    The step is one forward of the encoder, built from `conf`. CPU times are an
    operator's own, without those it calls; Python's time counts for the module. GPU
    times are those of kernels.
    """
    on_gpu = device == "cuda"
    microseconds = dict.fromkeys(CATEGORIES, 0.0)

    def add(event, category):
        category = _category_of(event, category, conf)
        if on_gpu:
            # a range appears among the kernels, too
            kernels = [k for k in event.kernels if not k.name.startswith(RANGE)]
            own = sum(kernel.duration for kernel in kernels)
            # a kernel that no operator of PyTorch has started: Triton's
            launched = event.name.startswith(RANGE) and category == ATTENTION
            microseconds[FUSED if launched else category] += own
        else:
            microseconds[category] += event.self_cpu_time_total
        for child in event.cpu_children:
            add(child, category)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    # without acc_events, PyTorch warns that it keeps only the last cycle: the only
    profiler = profile(activities=activities, record_shapes=True, acc_events=True)
    with contextlib.ExitStack() as stack:
        for name, module in encoder.named_modules():
            category = MODULES.get(name.rpartition(".")[2])
            if category is not None:
                forward = record_function(RANGE + category)(module.forward)
                stack.enter_context(patch.object(module, "forward", forward))
        stack.enter_context(profiler)
        with record_function(RANGE + REST):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    total = _kernel_time(profiler)
    for event in profiler.events():
        if event.cpu_parent is None and event.name == RANGE + REST:
            add(event, REST)
    # kernels that the profiler links to no operator: Triton's
    microseconds[FUSED] += max(0.0, total - sum(microseconds.values()))
    microseconds["total"] = sum(microseconds.values())
    return {name: us / 1000 for name, us in microseconds.items()}
