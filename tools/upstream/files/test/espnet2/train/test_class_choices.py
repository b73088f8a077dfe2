# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Encoders that other packages add to ESPnet's options."""

import argparse
import sys

import pytest
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.enh.encoder.abs_encoder import AbsEncoder as AbsEnhEncoder
from espnet2.enh.encoder.stft_encoder import STFTEncoder
from espnet2.tasks.asr import ASRTask, encoder_choices
from espnet2.train.class_choices import ClassChoices

MODULE = "a_package_with_encoders"
SOURCE = """
from espnet2.asr.encoder.rnn_encoder import RNNEncoder

class MyEncoder(RNNEncoder):
    def __init__(self, input_size: int, my_size: int = 7):
        super().__init__(input_size)
"""
ENTRY_POINTS = f"""
[espnet2.encoders]
My_Encoder = {MODULE}:MyEncoder
rnn = {MODULE}:MyEncoder
no_encoder = collections:OrderedDict
no_class = math:pi
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """Install a package with encoders."""
    info = tmp_path / f"{MODULE}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(MODULE, None)


def test_a_name_is_known_at_once_and_its_class_imported_when_it_is_chosen():
    parser = argparse.ArgumentParser()
    encoder_choices.add_arguments(parser)
    args = parser.parse_args(["--encoder", "my_encoder"])
    assert MODULE not in sys.modules
    encoder = encoder_choices.get_class(args.encoder)
    assert encoder is sys.modules[MODULE].MyEncoder


def test_print_config_has_the_options_of_the_encoder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["asr_train", "--encoder", "my_encoder"])
    assert ASRTask.get_default_config()["encoder_conf"] == {"my_size": 7}


def test_a_built_in_name_stays_and_is_offered_once():
    assert encoder_choices.get_class("rnn") is RNNEncoder
    assert encoder_choices.choices().count("rnn") == 1


@pytest.mark.parametrize("name", ["no_encoder", "no_class"])
def test_what_is_no_encoder_is_refused_when_it_is_chosen(name):
    assert name in encoder_choices.choices()
    with pytest.raises(ValueError, match=f"--encoder {name}: must be AbsEncoder, but"):
        encoder_choices.get_class(name)


@pytest.mark.parametrize(
    "base, cls",
    [(AbsEnhEncoder, STFTEncoder), (RNNEncoder, RNNEncoder), (None, RNNEncoder)],
)
def test_only_encoders_of_speech_recognition_are_added_to(base, cls):
    choices = ClassChoices("encoder", {"built_in": cls}, base, default="built_in")
    assert choices.choices() == ("built_in",)


def test_every_option_of_that_type_is_added_to():
    choices = ClassChoices("some_encoder", {}, AbsEncoder)
    assert set(choices.choices()) > {"my_encoder", "rnn", None}


def test_an_unknown_name_is_refused_as_before():
    with pytest.raises(ValueError, match="--encoder must be one of .*: --encoder his"):
        encoder_choices.get_class("his_encoder")
