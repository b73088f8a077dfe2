# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Export the encoder of a trained ESPnet ASR model to ONNX or to torch.export (.pt2).

The graph holds the normalisation and the encoder. Its inputs are the features that the
model's frontend makes (batch, frames, size), before normalisation, and their lengths
(batch,). Its outputs are the encoder's output (batch, frames', size) and its lengths
(batch,). A batch can have any size and any number of frames. The frontend, the decoder
and the search are not in the graph. The command compares the file with the model, on
inputs of other sizes than the graph was made with, before the file gets its name.

Options:
    --format  format of the file
    --output  file to write (default: the model's name, with the format's suffix)
    --with_ctc  add the CTC head's log-probabilities (batch, frames', tokens) as a third
        output (true or false, default: false)
"""

import importlib
import logging
from pathlib import Path

from espnet2.utils.types import str2bool

from espnet_reuse.bin.parser import REQUIRED, Parser, named
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import written_whole

# {name: (type or choices, default)}
OPTIONS = {
    "format": (["onnx", "pt2"], REQUIRED),
    "output": (Path, None),
    "with_ctc": (str2bool, False),
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
        served = export.ServedEncoder(model, args.with_ctc)
        size = export.feature_size(model, config)
        export.export_encoder(served, size, partial)
        exported, _ = export.open_exported(partial)
        difference = export.largest_difference(served, exported, size)
        if not difference <= export.TOLERANCE:  # NaN is no success
            raise UserError(
                f"the exported graph differs from the model by {difference:.1e}, more "
                f"than {export.TOLERANCE:g}, and was not written; try the other format"
            )
    print(
        f"Written: {output}: {', '.join(export.INPUTS)} -> "
        f"{', '.join(served.output_names)}; feature size {size}; largest difference "
        f"from the model {difference:.1e}"
    )


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
