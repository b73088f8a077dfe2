# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The egs3 configs of LibriSpeech 100 h, read and built by ESPnet3's own code."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from espnet3.systems.base.training import _instantiate_model
from espnet3.utils.config_utils import load_and_merge_config
from hydra.utils import get_class
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "egs3/librispeech_100/esp2_asr"
BASELINE, REUSE = (
    RECIPE / f"conf/tuning/training_{name}.yaml"
    for name in ("conformer", "conformer_reuse3")
)


def load(config, recipe_dir="."):
    """Return a config as ESPnet3's `launch` completes it."""
    package = "egs3.TEMPLATE.esp2_asr"
    config = load_and_merge_config(config, "training.yaml", package, resolve=False)
    config.recipe_dir = str(recipe_dir)
    OmegaConf.resolve(config)
    return config


def build(config, folder):
    """Return the model that ESPnet3 trains, without memory for it."""
    config = load(config, folder)
    tokens, stats = config.model.token_list, config.model.normalize_conf.stats_file
    for path in (tokens, stats):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(tokens).write_text("\n".join(f"▁{i}" for i in range(5000)), encoding="utf-8")
    np.savez(stats, count=2, sum=np.zeros(80), sum_square=np.ones(80))
    with torch.device("meta"):
        return _instantiate_model(config)


def test_the_models_differ_in_the_consumers_query_key_and_position_alone(tmp_path):
    baseline, reuse = (
        {k: p.shape for k, p in build(config, tmp_path).named_parameters()}
        for config in (BASELINE, REUSE)
    )
    lacking = {
        f"encoder.encoders.{layer}.self_attn.{parameter}"
        for layer in (1, 2, 4, 5, 7, 8, 10, 11)
        for parameter in (
            *("linear_q.weight", "linear_q.bias", "linear_k.weight", "linear_k.bias"),
            *("linear_pos.weight", "pos_bias_u", "pos_bias_v"),
        )
    }
    assert lacking <= set(baseline)
    assert reuse == {k: v for k, v in baseline.items() if k not in lacking}


def test_the_configs_differ_in_the_encoder_the_groups_and_the_folder_alone():
    baseline, reuse = (OmegaConf.to_container(load(c)) for c in (BASELINE, REUSE))
    assert reuse["model"].pop("encoder") == "conformer_reuse"
    assert baseline["model"].pop("encoder") == "conformer"
    assert reuse["model"]["encoder_conf"].pop("reuse_group_size") == 3
    assert reuse["exp_dir"] != baseline["exp_dir"]
    for config in (baseline, reuse):
        name = config.pop("exp_tag")
        assert config.pop("exp_dir") == f"./exp/{name}"
        (logger,) = config["trainer"]["logger"]
        assert logger.pop("save_dir") == f"./exp/{name}/tensorboard"
    assert reuse == baseline


def test_the_values_are_those_of_egs2():
    egs2 = ROOT / "egs2/librispeech_100/asr1/conf/train_asr_conformer.yaml"
    egs2 = yaml.safe_load(egs2.read_text())
    egs3 = OmegaConf.to_container(load(BASELINE))
    for option in ("encoder", "decoder", "specaug"):
        assert egs3["model"][option] == egs2[option]
    for option in ("encoder", "decoder", "model", "frontend", "specaug"):
        assert egs3["model"][f"{option}_conf"] == egs2[f"{option}_conf"]
    for option in ("lr", "weight_decay"):
        assert egs3["optimizer"][option] == egs2["optim_conf"][option]
    assert egs3["scheduler"]["warmup_steps"] == egs2["scheduler_conf"]["warmup_steps"]
    assert egs3["seed"] == egs2["seed"]
    assert egs3["trainer"]["accumulate_grad_batches"] == egs2["accum_grad"]
    assert egs3["trainer"]["max_epochs"] == 3 * egs2["max_epoch"]
    kept = egs2["keep_nbest_models"]
    assert egs3["best_model_criterion"] == [["valid/acc", kept, "max"]]


def test_the_decoder_is_espnets_own():
    target = yaml.safe_load((RECIPE / "conf/inference.yaml").read_text())["model"]
    Speech2Text = get_class(target["_target_"])
    assert Speech2Text.__module__ == "espnet2.bin.asr_inference"


def test_espnets_run_py_takes_the_configs_in_this_folder(tmp_path, make_librispeech):
    made = shutil.ignore_patterns("data", "download", "exp")
    recipe = shutil.copytree(RECIPE, tmp_path / "esp2_asr", ignore=made)
    parts = ("train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other")
    make_librispeech(recipe / "download", {part: {"19/198": 2} for part in parts})
    command = [sys.executable, "-m", "egs3.librispeech_100.esp2_asr.run"]
    command += ["--training_config", "conf/tuning/training_conformer_reuse3.yaml"]
    command += ["--inference_config", "conf/inference.yaml"]
    command += ["--metrics_config", "conf/metrics.yaml"]
    subprocess.run([*command, "--stages", "create_dataset"], cwd=recipe, check=True)
    log = (recipe / "data/create_dataset.log").read_text()
    assert "Dataset creation completed" in log


# ------------------------------ other processes ------------------------------


def run_python(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )


def test_the_task_of_a_config_brings_the_encoders():
    """And no decoder, which a training does not need."""
    result = run_python("""
import sys
from espnet3.utils.task_utils import get_espnet_model

conf = dict(output_size=8, attention_heads=2, num_blocks=2, reuse_group_size=2)
model = get_espnet_model("espnet_reuse.espnet3.ASRTask", dict(
    token_list=["<blank>", "a", "<sos/eos>"], decoder="transformer",
    encoder="conformer_reuse", encoder_conf=conf,
))
print(type(model.encoder).__name__, "espnet2.bin.asr_inference" in sys.modules)
""")
    assert result.stdout == "ConformerReuseEncoder False\n", result.stderr


def test_a_task_imported_before_us_has_the_encoders():
    result = run_python("""
import sys
from espnet3.systems.esp2_asr.task import ASRTask, encoder_choices
import espnet_reuse
print(encoder_choices.get_class("conformer_reuse").__name__)
""")
    assert result.stdout == "ConformerReuseEncoder\n", result.stderr


def test_naming_nothing_imports_nothing():
    result = run_python(
        "import sys, espnet_reuse.espnet3\n"
        "print({'torch', 'espnet2', 'espnet3'} & set(sys.modules))"
    )
    assert result.stdout == "set()\n", result.stderr
