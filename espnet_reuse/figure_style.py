# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""One look for all figures, on light and on dark pages.

No text is smaller than 8 pt. Colours differ in brightness, too, and no two things
differ in colour alone: a marker, a line style or a label beside them differs.
"""

import dataclasses

MARKERS = "os^Dv<>phX*P"
SMALL = 8  # pt
WIDTH = 7  # inches: of a figure in a page, shown as wide as that


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours for a page: of text, of less important text, of the page, of things."""

    text: str
    muted: str
    faint: str
    page: str
    reuse: str
    other: str
    third: str
    fourth: str


THEMES = {
    "light": Theme(
        *("#1f2328", "#59636e", "#d1d9e0", "#ffffff"),
        *("#0757ba", "#e0701a", "#1b9e77", "#a03fae"),
    ),
    "dark": Theme(
        *("#f0f6fc", "#9ba5b0", "#3d444d", "#0d1117"),
        *("#6cb6ff", "#e0823d", "#57d6a8", "#d58ce0"),
    ),
}
BASE = {
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    # names come from the data: two dollar signs in one are not a formula
    "text.parse_math": False,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}


def themed(theme: Theme) -> dict:
    """Return matplotlib's settings for figures of a theme.

    The background is transparent, and an SVG's bytes are the same every time.
    """
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color")
    clear = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return {
        **BASE,
        **dict.fromkeys((*inked, "ytick.color"), theme.text),
        **dict.fromkeys(clear, "none"),
        "svg.fonttype": "path",  # a reader's fonts have other widths
        "svg.hashsalt": "espnet-reuse",
    }
