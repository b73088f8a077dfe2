# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What the report shows of an analysis, and that it shows it anywhere."""

import base64
import collections
import html
import io
import json
import math
import re
import shutil
import subprocess

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from espnet_reuse.analysis import figures, report
from espnet_reuse.analysis.figures import UNDEFINED
from espnet_reuse.analysis.grouping import suggest
from espnet_reuse.analysis.phonemes import ARPABET, group_phonemes

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)

FEW = ["P", "B", "SIL"]


def make_analysis(
    num_layers=12, num_heads=4, symbols=ARPABET, producers=(6, 4, 3), max_distance=None
):
    """Make what an analysis might be, of random numbers."""
    rng = np.random.default_rng(0)
    groups = group_phonemes(symbols)
    phonemes = [symbol for _, members in groups for symbol in members]
    by_head, by_layer = (num_layers, num_heads), (num_layers, num_layers)
    by_phoneme = num_layers, len(phonemes), len(phonemes)
    distance = np.triu(rng.uniform(0.1, 1, by_layer), 1)
    distance += distance.T
    return {
        "run": {
            "date": "2026-11-23 05:00 UTC",
            "command": " ".join(["python -m espnet_reuse.bin.analyze"] * 4),
            "gpu": None,
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
            "skipped": {"unknown words": ["utt-<b>", "utt-2"], "no words": ["utt-3"]},
        },
        "definitions": {"CAD": "1 - |i-j|/(T-1) <mean>", "PAR": "P[p,q] & more"},
        "diagonality": {
            "cad": rng.uniform(0.5, 1, by_head).tolist(),
            "radii": np.linspace(0, 1, 101).tolist(),
            "curve": np.sort(rng.random((*by_head, 101))).tolist(),
        },
        "entropy": {
            "nats": rng.uniform(0, 6, by_head).tolist(),
            "normalised": rng.random(by_head).tolist(),
        },
        "phoneme_attention": {
            "phonemes": phonemes,
            "groups": groups,
            "mass": rng.dirichlet(np.ones(len(phonemes)), by_phoneme[:2]).tolist(),
            "lift": rng.lognormal(size=by_phoneme).tolist(),
            "same_phoneme_lift": rng.lognormal(size=by_head).tolist(),
        },
        "probe": {
            "places": ["input", *map(str, range(1, num_layers + 1))],
            "accuracy": rng.random(num_layers + 1).tolist(),
            "chance": 1 / len(phonemes),
            "majority": 0.11,
            "classes": len(phonemes),
            "train_frames": 7500,
            "test_frames": 2500,
            "train_speakers": [f"speaker{n}" for n in range(25)],
            "test_speakers": [f"speaker{n}" for n in range(25, 33)],
        },
        "similarity": {
            measure: {
                "matched": (distance * scale).tolist(),
                "same_head": (distance * scale * 1.2).tolist(),
            }
            for measure, scale in (("js_distance", 1), ("cosine", 0.5))
        },
        "suggestions": suggest(
            torch.tensor(distance), (2 * num_layers, 1), producers, max_distance
        ),
    }


def make_example(analysis, seconds=7.0):
    """Make random maps of an utterance with short phones."""
    rng = np.random.default_rng(0)
    ends = np.arange(0.1, seconds + 0.1, 0.1)
    times = np.arange(0.03, seconds, 0.04)
    num_heads = analysis["model"]["num_heads"]
    size = analysis["model"]["num_layers"], num_heads, len(times)
    return {
        "utterance": "1089-134686-0000",
        "text": "the analysis of <attention> & maps",
        "frame_times": times,
        "phones": [(str(rng.choice(ARPABET)), end - 0.1, end) for end in ends],
        "maps": rng.dirichlet(np.ones(len(times)), size).astype(np.float16),
    }


