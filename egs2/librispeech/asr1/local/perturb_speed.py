#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Perturb the speed of a training set, as stage 2 of asr.sh does with sox."""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial as bind
from pathlib import Path

import soundfile
import torch
from data_dir import errors_in_one_line, need_disk, read_scp, write_data_dir
from torchaudio.functional import speed


def read_factors(text):
    """Read factors, with commas or spaces between.

    Raises:
        ValueError: One is not a positive number.
    """
    factors = text.replace(",", " ").split()
    for factor in factors:
        if not factor.replace(".", "", 1).isdecimal() or float(factor) == 0:
            raise ValueError(
                f"--speed_perturb_factors: '{factor}' is not a factor; give, e.g., "
                "0.9,1.0,1.1"
            )
    return factors


def perturb(factor, source, target, segment):
    """Write an audio file at another speed, as 16-bit FLAC.

    Args:
        factor: How many times as fast.
        source: Audio file.
        target: Audio file, which appears once it is whole.
        segment: (start, end) in seconds of what to take of it, None: all.
    """
    torch.set_num_threads(1)
    rate = soundfile.info(source).samplerate
    start, stop = (round(t * rate) for t in segment) if segment else (0, None)
    wav, _ = soundfile.read(source, start=start, stop=stop, dtype="float32")
    faster, _ = speed(torch.from_numpy(wav), rate, factor)
    partial = target.with_suffix(".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as f:
        soundfile.write(f, faster.clamp(-1, 1).numpy(), rate, "PCM_16", format="FLAC")
    os.replace(partial, target)


def main():
    """Make <data_dir>_sp, its audio in speed_perturb/ beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--factors", required=True, help="with commas between")
    parser.add_argument("--nj", type=int, default=1)
    args = parser.parse_args()
    with errors_in_one_line():
        factors = read_factors(args.factors)
        names = ("utt2spk", "text", "wav.scp")
        tables = [read_scp(args.data_dir / name) for name in names]
        segments, perturbed_segments = {}, {}
        if (args.data_dir / "segments").is_file():
            for utt_id, line in read_scp(args.data_dir / "segments").items():
                segments[utt_id] = tuple(map(float, line.split()[1:]))
        utterances, todo = [], {factor: [] for factor in factors}
        for utt_id, audio in tables[2].items():
            segment = segments.get(utt_id)
            speaker, words = tables[0][utt_id], tables[1][utt_id]
            for factor in factors:
                if float(factor) == 1.0:
                    utterances.append((utt_id, speaker, words, audio))
                    if segment:
                        perturbed_segments[utt_id] = segment
                    continue
                folder = args.data_dir.parent / "speed_perturb" / factor / speaker
                target = folder / f"{utt_id}.flac"
                if not target.is_file():
                    todo[factor].append((audio, target, segment))
                prefix = f"sp{factor}-"
                utterances.append((prefix + utt_id, prefix + speaker, words, target))
                if segment:
                    length = (segment[1] - segment[0]) / float(factor)
                    perturbed_segments[prefix + utt_id] = (0.0, length)
        size = sum(Path(audio).stat().st_size for t in todo.values() for audio, *_ in t)
        if size:
            need_disk(1.2 * size, args.data_dir, "speed perturbation")
        with ProcessPoolExecutor(
            args.nj, mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            for factor, pairs in todo.items():
                if pairs:
                    at_factor = bind(perturb, float(factor))
                    list(pool.map(at_factor, *zip(*pairs, strict=True), chunksize=16))
        perturbed = args.data_dir.with_name(f"{args.data_dir.name}_sp")
        write_data_dir(perturbed, utterances, perturbed_segments)


if __name__ == "__main__":
    main()
