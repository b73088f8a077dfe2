# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Analyse the attention maps of a trained ESPnet ASR encoder.

Shows where each layer and head looks (diagonality, phoneme attention, entropy), what
its hidden states know of the phoneme (probe), how alike the layers' maps are, and which
layers may share one. Writes analysis.json, figures and report.html.
"""

import argparse
import hashlib
import logging
import shlex
import sys
from pathlib import Path

from espnet_reuse.bin.parser import Parser, positive


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="espnet_reuse.bin.analyze", description=__doc__)
    add = parser.add_argument
    parser.add_model()
    add(
        "--data_dir",
        type=Path,
        required=True,
        help="data directory that asr.sh made, such as dump/raw/test_other; relative "
        "paths in its wav.scp start in the current folder",
    )
    add(
        "--alignments",
        default="pocketsphinx",
        help="phones with times: a folder of TextGrids of the Montreal Forced Aligner, "
        "a CTM file, 'pocketsphinx' to make them now (English), or 'none' "
        "(default: pocketsphinx)",
    )
    add(
        "--allow_missing",
        choices=["true", "false"],
        default="false",
        help="count utterances without a TextGrid or a line in the CTM file as skipped "
        "instead of stopping (default: false)",
    )
    add(
        "--num_utts",
        type=positive(int),
        default=200,
        help="utterances to analyse, spread over the set (default: 200)",
    )
    add(
        "--suggest",
        type=positive(int),
        nargs="+",
        metavar="PRODUCERS",
        help="suggest groups with this many producers (default: as many as groups of "
        "2, 3 and 4 layers have)",
    )
    add(
        "--suggest_max_distance",
        type=positive(float),
        metavar="X",
        help="suggest the fewest groups in which no consumer's own map is further than "
        "X from its producer's (Jensen-Shannon distance, up to 1)",
    )
    add(
        "--output",
        type=Path,
        help="folder to write (default: analysis/<name of data_dir> beside the model)",
    )
    add(
        "--cache",
        type=Path,
        help="folder that keeps alignments and each utterance's figures, which several "
        "models may share (default: cache in the output folder)",
    )
    return parser


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check the arguments, analyse and report.

    Raises:
        PretrainedError: The model cannot be loaded.
        AnalysisError: The model, the data or the alignments cannot be analysed.
    """
    for option in ("asr_train_config", "asr_model_file"):
        path = getattr(args, option)
        if not path.is_file():
            parser.error(f"argument --{option}: there is no file '{path}'")
    output = args.output or (
        args.asr_model_file.parent / "analysis" / args.data_dir.resolve().name
    )
    cache = args.cache or output / "cache"
    for option, folder in (("output", output), ("cache", cache)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(
                f"argument --{option}: cannot write {folder}: {error.strerror}; name a "
                "folder that can be written"
            )
    # after the command line has been read, for these take seconds
    from espnet_reuse.analysis import AnalysisError, alignments
    from espnet_reuse.analysis.analyze import analyze
    from espnet_reuse.analysis.dataset import DataDir
    from espnet_reuse.analysis.maps import prepare_model
    from espnet_reuse.analysis.report import write_report
    from espnet_reuse.analysis.utterance import Cache
    from espnet_reuse.pretrained import load_model
    from espnet_reuse.provenance import describe_run, write_json

    model, config = load_model(args.asr_train_config, args.asr_model_file)
    analysed, rate = prepare_model(model, config)
    num_layers = len(analysed.layers)
    wanted = args.suggest or sorted({-(-num_layers // size) for size in (2, 3, 4)})
    for count in wanted:
        if count > num_layers:
            raise AnalysisError(
                f"--suggest: {count} is more than the encoder's {num_layers} layers; "
                f"use 1 to {num_layers}"
            )
    dataset = DataDir(args.data_dir, args.num_utts, rate)
    find_phones = None
    if args.alignments != "none":
        find_phones = alignments.open_alignments(
            args.alignments,
            cache / "alignments",
            allow_missing=args.allow_missing == "true",
        )
    model_key = hashlib.sha256(args.asr_model_file.read_bytes())
    model_key.update(args.asr_train_config.read_bytes())
    analysis, example = analyze(
        analysed,
        dataset,
        find_phones,
        Cache(cache / "utterances", model_key.hexdigest()),
        wanted if args.suggest or args.suggest_max_distance is None else [],
        args.suggest_max_distance,
    )
    analysis["model"] = {
        "asr_train_config": str(args.asr_train_config),
        "asr_model_file": str(args.asr_model_file),
        **analysis["model"],
    }
    import torch

    command = shlex.join(sys.orig_argv)
    analysis = {"run": describe_run(torch.get_num_threads(), command), **analysis}
    write_json(analysis, output / "analysis.json")
    write_report(analysis, example, output)
    print(format_suggestions(analysis["suggestions"]), end="")
    print(f"Written: {output}/{{analysis.json,report.html,*.png}}")


def format_suggestions(suggestions: list) -> str:
    """Return suggested groups as lines of YAML, with their cost in a comment."""
    lines = []
    for suggestion in suggestions:
        for kind in ("suggested", "uniform"):
            grouping = suggestion[kind]
            lines.append(
                f"reuse_group_size: {grouping['reuse_group_size']}  # {kind}"
                f"{' by ' + suggestion['option'] if kind == 'suggested' else ''}: cost "
                f"{grouping['cost']:.3f}, encoder {grouping['speed_up']:.2f}x "
                "(estimated from FLOPs)\n"
            )
    return "".join(lines)


def main(argv=None):
    """Run the command; an interrupted one is continued from its cache."""
    parser = get_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from espnet_reuse.analysis import AnalysisError
    from espnet_reuse.pretrained import PretrainedError

    try:
        run(args, parser)
    except (AnalysisError, PretrainedError) as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        parser.error(f"no {error.name} here: pip install 'espnet-reuse[analysis]'")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same command continues\n")


if __name__ == "__main__":
    main()
