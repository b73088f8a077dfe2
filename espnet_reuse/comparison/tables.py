# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Tables of a comparison: RESULTS.md, comparison_details.md, and those of a terminal.

A *comparison* is the content of a comparison.json. Nothing here needs PyTorch or
ESPnet: the tables of a finished comparison are there at once.

`python3 -m espnet_reuse.comparison.tables comparison.json ...` makes RESULTS.md and
comparison.png again, beside each file.
"""

import argparse
import json
import re
import statistics
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from espnet_reuse.comparison.intervals import RESAMPLES, Errors, by_speaker
from espnet_reuse.data.data_dir import read_scp
from espnet_reuse.errors import reported_errors
from espnet_reuse.files import write_text, written_whole

EXAMPLES = 5
FEW_WORDS = 500
INTERVALS = {"interval": "95 % interval", "interval_by_speaker": "by speaker"}
FASTER = "times as fast"
BEST_PATH = "best path"
GONE = "models gone"
PARTS = ("frontend", "encoder", "search")
# what the first published comparisons do not say of themselves
UNSAID = {"rtf_device": "one CPU thread", "rtf_rounds": 15}
TIMES = """{means}\
- of {first}'s: the parameters as a share of {first}'s.
- epochs (best): trained epochs; in brackets, the best one by the config's
  best_model_criterion.
- training s/epoch: seconds to train an epoch, the median of all epochs but the
  first{range}.
- times as fast: {first}'s time divided by the model's. Above 1 is faster than {first}.
- s to best: seconds of training and validation up to the best epoch{warm}.
- encoder RTF: real-time factor of the encoder, its computing time divided by the
  duration of the audio, on {rtf_device}, one utterance at a time. The models took turns
  in {rtf_rounds} rounds over {rtf_utterances} utterances: the median round and, in
  brackets, the range."""
RATES = """\
- WER: word error rate in %.
- difference: the rate minus {first}'s, in percentage points. Below 0 is better than
  {first}.
- 95 % interval: 95 % confidence interval of the difference of the WERs, by a paired
  bootstrap over utterances and seeds ({resamples:,} resamples, percentiles). If it
  contains 0, it shows no difference.
- by speaker: the same interval, but whole speakers are resampled, each with all their
  utterances.
- CER: character error rate in %.
- S.Err: sentence error rate in %, the share of utterances with an error."""
WER_BEST_PATH = """
- WER, best path: word error rate in % of CTC's best path: the most likely token of each
  frame, without a search."""
WHY_GONE = """
  Models gone: the comparison is older than this decoding; its models were not kept."""
TEXT_TIMES = """\
Time from waveform to text, on {rtf_device}, one utterance at a time in one process,
without loading the model. All models and decodings took turns over {rtf_utterances}
utterances. Medians; rounds: {text_rounds}.

