# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Files and folders are whole or not there, for readers and after errors."""

import json

import pytest

from espnet_reuse.files import write_json, write_text, written_whole


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
