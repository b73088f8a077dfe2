# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The plan of a run: steps, what each depends on, and which of them are done."""

import dataclasses
import functools
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from espnet_reuse.errors import UserError
from espnet_reuse.files import write_json

MAX_NAMED = 3  # differences in a message


@dataclasses.dataclass(frozen=True)
class Step:
    """A piece of work that is done or not.

    Attributes:
        name: As messages name it, e.g. `training reuse3, seed 1`.
        stage: Number of its stage.
        record: JSON file that says what it was done with; inside what it makes, so
            that the one is removed with the other.
        inputs: Function that returns {name: value} of what its result depends on.
            Names of files' contents begin with the file.
        action: Function that does it.
        check: Function that raises a UserError if the action would lose something.
        needs: Steps whose inputs are inputs of this one, too.
        after: Steps that go before it, but count by what they leave on the disk: data
            that were made again and are the same make nothing stale.
        made: Patterns of files without which it is not done.
        resumed: File that the action goes on from, if it is there. A change of the
            inputs, but of the adaptable ones, is then refused.
        adaptable: Inputs after whose change the action can go on.
        labels: {input: what messages call it}.
    """

    name: str
    stage: int
    record: Path
    inputs: Callable[[], dict]
    action: Callable[["Step"], None]
    check: Callable[["Step"], None] = lambda step: None
    needs: tuple["Step", ...] = ()
    after: tuple["Step", ...] = ()
    made: tuple[str, ...] = ()
    resumed: Path | None = None
    adaptable: tuple[str, ...] = ()
    labels: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its stage and name."""
        return f"Stage {self.stage}: {self.name}"

    def ancestors(self, after: bool = False) -> list["Step"]:
        """Return the steps that it needs, also those it only comes after, each once."""
        found = {}
        for step in self.needs + (self.after if after else ()):
            found |= {s.name: s for s in (*step.ancestors(after), step)}
        return list(found.values())

    def all_inputs(self) -> dict[str, str]:
        """Return its inputs and those of the steps it needs, whose names they bear."""
        inputs = {key: str(value) for key, value in self.inputs().items()}
        for step in self.ancestors():
            for key, value in step.inputs().items():
                inputs[f"{step.name}: {key}"] = str(value)
        return inputs

    def _label(self, key: str) -> str:
        for step in self.ancestors():
            own = key.removeprefix(f"{step.name}: ")
            if own != key:
                return f"{step.name}: {step.labels.get(own, own)}"
        return self.labels.get(key, key)

    def read_record(self) -> dict:
        """Return the record, empty where there is none."""
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            raise UserError(f"{self.record} cannot be read: remove it") from e

    def write_record(self, done: bool, inputs: dict | None = None) -> dict:
        """Note that the step has begun, or is done; return with which inputs."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        inputs = inputs or self.all_inputs()
        write_json({"step": self.name, "done": done, "inputs": inputs}, self.record)
        return inputs

    def changes(self, but: Iterable[str] = ()) -> list[str]:
        """Return `input: old value -> new value` of what has changed since it was done.

        Inputs in `but` do not count.
        """
        then, now = self.read_record().get("inputs", {}), self.all_inputs()
        return [
            f"{self._label(key)}: {then.get(key) or 'none'} -> {now.get(key) or 'none'}"
            for key in sorted(then | now)
            if (then.get(key) or "") != (now.get(key) or "") and key not in but
        ]

    def refusals(self) -> list[str]:
        """Return the changes after which its result cannot be resumed."""
        if self.resumed is None or not self.resumed.is_file():
            return []
        return self.changes(but=self.adaptable)

    def is_done(self) -> bool:
        """Return whether it and what it needs are done, with the present inputs."""
        return self.state()[0] == "done"

    def state(self) -> tuple[str, str]:
        """Return `done`, `to do` or `stale`, and why."""
        record = self.read_record()
        changes = self.changes() if record else []
        if changes:
            return "stale", some(changes)
        waiting = [step.name for step in self.needs if not step.is_done()]
        if not record.get("done"):
            return "to do", "it was begun" if record else ""
        if waiting:
            return "to do", f"after {waiting[0]}"
        lacking = [p for p in self.made if not any(map(os.path.exists, glob.glob(p)))]
        return ("to do", f"{lacking[0]} is not there") if lacking else ("done", "")


def some(items: list[str]) -> str:
    """Join a few items, and the number of the others."""
    rest = len(items) - MAX_NAMED
    return "; ".join(items[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def explain(steps: Iterable[Step]) -> list[str]:
    """Return a line for each step: done, to do, or stale and why."""
    lines, open_steps = [], set()
    for step in steps:
        state, why = step.state()
        doubtful = next((s for s in step.after if s.name in open_steps), None)
        if state != "done" or doubtful:
            open_steps.add(step.name)
        if step.refusals():
            earlier = (s.name for s in step.ancestors(after=True))
            remade = next((name for name in earlier if name in open_steps), None)
            unless = f", unless {remade} undoes that" if remade else ""
            why += f"; the next run stops here{unless}: "
            why += "remove its folder, or undo the change"
        elif state == "done" and doubtful:
            why = f"unless {doubtful.name} changes the data"
        lines.append(f"{step.name}: {state}" + (f": {why}" if why else ""))
    return lines


def flatten(config: dict, prefix: str = "") -> dict[str, str]:
    """Return nested options as {a.b.c: value}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def digest_of(*paths: Path) -> str:
    """Return a short digest of files' contents, "none" where none is there."""
    parts = [_digest(path, path.stat().st_mtime_ns) for path in paths if path.is_file()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8] if parts else "none"


@functools.cache
def _digest(path: Path, changed_at: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