- decoding: the beam search, or CTC's best path.
- ms/s: milliseconds for a second of audio.
- times as fast: {first}'s time with the same decoding divided by the model's.
- frontend, encoder, search: their shares of the time."""


def markdown(rows: list[dict[str, str]], headers: dict | None = None) -> str:
    """Format rows, {column: cell}, as Markdown; columns may have other headers."""
    import pandas  # takes longer to import than a table to print

    table = pandas.DataFrame(rows).rename(columns=headers or {})
    return table.to_markdown(index=False, disable_numparse=True)


def times_as_fast(key: str, model: dict, baseline: dict) -> str:
    """Format how many times as fast as the baseline, empty for the baseline."""
    return "" if model is baseline else f"{baseline[key] / model[key]:.2f}"


def mean_rate(counts: dict) -> str:
    """Format an error rate, the mean of the seeds and its standard deviation."""
    rates = counts["error_rates"]
    spread = f" ± {statistics.stdev(rates):.1f}" if len(rates) > 1 else ""
    return f"{statistics.mean(rates):.1f}{spread}"


def rate_cells(title: str, counts: dict, baseline: dict) -> dict[str, str]:
    """Format an error rate, its change in points, and intervals of the change."""
    change = f"{counts['error_rate'] - baseline['error_rate']:+.1f}"
    cells = {title: mean_rate(counts)}
    cells[f"change of {title}"] = "" if counts is baseline else change
    for key, column in INTERVALS.items():
        if key in counts:
            limits = counts[key]
            cells[column] = "{:+.1f} to {:+.1f}".format(*limits) if limits else ""
    return cells


def model_cells(models: dict) -> list[dict[str, str]]:
    """Format size, training, memory and encoder time of each model, by column."""
    first, rows = next(iter(models.values())), []
    for name, model in models.items():
        runs = [run["seconds_per_epoch"] for run in model["runs"]]
        spread = f" ({min(runs):.2f} to {max(runs):.2f})" if len(runs) > 1 else ""
        rtf = "{rtf:.5f} ({rtf_min:.5f} to {rtf_max:.5f})".format(**model)
        share = f"{model['parameters'] / first['parameters']:.2f}"
        peak, to_best = model["peak_memory_mb"], model["seconds_to_best"]
        rows.append(
            {
                "model": name,
                "parameters": f"{model['parameters']:,}",
                "share": "" if model is first else share,
                "epochs (best)": f"{model['epochs']:g} ({model['best_epoch']:g})",
                "training s/epoch": f"{model['seconds_per_epoch']:.2f}{spread}",
                f"training, {FASTER}": times_as_fast("seconds_per_epoch", model, first),
                "s to best": "unknown" if to_best is None else f"{to_best:.0f}",
                "memory": "unknown" if peak is None else f"{peak:.0f}",
                "encoder RTF": rtf,
                f"encoder, {FASTER}": times_as_fast("rtf", model, first),
            }
        )
    return rows


def score_cells(models: dict) -> list[dict[str, str]]:
    """Format the error rates of each set and model, by column."""
    first, rows = next(iter(models.values())), []
    # nothing to compare where no model has another decoding
    with_best_path = any(m.get("search") != BEST_PATH for m in models.values())
    for set_, reference in first["scores"].items():
        for name, model in models.items():
            scores = model["scores"][set_]
            wer, best = scores["wer"], scores.get("best_path_wer", GONE)
            best = mean_rate(best) if isinstance(best, dict) else best or ""
            rows.append(
                {
                    "set": set_,
                    "utterances": str(wer["sentences"]),
                    "model": name,
                    **rate_cells("WER", wer, reference["wer"]),
                    **({BEST_PATH: best} if with_best_path else {}),
                    **rate_cells("CER", scores["cer"], reference["cer"]),
                    "S.Err": f"{100 * wer['sentence_errors'] / wer['sentences']:.1f}",
                }
            )
    return rows


def text_cells(models: dict) -> list[dict[str, str]]:
    """Format the time from waveform to text of each model and decoding, by column."""
    first, rows = {}, []
    for name, model in models.items():
        for search, times in model.get("to_text", {}).items():
            baseline = first.setdefault(search, times)
            parts = {part: times[f"{part}_ms"] for part in PARTS}
            shares = {part: ms / sum(parts.values()) for part, ms in parts.items()}
            rows.append(
                {
                    "model": name,
                    "decoding": search,
                    "ms/s": f"{times['total_ms']:.2f}",
                    FASTER: times_as_fast("total_ms", times, baseline),
                    **{part: f"{100 * share:.0f} %" for part, share in shares.items()},
                }
            )
    return rows


def caveats(comparison: dict) -> list[str]:
    """Say how far the error rates can be relied on."""
    baseline = next(iter(comparison["models"].values()))
    if baseline["seeds"] > 1:
        notes = [
            f"Error rates are means over {baseline['seeds']} seeds; ± is the standard "
            "deviation. Few seeds say little about other seeds: the intervals contain "
            "the difference less often than 95 times in 100, and one of several models "
            "may stand out by chance."
        ]
    else:
        notes = ["One seed: the intervals do not show how other seeds would differ."]
    words = {name: s["wer"]["tokens"] for name, s in baseline["scores"].items()}
    if few := [f"{name} ({n})" for name, n in words.items() if n < FEW_WORDS]:
        notes.append(
            "Too few words for an error rate: these sets show only that the pipeline "
            f"works: {', '.join(few)}."
        )
    return notes


def format_results(comparison: dict) -> str:
    """Format a comparison as Markdown: RESULTS.md."""
    models = comparison["models"]
    first, baseline = next(iter(models.items()))
    device = "GPU" if baseline["peak_memory_of"] == "gpu" else "process"
    headers = {
        "share": f"of {first}'s",
        **dict.fromkeys((f"training, {FASTER}", f"encoder, {FASTER}"), FASTER),
        "memory": f"peak {device} memory (MB)",
        **dict.fromkeys(("change of WER", "change of CER"), "difference"),
        BEST_PATH: f"WER, {BEST_PATH}",
    }
    warm = any(name.endswith("_warm") for name in models)
    seeds = baseline["seeds"] > 1
    said = comparison | {
        "first": first,
        "resamples": RESAMPLES,
        "means": "Values are means over the seeds.\n\n" if seeds else "",
        "range": "; in brackets, the range over the seeds" if seeds else "",
        "warm": "; of fine-tuning alone for models that end in _warm" if warm else "",
    }
    texts, scores, rates = text_cells(models), score_cells(models), RATES
    best_path = {cells[BEST_PATH] for cells in scores if BEST_PATH in cells}
    if best_path:
        rates += WER_BEST_PATH + (WHY_GONE if GONE in best_path else "")
    run = "\n".join(f"- {key}: `{value}`" for key, value in comparison["run"].items())
    parts = [
        "<!-- Generated by espnet_reuse.comparison.tables -->\n# RESULTS\n"
        # twelve characters of a commit are enough for a reader, and for git
        + re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", run),
        markdown(model_cells(models), headers),
        TIMES.format(**said),
        *([markdown(texts), TEXT_TIMES.format(**said)] if texts else []),
        markdown(scores, headers),
        rates.format(**said),
        *caveats(comparison),
    ]
    if comparison["partial"]:
        parts += ["**Partial corpus:**", "\n".join(comparison["partial"])]
    return "\n\n".join(parts) + "\n"


def write_reports(comparison: dict, folder: Path) -> None:
    """Write RESULTS.md and comparison.png into a folder."""
    from espnet_reuse.comparison.figure import draw  # takes longer to import

    write_text(format_results(comparison), folder / "RESULTS.md")
    with written_whole(folder / "comparison.png") as partial:
        draw(comparison).savefig(partial)


def format_speakers(errors: dict[str, list[Errors]]) -> str:
    """Format {model: errors of each seed} as error rates of each speaker."""
    rows = {}
    for name, seeds in errors.items():
        sums = list(map(by_speaker, seeds))
        for speaker, (_, words, _) in sums[0].items():
            rows.setdefault(speaker, {"speaker": speaker, "words": f"{words:.0f}"})
            mean = statistics.mean(seed[speaker][2] for seed in sums)
            rows[speaker][f"WER, {name}"] = f"{100 * mean / max(words, 1):.1f}"
    return markdown(list(rows.values()))


def format_examples(
    errors: dict[str, list[Errors]],
    texts: dict[str, dict],
    refs: dict[str, str],
    name: str,
) -> list[str]:
    """Format the utterances on which a model gains and loses most, as Markdown.

    Args:
        errors: {model: errors of each seed}.
        texts: {model: {utterance id: hypothesis}}.
        refs: {utterance id: reference}.
        name: The model to compare with the first.
    """
    first = next(iter(errors))
    words = {u: row[1] for u, row in sorted(errors[first][0].items())}
    means = {
        model: {u: statistics.mean(seed[u][2] for seed in errors[model]) for u in words}
        for model in (first, name)
    }
    change = {u: means[name][u] - means[first][u] for u in words}
    ranked = sorted(words, key=change.get)
    lines = []
    for title, chosen in (
        ("fewer", [u for u in ranked if change[u] < 0]),
        ("more", [u for u in reversed(ranked) if change[u] > 0]),
    ):
        lines += [f"#### {name}: {title} errors than {first}", ""]
        for u in chosen[:EXAMPLES]:
            counts = " to ".join(f"{mean[u]:g}" for mean in means.values())
            lines += [
                f"- `{u}`, {words[u]} words, errors: {counts}",
                f"    - reference: {refs[u]}",
                *(f"    - {m}: {texts[m][u]}" for m in means),
            ]
        lines += [""] if chosen else ["", "None.", ""]
    return lines


def format_details(models: dict, dumpdir: Path) -> str:
    """Format comparison_details.md of the models of a comparison."""
    lines = ["<!-- Generated by espnet_reuse.comparison.results -->"]
    lines += ["# By speaker and utterance", ""]
    if any(model["seeds"] > 1 for model in models.values()):
        lines += ["Errors are means over the seeds, texts the first seed's.", ""]
    for set_ in next(iter(models.values()))["scores"]:
        errors, texts = {}, {}
        for name, model in models.items():
            errors[name] = [run["utterances"][set_] for run in model["runs"]]
            decode_dir = Path(model["runs"][0]["asr_exp"], model["decoding"])
            texts[name] = read_scp(decode_dir / set_ / "text")
        refs = read_scp(dumpdir / set_ / "text")
        lines += [f"## {set_}", "", "### By speaker", "", format_speakers(errors), ""]
        if len(models) > 1:
            lines += ["### The utterances that differ most", ""]
        for name in list(models)[1:]:
            lines += format_examples(errors, texts, refs, name)
    return "\n".join(lines).rstrip() + "\n"


def print_comparison(comparison: dict, console: Console) -> None:
    """Print a comparison as aligned tables, 100 columns wide at most."""
    models = comparison["models"]
    first, baseline = next(iter(models.items()))
    width = min(console.width, 100)

    def new_table(*headers):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("model", overflow="fold")
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True)
        return table

    faster = FASTER.replace(" ", "\n", 1)
    sizes = new_table(
        *("parameters", "training\ns/epoch", faster, "encoder\nms/s", faster),
        "memory\nMB",
    )
    for model, cells in zip(models.values(), model_cells(models), strict=True):
        sizes.add_row(
            escape(cells["model"]),
            cells["parameters"],
            f"{model['seconds_per_epoch']:.2f}",
            cells[f"training, {FASTER}"],
            f"{1000 * model['rtf']:.2f}",
            cells[f"encoder, {FASTER}"],
            cells["memory"],
        )
    texts = new_table("decoding", "ms/s", faster, *PARTS)
    for cells in text_cells(models):
        texts.add_row(escape(cells.pop("model")), *cells.values())
    scores = score_cells(models)
    columns = ["WER", "change of WER", "95 % interval", BEST_PATH, "CER"]
    columns = [column for column in columns if column in scores[0]]
    rates = new_table(*(c.replace("change of WER", "points") for c in columns))
    numbers = itemgetter(*columns)
    for set_, rows in groupby(scores, itemgetter("set")):
        words = baseline["scores"][set_]["wer"]["tokens"]
        rates.add_row(escape(f"{set_} ({words:,} words)"))
        for cells in rows:
            rates.add_row(escape(f"  {cells['model']}"), *numbers(cells))
        rates.add_section()
    for table in filter(lambda table: table.row_count, (sizes, texts, rates)):
        console.print(table, "", width=width)
    notes = [
        f"Times as fast: {first}'s time divided by the model's; above 1 is faster. "
        "Encoder: milliseconds per second of audio, one utterance at a time, "
        f"{comparison['rtf_device']}. Decoding: the same from waveform to text, and "
        f"shares of it. Points: the WER minus {first}'s in percentage points; beside "
        "it, its 95 % confidence interval."
        + (" Best path: the WER without a search." if BEST_PATH in columns else ""),
        *caveats(comparison),
        *comparison["partial"],
    ]
    for note in notes:
        console.print(note, width=width, highlight=False, markup=False)


def main():
    """Write RESULTS.md and comparison.png beside each comparison.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("comparisons", nargs="+", type=Path, metavar="comparison.json")
    args = parser.parse_args()
    with reported_errors("tables"):
        for path in args.comparisons:
            comparison = json.loads(path.read_text(encoding="utf-8"))
            write_reports(UNSAID | comparison, path.parent)


if __name__ == "__main__":
    main()
