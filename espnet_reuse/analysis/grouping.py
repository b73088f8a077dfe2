# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Which consecutive layers may share a map: groups of the least total distance."""

from typing import List, Sequence

import torch

from espnet_reuse.asr.layers.attention_map_reuse import resolve_group_sizes
from espnet_reuse.errors import UserError


def cost_of(distance: torch.Tensor, sizes: Sequence[int]) -> float:
    """Return the sum over consumers of their own map's distance from their producer's.

    Given distances between the layers' maps (L, L), and the layers of each group.
    """
    cost, first = 0.0, 0
    for size in sizes:
        cost += distance[first, first + 1 : first + size].sum().item()
        first += size
    return cost


def suggest_groups(distance: torch.Tensor, producers: int) -> List[int]:
    """Return the sizes of `producers` groups with the least cost.

    By dynamic programming, exactly. Of equal partitions, the one whose last group is
    the largest, then the one before it, and so on.

    Args:
        distance: Distances between the layers' maps (L, L).
        producers: Number of groups, from 1 to L.

    Raises:
        UserError: There are not so many layers.
    """
    if not 1 <= producers <= len(distance):
        raise UserError(
            f"{len(distance)} layers cannot have {producers} producers; use 1 to "
            f"{len(distance)}"
        )
    return _best_partitions(distance)[producers - 1][1]


def suggest_groups_within(distance: torch.Tensor, max_distance: float) -> List[int]:
    """Return the sizes of the fewest groups without a consumer far from its producer.

    Of those, the partition with the least cost.

    Args:
        distance: Distances between the layers' maps (L, L).
        max_distance: The largest distance of a consumer from its producer.

    Raises:
        UserError: The bound is not positive.
    """
    # NaN compares as false, and would allow everything
    if not max_distance > 0:
        raise UserError(f"the largest distance {max_distance} must be positive")
    allowed = distance.masked_fill(distance > max_distance, torch.inf)
    return next(sizes for cost, sizes in _best_partitions(allowed) if cost < torch.inf)


def uniform_groups(num_layers: int, producers: int) -> List[int]:
    """Return groups of equal size, as an integer `reuse_group_size` makes them.

    Where no integer makes so many groups, they are as even as can be, the larger first.
    """
    sizes = resolve_group_sizes(-(-num_layers // producers), num_layers)
    if len(sizes) == producers:
        return sizes
    size, rest = divmod(num_layers, producers)
    return [size + 1] * rest + [size] * (producers - rest)


def _best_partitions(distance):
    """Return cost and sizes of the best partition into n groups, for n from 1 to L."""
    distance = distance.double()
    num_layers = len(distance)
    best = {0: (0.0, [])}  # of the first `end` layers, for every `end`
    partitions = []
    for n in range(1, num_layers + 1):
        best = {
            end: min(
                (
                    (
                        cost + distance[first, first + 1 : end].sum().item(),
                        [*sizes, end - first],
                    )
                    for first, (cost, sizes) in best.items()
                    if first < end
                ),
                key=lambda partition: partition[0],
            )
            for end in range(n, num_layers + 1)
        }
        partitions.append(best[num_layers])
    return partitions
