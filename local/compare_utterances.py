#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Compare models utterance by utterance: intervals, speakers, examples."""

import json
import statistics
from collections import defaultdict

import numpy as np
from data_dir import read_scp

RESAMPLES = 9999
EXAMPLES = 5


def read_errors(score_dir):
    """Read the errors of each utterance.

    Args:
        score_dir: Folder that score.py wrote.

    Returns:
        {utterance id: (speaker, reference tokens, errors)}.
    """
    utterances = json.loads((score_dir / "utterances.json").read_text())
    return {utt_id: tuple(row) for utt_id, row in utterances.items()}


def mean_errors(seeds):
    """Average the errors of each utterance over the seeds.

    Args:
        seeds: What `read_errors` returns, of each seed.
    """
    return {
        unit: (speaker, tokens, np.mean([seed[unit][2] for seed in seeds]))
        for unit, (speaker, tokens, _) in seeds[0].items()
    }


def by_speaker(utterances):
    """Add up the tokens and errors of each speaker's utterances."""
    sums = defaultdict(lambda: np.zeros(2))
    for speaker, tokens, errors in utterances.values():
        sums[speaker] += tokens, errors
    return {speaker: (speaker, *sums[speaker]) for speaker in sorted(sums)}


def interval(baseline, model):
    """Estimate the 95 % interval of the difference of two error rates.

    A paired bootstrap, 9,999 times: units (utterances, or speakers with all of theirs)
    are drawn with replacement, the same ones for both models, and the seeds of each
    model with replacement, too; the interval is between the percentiles 2.5 and 97.5.
    The variance of a resample of n seeds is too small by a factor of (n - 1) / n, which
    is made up for.

    Args:
        baseline: {unit: (speaker, reference tokens, errors)} of each seed.
        model: The same of the other model.

    Returns:
        (low, high) in points, or None with fewer than two units.
    """
    units = list(baseline[0])
    if len(units) < 2:
        return None
    rng = np.random.default_rng(0)

    def draw(count):
        return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)

    drawn = draw(len(units))
    errors = []
    for seeds in (baseline, model):
        of_seed = drawn @ np.array([[seed[u][2] for u in units] for seed in seeds]).T
        n = len(seeds)
        mean = of_seed.mean(axis=1)
        deviation = (of_seed * draw(n)).mean(axis=1) - mean
        errors.append(mean + deviation * np.sqrt(n / max(n - 1, 1)))
    tokens = drawn @ np.array([baseline[0][unit][1] for unit in units])
    differences = 100 * (errors[1] - errors[0]) / np.maximum(tokens, 1)
    return tuple(map(float, np.percentile(differences, [2.5, 97.5])))


def interval_by_speaker(baseline, model):
    """Estimate the `interval` with speakers for units; arguments as there."""
    return interval(*([by_speaker(seed) for seed in x] for x in (baseline, model)))


def mean_and_spread(rates):
    """Format the mean of error rates, with their standard deviation if there is one."""
    spread = f" ± {statistics.stdev(rates):.1f}" if len(rates) > 1 else ""
    return f"{statistics.mean(rates):.1f}{spread}"


def points(limits):
    """Format an interval, empty if there is none."""
    return "" if limits is None else "{:+.1f} to {:+.1f}".format(*limits)


def format_speakers(errors):
    """Format the error rates of each speaker as Markdown.

    Args:
        errors: {model: what `mean_errors` returns}.
    """
    models = {name: by_speaker(utterances) for name, utterances in errors.items()}
    baseline = next(iter(models.values()))
    lines = [
        f"|speaker|words|{'|'.join(f'WER, {name}' for name in models)}|",
        "|---" * (2 + len(models)) + "|",
    ]
    for speaker, (_, tokens, _) in baseline.items():
        rates = [100 * m[speaker][2] / max(tokens, 1) for m in models.values()]
        lines.append(
            f"|{speaker}|{tokens:.0f}|{'|'.join(f'{rate:.1f}' for rate in rates)}|"
        )
    return lines


def format_examples(errors, texts, refs, name):
    """Format the utterances on which a model gains and loses most, as Markdown.

    Args:
        errors: {model: what `mean_errors` returns}.
        texts: {model: {utterance id: hypothesis}}.
        refs: {utterance id: reference}.
        name: The model to set beside the first.
    """
    first = next(iter(errors))
    change = {u: errors[name][u][2] - errors[first][u][2] for u in errors[first]}
    order = sorted(change, key=lambda u: (change[u], u))
    lines = []
    for title, chosen in (
        ("fewer", [u for u in order if change[u] < 0][:EXAMPLES]),
        ("more", [u for u in reversed(order) if change[u] > 0][:EXAMPLES]),
    ):
        lines += [f"#### {name}: {title} errors than {first}", ""]
        for u in chosen:
            tokens = errors[first][u][1]
            counts = " to ".join(f"{errors[m][u][2]:g}" for m in (first, name))
            lines += [
                f"- `{u}`, {tokens} words, errors: {counts}",
                f"    - reference: {refs[u]}",
                *(f"    - {m}: {texts[m][u]}" for m in (first, name)),
            ]
        lines += ["", *(["None.", ""] if not chosen else [])]
    return lines


def format_details(decode_dirs, dumpdir, sets):
    """Format error rates by speaker and the utterances that differ most, as Markdown.

    Args:
        decode_dirs: {model: decoding folders, one per seed}.
        dumpdir: Folder with a data directory per set.
        sets: Names of the sets.
    """
    lines = ["<!-- Generated by local/compare.py -->", "# By speaker and utterance", ""]
    if any(len(dirs) > 1 for dirs in decode_dirs.values()):
        lines += ["Errors are means over the seeds, texts the first seed's.", ""]
    for name in sets:
        errors = {
            model: mean_errors([read_errors(d / name / "score_wer") for d in dirs])
            for model, dirs in decode_dirs.items()
        }
        texts = {m: read_scp(d[0] / name / "text") for m, d in decode_dirs.items()}
        refs = read_scp(dumpdir / name / "text")
        lines += [f"## {name}", "", "### By speaker", "", *format_speakers(errors), ""]
        if len(errors) > 1:
            lines += ["### The utterances that differ most", ""]
        for model in list(errors)[1:]:
            lines += format_examples(errors, texts, refs, model)
    return "\n".join(lines).rstrip() + "\n"
