# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Perturb the speed of a training set, as stage 2 of asr.sh does with sox."""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import soundfile
import torch
from torchaudio.functional import speed

from espnet_reuse.data.data_dir import (
    Utterance,
    read_data_dir,
    split_names,
    write_data_dir,
)
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import need_disk, written_whole


def perturb(factor: float, utterance: Utterance, target: Path) -> None:
    """Write an utterance's audio at so many times its speed, as 16-bit FLAC."""
    torch.set_num_threads(1)
    source, segment = utterance.audio, utterance.segment
    rate = soundfile.info(source).samplerate
    start, stop = (round(t * rate) for t in segment) if segment else (0, None)
    wav, _ = soundfile.read(source, start=start, stop=stop, dtype="float32")
    faster, _ = speed(torch.from_numpy(wav), rate, factor)
    target.parent.mkdir(parents=True, exist_ok=True)
    # libsndfile does not say that a disk is full, Python does
    with written_whole(target) as partial, partial.open("wb") as f:
        soundfile.write(f, faster.clamp(-1, 1).numpy(), rate, "PCM_16", format="FLAC")


def perturb_data_dir(data_dir: Path, factors: list[str], nj: int) -> None:
    """Make <data_dir>_sp, its audio in speed_perturb/ beside it, by nj processes.

    Audio that is there already is not made again. The names of the utterances hold the
    factors as they are written.

    Raises:
        UserError: Something is wrong with the directory, or the disk is too small.
    """
    perturbed, todo = [], []
    for u in read_data_dir(data_dir):
        for name in factors:
            factor = float(name)
            if factor == 1:
                perturbed.append(u)
                continue
            folder = data_dir.parent / "speed_perturb" / name / u.speaker
            audio = folder / f"{u.utt_id}.flac"
            if not audio.is_file():
                todo.append((factor, u, audio))
            segment = u.segment and (0.0, (u.segment[1] - u.segment[0]) / factor)
            ids = f"sp{name}-{u.utt_id}", f"sp{name}-{u.speaker}"
            perturbed.append(Utterance(*ids, u.words, audio, segment))
    if todo:
        size = sum(u.audio.stat().st_size for _, u, _ in todo)
        print(need_disk(int(1.2 * size), data_dir, "speed perturbation"), flush=True)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(nj, mp_context=spawn) as pool:
            list(pool.map(perturb, *zip(*todo, strict=True), chunksize=16))
    write_data_dir(data_dir.with_name(f"{data_dir.name}_sp"), perturbed)


def main(argv: list[str] | None = None):
    """Make <data_dir>_sp."""
    prog = "espnet_reuse.data.perturb_speed"
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--factors", required=True, type=split_names)
    parser.add_argument("--nj", type=int, default=1)
    args = parser.parse_args(argv)
    with reported_errors(prog, interrupted="the next run continues"):
        for factor in args.factors:
            if not factor.replace(".", "", 1).isdecimal() or float(factor) == 0:
                option = "--speed_perturb_factors"
                raise UserError(f"{option}: '{factor}' is not a factor, e.g. 0.9")
        perturb_data_dir(args.data_dir, args.factors, args.nj)


if __name__ == "__main__":
    main()
