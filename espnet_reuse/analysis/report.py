# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write an analysis as figures and as a web page that needs nothing but itself."""

import base64
import itertools
import math
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from espnet_reuse.analysis import figures
from espnet_reuse.analysis.figures import UNDEFINED, mean_of_heads, to_array

MAPS = "Maps of one utterance"
MIN_LAYERS_OF_A_TREND = 5
MAX_P_OF_A_TREND = 0.01
TREND = f"""\
A trend is called one where Spearman's rank correlation ρ with the layer's number has
p < {MAX_P_OF_A_TREND} (two-sided, as if layers were independent) over
{MIN_LAYERS_OF_A_TREND} layers or more; it describes this model on these data."""


class Picture(NamedTuple):
    """A figure of the report.

    Attributes:
        name: Name of its file, without .png.
        figure: What is drawn.
        alt: What it shows, for those who do not see it.
        caption: What is drawn, and by which formula.
    """

    name: str
    figure: Figure
    alt: str
    caption: str


class Table(NamedTuple):
    """A table of the report; the first cell of each row is its heading."""

    caption: str
    columns: List[str]
    rows: List[List[str]]


class Trend(NamedTuple):
    """How a quantity changes with depth.

    Attributes:
        direction: 1 rises, -1 falls, 0 no clear trend; None: too few layers to tell.
        words: The same as the end of a sentence, with numbers.
    """

    direction: Optional[int]
    words: str


def write_report(analysis: Dict, example: Optional[Dict], output: Path) -> None:
    """Write the figures and report.html, each file whole or not at all.

    Args:
        analysis: Contents of analysis.json.
        example: One utterance with its maps (see `figures.draw_map`), or None.
        output: Folder to write; it exists.
    """
    sections = {}
    for heading, pictures in draw_pictures(analysis, example).items():
        sections[heading] = []
        for picture in pictures:
            png = figures.render(picture.figure)
            _write(output / f"{picture.name}.png", png)
            sections[heading].append((picture, base64.b64encode(png).decode("ascii")))
    page = format_page(analysis, example, sections)
    _write(output / "report.html", page.encode("utf-8"))


def format_page(
    analysis: Dict,
    example: Optional[Dict],
    sections: Dict[str, List[Tuple[Picture, str]]],
) -> str:
    """Return the report as HTML.

    Args:
        analysis: Contents of analysis.json.
        example: One utterance (see `figures.draw_map`), or None.
        sections: Figures by the section's heading, each with its PNG file in base64.
    """
    return PAGE.render(
        **analysis,
        example=example,
        MAPS=MAPS,
        findings=describe_findings(analysis),
        trend_note=TREND,
        omissions=describe_omissions(analysis),
        suggested=tabulate_suggestions(analysis["suggestions"]),
        per_layer=tabulate_layers(analysis),
        sections=sections,
        tables=tabulate(analysis),
    )


def draw_pictures(analysis: Dict, example: Optional[Dict]) -> Dict[str, List[Picture]]:
    """Draw all figures that the analysis has results for, by the section's heading."""
    sections = {"Diagonality": _draw_diagonality(analysis)}
    if analysis["phoneme_attention"]:
        sections["Roles of the layers"] = _draw_roles(analysis)
        sections["Phoneme attention"] = _draw_phoneme_attention(analysis)
    sections["Entropy"] = _draw_entropy(analysis)
    if _has_probe(analysis):
        sections["Probe"] = _draw_probe(analysis)
    sections["Similarity of layers"] = _draw_similarity(analysis)
    if example is not None:
        sections[MAPS] = _draw_maps(analysis, example)
    return sections


def _draw_diagonality(analysis):
    cad = to_array(analysis["diagonality"]["cad"])
    return [
        Picture(
            "cad",
            figures.draw_cad(analysis),
            f"Heat map of CAD by layer and head. {_describe_extremes(cad)}",
            "CAD of each layer and head: (1/T) Σ A[i, j] (1 − |i − j| / (T − 1)), mean "
            "over utterances. 1 is the identity; the colours begin at the uniform "
            "map's 2/3 or below.",
        ),
        Picture(
            "diagonality_curves",
            figures.draw_curves(analysis),
            "D(r) over r, a panel for each layer. "
            f"{_list_layers(mean_of_heads(cad), 'mean CAD')}",
            "D(r) = (1/T) Σ A[i, j] over |i − j| ≤ r (T − 1) of each layer, mean over "
            "heads and utterances (thick), before the other layers (grey). Dashed: the "
            "uniform map's, 2r − r² for long utterances. CAD is the area under D(r).",
        ),
    ]


