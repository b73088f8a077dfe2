# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The tables of several comparisons, from their JSON alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_reuse.comparison.intervals import interval
from espnet_reuse.comparison.runs import format_rates, read_runs

ROOT = Path(__file__).resolve().parents[2]
WORDS = 20


def read_table(markdown):
    """Return the cells of each line of a table in Markdown."""
    lines = (line for line in markdown.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def make_run(name, seed, errors, set_="test"):
    """A run with an utterance, of every speaker two, for each number of errors."""
    utterances = {f"u{i}": [f"s{i // 2}", WORDS, e] for i, e in enumerate(errors)}
    return {"asr_exp": f"exp/{name}_seed{seed}", "utterances": {set_: utterances}}


def comparison(*runs):
    """A comparison of runs, which `make_run` makes; models by their runs' folders."""
    models = {}
    for run in runs:
        name = run["asr_exp"].split("/")[1].split("_")[0]
        models.setdefault(name, {"runs": []})["runs"].append(run)
    return {"run": {"decoding": "decode_asr"}, "models": models}


FIRST = make_run("baseline", 2, [2, 2, 2, 2])
COMPARISON = comparison(
    make_run("baseline", 1, [4, 4, 2, 2]), FIRST, make_run("reuse2", 1, [1, 1, 1, 1])
)
OTHER = comparison(FIRST, make_run("reuse3", 1, [0, 1, 2, 5]))


@pytest.fixture
def write(tmp_path):
    """Write comparisons into files and return their paths."""

    def write(*comparisons):
        paths = [tmp_path / f"{i}.json" for i in range(len(comparisons))]
        for path, comparison in zip(paths, comparisons, strict=True):
            path.write_text(json.dumps(comparison))
        return paths

    return write


def test_models_of_several_files_are_compared_with_all_seeds_of_the_first(write):
    models = read_runs(write(COMPARISON, OTHER))
    seeds = [(name, len(runs)) for name, runs in models.items()]
    assert seeds == [("baseline", 2), ("reuse2", 1), ("reuse3", 1)]
    rows = read_table(format_rates(models))
    assert rows[2] == ["test", "baseline", "2", "12.5 ± 3.5", "", "", ""]
    assert rows[3][:5] == ["test", "reuse2", "1", "5.0", "-7.5"]
    assert rows[4][:5] == ["test", "reuse3", "1", "10.0", "-2.5"]
    baseline, reuse3 = (
        [run["test"] for run in models[m].values()] for m in ("baseline", "reuse3")
    )
    low, high = interval(baseline, reuse3)
    assert rows[4][5] == f"{low:+.1f} to {high:+.1f}"


@pytest.mark.parametrize(
    "other, message",
    [
        pytest.param(
            comparison(make_run("baseline", 2, [9, 2, 2, 2])),
            "exp/baseline_seed2 has other errors than in a file before",
            id="a run twice, and not the same",
        ),
        pytest.param(
            comparison(make_run("reuse3", 1, [0, 1])),
            "other references of test",
            id="other references",
        ),
        pytest.param(
            comparison(make_run("reuse3", 1, [0], "dev")),
            "no set in common",
            id="other sets",
        ),
        pytest.param({"models": []}, "is not a comparison.json", id="another JSON"),
        pytest.param({"models": {}}, "is not a comparison.json", id="no runs"),
        pytest.param(
            {**OTHER, "run": {"decoding": "decode_asr_lm"}},
            "the runs were decoded differently",
            id="another decoding",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(write, other, message):
    script = ROOT / "local/compare_runs.py"
    process = subprocess.run(
        [sys.executable, script, *write(COMPARISON, other)],
        capture_output=True,
        text=True,
    )
    assert process.returncode != 0
    (line,) = process.stderr.splitlines()
    assert line.startswith("compare_runs: error:") and message in line


def test_the_published_tables_are_what_the_published_runs_give():
    results = ROOT / "results/picovoice_coffee/decode_asr"
    table = read_table(format_rates(read_runs([results / "comparison.json"])))
    published = read_table((results / "RESULTS.md").read_text())
    for set_, model, _, rate, *difference in table[2:]:
        (row,) = (row for row in published if row[::2][:2] == [set_, model])
        assert row[3:7] == [rate, *difference]


PUBLISHED = [
    *ROOT.glob("results/**/comparison.json"),
    *ROOT.glob("results/*/d256*.json"),
]


@pytest.mark.parametrize("path", PUBLISHED, ids=str)
def test_every_published_comparison_makes_a_table(path):
    assert "error rate" in format_rates(read_runs([path]))
