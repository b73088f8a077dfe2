# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Compare the runs of one or more comparison.json: error rates and their intervals.

A run is a model with a seed. All are compared with the first file's first model. It
needs no models, only files that `espnet_reuse.comparison.results` has written.
"""

import argparse
import json
from pathlib import Path

from espnet_reuse.comparison.intervals import compare_errors
from espnet_reuse.comparison.tables import markdown, rate_cells
from espnet_reuse.errors import UserError, one_line, reported_errors


def read_runs(paths: list[Path]) -> dict:
    """Read {model: {asr_exp: {set: errors of the utterances}}} from comparison.jsons.

    Raises:
        UserError: A file is no comparison, two files have the same run with other
            errors, or files are of different decodings.
    """
    models, decodings = {}, {}
    for path in paths:
        try:
            comparison = json.loads(path.read_text(encoding="utf-8"))
            decodings.setdefault(comparison["run"].get("decoding"), path)
            found = [
                (name, run["asr_exp"], run["utterances"])
                for name, model in comparison["models"].items()
                for run in model["runs"]
            ]
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise UserError(
                f"{path} is not a comparison.json: {type(e).__name__}: {one_line(e)}"
            ) from e
        for name, asr_exp, utterances in found:
            runs = models.setdefault(name, {})
            if runs.setdefault(asr_exp, utterances) != utterances:
                raise UserError(
                    f"{path}: {asr_exp} has other errors than in a file before: "
                    "compare the files one by one"
                )
    if not models:
        raise UserError(f"{paths[0]} compares no models")
    if len(decodings) > 1:
        listed = ", ".join(f"{path}: {name}" for name, path in decodings.items())
        raise UserError(f"the runs were decoded differently: {listed}")
    return models


def format_rates(models: dict) -> str:
    """Format what `read_runs` returns: error rates, differences to the first model.

    Raises:
        UserError: Runs were scored on other references, or share no set.
    """
    first = next(iter(models))
    runs = [run for seeds in models.values() for run in seeds.values()]
    sets = [name for name in runs[0] if all(name in run for run in runs)]
    if not sets:
        raise UserError("the runs have no set in common")
    rows = []
    for set_ in sets:
        errors = {m: [r[set_] for r in seeds.values()] for m, seeds in models.items()}
        wers = compare_errors(errors, set_)
        rows += [
            {
                "set": set_,
                "model": model,
                "seeds": str(len(errors[model])),
                **rate_cells("WER", wer, wers[first]),
            }
            for model, wer in wers.items()
        ]
    headers = {"WER": "error rate", "change of WER": f"difference to {first}"}
    return markdown(rows, headers)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="+", type=Path, metavar="comparison.json")
    args = parser.parse_args()
    with reported_errors("compare_runs"):
        print(format_rates(read_runs(args.comparisons)))


if __name__ == "__main__":
    main()
