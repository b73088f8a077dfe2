# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the report derives and says."""

import pytest

from espnet_reuse.benchmark.breakdown import CATEGORIES
from espnet_reuse.benchmark.report import (
    find_slower,
    fit_growth,
    format_encoders,
    format_markdown,
    summarise,
)

EAGER, SDPA, LIMIT, OURS = "ESPnet eager", "ESPnet use_sdpa", "limit", "ours, no reuse"


def row(times_ms, memory=1.0, group_size=None):
    return {
        "status": "measured" if times_ms else "out of memory",
        "parameters": 1000,
        "layers": 2,
        "group_size": group_size,
        "peak_memory_mb": memory,
        "times_ms": times_ms,
    }


def length(seconds=1, ours=(4, 4, 4, 4), eager=(10, 10, 10, 10), **breakdown):
    return summarise(
        {
            "seconds": seconds,
            "frames": 100,
            "output_frames": 24,
            "rounds": 4,
            "peers": {
                EAGER: row(eager and list(eager), eager and 0.8 * eager[0]),
                SDPA: row([8, 8, 8, 8]),
                OURS: row(list(ours), 2.0, group_size=1),
                LIMIT: row([2, 2, 2, 2]),
            },
            "products": {OURS: [1, 1, 1, 1]},
            "breakdown": breakdown,
        }
    )


def test_ratios_shares_and_floor():
    ours = length()["peers"][OURS]
    assert ours["speedup"][EAGER] == {"ratio": 2.5, "quartiles": [2.5, 2.5]}
    assert ours["attention_time_removed"] == 0.75
    assert ours["floor_ms"] == 3 and ours["to_floor"] == pytest.approx(4 / 3)
    assert ours["memory_to_eager"] == 0.25


def test_the_spread_is_that_of_the_rounds_ratios():
    # twice as slow in every second round, for both: the ratio does not spread
    measured = length(ours=(4, 8, 4, 8), eager=(10, 20, 10, 20))
    ours = measured["peers"][OURS]
    assert ours["speedup"][EAGER]["quartiles"] == [2.5, 2.5]
    assert ours["quartiles_ms"] == [4, 8]


def test_without_the_baseline_there_is_nothing_to_compare_with():
    peers = length(eager=None)["peers"]
    assert EAGER not in peers[OURS]["speedup"] and SDPA in peers[OURS]["speedup"]
    assert peers[OURS]["attention_time_removed"] is None
    assert peers[OURS]["memory_to_eager"] is None
    assert peers[OURS]["to_floor"] is not None


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ((4, 4, 4, 4), []),
        ((9, 9, 8, 7), []),  # now faster, now slower
        ((9, 9, 9, 9), [f"1 s: {OURS} than {SDPA} (0.89x)"]),
    ],
    ids=["faster", "within the spread", "slower"],
)
def test_slower_beyond_the_spread_is_said_plainly(ours, found):
    lengths = [length(ours=ours)]
    assert find_slower(lengths) == found
    text = format_markdown(
        {
            "finished": True,
            "run": {},
            "settings": {"mode": "infer", "device": "cpu", "batch": 1},
            "lengths": lengths,
            "growth": {},
        }
    )
    assert ("**Slower beyond the spread**" in text) == bool(found)
    assert ("Nowhere was an encoder of ours slower" in text) != bool(found)
    assert all(f"- {place}" in text for place in found)


def test_growth_is_the_exponent_over_length():
    def parts(seconds):
        return dict.fromkeys(CATEGORIES, 0.0) | {
            "total": 3.0 * seconds**2,
            "scores": 7.0 * seconds,
        }

    lengths = [length(s, **{EAGER: parts(s), OURS: {}}) for s in (1, 2, 8)]
    growth = fit_growth(lengths)
    assert growth[EAGER]["total"] == pytest.approx(2)
    assert growth[EAGER]["scores"] == pytest.approx(1)
    assert growth[EAGER]["softmax"] is None
    assert growth[EAGER]["peak memory"] == pytest.approx(0)
    assert growth[OURS]["total"] is None


def test_encoders_stand_side_by_side_each_against_its_own_parent():
    def benchmark(encoder, eager):
        settings = {"mode": "infer", "device": "cpu", "encoder": encoder}
        lengths = [length(s, eager=[eager] * 4) for s in (5, 15)]
        return {
            "finished": True,
            "run": {"cpu": "this one"},
            "settings": settings | {"config": "one", "encoder_conf": {"a": 1}},
            "lengths": lengths,
        }

    text = format_encoders([benchmark("conformer", 10), benchmark("transformer", 6)])
    sdpa = "2.00x (2.00-2.00)"
    conformer = f"|1|2.50x (2.50-2.50)|{sdpa}|0.75|1.33|5.00x (5.00-5.00)|0.25x|"
    transformer = f"|1|1.50x (1.50-1.50)|{sdpa}|0.50|1.33|3.00x (3.00-3.00)|0.42x|"
    assert [line for line in text.splitlines() if line[:3] in ("|5 ", "|15")] == [
        f"|5 s|conformer{conformer}",
        f"|5 s|transformer{transformer}",
        f"|15 s|conformer{conformer}",
        f"|15 s|transformer{transformer}",
    ]
    assert "- cpu: `this one`" in text
    assert "encoder_conf" not in text and "- encoder:" not in text
