# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Converts trained models: a baseline into a reuse model, and the other way."""

from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

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
from espnet_reuse.pretrained import Trained, attentions_of, build_model
from espnet_reuse.registry import ENCODERS, path_of

SUFFIX = "_reuse"
OPTIONS = ("reuse_group_size", "reuse_dropout")


class Layer(NamedTuple):
    """A layer's attention."""

    name: str | None  # of its attention module, as in a state dict
    producer: int  # index of the layer whose map it applies, perhaps its own


def layers_of(model: torch.nn.Module) -> list[Layer]:
    """Return the layers of the model's encoder."""
    names = {module: name for name, module in model.named_modules()}
    layers = []
    for index, attention in enumerate(attentions_of(model.encoder)):
        is_consumer = isinstance(attention, MapConsumer)
        producer = layers[-1].producer if is_consumer else index
        layers.append(Layer(names.get(attention), producer))
    return layers


def to_reuse(
    source: Trained,
    reuse_group_size: int | Sequence[int],
    reuse_dropout: str = "per_layer",
) -> Trained:
    """Make a model of which groups of layers reuse attention maps.

    Consumers lose their query, key and position parameters; nothing else changes.
    The options are as the encoders take them; the source may reuse maps, too.

    Raises:
        UserError: The encoder has no reuse counterpart, or the groups do not fit.
    """
    name = source.config["encoder"].removesuffix(SUFFIX)
    encoder = type(source.model.encoder)
    if path_of(encoder) not in ENCODERS and not issubclass(encoder, ReuseEncoder):
        raise UserError(
            f"the config's encoder is {name!r}, which cannot reuse maps; conformer, "
            "transformer, branchformer and e_branchformer can"
        )
    options = {"reuse_group_size": reuse_group_size, "reuse_dropout": reuse_dropout}
    config = source.config | {
        "encoder": name + SUFFIX,
        "encoder_conf": source.config["encoder_conf"] | options,
    }
    model = build_model(config, source.task)
    target = model.state_dict()
    for number, layer in enumerate(layers_of(model), 1):
        if f"{layer.name}.linear_q.weight" in target.keys() - source.state.keys():
            raise UserError(
                f"reuse_group_size: layer {number} would be a producer, but is a "
                f"consumer in {source.file}; choose groups that begin at the same "
                "layers as its groups, or expand the model first"
            )
    kept = {key: value for key, value in source.state.items() if key in target}
    return source._replace(model=model, config=config, state=kept)


def expand(source: Trained) -> Trained:
    """Make a stock ESPnet model of a reuse model.

    Every consumer gets its producer's query, key and position parameters. It computes
    them from its own input, so that its map is near its producer's and not equal to it;
    with groups of one layer nothing changes.

    Raises:
        UserError: The model reuses no maps.
    """
    if not source.config["encoder"].endswith(SUFFIX):
        raise UserError(
            f"the config's encoder is {source.config['encoder']!r}, which reuses no "
            "maps; use a model with an encoder such as conformer_reuse"
        )
    conf = source.config["encoder_conf"]
    config = source.config | {
        "encoder": source.config["encoder"].removesuffix(SUFFIX),
        "encoder_conf": {key: conf[key] for key in conf if key not in OPTIONS},
    }
    layers = layers_of(source.model)
    expanded = dict(source.state)
    for layer in layers:
        producer = layers[layer.producer].name
        for key, value in source.state.items():
            if layer.name and key.startswith(f"{producer}."):
                expanded.setdefault(layer.name + key.removeprefix(producer), value)
    model = build_model(config, source.task)
    return source._replace(model=model, config=config, state=expanded)


def measure(
    source: Trained, converted: Trained, data_dir: Path, num_utts: int
) -> list[dict]:
    """Measure how far the maps of the two models are from each other.

    The measure is the Jensen-Shannon distance of `similarity.js_distance`, a mean over
    frames, heads and utterances. For a reuse model that was made, it compares each
    consumer's own map in the source with its producer's, head by head, and with the
    heads matched. For a model that was expanded, it compares each layer's map in the
    two models. Both are models of ASR.

    Returns:
        A dict for each layer whose map changes; `layer` and `producer` count from 1.

    Raises:
        UserError: The data cannot be read, or the model has no maps.
    """
    before = _maps_of(source, data_dir, num_utts)
    if not converted.config["encoder"].endswith(SUFFIX):
        distances = [
            [js_distance(*maps).diagonal().mean() for maps in zip(*pair, strict=True)]
            for pair in zip(
                before, _maps_of(converted, data_dir, num_utts), strict=True
            )
        ]
        means = torch.tensor(distances).mean(0).tolist()
        return [{"layer": n, "distance": mean} for n, mean in enumerate(means, 1)]
    distances = [compare_layers(maps)[0] for maps in before]
    distance = sum(distances) / len(distances)
    matched, heads = match_heads(distance)
    by_head = same_head(distance)
    return [
        {
            "layer": n + 1,
            "producer": producer + 1,
            "distance": by_head[producer, n].item(),
            "matched_distance": matched[producer, n].item(),
            "heads": heads[producer, n].tolist(),
        }
        for n, (_, producer) in enumerate(layers_of(converted.model))
        if producer != n
    ]


def _maps_of(trained: Trained, data_dir: Path, num_utts: int) -> Iterator[torch.Tensor]:
    """Yield the model's attention maps (layer, head, time, time) of each utterance."""
    model = build_model(trained.config, device="cpu")
    model.load_state_dict(trained.state, strict=False)
    analysed, rate = prepare_model(model, trained.config)
    for utterance in DataDir(data_dir, num_utts, rate):
        yield analysed.record(torch.from_numpy(utterance.speech), utterance.id).maps


def permute_heads(
    state: dict[str, torch.Tensor], attention: str, heads: Sequence[int]
) -> None:
    """Change the order of a consumer's heads.

    With maps of its own in that order, too, it would compute what it did.

    Args:
        state: State dict, changed in place.
        attention: Name of the attention module in it.
        heads: Head that comes to each place (H,).
    """
    for name, axis in (("v.weight", 0), ("v.bias", 0), ("out.weight", 1)):
        key = f"{attention}.linear_{name}"
        by_head = state[key].unflatten(axis, (len(heads), -1))
        state[key] = torch.cat([by_head.select(axis, head) for head in heads], axis)
