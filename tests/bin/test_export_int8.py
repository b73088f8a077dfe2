# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The file with int8 weights: served as the float32 one, and honestly compared."""

import argparse
import re
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

import espnet_reuse.quantize as library
from espnet_reuse.bin import export as command
from espnet_reuse.serving import ExportedModel

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

RATE = 16000
RUNTIMES = ("onnxruntime", "openvino")
for_either = pytest.mark.parametrize("runtime", RUNTIMES)
CONFIG = ASRTask.get_default_config() | {
    "token_list": ["<blank>", "<unk>", *"abcdefgh", "<sos/eos>"],
    "token_type": "char",
    "encoder": "transformer_reuse",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 24,
        "num_blocks": 3,
        "reuse_group_size": 3,
    },
    "model_conf": {"ctc_weight": 1.0},
    "frontend_conf": {"hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
}


def run(folder, *options):
    """Export the folder's model in this process; return the exit status."""
    arguments = [
        *("--asr_train_config", folder / "config.yaml"),
        *("--asr_model_file", folder / "model.pth"),
        *(options if "--format" in options else ("--format", "onnx", *options)),
    ]
    try:
        command.main(list(map(str, arguments)))
    except SystemExit as exit_:
        return exit_.code
    return 0


def save_model(folder, **changes):
    """Save an untrained model, whose tokens are nearly as likely as each other."""
    torch.manual_seed(0)
    config = CONFIG | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), folder / "model.pth")


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """A folder with a model, and with audio of several lengths: one is too short."""
    folder = tmp_path_factory.mktemp("exp")
    save_model(folder)
    rng = np.random.default_rng(0)
    for n, samples in enumerate([40000, 1, 9000, 23456]):
        envelope = np.abs(np.sin(np.arange(samples) / 2000))
        speech = 0.1 * envelope * rng.standard_normal(samples)
        soundfile.write(folder / f"{n}.wav", speech, RATE)
    return folder


@pytest.fixture(scope="module")
def files(exp):
    """The float32 file and the int8 files, by runtime."""
    path = exp / "float32.onnx"
    assert run(exp, "--with_ctc", "true", "--output", path) == 0
    files = {"float32": path}
    for runtime in RUNTIMES:
        files[runtime] = exp / f"{runtime}.onnx"
        library.quantize(path, files[runtime], runtime)
    return files


def serve(path, runtime="onnxruntime"):
    """Return a function that runs a file as its user would, without this package."""
    if runtime == "onnxruntime":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda inputs: [x.copy() for x in compiled(inputs).to_tuple()]


def batch(speeches, padding=0):
    """Return the inputs for waveforms, with garbage behind each."""
    lengths = np.array([len(speech) for speech in speeches])
    shape = len(lengths), lengths.max() + padding
    speech = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for row, utterance in zip(speech, speeches, strict=True):
        row[: len(utterance)] = utterance
    return {"speech": speech, "speech_lengths": lengths}


def audio(exp):
    """Return the paths of the audio, and its waveforms."""
    paths = sorted(exp.glob("?.wav"))
    return paths, [soundfile.read(path, dtype="float32")[0] for path in paths]


def count_naively(before, after, speeches, piece, runtime):
    """Count frames and utterances with another best path, one by one."""
    infer = [serve(path, runtime) for path in (before, after)]
    other = total = other_utterances = 0
    for speech in speeches:
        tokens = [[], []]
        for start in range(0, len(speech), piece):
            pair = []
            for run in infer:
                _, (length,), log_probs = run(batch([speech[start : start + piece]]))
                pair.append(log_probs[0, :length].argmax(-1).tolist())
            for labels, path in zip(pair, tokens, strict=True):
                path += labels
        other += sum(a != b for a, b in zip(*tokens, strict=True))
        total += len(tokens[0])
        texts = []
        for path in tokens:
            kept = [x for n, x in enumerate(path) if not n or x != path[n - 1]]
            texts.append([x for x in kept if x != 0])
        other_utterances += texts[0] != texts[1]
    return other, total, other_utterances, len(speeches)


def numbers(line):
    """Return the numbers of the printed line."""
    found = re.search(
        r"([\d,]+) of ([\d,]+) frames \([\d.]+ %\) .* ([\d,]+) of ([\d,]+) utt", line
    )
    return tuple(int(x.replace(",", "")) for x in found.groups())


@for_either
def test_interface_and_metadata_are_those_of_float32(files, runtime):
    def describe(path):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        nodes = [*session.get_inputs(), *session.get_outputs()]
        metadata = session.get_modelmeta().custom_metadata_map
        return [(x.name, x.type, len(x.shape)) for x in nodes], metadata

    assert describe(files[runtime]) == describe(files["float32"])


@for_either
def test_all_products_have_int8_weights_but_the_frontends(files, runtime):
    def float_weights(path):
        graph = onnx.load(path).graph
        large = {x.name for x in graph.initializer if len(x.dims) == 2}
        weights = {x.input[1] for x in graph.node if x.op_type == "MatMul"}
        types = {x.name: x.data_type for x in graph.initializer}
        return {x for x in large & weights if types[x] == onnx.TensorProto.FLOAT}

    assert len(float_weights(files["float32"])) > 10
    assert float_weights(files[runtime]) == {"served.frontend.logmel.melmat"}


