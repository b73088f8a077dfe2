# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The benchmark's command: its files, bad input, interruption, too little memory."""

import argparse
import dataclasses
import json
import logging
import re
import shutil
import statistics
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from onnx import TensorProto, helper

import espnet_reuse  # noqa: F401 (registers the encoders)
from espnet_reuse.benchmark import (
    compare,
    decoding,
    measure,
    peers,
    recognizers,
    report,
    runtimes,
)
from espnet_reuse.benchmark.measure import CHILDREN
from espnet_reuse.bin import benchmark as command
from espnet_reuse.export import ServedModel, export_model
from espnet_reuse.pretrained import load_model

CONFIG = Path(__file__).parents[1] / "benchmark" / "tiny.yaml"
SHORT = ["--threads", "1", "--min_time", "0.02"]
TINY = ["--config", str(CONFIG), *SHORT]
SIZES = {"output_size": 16, "attention_heads": 8, "num_blocks": 2}
ESPNET, SDPA, LIMIT = "ESPnet", "ESPnet use_sdpa", "limit"
OURS = {"ours, no reuse": 1, "reuse, groups of 2": 2}
SPREAD = ("", ", lower", ", upper")


def run(*args, common=TINY):
    """Run the command in this process; return its exit status."""
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as exit_:
            command.main([*common, *map(str, args)])
    finally:
        torch.set_num_threads(threads)
    return exit_.value.code


def read(folder):
    return json.loads((folder / "benchmark.json").read_text())


def rows_of(folder):
    """The rows of benchmark.json by encoder, for each length."""
    lengths = {}
    for row in read(folder)["measurements"]:
        lengths.setdefault(row["seconds"], {})[row["encoder"]] = row
    return lengths


