# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""score counts what sclite counts."""

import json
import re
from pathlib import Path

import pandas
import pytest

from espnet_reuse.comparison import score
from espnet_reuse.errors import UserError

SCLITE = Path(__file__).parent / "sclite"


def read_trn(path):
    """Read {(speaker, utterance): words} from a transcript in sclite's trn form."""
    lines = (re.match(r"(.*)\((\w+)-(\w+)\)", s) for s in path.read_text().splitlines())
    return {(m[2], m[3]): m[1].strip() for m in lines}


def read_summary(text):
    """Read {name: numbers} from the first summary in sclite's form."""
    row = re.compile(r"^ *\| *([\w/]+) *\|([ \d]+)\|([ \d.]+)\| *$", re.MULTILINE)
    rows, summary = row.findall(text), {}
    for name, sizes, percentages in rows:
        summary.setdefault(name, [float(x) for x in (sizes + percentages).split()])
    return summary


def test_summary_equals_sclites_own_output():
    # In tests/comparison/sclite, with sclite of Debian's sctk 2.4.10:
    # sclite -r ref.trn trn -h hyp.trn trn -i rm -o sum rsum stdout > result.txt
    refs, hyps = read_trn(SCLITE / "ref.trn"), read_trn(SCLITE / "hyp.trn")
    counts = {key: score.align(refs[key], hyps[key])[0] for key in refs}
    by_speaker = pandas.DataFrame(counts).T.groupby(level=0).sum()
    ours = read_summary(score.format_summary(by_speaker))
    sclites = read_summary((SCLITE / "result.txt").read_text())
    assert set(ours) == {"spk1", "spk2", "spk3", "Sum/Avg"}
    assert ours == {name: sclites[name] for name in ours}


@pytest.mark.parametrize(
    "ref, hyp, expected",
    [
        ("A B C", "A B C", (3, 0, 0, 0, 0)),
        ("A B C", "", (3, 0, 3, 0, 1)),
        ("A", "A B B", (1, 0, 0, 2, 1)),
        ("A B", "A C", (2, 1, 0, 0, 1)),
    ],
)
def test_counts_of_one_utterance(ref, hyp, expected):
    counts, _ = score.align(ref, hyp)
    kinds = ("tokens", *score.ERRORS, "sentence_errors")
    assert tuple(counts[kind] for kind in kinds) == expected
    assert counts["sentences"] == 1 and counts["errors"] == sum(expected[1:4])


@pytest.fixture
def decoded(tmp_path):
    """An experiment with a decoded set of two utterances, as asr.sh leaves it."""
    for name in ("dump/raw/test", "exp/asr_x/decode/test/logdir"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dump/raw/test/text").write_text("a-1 GO ON\na-2 YES\n")
    (tmp_path / "dump/raw/test/utt2spk").write_text("a-1 a\na-2 a\n")
    (tmp_path / "exp/asr_x/decode/test/text").write_text("a-1 GO\na-2 YES\n")
    (tmp_path / "exp/asr_x/config.yaml").touch()
    return tmp_path / "exp/asr_x/decode"


def score_test(decode_dir, **config):
    dumpdir = decode_dir.parents[2] / "dump/raw"
    score.score_set(decode_dir, "test", dumpdir, {"token_type": "char"} | config)


def test_words_and_characters_are_scored_as_stage_13_tokenizes_them(decoded):
    score_test(decoded)
    # "GO ON" is 5 characters with the space, of which 3 are missing
    for name, counts in {"wer": (2, 3, 0, 1, 0, 1), "cer": (2, 8, 0, 3, 0, 1)}.items():
        folder = decoded / f"test/score_{name}"
        result = json.loads((folder / "result.json").read_text())
        assert result == dict(zip(score.COUNTS, counts, strict=True))
        summary = read_summary((folder / "result.txt").read_text())
        assert summary["a"] == summary["Sum/Avg"]
        assert summary["a"][4] == pytest.approx(100 * counts[3] / counts[1], abs=0.05)
        utterances = json.loads((folder / "utterances.json").read_text())
        assert utterances["a-1"][::2] == ["a", counts[3]]
        assert utterances["a-2"] == ["a", counts[1] - utterances["a-1"][1], 0]
        alignments = (folder / "alignments.txt").read_text()
        assert "a-1" in alignments and "a-2" in alignments


def test_hypotheses_of_other_utterances_are_refused(decoded):
    (decoded / "test/text").write_text("a-1 GO\n")
    with pytest.raises(UserError, match="not of the same utterances: 1 differ.*a-2"):
        score_test(decoded)


def test_the_sets_that_are_asked_for_are_scored_and_no_others(decoded):
    exp = decoded.parents[1]
    (decoded / "org/dev/logdir").mkdir(parents=True)
    (decoded / "org/dev/text").touch()
    assert score.find_decoded(exp, ["test"]) == [(decoded, "test")]
    assert score.find_decoded(exp, ["dev"]) == [(decoded, "org/dev")]
    assert score.find_decoded(exp, None) == [(decoded, "org/dev"), (decoded, "test")]
    with pytest.raises(UserError, match="asr_x/decode: other is not decoded"):
        score.find_decoded(exp, ["test", "other"])
    with pytest.raises(UserError, match="nothing is decoded in"):
        score.find_decoded(exp.parent / "dump", ["test"])
