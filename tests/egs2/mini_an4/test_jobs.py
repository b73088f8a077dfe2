# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Models and seeds side by side: ./run.sh --jobs 2 --seeds "1 2" --results DIR."""

import json
import re
import shutil

import pytest
import yaml

COMMAND = (
    *("./run.sh", "--models", "baseline reuse3", "--seeds", "1 2", "--jobs", "2"),
    *("--asr_args", "--max_epoch 1 --num_iters_per_epoch 1", "--test_sets", "test"),
)
TAG = "exp/asr_train_asr_conformer{}_max_epoch_1_num_iters_per_epoch_1_seed{}"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studied(copy_repository):
    """A repository with two models and two seeds, trained for a step, published."""
    repository = copy_repository()
    repository.published = repository.root / "published"
    status, output = repository.run(*COMMAND, "--results", repository.published)
    assert status == 0, output
    return repository


def read(folder):
    """Return {model: [(error counts of utterances, epochs) of each seed]}."""
    models = json.loads((folder / "comparison.json").read_text())["models"]
    return {
        name: [(run["utterances"], run["epochs"]) for run in model["runs"]]
        for name, model in models.items()
    }


def test_every_run_is_in_the_published_results_with_its_commit_and_no_folder(studied):
    runs = read(studied.published)
    assert list(runs) == ["baseline", "reuse3"]
    for seeds in runs.values():
        assert [epochs for _, epochs in seeds] == [1, 1]
        assert all(len(utterances["test"]) == 2 for utterances, _ in seeds)
    names = {path.name for path in studied.published.iterdir()}
    assert names == {"RESULTS.md", "comparison.json", "comparison.png"}
    results = (studied.published / "RESULTS.md").read_text()
    commit = (studied.recipe / TAG.format("", 1) / "commit").read_text().strip()
    assert f"- trained at: `{commit}`" in results
    command = studied.run("./run.sh", *COMMAND[1:], "--results", "somewhere/else")
    assert command[0] == 0
    results = (studied.root / "somewhere/else/RESULTS.md").read_text()
    assert "--results somewhere/else" in results


def test_a_cell_that_is_run_again_has_the_same_errors_and_others_are_left_alone(
    studied,
):
    before = read(studied.published)
    kept = studied.recipe / TAG.format("", 2) / "checkpoint.pth"
    trained_at = kept.stat().st_mtime_ns
    shutil.rmtree(studied.recipe / TAG.format("_reuse3", 2))
    status, output = studied.run(*COMMAND)
    assert status == 0, output
    assert read(studied.recipe / "exp") == before
    assert kept.stat().st_mtime_ns == trained_at


def test_another_decoding_has_results_of_its_own_and_trains_nothing(studied):
    (studied.recipe / "conf/decode_greedy.yaml").write_text("beam_size: 1\n")
    config = ("--inference_config", "conf/decode_greedy.yaml")
    status, output = studied.run(*COMMAND, *config)
    done = re.findall("training .*, seed .: done already", output)
    assert status == 0 and len(done) == 4, output
    assert "training baseline, seed 1: epoch" not in output
    results = (studied.recipe / "exp/RESULTS.md").read_text()
    assert "- decoding: `decode_greedy, decode_asr_ctc_best_path`" in results
    done = "decoding baseline, seed 1, test, best path: done already"
    assert done in output  # both comparisons have it


def test_a_failed_cell_is_named_with_its_reason_and_the_rest_is_compared(studied):
    """A start that is not there is found by the training, not by the check."""
    tuning = studied.recipe / "conf/tuning"
    tuning.mkdir(exist_ok=True)
    path = studied.recipe / "conf/train_asr_conformer_reuse.yaml"
    config = yaml.safe_load(path.read_text()) | {"init_param": ["nowhere.pth"]}
    (tuning / "train_asr_conformer_lost.yaml").write_text(yaml.safe_dump(config))
    command = list(COMMAND)
    command[command.index("baseline reuse3")] = "baseline lost reuse3"
    status, output = studied.run(*command)
    assert status != 0
    for seed, line in enumerate(output.strip().splitlines()[-2:], 1):
        assert line.startswith(
            f"run.sh: error: Stage 3: training lost, seed {seed} failed: "
        )
        assert "No such file" in line and "run_train.log)" in line
    assert list(read(studied.recipe / "exp")) == ["baseline", "reuse3"]
