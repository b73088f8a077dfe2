#!/usr/bin/env python3
# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Draws the documentation's figures from the published results, for both kinds of page.

Without results for a figure, it says so and leaves the figure as it is.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from group_shapes import draw_group_shapes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle

from espnet_reuse.benchmark.decoding import BEST_PATH
from espnet_reuse.benchmark.peers import LIMIT, SAME
from espnet_reuse.comparison.figure import (
    encoder_time,
    largest_set,
    name_points,
    plot_errors,
)
from espnet_reuse.figure_style import MARKERS, SMALL, THEMES, WIDTH, Theme, themed

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "results"
ESPNET = "ESPnet"
# Of the figure over length: by the benchmark's names of encoders, their names in the
# figure, colours and lines.
LINES = {
    "frames of 80 ms, groups of 4": ("frames of 80 ms, groups of 4", "reuse", "-"),
    "reuse, groups of 4": ("groups of 4", "reuse", "-"),
    "frames of 80 ms": ("frames of 80 ms", "other", "-"),
    "fewer layers": ("ESPnet, {layers} layers of 12", "third", "-"),
    "absolute positions, SDPA": ("absolute positions, SDPA", "fourth", "-"),
    "ESPnet use_sdpa": ("ESPnet, use_sdpa: true", "muted", "-"),
    "limit": ("limit: no attention at all", "text", "--"),
}
# Of the figure of a study: its models' names in the figure.
MODELS = {
    "baseline": "ESPnet",
    "reuse2": "groups of 2",
    "reuse3": "groups of 3",
    "reuse4": "groups of 4",
    "reuse12": "one group of 12",
    "reuse_suggested": "1, 1, 9 and 1",
    "reuse3_warm": "3, fine-tuned",
    "layers11": "no reuse, 11 layers",
}
# Of the figure of parts: the colour and the hatching of each.
PARTS = {
    "frontend": ("third", ""),
    "encoder": ("reuse", "//"),
    "search": ("other", ""),
}
# Of the figure of runtimes: names and colours, and lines of encoders.
RUNTIMES = {
    "pytorch": ("PyTorch", "other"),
    "onnxruntime": ("ONNX Runtime", "third"),
    "openvino": ("OpenVINO", "reuse"),
}
ENCODERS = {
    "reuse, groups of 4": ("groups of 4", "-"),
    SAME: ("ESPnet", ":"),
    LIMIT: ("limit: no attention at all", "--"),
}
VERSUS = {
    "vs PyTorch": "times as fast as ESPnet in PyTorch, float32",
    "vs same": "times as fast as ESPnet in the same runtime",
}


def read(path: str) -> dict:
    """Read a JSON file of results/."""
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))


def _box(axes, x, y, width, height, text, color, **style):
    """Draw a rounded box around its text, from its lower left corner."""
    shape = {"boxstyle": "round,pad=0,rounding_size=0.07", "linewidth": 1.2}
    style = shape | {"edgecolor": color, "facecolor": "none"} | style
    axes.add_patch(FancyBboxPatch((x, y), width, height, **style))
    middle = x + width / 2, y + height / 2
    axes.text(*middle, text, ha="center", va="center", color=color, size=9)


def _arrow(axes, start, end, color, path="arc3"):
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.2}
    style |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 9, "connectionstyle": path}
    axes.annotate("", end, start, arrowprops=style)


def _map(axes, x, y, size, width, color):
    """Draw an attention map: a grid that is stronger near a band of its diagonal."""
    cells = np.arange(6)
    weights = np.exp(-(((cells[:, None] - cells) / width) ** 2))
    step = size / len(cells)
    for (row, column), weight in np.ndenumerate(weights):
        corner = x + column * step, y + size - (row + 1) * step
        axes.add_patch(Rectangle(corner, step, step, color=color, alpha=weight, lw=0))
    frame = {"fill": False, "edgecolor": color, "linewidth": 1.2}
    axes.add_patch(Rectangle((x, y), size, size, **frame))


