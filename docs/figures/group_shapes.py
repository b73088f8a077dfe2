# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Draws the tensors of a group, with their shapes, for docs/method.md."""

from matplotlib.figure import Figure

from espnet_reuse.figure_style import SMALL, WIDTH, Theme

HEIGHT = 3.7
# Of each tensor: centre, label, colour.
TENSORS = {
    "x": (2.0, 0.5, "input x\n(B, T, d)", "text"),
    "p": (0.62, 1.3, "positions P\n(1, H, 2T - 1, dₖ)", "other"),
    "qk": (2.0, 1.3, "queries, keys\n(B, H, T, dₖ)", "other"),
    "v": (3.85, 1.3, "values V\n(B, H, T, dₖ)", "text"),
    "s": (1.3, 2.1, "scores S\n(B, H, T, T)", "other"),
    "a": (2.75, 2.1, "attention map A\n(B, H, T, T)", "reuse"),
    "y": (3.3, 3.0, "output y\n(B, T, d)", "text"),
    "x2": (6.3, 0.5, "input x′\n(B, T, d)", "text"),
    "v2": (6.3, 1.3, "values V′\n(B, H, T, dₖ)", "text"),
    "a2": (5.3, 2.1, "the same map A", "reuse"),
    "y2": (5.8, 3.0, "output y′\n(B, T, d)", "text"),
}
# From one to another, with what makes it.
STEPS = [
    *(("x", "qk", ""), ("x", "v", ""), ("p", "s", ""), ("qk", "s", "")),
    *(("s", "a", "softmax,\nmask"), ("a", "y", "A · V"), ("v", "y", "")),
    *(("a", "a2", "reused"), ("a2", "y2", "A · V′")),
    *(("x2", "v2", ""), ("v2", "y2", "")),
]


def draw_group_shapes(theme: Theme) -> Figure:
    """Draw what a producer and a consumer compute, and the shape of each tensor."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    centred = {"ha": "center", "va": "center"}
    for x, title in ((2.2, "producer"), (5.8, "consumer")):
        axes.text(x, HEIGHT - 0.17, title, size=10, weight="bold", **centred)
    axes.axvline(4.6, 0.04, 0.96, color=theme.muted, linewidth=0.8, linestyle=":")
    boxes = {}
    for name, (x, y, label, color) in TENSORS.items():
        box = {"boxstyle": "round,pad=0.3", "facecolor": "none"}
        box |= {"edgecolor": getattr(theme, color), "linewidth": 1.2}
        style = {"size": SMALL, "color": getattr(theme, color), "bbox": box}
        boxes[name] = axes.text(x, y, label, **style, **centred)
    figure.draw_without_rendering()
    for start, end, label in STEPS:
        ends = [boxes[name].get_bbox_patch() for name in (start, end)]
        color = theme.reuse if start.startswith("a") else theme.muted
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.2}
        arrow |= {"patchA": ends[0], "patchB": ends[1], "shrinkA": 0, "shrinkB": 0}
        (x, y, *_), (x2, y2, *_) = TENSORS[start], TENSORS[end]
        axes.annotate("", (x2, y2), (x, y), arrowprops=arrow)
        style = {"ha": "center", "size": SMALL, "color": color}
        aside, level = (0, "bottom") if y == y2 else (-0.28, "center")
        middle = (x + x2) / 2 + aside, (y + y2) / 2 + 0.03
        axes.text(*middle, label, va=level, **style)
    return figure
