# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What the steps of a comparison run: the recipe's run.sh, and programs of ours."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import joblib

from espnet_reuse.comparison.cells import Cell, Comparison, Decoding, write_config
from espnet_reuse.comparison.plan import Step
from espnet_reuse.comparison.runner import Runner
from espnet_reuse.errors import UserError
from espnet_reuse.files import write_text

PYTHON = (sys.executable, "-m")
RUNNER = (*PYTHON, "espnet_reuse.run", "-m")  # registers the encoders


class Actions:
    """Does the steps of a comparison, with a runner for their commands."""

    def __init__(self, comparison: Comparison, runner: Runner):
        """Take what is compared, and what runs the commands."""
        self._compared, self.runner = comparison, runner
        self._recipe, self._options = comparison.recipe, comparison.options

    def _log(self, name: str) -> Path:
        return self._compared.exp / "log" / f"{name}.log"

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._recipe.folder))

    def _asr_sh(self, step: Step, stages: str, log: Path, *options, train_log=None):
        """Run stages of asr.sh, `first-last`, by way of the recipe's run.sh."""
        # the data and what all models share are made with nothing beside them
        jobs = self._options.jobs if step.stage > 2 else 1
        nj = max(1, (self._options.nj or joblib.cpu_count()) // jobs)
        decoding = {"inference_nj": str(nj)}
        if self._recipe["gpu_inference"] == "true":
            decoding = {}  # on GPUs the recipe knows how many decode side by side
        first, last = stages.split("-")
        self.runner.command(
            step.title,
            *("./run.sh", "--nj", nj),
            *pairs(decoding | self._recipe.chosen),
            *options,
            *("--stage", first, "--stop_stage", last),
            log=log,
            train_log=train_log,
        )

    def _check_sets(self, step: Step, folder: str, *options: str) -> None:
        """Check the tables and the audio of all sets in a folder."""
        recipe = self._recipe
        sets = recipe.sets
        if folder == "data":
            sets[0] = recipe["train_set"]  # at its own speed
        self.runner.command(
            f"{step.title}: check of {folder}",
            *(*PYTHON, "espnet_reuse.data.check", *options),
            *(f"{folder}/{name}" for name in sets),
            log=self._log("check_data"),
        )

    def check_configs(self, step: Step) -> None:
        """Build the models: a wrong config is found before any data are made."""
        sources = {}
        for model in self._compared.models:
            path = self._compared.checked_config(model)
            write_config(model.config, path)
            sources[self._relative(path)] = f"{model.base} ({model.name})"
        try:
            self.runner.command(
                step.title,
                *(*RUNNER, "espnet_reuse.comparison.check_config"),
                *("--configs", *sources),
                "--inference_configs",
                *(primary.config for primary, *_ in self._compared.decodings.values()),
                # with =, for a value may be a single word that begins with dashes
                f"--asr_args={self._options.asr_args}",
                f"--inference_args={self._options.inference_args}",
                f"--analysis_args={self._options.analysis_args}",
                *("--output", self._compared.checked / "checked.json"),
                log=self._log("check_configs"),
            )
        except UserError as e:
            message = str(e)
            for path, source in sources.items():
                message = message.replace(path, source)
            raise UserError(message) from e
        noted = {}
        for name, facts in self._compared.facts.items():
            for note in facts["notes"]:
                noted.setdefault(note, []).append(name)
        for note, names in noted.items():
            self.runner.display.log(f"note: {', '.join(names)}: {note}")

    def prepare_data(self, step: Step) -> None:
        """Run the recipe's local/data.sh."""
        options = [self._recipe["local_data_opts"], *pairs(self._recipe.data_options)]
        log = self._log("data")
        self._asr_sh(step, "1-1", log, "--local_data_opts", " ".join(options).strip())
        self.runner.show(log, "note: ")
        self._check_sets(step, "data")

    def format_data(self, step: Step) -> None:
        """Make dump/raw of data/."""
        try:
            self._asr_sh(step, "2-4", self._log("dump"))
        except UserError:
            # ESPnet names no file that it cannot decode: this does, if it is that
            self._check_sets(step, "data", "--decode")
            raise

    def make_tokens(self, step: Step) -> None:
        """Make the tokens, and the statistics of the features."""
        for folder in ("dump/raw", "dump/raw/org"):
            self._check_sets(step, folder)
        config = self._relative(self._compared.checked_config(self._compared.models[0]))
        try:
            self._asr_sh(
                step,
                "5-10",
                self._log("tokens"),
                *("--asr_config", config, "--asr_args", self._options.asr_args),
                *("--use_lm", "false"),
            )
        except UserError as e:
            # sentencepiece's bound, under the names that the options have here
            why = re.sub(r"\w+: Internal: .*] (?=Vocabulary)", "--nbpe: ", str(e))
            why = why.replace("--character_coverage", "--bpe_char_cover")
            raise UserError(why) from e

    def check_lengths(self, step: Step) -> None:
        """Note which utterances have more tokens than the models make frames."""
        models = self._compared.models
        log = self._log("check_lengths")
        self.runner.command(
            step.title,
            *(*RUNNER, "espnet_reuse.comparison.check_lengths"),
            *("--stats", self._relative(self._recipe.stats_dir), "--models"),
            *(f"{m.name}={self._compared.checked_config(m)}" for m in models),
            f"--asr_args={self._options.asr_args}",
            log=log,
        )
        self.runner.show(log, "note: ")

    def train_lm(self, step: Step) -> None:
        """Train the language model; some recipes have more text for it."""
        if self._recipe.accepts("local/data.sh", "external_text", "true"):
            options = self._recipe.data_options | {"external_text": "true"}
            self.runner.command(
                f"{step.title}: text",
                *("local/data.sh", *pairs(options), "--stage", 3, "--stop_stage", 3),
                log=self._log("lm_text"),
            )
        lm_exp = ("--lm_exp", self._compared.lm_exp)
        statistics = (*lm_exp, "--skip_stages", "5 ")
        # stage 4 makes dump/raw again: killed in it, the data are to be formatted again
        record = self._recipe.path("dump/raw/.record.json")
        kept = record.read_text(encoding="utf-8")
        record.unlink()
        self._asr_sh(step, "4-6", self._log("lm_stats"), *statistics)
        write_text(kept, record)
        train_log = self._recipe.path(self._compared.lm_exp, "train.log")
        self._asr_sh(step, "7-8", self._log("lm"), *lm_exp, train_log=train_log)

    def _model_options(self, cell: Cell) -> list[str]:
        """Return what asr.sh is told of a model."""
        options = {
            "asr_config": self._relative(cell.config_file),
            "asr_args": self._options.asr_args,
            "asr_tag": cell.folder.name.removeprefix("asr_"),
        }
        if cell.model.warm:
            start = cell.folder / "warm_start/model.pth"
            options["pretrained_model"] = self._relative(start)
        return pairs(options)

    def train(self, cell: Cell, step: Step) -> None:
        """Train a model, or continue a training that was stopped."""
        folder = cell.folder
        write_config(cell.config, cell.config_file)
        if not step.resumed.is_file():
            if cell.model.warm:
                self._make_start(cell)
            write_text(commit_of(self._recipe.root) + "\n", folder / "commit")
        options = self._model_options(cell)
        log, train_log = folder / "run_train.log", folder / "train.log"
        self._asr_sh(step, "11-11", log, *options, train_log=train_log)

    def _make_start(self, cell: Cell) -> None:
        """Make the model that a fine-tuned one starts from, of the first model."""
        size = cell.config["encoder_conf"]["reuse_group_size"]
        first = self._compared.cell(self._compared.models[0], cell.seed)
        start = cell.folder / "warm_start"
        log = cell.folder / "run_convert.log"
        shutil.rmtree(start, ignore_errors=True)
        self.runner.command(
            f"Stage 3: making {cell.name} of {first.name}",
            *(*PYTHON, "espnet_reuse.bin.convert", "--reuse_group_size", size),
            *self._trained(first),
            *("--data_dir", f"dump/raw/{self._recipe['valid_set']}"),
            *("--output_dir", self._relative(start)),
            log=log,
        )
        self.runner.show(log, "Kept|Dropped|Jensen|    layer|Heads")

    def _trained(self, cell: Cell) -> list[str]:
        """Return the options that name a trained model."""
        folder = self._relative(cell.folder)
        model_file = f"{folder}/{self._compared.checkpoint(cell)}"
        config = f"{folder}/config.yaml"
        return pairs({"asr_train_config": config, "asr_model_file": model_file})

    def decode(self, cell: Cell, decoding: Decoding, name: str, step: Step) -> None:
        """Decode a set."""
        options = {
            "inference_asr_model": self._compared.checkpoint(cell),
            "inference_config": str(decoding.config),
            "inference_args": decoding.args,
            "inference_tag": decoding.tag,
            "test_sets": name,
        }
        if decoding.is_best_path:
            options["use_lm"] = "false"
        elif self._compared.lm_exp:
            options["lm_exp"] = self._compared.lm_exp
        # what an earlier state of the model, or another decoding, has left
        shutil.rmtree(step.record.parent, ignore_errors=True)
        log = cell.folder / f"run_{decoding.tag}_{name}.log"
        self._asr_sh(step, "12-12", log, *self._model_options(cell), *pairs(options))

    def score(self, cell: Cell, step: Step) -> None:
        """Score the sets of this run, and drop others that are out of date."""
        folders = [cell.folder / decoding.tag for decoding in cell.decodings]

        def but_contents(record):
            inputs = record["inputs"].items()
            return {k: v for k, v in inputs if not k.startswith("dump/")}

        for folder in folders:
            records = [need.record for need in step.needs]
            current = next(r for r in records if r.is_relative_to(folder))
            current = but_contents(json.loads(current.read_text("utf-8")))
            for record in folder.glob("**/.record.json"):
                # decoded when the model was in an earlier state, of a set not asked for
                with contextlib.suppress(OSError, ValueError):  # another run is at work
                    if but_contents(json.loads(record.read_text("utf-8"))) != current:
                        shutil.rmtree(record.parent)
        self.runner.command(
            step.title,
            *(*PYTHON, "espnet_reuse.comparison.score", "--dumpdir", "dump/raw"),
            *("--expdir", *map(self._relative, folders), "--sets"),
            *(self._compared.place(name) for name in self._recipe.test_sets),
            log=cell.folder / "run_score.log",
        )

    def compare(self, cells: list[Cell], step: Step) -> None:
        """Write the comparison of cells."""
        self.runner.command(
            step.title,
            *(*RUNNER, "espnet_reuse.comparison.results", "--models"),
            *(
                f"{cell.model.name}={self._relative(cell.folder)}/{cell.decodings[0].tag}"
                for cell in cells
            ),
            "--sets",
            *(self._compared.place(name) for name in self._recipe.test_sets),
            *("--command", self._compared.command),
            *("--dumpdir", "dump/raw", "--output_dir", "exp"),
            log=self._log("compare"),
        )

    def analyse(self, cell: Cell, name: str, step: Step) -> None:
        """Analyse the attention maps of a model on a set."""
        output, log = step.record.parent, cell.folder / "run_analysis.log"
        self.runner.command(
            step.title,
            *(*PYTHON, "espnet_reuse.bin.analyze", *self._trained(cell)),
            *("--data_dir", f"dump/raw/{name}", "--cache", "exp/analysis_cache"),
            *("--output", self._relative(output)),
            *shlex.split(self._options.analysis_args),
            log=log,
        )
        self.runner.show(log, "reuse_group_size|Written")


def pairs(options: dict[str, str]) -> list[str]:
    """Return options as the arguments of a command."""
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def commit_of(root: Path) -> str:
    """Return the commit that the repository is at."""
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8")
    return run.stdout.strip() or "unknown"
