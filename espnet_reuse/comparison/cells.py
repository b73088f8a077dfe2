# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What is compared: models and seeds, their configs and folders."""

import dataclasses
import functools
import hashlib
import json
import re
from argparse import Namespace
from pathlib import Path

import yaml

from espnet_reuse.bin.parser import named
from espnet_reuse.comparison import models
from espnet_reuse.comparison.plan import flatten
from espnet_reuse.comparison.recipe import Recipe
from espnet_reuse.errors import UserError
from espnet_reuse.files import write_text

BEAM, BEST_PATH = "conf/decode_asr.yaml", "conf/decode_asr_ctc_best_path.yaml"
ESPNET_CTC_WEIGHT = 0.5  # of a config without ctc_weight


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A way to decode.

    Attributes:
        config: The inference config, a file.
        options: The options in it.
        args: More options, which override it.
        tag: Name of the decoding's folders.
    """

    config: Path
    options: dict
    args: str
    tag: str

    @property
    def is_best_path(self) -> bool:
        """Whether it is CTC's best path, which takes no language model."""
        return self.options.get("search") == "best_path"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A model of the comparison with a seed.

    Attributes:
        model: The model.
        seed: The seed, None for the config's.
        folder: ESPnet's folder of it.
        decodings: How it is decoded. The first is the primary decoding: as asked for,
            or else best path for a model with CTC alone, and beam search for others. A
            model with a CTC head is also decoded by best path beside it.
    """

    model: models.Model
    seed: int | None
    folder: Path
    decodings: list[Decoding]

    @property
    def name(self) -> str:
        """The model, and the seed if seeds were asked for."""
        return self.model.name + ("" if self.seed is None else f", seed {self.seed}")

    @property
    def config(self) -> dict:
        """The training config."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return self.model.config | seed

    @property
    def config_file(self) -> Path:
        """The file for asr.sh that the config is written to."""
        return self.folder / f"{self.model.tag}.yaml"