def _draw_roles(analysis):
    cad = mean_of_heads(analysis["diagonality"]["cad"])
    lift = mean_of_heads(analysis["phoneme_attention"]["same_phoneme_lift"])
    return [
        Picture(
            "roles",
            figures.draw_roles(analysis),
            "CAD and same-phoneme lift over layers. "
            f"{_list_layers(cad, 'mean CAD')} {_list_layers(lift, 'mean lift')}",
            "Attention by position and by phoneme. Above: CAD. Below: of the attention "
            "that leaves the run, how many times more than chance goes to other "
            "occurrences of the frame's phoneme (silence left out). Dots: heads; line: "
            "their mean.",
        )
    ]


def _draw_phoneme_attention(analysis):
    explained = {
        "lift": "lift: P[p, q] over the share of all counted frames that are of q",
        "mass": "mass: P[p, q] itself",
    }
    return [
        Picture(
            f"phoneme_{quantity}_layer_{layer + 1}",
            figures.draw_phoneme_attention(analysis, quantity, layer),
            f"Heat map of phoneme attention ({quantity}) of layer {layer + 1}. "
            f"{_describe_diagonal(analysis['phoneme_attention'], quantity, layer)}",
            f"PAR of layer {layer + 1} as {words}. P[p, q] is the mean over frames i "
            "of phoneme p of the attention on frames j of q outside the unbroken run "
            "of p around i. Lines part the manners of articulation.",
        )
        for layer in figures.pick_layers(analysis["model"]["num_layers"])
        for quantity, words in explained.items()
    ]


def _draw_entropy(analysis):
    nats = to_array(analysis["entropy"]["nats"])
    return [
        Picture(
            "entropy",
            figures.draw_entropy(analysis),
            f"Heat maps of entropy by layer and head. {_describe_extremes(nats)}",
            "Entropy of each layer and head: mean over frames of −Σ A[i, j] log A[i, "
            "j] in nats, and divided by log T (1 is the uniform map), mean over "
            "utterances.",
        )
    ]


def _draw_probe(analysis):
    probe = analysis["probe"]
    values = zip(probe["places"], to_array(probe["accuracy"]), strict=True)
    listed = ", ".join(f"{place} {_number(value)}" for place, value in values)
    return [
        Picture(
            "probe",
            figures.draw_probe(analysis),
            f"Accuracy of the probe by layer: {listed}.",
            "Accuracy of a linear classifier from frozen hidden states to the frame's "
            "phoneme, on speakers that it was not trained on. Majority: always the "
            "most frequent phoneme; chance: any of the classes.",
        )
    ]


def _draw_similarity(analysis):
    outlines = (
        " Outlined: suggested groups; dashed: uniform groups with as many producers. "
        "Cost: sum over consumers of the distance to their producer."
    )
    return [
        Picture(
            "similarity",
            figures.draw_similarity(analysis),
            "Distance between the maps of any two layers. "
            f"{_list_layers(_to_next(analysis), 'distance to the next layer')}",
            "Distance between two layers' maps: mean over frames of the Jensen-Shannon "
            "distance of their rows (√ of the divergence, base 2; 0 equal, 1 "
            "disjoint), mean over heads after the best matching."
            f"{outlines if analysis['suggestions'] else ''}",
        )
    ]


def _draw_maps(analysis, example):
    pictures = []
    for layer in figures.pick_layers(analysis["model"]["num_layers"]):
        cad = to_array(analysis["diagonality"]["cad"][layer])
        order = np.argsort(cad)[: max(1, np.isfinite(cad).sum())]  # NaN is last
        kinds = {order[0]: "least diagonal", order[-1]: "most diagonal"}
        if len(order) == 1:
            kinds = {order[0]: "only"}
        for head, kind in kinds.items():
            what = (
                f"layer {layer + 1}, head {head + 1}, its {kind} head over all "
                f"utterances (CAD {_number(cad[head])})"
            )
            pictures.append(
                Picture(
                    f"map_layer_{layer + 1}_head_{head + 1}",
                    figures.draw_map(analysis, example, layer, head),
                    f"Attention map of {what}.",
                    f"Attention map A[i, j] of {what}.",
                )
            )
    return pictures


