# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Every config of the recipes: ESPnet accepts it, and pairs differ in reuse alone."""

import functools
import io
import itertools
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

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(p for p in ROOT.glob("egs2/*/asr1") if p.parts[-2] != "TEMPLATE")
# Links lead to files that are here, too, under their own names, and so do a conf that a
# recipe has of another.
WITH_CONF = [recipe for recipe in RECIPES if not (recipe / "conf").is_symlink()]
CONFIGS = sorted(
    {p.resolve() for r in RECIPES for p in r.glob("conf/**/*.yaml") if p.exists()}
)
TOKENS = ["<blank>", "<unk>", *(f"▁{i}" for i in range(4997)), "<sos/eos>"]


def name_of(path):
    return str(path.relative_to(ROOT))


def each(configs):
    return pytest.mark.parametrize("config", configs, ids=name_of)


def load(config):
    return yaml.safe_load(config.read_text())


TRAIN_ASR = [c for c in CONFIGS if c.name.startswith("train_asr_")]
TRAIN_LM = [c for c in CONFIGS if c.name.startswith("train_lm")]
DECODE = [c for c in CONFIGS if c.name.startswith("decode_")]
WARM = [c for c in TRAIN_ASR if c.stem.endswith("_warm")]
REUSE = [c for c in TRAIN_ASR if "_reuse" in c.stem and c not in WARM]


def baseline_of(config):
    """Return the config that a reuse model's is a variant of, after ESPnet's rules."""
    name = config.name.split("_reuse")[0] + ".yaml"
    paths = (config.parents[1] / name, config.parent / name)
    (path,) = [path for path in paths if path.exists()]
    return path


def group_sizes_of(config):
    """Return the sizes of all groups, by this test's own arithmetic."""
    encoder_conf = load(config)["encoder_conf"]
    size, layers = encoder_conf["reuse_group_size"], encoder_conf["num_blocks"]
    if isinstance(size, list):
        assert sum(size) == layers
        return size
    return [len(range(layers)[i : i + size]) for i in range(0, layers, size)]


@functools.cache
def build(config):
    """Return a config's model, without memory, and its training options."""
    task = LMTask if config in TRAIN_LM else ASRTask
    args = task.get_parser().parse_args(["--config", str(config)])
    args.token_list = TOKENS
    with torch.device("meta"):
        return task.build_model(args), args


def shapes_of(config):
    return {k: p.shape for k, p in build(config)[0].named_parameters()}


def test_a_config_is_for_training_or_decoding_by_its_name():
    assert set(TRAIN_ASR + TRAIN_LM + DECODE) == set(CONFIGS)


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
            assert printed[option] == (None if value == "none" else value), option


@each(TRAIN_ASR + TRAIN_LM)
def test_model_optimizer_and_scheduler_can_be_built(config):
    model, args = build(config)
    (optimizer,) = ASRTask.build_optimizers(args, model)
    if args.scheduler is not None:
        scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)


@each(DECODE)
def test_asr_inference_accepts_the_config(config):
    args = asr_inference.get_parser().parse_args(
        ["--config", str(config), "--output_dir", "x"]
        + ["--data_path_and_name_and_type", "wav.scp,speech,sound"]
    )
    assert load(config).items() <= vars(args).items()


# --------------------------- baseline against reuse ---------------------------


@each(REUSE)
def test_a_reuse_model_differs_from_its_baseline_in_reuse_alone(config):
    reuse, baseline = load(config), load(baseline_of(config))
    assert (baseline["encoder"], reuse["encoder"]) == ("conformer", "conformer_reuse")
    del reuse["encoder_conf"]["reuse_group_size"]
    reuse["encoder_conf"].pop("reuse_dropout", None)
    assert reuse == baseline | {"encoder": "conformer_reuse"}


@each(WARM)
def test_a_warm_model_is_fine_tuned_for_a_quarter_of_the_epochs(config):
    name = config.name.replace("_warm", "")
    from_scratch, warm = load(config.with_name(name)), load(config)
    epochs = [options.pop("max_epoch") for options in (warm, from_scratch)]
    assert epochs[0] <= epochs[1] / 4
    assert warm["optim_conf"].pop("lr") < from_scratch["optim_conf"].pop("lr")
    for options in (warm, from_scratch):
        options["scheduler_conf"] = {
            key: value
            for key, value in options["scheduler_conf"].items()
            if key not in ("warmup_steps", "max_steps")
        }
    assert warm == from_scratch


def test_every_recipe_has_a_warm_model():
    assert {config.parents[2] for config in WARM} == set(WITH_CONF)


