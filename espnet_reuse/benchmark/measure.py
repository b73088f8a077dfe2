# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of encoders."""

import contextlib
import dataclasses
import gc
import logging
import math
import multiprocessing
import random
import resource
import signal
import time
import timeit
from pathlib import Path
from typing import Any, Callable

import torch
import torch.utils.benchmark

from espnet_reuse.benchmark.peers import SEED, EncoderConfig, Peer, build_encoder
from espnet_reuse.errors import UserError

MIN_ROUNDS = 5
MAX_ROUNDS = 50
MEASURED = "measured"
OUT_OF_MEMORY = "out of memory"
EAGER, COMPILED, CAPTURED = FORMS = ("eager", "compiled", "captured")
ALLOCATION_ERRORS = ("can't allocate memory", "DefaultCPUAllocator", "bad_alloc")

logger = logging.getLogger(__name__)

# Forked from a server that has imported torch, a child starts at once. A spawned one
# would also take over its parent's peak as its own ru_maxrss.
CHILDREN = multiprocessing.get_context("forkserver")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What holds for all encoders of a run: the command's options of these names."""

    config: EncoderConfig
    device: str
    mode: str
    dtype: str
    batch: int
    min_time: float

    def frames_of(self, seconds: float) -> int:
        """Return the frames, before subsampling, of so much audio."""
        return round(seconds * self.config.frames_per_second)


def attempt(function: Callable, *args) -> tuple[Any, str]:
    """Call a function whose failure costs a row and not the run.

    Returns:
        Its result or None; and `measured`, `out of memory`, `refused` or `failed` with
        the reason.
    """
    try:
        return function(*args), MEASURED
    except Exception as error:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            text in str(error) for text in ALLOCATION_ERRORS
        ):
            status = OUT_OF_MEMORY
        elif isinstance(error, UserError):  # such as an encoder that has no graph
            status = f"refused: {error}"
        else:
            logger.exception("this encoder is left out at this length")
            status = " ".join(f"failed: {type(error).__name__}: {error}".split())
    gc.collect()  # the traceback held the tensors
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None, status


