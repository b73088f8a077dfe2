# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Convert a trained ESPnet model into one that reuses attention maps, or back.

The command writes config.yaml and model.pth. ESPnet can decode with them at once. To
fine-tune the model:

    python -m espnet_reuse.run -m espnet2.bin.asr_train --config OUTPUT_DIR/config.yaml

Run the command in the recipe's folder: the paths in the model's config start there.

Options:
    --packed_model  model that espnet2.bin.pack packed, instead of --asr_train_config
        and --asr_model_file
    --task  the model's ESPnet2 task (default: asr)
    --reuse_group_size SIZE  layers per group, or a list with the size of each group,
        e.g. '[1, 2, 1, 4, 4]'
    --reuse_dropout  dropout of a reused map in fine-tuning: each layer draws a mask of
        its own (per_layer), or the layers of a group share one mask (shared; default:
        per_layer)
    --expand  convert a reuse model into a stock ESPnet model, instead: each consumer
        gets its producer's query, key and position parameters (true or false, default:
        false)
    --data_dir  data directory, for example dump/raw/dev; the command measures on some
        of its utterances how far each consumer's own map is from its producer's map
    --num_utts  number of utterances to measure on (default: 10)
    --match_heads  with --data_dir, reorder each consumer's heads so that their own maps
        are nearest to the producer's maps that they reuse (true or false, default:
        true)
    --output_dir  new folder to write
"""

import argparse
import shlex
import sys
from pathlib import Path

import yaml
from espnet2.utils.types import str2bool

from espnet_reuse.bin.parser import REQUIRED, Parser, existing_file, named, positive
from espnet_reuse.errors import reported_errors
from espnet_reuse.files import write_json, written_whole

# ESPnet writes these of a config, but does not read them.
UNREAD = ("config", "required", "version", "distributed")


def group_size(text):
    """Read `reuse_group_size` as in a YAML; the encoder checks it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


# {name: (type or choices, default)}
OPTIONS = {
    "packed_model": (existing_file, None),
    "task": (str, "asr"),
    "reuse_group_size": (group_size, None),
    "reuse_dropout": (["per_layer", "shared"], "per_layer"),
    "expand": (str2bool, False),
    "data_dir": (Path, None),
    "num_utts": (positive(int), 10),
    "match_heads": (str2bool, True),
    "output_dir": (Path, REQUIRED),
}


def read_args(parser: Parser, argv: list[str] | None) -> argparse.Namespace:
    """Read the options; exit with one line if some miss, or do not go together."""
    parser.add_model(required=False)
    parser.add_options(OPTIONS)
    args = parser.parse_args(argv)
    files = (args.asr_train_config, args.asr_model_file, args.packed_model)
    if [file is None for file in files] not in ([0, 0, 1], [1, 1, 0]):
        parser.error(
            "name the model: --asr_train_config and --asr_model_file, or --packed_model"
        )
    if args.expand == (args.reuse_group_size is not None):
        parser.error(
            "argument --reuse_group_size: give either the layers per group, e.g. 3, or "
            "--expand true"
        )
    if args.output_dir.is_dir() and any(args.output_dir.iterdir()):
        parser.error(
            f"argument --output_dir: {args.output_dir} is not empty; name a new folder"
        )
    if args.data_dir is not None and args.task != "asr":
        parser.error("argument --data_dir: maps can be measured for --task asr only")
    return args


