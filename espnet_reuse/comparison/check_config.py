# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Check configs before anything is trained: build the models, compare, add up.

Run it as `python3 -m espnet_reuse.run -m espnet_reuse.comparison.check_config`.
"""

import argparse
import shlex
from pathlib import Path

import numpy
import torch
import yaml
from espnet2.bin import asr_inference
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.multi_layer_conv import (
    Conv1dLinear,
    MultiLayeredConv1d,
)
from espnet2.tasks.asr import ASRTask

from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.files import write_json

VOCABULARY = 5000  # tokens, an upper bound: a model's size before there are tokens
SEE_PADDING = (LegacyRelPositionMultiHeadedAttention, Conv1dLinear, MultiLayeredConv1d)


def parse(
    parser: argparse.ArgumentParser, config: str, needed: list[str], more: str
) -> argparse.Namespace:
    """Read a config, with more options, as the ESPnet program of this parser does.

    Raises:
        UserError: The file is missing or not YAML, or an option is wrong.
    """

    def refuse(message):
        raise ValueError(message)

    parser.error = refuse  # instead of the usage, some hundred lines
    try:
        return parser.parse_args(["--config", config, *needed, *shlex.split(more)])
    except (yaml.YAMLError, ValueError) as e:  # YAML: also a value in `more`
        raise UserError(f"{f'{config} {more}'.strip()}: {one_line(e)}") from e


def find_notes(train_args: argparse.Namespace, encoder: torch.nn.Module) -> list[str]:
    """Return what a user should know of the encoder's options, ESPnet's and ours."""
    notes = []
    if any(isinstance(module, SEE_PADDING) for module in encoder.modules()):
        notes.append(
            "an utterance is encoded otherwise in a batch with a longer one, as by "
            "ESPnet's encoder, too; not with rel_pos_type: latest and "
            "positionwise_layer_type: linear"
        )
    conf = train_args.encoder_conf
    drops = {  # in the others layer_drop_rate has no effect
        "stochastic_depth_rate": True,
        "layer_drop_rate": train_args.encoder.startswith("e_branchformer"),
        "attn_branch_drop_rate": conf.get("merge_method") == "learned_ave",
    }
    dropped = [name for name in drops if drops[name] and numpy.any(conf.get(name, 0))]
    if dropped and not train_args.unused_parameters:
        notes.append(
            f"{', '.join(dropped)}: training in several processes stops without "
            "unused_parameters: true"
        )
    return notes


def describe(config: str, train_args: argparse.Namespace) -> dict:
    """Return a model's part of what `check` returns, or raise a UserError."""
    train_args.token_list = [str(i) for i in range(VOCABULARY)]
    try:
        with torch.device("meta"):  # takes no memory and no time
            model = ASRTask.build_model(train_args)
    except Exception as e:  # whatever a wrong option makes ESPnet raise
        raise UserError(f"{config}: {one_line(e)}") from e
    parameters = sum(p.numel() for p in model.parameters())
    phase, criterion, _ = train_args.best_model_criterion[0]
    epochs = numpy.max(train_args.keep_nbest_models)  # a number, or several
    return {
        "checkpoint": f"{phase}.{criterion}.ave.pth",
        # in float32: the best epochs and the last one, their average, and
        # checkpoint.pth, the model and two moments of Adam
        "disk_bytes": 4 * parameters * int(epochs + 1 + 1 + 3),
        "parameters": parameters,
        "notes": find_notes(train_args, model.encoder),
    }


def check(
    configs: list[str], asr_args: str, inference_config: str, inference_args: str
) -> dict[str, dict]:
    """Check that models can be built, decoded and compared.

    The configs are YAML files, the args options that override them, as one string.

    Returns:
        {config: {"checkpoint": the file to decode with, "disk_bytes": ...,
        "parameters": with 5,000 tokens, "notes": ...}}.

    Raises:
        UserError: A model cannot be built or decoded so, or its features differ from
            the first model's.
    """
    decoding = parse(
        asr_inference.get_parser(),
        inference_config,
        ["--output_dir=-", "--data_path_and_name_and_type=-,speech,sound"],
        inference_args,
    )
    checked, frontends = {}, []
    for config in configs:
        train_args = parse(ASRTask.get_parser(), config, [], asr_args)
        checked[config] = describe(config, train_args)
        if train_args.model_conf.get("ctc_weight") == 1.0 and decoding.ctc_weight != 1:
            # ESPnet's beam search preselects tokens by the scores of a decoder
            raise UserError(
                f"{config}: a model with CTC alone is decoded with ctc_weight 1.0, but "
                f"{inference_config} has {decoding.ctc_weight}: set ctc_weight to 1.0, "
                "or decode with conf/decode_asr_ctc_greedy.yaml"
            )
        frontends.append((train_args.frontend, train_args.frontend_conf))
        if frontends[-1] != frontends[0]:
            raise UserError(
                f"{config}: frontend and frontend_conf differ from those of "
                f"{configs[0]}: models to compare share their statistics"
            )
    return checked


def main():
    """Write what `check` returns as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", required=True)
    parser.add_argument("--asr_args", default="")
    parser.add_argument("--inference_config", required=True)
    parser.add_argument("--inference_args", default="")
    parser.add_argument("--output", type=Path, required=True)
    args = vars(parser.parse_args())
    output = args.pop("output")
    with reported_errors("check_config"):
        write_json(check(**args), output)


if __name__ == "__main__":
    main()
