# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Analysis of a model on a set of utterances, one at a time."""

import collections
import functools
import math
import zlib
from itertools import product
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
import torch
import tqdm
import yaml

from espnet_reuse.analysis import metrics, similarity
from espnet_reuse.analysis.alignments import Alignments, Phone, Unaligned, phones_at
from espnet_reuse.analysis.cache import Cache
from espnet_reuse.analysis.dataset import DataDir, Utterance
from espnet_reuse.analysis.grouping import suggest
from espnet_reuse.analysis.maps import AnalysedModel, FrameTimes
from espnet_reuse.analysis.phonemes import SILENCE, group_phonemes

RADII = np.linspace(0, 1, 101)
# Neighbouring frames are nearly the same: a sample of them is enough for the probe.
PROBE_FRAMES = 50  # of an utterance
MAX_PROBE_FRAMES = 10_000  # of all
EXAMPLE_SECONDS = 3.0
DEFINITIONS = Path(__file__).with_name("definitions.yaml")


def measure(
    analysed: AnalysedModel,
    utterance: Utterance,
    phones: Optional[Sequence[Phone]],
    frame_times: FrameTimes,
) -> Dict[str, np.ndarray]:
    """Compute everything that is kept of an utterance.

    Its id draws the frames for the probe. Its phones are None without an alignment.

    Returns:
        Arrays by name, of L layers, H heads, R radii and T frames.

        - `frames`: T
        - `cad`, `entropy` (nats), `normalised_entropy` (L, H); `curve` (L, H, R)
        - `js_distance`, `cosine` (L, L, H, H)
        - with phones, of which frames have P different ones: `phonemes` (P,),
          `phoneme_frames` (P,), `phoneme_sums` (L, H, P, P), `probe_states`
          (n, L + 1, size) float16, `probe_labels` (n,) which index `phonemes`, of
          frames that are not silence
    """
    maps, states = analysed.record(torch.from_numpy(utterance.speech), utterance.id)
    num_frames = maps.size(-1)
    distance, cosine = similarity.compare_layers(maps)
    entropy = metrics.entropy(maps)
    measures = {
        "frames": torch.tensor(num_frames),
        "cad": metrics.cad(maps),
        "curve": metrics.cumulative_diagonality(maps, torch.tensor(RADII)),
        "entropy": entropy,
        "normalised_entropy": entropy / np.log(max(num_frames, 2)),
        "js_distance": distance,
        "cosine": cosine,
    }
    measures = {name: value.numpy() for name, value in measures.items()}
    if phones is None:
        return measures
    spoken = phones_at(frame_times.of(num_frames).numpy(), phones)
    labels, symbols = pd.factorize(spoken, sort=True)  # -1 for None
    rng = np.random.default_rng(zlib.crc32(utterance.id.encode()))
    candidates = np.flatnonzero((labels >= 0) & (spoken != SILENCE))
    chosen = rng.permutation(candidates)[:PROBE_FRAMES]
    sums = metrics.phoneme_attention_sums(maps, torch.from_numpy(labels), len(symbols))
    return measures | {
        "phonemes": symbols.astype(str),
        "phoneme_frames": np.bincount(labels[labels >= 0], minlength=len(symbols)),
        "phoneme_sums": sums.numpy(),
        "probe_states": states[:, chosen].transpose(0, 1).half().numpy(),
        "probe_labels": labels[chosen],
    }


class Totals:
    """Sums over utterances, from which all results are computed.

    Memory does not grow with the utterances, but for the probe's 10,000 frames at most.
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
    """Return the probe's accuracy by layer, or why none; None without alignments."""
    if not totals.aligned:
        return None
    if None in totals.speakers:
        return {"skipped": "the data directory has no utt2spk"}
    states = np.concatenate(totals.probe_states).astype(np.float32)
    labels, speakers = np.array(totals.probe_labels), np.array(totals.probe_speakers)
    result = metrics.probe(states, labels, speakers)
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


def analyze(
    analysed: AnalysedModel,
    dataset: DataDir,
    find_phones: Optional[Alignments],
    cache: Cache,
    producers: Sequence[int],
    max_distance: Optional[float],
) -> Tuple[Dict, Dict]:
    """Analyse a model on the utterances of a data directory.

    The cache keeps the measures of each utterance; `producers` and `max_distance` are
    those of `suggest`.

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
