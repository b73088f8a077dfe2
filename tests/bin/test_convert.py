# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The conversion of trained models: what it keeps, the way back, bad input."""

import json
import os

import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import pack

import espnet_reuse  # noqa: F401 (registers the encoders)
from espnet_reuse import convert
from espnet_reuse.bin import convert as command

ENCODERS = ["conformer", "transformer", "branchformer", "e_branchformer"]
LAYERS, HEADS, SIZE = 4, 2, 16
NOISE = 0.1  # in the parameters
TOKENS = ["<blank>", "<unk>", *"abcdefg", "<sos/eos>"]


def config_of(encoder, **options):
    size = {} if encoder == "vgg_rnn" else {"output_size": SIZE}
    if encoder.removesuffix("_reuse") in ENCODERS:
        size |= {"attention_heads": HEADS, "num_blocks": LAYERS}
    return {
        "token_list": TOKENS,
        "token_type": "char",
        "encoder": encoder,
        "encoder_conf": size | options,
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "num_blocks": 1, "linear_units": 16},
        "frontend_conf": {"fs": "16k", "hop_length": 160, "n_mels": 20},
        "normalize": "utterance_mvn",
    }


def run(source, output, *options):
    """Run the command on a saved model; return the converted state dict."""
    files = ["--asr_train_config", source / "config.yaml"]
    files += ["--asr_model_file", source / "model.pth"]
    command.main([*map(str, [*files, "--output_dir", output, *options])])
    return torch.load(output / "model.pth")


@pytest.fixture(scope="module", params=ENCODERS)
def baseline(request, tmp_path_factory, save_model):
    """A folder with a trained baseline of each encoder."""
    folder = tmp_path_factory.mktemp(request.param) / "exp"
    return save_model(folder, config_of(request.param), NOISE)


@pytest.fixture(scope="module")
def conformer(tmp_path_factory, save_model):
    """A folder with a trained Conformer."""
    folder = tmp_path_factory.mktemp("conformer") / "exp"
    return save_model(folder, config_of("conformer"), NOISE)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, an4):
    """A data directory of two utterances of different lengths."""
    folder = tmp_path_factory.mktemp("data")
    for n in (0, 2):
        soundfile.write(folder / f"{n}.wav", an4[n][1][: 12000 + 4000 * n], 16000)
    (folder / "wav.scp").write_text(f"utt0 {folder}/0.wav\nutt2 {folder}/2.wav\n")
    return folder


def decode(folder, an4):
    """Decode two recordings; return the tokens and the score of three hypotheses."""
    files = folder / "config.yaml", folder / "model.pth"
    speech2text = Speech2Text(*files, beam_size=3, nbest=3, maxlenratio=-5)
    return [
        (hypothesis.yseq.tolist(), hypothesis.score.item())
        for _, wav in an4[:2]
        for *_, hypothesis in speech2text(wav[:16000])
    ]


def test_groups_of_one_decode_as_before_and_expand_into_what_was_there(
    baseline, tmp_path, an4, monkeypatch
):
    run(baseline, tmp_path / "out", "--reuse_group_size", 1)
    expected = decode(baseline, an4)
    assert len(expected) == 6 and len(expected[0][0]) > 2
    decoded = decode(tmp_path / "out", an4)
    assert [tokens for tokens, _ in decoded] == [tokens for tokens, _ in expected]
    scores = [score for _, score in decoded]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-4)
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "naive")  # bit for bit
    assert decode(tmp_path / "out", an4) == expected
    expanded = run(tmp_path / "out", tmp_path / "expanded", "--expand", "true")
    before = torch.load(baseline / "model.pth")
    assert all(torch.equal(expanded[key], before[key]) for key in before)


def test_consumers_lose_their_scores_parameters_and_nothing_else_changes(
    baseline, tmp_path, an4, capsys
):
    state = run(baseline, tmp_path / "out", "--reuse_group_size", "[1, 3]")
    before = torch.load(baseline / "model.pth")
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    dropped = before.keys() - state.keys()
    assert {key.split(".")[2] for key in dropped} == {"2", "3"}
    parts = {key.split("attn.")[1].split("_")[1].split(".")[0] for key in dropped}
    assert parts <= {"q", "k", "pos", "bias"} and {"q", "k"} <= parts
    printed = capsys.readouterr().out
    assert f"Kept: {len(state)} tensors" in printed
    assert f"Dropped: {len(dropped)} tensors" in printed and "layers 3, 4" in printed
    decode(tmp_path / "out", an4)
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert config["encoder_conf"]["reuse_group_size"] == [1, 3]
    assert config["init_param"] == [str(tmp_path / "out/model.pth")]


