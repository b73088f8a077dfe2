# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The reuse encoders in every task of ESPnet2: on offer, trained, decoded."""

import contextlib
import dataclasses
import importlib.util
import pkgutil
import subprocess
import sys
import types
from typing import Callable, Dict, List

import espnet2.tasks
import joblib
import numpy as np
import pytest
import torch
import yaml
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.transducer.rnnt_multi_blank.rnnt_multi_blank import RNNTLossNumba
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.class_choices import ClassChoices
from torch.nn.modules.module import register_module_forward_hook

import espnet_reuse  # noqa: F401 (registers the encoders)
from espnet_reuse.asr.encoder.branchformer_reuse_encoder import (
    BranchformerReuseEncoder,
)
from espnet_reuse.asr.encoder.conformer_reuse_encoder import ConformerReuseEncoder
from espnet_reuse.asr.encoder.e_branchformer_reuse_encoder import (
    EBranchformerReuseEncoder,
)
from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.encoder.transformer_reuse_encoder import TransformerReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import MapConsumer

CHILDREN = {
    ConformerEncoder: ConformerReuseEncoder,
    TransformerEncoder: TransformerReuseEncoder,
    BranchformerEncoder: BranchformerReuseEncoder,
    EBranchformerEncoder: EBranchformerReuseEncoder,
}
TASKS = [module.name for module in pkgutil.iter_modules(espnet2.tasks.__path__)]


@pytest.fixture(autouse=True)  # for each test: the transducer's numba undoes it
def one_thread_per_operator():
    """Keep tiny operators from waiting for a core that another process uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------ registration ------------------------------


def import_task(name):
    """Import a task's module, or skip the test where an optional package is missing."""
    return pytest.importorskip(f"espnet2.tasks.{name}", exc_type=ImportError)


def task_classes(name):
    module = import_task(name)
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, AbsTask)
        and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_offers_a_reuse_encoder_just_where_it_offers_the_parent(name):
    module = import_task(name)
    for choices in vars(module).values():
        if not isinstance(choices, ClassChoices):
            continue
        expected = {
            f"{option}_reuse": CHILDREN[class_]
            for option, class_ in choices.classes.items()
            if class_ in CHILDREN
        }
        offered = {
            option: class_
            for option, class_ in choices.classes.items()
            if issubclass(class_, ReuseEncoder)
        }
        assert offered == expected, choices.name


