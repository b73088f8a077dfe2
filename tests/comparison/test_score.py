# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""local/score.py counts what sclite counts."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import score

SCLITE = Path(__file__).parent / "sclite"


def read_trn(path):
    """Read {(speaker, utterance): words} from a transcript in sclite's trn form."""
    lines = (re.match(r"(.*)\((\w+)-(\w+)\)", s) for s in path.read_text().splitlines())
    return {(m[2], m[3]): m[1].strip() for m in lines}


def read_summary(text):
    """Read {name: numbers} from the first summary in sclite's form."""
    rows = re.findall(
        r"^ *\| *([\w/]+) *\|([ \d]+)\|([ \d.]+)\| *$", text, re.MULTILINE
    )
    summary = {}
    for name, sizes, percentages in rows:
        summary.setdefault(name, [float(x) for x in (sizes + percentages).split()])
    return summary


def test_summary_equals_sclites_own_output():
    # In tests/local/sclite, with sclite of Debian's sctk 2.4.10:
    # sclite -r ref.trn trn -h hyp.trn trn -i rm -o sum rsum stdout > result.txt
    refs, hyps = read_trn(SCLITE / "ref.trn"), read_trn(SCLITE / "hyp.trn")
    by_speaker = defaultdict(score.Counts)
    for speaker, utterance in refs:
        counts, _ = score.align(refs[speaker, utterance], hyps[speaker, utterance])
        by_speaker[speaker] += counts
    ours = read_summary(score.format_summary(by_speaker))
    sclites = read_summary((SCLITE / "result.txt").read_text())
    assert set(ours) == {"spk1", "spk2", "spk3", "Sum/Avg"}
    assert ours == {name: sclites[name] for name in ours}


@pytest.mark.parametrize(
    "ref, hyp, expected",
    [
        pytest.param("A B C", "A B C", (3, 0, 0, 0, 0), id="equal"),
        pytest.param("A B C", "", (3, 0, 3, 0, 1), id="nothing recognised"),
        pytest.param("A", "A B B", (1, 0, 0, 2, 1), id="more than was said"),
        pytest.param("A B", "A C", (2, 1, 0, 0, 1), id="substitution"),
    ],
)
def test_counts_of_one_utterance(ref, hyp, expected):
    counts, _ = score.align(ref, hyp)
    tokens, sub, dele, ins, sentence_errors = expected
    assert counts == score.Counts(1, tokens, sub, dele, ins, sentence_errors)


@pytest.fixture
def decoded(tmp_path):
    """A decoded set of two utterances, as asr.sh leaves it."""
    data_dir = tmp_path / "dump/raw/test"
    decode_dir = tmp_path / "exp/asr_x/decode/test"
    data_dir.mkdir(parents=True)
    (decode_dir / "logdir").mkdir(parents=True)
    (data_dir / "text").write_text("a-1 GO ON\na-2 YES\n")
    (data_dir / "utt2spk").write_text("a-1 a\na-2 a\n")
    (decode_dir / "text").write_text("a-1 GO\na-2 YES\n")
    config = "token_type: char\ncleaner: null\nnon_linguistic_symbols: null\n"
    (tmp_path / "exp/asr_x/config.yaml").write_text(config)
    return decode_dir / "text", tmp_path / "dump/raw", {"token_type": "char"}


def test_words_and_characters_are_scored_as_stage_13_tokenizes_them(decoded):
    text, dumpdir, config = decoded
    score.score_set(text, dumpdir, config)
    # "GO ON" is 5 characters with the space, of which 3 are missing
    for name, counts in (
        ("wer", score.Counts(2, 3, 0, 1, 0, 1)),
        ("cer", score.Counts(2, 8, 0, 3, 0, 1)),
    ):
        result = (text.parent / f"score_{name}/result.txt").read_text()
        assert score.format_summary({"a": counts}) in result
        alignments = (text.parent / f"score_{name}/alignments.txt").read_text()
        assert "a-1" in alignments and "a-2" in alignments


def test_hypotheses_of_other_utterances_are_refused(decoded):
    text, dumpdir, config = decoded
    text.write_text("a-1 GO\n")
    with pytest.raises(ValueError, match="not of the same utterances: 1 differ.*a-2"):
        score.score_set(text, dumpdir, config)
