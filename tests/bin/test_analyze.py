# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The analysis' command: its files, its cache, bad input, interruption."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_reuse.analysis.maps import AnalysedModel
from espnet_reuse.bin import analyze as command

LAYERS, HEADS = 4, 2
ALIGNMENTS = Path(__file__).parents[1] / "analysis/alignments"


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """A folder with the config and the random parameters of a small Conformer."""
    folder = tmp_path_factory.mktemp("exp")
    save_model(folder, encoder="conformer")
    return folder


def save_model(folder, encoder, **options):
    torch.manual_seed(0)
    config = ASRTask.get_default_config() | {
        "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
        "encoder": encoder,
        "encoder_conf": {"output_size": 16, "linear_units": 16, "num_blocks": LAYERS}
        | {"attention_heads": HEADS, **options},
        "model_conf": {"ctc_weight": 1.0},
        "frontend_conf": {"fs": "16k", "hop_length": 160},
        "normalize": None,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), folder / "model.pth")


def write_data_dir(folder, an4, chosen):
    folder.mkdir(exist_ok=True)
    for n in chosen:
        words, wav = an4[n]
        speaker, audio = f"spk{n % 3}", folder / f"{n}.flac"
        soundfile.write(audio, wav, 16000)
        for name, value in ("wav.scp", audio), ("text", words), ("utt2spk", speaker):
            with open(folder / name, "a", encoding="utf-8") as file:
                print(f"{speaker}-{n} {value}", file=file)
    return folder


@pytest.fixture(scope="module")
def data_dir(an4, tmp_path_factory):
    return write_data_dir(tmp_path_factory.mktemp("data") / "an4", an4, range(7))


@pytest.fixture(scope="module")
def finished(exp, data_dir, tmp_path_factory):
    """The folder that the command wrote."""
    output = tmp_path_factory.mktemp("analysis") / "new/folder"
    assert run(exp, data_dir, "--output", output, "--suggest", 2, 3) == 0
    return output


def run(exp, data_dir, *options):
    """Run the command in this process; return its exit status."""
    model = ("--asr_train_config", exp / "config.yaml")
    model += ("--asr_model_file", exp / "model.pth")
    try:
        command.main([str(x) for x in (*model, "--data_dir", data_dir, *options)])
    except SystemExit as exit_:
        return exit_.code
    return 0


def read(output):
    return json.loads((output / "analysis.json").read_text())


def results(output):
    """The analysis without what a run is called."""
    return {k: v for k, v in read(output).items() if k not in ("run", "data")}


# ------------------------------ what it makes ------------------------------


def test_it_writes_the_numbers_the_figures_and_the_report(finished):
    analysis = read(finished)
    assert analysis["data"]["utterances"] == analysis["data"]["aligned"] == 7
    assert analysis["data"]["speakers"] == 3 and analysis["data"]["skipped"] == {}
    assert np.shape(analysis["diagonality"]["cad"]) == (LAYERS, HEADS)
    phonemes = analysis["phoneme_attention"]["phonemes"]
    assert {"AH", "SIL"} < set(phonemes)
    by_head = LAYERS, HEADS, len(phonemes), len(phonemes)
    assert np.shape(analysis["phoneme_attention"]["lift_by_head"]) == by_head
    probe = analysis["probe"]
    # at most: of silence there are frames, but none in the probe
    assert probe["classes"] < len(phonemes)
    assert probe["places"] == ["input", "1", "2", "3", "4"]
    assert not set(probe["train_speakers"]) & set(probe["test_speakers"])
    by_head, same_head, matched = map(
        np.array, analysis["similarity"]["js_distance"].values()
    )
    np.testing.assert_allclose(by_head.mean(-1), same_head, atol=1e-4)
    assert np.all(matched <= same_head + 1e-4)
    assert "reuse_group_size: " in (finished / "report.html").read_text()
    assert len(list(finished.glob("*.png"))) >= 6


