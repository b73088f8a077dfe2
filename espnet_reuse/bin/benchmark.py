# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Benchmark encoders that reuse attention maps, or models from waveform to text.

--task encode, the default, compares encoders with their parents and with the limit: the
same encoder without attention. It prints a table in Markdown, and writes
benchmark.json, benchmark.md and benchmark.png. With several --encoders, each has a
folder of its own, and encoders.md has one table of all.

With --runtime, it exports the encoder instead, with random weights, without reuse, in
groups and without attention, and times all from waveform to CTC log-probabilities, in
the serving runtimes and in PyTorch, on the CPU, one utterance at a time. It prints a
table in Markdown, and writes benchmark.json and benchmark.md.

With --exported, it times exported files, in the runtimes of --runtime, and beside them
the model that --asr_train_config and --asr_model_file name. It prints the median times,
and how many times as fast as the first each is. It writes no file.

--task transcribe times frontend, encoder and search: of trained --models with ESPnet's
beam, a beam of 1 and best path; or, without --models, of random weights, with CTC alone
and 5,000 tokens, on noise, with best path alone. Run it in the folder of the models'
recipe, where the paths in their configs start. It prints a table in Markdown, and
writes benchmark.json and benchmark.md.
"""

import argparse
import importlib.metadata
import itertools
import logging
import os
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from espnet_reuse.bin.parser import (
    Parser,
    existing_file,
    named,
    positive,
    thread_count,
)
from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.files import write_json, write_text

# Where a task needs other values: None leaves the choice to PyTorch.
DEFAULTS = {
    "encode": {"batch": 1, "seconds": [5.0, 15.0, 30.0, 60.0, 120.0], "threads": None},
    "runtime": {"batch": 1, "seconds": [5.0, 15.0, 30.0, 60.0], "threads": None},
    "transcribe": {"batch": None, "seconds": [15.0], "threads": 1},
}
RUNTIMES = ["pytorch", "onnxruntime", "openvino"]
# By what is asked for, the options that have no effect.
IGNORED = {
    "with --task encode": (
        *("models", "data_dir", "num_utts", "inference_config", "rounds"),
    ),
    "with --runtime": ("device", "batch", "mode", "forms", "only"),
    "with --exported": (
        *("device", "batch", "group_size", "mode", "output", "forms", "only"),
    ),
    "with --task transcribe": (
        *("mode", "forms", "only", "min_time", "encoders", "exported", "runtime"),
        *("asr_train_config", "asr_model_file"),
    ),
    "with --models": ("seconds", "group_size", "config"),
    "without --models": ("data_dir", "num_utts", "inference_config"),
}


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("espnet_reuse.bin.benchmark", description=__doc__)
    add, count, number = parser.add_argument, positive(int), positive(float)
    text = "encode: encoders; transcribe: from waveform to text (default: encode)"
    add("--task", choices=["encode", "transcribe"], default="encode", help=text)
    text = "device to run on (default: cpu)"
    add("--device", choices=["cpu", "cuda"], default="cpu", help=text)
    text = "lengths of audio in seconds (default: 5 15 30 60 120; with --runtime, to "
    text += "60; to transcribe: 15)"
    add("--seconds", type=number, nargs="+", help=text)
    text = "utterances in a batch (default: 1; to transcribe, 1 and 16)"
    add("--batch", type=count, help=text)
    text = "layers per group of our encoders; 1 is no reuse (default: 1 2 3 4; with "
    text += "--runtime, 4)"
    add("--group_size", type=count, nargs="+", help=text)
    text = "infer: forward; train: forward and backward (default: infer)"
    add("--mode", choices=["infer", "train"], default="infer", help=text)
    text = (
        "data type; bfloat16 is by autocast, without beams, and in a serving runtime "
    )
    text += "of OpenVINO alone (default: float32)"
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help=text)
    text = "forms to measure encoders in, any of %(choices)s; eager is always measured "
    text += "(default: eager; on cuda all that the mode has)"
    choices = ["eager", "compiled", "captured"]
    add("--forms", choices=choices, nargs="+", metavar="FORM", help=text)
    text = "encoders to measure beside ESPnet's, by their names in the tables; with "
    text += "limit, also fewer layers (default: all)"
    add("--only", nargs="+", metavar="NAME", help=text)
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
    text = "where to compute: any of %(choices)s; the last two take exported files "
    text += "(default: pytorch; with --exported: onnxruntime)"
    runtimes = {"choices": RUNTIMES, "nargs": "+", "metavar": "RUNTIME"}
    add("--runtime", **runtimes, help=text)
    text = "trained models to transcribe with: names, and files of their parameters"
    models = {"type": named_file, "nargs": "+", "metavar": "NAME=FILE"}
    add("--models", **models, help=text)
    text = "data that --models transcribe, such as dump/raw/test"
    add("--data_dir", type=Path, help=text)
    text = "how many utterances of --data_dir, from the first (default: 32)"
    add("--num_utts", type=count, default=32, help=text)
    text = "decoding YAML (default: ESPnet's values, with ctc_weight 1.0)"
    add("--inference_config", type=existing_file, help=text)
    text = "rounds in which --task transcribe times all (default: 9)"
    add("--rounds", type=count, default=9, help=text)
    parser.add_model(required=False)
    text = "CPU threads (default: PyTorch's number; to transcribe: 1)"
    add("--threads", type=thread_count, help=text)
    text = "least time to measure each encoder at each length, in seconds (default: 10)"
    add("--min_time", type=number, default=10.0, help=text)
    text = "folder to write (default: exp/benchmark)"
    add("--output", type=Path, default=Path("exp/benchmark"), help=text)
    return parser


def named_file(text: str) -> tuple[str, Path]:
    """Read NAME=FILE from the command line."""
    name, _, file = text.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(f"'{text}' must be NAME=FILE")
    return name, existing_file(file)


def run(args: argparse.Namespace) -> int:
    """Do what is asked for; return the exit status.

    Raises:
        UserError: An encoder or file cannot be built, read or measured.
    """
    # after the command line has been read, for these take seconds
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("argument --device: PyTorch finds no GPU; use --device cpu")
    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    if args.exported:
        return time_files(args)
    if args.runtime:
        return run_runtimes(args)
    return {"encode": run_encoders, "transcribe": run_decoding}[args.task](args)


def read_encoders(args: argparse.Namespace) -> list:
    """Return the EncoderConfig of each encoder that is asked for."""
    from espnet_reuse.benchmark import peers

    if args.config:
        with named("--config"):
            return [peers.read_config(args.config)]
    return [peers.make_config(name) for name in dict.fromkeys(args.encoders)]


def read_group_sizes(config, args: argparse.Namespace) -> list[int]:
    """Return the sizes of groups that an encoder is measured with."""
    num_blocks = config.conf["num_blocks"]
    group_sizes = sorted(set(args.group_size or range(1, min(4, num_blocks) + 1)))
    if group_sizes[-1] > num_blocks:
        raise UserError(
            f"argument --group_size: {group_sizes[-1]} is more than {num_blocks} layers"
        )
    return group_sizes


def read_frontend(args: argparse.Namespace) -> dict:
    """Return the arguments of the frontend: of --config, or for 100 frames a second."""
    from espnet_reuse.pretrained import read_config

    if args.config:
        return read_config(args.config).get("frontend_conf") or {}
    return {"hop_length": 160}


def begin(output: Path, settings: dict, args: argparse.Namespace) -> dict:
    """Write benchmark.json without measurements, and return what is in it."""
    from espnet_reuse.provenance import describe_run

    benchmark = {
        "finished": False,
        "run": describe_run(args.threads, shlex.join(sys.orig_argv)),
        "settings": settings,
        "measurements": [],
    }
    with named("--output"):
        output.mkdir(parents=True, exist_ok=True)
        write_json(benchmark, output / "benchmark.json")
    return benchmark


def run_encoders(args: argparse.Namespace) -> int:
    """Measure encoders; return 1 if one failed for more than lack of memory."""
    from espnet_reuse.benchmark import compare, peers, report

    configs = read_encoders(args)
    info, benchmarks = compare.logger.info, []
    for config in configs:  # before any is measured
        listed = peers.list_peers(config, read_group_sizes(config, args))
        choose_peers(listed, args.only)
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


def choose_forms(args: argparse.Namespace) -> list[str]:
    """Return the forms that encoders are measured in, eager first."""
    forms = args.forms or ["eager"]
    if args.device == "cuda" and not args.forms:
        forms = ["compiled"] + ["captured"] * (args.mode == "infer")
    return list(dict.fromkeys(["eager", *forms]))


def choose_peers(listed: list, names: list[str] | None) -> list:
    """Return the baseline, the first, and the encoders of these names: None is all."""
    if names is None:
        return listed
    known = [peer.name for peer in listed]
    if unknown := ", ".join(f"'{name}'" for name in names if name not in known):
        raise UserError(f"argument --only: {unknown}; choose from {known}")
    return listed[:1] + [peer for peer in listed[1:] if peer.name in names]


def run_encoder(config, output: Path, args: argparse.Namespace) -> dict:
    """Check the arguments for an encoder, measure it, and report after each length."""
    from espnet_reuse.benchmark import compare, measure, peers, report

    group_sizes, input_size = read_group_sizes(config, args), config.conf["input_size"]
    listed = choose_peers(peers.list_peers(config, group_sizes), args.only)
    encoders = peers.build_encoders(listed)
    names = ("device", "mode", "dtype", "batch", "min_time")
    options = {name: getattr(args, name) for name in names}
    settings = measure.Settings(config, **options)
    lengths = sorted(set(args.seconds))
    frames = settings.frames_of(lengths[0])
    left = peers.count_output_frames(encoders[peers.ESPNET], input_size, frames)
    # normalisation over the batch needs two frames to train on
    needed = 2 if args.mode == "train" and args.batch == 1 else 1
    if left < needed:
        raise UserError(
            f"argument --seconds: {lengths[0]:g} s are {frames} frames, and {left} "
            f"after subsampling; at least {needed} must be left"
        )
    forms = choose_forms(args)
    described = {
        "forms": forms,
        "seconds": lengths,
        "group_size": group_sizes,
        "encoder": config.encoder,
        "config": str(args.config or "standard sizes"),
        "input_size": input_size,
        "frames_per_second": config.frames_per_second,
        "encoder_conf": config.conf,
    }
    benchmark = begin(output, options | described, args)
    encoders = {name: e.to(args.device) for name, e in encoders.items()}
    for seconds in lengths:
        measured = compare.compare_at(seconds, listed, encoders, settings, forms)
        benchmark["measurements"] += measured
        benchmark["finished"] = seconds == lengths[-1]
        report.write_reports(benchmark, output)
    return benchmark


def run_decoding(args: argparse.Namespace) -> int:
    """Time models from waveform to text, and report after each length."""
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
        TooShortUttError,
    )

    from espnet_reuse.benchmark import decoding, recognizers, report

    batches = [args.batch] if args.batch else [1, 16]
    prepare, source = make_untrained, "--seconds"
    if args.models:
        prepare, source = open_trained, "--data_dir"
    timed, waveforms, settings = prepare(args, batches)
    names = ("task", "device", "dtype", "rounds")
    settings |= {name: getattr(args, name) for name in names} | {"batch": batches}
    benchmark, rate = begin(args.output, settings, args), recognizers.rate_of(timed)
    for speeches in waveforms:
        audio = sum(map(len, speeches)) / rate
        decoding.logger.info(f"{len(speeches)} utterances, {audio:.1f} s of audio")
        try:
            rows = decoding.time_turns(timed, speeches, args.rounds)
        except (TooShortUttError, RuntimeError) as error:
            failed = "ESPnet cannot decode these utterances"
            raise UserError(f"argument {source}: {failed}: {one_line(error)}") from None
        measured = report.summarise_decoding(rows, len(speeches), audio)
        benchmark["measurements"] += measured
        benchmark["finished"] = speeches is waveforms[-1]
        write_json(benchmark, args.output / "benchmark.json")
        write_text(report.format_markdown(benchmark), args.output / "benchmark.md")
    decoding.logger.info(f"wrote {args.output}/benchmark.json and .md")
    print(report.format_markdown(benchmark), end="")
    return 0


def open_trained(args: argparse.Namespace, batches: list[int]) -> tuple:
    """Return recognizers of trained models, waveforms in a list, and settings."""
    from espnet_reuse.benchmark import recognizers
    from espnet_reuse.pretrained import read_search

    with named("--inference_config"):
        # a model without a decoder needs it, and best path is CTC alone, too
        search = read_search(args.inference_config, ctc_weight=1.0)
    files = dict(args.models)
    with named("--models"):
        if len(files) < len(args.models):
            raise UserError("give each model a name of its own")
        options = batches, args.dtype, args.device
        timed = recognizers.open_trained(files, search, *options)
        rate = recognizers.rate_of(timed)
    with named("--data_dir"):
        speeches = recognizers.read_speeches(args.data_dir, args.num_utts, rate)
    settings = {
        "models": {name: str(file) for name, file in files.items()},
        "data_dir": str(args.data_dir),
        "inference_config": str(args.inference_config or "ESPnet's values"),
        **{name: search[name] for name in ("beam_size", "ctc_weight")},
    }
    return timed, [speeches], settings


def make_untrained(args: argparse.Namespace, batches: list[int]) -> tuple:
    """Return recognizers of random weights, noise of each length, and settings."""
    from espnet_reuse.benchmark import peers, recognizers

    (config,) = read_encoders(args)
    group_sizes = read_group_sizes(config, args)
    listed = [peers.baseline_of(config), *peers.list_ours(config, group_sizes)]
    frontend_conf = read_frontend(args)
    options = batches, args.dtype, args.device
    timed = recognizers.make_untrained(listed, frontend_conf, *options)
    rate, lengths = recognizers.rate_of(timed), sorted(set(args.seconds))
    noise = [recognizers.make_noise(s, max(batches), rate) for s in lengths]
    settings = {
        "seconds": lengths,
        "tokens": recognizers.TOKENS,
        "group_size": group_sizes,
        "encoder": config.encoder,
        "config": str(args.config or "standard sizes"),
        "encoder_conf": config.conf,
    }
    return timed, noise, settings


def run_runtimes(args: argparse.Namespace) -> int:
    """Time encoders from waveform to CTC in runtimes, and report after each length."""
    for package in ("onnx", "onnxscript", *args.runtime):
        importlib.import_module("torch" if package == "pytorch" else package)
    from espnet_reuse.benchmark import recognizers, report, runtimes

    config, *others = read_encoders(args)
    if others:
        raise UserError("argument --encoders: name one of them with --runtime")
    args.group_size = args.group_size or [min(4, config.conf["num_blocks"])]
    group_sizes = [size for size in read_group_sizes(config, args) if size > 1]
    listed, lengths = (
        runtimes.list_encoders(config, group_sizes),
        sorted(set(args.seconds)),
    )
    models = runtimes.make_models(listed, read_frontend(args), "float32")
    with named("--seconds"):
        runtimes.in_pytorch(models, "float32")[0].run_once(lengths[0])
    serving = [runtime for runtime in args.runtime if runtime != "pytorch"]
    settings = {
        "runtime": args.runtime,
        "seconds": lengths,
        "dtype": args.dtype,
        "min_time": args.min_time,
        "tokens": recognizers.TOKENS,
        "group_size": group_sizes,
        "encoder": config.encoder,
        "config": str(args.config or "standard sizes"),
        "encoder_conf": config.conf,
        **{runtime: importlib.metadata.version(runtime) for runtime in serving},
    }
    benchmark, rows = begin(args.output, settings, args), []
    forms = open_forms(models, listed, serving, args)
    for seconds in lengths:
        runtimes.logger.info(f"{seconds:g} s of audio")
        rows += runtimes.time_forms(forms, seconds, args.min_time)
        benchmark["measurements"] = report.summarise_runtimes(rows)
        benchmark["finished"] = seconds == lengths[-1]
        write_json(benchmark, args.output / "benchmark.json")
        write_text(report.format_markdown(benchmark), args.output / "benchmark.md")
    runtimes.logger.info(f"wrote {args.output}/benchmark.json and .md")
    print(report.format_markdown(benchmark), end="")
    return 0


def open_forms(models: dict, listed: list, serving: list[str], args) -> list:
    """Return all that --runtime times: models in PyTorch, and as files in runtimes."""
    from espnet_reuse.benchmark import runtimes

    forms = []
    if "pytorch" in args.runtime:
        forms = runtimes.in_pytorch(models, "float32")
        if args.dtype != "float32":
            frontend_conf = read_frontend(args)
            quicker = runtimes.make_models(listed, frontend_conf, args.dtype)
            forms = [forms[0], *runtimes.in_pytorch(quicker, args.dtype)]
    with tempfile.TemporaryDirectory() as folder:
        files = runtimes.export_encoders(models, Path(folder)) if serving else {}
        for runtime, (name, path) in itertools.product(serving, files.items()):
            how = runtime, args.threads, args.dtype
            forms.append(runtimes.open_file(path, *how, name=name))
    return forms


def time_files(args: argparse.Namespace) -> int:
    """Time exported files, and beside them their model, and print the times."""
    from espnet_reuse.benchmark import runtimes
    from espnet_reuse.pretrained import load_model

    serving = [r for r in args.runtime or ["onnxruntime"] if r != "pytorch"]
    rates, forms = runtimes.DEFAULT_RATES, []
    if args.asr_model_file:
        model, config = load_model(args.asr_train_config, args.asr_model_file)
        rates = runtimes.rates_of(model, config)
    with named("--exported"):
        for path in args.exported:
            # PyTorch alone opens .pt2 files, and no others
            opened_in = ["pytorch"] if path.suffix == ".pt2" else serving
            if not opened_in:
                raise UserError(f"{path} needs --runtime onnxruntime or openvino")
            for runtime in opened_in:
                how = runtime, args.threads, args.dtype, rates
                forms.append(runtimes.open_file(path, *how))
    if args.asr_model_file:
        forms.append(runtimes.beside(forms[0], model, config, args.dtype))
    for seconds in args.seconds:
        rows = runtimes.time_forms(forms, seconds, args.min_time)
        medians = [statistics.median(row["times_ms"]) for row in rows]
        for row, ms in zip(rows, medians, strict=True):
            ratio = f"{medians[0] / ms:.2f} times as fast as the first"
            form = "{encoder} ({runtime}, {dtype})".format(**row)
            print(f"{seconds:g} s of audio: {ms:.1f} ms, {ratio}: {form}")
    return 0


def check_options(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse options without effect, and complete those that depend on the task."""
    if (args.asr_train_config is None) != (args.asr_model_file is None):
        parser.error("name the model with both --asr_train_config and --asr_model_file")
    asked = [f"with --task {args.task}"]
    if args.task == "transcribe":
        asked.append("with --models" if args.models else "without --models")
    elif args.exported:
        asked.append("with --exported")
    elif args.runtime:
        asked.append("with --runtime")
    for how in asked:
        for name in IGNORED[how]:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"argument --{name}: it has no effect {how}")
    if args.asr_model_file and not args.exported:
        parser.error("argument --asr_model_file: it needs --exported FILE")
    if args.models and not args.data_dir:
        parser.error("argument --models: it needs --data_dir, such as dump/raw/test")
    can_capture = (args.device, args.mode) == ("cuda", "infer")
    if "captured" in (args.forms or ()) and not can_capture:
        parser.error("argument --forms: captured needs --device cuda and --mode infer")
    kind = "runtime" if args.runtime and not args.exported else args.task
    for name, value in DEFAULTS[kind].items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def main(argv=None):
    """Run the command; an interruption leaves what was measured."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_options(parser, args)
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
