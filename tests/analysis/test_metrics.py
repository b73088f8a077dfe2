# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Measures of maps whose answer is known, and against their formulas in plain loops."""

import itertools
import math

import pytest
import torch

from espnet_reuse.analysis import metrics

T = 12


def random_maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator).square().softmax(-1)


def banded(num_frames, width):
    """Attend evenly to the frames up to `width` away."""
    frames = torch.arange(num_frames)
    near = ((frames[:, None] - frames).abs() <= width).float()
    return near / near.sum(-1, keepdim=True)


def blocks(num_frames, size):
    """Attend evenly to the frames of the same block."""
    block = torch.arange(num_frames) // size
    same = (block[:, None] == block).float()
    return same / same.sum(-1, keepdim=True)


def naive_diagonality(attention_map, r):
    """D(r) as in its formula."""
    num_frames = len(attention_map)
    total = 0.0
    for i, j in itertools.product(range(num_frames), repeat=2):
        if abs(i - j) <= r * (num_frames - 1):
            total += attention_map[i, j].item()
    return total / num_frames


# ------------------------------ diagonality ------------------------------


def test_the_identity_is_as_diagonal_as_can_be():
    identity = torch.eye(T)
    assert metrics.cad(identity) == 1
    assert metrics.cumulative_diagonality(identity, torch.linspace(0, 1, 5)).eq(1).all()


def test_the_reversed_identity_of_two_frames_has_no_diagonality():
    assert metrics.cad(torch.eye(2).flip(0)) == 0


@pytest.mark.parametrize("num_frames", [2, 3, 12, 101])
def test_the_uniform_map_has_two_thirds_less_a_bit(num_frames):
    uniform = torch.full((num_frames, num_frames), 1 / num_frames)
    # the mean of |i - j| is (T² - 1) / 3T
    expected = 1 - (num_frames + 1) / (3 * num_frames)
    assert metrics.cad(uniform).item() == pytest.approx(expected, rel=1e-5)


def test_blocks_have_the_diagonality_of_a_uniform_map_of_their_size():
    size = 4
    # within a block the mean of |i - j| is (size² - 1) / 3 size
    expected = 1 - (size**2 - 1) / (3 * size) / (T - 1)
    assert metrics.cad(blocks(T, size)).item() == pytest.approx(expected, rel=1e-5)


