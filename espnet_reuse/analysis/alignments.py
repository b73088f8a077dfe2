# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Phones and their times, from TextGrids, CTM files or pocketsphinx."""

import collections
import functools
import re
from importlib.metadata import version
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import torch
import torchaudio
from praatio import textgrid

from espnet_reuse.analysis.cache import Cache
from espnet_reuse.analysis.phonemes import ARPABET, SILENCE, normalise
from espnet_reuse.data.data_dir import some
from espnet_reuse.errors import UserError, one_line

RATE, FRAME = 16000, 0.01  # of pocketsphinx, in Hz and seconds
# Aligners round to their frames; TextGrids have their own idea of the file's length.
TOLERANCE = 0.05


class Phone(NamedTuple):
    """A phoneme with its times in seconds."""

    symbol: str
    start: float
    end: float


class Unaligned(Exception):
    """An utterance has no alignment: it is counted as skipped, nothing is guessed.

    The message is the reason, in a word or two that many utterances share.
    """


def phones_at(times: np.ndarray, phones: Sequence[Phone]) -> np.ndarray:
    """Return the phonemes (T,) at times (T,) in seconds, None where there is none."""
    symbols = np.full(len(times), None)
    for phone in phones:
        symbols[(phone.start <= times) & (times < phone.end)] = phone.symbol
    return symbols


def read_textgrid(path: Path, phone_tier: Optional[str] = None) -> List[Phone]:
    """Read the phones of a TextGrid of Praat.

    Their tier is named `phone_tier`, by default `phones`, as the Montreal Forced
    Aligner names it; in any case. Symbols are as they stand there.

    Raises:
        UserError: The file is not a TextGrid with one tier of phones in order.
    """
    name = re.escape(phone_tier) if phone_tier else "phones?"
    # with several speakers in a file: "<speaker> - phones"
    pattern = re.compile(rf"(.+ - )?{name}", re.IGNORECASE)
    try:
        grid = textgrid.openTextgrid(str(path), True, reportingMode="silence")
    except Exception as error:  # praatio raises whatever its parser meets
        why = f"as a TextGrid in UTF-8 or UTF-16 ({one_line(error)})"
        raise UserError(f"{path} cannot be read {why}") from None
    tiers = [tier for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier)]
    found = [tier for tier in tiers if pattern.fullmatch(tier.name)]
    if len(found) != 1:
        there = ", ".join(tier.name for tier in tiers) or "none"
        raise UserError(
            f"{path} must have one interval tier '{phone_tier or 'phones'}', but has "
            f"{len(found)} (its tiers: {there}); name the tier with phone_tier"
        )
    (tier,) = found
    phones = [Phone(e.label, e.start, e.end) for e in tier.entries]
    if phones and phones[-1].end < tier.maxTimestamp - TOLERANCE:
        ends = f"{phones[-1].end:g} s of {tier.maxTimestamp:g} s"
        raise UserError(f"{path}: the phones end at {ends}; they must reach the end")
    return _in_order(phones, path)


def read_ctm(path: Path) -> Dict[str, List[Phone]]:
    """Read the phones of each utterance of a CTM file.

    Its lines are `utterance channel start duration phone [confidence]`, in seconds.

    Raises:
        UserError: It is not text, has no phones, a line has another form, or an
            utterance's phones overlap.
    """
    form = "'utterance channel start duration phone'"
    phones = collections.defaultdict(list)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a CTM file: it must be UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            utt_id, _, start, duration, symbol = line.split()[:5]
            start, end = float(start), float(start) + float(duration)
        except ValueError:
            message = f"{path}:{number} must be {form}, but is {line!r}"
            raise UserError(message) from None
        phones[utt_id].append(Phone(symbol, start, end))
    if not phones:
        raise UserError(f"{path} has no phones; its lines must be {form}")
    return {
        utt_id: _in_order(sorted(spoken, key=lambda p: p.start), f"{path}: {utt_id}")
        for utt_id, spoken in phones.items()
    }


