# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Print the text of audio files, recognised by a trained ESPnet ASR model.

Prints a line "id text" for each file; the id is the file's name without its suffix.
Audio with another sampling rate than the model's is resampled. Of several channels, the
first is taken. ESPnet's own search finds the text, or the best path of CTC, which
takes recordings of any length: for models with CTC alone, and where the inference
config has `search: best_path`.

Run it in the folder of the model's recipe, where the paths in its config start.

Options:
    --inference_config  decoding YAML, such as a recipe's conf/decode_asr.yaml; it may
        also name a language model: lm_train_config and lm_file (default: ESPnet's
        values)
    --ngpu  number of GPUs, 0 or 1 (default: 0)
"""

import argparse
import logging
import re
from pathlib import Path

import humanfriendly

from espnet_reuse.bin.parser import Parser, existing_file, named
from espnet_reuse.errors import UserError, one_line, reported_errors

# {name: (type or choices, default)}
OPTIONS = {"inference_config": (existing_file, None), "ngpu": (["0", "1"], "0")}


def make_search(args: argparse.Namespace, config: dict):
    """Return ESPnet's Speech2Text of asr_inference, or ours for the best path.

    Args:
        args: The command line's options.
        config: The model's training config.

    Raises:
        UserError: An option of the search has a wrong value.
    """
    from espnet2.bin import asr_inference

    from espnet_reuse.bin import asr_inference_ctc
    from espnet_reuse.pretrained import read_search

    is_ctc = (config.get("model_conf") or {}).get("ctc_weight") == 1.0
    default = "best_path" if is_ctc and not args.inference_config else "beam"
    with named("--inference_config"):
        options = read_search(args.inference_config, search=default) | vars(args)
    best_path = options["search"] == "best_path"
    module = asr_inference_ctc if best_path else asr_inference
    options = asr_inference_ctc.constructor_options(options)
    try:
        device = "cuda" if args.ngpu == "1" else "cpu"
        return module.Speech2Text(**options, device=device)
    except Exception as error:  # whatever a wrong value makes ESPnet raise
        raise UserError(f"ESPnet's search: {one_line(error)}") from None


def read_audio(path: Path, rate: int):
    """Return the first channel of a file at a sampling rate, in float32."""
    import soundfile
    import soxr

    speech, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(speech[:, 0], own_rate, rate)


def run(args: argparse.Namespace) -> None:
    """Print a line for each file.

    Raises:
        UserError: A file, the model or an option of the search is wrong.
    """
    # after the command line has been read, for these take seconds
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
    speech2text = make_search(args, config)
    for path in args.files:
        info = soundfile.info(path)
        if info.samplerate != rate:
            note = (
                f"audio of {info.samplerate} Hz is resampled to the model's {rate} Hz"
            )
            warn_once(note)
        try:
            if hasattr(speech2text, "decode_long"):
                text = " ".join(text for *_, text in speech2text.decode_long(path))
            else:
                results = speech2text(read_audio(path, rate))
                # of two, the second is what intermediate CTC recognises
                best = results[0] if isinstance(results, tuple) else results
                text = best[0][0] if best else ""
        except (TooShortUttError, RuntimeError, ValueError) as error:
            is_short = isinstance(error, TooShortUttError)
            if not is_short and not re.search("too short|Padding size", str(error)):
                raise UserError(f"{path}: {one_line(error)}") from None
            logging.warning(f"{path.stem}: {info.duration:g} s is too short: no text")
            text = ""
        print(path.stem, text, flush=True)


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
        run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
