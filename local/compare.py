#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Compare trained, decoded and scored models: size, time, memory and error rates."""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import humanfriendly
import matplotlib
import torch
import torch.utils.benchmark
import yaml
from compare_utterances import (
    RESAMPLES,
    format_details,
    interval,
    interval_by_speaker,
    mean_and_spread,
    points,
    read_errors,
)
from data_dir import read_scp
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.train.dataset import ESPnetDataset
from score import PARTIAL

from espnet_reuse.provenance import cpu_model

ROUNDS = 15
MAX_UTTERANCES = 20
FEW_WORDS = 500


def read_model_file(decode_dir):
    """Return the checkpoint that ESPnet decoded with, from the log of the decoding."""
    log = next(decode_dir.rglob("asr_inference.1.log"))
    return Path(re.search(r"--asr_model_file (\S+)", log.read_text())[1])


def read_training(asr_exp):
    """Read what ESPnet's trainer reported.

    Returns:
        Epochs, median seconds per training epoch (the first one, which warms up,
        left out where there are more), the epoch that the config's criterion finds
        best and the seconds of training and validation up to its end, and the peak
        memory in MB: the GPU's if there was one, otherwise the process's.
    """
    config = yaml.safe_load((asr_exp / "config.yaml").read_text())
    set_, key, mode = config["best_model_criterion"][0]
    stats = safe_torch_load(asr_exp / "checkpoint.pth", "cpu")["reporter"]["stats"]
    best = {"min": min, "max": max}[mode](stats, key=lambda n: stats[n][set_][key])
    epochs = [stats[n]["train"] for n in sorted(stats)]
    seconds = [epoch["time"]["__timedelta_seconds__"] for epoch in epochs]
    gpu_gb = [epoch.get("gpu_max_cached_mem_GB", 0.0) for epoch in epochs]
    peak = re.findall(r"Peak memory: (\d+) MB", (asr_exp / "train.log").read_text())
    return {
        "epochs": len(epochs),
        "seconds_per_epoch": statistics.median(seconds[1:] or seconds),
        "best_epoch": best,
        "seconds_to_best": sum(
            stats[n][part]["time"]["__timedelta_seconds__"]
            for n in stats
            for part in ("train", "valid")
            if n <= best
        ),
        "peak_memory_mb": (
            max(gpu_gb) * 1024 if any(gpu_gb) else float(peak[-1]) if peak else None
        ),
        "peak_memory_of": "gpu" if any(gpu_gb) else "process",
    }


def read_commit(asr_exp):
    """Read which commit a model was trained at, None if run.sh did not note it."""
    path = asr_exp / "commit"
    return path.read_text().strip() if path.is_file() else None


def read_scores(decode_dir):
    """Read the counts that score.py wrote.

    Returns:
        {set: {"wer": counts, "cer": counts, ..., "decoding_rtf": ...}}, with the error
        rate in %, and the real-time factor of the decoding that ESPnet reports.
    """
    scores = {}
    for path in sorted(decode_dir.rglob("score_*/result.json")):
        counts = json.loads(path.read_text())
        errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        counts["error_rate"] = 100 * errors / max(counts["tokens"], 1)
        set_dir = path.parent.parent
        scores.setdefault(
            str(set_dir.relative_to(decode_dir)), {"decoding_rtf": read_rtf(set_dir)}
        )[path.parent.name.removeprefix("score_")] = counts
    return scores


def read_rtf(set_dir):
    """Read the real-time factor of a decoding.

    Returns:
        None if ESPnet did not report one, or reported a wrong one: of utterances in
        batches, each is charged with the time of its whole batch.
    """
    log = set_dir / "logdir/calculate_rtf.log"
    match = re.search(r"^RTF: ([\d.]+)", log.read_text() if log.is_file() else "", re.M)
    if match is None:
        return None
    command = (set_dir / "logdir/asr_inference.1.log").read_text()
    return float(match[1]) if " --batch_size 1 " in command else None


def mean_of(seeds):
    """Average what differs between seeds, of dicts (of dicts) of numbers.

    The error rates of the seeds by themselves are kept as `error_rates`.
    """
    first = seeds[0]
    if isinstance(first, dict):
        mean = {key: mean_of([seed[key] for seed in seeds]) for key in first}
        if "error_rate" in first:
            mean["error_rates"] = [seed["error_rate"] for seed in seeds]
        return mean
    if None in seeds:  # not known of all
        return None
    if isinstance(first, int | float) and len(set(seeds)) > 1:
        return statistics.mean(seeds)
    return first


