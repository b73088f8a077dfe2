# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What is checked before a step: nothing that is finished is unmarked for a refusal."""

import re
import shlex
from pathlib import Path

from espnet_reuse.comparison.actions import RUNNER
from espnet_reuse.comparison.cells import Cell, Comparison, slug
from espnet_reuse.comparison.plan import Step, some
from espnet_reuse.comparison.runner import Runner
from espnet_reuse.errors import UserError
from espnet_reuse.files import is_whole, need_disk


class Checks:
    """Refuses what a step would read damaged, or could not write."""

    def __init__(self, comparison: Comparison, runner: Runner):
        """Take what is compared, and what runs the commands."""
        self._compared, self._runner = comparison, runner
        self._recipe, self._options = comparison.recipe, comparison.options

    def models(self, cells: list[Cell], step: Step) -> None:
        """Check the averaged models that a step reads."""
        paths = [cell.folder / self._compared.checkpoint(cell) for cell in cells]
        if any(ancestor.name == "language model" for ancestor in step.ancestors()):
            paths.append(self._compared.lm_file)
        problems = []
        for path in paths:
            if not path.is_file() or not is_whole(path):
                path = path.with_name(path.resolve().name)  # what links name
                shown = path.relative_to(self._recipe.root)
                problems.append(
                    f"{shown} is damaged or missing: remove it and run all stages; the "
                    "average is then made again from the models of the epochs"
                )
        if problems:
            raise UserError("\n".join(problems))

    def training(self, cell: Cell, step: Step) -> None:
        """Check that a model can be trained, or its training continued."""
        if cell.model.warm and not step.resumed.is_file():
            first = self._compared.cell(self._compared.models[0], cell.seed)
            self.models([first], step)
        args = self._options.asr_args
        config = self._compared.checked_config(cell.model)
        self._resumable(
            cell.folder, step, "asr", "--config", config, *shlex.split(args)
        )
        needed = self._compared.facts[cell.model.name]["disk_bytes"]
        room = need_disk(needed, cell.folder, f"the checkpoints of {cell.name}")
        if needed > 100 * 2**20:
            self._runner.display.log(f"{step.title}: {room}")
        others = re.sub(r"\s*--max_epoch[\s=]+\S+", "", args)
        name = cell.folder.name.replace(slug(args), slug(others), 1)
        other = cell.folder.with_name(name)
        begun = step.resumed.name
        if (other / begun).is_file() and not (cell.folder / begun).is_file():
            file = cell.model.sources.get("max_epoch", cell.model.base)
            self._runner.display.log(
                f"note: --max_epoch in --asr_args trains {cell.name} from nothing, in "
                f"{cell.folder.name}; to continue {other.name} instead, raise "
                f"max_epoch in {file}"
            )

    def language_model(self, step: Step) -> None:
        """Check that a language model can be trained, or its training continued."""
        config, args = self._recipe["lm_config"], shlex.split(self._recipe["lm_args"])
        options = ["--config", config, *args] if config else args
        self._resumable(self._compared.lm_file.parent, step, "lm", *options)

    def _resumable(self, folder: Path, step: Step, task: str, *options) -> None:
        """Check that ESPnet can go on with a training, if there is one."""
        if not any(folder.glob("*.pth")):
            return
        name = folder.relative_to(self._recipe.folder)
        if not self._options.resume:
            raise UserError(
                f"--resume false: {name} holds a training: remove it to start anew"
            )
        log = folder / "run_repair.log"
        try:
            self._runner.command(
                f"{step.title}: check of the checkpoint",
                *(*RUNNER, "espnet_reuse.comparison.repair_checkpoint"),
                *(name, task, *options),
                log=log,
            )
        except UserError as e:
            finished = step.changes() if step.read_record().get("done") else []
            if not finished:
                raise
            raise UserError(
                f"{e}; the finished model stays usable: undo {some(finished)}"
            ) from e
        self._runner.show(log, "note: ")
