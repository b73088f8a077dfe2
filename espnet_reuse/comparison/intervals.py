# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Intervals of differences of error rates: a bootstrap over utterances and seeds."""

import statistics
from collections import defaultdict

import numpy as np

from espnet_reuse.errors import UserError

RESAMPLES = 9999

# {utterance id: (speaker, reference tokens, errors)} of one seed; ids of speakers
# instead of utterances after `by_speaker`
Errors = dict[str, tuple[str, float, float]]


def mean_errors(seeds: list[Errors]) -> Errors:
    """Average the errors of each utterance over the seeds."""
    return {
        unit: (speaker, tokens, np.mean([seed[unit][2] for seed in seeds]))
        for unit, (speaker, tokens, _) in seeds[0].items()
    }


def by_speaker(utterances: Errors) -> Errors:
    """Add up the tokens and errors of each speaker's utterances."""
    sums = defaultdict(lambda: np.zeros(2))
    for speaker, tokens, errors in utterances.values():
        sums[speaker] += tokens, errors
    return {speaker: (speaker, *sums[speaker]) for speaker in sorted(sums)}


def require_same_references(runs: list[Errors], name: str) -> None:
    """Check that runs were scored on the same utterances, speakers and words.

    Args:
        runs: Errors of each run.
        name: The set, for the error.

    Raises:
        UserError: They were not.
    """
    first, *others = ({u: tuple(row[:2]) for u, row in run.items()} for run in runs)
    if any(other != first for other in others):
        raise UserError(f"the runs were scored on other references of {name}")


def interval(baseline: list[Errors], model: list[Errors]) -> tuple[float, float] | None:
    """Estimate the 95 % interval of the difference of two error rates.

    A paired bootstrap, 9,999 times: units (utterances, or speakers with all of theirs)
    are drawn with replacement, the same ones for both models, and the seeds of each
    model with replacement, too; the interval is between the percentiles 2.5 and 97.5.
    The variance of a resample of n seeds is too small by a factor of (n - 1) / n; the
    deviations of the seeds are made larger by the inverse of its root.

    Args:
        baseline: Errors of each seed.
        model: The same of the other model, with the same units.

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
        seed_errors = (
            drawn @ np.array([[seed[u][2] for u in units] for seed in seeds]).T
        )
        mean = seed_errors.mean(axis=1)
        deviation = (seed_errors * draw(n)).mean(axis=1) - mean
        errors.append(mean + deviation * np.sqrt(n / max(n - 1, 1)))
    tokens = drawn @ np.array([baseline[0][unit][1] for unit in units])
    differences = 100 * (errors[1] - errors[0]) / np.maximum(tokens, 1)
    return tuple(map(float, np.percentile(differences, [2.5, 97.5])))


def interval_by_speaker(
    baseline: list[Errors], model: list[Errors]
) -> tuple[float, float] | None:
    """Estimate the `interval` with speakers for units; arguments as there."""
    return interval(*([by_speaker(seed) for seed in x] for x in (baseline, model)))


def mean_and_spread(rates: list[float]) -> str:
    """Format the mean of error rates, with their standard deviation if there is one."""
    spread = f" ± {statistics.stdev(rates):.1f}" if len(rates) > 1 else ""
    return f"{statistics.mean(rates):.1f}{spread}"


def points(limits: tuple[float, float] | None) -> str:
    """Format an interval, empty if there is none."""
    return "" if limits is None else "{:+.1f} to {:+.1f}".format(*limits)
