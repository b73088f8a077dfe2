# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Exported models equal the model, at any size; bad input leaves nothing behind."""

import argparse
import itertools
import json
import os
import sys

import numpy as np
import pytest
import torch
import yaml
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.tasks.asr import ASRTask

import espnet_reuse.export as library
from espnet_reuse.bin import export as command
from espnet_reuse.bin.asr_inference_ctc import Speech2Text
from espnet_reuse.provenance import describe_run

onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

MELS = 20
TOKENS = ["<blank>", "<unk>", "a", "<sos/eos>"]
FORMATS = ("onnx", "pt2")
FAMILIES = ("conformer", "transformer", "branchformer", "e_branchformer")
REUSE = {"num_blocks": 3, "reuse_group_size": [2, 1]}
LATEST = {"rel_pos_type": "latest"}
ONE_LAYER = {"num_blocks": 1, "attention_heads": 1, "input_layer": "linear"}
either_format = pytest.mark.parametrize("kind", FORMATS)


def save_model(folder, encoder, config=None, **options):
    """Save an untrained model and its configuration."""
    torch.manual_seed(0)
    sums = {"count": 100, "sum": np.arange(MELS) * 50.0}
    sums["sum_square"] = sums["sum"] ** 2 / 100 + np.linspace(100, 900, MELS)
    np.savez(folder / "feats_stats.npz", **sums)
    small = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
    if encoder.startswith("conformer"):
        small |= {"linear_units": 16, "cnn_module_kernel": 7}
    if encoder == "rnn":
        small = {}
    config = ASRTask.get_default_config() | {
        "token_list": TOKENS,
        "encoder": encoder,
        "encoder_conf": small | options,
        "model_conf": {"ctc_weight": 1.0},
        "frontend_conf": {"hop_length": 160, "n_mels": MELS},
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(folder / "feats_stats.npz")},
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), folder / "model.pth")


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """A folder with a small Transformer that reuses maps."""
    folder = tmp_path_factory.mktemp("exp")
    save_model(folder, "transformer_reuse", linear_units=16, **REUSE)
    return folder


@pytest.fixture(scope="module")
def simplest(tmp_path_factory):
    """A folder with a model that is exported in no time."""
    folder = tmp_path_factory.mktemp("simplest")
    save_model(folder, "transformer", **ONE_LAYER, linear_units=4)
    return folder


def run(exp, *options, kind="pt2"):
    """Run the command in this process; return its exit status."""
    arguments = [
        *("--asr_train_config", exp / "config.yaml"),
        *("--asr_model_file", exp / "model.pth", "--format", kind),
        *options,
    ]
    try:
        command.main(list(map(str, arguments)))
    except SystemExit as exit_:
        return exit_.code
    return 0


def serve(path, runtime="onnxruntime"):
    """Return a function that runs the file as its user would, without this package."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module(check_guards=False)
    if runtime == "openvino":
        compiled = openvino.Core().compile_model(
            path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        names = [node.any_name for node in compiled.inputs]
        infer = compiled.create_infer_request().infer
    else:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]

    def run(*inputs):
        named = dict(zip(names, (x.numpy() for x in inputs), strict=True))
        if runtime == "openvino":
            return [torch.from_numpy(x.copy()) for x in infer(named).to_tuple()]
        return [torch.from_numpy(x) for x in session.run(None, named)]

    return run


@torch.no_grad()
def encode(model, x):
    """Return what ESPnet's model makes of an utterance alone, and its log-probs."""
    try:
        output, _ = model.encode(x[None].clone(), torch.tensor([len(x)]))
    except (TooShortUttError, RuntimeError):
        return None
    output = output[0] if isinstance(output, tuple) else output
    return output[0], model.ctc.log_softmax(output)[0]


def assert_serves_the_model(exp, path, speech, sizes, with_ctc=False, garbage=999):
    """Compare rows of batches with what the model makes of each alone.

    What lies behind a row's length is garbage, and there is more of it than needed.
    """
    model, _ = ASRTask.build_model_from_file(exp / "config.yaml", exp / "model.pth")
    model.eval()
    if speech.dim() == 2:
        model.frontend = None
    infer = serve(path)
    runs = [infer]
    if path.suffix == ".onnx":
        runs.append(serve(path, "openvino"))
    compared = 0
    for lengths, run in itertools.product(sizes, runs):
        lengths = torch.tensor(lengths)
        batch = torch.full(
            (len(lengths), max(lengths) + garbage, *speech.shape[1:]), 9.0
        )
        for row, length in zip(batch, lengths, strict=True):
            row[:length] = speech[:length]
        outputs = run(batch, lengths)
        for n, length in enumerate(lengths):
            expected = encode(model, speech[:length])
            frames = outputs[1][n]
            assert frames == (0 if expected is None else len(expected[0])), length
            if expected is None:
                continue
            for mine, theirs in zip(outputs[::2], expected, strict=False):
                torch.testing.assert_close(
                    mine[n, :frames], theirs, rtol=0, atol=library.TOLERANCE
                )
            compared += len(outputs) == 2 + with_ctc
    assert compared


