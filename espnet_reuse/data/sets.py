# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What the sets of a corpus must not share, and what they should have in common."""

import collections
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from espnet_reuse.data.corpus import Checked
from espnet_reuse.data.data_dir import some

PADDING = 0.1  # share of a segment that may be in another one, too

Sets = Mapping[str, Sequence[Checked]]


def find_overlaps(root: Path, sets: Sets) -> Iterator[str]:
    """Say which ids, and which recordings under any name, two sets share."""
    paths = {u.audio for utterances in sets.values() for u in utterances}
    sizes = {path: path.stat().st_size for path in paths}
    count = collections.Counter(sizes.values())
    recording = {  # only files of the same size can have the same content
        path: path if count[size] == 1 else hashlib.sha256(path.read_bytes()).digest()
        for path, size in sizes.items()
    }
    spans = {name: collections.defaultdict(list) for name in sets}
    for name, utterances in sets.items():
        for u in utterances:
            span = u.segment or (0.0, u.seconds)
            spans[name][recording[u.audio]].append(span)

    def is_heard(name: str, u: Checked) -> bool:
        start, end = u.segment or (0.0, u.seconds)
        seconds = (
            min(end, b) - max(start, a) for a, b in spans[name][recording[u.audio]]
        )
        return max(seconds, default=0.0) > PADDING * u.seconds

    for a, b in itertools.combinations(sets, 2):
        ids = {u.utt_id for u in sets[a]}
        for name, what, shared in (
            ("text", "ids", [u.utt_id for u in sets[b] if u.utt_id in ids]),
            ("wav.scp", "recordings", [u.utt_id for u in sets[b] if is_heard(a, u)]),
        ):
            if shared:
                yield f"{root / b / name}: {what} that are also in {a}: {some(shared)}"


def list_by(sets: Sets, attribute: str) -> str:
    """List the values of an attribute, each with some utterances, if they differ."""
    alike = collections.defaultdict(list)
    for name, utterances in sets.items():
        for u in utterances:
            alike[getattr(u, attribute)].append(f"{name}/{u.utt_id}")
    if len(alike) < 2:
        return ""
    return "; ".join(f"{value}: {some(ids)}" for value, ids in sorted(alike.items()))


def in_order(sets: Sets) -> Sets:
    """Return the sets with ids that sort as their speakers do, as ESPnet wants it.

    Ids begin with the speaker, "-" after it, as is Kaldi's custom; a set in which they
    all do so already is left as it is. That fails where a speaker's name continues
    another's with what sorts before "-" (O and O'Neil), or where two ids become one:
    then speakers have numbers in front, in all sets the same ones.
    """

    def first(u: Checked, speaker: str) -> Checked:
        return replace(u, speaker=speaker, utt_id=f"{speaker}-{u.utt_id}")

    def is_in_order(utterances: Sequence[Checked]) -> bool:
        named = sorted((u.utt_id, u.speaker) for u in utterances)
        speakers = [speaker for _, speaker in named]
        return speakers == sorted(speakers) and len(dict(named)) == len(named)

    ordered = {
        name: us
        if all(f"{u.utt_id}-".startswith(f"{u.speaker}-") for u in us)
        else [first(u, u.speaker) for u in us]
        for name, us in sets.items()
    }
    if all(map(is_in_order, ordered.values())):
        return ordered
    speakers = sorted({u.speaker for us in sets.values() for u in us})
    width = len(str(len(speakers)))
    numbered = {s: f"{n:0{width}}-{s}" for n, s in enumerate(speakers)}
    print(
        "note: ids do not sort in the order of their speakers: speakers get numbers in "
        f"front: {some(list(numbered.values()))}"
    )
    return {n: [first(u, numbered[u.speaker]) for u in us] for n, us in sets.items()}


def note_unseen_characters(sets: Sets, train_set: str) -> None:
    """Print which characters the other sets have, but not the training set."""
    known = {c for u in sets[train_set] for c in u.words}
    for name, utterances in sets.items():
        found = [(u.utt_id, set(u.words) - known) for u in utterances]
        if unseen := sorted({c for _, new in found for c in new}):
            ids = [utt_id for utt_id, new in found if new]
            characters = some([repr(c) for c in unseen])
            print(
                f"note: {name}: characters that are not in {train_set} and cannot be "
                f"recognised: {characters}, in {len(ids)} utterances: {some(ids)}"
            )


def note_shared_speakers(sets: Sets, train_set: str, test_sets: Sequence[str]):
    """Print which test sets have speakers of the training set."""
    known = {u.speaker for u in sets[train_set]}
    for name in sorted(set(test_sets) - {train_set}):
        if shared := sorted({u.speaker for u in sets[name]} & known):
            print(f"note: {name} shares speakers with {train_set}: {some(shared)}")
