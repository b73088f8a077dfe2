# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The time from waveform to text is that of its parts."""

import numpy as np
import pytest
import torch

from espnet_reuse.benchmark import decoding
from espnet_reuse.benchmark.decoding import BEST_PATH, time_turns
from espnet_reuse.bin.asr_inference_ctc import Speech2Text

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
    """The folder of a model of random parameters."""
    return save_model(tmp_path_factory.mktemp("exp"), CONFIG, 0.0)


@pytest.fixture
def speech2text(exp):
    return Speech2Text(exp / "config.yaml", exp / "model.pth", **DECODING)


@pytest.fixture
def clock(monkeypatch):
    """A list with the time, which goes on only when a test changes it."""
    now = [0.0]
    monkeypatch.setattr(decoding, "timer", lambda: now[0])
    return now


def takes_a_second(clock):
    return lambda *_: clock.__setitem__(0, clock[0] + 1)


def speeches(*seconds):
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.normal(size=int(8000 * s))).float() for s in seconds]


@pytest.mark.parametrize("search", ["beam 2", BEST_PATH])
@pytest.mark.parametrize("busy", ["frontend", "normalize", "encoder", "search"])
def test_time_is_counted_for_the_part_that_takes_it(speech2text, clock, search, busy):
    model = speech2text.asr_model
    modules = model.ctc.ctc_lo, model.frontend, model.normalize, model.encoder
    names = "search", "frontend", "normalize", "encoder"
    modules = dict(zip(names, modules, strict=True))
    modules[busy].register_forward_pre_hook(takes_a_second(clock))  # for the part
    (row,) = time_turns({("m", search, 1): speech2text}, speeches(0.5, 1), 1)
    part = "frontend" if busy == "normalize" else busy
    parts = dict.fromkeys(("frontend_ms", "encoder_ms", "search_ms"), 0)
    parts |= {f"{part}_ms": 2000, "total_ms": 2000}  # of two utterances
    assert row == {"model": "m", "search": search, "batch": 1} | parts


@pytest.mark.parametrize("search", ["beam 2", BEST_PATH])
def test_a_batch_is_encoded_once_and_apart_from_other_turns_of_its_recognizer(
    speech2text, clock, search
):
    speech2text.asr_model.encoder.register_forward_hook(takes_a_second(clock))
    turns = {("m", search, batch): speech2text for batch in (1, 2)}
    rows = time_turns(turns, speeches(0.5, 0.6, 0.7), 2)
    assert [(row["batch"], row["encoder_ms"]) for row in rows] == [
        *[(1, 3000), (2, 2000)] * 2
    ]


def test_no_round_begins_after_the_longest_time_but_one_is_whole(speech2text):
    turns = {("m", BEST_PATH, 1): speech2text}
    assert len(time_turns(turns, speeches(0.5), 5, max_seconds=0)) == 1
    assert len(time_turns(turns, speeches(0.5), 5)) == 5


def test_the_first_waveform_alone_warms_up(speech2text):
    assert speech2text.samples_per_frame  # it encodes noise once
    sizes = []
    encoder = speech2text.asr_model.encoder
    encoder.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    time_turns({("m", BEST_PATH, 2): speech2text}, speeches(0.5, 0.6), 1)
    assert sizes == [1, 2]
