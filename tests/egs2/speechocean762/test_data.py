# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The data of ./run.sh --corpus speechocean762: phones or words."""

import pytest

from espnet_reuse.data.data_dir import read_scp


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


@pytest.fixture
def prepare(repository, corpus):
    """A function that prepares the corpus; it returns data/, the status, the output."""
    recipe = repository.recipe_of("speechocean762")

    def prepare(*options, folder=""):
        command = ("local/data.sh", "--data", corpus / folder, *options)
        return recipe / "data", *repository.run(*command, cwd=recipe)

    return prepare


@pytest.mark.parametrize(
    "options, text",
    [
        ((), "K AO F IY AY"),
        (("--token_type", "word"), "K AO F IY AY"),
        (("--token_type", "char"), "COFFEE I"),
    ],
)
def test_text_is_phones_or_words_and_dev_is_of_speakers_held_out(
    prepare, options, text
):
    data, status, output = prepare(*options)
    assert status == 0, output
    for name in ("train", "dev", "test"):
        assert set(read_scp(data / name / "text").values()) == {text}
    speakers = [
        set(read_scp(data / name / "utt2spk").values()) for name in ("train", "dev")
    ]
    assert not speakers[0] & speakers[1] and all(speakers)


@pytest.mark.parametrize("missing", ["test1.", "test1.1"])
def test_an_utterance_without_phones_of_a_word_is_named(prepare, corpus, missing):
    path = corpus / "resource/text-phone"
    path.write_text(path.read_text().replace(missing, "other"))
    _, status, output = prepare()
    assert status != 0
    message = "text-phone has not the phones of every word of spk1-test1"
    assert message in output.splitlines()[-1]


@pytest.mark.parametrize(
    "folder, options, message",
    [
        ("train", (), "--data: name the folder of the corpus"),
        ("", ("--token_type", "bpe"), "--token_type: 'bpe' is neither word, for"),
    ],
)
def test_what_is_not_the_corpus_or_no_kind_of_text_is_refused(
    prepare, folder, options, message
):
    _, status, output = prepare(*options, folder=folder)
    assert status != 0
    assert message in output.splitlines()[-1]