@each(REUSE)
def test_a_reuse_model_lacks_its_consumers_query_key_and_position_alone(config):
    sizes = group_sizes_of(config)
    producers = set(itertools.accumulate([0, *sizes[:-1]]))
    consumers = set(range(sum(sizes))) - producers
    baseline, reuse = shapes_of(baseline_of(config)), shapes_of(config)

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

    d = load(config)["encoder_conf"]["output_size"]
    expected = len(consumers) * (2 * (d * d + d) + d * d + 2 * d)
    count = [sum(map(torch.Size.numel, s.values())) for s in (baseline, reuse)]
    assert count[0] - count[1] == expected > 0


@each([c for c in TRAIN_ASR if c.stem.endswith(("_layers11", "_units224"))])
def test_smaller_baselines_have_as_many_parameters_as_groups_of_three(config):
    smaller, reuse = (
        sum(map(torch.Size.numel, shapes_of(c).values()))
        for c in (config, config.with_name("train_asr_conformer_reuse3.yaml"))
    )
    assert smaller == pytest.approx(reuse, rel=0.002)


@each([c for c in REUSE if c.stem.endswith("_upper")])
def test_lower_layers_free_and_upper_ones_free_are_mirror_images(config):
    lower = config.with_name(config.name.replace("_upper", "_lower"))
    sizes = group_sizes_of(config)
    assert sizes == group_sizes_of(lower)[::-1]
    assert sizes == sorted(sizes) and sizes[0] == 1 < sizes[-1]


@pytest.mark.parametrize("recipe", WITH_CONF, ids=name_of)
def test_models_of_a_recipe_share_their_features(recipe):
    frontends = [
        (load(c).get("frontend"), load(c).get("frontend_conf"))
        for c in TRAIN_ASR
        if recipe in c.parents
    ]
    assert frontends.count(frontends[0]) == len(frontends)


@pytest.mark.parametrize("corpus", ["librispeech", "librispeech_100"])
def test_every_group_is_there_for_both_families(corpus):
    conf = ROOT / "egs2" / corpus / "asr1/conf"
    groups = ("reuse2", "reuse3", "reuse4", "reuse_upper", "reuse_lower")
    for family in ("train_asr_conformer", "train_asr_conformer_ctc"):
        for group in groups:
            assert conf / f"tuning/{family}_{group}.yaml" in REUSE


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
    "config, values",
    [
        pytest.param(
            "librispeech_100/asr1/conf/train_asr_conformer.yaml",
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
                "max_epoch": 70,
            },
            id="ESPnet's librispeech_100",
        ),
        pytest.param(
            "librispeech/asr1/conf/train_asr_conformer.yaml",
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
            "librispeech_100/asr1/conf/tuning/train_asr_conformer_ctc.yaml",
            LIBRISPEECH_100 | CTC | {"max_epoch": 60},
            id="Conformer-M, 100 h",
        ),
        pytest.param(
            "librispeech/asr1/conf/tuning/train_asr_conformer_ctc.yaml",
            LIBRISPEECH | CTC,
            id="Conformer-M, 960 h",
        ),
    ],
)
def test_a_baseline_has_the_published_values(config, values):
    args = ASRTask.get_parser().parse_args(["--config", str(ROOT / "egs2" / config)])
    assert {option: getattr(args, option) for option in values} == values


# ------------------------------ decoding, links ------------------------------


def test_ctc_greedy_is_the_best_path_where_posteriors_are_peaky(tmp_path):
    """A model without a decoder, an utterance alone and in a batch."""
    conf = ROOT / "egs2/librispeech_100/asr1/conf"
    args = ASRTask.get_parser().parse_args(
        ["--config", str(conf / "tuning/train_asr_conformer_ctc_reuse2.yaml")]
    )
    args.token_list = [*TOKENS[:29], TOKENS[-1]]
    args.encoder_conf |= {"output_size": 32, "linear_units": 32, "num_blocks": 2}
    torch.manual_seed(0)
    model = ASRTask.build_model(args)
    with torch.no_grad():
        model.ctc.ctc_lo.weight *= 1000
        model.ctc.ctc_lo.bias[-1] = -1e6  # no CTC model is ever taught <sos/eos>
    config, checkpoint = tmp_path / "config.yaml", tmp_path / "model.pth"
    config.write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), checkpoint)

    greedy = load(conf / "decode_asr_ctc_greedy.yaml")
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


def links():
    for recipe in RECIPES:
        for folder in (".", "conf", "conf/tuning", "local"):
            yield from (p for p in (recipe / folder).glob("*") if p.is_symlink())


@pytest.mark.parametrize("link", sorted(links()), ids=name_of)
def test_a_link_leads_into_this_repository_or_espnet(link):
    target = link.resolve(strict=True)
    trees = (ROOT, (ROOT / "tools/espnet").resolve())
    assert any(target.is_relative_to(tree) for tree in trees)
    assert not link.readlink().is_absolute()
