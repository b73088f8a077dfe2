# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""A run of the comparison: plan, share out, do, report."""

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from espnet_reuse.comparison.actions import Actions
from espnet_reuse.comparison.cells import Cell, Comparison
from espnet_reuse.comparison.display import Display
from espnet_reuse.comparison.models import ROOT
from espnet_reuse.comparison.plan import explain
from espnet_reuse.comparison.recipe import Recipe
from espnet_reuse.comparison.runner import Runner
from espnet_reuse.comparison.steps import PUBLISHED, Steps
from espnet_reuse.comparison.tables import print_comparison
from espnet_reuse.errors import UserError


def compare(options: Namespace, others: dict[str, str], argv: list[str]) -> None:
    """Do what the command line asks for.

    Args:
        options: The driver's own options, see espnet_reuse/bin/compare.py.
        others: {option: value} for the recipe's data.sh and for ESPnet's asr.sh.
        argv: The command line.

    Raises:
        UserError: An option is wrong, or a step failed.
    """
    root = Path(os.environ.get("ESPNET_REUSE_ROOT", ROOT))
    recipe = Recipe(root, options.corpus, others)
    if options.results:
        folder = Path(options.results).absolute()
        there = next(p for p in (folder, *folder.parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"--results: cannot make the folder '{options.results}'")
    with Display() as display:
        gpus = [] if options.dry_run else share_gpus(recipe, options, display)
        runner = Runner(recipe.folder, display, options.jobs, gpus)
        command = format_command(argv, published=bool(options.results))
        comparison = Comparison(recipe, options, command)
        steps = Steps(comparison, Actions(comparison, runner))
        if options.dry_run:
            lines = explain(s for s in steps.all if s.stage <= options.stop_stage)
            display.console.print("\n".join(lines), soft_wrap=True, markup=False)
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, signal.default_int_handler)
        run(steps, comparison, runner)


def format_command(argv: list[str], published: bool) -> str:
    """Return what the user typed; without names of folders if it is published."""
    words = list(argv)
    for n in range(1, len(words) if published else 0, 2):
        name = words[n - 1].removeprefix("--").replace("-", "_")
        if name not in ("inference_config", "results"):
            words[n] = re.sub(r"\S*/\S*" if name != "data" else ".+", "DIR", words[n])
    return shlex.join(["./run.sh", *words])


def share_gpus(recipe: Recipe, options: Namespace, display: Display) -> list[str]:
    """Settle how many GPUs a training has, and share them out over the jobs.

    Returns:
        CUDA_VISIBLE_DEVICES of each job; empty where there is nothing to share.

    Raises:
        UserError: There are fewer GPUs than one training needs.
    """
    wanted = options.ngpu
    local = recipe.cluster() in ("run.pl", "stdout.pl")
    asked = int(recipe["ngpu"] or 1) if wanted is None else wanted
    if local and asked:
        most, there = usable_gpus()
        if wanted is None and not most:
            display.log("PyTorch finds no GPU here: using --ngpu 0")
            wanted = 0
        elif asked > most:
            raise UserError(
                f"--ngpu: {asked} GPUs are asked for, PyTorch finds {most} here: "
                f"add --ngpu {most}"
            )
    if wanted is not None:
        recipe.choose("ngpu", str(wanted))
    if wanted == 0 and "gpu_inference" not in recipe.chosen:
        recipe.choose("gpu_inference", "false")
    each = int(recipe["ngpu"] or 1)
    if not local or options.jobs == 1 or not each:
        return []
    groups = [there[n : n + each] for n in range(0, len(there) - each + 1, each)]
    return [",".join(groups[job % len(groups)]) for job in range(options.jobs)]


def usable_gpus() -> tuple[int, list[str]]:
    """Return how many GPUs a program can use, and which programs can share out.

    They are entries of CUDA_VISIBLE_DEVICES, if it is set, or numbers.
    """
    # in a program of its own: importing PyTorch takes seconds, and memory for days
    ask = "from torch import cuda; print(cuda.is_available() * cuda.device_count())"
    command = [sys.executable, "-W", "ignore", "-c", ask]
    most = int(subprocess.check_output(command, encoding="utf-8"))
    numbers = ",".join(map(str, range(most)))
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", numbers).split(",")
    # of the slices of GPUs, a program uses one, and another program another one
    sliced = most and listed[0].startswith("MIG-")
    return most, listed if sliced else listed[:most]


def run(steps: Steps, comparison: Comparison, runner: Runner) -> None:
    """Do the steps of the stages that were asked for, and report.

    Raises:
        UserError: A step failed, or one before the first stage is not done.
    """
    first, last = comparison.options.stage, comparison.options.stop_stage
    asked = [step for step in steps.all if first <= step.stage <= last]
    data = [step for step in asked if step.stage in (1, 2)]
    changing = [step for step in data if step is not steps.lengths]
    runner.run_all(steps.shared[:1])
    prepared = all(step.is_done() for step in changing)
    with runner.locked("the data", shared=prepared) as lock:
        runner.held.append(lock)
        for step in asked:
            for needed in step.ancestors(after=True):
                if needed.stage < first and not needed.is_done():
                    raise UserError(
                        f"--stage {first}: {needed.name} is not done; start from "
                        f"--stage {needed.stage}"
                    )
        if prepared and not all(step.is_done() for step in changing):
            prepared = False  # another run made other data before we had the lock
            with contextlib.suppress(OSError):  # where there are no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        runner.run_all(data)
        if not prepared:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_SH)
        failed = runner.run([step for step in asked if step.stage in (3, 4, 5, 7)])
        if steps.comparison in asked:
            failed |= compare_complete(steps, comparison, runner)
    if failed:
        errors = [str(failed[step.name]) for step in asked if step.name in failed]
        raise UserError("\n".join(dict.fromkeys(errors)))  # several may say the same


def compare_complete(steps: Steps, comparison: Comparison, runner: Runner) -> dict:
    """Compare the models that are scored with every seed, and show the table.

    Returns {step: error} if that failed.
    """

    def is_complete(cell: Cell) -> bool:
        same = (c for c in comparison.cells if c.model is cell.model)
        return all(steps.scoring[c.name].is_done() for c in same)

    complete = [cell for cell in comparison.cells if is_complete(cell)]
    if comparison.models[0] not in [cell.model for cell in complete]:
        name = comparison.models[0].name
        runner.display.log(f"No comparison: {name} is not complete")
        return {}
    failed = runner.run([steps.plan_comparison(complete)])
    if failed:
        return failed
    exp = comparison.exp
    text = (exp / "comparison.json").read_text(encoding="utf-8")
    print_comparison(json.loads(text), runner.display.console)
    written, names = f"egs2/{comparison.recipe.name}/asr1/exp", ",".join(PUBLISHED)
    runner.display.log(f"Written: {written}/{{{names},comparison_details.md}}")
    if comparison.options.results:
        folder = Path(comparison.options.results)
        folder.mkdir(parents=True, exist_ok=True)
        for name in PUBLISHED:
            shutil.copy(exp / name, folder)
        runner.display.log(f"Written: {folder}/{{{names}}}")
    return {}
