# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Perturb the speed of a training set, as stage 2 of asr.sh does with sox."""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import soundfile
import torch
from torchaudio.functional import speed

from espnet_reuse.data.data_dir import read_scp, write_data_dir
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import need_disk, written_whole


def read_factors(text: str) -> list[str]:
    """Read factors, with commas or spaces between.

    Raises:
        UserError: One is not a positive number.
    """
    factors = text.replace(",", " ").split()
    for factor in factors:
        if not factor.replace(".", "", 1).isdecimal() or float(factor) == 0:
            raise UserError(f"'{factor}' is not a factor; give, e.g., 0.9,1.0,1.1")
    return factors


def perturb(
    factor: float, source: str, target: Path, segment: tuple[float, float] | None
) -> None:
    """Write an audio file at another speed, as 16-bit FLAC.

    Args:
        factor: How many times as fast.
        source: Audio file.
        target: Audio file to write.
        segment: (start, end) in seconds of the part to take, None: all.
    """
    torch.set_num_threads(1)
    rate = soundfile.info(source).samplerate
    start, stop = (round(t * rate) for t in segment) if segment else (0, None)
    wav, _ = soundfile.read(source, start=start, stop=stop, dtype="float32")
    faster, _ = speed(torch.from_numpy(wav), rate, factor)
    target.parent.mkdir(parents=True, exist_ok=True)
    # libsndfile does not say that a disk is full, Python does
    with written_whole(target) as partial, partial.open("wb") as f:
        soundfile.write(f, faster.clamp(-1, 1).numpy(), rate, "PCM_16", format="FLAC")


def perturb_data_dir(data_dir: Path, factors: list[str], nj: int) -> None:
    """Make <data_dir>_sp, its audio in speed_perturb/ beside it.

    Audio that is there already is not made again.

    Args:
        data_dir: Data directory of the training set.
        factors: How many times as fast, as in the names of the utterances.
        nj: Processes at work.

    Raises:
        UserError: Something is wrong with the directory, or the disk is too small.
    """
    names = ("utt2spk", "text", "wav.scp")
    utt2spk, text, wav_scp = (read_scp(data_dir / name) for name in names)
    segments, perturbed_segments = {}, {}
    if (data_dir / "segments").is_file():
        for utt_id, line in read_scp(data_dir / "segments").items():
            segments[utt_id] = tuple(map(float, line.split()[1:]))
    utterances, todo = [], []
    for utt_id, audio in wav_scp.items():
        segment = segments.get(utt_id)
        speaker, words = utt2spk[utt_id], text[utt_id]
        for factor in factors:
            if float(factor) == 1.0:
                utterances.append((utt_id, speaker, words, audio))
                if segment:
                    perturbed_segments[utt_id] = segment
                continue
            folder = data_dir.parent / "speed_perturb" / factor / speaker
            target = folder / f"{utt_id}.flac"
            if not target.is_file():
                todo.append((float(factor), audio, target, segment))
            prefix = f"sp{factor}-"
            utterances.append((prefix + utt_id, prefix + speaker, words, target))
            if segment:
                length = (segment[1] - segment[0]) / float(factor)
                perturbed_segments[prefix + utt_id] = (0.0, length)
    if todo:
        size = sum(Path(audio).stat().st_size for _, audio, *_ in todo)
        print(need_disk(int(1.2 * size), data_dir, "speed perturbation"), flush=True)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(nj, mp_context=spawn) as pool:
            list(pool.map(perturb, *zip(*todo, strict=True), chunksize=16))
    perturbed = data_dir.with_name(f"{data_dir.name}_sp")
    write_data_dir(perturbed, utterances, perturbed_segments)


def main(argv: list[str] | None = None):
    """Make <data_dir>_sp."""
    prog = "espnet_reuse.data.perturb_speed"
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--factors", required=True, help="commas or spaces between")
    parser.add_argument("--nj", type=int, default=1)
    args = parser.parse_args(argv)
    with reported_errors(prog, interrupted="the next run continues"):
        try:
            factors = read_factors(args.factors)
        except UserError as e:
            raise UserError(f"--speed_perturb_factors: {e}") from e
        perturb_data_dir(args.data_dir, factors, args.nj)


if __name__ == "__main__":
    main()
