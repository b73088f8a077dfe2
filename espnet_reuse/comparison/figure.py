# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Picture of a comparison: error rate against encoder time, and what is behind it."""

from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = "os^Dv<>phX*P"
MAX_NAME = 25  # characters


def styles_of(models: dict) -> dict[str, dict]:
    """Give each model a colour and a marker: either of them is enough to tell it."""
    colors = matplotlib.color_sequences["petroff10" if len(models) <= 10 else "tab20"]
    return {
        name: {"color": color, "marker": marker, "markeredgecolor": "black"}
        for name, color, marker in zip(models, cycle(colors), cycle(MARKERS))
    }


def shortened(name: str) -> str:
    """Cut a long name, so that the picture keeps its place for the panels."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def spread_apart(positions: list[float], gap: float) -> np.ndarray:
    """Move sorted positions within 0 and 1 apart, to at least a gap."""
    steps = gap * np.arange(len(positions))
    moved = np.maximum.accumulate(np.maximum(positions, 0) - steps)
    return np.minimum(moved, 1 - steps[-1]) + steps


def plot_tradeoff(axes: Axes, models: dict, set_: str) -> None:
    """Draw a point for each model, error rate against encoder time, with intervals."""
    first, baseline = next(iter(models.items()))
    baseline_rate = baseline["scores"][set_]["wer"]["error_rate"]
    axes.axhline(baseline_rate, color="0.6", linestyle="--", linewidth=1, zorder=0)
    styles, tops = styles_of(models), {}
    for name, model in models.items():
        wer, color = model["scores"][set_]["wer"], styles[name]["color"]
        time, *time_range = (1000 * model[key] for key in ("rtf", "rtf_min", "rtf_max"))
        rate = wer["error_rate"]
        # models are compared on the same utterances: an interval of the rate itself
        # would be wider, and hide a difference
        limits = [baseline_rate + limit for limit in wer["interval"] or ()]
        axes.plot([time] * len(limits), limits, color=color, linewidth=1.5)
        axes.plot(time_range, [rate] * 2, color=color, linewidth=1.5)
        axes.plot(time, rate, markersize=9, zorder=3, **styles[name])
        tops[name] = time, max([rate, *limits])
    axes.margins(0.1)
    if len({top for _, top in tops.values()}) == 1:  # equal models
        axes.set_ylim(baseline_rate - 1, baseline_rate + 1)
    low, high = axes.get_ylim()  # a rate of 0 has room for its marker, and no more
    axes.set_ylim(max(low, -0.03 * high), high)
    axes.spines.left.set_bounds(max(low, 0), high)
    # the names stand above the panel, where they hide nothing
    order = sorted(tops, key=lambda name: (tops[name][0], name))
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    places = spread_apart([to_axes(tops[name])[0] for name in order], gap=0.035)
    for name, place in zip(order, places, strict=True):
        line = {"arrowstyle": "-", "linestyle": ":", "relpos": (0, 0), "shrinkA": 0}
        axes.annotate(
            shortened(name),
            xy=tops[name],
            xytext=(place, 1.02),
            textcoords="axes fraction",
            rotation=40,
            arrowprops=line | {"color": styles[name]["color"]},
        )
    axes.set_xlabel(
        "encoder time (ms per second of audio); horizontal: range over the rounds\n"
        f"vertical: 95 % interval of the difference to {first} (dashed line)"
    )
    axes.set_ylabel(f"WER on {set_} (%)")


def plot_models(
    axes: Axes, models: dict, runs: list[tuple[float, list]], fmt: str
) -> None:
    """Draw a line for each model: the mean as bar and number, the seeds as dots."""
    colors = [style["color"] for style in styles_of(models).values()]
    (means, seeds), rows = zip(*runs, strict=True), range(len(runs))
    axes.barh(rows, means, color=colors, height=0.7)
    for row, values in zip(rows, seeds, strict=True):
        axes.plot(values, [row] * len(values), "k.", markersize=5, clip_on=False)
    axes.set_xlim(0, 1.1 * max(map(max, seeds)) or 1)
    axes.set_yticks(rows, [format(mean, fmt) for mean in means])
    axes.tick_params(axis="y", length=0, pad=8)
    axes.invert_yaxis()


def draw(comparison: dict) -> Figure:
    """Draw error rates, encoder time and training time from a comparison.json."""
    models = comparison["models"]
    scores = next(iter(models.values()))["scores"]
    words = {name: counts["wer"]["tokens"] for name, counts in scores.items()}
    rows, columns = 1.3 + 0.3 * len(models), len(scores) + 1
    options = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    with matplotlib.rc_context(options):
        figure = Figure(figsize=(3.2 * columns, 5 + rows), dpi=150)
        figure.set_layout_engine("constrained")
        upper, lower = figure.subfigures(2, height_ratios=[5, rows])
        plot_tradeoff(upper.subplots(), models, max(words, key=words.get))
        *panels, training = lower.subplots(1, columns)
        for axes, set_ in zip(panels, scores, strict=True):
            wers = [model["scores"][set_]["wer"] for model in models.values()]
            rates = [(wer["error_rate"], wer["error_rates"]) for wer in wers]
            plot_models(axes, models, rates, ".1f")
            axes.set_xlabel(f"{set_}: WER (%)\n{words[set_]:,} words")
        key = "seconds_per_epoch"
        seconds = [(m[key], [run[key] for run in m["runs"]]) for m in models.values()]
        plot_models(training, models, seconds, ".2f")
        training.set_xlabel("training (s/epoch)\nbars: means, dots: seeds")
        labels = [label.get_text() for label in panels[0].get_yticklabels()]
        lines = zip(map(shortened, models), labels, strict=True)
        panels[0].set_yticks(range(len(models)), map("   ".join, lines))
    return figure
