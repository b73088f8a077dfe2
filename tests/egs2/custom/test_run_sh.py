# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""./run.sh --corpus custom, on mini_an4's recordings as somebody's own corpus."""

import json

import pytest
import soundfile

SMALL = (
    "--max_epoch 1 --batch_type unsorted --batch_size 4 --num_workers 0 "
    "--encoder_conf output_size=32 --encoder_conf num_blocks=3"
)


@pytest.fixture(scope="module")
def corpus(an4, tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for name, chosen in (("learn", an4[:4]), ("dev", an4[4:5]), ("unseen", an4[5:])):
        folder = root / name
        folder.mkdir()
        lines = {"wav.scp": [], "text": []}
        for n, (words, wav) in enumerate(chosen):
            soundfile.write(folder / f"{n}.ogg", wav, 16000)
            lines["wav.scp"].append(f"{name}{n} {name}/{n}.ogg\n")
            lines["text"].append(f"{name}{n} {words}\n")
        for file, content in lines.items():
            (folder / file).write_text("".join(content))
    return root


@pytest.mark.slow
def test_the_whole_comparison_runs_on_a_corpus_of_ones_own(repository, corpus):
    status, output = repository.run(
        *("./run.sh", "--corpus", "custom", "--data", corpus, "--asr_args", SMALL),
        *("--models", "baseline reuse3", "--inference_args", "--beam_size 2"),
        *("--train_set", "learn", "--test_sets", "unseen"),
    )
    assert status == 0, output
    exp = repository.recipe_of("custom") / "exp"
    comparison = json.loads((exp / "comparison.json").read_text())
    assert list(comparison["models"]) == ["baseline", "reuse3"]
    assert "|unseen|2|reuse3|" in output
