# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Analyse the attention maps of a trained ESPnet ASR encoder.

The report shows, for each layer, where its heads look (diagonality, phoneme attention,
entropy), how well a linear probe reads the phoneme from its output, and how similar its
maps are to those of the other layers. It suggests which layers can share a map. The
command writes report.html, analysis.json and the figures.

Options:
    --data_dir  data directory that asr.sh made, for example dump/raw/test_other;
        relative paths in its wav.scp start in the current folder
    --alignments  phones with their times: a folder of TextGrids, a CTM file,
        'pocketsphinx' to align English speech now, or 'none' (default: pocketsphinx)
    --allow_missing  skip utterances that have no TextGrid or no line in the CTM file,
        and count them, instead of stopping (true or false, default: false)
    --phone_tier NAME  name of the tier of phones in the TextGrids, for example MAU,
        KAN-MAU or Phonetic (default: phones)
    --num_utts  number of utterances to analyse, spread over the set (default: 200)
    --suggest PRODUCERS  number of producers in the suggested groups; several numbers
        give several suggestions (default: as many as uniform groups of 2, 3 and 4
        layers have)
    --suggest_max_distance X  suggest the fewest groups in which each consumer's own
        map is at most X from its producer's map (Jensen-Shannon distance, 0 to 1)
    --output  folder to write (default: analysis/<name of data_dir> beside the model)
    --cache  folder for the alignments and the measures of each utterance; several
        models can share it (default: cache in the output folder)
"""

import argparse
import math
import shlex
import sys
from pathlib import Path

from espnet2.utils.types import str2bool

from espnet_reuse.bin.parser import REQUIRED, Parser, named, positive
from espnet_reuse.errors import reported_errors

# {name: (type, default)}
OPTIONS = {
    "data_dir": (Path, REQUIRED),
    "alignments": (str, "pocketsphinx"),
    "allow_missing": (str2bool, False),
    "phone_tier": (str, None),
    "num_utts": (positive(int), 200),
    "suggest": ([positive(int)], None),
    "suggest_max_distance": (positive(float), None),
    "output": (Path, None),
    "cache": (Path, None),
}


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="espnet_reuse.bin.analyze", description=__doc__)
    parser.add_model()
    parser.add_options(OPTIONS)
    return parser


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check the arguments, analyse and report.

    Raises:
        UserError: The model, the data or the alignments cannot be read or analysed.
    """
    output = args.output or (
        args.asr_model_file.parent / "analysis" / args.data_dir.resolve().name
    )
    cache = args.cache or output / "cache"
    for option, folder in (("--output", output), ("--cache", cache)):
        with named(option):
            folder.mkdir(parents=True, exist_ok=True)
    # after the command line has been read, for these take seconds
    import torch

    from espnet_reuse.analysis.alignments import Alignments
    from espnet_reuse.analysis.analyze import analyze
    from espnet_reuse.analysis.cache import Cache
    from espnet_reuse.analysis.dataset import DataDir
    from espnet_reuse.analysis.maps import prepare_model
    from espnet_reuse.analysis.report import tabulate_suggestions, write_report
    from espnet_reuse.files import write_json
    from espnet_reuse.pretrained import load_model
    from espnet_reuse.provenance import describe_run

    model, config = load_model(args.asr_train_config, args.asr_model_file)
    analysed, rate = prepare_model(model, config)
    num_layers = len(analysed.layers)
    producers = args.suggest or []
    if not producers and args.suggest_max_distance is None:
        producers = sorted({math.ceil(num_layers / size) for size in (2, 3, 4)})
    if max(producers, default=1) > num_layers:
        parser.error(
            f"argument --suggest: {max(producers)} is more than the encoder's "
            f"{num_layers} layers; use a number from 1 to {num_layers}"
        )
    with named("--data_dir"):
        dataset = DataDir(args.data_dir, args.num_utts, rate)
    find_phones = None
    if args.alignments != "none":
        with named("--alignments"):
            find_phones = Alignments(
                args.alignments,
                cache / "alignments",
                dataset.ids,
                dataset.speakers,
                args.allow_missing,
                args.phone_tier,
            )
    files = (args.asr_model_file, args.asr_train_config)
    kept = Cache(cache / "utterances", *(file.read_bytes() for file in files))
    analysis, example = analyze(
        analysed, dataset, find_phones, kept, producers, args.suggest_max_distance
    )
    analysis["model"] = {
        "asr_train_config": str(args.asr_train_config),
        "asr_model_file": str(args.asr_model_file),
        **analysis["model"],
    }
    command = shlex.join(sys.orig_argv)
    analysis = {"run": describe_run(torch.get_num_threads(), command), **analysis}
    write_json(analysis, output / "analysis.json")
    write_report(analysis, example, output)
    line = (
        "{1}  # {0}: cost {3:.3f}, encoder {4:.2f} times as fast, estimated from FLOPs"
    )
    for row in tabulate_suggestions(analysis["suggestions"]).itertuples():
        print(line.format(*row))
    print(f"Written: {output}/{{analysis.json,report.html,*.png}}")


def main(argv=None):
    """Run the command; an interrupted one is continued from its cache."""
    parser = get_parser()
    args = parser.parse_args(argv)
    with reported_errors(parser.prog, "the same command continues", "analysis"):
        run(args, parser)


if __name__ == "__main__":
    main()
