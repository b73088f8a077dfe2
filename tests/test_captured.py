# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""A captured encoder's output is the encoder's, in a bucket and in none.

Without a GPU, a bucket is computed again instead of replayed.
"""

import contextlib
import threading

import pytest
import torch
from espnet2.asr.encoder import conformer_encoder
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_reuse.benchmark.peers import ENCODER_CLASSES
from espnet_reuse.bin import asr_inference_ctc as ctc
from espnet_reuse.captured import CapturedEncoder
from espnet_reuse.errors import UserError

SIZE = 21  # of the features
SMALL = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
FEW = {"linear_units": 16}
GATED = {"cgmlp_linear_units": 16, "cgmlp_conv_kernel": 7}
CONFORMER = SMALL | FEW | {"rel_pos_type": "latest", "cnn_module_kernel": 7}
ENCODERS = {
    "conformer": CONFORMER,
    "transformer": SMALL | FEW,
    "branchformer": SMALL | GATED | {"rel_pos_type": "latest"},
    "e_branchformer": SMALL | FEW | GATED | {"rel_pos_type": "latest"},
}
ENCODERS |= {f"{k}_reuse": v | {"reuse_group_size": 2} for k, v in ENCODERS.items()}
SUBSAMPLINGS = {
    "conformer": ("conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", "linear"),
    "transformer": ("conv1d2",),
    "e_branchformer": ("conv1d1", "conv1d2", "conv1d3"),
}
CASES = [(name, conf) for name, conf in ENCODERS.items()]
for name, layers in SUBSAMPLINGS.items():
    CASES += [(name, ENCODERS[name] | {"input_layer": layer}) for layer in layers]
CASES += [("conformer", CONFORMER | {"use_sdpa": True, "interctc_layer_idx": [1]})]
BUCKETS = {"batch_sizes": [1, 4], "frames": [40, 90]}
IDS = [" ".join([n, *(str(v) for k, v in c.items() if "_l" in k)]) for n, c in CASES]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class Recomputed(CapturedEncoder):
    """Runs the encoder where CUDA would replay a graph."""

    device_type = "cpu"

    def _record(self, xs_pad, ilens):
        outputs = self._forward(xs_pad, ilens)
        self.used = []

        def replay():
            self.used.append(tuple(xs_pad.shape[:2]))
            for old, new in zip(
                flatten(outputs), flatten(self._forward(xs_pad, ilens)), strict=True
            ):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)

        return replay, outputs

    def _in_order(self):
        return contextlib.nullcontext()


def flatten(value):
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in flatten(part)]
    return [value]


def build(name="conformer", conf=CONFORMER):
    torch.manual_seed(0)
    encoder = ENCODER_CLASSES[name](input_size=SIZE, **conf).eval()
    for parameter in encoder.parameters():  # no norm and no bias is 1 or 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def batch(*lengths, seed=1):
    torch.manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), SIZE), torch.tensor(lengths)


def assert_same(result, expected, atol=1e-5):
    """Compare the real frames and all shapes."""
    olens = expected[1]
    assert torch.equal(result[1].cpu(), olens.cpu())
    for x, y in zip(flatten(result), flatten(expected), strict=True):
        if not isinstance(y, torch.Tensor) or y.dim() != 3:
            continue
        assert x.shape == y.shape and x.dtype == y.dtype
        for row, other, length in zip(x, y, olens.tolist(), strict=True):
            torch.testing.assert_close(
                row[:length].cpu(), other[:length].cpu(), atol=atol, rtol=1e-4
            )


@pytest.fixture(scope="module")
def captured():
    return Recomputed(build(), **BUCKETS)


@pytest.mark.parametrize(("name", "conf"), CASES, ids=IDS)
@torch.no_grad()
def test_a_bucket_gives_what_the_encoder_gives_to_lengths_of_any_kind(name, conf):
    encoder = build(name, conf)
    captured = Recomputed(encoder, **BUCKETS)
    for longest in (*range(36, 44), 90):
        near = [longest - n for n in range(3)]
        xs_pad, ilens = batch(*near, 20)
        xs_pad[2, ilens[2] :] = 7.0  # what lies behind a length
        assert_same(captured(xs_pad, ilens), encoder(xs_pad, ilens))
        assert_same(captured(xs_pad[:1], ilens[:1]), encoder(xs_pad[:1], ilens[:1]))
    assert len(captured.used) == 18


@torch.no_grad()
def test_a_batch_takes_the_smallest_bucket_that_holds_it(captured):
    captured.used.clear()
    for lengths in ((40,), (41,), (40, 20), (90, 30, 30, 30)):
        captured(*batch(*lengths))
    assert captured.used == [(1, 40), (1, 90), (4, 40), (4, 90)]


@torch.no_grad()
def test_a_batch_that_no_bucket_holds_is_computed_by_the_encoder(captured):
    captured.used.clear()
    for inputs in (batch(91, 20), batch(*[30] * 5)):
        assert_same(captured(*inputs), captured.encoder(*inputs), 0)
    with pytest.raises(TooShortUttError):
        captured(*batch(6))
    assert not captured.used


def test_what_was_not_captured_is_computed_by_the_encoder():
    encoder = build()
    captured, inputs = Recomputed(encoder, **BUCKETS), batch(30, 20)
    output, *_ = captured(*inputs)
    assert output.requires_grad
    with torch.no_grad():
        (output, layers), *_ = captured(*inputs, return_all_hs=True)
        assert len(layers) == 2
        captured(*inputs, None)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(captured(*inputs), encoder(*inputs), 0)
        encoder.train()
        captured(*inputs)
        encoder.eval().double()
        output, *_ = captured(inputs[0].double(), inputs[1])
        assert output.dtype == torch.float64
        encoder.float()  # its parameters are elsewhere now
        captured(*inputs)
        assert not captured.used
    with torch.inference_mode():
        fresh = Recomputed(encoder, **BUCKETS)  # holds no inference tensors
    with torch.no_grad():
        assert_same(fresh(*inputs), encoder(*inputs))
    with torch.inference_mode():
        fresh(*inputs)
    assert len(fresh.used) == 2


@torch.no_grad()
def test_the_autocast_of_the_capture_is_that_of_the_bucket():
    encoder, inputs = build(), batch(40, 33)
    with torch.autocast("cpu", torch.bfloat16):
        captured = Recomputed(encoder, **BUCKETS)
        assert_same(captured(*inputs), encoder(*inputs), 0.1)
        assert len(captured.used) == 1
    captured(*inputs)
    assert len(captured.used) == 1


@torch.no_grad()
def test_parameters_may_be_changed_in_place(captured):
    encoder, inputs = build(), batch(40, 33)
    captured = Recomputed(encoder, **BUCKETS)
    before, *_ = captured(*inputs)
    weights = {name: 1.1 * w for name, w in encoder.state_dict().items()}
    encoder.load_state_dict(weights)
    after = captured(*inputs)
    assert_same(after, encoder(*inputs))
    assert len(captured.used) == 2 and not torch.equal(before, after[0])


@torch.no_grad()
def test_neither_results_nor_inputs_are_touched_by_later_calls(captured):
    first, second = batch(40, 33), batch(39, 38, seed=2)
    given = first[0].clone()
    result = captured(*first)
    kept = [x.clone() for x in result[:2]]
    captured(*second)
    assert torch.equal(first[0], given)
    assert all(torch.equal(*pair) for pair in zip(result, kept, strict=False))


@torch.no_grad()
def test_a_batch_with_nan_leaves_nothing_behind(captured):
    inputs = batch(20, 15)
    expected = captured(*inputs)
    captured(torch.full((4, 40, SIZE), float("nan")), torch.tensor([40] * 4))
    assert_same(captured(*inputs), expected, 0)


@torch.no_grad()
def test_positions_that_grow_later_leave_those_of_the_graphs_in_place():
    encoder = build(conf=CONFORMER | {"max_pos_emb_len": 4})
    captured = Recomputed(encoder, **BUCKETS)
    held = [
        [pe for pe in kept if pe is not None] for *_, kept in captured._buckets.values()
    ]
    assert {pe.data_ptr() for (pe,) in held} == {encoder.embed.pos_enc.pe.data_ptr()}
    captured(*batch(200))
    assert encoder.embed.pos_enc.pe.data_ptr() != held[0][0].data_ptr()
    assert_same(captured(*batch(40, 30)), encoder(*batch(40, 30)))


@pytest.mark.parametrize("name", ["conformer", "conformer_reuse"])
def test_no_map_of_a_graph_is_kept(name):
    encoder = build(name)
    Recomputed(encoder, **BUCKETS)
    assert [layer.self_attn.attn for layer in encoder.encoders[:1]] == [None]


@torch.no_grad()
def test_two_threads_get_their_own_results(captured):
    inputs = [batch(40, 33, seed=seed) for seed in range(6)]
    expected = [captured.encoder(*each) for each in inputs]
    failed = []

    def call(mine):
        with torch.no_grad():
            for n in mine * 5:
                try:
                    assert_same(captured(*inputs[n]), expected[n])
                except AssertionError as error:
                    failed.append(error)

    threads = [threading.Thread(target=call, args=(m,)) for m in ([0, 2, 4], [1, 3, 5])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@torch.no_grad()
def test_encoders_captured_in_two_threads_leave_espnet_as_it_was():
    before, meet = conformer_encoder.make_pad_mask, threading.Barrier(2)

    def capture(encoder):
        meet.wait()
        Recomputed(encoder, **BUCKETS)

    threads = [threading.Thread(target=capture, args=(build(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conformer_encoder.make_pad_mask is before


@torch.no_grad()
def test_an_encoder_is_captured_again_from_its_own_forward():
    encoder, inputs = build(), batch(40, 33)
    expected = encoder(*inputs)
    encoder.forward = first = Recomputed(encoder, **BUCKETS)
    encoder.forward = Recomputed(encoder, **BUCKETS)
    assert_same(encoder(*inputs), expected)
    encoder(*batch(200))
    assert encoder.forward.used and not first.used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": []}, "batch_sizes: .* increasing integers from 1"),
        ({"batch_sizes": [0, 1]}, "batch_sizes"),
        ({"batch_sizes": [4, 1]}, "batch_sizes"),
        ({"batch_sizes": [1, 1]}, "batch_sizes"),
        ({"batch_sizes": [True]}, "batch_sizes"),
        ({"frames": [-5]}, "frames: .* from 7"),
        ({"frames": [6, 50]}, "frames"),
        ({"frames": 1.5}, "frames"),
        ({"encoder": build().train()}, "encoder.eval"),
        ({"encoder": build(conf=SMALL | FEW)}, "rel_pos_type: latest"),
        (
            {"encoder": build(conf=CONFORMER | {"positionwise_layer_type": "conv1d"})},
            "positionwise_layer_type: linear",
        ),
        (
            {"encoder": build(conf=CONFORMER | {"interctc_use_conditioning": True})},
            "CTC head",
        ),
        ({"encoder": build("transformer", SMALL | {"input_layer": "embed"})}, "linear"),
        ({"encoder": torch.nn.LSTM(2, 2)}, "not this LSTM"),
    ],
)
def test_what_cannot_be_captured_is_refused_in_a_line(change, message):
    with pytest.raises(UserError, match=message) as error:
        Recomputed(**{"encoder": build()} | BUCKETS | change)
    assert "\n" not in str(error.value)


def test_a_machine_without_cuda_is_a_line():
    with pytest.raises(UserError, match="it is on cpu.*NVIDIA GPU") as error:
        CapturedEncoder(build())
    assert "\n" not in str(error.value)


# ---- from audio to text --------------------------------------------------------------

RATE = 8000


@pytest.fixture(scope="module")
def make_speech2text(tmp_path_factory, save_model):
    """A function that makes a Speech2Text, whose encoder is new."""
    config = {
        "token_list": ["<blank>", "<unk>", *"abcdef", "<space>", "<sos/eos>"],
        "token_type": "char",
        "encoder": "conformer_reuse",
        "encoder_conf": ENCODERS["conformer_reuse"],
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "frontend_conf": {"fs": "8k", "hop_length": 80, "n_fft": 256, "n_mels": 20},
        "normalize": "utterance_mvn",
    }
    folder = save_model(tmp_path_factory.mktemp("model"), config, 0.3)
    files = folder / "config.yaml", folder / "model.pth"
    return lambda **options: ctc.Speech2Text(*files, **options)


@pytest.mark.parametrize(("dtype", "rel"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_tokens_are_those_of_before_and_batches_fill_the_buckets(
    make_speech2text, dtype, rel, monkeypatch
):
    speech2text = make_speech2text(dtype=dtype)
    seconds = 1, 0.9, 0.25, 1.99, 2, 0.8, 2.4
    speeches = [torch.randn(int(RATE * s)).numpy() for s in seconds]
    expected = [speech2text.best_path(speech) for speech in speeches]
    monkeypatch.setattr(ctc, "CapturedEncoder", Recomputed)
    speech2text.capture(batch_sizes=[1, 3], seconds=[1, 2])
    results = speech2text.best_path_batch(speeches, batch_seconds=1000)
    for ((*_, tokens, one),), ((*_, others, other),) in zip(
        results, expected, strict=True
    ):
        assert dtype != "float32" or tokens == others
        assert one.score == pytest.approx(other.score, rel=rel)
    used = speech2text.asr_model.encoder.forward.used
    used.clear()
    speech2text.best_path_batch(speeches[:-1], batch_seconds=1000)
    # the short one; 2 s, 1.99 s and 1 s; 0.9 s and 0.8 s
    assert used == [(1, 101), (3, 201), (3, 101)]


def test_seconds_to_capture_that_are_wrong_are_a_line(make_speech2text):
    speech2text = make_speech2text()
    for seconds in ([0, 1], [2, 1], [1, 1], [float("inf")]):
        with pytest.raises(UserError, match="seconds: .* increasing") as error:
            speech2text.capture(seconds=seconds)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="NVIDIA GPU"):
        speech2text.capture()


# ---- on a GPU ----------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize(("name", "conf"), CASES, ids=IDS)
@torch.no_grad()
def test_graphs_give_what_the_encoder_gives_and_wait_for_nothing(name, conf):
    encoder = build(name, conf).cuda()
    captured = CapturedEncoder(encoder, **BUCKETS)
    captured.eager = None  # no call falls back
    for lengths in ((40,), (41, 40, 39), (38, 20), (90, 89)):
        xs_pad, ilens = (x.cuda() for x in batch(*lengths))
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = captured(xs_pad, ilens)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert_same(result, encoder(xs_pad, ilens), 1e-3)


@needs_cuda
@torch.no_grad()
def test_graphs_share_their_memory():
    encoder = build(conf=CONFORMER | {"output_size": 256, "num_blocks": 4}).cuda()
    taken = []
    for frames in ([1500], [1460, 1480, 1500]):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        captured = CapturedEncoder(encoder, [16], frames)
        taken.append(torch.cuda.memory_reserved() - before)
        del captured
    assert taken[1] < 2 * taken[0]


@needs_cuda
@torch.no_grad()
def test_threads_on_their_own_streams_get_their_own_results():
    captured = CapturedEncoder(build().cuda(), **BUCKETS)
    inputs = [[x.cuda() for x in batch(40, 33, seed=seed)] for seed in range(4)]
    expected = [captured.encoder(*each) for each in inputs]
    results = {}
    torch.cuda.synchronize()

    def call(n):
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            results[n] = [captured(*inputs[n]) for _ in range(50)]

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    for n, outputs in results.items():
        for output in outputs:
            assert_same(output, expected[n], 1e-3)


@needs_cuda
@torch.no_grad()
def test_graphs_compute_in_the_bfloat16_of_their_capture():
    encoder, inputs = build("conformer_reuse").cuda(), [x.cuda() for x in batch(40, 33)]
    with torch.autocast("cuda", torch.bfloat16):
        expected = encoder(*inputs)  # its casts are in the cache of autocast
        captured = CapturedEncoder(encoder, **BUCKETS)
        captured.eager = None
        torch.clear_autocast_cache()
        torch.randn(2**24, device="cuda")  # over what was freed
        assert_same(captured(*inputs), expected, 0.1)