def test_a_packed_model_converts_as_its_files_do(conformer, tmp_path, monkeypatch):
    monkeypatch.chdir(conformer.parent)
    pack(
        files={"asr_model_file": "exp/model.pth"},
        yaml_files={"asr_train_config": "exp/config.yaml"},
        outpath=tmp_path / "packed.zip",
    )
    expected = run(conformer, tmp_path / "of_files", "--reuse_group_size", 2)
    monkeypatch.chdir(tmp_path)
    arguments = ["--packed_model", "packed.zip", "--reuse_group_size", "2"]
    command.main([*arguments, "--output_dir", "out"])
    state = torch.load(tmp_path / "out/model.pth")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    Speech2Text("out/config.yaml", "out/model.pth")


def test_the_files_of_a_packed_model_are_found_in_the_output_folder():
    config = {"bpemodel": "out.tmp/bpe.model", "x": ["out.tmp/a", "out.tmpb", 1, None]}
    assert command.relocated(config, "out.tmp", "out") == {
        "bpemodel": "out/bpe.model",
        "x": ["out/a", "out.tmpb", 1, None],
    }


def test_reuse_expands_into_a_stock_model_and_converts_back_to_itself(
    baseline, tmp_path, data_dir, an4, capsys
):
    name = yaml.safe_load((baseline / "config.yaml").read_text())["encoder"]
    reuse = run(baseline, tmp_path / "reuse", "--reuse_group_size", "[1, 3]")
    options = ("--expand", "true", "--data_dir", data_dir)
    expanded = run(tmp_path / "reuse", tmp_path / "expanded", *options)
    config = yaml.safe_load((tmp_path / "expanded/config.yaml").read_text())
    assert (
        config["encoder"] == name and "reuse_group_size" not in config["encoder_conf"]
    )
    attention = "self_attn" if name in ENCODERS[:2] else "attn"
    for consumer in (2, 3):
        for part in ("linear_q", "linear_k"):
            key = f"encoder.encoders.{{}}.{attention}.{part}.weight"
            assert torch.equal(expanded[key.format(consumer)], expanded[key.format(1)])
    decode(tmp_path / "expanded", an4)
    conversion = json.loads((tmp_path / "expanded/conversion.json").read_text())
    distances = [row["distance"] for row in conversion["layers"]]
    # rounding under the root; the consumers see another input than their producer
    assert max(distances[:2]) < 2e-3 and min(distances[2:]) > 5e-3
    assert f"layer 4: {distances[3]:.3f}" in capsys.readouterr().out
    back = run(tmp_path / "expanded", tmp_path / "back", "--reuse_group_size", "[1, 3]")
    assert back.keys() == reuse.keys()
    assert all(torch.equal(back[key], reuse[key]) for key in reuse)


def test_coarser_groups_are_made_of_a_reuse_model_finer_ones_refused(
    conformer, tmp_path, capsys
):
    run(conformer, tmp_path / "two", "--reuse_group_size", 2)
    once = run(conformer, tmp_path / "once", "--reuse_group_size", 4)
    twice = run(tmp_path / "two", tmp_path / "twice", "--reuse_group_size", 4)
    assert all(torch.equal(once[key], twice[key]) for key in once.keys() | twice.keys())
    run(tmp_path / "two", tmp_path / "again", "--reuse_group_size", 2)
    assert "Nothing dropped: the source has the same groups" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(tmp_path / "two", tmp_path / "one", "--reuse_group_size", 1)
    assert "layer 2 would be a producer, but is a consumer" in capsys.readouterr().err


def permuted(state, attention):
    """Swap the two heads of an attention module, which changes no output."""
    state = dict(state)
    convert.permute_heads(state, attention, [1, 0])
    for key, value in state.items():
        part = key.removeprefix(f"{attention}.")
        if part.startswith(("linear_q", "linear_k", "linear_pos")):
            state[key] = value.unflatten(0, (HEADS, -1)).flip(0).flatten(0, 1)
        elif part.startswith("pos_bias"):
            state[key] = value.flip(0)
    return state