def run(args: argparse.Namespace, folder: Path) -> None:
    """Convert, measure, and write into `folder`, which will be the output folder.

    Raises:
        UserError: The model cannot be converted, or not be measured on the data.
    """
    # after the command line has been read, for these take seconds
    import torch

    import espnet_reuse  # noqa: F401 (registers the encoders)
    from espnet_reuse import convert, pretrained
    from espnet_reuse.provenance import describe_run

    files = args.asr_train_config, args.asr_model_file
    if args.packed_model is not None:
        with named("--packed_model"):
            files = pretrained.unpack_model(args.packed_model, folder)
    source = pretrained.read_trained(*files, args.task)
    if args.expand:
        converted = convert.expand(source)
        layers = convert.layers_of(source.model)
    else:
        converted = convert.to_reuse(source, args.reuse_group_size, args.reuse_dropout)
        layers = convert.layers_of(converted.model)
    print(describe(source.state, converted.state, layers))
    distances = None
    if args.data_dir is None:
        print("Maps were not measured: --data_dir names no utterances")
    else:
        distances = convert.measure(source, converted, args.data_dir, args.num_utts)
        print(format_distances(distances, args.expand))
        if args.match_heads and not args.expand:
            for row in distances:
                attention = layers[row["layer"] - 1].name
                convert.permute_heads(converted.state, attention, row["heads"])
            print("Heads matched: each consumer's are in the order of its producer's")
    config = relocated(converted.config, str(folder), str(args.output_dir)) | {
        "init_param": [str(args.output_dir / "model.pth")],
        "output_dir": str(args.output_dir),
    }
    config = {key: value for key, value in config.items() if key not in UNREAD}
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    torch.save(converted.state, folder / "model.pth")
    conversion = {
        "run": describe_run(torch.get_num_threads(), shlex.join(sys.orig_argv)),
        "source": {
            "config": str(args.asr_train_config or args.packed_model),
            "model_file": str(args.asr_model_file or args.packed_model),
        },
        "layers": distances,
    }
    write_json(conversion, folder / "conversion.json")


def relocated(value, old: str, new: str):
    """Return a config whose paths in the folder `old` are in the folder `new`."""
    if isinstance(value, dict):
        return {key: relocated(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [relocated(item, old, new) for item in value]
    if isinstance(value, str) and value.startswith(old + "/"):
        return new + value.removeprefix(old)
    return value


def describe(source: dict, converted: dict, layers: list) -> str:
    """Return what of the parameters was kept, and what was dropped or copied."""
    tensors = {**source, **converted}

    def count(names):
        values = sum(tensors[name].numel() for name in names)
        return f"{len(names)} tensors ({values:,} values)"

    changed = source.keys() ^ converted
    parts = sorted({name.rpartition("attn.")[2] for name in changed})
    consumers = [str(n) for n, layer in enumerate(layers, 1) if layer.producer != n - 1]
    where = f"{', '.join(parts)} of layers {', '.join(consumers)}"
    if not consumers:
        rest = "Nothing dropped: each layer computes its own map"
    elif not changed:
        rest = "Nothing dropped: the source has the same groups"
    elif changed <= source.keys():
        rest = f"Dropped: {count(changed)}: {where}"
    else:
        rest = f"Copied from the producers: {count(changed)}: {where}"
    return f"Kept: {count(source.keys() & converted)}, unchanged\n{rest}"


def format_distances(layers: list[dict], expanded: bool) -> str:
    """Return the layers' distances, a line for each."""
    of, row = "own map from the map it reuses", "    layer {layer}: {distance:.3f}"
    if expanded:
        of = "map from its map in the reuse model"
    else:
        row += " (producer: layer {producer}; heads matched: {matched_distance:.3f})"
    lines = [f"Jensen-Shannon distance (0 to 1) of each layer's {of}:"]
    return "\n".join([*lines, *(row.format(**layer) for layer in layers)])


def main(argv=None):
    """Run the command; the output folder is whole or not there."""
    parser = Parser("espnet_reuse.bin.convert", __doc__)
    args = read_args(parser, argv)
    with reported_errors(parser.prog, extra="analysis"):
        with named("--output_dir"):
            args.output_dir.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(args.output_dir) as folder:
            folder.mkdir()
            run(args, folder)
    print(f"Written: {args.output_dir}/{{config.yaml,model.pth,conversion.json}}")


if __name__ == "__main__":
    main()
