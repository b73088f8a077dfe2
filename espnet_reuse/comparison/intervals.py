# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Intervals of differences of error rates: a bootstrap over utterances and seeds."""

import statistics
from collections import defaultdict

import numpy as np

from espnet_reuse.errors import UserError

RESAMPLES = 9999

# {utterance id: (speaker, reference tokens, errors)} of one seed; or {speaker: ...}
Errors = dict[str, tuple[str, float, float]]


def by_speaker(utterances: Errors) -> Errors:
    """Add up the tokens and errors of each speaker's utterances."""
    sums = defaultdict(lambda: np.zeros(2))
    for speaker, tokens, errors in utterances.values():
        sums[speaker] += tokens, errors
    return {speaker: (speaker, *sums[speaker]) for speaker in sorted(sums)}


def interval(baseline: list[Errors], model: list[Errors]) -> tuple[float, float] | None:
    """Estimate the 95 % interval of the difference of two error rates.

    A paired bootstrap, 9,999 times: units (utterances, or speakers with all of theirs)
    are drawn with replacement, the same ones for both models, and the seeds of each
    model with replacement, too; the interval is between the percentiles 2.5 and 97.5.
    The variance of a resample of n seeds is too small by a factor of (n - 1) / n; the
    deviations of the seeds are made larger by the inverse of its root.

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
        n = len(seeds)
        table = np.array([[seed[unit][2] for seed in seeds] for unit in units])
        seed_errors = drawn @ table
        mean = seed_errors.mean(axis=1)
        deviation = (seed_errors * draw(n)).mean(axis=1) - mean
        errors.append(mean + deviation * np.sqrt(n / max(n - 1, 1)))
    tokens = drawn @ np.array([baseline[0][unit][1] for unit in units])
    differences = 100 * (errors[1] - errors[0]) / np.maximum(tokens, 1)
    return tuple(map(float, np.percentile(differences, [2.5, 97.5])))


def compare_errors(errors: dict[str, list[Errors]], set_: str) -> dict[str, dict]:
    """Return each model's error rates, and the intervals of the change from the first.

    Of the errors of each seed, by model; `set_` names the set in the message.

    Returns:
        For each model `error_rate`, the mean in %, `error_rates`, those of the seeds,
        `interval` and `interval_by_speaker`, which are None for the first model.

    Raises:
        UserError: Runs were scored on other utterances, speakers or words.
    """
    runs = [run for seeds in errors.values() for run in seeds]
    first, *others = ({u: tuple(row[:2]) for u, row in run.items()} for run in runs)
    if any(other != first for other in others):
        raise UserError(f"the runs were scored on other references of {set_}")
    tokens = max(sum(words for _, words in first.values()), 1)
    by_unit = {
        "interval": errors,
        "interval_by_speaker": {m: list(map(by_speaker, s)) for m, s in errors.items()},
    }
    baseline, compared = next(iter(errors)), {}
    for name, seeds in errors.items():
        rates = [100 * sum(row[2] for row in run.values()) / tokens for run in seeds]
        compared[name] = {"error_rate": statistics.mean(rates), "error_rates": rates}
        for key, runs in by_unit.items():
            pair = runs[baseline], runs[name]
            compared[name][key] = None if name == baseline else interval(*pair)
    return compared