@pytest.mark.slow
def test_tasks_are_registered_that_were_imported_before_and_that_come_after():
    code = """
import sys
from espnet2.tasks import diar
import espnet_reuse
assert "espnet2.tasks.cls" not in sys.modules
from espnet2.tasks import cls
for task in diar, cls:
    for name in "conformer_reuse", "transformer_reuse":
        assert task.encoder_choices.get_class(name).__module__.startswith(
            "espnet_reuse."
        )
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ------------------------------ small models ------------------------------

LAYERS, SIZE = 4, 16
LAYER = {"attention_heads": 2, "linear_units": SIZE}
ENCODER_CONF = {"output_size": SIZE, "num_blocks": LAYERS}
OWN_CONF = {
    "conformer": {**LAYER, "rel_pos_type": "latest", "cnn_module_kernel": 7},
    "transformer": LAYER,
    "branchformer": {"attention_heads": 2, "cgmlp_linear_units": SIZE},
    "e_branchformer": {**LAYER, "cgmlp_linear_units": SIZE},
}
TOKENS = ["<blank>", "<unk>", "<space>", *"abcd", "<sos/eos>"]
LABELS = ["bark", "meow"]
WORDS = ["<blank>", "<unk>", *"1234", "<sos/eos>"]
TEXT = {"token_type": "char", "token_list": TOKENS}
SOURCE_TEXT = {"src_token_type": "char", "src_token_list": TOKENS}
SPEECH = {
    "frontend": "default",
    "frontend_conf": {"fs": "16k", "hop_length": 160, "n_mels": 20},
}
DECODER_CONF = {**LAYER, "num_blocks": 1}
DECODER = {"decoder": "transformer", "decoder_conf": DECODER_CONF}

SAMPLES = [12000, 8000]  # of the two utterances of a batch, longest first
FRAMES = [76, 51]


def speech(samples):
    return np.random.default_rng(samples).normal(size=samples).astype(np.float32)


def utterances(**texts):
    """Two utterances of different lengths, and the texts that are given for each."""
    return [
        {"speech": speech(samples)} | {name: text[n] for name, text in texts.items()}
        for n, samples in enumerate(SAMPLES)
    ]


@dataclasses.dataclass
class Case:
    """A small model of a task, its training data and its decoding.

    Attributes:
        task: Name of the task's module.
        parents: Parent of the reuse encoder of each option, such as `encoder`.
        options: The rest of the config.
        data: Two utterances.
        decode: Decodes an utterance, given config.yaml and the parameters.
    """

    task: str
    parents: Dict[str, str]
    options: dict
    data: List[dict]
    decode: Callable

    def config(self, suffix="_reuse"):
        """Return the config, of the parents if `suffix` is empty."""
        config = {"output_dir": "unused", **self.options}
        for option, parent in self.parents.items():
            conf = {**ENCODER_CONF, **OWN_CONF[parent]}
            if suffix:
                conf["reuse_group_size"] = 2
            conf |= self.options.get(f"{option}_conf", {})
            config |= {option: parent + suffix, f"{option}_conf": conf}
        return config


def search(path, keyword, **options):
    """A decoding with an inference class of ESPnet that returns hypotheses."""

    def decode(config, parameters, utterance):
        module, name = path.split(":")
        decoder = getattr(importlib.import_module(module), name)(
            *(config, parameters), beam_size=2, maxlenratio=-4, **options
        )
        result = decoder(utterance[keyword])
        while not isinstance(result[0], (str, type(None))):  # of n-best, of speakers
            result = result[0]
        text, tokens, ids, *_, hypothesis = result
        assert len(tokens) == len(ids) and np.isfinite(float(hypothesis.score))
        assert text == "".join(tokens).replace("<space>", " ")

    return decode


def classify(config, parameters, utterance):
    from espnet2.bin.cls_inference import Classification

    (label,), scores, name = Classification(config, parameters)(utterance["speech"])
    assert scores.sum() == pytest.approx(1)
    assert scores[label] == scores.max() and name == LABELS[label]


def diarize(**options):
    def decode(config, parameters, utterance):
        from espnet2.bin.diar_inference import DiarizeSpeech

        diarizer = DiarizeSpeech(config, parameters, num_spk=2, **options)
        _, activity = diarizer(utterance["speech"][None], fs=16000)
        assert activity.shape[::2] == (1, 2)
        assert np.all((activity > 0) & (activity < 1))

    return decode


def translate_speech(config, parameters, utterance):
    from espnet2.bin.s2st_inference import Speech2Speech

    translator = Speech2Speech(
        *(config, parameters),
        beam_size=2,
        maxlenratio=0.1,
        st_subtask_token_type="bpe",  # ESPnet's "unity" fails with all others
    )
    units = translator(utterance["src_speech"][None])["feat_gen"]
    assert units.ndim == 1 and set(units.long().tolist()) <= set(range(len(WORDS)))


def encode(name, method):
    """ESPnet has no inference class for this: a method of the model."""

    def decode(config, parameters, utterance):
        (task,) = task_classes(name)
        model, _ = task.build_model_from_file(config, parameters)
        samples = torch.from_numpy(utterance["speech"])[None]
        with torch.no_grad():
            encoded = getattr(model.eval(), method)(
                samples, torch.tensor([samples.size(1)])
            )
        while isinstance(encoded, tuple):  # with lengths, of speakers
            encoded = encoded[0]
        assert encoded.shape[::2] == (1, SIZE) and encoded.isfinite().all()

    return decode


ASR = "espnet2.bin.asr_inference:Speech2Text"
ST = "espnet2.bin.st_inference:Speech2Text"
S2T = "espnet2.bin.s2t_inference:Speech2Text"

TRANSCRIBED = utterances(text=["dcab", "ab"])
TRANSLATED = utterances(text=["dcab", "ab"], src_text=["abc", "ba"])
PROMPTED = utterances(
    text=[" <eng><asr>dcab", " <eng><asr>ab"],
    text_prev=["b", "dc"],
    text_ctc=["dcab", "ab"],
)
SPECIAL = ["<na>", "<nolang>", "<eng>", "<asr>", "<notimestamps>", "<0.00>", "<1.00>"]
PROMPTED_TEXT = {
    "token_type": "char",
    "token_list": [*TOKENS[:3], *SPECIAL, *"abcd", "<sop>", "<sos>", "<eos>"],
    "non_linguistic_symbols": SPECIAL,
}
# S2T pads the utterances of a batch to this length, in seconds
PADDED = {
    "fs": 16000,
    "speech_length": 1,
    "speech_init_silence": 0,
    "text_prev_apply_prob": 1,
}
TIMES = {
    "notime_symbol": "<notimestamps>",
    "first_time_symbol": "<0.00>",
    "last_time_symbol": "<1.00>",
}
UNITS = [
    {"src_speech": data.pop("speech"), **data}
    for data in utterances(
        tgt_speech=["3 2 1 4 4", "1 2 3"], src_text=["dca", "ab"], tgt_text=["ba", "c"]
    )
]
UNIT_MODEL = {
    **SPEECH,
    **SOURCE_TEXT,
    "tgt_token_type": "char",
    "tgt_token_list": TOKENS,
    "unit_token_list": WORDS,
    "st_decoder": "transformer",
    "st_decoder_conf": DECODER_CONF,
    "synthesizer_conf": DECODER_CONF,
    "losses": [
        {"name": "synthesis", "type": "attention", "conf": {}},
        {"name": "tgt_attn", "type": "attention", "conf": {}},
    ],
}
ACTIVITY = [
    np.random.default_rng(samples).integers(0, 2, (samples, 2)) for samples in SAMPLES
]
AGGREGATION = {"label_aggregator_conf": {"hop_length": 160, "win_length": 512}}
CONVOLUTION = {"channel": 16, "kernel_size": 320, "stride": 160}
ENHANCED = {
    "enh_encoder": "conv",
    "enh_encoder_conf": CONVOLUTION,
    "enh_decoder": "conv",
    "enh_decoder_conf": CONVOLUTION,
    "enh_criterions": [
        {"name": "l1_td", "conf": {}, "wrapper": "fixed_order", "wrapper_conf": {}}
    ],
    "enh_separator": "rnn",
    "enh_separator_conf": {"num_spk": 1, "layer": 1, "unit": 8},
    "model_conf": {"calc_enh_loss": False},
    "use_preprocessor": True,
}
RECONSTRUCTION = {
    "token_embed_dim": SIZE,
    "speaker_embed_dim": SIZE,
    "generator_params": {"in_channels": 2 * SIZE, "channels": SIZE},
    "discriminator_params": {
        "scale_discriminator_params": {
            "channels": SIZE,
            "max_downsample_channels": SIZE,
        },
        "period_discriminator_params": {"max_downsample_channels": SIZE},
    },
}
TRANSDUCER = {
    "decoder": "transducer",
    "decoder_conf": {"hidden_size": 8},
    "joint_net_conf": {"joint_space_size": 8},
    "model_conf": {"ctc_weight": 0.0, "report_cer": False, "report_wer": False},
}

CASES = {
    "asr, CTC": Case(
        "asr",
        {"encoder": "conformer"},
        {**TEXT, **SPEECH, "model_conf": {"ctc_weight": 1.0}},
        TRANSCRIBED,
        search(ASR, "speech", ctc_weight=1.0),
    ),
    "asr, attention decoder": Case(
        "asr",
        {"encoder": "transformer"},
        {**TEXT, **SPEECH, **DECODER},
        TRANSCRIBED,
        search(ASR, "speech"),
    ),
    "asr, transducer": Case(
        "asr",
        {"encoder": "e_branchformer"},
        {**TEXT, **SPEECH, **TRANSDUCER},
        TRANSCRIBED,
        search(ASR, "speech"),
    ),
    "s2t": Case(
        "s2t",
        {"encoder": "e_branchformer"},
        {
            **SPEECH,
            **PROMPTED_TEXT,
            **DECODER,
            "preprocessor_conf": {**PADDED, **TIMES},
        },
        PROMPTED,
        search(S2T, "speech", ctc_weight=0.3),
    ),
    # its encoder has to be an e_branchformer_ctc, that of the prompt may be any
    "s2t_ctc": Case(
        "s2t_ctc",
        {"promptencoder": "conformer"},
        {
            **SPEECH,
            **PROMPTED_TEXT,
            "encoder": "e_branchformer_ctc",
            "encoder_conf": {
                "output_size": SIZE,
                "num_blocks": 1,
                "input_layer": "conv2d",
                **OWN_CONF["e_branchformer"],
            },
            "model": "espnet_ctc",
            "preprocessor_conf": PADDED,
        },
        PROMPTED,
        search(S2T, "speech"),
    ),
    "st": Case(
        "st",
        {"encoder": "branchformer"},
        {**TEXT, **SOURCE_TEXT, **SPEECH, **DECODER},
        TRANSLATED,
        search(ST, "speech"),
    ),
    "st, hierarchical": Case(
        "st",
        {"encoder": "conformer", "hier_encoder": "e_branchformer"},
        {
            **TEXT,
            **SOURCE_TEXT,
            **SPEECH,
            **DECODER,
            "hier_encoder_conf": {"input_layer": None},
            "model_conf": {"asr_weight": 0.3, "mtlalpha": 1.0},
        },
        TRANSLATED,
        search(ST, "speech"),
    ),
    "slu": Case(
        "slu",
        {"encoder": "branchformer"},
        {**TEXT, **SPEECH, **DECODER},
        TRANSCRIBED,
        search("espnet2.bin.slu_inference:Speech2Understand", "speech"),
    ),
    "mt": Case(
        "mt",
        {"encoder": "e_branchformer"},
        {
            **TEXT,
            **SOURCE_TEXT,
            **DECODER,
            "frontend": "embed",
            "frontend_conf": {"embed_dim": SIZE},
            "encoder_conf": {"input_layer": None},
        },
        [{"src_text": "dcba", "text": "a"}, {"src_text": "ab", "text": "cd"}],
        search("espnet2.bin.mt_inference:Text2Text", "src_text", ctc_weight=0.0),
    ),
    "s2st, discrete units": Case(
        "s2st",
        {"encoder": "transformer"},
        {**UNIT_MODEL, "s2st_type": "discrete_unit"},
        UNITS,
        translate_speech,
    ),
    "s2st, unity": Case(
        "s2st",
        {"encoder": "conformer", "unit_encoder": "transformer"},
        {
            **UNIT_MODEL,
            "s2st_type": "unity",
            "unit_encoder_conf": {"input_layer": None},
        },
        UNITS,
        translate_speech,
    ),
    "cls": Case(
        "cls",
        {"encoder": "conformer"},
        {**SPEECH, "token_list": [*LABELS, "<unk>"]},
        utterances(label=LABELS),
        classify,
    ),
    "diar": Case(
        "diar",
        {"encoder": "transformer"},
        {
            **SPEECH,
            **AGGREGATION,
            "num_spk": 2,
            "encoder_conf": {"input_layer": "linear"},
        },
        utterances(spk_labels=ACTIVITY),
        diarize(),
    ),
    "ssl": Case(
        "ssl",
        {"encoder": "e_branchformer"},
        {
            **SPEECH,
            "token_type": "word",
            "token_list": WORDS,
            "collate_fn_conf": {"crop_audio": False},
            "preencoder": "linear",
            "preencoder_conf": {"output_size": SIZE},
            "encoder_conf": {"input_layer": None},
            "loss": [{"name": "hubert", "conf": {"num_classes": 7, "final_dim": 8}}],
        },
        utterances(text=[" ".join("1" * FRAMES[0]), " ".join("2" * FRAMES[1])]),
        encode("ssl", "inference_encode"),
    ),
    "gan_tok": Case(
        "gan_tok",
        {"asr_encoder": "conformer"},
        {
            **TEXT,
            **SPEECH,
            "asr_decoder": "transformer",
            "asr_decoder_conf": DECODER_CONF,
            "asr_embedding_conf": {"embed_dim": SIZE},
            "reconstruction_loss_conf": RECONSTRUCTION,
            "model_conf": {"reconstruction_weight": 0.0},
            "skip_discriminator_prob": 1.0,
        },
        [{**data, "spembs": np.ones(SIZE, dtype=np.float32)} for data in TRANSCRIBED],
        encode("gan_tok", "encode_asr"),
    ),
    "enh_s2t, asr": Case(
        "enh_s2t",
        {"asr_encoder": "conformer"},
        {
            **TEXT,
            **SPEECH,
            **ENHANCED,
            "asr_decoder": "transformer",
            "asr_decoder_conf": DECODER_CONF,
            "subtask_series": ["enh", "asr"],
            "text_name": ["text_spk1"],
        },
        utterances(text_spk1=["dcab", "ab"]),
        search(ASR, "speech", enh_s2t_task=True),
    ),
    "enh_s2t, st": Case(
        "enh_s2t",
        {"st_encoder": "branchformer"},
        {
            **TEXT,
            **SOURCE_TEXT,
            **SPEECH,
            **ENHANCED,
            "st_decoder": "transformer",
            "st_decoder_conf": DECODER_CONF,
            "st_model_conf": {},
            "subtask_series": ["enh", "st"],
        },
        TRANSCRIBED,
        encode("enh_s2t", "encode"),
    ),
    "enh_s2t, diar": Case(
        "enh_s2t",
        {"diar_encoder": "transformer"},
        {
            **ENHANCED,
            **AGGREGATION,
            "diar_frontend": "default",
            "diar_frontend_conf": SPEECH["frontend_conf"],
            "diar_num_spk": 2,
            "enh_separator_conf": {"num_spk": 2, "layer": 1, "unit": 8},
            "diar_encoder_conf": {"input_layer": "linear"},
            "subtask_series": ["enh", "diar"],
        },
        utterances(text=ACTIVITY),
        diarize(enh_s2t_task=True),
    ),
}


CASES["s2t, flash attention asked for"] = dataclasses.replace(
    CASES["s2t"], decode=search(S2T, "speech", ctc_weight=0.3, use_flash_attn=True)
)

# What ESPnet 202611 can neither train nor decode, the parent included.
BROKEN = {
    "st, multi-decoder": (
        Case(
            "st",
            {"encoder": "conformer", "md_encoder": "branchformer"},
            {
                **TEXT,
                **SOURCE_TEXT,
                **SPEECH,
                **DECODER,
                "extra_asr_decoder": "transformer",
                "extra_asr_decoder_conf": DECODER_CONF,
                "md_encoder_conf": {"input_layer": None},
                "model_conf": {"asr_weight": 0.3},
            },
            TRANSLATED,
            search(ST, "speech"),
        ),
        "not enough values to unpack",
    ),
    "st, text encoder": (
        Case(
            "st",
            {"encoder": "transformer", "extra_mt_encoder": "transformer"},
            {
                **TEXT,
                **SOURCE_TEXT,
                **SPEECH,
                **DECODER,
                "extra_mt_decoder": "transformer",
                "extra_mt_decoder_conf": DECODER_CONF,
                "extra_mt_encoder_conf": {"input_layer": "embed"},
                "model_conf": {"mt_weight": 0.3},
            },
            utterances(text=["dcab", "ab"], src_text=["ab", "ba"]),
            search(ST, "speech"),
        ),
        "too many values to unpack",
    ),
    "s2t_ctc, encoder without cross-attention": (
        Case(
            "s2t_ctc",
            {"encoder": "conformer", "promptencoder": "conformer"},
            {
                **SPEECH,
                **PROMPTED_TEXT,
                "model": "espnet_ctc",
                "preprocessor_conf": PADDED,
            },
            PROMPTED,
            search(S2T, "speech"),
        ),
        "unexpected keyword argument 'prefix_embeds'",
    ),
    "asvspoof": (
        Case(
            "asvspoof",
            {"encoder": "transformer"},
            {**SPEECH, "losses": [{"name": "binary_loss", "conf": {}}]},
            utterances(label=[np.array([0]), np.array([1])]),
            None,
        ),
        "'NoneType' object has no attribute 'view'",
    ),
    "enh_s2t, st, decoded": (
        dataclasses.replace(
            CASES["enh_s2t, st"], decode=search(ST, "speech", enh_s2t_task=True)
        ),
        "has no attribute 'src_token_list'",
    ),
}


@pytest.fixture
def rnnt_loss(monkeypatch):
    """ESPnet's own transducer loss, where `warprnnt_pytorch` is not installed."""
    if importlib.util.find_spec("warprnnt_pytorch") is None:
        module = types.ModuleType("warprnnt_pytorch")
        module.RNNTLoss = RNNTLossNumba
        monkeypatch.setitem(sys.modules, "warprnnt_pytorch", module)


