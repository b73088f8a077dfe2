# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The data of the recipes speechocean762 and speechocean762_phn."""

import pytest
from data_dir import read_scp


@pytest.fixture
def corpus(make_corpus, tmp_path):
    """Two utterances in each set, of two words; no dev set, as the real corpus."""
    root = make_corpus(tmp_path / "corpus", ("train", "test"))
    for name in ("train", "test"):
        (root / name / "text").write_text(f"{name}0 COFFEE I\n{name}1 COFFEE I\n")
    (root / "resource").mkdir()
    (root / "resource/text-phone").write_text(
        "".join(
            f"{name}{n}.0\tK_B AO{n}_I F_I IY0_E\n{name}{n}.1\tAY1_S\n"
            for name in ("train", "test")
            for n in range(2)
        )
    )
    return root


@pytest.mark.parametrize("corpus_name", ["speechocean762", "speechocean762_phn"])
def test_phones_stand_for_the_words_of_every_set(repository, corpus, corpus_name):
    recipe = repository.recipe_of(corpus_name)
    status, output = repository.run("local/data.sh", "--data", corpus, cwd=recipe)
    assert status == 0, output
    for name in ("train", "dev", "test"):
        words, phones = (
            read_scp(recipe / "data" / data_dir / "text")
            for data_dir in (name, f"{name}_phn")
        )
        assert phones == dict.fromkeys(words, "K AO F IY AY")
        assert set(words.values()) == {"COFFEE I"}


def test_dev_is_of_speakers_held_out(repository, corpus):
    recipe = repository.recipe_of("speechocean762_phn")
    status, output = repository.run("local/data.sh", "--data", corpus, cwd=recipe)
    assert status == 0, output
    speakers = [
        set(read_scp(recipe / "data" / name / "utt2spk").values())
        for name in ("train_phn", "dev_phn")
    ]
    assert not speakers[0] & speakers[1] and all(speakers)


@pytest.mark.parametrize("missing", ["test1.", "test1.1"])
def test_an_utterance_without_phones_of_a_word_is_named(repository, corpus, missing):
    path = corpus / "resource/text-phone"
    path.write_text(path.read_text().replace(missing, "other"))
    recipe = repository.recipe_of("speechocean762_phn")
    status, output = repository.run("local/data.sh", "--data", corpus, cwd=recipe)
    assert status != 0
    message = "text-phone has not the phones of every word of spk1-test1"
    assert message in output.splitlines()[-1]


def test_a_folder_that_is_not_the_corpus_is_refused(repository, corpus):
    recipe = repository.recipe_of("speechocean762")
    status, output = repository.run(
        "local/data.sh", "--data", corpus / "train", cwd=recipe
    )
    assert status != 0
    assert "--data: name the folder of the corpus" in output.splitlines()[-1]
