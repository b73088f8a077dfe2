# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Summarise measurements, and write them as JSON, Markdown and a figure.

`python3 -m espnet_reuse.benchmark.report benchmark.json ...` makes the Markdown again,
beside each file.
"""

import argparse
import json
import math
import re
from itertools import cycle
from pathlib import Path

import numpy
import pandas

from espnet_reuse.benchmark.breakdown import CATEGORIES
from espnet_reuse.benchmark.decoding import BEST_PATH, per_second
from espnet_reuse.benchmark.decoding import PARTS as DECODING_PARTS
from espnet_reuse.benchmark.measure import COMPILED, EAGER
from espnet_reuse.benchmark.peers import (
    ABSOLUTE,
    ESPNET,
    FRONTEND,
    LIMIT,
    NAIVE,
    OWN,
    RIVALS,
    SAME,
    SDPA,
)
from espnet_reuse.files import write_json, write_text, written_whole

COLUMNS = """\
- Time: median of interleaved rounds. In brackets: the quartiles, here and below.
- Times as fast as X: X's time divided by this encoder's, the median of the rounds'
  ratios. Above 1 is faster than X. In brackets: their quartiles. X has the same form
  (eager, compiled or captured in a CUDA graph), unless the heading names another.
- Limit: the same encoder without the attention in its layers.
- Attention time removed: 0 is the time of ESPnet, 1 the time of the limit.
- Floor: the limit, and the matrix products that reuse cannot avoid, timed by themselves
  in the same rounds{training}. No encoder with this reuse can be faster than its floor.
- Peak memory: the memory that one step adds, in MB of 2^20 bytes, {memory}."""
TRAINING = {"infer": "", "train": " and counted three times, for forward and backward"}
MEMORY = {"cpu": "measured in a process of its own", "cuda": "on the GPU"}
BREAKDOWN = """\
Milliseconds of one forward pass in inference, measured by the profiler, the fastest of
three. Rest of attention: relative shift, mask, scaling, copies. Convolution: the
convolution module; of a Branchformer, the whole cgMLP. Rest: normalisation, residuals,
dropout, merging of branches."""
GROWTH = """\
Exponent p of time ~ length^p: 1 is linear growth, 2 is quadratic. The time is that of
one forward pass in inference. p is a least-squares fit over all lengths, on logarithmic
axes. Peak memory: the same fit."""
ENCODERS = """\
Each encoder is compared with its own parent in ESPnet, in the same rounds, and with its
own limit. Encoders are measured one after another: this table shows no times."""

DECODING = """\
- Times: milliseconds for a second of audio, medians of rounds in which all take turns.
  Frontend: features and normalisation. Search: all that is neither frontend nor
  encoder; the CTC head belongs to it.
- Beam N: ESPnet's search with a beam of N. Best path: the most likely token of each
  frame, without repeats and blanks. Batch: utterances that are given at once. Of
  them, best path makes batches of similar lengths, on a CPU of 16 s at most.
- Times as fast as X: X's time divided by this one's, waveform to text. Above 1 is
  faster than X. The first model: with the same search and batch. A beam: the same
  model with it.
- Kept: the share of the encoder's gain over the first model that is left in the total.
  With 1, the total is as many times as fast as the encoder. Empty where the encoder is
  less than {min_gain} times as fast.
- Not encoder: the share of frontend and search in the total, of best path."""

RUNTIMES = f"""\
- Time: from waveform to the CTC head's log-probabilities, one utterance at a time.
  Median of interleaved rounds: encoders and runtimes all take turns. In brackets: the
  quartiles, here and below.
- {OWN}: in PyTorch, ESPnet's encoder in its default form. In a
  serving runtime, an exported file with the operations of its attention.
- {SAME}: in PyTorch, our encoder without reuse. In a serving
  runtime, ESPnet's encoder as `espnet-reuse export` writes it.
- Limit: the same encoder without the attention in its layers.
- Frontend alone: features and normalisation. Frontend: its share of the time.
- Times as fast as X: X's time divided by this one's, the median of the rounds' ratios.
  Above 1 is faster than X. X is in the same runtime, unless the heading names another.
- Attention time removed: 0 is the time of {OWN}, in the same
  runtime, 1 the time of the limit. By reuse alone: 0 is {SAME}.
- ONNX Runtime computes in float32 with each --dtype."""
BOUND = """\
With our operations on both sides, groups of {size} still compute {maps} of {layers}
maps: reuse alone cannot remove more than {share:.2f} of attention's time."""


