# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Utterances whose frames do not suffice for CTC are noted before the training."""

import sys

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_reuse.comparison import check_lengths
from espnet_reuse.comparison.check_config import build, parse
from espnet_reuse.comparison.check_lengths import count_frames, needed_frames

CONFIG = {
    "encoder": "conformer_reuse",
    "encoder_conf": {"num_blocks": 2, "reuse_group_size": 2, "output_size": 16},
    "decoder": "transformer",
}


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 1], [1, 1, 1, 2, 2]])
def test_ctc_has_a_finite_loss_from_the_needed_frames_on(tokens):
    needed = needed_frames(tokens)
    for frames in {max(needed - 1, 1), max(needed, 1)}:
        log_probs = torch.randn(frames, 1, 3).log_softmax(-1)
        lengths = torch.tensor([frames]), torch.tensor([len(tokens)])
        targets = torch.tensor([tokens], dtype=torch.long).reshape(1, -1)
        loss = torch.nn.functional.ctc_loss(log_probs, targets, *lengths)
        assert torch.isfinite(loss) == (frames >= needed)


@pytest.fixture
def write_config(tmp_path):
    def write(**changes):
        config = CONFIG | {"encoder_conf": CONFIG["encoder_conf"] | changes}
        path = tmp_path / "model.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    "layer", ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", "linear"]
)
def test_frames_are_those_of_the_trained_model(write_config, layer):
    args = parse(ASRTask.get_parser(), write_config(input_layer=layer), [], "")
    frames = count_frames(build("", args))
    model = ASRTask.build_model(args).eval()
    for samples in (4000, 4500, 8001):
        speech = torch.randn(1, samples), torch.tensor([samples])
        _, (expected,) = model.encode(*speech)
        assert frames(samples) == expected
    assert layer == "linear" or frames(100) == 0


def test_what_is_too_short_for_its_tokens_is_noted_with_its_effect(
    write_config, tmp_path, capsys, monkeypatch
):
    # 0.5 s are 63 frames of features, 14 after subsampling
    words = {"enough": "ABCDEFGHIJKLMN", "twice": "ABCDEFGGHIJKL A", "many": "A" * 300}
    options = vars(ASRTask.get_parser().parse_args([]))
    folder = tmp_path / "stats"
    (folder / "logdir/stats.1").mkdir(parents=True)
    options |= {"token_type": "char", "token_list": [*"ABCDEFGHIJKLMN", "<space>"]}
    options["token_list"] += ["<blank>", "<unk>", "<sos/eos>"]
    for part in ("train", "valid"):
        data = tmp_path / f"{part}_data"
        data.mkdir()
        (folder / part).mkdir()
        sources = [[str(data / "wav.scp"), "speech", "sound"]]
        sources.append([str(data / "text"), "text", "text"])
        options[f"{part}_data_path_and_name_and_type"] = sources
        ids = words if part == "train" else ["enough"]
        for file, value in (
            (data / "text", lambda i: words[i]),
            (folder / part / "speech_shape", lambda i: "8000,2"),
            (folder / part / "text_shape", lambda i: len(words[i])),
        ):
            file.write_text("".join(f"{i} {value(i)}\n" for i in ids), encoding="utf-8")
    path = folder / "logdir/stats.1/config.yaml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    models = [f"{name}={write_config()}" for name in ("a", "b")]
    argv = ["check_lengths", "--stats", str(folder), "--models", *models]
    monkeypatch.setattr(sys, "argv", argv)
    check_lengths.main()
    (note,) = capsys.readouterr().out.splitlines()
    assert note == (
        "note: train_data: 2 of 3 utterances have more tokens than frames after "
        "subsampling; CTC counts their loss as 0: twice, many (a, b)"
    )
    monkeypatch.setattr(
        sys, "argv", [*argv, "--asr_args", "--ctc_conf zero_infinity=false"]
    )
    check_lengths.main()
    assert "CTC gives them an infinite loss: twice, many" in capsys.readouterr().out
    path.unlink()  # by someone who cleans up
    check_lengths.main()
    assert capsys.readouterr().out == (
        f"note: tokens are not checked against frames: there is no {path}\n"
    )
