# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""An exported file says what the model says, without PyTorch and ESPnet."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import sentencepiece
from espnet2.text.build_tokenizer import build_tokenizer

from espnet_reuse.bin.asr_inference_ctc import Speech2Text
from espnet_reuse.errors import UserError
from espnet_reuse.serving import RUNTIMES, ExportedModel, Tokens

ROOT = Path(__file__).parents[1]
WINDOWS = {"window_in_secs": 2.4, "context_len_in_secs": 0.4}


@pytest.fixture(scope="module", params=["true", "best_path"])
def exported(request, export):
    return export(request.param)


@pytest.fixture(scope="module")
def speech2text(export):
    folder = export().parent
    return Speech2Text(folder / "config.yaml", folder / "model.pth")


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def speeches(an4):
    return [np.float32(wav) for _, wav in an4]


def test_an_utterance_has_the_models_text_alone_and_in_any_batch(
    exported, runtime, speech2text, speeches
):
    model = ExportedModel(exported, runtime, threads=1)
    expected = [result[0] for result in speech2text.best_path_batch(speeches)]
    assert sum(" " in text for text, *_ in expected) > 3  # several words
    results = {
        "alone": [model.best_path(speech) for speech in speeches],
        "pairs": model.best_path_batch(speeches, batch_seconds=6),
        "all": model.best_path_batch(speeches[::-1], batch_seconds=1000)[::-1],
    }
    for transcripts in results.values():
        for transcript, (*same, hypothesis) in zip(transcripts, expected, strict=True):
            assert list(transcript[:3]) == same
            np.testing.assert_allclose(transcript.times, hypothesis.times, atol=1e-6)


def test_where_padding_has_an_effect_utterances_are_decoded_alone(
    export, runtime, speeches, caplog
):
    model = ExportedModel(export(rel_pos_type="legacy"), runtime)
    alone = [model.best_path(speech) for speech in speeches]
    assert model.best_path_batch(speeches, batch_seconds=1000) == alone
    assert sum("one at a time" in message for message in caplog.messages) == 1
    assert ExportedModel(export(), runtime).is_padding_invariant


def test_tokens_and_their_times_give_the_label_of_each_frame(export):
    model, rng = ExportedModel(export()), np.random.default_rng(0)
    for frames in (0, 1, 7, 200):
        labels = rng.integers(0, 3, frames)  # with repeats, also over a blank
        token_int, *borders = model._collapse(labels)
        times = np.float32(np.stack(borders, -1) * model.seconds_per_frame)
        assert model._spread(frames, token_int, times).tolist() == labels.tolist()


def test_a_long_recording_has_the_models_text_and_times(
    exported, runtime, speech2text, speeches
):
    model, recording = ExportedModel(exported, runtime), np.concatenate(speeches)
    *times, texts = zip(*speech2text.iter_long(recording, **WINDOWS), strict=True)
    *served, said = zip(*model.iter_long(recording, **WINDOWS), strict=True)
    assert said == texts and len(texts) > 5
    np.testing.assert_allclose(served, times)
    words = [word for *_, word in model.iter_words(recording, **WINDOWS)]
    assert words == " ".join(texts).split()


@pytest.mark.parametrize("samples", [0, 1, 400, 900])
def test_of_several_utterances_one_that_is_too_short_has_no_text(
    exported, runtime, speeches, samples, caplog
):
    model = ExportedModel(exported, runtime)
    batch = [speeches[0], speeches[1][:samples], speeches[2]]
    first, short, last = model.best_path_batch(batch, utt_ids=["a", "short", "c"])
    assert first.text and last.text and short == ("", [], [], [])
    assert caplog.messages == [f"short: {samples / 16000:g} s is too short: no text"]


def test_the_metadata_is_the_files_in_every_runtime(exported, runtime):
    file = {x.key: x.value for x in onnx.load(exported).metadata_props}
    assert ExportedModel(exported, runtime).metadata == file


