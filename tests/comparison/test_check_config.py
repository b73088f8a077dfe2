# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""check_config refuses what would fail, or mislead, hours later."""

import json
import re
import sys
from pathlib import Path

import pytest

from espnet_reuse.comparison import check_config

RECIPE = Path(__file__).resolve().parents[2] / "egs2/librispeech_100/asr1"
BASELINE = "conf/train_asr_conformer.yaml"
CTC = "conf/tuning/train_asr_conformer_ctc.yaml"
BEAM, GREEDY = "conf/decode_asr.yaml", "conf/decode_asr_ctc_greedy.yaml"


@pytest.fixture
def check(monkeypatch, tmp_path, capfd):
    """A function that runs the program on configs of the LibriSpeech recipe.

    It returns what the program writes, or the line in which it refuses.
    """
    monkeypatch.chdir(RECIPE)
    output = tmp_path / "checked.json"

    def run(*configs, decoding=BEAM, asr_args="", inference_args=""):
        options = ["--inference_config", decoding, "--inference_args", inference_args]
        options += ["--asr_args", asr_args, "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["", "--configs", *configs, *options])
        try:
            check_config.main()
        except SystemExit:
            assert not output.exists()
            (line,) = capfd.readouterr().err.splitlines()
            return line
        return json.loads(output.read_text())

    return run


def test_each_config_has_its_checkpoint_and_the_disk_it_takes(check):
    checked = check(BASELINE, CTC, decoding=GREEDY)
    assert {name: model["checkpoint"] for name, model in checked.items()} == {
        BASELINE: "valid.acc.ave.pth",
        CTC: "valid.cer_ctc.ave.pth",
    }
    parameters = checked[BASELINE]["parameters"]
    assert parameters == pytest.approx(34.2e6, rel=0.01)
    # ten best epochs, the last, their average, and checkpoint.pth with Adam's moments
    assert checked[BASELINE]["disk_bytes"] == parameters * 4 * 15


@pytest.mark.parametrize(
    "options, message",
    [
        pytest.param(
            {"asr_args": "--encoder_conf reuse_group_size=2"},
            f"{BASELINE}: .*reuse_group_size",
            id="option of another encoder",
        ),
        pytest.param(
            {"asr_args": "--decoder_conf num_blocks=x"},
            f'{BASELINE}: argument "num_blocks"',
            id="decoder",
        ),
        pytest.param(
            {"asr_args": "--max_epoch x"},
            f"{BASELINE} --max_epoch x: argument --max_epoch: invalid int value",
            id="value of a training option",
        ),
        pytest.param(
            {"asr_args": "--max_epoch '1"},
            f"{BASELINE} --max_epoch '1: No closing quotation",
            id="quotes",
        ),
        pytest.param(
            {"inference_args": "--beam_size x"},
            f"{BEAM} --beam_size x: argument --beam_size: invalid int value",
            id="value of a decoding option",
        ),
        pytest.param(
            {"decoding": "README.md"}, "README.md is not YAML", id="not a config"
        ),
    ],
)
def test_a_wrong_option_is_named_in_one_line(check, options, message):
    assert re.match(f"check_config: error: {message}", check(BASELINE, **options))


def test_a_model_with_ctc_alone_is_not_decoded_to_noise(check):
    assert f"{CTC}: a model with CTC alone is decoded" in check(BASELINE, CTC)
    assert CTC in check(CTC, inference_args="--ctc_weight 1.0")


def test_models_that_would_not_share_their_statistics_are_refused(check, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        (RECIPE / BASELINE).read_text().replace("n_fft: 512", "n_fft: 400")
    )
    line = check(BASELINE, str(other))
    assert f"{other}: frontend and frontend_conf differ from those of" in line
