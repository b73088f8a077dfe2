#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score what ESPnet has decoded with jiwer: WER, CER and token error rate.

Does the work of stage 13 of ESPnet's asr.sh, which needs sclite. jiwer counts the
fewest errors, while sclite aligns with weights (4 for a substitution, 3 for an
insertion or a deletion), so that single counts can differ.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import jiwer
import yaml
from data_dir import read_scp
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.cleaner import TextCleaner

PARTIAL = Path(
    "data/partial"
)  # a recipe's data.sh says here what of a corpus is missing


@dataclasses.dataclass
class Counts:
    """Sentences, reference tokens and errors, as sclite counts them."""

    sentences: int = 0
    tokens: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    sentence_errors: int = 0

    def __add__(self, other):
        """Add up field by field."""
        return Counts(
            *map(
                sum,
                zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True),
            )
        )

    @property
    def errors(self):
        """Number of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    def percentages(self):
        """Corr, Sub, Del, Ins, Err in % of the reference tokens, S.Err of sentences."""
        correct = self.tokens - self.substitutions - self.deletions
        counts = (correct, self.substitutions, self.deletions, self.insertions)
        tokens = max(self.tokens, 1)
        return [100 * n / tokens for n in (*counts, self.errors)] + [
            100 * self.sentence_errors / max(self.sentences, 1)
        ]


def align(ref, hyp):
    """Count the errors of one utterance.

    Args:
        ref: Reference tokens, joined by spaces.
        hyp: Hypothesis tokens, joined by spaces.

    Returns:
        Counts, and the alignment to read.
    """
    output = jiwer.process_words(ref, hyp)
    counts = Counts(
        sentences=1,
        tokens=output.hits + output.substitutions + output.deletions,
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
    )
    counts.sentence_errors = int(counts.errors > 0)
    alignment = jiwer.visualize_alignment(output, show_measures=False)
    return counts, alignment.split("\n", 2)[-1].strip("\n")


def format_summary(by_speaker):
    """Format counts as sclite's summary: ESPnet's show_asr_result.sh reads it.

    Args:
        by_speaker: {speaker: Counts}.
    """
    width = max(map(len, ["Sum/Avg", *by_speaker]))
    rows = [
        *sorted(by_speaker.items()),
        ("Sum/Avg", sum(by_speaker.values(), Counts())),
    ]
    titles = " ".join(f"{t:>6}" for t in ("Corr", "Sub", "Del", "Ins", "Err", "S.Err"))
    lines = [f"| {'SPKR':<{width}} |  # Snt   # Wrd | {titles} |"]
    for name, counts in rows:
        sizes = f"{counts.sentences:6d} {counts.tokens:7d}"
        numbers = " ".join(f"{p:6.1f}" for p in counts.percentages())
        lines.append(f"| {name:<{width}} | {sizes} | {numbers} |")
    return "\n".join(lines) + "\n"


def write_score(score_dir, refs, hyps, utt2spk):
    """Score one set of tokenized utterances.

    Args:
        score_dir: Where to write result.txt, result.json, alignments.txt, and
            utterances.json: {utterance id: (speaker, reference tokens, errors)}.
        refs: {utterance id: reference tokens, joined by spaces}.
        hyps: The same of the hypotheses.
        utt2spk: {utterance id: speaker}.
    """
    by_speaker, utterances = defaultdict(Counts), {}
    score_dir.mkdir(parents=True, exist_ok=True)
    with (score_dir / "alignments.txt").open("w", encoding="utf-8") as f:
        for utt_id in sorted(refs):
            counts, alignment = align(refs[utt_id], hyps[utt_id])
            by_speaker[utt2spk[utt_id]] += counts
            utterances[utt_id] = utt2spk[utt_id], counts.tokens, counts.errors
            f.write(
                f"{utt_id}: {counts.tokens} tokens, {counts.substitutions} sub, "
                f"{counts.deletions} del, {counts.insertions} ins\n{alignment}\n\n"
            )
    total = sum(by_speaker.values(), Counts())
    (score_dir / "utterances.json").write_text(json.dumps(utterances) + "\n")
    (score_dir / "result.json").write_text(json.dumps(dataclasses.asdict(total)) + "\n")
    (score_dir / "result.txt").write_text(
        f"Scored with jiwer {version('jiwer')}\n\n" + format_summary(by_speaker)
    )


def tokenizers(config):
    """Yield the name of each score and its tokenizer, as in stage 13 of asr.sh.

    Args:
        config: Training config (exp/asr_xxx/config.yaml).
    """
    non_linguistic = config.get("non_linguistic_symbols")
    for score, token_type in (("wer", "word"), ("cer", "char")):
        yield (
            score,
            build_tokenizer(
                token_type,
                non_linguistic_symbols=non_linguistic,
                remove_non_linguistic_symbols=True,
            ),
        )
    if config["token_type"] == "bpe":
        yield "ter", build_tokenizer("bpe", bpemodel=config["bpemodel"])


def score_set(text, dumpdir, config):
    """Score one decoded set.

    Args:
        text: `<asr_exp>/<inference_tag>/<set>/text`.
        dumpdir: Folder with a data directory per set.
        config: Training config.

    Raises:
        ValueError: The references are missing or not of the decoded utterances.
    """
    # <set>, or org/<set> for a validation set
    inference_dir = next(
        p for p in text.parents if (p.parent / "config.yaml").is_file()
    )
    data_dir = dumpdir / text.parent.relative_to(inference_dir)
    refs, hyps = read_scp(data_dir / "text"), read_scp(text)
    if refs.keys() != hyps.keys():
        differing = sorted(refs.keys() ^ hyps.keys())
        raise ValueError(
            f"{text} and {data_dir / 'text'} are not of the same utterances: "
            f"{len(differing)} differ, the first is {differing[0]}; decode again"
        )
    utt2spk = read_scp(data_dir / "utt2spk")
    clean = TextCleaner(config.get("cleaner"))
    for score, tokenizer in tokenizers(config):
        write_score(
            text.parent / f"score_{score}",
            {k: " ".join(tokenizer.text2tokens(clean(v))) for k, v in refs.items()},
            {k: " ".join(tokenizer.text2tokens(v)) for k, v in hyps.items()},
            utt2spk,
        )


def main():
    """Score every set decoded below a folder and show ESPnet's RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--expdir", type=Path, default="exp", help="exp, or a part of it"
    )
    parser.add_argument("--dumpdir", type=Path, default="dump/raw")
    args = parser.parse_args()

    texts = [t for t in args.expdir.rglob("text") if (t.parent / "logdir").is_dir()]
    if not texts:
        sys.exit(f"score.py: error: nothing is decoded in {args.expdir}: run stage 12")
    asr_exps = set()
    for text in sorted(texts):
        config_file = next(
            p / "config.yaml" for p in text.parents if (p / "config.yaml").is_file()
        )
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        try:
            score_set(text, args.dumpdir, config)
        except ValueError as e:
            sys.exit(f"score.py: error: {e}")
        asr_exps.add(config_file.parent)
    for asr_exp in sorted(asr_exps):
        results = subprocess.run(
            ["scripts/utils/show_asr_result.sh", asr_exp],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        if PARTIAL.is_file():
            results += f"\nPartial corpus:\n\n{PARTIAL.read_text(encoding='utf-8')}"
        (asr_exp / "RESULTS.md").write_text(results, encoding="utf-8")
        print(results)


if __name__ == "__main__":
    main()
