# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Time trained models from waveform to text: frontend, encoder and search.

Run it as `python3 -m espnet_reuse.run -m espnet_reuse.benchmark.decoding` in the folder
of a recipe, on one CPU thread. All models and searches take turns, utterance by
utterance. "argmax" is the bound: CTC's best label of each frame, without any search.
"""

import argparse
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path

import humanfriendly
import pandas
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.train.dataset import ESPnetDataset

from espnet_reuse.data.data_dir import read_scp
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import write_json
from espnet_reuse.provenance import describe_run

ARGMAX = "argmax"
PARTS = {"frontend": ("frontend", "normalize"), "encoder": ("encoder",)}


class PartTimes(dict):
    """Seconds that the parts of a model have taken, added up as it runs."""

    def __init__(self, model: torch.nn.Module):
        super().__init__(dict.fromkeys(PARTS, 0.0))
        for part, names in PARTS.items():
            for module in filter(None, (getattr(model, name, None) for name in names)):
                module.register_forward_pre_hook(
                    lambda *_, part=part: self.add(part, -time.perf_counter())
                )
                module.register_forward_hook(
                    lambda *_, part=part: self.add(part, time.perf_counter())
                )

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part; the start of a call is subtracted."""
        self[part] += seconds


@torch.no_grad()
def best_path(speech2text: Speech2Text, speech: torch.Tensor) -> torch.Tensor:
    """Return CTC's labels of an utterance (samples,): argmax, repeats merged."""
    model = speech2text.asr_model
    encoded, _ = model.encode(speech[None], torch.tensor([len(speech)]))
    labels = model.ctc.argmax(encoded)[0].unique_consecutive()
    return labels[labels != model.blank_id]


def time_turns(
    recognizers: dict[tuple[str, str], Speech2Text],
    speeches: list[torch.Tensor],
    rounds: int,
) -> list[dict]:
    """Return the milliseconds of each round by model, search and part, of all speeches.

    Args:
        recognizers: By model and search.
        speeches: Waveforms of shape (samples,), at the models' rate.
        rounds: Rounds after a first one, which warms up and is not counted.
    """
    clocks = {key: PartTimes(s2t.asr_model) for key, s2t in recognizers.items()}
    rows = []
    for number in range(rounds + 1):
        seconds = defaultdict(float)
        for clock in clocks.values():
            clock.update(dict.fromkeys(PARTS, 0.0))
        for speech in speeches:
            for key, speech2text in recognizers.items():
                start = time.perf_counter()
                if key[1] == ARGMAX:
                    best_path(speech2text, speech)
                else:
                    speech2text(speech)
                seconds[key] += time.perf_counter() - start
        for key, clock in clocks.items():
            search = seconds[key] - sum(clock.values())
            parts = {**clock, "search": search, "total": seconds[key]}
            row = dict(zip(("model", "search"), key, strict=True))
            rows.append(row | {f"{part}_ms": 1000 * s for part, s in parts.items()})
        if number == 0:
            rows.clear()
    return rows


def main():
    """Measure, print and write the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    text = "trained models: their folders in exp, by name"
    add("--models", nargs="+", required=True, metavar="NAME=ASR_EXP", help=text)
    add("--asr_model_file", default="valid.acc.ave.pth", help="in each folder")
    add("--data_dir", type=Path, required=True, help="such as dump/raw/test_a")
    add("--inference_config", type=Path, required=True, help="decoding options")
    text = "beams to time (default: 5 1)"
    add("--beam_sizes", type=int, nargs="+", default=[5, 1], help=text)
    add("--num_utts", type=int, default=20, help="utterances (default: 20)")
    add("--rounds", type=int, default=9, help="rounds (default: 9)")
    add("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoding = yaml.safe_load(args.inference_config.read_text(encoding="utf-8"))
    recognizers = {}
    for name, asr_exp in (model.split("=", 1) for model in args.models):
        files = Path(asr_exp, "config.yaml"), Path(asr_exp, args.asr_model_file)
        for beam in args.beam_sizes:
            options = decoding | {"beam_size": beam}
            recognizers[name, f"beam {beam}"] = Speech2Text(*files, **options)
        recognizers[name, ARGMAX] = Speech2Text(*files, **decoding)
    scp = args.data_dir / "wav.scp"
    dataset = ESPnetDataset([(str(scp), "speech", "sound")])
    ids = list(read_scp(scp))[: args.num_utts]
    if not ids:
        raise UserError(f"{scp} lists no utterances")
    speeches = [torch.from_numpy(dataset[key][1]["speech"]) for key in ids]
    rates = {
        humanfriendly.parse_size(str(s2t.asr_train_args.frontend_conf["fs"]))
        for s2t in recognizers.values()
    }
    if len(rates) != 1:
        raise UserError("--models: their sampling rates differ: name models of one")
    audio = sum(map(len, speeches)) / rates.pop()
    rows = pandas.DataFrame(time_turns(recognizers, speeches, args.rounds))
    medians = rows.groupby(["model", "search"], sort=False).median() / audio
    medians = medians.round(3).reset_index()
    print(medians.to_string(index=False))
    settings = {"num_utts": len(ids), "audio_seconds": round(audio, 1)}
    settings |= {"rounds": args.rounds, "decoding": decoding}
    run = describe_run(1, shlex.join(sys.orig_argv))
    result = {"run": run, "settings": settings}
    write_json(result | {"rows": medians.to_dict("records")}, args.output)


if __name__ == "__main__":
    with reported_errors("decoding"):
        main()
