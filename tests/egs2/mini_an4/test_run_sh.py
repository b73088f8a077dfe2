# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The comparison run.sh and the mini_an4 recipe, run as a user runs them."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

TESTS = Path(__file__).resolve().parents[2]
REUSE = "train_asr_conformer_reuse.yaml"
RUNNER = [sys.executable, "-m", "espnet_reuse.run"]


def assert_fails_in_one_line(repository, command, *parts):
    """Assert that a run.sh fails, and that its last line says why."""
    status, output = repository.run(*command)
    last = output.strip().splitlines()[-1]
    assert status != 0, output
    for part in ("error: ", *parts):
        assert part in last, output


# ------------------------------ wrong options ------------------------------


def test_a_wrong_option_is_named_at_once(repository):
    started = time.time()
    for options, message in (
        ("--stage 8", "--stage: '8' is not a whole number from 0 to 7"),
        ("--models reuse99x", "no model 'reuse99x'; choose"),
        ("--nosuch 1", "unknown option --nosuch"),
    ):
        command = ["./run.sh", *shlex.split(options)]
        assert_fails_in_one_line(repository, command, message)
    assert time.time() - started < 15
    assert not (repository.recipe / "data").exists()


def test_a_config_with_a_wrong_group_is_refused_before_any_data(repository):
    tuning = repository.recipe / "conf/tuning"
    tuning.mkdir()
    config = yaml.safe_load((tuning / f"../{REUSE}").read_text())
    config["encoder_conf"]["reuse_group_size"] = [2, 2]
    (tuning / "train_asr_conformer_wrong.yaml").write_text(yaml.safe_dump(config))
    assert_fails_in_one_line(
        repository,
        ["./run.sh", "--models", "baseline wrong"],
        "tuning/train_asr_conformer_wrong.yaml (wrong): reuse_group_size: [2, 2] sums",
    )
    assert not (repository.recipe / "data").exists()


@pytest.mark.parametrize(
    "stage, why",
    [
        ("2", "data preparation is not done; start from --stage 1"),
        ("4", "data preparation is not done; start from --stage 1"),
    ],
)
def test_a_stage_before_its_turn_says_where_to_start(repository, stage, why):
    command = ["./run.sh", "--models", "baseline", "--stage", stage]
    assert_fails_in_one_line(repository, command, f"--stage {stage}: {why}")


def test_what_models_options_do_is_noted_once_with_their_names(repository):
    status, output = repository.run(
        *("./run.sh", "--models", "baseline reuse2", "--stage", "0"),
        *("--stop_stage", "0", "--asr_args", "--encoder_conf rel_pos_type=legacy"),
    )
    assert status == 0, output
    assert output.count("note: baseline, reuse2: in a batch with a longer") == 1


# ------------------------------ broken data ------------------------------


@pytest.fixture(scope="module")
def unpacked(repository):
    """The repository with the corpus unpacked, and a way to run its data stage."""
    repository.run("local/data.sh", "--stop_stage", "1", cwd=repository.recipe)
    return repository


@pytest.mark.parametrize(
    "name, size, message",
    [
        pytest.param(
            "wav/an4_clstk/fash/an253-fash-b.sph",
            20000,
            "an253-fash-b.sph is cut short: 9488 of 11200 samples",
            id="audio cut short",
        ),
        pytest.param(
            "wav/an4test_clstk/mmxg/cen8-mmxg-b.sph",
            0,
            "cen8-mmxg-b.sph is empty",
            id="empty audio",
        ),
        pytest.param(
            "wav/an4test_clstk/mmxg/cen8-mmxg-b.sph",
            None,
            "cen8-mmxg-b.sph cannot be read: No such file",
            id="missing audio",
        ),
        pytest.param(
            "etc/an4_train.transcription",
            None,
            "an4_train.transcription is missing or empty",
            id="missing transcription",
        ),
        pytest.param(
            "etc/an4_test.transcription",
            0,
            "an4_test.transcription is missing or empty",
            id="empty transcription",
        ),
    ],
)
def test_broken_data_is_named_before_training(unpacked, name, size, message):
    path = unpacked.recipe / "downloads/an4" / name
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[:size])
    try:
        command = ["./run.sh", "--models", "baseline", "--stop_stage", "1"]
        status, output = unpacked.run(*command)
        # a recording that two sets have is named for each
        (line, *_) = [x for x in output.splitlines() if "run.sh: error: " in x]
        assert status != 0 and message in line and "Traceback" not in output, output
    finally:
        path.write_bytes(content)


# ------------------------------ a trained model ------------------------------