def make_inputs(settings: Settings, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise (batch, frames, input_size) and its lengths (batch,), all full."""
    torch.manual_seed(SEED)
    shape = settings.batch, frames, settings.config.conf["input_size"]
    lengths = torch.full(shape[:1], frames)
    return torch.randn(shape).to(settings.device), lengths.to(settings.device)


def make_step(
    encoder: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    settings: Settings,
    form: str = EAGER,
) -> Callable:
    """Return a function that infers once, or trains forward and backward once.

    Compiled, time is a symbol. ESPnet's encoders have a break in their graph, where
    they make the mask, and compile again at the second length.
    """
    training = settings.mode == "train"
    encoder.train(training)
    autocast = torch.autocast(
        settings.device, torch.bfloat16, enabled=settings.dtype == "bfloat16"
    )

    if form == COMPILED:
        # of all encoders of a class; beyond PyTorch's 8, the others would stay eager
        torch._dynamo.config.recompile_limit = 256
        torch._dynamo.mark_dynamic(inputs[0], 1)
        encoder = torch.compile(encoder)
    elif form == CAPTURED:
        from espnet_reuse.captured import CapturedEncoder

        with autocast:
            encoder = CapturedEncoder(encoder, *([n] for n in inputs[0].shape[:2]))

    def infer():
        with torch.inference_mode(), autocast:
            encoder(*inputs)

    def train():
        with autocast:
            output = encoder(*inputs)[0]
        output.float().sum().backward()
        encoder.zero_grad(set_to_none=True)

    return train if training else infer


def make_products(settings: Settings, group_size: int, frames: int) -> Callable:
    """Return a function that computes the matrix products which reuse cannot avoid.

    A producer has the projections of query, key, value, output and positions, QK^T
    into a new map, the positions' product for the T x T scores that are needed, into
    memory that is there already, and A V. A consumer has the projections of value and
    output, and A V. In training, each product has two of its size in the backward.
    There are T `frames`, after subsampling.
    """
    conf = settings.config.conf
    size, heads = conf["output_size"], conf["attention_heads"]
    layers = list(range(conf["num_blocks"]))
    maps = settings.batch * heads
    offsets = 2 * frames - 1 if conf.get("rel_pos_type") == "latest" else frames

    def noise(*shape):
        dtype = getattr(torch, settings.dtype)
        return torch.randn(shape, device=settings.device, dtype=dtype)

    q, k, v = (noise(maps, frames, size // heads) for _ in range(3))
    x, positions = noise(settings.batch, frames, size), noise(1, offsets, size)
    weight, bias, memory = noise(size, size), noise(size), q @ k.mT

    @torch.inference_mode()
    def products():
        for layer in layers * (3 if settings.mode == "train" else 1):
            is_producer = layer % group_size == 0
            for _ in range(4 if is_producer else 2):
                torch.nn.functional.linear(x, weight, bias)
            if is_producer:
                attention_map = torch.bmm(q, k.mT)
            if is_producer and settings.config.relative_option:
                torch.nn.functional.linear(positions, weight)
                torch.bmm(q, k.mT, out=memory)
            torch.bmm(attention_map, v)

    return products


def time_interleaved(
    steps: dict[Any, Callable], min_time: float
) -> dict[Any, tuple[list[float] | None, str]]:
    """Time steps in rounds, each round a block of each step in a new order.

    Each is measured for `min_time` seconds or more, within MIN_ROUNDS and MAX_ROUNDS;
    with 0, for MIN_ROUNDS of single steps.

    Returns:
        By name, milliseconds of each round (None where a step failed) and the status.
    """
    timers, first, results = {}, {}, {}  # what fails is in the results alone
    for name, step in steps.items():
        # PyTorch's timer waits for a GPU
        timer = timeit.Timer(step, timer=torch.utils.benchmark.timer)
        tried, status = attempt(timer.repeat, 2, 1)
        results[name] = (tried and []), status
        if tried:
            timers[name], first[name] = timer, tried[1]  # [0] is the warm-up
    slowest = max(first.values(), default=0.001)
    rounds = max(MIN_ROUNDS, min(math.ceil(min_time / slowest), MAX_ROUNDS))
    logger.info(f"  {rounds} rounds; the slowest takes {1000 * slowest:.0f} ms")
    generator, said = random.Random(SEED), time.monotonic()
    for done in range(rounds):
        for name in generator.sample(list(timers), len(timers)):
            repeats = max(1, round(min_time / rounds / first[name]))
            block, status = attempt(timers[name].timeit, repeats)
            if block is None:
                results[name] = None, status
                del timers[name]
            else:
                results[name][0].append(1000 * block / repeats)
        if time.monotonic() > said + 20:
            logger.info(f"  {done + 1} of {rounds} rounds")
            said = time.monotonic()
    return results


def peak_memory(
    peer: Peer, settings: Settings, frames: int
) -> tuple[float | None, str]:
    """Measure the MB (2**20 bytes) that a step adds at its peak, as `attempt` does.

    On a GPU, of the memory that tensors take. On a CPU, of the resident memory of a
    process that does nothing else.
    """
    if settings.device == "cuda":
        return attempt(_peak_of_a_step, peer, settings, frames)
    CHILDREN.set_forkserver_preload([__name__])
    receiver, sender = CHILDREN.Pipe(duplex=False)
    args = sender, torch.get_num_threads(), peer, settings, frames
    child = CHILDREN.Process(target=_send_peak, args=args, daemon=True)
    child.start()
    sender.close()
    with contextlib.suppress(EOFError):
        return receiver.recv()
    child.join()
    if child.exitcode < 0:  # killed
        return None, OUT_OF_MEMORY
    return None, f"failed: exit status {child.exitcode}"


def _send_peak(sender, threads, *args):
    # the system shall kill this process and not the one that holds the results
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    torch.set_num_threads(threads)
    sender.send(attempt(_peak_of_a_step, *args))


def _peak_of_a_step(peer, settings, frames):
    encoder = build_encoder(peer).to(settings.device)
    # libraries load and threads start with a short step first
    short = make_inputs(dataclasses.replace(settings, batch=1), frames=64)
    make_step(encoder, short, settings)()
    step = make_step(encoder, make_inputs(settings, frames), settings)
    if settings.device == "cuda":
        return gpu_memory_of(step)
    with contextlib.suppress(OSError):  # forget the peak of building the encoder
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def gpu_memory_of(step: Callable[[], None]) -> float:
    """Return the MB that a step adds at its peak to what is on the GPU."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
