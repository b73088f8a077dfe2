# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Compare trained, decoded and scored models: size, time, memory and error rates.

Run it as `python3 -m espnet_reuse.run -m espnet_reuse.comparison.results`.
"""

import argparse
import json
import math
import re
import shlex
import statistics
from pathlib import Path

import humanfriendly
import numpy as np
import pandas
import torch
import torch.utils.benchmark
import yaml
from espnet2.bin import asr_inference
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.dataset import ESPnetDataset

from espnet_reuse.benchmark.decoding import BEST_PATH, per_second, time_turns
from espnet_reuse.bin import asr_inference_ctc
from espnet_reuse.comparison.cells import BEST_PATH as BEST_PATH_CONFIG
from espnet_reuse.comparison.intervals import compare_errors
from espnet_reuse.comparison.score import PARTIAL
from espnet_reuse.comparison.tables import format_details, write_reports
from espnet_reuse.data.data_dir import read_scp
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import write_json, write_text
from espnet_reuse.provenance import describe_run

ROUNDS = 15  # of the encoders' time
TEXT_ROUNDS, TEXT_SECONDS = 5, 120  # at most, of the time from waveform to text
MAX_UTTERANCES = 20
BEST_PATH_TAG = Path(BEST_PATH_CONFIG).stem


def read_training(asr_exp: Path) -> dict:
    """Read what ESPnet's trainer reported.

    The median of the seconds per epoch is without the first epoch, which warms up, if
    there are more. The best epoch is by the config's criterion; the seconds up to its
    end are of training and validation, None if an epoch's are lost. The peak memory is
    the GPU's if there was one.
    """
    config = yaml.safe_load((asr_exp / "config.yaml").read_text(encoding="utf-8"))
    phase, criterion, mode = config["best_model_criterion"][0]
    checkpoint = asr_exp / "checkpoint.pth"
    try:
        stats = safe_torch_load(checkpoint, "cpu")["reporter"]["stats"]
    except Exception as e:  # whatever damaged bytes make PyTorch raise
        raise UserError(
            f"{checkpoint} is damaged or not there, so that the training's times are "
            f"not known: name other --models, or move {asr_exp} away to train anew"
        ) from e
    stats = pandas.json_normalize([{"epoch": n} | stats[n] for n in sorted(stats)])
    stats = stats.set_index("epoch")
    best = int(stats[f"{phase}.{criterion}"].agg(f"idx{mode}"))
    seconds = stats[
        [f"{part}.time.__timedelta_seconds__" for part in ("train", "valid")]
    ]
    to_best = math.fsum(seconds.reindex(range(1, best + 1)).to_numpy().flat)
    gpu_gb = stats.get("train.gpu_max_cached_mem_GB", pandas.Series(0.0)).max()
    log = (asr_exp / "train.log").read_text(encoding="utf-8", errors="replace")
    peak = re.findall(r"Peak memory: (\d+) MB", log)
    return {
        "epochs": int(stats.index[-1]),
        "seconds_per_epoch": seconds.iloc[min(len(stats) - 1, 1) :, 0].median(),
        "best_epoch": best,
        "seconds_to_best": None if math.isnan(to_best) else to_best,
        "peak_memory_mb": gpu_gb * 1024 or (float(peak[-1]) if peak else None),
        "peak_memory_of": "gpu" if gpu_gb else "process",
    }


def read_arguments(set_dir: Path) -> argparse.Namespace:
    """Read from its log which options a set was decoded with."""
    log = (set_dir / "logdir/asr_inference.1.log").read_text(encoding="utf-8")
    words = shlex.split(re.search(r"asr_inference (-.*)", log)[1])
    return asr_inference_ctc.get_parser().parse_args(words)


def load_recognizer(args: argparse.Namespace, device: str) -> asr_inference.Speech2Text:
    """Return the recognizer of a decoding: ESPnet's own where there is no CTC head."""
    options = vars(args) | {"device": device, "batch_size": 1}
    options = asr_inference_ctc.constructor_options(options)
    try:
        return asr_inference_ctc.Speech2Text(**options)
    except asr_inference_ctc.BestPathError:
        return asr_inference.Speech2Text(**options)


