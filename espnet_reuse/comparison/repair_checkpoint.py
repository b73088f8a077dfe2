# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Make an experiment resumable whose training was killed while it saved a model.

ESPnet saves checkpoint.pth and <epoch>epoch.pth one after the other, in place.
"""

import argparse
import os
import zipfile
from pathlib import Path

import torch

from espnet_reuse.errors import reported_errors
from espnet_reuse.files import written_whole


def repair(asr_exp: Path) -> str | None:
    """Remove a cut checkpoint or restore a lost model; return what was done, if any."""
    checkpoint = asr_exp / "checkpoint.pth"
    if not checkpoint.is_file():
        return None
    if not zipfile.is_zipfile(checkpoint):
        checkpoint.unlink()
        return f"{checkpoint} is cut short: training starts anew"
    states = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = asr_exp / f"{states['reporter']['epoch']}epoch.pth"
    latest = asr_exp / "latest.pth"  # made after the model was saved
    if latest.is_symlink() and os.readlink(latest) == model.name:
        return None
    with written_whole(model) as partial:
        torch.save(states["model"], partial)
    latest.unlink(missing_ok=True)
    latest.symlink_to(model.name)
    return f"{model} was not saved: restored from {checkpoint.name}"


def main():
    """Print what was done, if anything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("asr_exp", type=Path)
    args = parser.parse_args()
    with reported_errors("repair_checkpoint"):
        if done := repair(args.asr_exp):
            print(done)


if __name__ == "__main__":
    main()
