# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Summarise measurements, and write them as JSON, Markdown and a figure."""

from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy

from espnet_reuse.benchmark.breakdown import CATEGORIES
from espnet_reuse.benchmark.measure import MEASURED
from espnet_reuse.benchmark.peers import (
    ABSOLUTE,
    E_BRANCHFORMER,
    EAGER,
    LIMIT,
    SDPA,
)
from espnet_reuse.files import write_json, write_text, written_whole

COLUMNS = """\
Times are medians of interleaved rounds, with their quartiles in brackets. "vs": how
many times faster than that peer, a ratio of medians, with the quartiles of the rounds'
own ratios. "Attention time removed": (ESPnet eager - this) / (ESPnet eager - limit);
the limit is the same encoder with attention removed from its layers. The floor is the
limit and the matrix products that reuse cannot avoid, timed by themselves in the same
rounds{training}. Peak memory: what one step adds, in MB of 2^20 bytes, {memory}."""
BREAKDOWN = """\
Milliseconds of one forward in inference, the fastest of three, by the profiler. Rest of
attention: relative shift, mask, scaling, copies. Convolution: with the whole cgMLP of
a Branchformer. Rest: normalisation, residuals, dropout, merging of branches."""
GROWTH = """\
Exponent p of time ~ length^p (of one forward in inference), a least-squares fit over
all lengths on logarithmic axes: 1 is linear, 2 quadratic. Peak memory likewise."""
ENCODERS = """\
Each encoder is compared with its own parent in ESPnet, in the same rounds. Encoders are
measured one after another: only ratios are shown, and the limit is each one's own."""
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(numpy.median(values))


def quartiles(values: Sequence[float]) -> List[float]:
    """Return the lower and the upper quartile."""
    return [float(q) for q in numpy.percentile(values, [25, 75])]


def summarise(length: Dict) -> Dict:
    """Complete one length's raw measurements with medians, ratios and shares.

    Args:
        length: What `compare.compare_at` returns.

    Returns:
        The same, with `median_ms`, `quartiles_ms`, `speedup` (over each peer),
        `attention_time_removed`, `floor_ms`, `to_floor` and `memory_to_eager` in the
        rows. Each is None where a part of it was not measured.
    """
    peers = length["peers"]
    timed = {name: row["times_ms"] for name, row in peers.items() if row["times_ms"]}
    medians = {name: median(times) for name, times in timed.items()}
    eager = peers[EAGER]["peak_memory_mb"]
    for name, row in peers.items():
        own = medians.get(name)
        products = length["products"].get(name)
        floor = medians[LIMIT] + median(products) if products and LIMIT in timed else 0
        removed = None
        if name != EAGER and {EAGER, LIMIT, name} <= set(timed):
            removed = (medians[EAGER] - own) / (medians[EAGER] - medians[LIMIT])
        memory = row["peak_memory_mb"]
        row |= {
            "median_ms": own,
            "quartiles_ms": own and quartiles(timed[name]),
            "speedup": {
                other: {
                    "ratio": medians[other] / own,
                    "quartiles": quartiles(numpy.divide(times, timed[name])),
                }
                for other, times in timed.items()
                if own
            },
            "attention_time_removed": removed,
            "floor_ms": floor or None,
            "to_floor": own / floor if own and floor else None,
            "memory_to_eager": memory / eager if memory and eager else None,
        }
    return length


def find_slower(lengths: Sequence[Dict]) -> List[str]:
    """Say where an encoder of ours is slower than one of ESPnet's.

    Beyond the spread: in three rounds of four or more.
    """
    found = []
    for length in lengths:
        for name, row in length["peers"].items():
            if row["group_size"] is None:
                continue
            for other in (EAGER, SDPA, ABSOLUTE, E_BRANCHFORMER):
                speedup = row["speedup"].get(other)
                if speedup and speedup["quartiles"][1] < 1:
                    found.append(
                        f"{length['seconds']:g} s: {name} than {other} "
                        f"({speedup['ratio']:.2f}x)"
                    )
    return found


