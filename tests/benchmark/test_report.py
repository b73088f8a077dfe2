# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What the report derives and says."""

import math
from pathlib import Path

import pytest

from espnet_reuse.benchmark import report
from espnet_reuse.benchmark.breakdown import CATEGORIES
from espnet_reuse.benchmark.peers import FRONTEND, NAIVE, OWN, SAME
from espnet_reuse.benchmark.report import summarise

SPREAD = ("", ", lower", ", upper")
ESPNET, SDPA, LIMIT, OURS = "ESPnet", "ESPnet use_sdpa", "limit", "ours, no reuse"
GROUPS = "reuse, groups of 4"


RESULTS = Path(__file__).resolve().parents[2] / "results"
PARTS = dict.fromkeys(("total", *CATEGORIES), 0.0)


def rows(seconds=1, ours=(4, 4, 4, 4), eager=(10, 10, 10, 10), breakdown=None):
    """Measurements of four encoders at one length."""
    n = len(ours)
    times = {ESPNET: eager, SDPA: [8] * n, OURS: ours, LIMIT: [2] * n}
    memory = {ESPNET: eager and 0.8 * eager[0], OURS: 2.0}
    return [
        {
            "seconds": seconds,
            "output_frames": 24,
            "encoder": name,
            "status": "measured" if ms else "out of memory",
            "parameters": 1000,
            "layers": 2,
            "group_size": 1 if name == OURS else None,
            "peak_memory_mb": memory.get(name, 1.0),
            "times_ms": ms and list(ms),
            "products_ms": [1] * 4 if name == OURS else None,
            "breakdown_ms": breakdown if name == ESPNET else None,
        }
        for name, ms in times.items()
    ]


def ours_of(**arguments):
    return summarise(rows(**arguments)).set_index("encoder").loc[OURS]


def test_ratios_shares_and_floor():
    ours = ours_of()
    assert [ours[f"vs {ESPNET}{end}"] for end in SPREAD] == [2.5, 2.5, 2.5]
    assert ours["attention_time_removed"] == 0.75
    assert ours["floor_ms"] == 3 and ours["vs floor"] == 0.75
    assert ours["memory_to_eager"] == 0.25


def test_the_spread_is_that_of_the_rounds_ratios():
    # twice as slow in every second round, for both: the ratio does not spread
    ours = ours_of(ours=(4, 8, 4, 8), eager=(10, 20, 10, 20))
    assert [ours[f"vs {ESPNET}{end}"] for end in SPREAD] == [2.5, 2.5, 2.5]
    assert (ours["lower_ms"], ours["upper_ms"]) == (4, 8)


def test_without_the_baseline_there_is_nothing_to_compare_with():
    known = ours_of(eager=None).notna()
    assert not known[
        [f"vs {ESPNET}", "attention_time_removed", "memory_to_eager"]
    ].any()
    assert known[f"vs {SDPA}"] and known["vs floor"]


def cells_of(markdown):
    """The cells of the lines of Markdown tables."""
    lines = (line for line in markdown.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def benchmark(measurements, encoder="conformer"):
    settings = {"mode": "infer", "device": "cpu", "batch": 1, "encoder": encoder}
    return {
        "finished": True,
        "run": {"cpu": "this one"},
        "settings": settings | {"config": "one", "encoder_conf": {"a": 1}},
        "measurements": measurements,
    }


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ((4, 4, 4, 4), []),
        ((9, 9, 8, 7), []),  # now faster, now slower
        ((9, 9, 9, 9), [f"1 s: {OURS} is 0.89 times as fast as {SDPA}"]),
    ],
    ids=["faster", "within the spread", "slower"],
)
def test_slower_beyond_the_spread_is_said_plainly(ours, found):
    measurements = rows(ours=ours)
    assert report.find_slower(summarise(measurements)) == found
    text = report.format_markdown(benchmark(measurements))
    assert ("**Slower than ESPnet's" in text) == bool(found)
    assert ("No encoder of ours was slower" in text) != bool(found)
    assert all(f"- {place}" in text for place in found)


