# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Which consecutive layers may share a map: groups of the least total distance."""

import functools
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from humanfriendly.text import pluralize

from espnet_reuse.asr.layers.attention_map_reuse import resolve_group_sizes


def cost_of(distance: torch.Tensor, sizes: Sequence[int]) -> float:
    """Return the sum over consumers of their own map's distance from their producer's.

    Given distances between the layers' maps (L, L), and the layers of each group.
    """
    cost, first = 0.0, 0
    for size in sizes:
        cost += distance[first, first + 1 : first + size].sum().item()
        first += size
    return cost


def best_groups(distance: torch.Tensor) -> List[List[int]]:
    """Return the sizes of n groups with the least cost, for each n from 1 to L.

    By dynamic programming, exactly, from distances between the layers' maps (L, L). Of
    equal partitions, the one whose last group is the largest, then the one before it,
    and so on.
    """
    cost = functools.partial(cost_of, distance.double())
    num_layers = len(distance)
    best = {0: []}  # n groups of the first `end` layers, for every `end`
    suggested = []
    for n in range(1, num_layers + 1):
        best = {
            end: min(
                ([*sizes, end - first] for first, sizes in best.items() if first < end),
                key=cost,
            )
            for end in range(n, num_layers + 1)
        }
        suggested.append(best[num_layers])
    return suggested


def uniform_groups(num_layers: int, producers: int) -> List[int]:
    """Return groups of equal size, as an integer `reuse_group_size` makes them.

    Where no integer makes so many groups, they are as even as can be, the larger first.
    """
    sizes = resolve_group_sizes(-(-num_layers // producers), num_layers)
    if len(sizes) == producers:
        return sizes
    size, rest = divmod(num_layers, producers)
    return [size + 1] * rest + [size] * (producers - rest)


def suggest(
    distance: torch.Tensor,
    flops: Tuple[int, int],
    producers: Sequence[int],
    max_distance: Optional[float],
) -> List[Dict]:
    """Suggest groups, and compare them with uniform ones of as many producers.

    Args:
        distance: Distance between the maps of two layers (L, L).
        flops: Those of the encoder, and what a consumer saves of them.
        producers: Wanted numbers of producers, from 1 to L.
        max_distance: Largest distance of a consumer from its producer, to suggest the
            fewest groups within it, or None.
    """
    num_layers = len(distance)
    encoder, saved = flops

    def describe(sizes):
        return {
            "reuse_group_size": sizes,
            "cost": cost_of(distance, sizes),
            "speed_up": encoder / (encoder - (num_layers - len(sizes)) * saved),
        }

    best = best_groups(distance)
    wanted = {pluralize(count, "producer"): best[count - 1] for count in producers}
    if max_distance is not None:
        allowed = distance.masked_fill(distance > max_distance, torch.inf)
        within = (s for s in best_groups(allowed) if cost_of(allowed, s) < torch.inf)
        wanted[f"distance up to {max_distance:g}"] = next(within)
    return [
        {
            "wanted": bound,
            "suggested": describe(sizes),
            "uniform": describe(uniform_groups(num_layers, len(sizes))),
        }
        for bound, sizes in wanted.items()
    ]
