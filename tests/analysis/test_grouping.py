# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Suggested groups against every partition there is."""

import itertools

import pytest
import torch

from espnet_reuse.analysis import grouping, similarity


def partitions(num_layers, producers):
    """Every way to cut the layers into consecutive groups."""
    for cuts in itertools.combinations(range(1, num_layers), producers - 1):
        ends = [0, *cuts, num_layers]
        yield [high - low for low, high in itertools.pairwise(ends)]


def random_distances(num_layers, seed):
    generator = torch.Generator().manual_seed(seed)
    distance = torch.rand(num_layers, num_layers, generator=generator)
    return (distance + distance.T).fill_diagonal_(0) / 2


def consumer_distances(distance, sizes):
    first = 0
    for size in sizes:
        yield from distance[first, first + 1 : first + size].tolist()
        first += size


def suggest_within(distance, max_distance):
    (suggestion,) = grouping.suggest(distance, (2 * len(distance), 1), [], max_distance)
    return suggestion["suggested"]["reuse_group_size"]


@pytest.mark.parametrize("num_layers", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_no_partition_is_cheaper_than_the_suggested(num_layers, seed):
    distance = random_distances(num_layers, seed)
    for producers in range(1, num_layers + 1):
        suggested = grouping.best_groups(distance)[producers - 1]
        costs = {
            tuple(sizes): sum(consumer_distances(distance, sizes))
            for sizes in partitions(num_layers, producers)
        }
        least = pytest.approx(min(costs.values()), abs=1e-6)
        assert costs[tuple(suggested)] == least
        assert grouping.cost_of(distance, suggested) == least


@pytest.mark.parametrize("max_distance", [0.05, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_smaller_number_of_groups_keeps_the_bound(max_distance, seed):
    distance = random_distances(7, seed)
    suggested = suggest_within(distance, max_distance)
    allowed = [
        sizes
        for producers in range(1, 8)
        for sizes in partitions(7, producers)
        if max(consumer_distances(distance, sizes), default=0) <= max_distance
    ]
    fewest = min(map(len, allowed))
    assert len(suggested) == fewest and suggested in allowed
    assert grouping.cost_of(distance, suggested) == pytest.approx(
        min(sum(consumer_distances(distance, s)) for s in allowed if len(s) == fewest),
        abs=1e-6,
    )


def test_planted_groups_of_equal_maps_are_found():
    sizes = [1, 3, 2, 2]
    generator = torch.Generator().manual_seed(0)
    maps = (3 * torch.randn(4, 2, 9, 9, generator=generator)).softmax(-1)
    maps = maps.repeat_interleave(torch.tensor(sizes), 0)
    distance, _ = similarity.match_heads(similarity.compare_layers(maps)[0])
    assert grouping.best_groups(distance)[3] == sizes
    assert grouping.cost_of(distance, sizes) == 0
    assert suggest_within(distance, 0.001) == sizes


@pytest.mark.parametrize(
    "num_layers, producers, sizes",
    [
        (12, 4, [3, 3, 3, 3]),
        (12, 1, [12]),
        (8, 3, [3, 3, 2]),  # as reuse_group_size: 3
        (12, 5, [3, 3, 2, 2, 2]),  # no integer makes five
    ],
)
def test_uniform_groups_are_those_of_an_integer_where_it_makes_as_many(
    num_layers, producers, sizes
):
    assert grouping.uniform_groups(num_layers, producers) == sizes


def test_of_equal_partitions_the_last_group_is_the_largest():
    alike = torch.zeros(6, 6)
    assert grouping.best_groups(alike)[1] == [1, 5]
    assert grouping.best_groups(alike)[2] == [1, 1, 4]