def _ratio(of):
    return f"{{{of}:.2f}} ({{{of}, lower:.2f}} to {{{of}, upper:.2f}})"


MIN_GAIN = 0.05  # of the encoder; of less, noise would tell what is kept
# By heading, how a row's values are written.
VERSUS = {
    f"times as fast as {peer}": _ratio(f"vs {peer}")
    for peer in (ESPNET, SDPA, ABSOLUTE)
}
FLOOR = {"times as fast as the floor": "{vs floor:.2f}"}
LENGTH_TABLE = {
    "encoder": "{encoder}",
    "parameters": "{parameters:,}",
    "time (ms)": "{median_ms:.1f} ({lower_ms:.1f} to {upper_ms:.1f})",
    **VERSUS,
    "attention time removed": "{attention_time_removed:.2f}",
    "floor (ms)": "{floor_ms:.1f}",
    **FLOOR,
    "peak memory (MB)": "{peak_memory_mb:.0f}",
    f"of {ESPNET}'s": "{memory_to_eager:.2f}",
}
# Of other forms than eager, and of a GPU.
USERS_CLOCK = {f"times as fast as {ESPNET}, eager": _ratio("vs eager")}
KERNELS = {"kernels (ms)": "{kernels_ms:.1f}", "wall / kernels": "{wall:.2f}"}
METHOD = """\
Times as fast in the same form. The method: groups with ESPnet's operations, against
ESPnet. Our operations: ours without reuse against ESPnet, and the groups with our
operations against the same groups with ESPnet's. Both: the groups with our operations,
against ESPnet."""
METHOD_TABLE = {
    "length": "{seconds:g} s",
    "form": "{form}",
    "encoder": "{encoder}",
    "the method": _ratio("method"),
    "our operations, no reuse": _ratio("no reuse"),
    "our operations, with reuse": _ratio("vs naive"),
    "both": _ratio(f"vs {ESPNET}"),
}
ENCODERS_TABLE = {
    "audio": "{seconds:g} s",
    "encoder": "{parent}",
    "layers per map": "{group_size:.0f}",
    **VERSUS,
    "attention time removed": "{attention_time_removed:.2f}",
    **FLOOR,
    f"limit: times as fast as {ESPNET}": _ratio(f"limit vs {ESPNET}"),
    f"peak memory, of {ESPNET}'s": "{memory_to_eager:.2f}",
}
RUNTIMES_TABLE = {
    "runtime": "{runtime}, {dtype}",
    "encoder": "{encoder}",
    "time (ms)": "{median_ms:.1f} ({lower_ms:.1f} to {upper_ms:.1f})",
    f"times as fast as {SAME}": _ratio("vs same"),
    "times as fast as ESPnet in PyTorch, float32": _ratio("vs PyTorch"),
    "attention time removed": "{removed:.2f}",
    "by reuse alone": "{removed by reuse:.2f}",
    "frontend": "{frontend:.1%}",
}
PARTS = ("total", *CATEGORIES)
BREAKDOWN_TABLE = {"length": "{seconds:g} s", "encoder": "{encoder}"}
BREAKDOWN_TABLE |= {part: f"{{{part}:.1f}}" for part in PARTS}
GROWTH_TABLE = {"encoder": "{encoder}"}
GROWTH_TABLE |= {part: f"{{{part}:.2f}}" for part in (*PARTS, "peak memory")}


def summarise(rows: list[dict]) -> pandas.DataFrame:
    """Complete the rows of `compare.compare_at`, of any number of lengths.

    Returns:
        The rows with `rounds`; `median_ms` and its quartiles `lower_ms` and `upper_ms`;
        for each of RIVALS `vs X`, how many times as fast as X in the same form, with
        `vs X, lower` and `vs X, upper`; `vs eager`, as ESPnet in its eager form; `vs
        naive`, as groups with ESPnet's operations; `wall`, time over kernels;
        `attention_time_removed`, `floor_ms`, `vs floor` and `memory_to_eager`. Each is
        NaN where a part of it was not measured.
    """
    floats = {"peak_memory_mb": float, "group_size": float}
    rows = pandas.DataFrame([{"form": EAGER, "kernels_ms": None} | row for row in rows])
    table = rows.astype(floats | {"kernels_ms": float})
    tables = []
    for _, length in table.groupby("seconds", sort=False):
        is_base = (length.form == EAGER) & (length.encoder == ESPNET)
        base = pandas.Series(next(iter(length[is_base].times_ms), None), dtype=float)
        forms = length.groupby("form", sort=False)
        tables += [_summarise_form(form, base) for _, form in forms]
    return pandas.concat(tables, ignore_index=True)