def test_each_suggestion_is_compared_with_uniform_groups(finished):
    suggestions = read(finished)["suggestions"]
    assert [s["wanted"] for s in suggestions] == ["2 producers", "3 producers"]
    for suggestion, producers in zip(suggestions, (2, 3), strict=True):
        for grouping in suggestion["suggested"], suggestion["uniform"]:
            assert len(grouping["reuse_group_size"]) == producers
            assert sum(grouping["reuse_group_size"]) == LAYERS
        assert suggestion["suggested"]["cost"] <= suggestion["uniform"]["cost"] + 1e-6
        assert suggestion["suggested"]["speed_up"] > 1


@pytest.mark.slow
def test_the_order_of_the_utterances_does_not_matter(exp, data_dir, finished, tmp_path):
    reversed_dir = shutil.copytree(data_dir, tmp_path / "reversed")
    for name in ("wav.scp", "text", "utt2spk"):
        lines = (data_dir / name).read_text().splitlines()
        (reversed_dir / name).write_text("\n".join(lines[::-1]) + "\n")
    output = tmp_path / "analysis"
    assert run(exp, reversed_dir, "--output", output, "--suggest", 2, 3) == 0
    assert results(output) == results(finished)


@pytest.mark.slow
def test_an_utterances_measures_are_the_same_alone(exp, an4, tmp_path):
    cads = []
    for name, chosen in (("first", [0]), ("second", [4]), ("both", [0, 4])):
        data_dir = write_data_dir(tmp_path / name, an4, chosen)
        output = tmp_path / f"{name}_analysis"
        assert run(exp, data_dir, "--output", output, "--alignments", "none") == 0
        cads.append(np.array(read(output)["diagonality"]["cad"]))
    np.testing.assert_allclose((cads[0] + cads[1]) / 2, cads[2], atol=1e-5)


@pytest.mark.slow
def test_groups_that_share_maps_are_suggested_as_they_are(data_dir, tmp_path):
    save_model(tmp_path, "conformer_reuse", reuse_group_size=[1, 2, 1])
    options = ("--alignments", "none", "--suggest", 3, "--suggest_max_distance", 0.001)
    assert run(tmp_path, data_dir, *options) == 0
    # beside the model, if nothing else is said
    analysis = read(tmp_path / "analysis" / "an4")
    assert analysis["model"]["reuse_group_size"] == [1, 2, 1]
    for suggestion in analysis["suggestions"]:
        assert suggestion["suggested"]["reuse_group_size"] == [1, 2, 1]
        assert suggestion["suggested"]["cost"] == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_without_alignments_the_maps_are_analysed_and_the_report_says_so(
    exp, data_dir, finished, tmp_path
):
    assert run(exp, data_dir, "--alignments", "none", "--output", tmp_path) == 0
    analysis = read(tmp_path)
    assert analysis["phoneme_attention"] is None and analysis["probe"] is None
    assert analysis["diagonality"] == read(finished)["diagonality"]


