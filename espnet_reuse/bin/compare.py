# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Train, decode, score and compare models with and without reuse of attention maps.

Usage: ./run.sh [--option value ...]

Runs ESPnet's asr.sh in the folder of a recipe, and writes
egs2/<corpus>/asr1/exp/{RESULTS.md,comparison.json,comparison.png,comparison_details.md}.
Finished steps are not done again; an interrupted run is continued.

Stages:
    0: Set-up (tools/setup.sh) and a check of the configs
    1: Data preparation
    2: Tokens, statistics and (--use_lm true) the LM, shared by all models
    3: Training
    4: Decoding
    5: Scoring
    6: Comparison
    7: Analysis of the attention maps, if you ask for it

Options:
    --corpus            # Recipe to run, a folder of egs2 (default="{corpus}").
    --models            # Models to compare, the first is the baseline
                        # (default="{models}"):
                        # baseline, conf/train_asr_conformer.yaml of the recipe;
                        # reuse<N>, groups of N layers;
                        # names in conf/models.yaml, also joined by _: layers8_reuse2;
                        # <name>, a YAML of yours in the recipe,
                        # conf/tuning/train_asr_conformer_<name>.yaml;
                        # <name>_warm, fine-tuned from the first model.
    --stage             # First stage to run (default="{stage}").
    --stop_stage        # Last stage to run (default="6", or "7" with --stage 7).
    --seeds             # Seeds to train each model with, e.g. "1 2 3"; the results are
                        # means over them (default: the config's seed).
    --jobs              # How many models and seeds to work on side by side; each has
                        # its share of the cores and GPUs (default="{jobs}").
    --nj                # How many processes prepare data and decode, shared out over
                        # --jobs (default: the cores that this process
                        # may use).
    --ngpu              # GPUs of one training; "0" trains on the CPU (default: the
                        # recipe's, or 0 where there is no GPU).
    --resume            # Whether to continue trainings that were stopped, to the same
                        # result (default="{resume}").
    --dry_run           # Whether to change nothing, and to print for each step whether
                        # it is done, to do, or stale and why (default="{dry_run}").
    --asr_args          # Training options that override the configs. With them a
                        # training starts from nothing, in a folder of its own, also
                        # with a higher --max_epoch, e.g. --asr_args "--max_epoch 10"
                        # (default="{asr_args}").
    --inference_config  # Config for decoding; its path starts in the recipe's folder,
                        # or else in the current one (default: conf/decode_asr.yaml, and
                        # conf/decode_asr_ctc_best_path.yaml for models with CTC alone).
    --inference_args    # Decoding options that override it
                        # (default="{inference_args}").
    --analysis_set      # Set to analyse the attention maps on, in dump/raw (default:
                        # the last test set).
    --analysis_args     # Options of the analysis (default="{analysis_args}"), e.g.
                        # --analysis_args "--num_utts 50 --alignments /TextGrids" (all
                        # of them: espnet-reuse analyze --help).
    --results           # Folder for a copy of the comparison, to publish it; the
                        # command in the copy names no folders (default: no copy).

Any other option goes to the recipe's local/data.sh, if it has the option (LibriSpeech:
--librispeech PATH, --parts "train-clean-100 ...", --allow_partial true; custom: --data
DIR), and to ESPnet's asr.sh, e.g. --nbpe 30.
"""

import argparse
import os
import re
import sys

# run.sh reads the options before anything is installed: the standard library alone here
LAST_STAGE = 7
MANY = 10_000  # of what goes on side by side
# Kaldi's parse_options.sh, which takes the other options' values, evaluates these.
EVALUATED = re.compile(r'[$`"\\]')
UNEVALUATED = ("analysis_args", "results")
UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def number(least: int, most: int):
    """Return a function that reads a whole number between two."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not a whole number from {least} to {most}"
            )
        return int(text)

    return read