def find_trend(values: np.ndarray, group_sizes: Optional[Sequence[int]]) -> Trend:
    """Return how a quantity of the layers changes with depth.

    Args:
        values: A value for each layer (L,), NaN where undefined.
        group_sizes: The model's own groups; of these only producers count, for a
            consumer's map is its producer's. None without reuse.
    """
    producers = np.cumsum([0, *(group_sizes or [1] * len(values))])[:-1]
    kept = [layer for layer in producers if math.isfinite(values[layer])]
    measured = _count(len(kept), "producer" if group_sizes else "layer")
    changes = len(kept) > 1 and np.ptp(values[kept]) > 0
    if changes:
        correlation = spearmanr(kept, values[kept])
        measured = f"Spearman's ρ = {_signed(correlation.statistic)} over {measured}"
    if len(kept) < MIN_LAYERS_OF_A_TREND:
        return Trend(None, f"cannot be said to have a trend ({measured}: too few)")
    if not changes:
        return Trend(0, f"does not change with depth ({measured})")
    if not correlation.pvalue < MAX_P_OF_A_TREND:
        return Trend(0, f"has no clear trend with depth ({measured})")
    direction = int(math.copysign(1, correlation.statistic))
    verb = "rises" if direction > 0 else "falls"
    return Trend(direction, f"{verb} with depth ({measured})")


def describe_findings(analysis: Dict) -> List[str]:
    """Say in sentences what the numbers show, whichever way they come out."""
    group_sizes = analysis["model"]["reuse_group_size"]
    cad = to_array(analysis["diagonality"]["cad"])
    by_position = find_trend(mean_of_heads(cad), group_sizes)
    findings = [
        f"By position: the layers' mean CAD {by_position.words}. "
        f"{_describe_halves(mean_of_heads(cad), 'CAD')}"
        f"{_describe_extremes(cad)} The uniform map has about 2/3."
    ]
    if analysis["phoneme_attention"]:
        lift = to_array(analysis["phoneme_attention"]["same_phoneme_lift"])
        by_phoneme = find_trend(mean_of_heads(lift), group_sizes)
        findings.append(
            f"By phoneme: the layers' mean same-phoneme lift {by_phoneme.words}. "
            f"{_describe_halves(mean_of_heads(lift), 'lift')}"
            f"{_describe_extremes(lift)} Chance is 1."
        )
        if np.nanmax(mean_of_heads(lift), initial=0) > 1:
            roles = _describe_roles(by_position.direction, by_phoneme.direction)
            findings.append(roles)
        else:
            findings.append(
                "No layer attends by phoneme: no mean lift is above chance."
            )
    if _has_probe(analysis):
        findings.append(_describe_probe(analysis["probe"]))
    findings += _describe_neighbours(analysis)
    findings += [_describe_suggestion(each) for each in analysis["suggestions"]]
    return findings


def _describe_roles(by_position: Optional[int], by_phoneme: Optional[int]) -> str:
    division = "lower layers attend by phoneme and upper ones by position"
    if by_position is None or by_phoneme is None:
        return f"Whether {division}, as Shim et al. describe, cannot be told here."
    if (by_position, by_phoneme) == (1, -1):
        return f"Both agree with what Shim et al. describe: {division}."
    if (by_position, by_phoneme) == (-1, 1):
        return f"Both are the reverse of what Shim et al. describe: {division}."
    return f"Together they do not show what Shim et al. describe: {division}."


def _describe_probe(probe: Dict) -> str:
    accuracy = to_array(probe["accuracy"])
    if not np.isfinite(accuracy).any():
        return "The probe's accuracy is undefined."
    best = int(np.nanargmax(accuracy))
    where = "in the input of layer 1" if best == 0 else f"after layer {best}"
    held_out = (
        f"{probe['test_frames']:,} frames of "
        f"{_count(len(probe['test_speakers']), 'held-out speaker')}"
    )
    text = (
        f"A linear probe reads the phoneme best {where}: {_percent(accuracy[best])} of "
        f"{held_out}, against {_percent(accuracy[0])} in the input and "
        f"{_percent(accuracy[-1])} after the last layer (majority "
        f"{_percent(probe['majority'])}, chance {_percent(probe['chance'])})."
    )
    if accuracy[best] <= probe["majority"]:
        text += " That is no better than to say the most frequent phoneme always."
    return text