def _in_order(phones, where):
    """Return phones that follow each other."""
    end = 0.0
    for phone in phones:
        # sums of rounded starts and durations may overlap by a rounding; nan is refused
        if not end - 0.001 <= phone.start <= phone.end:
            raise UserError(
                f"{where}: the phone {phone.symbol}, {phone.start:g} to {phone.end:g} "
                f"s, must start at {end:g} s or later, and end after its start"
            )
        end = phone.end
    return phones


def align_with_pocketsphinx(speech: np.ndarray, rate: int, text: str) -> List[Phone]:
    """Align the words of a transcript, in any case, with its audio.

    The acoustic model and the dictionary are those of US English that come with
    pocketsphinx. It takes the best-fitting pronunciation of a word. It aligns wrong
    words, too, as any forced aligner does. The waveform is (samples,), float32,
    between -1 and 1, the rate in Hz.

    Raises:
        Unaligned: There are no words or no audio, a word is not in the dictionary, or
            pocketsphinx finds no alignment.
    """
    from pocketsphinx import Decoder

    words = text.lower().split()
    if not words:
        raise Unaligned("no words")
    if not len(speech):
        raise Unaligned("no audio")
    # a new one for each utterance: it keeps a running mean of the cepstra
    decoder = Decoder(lm=None, samprate=RATE, loglevel="FATAL")
    if any(decoder.lookup_word(word) is None for word in words):
        raise Unaligned("unknown words")
    waveform = torchaudio.functional.resample(torch.from_numpy(speech), rate, RATE)
    raw = (waveform * 32768).clamp(-32768, 32767).to(torch.int16).numpy().tobytes()

    def decode():
        decoder.start_utt()
        decoder.process_raw(raw, full_utt=True)
        decoder.end_utt()

    try:
        decoder.set_align_text(" ".join(words))
        decode()
        decoder.set_alignment()  # of words, from here on of phones
        decode()
        alignment = decoder.get_alignment()
    except RuntimeError:
        raise Unaligned("no alignment found") from None
    spoken = [word.name for word in alignment if not word.name.startswith(("<", "["))]
    if [name.partition("(")[0] for name in spoken] != words:
        raise Unaligned("no alignment found")
    return [
        Phone(normalise(p.name), p.start * FRAME, (p.start + p.duration) * FRAME)
        for word in alignment
        for p in word
    ]