def cells_of(markdown):
    """The cells of the lines of Markdown tables."""
    lines = (line for line in markdown.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the command by itself: the process, and the folder it wrote."""
    output = tmp_path_factory.mktemp("benchmark") / "new" / "folder"
    process = subprocess.run(
        [sys.executable, "-m", "espnet_reuse.bin.benchmark", *TINY]
        + ["--seconds", "2", "1", "--group_size", "1", "2", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process, output


def test_it_writes_all_files_prints_the_markdown_and_says_where_it_is(finished):
    process, output = finished
    assert {path.name for path in output.iterdir()} == {
        *("benchmark.json", "benchmark.md", "benchmark.png")
    }
    assert process.stdout == (output / "benchmark.md").read_text()
    assert (output / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    for progress in ("1 s: memory", "1 s: time", "2 s: breakdown", "wrote"):
        assert progress in process.stderr


def test_it_measures_every_peer_at_every_length(finished):
    assert read(finished[1])["finished"]
    lengths = rows_of(finished[1])
    assert list(lengths) == [1, 2]
    for peers_, frames in zip(lengths.values(), (24, 49), strict=True):
        (fewer,) = (name for name in peers_ if name.startswith(f"{ESPNET}, "))
        assert list(peers_) == [
            *(ESPNET, SDPA, "absolute positions, SDPA", "E-Branchformer"),
            *("frames of 60 ms", "frames of 60 ms, groups of 2"),
            *("frames of 80 ms", "frames of 80 ms, groups of 2"),
            *(f"reuse, groups of 2{peers.NAIVE}", *OURS, fewer, LIMIT),
        ]
        for name, row in peers_.items():
            assert row["status"] == "measured"
            assert row["output_frames"] == frames
            assert len(row["times_ms"]) == row["rounds"] >= 5
            assert min(row["times_ms"]) > 0
            assert row["peak_memory_mb"] >= 0
            assert (row["products_ms"] is not None) == (name in OURS)
            assert bool(row["breakdown_ms"]) == (name in {ESPNET, SDPA, *OURS})


def test_what_is_derived_follows_from_the_raw_times(finished):
    for peers_ in rows_of(finished[1]).values():
        raw = {name: row["times_ms"] for name, row in peers_.items()}
        ms = {name: statistics.median(times) for name, times in raw.items()}
        for name, row in peers_.items():
            assert row["median_ms"] == pytest.approx(ms[name])
            for other in {ESPNET, SDPA, "E-Branchformer"} - {name}:
                ratios = [a / b for a, b in zip(raw[other], raw[name], strict=True)]
                low, middle, high = statistics.quantiles(
                    ratios, n=4, method="inclusive"
                )
                shown = [row[f"vs {other}{end}"] for end in SPREAD]
                assert shown == pytest.approx([middle, low, high])
            if name != ESPNET:
                removed = (ms[ESPNET] - ms[name]) / (ms[ESPNET] - ms[LIMIT])
                assert row["attention_time_removed"] == pytest.approx(removed)
        for name in OURS:
            floor = ms[LIMIT] + statistics.median(peers_[name]["products_ms"])
            assert peers_[name]["vs floor"] == pytest.approx(floor / ms[name])


def test_the_markdown_shows_the_numbers_of_the_json(finished):
    lines = cells_of((finished[1] / "benchmark.md").read_text())
    for peers_ in rows_of(finished[1]).values():
        for name in OURS:
            row = peers_[name]
            spread = f"({row['lower_ms']:.1f} to {row['upper_ms']:.1f})"
            ratios = [
                "{:.2f} ({:.2f} to {:.2f})".format(*(row[vs + end] for end in SPREAD))
                for vs in (f"vs {x}" for x in (ESPNET, SDPA, peers.ABSOLUTE))
            ]
            share = f"{row['attention_time_removed']:.2f}"
            floor = f"{row['floor_ms']:.1f}", f"{row['vs floor']:.2f}"
            start = [name, f"{row['parameters']:,}", f"{row['median_ms']:.1f} {spread}"]
            start += [*ratios, share, *floor, f"{row['peak_memory_mb']:.0f}"]
            assert start in [line[:-1] for line in lines]


def test_run_and_settings_are_recorded(finished):
    results = read(finished[1])
    assert results["run"]["threads"] == 1
    assert "espnet_reuse.bin.benchmark --config" in results["run"]["command"]
    assert results["settings"]["group_size"] == [1, 2]
    assert results["settings"]["encoder_conf"]["attention_heads"] == 8


@pytest.mark.parametrize("encoder", ["transformer", "branchformer_reuse"])
def test_other_encoders_are_measured_against_their_parents(encoder, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"encoder: {encoder}\nencoder_conf: {json.dumps(SIZES)}\n")
    assert run("--config", config, "--seconds", 1, "--output", tmp_path) == 0
    (measured,) = rows_of(tmp_path).values()
    assert {ESPNET, SDPA, *OURS, LIMIT} < set(measured)
    assert {row["status"] for row in measured.values()} == {"measured"}
    assert read(tmp_path)["settings"]["encoder"] == encoder.removesuffix("_reuse")


def test_encoders_side_by_side_have_a_row_each(tmp_path, monkeypatch, capsys):
    names = ["transformer", "e_branchformer"]
    for name in names:
        monkeypatch.setitem(peers.STANDARD_CONFS, name, SIZES)
    options = ("--encoders", *names, "--seconds", 1, 2, "--group_size", 2)
    assert run(*options, "--output", tmp_path, common=SHORT) == 0
    table = (tmp_path / "encoders.md").read_text()
    assert capsys.readouterr().out == table
    rows = cells_of(table)[2:]
    assert [row[:3] for row in rows] == [
        [f"{seconds} s", name, "2"] for seconds in (1, 2) for name in names
    ]
    for name, row in zip(names, rows[:2], strict=True):
        results = read(tmp_path / name)
        assert results["finished"] and results["settings"]["encoder"] == name
        measured = rows_of(tmp_path / name)[1]["reuse, groups of 2"]
        assert row[3].startswith(f"{measured[f'vs {ESPNET}']:.2f} (")
        assert (tmp_path / name / "benchmark.md").read_text()


def test_only_the_encoders_that_are_named_are_measured(tmp_path):
    names = ["reuse, groups of 2", "frames of 80 ms, groups of 2"]
    options = ("--only", *names, "--seconds", 1, "--output", tmp_path)
    assert run(*options) == 0
    (measured,) = rows_of(tmp_path).values()
    assert list(measured) == [ESPNET, *names[::-1]]
    assert {row["attention_time_removed"] for row in measured.values()} == {None}
    assert "nan" not in (tmp_path / "benchmark.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_compiled_encoders_have_rows_of_their_own_beside_the_eager_ones(
    tmp_path, monkeypatch
):
    timed = {}
    time_interleaved = measure.time_interleaved

    def kept(steps, min_time):
        timed.update(steps)
        return time_interleaved(steps, min_time)

    monkeypatch.setattr(measure, "time_interleaved", kept)
    name = "reuse, groups of 2"
    options = ["--forms", "compiled", "--only", name, "--group_size", 2, "--seconds", 1]
    assert run(*options, "--output", tmp_path) == 0
    rows = {(r["encoder"], r["form"]): r for r in read(tmp_path)["measurements"]}
    forms = [(n, form) for form in ("eager", "compiled") for n in (ESPNET, name)]
    assert list(rows) == forms
    assert {row["status"] for row in rows.values()} == {"measured"}
    for key, row in rows.items():
        is_eager = key[1] == "eager"
        assert (row["peak_memory_mb"] is not None) == is_eager
        assert (row["breakdown_ms"] is not None) == is_eager
        with torch.profiler.profile() as profiler:
            timed[*key, "times_ms"]()
        compiled = any("CompiledFx" in event.key for event in profiler.key_averages())
        assert compiled != is_eager, key
    markdown = (tmp_path / "benchmark.md").read_text()
    assert "## 1 s: forward, compiled, batch 1" in markdown and "nan" not in markdown


@pytest.mark.slow
def test_training_in_bfloat16(tmp_path):
    options = ("--mode", "train", "--dtype", "bfloat16", "--group_size", 2)
    assert run(*options, "--seconds", 1, "--output", tmp_path) == 0
    assert {row["status"] for row in read(tmp_path)["measurements"]} == {"measured"}
    assert "forward and backward" in (tmp_path / "benchmark.md").read_text()


def test_an_interruption_leaves_a_report_of_what_was_measured(
    tmp_path, monkeypatch, capsys
):
    compare_at = compare.compare_at

    def interrupted_at_two_seconds(seconds, *args):
        if seconds == 2:
            raise KeyboardInterrupt  # SIGINT may be ignored, as in a background job
        return compare_at(seconds, *args)

    monkeypatch.setattr(compare, "compare_at", interrupted_at_two_seconds)
    assert run("--seconds", 1, 2, "--group_size", 2, "--output", tmp_path) == 130
    assert not read(tmp_path)["finished"]
    assert list(rows_of(tmp_path)) == [1]
    markdown = (tmp_path / "benchmark.md").read_text()
    assert "## 1 s" in markdown and "Not finished" in markdown
    assert (tmp_path / "benchmark.png").exists()
    assert "interrupted" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def little_memory():
    """Give the processes that measure memory 80 MB more than they start with."""
    CHILDREN.set_forkserver_preload(["espnet_reuse.benchmark.measure"])
    forkserver.ensure_running()
    process = CHILDREN.Process(target=print)  # when it runs, all is imported
    process.start()
    process.join()
    server = psutil.Process(forkserver._forkserver._forkserver_pid)
    soft, hard = server.rlimit(psutil.RLIMIT_AS)
    limit = server.memory_info().vms + 80 * 2**20
    server.rlimit(psutil.RLIMIT_AS, (limit, hard))
    yield
    server.rlimit(psutil.RLIMIT_AS, (soft, hard))


def test_too_little_memory_is_a_row(little_memory, tmp_path):
    assert run("--seconds", 30, "--group_size", 2, "--output", tmp_path) == 0
    rows = rows_of(tmp_path)[30]
    row = rows[ESPNET]
    assert row["status"] == "out of memory"
    assert row["times_ms"] is row["median_ms"] is row["peak_memory_mb"] is None
    assert rows[LIMIT]["status"] == "measured" and rows[LIMIT]["median_ms"] > 0
    lines = cells_of((tmp_path / "benchmark.md").read_text())
    shown = [ESPNET, f"{row['parameters']:,}", "out of memory"]
    assert shown in [line[:3] for line in lines]


def test_a_length_that_no_machine_can_hold_is_all_rows(tmp_path):
    assert run("--seconds", 1e8, "--group_size", 2, "--output", tmp_path) == 0
    rows = rows_of(tmp_path)[1e8].values()
    assert {row["status"] for row in rows} == {"out of memory"}


BAD_INPUT = {
    "a GPU that is not there": "--device cuda",
    "no seconds": "--seconds 0",
    "negative seconds": "--seconds 5 -1",
    "seconds that are no number": "--seconds nan",
    "an empty batch": "--batch 0",
    "half an utterance": "--batch 1.5",
    "no layer per group": "--group_size 0",
    "more layers per group than there are": "--group_size 1 3",
    "a config that does not exist": "--config /nonexistent.yaml",
    "a config that is no YAML": "--config {tmp_path}/no.yaml",
    "a config without encoder": "--config {tmp_path}/empty.yaml",
    "a config with another encoder": "--config {tmp_path}/rnn.yaml",
    "a config without attention maps": "--config {tmp_path}/maps.yaml",
    "another encoder": "--encoders rnn",
    "encoders beside a config": "--encoders conformer",
    "an exported file beside a config": "--exported {tmp_path}/no.yaml",
    "a config with an unknown option": "--config {tmp_path}/unknown.yaml",
    "an encoder without a row": "--only reuse",
    "captured on a CPU": "--forms captured",
    "captured in training": "--mode train --device cuda --forms captured",
    "another form": "--forms exported",
    "too short for subsampling": "--seconds 0.06",
    "too short for a frame": "--seconds 0.001",
    "too short to train on": "--seconds 0.08 --mode train",
    "an output below a file": "--output {tmp_path}/no.yaml/folder",
}


@pytest.mark.parametrize("args", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_that_names_the_option(args, tmp_path, capfd):
    if args == "--device cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (tmp_path / "no.yaml").write_text("encoder: [\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "rnn.yaml").write_text("encoder: rnn\n")
    (tmp_path / "maps.yaml").write_text(
        "encoder: branchformer\nencoder_conf: {use_attn: false, num_blocks: 2}\n"
    )
    (tmp_path / "unknown.yaml").write_text(
        CONFIG.read_text().replace("linear_units", "linear_unit")
    )
    args = args.format(tmp_path=tmp_path).split()
    default = [] if "--output" in args else ["--output", tmp_path / "output"]
    assert run(*args, *default) in (1, 2)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 1, err
    assert lines[0].startswith("espnet_reuse.bin.benchmark: error: ")
    option = args[-2] if args[-1] != "train" else "--seconds"
    assert any(word in lines[0] for word in (option, args[0], "encoder_conf"))
    assert not (tmp_path / "output").exists()


def test_an_unknown_implementation_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "quick")
    assert run("--output", tmp_path / "output") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("espnet_reuse.bin.benchmark: error: ")
    assert "ESPNET_REUSE_IMPL: 'quick' in the environment" in line


# ---------------------------- in serving runtimes -----------------------

ROWS = (runtimes.OWN, runtimes.SAME, "reuse, groups of 2", LIMIT, runtimes.FRONTEND)
SERVING = {"pytorch": "float32", "onnxruntime": "float32", "openvino": "float32"}


def bfloat16_runs_here():
    openvino = pytest.importorskip("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder that --runtime wrote, in bfloat16 where it can, and kept its files."""
    for package in ("onnxruntime", "openvino"):
        pytest.importorskip(package)
    output = tmp_path_factory.mktemp("served")
    export = runtimes.export_encoders

    def export_and_keep(models, folder):
        return export(models, output)

    options = ["--runtime", *SERVING, "--seconds", 2, 1, "--group_size", 2]
    if bfloat16_runs_here():
        options += ["--dtype", "bfloat16"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recognizers, "TOKENS", 50)
        patched.setattr(runtimes, "export_encoders", export_and_keep)
        assert run(*options, "--output", output) == 0
    return output


def graph_of(served, encoder):
    return onnx.load(served / f"{ROWS.index(encoder)}.onnx").graph


def test_every_encoder_has_a_row_in_every_runtime_at_every_length(served):
    results = read(served)
    dtype = results["settings"]["dtype"]
    dtypes = SERVING | {"pytorch": dtype, "openvino": dtype}
    first = [("pytorch", "float32", runtimes.OWN)] * (dtype != "float32")
    expected = [(r, d, encoder) for r, d in dtypes.items() for encoder in ROWS]
    keys = "seconds", "runtime", "dtype", "encoder"
    assert [tuple(row[key] for key in keys) for row in results["measurements"]] == [
        (seconds, *form) for seconds in (1, 2) for form in first + expected
    ]
    assert results["finished"] and results["settings"]["openvino"]


def test_ratios_and_shares_follow_from_the_times_of_one_runtime(served):
    rows = read(served)["measurements"]
    keys = "seconds", "runtime", "dtype", "encoder"
    times = {tuple(row[key] for key in keys): np.array(row["times_ms"]) for row in rows}
    ms = {key: np.median(rounds) for key, rounds in times.items()}
    for row in rows:
        assert len(row["times_ms"]) >= 5 and min(row["times_ms"]) > 0
        where = row["seconds"], row["runtime"], row["dtype"]
        if row["encoder"] == runtimes.FRONTEND:
            assert row["vs same"] is row["removed"] is row["frontend"] is None
            continue
        own, rounds = (of[*where, row["encoder"]] for of in (ms, times))
        eager = times[row["seconds"], "pytorch", "float32", runtimes.OWN]
        assert row["median_ms"] == pytest.approx(own)
        assert row["vs PyTorch"] == pytest.approx(np.median(eager / rounds))
        if (*where, LIMIT) not in ms:  # ESPnet's in float32, beside bfloat16
            assert row["vs same"] is row["removed"] is None
            continue
        same = np.median(times[*where, runtimes.SAME] / rounds)
        assert row["vs same"] == pytest.approx(same)
        bases = {"removed": runtimes.OWN, "removed by reuse": runtimes.SAME}
        for column, base in bases.items():
            base = ms[*where, base]
            share = (base - own) / (base - ms[*where, LIMIT])
            assert row[column] == pytest.approx(share)
        if (row["runtime"], row["encoder"]) == ("pytorch", runtimes.OWN):
            assert row["frontend"] is None  # the frontend alone is ours
        else:
            frontend = ms[*where, runtimes.FRONTEND]
            assert row["frontend"] == pytest.approx(frontend / own)


def test_the_table_of_runtimes_says_what_reuse_alone_can_remove(served):
    text = (served / "benchmark.md").read_text()
    assert "groups of 2 still compute 1 of 2\nmaps" in text
    assert "cannot remove more than 0.50 of" in text
    assert "nan" not in text
    assert len(cells_of(text)) == 2 * 2 + len(read(served)["measurements"])


def test_each_file_is_what_its_row_says(served):
    softmaxes = dict.fromkeys(ROWS, 1)  # the CTC head's
    for encoder in ROWS:
        nodes = [node.op_type for node in graph_of(served, encoder).node]
        softmaxes[encoder] = nodes.count("Softmax")
    assert softmaxes == dict(zip(ROWS, (2, 2, 1, 0, 0), strict=True))
    # ESPnet masks each map twice, ours adds a bias
    wheres = {
        encoder: [node.op_type for node in graph_of(served, encoder).node]
        for encoder in (runtimes.OWN, runtimes.SAME)
    }
    more, fewer = (nodes.count("Where") for nodes in wheres.values())
    assert more > fewer
    for encoder in ROWS:
        names = [x.name for x in graph_of(served, encoder).output]
        assert ("ctc_log_probs" in names) == (encoder != runtimes.FRONTEND)
        assert [x.name for x in graph_of(served, encoder).input] == [
            *("speech", "speech_lengths")
        ]


def test_in_pytorch_espnets_encoder_has_espnets_frontend():
    config = peers.read_config(CONFIG)
    listed = runtimes.list_encoders(config, [2])
    models = runtimes.make_models(listed, {"hop_length": 160, "n_mels": 20}, "float32")
    assert tuple(models) == ROWS[:-1]
    frontend = models[runtimes.OWN].asr_model.frontend
    assert frontend.forward.__func__ is type(frontend).forward
    encoders = {name: model.asr_model.encoder for name, model in models.items()}
    assert type(encoders[runtimes.OWN]).__name__ == "ConformerEncoder"
    assert type(encoders[runtimes.SAME]).__name__ == "ConformerReuseEncoder"
    without = [type(layer.self_attn) for layer in encoders[LIMIT].encoders]
    assert set(without) == {peers.NoAttention}


def test_pytorch_alone_needs_no_export(tmp_path, monkeypatch):
    monkeypatch.setattr(recognizers, "TOKENS", 50)
    monkeypatch.setattr(runtimes, "export_model", None)
    assert run("--runtime", "pytorch", "--seconds", 1, "--output", tmp_path) == 0
    rows = read(tmp_path)["measurements"]
    assert [row["encoder"] for row in rows] == [*ROWS]  # groups of 4, or of all layers


@pytest.mark.parametrize(
    "options, message",
    [
        ("--task runtime", "argument --task: invalid choice: 'runtime'"),
        ("--runtime tensorrt", "argument --runtime: invalid choice: 'tensorrt'"),
        ("--runtime onnxruntime --device cuda", "--device: it has no effect with --r"),
        ("--runtime openvino --batch 2", "argument --batch: it has no effect with --r"),
        ("--runtime pytorch --seconds 0.01", "argument --seconds: ESPnet, its own"),
        ("--runtime pytorch --group_size 3", "argument --group_size: 3 is more than"),
        ("--runtime openvino", "no openvino here: pip install 'espnet-reuse[export]'"),
    ],
)
def test_what_no_runtime_can_time_is_one_line(
    options, message, tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert run(*options.split(), "--output", tmp_path / "new") in (1, 2)
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("espnet_reuse.bin.benchmark: error: ")
    assert message in line
    assert not (tmp_path / "new").exists()


def test_one_encoder_at_a_time_goes_to_runtimes(capfd):
    options = "--runtime pytorch --encoders conformer transformer"
    assert run(*options.split(), common=SHORT) == 1
    assert "argument --encoders: name one of them" in capfd.readouterr().err


# ---------------------------- exported files ----------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a model, and the files it was exported to."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("exported")
    config = ASRTask.get_default_config() | {
        "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
        "encoder": "transformer_reuse",
        "encoder_conf": SIZES | {"reuse_group_size": 2, "linear_units": 16},
        "model_conf": {"ctc_weight": 1.0},
        "frontend_conf": {"fs": "8k", "hop_length": 80, "n_mels": 20},
        "normalize": None,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), folder / "model.pth")
    for kind in ("onnx", "pt2"):
        export_model(ServedModel(model, config, False), folder / f"feats.{kind}")
    speech = ServedModel(model, config, with_ctc="true")
    export_model(speech, folder / "speech.onnx")
    return folder


def time_exported(exported, files, *options):
    return run("--exported", *(exported / x for x in files), *options, common=SHORT)


def model_of(exported):
    parameters = "--asr_model_file", exported / "model.pth"
    return "--asr_train_config", exported / "config.yaml", *parameters


FORMS = {
    "feats.onnx": [["onnxruntime", "float32"]],
    "feats.pt2": [["pytorch", "float32"]],
    "speech.onnx": [["onnxruntime", "float32"]],
}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside the model"])
def test_exported_files_are_timed_in_turns_with_ratios_to_the_first(
    exported, beside, capsys
):
    options = ["--seconds", 1, 2, *(model_of(exported) if beside else ())]
    assert time_exported(exported, FORMS, *options) == 0
    pattern = r"([12]) s of audio: ([\d.]+) ms, ([\d.]+) times as fast as the first: "
    pattern += r"(.*) \((\w+), (\w+)\)"
    lines = capsys.readouterr().out.splitlines()
    rows = [re.fullmatch(pattern, line).groups() for line in lines]
    names = [(str(exported / x), *how) for x, (how,) in FORMS.items()]
    names += [("model", "pytorch", "float32")] * beside
    assert [(row[0], row[3:]) for row in rows] == [(s, n) for s in "12" for n in names]
    assert rows[0][2] == rows[len(names)][2] == "1.00"


def test_a_file_is_timed_in_each_runtime(exported, capsys):
    pytest.importorskip("openvino")
    options = ["--seconds", 1, "--runtime", "onnxruntime", "openvino"]
    options += ["--dtype", "bfloat16"] * bfloat16_runs_here()
    assert time_exported(exported, ["speech.onnx"], *options) == 0
    ends = [line.rpartition(" (")[2] for line in capsys.readouterr().out.splitlines()]
    assert ends == ["onnxruntime, float32)", f"openvino, {options[-1]})"]


@pytest.mark.parametrize(
    "name, rates, shape",
    [
        ("speech.onnx", (16000, 100), (1, 4000)),  # the file says 8000 Hz
        ("feats.onnx", (16000, 100), (1, 50, 20)),
        ("feats.onnx", (16000, 50), (1, 25, 20)),
        ("feats.pt2", (16000, 50), (1, 25, 20)),
    ],
)
def test_seconds_are_seconds_of_audio(exported, name, rates, shape):
    form = runtimes.open_file(exported / name, "onnxruntime", 1, "float32", rates)
    seen = []
    form = dataclasses.replace(form, run=lambda *inputs: seen.extend(inputs))
    form.run_once(0.5)
    assert seen[0].shape == shape and seen[1].tolist() == [shape[1]]


def test_a_model_gives_the_rates_and_the_outputs_of_its_file(exported):
    model, config = load_model(exported / "config.yaml", exported / "model.pth")
    assert runtimes.rates_of(model, config) == (8000, 100)
    for name in FORMS:
        file = runtimes.open_file(exported / name, "onnxruntime", 1, "float32")
        form = runtimes.beside(file, model, config, "float32")
        shapes = [
            {tuple(x.shape) for x in timed.run_once(1.0)} for timed in (file, form)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "options, message",
    [
        ("--exported no.onnx", "argument --exported: there is no file 'no.onnx'"),
        ("--exported {tmp}/no.onnx", "no.onnx is damaged or of another kind: "),
        ("--exported {tmp}/no.pt2", "no.pt2 is no exported file: "),
        ("--runtime pytorch", "speech.onnx needs --runtime onnxruntime or openvino"),
        ("--device cuda", "argument --device: it has no effect with"),
        ("--output x", "argument --output: it has no effect with"),
        ("--asr_model_file {here}", "name the model with both --asr_train_config"),
        ("--asr_train_config {here} --asr_model_file {here}", "{here} is not YAML"),
    ],
)
def test_what_cannot_be_timed_is_one_line(exported, options, message, tmp_path, capfd):
    for kind in ("onnx", "pt2"):
        (tmp_path / f"no.{kind}").write_text("no file of export")
    options = options.format(here=__file__, tmp=tmp_path).split()
    assert time_exported(exported, ["speech.onnx"], *options) in (1, 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("espnet_reuse.bin.benchmark: error: ")
    assert message.format(here=__file__) in line


def test_a_graph_that_fails_when_it_runs_is_one_line(tmp_path, capfd):
    feats = helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, "T", 20])
    lengths = helper.make_tensor_value_info("feats_lengths", TensorProto.INT64, [1])
    seven = helper.make_tensor("seven", TensorProto.INT64, [1], [7])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [7])
    node = helper.make_node("Reshape", ["feats", "seven"], ["out"])
    graph = helper.make_graph([node], "graph", [feats, lengths], [output], [seven])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "other.onnx")
    options = ("--exported", tmp_path / "other.onnx", "--seconds", "0.5")
    assert run(*options, common=SHORT) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "other.onnx does not run in onnxruntime on 0.5 s of audio: " in line


