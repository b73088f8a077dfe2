# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The attention map's kernel against its naive reference, without a GPU too."""

import importlib.util
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from espnet_reuse.asr.layers import attention_map as ops
from espnet_reuse.asr.layers import attention_map_triton
from espnet_reuse.asr.layers.attention_map_triton import triton_attention_map

triton = pytest.importorskip("triton")

# What a process needs before it imports the kernel, to run it without a GPU. The
# interpreter of Triton 3.6 cannot count loops with NumPy 2.5, and multiplies the bits
# of bfloat16 as if they were integers.
INTERPRET = """
import os

os.environ["TRITON_INTERPRET"] = "1"

import triton.language as tl
from triton.runtime import interpreter


def patch_tensor(tensor, scope, patch_tensor=interpreter._patch_lang_tensor):
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def dot(self, a, b, *args, dot=interpreter.InterpreterBuilder.create_dot):
    a, b = self.cast_impl(a, tl.float32), self.cast_impl(b, tl.float32)
    return dot(self, a, b, *args)


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
def attention_map():
    """The function under test; its kernel is interpreted where there is no GPU.

    Another process does that: Triton decides between compiler and interpreter when it
    is imported, and `torch.compile` of other tests needs the compiler.
    """
    if torch.cuda.is_available():
        yield triton_attention_map
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, exec, (INTERPRET, {})) as pool:
        yield lambda *args: pool.submit(triton_attention_map, *args).result()


def make_inputs(time, d_k=D_K, dtype=torch.float32, positions=True, mask="keys"):
    """Arguments for two utterances, one of them padded, one nothing but padding."""
    torch.manual_seed(time)
    lengths = torch.tensor([max(1, time - 3), 0])
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


@cases("dtype", DTYPES)
def test_kernel_compiles_for_hopper_without_a_gpu(dtype, monkeypatch, tmp_path):
    kernel = attention_map_triton._attention_map_kernel
    launch = MagicMock()
    monkeypatch.setattr(attention_map_triton, "_attention_map_kernel", launch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton_attention_map(*make_inputs(70, dtype=dtype))
    args, kwargs = launch.__getitem__.return_value.call_args
    options = {"num_warps": kwargs.pop("num_warps")}
    arguments = dict(zip(kernel.arg_names, args, strict=False))
    signature = {
        name: triton.runtime.jit.mangle_type(value) for name, value in arguments.items()
    } | dict.fromkeys(kwargs, "constexpr")
    assert list(signature) == kernel.arg_names
    compiled = triton.compile(
        triton.compiler.ASTSource(kernel, signature, constexprs=kwargs),
        target=triton.backends.compiler.GPUTarget("cuda", 90, 32),
        options=options,
    )
    assert compiled.asm["cubin"]


def test_module_is_importable_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location(
        "without_triton", attention_map_triton.__file__
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_available(torch.zeros(1))


@cases("positions", POSITIONS)
def test_maps_are_computed_by_the_kernel_where_it_is_available(
    attention_map, positions, monkeypatch
):
    query, key, _, mask, _ = make_inputs(17, positions=False)
    with_positions = (None, None)
    if positions:
        pos = torch.randn(1, HEADS, 2 * 17 - 1, D_K, device=query.device)
        with_positions = (torch.randn_like(query), pos)
    arguments = (query, key, mask, *with_positions)
    expected = ops.naive_attention_map(*arguments)
    name, computed = "triton_attention_map", []

    def compute(*args):
        with monkeypatch.context() as patch:  # another process finds it by its name
            patch.setattr(attention_map_triton, name, triton_attention_map)
            computed.append(attention_map(*args))
        return computed[-1]

    monkeypatch.setattr(attention_map_triton, "is_available", lambda tensor: True)
    monkeypatch.setattr(attention_map_triton, name, compute)
    weights = ops.attention_map(*arguments)
    assert weights is computed[0]
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)


def test_kernel_is_available_on_a_gpu_only():
    def on_a_gpu(dtype):  # there may be none
        return SimpleNamespace(is_cuda=True, dtype=dtype)

    assert not attention_map_triton.is_available(torch.zeros(1))
    assert all(map(attention_map_triton.is_available, map(on_a_gpu, DTYPES.values())))
    assert not attention_map_triton.is_available(on_a_gpu(torch.float64))
