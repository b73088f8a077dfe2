# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The attention map's kernels against naive references, without a GPU too."""

import importlib.util
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_reuse.asr.layers import attention_map as ops
from espnet_reuse.asr.layers import attention_map_triton
from espnet_reuse.asr.layers.attention_map_triton import (
    compute_gradients,
    compute_map,
    triton_attention_map,
    triton_attention_map_backward,
)

triton = pytest.importorskip("triton")

# What a process needs before it imports the kernel, to run it without a GPU. The
# interpreter of Triton 3.6 cannot count loops with NumPy 2.5, multiplies the bits of
# bfloat16 as if they were integers, and cuts float32 to bfloat16 in place of rounding.
INTERPRET = """
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton.language as tl
from triton.runtime import interpreter


def patch_tensor(tensor, scope, patch_tensor=interpreter._patch_lang_tensor):
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def dot(self, a, b, *args, dot=interpreter.InterpreterBuilder.create_dot):
    a, b = self.cast_impl(a, tl.float32), self.cast_impl(b, tl.float32)
    return dot(self, a, b, *args)


def convert(x, source, target, mode, convert=interpreter._convert_float):
    if (source, target) == (tl.float32, tl.bfloat16):
        return torch.tensor(x).bfloat16().view(torch.uint16).numpy()
    return convert(x, source, target, mode)


interpreter._convert_float = convert
interpreter._patch_lang_tensor = patch_tensor
interpreter.InterpreterBuilder.create_dot = dot
"""

HEADS = 2
D_K = 36
SHAPES = {  # frames, d_k
    "17 frames": (17, D_K),
    "70 frames, more than a block": (70, 8),
}
POSITIONS = {"positions": True, "no positions": False}
MASKS = {"no mask": None, "mask of keys": "keys", "mask of pairs": "pairs"}
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
DTYPES = {"float32": torch.float32} | HALF


def cases(name, values):
    """Parametrise `name` over a dict from test id to value."""
    return pytest.mark.parametrize(
        name, [pytest.param(value, id=id_) for id_, value in values.items()]
    )


@pytest.fixture(scope="module")
def call():
    """Calls a function with arguments, its kernels interpreted where there is no GPU.

    Another process does that: Triton decides between compiler and interpreter when it
    is imported, and `torch.compile` of other tests needs the compiler.
    """
    if torch.cuda.is_available():
        yield lambda function, *args: function(*args)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, exec, (INTERPRET, {})) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@pytest.fixture(scope="module")
def attention_map(call):
    return partial(call, triton_attention_map)


@pytest.fixture(scope="module")
def backward(call):
    return partial(call, triton_attention_map_backward)


def make_inputs(
    time, d_k=D_K, dtype=torch.float32, positions=True, mask="keys", second=0
):
    """Arguments for two utterances, the first padded, the other with `second` frames.

    By default the other one is nothing but padding.
    """
    torch.manual_seed(time)
    lengths = torch.tensor([max(1, time - 3), second])
    batch = len(lengths)
    query, key = (
        torch.randn(batch, time, HEADS, d_k, dtype=dtype).transpose(1, 2)
        for _ in range(2)
    )
    position_scores = None
    if positions:
        position_scores = torch.randn(batch, HEADS, time, 2 * time - 1, dtype=dtype)
    real = None
    if mask is not None:
        real = (torch.arange(time) < lengths[:, None])[:, None, :]
    if mask == "pairs":
        real = real & (torch.rand(batch, time, time) < 0.7)
    tensors = query, key, position_scores, real
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return *(x if x is None else x.to(device) for x in tensors), d_k**-0.5


def reference(query, key, position_scores, mask, scale, dtype=torch.float64):
    """The same map, one step after the other, all of them in `dtype`."""
    scores = query.to(dtype) @ key.to(dtype).mT
    if position_scores is not None:
        time = query.size(2)
        j = torch.arange(time, device=query.device)
        i = j[:, None]
        scores = scores + position_scores.to(dtype)[:, :, i, time - 1 - i + j]
    scores = scores * scale
    if mask is None:
        return scores.softmax(-1)
    padded = ~mask[:, None]
    scores = scores.masked_fill(padded, torch.finfo(dtype).min)
    return scores.softmax(-1).masked_fill(padded, 0.0)


