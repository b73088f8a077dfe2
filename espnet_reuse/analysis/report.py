# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Write an analysis as figures and as a web page that needs nothing but itself.

The page, its sentences and its captions are in report.html.jinja; here are the figures
and the tables that it shows.
"""

import base64
from itertools import product
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from espnet_reuse.analysis import figures
from espnet_reuse.analysis.figures import format_number, mean_of_heads, to_array
from espnet_reuse.files import write_text, written_whole

MIN_LAYERS_OF_A_TREND = 5
CSS_DPI = 96  # pixels of CSS to the inch: letters are as large in all figures
MEASURES = {"js_distance": "Jensen-Shannon distance", "cosine": "Cosine similarity"}
MATCHINGS = {"matched": "matched heads", "same_head": "same head"}


def write_report(analysis: Dict, example: Optional[Dict], output: Path) -> None:
    """Write the figures and report.html, each file whole or not at all.

    The analysis is that of analysis.json, the example an utterance with its maps (see
    `figures.draw_map`), or None; the folder exists.
    """
    images = {}
    for name, figure in draw_figures(analysis, example).items():
        png = figures.render(figure)
        with written_whole(output / f"{name}.png") as partial:
            partial.write_bytes(png)
        width, height = (round(CSS_DPI * size) for size in figure.get_size_inches())
        text = base64.b64encode(png).decode("ascii")
        images[name] = {"png": text, "width": width, "height": height}
    write_text(format_page(analysis, example, images), output / "report.html")


def format_page(
    analysis: Dict, example: Optional[Dict], images: Dict[str, Dict]
) -> str:
    """Return the report as HTML, with the images of `draw_figures` by name."""
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = _format_cell
    return environment.get_template("report.html.jinja").render(
        **analysis,
        example=example,
        images=images,
        layers=figures.pick_layers(analysis["model"]["num_layers"]),
        head_maps=pick_heads(analysis),
        min_layers_of_a_trend=MIN_LAYERS_OF_A_TREND,
        per_layer=tabulate_layers(analysis),
        trends=tabulate_trends(analysis),
        groups=tabulate_suggestions(analysis["suggestions"]),
        tables=tabulate(analysis),
    )


@figures.styled
def draw_figures(analysis: Dict, example: Optional[Dict]) -> Dict[str, Figure]:
    """Draw all figures that the analysis has results for, by name."""
    drawn = {
        "cad": figures.draw_cad(analysis),
        "diagonality_curves": figures.draw_curves(analysis),
        "entropy": figures.draw_entropy(analysis),
        "similarity": figures.draw_similarity(analysis),
    }
    if analysis["phoneme_attention"]:
        drawn["roles"] = figures.draw_roles(analysis)
        layers = figures.pick_layers(analysis["model"]["num_layers"])
        for layer, quantity in product(layers, figures.SCALES):
            figure = figures.draw_phoneme_attention(analysis, quantity, layer)
            drawn[f"phoneme_{quantity}_layer_{layer + 1}"] = figure
    if has_probe(analysis):
        drawn["probe"] = figures.draw_probe(analysis)
    if example is not None:
        for layer, head, _, _ in pick_heads(analysis):
            figure = figures.draw_map(analysis, example, layer, head)
            drawn[f"map_layer_{layer + 1}_head_{head + 1}"] = figure
    return drawn


def pick_heads(analysis: Dict) -> List[Tuple[int, int, str, float]]:
    """Return the least and the most diagonal head of the layers that are shown.

    As layer and head (from 0), "least" or "most", and the head's CAD.
    """
    picked = []
    for layer in figures.pick_layers(analysis["model"]["num_layers"]):
        cad = to_array(analysis["diagonality"]["cad"][layer])
        order = np.argsort(cad)[: max(1, np.isfinite(cad).sum())]  # NaN is last
        for head, kind in {order[0]: "least", order[-1]: "most"}.items():
            picked.append((layer, head, kind, cad[head]))
    return picked


def tabulate_layers(analysis: Dict) -> pd.DataFrame:
    """Return one row of numbers for each layer."""
    columns = {name: mean_of_heads(by_head) for name, by_head in _by_head(analysis)}
    if has_probe(analysis):
        columns["Probe accuracy"] = to_array(analysis["probe"]["accuracy"])[1:]
    distance = to_array(analysis["similarity"]["js_distance"]["matched"])
    columns["Distance to the next layer"] = np.append(np.diag(distance, 1), np.nan)
    return _by_layer(columns)


def tabulate_trends(analysis: Dict) -> pd.DataFrame:
    """Return how the mean of the heads changes with depth.

    Of each quantity, Spearman's rank correlation with the layer's number, its two-sided
    p-value and the number of layers. Layers that share a map count once. Too few
    layers, or equal ones, have no trend.
    """
    model = analysis["model"]
    sizes = model["reuse_group_size"] or [1] * model["num_layers"]
    producers = np.cumsum([0, *sizes])[:-1]
    rows = {}
    for name, by_head in _by_head(analysis):
        mean = pd.Series(mean_of_heads(by_head))[producers].dropna()
        rho = p = np.nan
        if len(mean) >= MIN_LAYERS_OF_A_TREND and mean.nunique() > 1:
            rho, p = spearmanr(mean.index, mean)
        rows[name] = {"Spearman's ρ": rho, "p": p, "layers": len(mean)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype({"layers": int}).rename_axis("quantity")


def tabulate_suggestions(suggestions: Sequence[Dict]) -> pd.DataFrame:
    """Return rows of suggested groups, each before the uniform ones."""
    rows = [
        (
            f"{kind} for {suggestion['wanted']}",
            f"reuse_group_size: {suggestion[kind]['reuse_group_size']}",
            len(suggestion[kind]["reuse_group_size"]),
            suggestion[kind]["cost"],
            suggestion[kind]["speed_up"],
        )
        for suggestion in suggestions
        for kind in ("suggested", "uniform")
    ]
    columns = ["groups", "YAML", "producers", "cost", "times as fast"]
    return pd.DataFrame(rows, columns=columns).set_index("groups")


def tabulate(analysis: Dict) -> Dict[str, pd.DataFrame]:
    """Return the numbers in the figures by caption, except those of single phonemes."""
    tables = {}
    for name, by_head in _by_head(analysis):
        heads = enumerate(to_array(by_head).T, 1)
        columns = {f"head {number}": values for number, values in heads}
        tables[name] = _by_layer(columns | {"mean": mean_of_heads(by_head)})
    if has_probe(analysis):
        places = pd.Index(analysis["probe"]["places"], name="after layer")
        accuracy = to_array(analysis["probe"]["accuracy"])
        tables["Probe"] = pd.DataFrame({"accuracy": accuracy}, places)
    for (measure, name), (key, heads) in product(MEASURES.items(), MATCHINGS.items()):
        values = to_array(analysis["similarity"][measure][key])
        tables[f"{name}, {heads}"] = _by_layer(dict(enumerate(values.T, 1)))
    return tables


def has_probe(analysis: Dict) -> bool:
    """Return whether the probe could be trained."""
    return bool(analysis["probe"]) and "skipped" not in analysis["probe"]


def _by_head(analysis):
    """Return each quantity's name and its values by layer and head (L, H)."""
    quantities = {
        "CAD": analysis["diagonality"]["cad"],
        "Entropy (nats)": analysis["entropy"]["nats"],
        "Entropy / log T": analysis["entropy"]["normalised"],
    }
    if analysis["phoneme_attention"]:
        lift = analysis["phoneme_attention"]["same_phoneme_lift"]
        quantities["Same-phoneme lift"] = lift
    return quantities.items()


def _by_layer(columns):
    """Return a table with a row for each layer, of columns with a value for each."""
    num_layers = len(next(iter(columns.values())))
    return pd.DataFrame(columns, pd.RangeIndex(1, num_layers + 1, name="layer"))


def _format_cell(value):
    return format_number(value, ".3f") if isinstance(value, float) else value
