# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Exported encoders equal the model, at any size; bad input leaves nothing behind."""

import argparse
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

onnxruntime = pytest.importorskip("onnxruntime")

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


def serve(path):
    """Return a function that runs the file as its user would, without this package."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module(check_guards=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def infer(feats, lengths):
        inputs = {"feats": feats.numpy(), "feats_lengths": lengths.numpy()}
        return [torch.from_numpy(x) for x in session.run(None, inputs)]

    return infer


def assert_serves_the_model(exp, path, sizes, with_ctc=False):
    """Compare with what ESPnet's model makes of the features."""
    model, _ = ASRTask.build_model_from_file(exp / "config.yaml", exp / "model.pth")
    model.eval().frontend = None
    infer = serve(path)
    generator = torch.Generator().manual_seed(1)
    for lengths in sizes:
        lengths = torch.tensor(lengths)
        shape = len(lengths), int(lengths.max()), MELS
        feats = torch.randn(shape, generator=generator) * 3
        with torch.no_grad():
            output, output_lengths = model.encode(feats.clone(), lengths)
            output = output[0] if isinstance(output, tuple) else output
            expected = [output, output_lengths]
            if with_ctc:
                expected.append(model.ctc.log_softmax(output))
            actual = infer(feats, lengths)
        torch.testing.assert_close(actual[1], output_lengths)
        for i, frames in enumerate(output_lengths):
            for mine, theirs in zip(actual[::2], expected[::2], strict=True):
                torch.testing.assert_close(
                    mine[i, :frames], theirs[i, :frames], rtol=0, atol=1e-5
                )


def assert_too_few_frames_have_length_0(exp, path):
    """Compare with the lengths of ESPnet's model, around the fewest that it takes."""
    model, _ = ASRTask.build_model_from_file(exp / "config.yaml", exp / "model.pth")
    model.eval().frontend = None
    infer = serve(path)
    refused = 0
    for frames in range(17):
        feats, lengths = torch.zeros(2, frames, MELS), torch.tensor([frames, frames])
        try:
            _, expected = model.encode(feats.clone(), lengths)
        except TooShortUttError:
            expected = torch.zeros_like(lengths)
            refused += 1
        torch.testing.assert_close(infer(feats, lengths)[1], expected)
    assert 5 <= refused <= 15


SIZES = ([7], [60], [333, 200, 17, 6, 0], [64] * 5)


# ------------------------------ what it writes ------------------------------


@either_format
def test_any_batch_and_length_gives_the_models_output(exp, tmp_path, kind, capsys):
    output = tmp_path / f"encoder.{kind}"
    assert run(exp, "--output", output, "--with_ctc", "true", kind=kind) == 0
    assert f"Written: {output}: feats, feats_lengths -> " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output]
    assert_serves_the_model(exp, output, SIZES, with_ctc=True)
    assert_too_few_frames_have_length_0(exp, output)
    if kind == "pt2":  # consumers compute no map, and no loop over blocks is recorded
        targets = [str(n.target) for n in torch.export.load(output).graph.nodes]
        softmax = [target for target in targets if target.startswith("aten.softmax")]
        assert len(softmax) == len(REUSE["reuse_group_size"])
        assert not any("as_strided" in target for target in targets)


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
def test_every_encoder_gives_the_models_output(case, kind, tmp_path):
    encoder, options, config = CASES[case]
    save_model(tmp_path, encoder, config, **options)
    assert run(tmp_path, kind=kind) == 0
    assert_serves_the_model(tmp_path, tmp_path / f"model.{kind}", SIZES)
    assert_too_few_frames_have_length_0(tmp_path, tmp_path / f"model.{kind}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder, input_layer",
    [("conformer_reuse", f"conv2d{factor}") for factor in (1, 2, 6, 8)]
    + [("e_branchformer_reuse", f"conv1d{factor}") for factor in (1, 2, 3)],
)
def test_too_few_frames_for_an_input_layer_have_length_0(
    encoder, input_layer, tmp_path
):
    save_model(tmp_path, encoder, **LATEST, **REUSE, input_layer=input_layer)
    assert run(tmp_path, kind="onnx") == 0
    assert_serves_the_model(tmp_path, tmp_path / "model.onnx", SIZES[1:])
    assert_too_few_frames_have_length_0(tmp_path, tmp_path / "model.onnx")


@pytest.mark.slow
@either_format
def test_more_frames_than_espnet_has_positions_for_give_the_models_output(
    kind, tmp_path
):
    save_model(tmp_path, "conformer_reuse", **ONE_LAYER, **LATEST)
    assert run(tmp_path, kind=kind) == 0
    assert_serves_the_model(tmp_path, tmp_path / f"model.{kind}", [[5100]])


@pytest.mark.slow
def test_legacy_positions_refuse_more_frames_than_they_are_for(tmp_path):
    save_model(tmp_path, "conformer", **ONE_LAYER)
    assert run(tmp_path, kind="onnx") == 0
    assert_serves_the_model(tmp_path, tmp_path / "model.onnx", [[5000]])
    infer = serve(tmp_path / "model.onnx")
    with pytest.raises(Exception, match=r"(?i)guard|shape|dimension"):
        infer(torch.zeros(1, 5001, MELS), torch.tensor([5001]))


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
        (["--with_ctc", "perhaps"], "--with_ctc: invalid str2bool value: 'perhaps'"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else None,
)
def test_a_wrong_option_is_named(simplest, capsys, options, message):
    before = os.listdir(simplest)
    assert_refused(capsys, run(simplest, *options), message)
    assert os.listdir(simplest) == before


TRIM = {"interctc_layer_idx": [1], "ctc_trim": True}
WITHOUT_CTC = {"model_conf": {"ctc_weight": 0.0}, "decoder": "transformer"}


@pytest.mark.parametrize(
    "encoder, options, config, message",
    [
        ("rnn", {}, {}, "RNNEncoder cannot be exported; use a model with one of Conf"),
        ("conformer", TRIM, {}, "ctc_trim: true in encoder_conf drops frames"),
        ("transformer", {}, WITHOUT_CTC, "has no CTC head"),
    ],
)
def test_what_no_graph_can_be_made_of_is_named(
    encoder, options, config, message, tmp_path, capsys
):
    save_model(tmp_path, encoder, config, **options)
    assert_refused(capsys, run(tmp_path, "--with_ctc", "true"), message)


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
    def fail(served, size, path):
        path.write_text("half")
        raise fault

    output = tmp_path / "encoder.pt2"
    output.write_text("before")
    monkeypatch.setattr(library, "export_encoder", fail)
    assert run(simplest, "--output", output) == expected
    assert list(tmp_path.iterdir()) == [output] and output.read_text() == "before"


def test_an_export_that_differs_from_the_model_is_not_written(
    simplest, tmp_path, capsys, monkeypatch
):
    make_graph = library.export_encoder

    def export_changed(served, size, path):
        make_graph(served, size, path)
        with torch.no_grad():
            served.encoder.after_norm.bias += 2e-4

    monkeypatch.setattr(library, "export_encoder", export_changed)
    status = run(simplest, "--output", tmp_path / "encoder.pt2")
    assert_refused(
        capsys, status, "differs from the model by 2.0e-04, more than 0.0001"
    )
    assert not list(tmp_path.iterdir())
