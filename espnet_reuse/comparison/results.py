# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Compare trained, decoded and scored models: size, time, memory and error rates.

Run it as `python3 -m espnet_reuse.run -m espnet_reuse.comparison.results`.
"""

import argparse
import json
import math
import re
import statistics
from pathlib import Path

import humanfriendly
import numpy as np
import pandas
import torch
import torch.utils.benchmark
import yaml
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.dataset import ESPnetDataset

from espnet_reuse.comparison.intervals import compare_errors
from espnet_reuse.comparison.score import PARTIAL
from espnet_reuse.comparison.tables import format_details, write_reports
from espnet_reuse.data.data_dir import read_scp
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import write_json, write_text
from espnet_reuse.provenance import describe_run

ROUNDS = 15  # of the encoders' time
MAX_UTTERANCES = 20


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


def read_decoding_rtf(set_dir: Path) -> float | None:
    """Read the real-time factor of a decoding, None where ESPnet reports none.

    It reports a wrong one for batches, also None: each utterance is charged with the
    time of its whole batch.
    """
    log = set_dir / "logdir/calculate_rtf.log"
    report = log.read_text(encoding="utf-8") if log.is_file() else ""
    rtf = re.search(r"^RTF: ([\d.]+)", report, re.M)
    log = set_dir / "logdir/asr_inference.1.log"
    if rtf and " --batch_size 1 " in log.read_text(encoding="utf-8"):
        return float(rtf[1])
    return None


def read_scores(set_dir: Path) -> dict:
    """Read {"wer": counts and error rate in %, ..., "decoding_rtf": ...} of a set.

    Raises:
        UserError: It is not scored.
    """
    scores = {"decoding_rtf": read_decoding_rtf(set_dir)}
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
    asr_exps: list[Path], inference_tag: str, sets: list[str]
) -> tuple[dict, AbsESPnetModel, argparse.Namespace]:
    """Gather what one model's trainings, decodings and scores left.

    Returns:
        The model's part of the comparison, the first seed's model, and its config.
    """
    log = asr_exps[0] / inference_tag / sets[0] / "logdir/asr_inference.1.log"
    checkpoint = re.search(r"--asr_model_file (\S+)", log.read_text("utf-8"))[1]
    model, train_args = ASRTask.build_model_from_file(
        asr_exps[0] / "config.yaml", checkpoint
    )
    trainings = [read_training(asr_exp) for asr_exp in asr_exps]
    runs, scores = [], []
    for asr_exp, training in zip(asr_exps, trainings, strict=True):
        run = {"asr_exp": str(asr_exp), "commit": None, **training, "utterances": {}}
        if (asr_exp / "commit").is_file():
            run["commit"] = (asr_exp / "commit").read_text(encoding="utf-8").strip()
        seed_scores = {}
        for set_ in sets:
            set_dir = asr_exp / inference_tag / set_
            seed_scores[set_] = read_scores(set_dir)
            utterances = (set_dir / "score_wer/utterances.json").read_text("utf-8")
            run["utterances"][set_] = json.loads(utterances)
        runs.append(run)
        scores.append(seed_scores)
    result = {
        "seeds": len(asr_exps),
        "encoder": train_args.encoder,
        "reuse_group_size": train_args.encoder_conf.get("reuse_group_size"),
        "parameters": sum(p.numel() for p in model.parameters()),
        **mean_of(trainings),
        "runs": runs,
        "scores": mean_of(scores),
    }
    return result, model, train_args


def compare(
    asr_exps: dict[str, list[Path]],
    inference_tag: str,
    sets: list[str],
    command: str,
    dumpdir: Path,
) -> dict:
    """Gather and measure everything that comparison.json holds.

    Args:
        asr_exps: An experiment for each seed of each model, the baseline first.
        inference_tag: Name of the decoding's folder in each.
        sets: Names of the decoded sets; org/<set> for a validation set.
        command: What the user typed.
        dumpdir: Folder with a data directory per set.

    Raises:
        UserError: Something is not decoded or scored, or on other references.
    """
    results, models = {}, {}
    for name, exps in asr_exps.items():
        gathered = gather_model(exps, inference_tag, sets)
        results[name], models[name], train_args = gathered
    for set_ in sets:
        errors = {
            name: [run["utterances"][set_] for run in result["runs"]]
            for name, result in results.items()
        }
        for name, wer in compare_errors(errors, set_).items():
            results[name]["scores"][set_]["wer"] |= wer
    # measure where they were trained, if that is here
    trained_on_gpu = next(iter(results.values()))["peak_memory_of"] == "gpu"
    on_gpu = torch.cuda.is_available() and trained_on_gpu
    for model in models.values():
        model.to("cuda" if on_gpu else "cpu")
    wavs = read_audio(dumpdir, sets)
    fs = humanfriendly.parse_size(str(train_args.frontend_conf["fs"]))
    for name, rtf in measure_encoders(models, wavs, fs).items():
        results[name] |= rtf
    run = describe_run(threads=1, command=command)
    machine = (run["cpu"], f"{run['cores']} cores", run["gpu"])
    commits = {run["commit"] for result in results.values() for run in result["runs"]}
    partial = PARTIAL.read_text(encoding="utf-8") if PARTIAL.is_file() else ""
    return {
        "run": {
            "date": run["date"],
            "machine": ", ".join(filter(None, machine)),
            "versions": "Python {python}, espnet {espnet}, torch {torch}".format(**run),
            "commit": run["commit"],
            "trained at": ", ".join(sorted(filter(None, commits))) or "unknown",
            "command": command,
            "decoding": inference_tag,
        },
        "rtf_utterances": len(wavs),
        "rtf_rounds": ROUNDS,
        "rtf_device": torch.cuda.get_device_name() if on_gpu else "one CPU thread",
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


def main():
    """Write comparison.json, comparison_details.md, RESULTS.md and comparison.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = "NAME=ASR_EXP: the first is the baseline, a name again is another seed"
    parser.add_argument("--models", nargs="+", required=True, help=models)
    parser.add_argument("--inference_tag", required=True)
    parser.add_argument("--sets", nargs="+", required=True, help="decoded sets")
    parser.add_argument("--command", required=True, help="what the user typed")
    parser.add_argument("--dumpdir", type=Path, default="dump/raw")
    parser.add_argument("--output_dir", type=Path, default="exp")
    args = parser.parse_args()
    asr_exps = {}
    for model in args.models:
        name, asr_exp = model.split("=", 1)
        asr_exps.setdefault(name, []).append(Path(asr_exp))
    with reported_errors("results"):
        comparison = compare(
            asr_exps, args.inference_tag, args.sets, args.command, args.dumpdir
        )
        details = format_details(comparison["models"], args.inference_tag, args.dumpdir)
        write_text(details, args.output_dir / "comparison_details.md")
        write_reports(comparison, args.output_dir)
        write_json(comparison, args.output_dir / "comparison.json")


if __name__ == "__main__":
    main()
