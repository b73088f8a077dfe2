# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What the tests of all encoders need."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for reuse_encoders
pytest.register_assert_rewrite("reuse_encoders")


@pytest.fixture
def implementation(request, monkeypatch):
    """Build encoders with the fast paths, or with ESPnet's own operations."""
    monkeypatch.setenv("ESPNET_REUSE_IMPL", request.param)
    return request.param


@pytest.fixture
def naive(monkeypatch):
    """Build encoders with ESPnet's own operations."""
    monkeypatch.setenv("ESPNET_REUSE_IMPL", "naive")


@pytest.fixture(scope="module", autouse=True)
def one_thread_per_operator():
    """Keep tiny operators from waiting for a core that another process uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
