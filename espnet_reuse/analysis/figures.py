# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Figures of an analysis: each function draws one from the contents of analysis.json.

Layers and heads count from 1 in the figures, from 0 in arguments. Sequential colours
are perceptually uniform, diverging ones are centred on chance. No two things differ in
colour alone: a mark, a line style or a label differs, too.
"""

import io
import math
from typing import Dict, List, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure  # not pyplot: needs no display
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

DPI = 200
UNIFORM_CAD = 2 / 3  # of the uniform map, in the limit of long utterances
MAX_MAP_SECONDS = 3.0  # more, and the phones on the axes cannot be read
MAX_LOG2_LIFT = 3
MIN_MASS, MAX_MASS = 0.002, 0.5
UNDEFINED = "–"

OWN, OTHERS, REFERENCE = "#00224E", "#BBBBBB", "#B35806"
SUGGESTED = {
    "fill": False,
    "edgecolor": "white",
    "linewidth": 2.2,
    "path_effects": [withStroke(linewidth=3.6, foreground="black")],
}
UNIFORM = {
    "fill": False,
    "edgecolor": "#F1A340",
    "linewidth": 1.4,
    "linestyle": (0, (3, 2)),
}
STYLE = {
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    # names come from the data: two dollar signs in one are not a formula
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
styled = matplotlib.rc_context(STYLE)


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
    """Return the mean (L, ...) over the defined heads of (L, H, ...).

    NaN (or None) is undefined, and NaN is the mean where no head is defined.
    """
    return np.ma.masked_invalid(to_array(values)).mean(1).filled(np.nan)


def pick_layers(num_layers: int) -> List[int]:
    """Return the first, the middle and the last layer, each once, counted from 0."""
    return sorted({0, (num_layers - 1) // 2, num_layers - 1})


@styled
def draw_cad(analysis: Dict) -> Figure:
    """Draw the CAD of each layer and head."""
    cad = to_array(analysis["diagonality"]["cad"])
    figure = Figure(figsize=_size_of_heads(cad))
    lowest = min(UNIFORM_CAD, np.nanmin(cad, initial=1))
    _show_heads(figure.subplots(), cad, "CAD", Normalize(lowest, 1))
    return figure


@styled
def draw_curves(analysis: Dict) -> Figure:
    """Draw D(r) of each layer, mean over heads, beside all layers and the uniform map.

    The uniform map's is 2r - r^2, its limit for long utterances.
    """
    radii = np.array(analysis["diagonality"]["radii"])
    curves = mean_of_heads(analysis["diagonality"]["curve"])
    cad = mean_of_heads(analysis["diagonality"]["cad"])
    columns = min(4 if len(curves) <= 12 else 6, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(max(2.6, 1.75 * columns), 0.7 + 1.5 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for layer, axes in enumerate(grid.flat):
        if layer >= len(curves):
            axes.remove()
            # the panel above then has the last row's labels
            grid.flat[layer - columns].tick_params(labelbottom=True)
            continue
        for other in curves:
            axes.plot(radii, other, color=OTHERS, linewidth=0.6)
        axes.plot(radii, 2 * radii - radii**2, "--", color=REFERENCE, linewidth=1.2)
        axes.plot(radii, curves[layer], color=OWN, linewidth=2)
        axes.set_title(f"layer {layer + 1}, CAD {format_number(cad[layer], '.2f')}")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    grid[0, 0].text(0.5, 0.6, "uniform\nmap", color=REFERENCE, size=8, va="top")
    figure.supxlabel("r: distance |i − j| up to r (T − 1)", size=9)
    figure.supylabel("D(r), mean over heads", size=9)
    return figure


@styled
def draw_entropy(analysis: Dict) -> Figure:
    """Draw the entropy of each layer and head, in nats and normalised."""
    nats = to_array(analysis["entropy"]["nats"])
    normalised = to_array(analysis["entropy"]["normalised"])
    width, height = _size_of_heads(nats)
    figure = Figure(figsize=(2 * width, height))
    left, right = figure.subplots(1, 2)
    highest = np.nanmax(nats, initial=0)
    _show_heads(left, nats, "entropy (nats)", Normalize(0, highest or 1))
    _show_heads(right, normalised, "entropy / log T", Normalize(0, 1))
    return figure


@styled
def draw_roles(analysis: Dict) -> Figure:
    """Draw, over layers, attention by position (CAD) and by phoneme (lift)."""
    cad = to_array(analysis["diagonality"]["cad"])
    lift = to_array(analysis["phoneme_attention"]["same_phoneme_lift"])
    figure = Figure(figsize=(6.2, 4.8))
    upper, lower = figure.subplots(2, 1, sharex=True)
    layers = np.arange(1, len(cad) + 1)
    for axes, values, reference, name in (
        (upper, cad, UNIFORM_CAD, "uniform map"),
        (lower, lift, 1, "chance"),
    ):
        _draw_reference(axes, reference, name)
        dots = axes.plot(layers, values, "o", color="grey", markersize=4, alpha=0.7)
        dots[0].set_label("a head")
        axes.plot(
            layers, mean_of_heads(values), "-D", color=OWN, label="mean over heads"
        )
    upper.set(ylabel="CAD", title="by position: cumulative attention diagonality")
    lower.set(
        ylabel="lift (times chance)",
        title="by phoneme: same-phoneme lift",
        xlabel="layer",
        xlim=(0.5, len(cad) + 0.5),
    )
    lower.set_ylim(bottom=0)
    lower.set_xticks(_layer_ticks(len(cad)))
    figure.legend(
        *upper.get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
    return figure


@styled
def draw_phoneme_attention(analysis: Dict, quantity: str, layer: int) -> Figure:
    """Draw one layer's phoneme attention relationship, mean over heads.

    Args:
        analysis: Contents of analysis.json, with phoneme attention.
        quantity: `lift` or `mass`; their colours are the same in all layers and models.
        layer: Layer, counted from 0.
    """
    results = analysis["phoneme_attention"]
    values = to_array(results[quantity][layer])
    groups = results["groups"]
    side = max(2.2, 0.118 * len(values))
    figure = Figure(figsize=(side + 1.7, side + 2.1))
    axes = figure.subplots()
    if quantity == "lift":
        # lift 0 has no logarithm
        shown = np.log2(np.maximum(values, 2.0 ** -(MAX_LOG2_LIFT + 1)))
        norm = Normalize(-MAX_LOG2_LIFT, MAX_LOG2_LIFT)
        ticks = range(-MAX_LOG2_LIFT, MAX_LOG2_LIFT + 1)
        names = [f"1/{2**-tick}" if tick < 0 else f"{2**tick}" for tick in ticks]
        label, colors = "lift (times chance); +: 2 or more", "PuOr"
    else:
        shown, norm = np.maximum(values, MIN_MASS / 2), LogNorm(MIN_MASS, MAX_MASS)
        ticks = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
        names = [f"{tick * 100:g} %" for tick in ticks]
        label, colors = "share of attention P[p, q]", "cividis"
    image = axes.imshow(shown, cmap=_colors(colors), norm=norm)
    if quantity == "lift":
        # without colour, far above and far below chance look the same
        rows, columns = np.nonzero(values >= 2)
        axes.plot(columns, rows, "+", color="white", markersize=3, markeredgewidth=0.6)
    bar = figure.colorbar(
        image, ax=axes, location="bottom", extend="both", aspect=35, shrink=0.8
    )
    bar.set_ticks(ticks, labels=names)
    bar.minorticks_off()
    bar.set_label(label)
    positions = range(len(values))
    axes.set_xticks(positions, results["phonemes"], rotation=90, size=6.5)
    axes.set_yticks(positions, results["phonemes"], size=6.5)
    axes.tick_params(length=0)
    axes.set(xlabel="attended phoneme q", ylabel="phoneme p of the frame")
    names, members = zip(*groups, strict=True)
    sizes = np.array([len(phonemes) for phonemes in members])
    ends = np.cumsum(sizes)
    for end in ends[:-1]:
        for draw_line in (axes.axhline, axes.axvline):
            draw_line(end - 0.5, color="black", linewidth=0.8)
    centres = ends - (sizes + 1) / 2
    top, right = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
    top.set_xticks(
        centres, names, rotation=45, ha="left", rotation_mode="anchor", size=7
    )
    right.set_yticks(centres, names, size=7)
    for axis in (top, right):
        axis.tick_params(length=0)
    axes.set_title(f"layer {layer + 1}, mean over heads")
    return figure


@styled
def draw_probe(analysis: Dict) -> Figure:
    """Draw the accuracy of the probe before the first and after each layer."""
    results = analysis["probe"]
    figure = Figure(figsize=(6.2, 3.2))
    axes = figure.subplots()
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


@styled
def draw_similarity(analysis: Dict) -> Figure:
    """Draw the distance between layers' maps, a panel for each suggestion.

    Outlines are the suggested groups; dashed ones the uniform groups of as many
    producers.
    """
    distance = to_array(analysis["similarity"]["js_distance"]["matched"])
    suggestions = analysis["suggestions"]
    num_layers, panels = len(distance), max(1, len(suggestions))
    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    side = 2.2 if panels > 1 else 3.4
    figure = Figure(figsize=(columns * side + 1.2, rows * (side + 0.4) + 0.7))
    grid = figure.subplots(rows, columns, squeeze=False)
    extent = (0.5, num_layers + 0.5, 0.5, num_layers + 0.5)
    ticks = _layer_ticks(num_layers, at_most=6 if panels > 1 else 12)
    for panel, axes in enumerate(grid.flat):
        if panel >= panels:
            axes.remove()
            continue
        image = axes.imshow(
            distance, _colors("cividis"), Normalize(0, 1), origin="lower", extent=extent
        )
        axes.set(xticks=ticks, yticks=ticks)
    for axes, suggestion in zip(grid.flat, suggestions, strict=False):
        suggested, uniform = suggestion["suggested"], suggestion["uniform"]
        axes.set_title(
            f"{suggestion['wanted']}\n"
            f"cost {suggested['cost']:.2f}, uniform {uniform['cost']:.2f}"
        )
        _outline(axes, suggested["reuse_group_size"], SUGGESTED)
        _outline(axes, uniform["reuse_group_size"], UNIFORM)
    figure.supxlabel("layer", size=9)
    figure.supylabel("layer", size=9)
    figure.colorbar(image, ax=grid, label="Jensen-Shannon distance,\nmatched heads")
    if suggestions:
        keys = [Rectangle((0, 0), 1, 1, **style) for style in (SUGGESTED, UNIFORM)]
        names = ["suggested groups", "uniform groups"]
        figure.legend(keys, names, loc="outside upper center", ncols=2)
    return figure


@styled
def draw_map(analysis: Dict, example: Dict, layer: int, head: int) -> Figure:
    """Draw one attention map of the example, its first seconds if it is long.

    Args:
        analysis: Contents of analysis.json.
        example: One utterance: `utterance` (its id), `frame_times` (T,) in seconds,
            `phones`, a list of (symbol, start, end) in seconds, and `maps`
            (L, H, T, T), float16 or float32.
        layer: Layer, counted from 0.
        head: Head, counted from 0.
    """
    times = example["frame_times"]
    shift = analysis["model"]["frame_shift_ms"] / 1000
    count = max(1, int(np.searchsorted(times, MAX_MAP_SECONDS)))
    weights = example["maps"][layer, head, :count, :count].astype(np.float32)
    first, last = times[0] - shift / 2, times[count - 1] + shift / 2
    figure = Figure(figsize=(5.8, 6.3))
    axes = figure.subplots()
    image = axes.imshow(
        weights,
        _colors("cividis"),
        PowerNorm(0.5, 0, max(weights.max(), 1e-6)),
        extent=(first, last, last, first),
        interpolation="nearest",
    )
    figure.colorbar(
        image,
        ax=axes,
        location="bottom",
        aspect=35,
        shrink=0.8,
        ticks=MaxNLocator(4),
        label="attention A[i, j] (colours follow its square root)",
    )
    phones = [
        (symbol, max(start, first), min(end, last))
        for symbol, start, end in example["phones"]
        if start < last and end > first
    ]
    if phones:
        middles = [(start + end) / 2 for _, start, end in phones]
        # neighbours stand in two rows: many are shorter than their names are wide
        below = ["\n" * (n % 2) + symbol for n, (symbol, *_) in enumerate(phones)]
        beside = [symbol + " " * (6 * (n % 2)) for n, (symbol, *_) in enumerate(phones)]
        axes.set_xticks(middles, below)
        axes.set_yticks(middles, beside)
        axes.tick_params(labelsize=6.5, length=2)
        for boundary in {edge for _, *edges in phones for edge in edges}:
            for draw_line in (axes.axhline, axes.axvline):
                draw_line(boundary, color="white", linewidth=0.3, alpha=0.6)
        axes.secondary_xaxis("top").set_xlabel("seconds")
        axes.secondary_yaxis("right")
        unit = "phone"
    else:
        unit = "time (s)"
    axes.set(xlabel=f"attended frame j: {unit}", ylabel=f"frame i: {unit}")
    title = f"layer {layer + 1}, head {head + 1}\n{example['utterance']}"
    if count < len(times):
        title += f", first {last:.1f} s of {times[-1] + shift / 2:.1f} s"
    axes.set_title(title)
    return figure


def _draw_reference(axes, value, name, linestyle="--", va="center"):
    """Draw a horizontal line with its name at the right."""
    axes.axhline(value, linestyle=linestyle, color=REFERENCE, linewidth=1.2)
    axes.annotate(
        name,
        (1, value),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=REFERENCE,
        va=va,
        size=8,
    )


def _colors(name):
    return matplotlib.colormaps[name].with_extremes(bad="lightgrey")


def _layer_ticks(num_layers, at_most=12):
    return range(1, num_layers + 1, math.ceil(num_layers / at_most))


def _size_of_heads(values):
    num_layers, num_heads = values.shape
    return 1.7 + 0.45 * num_heads, 1 + 0.24 * num_layers


def _show_heads(axes: Axes, values: np.ndarray, label: str, norm: Normalize) -> None:
    """Show a value for each layer and head (L, H) as colours and numbers."""
    num_layers, num_heads = values.shape
    image = axes.imshow(
        values,
        _colors("cividis"),
        norm,
        origin="lower",
        aspect="auto",
        extent=(0.5, num_heads + 0.5, 0.5, num_layers + 0.5),
    )
    for (layer, head), value in np.ndenumerate(values):
        luminance = np.dot(image.cmap(norm(value))[:3], (0.3, 0.59, 0.11))
        axes.text(
            head + 1,
            layer + 1,
            format_number(value, ".2f"),
            color="black" if luminance > 0.5 else "white",
            ha="center",
            va="center",
            size=7,
        )
    axes.set_xticks(range(1, num_heads + 1))
    axes.set_yticks(range(1, num_layers + 1))
    axes.tick_params(length=0)
    axes.set(xlabel="head", ylabel="layer")
    axes.figure.colorbar(image, ax=axes, label=label)


def _outline(axes: Axes, group_sizes: Sequence[int], style: Dict) -> None:
    """Outline groups on the diagonal of layers by layers."""
    start = 0.5
    for size in group_sizes:
        square = Rectangle((start, start), size, size, clip_on=False, **style)
        axes.add_patch(square)
        start += size