def in_forms(ours, seconds=5):
    """Measurements in forms: by form, ours and ESPnet's milliseconds of each round."""
    both = {form: rows(seconds, *ms) for form, ms in ours.items()}
    return [row | {"form": form} for form, listed in both.items() for row in listed]


def test_a_form_is_compared_with_the_same_form_and_with_espnets_eager_one():
    forms = {"eager": ([4] * 4, [10] * 4), "compiled": ([3] * 4, [6] * 4)}
    table = summarise(in_forms(forms)).set_index(["form", "encoder"])
    compiled, eager = (table.loc[form, OURS] for form in ("compiled", "eager"))
    assert [compiled[f"vs {ESPNET}{end}"] for end in SPREAD] == [2, 2, 2]
    assert compiled["vs eager"] == pytest.approx(10 / 3)
    assert eager[f"vs {ESPNET}"] == eager["vs eager"] == 2.5
    assert table.loc["compiled", ESPNET]["vs eager"] == pytest.approx(10 / 6)
    text = report.format_markdown(benchmark(in_forms(forms)))
    assert text.count("|3.33 (3.33 to 3.33)") + text.count("| 3.33 (3.33 to 3.33)") == 1
    assert "## 5 s: forward, compiled, batch 1" in text


@pytest.mark.parametrize(
    ("seconds", "compiled", "found"),
    [(5, 5, 1), (5, 4, 0), (1, 5, 0)],
    ids=["slower", "as fast", "short"],
)
def test_compiled_from_five_seconds_on_must_be_as_fast_as_eager(
    seconds, compiled, found
):
    forms = {"eager": ([4] * 4, [10] * 4), "compiled": ([compiled] * 4, [10] * 4)}
    slower = report.find_slower(summarise(in_forms(forms, seconds)))
    said = f"5 s: {OURS}, compiled, is 0.80 times as fast as its eager form"
    assert slower == [said] * found


def test_memory_and_kernels_that_were_not_measured_are_blank():
    forms = {form: ([4] * 4, [10] * 4) for form in ("eager", "captured")}
    measurements = in_forms(forms)
    for row in measurements:
        if row["form"] == "captured":
            row |= {"peak_memory_mb": None, "kernels_ms": 2.0}
    (row,) = (
        cells
        for cells in cells_of(report.format_markdown(benchmark(measurements)))
        if cells[0] == OURS and cells[-1] == "2.00"
    )
    assert row[-5:] == ["", "", "2.50 (2.50 to 2.50)", "2.0", "2.00"]


def test_a_ratio_lies_between_its_quartiles_where_that_of_medians_does_not():
    ours = ours_of(ours=(1, 1, 3, 3, 3), eager=(2, 2, 2, 6, 6))  # medians: 3 and 2
    assert [ours[f"vs {ESPNET}{end}"] for end in SPREAD] == [2, 2, 2]


def test_the_gain_of_the_method_is_told_from_that_of_our_operations():
    measurements = rows(5)
    for name, size, ms in ((GROUPS, 4, 2), (f"{GROUPS}{NAIVE}", None, 5)):
        row = {"encoder": name, "group_size": size, "times_ms": [ms] * 4}
        measurements.append(measurements[2] | row)
    text = report.format_markdown(benchmark(measurements))
    table = cells_of(text.partition("## Method and operations")[2])
    ratio = "{0} ({0} to {0})".format
    gains = [ratio(x) for x in ("2.00", "2.50", "2.50", "5.00")]
    assert table[2] == ["5 s", "eager", GROUPS, *gains]


