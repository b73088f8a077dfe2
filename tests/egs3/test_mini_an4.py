# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""ESPnet3's own mini_an4 recipe with attention map reuse, run as a user runs it."""

import importlib.resources
import json
import os
import shutil
import subprocess
import sys

import jiwer
import pytest
import torch
import yaml

SHAPES = "${stats_dir}/train/feats_shape"
CONFIGS = {
    # ESPnet's config with another encoder, of a size that overfits four sentences
    "training_reuse": {
        "defaults": ["training_asr_transformer", "_self_"],
        "task": "espnet_reuse.espnet3.ASRTask",
        "seed": 0,
        "dataset": {"preprocessor": {"data_aug_prob": 0.0}},
        "model": {
            "encoder": "conformer_reuse",
            "encoder_conf": {
                "num_blocks": 4,
                "reuse_group_size": 2,
                "output_size": 64,
                "attention_heads": 4,
                "linear_units": 128,
                "dropout_rate": 0.0,
                "positional_dropout_rate": 0.0,
                "input_layer": "conv2d",
                "macaron_style": True,
                "rel_pos_type": "latest",
                "cnn_module_kernel": 15,
            },
            "decoder_conf": {
                "num_blocks": 1,
                "attention_heads": 4,
                "linear_units": 128,
                "dropout_rate": 0.0,
                "positional_dropout_rate": 0.0,
            },
            "model_conf": {"ctc_weight": 0.5, "lsm_weight": 0.0},
        },
        "optimizer": {"lr": 0.002},
        "scheduler": {"warmup_steps": 40},
        "best_model_criterion": [["train/loss", 1, "min"]],
        "dataloader": {
            "train": {
                "iter_factory": {
                    "num_iters_per_epoch": 10,
                    "batches": {"batch_size": 4},
                }
            }
        },
        "trainer": {"max_epochs": 15, "limit_train_batches": 1.0},
    },
    "training_ddp": {
        "defaults": ["training_reuse", "_self_"],
        "num_device": 2,
        "best_model_criterion": [["valid/loss", 1, "min"]],
        # each process needs a sentence of its own in every batch, in validation, too
        "dataset": {"valid": [{"data_src_args": {"split": "train"}}]},
        "dataloader": {
            "train": {"iter_factory": {"batches": {"batch_size": 2}}},
            "valid": {"iter_factory": {"batches": {"shape_files": [SHAPES]}}},
        },
        "trainer": {"accelerator": "cpu", "strategy": "ddp", "max_epochs": 2},
    },
    # ESPnet's config of two Dask workers, on the sentences that were learnt
    "inference_reuse": {
        "defaults": ["inference_parallel", "_self_"],
        "dataset": {
            "test": [
                {
                    "name": "train",
                    "data_src_args": {"split": "train"},
                    "transform": {"_target_": "src.log_process.LogProcess"},
                }
            ]
        },
        "model": {
            "_target_": "espnet_reuse.espnet3.Speech2Text",
            "asr_model_file": "${exp_dir}/train.loss.ave_1best.pth",
        },
    },
}

LOG_PROCESS = """
import os

class LogProcess:
    '''Note which process loads an utterance to decode it.'''

    def __call__(self, sample):
        with open("processes", "a") as f:
            f.write(f"{os.getpid()}\\t{sample['text']}\\n")
        return sample
"""

# ESPnet3's recipe calls sph2pipe, which no package has
SPH2PIPE = f"""#!{sys.executable}
import io, sys, soundfile
wav = io.BytesIO()
soundfile.write(wav, *soundfile.read(sys.argv[-1], dtype="int16"), format="WAV")
sys.stdout.buffer.write(wav.getvalue())
"""


def run(recipe, *stages, **configs):
    """Run the recipe's own run.py; return its process id and what it said."""
    command = [sys.executable, "run.py", "--stages", *stages]
    for role, name in configs.items():
        command += [f"--{role}_config", f"conf/{name}.yaml"]
    path = f"{recipe / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with open(recipe / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=recipe, stdout=log, stderr=log, env=os.environ | {"PATH": path}
        )
        status = process.wait()
    output = (recipe / "log").read_text()
    assert status == 0, output[-5000:]
    return process.pid, output


def assert_consumers_have_no_query(checkpoint):
    keys = set(torch.load(checkpoint))
    attention = "encoder.encoders.{}.self_attn.linear_{}.weight"
    for layer, is_producer in enumerate([True, False, True, False]):
        assert attention.format(layer, "v") in keys
        for projection in ("q", "k", "pos"):
            assert (attention.format(layer, projection) in keys) is is_producer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A copy of the recipe in ESPnet's package, with our configs and its data."""
    recipe = tmp_path_factory.mktemp("recipe") / "egs3/mini_an4/esp2_asr"
    package = importlib.resources.files("egs3.mini_an4.esp2_asr")
    with importlib.resources.as_file(package) as original:
        shutil.copytree(original, recipe)
    for name, config in CONFIGS.items():
        (recipe / f"conf/{name}.yaml").write_text(yaml.safe_dump(config))
    (recipe / "src/log_process.py").write_text(LOG_PROCESS)
    sph2pipe = recipe / "bin/sph2pipe"
    sph2pipe.parent.mkdir()
    sph2pipe.write_text(SPH2PIPE)
    sph2pipe.chmod(0o755)
    stages = ("create_dataset", "train_tokenizer", "collect_stats")
    run(recipe, *stages, training="training_reuse")
    return recipe


@pytest.mark.slow
def test_the_recipe_trains_decodes_in_dask_workers_and_measures(recipe):
    pid, _ = run(
        recipe,
        *("train", "infer", "measure"),
        training="training_reuse",
        inference="inference_reuse",
        metrics="metrics",
    )
    exp = recipe / "exp/training_reuse"
    assert_consumers_have_no_query(exp / "train.loss.ave_1best.pth")

    manifest = (recipe / "data/manifest/train.tsv").read_text().splitlines()
    references = [line.split("\t")[2] for line in manifest]
    decoded = exp / "inference_reuse"
    hypotheses = [
        line.split(maxsplit=1)[1]
        for line in (decoded / "train/text.scp").read_text().splitlines()
    ]
    wer, cer = (
        json.loads((decoded / "metrics.json").read_text())[
            f"espnet3.systems.esp2_asr.metrics.{name.lower()}.{name}"
        ]["train"][name]
        for name in ("WER", "CER")
    )
    assert wer == pytest.approx(100 * jiwer.wer(references, hypotheses), abs=0.01)
    assert cer == pytest.approx(100 * jiwer.cer(references, hypotheses), abs=0.01)
    assert wer < 50  # learnt by heart; an untrained model has 100 and more

    sentences = {}
    for line in (recipe / "processes").read_text().splitlines():
        process, sentence = line.split("\t")
        sentences.setdefault(int(process), set()).add(sentence)
    sentences.pop(pid)  # it reads the references
    assert sorted(map(sorted, sentences.values())) == sorted(
        [sorted(references[:2]), sorted(references[2:])]
    )


@pytest.mark.slow
def test_two_processes_train_one_model(recipe):
    _, output = run(recipe, "train", training="training_ddp")
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in output
    assert_consumers_have_no_query(recipe / "exp/training_ddp/valid.loss.ave_1best.pth")
