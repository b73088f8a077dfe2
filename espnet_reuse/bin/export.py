# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Export the encoder of a trained ESPnet ASR model, to torch.export's .pt2 or to ONNX.

The graph takes features (batch, frames, size), as the model's frontend makes them and
before normalisation, and their lengths (batch,). It holds the normalisation and the
encoder, and gives the encoder's output (batch, frames', size) and its lengths (batch,).
Batch and frames are dynamic. The frontend, the decoder and the search are not in it.
The file is compared with the model, at other sizes than it was made with, before it
gets its name.
"""

import argparse
import importlib
import logging
from pathlib import Path

from espnet_reuse.bin.parser import Parser, positive


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="espnet_reuse.bin.export", description=__doc__)
    add = parser.add_argument
    parser.add_model()
    add("--format", choices=["onnx", "pt2"], required=True, help="what to write")
    add(
        "--output",
        type=Path,
        help="file to write (default: the model's, with the format's suffix)",
    )
    add(
        "--with_ctc",
        choices=["true", "false"],
        default="false",
        help="add the CTC head's log-probabilities (batch, frames', tokens) as a third "
        "output (default: false)",
    )
    add(
        "--time",
        type=positive(float),
        nargs="+",
        metavar="SECONDS",
        help="time the file beside the model on the CPU, on so much audio",
    )
    add(
        "--compare_to",
        type=Path,
        metavar="FILE",
        help="with --time: another exported file, such as the baseline's, beside",
    )
    add("--threads", type=positive(int), help="CPU threads (default: PyTorch's)")
    add(
        "--min_time",
        type=positive(float),
        default=5.0,
        help="with --time: seconds that each is measured at each length (default: 5)",
    )
    return parser


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check the arguments, export, compare and time."""
    for option in ("asr_train_config", "asr_model_file", "compare_to"):
        path = getattr(args, option)
        if path is not None and not path.is_file():
            parser.error(f"argument --{option}: there is no file '{path}'")
    suffix = "." + args.format
    output = args.output or args.asr_model_file.with_suffix(suffix)
    compared = args.compare_to.suffix if args.compare_to else suffix
    if output.suffix != suffix:
        parser.error(f"argument --output: '{output}' must end in {suffix}")
    if compared not in (".onnx", ".pt2"):
        parser.error(f"argument --compare_to: '{args.compare_to}' is no .onnx or .pt2")
    if args.compare_to and not args.time:
        parser.error("argument --compare_to: add --time, such as --time 5 15 30")
    if ".onnx" in (suffix, compared):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            importlib.import_module(package)
    partial = output.with_name(f"{output.stem}.partial{suffix}")
    try:
        if output.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        partial.touch()
    except OSError as error:
        parser.error(
            f"argument --output: cannot write {output}: {error.strerror}; name a file "
            "in a folder that can be written"
        )
    # after the command line has been read, for these take seconds
    from espnet_reuse.export import ExportError
    from espnet_reuse.pretrained import PretrainedError

    try:
        export(args, partial, output)
    except (ExportError, PretrainedError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"argument --output: cannot write {output}: {error.strerror}")
    finally:
        partial.unlink(missing_ok=True)


def export(args: argparse.Namespace, partial: Path, output: Path) -> None:
    """Write `output` by way of `partial`, and time it.

    Raises:
        PretrainedError: The model cannot be loaded.
        ExportError: It cannot be exported, or a file cannot be timed.
    """
    import torch

    import espnet_reuse.export as library
    from espnet_reuse.pretrained import load_model

    if args.threads:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    model, config = load_model(args.asr_train_config, args.asr_model_file)
    served = library.ServedEncoder(model, args.with_ctc == "true")
    size = library.feature_size(model, config)
    runners = {"model in PyTorch": served}
    if args.compare_to:
        runners[str(args.compare_to)] = library.open_compared(
            args.compare_to, threads, size
        )
    library.export_encoder(served, size, partial)
    exported = library.open_exported(partial, threads)
    difference = library.largest_difference(served, exported, size)
    if not difference <= library.TOLERANCE:
        raise library.ExportError(
            f"--format: what was exported differs from the model by {difference:.1e}, "
            f"more than {library.TOLERANCE:g}: it is not written; try the other format"
        )
    partial.replace(output)
    print(
        f"Written: {output}: {', '.join(library.INPUTS)} -> "
        f"{', '.join(served.output_names)}; feature size {size}; largest difference "
        f"from the model {difference:.1e}"
    )
    for seconds in args.time or ():
        frames = library.frames_of(model, config, seconds)
        medians = library.time_runners(
            {str(output): exported} | runners,
            library.make_features((frames,), size),
            threads,
            args.min_time,
        )
        mine = medians[str(output)]
        for name, median in medians.items():
            print(
                f"{seconds:g} s of audio: {median:.1f} ms, x{median / mine:.2f}: {name}"
            )


def main(argv=None):
    """Run the command; an interrupted one leaves nothing."""
    parser = get_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        run(args, parser)
    except ModuleNotFoundError as error:
        parser.error(f"no {error.name} here: pip install 'espnet-reuse[export]'")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; nothing is written\n")


if __name__ == "__main__":
    main()
