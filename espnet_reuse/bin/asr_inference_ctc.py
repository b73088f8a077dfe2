#!/usr/bin/env python3
# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""ESPnet's asr_inference, with exact best-path decoding of the CTC head (no search).

The options are those of espnet2.bin.asr_inference and a few more. With `search: beam`,
the default, it is that program. With `search: best_path`, it takes the most likely
token of each frame and removes repeats and blanks: decoder, language model and the
options of the beam search are not used.
"""

import contextlib
import functools
import inspect
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import humanfriendly
import numpy as np
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.bin import asr_inference
from espnet2.fileio.datadir_writer import DatadirWriter
from espnet2.legacy.nets.beam_search import Hypothesis
from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.legacy.utils.cli_utils import get_commandline_args
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.device_funcs import to_device
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.utils.pretrained import download_pretrained
from espnet2.utils.types import str2bool
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from espnet_reuse.best_path import (
    BATCH_SECONDS,
    BestPath,
    BestPathDecoding,
    BestPathError,
    collapse,
)
from espnet_reuse.captured import CapturedEncoder
from espnet_reuse.errors import UserError

logger = logging.getLogger(__name__)

# Shorter audio (feature frames where there is no frontend) is decoded alone: ESPnet
# refuses a batch, and not an utterance of it, that is too short for the subsampling.
SHORT_HOPS = 32
FEATURE_RATE = 100  # frames per second, where there is no frontend to say so
PROBE_HOPS = 48  # hops of the frontend: a multiple of every subsampling
# What PyTorch says of audio that is shorter than a window of the STFT.
TOO_SHORT = ("Padding size should be less", "too short", "Kernel size can't be greater")
# What counts of asr_inference's options, but for data and output.
MODEL_OPTIONS = (
    *("asr_train_config", "asr_model_file", "model_tag", "token_type", "bpemodel"),
    *("dtype", "enh_s2t_task", "multi_asr", "quantize_asr_model", "quantize_modules"),
    *("quantize_dtype",),
)


class BestPathHypothesis(Hypothesis):
    """A hypothesis whose tokens have times.

    Attributes:
        times: (start, end) of each token in seconds: its run of frames on the best
            path. None where `Speech2Text.seconds_per_frame` is.
    """

    times: list[tuple[float, float]] | None = None


class Speech2Text(BestPathDecoding, asr_inference.Speech2Text):
    """Speech2Text of ESPnet with best-path decoding of the CTC head.

    Examples:
        >>> speech2text = Speech2Text("asr_config.yml", "asr.pth")
        >>> speech2text.best_path(speech)
        [(text, token, token_int, hypothesis object)]
        >>> speech2text.best_path_batch([speech, another])
        [[(text, token, token_int, hypothesis object)], ...]
        >>> for start, end, text in speech2text.iter_long("an_hour.flac"):
        ...     print(start, end, text)

    All else is the parent's. `dtype` may also be `bfloat16`: the encoder then computes
    in it by autocast, frontend and CTC head in float32.

    Raises:
        BestPathError: The model has no CTC head, or several speakers' outputs.
    """

    def __init__(self, *args, dtype: str = "float32", **kwargs):
        """Build the model as the parent does, which has the arguments."""
        autocast = dtype == "bfloat16"
        super().__init__(*args, dtype="float32" if autocast else dtype, **kwargs)
        model = self.asr_model
        if getattr(model, "ctc", None) is None:
            raise BestPathError(
                "best path needs a CTC head, and this model was trained without one "
                "(ctc_weight 0.0): use beam search"
            )
        if self.enh_s2t_task or self.multi_asr:
            raise BestPathError("best path decodes one speaker: use beam search")
        if autocast:
            forward = model.encoder.forward
            kind = torch.device(self.device).type
            options = {"dtype": torch.bfloat16, "cache_enabled": False}
            model.encoder.forward = torch.autocast(kind, **options)(forward)
        frontend = model.frontend
        if isinstance(frontend, DefaultFrontend) and frontend.apply_stft:
            enhancement = vars(frontend.frontend or frontend)
            if not any(enhancement.get(f"use_{x}") for x in ("wpe", "beamformer")):
                frontend.forward = functools.partial(_log_mel, frontend)

    @classmethod
    def from_pretrained(cls, model_tag: str | None = None, **kwargs):
        """Build an instance from a published model, or from the arguments alone."""
        if model_tag is not None:
            kwargs.update(download_pretrained(model_tag))
        return cls(**kwargs)

    def capture(
        self,
        batch_sizes: Sequence[int] = (1, 16),
        seconds: Sequence[float] = (5, 15, 30),
    ) -> None:
        """Run the encoder in CUDA graphs, for all methods that follow.

        Args:
            batch_sizes: Utterances that a bucket holds, see `CapturedEncoder`.
            seconds: Audio that a bucket holds.

        Raises:
            UserError: There is no CUDA, or an argument or the encoder does not fit.
        """
        lengths = sorted(set(seconds))
        if lengths != list(seconds) or not all(0 < s < float("inf") for s in lengths):
            raise UserError(
                f"seconds: {seconds} must be increasing and positive, such as (5, 15)"
            )
        rate = self.sample_rate or FEATURE_RATE
        frames = [self._count_frames(int(length * rate)) for length in lengths]
        encoder = self.asr_model.encoder
        encoder.forward = CapturedEncoder(encoder, batch_sizes, frames)

    def _count_frames(self, samples: int) -> int:
        """Return the most frames that the encoder is given of so many samples."""
        return samples // self._hop + (self.asr_model.frontend is not None)

    # ---- one utterance, or several -------------------------------------------------

    def best_path(self, speech: torch.Tensor | np.ndarray) -> list[tuple]:
        """Decode an utterance without a search.

        Args:
            speech: Waveform (samples,) at the model's rate, as the parent takes it.

        Returns:
            What the parent returns, [(text, token, token_int, hypothesis)]. The
            hypothesis is a `BestPathHypothesis`; its score is the best path's
            log-probability.

        Raises:
            TooShortUttError: The utterance is too short for the encoder.
        """
        (path,) = self._best_paths([speech])
        return self._result(path)

    def best_path_batch(
        self,
        speeches: Sequence[torch.Tensor | np.ndarray],
        batch_seconds: float | None = None,
        utt_ids: Sequence[str] | None = None,
    ) -> list[list[tuple]]:
        """Decode utterances of any lengths, similar lengths in one batch.

        In float32 each has the tokens that `best_path` gives it alone. An utterance
        that is too short has no text, and a warning names it. Encoders whose output
        depends on the padding (`rel_pos_type: legacy`, for example) get one utterance
        at a time.

        Args:
            speeches: Waveforms (samples,).
            batch_seconds: Most seconds of padded audio in a batch; one utterance may
                be longer. By default a value that is fast on the device.
            utt_ids: Names for the warnings, by default the places in the list.

        Returns:
            What `best_path` returns for each, in the order given.
        """
        if batch_seconds is None:
            kind = torch.device(self.device).type
            batch_seconds = BATCH_SECONDS.get(kind, BATCH_SECONDS["cpu"])
        most = batch_seconds * (self.sample_rate or FEATURE_RATE)
        lengths = [len(speech) for speech in speeches]
        results = [None] * len(speeches)
        plan = self._plan_batches(lengths, most, SHORT_HOPS * self._hop)
        for batch in self._in_buckets(plan, lengths):
            try:
                paths = self._best_paths([speeches[n] for n in batch])
            except TooShortUttError as error:
                if len(batch) > 1:
                    raise
                name = utt_ids[batch[0]] if utt_ids else f"number {batch[0]}"
                logger.warning(f"Utterance {name}: {error}: no text")
                paths = [BestPath(np.empty(0, int), np.empty(0, np.float32))]
            for n, path in zip(batch, paths, strict=True):
                results[n] = self._result(path)
        return results

    def _in_buckets(self, batches, lengths: list[int]) -> Iterator[Sequence[int]]:
        """Split batches that no bucket holds for their number of utterances alone."""
        captured = getattr(self.asr_model.encoder, "forward", None)
        for batch in batches:
            frames = self._count_frames(lengths[batch[0]])
            is_captured = isinstance(captured, CapturedEncoder)
            fits = is_captured and captured.bucket(1, frames)
            most = captured.batch_sizes[-1] if fits else len(batch)
            yield from itertools.batched(batch, most)

    @torch.no_grad()
    def ctc_log_probs(self, speech: torch.Tensor | np.ndarray) -> np.ndarray:
        """Return the CTC head's log-probabilities (frames, tokens) of an utterance."""
        (logits,) = self._encode([speech])[0]
        return logits.log_softmax(-1).cpu().numpy()

    @torch.no_grad()
    def _encode(self, speeches) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the CTC head's logits (batch, frames, tokens) and their lengths."""
        dtype = getattr(torch, self.dtype)
        speeches = [torch.as_tensor(speech).to(dtype) for speech in speeches]
        lengths = torch.tensor([len(speech) for speech in speeches])
        if not lengths.max():
            raise TooShortUttError("has no samples", 0, 0)
        speech = torch.nn.utils.rnn.pad_sequence(speeches, batch_first=True)
        batch = {"speech": speech, "speech_lengths": lengths}
        try:
            encoded, lengths = self.asr_model.encode(
                **to_device(batch, device=self.device)
            )
        except RuntimeError as error:  # TooShortUttError is none
            if not any(text in str(error) for text in TOO_SHORT):
                raise
            needed = "has fewer samples than a window of the frontend"
            raise TooShortUttError(needed, len(speech), 0) from error
        if isinstance(encoded, tuple):  # with what intermediate CTC sees
            encoded = encoded[0]
        return self.asr_model.ctc.ctc_lo(encoded.to(dtype)).float(), lengths

    @torch.no_grad()
    def _best_paths(self, speeches) -> list[BestPath]:
        """Return the best path of each utterance of a batch."""
        # the longest first: ESPnet's RNNs need it
        order = sorted(range(len(speeches)), key=lambda n: -len(speeches[n]))
        logits, lengths = self._encode([speeches[n] for n in order])
        labels = logits.max(-1).indices  # those of argmax, and faster
        log_probs = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        rows = labels.cpu().numpy(), log_probs.cpu().numpy(), lengths.tolist()
        paths = [None] * len(speeches)
        for n, row, scores, length in zip(order, *rows, strict=True):
            paths[n] = BestPath(row[:length], scores[:length])
        return paths

    def _result(self, path: BestPath) -> list[tuple]:
        """Return text, tokens, token ids and hypothesis of a best path."""
        token_int, starts, ends = self._collapse(path.labels)
        yseq = [self.asr_model.sos, *token_int, self.asr_model.eos]
        score = float(path.log_probs.sum())
        hypothesis = BestPathHypothesis(torch.tensor(yseq), score, {"ctc": score})
        if self.seconds_per_frame:
            times = np.stack([starts, ends], -1) * self.seconds_per_frame
            hypothesis.times = list(map(tuple, times.tolist()))
        token, text = self._read(token_int)
        return [(text, token, token_int, hypothesis)]

    def _collapse(self, labels: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
        return collapse(labels, self.asr_model.blank_id)

    # ---- the grid of the frames ----------------------------------------------------

    @functools.cached_property
    def _hop(self) -> int:
        """Samples, or feature frames, between two frames that the encoder is given."""
        return getattr(self.asr_model.frontend, "hop_length", 1)

    @functools.cached_property
    def sample_rate(self) -> int | None:
        """The model's sampling rate in Hz, None where it has no frontend."""
        if self.asr_model.frontend is None:
            return None
        conf = self.asr_train_args.frontend_conf or {}
        return humanfriendly.parse_size(str(conf.get("fs", 16000)))

    @functools.cached_property
    def _probed(self) -> tuple[int | None, bool]:
        """Encode noise; return `samples_per_frame`, and whether padding has no effect.

        The frames of two utterances tell how far apart they are. One of the utterances
        alone tells whether it is the same in a batch.
        """
        short, more = (hops * self._hop for hops in (2 * SHORT_HOPS, PROBE_HOPS))
        width = () if self.asr_model.frontend else (self.asr_train_args.input_size,)
        generator = torch.Generator().manual_seed(0)
        longer = torch.randn(short + more, *width, generator=generator)
        shorter = torch.randn(short, *width, generator=generator)
        logits, lengths = self._encode([longer, shorter])
        alone, _ = self._encode([shorter])
        many, few = lengths.tolist()
        on_grid = many > few and more % (many - few) == 0
        eps = torch.finfo(getattr(torch, self.dtype)).eps
        tolerance = min(1000 * eps, 0.01) * alone.abs().max()
        invariant = alone.size(1) == few
        invariant = invariant and (alone[0] - logits[1, :few]).abs().max() <= tolerance
        return more // (many - few) if on_grid else None, bool(invariant)

    @functools.cached_property
    def is_padding_invariant(self) -> bool:
        """Whether an utterance is encoded in a padded batch as it is alone."""
        if not self._probed[1]:
            logger.warning(
                "this encoder's output depends on the padding of a batch: utterances "
                "are decoded one at a time"
            )
        return self._probed[1]

    @property
    def samples_per_frame(self) -> int | None:
        """Samples of input, or feature frames, for each frame of the encoder.

        None where the frames are not at equal distances (`ctc_trim`, for example).
        """
        return self._probed[0]


def _log_mel(
    frontend: DefaultFrontend, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the frontend does, but for an utterance in a batch what it is alone.

    Alone, torch.stft continues an utterance by its reflection. In ESPnet's batches, the
    last frames of an utterance see the padding instead. Where nothing is padded, there
    are no masks here, which take half of ESPnet's time.

    Args:
        frontend: Its STFT and mel filters.
        speech: Waveforms (batch, samples) or (batch, samples, channels).
        lengths: Samples of each, (batch,).

    Returns:
        Features (batch, frames, n_mels) and their lengths (batch,).
    """
    stft, margin = frontend.stft, frontend.stft.n_fft // 2 * frontend.stft.center
    if speech.dim() == 3:
        speech = speech[..., 0]  # as ESPnet does in evaluation
    is_padded = bool((lengths != speech.size(1)).any())
    if is_padded:
        speech = torch.nn.functional.pad(speech, (0, margin))
        for row, n in zip(speech, lengths.tolist(), strict=True):
            row[n : n + margin] = row[n - 1 - margin : n - 1].flip(0)
    spectrum, _ = stft(speech)
    feats, _ = frontend.logmel(spectrum[..., 0] ** 2 + spectrum[..., 1] ** 2)
    frames = (lengths + 2 * margin - stft.n_fft) // stft.hop_length + 1
    feats = feats[:, : frames.max()]
    if is_padded:
        feats = feats.masked_fill(make_pad_mask(frames, feats, 1), 0.0)
    return feats, frames


def inference(
    output_dir: str,
    batch_size: int,
    ngpu: int,
    seed: int,
    num_workers: int,
    log_level: int | str,
    data_path_and_name_and_type: Sequence[tuple[str, str, str]],
    key_file: str | None,
    allow_variable_data_keys: bool,
    ctm: bool,
    **options,
):
    """Decode by best path and write the files of ESPnet's asr_inference.

    With `ctm`, also 1best_recog/ctm, the times of the words. Of the other options, the
    MODEL_OPTIONS count; the rest is for a search.
    """
    if ngpu > 1:
        raise BestPathError("only single GPU decoding is supported")
    logging.basicConfig(
        level=log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    set_all_random_seed(seed)
    options = {name: options[name] for name in MODEL_OPTIONS}
    speech2text = Speech2Text.from_pretrained(
        **options, device="cuda" if ngpu else "cpu"
    )
    if ctm and not (speech2text.seconds_per_frame and speech2text.tokenizer):
        raise BestPathError(
            "--ctm: it needs a model that takes audio and gives text, with frames at "
            "equal distances"
        )
    train_args = speech2text.asr_train_args
    loader = ASRTask.build_streaming_iterator(
        data_path_and_name_and_type,
        dtype=speech2text.dtype,
        batch_size=batch_size,
        key_file=key_file,
        num_workers=num_workers,
        preprocess_fn=ASRTask.build_preprocess_fn(train_args, False),
        collate_fn=ASRTask.build_collate_fn(train_args, False),
        allow_variable_data_keys=allow_variable_data_keys,
        inference=True,
    )
    with open(key_file or data_path_and_name_and_type[0][0], encoding="utf-8") as f:
        total = sum(1 for _ in f)
    folder = Path(output_dir, "1best_recog")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(DatadirWriter(output_dir))
        if ctm:
            times = stack.enter_context(open(folder / "ctm", "w", encoding="utf-8"))
        stack.enter_context(logging_redirect_tqdm())
        # shown on a terminal alone
        progress = stack.enter_context(tqdm(total=total, unit="utt", disable=None))
        for utt_ids, batch in loader:
            lengths = batch["speech_lengths"].tolist()
            # two lines for each utterance, for pyscripts/utils/calculate_rtf.py
            for n in lengths:
                logger.info(f"speech length: {n}")
            speeches = [s[:n] for s, n in zip(batch["speech"], lengths, strict=True)]
            results = speech2text.best_path_batch(speeches, utt_ids=utt_ids)
            for utt_id, result in zip(utt_ids, results, strict=True):
                ((text, token, _, hypothesis),) = result
                logger.info(f"best hypo: {text}")
                asr_inference._write_results(writer, utt_id, result, 1, False, False)
                if ctm:
                    for start, end, word in speech2text.word_times(
                        token, hypothesis.times
                    ):
                        line = f"{utt_id} 1 {start:.3f} {end - start:.3f} {word}\n"
                        times.write(line)
            progress.update(len(utt_ids))


def constructor_options(args: dict) -> dict:
    """Return those of the program's options that `Speech2Text` takes."""
    known = inspect.signature(asr_inference.Speech2Text).parameters
    return {name: value for name, value in args.items() if name in known}


def get_parser():
    """Return ESPnet's parser with the options of this program."""
    parser = asr_inference.get_parser()
    (dtype,) = (action for action in parser._actions if action.dest == "dtype")
    dtype.choices = [*dtype.choices, "bfloat16"]
    dtype.help = (
        "Data type; bfloat16 is for the encoder of best_path alone, by autocast"
    )
    group = parser.add_argument_group("Best path related")
    group.add_argument(
        "--search",
        default="beam",
        choices=["beam", "best_path"],
        help="best_path: the most likely token of each frame by the CTC head, without "
        "repeats and blanks. The options of the beam search and of language models "
        "then have no effect, and --batch_size is free",
    )
    group.add_argument(
        "--ctm",
        type=str2bool,
        default=False,
        help="With best_path, write 1best_recog/ctm: the times of the words in seconds",
    )
    return parser


def main(cmd=None):
    """Run the program, or ESPnet's where a beam search is asked for."""
    print(get_commandline_args(), file=sys.stderr)
    args = vars(get_parser().parse_args(cmd))
    args.pop("config", None)
    if args.pop("search") == "best_path":
        try:
            return inference(**args)
        except BestPathError as error:
            sys.exit(f"asr_inference_ctc: error: {error}")
    if args.pop("ctm") or args["dtype"] == "bfloat16":
        sys.exit("asr_inference_ctc: error: --ctm and bfloat16 need --search best_path")
    return asr_inference.inference(**args)


if __name__ == "__main__":
    main()
