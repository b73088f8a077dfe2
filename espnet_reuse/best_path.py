# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Best path of CTC: batches, words, and recordings of any length, without PyTorch."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

# Seconds of padded audio in a batch. On a CPU, larger batches were slower.
BATCH_SECONDS = {"cpu": 16.0, "cuda": 600.0}


class BestPathError(ValueError):
    """The model or an option does not allow best-path decoding."""


class BestPath(NamedTuple):
    """The best path of an utterance, a value for each frame of the encoder's output."""

    labels: np.ndarray  # (frames,) int64, the most likely token
    log_probs: np.ndarray | None  # (frames,) float32, its log-probability, if known


def collapse(
    labels: np.ndarray, blank: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Merge repeats and remove blanks.

    Args:
        labels: A token for each frame, (frames,).
        blank: CTC's blank.

    Returns:
        The tokens that are left, and the frames where each starts and ends, (tokens,).
    """
    borders = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    starts = np.append(0, borders)[: len(labels)]
    ends = np.append(borders, len(labels))[: len(labels)]
    kept = labels[starts] != blank
    return labels[starts][kept].tolist(), starts[kept], ends[kept]


class BestPathDecoding:
    """Batches, words and long recordings, for a class that finds the best path.

    That class has `sample_rate`, samples of a second (None where it takes features);
    `samples_per_frame`, samples from one frame of the encoder's output to the next
    (None where they are not at equal distances); `is_padding_invariant`, whether
    padding of a batch has no effect; `converter` and `tokenizer`, ESPnet's or what has
    their `ids2tokens` and `tokens2text` (the tokenizer may be None);
    `_best_paths(speeches)`, the `BestPath` of each waveform of a batch;
    `_collapse(labels)`, `collapse` with the model's blank.
    """

    def _plan_batches(
        self, lengths: list[int], most: float, alone: int = 0
    ) -> Iterator[list[int]]:
        """Yield places of utterances, the longest first, as many as a batch holds.

        Args:
            lengths: Samples of each utterance.
            most: Samples that a batch holds, with the padding.
            alone: Utterances with fewer samples get a batch of their own.
        """
        together, batch = [], []
        for n in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            if lengths[n] < alone:
                yield [n]
            else:
                together.append(n)
        for n in together:
            full = (len(batch) + 1) * lengths[(batch or [n])[0]] > most
            if batch and (full or not self.is_padding_invariant):
                yield batch
                batch = []
            batch.append(n)
        if batch:
            yield batch

    def _read(self, token_int: list[int]) -> tuple[list[str], str | None]:
        token = self.converter.ids2tokens(token_int)
        return token, self.tokenizer and self.tokenizer.tokens2text(token)

    def word_times(self, token: list[str], times: list) -> list[tuple]:
        """Return (start, end, word) of each word of the text of tokens.

        Args:
            token: Tokens of an utterance.
            times: (start, end) of each.
        """
        words = []
        for n, (start, end) in enumerate(times):
            text = self._words(token[: n + 1])
            before = [word for *_, word in words]
            if len(text) > len(before):
                words.append((start, end, text[-1]))
            elif text != before:
                words[-1] = (words[-1][0], end, text[-1])
        return words

    def _words(self, token: list[str]) -> list[str]:
        return self.tokenizer.tokens2text(token).split() if self.tokenizer else token

    @property
    def seconds_per_frame(self) -> float | None:
        """Seconds between two frames of the encoder, None where it is not known."""
        if self.sample_rate is None or self.samples_per_frame is None:
            return None
        return self.samples_per_frame / self.sample_rate

    # ---- recordings of any length --------------------------------------------------

    def decode_long(self, speech, **options) -> list[tuple[float, float, str]]:
        """Return all that `iter_long` yields, which has the arguments."""
        return list(self.iter_long(speech, **options))

    def iter_long(
        self,
        speech: str | Path | np.ndarray,
        window_in_secs: float = 30.0,
        context_len_in_secs: float = 4.0,
        batch_size: int = 1,
    ) -> Iterator[tuple[float, float, str]]:
        """Decode a recording of any length, yielding `(start, end, text)` as it goes.

        The model sees windows, with context on both sides that is decoded and dropped.
        A text ends with a whole word or, where there are no spaces, with a token. Start
        and end (seconds) are of its first and last token. A recording of one window has
        the tokens that `best_path` gives it. Memory does not grow with the recording: a
        file is read window by window.

        Args:
            speech: Audio file, of any rate, of which the first channel is decoded; or
                a waveform (samples,) at the model's rate, an array or a tensor.
            window_in_secs: Length of a window, with the context.
            context_len_in_secs: Context on each side. Both are rounded to whole frames.
            batch_size: Windows that are decoded in one batch.

        Raises:
            BestPathError: The time of a frame is not known, see `seconds_per_frame`.
            ValueError: The windows are not longer than the context on both sides.
        """
        options = window_in_secs, context_len_in_secs, batch_size
        for token_int, times in self._iter_tokens(speech, *options):
            token, text = self._read(token_int)
            text = " ".join(token) if text is None else text.strip()
            yield times[0][0], times[-1][1], text

    def iter_words(self, speech, **options) -> Iterator[tuple[float, float, str]]:
        """Yield (start, end, word) of each word; the arguments are `iter_long`'s."""
        for token_int, times in self._iter_tokens(speech, **options):
            yield from self.word_times(self.converter.ids2tokens(token_int), times)

    def _iter_tokens(
        self, speech, window_in_secs=30.0, context_len_in_secs=4.0, batch_size=1
    ) -> Iterator[tuple[list[int], list[list[float]]]]:
        """Yield tokens that end with a whole word, and the times of each, in seconds.

        Arguments and errors are those of `iter_long`.
        """
        seconds = self.seconds_per_frame
        if seconds is None:
            raise BestPathError(
                "windows need a model that takes audio, with frames at equal distances"
            )
        window, context = (
            round(value / seconds) for value in (window_in_secs, context_len_in_secs)
        )
        if context < 0 or window <= 2 * context:
            raise ValueError(
                f"context_len_in_secs: {context_len_in_secs:g} on both sides of a "
                f"window of {window_in_secs:g}: it must be less than half of it"
            )
        step = window - 2 * context
        size = step * self.samples_per_frame
        windows = self._windows(self._chunks(speech, size), step, context)
        frames, start = np.empty(0, int), 0  # labels that no text has yet
        for group in itertools.batched(
            windows, batch_size if self.is_padding_invariant else 1
        ):
            paths = self._best_paths([samples for samples, *_ in group])
            for path, (_, first, count) in zip(paths, group, strict=True):
                kept = path.labels[first:][:count]
                if count is not None and len(kept) < count:
                    raise ValueError(
                        f"context_len_in_secs: {context_len_in_secs:g} is too short: "
                        "it must cover what the encoder's subsampling loses at the end"
                    )
                frames = np.concatenate([frames, kept])
                token_int, starts, ends = self._collapse(frames)
                whole = len(token_int)
                # a pause of a window ends every word
                if count is not None and whole and len(frames) - ends[-1] <= window:
                    is_long = ends[-1] - starts[0] > window
                    whole = self._count_whole(token_int, is_long)
                if whole:
                    times = np.stack([starts, ends], -1)[:whole] + start
                    yield token_int[:whole], (times * seconds).tolist()
                done = starts[whole] if whole < len(token_int) else len(frames)
                frames, start = frames[done:], start + int(done)

    def _count_whole(self, token_int: list[int], is_long: bool) -> int:
        """Return how many tokens come before the last word, which may go on.

        In a text without spaces, nothing would ever come before it: if what is there is
        long, all but the last token count.
        """
        token = self.converter.ids2tokens(token_int)
        count = len(token)
        words = len(self._words(token))
        while count and len(self._words(token[:count])) == words:
            count -= 1
        return count or (len(token) - 1 if is_long and token else 0)

    def _chunks(self, speech, size: int) -> Iterator[np.ndarray]:
        """Yield a recording in pieces, (samples,), at the model's rate."""
        if not isinstance(speech, (str, Path)):
            speech = np.asarray(speech.cpu() if hasattr(speech, "cpu") else speech)
            if speech.ndim != 1:
                raise ValueError(f"speech of size {speech.shape} is not one recording")
            for begin in range(0, len(speech), size):
                yield np.asarray(speech[begin : begin + size], np.float32)
            return
        with soundfile.SoundFile(speech) as file:
            own, rate, stream = file.samplerate, self.sample_rate, None
            if own != rate:
                import soxr  # needed by nothing else

                stream = soxr.ResampleStream(own, rate, 1)
            is_last = False
            while not is_last:
                block = file.read(size, "float32", always_2d=True)[:, 0]
                is_last = len(block) < size
                yield stream.resample_chunk(block, is_last) if stream else block

    def _windows(
        self, chunks: Iterable[np.ndarray], step: int, context: int
    ) -> Iterator[tuple[np.ndarray, int, int | None]]:
        """Yield (samples, first frame to keep, number of frames to keep).

        Of the last window, all frames from the first to keep on are kept.

        Args:
            chunks: The recording, in pieces.
            step: Frames that are kept of a window.
            context: Frames before and after them.
        """
        per_frame = self.samples_per_frame
        samples, start, seam = np.empty(0, np.float32), 0, 0  # start, seam: frames
        for chunk in chunks:
            samples = np.concatenate([samples, chunk])
            while len(samples) > (seam - start + step + context) * per_frame:
                end = (seam - start + step + context) * per_frame
                yield samples[:end], seam - start, step
                seam += step
                dropped = max(seam - context - start, 0)
                samples, start = samples[dropped * per_frame :], start + dropped
        yield samples, seam - start, None
