# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Phonemes of ARPAbet, ordered by manner and place of articulation."""

import re
from typing import Collection, List, Tuple

SILENCE = "SIL"
# Consonants from the lips back; vowels from front to back, high before low.
GROUPS = [
    ("stops", "P B T D K G"),
    ("affricates", "CH JH"),
    ("fricatives", "F V TH DH S Z SH ZH HH"),
    ("nasals", "M N NG"),
    ("liquids", "L R"),
    ("glides", "W Y"),
    ("vowels", "IY IH EH AE AH ER AA AO UH UW"),
    ("diphthongs", "EY AY OY AW OW"),
    ("silence", SILENCE),
]
ARPABET = [phoneme for _, members in GROUPS for phoneme in members.split()]
# Of Kaldi, the Montreal Forced Aligner, pocketsphinx and HTS.
SILENCES = {"", "SIL", "SP", "SPN", "NSN", "LAU", "PAU", "NOISE", "BREATH", "COUGH"}


def normalise(symbol: str, cased: bool = False) -> str:
    """Return the phoneme that an aligner's symbol stands for.

    ARPAbet is upper case without stress digit; marks of silence and noise are `SIL`;
    positions in the word, as Kaldi has them (`AH0_B`), are left out. Other symbols,
    such as IPA, stay as they are; so do all where case tells phonemes apart (`cased`).
    """
    bare = re.sub(r"_[BIES]$", "", symbol.strip())
    plain = bare.strip("<>+[]").upper()
    if plain in SILENCES or bare.startswith(("+", "<", "[")):
        return SILENCE
    if cased:
        return bare
    phoneme = re.sub(r"[0-2]$", "", plain)
    return phoneme if phoneme in ARPABET else bare


def group_phonemes(symbols: Collection[str]) -> List[Tuple[str, List[str]]]:
    """Return the (normalised) phonemes in order, with the names of their groups.

    Those outside ARPAbet form a last group.
    """
    occurring = set(symbols)
    groups = [
        (name, [phoneme for phoneme in members.split() if phoneme in occurring])
        for name, members in GROUPS
    ]
    groups.append(("other", sorted(occurring - set(ARPABET))))
    return [(name, members) for name, members in groups if members]
