# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What a comparison reads of trainings and decodings."""

import pytest

from espnet_reuse.comparison.results import read_decoding_rtf, read_scores
from espnet_reuse.errors import UserError


def decode(tmp_path, batch_size, report="RTF: 0.125 [sec/sec]\n"):
    """Write the logs of a decoding, with the report of the real-time factor."""
    logdir = tmp_path / "logdir"
    logdir.mkdir()
    (logdir / "asr_inference.1.log").write_text(
        "# python3 -m espnet_reuse.run -m espnet2.bin.asr_inference "
        f"--batch_size {batch_size} --ngpu 0\n"
    )
    if report:
        (logdir / "calculate_rtf.log").write_text(report)
    return tmp_path


def test_the_real_time_factor_is_what_espnet_reports(tmp_path):
    assert read_decoding_rtf(decode(tmp_path, 1)) == 0.125


@pytest.mark.parametrize(
    "batch_size, report",
    [
        (16, "RTF: 0.125 [sec/sec]\n"),
        (1, None),
        (1, "error\n"),
    ],
)
def test_a_wrong_or_missing_real_time_factor_is_none(tmp_path, batch_size, report):
    assert read_decoding_rtf(decode(tmp_path, batch_size, report)) is None


def test_a_set_that_is_not_scored_is_named(tmp_path):
    with pytest.raises(UserError, match="test is not scored"):
        read_scores(tmp_path / "test")
