# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Converts trained models: a baseline into a reuse model, and the other way."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple, Union

import torch

from espnet_reuse.analysis.dataset import DataDir
from espnet_reuse.analysis.maps import prepare_model
from espnet_reuse.analysis.similarity import (
    compare_layers,
    js_distance,
    match_heads,
    same_head,
)
from espnet_reuse.asr.encoder.reuse_encoder import ReuseEncoder
from espnet_reuse.asr.layers.attention_map_reuse import MapConsumer
from espnet_reuse.errors import UserError
from espnet_reuse.pretrained import attentions_of, build_model, require_same
from espnet_reuse.registry import ENCODERS

SUFFIX = "_reuse"
OPTIONS = ("reuse_group_size", "reuse_dropout")


class Layer(NamedTuple):
    """A layer's attention in a converted model.

    Attributes:
        name: Name of its attention module, as in a state dict.
        producer: Index of the layer whose map it applies, its own where it has one.
    """

    name: str
    producer: int


class Converted(NamedTuple):
    """A converted model.

    Attributes:
        config: Its config.
        state: Its parameters.
        layers: Layers of the model that reuses maps, the source or the converted one.
        changed: Names of the parameters that only one of the two models has.
    """

    config: Dict
    state: Dict[str, torch.Tensor]
    layers: List[Layer]
    changed: List[str]


def layers_of(model) -> List[Layer]:
    """Return the layers of the model's encoder."""
    names = {module: name for name, module in model.named_modules()}
    layers = []
    for index, attention in enumerate(attentions_of(model.encoder)):
        is_consumer = isinstance(attention, MapConsumer)
        producer = layers[-1].producer if is_consumer else index
        layers.append(Layer(names.get(attention), producer))
    return layers


def to_reuse(
    config: Dict,
    state: Dict[str, torch.Tensor],
    model_file: Path,
    reuse_group_size: Union[int, Sequence[int]],
    reuse_dropout: str = "per_layer",
    task: str = "asr",
) -> Converted:
    """Make a model of which groups of layers reuse attention maps.

    Consumers lose their query, key and position parameters; nothing else changes.

    Args:
        config: Config of the trained model, with reuse or without.
        state: Its parameters.
        model_file: Their file, for errors.
        reuse_group_size: As the encoders take it.
        reuse_dropout: As the encoders take it.
        task: Name of the ESPnet2 task.

    Raises:
        UserError: The parameters are of another architecture, the encoder has
            no reuse counterpart, or the groups do not fit.
    """
    source = build_model(config, task)
    require_same(source.state_dict(), state, model_file)
    name = config["encoder"].removesuffix(SUFFIX)
    encoder = type(source.encoder)
    is_known = f"{encoder.__module__}.{encoder.__qualname__}" in ENCODERS
    if not is_known and not issubclass(encoder, ReuseEncoder):
        raise UserError(
            f"the config's encoder is {name!r}, which has no counterpart that reuses "
            "maps; conformer, transformer, branchformer and e_branchformer have one"
        )
    config = {
        **config,
        "encoder": name + SUFFIX,
        "encoder_conf": {
            **config["encoder_conf"],
            "reuse_group_size": reuse_group_size,
            "reuse_dropout": reuse_dropout,
        },
    }
    model = build_model(config, task)
    layers = layers_of(model)
    target = model.state_dict()
    for number, layer in enumerate(layers, 1):
        if f"{layer.name}.linear_q.weight" in target.keys() - state.keys():
            raise UserError(
                f"reuse_group_size: layer {number} would compute a map, but is a "
                f"consumer in {model_file}: choose groups that begin where its groups "
                "begin, or expand it first"
            )
    dropped = [key for key in state if key not in target]
    kept = {key: value for key, value in state.items() if key in target}
    return Converted(config, kept, layers, dropped)


