# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

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
from espnet2.bin import asr_inference, asr_train, lm_train
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

import espnet_reuse  # noqa: F401  registers the encoders
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


def name_of(path):
    return str(path.relative_to(ROOT))


def each(configs):
    return pytest.mark.parametrize("config", configs, ids=name_of)


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


def build(task, config):
    """Return a config's model, without memory, and its training options."""
    args = task.get_parser().parse_args(["--config", str(config)])
    args.token_list = TOKENS
    with torch.device("meta"):
        return task.build_model(args), args


@pytest.fixture(scope="module")
def shapes_of(tmp_path_factory):
    """A function that returns {parameter: shape} of a recipe's named model."""

    @functools.cache
    def shapes_of(recipe, name):
        config = tmp_path_factory.mktemp("conf") / "config.yaml"
        config.write_text(yaml.safe_dump(resolve(name, recipe).config))
        model, args = build(ASRTask, config)
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
    args = asr_inference.get_parser().parse_args(
        ["--config", str(config), "--output_dir", "x"]
        + ["--data_path_and_name_and_type", "wav.scp,speech,sound"]
    )
    assert load(config).items() <= vars(args).items()


# ------------------------------- named models -------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parts[-2])
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
    count = [sum(map(torch.Size.numel, s.values())) for s in (baseline, reuse)]
    assert count[0] - count[1] == expected > 0


@pytest.mark.parametrize("corpus", ["picovoice_coffee", "speechocean762"])
@pytest.mark.parametrize("smaller", ["layers11", "units224"])
def test_smaller_baselines_have_as_many_parameters_as_groups_of_three(
    shapes_of, corpus, smaller
):
    recipe = ROOT / f"egs2/{corpus}/asr1"
    sizes = [
        sum(map(torch.Size.numel, shapes_of(recipe, name).values()))
        for name in (smaller, "reuse3")
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.002)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parts[-2])
def test_python_reads_the_options_of_a_recipe_as_a_shell_does(recipe):
    """conf/asr.conf has plain values: no variable, no command."""
    path = recipe / "conf/asr.conf"
    read = shlex.split(path.read_text(), comments=True)
    script = f". {path}; " + "; ".join(
        f'echo "{name}=${{{name}}}"' for name in (line.split("=")[0] for line in read)
    )
    shell = subprocess.run(["bash", "-euc", script], capture_output=True, text=True)
    assert shell.stdout.splitlines() == read, shell.stderr


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parts[-2])
def test_the_data_options_of_a_recipe_are_those_of_its_data_script(recipe):
    options = dict(
        line.split("=", 1)
        for line in shlex.split((recipe / "conf/asr.conf").read_text(), comments=True)
    )
    for option in options.get("data_options", "").split():
        result = subprocess.run(
            # parse_options.sh stops at the second, if it knows the first
            ["local/data.sh", f"--{option}", "true", "--no_such_option", "x"],
            cwd=recipe,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert "invalid option --no_such_option" in result.stderr, option


# --------------------------- ESPnet's own settings ---------------------------

SPECAUG = {
    "apply_time_warp": True,
    "time_warp_window": 5,
    "time_warp_mode": "bicubic",
    "apply_freq_mask": True,
    "freq_mask_width_range": [0, 27],
    "num_freq_mask": 2,
    "apply_time_mask": True,
    "time_mask_width_ratio_range": [0.0, 0.05],
}
CONFORMER = {
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "conv2d",
    "normalize_before": True,
    "macaron_style": True,
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "use_cnn_module": True,
    "cnn_module_kernel": 31,
}
DECODER = {
    "linear_units": 2048,
    "num_blocks": 6,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "self_attention_dropout_rate": 0.1,
    "src_attention_dropout_rate": 0.1,
}
HYBRID = {
    "decoder": "transformer",
    "model_conf": {
        "ctc_weight": 0.3,
        "lsm_weight": 0.1,
        "length_normalized_loss": False,
    },
    "best_model_criterion": [["valid", "acc", "max"]],
}
CTC = {
    "encoder_conf": CONFORMER
    | {
        "output_size": 256,
        "attention_heads": 4,
        "linear_units": 1024,
        "num_blocks": 16,
    },
    "decoder": None,
    "model_conf": {"ctc_weight": 1.0},
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
}
EVERYWHERE = {
    "encoder": "conformer",
    "use_amp": True,
    "num_workers": 4,
    "batch_type": "numel",
    "accum_grad": 4,
    "patience": None,
    "init": None,
    "keep_nbest_models": 10,
    "optim": "adam",
    "scheduler": "warmuplr",
    "specaug": "specaug",
}
LIBRISPEECH_100 = EVERYWHERE | {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160},
    "seed": 2022,
    "batch_bins": 16000000,
    "max_epoch": 70,
    "cudnn_deterministic": False,
    "optim_conf": {"lr": 0.002, "weight_decay": 0.000001},
    "scheduler_conf": {"warmup_steps": 15000},
    "specaug_conf": SPECAUG | {"num_time_mask": 5},
}
LIBRISPEECH = EVERYWHERE | {
    "frontend_conf": {"n_fft": 512, "hop_length": 160},
    "seed": 0,
    "batch_bins": 35000000,
    "cudnn_deterministic": True,
    "max_epoch": 50,
    "optim_conf": {"lr": 0.0025, "weight_decay": 0.000001},
    "scheduler_conf": {"warmup_steps": 40000},
    "specaug_conf": SPECAUG | {"num_time_mask": 10},
}


