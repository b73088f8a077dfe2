#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check training configs before anything is trained: build their encoders."""

import argparse
import shlex
import sys

import torch
from espnet2.tasks.asr import ASRTask, encoder_choices


def check(config, asr_args):
    """Build the encoder that a config and overriding options ask for.

    Args:
        config: YAML file for `asr_train --config`.
        asr_args: More options for `asr_train`, as one string.

    Raises:
        ValueError: The encoder is unknown or cannot be built so.
    """
    args = ASRTask.get_parser().parse_args(["--config", config, *shlex.split(asr_args)])
    try:
        with torch.device("meta"):  # no memory, no time
            encoder_choices.get_class(args.encoder)(input_size=80, **args.encoder_conf)
    except Exception as e:  # whatever a wrong option makes ESPnet raise
        raise ValueError(f"{config}: {' '.join(str(e).split())}") from e


def main():
    """Exit with one line that says what is wrong, if anything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", required=True)
    parser.add_argument("--asr_args", default="")
    args = parser.parse_args()
    try:
        for config in args.configs:
            check(config, args.asr_args)
    except ValueError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