def test_a_run_shows_stage_model_and_epoch(trained):
    for part in (
        "Stage 1: data preparation",
        "Stage 3: training reuse2",
        "Stage 3: training reuse2: epoch 1/1",
        "Stage 5: scoring reuse2: done in",
    ):
        assert part in trained.output
    for score in ("wer", "cer", "ter"):
        assert (trained.asr_exp / f"decode_asr/test/score_{score}/result.txt").is_file()
    results = (trained.asr_exp / "RESULTS.md").read_text()
    assert "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in results
    assert "|decode_asr/test|2|10|" in results


def test_a_second_run_redoes_nothing(trained):
    def files():
        paths = trained.recipe.glob("exp/**/*")
        return {p: p.stat().st_mtime_ns for p in paths if p.is_file()}

    before, started = files(), time.time()
    status, output = trained.run(*trained.command)
    assert status == 0 and output.count("done already") == len(output.splitlines())
    assert time.time() - started < 10  # 1 s on an idle machine
    assert files() == before


def test_espnet_plots_the_maps_of_the_producers(trained):
    plots = {p.name.split(".1ep")[0] for p in trained.asr_exp.glob("att_ws/*/*.png")}
    encoder = {name for name in plots if name.startswith("encoder.")}
    assert encoder == {f"encoder.encoders.{n}.self_attn" for n in (0, 2, 4)}


LOAD = """
{imports}
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack
import numpy, sys
model = Speech2Text(**unpack(sys.argv[1], sys.argv[2]), beam_size=2)
print(type(model.asr_model.encoder).__name__, len(model(numpy.zeros(16000, "f"))))
"""


@pytest.mark.slow
def test_a_packed_model_loads_in_a_fresh_process_that_imports_espnet_reuse(
    trained, tmp_path
):
    exp = trained.asr_exp
    packed = tmp_path / "model.zip"
    stats = trained.recipe / "exp/asr_stats_raw_en_bpe30/train/feats_stats.npz"
    status, output = trained.run(
        *(*RUNNER, "-m", "espnet2.bin.pack", "asr", "--outpath", packed),
        *("--asr_train_config", exp / "config.yaml"),
        *("--asr_model_file", exp / "train.loss.ave.pth"),
        *("--option", stats.relative_to(trained.recipe)),
        *("--option", "data/en_token_list/bpe_unigram30/bpe.model"),
        cwd=trained.recipe,
    )
    assert status == 0, output
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD.format(imports=i), packed, tmp_path / f"un{n}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n, i in enumerate(("import espnet_reuse", ""))
    ]
    with_import, without = ((p, *p.communicate()) for p in started)
    assert with_import[1].startswith("ConformerReuseEncoder"), with_import[2]
    assert without[0].returncode != 0
    assert "ValueError: --encoder must be one of" in without[2]


def test_a_checkpoint_that_does_not_fit_is_refused(trained, tmp_path):
    config = yaml.safe_load((trained.asr_exp / "config.yaml").read_text())
    config["encoder_conf"]["reuse_group_size"] = 3
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "keys.scp").write_text("")
    status, output = trained.run(
        *(*RUNNER, "-m", "espnet2.bin.asr_inference", "--output_dir", tmp_path / "out"),
        *("--asr_train_config", tmp_path / "config.yaml"),
        *("--asr_model_file", trained.asr_exp / "train.loss.ave.pth"),
        *("--data_path_and_name_and_type", "dump/raw/test/wav.scp,speech,sound"),
        cwd=trained.recipe,
    )
    assert status == 1 and "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith(
        "espnet_reuse: error: the checkpoint's encoder.encoders.2.self_attn has a query"
    )


def test_a_config_that_was_edited_after_training_is_refused_and_both_values_named(
    trained,
):
    config = trained.recipe / "conf/train_asr_conformer.yaml"
    content, change = config.read_text(), "optim_conf.lr: 0.002 -> 0.001"
    try:
        config.write_text(content.replace("lr: 0.002", "lr: 0.001"))
        assert_fails_in_one_line(
            trained,
            trained.command,
            f"{trained.asr_exp.name} was made before a change: "
            f"conf/train_asr_conformer.yaml {change}; remove it",
        )
        status, output = trained.run(*trained.command, "--dry_run", "true")
        assert (
            f"training reuse2: stale: conf/train_asr_conformer.yaml {change}" in output
        )
    finally:
        config.write_text(content)
    status, output = trained.run(*trained.command, "--dry_run", "true")
    assert status == 0 and not re.search("stale|to do", output), output


