# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Perturb the speed of a data directory, as ESPnet's script does with sox.

The audio is in speed_perturb/<target> beside the target. What is there of the same
recordings, cut in the same way, is not made again.
"""

import argparse
import hashlib
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import soundfile

from espnet_reuse.data.data_dir import Utterance, read_data_dir, some, write_data_dir
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import need_disk, written_whole

OPTION = "--speed_perturb_factors"


def check_factors(text: str) -> None:
    """Check factors as asr.sh takes them, with spaces between; "" is none.

    Raises:
        UserError: One is no factor or is there twice, or they change nothing.
    """
    factors = text.split() or ([text] if text else [])
    number = re.compile(r"[0-2](\.[0-9]{1,3})?")
    wrong = [x for x in factors if not number.fullmatch(x) or not 0.5 <= float(x) <= 2]
    if wrong:
        raise UserError(
            f"{OPTION}: '{wrong[0]}' is not a factor such as 0.9, from 0.5 to 2 with "
            "three decimals at most; several have spaces between them"
        )
    values = list(map(float, factors))
    if len(set(values)) < len(values):
        raise UserError(f"{OPTION}: '{text}' has a factor more than once")
    if values == [1]:
        raise UserError(f"{OPTION}: {text} alone changes nothing; '' is for none")


def perturb(factor: str, utterance: Utterance, target: Path) -> None:
    """Write an utterance's audio at so many times its speed, as 16-bit FLAC."""
    # here, for what only checks factors: they take two seconds
    import torch
    from torchaudio.functional import resample

    torch.set_num_threads(1)
    source, segment = utterance.audio, utterance.segment
    rate = soundfile.info(source).samplerate
    start, stop = (round(t * rate) for t in segment) if segment else (0, None)
    wav, _ = soundfile.read(source, -1, start, stop, dtype="float32", always_2d=True)
    # torchaudio's `speed` rounds the rate; at 11025 Hz it is slower than the speech
    ratio = Fraction(factor).as_integer_ratio()
    faster = resample(torch.from_numpy(wav.T), *ratio).clamp(-1, 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    # libsndfile does not say that a disk is full, Python does
    with written_whole(target) as partial, partial.open("wb") as f:
        soundfile.write(f, faster.T.numpy(), rate, "PCM_16", format="FLAC")


def file_of(utterance: Utterance, folder: Path) -> Path:
    """Return the file for an utterance's audio, another one when its source changes."""
    stat = utterance.audio.stat()
    source = utterance.audio, stat.st_size, stat.st_mtime_ns, utterance.segment
    digest = hashlib.sha256(repr(source).encode()).hexdigest()[:8]
    return folder / utterance.speaker / f"{utterance.utt_id}.{digest}.flac"


def perturb_data_dir(factor: str, source: Path, target: Path, nj: int) -> None:
    """Make a data directory at so many times the speed of another, by nj processes.

    Ids and speakers begin with the factor as it is written, `sp0.9-`.

    Raises:
        UserError: Something is wrong with the directory, or the disk is too small.
    """
    prefix, utterances = f"sp{factor}-", read_data_dir(source)
    if perturbed := [u.utt_id for u in utterances if u.utt_id.startswith(prefix)]:
        raise UserError(f"{OPTION}: {source} has {factor} already: {some(perturbed)}")
    folder = target.parent / "speed_perturb" / target.name
    files = {file_of(u, folder): u for u in utterances}
    if todo := {path: u for path, u in files.items() if not path.is_file()}:
        size = sum(p.stat().st_size for p in {u.audio for u in todo.values()})
        print(need_disk(int(1.2 * size), target, "speed perturbation"), flush=True)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(nj, len(todo)), mp_context=spawn) as pool:
            jobs = [factor] * len(todo), todo.values(), todo
            list(pool.map(perturb, *jobs, chunksize=16))
    for path in set(folder.rglob("*.flac")) - files.keys():
        path.unlink()  # of what was cut in another way
    write_data_dir(
        target,
        (
            Utterance(
                prefix + u.utt_id,
                prefix + u.speaker,
                u.words,
                path,
                u.segment and (0.0, (u.segment[1] - u.segment[0]) / float(factor)),
            )
            for path, u in files.items()
        ),
    )


def main(argv: list[str] | None = None):
    """Make a data directory, with the arguments of ESPnet's script."""
    prog = "espnet_reuse.data.perturb_speed"
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("--utt_extra_files", help="not used: text is all there is")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("factor", help="without directories: factors, to check them")
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("target", type=Path, nargs="?")
    args = parser.parse_args(argv)
    with reported_errors(prog, interrupted="the next run continues"):
        check_factors(args.factor)
        if args.target:
            perturb_data_dir(args.factor, args.source, args.target, args.nj)


if __name__ == "__main__":
    main()
