# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Figures of an analysis: each function draws one from the contents of analysis.json.

Layers and heads count from 1 in the figures, from 0 in arguments. Sequential colours
are perceptually uniform, diverging ones are centred on chance. No two things differ in
colour alone: a mark, a line style or a label differs, too. Callers draw in `styled`.
"""

import io
import math
from typing import Dict, List, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure  # not pyplot: needs no display
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from espnet_reuse.figure_style import BASE, SMALL

DPI = 200
UNIFORM_CAD = 2 / 3  # of the uniform map, in the limit of long utterances
MAX_MAP_SECONDS = 3.0  # more, and the phones on the axes cannot be read
UNDEFINED = "–"

OWN, OTHERS, REFERENCE = "#00224E", "#BBBBBB", "#B35806"
OUTLINES = {
    "suggested": {
        "edgecolor": "white",
        "linewidth": 2.2,
        "path_effects": [withStroke(linewidth=3.6, foreground="black")],
    },
    "uniform": {"edgecolor": "#F1A340", "linewidth": 1.4, "linestyle": (0, (3, 2))},
}
BAR_BELOW = {"location": "bottom", "aspect": 35, "shrink": 0.8}
styled = matplotlib.rc_context(BASE | {"figure.constrained_layout.use": True})

# Of phoneme attention: label, colours and named values, of which the least and the
# largest end the colours; the same in all layers and models.
SCALES = {
    "lift": (
        "lift (times chance); +: 2 or more",
        "PuOr",
        {1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2", 1: "1", 2: "2", 4: "4", 8: "8"},
    ),
    "mass": (
        "share of attention P[p, q]",
        "cividis",
        {p / 100: f"{p:g} %" for p in (0.2, 0.5, 1, 2, 5, 10, 20, 50)},
    ),
}


@styled
def render(figure: Figure) -> bytes:
    """Return the figure as a PNG file of `DPI` dots per inch."""
    # again in this style, for matplotlib makes ticks as late as here
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def to_array(values: Sequence) -> np.ndarray:
    """Return nested lists as an array of float64; None becomes NaN."""
    return np.array(values, dtype=np.float64)


def format_number(value: float, form: str) -> str:
    """Return a number in Python's format `form`, a dash where it is undefined."""
    return format(value, form) if math.isfinite(value) else UNDEFINED


def mean_of_heads(values: Sequence) -> np.ndarray:
    """Return the mean over the defined heads of (L, H, ...), NaN where none is."""
    return np.ma.masked_invalid(to_array(values)).mean(1).filled(np.nan)


