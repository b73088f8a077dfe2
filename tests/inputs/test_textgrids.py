# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Alignments that people bring: TextGrids of Praat and its peers, CTM files."""

import numpy as np
import pytest
from table import Row, each

from espnet_reuse.analysis.alignments import Alignments, Unaligned
from espnet_reuse.errors import UserError

SPEECH, RATE = np.zeros(19200, np.float32), 16000  # 1.2 s
SPOKEN = [(0, 0.25, ""), (0.25, 0.3, "HH"), (0.3, 1.2, "AH0")]
PLAIN = {"utt": "utt"}  # utterances of the set, and their speakers
TWO = {"a-utt": "a", "b-utt": "b"}


def grid(*tiers, end=1.2, kind="IntervalTier"):
    """Write tiers, (name, intervals), in the short form of Praat."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += [0, end, "<exists>", len(tiers)]
    for name, intervals in tiers:
        lines += [f'"{kind}"', f'"{name}"', 0, end, len(intervals)]
        for *times, label in intervals:
            lines += [*times, f'"{label}"']
    return "".join(f"{line}\n" for line in lines)


def phones(*intervals):
    return grid(("phones", intervals))


def files(speakers=PLAIN, tier=None, missing=False, **contents):
    """Return a function that writes files, and what `Alignments` is to do with them."""

    def make(folder):
        for name, content in contents.items():
            path = folder / name.replace("__", "/").replace("_", "-")
            path = path if path.suffix else path.with_suffix(".TextGrid")
            path.parent.mkdir(exist_ok=True)
            raw = content if isinstance(content, bytes) else content.encode()
            path.write_bytes(raw)
        return folder, folder / "cache", [*speakers], speakers, missing, tier

    return make


GOOD = phones(*SPOKEN)
MAUS = grid(("ORT-MAU", SPOKEN), ("KAN-MAU", SPOKEN), ("MAU", SPOKEN))
POINTS = grid(("phones", [(0.3, "AH")]), kind="TextTier")
CASED = phones((0, 0.5, "s"), (0.5, 1.2, "S"))
BACKWARDS = phones((0.25, 1.2, "AH0"), (0, 0.25, "HH"))

TABLE = [
    Row("the short form", files(utt=GOOD), "taken", "SIL HH AH"),
    Row("UTF-16, as Praat writes", files(utt=GOOD.encode("utf-16")), "taken", "SIL HH"),
    Row("a byte order mark", files(utt=GOOD.encode("utf-8-sig")), "taken", "SIL HH"),
    Row("lines of Windows", files(utt=GOOD.replace("\n", "\r\n")), "taken", "SIL HH"),
    Row("a tier Phones", files(utt=GOOD.replace("phones", "Phones")), "taken", "SIL"),
    Row("WebMAUS, named", files(utt=MAUS, tier="MAU"), "taken", "SIL HH AH"),
    Row("a name in other case", files(utt=MAUS, tier="kan-mau"), "taken", "SIL HH AH"),
    Row(
        "a name with signs",
        files(utt=GOOD.replace("phones", "ph (1)"), tier="ph (1)"),
        "taken",
        "SIL HH AH",
    ),
    Row(
        "WebMAUS, not named",
        files(utt=MAUS),
        "refused",
        "utt.TextGrid must have one interval tier 'phones', but has 0 (its tiers: "
        "ORT-MAU, KAN-MAU, MAU); name the tier with phone_tier",
    ),
    Row(
        "a name that no tier has",
        files(utt=GOOD, tier="Phonetic"),
        "refused",
        "tier 'Phonetic', but has 0 (its tiers: phones); name",
    ),
    Row("points", files(utt=POINTS), "refused", "has 0 (its tiers: none); name"),
    Row("IPA", files(utt=phones((0, 0.5, "tʰ"), (0.5, 1.2, "ɔː"))), "taken", "tʰ ɔː"),
    Row("phonemes told apart by case", files(utt=CASED), "taken", "s S"),
    Row("of one case", files(utt=phones((0, 1.2, "ah0"))), "taken", "AH"),
    Row("a gap", files(utt=phones((0, 0.5, "a"), (0.7, 1.2, "o"))), "taken", "a o"),
    Row("out of order", files(utt=BACKWARDS), "taken", "HH AH"),
    Row(
        "no interval",
        files(utt=phones()),
        "noted",
        "only silence in the alignment",
    ),
    Row(
        "an empty interval",
        files(utt=phones((0, 1.2, ""))),
        "noted",
        "only silence in the alignment",
    ),
    Row(
        "intervals that overlap",
        files(utt=phones((0, 0.5, "a"), (0.4, 1.2, "o"))),
        "refused",
        "utt.TextGrid cannot be read as a TextGrid in UTF-8 or UTF-16 (Two "
        "intervals in the same tier overlap in time: (0.0, 0.5, a) and (0.4, 1.2, o))",
    ),
    Row(
        "beyond the audio",
        files(utt=phones((0, 0.5, "a"), (0.5, 2.2, "o"))),
        "refused",
        "the phones of utt end at 2.20 s, but its audio lasts 1.20 s",
    ),
    Row(
        "before the audio",
        files(utt=phones((-1, 1.2, "a"))),
        "refused",
        "utt.TextGrid: the phone a, -1 to 1.2 s, must start at 0 s",
    ),
    Row(
        "Latin-1",
        files(utt=GOOD.replace("HH", "ö").encode("latin-1")),
        "refused",
        "utt.TextGrid cannot be read as a TextGrid in UTF-8 or UTF-16",
    ),
    Row(
        "an empty file", files(utt=""), "refused", "utt.TextGrid cannot be read as a T"
    ),
    Row(
        "cut short", files(utt=GOOD[:-99]), "refused", "utt.TextGrid cannot be read as"
    ),
    Row(
        "cut between intervals",
        files(utt=GOOD[:-9]),
        "refused",
        "utt.TextGrid: the phones end at 0.3 s of 1.2 s; they must reach",
    ),
    Row(
        "two wrong files, both named",
        files(TWO, a_utt=MAUS, b_utt=""),
        "refused",
        "KAN-MAU, MAU); name the tier with phone_tier\n/b-utt.TextGrid cannot be read",
    ),
    Row("other endings", files(**{"utt.textgrid": GOOD}), "taken", "SIL HH AH"),
    Row("without the speaker", files({"a-utt": "a"}, utt=GOOD), "taken", "SIL HH AH"),
    Row(
        "folders of speakers", files(TWO, a__utt=GOOD, b__utt=CASED), "taken", "SIL HH"
    ),
    Row(
        "without the speaker, for two",
        files(TWO, utt=GOOD),
        "refused",
        "has no phones of a-utt, b-utt, only",
    ),
    Row(
        "another speaker's folder",
        files(TWO, b__utt=GOOD),
        "refused",
        "has no phones of a-utt, only",
    ),
    Row(
        "some missing", files(TWO, b_utt=GOOD, missing=True), "noted", "no alignment g"
    ),
    Row(
        "all missing",
        files(TWO, other=GOOD, missing=True),
        "refused",
        "only of utterances such as other; add them",
    ),
]


@each(TABLE)
def test_of_alignments_phones_come_or_a_reason(row, tmp_path, capsys):
    outcome = "taken"
    try:
        source, cache, utt_ids, speakers, missing, tier = row.make(tmp_path)
        find = Alignments(str(source), cache, utt_ids, speakers, missing, tier)
        said = " ".join(p.symbol for p in find(utt_ids[0], SPEECH, RATE, None))
    except (UserError, Unaligned) as error:
        outcome = "refused" if isinstance(error, UserError) else "noted"
        said = str(error).replace(str(tmp_path), "")
    assert (outcome, capsys.readouterr().out) == (row.outcome, "")
    assert row.line in said


def test_a_ctm_file_may_lack_the_speaker(tmp_path):
    path = tmp_path / "phones.ctm"
    path.write_text("utt 1 0.0 0.5 AH0\n", encoding="utf-8")
    find = Alignments(str(path), tmp_path, ["a-utt"], {"a-utt": "a"})
    assert [p.symbol for p in find("a-utt", SPEECH, RATE, None)] == ["AH"]
    with pytest.raises(UserError, match="is not a folder: phone_tier is for"):
        Alignments(str(path), tmp_path, ["a-utt"], {"a-utt": "a"}, phone_tier="MAU")
