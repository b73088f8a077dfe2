# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Score what ESPnet has decoded with jiwer: WER, CER and token error rate.

Does the work of stage 13 of ESPnet's asr.sh, which needs sclite. jiwer counts the
fewest errors, while sclite aligns with weights (4 for a substitution, 3 for an
insertion or a deletion), so that single counts can differ.
"""

import argparse
import subprocess
from collections import defaultdict
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path

import jiwer
import pandas
import yaml
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.cleaner import TextCleaner

from espnet_reuse.data.data_dir import read_scp
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import write_json, write_text

# A recipe's data.sh writes into this file which parts of the corpus are missing.
PARTIAL = Path("data/partial")
ERRORS = ["substitutions", "deletions", "insertions"]
COUNTS = ["sentences", "tokens", *ERRORS, "sentence_errors"]  # of result.json


def align(ref: str, hyp: str) -> tuple[dict[str, int], str]:
    """Count the errors of an utterance whose tokens are joined by spaces.

    Returns:
        `COUNTS`, `hits` and `errors`, and the alignment to read.
    """
    output = jiwer.process_words(ref, hyp)
    counts = {kind: getattr(output, kind) for kind in ("hits", *ERRORS)}
    counts["errors"] = sum(counts[kind] for kind in ERRORS)
    counts["tokens"] = counts["hits"] + counts["substitutions"] + counts["deletions"]
    counts |= {"sentences": 1, "sentence_errors": int(counts["errors"] > 0)}
    alignment = jiwer.visualize_alignment(output, show_measures=False)
    return counts, alignment.split("\n", 2)[-1].strip("\n")


def format_summary(by_speaker: pandas.DataFrame) -> str:
    """Format counts as sclite's summary, which ESPnet's show_asr_result.sh reads."""
    table = by_speaker.copy()
    table.loc["Sum/Avg"] = table.sum()
    rates = 100 * table[["hits", *ERRORS, "errors"]]
    rates = rates.div(table["tokens"].clip(lower=1), axis=0)
    rates["sentence_errors"] = 100 * table["sentence_errors"] / table["sentences"]
    width = max(map(len, table.index))
    titles = " ".join(f"{t:>6}" for t in ("Corr", "Sub", "Del", "Ins", "Err", "S.Err"))
    lines = [f"| {'SPKR':<{width}} |  # Snt   # Wrd | {titles} |"]
    for name, counts in table.iterrows():
        sizes = f"{counts['sentences']:6d} {counts['tokens']:7d}"
        numbers = " ".join(f"{rate:6.1f}" for rate in rates.loc[name])
        lines.append(f"| {name:<{width}} | {sizes} | {numbers} |")
    return "\n".join(lines) + "\n"


def write_score(
    score_dir: Path, refs: dict[str, str], hyps: dict[str, str], utt2spk: dict[str, str]
) -> None:
    """Score one set of utterances, {utterance id: tokens joined by spaces}.

    Writes result.txt, result.json, alignments.txt, and utterances.json: {utterance id:
    (speaker, reference tokens, errors)}.
    """
    utterances, alignments = {}, []
    for utt_id in sorted(refs):
        counts, alignment = align(refs[utt_id], hyps[utt_id])
        utterances[utt_id] = {"speaker": utt2spk[utt_id]} | counts
        alignments.append(
            f"{utt_id}: {counts['tokens']} tokens, {counts['substitutions']} sub, "
            f"{counts['deletions']} del, {counts['insertions']} ins\n{alignment}\n\n"
        )
    by_speaker = pandas.DataFrame(utterances.values()).groupby("speaker").sum()
    score_dir.mkdir(exist_ok=True)
    write_text("".join(alignments), score_dir / "alignments.txt")
    kept = itemgetter("speaker", "tokens", "errors")
    errors = {utt_id: kept(row) for utt_id, row in utterances.items()}
    write_json(errors, score_dir / "utterances.json")
    write_json(by_speaker.sum()[COUNTS].to_dict(), score_dir / "result.json")
    summary = f"Scored with jiwer {version('jiwer')}\n\n{format_summary(by_speaker)}"
    write_text(summary, score_dir / "result.txt")


def score_set(decode_dir: Path, name: str, dumpdir: Path, config: dict) -> None:
    """Score one decoded set as stage 13 of asr.sh does: WER, CER, and TER of subwords.

    Args:
        decode_dir: `<asr_exp>/<inference_tag>`.
        name: The set, or org/<set> for a validation set.
        dumpdir: Folder with a data directory per set.
        config: Training config.

    Raises:
        UserError: The references are missing or not of the decoded utterances.
    """
    set_dir, data_dir = decode_dir / name, dumpdir / name
    refs, hyps = read_scp(data_dir / "text"), read_scp(set_dir / "text")
    if refs.keys() != hyps.keys():
        differing = sorted(refs.keys() ^ hyps.keys())
        raise UserError(
            f"{set_dir / 'text'} and {data_dir / 'text'} are not of the same "
            f"utterances: {len(differing)} differ, the first is {differing[0]}; "
            "decode again"
        )
    utt2spk = read_scp(data_dir / "utt2spk")
    clean = TextCleaner(config.get("cleaner"))
    options = {
        "non_linguistic_symbols": config.get("non_linguistic_symbols"),
        "remove_non_linguistic_symbols": True,
    }
    units = {"wer": "word", "cer": "char"}
    tokenizers = {key: build_tokenizer(unit, **options) for key, unit in units.items()}
    if config["token_type"] == "bpe":
        tokenizers["ter"] = build_tokenizer("bpe", bpemodel=config["bpemodel"])
    for score, tokenizer in tokenizers.items():
        write_score(
            set_dir / f"score_{score}",
            {k: " ".join(tokenizer.text2tokens(clean(v))) for k, v in refs.items()},
            {k: " ".join(tokenizer.text2tokens(v)) for k, v in hyps.items()},
            utt2spk,
        )


def find_decoded(expdir: Path, sets: list[str] | None) -> list[tuple[Path, str]]:
    """Find what is decoded in exp or a folder in it: all, or the sets that are named.

    Returns:
        (decode_dir, name) of each decoded set, see `score_set`.

    Raises:
        UserError: Nothing is decoded, or not each of the sets.
    """
    found = defaultdict(list)
    for text in sorted(expdir.rglob("text")):
        set_dir = text.parent
        if (set_dir / "logdir").is_dir():
            asr_exp = next(p for p in text.parents if (p / "config.yaml").is_file())
            inference_tag, *name = set_dir.relative_to(asr_exp).parts
            found[asr_exp / inference_tag].append("/".join(name))
    if not found:
        raise UserError(f"nothing is decoded in {expdir}")
    decoded = []
    for decode_dir, names in found.items():
        for name in names if sets is None else sets:
            if sets and f"org/{name}" in names:  # a validation set
                name = f"org/{name}"
            if name not in names:
                raise UserError(f"{decode_dir}: {name} is not decoded")
            decoded.append((decode_dir, name))
    return decoded


def main():
    """Score what is decoded below a folder and show ESPnet's RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    expdir = {"type": Path, "nargs": "+", "default": [Path("exp")]}
    parser.add_argument("--expdir", **expdir, help="or folders in it")
    parser.add_argument("--dumpdir", type=Path, default="dump/raw")
    parser.add_argument("--sets", nargs="+", help="default: all that are decoded")
    args = parser.parse_args()
    with reported_errors("score"):
        decoded = [x for path in args.expdir for x in find_decoded(path, args.sets)]
        for decode_dir, name in decoded:
            text = (decode_dir.parent / "config.yaml").read_text(encoding="utf-8")
            score_set(decode_dir, name, args.dumpdir, yaml.safe_load(text))
        for asr_exp in sorted({decode_dir.parent for decode_dir, _ in decoded}):
            command = ["scripts/utils/show_asr_result.sh", asr_exp]
            results = subprocess.check_output(command, encoding="utf-8")
            if PARTIAL.is_file():
                results += f"\nPartial corpus:\n\n{PARTIAL.read_text('utf-8')}"
            write_text(results, asr_exp / "RESULTS.md")
            print(results)


if __name__ == "__main__":
    main()