class Alignments:
    """Phones of utterances, from one source.

    In files, an utterance may be without the speaker, whom data preparation puts in
    front of its id, if no other utterance of the set would then have its name.

    Args:
        source: `pocketsphinx`, a folder of TextGrids, or a CTM file.
        cache: Folder that keeps pocketsphinx's alignments.
        utt_ids: The utterances, whose files are read at once.
        speakers: The speaker of each utterance of the set, where there is one.
        allow_missing: Whether an utterance that the TextGrids or the CTM file lack is
            `Unaligned` rather than an error, unless they all are.
        phone_tier: Name of the TextGrids' tier of phones, for `read_textgrid`.

    Attributes:
        name: The file or folder, or pocketsphinx with its version.

    Raises:
        UserError: There is no such file or folder, it lacks utterances, or a file of
            theirs is wrong; a line for each problem.
    """

    def __init__(
        self,
        source: str,
        cache: Path,
        utt_ids: Sequence[str],
        speakers: Mapping[str, str],
        allow_missing: bool = False,
        phone_tier: Optional[str] = None,
    ):
        path = Path(source)
        self.name = str(path)
        if phone_tier and not path.is_dir():
            raise UserError(f"'{source}' is not a folder: phone_tier is for TextGrids")
        if source == "pocketsphinx":
            self.name = f"pocketsphinx {version('pocketsphinx')}"
            kept = Cache(cache, self.name.encode())
            self.find = functools.partial(_align_once, kept)
            return
        if path.is_dir():
            given = _index_textgrids(path)
            read = functools.partial(_read_one_textgrid, phone_tier)
        elif path.is_file():
            given, read = read_ctm(path), list
        else:
            raise UserError(
                f"'{path}' does not exist; use a folder of TextGrids, a CTM file, "
                "pocketsphinx or none"
            )
        bare = {u: u.removeprefix(f"{speakers[u]}-") for u in speakers}
        counts = collections.Counter(bare.values())
        phones, missing, problems = {}, [], []
        for utt_id in utt_ids:
            name = bare.get(utt_id)
            if utt_id in given or counts[name] != 1:
                name = utt_id
            try:
                phones[utt_id] = read(given[name])
            except KeyError:
                missing.append(utt_id)
            except UserError as error:
                problems.append(str(error))
        if missing and not (allow_missing and phones):
            problems.append(
                f"{path} has no phones of {some(missing)}, only of utterances such as "
                f"{next(iter(given))}; add them, or skip utterances with allow_missing"
            )
        if problems:
            more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
            raise UserError("\n".join(problems[:10] + more))
        symbols = {phone.symbol for spoken in phones.values() for phone in spoken}
        # X-SAMPA, for one: s and S are two phonemes
        cased = any({symbol, symbol.lower()} <= symbols for symbol in ARPABET)
        for spoken in phones.values():
            spoken[:] = [Phone(normalise(p[0], cased), *p[1:]) for p in spoken]
        self.find = lambda utt_id, *_: phones.get(utt_id)

    def __call__(
        self, utt_id: str, speech: np.ndarray, rate: int, text: Optional[str]
    ) -> List[Phone]:
        """Return the phones of an utterance: waveform (samples,) at a rate in Hz.

        Raises:
            Unaligned: It has none, and is to be counted as skipped.
            UserError: They end after the audio.
        """
        phones = self.find(utt_id, speech, rate, text)
        if phones is None:
            raise Unaligned("no alignment given")
        if all(phone.symbol == SILENCE for phone in phones):
            raise Unaligned("only silence in the alignment")
        seconds = len(speech) / rate
        if phones[-1].end > seconds + TOLERANCE:
            raise UserError(
                f"{self.name}: the phones of {utt_id} end at {phones[-1].end:.2f} s, "
                f"but its audio lasts {seconds:.2f} s; they are of another recording"
            )
        return phones


def _index_textgrids(folder):
    """Return the paths of the TextGrids anywhere in a folder, by utterance.

    That of an utterance may be in its speaker's folder, without the speaker's name.
    """
    grids = {}
    for grid in sorted(folder.rglob("*.TextGrid", case_sensitive=False)):
        for name in (grid.stem, f"{grid.parent.name}-{grid.stem}"):
            grids.setdefault(name, []).append(grid)
    if not grids:
        raise UserError(f"{folder} has no *.TextGrid; use a folder that has TextGrids")
    return grids


def _read_one_textgrid(phone_tier, paths):
    if len(paths) > 1:
        both = f"{paths[0]} and {paths[1]}"
        raise UserError(f"{both} are both of the same utterance; keep one of them")
    return read_textgrid(paths[0], phone_tier)


def _align_once(cache, utt_id, speech, rate, text):
    """Align an utterance, or read from the cache how it was aligned."""
    if text is None:
        raise UserError(
            f"{utt_id} has no line in text, which pocketsphinx needs; add the line, or "
            "use other alignments"
        )

    def align():
        try:
            phones = align_with_pocketsphinx(speech, rate, text)
        except Unaligned as reason:
            return {"unaligned": str(reason)}
        return {"phones": np.array(phones, "U8, f8, f8")}

    kept = cache.get((text, rate), speech, align)
    if "unaligned" in kept:
        raise Unaligned(str(kept["unaligned"]))
    return [Phone(*phone) for phone in kept["phones"].tolist()]