def draw_idea(theme: Theme) -> Figure:
    """Draw three layers of ESPnet, and a group of three that share a map."""
    figure = Figure(figsize=(WIDTH, 3.05))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, 3.05))
    axes.set_axis_off()
    height, gap, bottom, width = 0.62, 0.22, 0.42, 3.3
    for left, grouped in ((0.05, False), (3.65, True)):
        title = "Reuse: a group computes one map"
        if not grouped:
            title = "ESPnet: every layer computes its map"
        axes.text(left + width / 2, 2.87, title, ha="center", size=10, weight="bold")
        for layer in range(3):
            y = bottom + layer * (height + gap)
            computes = layer == 0 or not grouped
            _box(axes, left, y, width, height, "", theme.muted, linewidth=0.8)
            role = f"layer {layer + 1}"
            if grouped:
                role += "\nconsumer" if layer else "\nproducer"
            middle = y + height / 2
            axes.text(left + 0.08, middle, role, va="center", size=SMALL)
            if computes:
                _box(
                    axes, left + 0.75, y + 0.14, 0.98, 0.34, "softmax(QKᵀ)", theme.other
                )
                _arrow(axes, (left + 1.73, middle), (left + 1.9, middle), theme.other)
                map_width = 1.4 if grouped else (1.4, 1.1, 1.7)[layer]
                _map(axes, left + 1.9, y + 0.1, 0.42, map_width, theme.reuse)
            else:
                style = {"ha": "center", "va": "center", "color": theme.muted}
                axes.text(left + 1.3, middle, "no Q, no K, no map", size=SMALL, **style)
            start = left + (2.32 if computes else 2.11), middle
            _arrow(axes, start, (left + 2.5, middle), theme.reuse)
            _box(
                axes,
                left + 2.5,
                y + 0.14,
                0.7,
                0.34,
                f"map · V{'₁₂₃'[layer]}",
                theme.text,
            )
            _arrow(axes, (left + 2.85, y - gap), (left + 2.85, y), theme.muted)
        if grouped:  # the map on its way to the consumers
            top = bottom + 2 * (height + gap) + height / 2
            line = {"color": theme.reuse, "linewidth": 1.2, "solid_capstyle": "butt"}
            axes.plot([left + 2.11] * 2, [bottom + 0.52, top], **line)
        axes.text(
            left + 2.85, 0.08, "frames", ha="center", color=theme.muted, size=SMALL
        )
    return figure


def draw_error_and_time(theme: Theme) -> Figure:
    """Draw a point for each model of a study: error rate against encoder time."""
    models = read("picovoice_coffee/decode_asr/comparison.json")["models"]
    models = {MODELS[name]: model for name, model in models.items()}
    set_ = largest_set(models)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    plot_errors(axes, models, set_, encoder_time, theme)
    axes.set_ylabel("word error rate (%)")
    axes.set_xlabel("encoder time (ms per second of audio, one CPU thread)")
    figure.draw_without_rendering()
    name_points(axes, theme)
    return figure


def _spread_apart(positions, gap):
    """Move positions apart, to at least a gap, as little as that takes."""
    order = np.argsort(positions)
    moved = np.array(positions, dtype=float)[order]
    for _ in range(100):
        for low in range(len(moved) - 1):
            lacking = gap - (moved[low + 1] - moved[low])
            if lacking > 0:
                moved[low : low + 2] += -lacking / 2, lacking / 2
    result = np.empty_like(moved)
    result[order] = moved
    return result


