# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Trained models are read without running code; what is wrong is named in one line."""

import argparse
import os
import zipfile

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

import espnet_reuse  # noqa: F401 (registers the encoders)
from espnet_reuse.errors import UserError
from espnet_reuse.pretrained import (
    build_model,
    load_model,
    read_parameters,
    unpack_model,
)

CONFIG = ASRTask.get_default_config() | {
    "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
    "encoder": "transformer_reuse",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 16},
        **{"num_blocks": 3, "reuse_group_size": [2, 1]},
    },
    "model_conf": {"ctc_weight": 1.0},
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture
def model_file(tmp_path):
    model = ASRTask.build_model(argparse.Namespace(**CONFIG))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def refusal(function, *args):
    """Return the message of the error that a function raises, a single line."""
    with pytest.raises(UserError) as raised:
        function(*args)
    (line,) = str(raised.value).splitlines()
    return line


def test_a_model_is_loaded_with_its_parameters(config_file, model_file):
    state = torch.load(model_file)
    state["frontend.of_an_old_version"] = torch.ones(1)
    torch.save({"module": state}, model_file)  # as DeepSpeed saves it
    model, config = load_model(config_file, model_file)
    assert config["encoder"] == "transformer_reuse"
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class RunsCode:
    """What a harmful checkpoint could hold."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


SPOILED = {
    "text": (lambda path: path.write_text("weights"), "is not a file of model"),
    "cut off": (lambda path: os.truncate(path, 1000), "is damaged or cut short"),
    "code": (
        lambda path: torch.save({"x": RunsCode(f"{path}.harm")}, path),
        "is not a file of model parameters",
    ),
    "no mapping": (lambda path: torch.save([1], path), "parameters by name"),
    "checkpoint": (lambda path: torch.save({"model": {}}, path), "parameters by name"),
}


@pytest.mark.parametrize("spoil, message", SPOILED.values(), ids=SPOILED)
def test_a_file_without_parameters_is_named_and_runs_no_code(
    model_file, spoil, message
):
    spoil(model_file)
    assert refusal(read_parameters, model_file).startswith(f"{model_file} ")
    assert message in refusal(read_parameters, model_file)
    assert os.listdir(model_file.parent) == [model_file.name]


NORM = "encoder.after_norm.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        ({NORM: None}, f"{NORM} is missing"),
        ({NORM: torch.ones(3)}, f"{NORM} is (3,), not (16,)"),
        ({"encoder.x": torch.ones(1)}, "the config's model has no encoder.x"),
        (
            {NORM: None, "encoder.x": torch.ones(1)},
            f"{NORM} is missing (and 1 more); use the config.yaml that ESPnet saved",
        ),
    ],
)
def test_parameters_of_another_architecture_are_refused(
    config_file, model_file, change, message
):
    state = torch.load(model_file) | change
    torch.save({k: v for k, v in state.items() if v is not None}, model_file)
    line = refusal(load_model, config_file, model_file)
    assert f"{model_file} does not fit the config: {message}" in line


@pytest.mark.parametrize(
    "content, message",
    [
        ("encoder: [", "{path} is not YAML"),
        ("- 1", "{path} is not a training config"),
        ("lm: transformer\n", "{path} is not a training config"),
        ("encoder: conformer\n", "ESPnet cannot build the config's model"),
    ],
)
def test_a_broken_config_is_named(config_file, model_file, content, message):
    config_file.write_text(content)
    line = refusal(load_model, config_file, model_file)
    assert line.startswith(message.format(path=config_file))


def test_a_task_that_espnet_lacks_is_refused():
    line = refusal(build_model, CONFIG, "no_such")
    assert line == "no task 'no_such': ESPnet has no such task; use one such as asr"


GOOD = "yaml_files: {asr_train_config: c.yaml}\nfiles: {asr_model_file: m.pth}"


NO_PACKAGE = "is not a packed ESPnet model"


@pytest.mark.parametrize(
    "members, message",
    [
        (None, NO_PACKAGE),
        ({"readme": "hello"}, NO_PACKAGE),
        ({"meta.yaml": "[]"}, NO_PACKAGE),
        ({"meta.yaml": "yaml_files: {}\nfiles: {}"}, NO_PACKAGE),
        ({"meta.yaml": GOOD}, "names 'c.yaml', but this file is not in it"),
        (
            {"meta.yaml": GOOD.replace("c.yaml", "/etc/hostname")},
            "names '/etc/hostname', but this file is not in it",
        ),
        ({"meta.yaml": GOOD, "../evil": "x"}, "Refusing to unpack '../evil'"),
    ],
)
def test_a_broken_package_is_named_and_writes_nothing_elsewhere(
    tmp_path, members, message
):
    path = tmp_path / "packed.zip"
    path.write_text("no archive")
    if members is not None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
    line = refusal(unpack_model, path, tmp_path / "folder")
    assert line.startswith(f"{path} ") and message in line
    assert {*os.listdir(tmp_path)} <= {"packed.zip", "folder"}
