# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the report shows of an analysis, and that it shows it anywhere."""

import base64
import contextlib
import html
import io
import itertools
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import yaml
from PIL import Image

from espnet_reuse.analysis import figures
from espnet_reuse.analysis.figures import UNDEFINED
from espnet_reuse.analysis.report import (
    describe_findings,
    draw_pictures,
    find_trend,
    format_page,
    write_report,
)

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)

GROUPS = [
    ("stops", "P B T D K G"),
    ("affricates", "CH JH"),
    ("fricatives", "F V TH DH S Z SH ZH HH"),
    ("nasals", "M N NG"),
    ("liquids", "L R"),
    ("glides", "W Y"),
    ("vowels", "IY IH EH AE AA AH AO UH UW ER"),
    ("diphthongs", "EY AY OY AW OW"),
    ("silence", "SIL"),
]
SMALL_GROUPS = [("stops", "P B"), ("silence", "SIL")]
WORDS = "the analysis of <attention> & maps"


def make_analysis(
    num_layers=12, num_heads=4, groups=GROUPS, producers=(6, 4, 3), seed=0
):
    """Make what an analysis of a model might be: upper layers are more diagonal."""
    rng = np.random.default_rng(seed)
    groups = [(name, symbols.split()) for name, symbols in groups]
    phonemes = [symbol for _, symbols in groups for symbol in symbols]
    size = num_layers, num_heads, len(phonemes), len(phonemes)
    depth = np.linspace(0, 1, num_layers)
    radii = np.linspace(0, 1, 101)
    spread = np.exp(-4 * depth[:, None] - rng.uniform(0, 1, (num_layers, num_heads)))
    curve = 1 - (1 - radii) ** (2 / spread[..., None])
    cad = np.trapezoid(curve, radii)
    group_of = [name for name, symbols in groups for _ in symbols]
    same_group = np.equal.outer(group_of, group_of)
    likeness = 1.2 * np.eye(size[-1]) + 0.8 * same_group - 0.3
    frames = rng.integers(50, 2000, size[-1])
    lift_by_head = np.exp(
        likeness * (1 - depth)[:, None, None, None] * 1.5 + rng.normal(0, 0.35, size)
    )
    mass_by_head = lift_by_head * frames / frames.sum()
    distance = (
        np.abs(depth[:, None] - depth) ** 0.5 * (1.2 - depth[:, None] * depth) * 0.6
    )

    def describe(sizes):
        cost = sum(
            distance[start, start : start + size].sum()
            for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False)
        )
        return {
            "reuse_group_size": list(sizes),
            "cost": float(cost),
            "speed_up": 2 * num_layers / (num_layers + len(sizes)),
        }

    def suggest(count):
        partitions = (
            np.diff([0, *ends, num_layers]).tolist()
            for ends in itertools.combinations(range(1, num_layers), count - 1)
        )
        return min(map(describe, partitions), key=lambda groups: groups["cost"])

    return {
        "run": {
            "date": "2026-11-23 05:00 UTC",
            "command": "python -m espnet_reuse.bin.analyze --asr_train_config "
            "exp/asr_train_asr_conformer_raw_en_bpe5000_sp/config.yaml --data_dir "
            "dump/raw/test_other",
            "commit": "0123456789abcdef0123456789abcdef01234567-dirty",
            "gpu": None,
            "cores": 2,
        },
        "model": {
            "asr_train_config": "exp/asr_conformer/config.yaml",
            "asr_model_file": "exp/asr_conformer/valid.acc.ave.pth",
            "encoder": "ConformerEncoder",
            "num_layers": num_layers,
            "num_heads": num_heads,
            "reuse_group_size": None,
            "frame_shift_ms": 40.0,
            "first_frame_ms": 30.0,
        },
        "data": {
            "data_dir": "dump/raw/test_other",
            "alignments": "pocketsphinx 5.0.4",
            "utterances": 200,
            "seconds": 1234.5,
            "frames": 30862,
            "speakers": 33,
            "aligned": 197,
            "skipped": {
                "unknown words": ["utt-<b>", "utt-2"],
                "no alignment": ["utt-3"],
            },
        },
        "definitions": {"CAD": "1 - |i-j|/(T-1) <mean>", "PAR": "P[p,q] & more"},
        "diagonality": {
            "cad": cad.tolist(),
            "radii": radii.tolist(),
            "curve": curve.tolist(),
        },
        "entropy": {
            "nats": (5 * spread + 0.3).tolist(),
            "normalised": (spread * 0.9 + 0.05).tolist(),
        },
        "phoneme_attention": {
            "phonemes": phonemes,
            "groups": groups,
            "frames": frames.tolist(),
            "mass": mass_by_head.mean(1).tolist(),
            "lift": lift_by_head.mean(1).tolist(),
            "mass_by_head": mass_by_head.tolist(),
            "lift_by_head": lift_by_head.tolist(),
            "same_phoneme_lift": (
                np.einsum("lhpp->lh", lift_by_head) / size[-1]
            ).tolist(),
        },
        "probe": {
            "places": ["input", *map(str, range(1, num_layers + 1))],
            "accuracy": [0.31, *(0.4 + 0.35 * np.sin(1 + 1.5 * depth)).tolist()],
            "chance": 1 / len(phonemes),
            "majority": 0.11,
            "classes": len(phonemes),
            "train_frames": 7500,
            "test_frames": 2500,
            "train_speakers": [f"speaker{n}" for n in range(25)],
            "test_speakers": [f"speaker{n}" for n in range(25, 33)],
        },
        "similarity": {
            "js_distance": {
                "matched": distance.tolist(),
                "same_head": (distance * 1.2).tolist(),
            },
            "cosine": {
                "matched": (1 - distance).tolist(),
                "same_head": (1 - 1.2 * distance).tolist(),
            },
        },
        "suggestions": [
            {
                "option": f"--suggest {count}",
                "suggested": suggest(count),
                "uniform": describe(
                    [len(part) for part in np.array_split(range(num_layers), count)]
                ),
            }
            for count in producers
        ],
    }