def _summarise_form(rows, base):
    rows = rows.set_index("encoder", drop=False)
    # a row for each round, a column for each encoder
    times = pandas.DataFrame(
        {name: pandas.Series(ms, dtype=float) for name, ms in rows.times_ms.items()}
    )
    quartiles, medians = [0.25, 0.75], times.median()
    rows["rounds"] = len(times)
    rows["median_ms"] = medians
    rows[["lower_ms", "upper_ms"]] = times.quantile(quartiles).T
    rivals = {f"vs {rival}": rival for rival in RIVALS}
    rivals["vs naive"] = next((name for name in times if name.endswith(NAIVE)), None)
    for column, rival in (rivals | {"vs eager": None}).items():
        ms = base if column == "vs eager" else times.get(rival, math.nan)
        others = times.drop(columns=[rival], errors="ignore")
        ratios = others.rtruediv(ms, axis=0)
        for end, share in {"": 0.5, ", lower": 0.25, ", upper": 0.75}.items():
            rows[column + end] = ratios.quantile(share)
    rows["wall"] = medians / rows.kernels_ms
    limit = medians.get(LIMIT, math.nan)
    gained = medians[ESPNET] - medians.drop(ESPNET)
    rows["attention_time_removed"] = gained / (medians[ESPNET] - limit)
    products = {name: numpy.median(ms) for name, ms in rows.products_ms.items() if ms}
    rows["floor_ms"] = limit + pandas.Series(products, dtype=float)
    rows["vs floor"] = rows.floor_ms / medians
    memory = rows.peak_memory_mb.replace(0, numpy.nan)
    rows["memory_to_eager"] = memory / memory[ESPNET]
    return rows


def find_slower(table: pandas.DataFrame) -> list[str]:
    """Say where ours is slower in three rounds of four or more.

    It is compared with ESPnet's in the same form, and compiled, from 5 s on, with its
    own eager form.
    """
    slower, eager = [], {}
    for row in table.dropna(subset="group_size").to_dict("records"):
        form = "" if row["form"] == EAGER else f", {row['form']},"
        ours = f"{row['seconds']:g} s: {row['encoder']}{form} is"
        slower += [
            f"{ours} {row[f'vs {rival}']:.2f} times as fast as {rival}"
            for rival in RIVALS
            if row[f"vs {rival}, upper"] < 1
        ]
        own = eager.setdefault((row["seconds"], row["encoder"]), row)["times_ms"]
        if row["form"] == COMPILED and row["seconds"] >= 5 and own and row["times_ms"]:
            ratios = numpy.divide(own, row["times_ms"])
            if numpy.quantile(ratios, 0.75) < 1:
                ratio = f"{numpy.median(ratios):.2f}"
                slower.append(f"{ours} {ratio} times as fast as its eager form")
    return slower


