# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The documentation's figures are those that its script draws."""

import importlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from matplotlib.text import Text

FOLDER = Path(__file__).resolve().parents[2] / "docs/figures"
sys.path.insert(0, str(FOLDER))
draw = importlib.import_module("draw")
COMMITTED = sorted(FOLDER.glob("*.svg"))


def test_every_figure_is_there_for_both_kinds_of_page():
    names = {path.name for path in COMMITTED}
    assert names == {f"{n}_{page}.svg" for n in draw.FIGURES for page in draw.THEMES}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_figure_is_what_the_published_results_give(path, tmp_path):
    committed = path.read_text(encoding="utf-8")
    assert ElementTree.fromstring(committed).tag.endswith("svg")
    name, page = path.stem.rsplit("_", 1)
    figure = draw.draw(name, page)
    assert figure.get_figwidth() <= 7  # inches, as wide as it is shown
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert texts and min(text.get_fontsize() for text in texts) >= 8
    if f"Matplotlib v{matplotlib.__version__}," not in committed:
        pytest.skip("another Matplotlib draws other bytes")
    draw.write(figure, tmp_path / "figure.svg", page)
    assert (tmp_path / "figure.svg").read_text(encoding="utf-8") == committed


def test_without_results_a_figure_is_left_as_it_is(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(draw, "RESULTS", tmp_path)
    command = ["draw.py", "error_and_time", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    draw.main()
    assert re.match("error_and_time is not drawn: no .*json", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
