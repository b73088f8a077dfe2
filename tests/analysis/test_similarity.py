# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Distances between maps, and the matching of heads."""

import itertools

import pytest
import torch
from scipy.spatial.distance import cosine, jensenshannon

from espnet_reuse.analysis import similarity

T = 15


def random_maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, T, T, generator=generator)).softmax(-1)


def test_distances_and_cosines_are_scipys():
    a, b = random_maps(2), random_maps(3, seed=1)
    distance = similarity.js_distance(a, b)
    cosines = similarity.cosine_similarity(a, b)
    assert distance.shape == cosines.shape == (2, 3)
    for h, k in itertools.product(range(2), range(3)):
        rows = list(zip(a[h].double().numpy(), b[k].double().numpy(), strict=True))
        expected = sum(jensenshannon(p, q, base=2) for p, q in rows) / T
        assert distance[h, k].item() == pytest.approx(expected, abs=1e-4)
        expected = sum(1 - cosine(p, q) for p, q in rows) / T
        assert cosines[h, k].item() == pytest.approx(expected, abs=1e-5)


def test_equal_maps_are_at_no_distance_and_disjoint_ones_at_one():
    maps = random_maps(2)
    assert similarity.js_distance(maps, maps).diagonal().eq(0).all()
    first, second = torch.eye(T)[None], torch.eye(T).roll(1, 0)[None]
    assert similarity.js_distance(first, second).item() == pytest.approx(1)
    assert similarity.cosine_similarity(first, first).item() == pytest.approx(1)
    assert similarity.cosine_similarity(first, second).item() == 0


def test_nearly_equal_maps_are_at_next_to_no_distance():
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, T, T, generator=generator)
    noise = 1e-6 * torch.randn(2, T, T, generator=generator)
    near = similarity.js_distance(scores.softmax(-1), (scores + noise).softmax(-1))
    assert near.diagonal().lt(1e-3).all()


def test_layers_are_compared_pair_by_pair_both_ways_alike():
    maps = random_maps(3, 2)
    distance, cosines = similarity.compare_layers(maps)
    torch.testing.assert_close(distance, distance.permute(1, 0, 3, 2))
    for i, j in itertools.product(range(3), repeat=2):
        expected = similarity.js_distance(maps[i], maps[j])
        torch.testing.assert_close(distance[i, j], expected)
        expected = similarity.cosine_similarity(maps[i], maps[j])
        torch.testing.assert_close(cosines[i, j], expected)


def test_heads_in_another_order_are_matched():
    maps = random_maps(1, 4)[0]
    order = torch.tensor([2, 0, 3, 1])
    distance, _ = similarity.compare_layers(torch.stack([maps, maps[order]]))
    matched, heads = similarity.match_heads(distance)
    assert matched.eq(0).all()
    # head h of the first layer is where the order has h
    assert heads[0, 1].tolist() == order.argsort().tolist()
    assert heads[1, 0].tolist() == order.tolist()
    same = similarity.same_head(distance)
    apart = [distance[0, 1, h, h].item() for h in range(4)]
    assert same.shape == (2, 2) and same[0, 0] == 0
    assert same[0, 1].item() == pytest.approx(sum(apart) / 4) and min(apart) > 0.1


def test_a_long_utterance_is_compared_at_frames_spread_over_it():
    maps = torch.randn(2, 2, 300, 300, generator=torch.Generator().manual_seed(0))
    # sharper and sharper: the first frames are not like the last
    maps = (torch.linspace(0.5, 4, 300)[:, None] * maps).softmax(-1)
    distance, cosines = similarity.compare_layers(maps)
    exact = similarity.js_distance(maps[0], maps[1])
    torch.testing.assert_close(distance[0, 1], exact, atol=0.01, rtol=0)
    exact = similarity.cosine_similarity(maps[0], maps[1])
    torch.testing.assert_close(cosines[0, 1], exact, atol=0.01, rtol=0)
