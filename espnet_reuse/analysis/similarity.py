# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Similarity of the attention maps of two layers."""

import math
from typing import Tuple

import torch
from scipy.optimize import linear_sum_assignment
from torch.special import entr

MAX_ROWS = 128


def js_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean over frames of the Jensen-Shannon distance between rows.

    The square root of the divergence in base 2, as in SciPy: from 0 to 1. Equal rows
    give 0 exactly, nearly equal ones, in float32, up to 0.001 (the root magnifies
    rounding). Of maps (Ha, T, T) and (Hb, T, T), or of the same rows of both:
    distances (Ha, Hb).
    """
    distance = a.new_empty(len(a), len(b))
    entropy_a, entropy_b = entr(a).sum(-1), entr(b).sum(-1)
    for h, (head, entropy) in enumerate(zip(a, entropy_a, strict=True)):
        divergence = entr((head + b) / 2).sum(-1) - (entropy + entropy_b) / 2
        distance[h] = (divergence / math.log(2)).clamp(0, 1).sqrt().mean(-1)
    return distance


def cosine_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean over frames of the cosine between rows; shapes as above."""
    num_frames = a.size(-2)
    a, b = (torch.nn.functional.normalize(x, dim=-1).flatten(1) for x in (a, b))
    return a @ b.T / num_frames


def compare_layers(maps: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Compare every head of every layer with every other.

    Of one utterance's maps (L, H, T, T): Jensen-Shannon distances and cosines
    (L, L, H, H), for the head of the first layer and that of the second. Of a long
    utterance, `MAX_ROWS` frames are compared, evenly spread: a sample of the frames
    that the means are over, so that the time is not quadratic in its length.
    """
    num_layers, num_heads, num_frames = maps.shape[:3]
    count = min(num_frames, MAX_ROWS)
    maps = maps[:, :, torch.arange(count) * num_frames // count]
    distance, cosine = maps.new_empty(2, num_layers, num_layers, num_heads, num_heads)
    for i in range(num_layers):
        for j in range(i, num_layers):
            distance[i, j] = js_distance(maps[i], maps[j])
            cosine[i, j] = cosine_similarity(maps[i], maps[j])
            if i != j:
                distance[j, i], cosine[j, i] = distance[i, j].T, cosine[i, j].T
    return distance, cosine


def match_heads(distance: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Match the heads of each two layers so that their mean distance is least.

    Of distances (L, L, H, H): mean distance of the matched heads (L, L), and the heads
    of the second layer that match those of the first (L, L, H), int64.
    """
    heads = torch.empty(distance.shape[:3], dtype=torch.int64)
    for i, row in enumerate(distance):
        for j, pair in enumerate(row):
            heads[i, j] = torch.from_numpy(linear_sum_assignment(pair.numpy())[1])
    return distance.gather(-1, heads.unsqueeze(-1)).squeeze(-1).mean(-1), heads


def same_head(compared: torch.Tensor) -> torch.Tensor:
    """Return the mean (L, L) over heads of what (L, L, H, H) says of the same head."""
    return compared.diagonal(dim1=-2, dim2=-1).mean(-1)
