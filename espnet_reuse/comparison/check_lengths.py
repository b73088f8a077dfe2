# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Find utterances with more tokens than CTC can align to their frames.

Run it as `python3 -m espnet_reuse.run -m espnet_reuse.comparison.check_lengths`.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from espnet2.fileio.read_text import read_2columns_text
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.tasks.asr import ASRTask

from espnet_reuse.comparison.check_config import build, parse
from espnet_reuse.comparison.models import load
from espnet_reuse.data.data_dir import some

CONFIG = "logdir/stats.1/config.yaml"  # of the program that made the statistics


def count_frames(model: torch.nn.Module) -> Callable[[int], int] | None:
    """Return a function of samples that gives the frames after subsampling.

    None, if it is not known how the model makes frames.
    """
    hop = getattr(model.frontend, "hop_length", None)
    embed = getattr(model.encoder, "embed", None)
    if hop is None or embed is None:
        return None

    @functools.cache
    def subsample(frames: int) -> int:
        if isinstance(embed, torch.nn.Sequential):
            return frames
        features = torch.empty(1, frames, model.frontend.output_size(), device="meta")
        try:
            return embed(features, torch.ones(1, 1, frames, dtype=bool))[1].size(2)
        except (TooShortUttError, RuntimeError):  # shorter than a convolution
            return 0

    return lambda samples: subsample(samples // hop + 1)


def needed_frames(tokens: list[int]) -> int:
    """Return the fewest frames that CTC aligns tokens to.

    One for each, and one for the blank between equal neighbours (Graves et al. 2006).
    """
    return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))


def find_too_long(
    stats: Path, frames: Callable[[int], int]
) -> Iterator[tuple[str, int, list[str]]]:
    """Find the utterances for which the frames do not suffice.

    Args:
        stats: Folder of ESPnet's statistics, of the training and the validation set.
        frames: Function of `count_frames`.

    Yields:
        The set, the number of its utterances, and the ids of those found.
    """
    config = argparse.Namespace(**load(stats, CONFIG))
    preprocess = ASRTask.build_preprocess_fn(config, train=False)
    for part in ("train", "valid"):
        sources = getattr(config, f"{part}_data_path_and_name_and_type")
        text = read_2columns_text(next(p for p, name, _ in sources if name == "text"))
        samples = read_2columns_text(stats / part / "speech_shape")
        counts = read_2columns_text(stats / part / "text_shape")
        found = []
        for utt_id, length in samples.items():
            available = frames(int(length.split(",")[0]))  # samples,channels
            # every token may equal the one before it
            if 2 * int(counts[utt_id]) - 1 > available:
                tokens = preprocess(utt_id, {"text": text[utt_id]})["text"]
                if needed_frames(list(tokens)) > available:
                    found.append(utt_id)
        if found:
            yield Path(sources[0][0]).parent.name, len(samples), found


def main():
    """Print a note for each set with such utterances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stats", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True, help="name=config")
    parser.add_argument("--asr_args", default="")
    args = parser.parse_args()
    if not (file := args.stats / CONFIG).is_file():
        print(f"note: tokens are not checked against frames: there is no {file}")
        return
    notes = {}
    for name, config in (model.split("=", 1) for model in args.models):
        train_args = parse(ASRTask.get_parser(), config, [], args.asr_args)
        model = build(config, train_args)
        frames = count_frames(model)
        if frames is None or model.ctc_weight == 0:
            continue
        ctc, is_zero = train_args.ctc_conf, True
        for option in ("zero_infinity", "ignore_nan_grad"):  # the second one goes first
            is_zero = is_zero if ctc.get(option) is None else ctc[option]
        effect = "counts their loss as 0" if is_zero else "gives them an infinite loss"
        for set_name, number, ids in find_too_long(args.stats, frames):
            note = (
                f"note: {set_name}: {len(ids)} of {number} utterances have more tokens "
                f"than frames after subsampling; CTC {effect}: {some(ids)}"
            )
            notes.setdefault(note, []).append(name)
    for note, names in notes.items():
        print(f"{note} ({', '.join(names)})")


if __name__ == "__main__":
    main()
