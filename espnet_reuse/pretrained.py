# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Trained ESPnet models: reads their configs, parameters and packages, safely."""

import argparse
import importlib
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_reuse.asr.layers.attention_map_reuse import ReuseConfigError
from espnet_reuse.errors import UserError, one_line
from espnet_reuse.files import is_whole


class Trained(NamedTuple):
    """A trained model of an ESPnet2 task: its parameters fit its config."""

    model: AbsESPnetModel  # as the config describes it, without the parameters
    config: dict
    state: dict[str, torch.Tensor]
    file: Path  # of the parameters
    task: str


def read_config(path: Path) -> dict:
    """Read a training config, such as the config.yaml that ESPnet saves with a model.

    Raises:
        OSError: It cannot be read.
        UserError: It is not YAML or has no encoder.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None
    if not isinstance(config, dict) or not isinstance(config.get("encoder"), str):
        raise UserError(
            f"{path} is not a training config (it has no encoder); use one such as the "
            "config.yaml beside a model"
        )
    config["encoder_conf"] = config.get("encoder_conf") or {}
    return config


def read_parameters(path: Path) -> dict[str, torch.Tensor]:
    """Read a model's parameters by name, and nothing that could run code.

    Raises:
        OSError: The file cannot be read.
        UserError: It is damaged, or not a state dict.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"  # PyTorch's own archives are: it checks no sums
    if is_zip and not is_whole(path):
        raise UserError(f"{path} is damaged or cut short")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # a pickle of other things, or bytes of any kind
        raise UserError(
            f"{path} is not a file of model parameters (files that could run code are "
            "not loaded); use one such as valid.acc.ave.pth"
        ) from None
    if isinstance(state, dict) and "module" in state:  # as DeepSpeed saves it
        state = state["module"]
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise UserError(
            f"{path} does not hold a model's parameters by name (checkpoint.pth holds "
            "more than these); use a file such as valid.acc.ave.pth"
        )
    return state


def read_search(path: Path | None, **defaults) -> dict:
    """Read an inference config, if there is one; return asr_inference's options.

    Args:
        path: The config, YAML.
        defaults: Values of what it does not say; of the rest, ESPnet has them.

    Raises:
        UserError: It is not YAML, or has what asr_inference does not know.
    """
    from espnet_reuse.bin.asr_inference_ctc import get_parser  # takes seconds

    parser = get_parser()

    def refuse(message):
        raise UserError(f"{path}: {message}")

    parser.error = refuse
    parser.set_defaults(**defaults)
    words = ["--output_dir=", "--data_path_and_name_and_type=,,"]  # required, not used
    words += ["--config", str(path)] if path else []
    try:
        return vars(parser.parse_args(words))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None


def unpack_model(path: Path, folder: Path) -> tuple[Path, Path]:
    """Unpack a model that ESPnet packed; return its config.yaml and parameters.

    Raises:
        OSError: It cannot be read.
        UserError: It is not a package of an ESPnet model, or lacks a file.
    """
    try:
        # it refuses what is outside the folder, and a name with another suffix
        files = {key: Path(file) for key, file in unpack(path, folder).items()}
        config, model = (
            [file for key, file in files.items() if key.endswith(suffix)][0]
            for suffix in ("_train_config", "_model_file")
        )
    except OSError:
        raise
    except Exception as error:  # whatever a broken archive makes ESPnet raise
        raise UserError(
            f"{path} is not a packed ESPnet model ({one_line(error)}); use a file that "
            "espnet2.bin.pack made"
        ) from None
    for file in files.values():
        inside = file.resolve().is_relative_to(folder.resolve())
        if not inside or not file.is_file():
            name = str(file).removeprefix(f"{folder}/")
            raise UserError(f"{path} names '{name}', but this file is not in it")
    return config, model


def get_task(name: str) -> type:
    """Return the class of an ESPnet2 task, such as ASRTask of `asr`.

    Raises:
        UserError: ESPnet has no such task, or lacks a package for it.
    """
    module_name = f"espnet2.tasks.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        why = "ESPnet has no such task"
        if error.name != module_name:
            why = f"it needs the package {error.name}"
        raise UserError(f"no task {name!r}: {why}; use one such as asr") from None
    classes = (value for value in vars(module).values() if isinstance(value, type))
    own = (cls for cls in classes if cls.__module__ == module_name)
    return next(cls for cls in own if issubclass(cls, AbsTask))


def build_model(
    config: dict, task: str = "asr", device: str = "meta"
) -> AbsESPnetModel:
    """Build the model of an ESPnet2 task that a config describes.

    On the device `meta`, its parameters take no memory and no time.

    Raises:
        UserError: It cannot be built.
    """
    task_class = get_task(task)
    try:
        with torch.device(device):
            return task_class.build_model(argparse.Namespace(**config))
    except ReuseConfigError as error:
        raise UserError(str(error)) from None
    except Exception as error:  # whatever a wrong option makes ESPnet raise
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = "; its paths start in the recipe's folder: run the command there"
        raise UserError(
            f"ESPnet cannot build the config's model: {one_line(error)}{hint}"
        ) from None


def read_trained(
    config_file: Path, model_file: Path, task: str = "asr", device: str = "meta"
) -> Trained:
    """Read a trained model, running no code of its files.

    Outside the encoder the file may hold more than the model has: old models do.

    Raises:
        OSError: A file cannot be read.
        UserError: A file is not what it should be, or names or shapes of parameters
            differ from the model's.
    """
    config, state = read_config(config_file), read_parameters(model_file)
    model = build_model(config, task, device)
    expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    actual = {name: tuple(x.shape) for name, x in state.items()}
    problems = [f"{name} is missing" for name in expected if name not in actual]
    problems += [
        f"the config's model has no {name}"
        for name in actual
        if name not in expected and name.startswith("encoder.")
    ]
    problems += [
        f"{name} is {actual[name]}, not {shape}"
        for name, shape in expected.items()
        if actual.get(name, shape) != shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{model_file} does not fit the config: {problems[0]}{more}; use the "
            "config.yaml that ESPnet saved with it"
        )
    return Trained(model, config, state, model_file, task)


def load_model(config_file: Path, model_file: Path) -> tuple[AbsESPnetModel, dict]:
    """Return a trained ASR model, on the CPU, and its config.

    Raises:
        OSError, UserError: As `read_trained` does.
    """
    trained = read_trained(config_file, model_file, device="cpu")
    # outside the encoder, ESPnet leaves out what the model does not have
    trained.model.load_state_dict(trained.state, strict=False)
    return trained.model, trained.config


def attentions_of(encoder: torch.nn.Module) -> list[torch.nn.Module | None]:
    """Return the attention module of every layer, None where there is none."""
    return [
        getattr(layer, "self_attn", None) or getattr(layer, "attn", None)
        for layer in encoder.encoders
    ]