def test_a_graph_of_one_input_is_one_line(tmp_path, capfd):
    feats = helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])
    node = helper.make_node("Neg", ["feats"], ["out"])
    graph = helper.make_graph([node], "graph", [feats], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "other.onnx")
    assert run("--exported", tmp_path / "other.onnx", common=SHORT) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "other.onnx is no exported file: it has 1 inputs, not 2" in line


# ------------------------- from waveform to text ------------------------

SMALL = SIZES | {"linear_units": 16, "attention_heads": 2}
MODEL = {
    "token_list": ["<blank>", "<unk>", *"abcdef", "<sos/eos>"],
    "token_type": "char",
    "encoder": "transformer_reuse",
    "encoder_conf": SMALL | {"reuse_group_size": 2},
    "frontend_conf": {"fs": "8k", "hop_length": 80, "n_mels": 20},
    "normalize": "utterance_mvn",
    "model_conf": {"ctc_weight": 1.0},
}
TRANSCRIBE = ["--task", "transcribe", "--rounds", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, save_model):
    """A folder with models, among them some that cannot be timed, and data."""
    folder = tmp_path_factory.mktemp("trained")
    without_ctc = {"decoder": "transformer", "model_conf": {"ctc_weight": 0.0}}
    changes = {
        "baseline": {"encoder": "transformer", "encoder_conf": SMALL},
        "reuse2": {},
        "another_rate": {"frontend_conf": MODEL["frontend_conf"] | {"fs": "16k"}},
        "no_ctc": without_ctc | {"decoder_conf": {"num_blocks": 1}},
    }
    for name, change in changes.items():
        save_model(folder / name, MODEL | change, 0.0)
    (folder / "alone.pth").write_bytes((folder / "reuse2/model.pth").read_bytes())
    noise = np.random.default_rng(0).normal(size=(3, 8000))
    for n, speech in enumerate(noise):
        soundfile.write(folder / f"{n}.wav", speech, 8000)
    for name, rows in {"data": noise, "empty": []}.items():
        (folder / name).mkdir()
        lines = (f"u{n} {folder}/{n}.wav\n" for n in range(len(rows)))
        (folder / name / "wav.scp").write_text("".join(lines))
    (folder / "two.yaml").write_text("beam_size: 2\nctc_weight: 1.0\n")
    (folder / "wrong.yaml").write_text("beam: 2\n")
    return folder


