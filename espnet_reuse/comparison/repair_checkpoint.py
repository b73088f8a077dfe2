# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Check that ESPnet can go on from what a training left, and mend what can be mended.

ESPnet saves checkpoint.pth and <epoch>epoch.pth one after the other, in place; it
resumes from the first alone, and averages the others. Run it as
`python3 -m espnet_reuse.run -m espnet_reuse.comparison.repair_checkpoint`.
"""

import argparse
import os
from pathlib import Path

import numpy
import torch
from espnet2.train.reporter import Reporter

from espnet_reuse.comparison.plan import some
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import is_whole, written_whole
from espnet_reuse.pretrained import get_task


def repair(exp: Path, args: argparse.Namespace) -> list[str]:
    """Make a training's folder one that ESPnet can go on from.

    The last epoch's model is restored from checkpoint.pth. Damaged files are moved
    aside where no whole model would be lost by that.

    Args:
        exp: The folder.
        args: The training's options, as ESPnet's parser returns them.

    Returns:
        What was done, and what the user may not expect.

    Raises:
        UserError: ESPnet cannot go on, or not to a result that the user asked for.
    """
    if args.use_deepspeed:  # has checkpoints of another kind
        return []
    checkpoint = exp / "checkpoint.pth"
    states = _read(checkpoint)
    if not states or "reporter" not in states:
        return [_start_anew(exp, checkpoint)]
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    epoch, stats = reporter.get_epoch(), states["reporter"]["stats"]
    if epoch > args.max_epoch:
        raise UserError(
            f"{exp} is trained for {epoch} epochs, more than max_epoch "
            f"{args.max_epoch}: raise max_epoch, or give the config a name of its own"
        )
    models = {n: exp / f"{n}epoch.pth" for n in stats}
    best = [  # as ESPnet chooses what it averages
        reporter.sort_epochs(*criterion)[: numpy.max(args.keep_nbest_models or 1)]
        for criterion in args.best_model_criterion
        if reporter.has(*criterion[:2])
    ]
    averaged = [models[n] for n in sorted(set().union(*best) - {epoch})]
    lost = [path.name for path in averaged if not path.exists()]
    if damaged := [p for p in averaged if p.exists() and _read(p) is None]:
        way_on = "move it away, then the average is made without it"
        what = f"is damaged; it is one of the best epochs to average: {way_on}"
        raise UserError("\n".join(f"{path} {what}" for path in damaged))
    notes = []
    latest = exp / "latest.pth"  # made after the model was saved
    model, named = models[epoch], latest.is_symlink() and os.readlink(latest)
    if named != model.name or _read(model) is None:
        with written_whole(model) as partial:
            torch.save(states["model"], partial)
        latest.unlink(missing_ok=True)
        latest.symlink_to(model.name)
        notes.append(f"{model} was not saved: restored from {checkpoint.name}")
    if lost:  # ESPnet averages the best of the epochs that it has statistics of
        kept = {n: value for n, value in stats.items() if models[n].exists()}
        states["reporter"]["stats"] = kept
        with written_whole(checkpoint) as partial:
            torch.save(states, partial)
        notes.append(f"{exp} lacks {some(lost)}: the average is made without them")
    patience, stopping = args.patience, args.early_stopping_criterion
    if patience is not None and reporter.check_early_stopping(patience, *stopping):
        notes.append(
            f"{exp} was stopped early at epoch {epoch}, by its patience of {patience}: "
            "no more epochs are trained"
        )
    return notes


def _read(path: Path):
    """Return what a file of PyTorch's holds, None if it is damaged or not there."""
    try:
        if is_whole(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever bytes of any kind make PyTorch raise
        pass
    return None


def _start_anew(exp: Path, checkpoint: Path) -> str:
    """Move what is damaged aside; refuse if a whole model would be overwritten."""
    paths = [path for path in exp.glob("*.pth") if not path.is_symlink()]
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    what = f"{checkpoint} is {'damaged' if checkpoint.exists() else 'not there'}"
    others = [path for path in paths if path != checkpoint]
    if whole := [path.name for path in others if _read(path) is not None]:
        raise UserError(
            f"{what}, and ESPnet cannot continue the training without it; "
            f"{some(whole)} can still be used: move {exp} away to train anew"
        )
    for path in paths:
        path.rename(f"{path}.damaged")
    return f"{what}, and no epoch is whole: kept as *.damaged, training starts anew"


def main():
    """Print what was done, if anything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exp", type=Path)
    parser.add_argument("task", help="asr or lm")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the training")
    args = parser.parse_args()
    with reported_errors("repair_checkpoint.py"):
        options = get_task(args.task).get_parser().parse_args(args.options)
        for note in repair(args.exp, options):
            print(f"note: {note}")


if __name__ == "__main__":
    main()