def test_a_band_of_three_loses_its_neighbours_share():
    # inner frames have 2/3 at distance 1, the two at the ends 1/2
    expected = 1 - ((T - 2) * 2 / 3 + 2 * 1 / 2) / T / (T - 1)
    assert metrics.cad(banded(T, 1)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_frames", [2, 101, 875])
def test_no_step_of_the_curve_is_lost_to_rounding(num_frames, dtype):
    uniform = torch.full((num_frames, num_frames), 1 / num_frames)
    radii = torch.arange(num_frames, dtype=dtype) / (num_frames - 1)
    curve = metrics.cumulative_diagonality(uniform, radii)
    assert curve.equal(metrics.mass_by_distance(uniform).cumsum(-1))


@pytest.mark.parametrize("num_frames", [2, 7, 12])
def test_the_curve_is_that_of_the_formula(num_frames):
    attention_map = random_maps(num_frames, num_frames)
    # the steps themselves, where rounding could lose a distance
    radii = torch.arange(num_frames, dtype=torch.float64) / (num_frames - 1)
    actual = metrics.cumulative_diagonality(attention_map, radii)
    for k, value in enumerate(actual.tolist()):
        exact = naive_diagonality(attention_map, (k + 1e-9) / (num_frames - 1))
        assert value == pytest.approx(exact, abs=1e-5)


def test_cad_is_the_integral_of_the_curve():
    attention_map = random_maps(T, T)
    steps = torch.arange(T - 1) / (T - 1)
    integral = metrics.cumulative_diagonality(attention_map, steps).mean()
    assert metrics.cad(attention_map).item() == pytest.approx(integral.item(), rel=1e-5)


def test_one_frame_is_its_own_diagonal():
    one = torch.ones(1, 1)
    assert metrics.cad(one) == 1 and metrics.entropy(one) == 0
    assert metrics.cumulative_diagonality(one, torch.tensor([0.0, 1.0])).eq(1).all()


# ------------------------------ entropy ------------------------------


def test_entropy_is_the_logarithm_of_how_many_frames_are_attended_to():
    assert metrics.entropy(torch.eye(T)) == 0
    assert metrics.entropy(blocks(T, 4)).item() == pytest.approx(math.log(4), rel=1e-5)


# ------------------------------ phonemes ------------------------------


def naive_sums(attention_map, labels, num_phonemes):
    """PAR's sums as in their definition: three loops."""
    sums = torch.zeros(num_phonemes, num_phonemes)
    for i, p in enumerate(labels):
        first = last = i
        while first > 0 and labels[first - 1] == p:
            first -= 1
        while last < len(labels) - 1 and labels[last + 1] == p:
            last += 1
        for j, q in enumerate(labels):
            if p >= 0 and q >= 0 and not first <= j <= last:
                sums[p, q] += attention_map[i, j]
    return sums


def test_phoneme_attention_by_hand():
    labels = torch.tensor([0, 0, 1, 0])
    attention_map = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.4],
            [0.2, 0.2, 0.2, 0.4],
            [0.5, 0.1, 0.4, 0.0],
            [0.0, 0.6, 0.3, 0.1],
        ]
    )
    sums = metrics.phoneme_attention_sums(attention_map, labels, 3)
    # 0 to 0: 0.4 + 0.4 across the gap, and 0.6 back; 0 to 1: 0.3 + 0.2 + 0.3
    expected = torch.tensor([[1.4, 0.8, 0.0], [0.6, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(sums, expected)
    counts = torch.tensor([3, 1, 0])
    mass, lift = metrics.phoneme_attention(sums, counts)
    expected = torch.tensor([[1.4 / 3, 0.8 / 3], [0.6, 0]])
    torch.testing.assert_close(mass[:2, :2], expected)
    shares = torch.tensor([0.75, 0.25])
    torch.testing.assert_close(lift[:2, :2], expected / shares)
    assert mass[2].isnan().all() and lift[:, 2].isnan().all()
    # 1.4 of the 2.2 that leave phoneme 0, of which 3/4 of all frames are
    lift = metrics.same_phoneme_lift(sums, counts)
    assert lift.item() == pytest.approx(1.4 / (2.2 * 3 / 4 + 0.6 * 1 / 4))
    assert metrics.same_phoneme_lift(sums, counts, exclude=[1]).item() == 1


@pytest.mark.parametrize("seed", range(5))
def test_phoneme_attention_is_that_of_three_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    # runs of a few frames, with frames that have no label
    labels = torch.randint(-1, 3, (9,), generator=generator).repeat_interleave(2)
    attention_map = random_maps(18, 18, seed=seed)
    torch.testing.assert_close(
        metrics.phoneme_attention_sums(attention_map, labels, 4),
        naive_sums(attention_map, labels.tolist(), 4),
    )


def test_attention_at_random_has_the_lift_of_chance():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2000,), generator=generator)
    uniform = torch.full((2000, 2000), 1 / 2000)
    sums = metrics.phoneme_attention_sums(uniform, labels, 4)
    counts = labels.bincount()
    _, lift = metrics.phoneme_attention(sums, counts)
    # but for the run around the frame, which is short here
    torch.testing.assert_close(lift, torch.ones(4, 4), atol=0.01, rtol=0)
    assert metrics.same_phoneme_lift(sums, counts).item() == pytest.approx(1, abs=0.01)


def test_looking_near_and_at_random_there_is_no_phoneme_attention():
    """What stays in the run does not count against a head."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (1000,), generator=generator).repeat_interleave(2)
    uniform = torch.full((2000, 2000), 1 / 2000)
    maps = torch.stack([uniform, 0.9 * torch.eye(2000) + 0.1 * uniform])
    sums = metrics.phoneme_attention_sums(maps, labels, 4)
    lift = metrics.same_phoneme_lift(sums, labels.bincount())
    torch.testing.assert_close(lift, torch.ones(2), atol=0.01, rtol=0)


# ------------------------------ layers and heads ------------------------------


@pytest.mark.parametrize(
    "figure",
    [
        metrics.cad,
        metrics.entropy,
        metrics.mass_by_distance,
        lambda maps: metrics.cumulative_diagonality(maps, torch.linspace(0, 1, 4)),
        lambda maps: metrics.phoneme_attention_sums(maps, torch.arange(T) % 3, 3),
    ],
    ids=["cad", "entropy", "mass", "curve", "phonemes"],
)
def test_layers_and_heads_never_mix(figure):
    maps = random_maps(2, 3, T, T)
    together = figure(maps)
    for place in itertools.product(range(2), range(3)):
        torch.testing.assert_close(together[place], figure(maps[place]))
