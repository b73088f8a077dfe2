# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What a comparison reads of trainings and decodings, and what it measures."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_reuse.comparison import results
from espnet_reuse.comparison.results import compare, read_scores
from espnet_reuse.comparison.score import score_set
from espnet_reuse.comparison.tables import format_details, format_results
from espnet_reuse.errors import UserError

CONFIG = {
    "encoder": "conformer",
    "encoder_conf": {"output_size": 8, "attention_heads": 1, "num_blocks": 1},
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 1, "num_blocks": 1},
    "frontend_conf": {"fs": 8000, "n_fft": 256, "hop_length": 80},
    "token_type": "char",
    "token_list": ["<blank>", "<unk>", "A", "B", "<space>", "<sos/eos>"],
    "best_model_criterion": [["valid", "acc", "max"]],
}
BEST_PATH = "decode_asr_ctc_best_path"
TEXTS = {"a-1": "A B", "a-2": "B"}
# {model: {weight of CTC, {decoding: (its config, text of a-1)}}}
MODELS = {
    "hybrid": (0.5, {"decode": ("beam_size: 2", "A A"), BEST_PATH: (None, "B A A")}),
    "ctc": (1.0, {BEST_PATH: ("search: best_path", "A")}),
    "attention": (0.0, {"decode": ("{beam_size: 2, ctc_weight: 0.0}", "A B")}),
}


@pytest.fixture
def decoded(tmp_path, save_model, monkeypatch):
    """Models of random parameters with decodings that were scored: {model: folder}."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "TEXT_ROUNDS", 2)
    data = tmp_path / "dump/raw/test"
    data.mkdir(parents=True)
    wavs = {name: tmp_path / f"{name}.wav" for name in TEXTS}
    for wav in wavs.values():
        soundfile.write(wav, np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    speakers = dict.fromkeys(TEXTS, "a")
    for name, lines in (("wav.scp", wavs), ("text", TEXTS), ("utt2spk", speakers)):
        (data / name).write_text("".join(f"{k} {v}\n" for k, v in lines.items()))
    (data / "audio_format").write_text("wav\n")
    folders = {}
    for name, (weight, decodings) in MODELS.items():
        config = CONFIG | {"model_conf": {"ctc_weight": weight}}
        exp = save_model(tmp_path / f"asr_{name}", config, 0.1)
        seconds = {"time": {"__timedelta_seconds__": 1.0}}
        stats = {1: {"train": seconds, "valid": {"acc": 0.5, **seconds}}}
        torch.save({"reporter": {"stats": stats}}, exp / "checkpoint.pth")
        (exp / "train.log").write_text("Peak memory: 100 MB\n")
        for tag, (inference, text) in decodings.items():
            logdir = exp / tag / "test/logdir"
            logdir.mkdir(parents=True)
            texts = TEXTS | {"a-1": text}
            lines = "".join(f"{k} {v}\n" for k, v in texts.items())
            (logdir.parent / "text").write_text(lines)
            score_set(exp / tag, "test", data.parent, {"token_type": "char"})
            if inference:
                (exp / "decode.yaml").write_text(inference)
                (logdir / "asr_inference.1.log").write_text(
                    "# python3 -m espnet_reuse.run -m espnet2.bin.asr_inference "
                    "--ngpu 0 --data_path_and_name_and_type a,speech,sound "
                    f"--asr_train_config {exp}/config.yaml --output_dir x "
                    f'--asr_model_file {exp}/model.pth --config "{exp}/decode.yaml"\n'
                    "# Started at a time\n/usr/bin/asr_inference.py --ngpu 1\n"
                )
        folders[name] = [exp / next(iter(decodings))]
    return folders


def test_each_model_is_read_and_timed_with_its_decoding_and_with_best_path(decoded):
    comparison = compare(decoded, ["test"], "./run.sh", dumpdir=Path("dump/raw"))
    models = comparison["models"]
    assert comparison["run"]["decoding"] == f"decode, {BEST_PATH}"
    assert comparison["text_rounds"] == 2

    def rates(score):
        counts = [model["scores"]["test"][score] for model in models.values()]
        return [c and pytest.approx(c["error_rate"]) for c in counts]

    assert rates("wer") == [100 / 3, 100 / 3, 0]
    assert rates("best_path_wer") == [200 / 3, 100 / 3, None]
    searches = [["beam 2", "best path"], ["best path"], ["beam 2"]]
    assert [list(model["to_text"]) for model in models.values()] == searches
    for model in models.values():
        for times in model["to_text"].values():
            parts = [times[f"{part}_ms"] for part in ("frontend", "encoder", "search")]
            assert min(parts) > 0 and sum(parts) == pytest.approx(times["total_ms"])
    results_md = format_results(comparison)
    assert "| best path  |" in results_md and "models gone" not in results_md
    assert "- hybrid: A A" in format_details(models, Path("dump/raw"))


def test_a_set_that_is_not_scored_is_named(tmp_path):
    with pytest.raises(UserError, match="test is not scored"):
        read_scores(tmp_path / "test")