def _describe_neighbours(analysis: Dict) -> List[str]:
    distance = to_array(analysis["similarity"]["js_distance"]["matched"])
    sizes = analysis["model"]["reuse_group_size"] or [1] * len(distance)
    group = np.repeat(np.arange(len(sizes)), sizes)
    # inside a group of the model's own, the maps are one
    apart = {
        (a, b): distance[a, b]
        for a, b in itertools.combinations(range(len(distance)), 2)
        if group[a] != group[b] and math.isfinite(distance[a, b])
    }
    neighbours = {pair: apart[pair] for pair in apart if pair[1] - pair[0] == 1}
    if not neighbours:
        return []
    lower, upper = min(neighbours, key=neighbours.get)
    own = " with maps of their own" if max(sizes) > 1 else ""
    return [
        f"Neighbouring layers{own} are {np.mean(list(neighbours.values())):.3f} apart "
        "on average (Jensen-Shannon distance, matched heads), all pairs "
        f"{np.mean(list(apart.values())):.3f}; the neighbours most alike are layers "
        f"{lower + 1} and {upper + 1} ({neighbours[lower, upper]:.3f})."
    ]


def _describe_suggestion(suggestion: Dict) -> str:
    suggested, uniform = suggestion["suggested"], suggestion["uniform"]
    text = (
        f"{_count(len(suggested['reuse_group_size']), 'producer')} "
        f"({suggestion['option']}): groups {suggested['reuse_group_size']} cost "
        f"{suggested['cost']:.3f}"
    )
    if suggested["reuse_group_size"] == uniform["reuse_group_size"]:
        return f"{text}; they are the uniform groups."
    text += f", uniform groups {uniform['reuse_group_size']} {uniform['cost']:.3f}"
    if uniform["cost"] > 0:
        text += f" ({_percent(1 - suggested['cost'] / uniform['cost'])} less)"
    return f"{text}."


def describe_omissions(analysis: Dict) -> List[str]:
    """Say which parts have no results, and why."""
    omissions = []
    probe = analysis["probe"]
    if not analysis["phoneme_attention"]:
        why = (
            "the analysis was run without alignments"
            if analysis["data"]["alignments"] == "none"
            else "no utterance has phones"
        )
        omissions.append(f"Phoneme attention and the roles of layers: {why}.")
    if not _has_probe(analysis):
        why = probe["skipped"] if probe else "it needs phones, and there are none"
        omissions.append(f"Probe: {why}.")
    return omissions


def tabulate_suggestions(suggestions: List[Dict]) -> List[Dict]:
    """Return rows of suggested groups, each before the uniform ones."""
    return [
        {
            "option": suggestion["option"],
            "kind": kind,
            "producers": len(suggestion[kind]["reuse_group_size"]),
            "yaml": f"reuse_group_size: {suggestion[kind]['reuse_group_size']}",
            "cost": _number(suggestion[kind]["cost"]),
            "speed_up": f"{suggestion[kind]['speed_up']:.2f}x",
        }
        for suggestion in suggestions
        for kind in ("suggested", "uniform")
    ]


def tabulate_layers(analysis: Dict) -> Table:
    """Return one row of numbers for each layer."""
    columns = {
        "CAD": mean_of_heads(analysis["diagonality"]["cad"]),
        "entropy / log T": mean_of_heads(analysis["entropy"]["normalised"]),
    }
    if analysis["phoneme_attention"]:
        lift = analysis["phoneme_attention"]["same_phoneme_lift"]
        columns["same-phoneme lift"] = mean_of_heads(lift)
    if _has_probe(analysis):
        columns["probe accuracy"] = to_array(analysis["probe"]["accuracy"])[1:]
    columns["distance to the next layer"] = _to_next(analysis)
    return Table(
        "Values of each layer, mean over heads",
        ["layer", *columns],
        [
            [str(layer), *map(_number, values)]
            for layer, values in enumerate(zip(*columns.values(), strict=True), 1)
        ],
    )


