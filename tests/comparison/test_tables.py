# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Tables and picture of a comparison, of published ones and of edge cases."""

import copy
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.text import Annotation, Text
from rich.console import Console

from espnet_reuse.comparison.figure import draw
from espnet_reuse.comparison.tables import UNSAID, format_results, print_comparison

RESULTS = Path(__file__).resolve().parents[2] / "results"
PUBLISHED = RESULTS / "picovoice_coffee/decode_asr/comparison.json"


@pytest.fixture
def published():
    """A comparison of eight models with five seeds each."""
    return UNSAID | json.loads(PUBLISHED.read_text())


@pytest.fixture
def equal(published):
    """A comparison of three models with one seed that recognise alike."""
    names = ("baseline", "reuse2", "reuse3")
    models = {name: copy.deepcopy(published["models"][name]) for name in names}
    for name, model in models.items():
        model |= {"seeds": 1, "runs": model["runs"][:1]}
        for rate, scores in zip((0.0, 100.0), model["scores"].values(), strict=True):
            interval = None if name == "baseline" else (0.0, 0.0)
            scores["wer"] |= {"error_rate": rate, "error_rates": [rate]}
            scores["wer"] |= {"interval": interval, "interval_by_speaker": interval}
    return published | {"models": models}


@pytest.fixture
def close(equal):
    """A comparison of three models whose error rates are 0.0, 0.75 and 1.5 %."""
    for n, model in enumerate(equal["models"].values()):
        for scores in model["scores"].values():
            scores["wer"] |= {"error_rate": 0.75 * n, "error_rates": [0.75 * n]}
            if n:
                scores["wer"]["interval"] = (0.75 * n - 0.1, 0.75 * n + 0.1)
    return equal


@pytest.fixture
def timed(equal):
    """A comparison of today; the last model is decoded by best path alone."""
    for n, model in enumerate(equal["models"].values(), 1):
        parts = {"frontend_ms": 1.0, "encoder_ms": 8.0 / n, "search_ms": 1.0}
        best_path = parts | {"total_ms": sum(parts.values())}
        beam = best_path | {"search_ms": 31.0, "total_ms": best_path["total_ms"] + 30}
        is_ctc = n == 3
        model["search"] = "best path" if is_ctc else "beam 5"
        model["to_text"] = {} if is_ctc else {"beam 5": beam}
        model["to_text"]["best path"] = best_path
        for scores in model["scores"].values():
            scores["best_path_wer"] = {"error_rates": [n + 0.1, n + 0.3]}
    return equal | {"text_rounds": 5}


@pytest.fixture
def long_names(published):
    """A comparison of nine models and four sets, with long names."""
    models = published["models"]
    long_name = "reuse3_of_a_model_with_a_name_longer_than_a_line_has_room"
    models[long_name] = models["reuse3"]
    for model in models.values():
        scores = model["scores"]
        model["scores"] = scores | {f"{n}_with_a_long_name": scores[n] for n in scores}
    return published


@pytest.fixture(params=["published", "equal", "close", "timed", "long_names"])
def comparison(request):
    return request.getfixturevalue(request.param)


def printed(comparison, **options):
    file = io.StringIO()
    print_comparison(comparison, Console(file=file, **options))
    return file.getvalue()


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_tables_fit_a_terminal_and_are_plain_text_elsewhere(comparison, columns):
    text = printed(comparison, width=columns)
    assert "\x1b" not in text
    assert "…" not in text  # nothing is cut off
    assert max(map(len, text.splitlines())) <= min(columns, 100)


def test_a_line_of_the_terminals_table_has_the_published_numbers(published):
    lines = printed(published, width=100).splitlines()
    lines = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    row = ["reuse2", "1,287,416", "55.32", "1.11", "2.69", "1.23", "1539"]
    assert row in cells
    row = ["reuse2", "15.8 ± 0.7", "-0.8", "-2.7 to +0.9", "models gone", "7.0 ± 0.5"]
    assert row in cells
    assert ["test_a (1,084 words)"] in cells


@pytest.mark.parametrize("path", [*RESULTS.rglob("RESULTS.md")], ids=str)
def test_results_md_is_made_again_from_what_is_published(path, tmp_path):
    json_file = shutil.copy(path.with_name("comparison.json"), tmp_path)
    module = "espnet_reuse.comparison.tables"
    subprocess.run([sys.executable, "-m", module, json_file], check=True)
    assert (tmp_path / "RESULTS.md").read_text() == path.read_text()
    assert (tmp_path / "comparison.png").stat().st_size > 0


def test_times_as_fast_is_the_baselines_time_by_the_models(published):
    table = format_results(published).split("\n\n")[1]
    rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()]
    columns = dict(zip(rows[0], zip(*rows[2:], strict=True), strict=True))
    assert rows[0].count("times as fast") == 2
    # training 61.14 and 47.94 s/epoch, encoder RTF 0.00331 and 0.00245
    (reuse4,) = (row for row in rows if row[1] == "reuse4")
    assert [reuse4[3], reuse4[6], reuse4[10]] == ["0.92", "1.28", "1.35"]
    assert columns["of baseline's"][0] == ""


