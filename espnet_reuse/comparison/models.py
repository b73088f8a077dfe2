# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Models by name: a name stands for a whole training config.

`baseline` is conf/train_asr_conformer.yaml of the recipe. Any other name is a config
that the user has put into conf/tuning/train_asr_conformer_<name>.yaml, or changes of a
config, joined with "_": entries of the repository's conf/models.yaml, `reuse<N>` for
groups of N layers, and at the end `warm` for a model that is fine-tuned from the first
one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from espnet_reuse.comparison.plan import flatten
from espnet_reuse.errors import UserError, one_line

ROOT = Path(__file__).resolve().parents[2]
TAG = "train_asr_conformer"
BASELINE = f"conf/{TAG}.yaml"
TUNING = f"conf/tuning/{TAG}_{{}}.yaml"
MODELS = "conf/models.yaml"
NAME = "the model's name"  # where a value of no file comes from
ESPNET_MAX_EPOCH = 40  # of a config without max_epoch


@dataclass(frozen=True)
class Model:
    """A model that can be trained.

    Attributes:
        name: As the user gives it, such as `ctc_reuse4_warm`.
        base: The config that it changes, relative to the recipe.
        config: The whole training config.
        sources: {key: the file its value comes from}, keys flattened as in
            `encoder_conf.reuse_group_size`, files relative to the recipe, or to the
            repository for conf/models.yaml.
    """

    name: str
    base: str
    config: dict
    sources: dict

    @property
    def tag(self) -> str:
        """The name of the model's config and folder, as ESPnet makes them."""
        return TAG if self.name == "baseline" else f"{TAG}_{self.name}"

    @property
    def warm(self) -> bool:
        """Whether training starts from the first model's weights."""
        return self.name.split("_")[-1] == "warm"


def resolve(name: str, recipe: Path) -> Model:
    """Return the model of a name in a recipe's folder.

    Raises:
        UserError: No model has this name, or a file is not a YAML mapping.
    """
    words = [] if name == "baseline" else name.split("_")
    own, words = _longest(words, _own_configs(recipe))
    base = TUNING.format(own) if own else BASELINE
    config = load(recipe, base)
    sources = dict.fromkeys(flatten(config), base)
    change_encoder = bool(words)  # a config of the user's is taken as it is

    warm = words[-1:] == ["warm"]
    words = words[: len(words) - warm]
    sizes = {
        word: {"encoder_conf": {"reuse_group_size": int(word[5:])}}
        for word in words
        if re.fullmatch(r"reuse[1-9]\d*", word)
    }
    known = sizes | _entries()
    while words:
        part, words = _longest(words, known)
        if part is None:
            raise UserError(
                f"no model '{name}'; choose from {' '.join(names(recipe))}, join them "
                f"with '_', or add {TUNING.format(name)} to the recipe"
            )
        config = _merge(config, known[part])
        source = NAME if part in sizes else MODELS
        sources |= dict.fromkeys(flatten(known[part]), source)

    has_groups = "reuse_group_size" in (config.get("encoder_conf") or {})
    encoder = config.get("encoder", "rnn")  # ESPnet's default
    if has_groups and change_encoder and not encoder.endswith("_reuse"):
        config["encoder"], sources["encoder"] = f"{encoder}_reuse", NAME
    if warm:
        if not has_groups:
            raise UserError(
                f"'{name}' has no reuse: only a model with reuse can be fine-tuned "
                "from the first model"
            )
        _quarter(config)
    return Model(name, base, config, {k: sources.get(k, NAME) for k in flatten(config)})


def names(recipe: Path) -> list[str]:
    """Return the names that can be used and joined, for messages."""
    own = _own_configs(recipe)
    return ["baseline", *own, "reuse<N>", *_entries(), "<name>_warm"]


def _own_configs(recipe):
    tuning = recipe.glob(TUNING.format("*"))
    return sorted(path.stem.removeprefix(f"{TAG}_") for path in tuning)


def _entries():
    entries = load(ROOT, MODELS)
    for name, changes in entries.items():
        if not isinstance(changes, dict):
            raise UserError(f"{MODELS}: {name} is not a mapping of options to values")
    return entries


def _longest(words, known):
    """Return the longest beginning of a name that is known, or None, and the rest."""
    for n in range(len(words), 0, -1):
        if (beginning := "_".join(words[:n])) in known:
            return beginning, words[n:]
    return None, words


def load(folder: Path, file: str) -> dict:
    """Read a YAML mapping.

    Raises:
        UserError: It is not one.
    """
    try:
        config = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as e:
        raise UserError(f"{file} is not YAML: {one_line(e)}") from e
    raise UserError(f"{file} is not a mapping of options to values")


def _merge(config, changes):
    """Return a config with changes; null among them removes an option."""
    merged = OmegaConf.merge(config, changes)
    for key in [key for key, value in flatten(changes).items() if value is None]:
        parent, _, option = key.rpartition(".")
        del (OmegaConf.select(merged, parent) if parent else merged)[option]
    return OmegaConf.to_container(merged)


def _quarter(config):
    """Give a fine-tuning a quarter of the epochs and of the learning rate.

    One rule for all recipes. What counts updates, `warmup_steps` and `max_steps`, is
    divided with the epochs, so that the learning rate takes the same course in a
    quarter of the time.
    """
    config["max_epoch"] = max(config.get("max_epoch", ESPNET_MAX_EPOCH) // 4, 1)
    if "lr" in config.get("optim_conf", {}):
        config["optim_conf"]["lr"] /= 4
    steps = config.get("scheduler_conf", {})
    for key in steps.keys() & {"warmup_steps", "max_steps"}:
        steps[key] //= 4