def max_error(attention_map, inputs):
    """Largest distance of a map from the float64 reference."""
    return (attention_map - reference(*inputs)).abs().max().item()


@cases("mask", MASKS)
@cases("positions", POSITIONS)
@cases("shape", SHAPES)
def test_float32_map_is_the_reference(attention_map, shape, positions, mask):
    inputs = make_inputs(*shape, positions=positions, mask=mask)
    assert max_error(attention_map(*inputs), inputs) < 1e-6


def test_map_of_one_frame_is_one(attention_map):
    weights = attention_map(*make_inputs(1))
    assert weights.flatten(1).tolist() == [[1.0] * HEADS, [0.0] * HEADS]


@cases("positions", POSITIONS)
@cases("dtype", HALF)
def test_half_precision_map_is_as_accurate_as_torch(attention_map, dtype, positions):
    inputs = make_inputs(70, dtype=dtype, positions=positions)
    torch_error = max_error(reference(*inputs, dtype=dtype), inputs)
    assert max_error(attention_map(*inputs), inputs) <= 1.5 * torch_error


@cases("mask", {name: mask for name, mask in MASKS.items() if mask})
@cases("dtype", DTYPES)
def test_rows_sum_to_one_over_real_keys(attention_map, dtype, mask):
    inputs = make_inputs(17, dtype=dtype, mask=mask)
    weights = attention_map(*inputs)
    real = inputs[3][:, None].expand_as(weights)
    assert weights.dtype == dtype
    assert weights.is_contiguous()
    assert not weights[~real].any()
    assert weights[real].all()
    torch.testing.assert_close(
        weights.double().sum(-1), real.any(-1).double(), rtol=0, atol=1e-2
    )
    assert not weights[1].any()  # nothing but padding


def test_what_stands_in_padding_does_not_matter(attention_map):
    query, key, position_scores, mask, scale = make_inputs(17)
    padded_key = key.masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(
        attention_map(query, padded_key, position_scores, mask, scale),
        attention_map(query, key, position_scores, mask, scale),
        rtol=0,
        atol=0,
    )


def test_nan_is_not_hidden(attention_map):
    query, *others = make_inputs(17)
    query[0, 1, 3] = torch.nan
    weights = attention_map(query, *others)
    assert weights[0, 1, 3].isnan().all()
    assert weights.isnan().sum() == 17


def test_large_scores_do_not_overflow(attention_map):
    query, key, position_scores, mask, scale = make_inputs(17)
    inputs = query, key, position_scores + 1000 / scale, mask, scale
    assert max_error(attention_map(*inputs), inputs) < 1e-3


def test_views_need_no_copy(attention_map):
    query, key, position_scores, mask, scale = make_inputs(17, mask="pairs")
    query_view = torch.stack([query, key, key], dim=3).select(3, 0)
    mask_view = mask.mT.contiguous().mT
    assert len({x.stride() for x in (query_view, key, key.contiguous())}) == 3
    assert mask_view.stride() != mask.stride()
    torch.testing.assert_close(
        attention_map(query_view, key, position_scores, mask_view, scale),
        attention_map(
            query.contiguous(), key.contiguous(), position_scores, mask, scale
        ),
        rtol=0,
        atol=0,
    )


GRADIENT_SHAPES = {"1 frame": (1, D_K)} | SHAPES
GRADIENT_POSITIONS = {"positions": 2, "shared positions": 1, "no positions": 0}


def make_gradients(time, d_k=D_K, dtype=torch.float32, positions=1, mask="keys"):
    """Gradient of a map and arguments of `naive_attention_map`, pos of `positions`.

    In a mask of pairs, every fifth row has no real key.
    """
    query, key, _, real, _ = make_inputs(time, d_k, dtype, False, mask, second=time)
    if mask == "pairs":
        real[:, ::5] = False
    like_query = partial(torch.randn, dtype=dtype, device=query.device)
    query_pos = pos = None
    if positions:
        query_pos = like_query(query.shape)
        pos = like_query(positions, HEADS, 2 * time - 1, d_k)
    grad = like_query(len(query), HEADS, time, time)
    return grad, query, key, real, query_pos, pos