def test_bfloat16_is_for_openvino_and_float32_is_its_default(export, speeches):
    openvino = pytest.importorskip("openvino")
    single, other = ExportedModel(export()), ExportedModel(export(), "openvino")
    inputs = {"speech": speeches[0][None], "speech_lengths": np.array([10000])}
    expected = single._run(["encoder_out"], inputs)
    np.testing.assert_allclose(other._run(["encoder_out"], inputs), expected, atol=1e-4)
    with pytest.raises(UserError, match="ONNX Runtime computes in float32"):
        ExportedModel(export(), "onnxruntime", dtype="bfloat16")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        half = ExportedModel(export(), "openvino", dtype="bfloat16")
        different = half._run(["encoder_out"], inputs) - np.array(expected)
        assert 1e-3 < np.abs(different).max() < 1
    else:
        with pytest.raises(UserError, match="this CPU does not"):
            ExportedModel(export(), "openvino", dtype="bfloat16")


def test_by_default_the_runtime_is_one_that_is_installed(export, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert ExportedModel(export()).sample_rate == 16000
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
        ExportedModel(export())


def change(file, folder, **metadata):
    """Return a copy of a file with other metadata, without what is None."""
    model = onnx.load(file)
    about = {x.key: x.value for x in model.metadata_props} | metadata
    onnx.helper.set_model_props(
        model, {key: value for key, value in about.items() if value is not None}
    )
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def test_files_that_give_no_text_are_refused_in_one_line(export, runtime, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(export().read_bytes()[:50000])
    (tmp_path / "text.onnx").write_text("no ONNX file")
    (tmp_path / "empty.onnx").touch()
    model = onnx.load(export())
    assert model.graph.output.pop().name == "ctc_log_probs"
    onnx.save(model, tmp_path / "no_ctc.onnx")
    refused = {
        tmp_path / "cut.onnx": "is damaged or of another kind",
        tmp_path / "text.onnx": "is damaged or of another kind",
        tmp_path / "empty.onnx": "is ",
        tmp_path / "no_ctc.onnx": "has no CTC head, and so no text: export it with",
        export("true", "--with_frontend", "false"): "takes features, not audio",
    }
    for metadata, message in [
        ({"espnet_reuse": None}, "is no file of espnet-reuse export"),
        ({"tokens": "a b"}, "is of another version: "),
        ({"blank_id": None}, "is of another version: 'blank_id'"),
    ]:
        refused[change(export(), tmp_path, **metadata)] = message
        for file, expected in refused.items():
            with pytest.raises(UserError, match=expected) as error:
                ExportedModel(file, runtime)
            assert str(error.value).startswith(str(file))
            assert "\n" not in str(error.value)
        refused = {}


@pytest.fixture(scope="module")
def bpe_model(tmp_path_factory):
    """A model of sentencepiece that has bytes for letters that it does not know."""
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text").write_text("GO ON\nGO HOME\nNO ONE IS HOME\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={folder / 'text'} --model_prefix={folder / 'bpe'} --vocab_size=290 "
        "--byte_fallback=true --hard_vocab_limit=false --minloglevel=2"
    )
    return folder / "bpe.model"


@pytest.mark.parametrize("token_type", ["bpe", "char", "word", "phn"])
def test_text_is_what_espnets_tokenizer_makes_of_the_tokens(token_type, bpe_model):
    tokens = ["<blank>", "<unk>", "a", "<space>", "b", "▁c", "sil", "<sos/eos>"]
    if token_type == "bpe":
        pieces = sentencepiece.SentencePieceProcessor(str(bpe_model))
        pieces = [pieces.IdToPiece(n) for n in range(len(pieces))]
        letters = [p for p in pieces if not p.startswith("<")]
        tokens = ["<blank>", "<unk>", "▁", *letters, "<0xC3>", "<0xA9>", "<sos/eos>"]
    theirs = build_tokenizer(token_type, bpe_model if token_type == "bpe" else None)
    ours, rng = Tokens(tokens, token_type), np.random.default_rng(0)
    for size in range(300):
        token = ours.ids2tokens(rng.integers(1, len(tokens), size % 12))
        assert ours.tokens2text(token) == theirs.tokens2text(token), token


def test_neither_pytorch_nor_espnet_is_needed(export, tmp_path):
    absent = ["torch", "espnet2", "wrapt", "soxr", "tqdm", "humanfriendly", "yaml"]
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); "
    code += "from espnet_reuse.serving import ExportedModel; import numpy as np; "
    code += f"print(ExportedModel({str(export())!r}).best_path(np.zeros(9000, 'f')))"
    words = [sys.executable, "-c", code]
    printed = subprocess.check_output(words, text=True, cwd=tmp_path)
    assert printed.startswith("Transcript(text=")