@pytest.fixture(scope="session")
def speech(an4):
    """Half a minute of real speech (samples,), of several speakers."""
    waves = [torch.tensor(wave, dtype=torch.float32) for _, wave in an4]
    return torch.cat(waves * 3)[: 30 * 16000]


# In samples: one, the fewest, some, half a minute. In frames: likewise.
SIZES = ([1], [1280], [64000, 33333, 2000, 257, 256, 0], [16000] * 5, [480000])
FRAMES = ([7], [60], [333, 200, 17, 6, 0], [64] * 5)
ALONE = ([1], [2000], [77777])


# ------------------------------ what it writes ------------------------------


@either_format
def test_any_batch_and_length_gives_the_models_output(
    exp, speech, tmp_path, kind, capsys
):
    output = tmp_path / f"encoder.{kind}"
    assert run(exp, "--output", output, "--with_ctc", "true", kind=kind) == 0
    printed = capsys.readouterr().out
    about = "opset 20, IR version 10" if kind == "onnx" else "PyTorch 2.11"
    assert printed.startswith(f"Written: {output} ({about}")
    assert "speech, speech_lengths -> encoder_out, encoder_out_lens, ctc_log" in printed
    tokens = [tmp_path / "encoder.tokens.txt"] * (kind == "onnx")
    assert sorted(tmp_path.iterdir()) == [output, *tokens]
    assert_serves_the_model(exp, output, speech, SIZES, with_ctc=True)
    if kind == "pt2":  # consumers compute no map, and no loop over blocks is recorded
        targets = [str(n.target) for n in torch.export.load(output).graph.nodes]
        softmax = [target for target in targets if target.startswith("aten.softmax")]
        assert len(softmax) == len(REUSE["reuse_group_size"])
        assert not any("as_strided" in target for target in targets)


@either_format
def test_a_file_without_the_frontend_takes_features(exp, tmp_path, kind):
    output = tmp_path / f"encoder.{kind}"
    options = ("--output", output, "--with_ctc", "true", "--with_frontend", "false")
    assert run(exp, *options, kind=kind) == 0
    feats = torch.randn(400, MELS) * 3
    assert_serves_the_model(exp, output, feats, FRAMES, with_ctc=True)


def test_the_best_path_in_the_file_is_that_of_best_path_decoding(exp, speech, tmp_path):
    speech2text = Speech2Text(exp / "config.yaml", exp / "model.pth")
    head, model = speech2text.asr_model.ctc.ctc_lo, tmp_path / "model.pth"
    with torch.no_grad():  # it then has several tokens, and blanks
        head.weight.normal_()
        head.bias -= torch.tensor(speech2text.ctc_log_probs(speech)).mean(0)
    torch.save(speech2text.asr_model.state_dict(), model)
    output = tmp_path / "best.onnx"
    options = ("--asr_model_file", model, "--output", output)
    assert run(exp, *options, "--with_ctc", "best_path", kind="onnx") == 0
    lengths = torch.tensor([64000, 33333, 200])
    for runtime in ("onnxruntime", "openvino"):
        outputs = serve(output, runtime)(speech[None, :64000].repeat(3, 1), lengths)
        _, frames, tokens, count, times = outputs
        for n, length in enumerate(lengths[:2]):
            ((*_, token_int, hypothesis),) = speech2text.best_path(speech[:length])
            assert len(set(token_int)) == 3 and len(token_int) > 10
            assert tokens[n, : count[n]].tolist() == token_int
            assert (tokens[n, count[n] :] == -1).all()
            expected = torch.tensor(hypothesis.times)
            torch.testing.assert_close(times[n, : count[n]], expected.float())
        assert (frames[2], count[2]) == (0, 0)