@for_either
@pytest.mark.parametrize("served_in", RUNTIMES)
def test_any_batch_and_any_length_are_served(exp, files, runtime, served_in):
    _, speeches = audio(exp)
    expected, actual = (serve(files[x], served_in) for x in ("float32", runtime))
    for group in ([speeches[1]], speeches, speeches[2:]):
        inputs = batch(group, padding=3000)
        _, lengths, log_probs = actual(inputs)
        _, float_lengths, float_log_probs = expected(inputs)
        assert lengths.tolist() == float_lengths.tolist()
        for n, length in enumerate(lengths):
            rows = log_probs[n, :length], float_log_probs[n, :length]
            np.testing.assert_allclose(*rows, atol=0.1)


def test_openvinos_file_in_onnxruntime_gives_the_same_in_any_batch(exp, files):
    _, speeches = audio(exp)
    infer = serve(files["openvino"])
    _, lengths, together = infer(batch(speeches, padding=3000))
    for n, (speech, length) in enumerate(zip(speeches, lengths, strict=True)):
        _, (own_length,), alone = infer(batch([speech]))
        assert own_length == length
        rows = together[n, :length], alone[0, :length]
        np.testing.assert_allclose(*rows, atol=1e-4)


@pytest.mark.parametrize(
    "runtime, with_ctc", [("onnxruntime", "true"), ("openvino", "best_path")]
)
def test_the_printed_counts_are_right(
    exp, files, tmp_path, capsys, monkeypatch, runtime, with_ctc
):
    monkeypatch.setattr(library, "PIECE", 1)  # of the audio, two are longer
    paths, speeches = audio(exp)
    output = tmp_path / "model.onnx"
    options = ("--with_ctc", with_ctc, "--int8", runtime, "--int8_audio", *paths)
    assert run(exp, "--output", output, *options) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    pair = files["float32"], files[runtime]
    expected = count_naively(*pair, speeches, RATE, runtime)
    assert numbers(line) == expected
    assert expected[1] > 100 and expected[3] == 4
    assert line.startswith(f"Written: {tmp_path / 'model.int8.onnx'} (int8, for ")
    assert (tmp_path / "model.int8.onnx").is_file()


def test_a_damaged_weight_is_seen(exp, files, tmp_path):
    _, speeches = audio(exp)
    model = onnx.load(files["float32"])
    (bias,) = (x for x in model.graph.initializer if x.name == "served.ctc.ctc_lo.bias")
    damaged = onnx.numpy_helper.to_array(bias).copy()
    damaged[3] += 100  # this token is always the best
    bias.CopyFrom(onnx.numpy_helper.from_array(damaged, bias.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    pair = files["float32"], tmp_path / "damaged.onnx"
    changes = library.count_changes(*map(ExportedModel, pair), speeches)
    assert changes == count_naively(*pair, speeches, 10**6, "onnxruntime")
    assert changes.other_frames > 100 and changes.other_utterances == 3
    same = library.count_changes(*map(ExportedModel, [pair[0]] * 2), speeches)
    assert same == (0, changes.frames, 0, 4)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--int8", "openvino"], "--int8 and --int8_audio: each needs the other"),
        (["--int8_audio", "0.wav"], "--int8 and --int8_audio: each needs the other"),
        (["--int8", "openvino", "--int8_audio", "no.wav"], "there is no file"),
        (
            ["--int8", "openvino", "--int8_audio", "config.yaml"],
            "argument --int8_audio: config.yaml ",
        ),
        (["--int8", "onnxruntime", "--int8_audio", "1.wav"], "all audio is too short"),
        (
            ["--int8", "onnxruntime", "--int8_audio", "0.wav", "--with_ctc", "false"],
            "argument --int8: best paths need the CTC head: --with_ctc true or best",
        ),
        (
            ["--int8", "onnxruntime", "--int8_audio", "0.wav", "--format", "pt2"],
            "argument --int8: needs --format onnx",
        ),
        (
            [*("--int8", "openvino", "--int8_audio", "0.wav"), "--with_frontend=false"],
            "argument --int8: needs a model that takes audio",
        ),
    ],
)
def test_what_does_not_go_with_int8_is_one_line(
    exp, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.chdir(exp)
    output = tmp_path / ("model.pt2" if "pt2" in options else "model.onnx")
    status = run(exp, "--with_ctc", "true", "--output", output, *options)
    errors = capsys.readouterr().err.splitlines()
    assert status and message in errors[-1] and "Traceback" not in "".join(errors)
    assert not list(tmp_path.glob("*int8*"))


def test_openvino_that_is_not_installed_is_named(exp, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    options = ("--int8", "openvino", "--int8_audio", exp / "0.wav")
    assert run(exp, "--with_ctc", "true", *options) == 1
    assert capsys.readouterr().err.endswith("no openvino here: pip install openvino\n")