def test_trained_models_and_searches_are_timed_in_batches(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(trained)
    options = ["--models", "baseline=baseline/model.pth", "reuse=reuse2/model.pth"]
    options += ["--data_dir", "data", "--num_utts", 2, "--output", tmp_path]
    options += ["--inference_config", "two.yaml"]
    assert run(*options, common=TRANSCRIBE) == 0
    results = read(tmp_path)
    assert results["finished"] and results["run"]["threads"] == 1
    measured = [
        (row["search"], row["batch"], row["model"], row["audio_seconds"])
        for row in results["measurements"]
    ]
    assert measured == [
        (search, batch, model, 2)
        for search in ("beam 2", "beam 1", "best path")
        for batch in (1, 16)
        for model in ("baseline", "reuse")
    ]
    markdown = (tmp_path / "benchmark.md").read_text()
    assert capsys.readouterr().out == markdown
    (tmp_path / "benchmark.md").unlink()
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "benchmark.json")])
    report.main()
    assert (tmp_path / "benchmark.md").read_text() == markdown


def test_in_bfloat16_best_path_alone_is_timed(trained, tmp_path):
    options = ["--models", f"a={trained}/reuse2/model.pth", "--dtype", "bfloat16"]
    options += ["--data_dir", trained / "data", "--output", tmp_path, "--batch", 2]
    assert run(*options, common=TRANSCRIBE) == 0
    (row,) = read(tmp_path)["measurements"]
    assert (row["search"], row["batch"]) == ("best path", 2)