@pytest.fixture(autouse=True)
def coarse(request, monkeypatch):
    """Draw quickly, except where the report is looked at."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(figures, "DPI", 30)


@pytest.fixture
def small():
    return make_analysis(2, 1, FEW, producers=(1,))


class Page:
    """What a reader of a page finds: tables by caption, text, tags, links."""

    def __init__(self, page):
        self.tags = set(re.findall(r"<(\w+)", page))
        self.links = re.findall(r'(?:src|href)="([^"]*)"', page)
        self.images = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', page)
        self.sections = re.findall("<h2>(.*?)</h2>", page)
        self.text = " ".join(strip(page).split())
        self.tables = {
            strip(caption): [
                [strip(cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)]
                for row in table.split("<tr>")[1:]
            ]
            for caption, table in re.findall(
                "<caption>(.*?)</caption>(.*?)</table>", page, re.DOTALL
            )
        }

    def numbers(self, caption):
        """Return a table's numbers without headings; NaN where there is a dash."""
        _, *rows = self.tables[caption]
        return [
            [math.nan if cell == UNDEFINED else float(cell) for cell in row[1:]]
            for row in rows
        ]


def strip(markup):
    """Return the text, in which a tag is a space."""
    return html.unescape(re.sub("<.*?>", " ", markup, flags=re.DOTALL))


def write(analysis, example, folder):
    report.write_report(analysis, example, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def compose(analysis, example=None):
    """Make the page without its figures."""
    image = {"png": "", "width": 1, "height": 1}
    no_images = collections.defaultdict(lambda: image)
    return Page(report.format_page(analysis, example, no_images))


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
    for part, names in {
        "diagonality": ["cad", "curve"],
        "entropy": ["nats", "normalised"],
        "phoneme_attention": ["mass", "lift", "same_phoneme_lift"],
        "probe": ["accuracy"],
    }.items():
        for name in names:
            shape = np.shape(analysis[part][name])
            analysis[part][name] = np.full(shape, None).tolist()


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
    analysis = make_analysis(*size, FEW, producers=(1,))
    change(analysis)
    example = make_example(analysis, 0.2) | {"phones": [], "text": None}
    page = write(analysis, example, tmp_path)
    files = [file.read_bytes() for file in tmp_path.glob("*.png")]
    assert sorted(source for source, _ in page.images) == sorted(
        f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in files
    )
    assert len(files) >= 5
    for png in files:
        assert Image.open(io.BytesIO(png)).convert("L").getextrema()[0] < 128
    assert all(alt for _, alt in page.images)
    assert not re.search(r"\b(nan|None|inf)\b", page.text)
    assert all(link.startswith("data:") for link in page.links)
    assert not page.tags & {"script", "iframe", "object", "base"}


def test_tables_hold_the_numbers_of_the_analysis():
    analysis = make_analysis(3, 2, FEW, producers=(2,))
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
    distance, cosine = analysis["similarity"].values()
    names = "Jensen-Shannon distance", "Cosine similarity"
    for name, values in zip(names, (distance, cosine), strict=True):
        close(page.numbers(f"{name}, matched heads"), values["matched"])
        close(page.numbers(f"{name}, same head"), values["same_head"])
    summary = np.transpose(page.numbers("Values of each layer, mean over heads"))
    close(summary[4], accuracy[1:])
    close(summary[5], [*np.diag(distance["matched"], 1), None])


def test_suggested_groups_are_lines_of_yaml_with_their_cost():
    analysis = make_analysis(4, 1, FEW, producers=(2,), max_distance=0.1)
    _, *rows = compose(analysis).tables["Suggested and uniform groups"]
    expected = [
        (f"{kind} for {suggestion['wanted']}", suggestion[kind])
        for suggestion in analysis["suggestions"]
        for kind in ("suggested", "uniform")
    ]
    assert len(rows) == len(expected) == 4
    for (name, yaml_line, *numbers), (wanted, groups) in zip(
        rows, expected, strict=True
    ):
        sizes = groups["reuse_group_size"]
        assert name == wanted
        assert yaml.safe_load(yaml_line) == {"reuse_group_size": sizes}
        close(numbers, [len(sizes), groups["cost"], groups["speed_up"]])


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
    small = make_analysis(1, 1, FEW, producers=(1,))
    # as a formula, this would have no exponent
    evil = "<script>alert('$x^$')</script>&amp;\"\\"
    small["run"] |= {evil: evil}
    small["definitions"][evil] = evil
    small["model"]["encoder"] = small["data"]["data_dir"] = evil
    small["data"]["skipped"][evil] = [evil]
    small["suggestions"][0]["wanted"] = evil
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
    ("alignments", "probe", "reasons"),
    [
        ("none", None, ["The analysis was run without alignments."] * 2),
        ("mfa/", None, ["No utterance has phones."] * 2),
        (None, {"skipped": "only one <speaker>"}, ["only one <speaker>"]),
    ],
)
def test_a_part_that_was_not_analysed_has_a_reason(alignments, probe, reasons):
    small = make_analysis(1, 1, FEW, producers=())
    whole, all_figures = compose(small), set(report.draw_figures(small, None))
    assert "Not analysed" not in whole.text
    small["probe"] = probe
    missing = {"probe"}
    if alignments:
        small["phoneme_attention"] = None
        small["data"]["alignments"] = alignments
        missing = {
            name for name in all_figures if re.match("probe|phoneme|roles", name)
        }
    page = compose(small)
    assert all_figures - set(report.draw_figures(small, None)) == missing
    assert len(page.tables) < len(whole.tables)
    assert page.text.count("Not analysed") == len(reasons)
    assert all(f"Not analysed: {reason}" in page.text for reason in reasons)


