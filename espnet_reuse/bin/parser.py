# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the commands' parsers share: errors in one line, and kinds of arguments."""

import argparse
import math
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message):
        """Print the line and exit."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def add_model(self, required: bool = True):
        """Add the options that name a trained model, as ESPnet names them."""
        self.add_argument(
            "--asr_train_config",
            type=Path,
            required=required,
            help="config.yaml that ESPnet saved with the model",
        )
        self.add_argument(
            "--asr_model_file",
            type=Path,
            required=required,
            help="the model's parameters",
        )


def positive(kind):
    """Return a function that reads a positive number from the command line."""

    def read(text):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            noun = "a positive integer" if kind is int else "a positive number"
            raise argparse.ArgumentTypeError(f"{text!r} must be {noun}")
        return number

    return read