@pytest.mark.slow
def test_a_damaged_model_is_refused_and_made_anew_once_it_is_removed(trained):
    (model,) = trained.asr_exp.glob("[0-9]*epoch.pth")
    data = model.read_bytes()
    half = len(data) // 2
    model.write_bytes(data[:half] + bytes(4096) + data[half + 4096 :])
    shutil.rmtree(trained.asr_exp / "decode_asr/test")
    refusal = f"{model.name} is damaged or missing: remove it and run all stages"
    assert_fails_in_one_line(trained, trained.command, refusal)
    model.unlink()
    status, output = trained.run(*trained.command)
    assert status == 0, output
    assert f"{model.name} was not saved: restored from checkpoint.pth" in output
    again = torch.load(model, weights_only=True)
    before = torch.load(io.BytesIO(data), weights_only=True)
    assert all(torch.equal(value, before[name]) for name, value in again.items())


@pytest.mark.slow
def test_another_test_set_does_not_train_a_model_anew(trained):
    command = list(trained.command)
    command[command.index("--test_sets") + 1] = "test train_nodev_eval"
    status, output = trained.run(*command)
    assert status == 0, output
    assert "training reuse2: done already" in output
    assert (trained.asr_exp / "decode_asr/train_nodev_eval/score_wer").is_dir()


@pytest.mark.slow
def test_two_processes_train_to_the_same_losses(trained, tmp_path):
    stats, token_dir = "exp/asr_stats_raw_en_bpe30", "data/en_token_list/bpe_unigram30"
    dump, options = "dump/raw/train_nodev", []
    for mode in ("train", "valid"):  # a batch needs an utterance for each process
        options += [
            *(f"--{mode}_data_path_and_name_and_type", f"{dump}/wav.scp,speech,sound"),
            *(f"--{mode}_data_path_and_name_and_type", f"{dump}/text,text,text"),
            *(f"--{mode}_shape_file", f"{stats}/train/speech_shape"),
            *(f"--{mode}_shape_file", f"{stats}/train/text_shape.bpe"),
        ]
    status, output = trained.run(
        *(*RUNNER, TESTS / "ddp_training.py", *options),
        *("--config", f"conf/{REUSE}"),
        *("--token_type", "bpe", "--bpemodel", f"{token_dir}/bpe.model"),
        *("--token_list", f"{token_dir}/tokens.txt", "--frontend_conf", "fs=16k"),
        *("--max_epoch", "1", "--num_iters_per_epoch", "3", "--batch_size", "4"),
        *("--output_dir", tmp_path / "exp"),
        cwd=trained.recipe,
    )
    assert status == 0, output
    ranks = [json.loads((tmp_path / f"rank{n}.json").read_text()) for n in (0, 1)]
    assert ranks[0]["world_size"] == 2 and len(ranks[0]["losses"]) == 3
    assert ranks[0] == ranks[1]


# ------------------------------ the whole comparison ------------------------------


def trainings(output):
    """Return the models that a run has trained."""
    return re.findall(r"Stage 3: training (.*): done in", output)


def read_comparison(repository):
    """Read {model: {set: {score: counts}}} of a finished comparison, without times."""
    path = repository.recipe / "exp/comparison.json"
    models = json.loads(path.read_text())["models"]
    return {name: model["scores"] for name, model in models.items()}


@pytest.mark.slow
def test_run_sh_ends_in_a_table_of_models_that_learned_the_training_set(compared):
    assert compared.status == 0, compared.output
    assert compared.seconds < 12 * 60
    scores = read_comparison(compared)
    assert list(scores) == ["baseline", "reuse2", "reuse3"]
    for name, sets in scores.items():
        for score in ("wer", "best_path_wer"):
            assert sets["train_nodev_eval"][score]["error_rate"] <= 10, name
        assert f"  {name} " in compared.output
    for name in ("RESULTS.md", "comparison.png"):
        assert (compared.recipe / "exp" / name).stat().st_size > 0
    assert "Too few words" in compared.output


@pytest.mark.slow
def test_run_sh_a_second_time_ends_in_the_same_table_within_10_s(compared):
    started = time.time()
    status, output = compared.run("./run.sh")
    assert status == 0 and time.time() - started < 10  # 1 s on an idle machine

    def table(text):
        # up to the next line of the log, which begins with the time
        return re.split(r"\n[-0-9T:]{19} ", text[text.index("\nmodel ") :])[0]

    assert table(output) == table(compared.output)