def tabulate(analysis: Dict) -> List[Table]:
    """Return all numbers behind the figures but for those of single phonemes."""

    def by_head(caption, values):
        values = to_array(values)
        heads = [f"head {n}" for n in range(1, values.shape[1] + 1)]
        rows = [
            [str(layer), *map(_number, [*row, mean])]
            for layer, (row, mean) in enumerate(
                zip(values, mean_of_heads(values), strict=True), 1
            )
        ]
        return Table(caption, ["layer", *heads, "mean"], rows)

    def by_layer(caption, values):
        layers = [str(n) for n in range(1, len(values) + 1)]
        rows = [
            [layer, *map(_number, row)]
            for layer, row in zip(layers, to_array(values), strict=True)
        ]
        return Table(caption, ["layer", *layers], rows)

    tables = [
        by_head("CAD", analysis["diagonality"]["cad"]),
        by_head("Entropy (nats)", analysis["entropy"]["nats"]),
        by_head("Entropy / log T", analysis["entropy"]["normalised"]),
    ]
    if analysis["phoneme_attention"]:
        lift = analysis["phoneme_attention"]["same_phoneme_lift"]
        tables.append(by_head("Same-phoneme lift", lift))
    if _has_probe(analysis):
        probe = analysis["probe"]
        accuracy = map(_number, to_array(probe["accuracy"]))
        rows = [list(row) for row in zip(probe["places"], accuracy, strict=True)]
        tables.append(Table("Probe", ["after layer", "accuracy"], rows))
    similarity = analysis["similarity"]
    for measure, name in (
        ("js_distance", "Jensen-Shannon distance"),
        ("cosine", "Cosine similarity"),
    ):
        for heads, words in (("matched", "matched heads"), ("same_head", "same head")):
            tables.append(by_layer(f"{name}, {words}", similarity[measure][heads]))
    return tables


def _has_probe(analysis):
    return bool(analysis["probe"]) and "skipped" not in analysis["probe"]


def _describe_extremes(values: np.ndarray) -> str:
    """Say which head (L, H) has the most and which the least."""
    if values.size == 1 or not np.isfinite(values).any():
        return ""
    ends = [
        f"{values[place]:.2f} (layer {place[0] + 1}, head {place[1] + 1})"
        for place in (
            np.unravel_index(find(values), values.shape)
            for find in (np.nanargmin, np.nanargmax)
        )
    ]
    return f"Heads range from {ends[0]} to {ends[1]}."


def _describe_halves(values: np.ndarray, name: str) -> str:
    """Compare the layers' (L,) lower half with the upper one."""
    middle = len(values) // 2
    if middle == 0 or not np.isfinite(values).all():
        return ""
    halves = []
    for first, last in ((1, middle), (middle + 1, len(values))):
        span = f"layer {first}" if first == last else f"layers {first} to {last}"
        halves.append(f"{values[first - 1 : last].mean():.2f} in {span}")
    return f"Mean {name} is {', '.join(halves)}. "


def _list_layers(values: np.ndarray, name: str) -> str:
    listed = ", ".join(_number(value) for value in values if math.isfinite(value))
    return f"From the first layer, {name}: {listed}." if listed else ""


def _describe_diagonal(results: Dict, quantity: str, layer: int) -> str:
    values = np.diag(to_array(results[quantity][layer]))
    if not np.isfinite(values).any():
        return ""
    most = int(np.nanargmax(values))
    return (
        f"On the diagonal, which is the same phoneme, the median is "
        f"{_number(np.nanmedian(values))}, the most {_number(values[most])} "
        f"({results['phonemes'][most]})."
    )


