# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Check configs before anything is trained: build the models, compare, add up.

Run it as `python3 -m espnet_reuse.run -m espnet_reuse.comparison.check_config`.
"""

import argparse
import re
import shlex
from pathlib import Path

import numpy
import torch
import yaml
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.multi_layer_conv import (
    Conv1dLinear,
    MultiLayeredConv1d,
)
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.tasks.asr import ASRTask

from espnet_reuse.bin import analyze, asr_inference_ctc
from espnet_reuse.bin.parser import named
from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.files import write_json

VOCABULARY = 5000  # tokens, an upper bound: a model's size before there are tokens
# Options that the recipe sets, or after which nothing is trained.
RESERVED = re.compile(
    "output(_dir)?|cache|config|.*data_(dir|path_and_name_and_type)|.*_shape_file"
    "|key_file|asr_train_config|asr_model_file|token_(type|list)|bpemodel"
    "|non_linguistic_symbols|cleaner|g2p|use_preprocessor|ngpu|resume|collect_stats"
    "|multiprocessing_distributed|dry_run|print_config|no_forward_run|search"
)
LEAST = {  # of what ESPnet takes in silence, or refuses late
    1: "max_epoch|keep_nbest_models|accum_grad|num_iters_per_epoch|beam_size|nbest"
    "|((max|min|valid)_)?batch_(size|bins)",
    0: "patience|num_workers|seed",
}
CRITERION = re.compile("(train|valid),(loss|acc|cer|wer)(_.+)?,(min|max)")
SEE_PADDING = (LegacyRelPositionMultiHeadedAttention, Conv1dLinear, MultiLayeredConv1d)


def parse(
    parser: argparse.ArgumentParser, config: str, needed: list[str], more: str
) -> argparse.Namespace:
    """Read a config, if any, with more options, as the program of this parser does.

    Raises:
        UserError: The file is missing or not YAML, or an option is wrong.
    """

    def refuse(message):
        raise ValueError(message)

    parser.error = refuse  # instead of the usage, some hundred lines
    parser.exit = lambda: refuse("--help stands alone")
    try:
        needed = [*(("--config", config) if config else ()), *needed]
        words = [*needed, *shlex.split(more)]
        args = parser.parse_args(words)
        values = vars(args) | (vars(args).get("model_conf") or {})
        for name, value in values.items():
            for least, names in LEAST.items():
                known = re.fullmatch(names, name) and value is not None
                if known and numpy.min(value) < least:
                    refuse(f"{name}: {value} is less than {least}")
            if name == "ctc_weight" and not 0 <= float(value) <= 1:
                refuse(f"{name}: {value} is not from 0 to 1")
            if name == "best_model_criterion":
                for one in map(",".join, value):
                    if not CRITERION.fullmatch(one):
                        refuse(f"{name}: {one} is not like valid,acc,max")
        reserved = list(filter(RESERVED.fullmatch, vars(args)))
        parser.set_defaults(**dict.fromkeys(reserved))  # to see all that are given
        given, set_ = (vars(parser.parse_args(w)) for w in (words, needed))
        for name in reserved:
            if given[name] != set_[name]:
                refuse(f"--{name}: run.sh sets this option itself, or does not use it")
    except (yaml.YAMLError, ValueError, TypeError) as e:  # of a value in `more`, too
        raise UserError(f"{f'{config} {more}'.strip()}: {one_line(e)}") from e
    return args


def build(config: str, train_args: argparse.Namespace) -> torch.nn.Module:
    """Build the model of a config without values, which takes no memory and no time.

    Raises:
        UserError: An option is wrong.
    """
    encoder = train_args.encoder
    ours = [name for name in train_args.encoder_conf if name.startswith("reuse_")]
    if ours and not encoder.endswith("_reuse"):
        raise UserError(
            f"{config}: {ours[0]} needs encoder: {encoder}_reuse, not {encoder}"
        )
    train_args.token_list = [str(i) for i in range(VOCABULARY)]
    try:
        with torch.device("meta"):
            model = ASRTask.build_model(train_args)
        for optimizer in ASRTask.build_optimizers(train_args, model):
            if train_args.scheduler:
                scheduler = scheduler_classes[train_args.scheduler]
                scheduler(optimizer, **train_args.scheduler_conf)
        return model
    except Exception as e:  # whatever a wrong option makes ESPnet raise
        raise UserError(f"{config}: {one_line(e)}") from e


def find_notes(train_args: argparse.Namespace, encoder: torch.nn.Module) -> list[str]:
    """Return what a user should know of the encoder's options, ESPnet's and ours."""
    notes = []
    if any(isinstance(module, SEE_PADDING) for module in encoder.modules()):
        notes.append(
            "in a batch with a longer utterance, an utterance is encoded differently "
            "than alone, with ESPnet's encoder as well; to avoid that, set "
            "rel_pos_type: latest and positionwise_layer_type: linear"
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
            f"{', '.join(dropped)}: to train in several processes, set "
            "unused_parameters: true"
        )
    return notes


def describe(config: str, train_args: argparse.Namespace) -> dict:
    """Return a model's part of what `check` returns, or raise a UserError."""
    model = build(config, train_args)
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
    configs: list[str],
    asr_args: str,
    inference_configs: list[str],
    inference_args: str,
    analysis_args: str,
) -> dict[str, dict]:
    """Check that models can be built, decoded and compared.

    The configs are YAML files, an inference config for each model, the args options
    that override them, as one string.

    Returns:
        For each config `checkpoint`, the file to decode with, `disk_bytes`,
        `parameters`, with 5,000 tokens, and `notes`.

    Raises:
        UserError: A model cannot be built or decoded so, or its features differ from
            the first model's.
    """
    model = [f"--asr_train_config={__file__}", f"--asr_model_file={__file__}"]
    with named("--analysis_args"):
        parse(analyze.get_parser(), "", [*model, "--data_dir=-"], analysis_args)
    checked, frontends = {}, []
    data = ["--output_dir=-", "--data_path_and_name_and_type=-,speech,sound"]
    for config, inference_config in zip(configs, inference_configs, strict=True):
        decoding = parse(
            asr_inference_ctc.get_parser(), inference_config, data, inference_args
        )
        train_args = parse(ASRTask.get_parser(), config, [], asr_args)
        checked[config] = describe(config, train_args)
        weight = train_args.model_conf.get("ctc_weight")
        is_ctc, is_best_path = weight == 1.0, decoding.search == "best_path"
        criterion = train_args.best_model_criterion[0][1]
        if is_ctc and criterion in ("acc", "cer", "wer", "loss_att"):
            # ESPnet takes it for nan, and the first epochs for the best
            raise UserError(
                f"{config}: best_model_criterion: a model with CTC alone has no "
                f"{criterion}: use valid,cer_ctc,min"
            )
        if weight == 0.0 and is_best_path:
            raise UserError(
                f"{config}: a model with ctc_weight 0.0 has no CTC head, which search: "
                f"best_path in {inference_config} needs: use a beam search"
            )
        if is_ctc and not is_best_path and decoding.ctc_weight != 1:
            # ESPnet's beam search preselects tokens by the scores of a decoder
            raise UserError(
                f"{config}: a model with CTC alone is decoded with ctc_weight 1.0, but "
                f"{inference_config} has {decoding.ctc_weight}: set ctc_weight to 1.0, "
                "or decode with conf/decode_asr_ctc_best_path.yaml"
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
    parser.add_argument("--inference_configs", nargs="+", required=True)
    parser.add_argument("--inference_args", default="")
    parser.add_argument("--analysis_args", default="")
    parser.add_argument("--output", type=Path, required=True)
    args = vars(parser.parse_args())
    output = args.pop("output")
    with reported_errors("check_config"):
        write_json(check(**args), output)


if __name__ == "__main__":
    main()
