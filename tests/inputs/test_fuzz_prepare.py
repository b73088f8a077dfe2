# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Corpora that nobody thought of: taken without loss, or refused in lines.

Each run tries the same ones. FUZZ_EXAMPLES=20000 tries as many, for an hour or so, and
other ones with another --hypothesis-seed.
"""

import contextlib
import io
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from drawn_corpora import TABLES, corpora
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from

from espnet_reuse.data.check import check_data_dir
from espnet_reuse.data.data_dir import read_data_dir
from espnet_reuse.data.prepare import PROG, main

ASR1 = Path(__file__).resolve().parents[2] / "egs2/mini_an4/asr1"
OPTIONS = [(), (), ("--max_wav_duration", "0.5"), ("--trim_silence", "35")]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def rows(path):
    """Read what a corpus says, each line as [id, rest]."""
    lines = map(str.strip, path.read_bytes().decode("utf-8-sig").split("\n"))
    return [(line.split(maxsplit=1) + [""])[:2] for line in lines if line]


def find_seconds(folder, seconds):
    """Return {utterance id: seconds of audio that a corpus has for it}."""
    audio = {k: seconds.get(Path(v), 0) for k, v in rows(folder / "wav.scp")}
    if not (folder / "segments").exists():
        return audio
    found = {}
    for utt_id, line in rows(folder / "segments"):
        recording, start, end = line.split()
        last = audio[recording] if end == "-1" else min(float(end), audio[recording])
        found[utt_id] = last - float(start)
    return found


def read_made(folder):
    """Read the audio of a directory that was made: {id: (words, speaker, seconds)}."""
    found = {}
    for u in read_data_dir(folder):
        wav, rate = soundfile.read(u.audio)
        start, end = u.segment or (0, len(wav) / rate)
        length = len(wav[int(start * rate) : int(end * rate)]) / rate
        assert length > 0, u
        found[u.utt_id] = u.words.split(), u.speaker, length
    return found


def check_nothing_is_lost(root, made, seconds, notes, share):
    """Compare what was brought with what was made, utterance by utterance.

    Of the audio, this share may not be lost.
    """
    for name in {"train", "dev", "test"} & {path.name for path in root.iterdir()}:
        is_held_out = name == "train" and not (root / "dev").exists()
        names = ["train", "dev"] if is_held_out else [name]
        found = {k: v for x in names for k, v in read_made(made / x).items()}
        brought, utt2spk = rows(root / name / "text"), root / name / "utt2spk"
        kept = {
            utt_id
            for utt_id, words in brought
            if any(
                f"-{k}".endswith(f"-{utt_id}") and known == words.split()
                for k, (known, _, _) in found.items()
            )
        }
        note = rf"note: (?:{'|'.join(names)}): ESPnet drops (\d+) of \d+ utterances"
        left_out = sum(map(int, re.findall(note, notes)))
        assert len(brought) - left_out <= len(found) == len(kept)
        speakers = rows(utt2spk) if utt2spk.exists() else [(k, k) for k in kept]
        sizes = Counter(speaker for k, speaker in speakers if k in kept)
        made_sizes = Counter(speaker for _, speaker, _ in found.values())
        assert sorted(sizes.values()) == sorted(made_sizes.values())
        has = find_seconds(root / name, seconds)
        heard = sum(length for _, _, length in found.values())
        assert heard > share * sum(has[k] for k in kept) - 0.01 * len(kept)


def check_rules(folder):
    """Check the rules of ESPnet's utils/validate_data_dir.sh on order and space."""
    ids = {}
    for path in folder.iterdir():
        *lines, end = path.read_bytes().split(b"\n")
        ids[path.name] = [line.split(b" ")[0] for line in lines]
        assert end == b"" and ids[path.name] == sorted(set(ids[path.name])) != []
        if path.name == "utt2spk":
            speakers = [tuple(line.split(b" ")[::-1]) for line in lines]
            assert speakers == sorted(speakers) and {len(x) for x in speakers} == {2}
    assert ids["text"] == ids["utt2spk"] == ids.get("segments", ids["wav.scp"])
    assert not re.search(r"[^\S \n]", (folder / "text").read_text(encoding="utf-8"))


def check_with_espnet(folder):
    """Let ESPnet's scripts check, copy and mend a directory; nothing may change."""
    with tempfile.TemporaryDirectory() as copy:
        for script, *options in (
            ("copy_data_dir.sh", "--validate_opts", "--non-print", folder, copy),
            ("fix_data_dir.sh", copy),
        ):
            command = [f"utils/{script}", *options]
            done = subprocess.run(command, cwd=ASR1, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        for name in TABLES[:3]:
            assert (Path(copy) / name).read_bytes() == (folder / name).read_bytes()


def try_corpora(max_examples, check):
    """Prepare corpora; `check` the directories that are made."""
    outcomes = Counter()

    @settings(
        max_examples=EXAMPLES or max_examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(corpora(), sampled_from(OPTIONS))
    def prepare(corpus, options):
        files, seconds = corpus
        with tempfile.TemporaryDirectory() as folder:
            root, made = Path(folder) / "corpus", Path(folder) / "data"
            for path, content in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
            sets = "--train_set", "train", "--valid_set", "", "--test_sets", "test"
            out, err, status = io.StringIO(), io.StringIO(), 0
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main([*sets, *options, str(root), str(made)])
                except SystemExit as e:
                    status = e.code
            outcomes[status] += 1
            if status:
                lines = err.getvalue().splitlines()
                assert status == 1 and lines and not made.exists()
                assert all(line.startswith(f"{PROG}: error: ") for line in lines)
                return
            for made_set in made.iterdir():
                assert check_data_dir(made_set) == []
                check(made_set)
            share = 0.6 if "--trim_silence" in options else 1  # audio has pauses
            check_nothing_is_lost(root, made, seconds, out.getvalue(), share)

    prepare()
    assert min(outcomes[0], outcomes[1]) > sum(outcomes.values()) / 10, outcomes


def test_a_corpus_is_taken_without_loss_or_refused_in_lines():
    try_corpora(100, check_rules)


@pytest.mark.slow
def test_espnet_takes_every_corpus_that_is_taken():
    try_corpora(150, check_with_espnet)
