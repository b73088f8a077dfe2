# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The data of ./run.sh --corpus picovoice_coffee, on a tiny corpus of its form."""

import pytest
import soundfile

from espnet_reuse.data.data_dir import read_scp


@pytest.fixture
def corpus(make_corpus, tmp_path):
    """Two utterances in each set; of the test set's, the second is certain."""
    root = make_corpus(tmp_path / "corpus", ("train", "dev", "test"))
    (root / "test/confidence").write_text("test0 B\ntest1 A\n")
    return root


def prepare(repository, data):
    recipe = repository.recipe_of("picovoice_coffee")
    return recipe / "data", *repository.run("local/data.sh", "--data", data, cwd=recipe)


def test_what_is_certain_is_a_test_set_of_its_own(repository, corpus):
    data, status, output = prepare(repository, corpus)
    assert status == 0, output
    assert list(read_scp(data / "test_a/text")) == ["spk1-test1"]
    assert list(read_scp(data / "test_b/text")) == ["spk0-test0"]
    assert len(read_scp(data / "train/text")) == 2


def test_an_utterance_without_a_mark_is_named(repository, corpus):
    (corpus / "test/confidence").write_text("test0 B\n")
    _, status, output = prepare(repository, corpus)
    assert status != 0
    assert "has no mark, A or B, for: test1" in output.splitlines()[-1]


def test_speech_that_is_cut_otherwise_is_perturbed_anew(repository, corpus):
    data, status, output = prepare(repository, corpus)
    assert status == 0, output
    lines = (corpus / "train/wav.scp").read_text().splitlines()
    audio = corpus / lines[0].split()[1]
    wav, rate = soundfile.read(audio)
    wav[12000:] = 0
    soundfile.write(audio, wav, rate)
    data, status, output = prepare(repository, corpus)
    assert status == 0, output
    segment = read_scp(data / "train_sp/segments")["sp0.9-spk0-train0"]
    path = data.parent / read_scp(data / "train_sp/wav.scp")["sp0.9-spk0-train0"]
    length = float(segment.split()[2])
    assert soundfile.info(path).duration == pytest.approx(length, abs=0.01)


def test_silence_is_left_out_of_every_set(repository, corpus):
    data, status, output = prepare(repository, corpus)
    assert status == 0, output
    for name in ("train", "dev", "test_a", "test_b"):
        for segment in read_scp(data / name / "segments").values():
            start, end = map(float, segment.split()[1:])
            assert 0.3 < start < 0.5 and 1 < end < 1.2


def test_speech_at_other_speeds_is_as_much_shorter_or_longer(repository, corpus):
    data, status, output = prepare(repository, corpus)
    assert status == 0, output
    segments = read_scp(data / "train_sp/segments")
    assert len(segments) == 6

    def length(utt_id):
        start, end = map(float, segments[utt_id].split()[1:])
        return end - start

    for factor in (0.9, 1.1):
        name = f"sp{factor}-spk0-train0"
        assert length(name) == pytest.approx(length("spk0-train0") / factor, abs=0.01)
        audio = soundfile.info(data.parent / read_scp(data / "train_sp/wav.scp")[name])
        assert audio.duration == pytest.approx(length(name), abs=0.01)


@pytest.mark.parametrize("folder", ["", "train"])
def test_a_folder_that_is_not_the_corpus_is_refused(repository, corpus, folder):
    _, status, output = prepare(repository, corpus / folder if folder else "")
    assert status != 0
    assert "--data: name the folder of the corpus" in output.splitlines()[-1]
