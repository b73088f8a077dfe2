# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Time and peak memory of encoders."""

import contextlib
import dataclasses
import gc
import logging
import math
import multiprocessing
import os
import random
import resource
import signal
import time
import timeit
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
import torch.utils.benchmark

from espnet_reuse.benchmark.peers import SEED, EncoderConfig, Peer, build_encoder

MIN_ROUNDS = 5
MAX_ROUNDS = 50
PROGRESS_SECONDS = 20
WARM_UP_FRAMES = 64
MB = 2**20  # bytes
MEASURED = "measured"
OUT_OF_MEMORY = "out of memory"
ALLOCATION_ERRORS = ("can't allocate memory", "DefaultCPUAllocator", "bad_alloc")

logger = logging.getLogger(__name__)

# Forked from a server that has imported torch, a child starts at once. A spawned one
# would also take over its parent's peak as its own ru_maxrss.
CHILDREN = multiprocessing.get_context("forkserver")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What holds for all encoders of a run.

    Attributes:
        config: Sizes, features and frame rate.
        device: `cpu` or `cuda`.
        mode: `infer`, forward; or `train`, forward and backward.
        dtype: `float32`, or `bfloat16` by autocast.
        batch: Utterances, all of the same length.
        threads: CPU threads within an operator.
        min_time: Seconds that each encoder is measured at each length, at least.
    """

    config: EncoderConfig
    device: str
    mode: str
    dtype: str
    batch: int
    threads: int
    min_time: float

    def frames_of(self, seconds: float) -> int:
        """Return the frames, before subsampling, of so much audio."""
        return round(seconds * self.config.frames_per_second)

    def autocast(self) -> torch.autocast:
        """Return the context that forward runs in."""
        return torch.autocast(
            self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"
        )


class ChildFailedError(RuntimeError):
    """The process that measures memory raised an error, which the message names."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory could not be had."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ALLOCATION_ERRORS
    )


def attempt(function: Callable, *args) -> Tuple[Any, str]:
    """Call a function whose failure costs a row and not the run.

    Returns:
        Its result, None where it failed; and `measured`, `out of memory` or
        `failed: ...`.
    """
    try:
        return function(*args), MEASURED
    except Exception as error:
        if is_out_of_memory(error):
            status = OUT_OF_MEMORY
        else:
            logger.exception("this encoder is left out at this length")
            status = " ".join(f"failed: {type(error).__name__}: {error}".split())
    gc.collect()  # the traceback held the tensors
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None, status