def read_audio(dumpdir, sets):
    """Read the first utterances of the sets as ESPnet does, whatever their format."""
    wavs = []
    for name in sets:
        scp, audio_format = dumpdir / name / "wav.scp", dumpdir / name / "audio_format"
        kind = "kaldi_ark" if "ark" in audio_format.read_text() else "sound"
        keys = list(read_scp(scp))[: MAX_UTTERANCES - len(wavs)]
        dataset = ESPnetDataset([(str(scp), "speech", kind)])
        wavs += [dataset[key][1]["speech"] for key in keys]
    return wavs


def encoder_inputs(model, wavs):
    """Return what the encoder is given for each waveform, batch size 1."""
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
def measure_encoders(models, wavs, seconds):
    """Measure the encoders' real-time factors, interleaved, on one thread.

    Args:
        models: {name: ESPnetASRModel}, on the device to measure.
        wavs: Waveforms.
        seconds: Their length in all.

    Returns:
        {name: {"rtf": median, "rtf_min": ..., "rtf_max": ...}} over the rounds.
    """
    timers = {}
    for name, model in models.items():
        model.eval()
        timers[name] = torch.utils.benchmark.Timer(
            "for args, kwargs in inputs:\n    encoder(*args, **kwargs)",
            globals={"encoder": model.encoder, "inputs": encoder_inputs(model, wavs)},
        )
    times = {name: [] for name in models}
    for timer in timers.values():
        timer.timeit(1)
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            times[name].append(timer.timeit(1).median / seconds)
    return {
        name: {"rtf": statistics.median(t), "rtf_min": min(t), "rtf_max": max(t)}
        for name, t in times.items()
    }


def describe_run():
    """Return when, where and of which commit the figures are."""

    def git(*args):
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()

    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "versions": f"Python {platform.python_version()}, espnet {version('espnet')}, "
        f"torch {torch.__version__}",
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown")
        + (" with changes" if git("status", "--porcelain", ":/", ":!/results") else ""),
    }


def seconds_per_epoch(model):
    """Format the seconds of a training epoch, and their range over the seeds."""
    seconds = [run["seconds_per_epoch"] for run in model["runs"]]
    spread = f" ({min(seconds):.2f}-{max(seconds):.2f})" if len(seconds) > 1 else ""
    return f"{model['seconds_per_epoch']:.2f}{spread}"


def difference(counts, baseline):
    """Format the difference of two error rates in points, empty for the baseline."""
    if counts is baseline:
        return ""
    return f"{counts['error_rate'] - baseline['error_rate']:+.1f}"