def test_a_file_says_how_to_get_text_from_it(exp, tmp_path, capsys):
    output = tmp_path / "model.onnx"
    assert run(exp, "--output", output, "--opset", 18, kind="onnx") == 0
    assert "(opset 18, IR version" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(output)
    metadata = session.get_modelmeta().custom_metadata_map
    commit = describe_run(1, "")["commit"]
    assert json.loads(metadata["tokens"]) == TOKENS
    assert json.loads(metadata["group_sizes"]) == REUSE["reuse_group_size"]
    expected = {"sampling_rate": "16000", "samples_per_frame": "640", "blank_id": "0"}
    expected |= {"frames_per_second": "25", "encoder": "transformer_reuse"}
    expected |= {"commit": commit, "token_type": "bpe", "padding_invariant": "true"}
    assert expected.items() <= metadata.items()
    assert str(library.__file__).encode() not in output.read_bytes()
    tokens = (tmp_path / "model.tokens.txt").read_text().splitlines()
    assert tokens == TOKENS


CONDITIONED = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
PREENCODER = {
    "normalize": "utterance_mvn",
    "normalize_conf": {},
    "preencoder": "linear",
    "preencoder_conf": {"input_size": MELS, "output_size": 24},
}
# Encoder, its options and the config's.
CASES = {
    family + reuse: (
        family + reuse,
        ({} if family == "transformer" else LATEST) | (REUSE if reuse else {}),
        {},
    )
    for family in FAMILIES
    for reuse in ("", "_reuse")
} | {
    "legacy, reuse": ("conformer_reuse", REUSE, {}),
    "sdpa": ("conformer", LATEST | {"use_sdpa": True}, {}),
    "interctc, reuse": ("conformer_reuse", LATEST | REUSE | CONDITIONED, {}),
    "utterance_mvn and a pre-encoder": ("conformer", LATEST, PREENCODER),
}


# What becomes ONNX was a program of torch.export before.
PAIRS = [(case, "onnx") for case in CASES]
PAIRS += [(case, "pt2") for case in CASES if case.endswith("_reuse")]


@pytest.mark.slow
@pytest.mark.parametrize("case, kind", PAIRS)
def test_every_encoder_gives_the_models_output(case, kind, tmp_path, speech):
    encoder, options, config = CASES[case]
    save_model(tmp_path, encoder, config, **options)
    assert run(tmp_path, kind=kind) == 0
    sizes = {"sizes": SIZES}
    if case.startswith("legacy"):  # its output depends on the padding
        sizes = {"sizes": ALONE, "garbage": 0}
    assert_serves_the_model(tmp_path, tmp_path / f"model.{kind}", speech, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder, input_layer",
    [("conformer_reuse", f"conv2d{factor}") for factor in (1, 2, 6, 8)]
    + [("e_branchformer_reuse", f"conv1d{factor}") for factor in (1, 2, 3)],
)
def test_too_few_frames_for_an_input_layer_have_length_0(
    encoder, input_layer, tmp_path, speech
):
    save_model(tmp_path, encoder, **LATEST, **REUSE, input_layer=input_layer)
    assert run(tmp_path, kind="onnx") == 0
    few = [[160 * frames + 1] for frames in range(17)]
    sizes = [*few, *SIZES[2:4]]
    assert_serves_the_model(tmp_path, tmp_path / "model.onnx", speech, sizes)


@pytest.mark.slow
@either_format
def test_more_frames_than_espnet_has_positions_for_give_the_models_output(
    kind, tmp_path, speech
):
    save_model(tmp_path, "conformer_reuse", **ONE_LAYER, **LATEST)
    assert run(tmp_path, kind=kind) == 0
    path = tmp_path / f"model.{kind}"
    assert_serves_the_model(tmp_path, path, speech.repeat(2), [[5100 * 160]])


@pytest.mark.slow
def test_legacy_positions_refuse_more_frames_than_they_are_for(tmp_path, speech):
    save_model(tmp_path, "conformer", **ONE_LAYER)
    assert run(tmp_path, kind="onnx") == 0
    infer = serve(tmp_path / "model.onnx")
    for frames in (5000, 5001):
        x, lengths = speech.repeat(2)[None, : frames * 160 - 1], [frames * 160 - 1]
        if frames == 5000:
            assert infer(x, torch.tensor(lengths))[1] == 5000
            continue
        with pytest.raises(Exception, match=r"(?i)shape|dimension"):
            infer(x, torch.tensor(lengths))


# ------------------------------ bad input ------------------------------


