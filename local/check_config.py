#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check training configs before anything is trained: build their encoders."""

import argparse
import shlex
import sys

import torch
import yaml
from espnet2.tasks.asr import ASRTask, encoder_choices


def read(config, asr_args):
    """Read a config as `asr_train` does.

    Args:
        config: YAML file for `asr_train --config`.
        asr_args: More options for `asr_train`, as one string.

    Raises:
        ValueError: The file is not YAML.
    """
    parser = ASRTask.get_parser()
    parser.prog = f"{config} {asr_args}".strip()  # argparse begins its errors with it
    try:
        return parser.parse_args(["--config", config, *shlex.split(asr_args)])
    except yaml.YAMLError as e:
        raise ValueError(f"{config} is not YAML: {one_line(e)}") from e


def one_line(error):
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def check(config, args):
    """Build the encoder that a config asks for.

    Args:
        config: The config's file, to name it.
        args: The options read from it.

    Raises:
        ValueError: The encoder is unknown or cannot be built so.
    """
    try:
        with torch.device("meta"):  # no memory, no time
            encoder_choices.get_class(args.encoder)(input_size=80, **args.encoder_conf)
    except Exception as e:  # whatever a wrong option makes ESPnet raise
        raise ValueError(f"{config}: {one_line(e)}") from e


def main():
    """Exit with one line that says what is wrong, if anything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", required=True)
    parser.add_argument("--asr_args", default="")
    args = parser.parse_args()
    frontends = []
    try:
        for config in args.configs:
            train_args = read(config, args.asr_args)
            check(config, train_args)
            frontends.append((train_args.frontend, train_args.frontend_conf))
            if frontends[-1] != frontends[0]:
                raise ValueError(
                    f"{config}: frontend and frontend_conf differ from those of "
                    f"{args.configs[0]}: models to compare share their statistics"
                )
    except ValueError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
