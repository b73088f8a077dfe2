# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""repair_checkpoint mends what a kill leaves of ESPnet's saving."""

import pytest
import torch

from espnet_reuse.comparison.repair_checkpoint import repair


@pytest.fixture
def asr_exp(tmp_path):
    """An experiment after its second epoch, as ESPnet's trainer leaves it."""
    for epoch in (1, 2):
        torch.save(
            {"w": torch.full((3,), float(epoch))}, tmp_path / f"{epoch}epoch.pth"
        )
    states = {"model": {"w": torch.full((3,), 2.0)}, "reporter": {"epoch": 2}}
    torch.save(states, tmp_path / "checkpoint.pth")
    (tmp_path / "latest.pth").symlink_to("2epoch.pth")
    return tmp_path


def test_a_whole_experiment_is_left_alone(asr_exp):
    before = {p: p.stat().st_mtime_ns for p in asr_exp.iterdir()}
    assert repair(asr_exp) is None
    assert {p: p.stat().st_mtime_ns for p in asr_exp.iterdir()} == before


def test_without_a_checkpoint_there_is_nothing_to_do(tmp_path):
    assert repair(tmp_path) is None


def test_a_checkpoint_that_is_cut_short_is_removed(asr_exp):
    checkpoint = asr_exp / "checkpoint.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert "cut short: training starts anew" in repair(asr_exp)
    assert not checkpoint.exists()


@pytest.mark.parametrize("left", [None, 200], ids=["not begun", "cut short"])
def test_the_last_epochs_model_is_restored_from_the_checkpoint(asr_exp, left):
    # killed after checkpoint.pth: latest.pth still names the epoch before
    model, latest = asr_exp / "2epoch.pth", asr_exp / "latest.pth"
    content = model.read_bytes()
    model.unlink()
    if left is not None:
        model.write_bytes(content[:left])
    latest.unlink()
    latest.symlink_to("1epoch.pth")
    assert "restored from checkpoint.pth" in repair(asr_exp)
    assert torch.load(latest, weights_only=True)["w"].tolist() == [2.0] * 3
    assert repair(asr_exp) is None