@pytest.mark.slow
def test_unknown_words_are_counted_and_skipped(exp, data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    text = (folder / "text").read_text().splitlines()
    text[0] = text[0].split()[0] + " BLORQUE"
    (folder / "text").write_text("\n".join(text) + "\n")
    assert run(exp, folder, "--output", tmp_path / "out") == 0
    data = read(tmp_path / "out")["data"]
    assert data["utterances"] == 7 and data["aligned"] == 6
    assert list(data["skipped"].values()) == [[text[0].split()[0]]]


# ------------------------------ cache, interruption ------------------------------


class Encodings:
    """Counts encoded utterances, and interrupts after some of them."""

    def __init__(self, monkeypatch, interrupt_after=None):
        self.count = 0
        record = AnalysedModel.record

        def counted(model, *args):
            if self.count == interrupt_after:
                raise KeyboardInterrupt
            self.count += 1
            return record(model, *args)

        monkeypatch.setattr(AnalysedModel, "record", counted)


@pytest.mark.slow
def test_an_interrupted_analysis_is_continued(
    exp, data_dir, finished, tmp_path, monkeypatch
):
    options = ("--output", tmp_path, "--suggest", 2, 3)
    with monkeypatch.context() as patch:
        Encodings(patch, interrupt_after=4)
        assert run(exp, data_dir, *options) == 130
    assert not (tmp_path / "analysis.json").exists()
    encodings = Encodings(monkeypatch)
    assert run(exp, data_dir, *options) == 0
    assert encodings.count == 3 + 1  # and the example
    assert results(tmp_path) == results(finished)


def test_a_second_run_computes_the_example_alone(exp, data_dir, finished, monkeypatch):
    encodings = Encodings(monkeypatch)
    before = results(finished)
    assert run(exp, data_dir, "--output", finished, "--suggest", 2, 3) == 0
    assert encodings.count == 1
    assert results(finished) == before


@pytest.mark.slow
def test_another_model_is_not_served_from_the_cache(
    exp, data_dir, finished, tmp_path, monkeypatch
):
    other = shutil.copytree(exp, tmp_path / "exp")
    state = torch.load(other / "model.pth")
    torch.save(
        {name: value + 0.01 for name, value in state.items()}, other / "model.pth"
    )
    encodings = Encodings(monkeypatch)
    options = ("--cache", finished / "cache", "--output", tmp_path / "out")
    assert run(other, data_dir, *options) == 0
    assert encodings.count == 7 + 1
    assert read(tmp_path / "out")["diagonality"] != read(finished)["diagonality"]


# ------------------------------ bad input ------------------------------


def assert_refused(capsys, status, message):
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert status in (1, 2) and message in line, line
    assert line.startswith("espnet_reuse.bin.analyze: error: "), line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--asr_model_file", "no.pth"], "--asr_model_file: there is no file 'no.pth'"),
        (["--data_dir", "/no/where"], "--data_dir: /no/where/wav.scp is missing"),
        (["--alignments", "/no/where"], "--alignments: '/no/where' does not exist"),
        (["--phone_tier", "MAU"], "--alignments: 'pocketsphinx' is not a folder: "),
        (["--allow_missing", "x"], "argument --allow_missing: invalid"),
        (["--num_utts", "0"], "--num_utts: '0' must be a positive integer"),
        (["--suggest", "5"], "--suggest: 5 is more than the encoder's 4 layers"),
        (["--suggest_max_distance", "x"], "--suggest_max_distance: 'x' must be"),
        (["--suggest_max_distance", "nan"], "--suggest_max_distance: 'nan' must be"),
        (["--suggest_max_distance", "0"], "--suggest_max_distance: '0' must be"),
        (["--output", "/proc/x"], "argument --output: /proc/x: "),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else None,
)
def test_a_wrong_option_is_named(exp, data_dir, tmp_path, capsys, options, message):
    status = run(exp, data_dir, "--output", tmp_path, *options)
    assert_refused(capsys, status, message)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.yaml", "encoder: [", "is not YAML"),
        ("config.yaml", "lm: transformer\n", "is not a training config"),
        ("model.pth", "weights", "is not a file of model parameters"),
    ],
)
def test_a_broken_model_is_named(
    exp, data_dir, tmp_path, capsys, name, content, message
):
    broken = shutil.copytree(exp, tmp_path / "exp")
    (broken / name).write_text(content)
    status = run(broken, data_dir, "--output", tmp_path / "out")
    assert_refused(capsys, status, message)


def test_an_unsupported_encoder_is_named(data_dir, tmp_path, capsys):
    save_model(tmp_path, "contextual_block_conformer")
    assert_refused(
        capsys, run(tmp_path, data_dir), "cannot be analysed; use a model with"
    )


@pytest.mark.slow
def test_a_missing_textgrid_is_named_or_skipped(exp, data_dir, tmp_path, capsys):
    grids = tmp_path / "grids"
    grids.mkdir()
    shutil.copy(ALIGNMENTS / "short.TextGrid", grids / "spk0-6.TextGrid")
    options = ("--alignments", grids, "--output", tmp_path / "out")
    assert_refused(capsys, run(exp, data_dir, *options), "spk0-0")
    assert run(exp, data_dir, *options, "--allow_missing", "true") == 0
    data = read(tmp_path / "out")["data"]
    assert data["aligned"] == 1
    assert sum(map(len, data["skipped"].values())) == 6