def fit_growth(lengths: Sequence[Dict]) -> Dict[str, Dict[str, float]]:
    """Return the exponents of growth with length, by encoder and category."""

    def exponent(points):
        points = [(s, value) for s, value in points if value and value > 0]
        if len(points) < 2:
            return None
        seconds, values = numpy.log(points).T
        return float(numpy.polyfit(seconds, values, 1)[0])

    names = dict.fromkeys(name for length in lengths for name in length["breakdown"])
    growth = {}
    for name in names:
        parts = [(g["seconds"], g["breakdown"].get(name, {})) for g in lengths]
        growth[name] = {
            category: exponent([(s, part.get(category)) for s, part in parts])
            for category in ("total", *CATEGORIES)
        }
        growth[name]["peak memory"] = exponent(
            [(g["seconds"], g["peers"][name]["peak_memory_mb"]) for g in lengths]
        )
    return growth


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["", *("|" + "|".join(line) + "|" for line in lines), ""]


def _number(value: Optional[float], form: str = ".2f", unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _speedup(row: Dict, other: str) -> str:
    value = row["speedup"].get(other)
    if value is None:
        return ""
    low, high = value["quartiles"]
    return f"{value['ratio']:.2f}x ({low:.2f}-{high:.2f})"


def _row(name: str, row: Dict) -> List[str]:
    time = row["status"]
    if time == MEASURED:
        low, high = row["quartiles_ms"]
        time = f"{row['median_ms']:.1f} ({low:.1f}-{high:.1f})"
    return [
        name,
        f"{row['parameters']:,}",
        time,
        *("" if other == name else _speedup(row, other) for other in (EAGER, SDPA)),
        _number(row["attention_time_removed"]),
        _number(row["floor_ms"], ".1f"),
        _number(row["to_floor"]),
        _number(row["peak_memory_mb"], ".0f"),
        _number(row["memory_to_eager"], ".2f", "x"),
    ]


def _heading(benchmark: Dict, hidden: Sequence[str] = ("encoder_conf",)) -> List[str]:
    """Return what was run, and what the columns are, as lines of Markdown."""
    settings = benchmark["settings"]
    training, on_gpu = settings["mode"] == "train", settings["device"] == "cuda"
    lines = ["<!-- Generated by espnet_reuse.bin.benchmark -->", "# Benchmark", ""]
    lines += [f"- {name}: `{value}`" for name, value in benchmark["run"].items()]
    shown = {name: value for name, value in settings.items() if name not in hidden}
    lines += [f"- {name}: `{value}`" for name, value in shown.items()]
    if not benchmark["finished"]:
        lines += ["", "**Not finished: lengths are missing.**"]
    columns = COLUMNS.format(
        training=", three times for forward and backward" if training else "",
        memory="of the GPU" if on_gpu else "in a process of its own",
    )
    return [*lines, "", columns]


def format_encoders(benchmarks: Sequence[Dict]) -> str:
    """Format results of several encoders as one Markdown table.

    Args:
        benchmarks: Of one run, with the same lengths: one for each encoder.
    """
    columns = ["audio", "encoder", "layers per map", f"vs {EAGER}", f"vs {SDPA}"]
    columns += ["attention time removed", "time / floor", "the limit vs eager"]
    columns += ["peak memory vs eager"]
    rows = [
        [
            f"{length['seconds']:g} s",
            benchmark["settings"]["encoder"],
            f"{row['group_size']}",
            _speedup(row, EAGER),
            _speedup(row, SDPA),
            _number(row["attention_time_removed"]),
            _number(row["to_floor"]),
            _speedup(length["peers"][LIMIT], EAGER),
            _number(row["memory_to_eager"], ".2f", "x"),
        ]
        for lengths in zip(*(b["lengths"] for b in benchmarks), strict=True)
        for benchmark, length in zip(benchmarks, lengths, strict=True)
        for row in length["peers"].values()
        if row["group_size"] is not None
    ]
    hidden = "encoder", "config", "encoder_conf"
    lines = [*_heading(benchmarks[0], hidden), "", ENCODERS, *_table(columns, rows)]
    return "\n".join(lines).rstrip() + "\n"


def format_markdown(benchmark: Dict) -> str:
    """Format results as Markdown: a table per length, breakdowns and growth."""
    settings, lengths = benchmark["settings"], benchmark["lengths"]
    training = settings["mode"] == "train"
    lines = _heading(benchmark)
    columns = ["encoder", "parameters", "time (ms)", f"vs {EAGER}", f"vs {SDPA}"]
    columns += ["attention time removed", "floor (ms)", "time / floor"]
    columns += ["peak memory (MB)", "vs eager"]
    step = "forward and backward" if training else "forward"
    for length in lengths:
        lines += [
            "",
            f"## {length['seconds']:g} s: {step}, batch {settings['batch']}, "
            f"{length['output_frames']} frames after subsampling, "
            f"{length['rounds']} rounds",
        ]
        lines += _table(columns, [_row(*item) for item in length["peers"].items()])
    slower = find_slower(lengths)
    if slower:
        lines += ["**Slower beyond the spread** (in three of four rounds):", ""]
        lines += [f"- {place}" for place in slower]
    elif any(length["rounds"] for length in lengths):
        lines.append(
            "Nowhere was an encoder of ours slower than one of ESPnet's of as many "
            "layers beyond the spread (in three of four rounds)."
        )
    lines += ["", "## Breakdown", "", BREAKDOWN]
    parts = ["total", *CATEGORIES]
    rows = [
        [f"{length['seconds']:g} s", name, *(_number(ms[p], ".1f") for p in parts)]
        for length in lengths
        for name, ms in length["breakdown"].items()
    ]
    lines += _table(["length", "encoder", *parts], rows)
    if len(lengths) > 1:
        lines += ["## Growth with length", "", GROWTH]
        parts.append("peak memory")
        rows = [
            [name, *(_number(exponents[part]) for part in parts)]
            for name, exponents in benchmark["growth"].items()
        ]
        lines += _table(["encoder", *parts], rows)
    return "\n".join(lines).rstrip() + "\n"


def plot(benchmark: Dict, path: Path) -> None:
    """Draw time and speed-up over length."""
    from matplotlib.figure import Figure  # not pyplot: needs no display

    lengths = benchmark["lengths"]
    # the encoder with fewer layers has another number of them at each length
    names = dict.fromkeys(
        name
        for length in lengths
        for name, row in length["peers"].items()
        if row["layers"] == length["peers"][EAGER]["layers"]
    )
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    times, speedups = figure.subplots(1, 2)
    for i, name in enumerate(names):
        rows = [(g["seconds"], g["peers"].get(name)) for g in lengths]
        rows = [(s, row) for s, row in rows if row and row["median_ms"]]
        style = {
            "color": "black" if name == LIMIT else COLORS[i % len(COLORS)],
            "linestyle": "--" if name == LIMIT else "-",
            "marker": "os^v"[i // len(COLORS) % 4],
            "label": name,
        }
        seconds = [s for s, _ in rows]
        times.plot(seconds, [row["median_ms"] for _, row in rows], **style)
        rows = [
            (s, row["speedup"][EAGER]) for s, row in rows if EAGER in row["speedup"]
        ]
        seconds = [s for s, _ in rows]
        speedups.plot(seconds, [value["ratio"] for _, value in rows], **style)
        if rows:
            speedups.fill_between(
                seconds,
                *zip(*(value["quartiles"] for _, value in rows), strict=True),
                color=style["color"],
                alpha=0.15,
            )
    if times.has_data():  # out of memory everywhere, there is nothing to scale
        times.set(yscale="log")
    times.set(xscale="log", ylabel="time of a step (ms)")
    speedups.set(xscale="log", ylabel=f"speed-up over {EAGER} (times)")
    speedups.axhline(1, color="grey", linewidth=0.8)
    for axis in (times, speedups):
        axis.set_xlabel("audio (s)")
        ticks = [length["seconds"] for length in lengths]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    if names:
        figure.legend(*times.get_legend_handles_labels(), loc="outside right")
    figure.savefig(path, dpi=150)


def write_reports(benchmark: Dict, output: Path) -> str:
    """Write benchmark.json, benchmark.md and benchmark.png.

    Returns:
        The Markdown.
    """
    benchmark["growth"] = fit_growth(benchmark["lengths"])
    write_json(benchmark, output / "benchmark.json")
    markdown = format_markdown(benchmark)
    write_text(markdown, output / "benchmark.md")
    with written_whole(output / "benchmark.png") as partial:
        plot(benchmark, partial)
    return markdown
