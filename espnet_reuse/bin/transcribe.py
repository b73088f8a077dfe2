# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Print the text of audio files, recognised by a trained ESPnet ASR model.

Prints a line "id text" for each file; the id is the file's name without its suffix.
Audio with another sampling rate than the model's is resampled. Of several channels, the
first is taken. ESPnet's own Speech2Text does the search.

Run it in the folder of the model's recipe, where the paths in its config start.

Options:
    --inference_config  decoding YAML, such as a recipe's conf/decode_asr.yaml; it may
        also name a language model: lm_train_config and lm_file (default: ESPnet's
        values)
    --ngpu  number of GPUs, 0 or 1 (default: 0)
"""

import argparse
import inspect
import logging
import re

import humanfriendly

from espnet_reuse.bin.parser import Parser, existing_file
from espnet_reuse.errors import UserError, one_line, reported_errors

# {name: (type or choices, default)}
OPTIONS = {"inference_config": (existing_file, None), "ngpu": (["0", "1"], "0")}


def make_search(parser: Parser, args: argparse.Namespace):
    """Return the Speech2Text that ESPnet's own asr_inference would make.

    Raises:
        UserError: An option of the search has a wrong value.
    """
    from espnet2.bin.asr_inference import Speech2Text, get_parser

    theirs = get_parser()
    theirs.error = lambda message: parser.error(f"--inference_config: {message}")
    words = ["--output_dir=", "--data_path_and_name_and_type=,,"]  # required, not used
    if args.inference_config:
        words += ["--config", str(args.inference_config)]
    try:
        options = vars(theirs.parse_args(words)) | vars(args)
        options["device"] = "cuda" if args.ngpu == "1" else "cpu"
        known = inspect.signature(Speech2Text).parameters.keys() & options
        return Speech2Text(**{name: options[name] for name in known})
    except Exception as error:  # whatever a wrong value makes ESPnet raise
        raise UserError(f"ESPnet's search: {one_line(error)}") from None


def run(parser: Parser, args: argparse.Namespace) -> None:
    """Print a line for each file.

    Raises:
        UserError: A file, the model or an option of the search is wrong.
    """
    # after the command line has been read, for these take seconds
    import resampy
    import soundfile
    from espnet2.bin.asr_inference import TooShortUttError

    from espnet_reuse.data.audio import check_audio
    from espnet_reuse.pretrained import read_trained
    from espnet_reuse.registry import warn_once

    checked = ((path, check_audio(path, decoded=True)) for path in args.files)
    if problems := [f"{path} {problem}" for path, problem in checked if problem]:
        raise UserError("\n".join(problems))
    # it says in a line what is wrong with the model
    config = read_trained(args.asr_train_config, args.asr_model_file).config
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    rate = humanfriendly.parse_size(str(rate))
    speech2text = make_search(parser, args)
    for path in args.files:
        utt_id = path.stem
        speech, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
        speech = speech[:, 0]
        if own_rate != rate:
            warn_once(f"audio of {own_rate} Hz is resampled to the model's {rate} Hz")
            speech = resampy.resample(speech, own_rate, rate)
        try:
            results = speech2text(speech)
            # of two, the second is what intermediate CTC recognises
            best = results[0] if isinstance(results, tuple) else results
            text = best[0][0] if best else ""
        except (TooShortUttError, RuntimeError) as error:
            if not re.search("too short|Padding size", str(error)):
                raise UserError(f"{path}: {one_line(error)}") from None
            logging.warning(f"{utt_id}: {len(speech) / rate:g} s is too short: no text")
            text = ""
        print(utt_id, text, flush=True)


def main(argv=None):
    """Run the command; an interrupted one has printed some lines."""
    parser = Parser("espnet_reuse.bin.transcribe", __doc__)
    parser.add_model()
    parser.add_options(OPTIONS)
    text = "audio that libsndfile reads: WAV, FLAC, Ogg, MP3 and others"
    files = {"type": existing_file, "nargs": "+", "metavar": "FILE"}
    parser.add_argument("files", **files, help=text)
    logging.basicConfig(format="%(message)s")
    with reported_errors(parser.prog, "the other files have no text"):
        run(parser, parser.parse_args(argv))


if __name__ == "__main__":
    main()
