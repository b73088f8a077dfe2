#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Make Kaldi data directories from LibriSpeech, and check that it is all there."""

import argparse
import shutil
from pathlib import Path

from espnet_reuse.data.check import check_audios
from espnet_reuse.data.data_dir import Utterance, read_scp, split_names, write_data_dir
from espnet_reuse.errors import UserError, reported_errors
from espnet_reuse.files import write_text

# part: utterances, bytes of its archive
OFFICIAL = {
    "dev-clean": (2703, 337926286),
    "dev-other": (2864, 314305928),
    "test-clean": (2620, 346663984),
    "test-other": (2939, 328757843),
    "train-clean-100": (28539, 6387309499),
    "train-clean-360": (104014, 23049477885),
    "train-other-500": (148688, 30593501606),
}
DEV = ("dev-clean", "dev-other")
TEST = ("test-clean", "test-other")
TRAIN = {
    "train_clean_100": ("train-clean-100",),
    "train_960": ("train-clean-100", "train-clean-360", "train-other-500"),
}
HOLD_OUT = 20  # where there is no dev part, each 20th training utterance is held out
PARTIAL_HINT = "or accept it with --allow_partial true"


def add_options(parser):
    """Add the options that choose the parts: see `choose_parts`."""
    parser.add_argument("--train_set", choices=TRAIN, required=True)
    parser.add_argument("--parts", default=[], type=split_names)


def choose_parts(args):
    """Return the sorted parts to prepare: those chosen, or all of the training set.

    Raises:
        UserError: A name is unknown, or there is nothing to train on.
    """
    known = (*DEV, *TEST, *TRAIN[args.train_set])
    chosen = args.parts or known
    for part in chosen:
        if part not in known:
            raise UserError(f"--parts: no part '{part}'; choose from {' '.join(known)}")
    train = TRAIN[args.train_set]
    if not set(chosen) & set(train):
        raise UserError(f"--parts: nothing to train on; add {' or '.join(train)}")
    return sorted(set(chosen))


def find_corpus(path, parts):
    """Return the folder that holds the parts: the one given, or its LibriSpeech/.

    Raises:
        UserError: There is no corpus, or a part is not there.
    """
    corpus = path / "LibriSpeech" if (path / "LibriSpeech").is_dir() else path
    if not any((corpus / part).is_dir() for part in OFFICIAL):
        raise UserError(
            f"--librispeech: no corpus in '{path}': neither LibriSpeech/ nor any of "
            f"{' '.join(OFFICIAL)}; without --librispeech they are downloaded"
        )
    if missing := [part for part in parts if not (corpus / part).is_dir()]:
        raise UserError(
            f"{corpus} has no {' '.join(missing)}: choose what is there with --parts, "
            "or leave out --librispeech to download"
        )
    return corpus


def read_chapter(chapter):
    """Return the utterances of a chapter, <reader>/<chapter>.

    The speaker is the reader, whom a score by speaker is about; upstream's recipe takes
    the chapter.

    Raises:
        UserError: Transcripts and audio are not of the same utterances.
    """
    reader = chapter.parent.name
    prefix = f"{reader}-{chapter.name}"
    trans = chapter / f"{prefix}.trans.txt"
    words = read_scp(trans)
    for utt_id, text in words.items():
        if not utt_id.startswith(f"{prefix}-") or not text:
            line = f"'{utt_id} {text}'"
            raise UserError(f"{trans}: not one utterance of {prefix}: {line}")
    audio = {path.stem: path for path in chapter.glob("*.flac")}
    for ids, why in (
        (words.keys() - audio, "have a transcript and no audio"),
        (audio.keys() - words, "have audio and no transcript"),
    ):
        if ids:
            raise UserError(f"{chapter}: {len(ids)} utterances {why}: {min(ids)} ...")
    return [Utterance(k, reader, text, audio[k]) for k, text in words.items()]


def read_part(folder, allow_partial):
    """Read a part and check its number of utterances and its audio.

    Raises:
        UserError: Utterances are missing or there are too many, or audio is broken.
    """
    chapters = sorted(folder.glob("*/*/"))
    for path in (*sorted(folder.glob("*/")), *chapters):
        if not path.name.isdecimal():
            what = "chapter" if path in chapters else "reader"
            raise UserError(f"{path} is not a {what}: its name is not an integer")
    utterances = [u for chapter in chapters for u in read_chapter(chapter)]
    count, (official, _) = len(utterances), OFFICIAL[folder.name]
    if count > official or not count:
        raise UserError(f"{folder} has {count} utterances, not {official}")
    if count < official and not allow_partial:
        raise UserError(
            f"{folder} is short of {official - count} of {official} utterances: "
            f"complete it, {PARTIAL_HINT}"
        )
    problems, broken = check_audios({u.utt_id: u.audio for u in utterances})
    if problems:
        raise UserError(f"{len(broken)} broken files: {problems[0]}")
    print(f"{folder.name}: {count} of {official} utterances", flush=True)
    return utterances


def prepare(args):
    """Make the data directories, and data/partial if need be.

    Raises:
        UserError: The corpus is not what it should be.
    """
    data, train_set, parts = args.data, args.train_set, choose_parts(args)
    allow_partial = args.allow_partial == "true"
    left_out = [part for part in (*DEV, *TRAIN[train_set]) if part not in parts]
    if left_out and not allow_partial:
        raise UserError(
            f"--parts: training and validation need {' '.join(left_out)}, too: add it, "
            f"{PARTIAL_HINT}"
        )
    corpus = find_corpus(args.corpus, parts)
    read = {part: read_part(corpus / part, allow_partial) for part in parts}
    sets = {part.replace("-", "_"): read[part] for part in parts if part in DEV + TEST}
    train = sorted(u for p in TRAIN[train_set] for u in read.get(p, []))
    dev = [u for part in DEV for u in read.get(part, [])]
    counts = {part: (len(read[part]), OFFICIAL[part][0]) for part in parts}
    notes = [f"- {p}: {n} of {m} utterances" for p, (n, m) in counts.items() if n < m]
    notes += [f"- {part}: left out" for part in left_out]
    if not dev:
        dev = train[HOLD_OUT - 1 :: HOLD_OUT] or train[-1:]
        train = sorted(set(train) - set(dev))
        notes.append(f"- dev: {len(dev)} utterances held out of the training part")
    if not train:
        raise UserError("--parts: too few utterances to hold some out for validation")
    sets |= {"dev": dev, train_set: train}

    # what an earlier call made of other parts
    data.mkdir(exist_ok=True)
    known = {*(p.replace("-", "_") for p in OFFICIAL), *TRAIN, "dev", f"{train_set}_sp"}
    for name in known - sets.keys():
        shutil.rmtree(data / name, ignore_errors=True)
    (data / "partial").unlink(missing_ok=True)
    if notes:
        write_text("".join(f"{note}\n" for note in notes), data / "partial")
    for name, utterances in sets.items():
        write_data_dir(data / name, utterances)


def main():
    """Write dev_clean, ..., dev and the training set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("data", type=Path, help="where to make the data directories")
    add_options(parser)
    parser.add_argument("--allow_partial", choices=("true", "false"), default="false")
    args = parser.parse_args()
    with reported_errors("data_prep.py"):
        prepare(args)


if __name__ == "__main__":
    main()