def test_growth_is_the_exponent_over_length():
    measurements = []
    for s in (1, 2, 8):
        parts = PARTS | {"total": 3.0 * s**2, "scores": 7.0 * s}
        measurements += rows(s, breakdown=parts)
    (growth,) = report.fit_growth(summarise(measurements)).to_dict("records")
    assert growth["encoder"] == ESPNET
    assert growth["total"] == pytest.approx(2)
    assert growth["scores"] == pytest.approx(1)
    assert math.isnan(growth["softmax"])
    assert growth["peak memory"] == pytest.approx(0)


def test_encoders_stand_side_by_side_each_against_its_own_parent():
    parents = {"conformer": 10, "transformer": 6}
    text = report.format_encoders(
        [
            benchmark([r for s in (5, 15) for r in rows(s, eager=[ms] * 4)], name)
            for name, ms in parents.items()
        ]
    )
    cells = [[c.strip() for c in line.split("|")] for line in text.splitlines()]
    ratio = "{0} ({0} to {0})".format
    expected = {
        "conformer": [ratio("2.50"), ratio("2.00"), "", "0.75", "0.75", ratio("5.00")],
        "transformer": [
            ratio("1.50"),
            ratio("2.00"),
            "",
            "0.50",
            "0.75",
            ratio("3.00"),
        ],
    }
    memory = {"conformer": "0.25", "transformer": "0.42"}
    assert [row[1:-1] for row in cells if row[1:2] in (["5 s"], ["15 s"])] == [
        [f"{seconds} s", name, "1", *expected[name], memory[name]]
        for seconds in (5, 15)
        for name in parents
    ]
    assert "- cpu: `this one`" in text
    assert "encoder_conf" not in text and "- encoder:" not in text


def test_encoders_side_by_side_have_a_row_for_each_form_with_its_own_limit():
    forms = {"eager": ([4] * 4, [10] * 4), "compiled": ([3] * 4, [6] * 4)}
    table = cells_of(report.format_encoders([benchmark(in_forms(forms))]))[2:]
    assert [(row[1], row[3][:4], row[-2][:4]) for row in table] == [
        ("conformer", "2.50", "5.00"),
        ("conformer, compiled", "2.00", "3.00"),
    ]


def decoded(model, search, batch, encoder_ms, search_ms):
    """Two rounds and a disturbed one, over four seconds of audio."""
    parts = {"frontend": 4, "encoder": encoder_ms, "search": search_ms}
    parts["total"] = sum(parts.values())
    row = {"model": model, "search": search, "batch": batch}
    times = ({f"{part}_ms": ms * n for part, ms in parts.items()} for n in (1, 1, 9))
    return [row | ms for ms in times]


def decoding(*, beams=True):
    """The rounds of two models, with a beam in batches of 1, and best path."""
    rows = []
    for search, slow, quick in (("beam 5", 164, 80), ("best path", 4, 4)):
        rows += decoded("slow", search, 1, 32, slow)
        rows += decoded("quick", search, 1, 16, quick)
    return report.summarise_decoding(rows if beams else rows[6:], 2, 4.0)


def test_times_to_the_text_are_for_a_second_and_compared_with_model_and_beam():
    rows = {(row["model"], row["search"]): row for row in decoding()}
    assert rows["quick", "best path"] == {
        **{"model": "quick", "search": "best path", "batch": 1},
        **{"utterances": 2, "audio_seconds": 4.0},
        **{"frontend_ms": 1.0, "encoder_ms": 4.0, "search_ms": 1.0, "total_ms": 6.0},
        "vs first": pytest.approx(40 / 24),
        "vs beam": pytest.approx(100 / 24),
        "kept": pytest.approx(2 / 3),  # of a gain of 2 in the encoder
        "not_encoder": pytest.approx(2 / 6),
    }
    assert rows["slow", "best path"]["vs beam"] == 5
    assert rows["slow", "best path"]["kept"] is None
    assert rows["quick", "beam 5"]["vs first"] == 2
    assert rows["quick", "beam 5"]["not_encoder"] is None
    assert {row["vs beam"] for row in decoding(beams=False)} == {None}