def test_the_time_to_text_is_compared_with_the_same_search_of_the_first_model(timed):
    text = format_results(timed)
    table = next(t for t in text.split("\n\n") if t.startswith("| model    | decoding"))
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in table.split("\n")
    ]
    assert rows[2:] == [
        ["baseline", "beam 5", "40.00", "", "2 %", "20 %", "78 %"],
        ["baseline", "best path", "10.00", "", "10 %", "80 %", "10 %"],
        ["reuse2", "beam 5", "36.00", "1.11", "3 %", "11 %", "86 %"],
        ["reuse2", "best path", "6.00", "1.67", "17 %", "67 %", "17 %"],
        ["reuse3", "best path", "4.67", "2.14", "21 %", "57 %", "21 %"],
    ]
    assert text.index(table) < text.index("Medians; rounds: 5.") < text.index("| set")
    cells = [line.split() for line in printed(timed).splitlines()]
    assert ["reuse2", "best", "path", *rows[5][2:4]] in [line[:5] for line in cells]


def test_the_error_rate_of_best_path_stands_beside_that_of_a_search(timed):
    header = "| by speaker   | WER, best path   | CER "
    text = format_results(timed)
    assert header in text and "| 2.2 ± 0.1        |" in text
    assert "models gone" not in text.lower() and "best path" in printed(timed)
    last = next(reversed(timed["models"].values()))
    text = format_results(timed | {"models": {"ctc": last}})
    assert "WER, best path" not in text and "| best path  | 4.67" in text
    for scores in last["scores"].values():  # a model without a CTC head
        scores["best_path_wer"] = None
    assert header in format_results(timed)


def test_a_comparison_older_than_best_path_says_that_its_models_are_gone(published):
    text = format_results(published)
    assert text.count("| models gone      |") == 16 and "Models gone: the" in text


def test_a_commit_has_as_many_characters_as_tell_it(published):
    published["run"]["commit"] = "0123456789abcdef0123456789abcdef01234567-dirty"
    assert "- commit: `0123456789ab-dirty`\n" in format_results(published)


def test_a_partial_corpus_is_said_everywhere(published):
    published["partial"] = ["test_a: 3 of 97 recordings are missing"]
    for text in (printed(published), format_results(published)):
        assert "test_a: 3 of 97 recordings are missing" in text


def test_the_tables_wait_for_no_large_library():
    code = f"""
import json, sys
from rich.console import Console
from espnet_reuse.comparison.tables import print_comparison
comparison = json.load(open({str(PUBLISHED)!r}))
print_comparison(comparison | {{"rtf_device": "one CPU thread"}}, Console())
assert not {{"torch", "espnet2", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def names_of(axes):
    return [text for text in axes.texts if isinstance(text, Annotation)]


def boxes_of(axes):
    """Where the names stand, without the lines to their points."""
    axes.figure.draw_without_rendering()
    return [Text.get_window_extent(name) for name in names_of(axes)]


def points_of(axes):
    return [line for line in axes.lines if line.get_marker() != "None"]


def test_the_picture_can_be_read(comparison):
    figure = draw(comparison)
    assert figure.get_figwidth() == 7
    assert figure.get_facecolor() == (1, 1, 1, 1)  # dark text on any page
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 8
    for axes in figure.axes:
        inside, names, points = axes.bbox, names_of(axes), points_of(axes)
        assert len(names) == len(points) == len(comparison["models"])
        boxes = boxes_of(axes)
        for n, box in enumerate(boxes):
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1
            assert inside.y0 <= box.y0 and box.y1 <= inside.y1
            assert not box.count_overlaps(boxes[:n])
            assert not box.count_overlaps([p.get_window_extent() for p in points])
        low, high = axes.get_ylim()
        assert all(low < y < high for line in axes.lines for y in line.get_ydata())
        assert all(tick >= 0 for tick in axes.get_yticks() if low <= tick)
    # either of colour and marker is enough, and the same in both panels
    markers = [[p.get_marker() for p in points_of(axes)] for axes in figure.axes]
    assert markers[0] == markers[1] and len(set(markers[0])) == len(markers[0])


def test_the_picture_relates_error_rate_to_both_times(published):
    models = published["models"]
    rates = [m["scores"]["test_a"]["wer"]["error_rate"] for m in models.values()]
    encoder = [1000 * model["rtf"] for model in models.values()]
    training = [model["seconds_per_epoch"] for model in models.values()]
    for axes, times in zip(draw(published).axes, (encoder, training), strict=True):
        points = [tuple(line.get_xydata()[0]) for line in points_of(axes)]
        assert points == list(zip(times, rates, strict=True))
        assert [name.get_text() for name in names_of(axes)] == list(models)
        (faster,) = axes.child_axes
        scale = faster._functions[0]  # from the time below to the number above
        assert scale(times[0]) == 1 and scale(times[0] / 2) == 2


def test_a_vertical_line_is_the_interval_of_the_difference(published):
    axes, _ = draw(published).axes
    models = published["models"]
    rate = models["baseline"]["scores"]["test_a"]["wer"]["error_rate"]
    low, high = models["reuse4"]["scores"]["test_a"]["wer"]["interval"]
    time = 1000 * models["reuse4"]["rtf"]
    lines = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert [(time, rate + low), (time, rate + high)] in lines


@pytest.mark.parametrize("count", [1, 12])
def test_the_picture_has_room_for_one_model_and_for_twelve(published, count):
    models = list(published["models"].items())
    models = {f"model{n}": models[n % 8][1] for n in range(count)}
    for axes in draw(published | {"models": models}).axes:
        boxes = boxes_of(axes)
        overlaps = [box.count_overlaps(boxes[:n]) for n, box in enumerate(boxes)]
        assert overlaps == [0] * count
