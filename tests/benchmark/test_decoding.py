# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The time from waveform to text is that of its parts."""

import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_reuse.benchmark import decoding

DECODING = {"ctc_weight": 1.0, "beam_size": 2}
CONFIG = {
    "token_list": ["<blank>", "<unk>", *"abcdef", "<sos/eos>"],
    "token_type": "char",
    "encoder": "transformer_reuse",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 16},
        **{"num_blocks": 2, "reuse_group_size": 2},
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "num_blocks": 1, "linear_units": 16},
    "frontend_conf": {"fs": "8k", "hop_length": 80, "n_mels": 20},
    "normalize": "utterance_mvn",
}


@pytest.fixture(scope="module")
def exp(tmp_path_factory, save_model):
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("exp")
    return save_model(folder, CONFIG, 0.0, "valid.acc.ave.pth")


def load(exp):
    return Speech2Text(exp / "config.yaml", exp / "valid.acc.ave.pth", **DECODING)


def speeches(*seconds):
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.normal(size=int(8000 * s))).float() for s in seconds]


def test_the_bound_is_the_best_label_of_each_frame_without_repeats_and_blanks(exp):
    speech2text = load(exp)
    model = speech2text.asr_model
    head = model.ctc.ctc_lo
    torch.nn.init.normal_(head.weight, std=3)
    for speech in speeches(0.7, 2):
        encoded, _ = model.encode(speech[None], torch.tensor([len(speech)]))
        logits = head(encoded)[0]  # every other frame becomes a blank
        head.bias.data[0] += (logits.amax(-1) - logits[:, 0]).median() + 1e-3
        frames = model.ctc.log_softmax(encoded)[0].argmax(-1).tolist()
        assert 0 in frames and len(set(frames)) > 2
        expected = [label for label, _ in itertools.groupby(frames) if label != 0]
        assert decoding.best_path(speech2text, speech).tolist() == expected


@pytest.mark.parametrize("busy", ["frontend", "encoder", "search"])
def test_time_is_counted_for_the_part_that_takes_it(exp, busy, monkeypatch):
    now = [0.0]  # a clock that goes on in one part alone
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(decoding, "time", clock)
    speech2text = load(exp)
    part = getattr(speech2text.asr_model, busy, speech2text.beam_search)
    part.register_forward_hook(lambda *_: now.append(now.pop() + 1))
    (row,) = decoding.time_turns({("m", "beam 2"): speech2text}, speeches(0.5, 1), 1)
    parts = dict.fromkeys(("frontend_ms", "encoder_ms", "search_ms"), 0)
    parts |= {f"{busy}_ms": 2000, "total_ms": 2000}  # of two utterances
    assert row == {"model": "m", "search": "beam 2"} | parts


def test_the_command_writes_milliseconds_for_a_second_of_audio(
    exp, tmp_path, monkeypatch
):
    scp = tmp_path / "wav.scp"
    for n, speech in enumerate(speeches(0.5, 1)):
        soundfile.write(tmp_path / f"{n}.wav", speech.numpy(), 8000)
    scp.write_text("".join(f"u{n} {tmp_path}/{n}.wav\n" for n in range(2)))
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(DECODING))
    rows = [{"model": "a", "search": "argmax", "total_ms": ms} for ms in (3, 6, 30)]
    monkeypatch.setattr(decoding, "time_turns", lambda *_: rows)
    output = tmp_path / "times.json"
    argv = ["decoding", "--models", f"a={exp}", "--data_dir", tmp_path]
    argv += ["--inference_config", tmp_path / "decode.yaml", "--output", output]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    decoding.main()
    result = json.loads(output.read_text())
    assert result["settings"]["audio_seconds"] == 1.5
    assert result["rows"] == [{"model": "a", "search": "argmax", "total_ms": 4.0}]