def pick_layers(num_layers: int) -> List[int]:
    """Return the first, the middle and the last layer, each once, counted from 0."""
    return sorted({0, (num_layers - 1) // 2, num_layers - 1})


def draw_cad(analysis: Dict) -> Figure:
    """Draw the CAD of each layer and head."""
    cad = to_array(analysis["diagonality"]["cad"])
    lowest = min(UNIFORM_CAD, np.nanmin(cad, initial=1))
    return _draw_heads(("CAD", cad, Normalize(lowest, 1)))


def draw_entropy(analysis: Dict) -> Figure:
    """Draw the entropy of each layer and head, in nats and normalised."""
    entropy = analysis["entropy"]
    nats, normalised = to_array(entropy["nats"]), to_array(entropy["normalised"])
    highest = np.nanmax(nats, initial=0) or 1
    return _draw_heads(
        ("entropy (nats)", nats, Normalize(0, highest)),
        ("entropy / log T", normalised, Normalize(0, 1)),
    )


def _draw_heads(*quantities):
    """Show values for each layer and head (L, H) as colours and numbers."""
    num_layers, num_heads = quantities[0][1].shape
    centred = {"ha": "center", "va": "center", "size": SMALL}
    size = 1.7 + 0.45 * num_heads, 1 + 0.24 * num_layers
    figure, panels = _panels(len(quantities), 2, size)
    for axes, (label, values, norm) in zip(panels, quantities, strict=True):
        image = _show_layers(axes, values, norm, aspect="auto")
        for (layer, head), value in np.ndenumerate(values):
            luminance = np.dot(image.cmap(norm(value))[:3], (0.3, 0.59, 0.11))
            color = "black" if luminance > 0.5 else "white"
            text = format_number(value, ".2f")
            axes.text(head + 1, layer + 1, text, color=color, **centred)
        axes.set_xticks(range(1, num_heads + 1))
        axes.set_yticks(range(1, num_layers + 1))
        axes.tick_params(length=0)
        axes.set(xlabel="head", ylabel="layer")
        figure.colorbar(image, ax=axes, label=label)
    return figure


def draw_curves(analysis: Dict) -> Figure:
    """Draw D(r) of each layer, mean over heads, beside all layers and the uniform map.

    The uniform map's is 2r - r^2, its limit for long utterances.
    """
    radii = np.array(analysis["diagonality"]["radii"])
    curves = mean_of_heads(analysis["diagonality"]["curve"])
    cad = mean_of_heads(analysis["diagonality"]["cad"])
    at_most = 4 if len(curves) <= 12 else 6
    shared = {"sharex": True, "sharey": True}
    figure, panels = _panels(len(curves), at_most, (1.65, 1.5), (0.4, 0.7), **shared)
    for layer, axes in enumerate(panels):
        axes.plot(radii, curves.T, color=OTHERS, linewidth=0.6)
        axes.plot(radii, 2 * radii - radii**2, "--", color=REFERENCE, linewidth=1.2)
        axes.plot(radii, curves[layer], color=OWN, linewidth=2)
        axes.set_title(f"layer {layer + 1}, CAD {format_number(cad[layer], '.2f')}")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    panels[0].text(0.5, 0.6, "uniform\nmap", color=REFERENCE, size=SMALL, va="top")
    figure.supxlabel("r: distance |i − j| up to r (T − 1)", size=9)
    figure.supylabel("D(r), mean over heads", size=9)
    return figure


def draw_roles(analysis: Dict) -> Figure:
    """Draw, over layers, attention by position (CAD) and by phoneme (lift)."""
    cad = to_array(analysis["diagonality"]["cad"])
    lift = to_array(analysis["phoneme_attention"]["same_phoneme_lift"])
    figure, (upper, lower) = _panels(2, 1, (6.2, 2.4), sharex=True)
    layers = np.arange(1, len(cad) + 1)
    _draw_reference(upper, UNIFORM_CAD, "uniform map")
    _draw_reference(lower, 1, "chance")
    for axes, values in ((upper, cad), (lower, lift)):
        dots = axes.plot(layers, values, "o", color="grey", markersize=4, alpha=0.7)
        dots[0].set_label("a head")
        mean = mean_of_heads(values)
        axes.plot(layers, mean, "-D", color=OWN, label="mean over heads")
    upper.set(ylabel="CAD", title="by position: cumulative attention diagonality")
    lower.set(
        ylabel="lift (times chance)",
        title="by phoneme: same-phoneme lift",
        xlabel="layer",
        xlim=(0.5, len(cad) + 0.5),
        xticks=_layer_ticks(len(cad)),
    )
    lower.set_ylim(bottom=0)
    keys = upper.get_legend_handles_labels()
    figure.legend(*keys, loc="outside lower center", ncols=2)
    return figure


def draw_phoneme_attention(analysis: Dict, quantity: str, layer: int) -> Figure:
    """Draw one layer's phoneme attention as `lift` or `mass`, mean over heads."""
    results = analysis["phoneme_attention"]
    values = to_array(results[quantity][layer])
    label, colors, ticks = SCALES[quantity]
    norm = LogNorm(min(ticks), max(ticks))
    side = max(2.2, 0.135 * len(values))
    figure, (axes,) = _panels(1, 1, (side + 1.7, side + 2.1))
    # zero has no logarithm
    image = _show(axes, np.maximum(values, norm.vmin / 2), norm, colors)
    if quantity == "lift":
        # without colour, far above and far below chance look the same
        rows, columns = np.nonzero(values >= 2)
        axes.plot(columns, rows, "+", color="white", markersize=3, markeredgewidth=0.6)
    bar = figure.colorbar(image, ax=axes, extend="both", label=label, **BAR_BELOW)
    bar.set_ticks(list(ticks), labels=ticks.values())
    bar.minorticks_off()
    positions = range(len(values))
    axes.set_xticks(positions, results["phonemes"], rotation=90, size=SMALL)
    axes.set_yticks(positions, results["phonemes"], size=SMALL)
    axes.set(xlabel="attended phoneme q", ylabel="phoneme p of the frame")
    names, members = zip(*results["groups"], strict=True)
    sizes = np.array([len(phonemes) for phonemes in members])
    ends = np.cumsum(sizes)
    _draw_cross(axes, ends[:-1] - 0.5, color="black", linewidth=0.8)
    centres = ends - (sizes + 1) / 2
    top, right = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
    slanted = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    top.set_xticks(centres, names, size=SMALL, **slanted)
    right.set_yticks(centres, names, size=SMALL)
    for axis in (axes, top, right):
        axis.tick_params(length=0)
    axes.set_title(f"layer {layer + 1}, mean over heads")
    return figure


def draw_probe(analysis: Dict) -> Figure:
    """Draw the accuracy of the probe before the first and after each layer."""
    results = analysis["probe"]
    figure, (axes,) = _panels(1, 1, (6.2, 3.2))
    positions = range(len(results["places"]))
    axes.plot(positions, to_array(results["accuracy"]), "-D", color=OWN)
    for name, linestyle, va in (("majority", "--", "bottom"), ("chance", ":", "top")):
        _draw_reference(axes, results[name], name, linestyle, va)
    step = math.ceil(len(positions) / 20)
    axes.set_xticks(positions[::step], results["places"][::step])
    axes.set(
        xlabel="hidden states after layer",
        ylabel="accuracy on held-out speakers",
        ylim=(0, 1),
    )
    return figure


def draw_similarity(analysis: Dict) -> Figure:
    """Draw the distance between layers' maps, a panel for each suggestion.

    Outlines are the suggested groups; dashed ones the uniform groups of as many
    producers.
    """
    distance = to_array(analysis["similarity"]["js_distance"]["matched"])
    suggestions = analysis["suggestions"]
    count = max(1, len(suggestions))
    side, at_most_ticks = (2.2, 6) if count > 1 else (3.4, 12)
    figure, panels = _panels(count, 3, (side, side + 0.4), (1.2, 0.7))
    ticks = _layer_ticks(len(distance), at_most_ticks)
    for axes in panels:
        image = _show_layers(axes, distance, Normalize(0, 1))
        axes.set(xticks=ticks, yticks=ticks)
    for axes, suggestion in zip(panels, suggestions, strict=False):
        costs = [suggestion[kind]["cost"] for kind in OUTLINES]
        title = "{}\ncost {:.2f}, uniform {:.2f}"
        axes.set_title(title.format(suggestion["wanted"], *costs))
        for kind, style in OUTLINES.items():
            start = 0.5
            for size in suggestion[kind]["reuse_group_size"]:
                square = (start, start), size, size
                axes.add_patch(Rectangle(*square, fill=False, clip_on=False, **style))
                start += size
    figure.supxlabel("layer", size=9)
    figure.supylabel("layer", size=9)
    figure.colorbar(image, ax=panels, label="Jensen-Shannon distance,\nmatched heads")
    if suggestions:
        keys = [Rectangle((0, 0), 1, 1, fill=False, **s) for s in OUTLINES.values()]
        names = [f"{kind} groups" for kind in OUTLINES]
        figure.legend(keys, names, loc="outside upper center", ncols=2)
    return figure


def draw_map(analysis: Dict, example: Dict, layer: int, head: int) -> Figure:
    """Draw one attention map of the example, its first seconds if it is long.

    The example is one utterance: `utterance` (its id), `frame_times` (T,) in seconds,
    `phones`, a list of (symbol, start, end) in seconds, and `maps` (L, H, T, T).
    """
    times = example["frame_times"]
    shift = analysis["model"]["frame_shift_ms"] / 1000
    count = max(1, int(np.searchsorted(times, MAX_MAP_SECONDS)))
    weights = example["maps"][layer, head, :count, :count].astype(np.float32)
    first, last = times[0] - shift / 2, times[count - 1] + shift / 2
    figure, (axes,) = _panels(1, 1, (5.8, 6.3))
    norm = PowerNorm(0.5, 0, max(weights.max(), 1e-6))
    extent = (first, last, last, first)
    image = _show(axes, weights, norm, extent=extent, interpolation="nearest")
    label = "attention A[i, j] (colours follow its square root)"
    figure.colorbar(image, ax=axes, ticks=MaxNLocator(4), label=label, **BAR_BELOW)
    phones = [
        (symbol, max(start, first), min(end, last))
        for symbol, start, end in example["phones"]
        if start < last and end > first
    ]
    unit = "time (s)"
    if phones:
        unit = "phone"
        symbols, starts, ends = zip(*phones, strict=True)
        middles = np.add(starts, ends) / 2
        # neighbours stand in two rows: many are shorter than their names are wide
        axes.set_xticks(middles, ["\n" * (n % 2) + s for n, s in enumerate(symbols)])
        axes.set_yticks(middles, [s + " " * 6 * (n % 2) for n, s in enumerate(symbols)])
        axes.tick_params(length=2)
        _draw_cross(axes, {*starts, *ends}, color="white", linewidth=0.3, alpha=0.6)
        axes.secondary_xaxis("top").set_xlabel("seconds")
        axes.secondary_yaxis("right")
    axes.set(xlabel=f"attended frame j: {unit}", ylabel=f"frame i: {unit}")
    title = f"layer {layer + 1}, head {head + 1}\n{example['utterance']}"
    if count < len(times):
        title += f", first {last:.1f} s of {times[-1] + shift / 2:.1f} s"
    axes.set_title(title)
    return figure


def _panels(count, columns, size, margin=(0, 0), **options):
    """Return a figure with `count` panels of a size, in rows of `columns` at the most.

    Sizes are in inches. The options are those of `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=np.multiply(size, (columns, rows)) + margin)
    grid = figure.subplots(rows, columns, squeeze=False, **options).flat
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(0, count - columns) : count]:  # with none below
        axes.tick_params(labelbottom=True)
    return figure, grid[:count]


def _show(axes, values, norm, colors="cividis", **options):
    """Show a matrix as colours."""
    colors = matplotlib.colormaps[colors].with_extremes(bad="lightgrey")
    return axes.imshow(values, colors, norm, **options)


def _show_layers(axes, values, norm, **options):
    """Show a matrix, layers from the bottom up, as colours; both axes count from 1."""
    rows, columns = values.shape
    extent = (0.5, columns + 0.5, 0.5, rows + 0.5)
    return _show(axes, values, norm, origin="lower", extent=extent, **options)


def _draw_reference(axes, value, name, linestyle="--", va="center"):
    """Draw a horizontal line with its name at the right."""
    axes.axhline(value, linestyle=linestyle, color=REFERENCE, linewidth=1.2)
    place = (1, value), (4, 0), ("axes fraction", "data"), "offset points"
    axes.annotate(name, *place, color=REFERENCE, va=va, size=SMALL)


def _draw_cross(axes, positions, **style):
    """Draw a horizontal and a vertical line at each position."""
    for position in positions:
        axes.axhline(position, **style)
        axes.axvline(position, **style)


def _layer_ticks(num_layers, at_most=12):
    return range(1, num_layers + 1, math.ceil(num_layers / at_most))