@pytest.mark.parametrize(
    ("values", "group_sizes", "rho", "layers"),
    [
        ([1, 2, 3, 4, 5, 6], None, 1, 6),
        ([9, 8, 7, 3, 2, 0], None, -1, 6),
        ([3, 1, 4, 1, 5, 2], None, 0.145, 6),
        ([2, 2, 2, 2, 2, 2], None, None, 6),
        ([1, 2, 3, 4], None, None, 4),
        ([1, 2, None, 3, 4, 5], None, 1, 5),
        ([1, 1, 2, 2, 3, 3], [2, 2, 2], None, 3),
        ([1, 0, 2, 3, 0, 4, 5, 0], [2, 1, 2, 1, 2], 1, 5),
    ],
)
def test_a_trend_is_one_of_enough_layers_that_computed_their_maps(
    values, group_sizes, rho, layers
):
    analysis = make_analysis(len(values), 1, FEW, producers=())
    analysis["model"]["reuse_group_size"] = group_sizes
    analysis["diagonality"]["cad"] = [[value] for value in values]
    shown = compose(analysis).numbers("Trend with depth")[0]
    p = None if rho is None else 0 if abs(rho) == 1 else 0.784
    close(shown, [rho, p, layers])


def test_layers_rise_from_the_bottom_and_heads_go_to_the_right():
    analysis = make_analysis(3, 2, FEW, producers=())
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
    analysis = make_analysis(6, 1, FEW, producers=(2,))
    analysis["suggestions"][0]["suggested"]["reuse_group_size"] = [1, 5]
    outlines = [
        (patch.get_linestyle() == "solid", *patch.get_xy(), patch.get_width())
        for patch in figures.draw_similarity(analysis).axes[0].patches
    ]
    suggested, uniform = outlines[:2], outlines[2:]
    assert suggested == [(True, 0.5, 0.5, 1), (True, 1.5, 1.5, 5)]
    assert uniform == [(False, 0.5, 0.5, 3), (False, 3.5, 3.5, 3)]


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
    analysis = make_analysis(2, 3, FEW, producers=())
    analysis["diagonality"]["cad"] = [[0.7, 0.9, 0.8], [0.8, None, 0.7]]
    shown = [head_map[:3] for head_map in report.pick_heads(analysis)]
    assert shown == [(0, 0, "least"), (0, 1, "most"), (1, 2, "least"), (1, 0, "most")]


def test_drawing_leaves_the_users_settings_of_matplotlib_alone(small):
    before = dict(matplotlib.rcParams)
    assert before["text.parse_math"]
    figures.render(figures.draw_cad(small))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize(
    ("size", "width"),
    [((12, 4, ARPABET), 400), ((2, 1, FEW), 1200)],
    ids=["large, narrow", "small, wide"],
)
def test_a_browser_shows_the_whole_report_at_any_width(size, width, tmp_path):
    analysis = make_analysis(*size, producers=(2, 1))
    expected = write(analysis, make_example(analysis), tmp_path)
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    # a frame of that width, which a page around it may measure
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">
        <iframe style="border: 0; width: {width}px; height: 8000px"
         srcdoc="{html.escape(written)}"></iframe><pre></pre><script>
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
