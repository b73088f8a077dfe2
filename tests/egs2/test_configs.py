# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Every config and named model of the recipes: ESPnet accepts it, with known values."""

import functools
import io
import itertools
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.bin import asr_train, lm_train
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

import espnet_reuse  # noqa: F401  registers the encoders
from espnet_reuse.bin import asr_inference_ctc
from espnet_reuse.comparison.models import resolve

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent for path in ROOT.glob("egs2/*/asr1/run.sh"))
CONFIGS = sorted(path for recipe in RECIPES for path in recipe.glob("conf/*.yaml"))
TOKENS = ["<blank>", "<unk>", *(f"▁{i}" for i in range(4997)), "<sos/eos>"]

TRAIN_ASR = [c for c in CONFIGS if c.name.startswith("train_asr_")]
TRAIN_LM = [c for c in CONFIGS if c.name.startswith("train_lm")]
DECODE = [c for c in CONFIGS if c.name.startswith("decode_")]

ENTRIES = yaml.safe_load((ROOT / "conf/models.yaml").read_text())
# Without a model to build on, these are no models.
PARTS = ("reuse_lower16", "reuse_upper16", "shared_dropout")
NAMES = {  # by the number of the baseline's layers
    6: ["reuse2", "reuse3", "reuse3_warm", "conv2d6", "conv2d8_reuse3", "units224"],
    12: [
        *(name for name in ENTRIES if name not in PARTS),
        *("reuse2", "reuse4", "reuse12", "reuse3_shared_dropout", "reuse3_warm"),
        *("ctc_reuse3", "ctc_reuse_lower16", "ctc_reuse_upper16", "ctc_reuse4_warm"),
    ],
}


each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parts[-2])


def each(configs):
    names = [str(path.relative_to(ROOT)) for path in configs]
    return pytest.mark.parametrize("config", configs, ids=names)


def load(config):
    return yaml.safe_load(config.read_text())


def layers_of(recipe):
    return load(recipe / "conf/train_asr_conformer.yaml")["encoder_conf"]["num_blocks"]


def group_sizes_of(config):
    """Return the sizes of all groups, by this test's own arithmetic."""
    encoder_conf = config["encoder_conf"]
    size, layers = encoder_conf["reuse_group_size"], encoder_conf["num_blocks"]
    if isinstance(size, list):
        assert sum(size) == layers
        return size
    return [len(range(layers)[i : i + size]) for i in range(0, layers, size)]


def parse(task, config):
    return task.get_parser().parse_args(["--config", str(config)])


def build(task, config):
    """Return a config's model, without memory, and its training options."""
    args = parse(task, config)
    args.token_list = TOKENS
    with torch.device("meta"):
        return task.build_model(args), args


def numel(shapes):
    return sum(map(torch.Size.numel, shapes.values()))


@pytest.fixture(scope="module")
def write_config(tmp_path_factory):
    """A function that writes the config of a recipe's named model; returns its path."""

    def write(recipe, name):
        path = tmp_path_factory.mktemp("conf") / "config.yaml"
        path.write_text(yaml.safe_dump(resolve(name, recipe).config))
        return path

    return write


@pytest.fixture(scope="module")
def shapes_of(write_config):
    """A function that returns {parameter: shape} of a recipe's named model."""

    @functools.cache
    def shapes_of(recipe, name):
        model, args = build(ASRTask, write_config(recipe, name))
        (optimizer,) = ASRTask.build_optimizers(args, model)
        scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)
        return {k: p.shape for k, p in model.named_parameters()}

    return shapes_of


def test_a_config_is_for_training_or_decoding_by_its_name():
    assert set(TRAIN_ASR + TRAIN_LM + DECODE) == set(CONFIGS)


def test_every_recipe_has_a_baseline_and_an_example_with_groups_of_three():
    for recipe in RECIPES:
        example = load(recipe / "conf/train_asr_conformer_reuse.yaml")
        assert example == resolve("reuse3", recipe).config


# ------------------------- what ESPnet makes of them -------------------------


@each(TRAIN_ASR + TRAIN_LM)
def test_print_config_shows_the_options_of_the_config(config, monkeypatch):
    program, task = (lm_train, LMTask) if config in TRAIN_LM else (asr_train, ASRTask)
    monkeypatch.setattr(sys, "argv", ["x", "--config", str(config), "--print_config"])
    with pytest.raises(SystemExit) as exit_info:
        program.main()
    assert exit_info.value.code == 0
    printed = io.StringIO()  # main() prints to the stdout of when it was imported
    task.print_config(printed)
    printed = yaml.safe_load(printed.getvalue())
    for option, value in load(config).items():
        if isinstance(value, dict):
            assert value.items() <= printed[option].items(), option
        else:
            assert printed[option] == value, option


@each(TRAIN_LM)
def test_a_language_model_can_be_built(config):
    model, args = build(LMTask, config)
    assert LMTask.build_optimizers(args, model)


@each(DECODE)
def test_asr_inference_accepts_the_config(config):
    args = asr_inference_ctc.get_parser().parse_args(
        ["--config", str(config), "--output_dir", "x"]
        + ["--data_path_and_name_and_type", "wav.scp,speech,sound"]
    )
    assert load(config).items() <= vars(args).items()


# ------------------------------- named models -------------------------------


@each_recipe
def test_espnet_builds_every_named_model_that_fits_the_recipe(recipe, shapes_of):
    for name in ("baseline", *NAMES[layers_of(recipe)]):
        assert shapes_of(recipe, name), name


def test_every_entry_of_the_named_models_is_tried():
    tried = "_".join(NAMES[12])
    assert all(entry in tried for entry in ENTRIES)