def list_gains(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return our largest groups, with what the method and our operations gain."""
    length, versus = ["seconds", "form"], f"vs {ESPNET}"
    named = {
        "method": table.encoder.str.endswith(NAIVE),
        "no reuse": table.group_size == 1,
    }
    naive = table.encoder[named["method"]].str.removesuffix(NAIVE)
    gains = table[table.encoder.isin(naive)]
    for name, chosen in named.items():
        ratios = table[chosen].set_index(length).filter(regex=f"^{versus}(, |$)")
        ratios.columns = ratios.columns.str.replace(versus, name)
        ends = ("", ", lower", ", upper")
        ratios = ratios.reindex(columns=[name + end for end in ends])
        gains = gains.join(ratios, on=length)
    return gains


def list_parts(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a row for each breakdown: seconds, encoder, ms by category, memory."""
    rows = table.dropna(subset="breakdown_ms")
    parts = pandas.DataFrame(rows.breakdown_ms.tolist(), rows.index, PARTS)
    parts["peak memory"] = rows.peak_memory_mb
    return rows[["seconds", "encoder"]].join(parts)


def fit_growth(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return the exponents of growth with length, by encoder and category."""

    def exponent(values):
        values = values[values > 0]
        if len(values) < 2:
            return numpy.nan
        return numpy.polyfit(numpy.log(values.index), numpy.log(values), 1)[0]

    parts = list_parts(table).set_index("seconds").groupby("encoder", sort=False)
    return parts.agg(exponent).reset_index()


def _markdown(table, columns):
    """Write a template's text for each column; empty where a value is not known."""

    def write(heading, row):
        text = columns[heading].format(**row)
        if re.search(r"\bnan\b", text):
            return row["status"] if heading == "time (ms)" else ""
        return text

    rows = table.to_dict("records")
    cells = {heading: [write(heading, row) for row in rows] for heading in columns}
    return pandas.DataFrame(cells).to_markdown(index=False, disable_numparse=True)


def _heading(benchmark, hidden=("encoder_conf",)):
    """Return what was run as sections of Markdown."""
    settings = benchmark["settings"]
    listed = benchmark["run"] | settings
    lines = [f"- {name}: `{listed[name]}`" for name in listed if name not in hidden]
    sections = ["<!-- Generated by espnet_reuse.bin.benchmark -->\n# Benchmark"]
    sections.append("\n".join(lines))
    if not benchmark["finished"]:
        sections.append("**Not finished: lengths are missing.**")
    return sections


def _columns(settings):
    training, memory = TRAINING[settings["mode"]], MEMORY[settings["device"]]
    return COLUMNS.format(training=training, memory=memory)


def format_encoders(benchmarks: list[dict]) -> str:
    """Format results of several encoders, of the same lengths, as one table."""
    parents = [benchmark["settings"]["encoder"] for benchmark in benchmarks]
    tables = [summarise(benchmark["measurements"]) for benchmark in benchmarks]
    table = pandas.concat(tables, keys=parents, names=["parent"]).reset_index("parent")
    same = ["seconds", "parent", "form"]
    limits = table[table.encoder == LIMIT].set_index(same).filter(like=f"vs {ESPNET}")
    table = table.join(limits.add_prefix("limit "), on=same)
    is_eager = table.form == EAGER
    table["parent"] = table.parent.where(is_eager, table.parent + ", " + table.form)
    ours = table.dropna(subset="group_size").sort_values("seconds", kind="stable")
    sections = _heading(benchmarks[0], hidden=("encoder", "config", "encoder_conf"))
    sections += [_columns(benchmarks[0]["settings"]), ENCODERS]
    return "\n\n".join([*sections, _markdown(ours, ENCODERS_TABLE)]) + "\n"


def format_markdown(benchmark: dict) -> str:
    """Format results of one task as Markdown."""
    settings = benchmark["settings"]
    if "runtime" in settings:
        return format_runtimes(benchmark)
    is_decoding = settings.get("task") == "transcribe"
    return (format_decoding if is_decoding else format_encoder)(benchmark)


def format_encoder(benchmark: dict) -> str:
    """Format results as Markdown: a table per length, breakdowns and growth."""
    settings, table = benchmark["settings"], summarise(benchmark["measurements"])
    step = "forward and backward" if settings["mode"] == "train" else "forward"
    sections = [*_heading(benchmark), _columns(settings)]
    for (seconds, form), rows in table.groupby(["seconds", "form"], sort=False):
        frames, rounds = rows[["output_frames", "rounds"]].iloc[0]
        how = step if form == EAGER else f"{step}, {form}"
        sections.append(
            f"## {seconds:g} s: {how}, batch {settings['batch']}, "
            f"{frames} frames after subsampling, {rounds} rounds"
        )
        more = USERS_CLOCK if form != EAGER else {}
        more = more | (KERNELS if rows.kernels_ms.notna().any() else {})
        sections.append(_markdown(rows, LENGTH_TABLE | more))
    if slower := [f"- {place}" for place in find_slower(table)]:
        sections.append("**Slower than ESPnet's in three of four rounds or more:**")
        sections.append("\n".join(slower))
    elif table["rounds"].any():
        sections.append(
            "No encoder of ours was slower than one of ESPnet's with as many layers in "
            "three of four rounds."
        )
    if len(gains := list_gains(table)):
        sections += ["## Method and operations", METHOD]
        sections.append(_markdown(gains, METHOD_TABLE))
    sections += ["## Breakdown", BREAKDOWN]
    sections.append(_markdown(list_parts(table), BREAKDOWN_TABLE))
    if table.seconds.nunique() > 1:
        sections += ["## Growth with length", GROWTH]
        sections.append(_markdown(fit_growth(table), GROWTH_TABLE))
    return "\n\n".join(sections) + "\n"


def summarise_decoding(
    rows: list[dict], utterances: int, audio_seconds: float
) -> list[dict]:
    """Summarise the rounds of `decoding.time_turns` over so much audio.

    Returns:
        A row for each model, search and batch: `utterances`, `audio_seconds`; medians
        in milliseconds for a second of audio; `vs first`, times as fast as the first
        model with this search and batch; `vs beam`, as this model with the first
        search, a beam, and the first batch; `kept`, the share of the encoder's gain
        that is left in the total; and of best path `not_encoder`, a share of the total.
        Each is None where there is nothing to compare.
    """
    table = per_second(rows, audio_seconds)
    table = table.assign(utterances=utterances, audio_seconds=audio_seconds)
    encoder, total = table.encoder_ms, table.total_ms
    same = table.groupby(["search", "batch"], sort=False)
    table["vs first"] = same.total_ms.transform("first") / total
    gain = same.encoder_ms.transform("first") / encoder - 1
    table["kept"] = ((table["vs first"] - 1) / gain).where(gain >= MIN_GAIN)
    is_beam = table.search != BEST_PATH
    own = table[is_beam].groupby("model").total_ms.first()
    table["vs beam"] = table.model.map(own) / total
    table["not_encoder"] = (1 - encoder / total).mask(is_beam)
    return json.loads(table.to_json(orient="records"))


def format_decoding(benchmark: dict) -> str:
    """Format the rows of `summarise_decoding` as Markdown: a table for each length."""
    table = pandas.DataFrame(benchmark["measurements"])
    table = table.astype(dict.fromkeys(("vs beam", "kept", "not_encoder"), float))
    first, search, batch = table[["model", "search", "batch"]].iloc[0]
    columns = {name: f"{{{name}}}" for name in ("search", "batch", "model")}
    for part in (*DECODING_PARTS, "search", "total"):
        columns[f"{part} (ms)"] = f"{{{part}_ms:.2f}}"
    columns[f"times as fast as {first}"] = "{vs first:.2f}"
    if search != BEST_PATH:
        columns[f"times as fast as {search}, batch {batch}"] = "{vs beam:.2f}"
    columns |= {"kept": "{kept:.2f}", "not encoder": "{not_encoder:.2f}"}
    explained = DECODING.format(min_gain=1 + MIN_GAIN)
    sections = [*_heading(benchmark), explained]
    for audio, rows in table.groupby("audio_seconds", sort=False):
        utterances = rows.utterances.iloc[0]
        sections.append(f"## {utterances} utterances, {audio:.1f} s of audio")
        sections.append(_markdown(rows, columns))
    return "\n\n".join(sections) + "\n"


def summarise_runtimes(rows: list[dict]) -> list[dict]:
    """Complete the rows of `runtimes.time_forms`, of any number of lengths.

    Returns:
        The rows with `median_ms` and its quartiles `lower_ms` and `upper_ms`; `vs same`
        and `vs PyTorch`, how many times as fast as ESPnet's encoder with our operations
        in the same runtime, and as ESPnet's own in PyTorch and float32, each with
        `, lower` and `, upper`; `removed` and `removed by reuse`, shares of attention's
        time; and `frontend`, its share. Each is None where a part of it was not
        measured, and for the frontend alone.
    """
    table = pandas.DataFrame(rows)
    times = pandas.DataFrame(table.times_ms.tolist())  # a column for each round
    keys = ["seconds", "runtime", "dtype", "encoder"]
    places = {key: n for n, key in enumerate(table[keys].itertuples(False, None))}

    def times_of(encoder, **elsewhere):
        """Return the times of one encoder, for each row those beside it."""
        others = table.assign(encoder=encoder, **elsewhere)[keys]
        found = [places.get(key, -1) for key in others.itertuples(False, None)]
        return times.reindex(found).set_axis(table.index)

    def quartiles(values):
        return values.quantile([0.25, 0.75], axis=1).T

    median = times.median(axis=1)
    pytorch = times_of(OWN, runtime="pytorch", dtype="float32")
    derived = pandas.DataFrame(index=table.index)
    for column, rival in {"vs same": times_of(SAME), "vs PyTorch": pytorch}.items():
        derived[column] = (rival / times).median(axis=1)
        spread = [f"{column}, lower", f"{column}, upper"]
        derived[spread] = quartiles(rival / times)
    limit = times_of(LIMIT).median(axis=1)
    for column, base in {"removed": OWN, "removed by reuse": SAME}.items():
        base = times_of(base).median(axis=1)
        derived[column] = (base - median) / (base - limit)
    derived["frontend"] = times_of(FRONTEND).median(axis=1) / median
    # the frontend of PyTorch is ours
    espnets = (table.runtime == "pytorch") & (table.encoder == OWN)
    derived["frontend"] = derived.frontend.mask(espnets)
    table["median_ms"] = median
    table[["lower_ms", "upper_ms"]] = quartiles(times)
    table = table.join(derived.mask(table.encoder == FRONTEND))
    return json.loads(table.to_json(orient="records"))


def format_runtimes(benchmark: dict) -> str:
    """Format the rows of `summarise_runtimes` as Markdown: a table for each length."""
    settings = benchmark["settings"]
    table = pandas.DataFrame(benchmark["measurements"])
    known = table.columns.difference(["encoder", "runtime", "dtype", "times_ms"])
    table = table.astype(dict.fromkeys(known, float))
    sections = [*_heading(benchmark), RUNTIMES]
    for seconds, rows in table.groupby("seconds", sort=False):
        rounds = len(rows.times_ms.iloc[0])
        sections.append(f"## {seconds:g} s of audio, {rounds} rounds")
        sections.append(_markdown(rows, RUNTIMES_TABLE))
    layers = settings["encoder_conf"]["num_blocks"]
    for size in settings["group_size"]:
        maps = math.ceil(layers / size)
        share = 1 - maps / layers
        bound = {"size": size, "maps": maps, "layers": layers, "share": share}
        sections.append(BOUND.format(**bound))
    return "\n\n".join(sections) + "\n"


def plot(table: pandas.DataFrame, path: Path) -> None:
    """Draw time, and how many times as fast as ESPnet's, over length."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: needs no display
    from matplotlib.ticker import LogLocator

    from espnet_reuse.figure_style import BASE, MARKERS, THEMES, WIDTH

    # the encoder with fewer layers has another number of them at each length
    table = table[(table.layers == table.layers.iloc[0]) & (table.form == EAGER)]
    versus, ticks, theme = f"vs {ESPNET}", table.seconds.unique(), THEMES["light"]
    panels = {
        "time of a step (ms)": ["median_ms", "lower_ms", "upper_ms"],
        f"times as fast as {ESPNET}": [versus, f"{versus}, lower", f"{versus}, upper"],
    }
    with matplotlib.rc_context(BASE):
        figure = Figure(figsize=(WIDTH, 5), layout="constrained")
        for axis, label in zip(figure.subplots(1, 2), panels, strict=True):
            colors = cycle((theme.reuse, theme.other, theme.third, theme.fourth))
            lines = zip(table.groupby("encoder", sort=False), colors, cycle(MARKERS))
            for (name, rows), color, marker in lines:
                color, line = (theme.text, "--") if name == LIMIT else (color, "-")
                middle, *spread = (rows[column] for column in panels[label])
                style = {"color": color, "linestyle": line, "marker": marker}
                axis.plot(rows.seconds, middle, label=name, markersize=5, **style)
                axis.vlines(rows.seconds, *spread, color, alpha=0.5, linewidth=1)
            axis.set(xscale="log", xlabel="length of the audio (s)", ylabel=label)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        if table.median_ms.any():  # out of memory everywhere, there is nothing to scale
            figure.axes[0].set_yscale("log", subs=())
            figure.axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            figure.axes[0].yaxis.set_major_formatter("{x:g}")
        figure.axes[1].axhline(1, color=theme.muted, linewidth=0.8)
        keys = axis.get_legend_handles_labels()
        figure.legend(*keys, loc="outside lower center", ncols=2)
        figure.savefig(path, dpi=150)


def write_reports(benchmark: dict, output: Path) -> None:
    """Write benchmark.json, benchmark.md and benchmark.png into a folder.

    `benchmark` has `finished`, `run`, `settings`, and as `measurements` the rows of
    `compare.compare_at` of all lengths so far, at least one.
    """
    table = summarise(benchmark["measurements"])
    tables = {"measurements": table, "growth": fit_growth(table)}
    rows = {name: json.loads(t.to_json(orient="records")) for name, t in tables.items()}
    write_json(benchmark | rows, output / "benchmark.json")
    write_text(format_markdown(benchmark), output / "benchmark.md")
    with written_whole(output / "benchmark.png") as partial:
        plot(table, partial)


def main():
    """Write benchmark.md beside each benchmark.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("benchmarks", nargs="+", type=Path, metavar="benchmark.json")
    for path in parser.parse_args().benchmarks:
        benchmark = json.loads(path.read_text(encoding="utf-8"))
        write_text(format_markdown(benchmark), path.parent / "benchmark.md")


if __name__ == "__main__":
    main()
