# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""examples/serve_ray.py as its user runs it: two replicas on Ray, clients, bad days."""

import http.client
import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import soundfile
import yaml

from espnet_reuse.bin import export

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/serve_ray.py"
NEEDS = ("ray[serve]", "onnxruntime", "numpy", "soundfile")
RATE = 16000
CLIENTS, SECONDS, WARM_UP, KILLED = 64, 60, 20, 30
IN_FLIGHT = 32  # max_ongoing_requests of a replica
GROWTH = 32 * 2**20  # bytes; the load's uploads are twice that or more
CONFIG = {
    "token_list": ["<blank>", "<unk>", "<space>", *"abcdefghij", "<sos/eos>"],
    "token_type": "char",
    "encoder": "conformer_reuse",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 16},
        **{
            "num_blocks": 2,
            "reuse_group_size": 2,
            "cnn_module_kernel": 7,
            "rel_pos_type": "latest",
        },
    },
    "model_conf": {"ctc_weight": 1.0},
    "frontend_conf": {"fs": "16k", "hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory, save_model):
    """A file that the project's command has exported."""
    exp = save_model(tmp_path_factory.mktemp("exp"), CONFIG, 0.3)
    options = ["--format", "onnx", "--with_ctc", "best_path"]
    options += ["--asr_train_config", exp / "config.yaml"]
    options += ["--asr_model_file", exp / "model.pth"]
    export.main(list(map(str, options)))
    return exp / "model.onnx"


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """An environment that has what the example needs and nothing else of ours."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin/pip", "install", "--quiet", "--quiet", "--no-compile"]
    pip += ["--disable-pip-version-check", "-c", ROOT / "tools/constraints.txt"]
    subprocess.run([*pip, *NEEDS], check=True)
    return venv


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder that has the example, copied, and Ray's configuration."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(EXAMPLE, folder)
    replicas = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.5}}
    application = {
        "name": "asr",
        "import_path": "serve_ray:app",
        "args": {"model": str(model)},
        "deployments": [{"name": "Transcriber", **replicas}],
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"host": "127.0.0.1", "port": free.getsockname()[1]}
    config = {"http_options": address, "applications": [application]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def service(venv, folder):
    """The running service: its port, the folder of Ray's files, a list of replicas."""
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    port = config["http_options"]["port"]
    # a short name, for Ray puts sockets into it
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as tmp:
        environment = os.environ | {"RAY_TMPDIR": tmp, "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= {"RAY_AUTH_MODE": "disabled"}  # it would write to the home
        environment.pop("PYTHONPATH", None)
        with (folder / "log").open("w", encoding="utf-8") as log:
            process = psutil.Popen(
                [venv / "bin/serve", "run", "--address", "local", "serve.yaml"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

        def replicas():
            found = {}
            for child in process.children(recursive=True):
                with_name = child.status() != psutil.STATUS_ZOMBIE and child.cmdline()
                if with_name and "ServeReplica" in with_name[0]:
                    found[child.pid] = child.memory_info().rss
            return found

        try:
            deadline = time.time() + 180
            while not (len(replicas()) == 2 and answers(port)):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.time() < deadline, (folder / "log").read_text()
                time.sleep(1)
            yield SimpleNamespace(port=port, ray=Path(tmp), replicas=replicas)
        finally:
            left = process.children(recursive=True)
            process.send_signal(signal.SIGINT)
            psutil.wait_procs([process, *left], timeout=30)
            for one in (process, *left):
                if one.is_running():
                    one.kill()


def answers(port):
    try:
        return post(port, wav(np.zeros(RATE)))[0] == 200
    except OSError:
        return False


def post(port, body, method="POST", path="/"):
    """Return the answer's status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def wav(speech, rate=RATE, **options):
    """Return the bytes of an audio file."""
    file = io.BytesIO()
    soundfile.write(file, speech, rate, **{"format": "WAV", **options})
    return file.getvalue()


@pytest.fixture(scope="module")
def uploads(model, an4):
    """(body, text) of recordings of 1 sample to 30 s; the text is that of one alone."""
    session = onnxruntime.InferenceSession(model)
    tokens = CONFIG["token_list"]
    everything = np.concatenate([speech for _, speech in an4]).astype(np.float32)
    lengths = [1, 400, *np.geomspace(4000, 5 * RATE, 40).astype(int)]
    lengths += [8 * RATE, 17 * RATE, 30 * RATE]
    uploads, start = [], 0
    for length, kind in zip(lengths, itertools.cycle(["WAV", "FLAC"]), strict=False):
        speech = everything[start % (len(everything) - length) :][:length]
        start += length
        body = wav(speech, format=kind, subtype="PCM_16")
        speech, _ = soundfile.read(io.BytesIO(body), dtype="float32")
        inputs = {"speech": speech[None], "speech_lengths": np.array([length])}
        row, count = session.run(["token_int", "token_int_lens"], inputs)
        text = "".join(tokens[n] for n in row[0, : count[0]])
        uploads.append((body, text.replace("<space>", " ").strip()))
    assert sum(bool(text) for _, text in uploads) > 0.9 * len(uploads)
    return uploads


def test_the_example_is_80_lines_and_needs_neither_torch_nor_espnet(venv, service):
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 80
    for package in ("torch", "espnet2", "espnet_reuse"):
        command = [venv / "bin/python", "-I", "-c", f"import {package}"]
        failed = subprocess.run(command, cwd=venv, capture_output=True, text=True)
        assert f"No module named '{package}'" in failed.stderr


def test_runs_hold_every_place_once_within_the_limit_padded_by_a_third(venv, folder):
    generator = np.random.default_rng(0)
    batches = [generator.integers(1, 2000, n).tolist() for n in range(1, 33)]
    command = "import json, serve_ray as s, sys; b = json.load(sys.stdin); "
    command += "print(json.dumps([list(s.split(x, 500)) for x in b]))"
    output = subprocess.run(
        [venv / "bin/python", "-c", command],
        cwd=folder,
        input=json.dumps(batches),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    for lengths, runs in zip(batches, json.loads(output), strict=True):
        assert sorted(sum(runs, [])) == list(range(len(lengths)))
        for run in runs:
            sizes = [lengths[n] for n in run]
            assert len(run) == 1 or len(run) * max(sizes) <= 500
            assert min(sizes) >= max(sizes) * 2 / 3 - 1


WRONG = {
    "no audio": [b"garbage" * 99, b"", b"RIFF\xff\xff\xff\xffWAVEfmt "],
    "send 16000 Hz and one channel": [
        wav(np.zeros(800), 8000),
        wav(np.zeros((1600, 2))),
        wav(np.zeros((100, 500))),
    ],
    "send up to 60 seconds, without NaN": [
        wav(np.array([0.1, np.nan]), subtype="FLOAT"),
        wav(np.array([0.1, -np.inf]), subtype="DOUBLE"),
        wav(np.zeros(0)),
        wav(np.zeros(60 * RATE + 1)),
        wav(np.zeros(3600 * RATE, np.int16), format="FLAC"),  # 300 kB
    ],
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_uploads_are_answered_in_one_line(service, message):
    for body in WRONG[message]:
        status, answer = post(service.port, body)
        assert status == 400
        assert message in json.loads(answer)["detail"]
        assert len(answer.splitlines()) == 1


def test_the_longest_audio_is_taken_in_any_width(service):
    noise = np.random.default_rng(0).uniform(-1, 1, 60 * RATE)
    assert post(service.port, wav(noise, subtype="DOUBLE"))[0] == 200


def test_other_methods_and_paths_are_answered_in_one_line(service):
    assert post(service.port, b"", "GET")[0] == 405
    assert post(service.port, b"", path="/elsewhere")[0] == 404


@pytest.mark.parametrize(
    "header", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"]
)
def test_too_large_uploads_are_refused_before_they_have_come(service, header):
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(f"POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
        if "chunked" in header:  # 9 MB, and no end
            client.sendall(9 * (b"100000\r\n" + bytes(2**20) + b"\r\n"))
        status, _, answer = client.recv(65536).partition(b"\r\n")
    assert status.startswith(b"HTTP/1.1 413")
    assert len(answer.partition(b"\r\n\r\n")[2].splitlines()) <= 1


def test_health_and_metrics_are_rays(service, uploads):
    assert post(service.port, b"", "GET", "/-/healthz") == (200, "success")
    assert post(service.port, uploads[-1][0])[0] == 200
    found = next(service.ray.rglob("prom_metrics_service_discovery.json"))
    (target, *_) = json.loads(found.read_text())[0]["targets"]
    deadline = time.time() + 60  # they come every some seconds
    missing = {"ray_serve_num_http_requests", "ray_serve_actual_batch_size"}
    while missing and time.time() < deadline:
        time.sleep(1)
        text = post(int(target.rpartition(":")[2]), b"", "GET", "/metrics")[1]
        missing = {name for name in missing if name not in text}
    assert not missing


class Load:
    """Clients that ask for a time; what is not right is noted."""

    def __init__(self, port, cases):
        self.port, self.cases = port, cases
        self.sent, self.wrong, self.failed = [], [], []
        self.end = time.time() + SECONDS
        self.threads = [
            threading.Thread(target=self.ask, args=(random.Random(n),))
            for n in range(CLIENTS)
        ]
        for thread in self.threads:
            thread.start()

    def ask(self, generator):
        # on a busy machine until enough was sent to tell a leak
        while time.time() < self.end or sum(self.sent) < 2 * GROWTH:
            body, *expected = generator.choice(self.cases)
            for _ in range(9):  # a client may try again
                started = time.time()
                try:
                    status, answer = post(self.port, body)
                    answer = json.loads(answer) if status < 500 else answer
                except (OSError, ValueError, http.client.HTTPException) as error:
                    status, answer = 0, repr(error)
                self.sent.append(len(body))
                if status < 500:
                    break
                self.failed.append((started, status, answer))
            if [status, answer.get("text") if status == 200 else None] != expected:
                self.wrong.append((expected, status, answer))

    def wait(self, seconds):
        time.sleep(max(0, self.end - SECONDS + seconds - time.time()))


def test_under_load_every_answer_is_right_memory_is_flat_and_a_death_costs_no_more(
    service, uploads
):
    cases = [(body, 200, text) for body, text in uploads]
    cases += [(body, 400, None) for bodies in WRONG.values() for body in bodies[:2]]
    before = service.replicas()
    load = Load(service.port, cases)
    load.wait(WARM_UP)
    warm = service.replicas()
    assert warm.keys() == before.keys()
    assert not load.failed
    victim, survivor = warm
    load.wait(KILLED)
    killed = time.time()
    os.kill(victim, signal.SIGKILL)
    for thread in load.threads:
        thread.join()
    after = service.replicas()
    print(warm, after, len(load.sent), sum(load.sent), len(load.failed))
    assert not load.wrong, load.wrong[:3]
    assert len(load.failed) <= IN_FLIGHT, load.failed
    assert all(started < killed + 1 for started, *_ in load.failed), load.failed
    assert len(after) == 2
    assert victim not in after
    assert survivor in after
    assert after[survivor] - warm[survivor] < GROWTH
    assert max(after.values()) - warm[survivor] < GROWTH