def expand(
    config: Dict, state: Dict[str, torch.Tensor], model_file: Path, task: str = "asr"
) -> Converted:
    """Make a stock ESPnet model of a reuse model.

    Every consumer gets its producer's query, key and position parameters. It computes
    them from its own input, so that its map is near its producer's and not equal to it;
    with groups of one layer nothing changes.

    Args:
        config: Config of a reuse model.
        state: Its parameters.
        model_file: Their file, for errors.
        task: Name of the ESPnet2 task.

    Raises:
        UserError: The model reuses no maps, or is of another architecture.
    """
    if not config["encoder"].endswith(SUFFIX):
        raise UserError(
            f"the config's encoder is {config['encoder']!r}, which reuses no maps; "
            "name a model with an encoder such as conformer_reuse"
        )
    model = build_model(config, task)
    require_same(model.state_dict(), state, model_file)
    layers = layers_of(model)
    config = {
        **config,
        "encoder": config["encoder"].removesuffix(SUFFIX),
        "encoder_conf": {
            key: value
            for key, value in config["encoder_conf"].items()
            if key not in OPTIONS
        },
    }
    expanded = dict(state)
    for layer in layers:
        producer = layers[layer.producer].name
        for key, value in state.items():
            if layer.name and key.startswith(f"{producer}."):
                expanded.setdefault(layer.name + key.removeprefix(producer), value)
    copied = [key for key in expanded if key not in state]
    return Converted(config, expanded, layers, copied)


def measure(
    source: Tuple[Dict, Dict], converted: Converted, data_dir: Path, num_utts: int
) -> List[Dict]:
    """Measure how far the maps of the two models are from each other.

    The measure is the Jensen-Shannon distance of `similarity.js_distance`, a mean over
    frames, heads and utterances. For a reuse model that was made, it compares each
    consumer's own map in the source with its producer's, head by head, and with the
    heads matched. For a model that was expanded, it compares each layer's map in the
    two models.

    Args:
        source: Config and parameters that were converted.
        converted: What they were converted into.
        data_dir: Data directory with audio.
        num_utts: Number of utterances to measure on.

    Returns:
        A dict for each layer whose map changes; `layer` and `producer` count from 1.

    Raises:
        UserError: The data cannot be read, or the model has no maps.
    """
    analysed, rate = prepare_analysis(*source)
    dataset = DataDir(data_dir, num_utts, rate)
    consumers = [n for n, layer in enumerate(converted.layers) if layer.producer != n]
    if converted.config["encoder"].endswith(SUFFIX):
        distance = sum(
            compare_layers(analysed.record(speech, utt_id).maps)[0]
            for utt_id, speech in speech_of(dataset)
        ) / len(dataset)
        matched, heads = match_heads(distance)
        by_head = same_head(distance)
        pairs = [(converted.layers[n].producer, n) for n in consumers]
        return [
            {
                "layer": consumer + 1,
                "producer": producer + 1,
                "distance": by_head[producer, consumer].item(),
                "matched_distance": matched[producer, consumer].item(),
                "heads": heads[producer, consumer].tolist(),
            }
            for producer, consumer in pairs
        ]
    expanded, _ = prepare_analysis(converted.config, converted.state)
    distance = torch.zeros(len(converted.layers))
    for utt_id, speech in speech_of(dataset):
        maps = (model.record(speech, utt_id).maps for model in (analysed, expanded))
        for n, (before, after) in enumerate(zip(*maps, strict=True)):
            distance[n] += js_distance(before, after).diagonal().mean() / len(dataset)
    return [
        {"layer": n + 1, "distance": distance[n].item()} for n in range(len(distance))
    ]


def prepare_analysis(config, state):
    """Return the model to analyse, and its sampling rate in Hz."""
    model = build_model(config, device="cpu")
    model.load_state_dict(state, strict=False)
    return prepare_model(model, config)


def speech_of(dataset):
    """Yield the id and the waveform (samples,) of every utterance."""
    for utterance in dataset:
        yield utterance.id, torch.from_numpy(utterance.speech)


def permute_heads(
    state: Dict[str, torch.Tensor], attention: str, heads: Sequence[int]
) -> None:
    """Change the order of a consumer's heads.

    With maps of its own in that order, too, it would compute what it did.

    Args:
        state: State dict, changed in place.
        attention: Name of the attention module in it.
        heads: Head that comes to each place (H,).
    """
    for name in ("linear_v.weight", "linear_v.bias"):
        by_head = state[f"{attention}.{name}"].unflatten(0, (len(heads), -1))
        state[f"{attention}.{name}"] = by_head[list(heads)].flatten(0, 1)
    by_head = state[f"{attention}.linear_out.weight"].unflatten(1, (len(heads), -1))
    state[f"{attention}.linear_out.weight"] = by_head[:, list(heads)].flatten(1, 2)