@pytest.mark.parametrize("name", ["ctc_reuse_upper16", "reuse_lower", "reuse4"])
def test_a_reuse_model_lacks_its_consumers_query_key_and_position_alone(
    shapes_of, name
):
    recipe = ROOT / "egs2/picovoice_coffee/asr1"
    config = resolve(name, recipe).config
    sizes = group_sizes_of(config)
    producers = set(itertools.accumulate([0, *sizes[:-1]]))
    consumers = set(range(sum(sizes))) - producers
    without_reuse = name.partition("reuse")[0].removesuffix("_") or "baseline"
    baseline, reuse = (shapes_of(recipe, n) for n in (without_reuse, name))

    lacking = {
        f"encoder.encoders.{i}.self_attn.{parameter}"
        for i in consumers
        for parameter in (
            *("linear_q.weight", "linear_q.bias", "linear_k.weight", "linear_k.bias"),
            *("linear_pos.weight", "pos_bias_u", "pos_bias_v"),
        )
    }
    assert lacking <= set(baseline)
    assert reuse == {k: v for k, v in baseline.items() if k not in lacking}

    d = config["encoder_conf"]["output_size"]
    expected = len(consumers) * (2 * (d * d + d) + d * d + 2 * d)
    assert numel(baseline) - numel(reuse) == expected > 0


@pytest.mark.parametrize("corpus", ["picovoice_coffee", "speechocean762"])
@pytest.mark.parametrize("smaller", ["layers11", "units224"])
def test_smaller_baselines_have_as_many_parameters_as_groups_of_three(
    shapes_of, corpus, smaller
):
    recipe = ROOT / f"egs2/{corpus}/asr1"
    sizes = [numel(shapes_of(recipe, name)) for name in (smaller, "reuse3")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.002)


@each_recipe
def test_python_reads_the_options_of_a_recipe_as_a_shell_does(recipe):
    """conf/asr.conf has plain values: no variable, no command."""
    path = recipe / "conf/asr.conf"
    read = shlex.split(path.read_text(), comments=True)
    names = (line.split("=")[0] for line in read)
    script = f". {path}; " + "; ".join(f'echo "{n}=${{{n}}}"' for n in names)
    shell = subprocess.run(["bash", "-euc", script], capture_output=True, text=True)
    assert shell.stdout.splitlines() == read, shell.stderr


# --------------------------- ESPnet's own settings ---------------------------

PUBLISHED = """
all: &all
    {encoder: conformer, use_amp: true, num_workers: 4, batch_type: numel,
     accum_grad: 4, patience: null, init: null, keep_nbest_models: 10, optim: adam,
     scheduler: warmuplr, specaug: specaug}
hybrid: &hybrid
    {decoder: transformer, best_model_criterion: [[valid, acc, max]],
     model_conf: {ctc_weight: 0.3, lsm_weight: 0.1, length_normalized_loss: false}}
specaug: &specaug
    {apply_time_warp: true, time_warp_window: 5, time_warp_mode: bicubic,
     apply_freq_mask: true, freq_mask_width_range: [0, 27], num_freq_mask: 2,
     apply_time_mask: true, time_mask_width_ratio_range: [0.0, 0.05]}
encoder: &encoder
    {dropout_rate: 0.1, positional_dropout_rate: 0.1, attention_dropout_rate: 0.1,
     input_layer: conv2d, normalize_before: true, macaron_style: true,
     rel_pos_type: latest, pos_enc_layer_type: rel_pos,
     selfattention_layer_type: rel_selfattn, activation_type: swish,
     use_cnn_module: true, cnn_module_kernel: 31, output_size: 256,
     attention_heads: 4, linear_units: 1024, num_blocks: 12}
decoder: &decoder
    {linear_units: 2048, num_blocks: 6, dropout_rate: 0.1,
     positional_dropout_rate: 0.1, self_attention_dropout_rate: 0.1,
     src_attention_dropout_rate: 0.1, attention_heads: 4}
librispeech: &librispeech
    <<: *all
    frontend_conf: {n_fft: 512, hop_length: 160}
    seed: 0
    batch_bins: 35000000
    cudnn_deterministic: true
    max_epoch: 50
    optim_conf: {lr: 0.0025, weight_decay: 0.000001}
    scheduler_conf: {warmup_steps: 40000}
    specaug_conf: {<<: *specaug, num_time_mask: 10}
librispeech_100 baseline:
    <<: [*all, *hybrid]
    frontend_conf: {n_fft: 512, win_length: 400, hop_length: 160}
    seed: 2022
    batch_bins: 16000000
    cudnn_deterministic: false
    max_epoch: 70
    optim_conf: {lr: 0.002, weight_decay: 0.000001}
    scheduler_conf: {warmup_steps: 15000}
    specaug_conf: {<<: *specaug, num_time_mask: 5}
    encoder_conf: *encoder
    decoder_conf: *decoder
librispeech baseline:
    <<: [*librispeech, *hybrid]
    encoder_conf:
        {<<: *encoder, output_size: 512, attention_heads: 8, linear_units: 2048}
    decoder_conf: {<<: *decoder, attention_heads: 8}
librispeech ctc:
    <<: *librispeech
    decoder: null
    model_conf: {ctc_weight: 1.0}
    best_model_criterion: [[valid, cer_ctc, min]]
    encoder_conf: {<<: *encoder, num_blocks: 16}
"""


@pytest.mark.parametrize(
    "model", ["librispeech_100 baseline", "librispeech baseline", "librispeech ctc"]
)
def test_a_baseline_has_the_published_values(model, write_config):
    corpus, name = model.split()
    args = parse(ASRTask, write_config(ROOT / f"egs2/{corpus}/asr1", name))
    values = yaml.safe_load(PUBLISHED)[model]
    assert {option: getattr(args, option) for option in values} == values