def has_best_path(recognizer: asr_inference.Speech2Text) -> bool:
    """Return whether a recognizer of `load_recognizer` can decode by best path."""
    return isinstance(recognizer, asr_inference_ctc.Speech2Text)


def read_scores(set_dir: Path) -> dict:
    """Read {"wer": counts and error rate in %, "cer": ..., ...} of a set.

    Raises:
        UserError: It is not scored.
    """
    scores = {}
    for path in sorted(set_dir.glob("score_*/result.json")):
        counts = json.loads(path.read_text(encoding="utf-8"))
        errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        counts["error_rate"] = 100 * errors / max(counts["tokens"], 1)
        scores[path.parent.name.removeprefix("score_")] = counts
    if "wer" not in scores:
        raise UserError(f"{set_dir} is not scored")
    return scores


def mean_of(seeds: list):
    """Average what differs between seeds, of dicts (of dicts) of numbers.

    The error rates of the seeds are kept beside their mean, as `error_rates`.
    """
    first = seeds[0]
    if isinstance(first, dict):
        mean = {key: mean_of([seed[key] for seed in seeds]) for key in first}
        if "error_rate" in first:
            mean["error_rates"] = [seed["error_rate"] for seed in seeds]
        return mean
    if None in seeds:  # not known of all
        return None
    differ = isinstance(first, int | float) and len(set(seeds)) > 1
    return statistics.mean(seeds) if differ else first


def gather_model(
    decode_dirs: list[Path], trainings: list[dict], sets: list[str], device: str
) -> tuple[dict, asr_inference.Speech2Text]:
    """Gather what one model's trainings, decodings and scores left.

    Returns:
        The model's part of the comparison, and the first seed's recognizer.
    """
    args = read_arguments(decode_dirs[0] / sets[0])
    recognizer = load_recognizer(args, device)
    is_best_path = args.search == "best_path"
    runs, scores = [], []
    for decode_dir, training in zip(decode_dirs, trainings, strict=True):
        asr_exp = decode_dir.parent
        run = {"asr_exp": str(asr_exp), "commit": None, **training, "utterances": {}}
        if (asr_exp / "commit").is_file():
            run["commit"] = (asr_exp / "commit").read_text(encoding="utf-8").strip()
        best_path = decode_dir if is_best_path else asr_exp / BEST_PATH_TAG
        seed_scores = {}
        for set_ in sets:
            seed_scores[set_] = read_scores(decode_dir / set_) | {"best_path_wer": None}
            if has_best_path(recognizer):
                wer = read_scores(best_path / set_)["wer"]
                seed_scores[set_]["best_path_wer"] = wer
            utterances = decode_dir / set_ / "score_wer/utterances.json"
            run["utterances"][set_] = json.loads(utterances.read_text("utf-8"))
        runs.append(run)
        scores.append(seed_scores)
    train_args, model = recognizer.asr_train_args, recognizer.asr_model
    result = {
        "seeds": len(decode_dirs),
        "encoder": train_args.encoder,
        "reuse_group_size": train_args.encoder_conf.get("reuse_group_size"),
        "parameters": sum(p.numel() for p in model.parameters()),
        **mean_of(trainings),
        "decoding": decode_dirs[0].name,
        "search": BEST_PATH if is_best_path else f"beam {args.beam_size}",
        "runs": runs,
        "scores": mean_of(scores),
    }
    return result, recognizer