# ------------------------------ training and decoding ------------------------------


def start_training(case, folder, suffix="_reuse"):
    """Let the task's trainer build the model and write config.yaml.

    Returns:
        The task, the config as the trainer wrote it, the model, and a batch.
    """
    (task,) = task_classes(case.task)
    config = case.config(suffix)
    if case.task == "gan_tok":
        centers = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
        kmeans = types.SimpleNamespace(cluster_centers_=centers)
        joblib.dump(kmeans, folder / "kmeans")
        config["quantizer_conf"] = {"centroid_path": str(folder / "kmeans")}
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", folder / "train.yaml", "--output_dir", folder]
    task.main(cmd=[*map(str, options), "--dry_run", "true"])
    model, args = task.build_model_from_file(folder / "config.yaml")
    preprocess = task.build_preprocess_fn(args, train=True)
    data = [(str(n), preprocess(str(n), dict(x))) for n, x in enumerate(case.data)]
    _, batch = task.build_collate_fn(args, train=True)(data)
    return task, args, model, batch


def loss_of(model, batch):
    output = model(**{name: value.clone() for name, value in batch.items()})
    loss = output["loss"] if isinstance(output, dict) else output[0]
    assert loss.isfinite()
    return loss


def step(model, batch):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    optimizer.step()


def decode(case, folder, task, args, model):
    """Save the model as the trainer does, and decode its second utterance."""
    torch.save(model.state_dict(), folder / "1epoch.pth")
    preprocess = task.build_preprocess_fn(args, train=False)
    utterance = preprocess("1", dict(case.data[1]))
    case.decode(folder / "config.yaml", folder / "1epoch.pth", utterance)