def draw_speed_over_length(theme: Theme) -> Figure:
    """Draw how many times as fast as ESPnet's encoder others are, over length."""
    lines, layers = {}, []
    for row in read("benchmark_cpu_epyc/benchmark.json")["measurements"]:
        name, column = row["encoder"], f"vs {ESPNET}"
        if name.startswith(f"{ESPNET}, "):
            name = "fewer layers"
            layers.append(row["layers"])
        if name in LINES and row[column]:
            values = [row[column + end] for end in ("", ", lower", ", upper")]
            lines.setdefault(name, []).append((row["seconds"], *values))
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color=theme.muted, linewidth=0.8)
    ends = {}
    for i, (name, (_, color, line)) in enumerate(LINES.items()):
        if name not in lines:
            continue
        seconds, middle, lower, upper = np.transpose(lines[name])
        seconds = seconds * 1.012 ** (i - len(LINES) // 2)  # quartiles side by side
        style = {"color": getattr(theme, color), "zorder": 3, "linestyle": line}
        style |= {"marker": MARKERS[i] if line == "-" else "", "markersize": 5}
        style["linewidth"] = 2.2 if color == "reuse" else 1.3
        axes.plot(seconds, middle, markeredgecolor=theme.page, **style)
        axes.vlines(seconds, lower, upper, style["color"], alpha=0.5, linewidth=1)
        ends[name] = seconds[-1], middle[-1]
    ticks = sorted({point[0] for points in lines.values() for point in points})
    axes.set(xscale="log", xlabel="length of the audio (s)")
    axes.set_ylabel("times as fast as ESPnet's encoder")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    gap = (high - low) * 0.055
    heights = _spread_apart([middle for _, middle in ends.values()], gap)
    bounds = sorted({bound(layers) for bound in (min, max) if layers})
    span = " to ".join(map(str, bounds))
    for height, (name, end) in zip(heights, ends.items(), strict=True):
        label, color, _ = LINES[name]
        axes.annotate(
            label.format(layers=span),
            end,
            (1.03, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            size=SMALL,
            color=getattr(theme, color),
            arrowprops={"arrowstyle": "-", "color": theme.faint, "shrinkB": 4},
        )
    return figure


def draw_where_time_goes(theme: Theme) -> Figure:
    """Draw the time from waveform to text in parts, of models and kinds of search."""
    rows = read("picovoice_coffee/where_time_goes/benchmark.json")["measurements"]
    # ESPnet's users decode with a beam one utterance at a time
    rows = [row for row in rows if row["batch"] == 1 or row["search"] == BEST_PATH]
    for row in rows:
        if row["batch"] > 1:
            row["search"] += f", {row['batch']} at once"
    searches = list(dict.fromkeys(row["search"] for row in rows))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    # half a row between one search and another
    places = [n + searches.index(row["search"]) / 2 for n, row in enumerate(rows)]
    starts = np.zeros(len(rows))
    for part, (color, hatch) in PARTS.items():
        widths = [row[f"{part}_ms"] for row in rows]
        style = {"facecolor": getattr(theme, color), "edgecolor": theme.page}
        axes.barh(places, widths, 0.8, starts, label=part, hatch=hatch, **style)
        starts += widths
    for place, row, end in zip(places, rows, starts, strict=True):
        text = f"{row['total_ms']:.1f}"
        axes.text(end + 0.01 * max(starts), place, text, va="center", size=9)
    axes.set_yticks(places, [f"{row['search']}, {row['model']}" for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.invert_yaxis()
    axes.set_xlabel("time (ms per second of audio)")
    figure.legend(loc="outside upper center", ncols=len(PARTS))
    return figure


def draw_runtimes(theme: Theme) -> Figure:
    """Draw how many times as fast encoders are in runtimes, over length."""
    lines = {}
    for row in read("benchmark_cpu_epyc/runtimes/benchmark.json")["measurements"]:
        if row["encoder"] in ENCODERS:
            line = row["runtime"], row["dtype"], row["encoder"]
            lines.setdefault(line, []).append(row)
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    style = {"color": theme.text, "linewidth": 1.3}
    keys = [Line2D([], [], linestyle=x, label=n, **style) for n, x in ENCODERS.values()]
    for axes, (versus, label) in zip(
        figure.subplots(1, 2), VERSUS.items(), strict=True
    ):
        for (runtime, dtype, encoder), rows in lines.items():
            if versus == "vs same" and encoder == SAME:
                continue  # 1 everywhere
            name, color = RUNTIMES[runtime]
            style = {"color": getattr(theme, color), "linestyle": ENCODERS[encoder][1]}
            style["marker"] = MARKERS[list(RUNTIMES).index(runtime)]
            style["linewidth"] = 2.2 if encoder not in (SAME, LIMIT) else 1.3
            seconds = [row["seconds"] for row in rows]
            values = [row[versus] for row in rows]
            axes.plot(seconds, values, markeredgecolor=theme.page, **style)
            if versus == "vs same" and encoder == LIMIT:
                style |= {"linestyle": "", "label": f"{name}, {dtype}"}
                keys.append(Line2D([], [], **style))
        axes.axhline(1, color=theme.muted, linewidth=0.8)
        axes.set(xscale="log", xlabel="length of the audio (s)", ylabel=label)
        axes.set_xticks(seconds, [f"{tick:g}" for tick in seconds])
        axes.minorticks_off()
    figure.legend(handles=keys, loc="outside upper center", ncols=2)
    return figure


FIGURES = {
    "idea": draw_idea,
    "group_shapes": draw_group_shapes,
    "error_and_time": draw_error_and_time,
    "speed_over_length": draw_speed_over_length,
    "where_time_goes": draw_where_time_goes,
    "runtimes": draw_runtimes,
}


def draw(name: str, page: str) -> Figure:
    """Draw a figure for a kind of page.

    Raises:
        FileNotFoundError: Its results are not there.
    """
    theme = THEMES[page]
    with matplotlib.rc_context(themed(theme)):
        return FIGURES[name](theme)


def write(figure: Figure, path: Path, page: str) -> None:
    """Write a figure of `draw` as SVG, the same bytes each time."""
    with matplotlib.rc_context(themed(THEMES[page])):
        figure.savefig(path, metadata={"Date": None})


def main():
    """Draw the figures named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    text = "folder to write (default: this script's)"
    parser.add_argument("--output", type=Path, default=HERE, help=text)
    args = parser.parse_args()
    for name in args.figures or FIGURES:
        try:
            for page in THEMES:
                write(draw(name, page), args.output / f"{name}_{page}.svg", page)
        except FileNotFoundError as e:
            print(f"{name} is not drawn: no {e.filename}")


if __name__ == "__main__":
    main()
