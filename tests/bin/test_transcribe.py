# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Transcription says what ESPnet's Speech2Text says; what is wrong is one line."""

import os
import pty
import subprocess
import sys
import termios

import numpy as np
import pytest
import soundfile
import soxr
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_reuse.bin import asr_inference_ctc
from espnet_reuse.bin import transcribe as command
from espnet_reuse.serving import RUNTIMES

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


# ---- an exported file ---------------------------------------------------------------


@pytest.fixture
def serve(export, capsys):
    """A function that runs the command with an exported file, as `run` does."""

    def run_it(*argv, with_ctc="true"):
        status, path = 0, str(export(with_ctc))
        capsys.readouterr()  # what the export has printed
        try:
            command.main([path, *map(str, argv)])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run_it


@pytest.fixture(scope="module")
def speech2text(export):
    folder = export().parent
    return asr_inference_ctc.Speech2Text(folder / "config.yaml", folder / "model.pth")


@pytest.fixture(scope="module")
def recordings(an4, tmp_path_factory):
    """{file: waveform at 16 kHz}: short ones, and one of 40 s in their middle."""
    folder = tmp_path_factory.mktemp("recordings")
    speeches = [np.float32(wav) for _, wav in an4]
    long = np.tile(np.concatenate(speeches), 3)[: 40 * 16000]
    waveforms = dict(zip("abcde", [*speeches[:3], long, speeches[4]], strict=True))
    files = {folder / f"{name}.wav": wave for name, wave in waveforms.items()}
    for file, wave in files.items():
        soundfile.write(file, wave, 16000, subtype="FLOAT")
    return files


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("with_ctc", ["true", "best_path"])
def test_an_exported_file_says_what_the_model_says_in_the_order_given(
    serve, speech2text, recordings, runtime, with_ctc
):
    pytest.importorskip(runtime)
    expected = ""
    for file, wave in recordings.items():
        pieces = speech2text.decode_long(wave)
        assert len(pieces) == (2 if len(wave) > 30 * 16000 else 1)
        expected += f"{file.stem} {' '.join(text for *_, text in pieces)}\n"
    words = "--runtime", runtime, *recordings, "--threads", 1
    assert serve(*words, with_ctc=with_ctc) == (0, expected, "")


def test_a_ctm_of_an_exported_file_has_the_models_words_and_times(
    serve, speech2text, recordings
):
    expected = ""
    for file, wave in recordings.items():
        for start, end, word in speech2text.iter_words(wave):
            expected += f"{file.stem} 1 {start:.3f} {end - start:.3f} {word}\n"
    assert expected.count("\n") > 3 * len(recordings)
    assert serve("--ctm", "true", *recordings) == (0, expected, "")


def test_for_an_exported_file_any_audio_is_converted_with_a_note(
    serve, speech2text, recordings, tmp_path, caplog
):
    wave = list(recordings.values())[1]
    stereo = np.stack([wave, wave[::-1]], axis=1)
    soundfile.write(tmp_path / "a.flac", stereo, 22050)
    soundfile.write(tmp_path / "b.flac", stereo, 22050)
    quantized, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    resampled = soxr.resample(quantized[:, 0], 22050, 16000)
    ((text, *_),) = speech2text.best_path(resampled)
    status, output, _ = serve(tmp_path / "a.flac", tmp_path / "b.flac")
    assert (status, output) == (0, f"a {text.strip()}\nb {text.strip()}\n")
    assert caplog.messages == [
        "audio of 22050 Hz is resampled to the model's 16000 Hz",
        "of audio with several channels, the first is used",
    ]


def test_a_text_is_printed_before_the_next_files_are_read(
    serve, recordings, monkeypatch, capsys
):
    seen, decode = [], command.decode_files
    monkeypatch.setattr(
        command,
        "decode_files",
        lambda *args: seen.append(capsys.readouterr().out) or decode(*args),
    )
    _, last, _ = serve("--batch_seconds", 0.1, *recordings)
    assert [text[:2] for text in [*seen, last]] == ["", "a ", "b ", "c ", "d ", "e "]


