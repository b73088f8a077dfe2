# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Files and folders are whole or not there, for readers and after errors."""

import ast
import json
import re
from pathlib import Path

import pytest

from espnet_reuse.files import write_json, write_text, written_whole

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("espnet_reuse/**/*.py", "local/*.py", "egs2/*/asr1/local/*.py")


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path):
    path = tmp_path / "report.html"
    write_text("old", path)
    with path.open() as reader:
        write_text("new ρ", path)
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new ρ"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", ["old", None])
def test_an_error_leaves_what_was_there(before, tmp_path):
    path = tmp_path / "report.html"
    if before:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt), written_whole(path) as partial:
        partial.write_text("half a page")
        raise KeyboardInterrupt
    assert [file.read_text() for file in tmp_path.iterdir()] == [before] * bool(before)


def test_a_folder_replaces_another(tmp_path):
    folder = tmp_path / "model"
    for name in ("old", "new"):
        with written_whole(folder) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_json_is_compact_and_keeps_its_letters(tmp_path):
    value = {"words": ["Grüße", None], "cost": 0.5}
    write_json(value, tmp_path / "value.json")
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "Grüße" in text and " " not in text and text.count("\n") == 1


def test_every_text_file_that_is_opened_names_its_encoding():
    # ruff's PLW1514 sees it where it knows the type, this sees it by the name
    opens = re.compile(r"(open|read_text|write_text|popen)$|subprocess\.\w+$")
    not_text = re.compile(r"(os|gzip|tarfile)\.open$|write_text$")  # ours names it
    unnamed = []
    for path in (path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, call = ast.unparse(node.func), ast.unparse(node)
            if not opens.search(name) or not_text.match(name):
                continue
            is_text = "subprocess" not in name or re.search(r"\btext\b", call)
            if is_text and not re.search(r"utf-8|ascii|encoding|'[rwa]b'", call):
                unnamed.append(f"{path.relative_to(ROOT)}: {call}")
    assert unnamed == []