def grad_reference(grad, query, key, mask, query_pos, pos, dtype=torch.float64):
    """The naive map and autograd's gradients, all of it in `dtype`."""
    query, key, query_pos, pos = (
        x if x is None else x.detach().to(dtype).requires_grad_()
        for x in (query, key, query_pos, pos)
    )
    weights = ops.naive_attention_map(query, key, mask, query_pos, pos)
    tensors = [x for x in (query, key, query_pos, pos) if x is not None]
    return weights.detach(), torch.autograd.grad(weights, tensors, grad.to(dtype))


def grad_inputs(grad, query, key, mask, query_pos, pos):
    """Arguments of the function under test."""
    weights, _ = grad_reference(grad, query, key, mask, query_pos, pos)
    weights = weights.to(query.dtype)
    return grad, weights, query, key, query_pos, pos, query.size(-1) ** -0.5


def computed_gradients(backward, gradients):
    computed = backward(*grad_inputs(*gradients))
    assert all(x is None or x.is_contiguous() for x in computed)
    return [x for x in computed if x is not None]


@cases("mask", MASKS)
@cases("positions", GRADIENT_POSITIONS)
@cases("shape", GRADIENT_SHAPES)
def test_float32_gradients_are_the_reference(backward, shape, positions, mask):
    gradients = make_gradients(*shape, positions=positions, mask=mask)
    computed = computed_gradients(backward, gradients)
    expected = [x.float() for x in grad_reference(*gradients)[1]]
    torch.testing.assert_close(computed, expected, rtol=1e-5, atol=3e-6)


@cases("positions", GRADIENT_POSITIONS)
@cases("dtype", HALF)
def test_half_precision_gradients_are_as_accurate_as_torch(backward, dtype, positions):
    gradients = make_gradients(70, dtype=dtype, positions=positions)
    computed = computed_gradients(backward, gradients)
    _, expected = grad_reference(*gradients)
    _, torch_computed = grad_reference(*gradients, dtype=dtype)
    assert all(x.dtype == dtype for x in computed)
    for ours, torchs, exact in zip(computed, torch_computed, expected, strict=True):
        torch_error = (torchs - exact).abs().max()
        assert (ours - exact).abs().max() <= 1.5 * torch_error


def test_nan_of_a_gradient_does_not_reach_masked_keys(backward):
    gradients = make_gradients(17, positions=2)
    grad, _, _, mask, _, _ = gradients
    grad.masked_fill_(~mask[:, None], torch.nan)
    grad[0, 1, 3, 5] = torch.nan
    computed = computed_gradients(backward, gradients)
    expected = [x.float() for x in grad_reference(*gradients)[1]]
    assert computed[0].isnan().any(-1).nonzero().tolist() == [[0, 1, 3]]
    torch.testing.assert_close(computed, expected, rtol=1e-5, atol=3e-6, equal_nan=True)


def strided_views(grad, weights, query, key, query_pos, pos, scale):
    """Arguments of the same shapes, but expanded, slices, or with heads innermost."""
    grad = grad[:1].permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    query, key = torch.stack([query, key], dim=3).unbind(3)
    pos = pos.transpose(1, 2).contiguous().transpose(1, 2)
    query_pos = query_pos[:, :, :1].expand_as(query)
    return grad.expand_as(weights), weights, query, key, query_pos, pos, scale


def test_gradients_of_views_are_those_of_copies(backward):
    views = list(strided_views(*grad_inputs(*make_gradients(17))))
    copies = [x.contiguous() if torch.is_tensor(x) else x for x in views]
    views[2] = views[2].mT.contiguous().mT  # which the kernel cannot read
    strided = [a for a, b in zip(views, copies, strict=True) if a is not b]
    assert len(strided) == 5
    torch.testing.assert_close(backward(*views), backward(*copies), rtol=0, atol=1e-6)