def compare(
    decode_dirs: dict[str, list[Path]], sets: list[str], command: str, dumpdir: Path
) -> dict:
    """Gather and measure everything that comparison.json holds.

    Args:
        decode_dirs: A decoding, in its experiment, for each seed of each model, the
            baseline first.
        sets: Names of the decoded sets; org/<set> for a validation set.
        command: What the user typed.
        dumpdir: Folder with a data directory per set.

    Raises:
        UserError: Something is not decoded or scored, or on other references.
    """
    trainings = {
        name: [read_training(folder.parent) for folder in folders]
        for name, folders in decode_dirs.items()
    }
    # measure where they were trained, if that is here
    trained_on_gpu = next(iter(trainings.values()))[0]["peak_memory_of"] == "gpu"
    on_gpu = torch.cuda.is_available() and trained_on_gpu
    results, recognizers = {}, {}
    for name, folders in decode_dirs.items():
        device = "cuda" if on_gpu else "cpu"
        gathered = gather_model(folders, trainings[name], sets, device)
        results[name], recognizers[name] = gathered
    for set_ in sets:
        errors = {
            name: [run["utterances"][set_] for run in result["runs"]]
            for name, result in results.items()
        }
        for name, wer in compare_errors(errors, set_).items():
            results[name]["scores"][set_]["wer"] |= wer
    wavs = read_audio(dumpdir, sets)
    train_args = next(iter(recognizers.values())).asr_train_args
    fs = humanfriendly.parse_size(str(train_args.frontend_conf["fs"]))
    models = {name: recognizer.asr_model for name, recognizer in recognizers.items()}
    for name, rtf in measure_encoders(models, wavs, fs).items():
        results[name] |= rtf
    searches = {name: result["search"] for name, result in results.items()}
    times, rounds = measure_texts(recognizers, searches, wavs, fs)
    for name, to_text in times.items():
        results[name]["to_text"] = to_text
    run = describe_run(threads=1, command=command)
    machine = (run["cpu"], f"{run['cores']} cores", run["gpu"])
    commits = {run["commit"] for result in results.values() for run in result["runs"]}
    decodings = [result["decoding"] for result in results.values()]
    beside = (BEST_PATH in times[n] and searches[n] != BEST_PATH for n in results)
    if any(beside):
        decodings.append(BEST_PATH_TAG)
    partial = PARTIAL.read_text(encoding="utf-8") if PARTIAL.is_file() else ""
    return {
        "run": {
            "date": run["date"],
            "machine": ", ".join(filter(None, machine)),
            "versions": "Python {python}, espnet {espnet}, torch {torch}".format(**run),
            "commit": run["commit"],
            "trained at": ", ".join(sorted(filter(None, commits))) or "unknown",
            "command": command,
            "decoding": ", ".join(dict.fromkeys(decodings)),
        },
        "rtf_utterances": len(wavs),
        "rtf_rounds": ROUNDS,
        "rtf_device": torch.cuda.get_device_name() if on_gpu else "one CPU thread",
        "text_rounds": rounds,
        "partial": partial.splitlines(),
        "models": results,
    }


def read_audio(dumpdir: Path, sets: list[str]) -> list[np.ndarray]:
    """Read the first utterances as ESPnet does, waveforms of shape (samples,)."""
    wavs = []
    for name in sets:
        scp, audio_format = dumpdir / name / "wav.scp", dumpdir / name / "audio_format"
        is_ark = "ark" in audio_format.read_text(encoding="utf-8")
        kind = "kaldi_ark" if is_ark else "sound"
        keys = list(read_scp(scp))[: MAX_UTTERANCES - len(wavs)]
        dataset = ESPnetDataset([(str(scp), "speech", kind)])
        wavs += [dataset[key][1]["speech"] for key in keys]
    return wavs


def encoder_inputs(
    model: AbsESPnetModel, wavs: list[np.ndarray]
) -> list[tuple[tuple, dict]]:
    """Return what the encoder is called with, (args, kwargs), for each waveform."""
    inputs, device = [], next(model.parameters()).device
    handle = model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append((args, kwargs)), with_kwargs=True
    )
    for wav in wavs:
        speech = torch.from_numpy(wav)[None].to(device)
        model.encode(speech, torch.tensor([speech.size(1)], device=device))
    handle.remove()
    return inputs


