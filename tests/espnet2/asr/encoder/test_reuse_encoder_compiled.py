# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Compiled and exported encoders are one graph, and compute what eager ones do."""

import copy
import shutil

import pytest
import torch
from reuse_encoders import (
    CONFORMER,
    IDIM,
    TRANSFORMER,
    WITHOUT_DROPOUT,
    assert_close,
    backward,
    cases,
    every_encoder,
    of_kinds,
)
from torch._dynamo.testing import CompileCounterWithBackend

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor needs g++ on a CPU"
)
either_mode = cases("training", {"training": True, "inference": False})


@pytest.fixture(autouse=True)
def forget_graphs():
    """Compile everything anew, and free it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def make_batch(batch, frames, seed=0):
    torch.manual_seed(seed)
    ilens = torch.arange(frames, frames - 2 * batch, -2)
    return torch.randn(batch, frames, IDIM), ilens


class Operators:
    """A backend that notes which of our operators a graph has, and runs it as it is."""

    def __init__(self, backend="aot_eager"):
        self.counter = CompileCounterWithBackend(backend)
        self.found = []

    def __call__(self, graph, inputs):
        self.found += [
            str(node.target).split(".")[1]
            for node in graph.graph.nodes
            if "espnet_reuse" in str(node.target)
        ]
        return self.counter(graph, inputs)


def results(encoder, batch, training, autocast=False, marked=False):
    """Return the output and, in training, the gradients of inputs and parameters."""
    xs, ilens = batch
    xs = xs.clone().requires_grad_(training)
    if marked:
        torch._dynamo.mark_dynamic(xs, (0, 1))
        torch._dynamo.mark_dynamic(ilens, 0)
    with (
        torch.set_grad_enabled(training),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        out, olens, _ = encoder(xs, ilens)
    gradients = backward([out], encoder, xs) if training else {}
    gradients = {k.removeprefix("_orig_mod."): x for k, x in gradients.items()}
    results = {"output": out.detach(), "lengths": olens} | gradients
    return {name: x.double() for name, x in results.items() if x is not None}


def assert_same(actual, expected, atol):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, name, atol=atol)


def build(kind, training, **options):
    options = {"num_blocks": 3, "reuse_group_size": [2, 1]} | WITHOUT_DROPOUT | options
    return kind.build(**options).train(training)


@every_encoder
@either_mode
def test_a_compiled_encoder_is_one_graph_of_our_operators(kind, training):
    encoder, backend = build(kind, training), Operators()
    # ESPnet's E-Branchformer reads a random number in training for each layer
    fullgraph = not (training and kind.name.startswith("e-branchformer"))
    compiled = torch.compile(
        copy.deepcopy(encoder), backend=backend, fullgraph=fullgraph
    )
    for shape in [(3, 13), (2, 29), (4, 17)]:
        batch = make_batch(*shape)
        expected = results(encoder, batch, training)
        actual = results(
            compiled, batch, training, marked=backend.counter.frame_count == 0
        )
        assert_same(actual, expected, atol=1e-5)
    if fullgraph:
        assert backend.counter.frame_count == 1
    operators = {"attention_map"} if training else {"attention_map", "attend"}
    if kind in TRANSFORMER:  # a layer alone has PyTorch's fused attention
        operators = {"attention_map"}
    assert set(backend.found) == operators


@every_encoder
def test_dropout_of_a_compiled_encoder_is_our_operator(kind):
    encoder, backend = build(kind, True, attention_dropout_rate=0.5), Operators()
    out = torch.compile(encoder, backend=backend)(*make_batch(3, 13))[0]
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert set(backend.found) == {"attention_map", "apply"}
    assert backend.found.count("apply") == len(encoder.encoders)


@every_encoder
@pytest.mark.slow
def test_any_lengths_and_batches_are_three_graphs_at_most(kind):
    """PyTorch's automatic dynamic shapes: a length, any length, any batch."""
    for training in (False, True):
        torch.compiler.reset()
        encoder, backend = build(kind, training), Operators()
        compiled = torch.compile(copy.deepcopy(encoder), backend=backend)
        for shape in [(3, 13), (3, 29), (2, 17), (4, 40), (3, 21), (5, 9)]:
            batch = make_batch(*shape)
            expected = results(encoder, batch, training)
            assert_same(results(compiled, batch, training), expected, atol=1e-5)
        if not (training and kind.name.startswith("e-branchformer")):
            assert backend.counter.frame_count <= 3


def assert_kernels_compute_what_eager_does(kind, training, **options):
    encoder = build(kind, training, **options)
    compiled = torch.compile(copy.deepcopy(encoder))
    for shape, marked in {(3, 43): True, (2, 61): False}.items():
        batch = make_batch(*shape)
        expected = results(encoder, batch, training)
        assert_same(results(compiled, batch, training, marked=marked), expected, 1e-4)


@every_encoder
@pytest.mark.slow
@needs_compiler
def test_compiled_kernels_encode_as_eager_does(kind):
    assert_kernels_compute_what_eager_does(kind, training=False)


@of_kinds(CONFORMER[:1])
@pytest.mark.slow
@needs_compiler
def test_compiled_kernels_train_with_subsampling_as_eager_does(kind):
    assert_kernels_compute_what_eager_does(kind, training=True, input_layer="conv2d")


@every_encoder
@pytest.mark.slow
@either_mode
def test_compiled_bfloat16_is_that_of_eager(kind, training):
    encoder, batch = build(kind, training), make_batch(3, 29)
    compiled = torch.compile(copy.deepcopy(encoder), backend="aot_eager")
    expected, actual = (
        results(module, batch, training, autocast=True)
        for module in (encoder, compiled)
    )
    in_float32 = results(encoder, batch, training)
    assert (in_float32["output"] - expected["output"]).abs().max() > 1e-3
    largest = max(x.abs().max().item() for x in expected.values())
    assert_same(actual, expected, atol=0.01 * largest)


@every_encoder
def test_an_exported_encoder_calls_our_operators_for_any_length(kind):
    encoder = build(kind, False)
    batch, time = (torch.export.Dim(name, min=2, max=64) for name in ("B", "T"))
    shapes = {"xs_pad": {0: batch, 1: time}, "ilens": {0: batch}}
    with torch.no_grad():
        program = torch.export.export(
            encoder, make_batch(3, 13), dynamic_shapes=shapes, strict=True
        )
    found = {n.target.name() for n in program.graph.nodes if hasattr(n.target, "name")}
    assert "espnet_reuse::attention_map" in found
    for shape in [(2, 29), (4, 17)]:
        inputs = make_batch(*shape)
        with torch.no_grad():
            expected, actual = encoder(*inputs)[0], program.module()(*inputs)[0]
        assert_close(actual, expected, atol=1e-6)


@pytest.mark.slow
@needs_compiler
def test_pytorch_cannot_train_a_convolution_with_dynamic_shapes_yet():
    """Delete the advice in docs/faq.md and tools/upstream/pytorch_issue.md then."""
    subsampling = torch.nn.Conv2d(1, 4, 3, 2)
    encode = torch.compile(lambda x: subsampling(x.unsqueeze(1)), dynamic=True)
    with pytest.raises(Exception, match="cannot determine truth value of Relational"):
        encode(torch.randn(2, 40, 20)).sum().backward()
    torch.compiler.reset()
    x = torch.randn(2, 40, 20)
    torch._dynamo.mark_dynamic(x, (0, 1))
    torch.compile(lambda x: subsampling(x.unsqueeze(1)))(x).sum().backward()
