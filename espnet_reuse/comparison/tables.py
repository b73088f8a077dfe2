# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Tables of a comparison: RESULTS.md, and what a terminal shows.

A *comparison* is the content of a comparison.json. Nothing here needs PyTorch or
ESPnet: the tables of a finished comparison are there at once.
"""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from espnet_reuse.comparison.intervals import RESAMPLES, mean_and_spread, points

FEW_WORDS = 500


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Format a table as Markdown; two columns may have the same name."""
    import pandas  # takes longer to import than a table to print

    table = pandas.DataFrame(rows, columns=header)
    return table.to_markdown(index=False, disable_numparse=True)


def ratio(key: str, model: dict, baseline: dict) -> str:
    """Format a value as a multiple of the baseline's, empty for the baseline."""
    return "" if model is baseline else f"x{model[key] / baseline[key]:.2f}"


def difference(counts: dict, baseline: dict) -> str:
    """Format the difference of two error rates in points, empty for the baseline."""
    if counts is baseline:
        return ""
    return f"{counts['error_rate'] - baseline['error_rate']:+.1f}"


def seconds_per_epoch(model: dict) -> str:
    """Format the seconds of a training epoch, and their range over the seeds."""
    seconds = [run["seconds_per_epoch"] for run in model["runs"]]
    spread = f" ({min(seconds):.2f}-{max(seconds):.2f})" if len(seconds) > 1 else ""
    return f"{model['seconds_per_epoch']:.2f}{spread}"


def memory(model: dict) -> str:
    """Format the peak memory, in MB."""
    peak = model["peak_memory_mb"]
    return "unknown" if peak is None else f"{peak:.0f}"


def caveats(comparison: dict) -> list[str]:
    """Say how far the error rates can be relied on."""
    baseline = next(iter(comparison["models"].values()))
    if baseline["seeds"] > 1:
        notes = [
            f"Means over {baseline['seeds']} seeds, ±: their standard deviation. So "
            "few seeds say little about how seeds differ: the intervals hold the "
            "difference less often than 95 times in 100, and one of several models "
            "may well stand out by chance."
        ]
    else:
        notes = ["One seed: the intervals do not show how other seeds would differ."]
    words = {name: s["wer"]["tokens"] for name, s in baseline["scores"].items()}
    few = [f"{name} ({n})" for name, n in words.items() if n < FEW_WORDS]
    if few:
        notes.append(
            "Too few words for an error rate to show more than that the pipeline "
            f"works: {', '.join(few)}."
        )
    return notes


def format_models(models: dict) -> str:
    """Format size, training, memory and encoder time of each model as Markdown."""
    first, baseline = next(iter(models.items()))
    device = "GPU" if baseline["peak_memory_of"] == "gpu" else "process"
    header = ["model", "parameters", f"to {first}", "epochs (best)"]
    header += ["training s/epoch", f"to {first}", "s to best"]
    header += [f"peak {device} memory (MB)", "encoder RTF", f"to {first}"]
    rows = [
        [
            name,
            f"{model['parameters']:,}",
            ratio("parameters", model, baseline),
            f"{model['epochs']:g} ({model['best_epoch']:g})",
            seconds_per_epoch(model),
            ratio("seconds_per_epoch", model, baseline),
            f"{model['seconds_to_best']:.0f}",
            memory(model),
            f"{model['rtf']:.5f} ({model['rtf_min']:.5f}-{model['rtf_max']:.5f})",
            ratio("rtf", model, baseline),
        ]
        for name, model in models.items()
    ]
    return markdown(header, rows)


def format_rates(models: dict) -> str:
    """Format the error rates of each set and model as Markdown."""
    first, baseline = next(iter(models.items()))
    header = ["set", "utterances", "model", "WER", f"to {first}", "95 % interval"]
    header += ["by speaker", "CER", f"to {first}", "S.Err", "decoding RTF"]
    rows = []
    for name, reference in baseline["scores"].items():
        for model_name, model in models.items():
            scores = model["scores"][name]
            wer, cer, rtf = scores["wer"], scores["cer"], scores["decoding_rtf"]
            rows.append(
                [
                    name,
                    str(wer["sentences"]),
                    model_name,
                    mean_and_spread(wer["error_rates"]),
                    difference(wer, reference["wer"]),
                    points(wer["interval"]),
                    points(wer["interval_by_speaker"]),
                    mean_and_spread(cer["error_rates"]),
                    difference(cer, reference["cer"]),
                    f"{100 * wer['sentence_errors'] / wer['sentences']:.1f}",
                    "" if rtf is None else f"{rtf:.3f}",
                ]
            )
    return markdown(header, rows)


