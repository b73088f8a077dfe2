# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Print the text of audio files: python3 serve.py FILE.onnx a.wav b.flac ...

To copy and change. It needs numpy, soundfile, and onnxruntime or openvino. FILE.onnx
is written by `espnet-reuse export` with `--with_ctc true`.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import soundfile

WINDOW, CONTEXT = 30, 4  # seconds; the context on both sides is decoded, then dropped

model, *files = sys.argv[1:]
try:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names = [output.name for output in session.get_outputs()]
    run = lambda inputs: session.run(None, inputs)  # noqa: E731
except ModuleNotFoundError:
    import openvino

    model = openvino.Core().read_model(model)
    about = model.get_rt_info("framework").astype(dict)
    about = {key: value.value for key, value in about.items()}
    names = [output.any_name for output in model.outputs]
    run = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
if names[2:] != ["ctc_log_probs"]:
    sys.exit(f"{sys.argv[1]}: export it with --with_ctc true")
rate, per_frame = int(about["sampling_rate"]), int(about["samples_per_frame"])
context = CONTEXT * rate // per_frame  # frames
step = WINDOW * rate // per_frame - 2 * context

for path in files:
    labels, start, is_last = [], 0, False  # start: of what is kept, in frames
    with soundfile.SoundFile(path) as file:
        if file.samplerate != rate:
            sys.exit(f"{path}: {file.samplerate} Hz, and the model needs {rate} Hz")
        while not is_last:
            first = max(start - context, 0)
            file.seek(first * per_frame)
            size = (start + step + context - first) * per_frame
            speech = file.read(size, "float32", always_2d=True)[:, 0]
            is_last = len(speech) < size
            inputs = {"speech": speech[None], "speech_lengths": np.array([len(speech)])}
            outputs = run(inputs)
            kept = outputs[2][0, : outputs[1][0]].argmax(-1)[start - first :]
            labels += list(kept if is_last else kept[:step])
            start += step
    merged = [n for n, _ in itertools.groupby(labels) if n != int(about["blank_id"])]
    space = " " if about["token_type"] == "word" else ""
    text = space.join(json.loads(about["tokens"])[n] for n in merged)
    print(Path(path).stem, text.replace("▁", " ").replace("<space>", " ").strip())
