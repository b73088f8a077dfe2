# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Results are whole or not there."""

import json

import pytest

from espnet_reuse.provenance import write_json


def test_a_write_that_fails_leaves_the_file_whole(tmp_path):
    path = tmp_path / "benchmark.json"
    write_json({"lengths": [1]}, path)
    with pytest.raises(TypeError):
        write_json({"lengths": [1, object()]}, path)
    assert json.loads(path.read_text()) == {"lengths": [1]}
    assert list(tmp_path.iterdir()) == [path]