def test_files_are_grouped_in_their_order_and_long_ones_are_alone():
    rng = np.random.default_rng(0)
    for most in (0.1, 5, 40):
        seconds = rng.uniform(0, 1.3 * command.LONG, 200)
        groups = list(command.group_files(range(200), seconds, most))
        assert sum((group for group, _ in groups), []) == list(range(200))
        for (group, is_long), (after, _) in zip(groups, groups[1:], strict=False):
            assert is_long == (max(seconds[group]) > command.LONG)
            assert len(group) == 1 or (sum(seconds[group]) <= most and not is_long)
            if max(seconds[group + after]) <= command.LONG:  # no group is too small
                assert sum(seconds[group]) + seconds[after[0]] > most


def test_a_bar_is_on_a_terminal_alone_and_never_in_the_output(export, recordings):
    words = [sys.executable, "-m", "espnet_reuse.bin.transcribe", export()]
    words = list(map(str, [*words, *recordings]))
    total = sum(map(len, recordings.values())) / 16000
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))  # a bar of tqdm needs room
    on_terminal = subprocess.run(words, stdout=subprocess.PIPE, stderr=terminal)
    os.set_blocking(reader, False)
    assert f"/{total:.0f} [".encode() in os.read(reader, 2**16)
    os.close(terminal)
    os.close(reader)
    elsewhere = subprocess.run(words, capture_output=True)
    assert elsewhere.stdout == on_terminal.stdout and elsewhere.stdout.count(b"\n") == 5
    assert elsewhere.stderr == b""


def test_without_tqdm_and_soxr_audio_of_the_models_rate_has_its_text(
    serve, recordings, tmp_path, monkeypatch
):
    expected = serve(*recordings)
    for name in ("tqdm", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    assert serve(*recordings) == expected
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    status, _, error = serve(tmp_path / "a.wav")
    assert status == 1 and error.endswith("error: no soxr here: pip install soxr\n")


REFUSED_WORDS = {  # {words after FILE.onnx: (status, message)}
    "": (2, "there is no audio after "),
    "--ngpu 1 a.wav": (2, "argument --ngpu: not allowed with an exported file"),
    "--inference_config a.yaml a.wav": (2, "argument --inference_config: not allowed"),
    "--runtime torch a.wav": (2, "argument --runtime: invalid choice: 'torch'"),
    "--threads 0 a.wav": (2, "argument --threads: '0' must be a positive integer"),
    "--threads 99999 a.wav": (2, "argument --threads: 99999 is more than the "),
    "--batch_seconds nan a.wav": (2, "argument --batch_seconds: 'nan' must be"),
    "--dtype bfloat16 --runtime onnxruntime a.wav": (1, "bfloat16 is for OpenVINO"),
    "--runtime openvino a.wav": (1, "no openvino here: pip install openvino"),
    "nan.wav a.wav": (1, "nan.wav has samples that are not finite numbers"),
    "empty.wav a.wav": (1, "empty.wav has no samples"),
    "a.yaml": (1, "a.yaml cannot be read or is cut short"),
    "b.wav": (2, "argument FILE: there is no file 'b.wav'"),
}


@pytest.mark.parametrize("words", REFUSED_WORDS)
def test_what_is_wrong_with_an_exported_file_is_said_in_one_line(
    serve, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("beam_size: 1")
    soundfile.write("a.wav", np.zeros(16000), 16000)
    soundfile.write("empty.wav", np.zeros(0), 16000)
    soundfile.write("nan.wav", np.array([0, np.nan]), 16000, subtype="FLOAT")
    monkeypatch.setitem(sys.modules, "openvino", None)
    status, output, error = serve(*words.split())
    expected, message = REFUSED_WORDS[words]
    assert (status, output) == (expected, "") and error.count("\n") == 1
    assert error.startswith("espnet_reuse.bin.transcribe: error: ") and message in error


@pytest.mark.parametrize("option", ["--threads 1", "--ctm true", "--dtype float32"])
def test_options_of_an_exported_file_are_not_those_of_a_trained_model(
    run, option, tmp_path
):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    status, _, error = run(*option.split(), tmp_path / "a.wav")
    option = option.partition(" ")[0]
    assert status == 2
    assert error.endswith(f"argument {option}: not allowed with a trained model\n")


def test_without_a_model_both_ways_are_named(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "a.wav")])
    assert capsys.readouterr().err.endswith(
        "error: the following arguments are required: --asr_train_config, "
        "--asr_model_file, or an exported FILE.onnx in front of the audio\n"
    )
