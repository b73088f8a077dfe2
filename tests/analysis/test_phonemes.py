# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Names of phonemes, and their order."""

import pytest

from espnet_reuse.analysis.phonemes import ARPABET, SILENCE, group_phonemes, normalise


@pytest.mark.parametrize(
    "symbols, phoneme",
    [
        ("AH AH0 ah1", "AH"),
        ("OW ow1", "OW"),
        ("NG_E", "NG"),
        ("ER2_I", "ER"),
        ("ɑː", "ɑː"),
        ("tʲ", "tʲ"),
        ("sil SIL_S sp spn pau <eps> [NOISE] +NSN+", SILENCE),
    ],
)
def test_symbols_of_every_aligner_are_one_phoneme(symbols, phoneme):
    assert {normalise(symbol) for symbol in symbols.split()} == {phoneme}


def test_an_empty_symbol_is_silence():
    assert normalise("") == normalise(" ") == SILENCE


def test_a_normalised_symbol_stays_as_it_is():
    assert [normalise(phoneme) for phoneme in ARPABET] == ARPABET


def test_the_inventory_is_arpabet_and_silence():
    pocketsphinx = pytest.importorskip("pocketsphinx")
    dictionary = pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")
    with open(dictionary, encoding="utf-8") as file:
        phonemes = {phoneme for line in file for phoneme in line.split()[1:]}
    assert len(ARPABET) == 40 and set(ARPABET) == phonemes | {SILENCE}


@pytest.mark.parametrize(
    "pair", ["P B", "T D", "K G", "CH JH", "F V", "TH DH", "S Z", "SH ZH"]
)
def test_a_voiced_consonant_follows_its_voiceless_one(pair):
    voiceless, voiced = pair.split()
    assert ARPABET.index(voiced) == ARPABET.index(voiceless) + 1


def test_those_that_occur_are_grouped_in_order_with_others_last():
    assert group_phonemes({"SIL", "T", "P", "ɑ", "IY", "ə"}) == [
        ("stops", ["P", "T"]),
        ("vowels", ["IY"]),
        ("silence", ["SIL"]),
        ("other", ["ɑ", "ə"]),
    ]
