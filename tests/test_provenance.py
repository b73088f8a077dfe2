# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The description of a run does not need Linux or git."""

import platform

import torch

from espnet_reuse import provenance


def test_a_run_is_described_by_machine_and_versions():
    described = provenance.describe_run(3, "python -m program --option")
    assert described["command"] == "python -m program --option"
    assert (described["threads"], described["torch"]) == (3, torch.__version__)
    assert all(described[name] for name in ("date", "commit", "cpu", "cores", "ram_gb"))


def test_a_run_is_described_where_the_system_tells_no_cpu_and_has_no_git(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(provenance, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("PATH", str(tmp_path))
    described = provenance.describe_run(1, "program")
    assert described["cpu"] in (platform.processor(), platform.machine())
    assert described["commit"] == "unknown"
