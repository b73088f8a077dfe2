# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Tables and picture of a comparison, of published ones and of edge cases."""

import copy
import io
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.text import Annotation, Text
from rich.console import Console

from espnet_reuse.comparison.figure import draw, spread_apart
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
def long_names(published):
    """A comparison of nine models and four sets, with long names."""
    models = published["models"]
    long_name = "reuse3_of_a_model_with_a_name_longer_than_a_line_has_room"
    models[long_name] = models["reuse3"]
    for model in models.values():
        scores = model["scores"]
        model["scores"] = scores | {f"{n}_with_a_long_name": scores[n] for n in scores}
    return published


@pytest.fixture(params=["published", "equal", "close", "long_names"])
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
    lines = [line.split("  ") for line in printed(published).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    row = ["reuse2", "1,287,416", "55.32", "1.11", "2.69", "1.23", "1539"]
    assert row in cells
    assert ["reuse2", "15.8 ± 0.7", "-0.8", "-2.7 to +0.9", "7.0 ± 0.5"] in cells
    assert ["test_a (1,084 words)"] in cells


@pytest.mark.parametrize("path", RESULTS.rglob("RESULTS.md"), ids=str)
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


def test_the_picture_can_be_read(comparison):
    figure = draw(comparison)
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 8
    tradeoff = figure.subfigs[0].axes[0]
    names = [t for t in tradeoff.texts if isinstance(t, Annotation)]
    assert len(names) == len(comparison["models"])
    # names in a slope stand clear of each other if their beginnings do
    starts = sorted(name.xyann[0] for name in names)
    assert all(b - a > 0.03 for a, b in itertools.pairwise(starts))
    markers = [line.get_marker() for line in tradeoff.lines]
    markers = [marker for marker in markers if marker != "None"]
    assert len(set(markers)) == len(markers) == len(names)
    low, high = tradeoff.get_ylim()
    assert all(low < y < high for line in tradeoff.lines for y in line.get_ydata())
    assert all(tick >= 0 for tick in tradeoff.get_yticks() if low <= tick)
    # numbers stand beside the axis, and so do bars and seeds for each model
    for axes in figure.subfigs[1].axes:
        left = axes.get_window_extent().x0
        for label in axes.get_yticklabels():
            assert label.get_window_extent().x1 < left
        assert len(axes.patches) == len(axes.lines) == len(names)


def test_a_vertical_bar_is_the_interval_of_the_difference(published):
    (axes,) = draw(published).subfigs[0].axes
    models = published["models"]
    rate = models["baseline"]["scores"]["test_a"]["wer"]["error_rate"]
    low, high = models["reuse4"]["scores"]["test_a"]["wer"]["interval"]
    time = 1000 * models["reuse4"]["rtf"]
    bars = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert [(time, rate + low), (time, rate + high)] in bars


def test_a_name_stands_above_its_point_where_there_is_room(published):
    (axes,) = draw(published).subfigs[0].axes
    to_axes = axes.transData + axes.transAxes.inverted()
    names = {name.get_text(): name for name in axes.texts}
    for name in (names["baseline"], names["layers11"], names["reuse12"]):
        assert name.xyann[0] == pytest.approx(to_axes.transform(name.xy)[0])


@pytest.mark.parametrize(
    "positions, expected",
    [
        ([0.2, 0.6], [0.2, 0.6]),
        ([0.5, 0.5, 0.55], [0.5, 0.6, 0.7]),
        ([0.9, 0.95, 1.0], [0.8, 0.9, 1.0]),
    ],
)
def test_labels_are_moved_apart(positions, expected):
    assert spread_apart(positions, 0.1) == pytest.approx(expected)
