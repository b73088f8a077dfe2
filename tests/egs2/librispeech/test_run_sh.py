# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""./run.sh --corpus librispeech_100, on a small corpus of LibriSpeech's form."""

import json
import re
import shlex

import pytest

CORPUS = {
    "train-clean-100": {"19/198": 9, "26/495": 4, "127/4": 8},
    "test-other": {"367/130732": 3, "533/1066": 3},
}
SMALL = (
    "--max_epoch 2 --batch_type unsorted --batch_size 6 --accum_grad 1 --use_amp false "
    "--num_workers 0 --encoder_conf output_size=32 --encoder_conf num_blocks=3 "
    "--decoder_conf num_blocks=1"
)


@pytest.fixture(scope="module")
def corpus(make_librispeech, tmp_path_factory):
    return make_librispeech(tmp_path_factory.mktemp("corpus"), CORPUS)


@pytest.fixture(scope="module")
def repository(copy_repository):
    return copy_repository()


def command(
    corpus, *options, models="baseline reuse3", parts="train-clean-100 test-other"
):
    return [
        *("./run.sh", "--corpus", "librispeech_100", "--librispeech", corpus),
        *("--parts", parts, "--models", models, "--nbpe", "30", "--asr_args", SMALL),
        *("--inference_args", "--beam_size 2"),
        *options,
    ]


PARTIAL = ("--allow_partial", "true")


def last_line(output):
    return output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "options, message",
    [
        pytest.param(
            "--librispeech /no/where --allow_partial true",
            "data_prep.py: error: --librispeech: no corpus in '/no/where'",
            id="no corpus",
        ),
        pytest.param(
            "--parts train-clean-100 --allow_partial true",
            "--parts: there is no test set among them: add one of test-clean test-o",
            id="no test part",
        ),
        pytest.param(
            "--seeds '1 two'", "--seeds: 'two' is not a whole number", id="seeds"
        ),
        pytest.param("--resume maybe", "--resume: 'maybe' is not", id="resume"),
        pytest.param("--ngpu 99", "99 GPUs are asked for, PyTorch finds", id="GPUs"),
    ],
)
def test_what_cannot_end_well_is_said_in_one_line(repository, corpus, options, message):
    status, output = repository.run(*command(corpus), *shlex.split(options))
    assert status != 0 and message in last_line(output), output


@pytest.fixture(scope="module")
def compared(repository, corpus):
    """The repository after ./run.sh has gone through all stages."""
    repository.command = command(corpus, *PARTIAL, "--speed_perturb_factors", "0.9 1.0")
    repository.status, repository.output = repository.run(*repository.command)
    assert repository.status == 0, repository.output
    return repository


@pytest.mark.slow
def test_all_stages_end_in_a_table_that_says_that_the_corpus_is_partial(compared):
    exp = compared.recipe_of("librispeech_100") / "exp"
    comparison = json.loads((exp / "comparison.json").read_text())
    assert list(comparison["models"]) == ["baseline", "reuse3"]
    for name, model in comparison["models"].items():
        assert list(model["scores"]) == ["test_other"]
        for times in (model["to_text"]["beam 2"], model["to_text"]["best path"]):
            assert times["total_ms"] > times["encoder_ms"] > 0
        assert f"  {name} " in compared.output
    low, high = comparison["models"]["reuse3"]["scores"]["test_other"]["wer"][
        "interval"
    ]
    assert low <= high
    facts = [
        "- test-other: 6 of 2939 utterances",
        "- train-clean-100: 21 of 28539 utterances",
        "- dev: 1 utterances held out of the training part",
    ]
    results = [exp / "RESULTS.md", *exp.glob("asr_train*/RESULTS.md")]
    assert len(results) == 3
    for path in results:
        assert all(fact in path.read_text() for fact in facts), path
    # both models decode with the checkpoint that their criterion chose
    assert len(list(exp.glob("asr_train*/valid.acc.ave.pth"))) == 2
    details = (exp / "comparison_details.md").read_text()
    assert "| 367 " in details and "| 533 " in details


