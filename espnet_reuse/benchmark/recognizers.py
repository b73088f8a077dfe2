# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Recognizers to time from waveform to text, and the waveforms they decode."""

import tempfile
from itertools import islice, product
from pathlib import Path

import torch
import yaml
from espnet2.fileio.sound_scp import SoundScpReader
from espnet2.tasks.asr import ASRTask

from espnet_reuse.benchmark.decoding import BEST_PATH
from espnet_reuse.benchmark.peers import LIMIT, SEED, Peer, remove_attention
from espnet_reuse.bin.asr_inference_ctc import Speech2Text, constructor_options
from espnet_reuse.errors import UserError, one_line
from espnet_reuse.pretrained import read_trained

TOKENS = 5000


def open_trained(
    files: dict[str, Path], search: dict, batches: list[int], dtype: str, device: str
) -> dict[tuple[str, str, int], Speech2Text]:
    """Load trained models once for each search.

    Args:
        files: Parameters of each model, with a config.yaml beside them.
        search: Options of the search. Its beam is timed, a beam of 1, and best path;
            in bfloat16, which ESPnet's search does not know, best path alone.
        batches: Sizes of batches.
        dtype: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.

    Returns:
        Recognizers by model, search and batch.

    Raises:
        UserError: A model cannot be loaded or has no CTC head.
    """
    beams = dict.fromkeys((search["beam_size"], 1))
    searches = [*(f"beam {beam}" for beam in beams), BEST_PATH]
    recognizers = {}
    for name, file in files.items():
        config = file.with_name("config.yaml")
        if not config.is_file():
            raise UserError(f"{file} needs the config.yaml that ESPnet saved beside it")
        read_trained(config, file)  # says in a line what is wrong with the model
        for beam in beams:
            options = {"beam_size": beam, "dtype": dtype, "batch_size": 1}
            options = constructor_options(search | options) | {"device": device}
            try:
                options |= {"asr_train_config": config, "asr_model_file": file}
                speech2text = Speech2Text(**options)
            except Exception as error:  # whatever a wrong value makes ESPnet raise
                raise UserError(f"{file}: {one_line(error)}") from None
            recognizers[name, f"beam {beam}"] = speech2text
        recognizers[name, BEST_PATH] = speech2text
    if dtype != "float32":
        searches = [BEST_PATH]
    return {
        (name, search, batch): recognizers[name, search]
        for search, batch, name in product(searches, batches, files)
    }


def make_untrained(
    peers: list[Peer], frontend_conf: dict, batches: list[int], dtype: str, device: str
) -> dict[tuple[str, str, int], Speech2Text]:
    """Make recognizers with CTC alone, of random weights, for best path.

    The time of a beam search depends on what it finds, and here it would find nothing.
    """
    tokens = ["<blank>", "<unk>", *map(str, range(TOKENS - 3)), "<sos/eos>"]
    recognizers = {}
    for peer in peers:
        conf = {name: v for name, v in peer.conf.items() if name != "input_size"}
        config = ASRTask.get_default_config() | {
            "token_list": tokens,
            "token_type": "char",
            "frontend_conf": frontend_conf,
            "normalize": "utterance_mvn",
            "encoder": peer.encoder,
            "encoder_conf": conf,
            "model_conf": {"ctc_weight": 1.0},
        }
        torch.manual_seed(SEED)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "config.yaml")
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            try:
                options = {"ctc_weight": 1.0, "dtype": dtype, "device": device}
                recognizers[peer.name] = Speech2Text(path, **options)
            except Exception as error:  # ESPnet's constructors raise anything
                raise UserError(f"'{peer.name}': {one_line(error)}") from None
        if peer.name == LIMIT:
            remove_attention(recognizers[peer.name].asr_model.encoder)
    return {
        (name, BEST_PATH, batch): recognizers[name]
        for batch, name in product(batches, recognizers)
    }


def rate_of(recognizers: dict[tuple[str, str, int], Speech2Text]) -> int:
    """Return the sampling rate of all models in Hz.

    Raises:
        UserError: They differ, or a model takes no audio.
    """
    rates = {name: s2t.sample_rate for (name, *_), s2t in recognizers.items()}
    first, *others = set(rates.values())
    if others or first is None:
        listed = (f"{name}: {rate or 'features'}" for name, rate in rates.items())
        raise UserError(
            "name models that take audio of one sampling rate; in Hz, they take "
            + ", ".join(listed)
        )
    return first


def read_speeches(data_dir: Path, count: int, rate: int) -> list[torch.Tensor]:
    """Read the first waveforms (samples,) of a data folder such as dump/raw/test.

    Raises:
        OSError: A file cannot be read.
        UserError: There are none, or their sampling rate is not the models'.
    """
    scp = data_dir / "wav.scp"
    try:
        reader = SoundScpReader(scp, dtype="float32")
        read = {key: reader[key] for key in islice(reader.keys(), count)}
    except OSError:
        raise
    except Exception as error:  # whatever a file of another kind makes ESPnet raise
        raise UserError(f"{scp}: {one_line(error)}") from None
    if not read:
        raise UserError(f"{scp} lists no utterances")
    for key, (own, _) in read.items():
        if own != rate:
            raise UserError(f"{key} in {scp} has {own} Hz, and the models {rate} Hz")
    return [torch.from_numpy(speech) for _, speech in read.values()]


def make_noise(seconds: float, count: int, rate: int) -> list[torch.Tensor]:
    """Return waveforms (samples,) of noise, all of one length."""
    torch.manual_seed(SEED)
    return list(torch.randn(count, round(seconds * rate)))
