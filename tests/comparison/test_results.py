# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""local/compare.py: what it reads of a decoding."""

import compare
import pytest


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
    assert compare.read_rtf(decode(tmp_path, 1)) == 0.125


@pytest.mark.parametrize(
    "batch_size, report",
    [
        pytest.param(16, "RTF: 0.125 [sec/sec]\n", id="decoded in batches"),
        pytest.param(1, None, id="no report"),
        pytest.param(1, "error\n", id="no factor in it"),
    ],
)
def test_a_wrong_or_missing_real_time_factor_is_none(tmp_path, batch_size, report):
    assert compare.read_rtf(decode(tmp_path, batch_size, report)) is None