def format_results(comparison: dict) -> str:
    """Format a comparison as Markdown: RESULTS.md."""
    models = comparison["models"]
    baseline = next(iter(models.values()))
    seeds = ", mean of the seeds (and their range)" if baseline["seeds"] > 1 else ""
    warm = ""
    if any(name.endswith("_warm") for name in models):
        warm = "; of the fine-tuning alone for models that end in _warm"
    parts = [
        "\n".join(
            [
                "<!-- Generated by espnet_reuse.comparison.results -->",
                "# RESULTS",
                *(f"- {key}: `{value}`" for key, value in comparison["run"].items()),
            ]
        ),
        format_models(models),
        f"Training s/epoch: median over the epochs but the first{seeds}. S to best: "
        "training and validation time up to the best epoch, by the config's "
        f"best_model_criterion{warm}. Encoder RTF: encoder seconds per second of "
        f"audio, batch 1, {comparison['rtf_device']}, median of "
        f"{comparison['rtf_rounds']} interleaved rounds over "
        f"{comparison['rtf_utterances']} utterances (and their range).",
        format_rates(models),
        "95 % interval: of the difference of the WERs in points, a paired bootstrap "
        f"over utterances and seeds ({RESAMPLES:,} resamples, percentiles). By "
        "speaker: the same over speakers, each with all their utterances, and seeds. "
        "Decoding RTF: ESPnet's, of the whole decoding. More on speakers and "
        "utterances: comparison_details.md.",
        *caveats(comparison),
    ]
    if comparison["partial"]:
        parts += ["**Partial corpus:**", "\n".join(comparison["partial"])]
    return "\n\n".join(parts) + "\n"


def print_comparison(comparison: dict, console: Console) -> None:
    """Print a comparison as aligned tables, 100 columns wide at most.

    Args:
        comparison: Content of a comparison.json.
        console: Where to; long names of models are folded into its width.
    """
    models = comparison["models"]
    first, baseline = next(iter(models.items()))
    width = min(console.width, 100)

    def new_table(*numbers):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("model", overflow="fold")
        for header in numbers:
            table.add_column(header, justify="right", no_wrap=True)
        return table

    table = new_table(
        *("parameters", "training\ns/epoch", "ratio", "encoder\nms/s", "ratio"),
        "memory\nMB",
    )
    for name, model in models.items():
        table.add_row(
            escape(name),
            f"{model['parameters']:,}",
            f"{model['seconds_per_epoch']:.2f}",
            ratio("seconds_per_epoch", model, baseline),
            f"{1000 * model['rtf']:.2f}",
            ratio("rtf", model, baseline),
            memory(model),
        )
    console.print(table, "", width=width)
    table = new_table("WER", "points", "95 % interval", "CER")
    for set_, scores in baseline["scores"].items():
        table.add_row(escape(f"{set_} ({scores['wer']['tokens']:,} words)"))
        for name, model in models.items():
            wer, cer = (model["scores"][set_][score] for score in ("wer", "cer"))
            table.add_row(
                escape(f"  {name}"),
                mean_and_spread(wer["error_rates"]),
                difference(wer, scores["wer"]),
                points(wer["interval"]),
                mean_and_spread(cer["error_rates"]),
            )
        table.add_section()
    console.print(table, "", width=width)
    notes = [
        f"Ratio: to {first}. Encoder: milliseconds per second of audio, "
        f"{comparison['rtf_device']}. Points: WER's difference to {first}, and its "
        "95 % interval over utterances and seeds.",
        *caveats(comparison),
        *comparison["partial"],
    ]
    for note in notes:
        console.print(note, width=width, highlight=False, markup=False)
