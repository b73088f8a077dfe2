#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check configs before anything is trained: build the models, compare, add up.

Prints a line for each training config, with tabs between: the config, the checkpoint to
decode with, and the bytes that training leaves on the disk.
"""

import argparse
import shlex
import sys

import torch
import yaml
from espnet2.bin.asr_inference import get_parser
from espnet2.tasks.asr import ASRTask

VOCABULARY = 5000  # at the most, to tell a model's size before there are tokens


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


def read_inference(config, inference_args):
    """Read a decoding config as `asr_inference` does; exits if an option is wrong."""
    parser = get_parser()
    parser.prog = f"{config} {inference_args}".strip()
    needed = ["--output_dir=-", "--data_path_and_name_and_type=-,speech,sound"]
    try:
        return parser.parse_args(
            ["--config", config, *needed, *shlex.split(inference_args)]
        )
    except yaml.YAMLError as e:
        raise ValueError(f"{config} is not YAML: {one_line(e)}") from e


def check(config, args):
    """Build the model that a config asks for.

    Args:
        config: The config's file, to name it.
        args: The options read from it.

    Returns:
        Its number of parameters.

    Raises:
        ValueError: Part of it is unknown or cannot be built so.
    """
    args.token_list = [str(i) for i in range(VOCABULARY)]
    try:
        with torch.device("meta"):  # no memory, no time
            model = ASRTask.build_model(args)
    except Exception as e:  # whatever a wrong option makes ESPnet raise
        raise ValueError(f"{config}: {one_line(e)}") from e
    return sum(p.numel() for p in model.parameters())


def model_file(args):
    """Return the name of the averaged checkpoint, after the first criterion."""
    phase, criterion, _ = args.best_model_criterion[0]
    return f"{phase}.{criterion}.ave.pth"


def disk_space(args, parameters):
    """Return the bytes that training writes, all in float32.

    The best epochs and the last one, their average, and checkpoint.pth: the model and
    two moments of Adam.
    """
    nbest = args.keep_nbest_models
    epochs = max(nbest) if isinstance(nbest, list) else nbest
    return 4 * parameters * (epochs + 1 + 1 + 3)


def main():
    """Exit with one line that says what is wrong, if anything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", required=True)
    parser.add_argument("--asr_args", default="")
    parser.add_argument("--inference_config", required=True)
    parser.add_argument("--inference_args", default="")
    args = parser.parse_args()
    frontends, lines = [], []
    try:
        decoding = read_inference(args.inference_config, args.inference_args)
        for config in args.configs:
            train_args = read(config, args.asr_args)
            parameters = check(config, train_args)
            if (
                train_args.model_conf.get("ctc_weight") == 1.0
                and decoding.ctc_weight != 1.0
            ):
                # ESPnet's beam search preselects tokens by the scores of a decoder
                raise ValueError(
                    f"{config}: a model with CTC alone is decoded with ctc_weight 1.0, "
                    f"but {args.inference_config} has {decoding.ctc_weight}: add "
                    "--inference_args '--ctc_weight 1.0', or --inference_config "
                    "conf/decode_asr_ctc_greedy.yaml"
                )
            space = disk_space(train_args, parameters)
            lines.append((config, model_file(train_args), space))
            frontends.append((train_args.frontend, train_args.frontend_conf))
            if frontends[-1] != frontends[0]:
                raise ValueError(
                    f"{config}: frontend and frontend_conf differ from those of "
                    f"{args.configs[0]}: models to compare share their statistics"
                )
    except ValueError as e:
        sys.exit(str(e))
    for line in lines:
        print(*line, sep="\t")


if __name__ == "__main__":
    main()
