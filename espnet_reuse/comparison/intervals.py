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


def intervals_to_first(errors: dict[str, list[Errors]], set_: str) -> dict[str, dict]:
    """Estimate the `interval` of each model to the first, of utterances and speakers.

    Args:
        errors: {model: errors of each seed}.
        set_: The set, for the error.

    Returns:
        {model: {"interval": ..., "interval_by_speaker": ...}}, both None for the first.

    Raises:
        UserError: Runs were scored on other utterances, speakers or words.
    """
    runs = [run for seeds in errors.values() for run in seeds]
    first, *others = ({u: tuple(row[:2]) for u, row in run.items()} for run in runs)
    if any(other != first for other in others):
        raise UserError(f"the runs were scored on other references of {set_}")
    of_speakers = {name: list(map(by_speaker, seeds)) for name, seeds in errors.items()}
    baseline = next(iter(errors))
    return {
        name: {
            key: None if name == baseline else interval(units[baseline], units[name])
            for key, units in (
                ("interval", errors),
                ("interval_by_speaker", of_speakers),
            )
        }
        for name in errors
    }


def mean_and_spread(rates: list[float]) -> str:
    """Format the mean of error rates, with their standard deviation if there is one."""
    spread = f" ± {statistics.stdev(rates):.1f}" if len(rates) > 1 else ""
    return f"{statistics.mean(rates):.1f}{spread}"


def points(limits: tuple[float, float] | None) -> str:
    """Format an interval, empty if there is none."""
    return "" if limits is None else "{:+.1f} to {:+.1f}".format(*limits)