def make_inputs(settings: Settings, frames: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return noise (batch, frames, input_size) and its lengths (batch,), all full."""
    generator = torch.Generator().manual_seed(SEED)
    shape = settings.batch, frames, settings.config.input_size
    features = torch.randn(shape, generator=generator)
    lengths = torch.full((settings.batch,), frames)
    return features.to(settings.device), lengths.to(settings.device)


def make_step(
    encoder: torch.nn.Module, inputs: Tuple[torch.Tensor, ...], settings: Settings
) -> Callable[[], None]:
    """Return a function that infers once, or trains forward and backward once."""
    training = settings.mode == "train"
    encoder.train(training)

    def infer():
        with torch.inference_mode(), settings.autocast():
            encoder(*inputs)

    def train():
        with settings.autocast():
            output = encoder(*inputs)[0]
        output.float().sum().backward()
        encoder.zero_grad(set_to_none=True)

    return train if training else infer


def make_products(
    settings: Settings, group_sizes: Sequence[int], frames: int
) -> Callable[[], None]:
    """Return a function that computes the matrix products which reuse cannot avoid.

    A producer has the projections of query, key, value, output and positions, QK^T
    into a new map, the positions' product for the T x T scores that are needed, into
    memory that is there already, and A V. A consumer has the projections of value and
    output, and A V. In training, each product has two of its size in the backward.

    Args:
        settings: Sizes, device, dtype and mode.
        group_sizes: Number of layers of each group.
        frames: Frames after subsampling, T.
    """
    conf = settings.config.conf
    size, heads = conf["output_size"], conf["attention_heads"]
    options = {"device": settings.device, "dtype": getattr(torch, settings.dtype)}
    per_head = settings.batch * heads, frames, size // heads
    q, k, v = (torch.randn(per_head, **options) for _ in range(3))
    x = torch.randn(settings.batch, frames, size, **options)
    weight, bias = torch.randn(size, size, **options), torch.randn(size, **options)
    memory = torch.empty(settings.batch * heads, frames, frames, **options)
    has_positions = settings.config.has_relative_positions
    latest = conf.get("rel_pos_type") == "latest"
    positions = torch.randn(1, 2 * frames - 1 if latest else frames, size, **options)

    def project(times):
        for _ in range(times):
            torch.nn.functional.linear(x, weight, bias)

    def produce():
        project(4)
        attention_map = torch.bmm(q, k.transpose(1, 2))
        if has_positions:
            torch.nn.functional.linear(positions, weight)
            torch.bmm(q, k.transpose(1, 2), out=memory)
        torch.bmm(attention_map, v)
        return attention_map

    def consume(attention_map):
        project(2)
        torch.bmm(attention_map, v)

    @torch.inference_mode()
    def products():
        for _ in range(3 if settings.mode == "train" else 1):
            for group_size in group_sizes:
                attention_map = produce()
                for _ in range(group_size - 1):
                    consume(attention_map)

    return products


def warm_up(step: Callable[[], None], threads: int) -> float:
    """Run a step, and return the milliseconds of the next.

    Args:
        step: What to time; on a GPU, the timer waits for it.
        threads: CPU threads within an operator.
    """
    timer = torch.utils.benchmark.Timer(
        "step()", globals={"step": step}, num_threads=threads
    )
    return 1000 * timer.blocked_autorange(min_run_time=0.0).median


def repeat_block(step: Callable[[], None], repeats: int) -> float:
    """Return the milliseconds of a step, a mean of `repeats`, without a warm-up."""
    timer = timeit.Timer(step, timer=torch.utils.benchmark.timer)
    return 1000 * timer.timeit(repeats) / repeats


def time_interleaved(
    steps: Dict[str, Callable[[], None]],
    threads: int,
    min_time: float,
    rounds: Optional[int] = None,
) -> Dict[str, Tuple[Optional[List[float]], str]]:
    """Time steps in rounds, each round a block of each step in a new order.

    Args:
        steps: What to time, by name.
        threads: CPU threads within an operator.
        min_time: Seconds that each is measured, at least.
        rounds: Number of rounds, of single steps. By default as many as give every
            step `min_time`, at least MIN_ROUNDS, at most MAX_ROUNDS.

    Returns:
        By name, milliseconds of each round (None where a step failed) and the status.
    """
    first, statuses = {}, {}
    for name, step in steps.items():
        first[name], statuses[name] = attempt(warm_up, step, threads)
    block = 0.0
    if rounds is None:
        slowest = max((ms for ms in first.values() if ms), default=1.0)
        rounds = math.ceil(1000 * min_time / slowest)
        rounds = max(MIN_ROUNDS, min(rounds, MAX_ROUNDS))
        block = min_time / rounds
        logger.info(f"  {rounds} rounds; the slowest takes {slowest:.0f} ms")
    times = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(SEED).shuffle
    said = time.monotonic()
    for done in range(rounds):
        shuffle(order)
        for name in order:
            if statuses[name] == MEASURED:
                repeats = max(1, round(1000 * block / first[name]))
                value, statuses[name] = attempt(repeat_block, steps[name], repeats)
                times[name].append(value)
        if time.monotonic() > said + PROGRESS_SECONDS:
            logger.info(f"  {done + 1} of {rounds} rounds")
            said = time.monotonic()
    return {
        name: (times[name] if status == MEASURED else None, status)
        for name, status in statuses.items()
    }


def peak_memory(peer: Peer, settings: Settings, frames: int) -> float:
    """Return the MB (2**20 bytes) that a step adds at its peak.

    On a GPU, of the memory that tensors take. On a CPU, of the resident memory of a
    process that does nothing else.

    Raises:
        torch.OutOfMemoryError: There is not enough on the GPU.
        MemoryError: There is not enough for the process, or the system killed it.
        ChildFailedError: The process raised another error.
    """
    if settings.device == "cuda":
        return _peak_of_a_step(peer, settings, frames)
    CHILDREN.set_forkserver_preload([__name__])
    receiver, sender = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(
        target=_send_peak, args=(sender, peer, settings, frames), daemon=True
    )
    child.start()
    sender.close()
    try:
        peak, problem = receiver.recv()
    except EOFError:
        peak, problem = None, None
    child.join()
    if peak is not None:
        return peak
    if problem == OUT_OF_MEMORY or child.exitcode < 0:
        raise MemoryError(f"exit status {child.exitcode}")
    raise ChildFailedError(problem or f"exit status {child.exitcode}")


def _send_peak(sender, peer, settings, frames):
    """Measure in this process, which may run out of memory, and send the result."""
    # the system shall kill this process and not the one that holds the results
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    torch.set_num_threads(settings.threads)
    try:
        sender.send((_peak_of_a_step(peer, settings, frames), None))
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        sender.send((None, OUT_OF_MEMORY if is_out_of_memory(error) else problem))


def _peak_of_a_step(peer, settings, frames):
    encoder = build_encoder(peer, settings.config.input_size).to(settings.device)
    # libraries load and threads start with a short step first
    short = dataclasses.replace(settings, batch=1)
    make_step(encoder, make_inputs(short, WARM_UP_FRAMES), settings)()
    step = make_step(encoder, make_inputs(settings, frames), settings)
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / MB
    with contextlib.suppress(OSError):  # forget the peak of building the encoder
        Path("/proc/self/clear_refs").write_text("5")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(0, peak - before) / MB
