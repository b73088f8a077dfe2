# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""local/compare_runs.py: the tables of comparisons, from their JSON alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from compare_runs import format_rates, read_runs
from compare_utterances import by_speaker, interval, points

ROOT = Path(__file__).resolve().parents[2]
WORDS = 20


def make_run(name, seed, errors, set_="test"):
    """A run with an utterance, of every speaker two, for each number of errors."""
    utterances = {f"u{i}": [f"s{i // 2}", WORDS, e] for i, e in enumerate(errors)}
    return {"asr_exp": f"exp/{name}_seed{seed}", "utterances": {set_: utterances}}


COMPARISON = {
    "models": {
        "baseline": {
            "runs": [
                make_run("baseline", 1, [4, 4, 2, 2]),
                make_run("baseline", 2, [2, 2, 2, 2]),
            ]
        },
        "reuse2": {"runs": [make_run("reuse2", 1, [1, 1, 1, 1])]},
    }
}
OTHER = {
    "models": {
        "baseline": {"runs": [make_run("baseline", 2, [2, 2, 2, 2])]},
        "reuse3": {"runs": [make_run("reuse3", 1, [0, 1, 2, 5])]},
    }
}


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
    assert {m: len(seeds) for m, seeds in models.items()} == {
        "baseline": 2,
        "reuse2": 1,
        "reuse3": 1,
    }
    rows = [line.split("|")[1:-1] for line in format_rates(models).splitlines()]
    assert rows[2] == ["test", "baseline", "2", "12.5 ± 3.5", "", "", ""]
    assert rows[3][:5] == ["test", "reuse2", "1", "5.0", "-7.5"]
    assert rows[4][:5] == ["test", "reuse3", "1", "10.0", "-2.5"]
    baseline, reuse3 = (
        [run["test"] for run in models[m].values()] for m in ("baseline", "reuse3")
    )
    assert rows[4][5] == points(interval(baseline, reuse3))
    of_speakers = ([by_speaker(e) for e in seeds] for seeds in (baseline, reuse3))
    assert rows[4][6] == points(interval(*of_speakers))


@pytest.mark.parametrize(
    "other, message",
    [
        pytest.param(
            {"models": {"baseline": {"runs": [make_run("baseline", 2, [9, 2, 2, 2])]}}},
            "exp/baseline_seed2 has other errors than in a file before",
            id="a run twice, and not the same",
        ),
        pytest.param(
            {"models": {"reuse3": {"runs": [make_run("reuse3", 1, [0, 1])]}}},
            "other references of test",
            id="other references",
        ),
        pytest.param(
            {"models": {"reuse3": {"runs": [make_run("reuse3", 1, [0], "dev")]}}},
            "no set in common",
            id="other sets",
        ),
        pytest.param({"models": []}, "is not a comparison.json", id="another JSON"),
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
    assert line.startswith("compare_runs.py: error:") and message in line


def test_the_published_tables_are_what_the_published_runs_give():
    results = ROOT / "results/picovoice_coffee/decode_asr"
    table = format_rates(read_runs([results / "comparison.json"]))
    published = (results / "RESULTS.md").read_text()
    for line in table.splitlines()[2:]:
        set_, model, _, rate, *difference = line.split("|")[1:-1]
        row = next(
            row.split("|")[1:-1]
            for row in published.splitlines()
            if row.startswith(f"|{set_}|") and f"|{model}|" in row
        )
        assert row[3:7] == [rate, *difference]
