# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Serve a model on Ray Serve, to copy: serve run serve_ray:app model=FILE.onnx"""

import asyncio
import io
import itertools
import json

import numpy as np
import onnxruntime
import soundfile
from fastapi import FastAPI, HTTPException, Request
from ray import get_runtime_context, serve

LONGEST, TOGETHER = 60, 16  # seconds: of a request; in a run of the model, padded
OUTPUTS = ["token_int", "token_int_lens"]  # of `espnet-reuse export`
api = FastAPI(max_body_size=2**23)  # bytes


def split(lengths, most):
    """Yield places of similar lengths, padded at most `most` long, or one alone."""
    fit = [max(1, most // length) for length in lengths]  # of that length in a run
    order = sorted(range(len(fit)), key=fit.__getitem__)
    for count, places in itertools.groupby(order, fit.__getitem__):
        yield from itertools.batched(places, count)


@serve.deployment(max_ongoing_requests=32, max_queued_requests=256)
@serve.ingress(api)
class Transcriber:
    """A replica, with as many threads as Ray gives it CPUs."""

    def __init__(self, model):
        cpus = get_runtime_context().get_assigned_resources().get("CPU", 1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, int(cpus))
        options.enable_mem_pattern = False  # one would be kept for each length
        self.session = onnxruntime.InferenceSession(model, options)
        if not {x.name for x in self.session.get_outputs()}.issuperset(OUTPUTS):
            raise ValueError(f"{model}: export it with --with_ctc best_path")
        about = self.session.get_modelmeta().custom_metadata_map
        self.rate = int(about["sampling_rate"])
        self.tokens = json.loads(about["tokens"])
        self.most = TOGETHER * self.rate * (about["padding_invariant"] == "true")
        self.space = " " * (about["token_type"] == "word")

    @api.post("/")
    async def transcribe(self, request: Request) -> dict[str, str]:
        """Answer an audio file with its text, a wrong one with what is wrong."""
        try:
            file = soundfile.SoundFile(io.BytesIO(await request.body()))
            if (file.samplerate, file.channels) != (self.rate, 1):
                raise HTTPException(400, f"send {self.rate} Hz and one channel")
            speech = file.read(LONGEST * self.rate + 1, "float32")
        except soundfile.LibsndfileError as error:
            raise HTTPException(400, f"no audio: {error.error_string}") from None
        if not 0 < len(speech) <= LONGEST * self.rate or not np.isfinite(speech).all():
            raise HTTPException(400, f"send up to {LONGEST} seconds, without NaN")
        return {"text": await self.recognize(speech)}

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
    async def recognize(self, speeches):
        """Return the text of each waveform (samples,)."""
        texts = [""] * len(speeches)
        for run in split([len(speech) for speech in speeches], self.most):
            rows = [speeches[n] for n in run]
            lengths = np.array([len(row) for row in rows])
            padded = np.stack([np.pad(x, (0, max(lengths) - len(x))) for x in rows])
            inputs = {"speech": padded, "speech_lengths": lengths}
            rows = await asyncio.to_thread(self.session.run, OUTPUTS, inputs)
            for n, row, count in zip(run, *rows, strict=True):
                text = self.space.join(self.tokens[i] for i in row[:count])
                texts[n] = text.replace("▁", " ").replace("<space>", " ").strip()
        return texts


def app(args: dict[str, str]) -> serve.Application:
    """Return the application; replicas and CPUs are in Ray's configuration."""
    return Transcriber.bind(args["model"])