def format_results(comparison):
    """Format the comparison as Markdown."""
    models = comparison["models"]
    baseline = next(iter(models.values()))
    gpu = baseline["peak_memory_of"] == "gpu"
    lines = [
        "<!-- Generated by local/compare.py -->",
        "# RESULTS",
        *(f"- {key}: `{value}`" for key, value in comparison["run"].items()),
        "",
        f"|model|parameters|to {next(iter(models))}|epochs (best)|training s/epoch|to "
        f"{next(iter(models))}|s to the best|peak {'GPU' if gpu else 'process'} memory "
        f"(MB)|encoder RTF|to {next(iter(models))}|",
        "|---" * 10 + "|",
    ]

    def ratio(key, model):
        return "" if model is baseline else f"x{model[key] / baseline[key]:.2f}"

    for name, model in models.items():
        peak = model["peak_memory_mb"]
        lines.append(
            f"|{name}|{model['parameters']:,}|{ratio('parameters', model)}|"
            f"{model['epochs']:g} ({model['best_epoch']:g})|"
            f"{seconds_per_epoch(model)}|{ratio('seconds_per_epoch', model)}|"
            f"{model['seconds_to_best']:.0f}|"
            f"{'unknown' if peak is None else f'{peak:.0f}'}|"
            f"{model['rtf']:.5f} ({model['rtf_min']:.5f}-{model['rtf_max']:.5f})|"
            f"{ratio('rtf', model)}|"
        )
    lines += [
        "",
        "Training s/epoch: median over the epochs but the first"
        + (", mean of the seeds (and their range)" if baseline["seeds"] > 1 else "")
        + ". S to the best: of training and validation, to the end of the epoch that "
        "the config's best_model_criterion finds best"
        + (
            ", of the fine-tuning alone for models that end in _warm"
            if any(name.endswith("_warm") for name in models)
            else ""
        )
        + ". Encoder RTF: encoder seconds per "
        f"second of audio, batch 1, {comparison['rtf_device']}, median of {ROUNDS} "
        f"interleaved rounds over {comparison['rtf_utterances']} utterances (and their "
        "range).",
        "",
        f"|set|utterances|model|WER|to {next(iter(models))}|95 % interval|by speaker|"
        f"CER|to {next(iter(models))}|S.Err|decoding RTF|",
        "|---" * 11 + "|",
    ]
    few = []
    for name in baseline["scores"]:
        for model_name, model in models.items():
            scores = model["scores"][name]
            wer, cer = scores["wer"], scores["cer"]
            base = baseline["scores"][name]
            sentences = wer["sentences"]
            rtf = scores["decoding_rtf"]
            lines.append(
                f"|{name}|{sentences}|{model_name}|{mean_and_spread(wer['error_rates'])}|"
                f"{difference(wer, base['wer'])}|{points(wer['interval'])}|"
                f"{points(wer['interval_by_speaker'])}|{mean_and_spread(cer['error_rates'])}|"
                f"{difference(cer, base['cer'])}|"
                f"{100 * wer['sentence_errors'] / sentences:.1f}|"
                f"{'' if rtf is None else f'{rtf:.3f}'}|"
            )
        if wer["tokens"] < FEW_WORDS:
            few.append(f"{name} ({wer['tokens']})")
    lines += [
        "",
        "95 % interval: of the difference of the WERs in points, a paired bootstrap "
        f"over utterances and seeds ({RESAMPLES:,} resamples, percentiles); by "
        "speaker: over speakers, each with all their utterances, and seeds. Decoding "
        "RTF: ESPnet's, of the whole decoding. By speaker and utterance: "
        "comparison_details.md.",
    ]
    if baseline["seeds"] > 1:
        lines.append(
            f"Means over {baseline['seeds']} seeds, ±: their standard deviation. So "
            "few say little of how seeds differ: the intervals hold the difference "
            "less often than 95 times in 100, and of several models one may well stand "
            "out by chance."
        )
    else:
        lines.append(
            "One seed: how trainings with other seeds differ is not in the intervals."
        )
    if comparison["partial"]:
        lines += ["", "**Partial corpus:**", "", *comparison["partial"]]
    if few:
        lines += [
            "",
            f"Too few words for an error rate to mean anything else than that the "
            f"pipeline works: {', '.join(few)}.",
        ]
    return "\n".join(lines) + "\n"


