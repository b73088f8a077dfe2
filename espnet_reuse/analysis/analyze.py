# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Analysis of a model on a set of utterances, one at a time."""

import collections
import functools
import math
from itertools import product
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
import tqdm
import yaml
from humanfriendly.text import pluralize

from espnet_reuse.analysis import grouping, metrics, similarity
from espnet_reuse.analysis.alignments import Alignments, Unaligned
from espnet_reuse.analysis.cache import Cache
from espnet_reuse.analysis.dataset import DataDir
from espnet_reuse.analysis.maps import AnalysedModel
from espnet_reuse.analysis.phonemes import SILENCE, group_phonemes
from espnet_reuse.analysis.probe import probe
from espnet_reuse.analysis.utterance import PROBE_FRAMES, RADII, measure

MAX_PROBE_FRAMES = 10_000
EXAMPLE_SECONDS = 3.0
DEFINITIONS = Path(__file__).with_name("definitions.yaml")


class Totals:
    """Sums over utterances, from which all results are computed.

    Memory does not grow with the number of utterances, but for the frames of the
    probe, which are at most 10,000.
    """

    MEANS = ("cad", "curve", "entropy", "normalised_entropy", "js_distance", "cosine")

    def __init__(self, num_utts: int):
        self.max_probe_frames = max(1, min(PROBE_FRAMES, MAX_PROBE_FRAMES // num_utts))
        self.utterances = self.frames = self.aligned = 0
        self.seconds = 0.0
        self.speakers = set()
        self.skipped = collections.defaultdict(list)
        self.sums = collections.defaultdict(float)
        self.phoneme_sums = collections.defaultdict(float)
        self.phoneme_frames = collections.Counter()
        self.probe_states, self.probe_labels, self.probe_speakers = [], [], []

    def add(self, measures: Dict[str, np.ndarray], seconds: float, speaker) -> None:
        """Add one utterance's measures."""
        self.utterances += 1
        self.frames += int(measures["frames"])
        self.seconds += seconds
        self.speakers.add(speaker)
        for name in self.MEANS:
            self.sums[name] += measures[name].astype(np.float64)
        if "phonemes" not in measures:
            return
        self.aligned += 1
        symbols = measures["phonemes"].tolist()
        frames = measures["phoneme_frames"].tolist()
        self.phoneme_frames.update(dict(zip(symbols, frames, strict=True)))
        for (p, symbol), (q, other) in product(enumerate(symbols), repeat=2):
            self.phoneme_sums[symbol, other] += measures["phoneme_sums"][..., p, q]
        labels = measures["probe_labels"][: self.max_probe_frames]
        self.probe_states.append(measures["probe_states"][: self.max_probe_frames])
        self.probe_labels += [symbols[label] for label in labels]
        self.probe_speakers += [speaker] * len(labels)

    def mean(self, name: str) -> torch.Tensor:
        """Return the mean over utterances."""
        return torch.from_numpy(self.sums[name] / self.utterances)


def summarise_phonemes(totals: Totals) -> Optional[Dict]:
    """Return the phoneme attention relationship, None without alignments."""
    if not totals.phoneme_frames:
        return None
    groups = group_phonemes(totals.phoneme_frames)
    phonemes = [symbol for _, symbols in groups for symbol in symbols]
    shape = totals.sums["cad"].shape
    sums = torch.zeros(*shape, len(phonemes), len(phonemes), dtype=torch.float64)
    for (p, symbol), (q, other) in product(enumerate(phonemes), repeat=2):
        sums[..., p, q] = torch.as_tensor(totals.phoneme_sums[symbol, other])
    counts = torch.tensor([totals.phoneme_frames[symbol] for symbol in phonemes])
    mass_by_head, lift_by_head = metrics.phoneme_attention(sums, counts)
    mass, lift = metrics.phoneme_attention(sums.mean(1), counts)
    silence = [n for n, symbol in enumerate(phonemes) if symbol == SILENCE]
    return {
        "phonemes": phonemes,
        "groups": groups,
        "frames": counts.tolist(),
        "mass": mass,
        "lift": lift,
        "mass_by_head": mass_by_head,
        "lift_by_head": lift_by_head,
        "same_phoneme_lift": metrics.same_phoneme_lift(sums, counts, silence),
    }


def summarise_probe(totals: Totals) -> Optional[Dict]:
    """Return the accuracy of the probe at each layer, or why there is none.

    None without alignments.
    """
    if not totals.aligned:
        return None
    if None in totals.speakers:
        return {"skipped": "the data directory has no utt2spk"}
    states = np.concatenate(totals.probe_states).astype(np.float32)
    labels, speakers = np.array(totals.probe_labels), np.array(totals.probe_speakers)
    result = probe(states, labels, speakers)
    places = ["input", *map(str, range(1, states.shape[1]))]
    return result if "skipped" in result else {"places": places, **result}


def summarise_similarity(totals: Totals) -> Dict:
    """Return distances and cosines between layers, of the same and of matched heads."""
    distance, cosine = totals.mean("js_distance"), totals.mean("cosine")
    _, heads = similarity.match_heads(distance)
    # heads (L, L, H): head h of one layer with head heads[..., h] of the other
    return {
        name: {
            "by_head": compared.diagonal(dim1=-2, dim2=-1),
            "same_head": similarity.same_head(compared),
            "matched": compared.gather(-1, heads.unsqueeze(-1)).squeeze(-1).mean(-1),
        }
        for name, compared in (("js_distance", distance), ("cosine", cosine))
    } | {"matched_heads": heads.tolist()}


def suggest(
    distance: torch.Tensor,
    flops: Tuple[int, int],
    producers: Sequence[int],
    max_distance: Optional[float],
) -> List[Dict]:
    """Suggest groups, and compare them with uniform ones of as many producers.

    Args:
        distance: Distance between the maps of two layers (layer, layer).
        flops: Those of the encoder, and what a consumer saves of them.
        producers: Wanted numbers of producers.
        max_distance: Bound on a consumer's distance from its producer, or None.
    """
    num_layers = len(distance)
    encoder, saved = flops

    def describe(sizes):
        return {
            "reuse_group_size": sizes,
            "cost": grouping.cost_of(distance, sizes),
            "speed_up": encoder / (encoder - (num_layers - len(sizes)) * saved),
        }

    wanted = {
        pluralize(count, "producer"): grouping.suggest_groups(distance, count)
        for count in producers
    }
    if max_distance is not None:
        within = grouping.suggest_groups_within(distance, max_distance)
        wanted[f"distance up to {max_distance:g}"] = within
    return [
        {
            "wanted": bound,
            "suggested": describe(sizes),
            "uniform": describe(grouping.uniform_groups(num_layers, len(sizes))),
        }
        for bound, sizes in wanted.items()
    ]


def analyze(
    analysed: AnalysedModel,
    dataset: DataDir,
    find_phones: Optional[Alignments],
    cache: Cache,
    producers: Sequence[int],
    max_distance: Optional[float],
) -> Tuple[Dict, Dict]:
    """Analyse a model on the utterances of a data directory.

    Args:
        analysed: The model.
        dataset: The utterances.
        find_phones: Source of alignments, or None.
        cache: Keeps the measures of each utterance.
        producers: Numbers of producers to suggest groups for.
        max_distance: Bound to suggest groups for, or None.

    Returns:
        The analysis, as in analysis.json but for `run`; and an utterance with its maps
        for the report.

    Raises:
        UserError: An utterance cannot be read or encoded.
    """
    frame_times = analysed.measure_frame_times(dataset.rate)
    totals = Totals(len(dataset))
    # an utterance with phones if there is one, long enough to show something
    shown = None
    for utterance in tqdm.tqdm(dataset, desc="Analysing", unit="utt"):
        utt_id, speech, text, speaker = utterance
        phones = None
        if find_phones:
            try:
                phones = find_phones(utt_id, speech, dataset.rate, text)
            except Unaligned as reason:
                totals.skipped[str(reason)].append(utt_id)
        compute = functools.partial(measure, analysed, utterance, phones, frame_times)
        measures = cache.get((utt_id, phones), speech, compute)
        seconds = len(speech) / dataset.rate
        totals.add(measures, seconds, speaker)
        fitness = phones is not None, seconds > EXAMPLE_SECONDS
        if shown is None or fitness > shown[0]:
            shown = fitness, utterance, phones
    _, utterance, phones = shown
    maps = analysed.record(torch.from_numpy(utterance.speech), utterance.id).maps
    similarities = to_json(summarise_similarity(totals))
    matched = torch.tensor(similarities["js_distance"]["matched"])
    mean_length = round(totals.seconds / totals.utterances * dataset.rate)
    flops = analysed.count_flops(torch.zeros(mean_length))
    group_sizes = analysed.group_sizes
    analysis = {
        "model": {
            "encoder": type(analysed.model.encoder).__name__,
            "num_layers": maps.size(0),
            "num_heads": maps.size(1),
            "reuse_group_size": group_sizes if max(group_sizes) > 1 else None,
            "frame_shift_ms": 1000 * frame_times.shift,
            "first_frame_ms": 1000 * frame_times.first,
        },
        "data": {
            "data_dir": str(dataset.path),
            "alignments": find_phones.name if find_phones else "none",
            "utterances": totals.utterances,
            "seconds": totals.seconds,
            "frames": totals.frames,
            "speakers": len(totals.speakers - {None}),
            "aligned": totals.aligned,
            "skipped": dict(totals.skipped),
        },
        "definitions": yaml.safe_load(DEFINITIONS.read_text(encoding="utf-8")),
        "diagonality": {
            "cad": totals.mean("cad"),
            "radii": RADII.tolist(),
            "curve": totals.mean("curve"),
        },
        "entropy": {
            "nats": totals.mean("entropy"),
            "normalised": totals.mean("normalised_entropy"),
        },
        "phoneme_attention": summarise_phonemes(totals),
        "probe": summarise_probe(totals),
        "similarity": similarities,
        "suggestions": suggest(matched, flops, producers, max_distance),
    }
    return to_json(analysis), {
        "utterance": utterance.id,
        "text": utterance.text,
        "frame_times": frame_times.of(maps.size(-1)).numpy(),
        "phones": [tuple(phone) for phone in phones or []],
        "maps": maps.numpy(),
    }


def to_json(x):
    """Return tensors as lists of floats with five digits; None where undefined."""
    if isinstance(x, dict):
        return {name: to_json(value) for name, value in x.items()}
    if not isinstance(x, torch.Tensor):
        return x
    values = x.flatten().tolist()
    rounded = [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
    return np.array(rounded, object).reshape(x.shape).tolist()
