# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Convert a trained ESPnet model into one that reuses attention maps, or back.

Writes config.yaml and model.pth, which ESPnet decodes with at once and fine-tunes:

    python -m espnet_reuse.run -m espnet2.bin.asr_train --config OUTPUT_DIR/config.yaml

Run it in the folder of the model's recipe, where the paths in its config start.
"""

import argparse
import shlex
import sys
from pathlib import Path

import yaml
from espnet2.utils.types import str2bool

from espnet_reuse.bin.parser import Parser, existing_file, named, positive
from espnet_reuse.errors import reported_errors
from espnet_reuse.files import written_whole


def group_size(text):
    """Read `reuse_group_size` as in a YAML; the encoder checks it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="espnet_reuse.bin.convert", description=__doc__)
    add = parser.add_argument
    parser.add_model(required=False)
    add(
        "--packed_model",
        type=existing_file,
        help="instead of the two: the model as espnet2.bin.pack packed it",
    )
    add("--task", default="asr", help="the model's ESPnet2 task (default: asr)")
    add(
        "--reuse_group_size",
        type=group_size,
        metavar="SIZE",
        help="layers per group, or the size of every group, e.g. '[1, 2, 1, 4, 4]'",
    )
    add(
        "--reuse_dropout",
        choices=["per_layer", "shared"],
        default="per_layer",
        help="dropout masks on a reused map, in fine-tuning (default: per_layer)",
    )
    add(
        "--expand",
        type=str2bool,
        default=False,
        help="instead: make a stock ESPnet model of a reuse model, every consumer with "
        "its producer's query, key and position parameters (default: false)",
    )
    add(
        "--data_dir",
        type=Path,
        help="data directory such as dump/raw/dev: measure on some of its utterances "
        "how far each consumer's own map is from its producer's",
    )
    add(
        "--num_utts",
        type=positive(int),
        default=10,
        help="utterances to measure on (default: 10)",
    )
    add(
        "--match_heads",
        type=str2bool,
        default=True,
        help="put each consumer's heads into the order in which their own maps are "
        "nearest to the producer's that they reuse; with --data_dir (default: true)",
    )
    add("--output_dir", type=Path, required=True, help="folder to make")
    return parser


def check_args(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exit with one line if options are missing, or do not go together."""
    files = (args.asr_train_config, args.asr_model_file)
    if (args.packed_model is None) == (None in files) or (
        args.packed_model is not None and files != (None, None)
    ):
        parser.error(
            "name the model: --asr_train_config and --asr_model_file, or --packed_model"
        )
    if args.expand == (args.reuse_group_size is not None):
        parser.error(
            "argument --reuse_group_size: say how many layers share a map, e.g. 3; or "
            "--expand true, without it"
        )
    if args.output_dir.is_dir() and any(args.output_dir.iterdir()):
        parser.error(
            f"argument --output_dir: {args.output_dir} is not empty: name a new folder"
        )
    if args.data_dir is not None and args.task != "asr":
        parser.error("argument --data_dir: maps are measured for --task asr only")


def run(args: argparse.Namespace, folder: Path) -> None:
    """Convert, measure, and write into `folder`, which will be the output folder.

    Raises:
        UserError: The model cannot be converted, or not be measured on the data.
    """
    # after the command line has been read, for these take seconds
    import torch

    import espnet_reuse  # noqa: F401 (registers the encoders)
    from espnet_reuse import convert, pretrained
    from espnet_reuse.files import write_json
    from espnet_reuse.provenance import describe_run

    config_file, model_file = args.asr_train_config, args.asr_model_file
    if args.packed_model is not None:
        with named("--packed_model"):
            config_file, model_file = pretrained.unpack_model(args.packed_model, folder)
    config = pretrained.read_config(config_file)
    state = pretrained.read_parameters(model_file)
    if args.expand:
        converted = convert.expand(config, state, model_file, args.task)
    else:
        converted = convert.to_reuse(
            config,
            state,
            model_file,
            args.reuse_group_size,
            args.reuse_dropout,
            args.task,
        )
    print(describe(converted, state))
    layers = None
    if args.data_dir is None:
        print("Maps not measured: name utterances with --data_dir")
    else:
        layers = convert.measure(
            (config, state), converted, args.data_dir, args.num_utts
        )
        print(format_distances(layers))
        if args.match_heads and not args.expand:
            for row in layers:
                attention = converted.layers[row["layer"] - 1].name
                convert.permute_heads(converted.state, attention, row["heads"])
            print("Heads matched: every consumer's are in its producer's order")
    final = {
        **relocated(converted.config, str(folder), str(args.output_dir)),
        "init_param": [str(args.output_dir / "model.pth")],
        "output_dir": str(args.output_dir),
    }
    for key in ("config", "required", "version", "distributed"):
        final.pop(key, None)  # ESPnet writes them, but does not read them
    (folder / "config.yaml").write_text(yaml.safe_dump(final, sort_keys=False))
    torch.save(converted.state, folder / "model.pth")
    run = describe_run(torch.get_num_threads(), shlex.join(sys.orig_argv))
    write_json(
        {
            "run": run,
            "source": {
                "config": str(args.asr_train_config or args.packed_model),
                "model_file": str(args.asr_model_file or args.packed_model),
            },
            "layers": layers,
        },
        folder / "conversion.json",
    )


def relocated(value, old: str, new: str):
    """Return a config whose paths in the folder `old` are in the folder `new`."""
    if isinstance(value, dict):
        return {key: relocated(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [relocated(item, old, new) for item in value]
    if isinstance(value, str) and value.startswith(old + "/"):
        return new + value.removeprefix(old)
    return value


def describe(converted, state) -> str:
    """Return what was kept, and what was dropped or copied."""

    def count(names, tensors):
        values = sum(tensors[name].numel() for name in names)
        return f"{len(names)} tensors ({values:,} values)"

    kept = [name for name in converted.state if name in state]
    lines = [f"Kept: {count(kept, state)}, equal to the source's"]
    consumers = [
        str(n + 1) for n, layer in enumerate(converted.layers) if layer.producer != n
    ]
    parts = sorted({name.rpartition("attn.")[2] for name in converted.changed})
    where = f"{', '.join(parts)} of layers {', '.join(consumers)}"
    if not consumers:
        lines.append("Nothing else: every layer computes its own map")
    elif converted.changed[0] in state:
        lines.append(f"Dropped: {count(converted.changed, state)}: {where}")
    else:
        copied = count(converted.changed, converted.state)
        lines.append(f"Copied from the producers: {copied}: {where}")
    return "\n".join(lines)


def format_distances(layers: list) -> str:
    """Return the layers' distances, a line for each."""
    lines = ["Jensen-Shannon distance (0 to 1) of its own map from the one it reuses:"]
    if layers and "producer" not in layers[0]:
        lines = ["Jensen-Shannon distance (0 to 1) of its map from the reuse model's:"]
    for row in layers:
        line = f"    layer {row['layer']}: {row['distance']:.3f}"
        if "producer" in row:
            line += (
                f" (producer: layer {row['producer']}; heads matched: "
                f"{row['matched_distance']:.3f})"
            )
        lines.append(line)
    return "\n".join(lines)


def main(argv=None):
    """Run the command; the output folder is whole or not there."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_args(args, parser)
    with reported_errors(parser.prog, extra="analysis"):
        with named("--output_dir"):
            args.output_dir.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(args.output_dir) as folder:
            folder.mkdir()
            run(args, folder)
    print(f"Written: {args.output_dir}/{{config.yaml,model.pth,conversion.json}}")


if __name__ == "__main__":
    main()
