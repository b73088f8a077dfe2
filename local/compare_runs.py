#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Compare the runs of one or more comparison.json: error rates and their intervals.

A run is a model with a seed. All are compared with the first file's first model; needs
no models, only what local/compare.py has written.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from compare_utterances import interval, interval_by_speaker, mean_and_spread, points


def read_runs(paths):
    """Read the errors of each utterance in each run.

    Args:
        paths: Files with {"models": {name: {"runs": [{"asr_exp": ..., "utterances":
            {set: {utterance id: [speaker, reference tokens, errors]}}}]}}}.

    Returns:
        {model: {asr_exp: {set: {utterance id: (speaker, reference tokens, errors)}}}}.

    Raises:
        ValueError: A file is no comparison, a run stands in two files with other
            errors, or files are of different decodings.
    """
    models, decodings = {}, {}
    for path in paths:
        try:
            comparison = json.loads(path.read_text())
            found = [
                (name, run["asr_exp"], run["utterances"])
                for name, model in comparison["models"].items()
                for run in model["runs"]
            ]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
            raise ValueError(
                f"{path} is not a comparison.json: {type(e).__name__}: {e}"
            ) from e
        decodings.setdefault(comparison.get("run", {}).get("decoding"), path)
        for name, asr_exp, errors in found:
            if models.setdefault(name, {}).setdefault(asr_exp, errors) != errors:
                raise ValueError(
                    f"{path}: {asr_exp} has other errors than in a file before: "
                    "compare them by themselves"
                )
    if len(decodings) > 1:
        raise ValueError(
            "the runs were decoded differently: "
            + ", ".join(f"{path}: {name}" for name, path in decodings.items())
        )
    return models


def format_rates(models):
    """Format error rates and differences to the first model as Markdown.

    Args:
        models: What `read_runs` returns.

    Raises:
        ValueError: Runs were scored on other references, or share no set.
    """
    first = next(iter(models))
    runs = [run for seeds in models.values() for run in seeds.values()]
    sets = [name for name in runs[0] if all(name in run for run in runs)]
    if not sets:
        raise ValueError("the runs have no set in common")
    lines = [
        f"|set|model|seeds|error rate|to {first}|95 % interval|by speaker|",
        "|---" * 7 + "|",
    ]
    for name in sets:
        references = [
            {utt_id: row[:2] for utt_id, row in run[name].items()} for run in runs
        ]
        if any(reference != references[0] for reference in references):
            raise ValueError(f"the runs were scored on other references of {name}")
        tokens = sum(count for _, count in references[0].values())
        errors = {m: [r[name] for r in seeds.values()] for m, seeds in models.items()}
        rates = {
            m: [100 * sum(row[2] for row in run.values()) / tokens for run in of_model]
            for m, of_model in errors.items()
        }
        means = {m: statistics.mean(of_model) for m, of_model in rates.items()}
        for model, of_model in errors.items():
            cells = [name, model, str(len(of_model)), mean_and_spread(rates[model])]
            if model == first:
                cells += ["", "", ""]
            else:
                pair = errors[first], of_model
                cells += [
                    f"{means[model] - means[first]:+.1f}",
                    points(interval(*pair)),
                    points(interval_by_speaker(*pair)),
                ]
            lines.append(f"|{'|'.join(cells)}|")
    return "\n".join(lines)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comparisons", nargs="+", type=Path, metavar="comparison.json")
    args = parser.parse_args()
    try:
        print(format_rates(read_runs(args.comparisons)))
    except ValueError as e:
        sys.exit(f"compare_runs.py: error: {e}")


if __name__ == "__main__":
    main()