@pytest.mark.parametrize("beams", [True, False])
def test_the_table_to_the_text_has_a_column_for_the_beam_where_there_is_one(beams):
    written = benchmark(decoding(beams=beams))
    written["settings"]["task"] = "transcribe"
    text = report.format_markdown(written)
    assert ("times as fast as beam 5, batch 1" in text) == beams
    cells = cells_of(text)
    start = ["best path", "1", "quick", "1.00", "4.00", "1.00", "6.00", "1.67"]
    expected = [*start, *["4.17"] * beams, "0.67", "0.33"]
    assert expected in cells and "nan" not in text
    assert "## 2 utterances, 4.0 s of audio" in text


FORMS = {  # milliseconds by runtime, of each encoder
    "pytorch": {OWN: 120, SAME: 90, GROUPS: 60, LIMIT: 40, FRONTEND: 4},
    "onnxruntime": {OWN: 60, SAME: 40, GROUPS: 25, LIMIT: 20, FRONTEND: 1},
}


def in_runtimes(forms=FORMS, seconds=(5,)):
    """Two rounds and a disturbed one, of all forms."""
    return [
        {"seconds": s, "runtime": runtime, "dtype": "float32", "encoder": encoder}
        | {"times_ms": [ms, ms, 2 * ms]}
        for s in seconds
        for runtime, encoders in forms.items()
        for encoder, ms in encoders.items()
    ]


def test_runtimes_are_compared_with_their_own_rows_and_with_espnets_in_pytorch():
    rows = report.summarise_runtimes(in_runtimes(seconds=(5, 15)))
    (row,) = (
        r
        for r in rows
        if (r["seconds"], r["runtime"], r["encoder"]) == (15, "onnxruntime", GROUPS)
    )
    assert (row["median_ms"], row["lower_ms"], row["upper_ms"]) == (25, 25, 37.5)
    assert [row[f"vs same{end}"] for end in SPREAD] == [1.6, 1.6, 1.6]
    assert [row[f"vs PyTorch{end}"] for end in SPREAD] == [4.8, 4.8, 4.8]
    assert (row["removed"], row["removed by reuse"]) == (35 / 40, 15 / 20)
    assert row["frontend"] == 0.04


def test_without_pytorch_the_runtimes_are_compared_with_each_other_alone():
    rows = report.summarise_runtimes(in_runtimes({"openvino": FORMS["onnxruntime"]}))
    assert {row["vs PyTorch"] for row in rows} == {None}
    assert [row["removed"] for row in rows] == [0, 0.5, 0.875, 1, None]


def test_the_table_of_runtimes_shows_the_numbers():
    written = benchmark(report.summarise_runtimes(in_runtimes()))
    written["settings"] |= {"runtime": [*FORMS], "group_size": [4]}
    written["settings"]["encoder_conf"] = {"num_blocks": 12}
    text = report.format_markdown(written)
    cells = cells_of(text)
    same, pytorch = "1.60 (1.60 to 1.60)", "4.80 (4.80 to 4.80)"
    start = ["onnxruntime, float32", GROUPS, "25.0 (25.0 to 37.5)"]
    assert [*start, same, pytorch, "0.88", "0.75", "4.0%"] in cells
    start = ["onnxruntime, float32", FRONTEND, "1.0 (1.0 to 1.5)"]
    assert [*start, *[""] * 5] in cells
    assert "groups of 4 still compute 3 of 12\nmaps" in text
    assert "cannot remove more than 0.75 of" in text


@pytest.mark.parametrize("path", [*RESULTS.rglob("benchmark.json")], ids=str)
def test_a_published_table_is_made_again_from_its_json(path, tmp_path, monkeypatch):
    copied = tmp_path / "benchmark.json"
    copied.write_text(path.read_text())
    monkeypatch.setattr("sys.argv", ["report", str(copied)])
    report.main()
    published = path.with_name("benchmark.md").read_text()
    assert (tmp_path / "benchmark.md").read_text() == published