def make_example(analysis, seconds=7.0, seed=0):
    """Make maps between an attention to equal phones and to neighbours."""
    rng = np.random.default_rng(seed)
    num_layers = analysis["model"]["num_layers"]
    num_heads = analysis["model"]["num_heads"]
    groups = [symbols.split() for _, symbols in GROUPS]
    symbols = [symbol for group in groups for symbol in group]
    phones, end = [], 0.0
    while end < seconds:
        start, end = end, end + rng.uniform(0.03, 0.15)
        phones.append((str(rng.choice(symbols)), start, end))
    times = np.arange(0.03, seconds, 0.04)
    said = [next(s for s, start, end in phones if start <= t < end) for t in times]
    same = np.equal.outer(said, said)
    distance = np.abs(np.subtract.outer(times, times))
    maps = np.empty((num_layers, num_heads, len(times), len(times)), np.float32)
    for layer in range(num_layers):
        for head in range(num_heads):
            near = np.exp(-distance / 0.05 / (1 + head))
            up = (layer + 1) / num_layers
            maps[layer, head] = (
                up * near + (1 - up) * same * 0.2 + 0.01 * rng.random(same.shape)
            )
    maps /= maps.sum(-1, keepdims=True)
    return {
        "utterance": "1089-134686-0000",
        "text": WORDS,
        "frame_times": times,
        "phones": phones,
        "maps": maps.astype(np.float16),
    }


