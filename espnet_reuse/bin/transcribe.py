# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Print the text of audio files, recognised by a trained ESPnet model or its export.

Prints a line "id text" for each file; the id is the file's name without its suffix.
Audio with another sampling rate than the model's is resampled. Of several channels, the
first is taken.

With a trained model, --asr_train_config and --asr_model_file: ESPnet's own search finds
the text, or the best path of CTC, which takes recordings of any length: for models with
CTC alone, and where the inference config has `search: best_path`. Run it in the folder
of the model's recipe, where the paths in its config start.

With an exported file, a FILE.onnx of `espnet-reuse export` before the audio: the best
path of CTC finds the text, without PyTorch and ESPnet.

Options:
    --inference_config  with a trained model: decoding YAML, such as a recipe's
        conf/decode_asr.yaml; it may also name a language model: lm_train_config and
        lm_file (default: ESPnet's values)
    --ngpu  with a trained model: number of GPUs, 0 or 1 (default: 0)
    --runtime  with an exported file: onnxruntime or openvino (default: onnxruntime, or
        openvino where only that is installed)
    --threads  with an exported file: CPU threads (default: the runtime's choice)
    --dtype  with an exported file: float32, or bfloat16 in OpenVINO on a CPU that has
        it (default: float32)
    --batch_seconds  with an exported file: seconds of padded audio in a batch; a
        longer file is decoded alone, and a long recording in windows (default: 16)
    --ctm  with an exported file: print a CTM, the time and length of each word in
        seconds, instead of the text; true or false (default: false)
"""

import argparse
import contextlib
import functools
import importlib
import itertools
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import soundfile

from espnet_reuse.best_path import BATCH_SECONDS
from espnet_reuse.bin.parser import Parser, existing_file, named, positive, thread_count
from espnet_reuse.data.audio import check_audio
from espnet_reuse.errors import UserError, one_line, reported_errors
from espnet_reuse.serving import DTYPES, RUNTIMES, ExportedModel

# {name: (type or choices, default)}; None tells that an option is not given
TRAINED = {"inference_config": (existing_file, None), "ngpu": (["0", "1"], None)}
EXPORTED = {
    "runtime": (list(RUNTIMES), None),
    "threads": (thread_count, None),
    "dtype": (list(DTYPES), None),
    "batch_seconds": (positive(float), None),
    "ctm": (["true", "false"], None),
}
LONG = 26.0  # seconds: what `iter_long` decodes as one window
READ_AHEAD = 10  # batches of files that are read before the first is decoded


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
    files = {x: vars(args)[x] for x in ("asr_train_config", "asr_model_file")}
    with named("--inference_config"):
        options = read_search(args.inference_config, search=default) | files
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
    speech, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
    if own_rate == rate:
        return speech[:, 0]
    import soxr  # needed by nothing else

    return soxr.resample(speech[:, 0], own_rate, rate)


def check_files(files: Sequence[Path]) -> list:
    """Return what soundfile says of audio files.

    Raises:
        UserError: Files are damaged, empty or no audio.
    """
    checked = ((path, check_audio(path, decoded=True)) for path in files)
    if problems := [f"{path} {problem}" for path, problem in checked if problem]:
        raise UserError("\n".join(problems))
    return [soundfile.info(path) for path in files]


def note_conversions(infos: list, rate: int) -> bool:
    """Say once what is done to audio of other rates, or of several channels.

    Returns whether any is resampled.
    """
    others = sorted({info.samplerate for info in infos} - {rate})
    for other in others:
        logging.warning(f"audio of {other} Hz is resampled to the model's {rate} Hz")
    if any(info.channels > 1 for info in infos):
        logging.warning("of audio with several channels, the first is used")
    return bool(others)


def run_trained(args: argparse.Namespace) -> None:
    """Print a line for each file, by a trained model.

    Raises:
        UserError: A file, the model or an option of the search is wrong.
    """
    # after the command line has been read, for these take seconds
    import humanfriendly
    from espnet2.bin.asr_inference import TooShortUttError

    from espnet_reuse.pretrained import read_trained

    infos = check_files(args.files)
    # it says in a line what is wrong with the model
    config = read_trained(args.asr_train_config, args.asr_model_file).config
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    rate = humanfriendly.parse_size(str(rate))
    speech2text = make_search(args, config)
    note_conversions(infos, rate)
    for path, info in zip(args.files, infos, strict=True):
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


def group_files(
    files: Sequence[Path], seconds: Sequence[float], most: float
) -> Iterator[tuple[list[Path], bool]]:
    """Yield files in their order: short ones to be read together, or a long one alone.

    Args:
        files: Audio files.
        seconds: The length of each.
        most: Seconds that are read together.

    Yields:
        Files, and whether it is a long one, to be decoded in windows.
    """
    group, total = [], 0.0
    for path, length in zip(files, seconds, strict=True):
        if length > LONG or total + length > most:
            if group:
                yield group, False
            group, total = [], 0.0
        if length > LONG:
            yield [path], True
        else:
            group.append(path)
            total += length
    if group:
        yield group, False


def decode_files(
    model: ExportedModel, files: list[Path], is_long: bool, batch_seconds: float, ctm
) -> Iterator[Iterable[tuple[float, float, str]]]:
    """Yield the pieces (start, end, text) of each file: for a CTM, its words.

    Args:
        model: It decodes them.
        files: Audio files, one or several as `group_files` yields them.
        is_long: Whether to decode in windows.
        batch_seconds: Seconds of padded audio in a batch.
        ctm: Whether the words are asked for.
    """
    if is_long:
        yield from map(model.iter_words if ctm else model.iter_long, files)
        return
    speeches = [read_audio(path, model.sample_rate) for path in files]
    names = [path.stem for path in files]
    for result in model.best_path_batch(speeches, batch_seconds, names):
        if ctm:
            yield model.word_times(result.token, result.times)
        else:
            yield [(0.0, 0.0, result.text.strip())]


def run_exported(args: argparse.Namespace) -> None:
    """Print a line for each file, or for each word, by an exported file.

    Raises:
        UserError: A file is wrong, or the dtype is not for this runtime or CPU.
    """
    exported, *files = args.files
    dtype = args.dtype or "float32"
    model = ExportedModel(exported, args.runtime, args.threads, dtype)
    infos = check_files(files)
    if note_conversions(infos, model.sample_rate):
        importlib.import_module("soxr")
    seconds = [info.duration for info in infos]
    ends = itertools.accumulate(seconds)
    batch_seconds = args.batch_seconds or BATCH_SECONDS["cpu"]
    ctm, done = args.ctm == "true", 0.0
    with progress_bar(sum(seconds)) as (write, advance):
        for group, is_long in group_files(files, seconds, READ_AHEAD * batch_seconds):
            decoded = decode_files(model, group, is_long, batch_seconds, ctm)
            for path, pieces in zip(group, decoded, strict=True):
                texts = []
                for start, end, text in pieces:
                    if ctm:
                        write(f"{path.stem} 1 {start:.3f} {end - start:.3f} {text}")
                    texts.append(text)
                    advance(done + end)
                if not ctm:
                    write(f"{path.stem} {' '.join(texts)}")
                done = next(ends)
                advance(done)


@contextlib.contextmanager
def progress_bar(seconds: float):
    """Show a bar on a terminal, if tqdm is here.

    Args:
        seconds: Audio in all.

    Yields:
        A function that prints a line, and one that is told how many seconds are done.
    """
    try:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm
    except ModuleNotFoundError:
        yield functools.partial(print, flush=True), lambda done: None
        return
    how = {"unit": "s", "leave": False, "disable": None}
    with tqdm(total=round(seconds), **how) as bar, logging_redirect_tqdm():

        def write(line):
            bar.write(line)
            sys.stdout.flush()

        yield write, lambda done: bar.update(int(done) - bar.n)


def parse_args(argv: Sequence[str] | None) -> tuple[Parser, argparse.Namespace]:
    """Return the parser and the options, which are those of the way chosen."""
    parser = Parser("espnet_reuse.bin.transcribe", __doc__)
    parser.add_model(required=False)
    parser.add_options(TRAINED | EXPORTED)
    text = (
        "audio that libsndfile reads: WAV, FLAC, Ogg, MP3 and others; in front of it "
    )
    files = {"type": existing_file, "nargs": "+", "metavar": "FILE"}
    parser.add_argument("files", **files, help=text + "an exported FILE.onnx, if any")
    args = parser.parse_intermixed_args(argv)
    model = "asr_train_config", "asr_model_file"
    args.is_exported = args.files[0].suffix == ".onnx"
    if args.is_exported:
        wrong, way = [*model, *TRAINED], "an exported file"
    else:
        wrong, way = EXPORTED, "a trained model"
        if missing := [f"--{name}" for name in model if not vars(args)[name]]:
            parser.error(
                f"the following arguments are required: {', '.join(missing)}, or an "
                "exported FILE.onnx in front of the audio"
            )
    if given := [f"--{name}" for name in wrong if vars(args)[name] is not None]:
        parser.error(f"argument {given[0]}: not allowed with {way}")
    if args.is_exported and len(args.files) == 1:
        parser.error(f"there is no audio after {args.files[0]}")
    return parser, args


def main(argv=None):
    """Run the command; an interrupted one has printed some lines."""
    parser, args = parse_args(argv)
    logging.basicConfig(format="%(message)s")
    with reported_errors(parser.prog, "the other files have no text"):
        try:
            (run_exported if args.is_exported else run_trained)(args)
        except ModuleNotFoundError as error:
            package = error.name if args.is_exported else "espnet-reuse"
            message = f"no {error.name} here: pip install {package}"
            raise UserError(message) from error


if __name__ == "__main__":
    main()
