# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""check_config refuses what would fail, or mislead, hours later."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from espnet_reuse.comparison import check_config
from espnet_reuse.comparison.models import resolve

RECIPE = Path(__file__).resolve().parents[2] / "egs2/librispeech_100/asr1"
BASELINE = "conf/train_asr_conformer.yaml"
BEAM, BEST_PATH = "conf/decode_asr.yaml", "conf/decode_asr_ctc_best_path.yaml"


@pytest.fixture
def ctc(tmp_path):
    """The recipe's model with CTC alone."""
    path = tmp_path / "ctc.yaml"
    path.write_text(yaml.safe_dump(resolve("ctc", RECIPE).config))
    return str(path)


@pytest.fixture
def check(monkeypatch, tmp_path, capfd):
    """A function that runs the program on configs of the LibriSpeech recipe.

    It returns what the program writes, or the line in which it refuses.
    """
    monkeypatch.chdir(RECIPE)
    output = tmp_path / "checked.json"

    def run(*configs, decoding=BEAM, asr_args="", inference_args=""):
        options = ["--inference_configs", *[decoding] * len(configs)]
        options += ["--inference_args", inference_args]
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


def test_each_config_has_its_checkpoint_and_the_disk_it_takes(check, ctc):
    checked = check(BASELINE, ctc, decoding=BEST_PATH)
    assert checked[ctc]["checkpoint"] == "valid.cer_ctc.ave.pth"
    baseline = checked[BASELINE]
    assert baseline["checkpoint"] == "valid.acc.ave.pth"
    assert baseline["parameters"] == pytest.approx(34.2e6, rel=0.01)
    # ten best epochs, the last, their average, and checkpoint.pth with Adam's moments
    assert baseline["disk_bytes"] == baseline["parameters"] * 4 * 15


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("asr_args", "--encoder_conf reuse_group_size=2", ": .*: conformer_reuse, not"),
        ("asr_args", "--decoder_conf num_blocks=x", ': argument "num_blocks"'),
        ("asr_args", "--max_epoch x", ".* x: argument --max_epoch: invalid int value"),
        ("asr_args", "--max_epoch '1", " --max_epoch '1: No closing quotation"),
        ("asr_args", "--encoder_conf num_blocks=[", ".* num_blocks=.: while parsing"),
        ("inference_args", "--beam_size x", ".* argument --beam_size: invalid int"),
        ("inference_args", "--search best_path", ".* --search: run.sh sets this optio"),
        ("decoding", "wrong.yaml", ": mapping values are not allowed"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(check, tmp_path, option, value, message):
    if option == "decoding":
        value = str(tmp_path / value)
        Path(value).write_text("beam_size: 5: 6\n", "utf-8")
    file = {"asr_args": BASELINE, "inference_args": BEAM, "decoding": value}[option]
    line = check(BASELINE, **{option: value})
    assert re.match(f"check_config: error: {file}{message}", line)


def test_a_model_with_ctc_alone_is_not_decoded_to_noise(check, ctc):
    line = check(BASELINE, ctc)
    assert f"{ctc}: a model with CTC alone is decoded" in line and BEST_PATH in line
    assert ctc in check(ctc, inference_args="--ctc_weight 1.0")


def test_best_path_of_a_model_without_a_ctc_head_is_refused(check):
    line = check(BASELINE, asr_args="--model_conf ctc_weight=0.0", decoding=BEST_PATH)
    assert "a model with ctc_weight 0.0 has no CTC head" in line and BEST_PATH in line


@pytest.mark.parametrize(
    "options, note",
    [
        ("", None),
        ("rel_pos_type=legacy", "an utterance is encoded differently than alone"),
        ("positionwise_layer_type=conv1d", "in a batch with a longer utterance"),
        ("stochastic_depth_rate=0.1", "stochastic_depth_rate: to train in several pr"),
        ("stochastic_depth_rate=0.1 --unused_parameters true", None),
        ("stochastic_depth_rate=0.0", None),
    ],
)
def test_what_options_of_espnets_encoders_do_is_noted(check, options, note):
    asr_args = f"--encoder_conf {options}" if options else ""
    notes = check(BASELINE, asr_args=asr_args)[BASELINE]["notes"]
    assert len(notes) == bool(note) and (note or "") in "".join(notes)


def test_models_that_would_not_share_their_statistics_are_refused(check, tmp_path):
    other, config = tmp_path / "other.yaml", (RECIPE / BASELINE).read_text()
    other.write_text(config.replace("n_fft: 512", "n_fft: 400"))
    line = check(BASELINE, str(other))
    assert f"{other}: frontend and frontend_conf differ from those of" in line