def read_bool(text: str) -> bool:
    """Read true or false, as ESPnet's scripts write them."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return text == "true"


def words(kind):
    """Return a function that reads words with spaces between them, each once."""

    def read(text: str) -> list:
        values = [kind(word) for word in text.split()]
        for value in values:
            if values.count(value) > 1:
                raise argparse.ArgumentTypeError(f"'{value}' is there more than once")
        return values

    return read


# {name: (how to read it, default)}
OPTIONS = {
    "corpus": (str, "mini_an4"),
    "models": (words(str), "baseline reuse2 reuse3"),
    "stage": (number(0, LAST_STAGE), "0"),
    "stop_stage": (number(0, LAST_STAGE), None),
    "seeds": (words(number(0, 2**32 - 1)), ""),  # NumPy's
    "jobs": (number(1, MANY), "1"),
    "nj": (number(1, MANY), None),
    "ngpu": (number(0, MANY), None),
    "resume": (read_bool, "true"),
    "dry_run": (read_bool, "false"),
    "asr_args": (str, ""),
    "inference_config": (str, None),
    "inference_args": (str, ""),
    "analysis_set": (str, None),
    "analysis_args": (str, ""),
    "results": (str, None),
}


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the options that are not passed on."""
    parser = argparse.ArgumentParser("run.sh", add_help=False)
    parser.error = lambda message: parser.exit(
        2, f"run.sh: error: {message.removeprefix('argument ')}\n"
    )
    for name, (kind, default) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, default=default)
    return parser


def read_options(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Read the command line, Kaldi's pairs of option and value.

    A value may begin with dashes (`--asr_args "--max_epoch 10"`), and an option may be
    written with dashes for underscores, as in ESPnet's scripts.

    Returns the driver's own options, and {name: value} of those to pass on.
    """
    parser = get_parser()
    for path in (os.path.dirname(os.path.abspath(__file__)), os.getcwd()):
        if UNREADABLE.search(path):
            parser.error(f"the path {path!r} is not UTF-8, or has control characters")
    mine, others, rest = [], {}, list(argv)
    while rest:
        word = rest.pop(0)
        name = word.removeprefix("--").replace("-", "_")
        if word in ("-h", "--help"):
            print(re.sub(r"\{(\w+)\}", lambda m: OPTIONS[m[1]][1], __doc__).strip())
            sys.exit()
        if not re.fullmatch(r"--\w[\w-]*", word):
            parser.error(
                f"unexpected argument {word!r}: write --option value (see ./run.sh "
                "--help)"
            )
        if not rest:
            parser.error(f"{word} needs a value (see ./run.sh --help)")
        value = re.sub(r"[\t-\r]", " ", rest.pop(0))  # line breaks and tabs
        if UNREADABLE.search(value):
            parser.error(f"{word}: {value!r} is not UTF-8, or has control characters")
        if name not in UNEVALUATED and (code := EVALUATED.search(value)):
            parser.error(
                f"{word}: {code[0]} in '{value}': ESPnet's scripts would run it as code"
            )
        if name in OPTIONS:
            mine.append(f"--{name}={value}")
        else:
            others[name] = value
    options = parser.parse_args(mine)
    if not options.models:
        parser.error("--models: name at least one model")
    if options.stop_stage is None:
        options.stop_stage = max(6, options.stage)
    if options.stage > options.stop_stage:
        parser.error(
            f"--stage: {options.stage} comes after --stop_stage {options.stop_stage}"
        )
    return options, others


def main(argv=None):
    """Do what the command line asks for."""
    argv = sys.argv[1:] if argv is None else argv
    options, others = read_options(argv)

    from espnet_reuse.comparison.driver import compare
    from espnet_reuse.errors import reported_errors

    with reported_errors("run.sh", "the same command continues"):
        compare(options, others, argv)


if __name__ == "__main__":
    # as a script, by its path, only the options are read
    main() if __package__ else read_options(sys.argv[1:])