@pytest.fixture(autouse=True)
def coarse(request, monkeypatch):
    """Draw quickly, except where the report is looked at."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(figures, "DPI", 30)


@pytest.fixture
def small():
    return make_analysis(2, 1, SMALL_GROUPS, producers=(1,))


class Page(HTMLParser):
    """What a reader of a page finds: tables by caption, text, tags, attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.images, self.tables = set(), [], [], {}
        self.sections, self.texts, self.open = [], [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "caption" in self.open:
            self.caption += data
        if "h2" in self.open:
            self.sections.append(data)

    def numbers(self, caption):
        """Return a table's numbers without headings; NaN where there is a dash."""
        _, *rows = self.tables[caption]
        return [
            [math.nan if cell == UNDEFINED else float(cell) for cell in row[1:]]
            for row in rows
        ]


def write(analysis, example, folder):
    write_report(analysis, example, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def compose(analysis, example=None):
    """Make the page without its figures."""
    return Page(format_page(analysis, example, {}))


def decode(image):
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(data)


def close(found, expected):
    return np.testing.assert_allclose(
        np.array(found, float), np.array(expected, float), atol=6e-4
    )


def no_phonemes(analysis):
    analysis |= {"phoneme_attention": None, "probe": None}


def undefined_values(analysis):
    """Leave undefined whatever a rare phoneme or a broken head leaves undefined."""
    attention = analysis["phoneme_attention"]
    for quantity in ("mass", "lift"):
        attention[quantity][0][0] = [None] * len(attention["phonemes"])
    attention["same_phoneme_lift"][0] = [None] * len(attention["same_phoneme_lift"][0])
    analysis["diagonality"]["cad"][0][0] = None
    analysis["entropy"]["nats"][0][0] = analysis["entropy"]["normalised"][0][0] = None
    analysis["probe"]["accuracy"][0] = None


def everything_undefined(analysis):
    def erase(values):
        return [erase(v) for v in values] if isinstance(values, list) else None

    for part, names in {
        "diagonality": ["cad", "curve"],
        "entropy": ["nats", "normalised"],
        "phoneme_attention": ["mass", "lift", "same_phoneme_lift"],
        "probe": ["accuracy"],
    }.items():
        analysis[part] |= {name: erase(analysis[part][name]) for name in names}


def extreme_values(analysis):
    """Zero lift and mass, as identity maps have, and no suggestions."""
    analysis["suggestions"] = []
    attention = analysis["phoneme_attention"]
    for name in ("mass", "lift", "same_phoneme_lift"):
        attention[name] = np.zeros_like(attention[name]).tolist()
    analysis["entropy"]["nats"] = np.zeros_like(analysis["entropy"]["nats"]).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("size", "change"),
    [
        ((1, 2), undefined_values),
        ((1, 2), everything_undefined),
        ((1, 1), extreme_values),
        ((5, 1), no_phonemes),
    ],
    ids=["undefined values", "all undefined", "zeros", "no phonemes"],
)
def test_a_report_of_any_size_embeds_the_figures_that_it_writes(size, change, tmp_path):
    analysis = make_analysis(*size, SMALL_GROUPS, producers=(1,))
    change(analysis)
    example = make_example(analysis, 0.2) | {"phones": [], "text": None}
    page = write(analysis, example, tmp_path)
    embedded = [decode(image) for image in page.images]
    files = [file.read_bytes() for file in tmp_path.glob("*.png")]
    assert sorted(embedded) == sorted(files) and len(files) >= 5
    for png in files:
        assert Image.open(io.BytesIO(png)).convert("L").getextrema()[0] < 128
    assert all(image["alt"] for image in page.images)
    assert not re.search(r"\b(nan|None|inf)\b", page.text)
    assert all(link.startswith("data:") for link in page.links)
    assert not page.tags & {"script", "iframe", "object", "base"}


def test_tables_hold_the_numbers_of_the_analysis():
    analysis = make_analysis(3, 2, SMALL_GROUPS, producers=(2,))
    undefined_values(analysis)
    page = compose(analysis)
    for caption, values in {
        "CAD": analysis["diagonality"]["cad"],
        "Entropy (nats)": analysis["entropy"]["nats"],
        "Entropy / log T": analysis["entropy"]["normalised"],
        "Same-phoneme lift": analysis["phoneme_attention"]["same_phoneme_lift"],
    }.items():
        *heads, mean = np.transpose(page.numbers(caption))
        close(np.transpose(heads), values)
        per_layer = np.array(values, float)
        per_layer[0, 0] = per_layer[0, 1]  # of the defined heads
        close(mean, per_layer.mean(1))
    accuracy = analysis["probe"]["accuracy"]
    close(page.numbers("Probe"), np.transpose([accuracy]))
    matrices = analysis["similarity"]
    for caption, values in {
        "Jensen-Shannon distance, matched heads": matrices["js_distance"]["matched"],
        "Jensen-Shannon distance, same head": matrices["js_distance"]["same_head"],
        "Cosine similarity, matched heads": matrices["cosine"]["matched"],
        "Cosine similarity, same head": matrices["cosine"]["same_head"],
    }.items():
        close(page.numbers(caption), values)
    summary = np.transpose(page.numbers("Values of each layer, mean over heads"))
    close(summary[3], accuracy[1:])
    close(summary[4][:2], np.diag(matrices["js_distance"]["matched"], 1))
    assert np.isnan(summary[4][2])


def test_suggested_groups_are_lines_of_yaml_beside_their_cost(small):
    small["suggestions"] *= 2
    small["suggestions"][1] = {
        "option": "--suggest_max_distance 0.3",
        "suggested": {"reuse_group_size": [1, 1], "cost": 0.0, "speed_up": 1.0},
        "uniform": {"reuse_group_size": [1, 1], "cost": 0.0, "speed_up": 1.0},
    }
    page = compose(small)
    _, *rows = page.tables[""]
    expected = [
        (suggestion["option"] if kind == "suggested" else "", suggestion[kind])
        for suggestion in small["suggestions"]
        for kind in ("suggested", "uniform")
    ]
    assert len(rows) == len(expected) == 4
    for (name, yaml_line, producers, cost, speed_up), (option, groups) in zip(
        rows, expected, strict=True
    ):
        sizes = groups["reuse_group_size"]
        assert yaml.safe_load(yaml_line) == {"reuse_group_size": sizes}
        assert option in name and int(producers) == len(sizes)
        assert float(cost) == pytest.approx(groups["cost"], abs=6e-4)
        assert float(speed_up[:-1]) == pytest.approx(groups["speed_up"], abs=6e-3)


def test_the_run_the_data_and_the_definitions_are_printed(small):
    page = compose(small)
    for part in ("run", "definitions"):
        for name, value in small[part].items():
            assert f"{name} {'none' if value is None else value}" in page.text
    for part in ("model", "data"):
        for value in small[part].values():
            if isinstance(value, (str, int)):
                assert str(value) in page.text
    for reason, ids in small["data"]["skipped"].items():
        assert f"{reason}: {len(ids)} {', '.join(ids)}" in page.text


def test_text_from_data_is_text_wherever_it_stands(tmp_path):
    small = make_analysis(1, 1, SMALL_GROUPS, producers=(1,))
    # as a formula, this would have no exponent
    evil = "<script>alert('$x^$')</script>&amp;\"\\"
    small["run"] |= {evil: evil}
    small["definitions"][evil] = evil
    small["model"]["encoder"] = small["data"]["data_dir"] = evil
    small["data"]["skipped"][evil] = [evil]
    small["suggestions"][0]["option"] = evil
    small["probe"]["places"][0] = evil
    attention = small["phoneme_attention"]
    attention["phonemes"][0] = attention["groups"][0][1][0] = evil
    example = make_example(small, 0.4)
    example |= {"utterance": evil, "text": evil, "phones": [(evil, 0.0, 0.4)]}
    page = write(small, example, tmp_path)
    assert "script" not in page.tags
    assert page.links and all(link.startswith("data:") for link in page.links)
    # title and heading, model, data, groups, skipped, option, probe, utterance, run
    assert page.text.count(evil) >= 15


@pytest.mark.parametrize(
    ("alignments", "probe", "said"),
    [
        ("none", None, ["run without alignments", "it needs phones"]),
        ("mfa/", None, ["no utterance has phones", "it needs phones"]),
        (None, {"skipped": "only one <speaker>"}, ["only one <speaker>"]),
    ],
)
def test_what_is_left_out_is_said_with_the_reason(alignments, probe, said):
    small = make_analysis(1, 1, SMALL_GROUPS, producers=())
    example = make_example(small, 0.4)
    whole, all_figures = compose(small), draw_pictures(small, example)
    left_out = {"Probe"}
    small["probe"] = probe
    if alignments:
        small["phoneme_attention"] = None
        small["data"]["alignments"] = alignments
        left_out |= {"Roles of the layers", "Phoneme attention"}
    page, some_figures = compose(small), draw_pictures(small, None)
    left_out.add("Maps of one utterance")
    assert set(all_figures) - set(some_figures) == left_out
    assert len(page.tables) < len(whole.tables)
    assert "Left out." in page.text and "Left out." not in whole.text
    assert all(reason in page.text for reason in said)


def test_a_reader_of_the_old_report_keeps_it_whole_while_the_new_one_is_written(
    tmp_path,
):
    old_analysis, new_analysis = (
        make_analysis(1, 1, SMALL_GROUPS, producers=(), seed=seed) for seed in (0, 1)
    )
    for analysis in (old_analysis, new_analysis):
        no_phonemes(analysis)
    write(old_analysis, None, tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with contextlib.ExitStack() as stack:
        readers = {path: stack.enter_context(path.open("rb")) for path in old}
        write(new_analysis, None, tmp_path)
        assert all(readers[path].read() == old[path] for path in old)
    assert set(tmp_path.iterdir()) == set(old)
    assert (tmp_path / "cad.png").read_bytes() != old[tmp_path / "cad.png"]


@pytest.mark.parametrize(
    ("values", "group_sizes", "direction", "words"),
    [
        ([1, 2, 3, 4, 5, 6], None, 1, "rises with depth (Spearman's ρ = +1.00 over 6"),
        ([9, 8, 7, 3, 2, 0], None, -1, "falls with depth (Spearman's ρ = −1.00"),
        (
            [3, 1, 4, 1, 5, 2],
            None,
            0,
            "no clear trend with depth (Spearman's ρ = +0.14",
        ),
        ([2, 2, 2, 2, 2, 2], None, 0, "does not change with depth (6 layers)"),
        ([1, 2, 3, 4], None, None, "(Spearman's ρ = +1.00 over 4 layers: too few)"),
        ([1], None, None, "(1 layer: too few)"),
        ([1, 2, np.nan, 3, 4, 5], None, 1, "over 5 layers"),
        ([1, 1, 2, 2, 3, 3], [2, 2, 2], None, "over 3 producers: too few"),
        ([1, 0, 2, 3, 0, 4, 5, 0], [2, 1, 2, 1, 2], 1, "over 5 producers"),
    ],
)
def test_a_trend_is_one_of_enough_layers_that_computed_their_maps(
    values, group_sizes, direction, words
):
    trend = find_trend(np.array(values, float), group_sizes)
    assert trend.direction == direction and words in trend.words


@pytest.mark.parametrize(
    ("order", "scale", "said"),
    [
        (slice(None), 1, "Both agree with what"),
        (slice(None, None, -1), 1, "Both are the reverse of what"),
        ([3, 0, 5, 1, 4, 2], 1, "Together they do not show what"),
        (slice(None), 0.01, "No layer attends by phoneme"),
        ([0, 5], 1, "cannot be told here"),
    ],
    ids=["as in the paper", "reversed", "shuffled", "below chance", "few layers"],
)
def test_the_findings_follow_the_numbers(order, scale, said):
    analysis = make_analysis(6, 2, SMALL_GROUPS, producers=())
    cad = np.array(analysis["diagonality"]["cad"])[order]
    lift = np.array(analysis["phoneme_attention"]["same_phoneme_lift"])[order] * scale
    analysis["diagonality"]["cad"] = cad.tolist()
    analysis["phoneme_attention"]["same_phoneme_lift"] = lift.tolist()
    findings = " ".join(describe_findings(analysis))
    verdicts = [
        "agree with",
        "the reverse of",
        "do not show",
        "No layer attends",
        "cannot be told",
    ]
    assert said in findings
    assert sum(verdict in findings for verdict in verdicts) == 1
    layer, head = np.unravel_index(cad.argmax(), cad.shape)
    assert f"{cad.max():.2f} (layer {layer + 1}, head {head + 1})" in findings


def test_a_probe_that_knows_nothing_is_called_that(small):
    said = "no better than to say the most frequent phoneme"
    assert said not in " ".join(describe_findings(small))
    small["probe"]["accuracy"] = [0.1, 0.11, 0.05]
    findings = " ".join(describe_findings(small))
    assert said in findings and "after layer 1: 11.0 %" in findings


def test_maps_that_are_one_by_construction_are_not_called_alike():
    analysis = make_analysis(4, 1, SMALL_GROUPS, producers=())
    distance = np.array([[0, 0, 5, 5], [0, 0, 5, 5], [5, 5, 0, 0], [5, 5, 0, 0]]) / 10
    analysis["similarity"]["js_distance"]["matched"] = distance.tolist()
    assert "layers 1 and 2 (0.000)" in describe_findings(analysis)[-1]
    analysis["model"]["reuse_group_size"] = [2, 2]
    found = describe_findings(analysis)[-1]
    assert "layers 2 and 3 (0.500)" in found and "all pairs 0.500" in found


def test_layers_rise_from_the_bottom_and_heads_go_to_the_right():
    analysis = make_analysis(3, 2, SMALL_GROUPS, producers=())
    cad = analysis["diagonality"]["cad"]
    cad[2][0] = None
    figure = figures.draw_cad(analysis)
    axes = figure.axes[0]
    for text in axes.texts:
        head, layer = text.get_position()
        value = cad[layer - 1][head - 1]
        assert text.get_text() == (UNDEFINED if value is None else f"{value:.2f}")
    assert len(axes.texts) == 6
    (bottom, top), (left, right) = axes.get_ylim(), axes.get_xlim()
    assert (bottom, top, left, right) == (0.5, 3.5, 0.5, 2.5)
    (image,) = axes.images
    assert image.origin == "lower" and np.array_equal(
        image.get_array().filled(np.nan), figures.to_array(cad), equal_nan=True
    )


def test_groups_are_outlined_on_their_layers():
    analysis = make_analysis(6, 1, SMALL_GROUPS, producers=(2,))
    analysis["suggestions"][0]["suggested"]["reuse_group_size"] = [1, 5]
    axes = figures.draw_similarity(analysis).axes[0]
    outlines = [
        (patch.get_linestyle() == "solid", *patch.get_xy(), patch.get_width())
        for patch in axes.patches
    ]
    suggested, uniform = (
        [(True, 0.5, 0.5, 1), (True, 1.5, 1.5, 5)],
        [
            (False, 0.5, 0.5, 3),
            (False, 3.5, 3.5, 3),
        ],
    )
    assert outlines == suggested + uniform


def test_lift_is_centred_on_chance_and_marked_where_it_is_double(small):
    lift = [[1.0, 2.0, 4.0], [0.5, 0.0, 1.9], [100.0, None, 0.25]]
    small["phoneme_attention"]["lift"][0] = lift
    axes = figures.draw_phoneme_attention(small, "lift", 0).axes[0]
    (image,) = axes.images
    shares = image.norm(image.get_array())
    assert shares[0, 0] == 0.5
    assert shares[0, 1] - 0.5 == pytest.approx(0.5 - shares[1, 0])
    assert shares[1, 1] < 0 and shares[2, 0] > 1 and shares.mask[2, 1]
    marks = {(int(q), int(p)) for q, p in axes.lines[0].get_xydata()}
    assert marks == {(1, 0), (2, 0), (0, 2)}
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == small["phoneme_attention"]["phonemes"]


def test_long_maps_are_cut_to_the_phones_of_the_first_seconds(small):
    example = make_example(small, 5.0)
    figure = figures.draw_map(small, example, 1, 0)
    axes = figure.axes[0]
    count = int((example["frame_times"] < 3).sum())
    assert np.array_equal(
        axes.images[0].get_array(), example["maps"][1, 0, :count, :count]
    )
    shown = [label.get_text().strip() for label in axes.get_xticklabels()]
    last = example["frame_times"][count - 1] + 0.02
    assert shown == [symbol for symbol, start, _ in example["phones"] if start < last]
    assert "first 3.0 s of 5.0 s" in axes.get_title()
    whole = figures.draw_map(small, make_example(small, 1.0), 1, 0).axes[0]
    assert "first" not in whole.get_title()


def test_the_maps_shown_are_of_the_most_and_the_least_diagonal_head():
    analysis = make_analysis(2, 3, SMALL_GROUPS, producers=())
    analysis["diagonality"]["cad"] = [[0.7, 0.9, 0.8], [0.8, None, 0.7]]
    no_phonemes(analysis)
    pictures = draw_pictures(analysis, make_example(analysis, 0.4))
    assert {picture.name for picture in pictures["Maps of one utterance"]} == {
        "map_layer_1_head_1",
        "map_layer_1_head_2",
        "map_layer_2_head_3",
        "map_layer_2_head_1",
    }


def test_drawing_leaves_the_users_settings_of_matplotlib_alone(small):
    before = dict(matplotlib.rcParams)
    assert before["text.parse_math"]
    figures.render(figures.draw_cad(small))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize(
    "size", [(12, 4, GROUPS), (2, 1, SMALL_GROUPS)], ids=["large", "small"]
)
def test_a_browser_shows_the_whole_report_at_any_width(size, width, tmp_path):
    analysis = make_analysis(*size, producers=(2, 1))
    expected = write(analysis, make_example(analysis), tmp_path)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    # a frame of that width, which a page around it may measure
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">
        <iframe style="border: 0; width: {width}px; height: 8000px"
         srcdoc="{html.escape(report)}"></iframe><pre></pre><script>
        onload = () => {{
          const {{ document: page, performance }} = frames[0];
          const images = [...page.images];
          document.querySelector("pre").textContent = JSON.stringify({{
            overflow: page.documentElement.scrollWidth - {width},
            sections: [...page.querySelectorAll("h2")].map((h) => h.textContent),
            shown: images.filter((i) => i.naturalWidth && i.clientWidth > 100).length,
            fetched: performance.getEntriesByType("resource").map((e) => e.name),
          }});
          frames[0].frameElement.srcdoc = "";
        }};
        </script>"""
    )
    dom = browse("--dump-dom", frame.as_uri())
    measured = json.loads(html.unescape(re.search("<pre>(.*)</pre>", dom)[1]))
    assert measured["overflow"] <= 0
    assert measured["sections"] == expected.sections
    assert measured["shown"] == len(expected.images) > 0
    assert not [url for url in measured["fetched"] if not url.startswith("data:")]

    screenshot = tmp_path / "screenshot.png"
    browse(
        "--hide-scrollbars",
        f"--window-size={width},8000",
        f"--screenshot={screenshot}",
        (tmp_path / "report.html").as_uri(),
    )
    shades = np.asarray(Image.open(screenshot).convert("L"))
    for part in np.array_split(shades[:4000], 8):
        assert np.ptp(part) > 100  # letters or figures everywhere


def browse(*arguments):
    """Run Chromium without a window; return what it prints."""
    return subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
