# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Running steps side by side: commands, their logs, locks and failures."""

import contextlib
import fcntl
import graphlib
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from espnet_reuse.comparison.display import Display, read_progress
from espnet_reuse.comparison.plan import Step, some
from espnet_reuse.errors import UserError

POLL = 0.3  # seconds
# Lines of a log that say why a command failed, rather than where.
DECIDING = re.compile(
    r"error: |^[A-Za-z_.]*(Error|Exception): .|Error: .|no longer exists"
)
OWN_ERROR = re.compile(r"^(espnet_reuse[\w.]+|\w+\.py): error: ")


def deciding_lines(log: str) -> list[str]:
    """Return the lines of a failed command's log that say why it failed."""
    lines = log.strip().splitlines() or ["it printed nothing"]
    line = next((x for x in reversed(lines) if DECIDING.search(x)), lines[-1])
    own = OWN_ERROR.match(line)
    # a program of ours lists all that is wrong
    listed = [x.removeprefix(own[0]) for x in lines if own and x.startswith(own[0])]
    return listed if listed[1:] else [line]


class Stopped(Exception):
    """The run is being stopped."""


class Runner:
    """Runs steps, each of which holds a lock while it is at work."""

    def __init__(self, folder: Path, display: Display, jobs: int, gpus: Sequence[str]):
        """Make a runner of a recipe's folder, which does `jobs` steps side by side.

        `gpus` are the CUDA_VISIBLE_DEVICES of each; empty to leave it as it is.
        """
        self.folder, self.display, self.jobs = folder, display, jobs
        self._gpus = queue.SimpleQueue()
        for devices in gpus or [None] * jobs:
            self._gpus.put(devices)
        self._stopping = threading.Event()
        self._children = set()
        self._local = threading.local()  # of a step: its lock, its environment
        self.held = []  # locks that all commands hold

    def _shown(self, path: Path) -> str:
        """Return a path in the recipe as messages name it, from the top level on."""
        return str(path.relative_to(self.folder.parents[2]))

    def stop(self) -> None:
        """Stop all commands, with what they have started."""
        self._stopping.set()
        for child in list(self._children):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    @contextlib.contextmanager
    def locked(self, name: str, shared: bool = False) -> Iterator[int]:
        """Keep other runs from working on something.

        Args:
            name: What it is, as the message to a run that waits names it.
            shared: Whether others may hold it as well.

        Yields:
            The lock's descriptor. A command that inherits it holds the lock, too, also
            when it outlives a run that was killed.
        """
        folder = self.folder / "exp/.locks"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / re.sub(r"[^\w.-]+", "_", name)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        told = False
        try:
            while not self._stopping.is_set():
                try:
                    fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        self.display.log(
                            f"Another run is at work on {name}, perhaps a part of one "
                            "that was killed: waiting for it to end"
                        )
                    told = True
                    self._stopping.wait(POLL)
                except OSError as e:
                    self.display.log(
                        f"WARNING: {folder} cannot be locked ({e.strerror}): make sure "
                        "that no other run is at work on this recipe"
                    )
                    break
            yield descriptor
        finally:
            os.close(descriptor)

    def command(self, what: str, *command, log: Path, train_log: Path | None = None):
        """Run a command in the recipe's folder, and show how far it is.

        Args:
            what: What it does, as messages name it.
            command: The program and its arguments.
            log: File for what it prints.
            train_log: ESPnet's log of the training, if it trains.

        Raises:
            UserError: It failed; the message is the line of its log that says why.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.time()
        if self._stopping.is_set():
            raise Stopped
        with self.display.at_work(what) as show, log.open("wb") as output:
            child = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                env=os.environ | getattr(self._local, "env", {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that stop() reaches all of it
                pass_fds=[*self.held, *getattr(self._local, "held", [])],
            )
            self._children.add(child)
            while child.returncode is None:
                if self._stopping.is_set():  # it was started in that moment
                    self.stop()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL)
                show(read_progress(log, train_log, started - 1))
            self._children.discard(child)
        if self._stopping.is_set():
            raise Stopped
        if child.returncode:
            *lines, why = deciding_lines(log.read_text("utf-8", "replace"))
            if lines:
                lines.append(why)
                why = f"for the {len(lines)} reasons above"
            lines.append(f"{what} failed: {why} (log: {self._shown(log)})")
            raise UserError("\n".join(lines))
        self.display.log(f"{what}: done in {time.time() - started:.0f} s")

    def show(self, log: Path, pattern: str) -> None:
        """Show the lines of a log that begin with a pattern."""
        for line in log.read_text("utf-8", "replace").splitlines():
            if re.match(pattern, line):
                self.display.log(line)

    def run_step(self, step: Step) -> None:
        """Do a step if it is not done; a UserError says why it cannot be done."""
        with contextlib.ExitStack() as stack:
            if not step.is_done():
                self._local.held = [stack.enter_context(self.locked(step.name))]
            if step.is_done():  # perhaps by the run that had the lock
                self.display.log(f"{step.title}: done already")
                return
            refusals = step.refusals()
            if refusals:
                folder = self._shown(step.record.parent)
                raise UserError(
                    f"{folder} was made before a change: {some(refusals)}; remove it, "
                    "undo the change, or give the changed config a name of its own"
                )
            self.display.log(step.title)
            step.check(step)
            inputs = step.write_record(done=False)
            step.action(step)
            step.write_record(True, inputs)

    def run(self, steps: Sequence[Step]) -> dict[str, UserError]:
        """Do steps, begun in this order, as many side by side as `jobs`.

        A failed one stops only those that need it. Returns {name: error} of the failed.
        """
        chosen = {step.name: step for step in steps}
        sorter = graphlib.TopologicalSorter(
            {
                step.name: chosen.keys() & {s.name for s in step.needs + step.after}
                for step in steps
            }
        )
        sorter.prepare()
        order, ready, at_work, failed = list(chosen), [], {}, {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active():
                    ready = sorted([*ready, *sorter.get_ready()], key=order.index)
                    while ready and len(at_work) < self.jobs:
                        name = ready.pop(0)
                        at_work[pool.submit(self._work, chosen[name])] = name
                    if not at_work:
                        break  # what is left waits for what failed
                    for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                        name = at_work.pop(future)
                        try:
                            future.result()
                            sorter.done(name)
                        except (UserError, OSError) as e:
                            failed[name] = UserError(str(e))
                            self.display.log(f"{name}: failed")
            except BaseException:
                self.stop()
                raise
        return failed

    def run_all(self, steps: Sequence[Step]) -> None:
        """Do steps without which nothing goes on; raise the error of a failed one."""
        for error in self.run(steps).values():
            raise error

    def _work(self, step: Step) -> None:
        devices = self._gpus.get()
        self._local.env = {"CUDA_VISIBLE_DEVICES": devices} if devices else {}
        try:
            self.run_step(step)
        finally:
            self._gpus.put(devices)