def value_of(consumer):
    """What tells a consumer from others, in memory or in a file."""
    return consumer.linear_v.weight.detach().numpy().tobytes()


@contextlib.contextmanager
def consumers_at_work():
    """Collect the values of the consumers that apply a map."""
    values = set()

    def collect(module, *_):
        if isinstance(module, MapConsumer):
            values.add(value_of(module))

    hook = register_module_forward_hook(collect)
    try:
        yield values
    finally:
        hook.remove()


@contextlib.contextmanager
def gradients_through_consumers_alone(producers):
    """Keep a producer's own output from passing gradients to its map."""
    hooks = [
        producer.linear_out.register_forward_hook(lambda *args: args[-1].detach())
        for producer in producers
    ]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", CASES)
def test_a_model_trains_and_decodes(name, tmp_path, rnnt_loss):
    case = CASES[name]
    if case.task == "cls":
        pytest.importorskip("torcheval")
    task, args, model, batch = start_training(case, tmp_path)
    consumers, producers = {}, {}
    for module_name, module in model.named_modules():
        if isinstance(module, MapConsumer):
            consumers[module_name] = module
        elif getattr(module, "has_consumers", False):
            producers[module_name] = module
    assert len(consumers) == len(producers) == len(case.parents) * LAYERS // 2

    with gradients_through_consumers_alone(producers.values()):
        loss_of(model, batch).backward()
    for module_name, producer in producers.items():
        gradient = producer.linear_q.weight.grad
        assert gradient.isfinite().all() and gradient.any(), module_name

    before = {key: value.clone() for key, value in model.state_dict().items()}
    step(model, batch)
    after = model.state_dict()
    for module_name in consumers:
        assert f"{module_name}.linear_q.weight" not in after
        weight = f"{module_name}.linear_v.weight"
        assert not torch.equal(after[weight], before[weight])

    with consumers_at_work() as at_work:
        decode(case, tmp_path, task, args, model)
    assert at_work == set(map(value_of, consumers.values()))


@pytest.mark.parametrize("suffix", ["", "_reuse"], ids=["parent", "reuse"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_fails_in_espnet_fails_alike_with_the_parent(name, suffix, tmp_path):
    case, message = BROKEN[name]
    task, args, model, batch = start_training(case, tmp_path, suffix)
    with pytest.raises((AttributeError, TypeError, ValueError), match=message):
        step(model, batch)
        decode(case, tmp_path, task, args, model)


def test_every_option_that_offers_a_parent_is_tried_here():
    tried = {
        (case.task, option)
        for case in [*CASES.values(), *(case for case, _ in BROKEN.values())]
        for option in case.parents
    }
    offered = set()
    for name in TASKS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"espnet2.tasks.{name}")
            offered |= {
                (name, choices.name)
                for task in task_classes(name)
                for choices in task.class_choices_list
                if CHILDREN.keys() & set(choices.classes.values())
            }
    assert offered == tried