def plot(comparison, path):
    """Draw error rates, training time (dots: seeds) and encoder real-time factor."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = comparison["models"]
    sets = {
        name: scores["wer"]["sentences"]
        for name, scores in next(iter(models.values()))["scores"].items()
    }
    size = (max(12, 2 * len(models)), 4)
    figure, axes = plt.subplots(1, 3, figsize=size, layout="constrained")
    width = 0.8 / len(models)
    colors = matplotlib.color_sequences["petroff10" if len(models) <= 10 else "tab20"]
    for i, (name, model) in enumerate(models.items()):
        color = colors[i % len(colors)]
        wers = [model["scores"][s]["wer"] for s in sets]
        positions = [j + i * width for j in range(len(sets))]
        rates = [wer["error_rate"] for wer in wers]
        bars = axes[0].bar(positions, rates, width, color=color, label=name)
        axes[0].bar_label(bars, fmt="%.1f", label_type="center", rotation=90)
        for position, wer in zip(positions, wers, strict=True):
            axes[0].plot([position] * model["seeds"], wer["error_rates"], "k.", ms=4)
        bars = axes[1].bar(name, model["seconds_per_epoch"], color=color)
        axes[1].bar_label(bars, fmt="%.2f", label_type="center")
        seconds = [run["seconds_per_epoch"] for run in model["runs"]]
        axes[1].plot([name] * model["seeds"], seconds, "k.", ms=4)
        error = [[model["rtf"] - model["rtf_min"]], [model["rtf_max"] - model["rtf"]]]
        axes[2].bar(name, model["rtf"], color=color, yerr=error, capsize=4)
    axes[0].set_xticks(
        [j + 0.4 - width / 2 for j in range(len(sets))],
        [f"{name}\n({sentences} utt.)" for name, sentences in sets.items()],
    )
    axes[0].set_ylabel("WER (%)")
    figure.legend(loc="outside lower center", ncols=min(len(models), 8))
    axes[1].set_ylabel("training (s/epoch)")
    axes[2].set_ylabel("encoder real-time factor")
    for axis in axes:
        axis.margins(y=0.15)
        if axis is not axes[0]:
            axis.set_xticks([])
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main():
    """Write comparison.json, comparison_details.md, RESULTS.md and comparison.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=ASR_EXP",
        help="the first is the baseline; a name that stands more than once: its seeds",
    )
    parser.add_argument("--inference_tag", required=True)
    parser.add_argument("--command", required=True, help="what the user typed")
    parser.add_argument("--dumpdir", type=Path, default="dump/raw")
    parser.add_argument("--output_dir", type=Path, default="exp")
    args = parser.parse_args()

    asr_exps = {}
    for name, asr_exp in (model.split("=", 1) for model in args.models):
        asr_exps.setdefault(name, []).append(Path(asr_exp))
    decode_dirs = {
        name: [asr_exp / args.inference_tag for asr_exp in exps]
        for name, exps in asr_exps.items()
    }
    results, built = {}, {}
    for name, exps in asr_exps.items():
        built[name], train_args = ASRTask.build_model_from_file(
            exps[0] / "config.yaml", read_model_file(decode_dirs[name][0])
        )
        trainings = [read_training(asr_exp) for asr_exp in exps]
        results[name] = {
            "seeds": len(exps),
            "encoder": train_args.encoder,
            "reuse_group_size": train_args.encoder_conf.get("reuse_group_size"),
            "parameters": sum(p.numel() for p in built[name].parameters()),
            **mean_of(trainings),
            "runs": [
                {
                    "asr_exp": str(asr_exp),
                    "commit": read_commit(asr_exp),
                    **training,
                    "utterances": {},
                }
                for asr_exp, training in zip(exps, trainings, strict=True)
            ],
        }
    scores = {n: [read_scores(d) for d in dirs] for n, dirs in decode_dirs.items()}
    # a model may have been decoded with other --test_sets at another time
    sets = sorted(set.intersection(*(set(s) for ss in scores.values() for s in ss)))
    for name in results:
        results[name]["scores"] = {
            set_: mean_of([seed[set_] for seed in scores[name]]) for set_ in sets
        }
    for set_ in sets:
        errors = {
            name: [read_errors(d / set_ / "score_wer") for d in dirs]
            for name, dirs in decode_dirs.items()
        }
        first = next(iter(errors.values()))
        for name, seeds in errors.items():
            pair = None if seeds is first else (first, seeds)
            results[name]["scores"][set_]["wer"] |= {
                "interval": pair and interval(*pair),
                "interval_by_speaker": pair and interval_by_speaker(*pair),
            }
            for run, of_seed in zip(results[name]["runs"], seeds, strict=True):
                run["utterances"][set_] = of_seed
    # where they were trained, if that is here
    baseline = next(iter(results.values()))
    on_gpu = torch.cuda.is_available() and baseline["peak_memory_of"] == "gpu"
    for model in built.values():
        model.to("cuda" if on_gpu else "cpu")
    wavs = read_audio(args.dumpdir, sets)
    seconds = sum(map(len, wavs)) / humanfriendly.parse_size(
        str(train_args.frontend_conf["fs"])
    )
    for name, rtf in measure_encoders(built, wavs, seconds).items():
        results[name] |= rtf
    commits = {run["commit"] for model in results.values() for run in model["runs"]}
    comparison = {
        "run": {
            **describe_run(),
            "trained at": ", ".join(sorted(filter(None, commits))) or "unknown",
            "command": args.command,
            "decoding": args.inference_tag,
        },
        "rtf_utterances": len(wavs),
        "rtf_device": torch.cuda.get_device_name() if on_gpu else "one CPU thread",
        "partial": (PARTIAL.read_text().splitlines() if PARTIAL.is_file() else []),
        "models": results,
    }
    args.output_dir.joinpath("comparison.json").write_text(
        json.dumps(comparison, indent=2) + "\n"
    )
    args.output_dir.joinpath("comparison_details.md").write_text(
        format_details(decode_dirs, args.dumpdir, sets)
    )
    args.output_dir.joinpath("RESULTS.md").write_text(format_results(comparison))
    plot(comparison, args.output_dir / "comparison.png")


if __name__ == "__main__":
    main()