@pytest.mark.parametrize(
    "corpus, name, values",
    [
        pytest.param(
            "librispeech_100",
            "baseline",
            LIBRISPEECH_100
            | HYBRID
            | {
                "encoder_conf": CONFORMER
                | {
                    "output_size": 256,
                    "attention_heads": 4,
                    "linear_units": 1024,
                    "num_blocks": 12,
                },
                "decoder_conf": DECODER | {"attention_heads": 4},
            },
            id="ESPnet's librispeech_100",
        ),
        pytest.param(
            "librispeech",
            "baseline",
            LIBRISPEECH
            | HYBRID
            | {
                "encoder_conf": CONFORMER
                | {
                    "output_size": 512,
                    "attention_heads": 8,
                    "linear_units": 2048,
                    "num_blocks": 12,
                },
                "decoder_conf": DECODER | {"attention_heads": 8},
            },
            id="ESPnet's librispeech",
        ),
        pytest.param(
            "librispeech",
            "ctc",
            LIBRISPEECH | CTC,
            id="Conformer-M, 960 h",
        ),
    ],
)
def test_a_baseline_has_the_published_values(corpus, name, values, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(resolve(name, ROOT / f"egs2/{corpus}/asr1").config)
    )
    args = ASRTask.get_parser().parse_args(["--config", str(config)])
    assert {option: getattr(args, option) for option in values} == values


# --------------------------------- decoding ---------------------------------


def test_ctc_greedy_is_the_best_path_where_posteriors_are_peaky(tmp_path):
    """A model without a decoder, an utterance alone and in a batch."""
    recipe = ROOT / "egs2/librispeech_100/asr1"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(resolve("ctc_reuse2", recipe).config))
    args = ASRTask.get_parser().parse_args(["--config", str(config)])
    args.token_list = [*TOKENS[:29], TOKENS[-1]]
    args.encoder_conf |= {"output_size": 32, "linear_units": 32, "num_blocks": 2}
    torch.manual_seed(0)
    model = ASRTask.build_model(args)
    with torch.no_grad():
        model.ctc.ctc_lo.weight *= 1000
        model.ctc.ctc_lo.bias[-1] = -1e6  # no CTC model is ever taught <sos/eos>
    checkpoint = tmp_path / "model.pth"
    config.write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), checkpoint)

    greedy = load(recipe / "conf/decode_asr_ctc_greedy.yaml")
    one, two = (
        Speech2Text(config, checkpoint, batch_size=batch_size, **greedy)
        for batch_size in (1, 2)
    )
    assert one.asr_model.decoder is None
    speech = torch.randn(2, 16000)
    labels = one.asr_model.ctc.argmax(
        one.asr_model.encode(speech, torch.tensor([16000, 16000]))[0]
    )
    best_paths = [[k for k, _ in itertools.groupby(y) if k] for y in labels.tolist()]
    assert all(len(path) > 3 for path in best_paths)
    assert [one(x)[0][2] for x in speech] == best_paths
    assert [nbest[0][2] for nbest in two.batch_decode(list(speech))] == best_paths
