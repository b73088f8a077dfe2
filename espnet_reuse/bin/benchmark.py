# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Benchmark the reuse encoder against ESPnet's encoders and the limit.

Writes benchmark.json, benchmark.md and benchmark.png, and prints the Markdown.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from espnet_reuse.bin.parser import Parser, positive


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(
        prog="espnet_reuse.bin.benchmark",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where")
    add(
        "--seconds",
        type=positive(float),
        nargs="+",
        default=[5.0, 15.0, 30.0, 60.0, 120.0],
        help="lengths of audio",
    )
    add("--batch", type=positive(int), default=1, help="utterances, of equal length")
    add(
        "--group_size",
        type=positive(int),
        nargs="+",
        help="layers per attention map of our encoders; 1: no reuse (default: 1 2 3 4)",
    )
    add(
        "--mode",
        choices=["infer", "train"],
        default="infer",
        help="forward; or forward and backward",
    )
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16: by autocast",
    )
    add(
        "--config",
        type=Path,
        help="training YAML of an ESPnet recipe with a Conformer (default: "
        "librispeech_100's)",
    )
    add("--threads", type=positive(int), help="CPU threads (default: PyTorch's)")
    add(
        "--min_time",
        type=positive(float),
        default=10.0,
        help="seconds that each encoder is measured at each length, at least",
    )
    add("--output", type=Path, default=Path("exp/benchmark"), help="folder to write")
    return parser


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Check the arguments, measure and report.

    Returns:
        0, or 1 where an encoder failed for another reason than memory.
    """
    # after the command line has been read, for these take seconds
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "argument --device: PyTorch finds no GPU for 'cuda'; use --device cpu"
        )
    from espnet_reuse.benchmark import compare, measure, peers, report
    from espnet_reuse.provenance import describe_run, write_json

    try:
        config = peers.read_config(args.config)
        num_blocks = config.conf["num_blocks"]
        default = range(1, min(4, num_blocks) + 1)
        group_sizes = sorted(set(args.group_size or default))
        for size in group_sizes:
            if size > num_blocks:
                parser.error(
                    f"argument --group_size: {size} is more than the encoder's "
                    f"{num_blocks} layers; use 1 to {num_blocks}"
                )
        listed = peers.list_peers(config, group_sizes)
        encoders = peers.build_encoders(listed, config.input_size)
    except peers.ReuseConfigError as error:
        parser.error(str(error))
    except peers.ConfigError as error:
        parser.error(f"argument --config: {args.config} {error}")

    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    settings = measure.Settings(
        config=config,
        device=args.device,
        mode=args.mode,
        dtype=args.dtype,
        batch=args.batch,
        threads=threads,
        min_time=args.min_time,
    )
    # normalisation over the batch needs two frames to train on
    needed = 2 if args.mode == "train" and args.batch == 1 else 1
    for seconds in args.seconds:
        frames = settings.frames_of(seconds)
        left = peers.count_output_frames(
            encoders[peers.EAGER], config.input_size, frames
        )
        if left < needed:
            parser.error(
                f"argument --seconds: {seconds:g} s are {frames} frames, of which "
                f"subsampling leaves {left}, but at least {needed} must be left; use "
                "a longer one"
            )
    benchmark = {
        "finished": False,
        "run": describe_run(threads, shlex.join(sys.orig_argv)),
        "settings": {
            "device": args.device,
            "mode": args.mode,
            "dtype": args.dtype,
            "batch": args.batch,
            "seconds": sorted(set(args.seconds)),
            "group_size": group_sizes,
            "min_time": args.min_time,
            "config": str(args.config or "librispeech_100's Conformer"),
            "input_size": config.input_size,
            "frames_per_second": config.frames_per_second,
            "encoder_conf": config.conf,
        },
        "lengths": [],
    }
    results = args.output / "benchmark.json"
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(benchmark, results)
    except OSError as error:
        parser.error(
            f"argument --output: cannot write {args.output}: {error.strerror}; name a "
            "folder that can be written"
        )

    encoders = {name: e.to(args.device) for name, e in encoders.items()}
    for seconds in benchmark["settings"]["seconds"]:
        measured = compare.compare_at(seconds, listed, encoders, settings)
        benchmark["lengths"].append(report.summarise(measured))
        write_json(benchmark, results)
    benchmark["finished"] = True
    print(report.write_reports(benchmark, args.output), end="")
    compare.logger.info(f"wrote {args.output}/benchmark.json, .md and .png")
    return int(
        any(
            row["status"].startswith("failed")
            for length in benchmark["lengths"]
            for row in length["peers"].values()
        )
    )


def main(argv=None):
    """Run the command; an interruption leaves what was measured."""
    parser = get_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("espnet_reuse.benchmark").setLevel(logging.INFO)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's, without a GPU
    try:
        sys.exit(run(args, parser))
    except KeyboardInterrupt:
        parser.exit(
            130, f"{parser.prog}: interrupted; see {args.output}/benchmark.json\n"
        )


if __name__ == "__main__":
    main()
