# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Trained ESPnet models: reads their configs, parameters and packages, safely."""

import argparse
import importlib
import posixpath
import tarfile
import zipfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.abs_espnet_model import AbsESPnetModel


class PretrainedError(ValueError):
    """A model cannot be read or used; the message is one line that says why."""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def unreadable(option: str, path: Path, error: OSError) -> PretrainedError:
    """Return the error for a file that cannot be read."""
    return PretrainedError(f"{option}: cannot read {path}: {error.strerror or error}")


def read_config(path: Path, option: str = "--asr_train_config") -> Dict:
    """Read the config.yaml that ESPnet saved with a model.

    Args:
        path: The file.
        option: Option that names it, for the error.

    Raises:
        PretrainedError: It cannot be read, is not YAML or has no encoder.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PretrainedError(
            f"{option}: cannot read {path}: {error.strerror}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PretrainedError(
            f"{option}: {path} is not YAML ({str(error).splitlines()[0]}); name the "
            "config.yaml beside the model"
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("encoder"), str):
        raise PretrainedError(
            f"{option}: {path} describes no model (no encoder); name the config.yaml "
            "that training saved beside the model"
        )
    config["encoder_conf"] = config.get("encoder_conf") or {}
    return config


def read_parameters(path: Path, option: str = "--asr_model_file") -> Dict:
    """Read a model's parameters, and nothing that could run code.

    Args:
        path: File of a state dict.
        option: Option that names it, for the error.

    Returns:
        Tensors by name.

    Raises:
        PretrainedError: It cannot be read, or is not a state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PretrainedError(
            f"{option}: cannot read {path}: {error.strerror}"
        ) from None
    except Exception:  # a pickle of other things, or bytes of any kind
        raise PretrainedError(
            f"{option}: {path} does not hold a model's parameters (or more than those, "
            "which is not loaded, since it could run code); name a file such as "
            "valid.acc.ave.pth"
        ) from None
    if isinstance(state, dict) and "module" in state:  # as DeepSpeed saves it
        state = state["module"]
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise PretrainedError(
            f"{option}: {path} is not a model's parameters by name, as checkpoint.pth "
            "is not; name a file such as valid.acc.ave.pth"
        )
    return state


def unpack_model(path: Path, folder: Path, option: str) -> Tuple[Path, Path]:
    """Unpack a model that ESPnet packed.

    Args:
        path: The package, a zip or tar file.
        folder: Folder to unpack it into.
        option: Option that names it, for the error.

    Returns:
        The model's config.yaml, and its parameters.

    Raises:
        PretrainedError: It is not a package of an ESPnet model, or names files
            outside its folder.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        else:
            with tarfile.open(path) as archive:
                names = archive.getnames()
    except OSError as error:
        raise PretrainedError(
            f"{option}: cannot read {path}: {error.strerror}"
        ) from None
    except tarfile.TarError:
        names = []
    if "meta.yaml" not in names:
        raise PretrainedError(
            f"{option}: {path} is not a package of an ESPnet model (a zip or tar file "
            "with a meta.yaml); name what espnet2.bin.pack made"
        )

    def refuse_outside(names):
        for name in names:
            if posixpath.isabs(name) or ".." in name.split("/"):
                raise PretrainedError(
                    f"{option}: {path} holds or names '{name}', outside its folder: "
                    "it is not unpacked"
                )

    refuse_outside(names)
    try:
        unpack(path, folder)
        meta = yaml.safe_load((folder / "meta.yaml").read_text(encoding="utf-8"))
        files = {**meta["yaml_files"], **meta["files"]}
        refuse_outside(files.values())
        for name in files.values():
            if name not in names:
                raise PretrainedError(
                    f"{option}: {path} names '{name}', which it does not hold: it was "
                    "not packed whole"
                )
        config, model = (
            next(folder / file for key, file in files.items() if key.endswith(suffix))
            for suffix in ("_train_config", "_model_file")
        )
    except PretrainedError:
        raise
    except Exception as error:  # whatever a broken archive makes ESPnet raise
        raise PretrainedError(
            f"{option}: {path} is not a package of an ESPnet model: {one_line(error)}"
        ) from None
    return config, model


def get_task(name: str) -> type:
    """Return the class of an ESPnet2 task, such as ASRTask of `asr`.

    Raises:
        PretrainedError: ESPnet has no such task, or lacks a package for it.
    """
    module_name = f"espnet2.tasks.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        why = "ESPnet has none"
        if error.name != module_name:
            why = f"it needs the package {error.name}"
        raise PretrainedError(
            f"--task: no {name!r} ({why}); use one like asr"
        ) from None
    for value in vars(module).values():
        is_task = isinstance(value, type) and issubclass(value, AbsTask)
        if is_task and value.__module__ == module_name:
            return value
    raise PretrainedError(f"--task: {module_name} has no task; such as asr")


def build_model(
    config: Dict, task: str = "asr", device: str = "meta"
) -> AbsESPnetModel:
    """Build the model that a config describes.

    Args:
        config: As ESPnet saved it.
        task: Name of the ESPnet2 task.
        device: Where its parameters are; on `meta` they take no memory and no time.

    Raises:
        PretrainedError: It cannot be built.
    """
    args = argparse.Namespace(**config)
    try:
        with torch.device(device):
            return get_task(task).build_model(args)
    except PretrainedError:
        raise
    except Exception as error:  # whatever a wrong option makes ESPnet raise
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = "; paths in it start in the recipe's folder: run this there"
        raise PretrainedError(
            f"config.yaml: no model can be built from it: {one_line(error)}{hint}"
        ) from None


def require_same(expected: Dict, state: Dict, model_file: Path) -> None:
    """Check that a state dict has the names and shapes that a model has.

    Other parameters are no problem outside the encoder: old models have some.

    Args:
        expected: State dict of the model.
        state: Parameters to check.
        model_file: Their file, for the error.

    Raises:
        PretrainedError: Names or shapes differ.
    """
    problems = [
        *(f"{name} is missing" for name in expected if name not in state),
        *(
            f"{name} is more than it has"
            for name in state
            if name not in expected and name.startswith("encoder.")
        ),
        *(
            f"{name} is {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in state and state[name].shape != expected[name].shape
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PretrainedError(
            f"--asr_model_file: {model_file} is of another architecture than the "
            f"config: {problems[0]}{more}; name the config.yaml that was saved with it"
        )


def load_model(config_file: Path, model_file: Path) -> Tuple[AbsESPnetModel, Dict]:
    """Load an ASR model that ESPnet has trained, running no code of its file.

    Args:
        config_file: The config.yaml that was saved with it.
        model_file: Its parameters.

    Returns:
        The model, on the CPU, and its config.

    Raises:
        PretrainedError: A file is not what it should be, or the two do not fit.
    """
    config = read_config(config_file)
    state = read_parameters(model_file)
    model = build_model(config, device="cpu")
    require_same(model.state_dict(), state, model_file)
    # ESPnet leaves out what is more, outside the encoder
    model.load_state_dict(state, strict=False)
    return model, config


def attentions_of(encoder: torch.nn.Module) -> List[Optional[torch.nn.Module]]:
    """Return the attention module of every layer, None where there is none."""
    return [
        getattr(layer, "self_attn", None) or getattr(layer, "attn", None)
        for layer in encoder.encoders
    ]
