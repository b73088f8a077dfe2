# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""local/study.sh: cells are run, left alone once done, and compared."""

import json
import shutil

import pytest
import yaml

STUDY = ("local/study.sh", "--corpus", "mini_an4")
MODELS = ("--models", "reuse3 baseline", "--seeds", "1 2")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--corpus", "an5"), "--corpus: no recipe 'an5'"),
        (("--seeds", "1 two"), "--seeds: 'two' is not a seed"),
        (("--jobs", "0"), "--jobs: '0' is not a positive integer"),
        (("--asr_args", "--max_epoch 1"), "--asr_args: the study sets it"),
        (("--asr-args", "--max_epoch 1"), "--asr-args: the study sets it"),
        (("--inference-config", "x.yaml"), "--inference_config: there is no file"),
        (("--inference_config", "x.yaml"), "--inference_config: there is no file"),
        (("--models",), "--models needs a value"),
        (("baseline",), "unexpected argument 'baseline'"),
        ((*MODELS[:1], "reuse99"), "--models: no model 'reuse99'"),
    ],
)
def test_bad_options_are_named(repository, options, message):
    status, output = repository.run(*STUDY, *options)
    assert status != 0
    assert message in output.splitlines()[-1]


@pytest.fixture(scope="module")
def studied(copy_repository):
    """A repository with a study of two models and two seeds, trained for a step."""
    repository = copy_repository()
    for path in repository.recipe.glob("conf/**/train_asr_*.yaml"):
        short = {"max_epoch": 1, "num_iters_per_epoch": 1}
        config = yaml.safe_load(path.read_text()) | short
        path.write_text(yaml.safe_dump(config))
    status, output = repository.run(*STUDY, *MODELS)
    assert status == 0, output
    return repository


def read(repository):
    """Return {model: [(error counts of utterances, epochs) of each seed]}."""
    path = repository.recipe / "exp/study/decode_asr/comparison.json"
    models = json.loads(path.read_text())["models"]
    return {
        name: [(run["utterances"], run["epochs"]) for run in model["runs"]]
        for name, model in models.items()
    }


@pytest.mark.slow
def test_every_run_stands_in_the_results_the_baseline_first(studied):
    runs = read(studied)
    assert list(runs) == ["baseline", "reuse3"]
    for of_model in runs.values():
        assert len(of_model) == 2
        for utterances, epochs in of_model:
            assert epochs == 1 and len(utterances["test"]) == 2


@pytest.mark.slow
def test_results_tell_the_commit_of_the_training_and_no_folder(studied, tmp_path):
    options = ("--lm_train_text", tmp_path / "text")
    path = studied.recipe / "exp/asr_train_asr_conformer_seed1/commit"
    commit = path.read_text().strip()
    path.write_text("an earlier one\n")
    for done in studied.recipe.glob("exp/.done_compare"):
        done.unlink()
    status, output = studied.run(*STUDY, *MODELS, *options)
    assert status == 0, output
    results = (studied.recipe / "exp/study/decode_asr/RESULTS.md").read_text()
    assert f"- trained at: `{', '.join(sorted([commit, 'an earlier one']))}`" in results
    assert str(tmp_path) not in results and "DIR" in results


@pytest.mark.slow
def test_a_cell_that_is_run_again_has_the_same_errors_and_others_are_left_alone(
    studied,
):
    before = read(studied)
    exp = studied.recipe / "exp"
    kept = exp / "asr_train_asr_conformer_seed2/checkpoint.pth"
    trained_at = kept.stat().st_mtime_ns
    shutil.rmtree(exp / "asr_train_asr_conformer_reuse3_seed2")
    status, output = studied.run(*STUDY, *MODELS)
    assert status == 0, output
    assert read(studied) == before
    assert kept.stat().st_mtime_ns == trained_at


@pytest.mark.slow
def test_another_decoding_has_results_of_its_own_and_trains_nothing(studied):
    before = read(studied)
    trained = [
        (path, path.stat().st_mtime_ns)
        for path in sorted(studied.recipe.glob("exp/asr_*/checkpoint.pth"))
    ]
    config = "conf/decode_greedy.yaml"
    (studied.recipe / config).write_text("beam_size: 1\n")
    status, output = studied.run(*STUDY, *MODELS, "--inference_config", config)
    assert status == 0, output
    assert len(trained) == 4
    assert all(path.stat().st_mtime_ns == at for path, at in trained)
    results = studied.recipe / "exp/study/decode_greedy/RESULTS.md"
    assert "decode_greedy" in results.read_text()
    assert read(studied) == before


@pytest.mark.slow
def test_the_first_model_is_the_baseline_where_there_is_no_other(studied, tmp_path):
    before = read(studied)
    options = ("--models", "reuse3", "--seeds", "1 2", "--results", str(tmp_path))
    status, output = studied.run(*STUDY, *options)
    assert status == 0, output
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    (model,) = comparison["models"].values()
    assert [run["utterances"] for run in model["runs"]] == [
        utterances for utterances, _ in before["reuse3"]
    ]
    assert read(studied) == before


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_other_models_are_compared(studied):
    exp = studied.recipe / "exp/asr_train_asr_conformer_reuse3_seed2"
    (exp / ".done_train").unlink()
    (exp / ".settings").write_text("other settings\n")
    status, output = studied.run(*STUDY, *MODELS)
    assert status != 0
    assert "reuse3, seed 2: failed" in output and "other settings" in output
    assert "not done: reuse3/2" in output.splitlines()[-1]
    assert list(read(studied)) == ["baseline"]
