# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What the commands' parsers share: errors in one line, and kinds of arguments."""

import argparse
import contextlib
import math
import os
import re
import sys
from pathlib import Path

from espnet_reuse.errors import UserError

REQUIRED = object()
PROGRAM = "espnet-reuse"


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def __init__(self, prog: str, description: str):
        description, _, self._helps = description.partition("\nOptions:\n")
        as_typed = sys.argv[0] if sys.argv[0].startswith(f"{PROGRAM} ") else prog
        super().__init__(
            prog=as_typed,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message):
        """Print the line and exit."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def add_options(self, options: dict[str, tuple]):
        """Add the options under "Options:" in the description, which has their helps.

        Args:
            options: Type or choices, and default (or `REQUIRED`), of each name; the
                type of several values in a list.
        """
        described = re.findall(
            r"^    --(\w+) ?([A-Z]*)  +(.*?)(?=^    --|\Z)", self._helps, re.M | re.S
        )
        for name, metavar, text in described:
            kind, default = options[name]
            how = {"type": kind}
            if isinstance(kind, list):
                several = {"type": kind[0], "nargs": "+"}
                how = several if callable(kind[0]) else {"choices": kind}
            how |= {"required": True} if default is REQUIRED else {"default": default}
            self.add_argument(f"--{name}", metavar=metavar or None, help=text, **how)

    def add_model(self, required: bool = True):
        """Add the options that name a trained model, as ESPnet names them."""
        how = {"type": existing_file, "required": required}
        config = "config.yaml that ESPnet saved with the model"
        self.add_argument("--asr_train_config", **how, help=config)
        self.add_argument("--asr_model_file", **how, help="the model's parameters")


@contextlib.contextmanager
def named(option: str):
    """Put the option that a user can mend in front of an error's message."""
    try:
        yield
    except OSError as error:
        where = f"argument {option}: {error.filename}"
        raise UserError(f"{where}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"argument {option}: {error}") from None


def existing_file(text: str) -> Path:
    """Read the path of a file from the command line."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file '{text}'")
    return Path(text)


def positive(kind):
    """Return a function that reads a positive number from the command line."""

    def read(text):
        with contextlib.suppress(ValueError):
            if 0 < kind(text) < math.inf:
                return kind(text)
        noun = "a positive integer" if kind is int else "a positive number"
        raise argparse.ArgumentTypeError(f"{text!r} must be {noun}")

    return read


def thread_count(text: str) -> int:
    """Read a number of CPU threads: no more than there are cores."""
    threads, cores = positive(int)(text), os.cpu_count()
    if threads > cores:
        raise argparse.ArgumentTypeError(f"{text} is more than the {cores} cores here")
    return threads
