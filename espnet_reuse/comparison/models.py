# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

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
        config: The whole training config.
        sources: {key: the file its value comes from}, keys flattened as in
            `encoder_conf.reuse_group_size`, files relative to the recipe, or to the
            repository for conf/models.yaml.
    """

    name: str
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
    """Return the model of a name.

    Args:
        name: Name of the model.
        recipe: Folder of the recipe, which has conf/train_asr_conformer.yaml.

    Raises:
        UserError: No model has this name, or a file is not a YAML mapping.
    """
    base, parts, is_quartered = _split(name, recipe)
    entries = _entries()
    config = _load(recipe, base)
    sources = dict.fromkeys(_flatten(config), base)
    for part in parts:
        size = _group_size(part)
        changes = (
            {"encoder_conf": {"reuse_group_size": size}} if size else entries[part]
        )
        config = _merge(config, changes)
        sources |= dict.fromkeys(_flatten(changes), NAME if size else MODELS)
    has_reuse = "reuse_group_size" in config.get("encoder_conf", {})
    encoder = config.get("encoder", "rnn")  # ESPnet's default
    if parts and has_reuse and not encoder.endswith("_reuse"):
        config["encoder"], sources["encoder"] = f"{encoder}_reuse", NAME
    if is_quartered:
        if not has_reuse:
            raise UserError(
                f"'{name}' has no reuse: only a model with reuse is fine-tuned from "
                "another"
            )
        config = _merge(config, _quarter(config))
    return Model(
        name, config, {key: sources.get(key, NAME) for key in _flatten(config)}
    )


def names(recipe: Path) -> list[str]:
    """Return the names that can be used and joined, for messages."""
    paths = recipe.glob(TUNING.format("*"))
    own = sorted(path.stem.removeprefix(f"{TAG}_") for path in paths)
    return ["baseline", *own, "reuse<N>", *_entries(), "<name>_warm"]


def _group_size(part):
    """Return the N of `reuse<N>`, or 0."""
    return int(part[5:]) if re.fullmatch(r"reuse[1-9]\d*", part) else 0


def _entries():
    entries = _load(ROOT, MODELS)
    for name, changes in entries.items():
        if not isinstance(changes, dict):
            raise UserError(f"{MODELS}: {name} is no mapping of options to values")
    return entries


def _split(name, recipe):
    """Take a name apart: always the longest beginning that means something.

    Returns:
        The file of the config to start from, the parts that change it, and whether the
        name ends in `_warm` beyond these.
    """
    if name == "baseline":
        return BASELINE, [], False
    words, entries = name.split("_"), _entries()
    base, parts = BASELINE, []
    for n in range(len(words), 0, -1):
        tuning = TUNING.format("_".join(words[:n]))
        if (recipe / tuning).is_file():
            base, words = tuning, words[n:]
            break
    while words and words != ["warm"]:
        for n in range(len(words), 0, -1):
            part = "_".join(words[:n])
            if part in entries or _group_size(part):
                parts.append(part)
                words = words[n:]
                break
        else:
            raise UserError(
                f"no model '{name}'; choose from {' '.join(names(recipe))}, join them "
                f"with '_', or add {TUNING.format(name)} to the recipe"
            )
    return base, parts, words == ["warm"]


def _load(folder, file):
    """Read a YAML mapping."""
    try:
        config = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as e:
        raise UserError(f"{file} is not YAML: {one_line(e)}") from e
    raise UserError(f"{file} is no mapping of options to values")


def _merge(config, changes):
    """Return a config with changes; null among them removes an option."""

    def remove_nulls(config, changes):
        for key, value in changes.items():
            if value is None:
                del config[key]
            elif isinstance(value, dict):
                remove_nulls(config[key], value)

    merged = OmegaConf.to_container(OmegaConf.merge(config, changes))
    remove_nulls(merged, changes)
    return merged


def _flatten(config, prefix=""):
    """Return the keys of all values that are no mappings."""
    keys = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            keys += _flatten(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def _quarter(config):
    """Return the changes of a fine-tuning: a quarter of the epochs and learning rate.

    One rule for all recipes. What counts updates, `warmup_steps` and `max_steps`, is
    divided with the epochs, so that the learning rate takes the same course in a
    quarter of the time.
    """
    changes = {"max_epoch": max(config.get("max_epoch", ESPNET_MAX_EPOCH) // 4, 1)}
    if "lr" in config.get("optim_conf", {}):
        changes["optim_conf"] = {"lr": config["optim_conf"]["lr"] / 4}
    steps = config.get("scheduler_conf", {})
    steps = {k: steps[k] // 4 for k in ("warmup_steps", "max_steps") if k in steps}
    return changes | ({"scheduler_conf": steps} if steps else {})
