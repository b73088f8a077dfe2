# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What a run shows: lines of a log, and on a terminal the steps at work."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

EVERY = 5.0  # seconds between two lines of a step, where there is no terminal
TAIL = 20000  # bytes at the end of a log that are searched
EPOCH = re.compile(
    r"(\d+/\d+)epoch started(?:\. Estimated time to finish: (.*))?", re.MULTILINE
)
STAGE = re.compile(r"^[-\dT:]+ \((?:asr|data)\.sh:[^)]*\) ([Ss]tage .*)", re.MULTILINE)
UTTERANCE = re.compile(r"^Analysing.*\| (\d+/\d+) .*<([\d:]+),", re.MULTILINE)
DISK = re.compile(r"^.* (?:GiB|MiB|bytes) are free in .*", re.MULTILINE)


def read_progress(log: Path, train_log: Path | None, since: float) -> str:
    """Return how far a command is: an epoch, a stage of asr.sh, an utterance.

    Args:
        log: What the command prints.
        train_log: ESPnet's log of the training, if the command trains.
        since: When the command was started; an older train.log is another training's.
    """
    if train_log is not None:
        if not train_log.is_file() or train_log.stat().st_mtime < since:
            return ""
        found = EPOCH.findall(_tail(train_log))
        epoch, left = found[-1] if found else ("", "")
        return epoch and f"epoch {epoch}" + (left and f", {left} to go")
    text = _tail(log).replace("\r", "\n")
    last = max(
        (m for p in (STAGE, UTTERANCE, DISK) for m in p.finditer(text)),
        key=lambda m: m.start(),
        default=None,
    )
    if last is None:
        return ""
    if last.re is UTTERANCE:
        return f"utterance {last[1]}, {last[2]} to go"
    return last[last.re.groups]


def _tail(path: Path) -> str:
    with path.open("rb") as f:
        f.seek(max(path.stat().st_size - TAIL, 0))
        return f.read().decode("utf-8", "replace")


class Display:
    """Lines of a log; below them, on a terminal, a line for each step at work."""

    def __init__(self, console: Console | None = None):
        """Show on a console, the standard output's by default."""
        self.console = console or Console(highlight=False)
        self._at_work = Progress(
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[progress]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )

    def __enter__(self):
        """Show the steps at work, on a terminal."""
        self._at_work.start()
        return self

    def __exit__(self, *exception):
        """Leave the lines of the log alone."""
        self._at_work.stop()

    def log(self, message: str) -> None:
        """Print a line, with the time, as ESPnet's scripts do."""
        stamp = datetime.now().strftime("%Y-%m-%dT%H:%M:%S")
        self.console.print(Text(f"{stamp} (run.sh) {message}"), soft_wrap=True)

    @contextlib.contextmanager
    def at_work(self, name: str) -> Iterator[Callable[[str], None]]:
        """Show a step as at work.

        Yields:
            Function that shows how far it is; as a line of the log where there is no
            terminal.
        """
        task = self._at_work.add_task(name, total=None, progress="")
        shown, printed = "", -EVERY

        def show(text: str) -> None:
            nonlocal shown, printed
            self._at_work.update(task, progress=text)
            now = time.monotonic()
            due = text not in ("", shown) and now - printed >= EVERY
            if due and not self.console.is_terminal:
                self.log(f"{name}: {text}")
                shown, printed = text, now

        try:
            yield show
        finally:
            self._at_work.remove_task(task)
