# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Picture of a comparison: error rate against encoder time and training time."""

from itertools import cycle, product

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from espnet_reuse.figure_style import MARKERS, SMALL, THEMES, WIDTH, Theme, themed

MAX_NAME = 25  # characters
MARKER = 7  # pt
# Where a name may stand: its distance from the point in pt, and its side.
PLACES = list(
    product(
        (7, 11, 17, 24, 32, 42, 54, 68, 84, 102),
        [(1, 0), (-1, 0), (0.8, 0.6), (0.8, -0.6), (-0.8, 0.6), (-0.8, -0.6)]
        + [(0, 1), (0, -1)],
    )
)
ON_LINE, ON_TEXT = 12, 1000  # pt: as much farther a name goes than to stand on one


def shortened(name: str) -> str:
    """Cut a long name, so that it does not fill the picture."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def encoder_time(model: dict) -> tuple[float, float, float]:
    """Return milliseconds per second of audio: the median and the range of rounds."""
    return tuple(1000 * model[key] for key in ("rtf", "rtf_min", "rtf_max"))


def training_time(model: dict) -> tuple[float, float, float]:
    """Return seconds per epoch: the mean and the range of seeds."""
    seconds = [run["seconds_per_epoch"] for run in model["runs"]]
    return model["seconds_per_epoch"], min(seconds), max(seconds)


TIMES = {
    encoder_time: "encoder time (ms per second of audio)",
    training_time: "training time (s per epoch)",
}


def largest_set(models: dict) -> str:
    """Return the name of the set with most words."""
    scores = next(iter(models.values()))["scores"]
    return max(scores, key=lambda name: scores[name]["wer"]["tokens"])


def plot_errors(axes: Axes, models: dict, set_: str, time_of, theme: Theme) -> None:
    """Draw a point for each model, error rate against time, with intervals.

    `time_of` is one of `TIMES`. Names come later, by `name_points`, when the axes have
    their place.
    """
    first, baseline = next(iter(models.items()))
    rate_of_first = baseline["scores"][set_]["wer"]["error_rate"]
    axes.axhline(rate_of_first, color=theme.muted, linestyle="--", linewidth=0.8)
    for (name, model), marker in zip(models.items(), cycle(MARKERS)):
        wer = model["scores"][set_]["wer"]
        color = theme.reuse if model["reuse_group_size"] else theme.other
        color = theme.text if name == first else color
        time, *time_range = time_of(model)
        # models are compared on the same utterances: an interval of the rate itself
        # would be wider, and hide a difference
        limits = [rate_of_first + limit for limit in wer["interval"] or ()]
        thin = {"color": color, "linewidth": 1, "zorder": 2}
        axes.plot([time] * len(limits), limits, alpha=0.6, **thin)
        axes.plot(time_range, [wer["error_rate"]] * 2, alpha=0.35, **thin)
        point = {"color": color, "markeredgecolor": theme.page, "zorder": 3}
        axes.plot(time, wer["error_rate"], marker, label=name, ms=MARKER, **point)
    axes.margins(0.12, 0.08)
    low, high = axes.get_ylim()
    if high - low < 1:  # equal models
        low, high = rate_of_first - 1, rate_of_first + 1
    low = max(low, -0.04 * high)  # a rate of 0 has room for its marker, and no more
    axes.set_ylim(low, high)
    axes.spines.left.set_bounds(max(low, 0), high)
    axes.set_xlabel(TIMES[time_of])
    least, base = min(time_of(model)[1] for model in models.values()), time_of(baseline)
    axes.set_xlim(left=max(axes.get_xlim()[0], least / 2))  # no time is 0

    def times_as_fast(time):
        return base[0] / np.maximum(time, least / 1000)

    faster = axes.secondary_xaxis("top", functions=(times_as_fast,) * 2)
    faster.set_xlabel(f"times as fast as {shortened(first)}")


def name_points(axes: Axes, theme: Theme) -> None:
    """Write each point's name beside it, where it hides least."""
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    points = [line for line in drawn if line.get_marker() != "None"]
    lines = [line.get_window_extent() for line in drawn if line not in points]
    taken = [line.get_window_extent() for line in points]
    inside, pt = axes.get_window_extent(), axes.figure.dpi / 72
    for line, around in zip(points, list(taken), strict=True):
        name, color = shortened(line.get_label()), line.get_color()
        text = axes.annotate(
            name,
            line.get_xydata()[0],
            (0, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 0},
            **{"color": color, "size": SMALL, "ha": "center", "va": "center"},
            path_effects=[withStroke(linewidth=2.5, foreground=theme.page)],
        )
        text.set_in_layout(False)
        size = np.array(Text.get_window_extent(text).size)
        center = np.mean(around.get_points(), axis=0)

        def box_at(place, size=size, center=center):
            distance, side = place
            middle = np.multiply(side, distance * pt)
            middle += np.sign(side) * size / 2 * (1, side[0] == 0)
            return Bbox([center + middle - size / 2, center + middle + size / 2])

        def cost(place, box_at=box_at):
            box = box_at(place)
            clear = inside.x0 < box.x0 and box.x1 < inside.x1
            clear &= inside.y0 < box.y0 and box.y1 < inside.y1
            hidden = box.count_overlaps(taken) + (not clear)
            return place[0] + ON_TEXT * hidden + ON_LINE * box.count_overlaps(lines)

        taken.append(box_at(min(PLACES, key=cost)))
        text.set_position((np.mean(taken[-1].get_points(), axis=0) - center) / pt)


def draw(comparison: dict) -> Figure:
    """Draw error rates against both times from a comparison.json.

    The error rate is that of the set with most words; the others are in RESULTS.md.
    """
    models, theme = comparison["models"], THEMES["light"]
    first, set_ = next(iter(models)), largest_set(models)
    with matplotlib.rc_context(themed(theme)):
        size = {"figsize": (WIDTH, 4), "dpi": 150, "layout": "constrained"}
        figure = Figure(**size, facecolor=theme.page)
        panels = figure.subplots(1, len(TIMES), sharey=True)
        for axes, time_of in zip(panels, TIMES, strict=True):
            plot_errors(axes, models, set_, time_of, theme)
        panels[0].set_ylabel(f"WER on {shortened(set_)} (%)")
        figure.supxlabel(
            "Vertical lines: 95 % confidence interval of the difference to "
            f"{shortened(first)} (dashed line).\n"
            "Horizontal lines: range over rounds of timing (left), over seeds (right).",
            color=theme.muted,
            size=SMALL,
        )
        figure.draw_without_rendering()  # gives the axes their places
        for axes in panels:
            name_points(axes, theme)
    return figure