class Comparison:
    """Models and seeds of a recipe, and how they are decoded.

    Attributes:
        command: What the user typed.
        models: The models, the first of which is the baseline.
        cells: Each model with each seed, seed by seed.
        decodings: {name of a model: its decodings}, see `Cell`.
        lm_exp: Folder of the language model, None where there is none.
        lm_file: The language model that is decoded with, if there is one.
        checked: Folder for the configs of the models and what was found out of them;
            another one for other configs, for runs may go on side by side.
    """

    def __init__(self, recipe: Recipe, options: Namespace, command: str):
        """Find the models and configs.

        Raises:
            UserError: A model or a config is not there, or cannot be read.
        """
        self.recipe, self.options, self.command = recipe, options, command
        self.exp = recipe.path("exp")
        there = [path.name for path in recipe.path("dump/raw").glob("[!.]*")]
        name, sets = options.analysis_set, sorted({*recipe.sets, *there})
        if name and name not in sets:
            choice = " ".join(sets)
            raise UserError(f"--analysis_set: no set '{name}'; choose from: {choice}")
        self.lm_exp = None
        if recipe.has_lm:
            name = Path(recipe["lm_config"] or "train").stem + slug(recipe["lm_args"])
            self.lm_exp = f"exp/lm_{name}"
            self.lm_file = recipe.path(
                self.lm_exp, recipe["inference_lm"] or "valid.loss.ave.pth"
            )
        with named("--models"):
            self.models = [models.resolve(m, recipe.folder) for m in options.models]
        if self.models[0].warm:
            raise UserError(
                f"--models: '{self.models[0].name}' is fine-tuned from the first "
                "model: put a baseline before it"
            )
        for n, model in enumerate(self.models):
            for other in self.models[:n]:
                if (other.config, other.warm) == (model.config, model.warm):
                    raise UserError(
                        f"--models: '{other.name}' and '{model.name}' are the same"
                    )
            if model.warm and "reuse_group_size" not in model.config["encoder_conf"]:
                raise UserError(
                    f"--models: '{model.name}' has no reuse: only a model with reuse "
                    "can be fine-tuned from the first model"
                )
        if options.seeds and re.search(r"--seed\b", options.asr_args):
            raise UserError("--asr_args: it has --seed: name the seeds with --seeds")
        self.decodings = self._choose_decodings()
        self.cells = [
            self.cell(model, seed)
            for seed in options.seeds or [None]
            for model in self.models
        ]
        configs = {model.name: model.config for model in self.models}
        configs["decoding"] = [
            [flatten(primary.options), primary.args]
            for primary, *_ in self.decodings.values()
        ]
        configs["asr_args"] = options.asr_args
        configs["analysis_args"] = options.analysis_args
        digest = hashlib.sha256(json.dumps(configs).encode()).hexdigest()[:8]
        self.checked = self.exp / "configs" / digest

    def _read_decoding(self, name: str, args: str = "") -> Decoding:
        """Return the decoding of a config of the recipe, or of the current folder."""
        config = self.recipe.path(name)
        config = config if config.is_file() else Path(name).absolute()
        if not config.is_file() or " " in str(config):  # asr.sh splits it there
            what = f"there is no file '{name}', or its path has spaces"
            raise UserError(f"--inference_config: {what}")
        options = models.load(config.parent, config.name)
        if options.get("lm_weight") and not self.recipe.has_lm:
            raise UserError(
                f"--inference_config: {config.name} has an lm_weight, but there is no "
                "language model: add --use_lm true, or use another config"
            )
        decoding = Decoding(config, options, args, config.stem + slug(args))
        if self.lm_exp and not decoding.is_best_path:
            tag = f"{decoding.tag}_{Path(self.lm_exp).name}"
            return dataclasses.replace(decoding, tag=tag)
        return decoding

    def _choose_decodings(self) -> dict[str, list[Decoding]]:
        """Return the decodings of each model."""
        options, chosen = self.options, {}
        asked = self._read_decoding(
            options.inference_config or BEAM, options.inference_args
        )
        best_path = self._read_decoding(BEST_PATH)
        for model in self.models:
            weight = ctc_weight(model.config, options.asr_args)
            is_default = options.inference_config is None and weight == 1
            primary = best_path if is_default else asked
            beside = [] if primary.is_best_path or weight == 0 else [best_path]
            chosen[model.name] = [primary, *beside]
        if options.inference_args and all(d[0] is best_path for d in chosen.values()):
            raise UserError(
                "--inference_args: models with CTC alone are decoded by best path, "
                f"without them: add --inference_config, e.g. {BEAM}"
            )
        return chosen

    def cell(self, model: models.Model, seed: int | None) -> Cell:
        """Return a model with a seed."""
        tag = model.tag + slug(self.options.asr_args)
        tag += "" if seed is None else f"_seed{seed}"
        return Cell(model, seed, self.exp / f"asr_{tag}", self.decodings[model.name])

    def checked_config(self, model: models.Model) -> Path:
        """Return the file that a model's config is checked in."""
        return self.checked / f"{model.tag}.yaml"

    @functools.cached_property
    def facts(self) -> dict[str, dict]:
        """What the check of the configs found out, {model: facts}."""
        text = (self.checked / "checked.json").read_text(encoding="utf-8")
        facts = {Path(name).name: value for name, value in json.loads(text).items()}
        return {m.name: facts[self.checked_config(m).name] for m in self.models}

    def checkpoint(self, cell: Cell) -> str:
        """Return the name of the averaged checkpoint that a cell is decoded with."""
        return self.facts[cell.model.name]["checkpoint"]

    def place(self, test_set: str) -> str:
        """Return where asr.sh has a set, in dump/raw and among what is decoded."""
        # of the validation set, it decodes what was not filtered
        return f"org/{test_set}" if test_set == self.recipe["valid_set"] else test_set


def ctc_weight(config: dict, asr_args: str):
    """Return the weight of CTC in a model's training, of any type if it is wrong."""
    given = re.findall(r"\bctc_weight\s*[=:]\s*([\w.+-]+)", asr_args)
    if given:
        return yaml.safe_load(given[-1])
    return flatten(config).get("model_conf.ctc_weight", ESPNET_CTC_WEIGHT)


def slug(text: str, limit: int = 80) -> str:
    """Return options as a part of a file's name, with `_` in front."""
    name = re.sub("_+", "_", re.sub(r"[^\w.,+-]+|--", "_", text)).strip("_")
    if len(name) > limit:
        name = f"{name[:limit]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name and f"_{name}"


def write_config(config: dict, path: Path) -> None:
    """Write a training config for asr.sh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), path)
