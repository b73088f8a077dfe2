# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Intervals of differences of error rates, speakers and examples."""

import json
from pathlib import Path

import numpy as np
import pytest

from espnet_reuse.comparison.intervals import by_speaker, compare_errors, interval
from espnet_reuse.comparison.tables import format_examples, format_speakers
from espnet_reuse.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results/picovoice_coffee/decode_asr/comparison.json"

WORDS = 20


def utterances(errors, speakers=None):
    speakers = range(len(errors)) if speakers is None else speakers
    return {
        f"u{i:04d}": (f"s{speaker}", WORDS, error)
        for i, (error, speaker) in enumerate(zip(errors, speakers, strict=True))
    }


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_interval_is_that_of_the_normal_distribution_for_many_utterances(rng):
    baseline = rng.poisson(4, 3000)
    model = baseline + rng.integers(-2, 2, 3000)  # half an error fewer on average
    difference = 100 * (model - baseline) / WORDS
    half = 1.96 * difference.std() / np.sqrt(3000)
    low, high = interval([utterances(baseline)], [utterances(model)])
    assert low == pytest.approx(difference.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(difference.mean() + half, abs=0.1 * half)


def test_pairs_are_compared_not_two_samples(rng):
    # utterances differ much, the models hardly: unpaired this would not be seen
    baseline = rng.integers(0, 20, 500)
    model = baseline + (np.arange(500) % 4 == 0)
    low, high = interval([utterances(baseline)], [utterances(model)])
    assert 0 < low < 100 * 0.25 / WORDS < high < 2


def test_equal_models_differ_by_nothing():
    errors = utterances([0, 1, 2])
    assert interval([errors], [errors]) == (0, 0)


def test_one_utterance_has_no_interval():
    assert interval([utterances([1])], [utterances([2])]) is None


def test_errors_that_go_with_the_speaker_widen_the_interval_by_speaker(rng):
    speakers = np.repeat(np.arange(20), 25)
    baseline = utterances(np.zeros(500), speakers)
    model = utterances(rng.integers(-1, 2, 20)[speakers], speakers)
    low, high = interval([baseline], [model])
    wide_low, wide_high = interval([by_speaker(baseline)], [by_speaker(model)])
    assert wide_low < low < high < wide_high


def test_seeds_that_differ_widen_the_interval(rng):
    baseline = [utterances(rng.poisson(4, 500)) for _ in range(5)]
    alike = [utterances([e + 1 for _, _, e in s.values()]) for s in baseline]
    apart = [
        utterances([max(e + more, 0) for _, _, e in seed.values()])
        for seed, more in zip(baseline, (-2, -1, 1, 3, 4), strict=True)
    ]
    low, high = interval(baseline, alike)
    wide_low, wide_high = interval(baseline, apart)
    assert wide_low < low < 100 / WORDS < high < wide_high


@pytest.mark.parametrize("count", [3, 5, 20])
def test_seeds_are_drawn_for_each_model_by_itself_and_vary_without_bias(rng, count):
    # a seed's number means nothing: their spread is that of two independent samples
    utts = rng.integers(8, 12, 2000)
    more = np.arange(count) % 3 - 1
    seeds = [utterances(utts + m) for m in more]
    low, high = interval(seeds, seeds)
    half = 1.96 * np.sqrt(2 * more.var(ddof=1) / count) * 100 / WORDS
    assert (low, high) == pytest.approx((-half, half), rel=0.1)


def test_the_published_rates_and_intervals_are_reproduced():
    models = json.loads(PUBLISHED.read_text())["models"]
    for set_ in models["baseline"]["scores"]:
        compared = compare_errors(
            {
                name: [run["utterances"][set_] for run in model["runs"]]
                for name, model in models.items()
            },
            set_,
        )
        for name, wer in compared.items():
            for key, value in wer.items():
                published = models[name]["scores"][set_]["wer"][key]
                assert value == (published and pytest.approx(published, rel=1e-12))


def test_models_scored_on_other_references_are_refused():
    errors = {"baseline": [{"u0": ("s0", 3, 1)}], "reuse2": [{"u0": ("s0", 4, 1)}]}
    with pytest.raises(UserError, match="other references of test"):
        compare_errors(errors, "test")


def test_speakers_and_utterances_are_compared_side_by_side():
    speakers = [1, 1, 2, 2]
    seeds = {
        "baseline": [utterances([4, 0, 1, 2], speakers)],
        "reuse3": [utterances(e, speakers) for e in ([0, 5, 1, 0], [2, 5, 1, 1])],
    }
    rows = [line.split() for line in format_speakers(seeds).splitlines()[2:]]
    assert [row[1::2] for row in rows] == [
        ["s1", "40", "10.0", "15.0"],
        ["s2", "40", "7.5", "3.8"],
    ]
    ids = seeds["baseline"][0]
    refs = {u: f"ref of {u}" for u in ids}
    texts = {m: {u: f"{m} of {u}" for u in ids} for m in seeds}
    lines = "\n".join(format_examples(seeds, texts, refs, "reuse3"))
    fewer, more = lines.split("more")
    assert fewer.index("u0000") < fewer.index("u0003")  # the largest gain first
    assert "`u0000`, 20 words, errors: 4 to 1" in fewer and "u0001" not in fewer
    assert "`u0003`, 20 words, errors: 2 to 0.5" in fewer
    assert "`u0001`, 20 words, errors: 0 to 5" in more
    for line in ("reference: ref of u0001", "reuse3: reuse3 of u0001"):
        assert f"    - {line}" in more
    assert "u0002" not in fewer + more  # no difference