class Allocations(TorchDispatchMode):
    """Notes the shape of what operations return, except views."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.shapes.append(tuple(result.shape))
        return result


@cases("views", {"contiguous": False, "views": True})
def test_backward_allocates_gradients_and_a_number_per_row(views):
    inputs = grad_inputs(*make_gradients(70))
    if views:
        inputs = strided_views(*inputs)
    with (
        mock.patch.object(attention_map_triton, "_gradient_kernel"),
        Allocations() as allocations,
    ):
        triton_attention_map_backward(*inputs)
    query, pos = (2, HEADS, 70, D_K), (2, HEADS, 139, D_K)
    assert allocations.shapes == [query[:3], query, query, query, pos, (1, *pos[1:])]


def compile_for_hopper(name, function, *args):
    """Compile a kernel as often as the function launches it, without a GPU."""
    kernel = getattr(attention_map_triton, name)
    with mock.patch.object(attention_map_triton, name) as launch:
        function(*args)
    for args, kwargs in launch.__getitem__.return_value.call_args_list:
        options = {"num_warps": kwargs.pop("num_warps")}
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        signature = {
            name: triton.runtime.jit.mangle_type(value)
            for name, value in arguments.items()
        } | dict.fromkeys(kwargs, "constexpr")
        assert list(signature) == kernel.arg_names
        yield triton.compile(
            triton.compiler.ASTSource(kernel, signature, constexprs=kwargs),
            target=triton.backends.compiler.GPUTarget("cuda", 90, 32),
            options=options,
        )


@cases("dtype", DTYPES)
def test_kernels_compile_for_hopper_without_a_gpu(dtype, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    forward = "_attention_map_kernel", triton_attention_map
    compiled = list(compile_for_hopper(*forward, *make_inputs(70, dtype=dtype)))
    inputs = grad_inputs(*make_gradients(70, dtype=dtype))
    backward = "_gradient_kernel", triton_attention_map_backward
    compiled += compile_for_hopper(*backward, *inputs)
    assert len(compiled) == 1 + 4
    assert all(kernel.asm["cubin"] for kernel in compiled)


def test_module_is_importable_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location(
        "without_triton", attention_map_triton.__file__
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_available(torch.zeros(1))


@cases("positions", POSITIONS)
@cases("dtype", {"kernels": torch.float32, "blocks": torch.float64})
def test_operators_on_cuda_are_the_references(call, dtype, positions, monkeypatch):
    query, key, _, mask, _ = make_inputs(17, dtype=dtype, positions=False)
    inputs = [query, key]
    if positions:
        pos = torch.randn(1, HEADS, 2 * 17 - 1, D_K, dtype=dtype, device=query.device)
        inputs += [torch.randn_like(query), pos]
    inputs = [x.requires_grad_() for x in inputs]
    by_position = inputs[2:] or [None, None]
    expected = ops.naive_attention_map(query, key, mask, *by_position)
    grad = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, grad)
    called = []

    def interpreted(function):
        def compute(*args):
            called.append(function)
            with monkeypatch.context() as patch:  # the other process has its name
                patch.setattr(attention_map_triton, function.__name__, function)
                return call(function, *args)

        return compute

    kernels = [triton_attention_map, triton_attention_map_backward]
    for function in kernels:
        name = function.__name__
        monkeypatch.setattr(attention_map_triton, name, interpreted(function))
    is_taken = dtype == torch.float32
    monkeypatch.setattr(attention_map_triton, "is_available", lambda tensor: is_taken)
    with torch.no_grad():
        weights = compute_map(query, key, mask, *by_position)
        actual = compute_gradients(grad, weights, query, key, *by_position)
    assert called == (kernels if is_taken else [])
    close = {"rtol": 0, "atol": 1e-5 if is_taken else 1e-12}
    torch.testing.assert_close(weights, expected.detach(), **close)
    torch.testing.assert_close(actual, list(gradients), **close)


def test_kernel_is_available_on_a_gpu_only():
    def on_a_gpu(dtype):  # there may be none
        return SimpleNamespace(is_cuda=True, dtype=dtype)

    assert not attention_map_triton.is_available(torch.zeros(1))
    assert all(map(attention_map_triton.is_available, map(on_a_gpu, DTYPES.values())))
    assert not attention_map_triton.is_available(on_a_gpu(torch.float64))