@pytest.mark.slow
def test_stage_7_analyses_each_model_that_was_trained(compared):
    command = ["./run.sh", "--models", "baseline reuse3", "--stage", "7"]
    status, output = compared.run(*command, "--analysis_args", "--num_utts 3")
    assert status == 0, output
    for name, groups in (("", None), ("_reuse3", [3, 3])):
        folder = f"exp/asr_train_asr_conformer{name}/analysis/train_nodev_eval"
        assert (compared.recipe / folder / "report.html").stat().st_size > 0
        analysis = json.loads((compared.recipe / folder / "analysis.json").read_text())
        assert analysis["model"]["reuse_group_size"] == groups
        assert analysis["data"]["utterances"] == analysis["data"]["aligned"] == 3
        if groups:  # layers with one map are a group at no cost
            (own,) = [
                s["suggested"]
                for s in analysis["suggestions"]
                if len(s["suggested"]["reuse_group_size"]) == len(groups)
            ]
            assert own == {**own, "reuse_group_size": groups, "cost": 0}
    assert "reuse_group_size: [3, 3]  # suggested for 2 producers" in output
    status, output = compared.run(*command, "--analysis_args", "--num_utts 3")
    assert status == 0
    assert len(re.findall("Stage 7: analysis of .*: done already", output)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, message",
    [
        ("--analysis_set dev", "--analysis_set: no set 'dev'; choose from: "),
        ("--analysis_args --nosuch", "unrecognized arguments: --nosuch"),
        ("--analysis_args '--suggest 7'", "7 is more than the encoder's 6 layers"),
    ],
)
def test_what_cannot_be_analysed_is_said_in_one_line(compared, options, message):
    command = ["./run.sh", "--models", "baseline", "--stage", "7"]
    assert_fails_in_one_line(compared, [*command, *shlex.split(options)], message)


def run_until(repository, command, *patterns):
    """Start a run.sh; return it, running, once lines of its output fit in turn."""
    process = repository.popen(*command)
    for pattern in patterns:
        if not any(re.search(pattern, line) for line in process.stdout):
            raise AssertionError(f"'{pattern}' was not printed")
    return process


@pytest.mark.slow
def test_a_run_killed_in_data_training_and_decoding_ends_in_the_same_table(
    compared, copy_repository
):
    repository = copy_repository()
    command = ["./run.sh", "--models", "baseline"]
    training = "Stage 3: training baseline: epoch"
    for patterns, pause, whole in (
        (["Stage 1: data preparation"], 2.5, True),
        # an epoch shorter than five seconds may not be shown
        ([f"{training} ([5-9]|1[0-9])"], 0.5, True),
        # this time what run.sh has started goes on
        ([training], 0, False),
        (["waiting for it to end", "Stage 4: decoding baseline"], 5, True),
    ):
        process = run_until(repository, command, *patterns)
        time.sleep(pause)
        victims = psutil.Process(process.pid).children(recursive=True) if whole else []
        process.kill()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                victim.kill()
        process.stdout.close()
        process.wait()
    status, output = repository.run(*command)
    assert status == 0, output
    assert trainings(output) == []
    expected = read_comparison(compared)["baseline"]
    assert read_comparison(repository) == {"baseline": expected}


@pytest.mark.slow
def test_a_warm_model_is_as_good_as_its_baseline_after_a_quarter_of_the_epochs(
    compared,
):
    before = read_comparison(compared)
    command = ["./run.sh", "--models", "baseline reuse3 reuse3_warm"]
    status, output = compared.run(*command)
    assert status == 0, output
    assert trainings(output) == ["reuse3_warm"]
    assert "Dropped: 28 tensors" in output and "layer 6: " in output
    scores = read_comparison(compared)
    assert {**scores, **before}.keys() == {*before, "reuse3_warm"}
    wer = {
        name: sets["train_nodev_eval"]["wer"]["error_rate"]
        for name, sets in scores.items()
    }
    assert wer["reuse3_warm"] <= wer["baseline"] + 5
    results = json.loads((compared.recipe / "exp/comparison.json").read_text())
    epochs = {name: model["epochs"] for name, model in results["models"].items()}
    assert epochs["reuse3_warm"] <= epochs["baseline"] / 4
    status, output = compared.run(*command)
    assert status == 0 and trainings(output) == []


@pytest.mark.slow
def test_a_warm_model_needs_a_trained_baseline_before_it(compared):
    command = ["./run.sh", "--models"]
    message = "'reuse3_warm' is fine-tuned from the first model: put a baseline before"
    assert_fails_in_one_line(compared, [*command, "reuse3_warm"], message)


@pytest.mark.slow
def test_one_stock_command_trains_one_model(repository):
    status, output = repository.run(
        *("./run.sh", "--asr_config", "conf/train_asr_conformer_reuse.yaml"),
        *("--asr_args", "--max_epoch 2"),
        cwd=repository.recipe,
    )
    assert status == 0, output
    (asr_exp,) = repository.recipe.glob("exp/asr_train_asr_conformer_reuse_raw*")
    score = repository.root / "local/score.py"
    status, output = repository.run(sys.executable, score, cwd=repository.recipe)
    assert status == 0, output
    assert f"## exp/{asr_exp.name}" in output
    assert (asr_exp / "RESULTS.md").is_file()
