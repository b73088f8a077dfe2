# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Transcription says what ESPnet's Speech2Text says; what is wrong is one line."""

import numpy as np
import pytest
import soundfile
import soxr
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_reuse.bin import asr_inference_ctc
from espnet_reuse.bin import transcribe as command
from espnet_reuse.registry import warn_once

DECODING = {"beam_size": 3, "ctc_weight": 0.4, "maxlenratio": 0.2, "seed": 1}
ENCODER = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "linear_units": 16}
ENCODERS = {  # one of ESPnet's, and one of ours whose intermediate CTC speaks, too
    "transformer": ENCODER,
    "transformer_reuse": ENCODER
    | {
        "reuse_group_size": 2,
        "interctc_layer_idx": [1],
        "interctc_use_conditioning": True,
    },
}


def config_of(encoder):
    return {
        "token_list": ["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"],
        "token_type": "char",
        "encoder": encoder,
        "encoder_conf": ENCODERS[encoder],
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "num_blocks": 1, "linear_units": 16},
        "model_conf": {"interctc_weight": 0.3 if "reuse" in encoder else 0.0},
        "frontend_conf": {"fs": "16k", "hop_length": 160, "n_mels": 20},
        "normalize": "utterance_mvn",
    }


@pytest.fixture(scope="module", params=ENCODERS)
def exp(request, tmp_path_factory, save_model):
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder, config_of(request.param), 0.3)
    (folder / "decode.yaml").write_text(yaml.safe_dump(DECODING))
    return folder


@pytest.fixture
def run(exp, capsys):
    """A function that runs the command; it returns its status, output and errors."""

    def run_it(*argv):
        model = ["--asr_train_config", exp / "config.yaml"]
        model += ["--asr_model_file", exp / "model.pth"]
        status = 0
        try:
            command.main([*map(str, [*model, *argv])])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run_it


def test_it_prints_what_speech2text_says_of_any_rate_and_channels(
    exp, run, an4, tmp_path, caplog
):
    (_, first), (_, second), *_ = an4
    soundfile.write(tmp_path / "first.flac", first, 16000)
    stereo = np.stack([second, second[::-1]], axis=1)
    soundfile.write(tmp_path / "at 22k.wav", stereo, 22050, subtype="FLOAT")
    files = [tmp_path / "first.flac", tmp_path / "at 22k.wav"]
    warn_once.cache_clear()
    status, output, _ = run("--inference_config", exp / "decode.yaml", *files)
    assert status == 0
    assert "audio of 22050 Hz is resampled to the model's 16000 Hz" in caplog.text

    options = {key: value for key, value in DECODING.items() if key != "seed"}
    speech2text = Speech2Text(exp / "config.yaml", exp / "model.pth", **options)
    wavs = np.float32(first), soxr.resample(np.float32(second), 22050, 16000)
    results = [speech2text(wav) for wav in wavs]
    if "reuse" in exp.name:
        results = [result[0] for result in results]
    texts = [result[0][0] for result in results]
    assert all(texts) and texts[0] != texts[1]
    assert output == f"first {texts[0]}\nat 22k {texts[1]}\n"


@pytest.mark.parametrize("search", ["decode", "best_path"])
@pytest.mark.parametrize("samples", [1, 300])
def test_audio_that_is_too_short_has_no_text(
    run, exp, search, samples, tmp_path, caplog
):
    soundfile.write(tmp_path / "short.wav", np.zeros(samples), 16000)
    (exp / "best_path.yaml").write_text("search: best_path")
    decoding = ("--inference_config", exp / f"{search}.yaml")
    assert run(*decoding, tmp_path / "short.wav")[:2] == (0, "short \n")
    assert f"short: {samples / 16000:g} s is too short: no text" in caplog.text


@pytest.mark.parametrize("ctc_alone", [True, False])
def test_best_path_is_for_ctc_alone_and_where_it_is_asked_for(
    ctc_alone, an4, tmp_path, save_model, capsys
):
    config = config_of("transformer") | {"model_conf": {"ctc_weight": 1.0}}
    config = config if ctc_alone else config_of("transformer")
    save_model(tmp_path, config | ({"decoder": None} if ctc_alone else {}), 0.3)
    (tmp_path / "best_path.yaml").write_text("search: best_path")
    files = tmp_path / "config.yaml", tmp_path / "model.pth"
    speech = an4[1][1]
    soundfile.write(tmp_path / "a.flac", speech, 16000)
    speech, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    ((text, *_),) = asr_inference_ctc.Speech2Text(*files).best_path(speech)
    assert len(text) > 3
    words = ["--asr_train_config", files[0], "--asr_model_file", files[1]]
    if not ctc_alone:
        words += ["--inference_config", tmp_path / "best_path.yaml"]
    command.main(list(map(str, [*words, tmp_path / "a.flac"])))
    assert capsys.readouterr().out == f"a {text.strip()}\n"


REFUSED = {  # {file: (its content, status, message)}
    "missing.wav": (None, 2, "argument FILE: there is no file '"),
    "words.wav": ("words", 1, "words.wav cannot be read or is cut short"),
    "unknown.yaml": (
        "beam: 3",
        1,
        "--inference_config: unknown.yaml: unrecognized arg",
    ),
    "broken.yaml": ("beam_size: [", 1, "--inference_config: broken.yaml is not YAML"),
    "beam.yaml": ("beam_size: 999", 1, "speech.wav: selected index k out of range"),
    "lm.yaml": ("lm_train_config: no.yaml", 1, "ESPnet's search: [Errno 2] No such"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_line(run, an4, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, expected, message = REFUSED[name]
    soundfile.write("speech.wav", an4[0][1], 16000)
    if content:
        (tmp_path / name).write_text(content)
    words = ("--inference_config", name) if name.endswith("yaml") else (name,)
    status, output, error = run(*words, "speech.wav")
    line = error.splitlines()[-1]
    assert status == expected and output == ""
    assert line.startswith("espnet_reuse.bin.transcribe: error: ") and message in line