@torch.no_grad()
def measure_encoders(
    models: dict[str, AbsESPnetModel], wavs: list[np.ndarray], fs: int
) -> dict[str, dict[str, float]]:
    """Measure the encoders' real-time factors, interleaved, on one thread.

    Args:
        models: The models, on the device to measure.
        wavs: Waveforms, of shape (samples,).
        fs: Their sampling rate, in Hz.

    Returns:
        {model: {"rtf": median, "rtf_min": ..., "rtf_max": ...}} over the rounds, in
        seconds per second of audio.
    """
    seconds, timers = sum(map(len, wavs)) / fs, {}
    for name, model in models.items():
        model.eval()
        timers[name] = torch.utils.benchmark.Timer(
            "for args, kwargs in inputs:\n    encoder(*args, **kwargs)",
            globals={"encoder": model.encoder, "inputs": encoder_inputs(model, wavs)},
        )
        timers[name].timeit(1)
    rounds = pandas.DataFrame(
        {name: timer.timeit(1).median / seconds for name, timer in timers.items()}
        for _ in range(ROUNDS)
    )
    times = {"rtf": rounds.median(), "rtf_min": rounds.min(), "rtf_max": rounds.max()}
    return pandas.DataFrame(times).to_dict("index")


def measure_texts(
    recognizers: dict[str, asr_inference.Speech2Text],
    searches: dict[str, str],
    wavs: list[np.ndarray],
    fs: int,
) -> tuple[dict[str, dict[str, dict]], int]:
    """Measure the times from waveform to text, in turns, one utterance at a time.

    Args:
        recognizers: By model.
        searches: The search of each model. Those with a CTC head also do best path.
        wavs: Waveforms, of shape (samples,).
        fs: Their sampling rate, in Hz.

    Returns:
        {model: {search: {"frontend_ms": ..., "encoder_ms": ..., "search_ms": ...,
        "total_ms": ...}}}, milliseconds per second of audio, medians of the rounds; and
        the number of rounds.
    """
    turns = {}
    for name, recognizer in recognizers.items():
        turns[name, searches[name], 1] = recognizer
        if has_best_path(recognizer):
            turns[name, BEST_PATH, 1] = recognizer
    speeches = list(map(torch.from_numpy, wavs))
    rows = time_turns(turns, speeches, TEXT_ROUNDS, TEXT_SECONDS)
    times = {}
    for row in per_second(rows, sum(map(len, wavs)) / fs).to_dict("records"):
        name, search, _ = (row.pop(key) for key in ("model", "search", "batch"))
        times.setdefault(name, {})[search] = row
    return times, len(rows) // len(turns)


def main():
    """Write comparison.json, comparison_details.md, RESULTS.md and comparison.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = (
        "NAME=DECODING, ASR_EXP/INFERENCE_TAG: the first is the baseline, a name again "
        "is another seed"
    )
    parser.add_argument("--models", nargs="+", required=True, help=models)
    parser.add_argument("--sets", nargs="+", required=True, help="decoded sets")
    parser.add_argument("--command", required=True, help="what the user typed")
    parser.add_argument("--dumpdir", type=Path, default="dump/raw")
    parser.add_argument("--output_dir", type=Path, default="exp")
    args = parser.parse_args()
    decode_dirs = {}
    for model in args.models:
        name, folder = model.split("=", 1)
        decode_dirs.setdefault(name, []).append(Path(folder))
    torch.set_num_threads(1)
    with reported_errors("results"):
        comparison = compare(decode_dirs, args.sets, args.command, args.dumpdir)
        details = format_details(comparison["models"], args.dumpdir)
        write_text(details, args.output_dir / "comparison_details.md")
        write_reports(comparison, args.output_dir)
        write_json(comparison, args.output_dir / "comparison.json")


if __name__ == "__main__":
    main()
