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
    base, parts = _split(name, recipe)
    config = _load(recipe, base)
    sources = dict.fromkeys(_flatten(config), base)

    def change(changes, source):
        nonlocal config
        config = _merge(config, changes)
        sources.update(dict.fromkeys(_flatten(changes), source))

    for part, entry in parts.items():
        change(entry, NAME if _is_size(part) else MODELS)
    if parts:
        change(_reuse_encoder(config), NAME)
    if "warm" in parts:
        if "reuse_group_size" not in config.get("encoder_conf", {}):
            raise UserError(
                f"'{name}' has no reuse: only a model with reuse is fine-tuned from "
                "another"
            )
        config = _merge(config, _quarter(config))
    keys = _flatten(config)
    return Model(name, config, {k: sources.get(k, NAME) for k in keys})


def names(recipe: Path) -> list[str]:
    """Return the names that can be used and joined, for messages."""
    tuning = [_tuning_name(path) for path in recipe.glob(TUNING.format("*"))]
    return ["baseline", *sorted(tuning), "reuse<N>", *_entries(), "<name>_warm"]


def _tuning_name(path):
    return path.stem.removeprefix(f"{TAG}_")


def _is_size(part):
    return re.fullmatch(r"reuse[1-9]\d*", part)


def _entries():
    entries = _load(ROOT, MODELS)
    for name, changes in entries.items():
        if not isinstance(changes, dict):
            raise UserError(f"{MODELS}: {name} is no mapping of options to values")
    return entries


def _split(name, recipe):
    """Return a name's config to start from, and {part: its changes} of the rest.

    Always the longest beginning of the name that is something.
    """
    if name == "baseline":
        return BASELINE, {}
    words, entries = name.split("_"), _entries()
    base, parts = BASELINE, {}
    for n in range(len(words), 0, -1):
        tuning = TUNING.format("_".join(words[:n]))
        if (recipe / tuning).is_file():
            base, words = tuning, words[n:]
            break
    while words:
        for n in range(len(words), 0, -1):
            part = "_".join(words[:n])
            if part in entries:
                parts[part] = entries[part]
            elif _is_size(part):
                parts[part] = {"encoder_conf": {"reuse_group_size": int(part[5:])}}
            elif part == "warm" and len(words) == 1:
                parts[part] = {}
            else:
                continue
            words = words[n:]
            break
        else:
            raise UserError(
                f"no model '{name}'; choose from {' '.join(names(recipe))}, join them "
                f"with '_', or add {TUNING.format(name)} to the recipe"
            )
    return base, parts


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
    merged = OmegaConf.to_container(OmegaConf.merge(config, changes))
    return _without(merged, changes)


def _without(config, changes):
    for key, value in changes.items():
        if value is None:
            del config[key]
        elif isinstance(value, dict):
            _without(config[key], value)
    return config


def _flatten(config, prefix=""):
    """Return the keys of all values that are no mappings."""
    keys = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            keys += _flatten(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def _reuse_encoder(config):
    """Return the change that makes the encoder the one with reuse, if it is to be."""
    encoder = config.get("encoder", "rnn")  # ESPnet's default
    has_groups = "reuse_group_size" in config.get("encoder_conf", {})
    if encoder.endswith("_reuse") or not has_groups:
        return {}
    return {"encoder": f"{encoder}_reuse"}


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