def _to_next(analysis: Dict) -> np.ndarray:
    """Return each layer's distance to the next one (L,), NaN for the last."""
    distance = to_array(analysis["similarity"]["js_distance"]["matched"])
    return np.append(np.diag(distance, 1), np.nan)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else UNDEFINED


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else UNDEFINED


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _write(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds it whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


# Content-Security-Policy: a browser then refuses whatever is not in the page itself.
PAGE = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).from_string("""\
{% macro show_table(table) %}
<div class="table" role="region" aria-label="{{ table.caption }}" tabindex="0">
<table>
<caption>{{ table.caption }}</caption>
<thead>
<tr>{% for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row[0] }}</th>
{%- for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
{% macro show_pairs(pairs) %}
<dl>
{% for name, value in pairs %}
<dt>{{ name }}</dt><dd>{{ value if value is not none else "none" }}</dd>
{% endfor %}
</dl>
{% endmacro %}
{% macro show_section(heading) %}
<section id="{{ heading | lower | replace(" ", "-") }}">
<h2>{{ heading }}</h2>
{{ caller() }}
</section>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>Attention maps of {{ model.encoder }} on {{ data.data_dir }}</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; background: white;
  color: #222; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #bbb; font-size: 1.25rem; }
p, ul, dl, details { max-width: 48rem; }
li { margin-bottom: .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; }
.figures { display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 48rem; font-size: .875rem; color: #444; }
.table { margin: 1.5rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { padding-bottom: .3rem; font-weight: 600; text-align: left; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
thead th { border-bottom: 1px solid #222; }
.text { text-align: left; }
@media (max-width: 40rem) { dl { display: block; } dd { margin-bottom: .5rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .figures { display: block; }
  figure { margin-bottom: 1rem; }
  h2, caption { break-after: avoid; }
  table { break-inside: avoid; }
  .table { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .25rem; }
}
</style>
</head>
<body>
<main>
<h1>Attention maps of {{ model.encoder }} on {{ data.data_dir }}</h1>
{% call show_section("What was analysed") %}
{{ show_pairs([
  ("Config", model.asr_train_config),
  ("Model", model.asr_model_file),
  ("Encoder", model.encoder),
  ("Layers", model.num_layers),
  ("Heads", model.num_heads),
  ("Map reuse", "groups %s" % model.reuse_group_size
    if model.reuse_group_size else "none: every layer has maps of its own"),
  ("Data", data.data_dir),
  ("Utterances", data.utterances),
  ("Speakers", data.speakers or "unknown"),
  ("Duration", "%.1f s" % data.seconds),
  ("Frames", "%d, every %.4g ms from %.4g ms"
    % (data.frames, model.frame_shift_ms, model.first_frame_ms)),
  ("Alignments", data.alignments),
  ("Utterances with phones", data.aligned),
]) }}
{% if model.reuse_group_size %}
<p>This model reuses maps: the layers of a group have one, their producer's. Their
distance is 0 by construction, and trends with depth count producers only.</p>
{% endif %}
{% if data.skipped %}
<p>Left out of phoneme attention and probe, by reason:</p>
{% for reason, ids in data.skipped.items() %}
<details><summary>{{ reason }}: {{ ids | length }}</summary>
<p>{{ ids | join(", ") }}</p></details>
{% endfor %}
{% endif %}
{% endcall %}
{% call show_section("What it shows") %}
<ul>
{% for finding in findings %}
<li>{{ finding }}</li>
{% endfor %}
</ul>
{% for omission in omissions %}
<p><strong>Left out.</strong> {{ omission }}</p>
{% endfor %}
<p>{{ trend_note }}</p>
{{ show_table(per_layer) }}
{% endcall %}
{% call show_section("Suggested groups") %}
{% if suggested %}
<p>Ready for <code>encoder_conf</code> of a reuse encoder. Cost: the sum over consumers
of the distance between their own map and their producer's (Jensen-Shannon, matched
heads). Encoder: how many times fewer floating point operations than without reuse,
estimated, not timed. What the groups do to the error rate only training tells.</p>
<div class="table" role="region" aria-label="Suggested groups" tabindex="0">
<table>
<thead>
<tr><th scope="col" class="text">groups</th><th scope="col" class="text">YAML</th>
<th scope="col">producers</th><th scope="col">cost</th><th scope="col">encoder</th></tr>
</thead>
<tbody>
{% for row in suggested %}
<tr><th scope="row" class="text">{{ row.kind }}
{%- if row.kind == "suggested" %} by <code>{{ row.option }}</code>{% endif %}</th>
<td class="text"><code>{{ row.yaml }}</code></td>
<td>{{ row.producers }}</td><td>{{ row.cost }}</td><td>{{ row.speed_up }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>No groups were asked for.</p>
{% endif %}
{% endcall %}
{% for heading, pictures in sections.items() %}
{% call show_section(heading) %}
{% if heading == MAPS %}
<p>Utterance {{ example.utterance }}
{%- if example.text is not none %}: “{{ example.text }}”{% endif %}.</p>
{% endif %}
<div class="figures">
{% for picture, png in pictures %}
{# at 96 px to the inch, letters are as large in all figures #}
{% set width, height = picture.figure.get_size_inches() %}
<figure>
<img src="data:image/png;base64,{{ png }}" alt="{{ picture.alt }}"
 width="{{ "%.0f" % (96 * width) }}" height="{{ "%.0f" % (96 * height) }}">
<figcaption>{{ picture.caption }} <code>{{ picture.name }}.png</code></figcaption>
</figure>
{% endfor %}
</div>
{% endcall %}
{% endfor %}
{% call show_section("Tables") %}
<p>analysis.json holds these numbers and those of single phonemes.</p>
{% for table in tables %}
{{ show_table(table) }}
{% endfor %}
{% endcall %}
{% call show_section("Definitions") %}
<p>Our own definitions, not those of the paper (Shim, Choi and Sung, ICLR 2022).</p>
{{ show_pairs(definitions.items()) }}
{% endcall %}
{% call show_section("The run") %}
{{ show_pairs(run.items()) }}
{% endcall %}
</main>
</body>
</html>
""")
