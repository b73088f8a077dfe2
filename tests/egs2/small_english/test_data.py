# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The data of ./run.sh --corpus small_english: three corpora in one training set."""

import pytest
from data_dir import read_scp


@pytest.fixture
def corpora(make_corpus, make_librispeech, tmp_path):
    return {
        "picovoice_coffee": make_corpus(tmp_path / "coffee", ("train", "dev", "test")),
        "speechocean762": make_corpus(tmp_path / "ocean", ("train", "test"), "00"),
        "librispeech": make_librispeech(
            tmp_path / "librispeech",
            {"train-clean-100": {"19/198": 21}, "test-other": {"367/130732": 3}},
        ),
    }


def prepare(repository, corpora):
    recipe = repository.recipe_of("small_english")
    options = [part for name in corpora for part in (f"--{name}", corpora[name])]
    return recipe / "data", *repository.run("local/data.sh", *options, cwd=recipe)


def test_training_and_development_sets_are_of_all_corpora(repository, corpora):
    data, status, output = prepare(repository, corpora)
    assert status == 0, output
    sizes = {n: len(read_scp(data / n / "text")) for n in ("train", "dev")}
    assert sizes == {"train": 2 + 1 + 20, "dev": 2 + 1 + 1}
    assert set(read_scp(data / "test_other/utt2spk").values()) == {"367"}
    assert "test-other: 3 of 2939 utterances" in (data / "partial").read_text()
    for name in ("train", "dev", "test_other"):
        assert set(read_scp(data / name / "segments")) == set(
            read_scp(data / name / "text")
        )


def test_a_corpus_that_is_missing_is_named(repository, corpora):
    del corpora["speechocean762"]
    _, status, output = prepare(repository, corpora)
    assert status != 0
    assert "--speechocean762: name the folder" in output.splitlines()[-1]