def test_the_order_of_a_consumers_heads_does_not_matter_once_they_are_matched(
    conformer, tmp_path, data_dir, an4, save_model
):
    before = torch.load(conformer / "model.pth")
    other = save_model(tmp_path / "other", config_of("conformer"), NOISE)
    torch.save(permuted(before, "encoder.encoders.1.self_attn"), other / "model.pth")
    for (tokens, score), expected in zip(
        decode(other, an4), decode(conformer, an4), strict=True
    ):
        assert tokens == expected[0] and score == pytest.approx(expected[1], abs=1e-4)

    matched, unmatched = (
        [
            run(
                *(source, tmp_path / f"{match} {n}", "--reuse_group_size", 2),
                *("--data_dir", data_dir, "--match_heads", match),
            )
            for n, source in enumerate((conformer, other))
        ]
        for match in ("true", "false")
    )
    key = "encoder.encoders.1.self_attn.linear_v.weight"
    assert torch.equal(matched[0][key], matched[1][key])
    assert not torch.equal(unmatched[0][key], unmatched[1][key])
    for state in matched, unmatched:
        assert all(torch.equal(state[0][k], state[1][k]) for k in before if ".2." in k)
    layers = [
        json.loads((tmp_path / f"true {n}/conversion.json").read_text())["layers"]
        for n in range(2)
    ]
    assert [row["layer"] for row in layers[0]] == [2, 4]
    assert [row["producer"] for row in layers[0]] == [1, 3]
    assert sorted(row["heads"][0] for row in (layers[0][0], layers[1][0])) == [0, 1]
    for rows in layers:
        for row in rows:
            assert 0 < row["matched_distance"] <= row["distance"] + 1e-6 < 1


# ------------------------------- bad input -------------------------------


@pytest.fixture
def bad(tmp_path, save_model):
    """A folder with files to go wrong with."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "noise.pth").write_bytes(bytes(range(256)) * 9)
    save_model(folder / "rnn", config_of("vgg_rnn"), NOISE)
    save_model(folder / "other", config_of("transformer"), NOISE)
    (folder / "full").mkdir()
    (folder / "full/file").write_text("mine")
    return folder


CONFIG, MODEL = (
    "--asr_train_config {exp}/config.yaml",
    "--asr_model_file {exp}/model.pth",
)
SIZE_2 = "--reuse_group_size 2"
# Options that replace some of a good command, or are added to it.
ADDED = {
    "--expand true": "--reuse_group_size: give either the layers",
    "--reuse_group_size [1,2]": "reuse_group_size: [1, 2] sums",
    "--reuse_group_size x": "error: reuse_group_size: 'x' must be",
    "--task nosuch": "no task 'nosuch': ESPnet has no such task",
    "--task st --data_dir {exp}": "--data_dir: maps can be measured for --task asr",
    "--data_dir {exp}": "{exp}/wav.scp is missing",
    "--num_utts 0": "--num_utts: '0' must be a positive integer",
    "--asr_train_config no/such": "--asr_train_config: there is no file 'no/such'",
    "--asr_model_file no/such": "--asr_model_file: there is no file 'no/such'",
    "--asr_model_file {bad}/noise.pth": "{bad}/noise.pth is not a file of model",
    "--asr_model_file {bad}/other/model.pth": "model.pth does not fit the config",
    "--asr_train_config {bad}/rnn/config.yaml --asr_model_file {bad}/rnn/model.pth": (
        "the config's encoder is 'vgg_rnn', which cannot reuse maps"
    ),
    "--output_dir {bad}/full": "--output_dir: {bad}/full is not empty",
    "--output_dir {bad}/full/file/x": "--output_dir: {bad}/full/file: File exists",
    "--packed_model {bad}/noise.pth": "name the model: --asr_train_config and",
}
WHOLE = {
    f"{CONFIG} {SIZE_2}": "name the model: --asr_train_config and",
    f"{CONFIG} {MODEL}": "--reuse_group_size: give either the layers",
    f"{CONFIG} {MODEL} --expand true": "the config's encoder is 'conf",
    f"--packed_model no.zip {SIZE_2}": "--packed_model: there is no file 'no.zip'",
    f"--packed_model {{bad}}/noise.pth {SIZE_2}": "is not a packed ESPnet model",
}


@pytest.mark.parametrize(
    "arguments, message",
    [(f"{CONFIG} {MODEL} {SIZE_2} {added}", ADDED[added]) for added in ADDED]
    + [*WHOLE.items()],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    arguments, message, conformer, bad, tmp_path, capsys
):
    output = tmp_path / "results/out"
    names = {"exp": conformer, "bad": bad}
    arguments = arguments.format(**names).split()
    if "--output_dir" not in arguments:
        arguments += ["--output_dir", str(output)]
    before = sorted(bad.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code in (1, 2)
    assert printed.startswith("espnet_reuse.bin.convert: error: ")
    assert message.format(**names) in printed
    assert not (tmp_path / "results").exists() or not os.listdir(tmp_path / "results")
    assert sorted(bad.rglob("*")) == before


@pytest.mark.parametrize(
    "fault, status, message",
    [
        (KeyboardInterrupt, 130, "interrupted; nothing is written"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_a_conversion_that_stops_leaves_nothing(
    conformer, tmp_path, monkeypatch, capsys, fault, status, message
):
    def fail(state, path):
        path.write_text("half")
        raise fault

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(SystemExit) as stopped:
        run(conformer, tmp_path / "out", "--reuse_group_size", 2)
    assert stopped.value.code == status
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
