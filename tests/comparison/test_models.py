# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Models by name: what each name stands for, and what is no name."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from espnet_reuse.comparison.models import names, resolve
from espnet_reuse.comparison.plan import flatten
from espnet_reuse.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BASELINE = {
    "encoder": "conformer",
    "encoder_conf": {"num_blocks": 12, "input_layer": "conv2d"},
    "decoder": "transformer",
    "decoder_conf": {"num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
    "max_epoch": 8,
    "optim_conf": {"lr": 0.002, "fused": True},
    "scheduler_conf": {"warmup_steps": 400, "hold_ratio": 0.35},
}


@pytest.fixture
def recipe(tmp_path):
    """A recipe with the baseline and a config of the user's, "mine"."""
    write(tmp_path / "conf/train_asr_conformer.yaml", BASELINE)
    write(tuning(tmp_path, "mine"), BASELINE | {"seed": 4711})
    return tmp_path


def tuning(recipe, name):
    return recipe / f"conf/tuning/train_asr_conformer_{name}.yaml"


def write(path, config):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))


def changed(config):
    """Return {flattened key: value} of what differs from the baseline."""
    new, old = flatten(config), flatten(BASELINE)
    return {k: new.get(k) for k in new | old if new.get(k) != old.get(k)}


def group(size):
    return {"encoder": "conformer_reuse", "encoder_conf.reuse_group_size": size}


@pytest.mark.parametrize(
    "name, changes",
    {
        "baseline": {},
        "reuse3": group(3),
        "reuse11": group(11),
        "reuse_lower": group([6, 1, 1, 1, 1, 1, 1]),
        "reuse_upper16": group([1, 1, 1, 1, 1, 1, 1, 1, 8]),
        "layers8": {"encoder_conf.num_blocks": 8},
        "reuse3_shared_dropout": group(3) | {"encoder_conf.reuse_dropout": "shared"},
        "conv2d8_reuse4": group(4) | {"encoder_conf.input_layer": "conv2d8"},
        "reuse2_warm": group(2)
        | {"max_epoch": 2, "optim_conf.lr": 0.0005, "scheduler_conf.warmup_steps": 100},
        "mine": {"seed": 4711},
        "mine_reuse2": group(2) | {"seed": 4711},
    }.items(),
)
def test_a_name_changes_what_it_says_and_nothing_else(recipe, name, changes):
    model = resolve(name, recipe)
    assert changed(model.config) == changes
    suffix = "" if name == "baseline" else f"_{name}"
    assert model.tag == f"train_asr_conformer{suffix}"
    assert model.warm == name.endswith("_warm")


def test_ctc_has_no_decoder(recipe):
    config = resolve("ctc_reuse3", recipe).config
    assert (config["encoder"], config["decoder"]) == ("conformer_reuse", "none")
    assert "decoder_conf" not in config
    assert config["model_conf"] == {"ctc_weight": 1.0}


def test_reuse_is_of_the_encoder_that_the_baseline_has(recipe):
    path = recipe / "conf/train_asr_conformer.yaml"
    write(path, BASELINE | {"encoder": "branchformer"})
    assert resolve("reuse3", recipe).config["encoder"] == "branchformer_reuse"


@pytest.mark.parametrize("name", ["reuse3", "mine_warm"])
def test_a_config_of_the_users_own_is_taken_as_it_is(recipe, name):
    write(tuning(recipe, name), BASELINE | {"max_epoch": 7})
    assert changed(resolve(name, recipe).config) == {"max_epoch": 7}


@pytest.mark.parametrize("epochs, quarter", [(15, 3), (2, 1), (None, 10)])
def test_a_warm_model_has_a_quarter_of_the_epochs_and_at_least_one(
    recipe, epochs, quarter
):
    config = BASELINE | {"encoder_conf": {"reuse_group_size": 3}, "max_epoch": epochs}
    if epochs is None:
        del config["max_epoch"]
    write(tuning(recipe, "mine"), config)
    assert resolve("mine_warm", recipe).config["max_epoch"] == quarter


def test_every_value_has_the_file_that_a_user_would_edit(recipe):
    sources = resolve("mine_layers8_reuse2_warm", recipe).sources
    mine = "conf/tuning/train_asr_conformer_mine.yaml"
    assert sources["seed"] == sources["optim_conf.lr"] == mine
    assert sources["encoder_conf.input_layer"] == mine
    assert sources["encoder_conf.num_blocks"] == "conf/models.yaml"
    assert sources["encoder_conf.reuse_group_size"] == "the model's name"
    assert "decoder_conf.num_blocks" not in resolve("ctc", recipe).sources


@pytest.mark.parametrize(
    "name", ["", "foo", "reuse", "reuse0", "reuse3_", "warm_reuse3", "../x"]
)
def test_what_is_no_name_is_refused_with_the_choices(recipe, name):
    with pytest.raises(UserError) as error:
        resolve(name, recipe)
    (line,) = str(error.value).splitlines()
    assert all(f" {choice}" in line for choice in names(recipe))


def test_the_choices_are_the_users_own_and_those_of_all_recipes(recipe):
    assert {"baseline", "mine", "reuse<N>", "ctc", "<name>_warm"} < set(names(recipe))


@pytest.mark.parametrize("name", ["warm", "layers8_warm", "mine_warm"])
def test_a_model_without_reuse_is_not_fine_tuned(recipe, name):
    with pytest.raises(UserError, match=f"'{name}' has no reuse"):
        resolve(name, recipe)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("encoder: [conformer", "is not YAML: "),
        ("seed: ${no_such_option}", "is not YAML: "),
        *((text, "is not a mapping") for text in ("- encoder", "encoder", "")),
    ],
)
def test_a_file_that_is_no_config_is_named_in_one_line(recipe, text, problem):
    write(tuning(recipe, "mine"), text)
    with pytest.raises(UserError) as error:
        resolve("mine_reuse2", recipe)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"conf/tuning/train_asr_conformer_mine.yaml {problem}")


def test_names_are_resolved_without_torch():
    code = "import sys, espnet_reuse.comparison.models; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "False\n", result.stderr
