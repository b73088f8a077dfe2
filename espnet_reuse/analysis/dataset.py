# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Utterances of a Kaldi data directory, as ESPnet's asr.sh leaves them in dump/."""

from pathlib import Path
from typing import Iterator, NamedTuple, Optional

import numpy as np
import soundfile
from espnet2.fileio.read_text import read_2columns_text
from espnet2.fileio.sound_scp import SoundScpReader

from espnet_reuse.errors import UserError


class Utterance(NamedTuple):
    """One utterance: its waveform (samples,), float32, and what files say of it.

    Of several channels it has the first, which ESPnet's frontend takes in decoding.
    """

    id: str
    speech: np.ndarray
    text: Optional[str]
    speaker: Optional[str]


class DataDir:
    """At most `num_utts` utterances of a data directory, spread evenly over it.

    It has a wav.scp, and text and utt2spk if there are. `rate`, in Hz, is the sampling
    rate that its audio must have.

    Raises:
        UserError: A file is missing, cannot be read or is empty.
    """

    def __init__(self, path: Path, num_utts: int, rate: int):
        self.path, self.rate = path, rate
        if not (path / "wav.scp").is_file():
            raise UserError(
                f"{path}/wav.scp is missing; name a data directory of dump/raw"
            )
        if (path / "segments").exists():
            raise UserError(f"{path} has segments; use asr.sh's copy in dump/raw")
        try:
            self.reader = SoundScpReader(str(path / "wav.scp"), dtype="float32")
            self.texts, self.speakers = (
                read_2columns_text(path / name) if (path / name).is_file() else {}
                for name in ("text", "utt2spk")
            )
        except (RuntimeError, ValueError) as error:  # a line or an id that is wrong
            raise UserError(f"{path}: {error}") from None
        ids = sorted(self.reader.keys())
        if not ids:
            raise UserError(f"{path}/wav.scp is empty; use a set that has utterances")
        # ids begin with the speaker, so that this takes from every speaker
        count = min(num_utts, len(ids))
        self.ids = [ids[n * len(ids) // count] for n in range(count)]

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Utterance]:
        """Read one utterance at a time.

        Raises:
            UserError: Its audio cannot be read, or is not as the model wants it.
        """
        for utt_id in self.ids:
            where = f"{self.path}/wav.scp: {utt_id}: {self.reader.data[utt_id]}"
            try:
                rate, speech = self.reader[utt_id]
            except (soundfile.LibsndfileError, OSError) as error:
                raise UserError(
                    f"{where} cannot be read ({error}); relative paths start in the "
                    "current folder: run the command in the recipe's folder"
                ) from None
            if rate != self.rate:
                raise UserError(
                    f"{where} has {rate} Hz, but the model was trained on {self.rate} "
                    "Hz; use the data that asr.sh made for it, in dump/raw"
                )
            if speech.ndim != 1:
                speech = speech[:, 0]
            if len(speech) == 0:
                raise UserError(f"{where} holds no audio; remove the utterance")
            text, speaker = self.texts.get(utt_id), self.speakers.get(utt_id)
            yield Utterance(utt_id, speech, text, speaker)
