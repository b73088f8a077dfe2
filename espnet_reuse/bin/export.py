# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Export a trained ESPnet ASR model to one file of ONNX or of torch.export (.pt2).

The file takes waveforms (batch, samples) at the model's sampling rate and their lengths
(batch,), or with --with_frontend false the features that the model's frontend makes. It
gives the encoder's output (batch, frames', size) and its lengths (batch,), and with
--with_ctc the CTC head's log-probabilities, or the tokens of its best path with their
times. A batch can have any size and lengths. Decoder and language model are not in it.
ONNX files carry what else is needed for a text, such as the tokens, as metadata. The
command compares the file with the model, on inputs of other sizes than the graph was
made with, before the file gets its name.

Options:
    --format  format of the file
    --output  file to write (default: the model's name, with the format's suffix)
    --with_frontend  take waveforms, true or false (default: true, for models that take
        audio)
    --with_ctc  true: log-probabilities (batch, frames', tokens) as a third output;
        best_path: tokens (batch, frames'), their number (batch,), and their start and
        end in seconds (batch, frames', 2) (default: false)
    --opset  version of ONNX's operators (default: PyTorch's choice)
    --int8  write a second file, NAME.int8.onnx, with int8 weights, for a runtime:
        onnxruntime or openvino; say how often its best path is another one than
        float32's, in this runtime, on --int8_audio
    --int8_audio  audio files, such as those of a development set
"""

import argparse
import importlib
import logging
from pathlib import Path

import soundfile
from espnet2.utils.types import str2bool

from espnet_reuse.bin.parser import REQUIRED, Parser, existing_file, named, positive
from espnet_reuse.bin.transcribe import check_files, note_conversions, read_audio
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import written_whole

# {name: (type or choices, default)}
OPTIONS = {
    "format": (["onnx", "pt2"], REQUIRED),
    "output": (Path, None),
    "with_frontend": (str2bool, None),
    "with_ctc": (["false", "true", "best_path"], "false"),
    "opset": (positive(int), None),
    "int8": (["onnxruntime", "openvino"], None),
    "int8_audio": ([existing_file], None),
}


def run(parser: Parser, argv: list[str] | None) -> None:
    """Export the encoder; the file gets its name once it equals the model.

    Raises:
        UserError: The model cannot be loaded or exported.
    """
    args = parser.parse_args(argv)
    suffix = f".{args.format}"
    output = args.output or args.asr_model_file.with_suffix(suffix)
    if output.suffix != suffix or output.is_dir():
        parser.error(f"argument --output: '{output}' must be a file name in {suffix}")
    if args.int8 or args.int8_audio:
        check_int8(parser, args)
    if args.format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            importlib.import_module(package)
    with named("--output"):
        output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output) as partial:
        # after the command line has been read, for these take seconds
        from espnet_reuse import export
        from espnet_reuse.pretrained import load_model

        model, config = load_model(args.asr_train_config, args.asr_model_file)
        with_frontend = args.with_frontend
        if with_frontend is None:
            with_frontend = model.frontend is not None
        if args.int8 and not with_frontend:
            raise UserError("argument --int8: needs a model that takes audio")
        served = export.ServedModel(model, config, with_frontend, args.with_ctc)
        export.export_model(served, partial, args.opset)
        difference = export.largest_difference(served, export.open_exported(partial))
        if not difference <= export.TOLERANCE:  # NaN is no success
            raise UserError(
                f"the exported graph differs from the model by {difference:.1e}, more "
                f"than {export.TOLERANCE:g}, and was not written; try the other format"
            )
        about = export.versions_of(partial)
    if args.format == "onnx":
        export.write_tokens(config, output)
    print(
        f"Written: {output} ({about}): {', '.join(served.input_names)} -> "
        f"{', '.join(served.output_names)}; largest difference from the model "
        f"{difference:.1e}"
    )
    if args.int8:
        write_int8(output, args.int8, args.int8_audio)


def check_int8(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse what does not go with int8, before anything is loaded.

    Raises:
        UserError: A file is no audio, or the runtime is not installed.
    """
    for option in ("int8", "int8_audio"):
        if not vars(args)[option]:
            parser.error("arguments --int8 and --int8_audio: each needs the other")
    if args.format != "onnx":
        parser.error("argument --int8: needs --format onnx")
    if args.with_ctc == "false":
        parser.error(
            "argument --int8: best paths need the CTC head: --with_ctc true or "
            "best_path"
        )
    if args.int8 == "openvino":
        try:
            importlib.import_module("openvino")
        except ModuleNotFoundError:
            raise UserError("no openvino here: pip install openvino") from None
    with named("--int8_audio"):
        check_files(args.int8_audio)


def write_int8(path: Path, runtime: str, audio: list[Path]) -> None:
    """Write the file with int8 weights beside another, and say what differs."""
    from espnet_reuse.quantize import count_changes, quantize
    from espnet_reuse.serving import ExportedModel

    output = path.with_suffix(".int8.onnx")
    with written_whole(output) as partial:
        quantize(path, partial, runtime)
        models = [ExportedModel(file, runtime) for file in (path, partial)]
        rate = models[0].sample_rate
        note_conversions([soundfile.info(file) for file in audio], rate)
        with named("--int8_audio"):
            changes = count_changes(*models, (read_audio(x, rate) for x in audio))
    print(f"Written: {output} (int8, for {runtime}): {changes}")


def main(argv=None):
    """Run the command; an interrupted one leaves nothing."""
    parser = Parser("espnet_reuse.bin.export", __doc__)
    parser.add_model()
    parser.add_options(OPTIONS)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with reported_errors(parser.prog, extra="export"):
        run(parser, argv)


if __name__ == "__main__":
    main()
