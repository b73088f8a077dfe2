# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The data of ./run.sh --corpus picovoice_coffee, on a tiny corpus of its form."""

import pytest

from espnet_reuse.data.data_dir import read_scp


@pytest.fixture
def corpus(make_corpus, tmp_path):
    """Two utterances in each set; of the test set's, the second is certain."""
    root = make_corpus(tmp_path / "corpus", ("train", "dev", "test"))
    (root / "test/confidence").write_text("test0 B\ntest1 A\n")
    return root


@pytest.fixture
def prepare(repository, corpus):
    """A function that prepares the corpus and returns data/ and the last line."""
    recipe = repository.recipe_of("picovoice_coffee")

    def prepare(data=corpus, status=0):
        command = ("local/data.sh", "--data", data)
        found, output = repository.run(*command, cwd=recipe)
        assert found == status, output
        return recipe / "data", output.splitlines()[-1]

    return prepare


def segments_of(data_dir):
    """Return {utterance: (start, end)}, in seconds."""
    lines = read_scp(data_dir / "segments")
    return {utt_id: tuple(map(float, v.split()[1:])) for utt_id, v in lines.items()}


def test_what_is_certain_is_a_test_set_and_silence_is_left_out(prepare):
    data, _ = prepare()
    for name, ids in (
        ("train", ["spk0-train0", "spk1-train1"]),
        ("dev", ["spk0-dev0", "spk1-dev1"]),
        ("test_a", ["spk1-test1"]),
        ("test_b", ["spk0-test0"]),
    ):
        assert list(read_scp(data / name / "text")) == ids
        for start, end in segments_of(data / name).values():
            assert 0.3 < start < 0.5 and 1 < end < 1.2


def test_an_utterance_without_a_mark_is_named(prepare, corpus):
    (corpus / "test/confidence").write_text("test0 B\n")
    assert prepare(status=2)[1].endswith("has no mark, A or B, for: test1")


@pytest.mark.parametrize("folder", [None, "train"])
def test_a_folder_that_is_not_the_corpus_is_refused(prepare, corpus, folder):
    _, line = prepare(corpus / folder if folder else "", status=2)
    assert "--data: name the folder of the corpus" in line
