# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the commands' parsers share: errors in one line, and kinds of arguments."""

import argparse
import contextlib
import math
from pathlib import Path

from espnet_reuse.errors import UserError


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
            type=existing_file,
            required=required,
            help="config.yaml that ESPnet saved with the model",
        )
        self.add_argument(
            "--asr_model_file",
            type=existing_file,
            required=required,
            help="the model's parameters",
        )


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
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            noun = "a positive integer" if kind is int else "a positive number"
            raise argparse.ArgumentTypeError(f"{text!r} must be {noun}")
        return number

    return read