@pytest.mark.slow
def test_training_data_are_perturbed_and_the_held_out_are_not_in_them(compared):
    dump = compared.recipe_of("librispeech_100") / "dump/raw"
    train, dev = (
        {line.split()[0] for line in (dump / name / "text").open()}
        for name in ("train_clean_100_sp", "dev")
    )
    assert len(train) == 40 and len(dev) == 1
    assert {f"sp0.9-{u}" for u in train if not u.startswith("sp")} < train
    assert not {u.removeprefix("sp0.9-") for u in train} & dev


@pytest.mark.slow
def test_a_model_with_ctc_alone_is_trained_with_each_seed(compared, corpus):
    status, output = compared.run(
        *command(corpus, *PARTIAL, models="ctc_reuse3"),
        *("--speed_perturb_factors", "0.9 1.0", "--seeds", "1 2"),
        *("--inference_args", ""),
    )
    assert status == 0, output
    assert "data preparation: done already" in output
    exp = compared.recipe_of("librispeech_100") / "exp"
    model = json.loads((exp / "comparison.json").read_text())["models"]["ctc_reuse3"]
    wer = model["scores"]["test_other"]["wer"]
    assert model["seeds"] == len(wer["error_rates"]) == 2
    assert wer["error_rate"] == pytest.approx(sum(wer["error_rates"]) / 2)
    assert f"{wer['error_rate']:.1f} ± " in output
    # the checkpoint that its criterion chose
    assert len(list(exp.glob("asr_train*ctc*/valid.cer_ctc.ave.pth"))) == 2
    assert list(model["to_text"]) == ["best path"]


@pytest.mark.slow
def test_a_language_model_is_trained_once_and_used_in_decoding(compared, corpus):
    recipe = compared.recipe_of("librispeech_100")
    text = recipe / "data/local/other_text/text"
    assert text.read_text() == ""
    # nothing to download then
    text.write_text("".join(f"librispeech_lng_{n:08d} GO ON\n" for n in range(8)))
    lm_args = (
        "--max_epoch 1 --lm_conf layer=1 --lm_conf unit=32 --lm_conf att_unit=32 "
        "--lm_conf head=2 --lm_conf embed_unit=16 --batch_bins 2000 --use_amp false"
    )
    use = (
        *("--speed_perturb_factors", "0.9 1.0", "--use_lm", "true"),
        *("--lm_args", lm_args, "--inference_config", "conf/decode_asr_lm.yaml"),
    )
    status, output = compared.run(*command(corpus, *PARTIAL), *use)
    assert status == 0, output
    assert "data preparation: done already" in output
    assert "training" not in re.findall(r"Stage 3: (\w+) .*: done in", output)
    assert "GO ON" in (recipe / "dump/raw/lm_train.txt").read_text()
    (log,) = recipe.glob(
        "exp/asr_train*reuse3*/decode_asr_lm*/test_other/logdir/*.1.log"
    )
    assert "--lm_file exp/lm_train_lm_transformer" in log.read_text()
    status, output = compared.run(*command(corpus, *PARTIAL), *use)
    assert status == 0 and "Stage 2: language model: done already" in output


@pytest.mark.slow
def test_the_recipe_of_960_hours_prepares_the_parts_that_are_there(repository, corpus):
    to_tokens = command(corpus, *PARTIAL, "--stop_stage", "2")
    to_tokens[to_tokens.index("librispeech_100")] = "librispeech"
    status, output = repository.run(*to_tokens, "--speed_perturb_factors", "")
    assert status == 0, output
    recipe = repository.recipe_of("librispeech")
    text = (recipe / "dump/raw/train_960/text").read_text()
    assert len(text.splitlines()) == 20
    assert list(recipe.glob("data/*token_list/*/tokens.txt"))
