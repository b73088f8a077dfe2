# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""local/check_config.py refuses what would fail, or mislead, hours later."""

import sys
from pathlib import Path

import check_config
import pytest

import espnet_reuse  # noqa: F401  registers the encoders

RECIPE = Path(__file__).resolve().parents[2] / "egs2/librispeech_100/asr1"
BASELINE = "conf/train_asr_conformer.yaml"
CTC = "conf/tuning/train_asr_conformer_ctc.yaml"
BEAM, GREEDY = "conf/decode_asr.yaml", "conf/decode_asr_ctc_greedy.yaml"


@pytest.fixture
def check(monkeypatch):
    """A function that runs the program on configs of the LibriSpeech recipe."""
    monkeypatch.chdir(RECIPE)

    def run(*configs, decoding=BEAM, asr_args="", inference_args=""):
        options = ["--inference_config", decoding, "--inference_args", inference_args]
        argv = ["check_config.py", "--configs", *configs, "--asr_args", asr_args]
        monkeypatch.setattr(sys, "argv", argv + options)
        check_config.main()

    return run


def test_each_config_has_its_checkpoint_and_the_disk_it_takes(check, capsys):
    check(BASELINE, CTC, decoding=GREEDY)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [
        [BASELINE, "valid.acc.ave.pth"],
        [CTC, "valid.cer_ctc.ave.pth"],
    ]
    # 34 M parameters: ten best epochs, the last, their average, and Adam's moments
    assert float(lines[0][2]) == pytest.approx(34.2e6 * 4 * 15, rel=0.01)


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
    ],
)
def test_a_model_that_cannot_be_built_is_named(check, options, message):
    with pytest.raises(SystemExit, match=message):
        check(BASELINE, **options)


def test_a_model_with_ctc_alone_is_not_decoded_to_noise(check):
    with pytest.raises(SystemExit, match="CTC alone is decoded with ctc_weight 1"):
        check(BASELINE, CTC)
    check(CTC, inference_args="--ctc_weight 1.0")
    check(CTC, decoding=GREEDY)


def test_a_wrong_decoding_option_is_named(check, capsys):
    with pytest.raises(SystemExit):
        check(BASELINE, inference_args="--beam_size x")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{BEAM} --beam_size x: error: ") and "beam_size" in last


def test_models_that_would_not_share_their_statistics_are_refused(check, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        (RECIPE / BASELINE).read_text().replace("n_fft: 512", "n_fft: 400")
    )
    with pytest.raises(SystemExit, match="frontend and frontend_conf differ"):
        check(BASELINE, str(other))