def assert_refused(capsys, status, message):
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert status in (1, 2) and line.startswith("espnet_reuse.bin.export: error: ")
    assert message in line, line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--asr_model_file", "no.pth"], "--asr_model_file: there is no file 'no.pth'"),
        (["--asr_model_file", __file__], f"{__file__} is not a file of model param"),
        (["--asr_train_config", "no"], "--asr_train_config: there is no file 'no'"),
        (["--format", "tflite"], "--format: invalid choice: 'tflite'"),
        (["--output", "x.onnx"], "--output: 'x.onnx' must be a file name in .pt2"),
        (["--output", f"{__file__}/x.pt2"], f"--output: {__file__}: File exists"),
        (["--with_frontend", "no one"], "--with_frontend: invalid str2bool value: "),
        (["--opset", "-1"], "--opset: '-1' must be a positive integer"),
        (["--with_ctc", "perhaps"], "--with_ctc: invalid choice: 'perhaps'"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else None,
)
def test_a_wrong_option_is_named(simplest, capsys, options, message):
    before = os.listdir(simplest)
    assert_refused(capsys, run(simplest, *options), message)
    assert os.listdir(simplest) == before


TRIM = {"interctc_layer_idx": [1], "ctc_trim": True}
SLIDING = {"frontend": "sliding_window", "frontend_conf": {}}
WPE = {"n_mels": MELS, "frontend_conf": {"use_wpe": True, "use_beamformer": False}}
FEATURES = {"frontend": None, "frontend_conf": {}, "input_size": MELS}
WITHOUT_CTC = {"model_conf": {"ctc_weight": 0.0}, "decoder": "transformer"}


@pytest.mark.parametrize(
    "encoder, options, config, message",
    [
        ("transformer", {}, SLIDING, "SlidingWindow with these options cannot be"),
        ("transformer", {}, {"frontend_conf": WPE}, "DefaultFrontend with these op"),
        ("transformer", {}, FEATURES, "so that its tokens have no times"),
        ("rnn", {}, {}, "RNNEncoder cannot be exported; use a model with one of Conf"),
        ("conformer", TRIM, {}, "ctc_trim: true in encoder_conf drops frames"),
        ("transformer", {}, WITHOUT_CTC, "has no CTC head"),
    ],
)
def test_what_no_graph_can_be_made_of_is_named(
    encoder, options, config, message, tmp_path, capsys
):
    save_model(tmp_path, encoder, config, **options)
    assert_refused(capsys, run(tmp_path, "--with_ctc", "best_path"), message)


def test_features_of_a_model_without_a_frontend_are_its_input(tmp_path, capsys):
    save_model(tmp_path, "transformer", FEATURES, **ONE_LAYER)
    status = run(tmp_path, "--with_frontend", "true")
    assert_refused(capsys, status, "the model takes features, not audio")
    assert run(tmp_path, "--with_ctc", "true") == 0
    feats = torch.randn(400, MELS) * 3
    path = tmp_path / "model.pt2"
    assert_serves_the_model(tmp_path, path, feats, FRAMES[1:3], with_ctc=True)


def test_an_opset_that_pytorch_does_not_write_is_named(simplest, tmp_path, capsys):
    status = run(simplest, "--output", tmp_path / "x.onnx", "--opset", 3, kind="onnx")
    assert_refused(capsys, status, "--opset: PyTorch writes opset 18, not 3")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    simplest, capsys, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)
    status = run(simplest, kind="onnx")
    assert_refused(capsys, status, f"no {package} here: pip install 'espnet-reuse[exp")


@pytest.mark.parametrize(
    "fault, expected", [(KeyboardInterrupt, 130), (OSError(28, "No space left"), 1)]
)
def test_a_failure_leaves_the_file_that_was_there(
    simplest, tmp_path, monkeypatch, fault, expected
):
    def fail(served, path, opset):
        path.write_text("half")
        raise fault

    output = tmp_path / "encoder.pt2"
    output.write_text("before")
    monkeypatch.setattr(library, "export_model", fail)
    assert run(simplest, "--output", output) == expected
    assert list(tmp_path.iterdir()) == [output] and output.read_text() == "before"


def test_an_export_that_differs_from_the_model_is_not_written(
    simplest, tmp_path, capsys, monkeypatch
):
    make_graph = library.export_model

    def export_changed(served, path, opset):
        make_graph(served, path, opset)
        with torch.no_grad():
            served.encoder.after_norm.bias += 2e-4

    monkeypatch.setattr(library, "export_model", export_changed)
    status = run(simplest, "--output", tmp_path / "encoder.pt2")
    assert_refused(
        capsys, status, "differs from the model by 2.0e-04, more than 0.0001"
    )
    assert not list(tmp_path.iterdir())