def test_without_models_a_config_and_groups_of_it_have_random_weights(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(recognizers, "TOKENS", 50)
    made = []
    time_turns = decoding.time_turns
    monkeypatch.setattr(
        decoding, "time_turns", lambda *a: made.append(a[0]) or time_turns(*a)
    )
    options = ["--config", CONFIG, "--seconds", 2, 1, "--group_size", 2]
    assert run(*options, "--output", tmp_path, common=TRANSCRIBE) == 0
    rows = read(tmp_path)["measurements"]
    assert [(row["audio_seconds"], row["batch"], row["model"]) for row in rows] == [
        (16 * seconds, batch, model)
        for seconds in (1, 2)
        for batch in (1, 16)
        for model in (ESPNET, "reuse, groups of 2")
    ]
    for (name, *_), speech2text in made[0].items():
        model = speech2text.asr_model
        assert model.ctc.ctc_lo.out_features == 50 and model.decoder is None
        kind = "ConformerEncoder" if name == ESPNET else "ConformerReuseEncoder"
        assert type(model.encoder).__name__ == kind


UNTIMED = {
    "a file that is not there": ("--models a=no.pth", "there is no file 'no.pth'"),
    "a file without a name": ("--models two.yaml", "'two.yaml' must be NAME=FILE"),
    "no config beside": (
        "--models a=alone.pth --data_dir data",
        "alone.pth needs the config.yaml",
    ),
    "one name twice": (
        "--models a=reuse2/model.pth a=baseline/model.pth --data_dir data",
        "argument --models: give each model a name of its own",
    ),
    "other sampling rates": (
        "--models a=reuse2/model.pth b=another_rate/model.pth --data_dir data",
        "in Hz, they take a: 8000, b: 16000",
    ),
    "no CTC head": (
        "--models a=no_ctc/model.pth --data_dir data",
        "best path needs a CTC head",
    ),
    "no data": ("{a}", "it needs --data_dir"),
    "no utterances": ("{a} --data_dir empty", "empty/wav.scp lists no utterances"),
    "a folder without data": ("{a} --data_dir reuse2", "reuse2/wav.scp: No such file"),
    "audio of another rate": (
        "--models a=another_rate/model.pth --data_dir data",
        "u0 in data/wav.scp has 8000 Hz, and the models 16000 Hz",
    ),
    "an unknown option of the search": (
        "{a} --data_dir data --inference_config wrong.yaml",
        "argument --inference_config: wrong.yaml: unrecognized arguments: ",
    ),
    "data without models": ("--data_dir data", "--data_dir: it has no effect without"),
    "lengths of noise": (
        "{a} --seconds 5",
        "--seconds: it has no effect with --models",
    ),
    "encoders": ("--encoders transformer", "--encoders: it has no effect with --task"),
    "training": ("--mode train", "argument --mode: it has no effect with --task"),
    "exported files": ("--exported two.yaml", "--exported: it has no effect with"),
    "too short": ("--seconds 0.001", "argument --seconds: ESPnet cannot decode"),
    "the other task": ("--task encode", "--rounds: it has no effect with --task e"),
    "too large a group": ("--group_size 13", "--group_size: 13 is more than 12"),
}


@pytest.mark.parametrize("options, message", UNTIMED.values(), ids=UNTIMED.keys())
def test_what_cannot_be_transcribed_is_one_line(
    trained, options, message, monkeypatch, tmp_path, capfd
):
    monkeypatch.chdir(trained)
    options = options.format(a="--models a=reuse2/model.pth").split()
    assert run(*options, "--output", tmp_path / "new", common=TRANSCRIBE) in (1, 2)
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("espnet_reuse.bin.benchmark: error: ")
    assert message in line


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Undo what the command sets for its process."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    yield
    logging.getLogger("espnet_reuse.benchmark").setLevel(logging.NOTSET)
