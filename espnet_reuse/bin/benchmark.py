# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Benchmark encoders that reuse attention maps against their parents and the limit.

The limit is the same encoder without attention. The command prints a table in Markdown,
and writes benchmark.json, benchmark.md and benchmark.png. With several --encoders, each
has a folder of its own, and encoders.md has one table of all.

With --exported, it times exported files instead, on the CPU, one utterance at a time,
and beside them the model that --asr_train_config and --asr_model_file name. It prints
the median times, and how many times as fast as the first file each is. It writes no
file.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from espnet_reuse.bin.parser import Parser, existing_file, named, positive
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import write_json, write_text


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("espnet_reuse.bin.benchmark", description=__doc__)
    add, count, number = parser.add_argument, positive(int), positive(float)
    text = "device to run on (default: cpu)"
    add("--device", choices=["cpu", "cuda"], default="cpu", help=text)
    lengths = [5.0, 15.0, 30.0, 60.0, 120.0]
    text = "lengths of audio in seconds (default: 5 15 30 60 120)"
    add("--seconds", type=number, nargs="+", default=lengths, help=text)
    text = "utterances in a batch, all of one length (default: 1)"
    add("--batch", type=count, default=1, help=text)
    text = "layers per group of our encoders; 1 is no reuse (default: 1 2 3 4)"
    add("--group_size", type=count, nargs="+", help=text)
    text = "infer: forward; train: forward and backward (default: infer)"
    add("--mode", choices=["infer", "train"], default="infer", help=text)
    text = "data type; bfloat16 is by autocast (default: float32)"
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help=text)
    which = parser.add_mutually_exclusive_group()
    names = ["conformer", "transformer", "branchformer", "e_branchformer"]
    text = "any of %(choices)s, with 12 layers, width 256, 4 heads (default: conformer)"
    encoders = {"default": ["conformer"], "nargs": "+", "metavar": "ENCODER"}
    which.add_argument("--encoders", choices=names, **encoders, help=text)
    text = "training YAML of an ESPnet recipe, instead of --encoders"
    which.add_argument("--config", type=Path, help=text)
    text = "files that the export command wrote, .onnx or .pt2, instead of --encoders"
    files = {"type": existing_file, "nargs": "+", "metavar": "FILE"}
    which.add_argument("--exported", **files, help=text)
    parser.add_model(required=False)
    add("--threads", type=count, help="CPU threads (default: PyTorch's number)")
    text = "least time to measure each encoder at each length, in seconds (default: 10)"
    add("--min_time", type=number, default=10.0, help=text)
    text = "folder to write (default: exp/benchmark)"
    add("--output", type=Path, default=Path("exp/benchmark"), help=text)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure and report; return 1 if an encoder failed for more than lack of memory.

    Raises:
        UserError: An encoder or file cannot be built, read or measured.
    """
    # after the command line has been read, for these take seconds
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("argument --device: PyTorch finds no GPU; use --device cpu")
    from espnet_reuse.benchmark import compare, peers, report

    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    if args.exported:
        time_files(args)
        return 0
    if args.config:
        with named("--config"):
            configs = [peers.read_config(args.config)]
    else:
        configs = [peers.make_config(name) for name in dict.fromkeys(args.encoders)]
    info, benchmarks = compare.logger.info, []
    for config in configs:
        info(f"encoder: {config.encoder}")
        output = args.output / config.encoder if len(configs) > 1 else args.output
        benchmarks.append(run_encoder(config, output, args))
        info(f"wrote {output}/benchmark.json, .md and .png")
    markdown = report.format_markdown(benchmarks[0])
    if len(configs) > 1:
        markdown = report.format_encoders(benchmarks)
        write_text(markdown, args.output / "encoders.md")
        info(f"wrote {args.output}/encoders.md")
    print(markdown, end="")
    rows = [row for benchmark in benchmarks for row in benchmark["measurements"]]
    return int(any(row["status"].startswith("failed") for row in rows))


def run_encoder(config, output: Path, args: argparse.Namespace) -> dict:
    """Check the arguments for an encoder, measure it, and report after each length."""
    from espnet_reuse.benchmark import compare, measure, peers, report
    from espnet_reuse.provenance import describe_run

    num_blocks, input_size = config.conf["num_blocks"], config.conf["input_size"]
    group_sizes = sorted(set(args.group_size or range(1, min(4, num_blocks) + 1)))
    if group_sizes[-1] > num_blocks:
        raise UserError(
            f"argument --group_size: {group_sizes[-1]} is more than {num_blocks} layers"
        )
    listed = peers.list_peers(config, group_sizes)
    encoders = peers.build_encoders(listed)
    names = ("device", "mode", "dtype", "batch", "min_time")
    options = {name: getattr(args, name) for name in names}
    settings = measure.Settings(config, **options)
    lengths = sorted(set(args.seconds))
    frames = settings.frames_of(lengths[0])
    left = peers.count_output_frames(encoders[peers.EAGER], input_size, frames)
    # normalisation over the batch needs two frames to train on
    needed = 2 if args.mode == "train" and args.batch == 1 else 1
    if left < needed:
        raise UserError(
            f"argument --seconds: {lengths[0]:g} s are {frames} frames, and {left} "
            f"after subsampling; at least {needed} must be left"
        )
    benchmark = {
        "finished": False,
        "run": describe_run(args.threads, shlex.join(sys.orig_argv)),
        "settings": {
            **options,
            "seconds": lengths,
            "group_size": group_sizes,
            "encoder": config.encoder,
            "config": str(args.config or "standard sizes"),
            "input_size": input_size,
            "frames_per_second": config.frames_per_second,
            "encoder_conf": config.conf,
        },
        "measurements": [],
    }
    with named("--output"):
        output.mkdir(parents=True, exist_ok=True)
        write_json(benchmark, output / "benchmark.json")

    encoders = {name: e.to(args.device) for name, e in encoders.items()}
    for seconds in lengths:
        measured = compare.compare_at(seconds, listed, encoders, settings)
        benchmark["measurements"] += measured
        benchmark["finished"] = seconds == lengths[-1]
        report.write_reports(benchmark, output)
    return benchmark


def time_files(args: argparse.Namespace) -> None:
    """Time exported files, and beside them their model, and print the times."""
    from espnet_reuse.benchmark import exported
    from espnet_reuse.export import ServedEncoder
    from espnet_reuse.pretrained import load_model

    model = config = None
    with named("--exported"):
        runners, input_size = exported.open_files(args.exported, args.threads)
    if args.asr_model_file:
        model, config = load_model(args.asr_train_config, args.asr_model_file)
        runners["model in PyTorch"] = ServedEncoder(model)
    for seconds in args.seconds:
        frames = exported.count_frames(seconds, model, config)
        medians = exported.time_runners(runners, frames, input_size, args.min_time)
        first = next(iter(medians.values()))
        for name, ms in medians.items():
            print(f"{seconds:g} s of audio, {frames} frames: ", end="")
            print(f"{ms:.1f} ms, {first / ms:.2f} times as fast as the first: {name}")


def main(argv=None):
    """Run the command; an interruption leaves what was measured."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if (args.asr_train_config is None) != (args.asr_model_file is None):
        parser.error("name the model with both --asr_train_config and --asr_model_file")
    if args.asr_model_file and not args.exported:
        parser.error("argument --asr_model_file: it needs --exported FILE")
    encoder_options = ("device", "batch", "group_size", "mode", "dtype", "output")
    for name in encoder_options if args.exported else ():
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"argument --{name}: it has no effect with --exported")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("espnet_reuse.benchmark").setLevel(logging.INFO)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's, without a GPU
    left = "nothing is written"
    if not args.exported:
        left = f"what was measured is in {args.output}"
    with reported_errors(parser.prog, left, extra="export"):
        sys.exit(run(args))


if __name__ == "__main__":
    main()
